"""Differences of the rows of a comparison from one of them, paired by seed."""

import math
import statistics
from collections.abc import Sequence

import torch

from ..errors import UserError, unknown_name_error
from .evaluation import Row
from .evidence import NAMES, Bounds

PAIRED = ("elbo", "log_likelihood", "approximation", "amortization")


def paired_differences(
    rows: Sequence[Row], per_datum: Sequence[Bounds], number: str, reference: dict[str, str]
) -> list[Row]:
    """The difference of a number from the reference row's; see `Comparison.differences`."""
    if number not in PAIRED:
        raise unknown_name_error("number of differences", number, PAIRED)
    groups: dict[tuple[str, ...], dict[int, int]] = {}  # names: {seed: position}
    for i, row in enumerate(rows):
        groups.setdefault(tuple(row[n] for n in NAMES[:3]), {})[row["seed"]] = i
    first = _reference(groups, reference)
    result = []
    for names, cells in groups.items():
        line: Row = {**dict(zip(NAMES, names, strict=False)), "number": number}
        line |= {"seeds": 0, "difference": None, "standard_error": None, "over": None}
        pairs = [(i, groups[first][seed]) for seed, i in cells.items() if seed in groups[first]]
        pairs = [p for p in pairs if all(rows[i][number] is not None for i in p)]
        if names != first and pairs:
            line |= _difference(rows, per_datum, number, pairs)
        result.append(line)
    return result


def _reference(
    groups: dict[tuple[str, ...], dict[int, int]], reference: dict[str, str]
) -> tuple[str, ...]:
    """The names of the first row that has the names in `reference`."""
    for position, kind in enumerate(NAMES[:3]):
        known = dict.fromkeys(names[position] for names in groups)
        if kind in reference and reference[kind] not in known:
            raise unknown_name_error(kind, reference[kind], known)
    for names in groups:
        if reference.items() <= dict(zip(NAMES, names, strict=False)).items():
            return names
    raise UserError(f"no row has {reference}")


def _difference(
    rows: Sequence[Row],
    per_datum: Sequence[Bounds],
    number: str,
    pairs: list[tuple[int, int]],
) -> Row:
    """Mean and standard error over seeds; of one seed, over data points."""
    if len(pairs) > 1:
        values, over = [rows[i][number] - rows[j][number] for i, j in pairs], "seeds"
        mean, sd = statistics.mean(values), statistics.stdev(values)
        count = len(values)
    else:
        ((i, j),) = pairs
        difference: torch.Tensor = per_datum[i][number] - per_datum[j][number]
        mean, count, over = float(difference.mean()), len(difference), "data points"
        sd = float(difference.std()) if count > 1 else math.nan
    error = sd / math.sqrt(count)
    return {
        "seeds": len(pairs), "difference": mean, "over": over,
        "standard_error": error if math.isfinite(error) else None,
    }  # fmt: skip
