"""What the data of each component are like: how many they are, and their columns."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError, check_int_at_least

KINDS = {"f": "number", "i": "number", "u": "number", "b": "fraction"}  # by numpy's kind


class ColumnProfile(NamedTuple):
    """One column of a table, among the data of each component.

    A number has its mean and standard deviation; true and false have the fraction of true; a category
    has its most frequent value and that value's fraction. Missing values do not count. Where a
    component has no value, center and spread are None.

    Example:
        >>> import pyro_vae as pv
        >>> profile = pv.evaluate.column_profiles({"age": [30, 40, 60]}, [0, 0, 1], 2)[0]
        >>> profile.centers, profile.spreads
        ([35.0, 60.0], [5.0, 0.0])
    """

    name: Any  #: of the column
    kind: str  #: number, fraction or category
    centers: list[Any]  #: `[K]` means, fractions, or most frequent values
    spreads: list[float | None]  #: `[K]` standard deviations, or fractions of the data


def column_profiles(
    columns: Mapping[Any, Any], components: Any, num_components: int
) -> list[ColumnProfile]:
    """The columns of a table, component by component.

    Args:
        columns: `{name: values [N]}` in original units; None or NaN is a missing value.
        components: `[N]`, the component of each row, 0 to K - 1.
        num_components: K.

    Raises:
        UserError: columns and components of different lengths.

    Example:
        >>> import pyro_vae as pv
        >>> columns = {"height": [1.5, 2.0, 1.75], "eyes": ["blue", "brown", "blue"]}
        >>> for profile in pv.evaluate.column_profiles(columns, [0, 0, 1], num_components=2):
        ...     print(profile.name, profile.centers, profile.spreads)
        height [1.75, 1.75] [0.25, 0.0]
        eyes ['blue', 'blue'] [0.5, 1.0]
    """
    check_int_at_least(1, num_components=num_components)
    assigned = np.asarray(components)
    profiles = []
    for name, values in columns.items():
        # numpy would make one type of a list: of true and NaN numbers, of text and NaN text
        array = np.array(values, object) if isinstance(values, list) else np.asarray(values)
        if array.shape != assigned.shape or array.ndim != 1:
            raise UserError(
                f"column {name!r} has shape {list(array.shape)}, the components {list(assigned.shape)}"
            )
        present = ~np.array([_is_missing(v) for v in array], dtype=bool)
        if array.dtype.kind == "M":
            array = np.datetime_as_string(array)
        kind = KINDS.get(np.array(array[present].tolist()).dtype.kind, "category")
        groups = [array[present & (assigned == k)] for k in range(num_components)]
        found = [_of_group(group, kind) for group in groups]
        profiles.append(
            ColumnProfile(name, kind, *(list(part) for part in zip(*found, strict=True)))
        )
    return profiles


def _is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, or pandas' NaT or NA, of which no comparison is a boolean."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True


def _of_group(values: np.ndarray, kind: str) -> tuple[Any, float | None]:
    if not len(values):
        return None, None
    if kind == "category":
        name, count = Counter(values.tolist()).most_common(1)[0]
        return name, count / len(values)
    numbers = values.astype(np.float64)
    return float(numbers.mean()), float(numbers.std())
