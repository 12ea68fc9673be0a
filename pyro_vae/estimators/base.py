"""What the estimators share: checks of X, one training run, evaluation by blocks of rows."""

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any, Self

import numpy as np
import torch
import torch.nn as nn
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ..conditionals import Family
from ..data.tables import check_collected, is_anndata
from ..errors import (
    SupportError,
    UserError,
    check_int_at_least,
    check_ints_at_least,
    check_positive,
)
from ..evaluate.inputs import scored_inputs
from ..evaluate.likelihood import importance_bounds
from ..evaluate.support import Support
from ..generate import sample
from ..guides import Guide
from ..methods import fit as fit_pair
from ..methods.advice import Advice
from ..objectives import ELBO
from ..programs.contexts import seeded
from ..programs.inspection import ignores_missing
from ..programs.interfaces import conditional_of
from .networks import encoder_network, start_at_column_means
from .rows import Rows, without_mask
from .training import Training
from .units import Units
from .weighting import Weighted

DTYPES = [np.float64, np.float32]
EPOCHS = 20, 500  # the fewest and the most epochs, with max_iter="auto"
BATCH = 16, 128  # the smallest and the largest batch, with batch_size="auto"
RECORDED_STEPS = 500  # steps from which recording the step is worth its time
PARTICLES = 16  # Monte Carlo samples that are evaluated at once
BLOCK_VALUES = 2**22  # numbers in a block of rows times particles


