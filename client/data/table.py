"""A table held by columns, whose rows become objects of the schema when somebody looks at them.

A million orders are a few columns and no million objects: length, slices and sorting cost what the columns cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

import polars as pl
from pydantic import TypeAdapter

from common.schema import Row

R = TypeVar("R", bound=Row)
TIMES = ("order_time", "time")
TYPES: Mapping[str, pl.DataType] = {
    **dict.fromkeys(TIMES, pl.Datetime("us")),
    **dict.fromkeys(("quantity", "price"), pl.Float64()),
    "rating": pl.Int64(),
}
AT_ONCE = 4096


def schema_of(kind: type[Row]) -> dict[str, pl.DataType]:
    """Return the type of every column that holds a field of `kind`; a product's attributes stay as they are written.

    >>> from common.schema import Order
    >>> schema_of(Order)["price"]
    Float64
    """
    return {name: TYPES.get(name, pl.String()) for name in kind.model_fields}


def time_of(kind: type[Row]) -> str | None:
    """Return the field that says when a row of `kind` happened; None where a table has none."""
    return next((name for name in TIMES if name in kind.model_fields), None)


class Table(Sequence[R], Generic[R]):
    """The rows of one table, in order of time where it has one; `frame` has a column for every field that was read."""

    def __init__(self, kind: type[R], frame: pl.DataFrame) -> None:
        self.kind = kind
        self.frame = frame

    @classmethod
    def sorted(cls, kind: type[R], frame: pl.DataFrame) -> Table[R]:
        """Return the table in order of time; rows of one time keep their order."""
        time = time_of(kind)
        return cls(kind, frame.sort(time, maintain_order=True) if time else frame)

    def __len__(self) -> int:
        return self.frame.height

    @overload
    def __getitem__(self, place: int) -> R: ...
    @overload
    def __getitem__(self, place: slice) -> Table[R]: ...
    def __getitem__(self, place: int | slice) -> R | Table[R]:
        if isinstance(place, slice):
            return Table(self.kind, self.frame[place])
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of a table of {len(self)}")
        return self._rows(self.frame.slice(place if place >= 0 else place + len(self), 1))[0]

    def __iter__(self) -> Iterator[R]:
        for start in range(0, len(self), AT_ONCE):
            yield from self._rows(self.frame.slice(start, AT_ONCE))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sequence) and not isinstance(other, str):
            return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Table({self.kind.__name__}, {len(self)} rows)"

    def _rows(self, frame: pl.DataFrame) -> list[R]:
        """Return the rows of `frame` as objects; an empty cell takes the schema's default."""
        rows: Any = TypeAdapter(list[self.kind])  # type: ignore[name-defined]
        return list(
            rows.validate_python(
                [{name: cell for name, cell in row.items() if cell is not None} for row in frame.iter_rows(named=True)]
            )
        )
