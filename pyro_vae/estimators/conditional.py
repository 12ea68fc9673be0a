"""A conditional VAE as an estimator of p(x | c)."""

from typing import Any, Self

import numpy as np
import torch
import torch.nn as nn
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from ..conditionals import MLP
from ..errors import UserError
from ..models import CVAE
from .base import BaseVAE
from .covariates import Covariates, check_num_rows
from .training import Training


class ConditionalVAE(BaseVAE):
    r"""Learn p(x | c), the distribution of the rows of X given covariates C.

        z | c   ~ Normal(mu(c), diag sigma(c)^2)
        x | z,c ~ likelihood(f(z, c))

    Floats in C are numbers, and are standardized inside. One column of integers, strings or
    booleans is a class. If C is a data frame whose column names are all text, later frames must
    have the same columns in the same order. Units, precision and sparse input are as in
    `VAETransformer`, and so are the arguments that are not listed here.

    After `fit` it has these attributes:

    * `categories_`: `[K]`, the sorted classes; None if C are numbers.
    * `covariate_names_in_`: `[C]`, the names of the columns of C; None without names.
    * `model_`, `guide_`, `n_iter_`, `loss_curve_`, `n_features_in_`, `feature_names_in_`: as in
      `VAETransformer`.

    Args:
        latent_dim: size of z.

    References:
        Sohn, Lee and Yan 2015, NeurIPS.

    Example:
        >>> import torch, pyro_vae as pv
        >>> C = torch.rand(60, 1).numpy()
        >>> X = C * [1, 10] + torch.randn(60, 2).numpy()
        >>> model = pv.estimators.ConditionalVAE(max_iter=3, random_state=0).fit(X, C)
        >>> model.sample([[0.1], [0.9], [0.9]]).shape, model.score_samples(X, C).shape
        ((3, 2), (60,))
    """

    def _build_model(self, num_columns: int) -> nn.Module:
        return CVAE(
            (num_columns,),
            (self._covariates.size,),
            self.latent_dim,
            self._units.likelihood,
            MLP(tuple(self.hidden_layer_sizes)),
        )

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train the pair.

        Args:
            X: `[N, D]`, an array, a data frame or a sparse matrix.
            y: the covariates C, `[N, C]` or `[N]`.
            sample_weight: `[N]`; a row's part of the objective is multiplied by its weight.
        """
        if y is None:
            raise UserError(
                "requires y to be passed, but the target y is None: y are the covariates C"
            )
        rows = self._check(X, reset=True, ensure_min_samples=2)
        weight, seed = self._check_weight(sample_weight, rows), self._seed()
        check_num_rows(y, len(rows))
        self._covariates = Covariates.of(y, weight)
        self.categories_ = self._covariates.categories
        self.covariate_names_in_ = self._covariates.names
        c = self._covariates.encode(y, weight).to(rows.dtype)
        training = self._hold_out(Training(rows, c=c, weight=weight), seed)
        self._start(training, seed)
        return self._record(self._train(training, seed))

    def sample(self, C: ArrayLike, random_state: Any = None) -> np.ndarray:
        """`[N, D]`: one draw of p(x | c) for each row of C, in the units of the training data.

        Args:
            C: `[N, C]` or `[N]`, as in `fit`.
            random_state: of the draws. Default: that of the estimator.
        """
        check_is_fitted(self)
        c = self._encode(C)
        return self._sample(random_state, len(c), c=c)

    def score_samples(self, X: ArrayLike, y: ArrayLike, num_samples: int = 256) -> np.ndarray:
        """`[N]`: importance-weighted estimates of log p(x | c), in the units of X.

        The estimate of a row does not depend on the other rows.

        Args:
            X: `[N, D]`.
            y: the covariates C, `[N, C]` or `[N]`.
            num_samples: importance samples per row.
        """
        rows = self._check(X)
        check_num_rows(y, len(rows))
        return self._log_likelihood(rows, num_samples, self._encode(y))

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """The mean of `score_samples`, nats per row."""
        return float(self.score_samples(X, y).mean())

    def _encode(self, C: ArrayLike) -> torch.Tensor:
        return self._covariates.encode(C).to(next(self.model_.parameters()))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags
