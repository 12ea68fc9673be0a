"""Covariates of a conditional model: numbers, or one class per row."""

import warnings
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_array

from ..data.tables import check_collected, is_anndata, is_frame
from ..errors import UserError
from .rows import Rows, without_mask
from .units import moments


@dataclass(frozen=True, eq=False)
class Covariates:
    """How covariates become the inputs of a model.

    Args:
        categories: `[K]`, the sorted classes, which become one-hot rows; None for numbers.
        mean, scale: `[C]`, of numbers, which are standardized.
        names: `[C]`, of the columns of a data frame; None if it has no names, or they are not text.
    """

    categories: np.ndarray | None
    mean: np.ndarray
    scale: np.ndarray
    names: np.ndarray | None = None

    @classmethod
    def of(cls, C: ArrayLike, weight: np.ndarray | None = None) -> Self:
        """Learn the classes, or the mean and standard deviation, of covariates.

        Args:
            C: `[N, C]` or `[N]`.
            weight: `[N]` of the rows; those of weight zero are left out. Default: equal.
        """
        values, names = _as_array(C), _column_names(C)
        if weight is not None:
            values, weight = values[weight > 0], weight[weight > 0]
        if values.shape[1] == 1 and values.dtype.kind != "f":
            if values.dtype.kind in "UT" and "nan" in values:
                raise UserError(
                    "C has the text 'nan' in a numpy array of text, which numpy makes of a missing "
                    "value too: C.astype(object) keeps it as a class"
                )
            mixed = "C has missing values, or classes of several types: use strings or integers"
            if any(isinstance(value, float) and np.isnan(value) for value in values[:, 0]):
                raise UserError(mixed)
            try:
                categories = np.unique(values[:, 0])
            except TypeError:
                raise UserError(mixed) from None
            return cls(categories, np.zeros(1), np.ones(1), names)
        values = _as_numbers(values)
        mean, sd = moments(Rows(values), weight)
        return cls(None, mean, np.where(sd > 0, sd, 1.0), names)

    @property
    def size(self) -> int:
        """The number of columns that the model sees."""
        return len(self.mean) if self.categories is None else len(self.categories)

    def encode(self, C: ArrayLike, weight: np.ndarray | None = None) -> torch.Tensor:
        """`[N, size]` float64.

        Args:
            C: `[N, C]` or `[N]`.
            weight: `[N]` of the rows; those of weight zero become zeros. Default: equal.

        Raises:
            UserError: other columns, or in another order, than those that were learned from; classes
                that these had not.
        """
        values = _as_array(C)
        self._check_names(_column_names(C))
        if weight is None:
            return self._encode(values)
        result = torch.zeros(len(values), self.size, dtype=torch.float64)
        result[weight > 0] = self._encode(values[weight > 0])
        return result

    def _check_names(self, names: np.ndarray | None) -> None:
        """Raise if these columns have other names, as scikit-learn does for X; warn if there are none."""
        if names is not None and self.names is not None:
            if names.tolist() != self.names.tolist():
                raise UserError(
                    "the column names of C should match those that were passed during fit, in the "
                    f"same order: expected {_listed(self.names)}, got {_listed(names)}"
                )
        elif len(self.mean) > 1 and names is not None:
            warnings.warn("C has column names, but was fitted without column names", stacklevel=5)
        elif len(self.mean) > 1 and self.names is not None:
            warnings.warn(
                "C does not have column names, but was fitted with column names", stacklevel=5
            )

    def _encode(self, values: np.ndarray) -> torch.Tensor:
        if self.categories is not None:
            return self._one_hot(values)
        values = _as_numbers(values)
        if values.shape[1] != len(self.mean):
            raise UserError(f"C has {values.shape[1]} columns; expected {len(self.mean)}")
        return torch.from_numpy((values - self.mean) / self.scale)

    def _one_hot(self, values: np.ndarray) -> torch.Tensor:
        assert self.categories is not None
        number = {value: i for i, value in enumerate(self.categories.tolist())}
        if values.shape[1] != 1:
            raise UserError(f"C has {values.shape[1]} columns; expected one, a class per row")
        classes = values[:, 0].tolist()
        unknown = sorted({str(value) for value in classes if value not in number})
        if unknown:
            raise UserError(f"C has classes that training had not: {', '.join(unknown[:5])}")
        index = torch.tensor([number[value] for value in classes])
        return torch.nn.functional.one_hot(index, len(number)).double()


def check_num_rows(C: ArrayLike, num_rows: int) -> None:
    """Raise unless covariates have this number of rows, that of X."""
    if len(values := _as_array(C)) != num_rows:
        raise UserError(f"C has {len(values)} rows, X has {num_rows}")


def _column_names(C: Any) -> np.ndarray | None:
    """The names of the columns of a data frame, if all of them are text, as scikit-learn has it."""
    if not is_frame(C) or is_anndata(C):
        return None
    names = list(C.columns)
    is_text = bool(names) and all(isinstance(name, str) for name in names)
    return np.array(names, dtype=object) if is_text else None


def _listed(names: np.ndarray) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


def _as_array(C: ArrayLike) -> np.ndarray:
    """`[N, C]`, of any dtype."""
    check_collected(C)
    values = np.asarray(without_mask(C.to_numpy() if hasattr(C, "to_numpy") else C))
    if values.ndim not in (1, 2) or not values.size:
        raise UserError(
            f"C has shape {list(values.shape)}; expected [N] or [N, number of covariates]"
        )
    if values.dtype.kind in "mM":
        raise UserError("C has dates: pass numbers (days, seconds), or text for classes")
    if values.dtype == object and all(isinstance(v, float) for v in values.flat):
        values = values.astype(np.float64)  # numbers in a column of objects are no classes
    return values[:, None] if values.ndim == 1 else values


def _as_numbers(values: np.ndarray) -> np.ndarray:
    try:
        return np.asarray(check_array(values, dtype=np.float64, input_name="C"))
    except ValueError as e:
        if "could not convert" not in str(e):
            raise
        raise UserError(
            f"C has columns that are not numbers beside others ({e}): encode them"
        ) from e
