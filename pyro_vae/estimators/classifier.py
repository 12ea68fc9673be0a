"""M2 as a classifier that learns from few labels."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn as nn
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d

from ..conditionals import MLP, Family
from ..errors import UserError
from ..evaluate import responsibilities
from ..models import M2
from ..objectives import SemiSupervised
from .base import BaseVAE
from .rows import Rows
from .training import Training

TEXT_OF_MISSING = "nan", "-1", "-1.0"  # that numpy makes of NaN and -1 beside text
WARMUP_START = 5.0  # the weight of KL(z) at first: else z takes the class along, and y is not used
WARMUP = 0.5  # the part of the epochs in which that weight falls to 1


class SemiSupervisedVAEClassifier(ClassifierMixin, BaseVAE):
    r"""Classify the rows of a table by Kingma et al.'s M2, which also learns from unlabeled rows.

        y       ~ Categorical(1/K)
        z       ~ Normal(0, I)
        x | y,z ~ likelihood(f(y, z))

    `predict_proba` is the guide's q(y | x). Rows without a label have the label -1, NaN, None or
    `pd.NA`, or are masked. Text is a label like any other, in a list or an array of objects also
    "nan" and "-1". In a numpy array of text these two raise an error: numpy makes them of a missing
    label. Units, precision and sparse input are as in `VAETransformer`, and so are the arguments
    that are not listed here.

    After `fit` it has these attributes:

    * `classes_`: `[K]`, the labels, sorted.
    * `model_`, `guide_`, `n_iter_`, `loss_curve_`, `n_features_in_`, `feature_names_in_`: as in
      `VAETransformer`.

    Args:
        latent_dim: size of z, what the class leaves undetermined in x.
        alpha: nats per row that one nat of mean classification loss counts as.
        validation_fraction: the fraction of rows whose ELBO chooses the best epoch. They are taken
            from the rows without a label; no label is held out.

    References:
        Kingma, Mohamed, Rezende and Welling 2014, arXiv 1406.5298.

    Example:
        >>> import torch, pyro_vae as pv
        >>> X = torch.randn(60, 4).numpy()
        >>> y = [["low", "high"][int(row[0] > 0)] if i % 3 else None for i, row in enumerate(X)]
        >>> classifier = pv.estimators.SemiSupervisedVAEClassifier(max_iter=3, random_state=0)
        >>> classifier.fit(X, y).predict_proba(X).shape
        (60, 2)
        >>> classifier.classes_.tolist()
        ['high', 'low']
    """

    def __init__(
        self,
        latent_dim: int = 5,
        *,
        alpha: float = 10.0,
        hidden_layer_sizes: Sequence[int] = (128,),
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
        self.alpha = alpha

    def _build_model(self, num_columns: int) -> nn.Module:
        return M2(
            (num_columns,),
            len(self.classes_),
            self.latent_dim,
            self._units.likelihood,
            MLP(tuple(self.hidden_layer_sizes)),
        )

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train the pair.

        Args:
            X: `[N, D]`, an array, a data frame or a sparse matrix.
            y: `[N]` labels; -1, NaN, None or `pd.NA` for a row without a label.
            sample_weight: `[N]`; a row's part of the objective is multiplied by its weight.
        """
        rows, labels = self._check_labeled(X, y, reset=True)
        weight, seed = self._check_weight(sample_weight, rows), self._seed()
        self.classes_ = _classes(_used(labels, weight), y)
        unlabeled = np.flatnonzero([label is None for label in labels])
        training = self._hold_out(self._training(rows, labels, weight), seed, unlabeled)
        self._num_values = len(self.classes_)
        self._start(training, seed)
        return self._record(self._train(training, seed, objective=self._objective(training, True)))

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """One more epoch, on these rows, with a constant learning rate.

        The first call chooses likelihood and units by its rows. The optimizer's state is kept from
        call to call.

        Args:
            X, y, sample_weight: as in `fit`.
            classes: `[K]`, all labels of all calls. Default: those of the first call.
        """
        first = not hasattr(self, "model_")
        rows, labels = self._check_labeled(X, y, reset=first)
        weight, seed = self._check_weight(sample_weight, rows), self._seed()
        if first:
            present = _used(labels, weight) if classes is None else _as_labels(classes)
            self.classes_ = _classes(present, y if classes is None else classes)
            self._num_values = len(self.classes_)
        training = self._training(rows, labels, weight)
        if first:
            self._start(training, seed)
        return self._train_one_epoch(training, seed, self._objective(training, False))

    def predict(self, X: ArrayLike) -> np.ndarray:
        """`[N]`: the most probable label."""
        most_probable = self.predict_proba(X).argmax(1)
        return self.classes_[most_probable]

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """The accuracy on the rows that have a label; rows without one do not count."""
        check_consistent_length(X, y, sample_weight)
        labels = _as_labels(y)
        labeled = np.array([label is not None for label in labels], dtype=bool)
        if not labeled.any():
            raise UserError("no row has a label, and the score is of those that have one")
        right = (self.predict(X).astype(object) == labels)[labeled]
        weight = None if sample_weight is None else np.asarray(sample_weight)[labeled]
        return float(np.average(right, weights=weight))

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """`[N, K]`: q(y | x), in the order of `classes_`."""
        rows = self._check(X)
        return self._by_blocks(
            rows, lambda x: responsibilities(self.model_, self.guide_, x, num_samples=1)
        )

    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        """`[N, K]`: log q(y | x), in the order of `classes_`."""
        with np.errstate(divide="ignore"):  # a probability may be too small for a float
            return np.log(self.predict_proba(X))

    def _check_labeled(self, X: ArrayLike, y: ArrayLike, reset: bool) -> tuple[Rows, np.ndarray]:
        """The rows, and their labels as an object array with None where there is none."""
        if y is None:
            raise UserError("requires y to be passed, but the target y is None")
        rows = self._check(X, reset=reset, ensure_min_samples=2)
        labels = _as_labels(y)
        if len(labels) != len(rows):
            raise UserError(f"y has {len(labels)} labels for {len(rows)} rows")
        return rows, labels

    def _training(self, rows: Rows, labels: np.ndarray, weight: np.ndarray | None) -> Training:
        number = {label: i for i, label in enumerate(self.classes_.tolist())}
        used = _used(labels, weight)
        unknown = {label for label in used if label is not None and label not in number}
        if unknown:
            raise UserError(f"labels {sorted(unknown)} are not among the classes {[*number]}")
        y = torch.tensor([number.get(label, -1) for label in labels])
        return Training(rows, y, weight=weight)

    def _objective(self, training: Training, whole_run: bool) -> SemiSupervised:
        schedule: dict[str, Any] = {}
        if whole_run:
            epochs = self._epochs(self._steps(len(training.number))[1])
            warmup = {"z": max(1, int(WARMUP * epochs))}
            schedule = {"warmup": warmup, "warmup_start": WARMUP_START}
        fraction = training.labelled_fraction
        return SemiSupervised(alpha=self.alpha, labelled_fraction=fraction, **schedule)


