"""Errors of one line, which say what is wrong and what to do; and checks of arguments."""

import difflib
import math
import os
import re
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """A mistake that the caller can mend; the command line prints it as one line.

    Example:
        >>> import pyro_vae as pv
        >>> try:
        ...     pv.data.load("digit")
        ... except pv.UserError as error:
        ...     print(error)
        unknown data set 'digit'; did you mean 'digits'?
    """

    def __str__(self) -> str:
        # Pyro adds a table of shapes to an error raised inside a program.
        text = re.split(r"\n\s*Trace Shapes:", super().__str__())[0].strip()
        return re.sub(r"\s*\n\s*", " ", text)  # an array that is quoted has several lines


class SupportError(UserError):
    """A value outside the support of its likelihood.

    Args:
        message: what is wrong.
        value: one such value, as the model observes it.
        place: its index in a data point.
        remedy: what to do about it; the end of the message.
    """

    def __init__(
        self,
        message: str,
        value: float = math.nan,
        place: tuple[int, ...] = (),
        remedy: str = "",
    ) -> None:
        super().__init__(f"{message}{remedy}")
        self.value, self.place, self.remedy = value, place, remedy


class RowError(UserError):
    """A mistake in one row of a table.

    The message says `row 3`, counted from 0 as positions in a frame are. Of a file it says `line 5`,
    as an editor counts: only the reader of the file knows lines, and calls `at_line`.

    Args:
        before, after: the message around the name of the row.
        row: its position in the table.

    Example:
        >>> from pyro_vae.errors import RowError
        >>> error = RowError("column 'a' had the values 0 and 1, and now 3 in ", 3)
        >>> print(error, error.at_line(5), sep="; ")
        column 'a' had the values 0 and 1, and now 3 in row 3; column 'a' had the ... in line 5
    """

    def __init__(self, before: str, row: int, after: str = "") -> None:
        super().__init__(f"{before}row {row}{after}")
        self.before, self.row, self.after = before, row, after

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.before, self.row, self.after)  # of an error in another process

    def at_line(self, line: int) -> UserError:
        """The error with the line of the file instead."""
        return UserError(f"{self.before}line {line}{self.after}")


LONGEST_QUOTE = 200  # characters of a value in a message
OUT_OF_MEMORY = "out of memory: a smaller model, smaller batches or fewer samples need less"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be allocated; torch says so by a `RuntimeError`."""
    signs = ("out of memory", "can't allocate memory", "size calculation overflowed")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def first_line_of(error: BaseException) -> str:
    """The type of an error, and the first line of what it says: a user's program can fail in any way.

    Example:
        >>> from pyro_vae.errors import first_line_of
        >>> first_line_of(ValueError("no such\\nshape"))
        'ValueError: no such'
    """
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def reason_of(error: BaseException) -> str:
    """What an error of another library says, in one line of at most 200 characters; else its type.

    Example:
        >>> from pyro_vae.errors import reason_of
        >>> reason_of(OSError("no such file")), reason_of(MemoryError())
        ('no such file', 'MemoryError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def unknown_name_error(kind: str, name: object, known: Iterable[object]) -> UserError:
    """The error for a misspelled name, with the nearest known one.

    Args:
        kind: what the name is of, e.g. `"latent"`.
        known: the names that exist.

    Example:
        >>> from pyro_vae.errors import unknown_name_error
        >>> print(unknown_name_error("method", "gmvea", ["vae", "gmvae"]))
        unknown method 'gmvea'; did you mean 'gmvae'?
    """
    names = [str(k) for k in known]
    lower = {k.lower(): k for k in names}
    begun = [k for k in names if k.lower().startswith(str(name).lower())]
    near = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.6)
    near = begun or [lower[k] for k in near]
    listed = ", ".join(repr(k) if "," in k else k for k in names)
    hint = f"known: {listed}" if names else "there are none"
    hint = f"did you mean {near[0]!r}?" if near else hint
    quoted = repr(name) if len(repr(name)) <= LONGEST_QUOTE else f"{repr(name)[:LONGEST_QUOTE]}..."
    return UserError(f"unknown {kind} {quoted}; {hint}")


def check_int_at_least(least: int, **values: object) -> None:
    """Raise unless every value is an integer >= `least`; True and False are not."""
    for name, value in values.items():
        if not _is_whole(least, value):
            raise UserError(f"{name} must be an integer >= {least}, got {value!r}")
        _check_fits(name, value)


def checked_seed(seed: object, name: str = "seed", bits: int = 62) -> int:
    """The seed as an int.

    Args:
        seed: an integer, of numpy's too.
        name: of the argument.
        bits: of the largest seed. Default: fewer than torch's 64, so that seeds can be derived.

    Raises:
        UserError: it is no integer in 0..2**bits - 1.

    Example:
        >>> import numpy as np
        >>> from pyro_vae.errors import checked_seed
        >>> checked_seed(np.int64(3))
        3
    """
    if isinstance(seed, Integral) and _is_whole(0, seed) and int(seed) < 2**bits:
        return int(seed)
    raise UserError(f"{name} must be an integer in 0..2**{bits} - 1, not {seed!r}")


def check_ints_at_least(least: int, **values: object) -> None:
    """Raise unless every value is a tuple or list of integers >= `least`."""
    for name, value in values.items():
        if not isinstance(value, (tuple, list)):
            raise UserError(
                f"{name} must be a tuple of integers >= {least}, such as (6,), got {value!r}"
            )
        if not all(_is_whole(least, number) for number in value):
            raise UserError(f"{name} must be integers >= {least}, got {value!r}")
        for number in value:
            _check_fits(name, number)


def _check_fits(name: str, number: object) -> None:
    if isinstance(number, Integral) and int(number) >= 2**63:  # torch's integers have 64 bits
        raise UserError(f"{name} is too large: {number}")


def _is_whole(least: int, number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool) and int(number) >= least


def check_positive(or_zero: bool = False, **values: object) -> None:
    """Raise unless every value is a finite positive number (or zero, where that is allowed)."""
    for name, value in values.items():
        is_real = isinstance(value, Real) and not isinstance(value, bool)
        number = float(value) if is_real and isinstance(value, Real) else math.nan
        if not (math.isfinite(number) and (number > 0 or (or_zero and number == 0))):
            rule = "non-negative" if or_zero else "positive"
            if not is_real:
                rule = f"a {rule} number"
            finite = " and finite" if number == math.inf else ""
            raise UserError(f"{name} must be {rule}{finite}, got {value!r}")


def folder_to_write(path: Path | str) -> Path:
    """The path of a folder, which is made if need be.

    Raises:
        UserError: it cannot be one.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as e:  # ValueError: a name with a null byte
        reason = e.strerror if isinstance(e, OSError) else e
        raise UserError(f"cannot write to {str(path)[:60]!r}: {reason}") from e
    return path


def file_to_write(path: Path | str) -> Path:
    """The path of a file that will be written, in a folder that is made if need be.

    Raises:
        UserError: the path is a folder, or a part of it cannot be one.

    Example:
        >>> import tempfile
        >>> from pyro_vae.errors import file_to_write
        >>> file_to_write(f"{tempfile.mkdtemp()}/new/report.html").name
        'report.html'
    """
    path = Path(path)
    folder_to_write(path.parent)
    if os.path.isdir(path):
        raise UserError(f"cannot write to {str(path)[:60]!r}: it is a folder; name a file in it")
    return path


def names(**values: object) -> None:
    """Raise unless every value is a list or tuple of names; a string would be read by letters."""
    for name, value in values.items():
        if not (isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)):
            raise UserError(f"{name} must be a list of names, such as ['x'], not {value!r}")