class BaseVAE(BaseEstimator, ABC):
    """Base of the estimators: a pair of this library that is trained on a table.

    A subclass defines `_build_model`, and calls `_start` and `_train` in its `fit`. One with further
    parameters repeats these in its signature, where scikit-learn reads them.
    """

    model_: nn.Module
    guide_: nn.Module
    loss_curve_: list[float]
    n_iter_: int
    _units: Units
    _optimizer_state: dict[str, Any] | None  # of AdamW, after a call of `partial_fit`
    _num_values = 1  # of a latent that is enumerated above x
    _num_steps = 2000  # of training, with max_iter="auto"

    def __init__(
        self,
        latent_dim: int = 2,
        *,
        hidden_layer_sizes: Sequence[int] = (128, 128),
        likelihood: Family | str = "auto",
        max_iter: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float = 2e-3,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        device: str | None = None,
        verbose: bool = False,
    ) -> None:
        self.latent_dim = latent_dim
        self.hidden_layer_sizes = hidden_layer_sizes
        self.likelihood = likelihood
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    @abstractmethod
    def _build_model(self, num_columns: int) -> nn.Module:
        """The model of a table with this number of columns, from torch's random stream."""

    # ------------------------------------------------------------------ input

    def _check(self, X: ArrayLike, reset: bool = False, **options: Any) -> Rows:
        """X as rows; `reset` learns the number of columns and their names."""
        if reset:
            self._check_parameters()
        else:
            check_is_fitted(self)
        check_collected(X)
        if is_anndata(X):
            raise UserError("X is an AnnData object: pass its matrix, adata.X or a layer")
        X = X.detach().cpu() if isinstance(X, torch.Tensor) else without_mask(X)
        options = {"accept_sparse": "csr", "dtype": DTYPES, "order": "C", **options}
        try:
            return Rows(validate_data(self, X, reset=reset, **options))
        except (ValueError, TypeError) as e:
            remedy = _remedy(X, e)
            if remedy is None:
                raise
            raise UserError(remedy) from e

    def _check_weight(self, sample_weight: ArrayLike | None, rows: Rows) -> np.ndarray | None:
        """`[N]` weights of mean 1 over the rows with a positive weight; None if all are equal."""
        if sample_weight is None:
            return None
        if np.ma.is_masked(sample_weight):
            raise UserError("sample_weight has masked values: a row without a weight has weight 0")
        weight = check_array(
            sample_weight, dtype=np.float64, ensure_2d=False, ensure_min_samples=0,
            input_name="sample_weight",
        )  # fmt: skip
        num_rows = rows.table.shape[0]
        if weight.shape not in ((), (num_rows,)):
            shape = list(weight.shape)
            raise UserError(
                f"sample_weight must be a number, or [{num_rows}], not of shape {shape}"
            )
        if (weight < 0).any():
            raise UserError("sample_weight must be non-negative")
        if not weight.any():
            raise UserError("every sample_weight is zero: nothing is left to train on")
        return None if np.ptp(weight) == 0 else weight / weight[weight > 0].mean()

    def _check_parameters(self) -> None:
        """Raise for a parameter that is neither "auto" nor a number, before anything is trained."""
        for name in ("max_iter", "batch_size"):
            value = getattr(self, name)
            if value != "auto":
                check_int_at_least(1, **{name: value})
        check_positive(learning_rate=self.learning_rate)
        check_ints_at_least(1, hidden_layer_sizes=self.hidden_layer_sizes)
        fraction = self.validation_fraction
        if not (isinstance(fraction, Real) and 0 <= fraction < 1):
            raise UserError(f"validation_fraction must be at least 0 and below 1, got {fraction!r}")

    def _seed(self, random_state: Any = None) -> int:
        """A seed from a random state. Default: the estimator's."""
        state = self.random_state if random_state is None else random_state
        return int(check_random_state(state).randint(2**31 - 1))

    # --------------------------------------------------------------- training

    def _start(self, training: Training, seed: int) -> None:
        """Choose the units of the table, and build the pair."""
        self._units = Units.of(training.rows, self.likelihood, training.weight)
        self.model_, self.guide_ = self._build_pair(training.rows, seed)
        self.loss_curve_, self.n_iter_ = [], 0
        self._optimizer_state = None

    def _build_pair(self, rows: Rows, seed: int) -> tuple[nn.Module, nn.Module]:
        with seeded(seed):
            model = self._build_model(rows.table.shape[1])
            missing = ignores_missing(model)
            network = encoder_network(tuple(self.hidden_layer_sizes), self._units, missing)
            scaling = {"x": (0.5, 0.5)} if self._units.likelihood.unit_interval else {}
            guide = Guide(model, network=network, input_scaling=scaling)
            guide.fills_missing = False  # the network sees which values are missing
        start_at_column_means(conditional_of(model, "x"), self._units)
        return model.to(rows.dtype), guide.to(rows.dtype)

    def _train(
        self,
        training: Training,
        seed: int,
        pair: tuple[nn.Module, nn.Module] | None = None,
        epochs: int | None = None,
        objective: ELBO | None = None,
        **settings: Any,
    ) -> Any:
        """Train the pair and return the run.

        Args:
            training: the arrays.
            seed: of the order of the rows and the noise.
            pair: model and guide. Default: the estimator's.
            epochs: Default: by `max_iter`.
            objective: what is maximized. Default: the ELBO.
            settings: of `pv.fit`, instead of the estimator's: `device`, `out`, `progress`, ...
        """
        model, guide = (self.model_, self.guide_) if pair is None else pair
        data = training.data(self._units)
        if training.weight is not None:
            model, guide = Weighted(model), Weighted(guide)
        batch_size, steps = self._steps(len(data.train))
        epochs = self._epochs(steps) if epochs is None else epochs
        rate = {} if "optimizer" in settings else {"lr": self.learning_rate}
        options = {
            **rate, "schedule": "cosine", "batch_size": batch_size,
            "device": self.device, "progress": bool(self.verbose),
            "initialize": None, **settings,  # an estimator has chosen its start
        }  # fmt: skip
        with convergence_warnings(), stating_units(self._units):
            return fit_pair(
                model, guide, data, epochs,
                objective=objective, observed=training.observed, seed=seed,
                compile=backend(epochs * steps), **options,
            )  # fmt: skip

    def _train_one_epoch(
        self, training: Training, seed: int, objective: ELBO | None = None
    ) -> Self:
        """Train the estimator's pair for one epoch, with the optimizer's state of the last call.

        Args:
            training, objective: as in `_train`.
            seed: from `random_state`; every epoch has another one.
        """
        used: list[torch.optim.Optimizer] = []

        def optimizer(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
            adam = torch.optim.AdamW(parameters, self.learning_rate, weight_decay=0.0, fused=True)
            if self._optimizer_state is not None:
                adam.load_state_dict(self._optimizer_state)
                adam.param_groups[0]["lr"] = self.learning_rate  # it may have been changed
            used.append(adam)
            return adam

        run = self._train(
            training, (seed + self.n_iter_) % 2**31, epochs=1, objective=objective,
            schedule="constant", optimizer=optimizer,
        )  # fmt: skip
        self._optimizer_state = copy.deepcopy(used[-1].state_dict())
        return self._record(run)

    def _record(self, run: Any) -> Self:
        """Take note of a training run."""
        self.loss_curve_ = self.loss_curve_ + [row["loss"] for row in run.history]
        self.n_iter_ = len(self.loss_curve_)
        return self

    def _hold_out(
        self, training: Training, seed: int, candidates: np.ndarray | None = None
    ) -> Training:
        """The same arrays, `validation_fraction` of the rows held out; see `Training.hold_out`."""
        return training.hold_out(self.validation_fraction, seed, candidates)

    def _steps(self, num_rows: int) -> tuple[int, int]:
        """`(rows per step, steps per epoch)`."""
        size = self.batch_size
        size = min(BATCH[1], max(BATCH[0], num_rows // 10)) if isinstance(size, str) else size
        return size, -(-num_rows // size)

    def _epochs(self, steps: int) -> int:
        if not isinstance(self.max_iter, str):
            return self.max_iter
        return min(EPOCHS[1], max(EPOCHS[0], round(self._num_steps / steps)))

    # ------------------------------------------------------------- evaluation

    def _by_blocks(
        self,
        rows: Rows,
        function: Callable[..., torch.Tensor],
        num_particles: int = 1,
        c: torch.Tensor | None = None,
        check: bool = True,
    ) -> np.ndarray:
        """`function(x, c=c)` of blocks of rows in the units of the model, as one array.

        Args:
            rows: the table.
            function: of a block.
            num_particles: Monte Carlo samples of a row that are evaluated at once.
            c: `[N, C]` covariates, as the model sees them.
            check: whether values must lie in the support of the likelihood, as in training.
        """
        width = max(512, rows.table.shape[1] * self._num_values)
        size = max(1, min(2048, BLOCK_VALUES // (width * num_particles)))
        parameter = next(self.model_.parameters())
        results, support = [], None
        for number, block in enumerate(rows.blocks(size)):
            x = self._units.to_model(block).to(parameter)
            covariates = {} if c is None else {"c": c[number * size : number * size + len(x)]}
            if check:
                support = self._check_support({"x": x, **covariates}, support)
            results.append(function(x, **covariates).detach().cpu().numpy())
        return np.concatenate(results)

    def _check_support(
        self, batch: dict[str, torch.Tensor], support: Support | None = None
    ) -> Support:
        """Raise unless all values lie in the support of the likelihood: the check that `fit` makes.

        Args:
            batch: the inputs of the pair, in the units of the model.
            support: what the last call returned. Default: it is read from the model.
        """
        with stating_units(self._units):
            support = Support(self.model_, self.guide_, batch) if support is None else support
            support.check(batch)
        return support

    def _log_likelihood(
        self, rows: Rows, num_samples: int, c: torch.Tensor | None = None
    ) -> np.ndarray:
        """`[N]`: the log-density of each row, in the units of the table."""
        bounds = self._importance_bounds(rows, num_samples, c)
        return bounds - np.asarray(self._units.log_volume.sum(), dtype=bounds.dtype)

    def _importance_bounds(
        self, rows: Rows, num_samples: int, c: torch.Tensor | None = None
    ) -> np.ndarray:
        """`[N]`: the log-density of each row, in the units of the model."""
        check_int_at_least(1, num_samples=num_samples)

        def bound(x: torch.Tensor, **covariates: Any) -> torch.Tensor:
            batch = scored_inputs(self.model_, x, covariates, self.guide_)
            return importance_bounds(
                self.model_, self.guide_, batch, num_samples, 0, common_noise=0
            )

        return self._by_blocks(rows, bound, min(num_samples, PARTICLES), c)

    def _sample(self, random_state: Any, size: int, **values: Any) -> np.ndarray:
        """`[size, D]` samples of the model, in the units of the table."""
        return self._to_table(sample(self.model_, size, seed=self._seed(random_state), **values))

    def _to_table(self, values: torch.Tensor) -> np.ndarray:
        dtype = np.float32 if values.dtype == torch.float32 else np.float64
        return self._units.to_table(values).astype(dtype)

    # ----------------------------------------------------------------- pickle

    def __getstate__(self) -> dict[str, Any]:
        """The state with tensors on the CPU, so that it opens on a machine without a GPU."""
        state = dict(super().__getstate__())
        for name in ("model_", "guide_"):
            module = state.get(name)
            if module is not None and any(p.is_cuda for p in module.parameters()):
                state[name] = copy.deepcopy(module).cpu()
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


@contextmanager
def convergence_warnings() -> Iterator[None]:
    """Within, advice about a run is a `ConvergenceWarning`, without remedies for pairs by hand."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            yield
    finally:  # what was warned of may be why training failed
        for warning in caught:
            if issubclass(warning.category, Advice):
                problem = str(warning.message).partition(";")[0]
                warnings.warn(problem, ConvergenceWarning, stacklevel=5)
            else:
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )


@contextmanager
def stating_units(units: Units) -> Iterator[None]:
    """Within, an error about a value outside the support says by what X was divided."""
    try:
        yield
    except SupportError as error:
        bound = units.scale.max()
        if not units.likelihood.unit_interval or bound == 1:
            raise
        raise UserError(f"{error}; x is X / {bound:g}") from None


def backend(steps: int) -> bool | str:
    """How a run of so many steps is computed, as `pv.fit(compile=)`: plainly, or recorded."""
    return "recorded" if steps >= RECORDED_STEPS else False


def _remedy(X: ArrayLike, error: Exception) -> str | None:
    """What to do about values that scikit-learn refuses; None if its message is clear as it is."""
    if str(error).startswith("Input X contains NaN"):
        return "X contains NaN: pyro_vae.estimators.VAEImputer fills in missing values, in a pipeline too"
    kinds: Any = getattr(X, "dtypes", None)
    is_of_kind = "could not convert string" in str(error) or "promoted" in str(error)
    if not is_of_kind or not hasattr(kinds, "items"):
        return None
    other = [f"{name!r} ({kind})" for name, kind in kinds.items() if kind.kind not in "biuf"]
    return (
        f"X has columns that are not numbers, {', '.join(other)}: encode or drop them, for instance by a "
        "ColumnTransformer with a OneHotEncoder; pv.method takes a frame with categories as it is"
    )
