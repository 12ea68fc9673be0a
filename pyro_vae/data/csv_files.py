"""Tables in text files: separators, decimal commas, types of columns."""

import codecs
import csv
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ..errors import UserError, reason_of
from .tables import FileColumns, drop_hint, kind_hint

MISSING = {"", "na", "n/a", "nan", "null", "none"}  # in a CSV file, in lower case
DECIMAL_COMMA = r"[+-]?\d*,\d+([eE][+-]?\d+)?"
THOUSANDS = r"[+-]?[1-9]\d{0,2},\d{3}"
BOOLEANS = {"true": True, "false": False}


def read_csv(
    path: Path,
    text: Collection[str] = (),
    numbers: Collection[str] = (),
    used: Collection[str] | None = None,
) -> FileColumns:
    """`{column: values}` of a text file with a header; None for a missing value.

    The separator is a comma, a semicolon or a tab, whichever the header has most of. A column is of
    integers, of numbers, of `true` and `false`, or of text. Missing values are empty, NA or NaN.
    Where the separator is no comma, a comma may be the decimal point: then it is one in every column,
    with a warning.

    Args:
        path: of the file.
        text: the names of columns that are text, whatever they look like.
        numbers: the names of columns in which text among numbers is refused.
        used: the names of columns that are used; others are text, as it is written. Default: all.

    Raises:
        UserError: no header, two columns of one name, a row of another length, text among `numbers`,
            no UTF-8.
    """
    try:
        with open(path, encoding=_encoding(path), newline="") as file:
            header_line = file.readline()
            separator = max(",;\t", key=header_line.count)
            file.seek(0)
            rows, lines = _rows_and_lines(csv.reader(file, delimiter=separator))
    except (csv.Error, UnicodeDecodeError) as e:
        remedy = ""
        if isinstance(e, UnicodeDecodeError):
            remedy = ": save it in UTF-8, which spreadsheets call 'CSV UTF-8'"
        raise UserError(f"{path} is not a CSV file in UTF-8: {reason_of(e)}{remedy}") from e
    if len(rows) < 2:
        raise UserError(f"{path} has no rows below a header")
    header, *body = rows
    _check_header(path, header)
    _, *lines = lines
    for line, row in zip(lines, body, strict=True):
        if len(row) != len(header):
            raise UserError(f"{path}: line {line} has {len(row)} values, the header {len(header)}")
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise UserError(f"{path} has several columns {twice[0]!r}: rename them")
    read = {i: n for i, n in enumerate(header) if n not in text and (used is None or n in used)}
    has_commas = separator != "," and _has_decimal_commas(path, body, read)
    columns: dict[str, list[Any]] = {}
    for i, name in enumerate(header):
        cells = [row[i] for row in body]
        if used is not None and name not in used:  # written as they are, if at all
            columns[name] = list(cells)
            continue
        cells = [cell.strip() for cell in cells]
        if name in text:
            columns[name] = [None if cell.lower() in MISSING else cell for cell in cells]
            continue
        cells = [_with_point(cell) for cell in cells] if has_commas else cells
        columns[name] = _values(path, name, cells, lines, must_be_numbers=name in numbers)
    return FileColumns(columns, lines)


def _values(
    path: Path, name: str, cells: list[str], lines: list[int], must_be_numbers: bool
) -> list[Any]:
    """The values of a column, of the narrowest type that all of its cells have.

    Args:
        path, name: of the file and the column, for messages.
        cells: `[N]`.
        lines: `[N]` on which they are.
        must_be_numbers: whether text among numbers is refused; else it is warned of.
    """
    present = [cell for cell in cells if cell.lower() not in MISSING]
    if not must_be_numbers or not any(map(_is_number, present)):
        _check_numbers(path, name, present)
    other = [each for each in zip(lines, cells, strict=True) if _is_text(each[1])]
    if other and len(other) < len(present):
        line, cell = other[0]
        if must_be_numbers:
            raise UserError(
                f"{path}: column {name!r} had numbers, and now {cell[:20]!r} in line {line}"
            )
        warnings.warn(
            f"column {name!r} has numbers and text, such as {cell[:20]!r}: it is read as a "
            "category (a missing value is an empty cell, NA or NaN)",
            stacklevel=3,
        )
    values = _typed(cells, present)
    zeros = next((cell for cell in present if re.fullmatch(r"0\d+", cell)), None)
    if zeros is not None and isinstance(values[cells.index(zeros)], int):
        warnings.warn(
            f"column {name!r} has numbers with zeros in front, such as {zeros!r}, which are lost: "
            f"{kind_hint(name, 'category')} keeps them",
            stacklevel=3,
        )
    return values


