"""What estimators share that embed rows: means of q(z | x), and densities of rows."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin

from ..evaluate import encode
from .base import BaseVAE


class EmbeddingVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseVAE):
    """Base of the estimators whose output is z."""

    def transform(self, X: ArrayLike) -> np.ndarray:
        """`[N, latent_dim]`: the mean of q(z | x)."""
        rows = self._check(X)
        return self._by_blocks(rows, lambda x: encode(self.model_, self.guide_, x)["z"])

    def score_samples(self, X: ArrayLike, num_samples: int = 256) -> np.ndarray:
        """`[N]`: importance-weighted estimates of log p(x), in the units of X.

        The estimate of a row does not depend on the other rows.

        Args:
            X: `[N, D]`.
            num_samples: importance samples per row.
        """
        return self._log_likelihood(self._check(X), num_samples)

    def score(self, X: ArrayLike, y: object = None) -> float:
        """The mean of `score_samples`, nats per row."""
        return float(self.score_samples(X).mean())
