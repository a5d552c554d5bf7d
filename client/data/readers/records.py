"""What every reader hands on: a header, and pieces of raw cells with the place of each record.

A piece is small enough to be held, so a table of any size is read at flat memory. Only the columns that are asked for
are in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl

PIECE = 65_536
"""Records in a piece, at most."""

LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Damaged:
    """A record that cannot be taken apart: where it stands, what is wrong with it (a kind of `Problem`), how it looks."""

    place: int
    kind: str
    text: str


@dataclass(frozen=True)
class Piece:
    """Some records: one column of raw cells for every column asked for, in that order, and the place of each record."""

    cells: pl.DataFrame
    places: pl.Series
    damaged: Sequence[Damaged] = ()
    blank: int = 0

    @property
    def rows(self) -> int:
        """How many records were read, blank and damaged ones with them."""
        return len(self.places) + len(self.damaged) + self.blank


@dataclass(frozen=True)
class Records:
    """An opened table: its name (a file, or a URL without password), the word for a place in it, header and pieces.

    `pieces` takes the places of the wanted columns in the header; `close` lets go of file or connection.
    """

    name: str
    unit: str
    header: Sequence[str]
    pieces: Callable[[Sequence[int]], Iterator[Piece]]
    close: Callable[[], None] = field(default=lambda: None)


def column_of(name: str, cells: Sequence[object]) -> pl.Series:
    """Return Python values as one column: of their own type where all share it, as text otherwise.

    >>> column_of("a", [1, "x", None, Decimal("2.50")]).to_list()
    ['1', 'x', None, '2.50']
    """
    kinds = set(map(type, cells)) - {type(None)}
    if kinds <= {str}:
        return pl.Series(name, cells, dtype=pl.String)
    if kinds == {int} and _fits(cells):
        return pl.Series(name, cells, dtype=pl.Int64)
    if kinds == {float}:
        return pl.Series(name, cells, dtype=pl.Float64)
    if kinds == {datetime}:
        aware = {cell.tzinfo is not None for cell in cells if isinstance(cell, datetime)}
        if aware == {False}:
            return pl.Series(name, cells, dtype=pl.Datetime("us"))
        if aware == {True}:
            moved = [
                cell.astimezone(UTC).replace(tzinfo=None) if isinstance(cell, datetime) else None for cell in cells
            ]
            return pl.Series(name, moved, dtype=pl.Datetime("us")).dt.replace_time_zone("UTC")
    return pl.Series(name, [as_written(cell) for cell in cells], dtype=pl.String)


def _fits(cells: Sequence[object]) -> bool:
    """Return whether every whole number among the cells has room in 64 bits."""
    numbers = [cell for cell in cells if isinstance(cell, int)]
    return min(numbers) >= -LARGEST and max(numbers) <= LARGEST


def as_written(cell: object) -> str | None:
    """Return a value as a person would write it; None for nothing, for a date that is none and for a number that is none.

    >>> as_written(b"c1"), as_written(12.0), as_written(Decimal("58.00"))
    ('c1', '12', '58.00')
    """
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, (datetime, date)):
        return cell.isoformat()
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return bytes(cell).decode("utf-8", "replace")
    if isinstance(cell, Decimal):
        return format(cell, "f")
    return number_as_written(cell) if isinstance(cell, float) else str(cell)


def number_as_written(number: float) -> str | None:
    """Return a number in digits; from 10^15 on, where it no longer holds every digit, in scientific notation.

    >>> number_as_written(13800.0), number_as_written(1.38e17), number_as_written(float("nan"))
    ('13800', '1.38000000000000E+17', None)
    """
    if number != number:
        return None
    if abs(number) >= 1e15:
        return f"{number:.14E}"
    return str(int(number)) if number.is_integer() else repr(number)
