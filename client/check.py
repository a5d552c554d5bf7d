"""`fugou merchant check`: every table read through, what is wrong row by row, and what a model would see of it.

Tables stream by once. What is kept of them is small: counts, one row a purchase, a hash a line, the rows of a sample of
customers. The examples are posed by the very code that training uses, on that sample; a shop of up to 5,000 customers
is its own sample. Nothing is written and nothing is charged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from client.config import POLICY, MerchantSettings, Source, load_merchant
from client.data.customers import Customers, Shelf, pose
from client.data.sources import Batch, scan
from client.data.table import Table
from client.findings import KEYS, SHOWN, Findings, Seen, rules
from client.metrics import Purchases, Returning, ends, overall, repurchase, visits_of
from client.sample import Sample
from client.words import say
from common.errors import FugouError
from common.privacy.policy import read_policy
from common.schema import TABLES, Product, Shop

WINDOWS = (30, 90, 365)
AT_ONCE = 500
TOP_ITEMS = 5
ORDER = ("products", "orders", "reviews", "dialogs", "campaigns")
"""The catalogue first and buyers next, so that the other tables can be held against both."""


@dataclass
class TableCount:
    """What one table held: records read, rows that are good, rows left out on purpose by reason, why it was refused."""

    read: int = 0
    good: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    refused: FugouError | None = None

    def add(self, batch: Batch) -> None:
        """Count one batch."""
        self.read += batch.rows
        self.good += batch.frame.height
        self.excluded.update(batch.excluded)


@dataclass(frozen=True)
class Spread:
    """How many records a customer has: the median, what nine in ten do not pass, the most."""

    median: float
    nine_in_ten: int
    most: int


@dataclass(frozen=True)
class Trained:
    """What training would see of `customers` customers: `whole` says that they are all, not a sample drawn by hashes."""

    customers: int
    whole: bool
    tasks: Mapping[str, int]
    """Task -> how many of it are posed before `until`."""
    held_out: int
    """Tasks at or after `until`, kept for evaluation."""
    before: Spread
    after: Spread | None
    """None where no policy says how many records of a customer may be used."""
    bound: int | None
    examples: Mapping[str, tuple[str, str]]
    """Task -> prompt and target of one of them, as the model sees it."""


@dataclass(frozen=True)
class Shopping:
    """What the orders say, so that a person can recognise the shop."""

    customers: int
    purchases: int
    first_day: date
    last_day: date
    items: int
    top: tuple[tuple[str, int], ...]
    """Name and order lines of the items bought most often."""
    overall: float
    """Share of all customers with two purchases or more."""
    repurchase: tuple[Returning, ...]


@dataclass(frozen=True)
class Report:
    """Everything that `fugou merchant check` says."""

    merchant: str
    name: str
    tables: Mapping[str, TableCount]
    findings: Findings
    scrubbed: Mapping[str, int]
    shopping: Shopping | None
    trained: Trained | None
    notes: tuple[str, ...]

    @property
    def refused(self) -> Mapping[str, FugouError]:
        """Why tables were refused."""
        return {name: one.refused for name, one in self.tables.items() if one.refused}

    def raise_if_refused(self) -> None:
        """Raise the first refusal there was; a database that does not answer goes before a file that cannot be read."""
        if self.refused:
            first = max(self.refused.values(), key=lambda one: one.exit_code)
            more = len(self.refused) - 1
            raise type(first)(str(first) + (say("check_more_refused", count=more) if more else ""))


def check(folder: Path, today: date, limit: int = SHOWN) -> Report:
    """Return what the tables of the merchant in `folder` hold, as read on `today`; `limit` findings of a kind are kept.

    Raises `UserError` for settings that cannot be read. A table that cannot is in the report, the others are read.
    """
    settings = load_merchant(folder)
    reader = Reader(settings, today, limit)
    for name in ORDER:
        if (source := getattr(settings.sources, name)) is not None:
            reader.read(name, source)
    bound, notes = records_bound(folder)
    return Report(
        settings.merchant.id,
        settings.merchant.name or settings.merchant.id,
        reader.tables,
        reader.findings,
        reader.scrubbed,
        reader.shopping(),
        reader.trained(bound),
        notes,
    )


def records_bound(folder: Path) -> tuple[int | None, tuple[str, ...]]:
    """Return how many records of a customer the policy in `folder` allows, or None and why it does not say."""
    if not (folder / POLICY).exists():
        return None, (say("check_no_policy", file=folder / POLICY),)
    try:
        return read_policy(folder / POLICY).max_records_per_customer, ()
    except FugouError as error:
        return None, (str(error),)


class Reader:
    """The tables of one shop on their way through: what is learned from each piece before it is let go."""

    def __init__(self, settings: MerchantSettings, today: date, limit: int) -> None:
        self.settings, self.today = settings, today
        self.tables: dict[str, TableCount] = {}
        self.findings = Findings(limit)
        self.scrubbed: Counter[str] = Counter()
        self._purchases, self._lines, self._sample = Purchases(), Lines(), Sample()
        self._products: list[pl.DataFrame] = []

    def read(self, name: str, source: Source) -> None:
        """Read one table to its end; one that is refused leaves what was learned up to there, and the reason."""
        count = self.tables[name] = TableCount()
        seen, known = Seen(KEYS[name]), self._known()
        try:
            for batch in scan(TABLES[name], source):
                count.add(batch)
                self.scrubbed.update(batch.scrubbed)
                self.findings.add(name, batch)
                for rule in rules(name, batch.frame.columns, *known, self.today):
                    self.findings.add_rows(name, rule, batch)
                seen.add(batch)
                self._keep(name, batch.frame.drop("place"))
        except FugouError as error:
            count.refused = error
        self.findings.add_again(name, seen)

    def _known(self) -> tuple[pl.Series | None, pl.Series | None]:
        """Return the item ids of the catalogue and the customers with an order, each None while it is not known."""
        items = pl.concat(self._products)["item_id"].unique() if self._complete("products") else None
        buyers = self._purchases.frame()["customer"].unique() if self._complete("orders") else None
        return items, buyers

    def _complete(self, name: str) -> bool:
        return name in self.tables and not self.tables[name].refused and self.tables[name].good > 0

    def _keep(self, name: str, frame: pl.DataFrame) -> None:
        if name == "products":
            self._products.append(frame)
            return
        self._sample.add(name, frame)
        if name == "orders":
            self._purchases.add(frame)
            self._lines.add(frame)

    def shopping(self) -> Shopping | None:
        """Return what the orders say; None where there are none."""
        purchases = self._purchases.frame()
        if purchases.is_empty():
            return None
        visits = visits_of(purchases)
        begin, end = ends(visits)
        customers = visits["customer"].n_unique()
        items = self._lines.frame()
        return Shopping(
            customers,
            visits.height,
            begin,
            end,
            items.height,
            self._best_known(items.head(TOP_ITEMS)),
            overall(visits),
            tuple(repurchase(visits, end, days) for days in WINDOWS),
        )

    def _best_known(self, items: pl.DataFrame) -> tuple[tuple[str, int], ...]:
        names = {item: name for part in self._products for item, name in part.select("item_id", "name").iter_rows()}
        return tuple((names.get(item) or name or item, count) for item, name, count in items.iter_rows())

    def trained(self, bound: int | None) -> Trained | None:
        """Return what training would see of the sampled customers; None where nobody poses anything."""
        until = self.settings.train.until
        asked = frozenset(key for key, weight in self.settings.train.weights.items() if weight)
        products = self._sold()
        shelf = Shelf({product.item_id: product for product in products})
        records: list[int] = []
        tasks: Counter[str] = Counter()
        examples: dict[str, tuple[str, str]] = {}
        held_out = 0
        for shop in self._shops(products):
            for customer in Customers(shop, until):
                posed = [one.example for one in pose(customer, shelf, shop.lang, tasks=asked)]
                records.append(len(posed))
                tasks.update(one.task for one in posed)
                examples = {one.task: (one.prompt, one.target) for one in posed} | examples
            if until:
                held_out += sum(len(pose(one, shelf, shop.lang, since=until, tasks=asked)) for one in Customers(shop))
        if not records:
            return None
        after = None if bound is None else spread(np.minimum(records, bound))
        before = spread(np.array(records))
        return Trained(len(records), self._sample.whole, dict(tasks), held_out, before, after, bound, examples)

    def _sold(self) -> list[Product]:
        """Return the products that the sampled customers have to do with."""
        if not self._products:
            return []
        return list(
            Table(Product, pl.concat(self._products).filter(pl.col("item_id").is_in(self._sample.items().implode())))
        )

    def _shops(self, products: list[Product]) -> Iterator[Shop]:
        """Yield the sampled customers some at a time, as small shops of the same catalogue."""
        merchant = self.settings.merchant
        for rows in self._sample.pieces(AT_ONCE):
            tables: dict[str, Any] = {name: Table.sorted(TABLES[name], frame) for name, frame in rows.items()}
            yield Shop(merchant.id, merchant.name, merchant.lang, **{"orders": [], **tables}, products=products)


class Lines:
    """How many order lines every item has; as large as the items, not as the lines."""

    def __init__(self) -> None:
        self._parts: list[pl.DataFrame] = []

    def add(self, orders: pl.DataFrame) -> None:
        """Count the lines of one piece."""
        self._parts.append(orders.group_by("item_id").agg(pl.col("item_name").first(), lines=pl.len()))
        if len(self._parts) > AT_ONCE:
            self.frame()

    def frame(self) -> pl.DataFrame:
        """Return `item_id`, `item_name` and `lines`, the item with the most lines first."""
        if self._parts:
            grouped = pl.concat(self._parts).group_by("item_id").agg(pl.col("item_name").first(), pl.col("lines").sum())
            self._parts = [grouped.sort(["lines", "item_id"], descending=[True, False])]
        return pl.concat(self._parts)


def spread(counts: npt.NDArray[np.int64]) -> Spread:
    """Return the median, the ninth decile (the smallest number that nine in ten do not pass) and the maximum."""
    return Spread(float(np.median(counts)), int(np.quantile(counts, 0.9, method="inverted_cdf")), int(counts.max()))
