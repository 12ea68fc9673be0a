"""A Gaussian mixture VAE as a clusterer."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn as nn
from numpy.typing import ArrayLike
from sklearn.base import ClusterMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ..conditionals import MLP, Family, MultivariateNormal
from ..errors import UserError, check_int_at_least
from ..evaluate import responsibilities
from ..guides import Guide
from ..methods.restarts import fit_restarts
from ..methods.run import Run
from ..models import GMVAE
from ..models.components import fit_components
from ..train import choose_device
from .base import convergence_warnings
from .embedding import EmbeddingVAE
from .restarts import ClustererRuns
from .rows import Rows
from .start import AroundCodes, OfZ, principal_codes
from .training import Training
from .units import Units
from .weighting import Weighted

W_DIM = 2  # size of w, which moves and bends a component
START = 0.5  # epochs of the start, for each epoch of the whole pair's training
FITS = 10, 3  # mixtures that are fitted, to fewer and to more than MANY_ROWS
MANY_ROWS = 2000
REG_COVAR = 0.05  # of these mixtures
DRAWS = 16  # of z per row, for probabilities


class GMVAEClusterer(ClusterMixin, EmbeddingVAE):
    r"""Cluster the rows of a table by a Gaussian mixture VAE, without labels.

        w       ~ Normal(0, I)
        y       ~ Categorical(1/K)
        z | w,y ~ Normal(mu_y(w), Sigma_y(w))
        x | z   ~ likelihood(f(z))

    Training starts from a Gaussian mixture of principal components, at which encoder and
    decoder are trained first. There are `n_init` whole runs, in processes on idle cores if they
    are long. They are the library's restarts: of three or more, the one whose clusters agree most
    with the others' is kept, of two the one with the higher importance-weighted log-likelihood of
    the rows held out for validation. Units, precision and sparse input are as in `VAETransformer`,
    and so are the arguments that are not listed here.

    After `fit` it has these attributes:

    * `labels_`: `[N]`, the clusters of the training rows.
    * `scores_`: `[n_init]`, the mean log-likelihood of the rows held out, weighted by
      `sample_weight`, of each run: nats per row in the units of the model.
    * `stability_`: the mean adjusted Rand index of all pairs of runs, on at most 1,000 training
      rows, taken by weight: 1 if all runs agree, about 0 if the clusters are arbitrary. NaN for one
      run.
    * `weights_`: `[K]`, the fraction of the training rows in each cluster, by probability.
    * `model_`, `guide_`, `n_iter_`, `loss_curve_`, `n_features_in_`, `feature_names_in_`: as in
      `VAETransformer`.

    Args:
        n_components: K, the number of clusters.
        latent_dim: size of z. "auto": the number of columns, at most 20.
        n_init: whole runs, from different weights.
        max_iter: epochs of a run, after half as many of its start. "auto": about 1,000 steps, in
            20 to 500 epochs.

    References:
        Dilokthanakul et al. 2016, arXiv 1611.02648.

    Example:
        >>> import torch, pyro_vae as pv
        >>> X = torch.randn(60, 4).numpy() * [1, 10, 100, 1000]
        >>> clusterer = pv.estimators.GMVAEClusterer(2, n_init=1, max_iter=2, random_state=0)
        >>> clusterer.fit_predict(X).shape
        (60,)
        >>> rows, clusters = clusterer.sample(5, component=1)
        >>> rows.shape, clusters.tolist()
        ((5, 4), [1, 1, 1, 1, 1])
    """

    _num_steps = 1000

    def __init__(
        self,
        n_components: int = 8,
        *,
        latent_dim: int | str = "auto",
        n_init: int = 3,
        hidden_layer_sizes: Sequence[int] = (128, 128),
        likelihood: Family | str = "auto",
        max_iter: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float = 1e-3,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        device: str | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            latent_dim,  # type: ignore[arg-type]  # here it may be "auto"
            hidden_layer_sizes=hidden_layer_sizes, likelihood=likelihood,
            max_iter=max_iter, batch_size=batch_size, learning_rate=learning_rate,
            validation_fraction=validation_fraction, random_state=random_state, device=device,
            verbose=verbose,
        )  # fmt: skip
        self.n_components = n_components
        self.n_init = n_init

    def _build_model(self, num_columns: int) -> nn.Module:
        size = self.latent_dim
        if isinstance(size, str):
            if size != "auto":
                raise UserError(f"latent_dim must be an integer >= 1 or 'auto', got {size!r}")
            size = min(20, num_columns)
        self._latent_dim = size
        return GMVAE(
            (num_columns,), self.n_components, self._latent_dim, W_DIM,
            self._units.likelihood, MLP(tuple(self.hidden_layer_sizes)), MultivariateNormal(),
        )  # fmt: skip

    def fit(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> Self:
        """Train `n_init` pairs, and keep one, chosen without labels as the class says.

        Args:
            X: `[N, D]`, an array, a data frame or a sparse matrix.
            y: ignored.
            sample_weight: `[N]`; a row's part of the objective, and of the scores, is multiplied by its
                weight. The start and the comparison of clusters take rows by weight.
        """
        check_int_at_least(1, n_init=self.n_init, n_components=self.n_components)
        rows = self._check(X, reset=True, ensure_min_samples=max(2, self.n_components))
        weight, seed = self._check_weight(sample_weight, rows), self._seed()
        # the same rows are held out from all runs, so that their scores can be compared
        training = self._hold_out(Training(rows, weight=weight), seed)
        self._units = Units.of(rows, self.likelihood, weight)
        run = self._best_run(ClustererRuns(self, training, seed, self.n_init))
        self.model_, self.guide_ = (
            p.program if isinstance(p, Weighted) else p for p in (run.model, run.guide)
        )
        self.loss_curve_, self.n_iter_ = [], 0
        self._record(run)
        restarts = run.restarts or {}
        self.scores_ = np.array(restarts["scores"])
        agreement = restarts["stability"]
        self.stability_ = float("nan") if agreement is None else agreement
        probabilities = self._probabilities(rows, check=False)  # training has checked them
        self.labels_ = probabilities.argmax(1)
        self.weights_ = np.average(probabilities, axis=0, weights=weight)
        return self

    def _best_run(self, runs: ClustererRuns) -> Run:
        """Train all runs, and return the best one."""
        device = choose_device(self.device)
        with convergence_warnings():
            run = fit_restarts(runs, None, False, device, bool(self.verbose))
        if run.interrupted:
            raise KeyboardInterrupt
        return run

    def _start_epochs(self, training: Training) -> int:
        """Epochs of the start."""
        return max(1, round(START * self._epochs(self._steps(len(training.number))[1])))

    def _start_mixture(
        self,
        training: Training,
        seed: int,
        pair: tuple[nn.Module, nn.Module],
        device: str | None,
        progress: bool,
    ) -> None:
        """Start p(z | y) at a mixture of principal components, p(x | z) and q(z | x) near them."""
        codes, fitted = principal_codes(training, self._units, self._latent_dim, seed)
        fits = FITS[len(fitted) > MANY_ROWS]
        model, guide = pair
        assert isinstance(model, GMVAE) and isinstance(guide, Guide)
        fit_components(model, codes[fitted], fits, REG_COVAR, seed)
        self._train(
            dataclasses.replace(training, code=codes), seed, (AroundCodes(model), OfZ(guide)),
            self._start_epochs(training), device=device, progress=progress,
        )  # fmt: skip

    @property
    def _n_features_out(self) -> int:
        return self._latent_dim

    def predict(self, X: ArrayLike) -> np.ndarray:
        """`[N]`: the most probable cluster, 0 to K - 1."""
        return self.predict_proba(X).argmax(1)

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """`[N, K]`: the probability of each cluster, p(y | x, z) averaged over q(z | x).

        The answer for a row does not depend on the other rows.
        """
        return self._probabilities(self._check(X))

    def _probabilities(self, rows: Rows, check: bool = True) -> np.ndarray:
        def probabilities(x: torch.Tensor) -> torch.Tensor:
            return responsibilities(self.model_, self.guide_, x, num_samples=DRAWS)

        return self._by_blocks(rows, probabilities, DRAWS, check=check)

    def sample(
        self, n_samples: int = 1, component: int | None = None, random_state: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws of the model, and their clusters.

        Args:
            n_samples: how many.
            component: the cluster of all draws. Default: drawn from the model.
            random_state: of the draws. Default: that of the estimator.

        Returns:
            `(X [n_samples, D], clusters [n_samples])`, X in the units of the training data.
        """
        check_is_fitted(self)
        if component is not None and component not in range(self.n_components):
            raise UserError(f"component must be 0 to {self.n_components - 1}, got {component}")
        state = check_random_state(self.random_state if random_state is None else random_state)
        clusters = (
            np.full(n_samples, component, dtype=int)
            if component is not None
            else (state.choice(self.n_components, n_samples))
        )
        y = torch.from_numpy(clusters)
        return self._sample(state, n_samples, y=y), clusters
