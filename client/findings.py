"""What is odd in a shop's tables beyond single cells: one rule a kind, and a collector that stays small.

A cell that cannot be read is the reader's to tell (`client.data.sources`). The rules here look at rows that can be
read and say something odd: a day to come, a product that no catalogue knows, the same review twice. None of these rows
is left out of training; `kind_*` in `client.words` says what becomes of them instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from client.data.scrub import scrub
from client.data.sources import FREE_TEXTS, KEPT, Batch, Problem
from common.text import clean

SHOWN, MANY = 20, 100_000
WIDE = 40
EARLIEST = datetime(2000, 1, 1)
TIMES = ("order_time", "time")
KEYS: Mapping[str, tuple[str, ...]] = {
    "orders": ("order_id", "item_id", "order_time"),
    "products": ("item_id",),
    "reviews": ("review_id",),
    "dialogs": ("dialog_id",),
    "campaigns": ("campaign_id", "customer_id", "item_id"),
}
"""What no two rows of a table share; one campaign may go to many customers, and a row without an order id has no key."""

FOLLOW = "[\u00a0-¿€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
DAMAGE = rf"锟斤拷|烫烫烫|屯屯屯|锛|銆|ï¿½|[ÂÃ]{FOLLOW}|â€|[ä-é]{FOLLOW}{{2}}"
"""What is left of words that were read in a wrong encoding: UTF-8 as Latin letters or as GBK, GBK as UTF-8."""
HTML = (
    r"(?i)</?(?:a|b|br|div|em|font|h[1-6]|i|img|li|p|script|span|strong|style|table|td|tr|u|ul)(?:\s[^<>]*)?/?>"
    r"|&(?:nbsp|amp|lt|gt|quot|#\d{1,5});"
)


class Key(NamedTuple):
    """What findings are counted by."""

    table: str
    kind: str
    column: str
    does: str


@dataclass(frozen=True)
class Rule:
    """One kind of finding in one column: the rows where `test` holds."""

    kind: str
    column: str
    test: pl.Expr


@dataclass
class Findings:
    """Problems by table, kind and column: every one counted, the first `limit` of each kept to be shown."""

    limit: int = SHOWN
    counts: Counter[Key] = field(default_factory=Counter)
    shown: dict[Key, list[Problem]] = field(default_factory=dict)

    def add(self, table: str, batch: Batch) -> None:
        """Take what the reader said about a batch."""
        for (column, kind, does), count in batch.counts.items():
            self.counts[Key(table, kind, column, does)] += count
        for one in batch.problems:
            self._show(one)

    def add_rows(self, table: str, rule: Rule, batch: Batch) -> None:
        """Take the rows of a batch in which `rule` finds something."""
        rows = batch.frame.filter(rule.test)
        key = Key(table, rule.kind, rule.column, KEPT)
        if rows.is_empty():
            return
        self.counts[key] += rows.height
        room = self.limit - len(self.shown.get(key, ()))
        for place, value in rows.select("place", rule.column).head(max(room, 0)).iter_rows():
            where = batch.where(place)
            self._show(Problem(table, batch.source, where, rule.column, short(value), rule.kind, KEPT))

    def add_again(self, table: str, seen: Seen) -> None:
        """Take the rows whose key stood in an earlier row."""
        key = Key(table, "duplicate", "+".join(KEYS[table]), KEPT)
        again = seen.again()
        if len(again):
            self.counts[key] += len(again)
        for source, where in map(seen.where, again[: self.limit]):
            self._show(Problem(table, source, where, key.column, "", key.kind, KEPT))

    def _show(self, one: Problem) -> None:
        kept = self.shown.setdefault(Key(one.table, one.kind, one.column, one.does), [])
        if len(kept) < self.limit:
            kept.append(one)

    def of(self, kind: str) -> int:
        """Return how many findings of `kind` there are, in all tables."""
        return sum(count for key, count in self.counts.items() if key.kind == kind)


def short(value: object) -> str:
    """Return a cell as a page may show it: without personal data, on one line, not long."""
    text = scrub(clean(str(value)[:200]))
    return text if len(text) <= WIDE else text[: WIDE - 1] + "…"


def rules(
    table: str, columns: Collection[str], catalogue: pl.Series | None, buyers: pl.Series | None, today: date
) -> Iterator[Rule]:
    """Yield the rules for a table with `columns`.

    `catalogue` holds the known item ids, `buyers` the customers with an order; None where they are not known.
    """
    for name in columns:
        cell = pl.col(name)
        if name in TIMES:
            yield Rule("future", name, cell >= datetime.combine(today + timedelta(days=1), time()))
            yield Rule("before-2000", name, cell < EARLIEST)
        elif name == "item_id" and catalogue is not None:
            yield Rule("unknown-product", name, ~cell.is_in(catalogue.implode()))
        elif name == "customer_id" and buyers is not None:
            yield Rule("no-orders", name, ~cell.is_in(buyers.implode()))
        elif name in FREE_TEXTS:
            yield Rule("damaged-text", name, cell.str.contains(DAMAGE))
            yield Rule("html", name, cell.str.contains(HTML))


class Seen:
    """Which keys were met before: hashes of 64 bits and places, sixteen bytes a row.

    Two different keys share a hash by chance in one of 10^5 tables of ten million rows.
    """

    def __init__(self, key: Sequence[str]) -> None:
        self.key = key
        self._hashes: list[npt.NDArray[np.uint64]] = []
        self._places: list[npt.NDArray[np.int64]] = []
        self._batches: list[tuple[str, str]] = []

    def add(self, batch: Batch) -> None:
        """Remember the keys of a batch; a row with an empty part has no key."""
        whole = batch.frame.filter(pl.all_horizontal(pl.col(name).cast(pl.String) != "" for name in self.key))
        self._hashes.append(whole.select(pl.struct(self.key).hash(seed=0)).to_series().to_numpy())
        self._places.append(whole["place"].to_numpy())
        self._batches.append((batch.source, batch.unit))

    def again(self) -> npt.NDArray[np.int64]:
        """Return the rows, by their number among those remembered, whose key stood in an earlier row."""
        hashes = np.concatenate(self._hashes) if self._hashes else np.empty(0, np.uint64)
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        return np.sort(order[1:][ordered[1:] == ordered[:-1]])

    def where(self, row: int) -> tuple[str, str]:
        """Return the source and the place in words of a remembered row."""
        number = int(row)
        for (source, unit), places in zip(self._batches, self._places, strict=True):
            if number < len(places):
                return source, f"{unit} {places[number]}"
            number -= len(places)
        raise IndexError(f"row {row} was never seen")
