"""A VAE as an imputer: missing values are filled by the model's own conditional distribution."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn as nn
from numpy.typing import ArrayLike
from sklearn.base import OneToOneFeatureMixin, TransformerMixin

from ..conditionals import MLP, Family
from ..conditionals.missing import ignore_missing
from ..evaluate.chunked import evaluation_mode
from ..generate import impute
from ..models import VAE
from ..programs import trace_pair
from ..programs.centers import CommonNoise
from .base import BaseVAE
from .rows import Rows
from .training import HideValues, Training

NUM_SAMPLES = 512  # importance samples per row, for the conditional mean


class VAEImputer(OneToOneFeatureMixin, TransformerMixin, BaseVAE):
    r"""Fill missing values (NaN) by a variational autoencoder.

        z     ~ Normal(0, I)
        x | z ~ likelihood(f(z))

    Training maximizes a bound on log p(x_obs), the likelihood of the observed values of each
    row. That is right if which values are missing does not depend on the missing values. In a
    quarter of the rows it hides further values at random, so that the encoder knows rows with any
    values missing, also if none is missing in training. `transform` fills in the conditional mean
    E[x_miss | x_obs]; `impute` draws from p(x_miss | x_obs). Observed values stay as they are. Units
    and precision are as in `VAETransformer`, and so are the arguments that are not listed here.

    After `fit` it has these attributes:

    * `model_`, `guide_`, `n_iter_`, `loss_curve_`, `n_features_in_`, `feature_names_in_`: as in
      `VAETransformer`.

    Args:
        latent_dim: size of z.
        sample_posterior: whether `transform` fills in a draw instead of the mean, as
            scikit-learn's `IterativeImputer` does.

    References:
        Mattei and Frellsen 2019, MIWAE, arXiv 1812.02633; 2018, arXiv 1802.04826.

    Example:
        >>> import torch, pyro_vae as pv
        >>> X = torch.randn(60, 4).numpy()
        >>> X[::3, 1] = float("nan")
        >>> imputer = pv.estimators.VAEImputer(max_iter=3, random_state=0).fit(X)
        >>> bool((imputer.transform(X) == X)[1::3].all())
        True
        >>> imputer.impute(X[:3], n_imputations=2, steps=5).shape
        (2, 3, 4)
    """

    def __init__(
        self,
        latent_dim: int = 5,
        *,
        sample_posterior: bool = False,
        hidden_layer_sizes: Sequence[int] = (128, 128),
        likelihood: Family | str = "auto",
        max_iter: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float = 3e-3,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        device: str | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            latent_dim, hidden_layer_sizes=hidden_layer_sizes, likelihood=likelihood,
            max_iter=max_iter, batch_size=batch_size, learning_rate=learning_rate,
            validation_fraction=validation_fraction, random_state=random_state, device=device,
            verbose=verbose,
        )  # fmt: skip
        self.sample_posterior = sample_posterior

    def _build_model(self, num_columns: int) -> nn.Module:
        return VAE(
            (num_columns,),
            self.latent_dim,
            ignore_missing(self._units.likelihood),
            MLP(tuple(self.hidden_layer_sizes)),
        )

    def fit(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> Self:
        """Train the VAE on the observed values.

        Args:
            X: `[N, D]`, an array or a data frame; NaN is a missing value.
            y: ignored.
            sample_weight: `[N]`; a row's part of the objective is multiplied by its weight.
        """
        rows = self._check_missing(X, reset=True)
        weight, seed = self._check_weight(sample_weight, rows), self._seed()
        training = Training(rows, weight=weight, hidden=HideValues(seed))
        training = self._hold_out(training, seed)
        self._start(training, seed)
        return self._record(self._train(training, seed))

    def transform(self, X: ArrayLike) -> np.ndarray:
        """`[N, D]`: X with its missing values filled.

        A mean does not depend on the other rows; draws (`sample_posterior=True`) do.
        """
        if self.sample_posterior:
            return np.asarray(self.impute(X, n_imputations=1)[0])
        rows = self._check_missing(X)
        return self._filled(rows, self._by_blocks(rows, self._conditional_mean, NUM_SAMPLES))

    def impute(
        self, X: ArrayLike, n_imputations: int = 5, steps: int = 200, random_state: Any = None
    ) -> np.ndarray:
        """`[n_imputations, N, D]`: X, its missing values drawn from p(x_miss | x_obs).

        The draws are the last states of independent Markov chains, see `pv.impute`.

        Args:
            X: `[N, D]`; NaN is a missing value.
            n_imputations: draws per row.
            steps: of each chain.
            random_state: of the draws. Default: that of the estimator.
        """
        rows = self._check_missing(X)
        seed = self._seed(random_state)
        x = self._units.to_model(rows[:]).to(next(self.model_.parameters()))
        self._check_support({"x": x})
        draws = impute(
            self.model_, self.guide_, x, num_samples=n_imputations, steps=steps, seed=seed
        )
        return np.stack([self._filled(rows, draw) for draw in draws.x.cpu().numpy()])

    def score_samples(self, X: ArrayLike, num_samples: int = 256) -> np.ndarray:
        """`[N]`: importance-weighted estimates of log p(x_obs), in the units of X.

        Args:
            X: `[N, D]`; NaN is a missing value.
            num_samples: importance samples per row.
        """
        rows = self._check_missing(X)
        bounds = self._importance_bounds(rows, num_samples)
        log_volume = np.where(np.isnan(rows[:]), 0.0, self._units.log_volume).sum(1)
        return bounds - log_volume.astype(bounds.dtype)

    def score(self, X: ArrayLike, y: object = None) -> float:
        """The mean of `score_samples`, nats per row."""
        return float(self.score_samples(X).mean())

    def _check_missing(self, X: ArrayLike, reset: bool = False) -> Rows:
        least = 2 if reset else 1
        return self._check(
            X, reset, accept_sparse=False, ensure_all_finite="allow-nan", ensure_min_samples=least
        )

    def _conditional_mean(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, D]`: E[x | x_obs] in the units of the model, by self-normalized importance weights."""
        x = x.to(next(self.model_.parameters()))
        noise = CommonNoise(len(x))
        with evaluation_mode(self.model_, self.guide_, seed=0, device=x.device):
            traces = trace_pair(self.model_, self.guide_, {"x": x}, NUM_SAMPLES, noise=noise)
            weights = traces.log_weight().softmax(0)
            means = traces.of_distribution("x", lambda fn: fn.mean)
            return torch.einsum("sb,sbd->bd", weights, means)

    def _filled(self, rows: Rows, values: np.ndarray) -> np.ndarray:
        """The table, its missing values replaced by values `[N, D]` in the units of the model."""
        table = rows[:]
        return np.where(np.isnan(table), self._to_table(torch.from_numpy(values)), table)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.input_tags.allow_nan = True
        return tags