def _rows_and_lines(reader: Any) -> tuple[list[list[str]], list[int]]:
    """The rows that are not empty, and the line of the file on which each begins."""
    rows, lines, read = [], [], 0
    for row in reader:
        if row:
            rows.append(row)
            lines.append(read + 1)
        read = reader.line_num  # a quoted cell may have several lines
    return rows, lines


def _check_header(path: Path, header: list[str]) -> None:
    """Warn of a first row of numbers: it may be a row of data. pandas' names 0, 1, ... are none."""
    names = header[1:] if header[0] == "" else header  # pandas writes the index without a name
    if names and all(map(_is_number, names)) and names != [str(i) for i in range(len(names))]:
        warnings.warn(
            f"{path}: the first row was taken as the column names, and it has only numbers, such as "
            f"{names[0]!r}; if it is a row of data, add a row of names above it",
            stacklevel=2,
        )


def _check_numbers(path: Path, name: str, present: list[str]) -> None:
    """Refuse a column of numbers that are written with commas, units of money or per cent."""
    # the second is 1.234,50; dates have no comma
    forms = r"[$€£]?[+-]?,?\d[\d,]*(\.\d+)? ?[%$€£]?", r"[+-]?\d[\d.]*(,\d+)?"
    is_written = [all(re.fullmatch(form, cell) for cell in present) for form in forms]
    if not (is_written[0] or (is_written[1] and any("," in cell for cell in present))):
        return
    written = next((cell for cell in present if not _is_number(cell)), None)
    if written is not None:
        raise UserError(
            f"{path}: column {name!r} has numbers with signs or commas, such as {written!r}: write "
            "them with digits and a point alone, such as 1234.5, or leave the column out, "
            f"{drop_hint(name)}"
        )


def _has_decimal_commas(path: Path, rows: list[list[str]], columns: dict[int, str]) -> bool:
    """Whether a file has numbers such as 1,5, and none such as 1.5; 1,500 alone may be thousands.

    Args:
        columns: the names of the columns that are looked at, by their places.
    """
    cells = [(name, row[i].strip()) for row in rows for i, name in columns.items()]
    found: dict[str, str] = {}  # by column
    for name, cell in cells:
        if re.fullmatch(DECIMAL_COMMA, cell) and not re.fullmatch(THOUSANDS, cell):
            found.setdefault(name, cell)
    if not found or any(re.fullmatch(r"[+-]?\d*\.\d+", cell) for _, cell in cells):
        return False
    listed = ", ".join(f"{cell!r} (column {name!r})" for name, cell in [*found.items()][:3])
    warnings.warn(
        f"{path}: the comma is read as the decimal point of numbers, such as {listed}"
        + (", ..." if len(found) > 3 else ""),
        stacklevel=3,
    )
    return True


def _with_point(cell: str) -> str:
    return cell.replace(",", ".") if re.fullmatch(DECIMAL_COMMA, cell) else cell


def _is_text(cell: str) -> bool:
    """Whether a cell is neither a number nor a missing value."""
    return cell.lower() not in MISSING and not _is_number(cell)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _typed(cells: list[str], present: list[str]) -> list[Any]:
    """The values of a column: of the narrowest type that all of them have."""
    convert: Callable[[str], Any] = str
    for candidate in (_integer, float, lambda cell: BOOLEANS[cell.lower()]):
        try:
            for cell in present:
                candidate(cell)
        except (ValueError, KeyError):
            continue
        convert = candidate
        break
    return [None if cell.lower() in MISSING else convert(cell) for cell in cells]


def _encoding(path: Path) -> str:
    """UTF-8, or UTF-16 of a file that begins with its mark, as spreadsheets save "Unicode text"."""
    with open(path, "rb") as file:
        start = file.read(2)
    return "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _integer(cell: str) -> int:
    number = int(cell)
    if abs(number) >= 2**63:
        raise ValueError
    return number