def _as_labels(y: ArrayLike) -> np.ndarray:
    """`[N]` labels as Python objects, None where there is none.

    Raises:
        UserError: text in a numpy array that may be a missing label.
    """
    values = column_or_1d(_as_array(y), warn=True)
    labels = np.array([*values.tolist(), None], dtype=object)[:-1]
    if values.dtype.kind in "UT":
        unclear = [label for label in labels if label in TEXT_OF_MISSING]
        if unclear:
            raise UserError(
                f"y has the text {unclear[0]!r} in a numpy array of text, which numpy makes of a "
                "missing label too: y.astype(object) keeps it as a class, None marks a row without "
                "a label"
            )
    labels[[_is_missing(label) for label in labels]] = None
    known = [label for label in labels if label is not None]
    if known:
        check_classification_targets(known)
    return labels


def _as_array(y: ArrayLike) -> np.ndarray:
    """y as an array. No label changes its type, neither in a list nor in a column with missing values."""
    if isinstance(y, np.ma.MaskedArray):
        labels = y.data.astype(object)
        labels[np.ma.getmaskarray(y)] = None
        return labels
    if hasattr(y, "to_list"):  # a column of pandas or polars
        return np.array([*y.to_list(), None], dtype=object)[:-1]
    if hasattr(y, "to_numpy") or not hasattr(y, "dtype"):
        return np.array(y, dtype=object)
    return np.asarray(y)


def _used(labels: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """The labels of the rows that have a weight."""
    return labels if weight is None else labels[weight > 0]


def _is_missing(label: object) -> bool:
    try:
        differs = bool(label != label)
    except TypeError:  # pd.NA, whose comparisons have no truth value
        return True
    return label is None or differs or _is_minus_one(label)


def _is_minus_one(label: object) -> bool:
    """Whether a label, of any type of number, is the -1 of a row without one."""
    try:
        return type(label) is not bool and bool(label == -1)
    except TypeError:  # pd.NA, whose comparisons have no truth value
        return False


def _classes(labels: np.ndarray, y: ArrayLike) -> np.ndarray:
    """The labels of `y`, each once, sorted."""
    known = {label for label in labels if label is not None}
    if not known:
        raise UserError("no row has a label: y needs at least one that is not -1, NaN, None or NA")
    if len({isinstance(label, str) for label in known}) > 1:
        raise UserError("labels are strings and numbers: use one of both")
    if known == {1} and any(_is_minus_one(value) for value in np.ravel(_as_array(y)).tolist()):
        raise UserError("y has -1 and 1, and -1 means not labeled: number the two classes 0 and 1")
    return np.array(sorted(known))
