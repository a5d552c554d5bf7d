"""XLSX, streamed row by row: the cells' own types, dates as the workbook has them, formulas as last computed."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice, repeat
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl
from openpyxl import load_workbook

from client.data.readers.files import check_file, kind_of, readable
from client.data.readers.records import Piece, Records, column_of
from common.errors import FugouError, UserError

AT_ONCE = 8_192
"""Rows in a piece: a sheet has a million at most, and its cells are large objects."""

LARGEST_PART = 1 << 32
LARGEST_STRINGS = 1 << 29
"""Unpacked bytes of one part of a workbook, and of its shared texts, which the format makes one hold at once."""

NOT_COMPUTED = "#VALUE!"
"""What stands for a formula that no program has computed before it was saved."""

HAS_FORMULA = re.compile(rb"<f[ >/]")
ZEROS = re.compile(r"0{2,64}")

Line: TypeAlias = tuple[int, Sequence[Any], Sequence[Any]]
"""A row of a sheet: its number, its cells and, where the sheet has formulas, the same cells with formulas as written."""


def open_workbook(path: Path, sheet: str = "") -> Records:
    """Return the records of one sheet of the XLSX file at `path`: the one named, or the only one with anything in it.

    Raises `UserError` for what is no workbook, for one with a password, and for a sheet that is not there.
    """
    check_file(path)
    with _whole(path):
        with path.open("rb") as file:
            head = file.read(16)
        if not head.startswith(b"PK"):
            what = kind_of(head) or "not a workbook"
            raise UserError(f"{path}: {what}; save it as XLSX without a password, or as CSV in UTF-8")
        formulas = _look_inside(path)
        with ExitStack() as opened:
            book = opened.enter_context(closing(load_workbook(path, read_only=True, data_only=True)))
            sheets = [book[_choose(path, book, sheet)]]
            if formulas:
                spelled = opened.enter_context(closing(load_workbook(path, read_only=True)))
                sheets.append(spelled[sheets[0].title])
            lines = _lines(sheets)
            header = next((cells for _, cells, _ in lines if not _is_blank(cells)), ())
            close = opened.pop_all().close
    names = ["" if cell.value is None else str(cell.value).strip() for cell in header]
    unit = f"sheet {sheets[0].title!r} row"
    return Records(str(path), unit, names, lambda wanted: _pieces(path, lines, wanted), close)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turn whatever openpyxl says of a damaged workbook, which can be any error, into one `UserError` line."""
    with readable(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about styles and extensions, which hold no value
        try:
            yield
        except (FugouError, FileNotFoundError, PermissionError):
            raise
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            raise UserError(f"{path}: a damaged workbook ({what}); save it again as XLSX, or as CSV in UTF-8") from None


def _look_inside(path: Path) -> bool:
    """Return whether any sheet has a formula; raise `UserError` for parts that are too large to unpack."""
    with zipfile.ZipFile(path) as parts:
        for part in parts.infolist():
            limit = LARGEST_STRINGS if part.filename.endswith("sharedStrings.xml") else LARGEST_PART
            if part.file_size > limit:
                raise UserError(
                    f"{path}: {part.filename} unpacks to {part.file_size >> 20} MB, more than {limit >> 20}; "
                    "save the sheet as CSV in UTF-8"
                )
        sheets = [part for part in parts.infolist() if part.filename.startswith("xl/worksheets/")]
        return any(_has_formula(parts, part) for part in sheets)


def _has_formula(parts: zipfile.ZipFile, part: zipfile.ZipInfo) -> bool:
    with parts.open(part) as file:
        last = b""
        while chunk := file.read(1 << 20):
            if HAS_FORMULA.search(last + chunk):
                return True
            last = chunk[-4:]
    return False


def _choose(path: Path, book: Any, sheet: str) -> str:
    """Return the name of the sheet to read."""
    names = [one.title for one in book.worksheets]
    if sheet:
        if sheet not in names:
            raise UserError(f"{path}: no sheet {sheet!r}; there are {', '.join(names)}")
        return sheet
    full = [one.title for one in book.worksheets if any(not _is_blank(row) for row in islice(_grid(one), 1000))]
    if len(full) > 1:
        raise UserError(f"{path}: {len(full)} sheets ({', '.join(full)}); say which, as in sheet = {full[0]!r}")
    return str(full[0] if full else names[0])


def _grid(sheet: Any) -> Iterator[Sequence[Any]]:
    """Return a sheet's rows of cells, whatever size the file claims for it."""
    sheet.reset_dimensions()
    return sheet.iter_rows()  # type: ignore[no-any-return]


def _lines(sheets: Sequence[Any]) -> Iterator[Line]:
    """Yield every row of a sheet that was opened once for its values and, maybe, once more for its formulas."""
    spelled = _grid(sheets[1]) if len(sheets) > 1 else repeat(())
    for number, (cells, formulas) in enumerate(zip(_grid(sheets[0]), spelled, strict=False), start=1):
        yield number, cells, formulas


def _is_blank(cells: Sequence[Any]) -> bool:
    return all(cell.value is None or cell.value == "" for cell in cells)


def _pieces(path: Path, lines: Iterator[Line], wanted: Sequence[int]) -> Iterator[Piece]:
    """Yield the wanted columns piece by piece."""
    while True:
        with _whole(path):
            piece = _piece(list(islice(lines, AT_ONCE)), wanted)
        if piece is None:
            return
        yield piece


def _piece(lines: Sequence[Line], wanted: Sequence[int]) -> Piece | None:
    """Return some rows as a piece; None for no rows."""
    if not lines:
        return None
    full = [line for line in lines if not _is_blank(line[1])]
    columns = [
        column_of(str(n), [_value(cells, formulas, place) for _, cells, formulas in full])
        for n, place in enumerate(wanted)
    ]
    places = pl.Series([number for number, _, _ in full], dtype=pl.Int64)
    return Piece(pl.DataFrame(columns), places, blank=len(lines) - len(full))


def _value(cells: Sequence[Any], formulas: Sequence[Any], place: int) -> object:
    """Return the value of one cell; a whole number as its format shows it, or, past 15 digits, as one that lost some."""
    if place >= len(cells):
        return None
    value = cells[place].value
    if value is None and place < len(formulas) and formulas[place].data_type == "f":
        return NOT_COMPUTED
    if type(value) is int:
        if abs(value) >= 10**15:
            return f"{value:.14E}"
        shown = cells[place].number_format
        return str(value).zfill(len(shown)) if ZEROS.fullmatch(shown) else str(value)
    return value
