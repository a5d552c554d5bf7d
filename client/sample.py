"""All rows of some customers, picked while tables stream by: everybody in a small shop, a fair few in a large one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

MOST_CUSTOMERS = 5_000
MOST_ROWS = 2_000_000
TOP = 2**64 - 1


class Sample:
    """Every row of the customers whose ids have the smallest hashes: a bottom-k sketch (Cohen and Kaplan 2007).

    The bar only ever falls, so a customer who is in at the end was in from the first row on: nobody is there in part.
    Holds at most about `customers` customers and `rows` rows, whatever streams by.
    """

    def __init__(self, customers: int = MOST_CUSTOMERS, rows: int = MOST_ROWS) -> None:
        self.customers, self.rows = customers, rows
        self._bar = TOP
        self._parts: dict[str, list[pl.DataFrame]] = {}
        self._ids = pl.Series("customer_id", [], dtype=pl.String)
        self._held = 0

    @property
    def whole(self) -> bool:
        """Whether every customer is in it."""
        return self._bar == TOP

    def add(self, table: str, frame: pl.DataFrame) -> None:
        """Take the rows of `frame` that belong to customers in the sample."""
        kept = frame if self.whole else frame.filter(_hash() <= self._bar)
        if kept.is_empty():
            return
        self._parts.setdefault(table, []).append(kept)
        self._ids = pl.concat([self._ids, kept["customer_id"]]).unique()
        self._held += kept.height
        while len(self._ids) > self.customers or (self._held > self.rows and len(self._ids) > 1):
            self._lower()

    def _lower(self) -> None:
        """Keep a little less than the limit, so that not every new customer moves the bar."""
        hashes = self._ids.to_frame().select(_hash()).to_series().sort()
        keep = len(hashes) // 2 if len(hashes) <= self.customers else int(0.9 * self.customers)
        self._bar = int(hashes[max(keep, 1) - 1])
        for table, parts in self._parts.items():
            self._parts[table] = [pl.concat(parts).filter(_hash() <= self._bar)]
        self._ids = self._ids.to_frame().filter(_hash() <= self._bar).to_series()
        self._held = sum(part.height for parts in self._parts.values() for part in parts)

    def items(self) -> pl.Series:
        """Return the ids of the items in the sampled rows, each once."""
        frames = [part["item_id"] for parts in self._parts.values() for part in parts if "item_id" in part.columns]
        return pl.concat([pl.Series("item_id", [], dtype=pl.String), *frames]).unique()

    def pieces(self, size: int) -> Iterator[Mapping[str, pl.DataFrame]]:
        """Yield all rows of `size` customers at a time by table, customers in the order of their ids."""
        ids = self._ids.sort()
        place = pl.DataFrame({"customer_id": ids, "piece": pl.int_range(len(ids), eager=True) // size})
        tables = {
            table: pl.concat(parts)
            .join(place, on="customer_id", maintain_order="left")
            .partition_by("piece", as_dict=True, maintain_order=True, include_key=False)
            for table, parts in self._parts.items()
        }
        for number in range(-(-len(ids) // size)):
            yield {table: parts[(number,)] for table, parts in tables.items() if (number,) in parts}


def _hash() -> pl.Expr:
    return pl.col("customer_id").hash(seed=0)
