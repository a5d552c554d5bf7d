"""Rows to customers: one person's orders, reviews, dialogs and campaigns, in order of time, and the tasks they pose.

Everything here reads one customer at a time. The only shared inputs are the catalogue, which is the shop's and no
customer's, and public constants. The catalogue bears no dates: names, attributes and descriptions are those of the day
the file was written, everything else in a prompt happened before the event that the prompt asks about.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cached_property, lru_cache
from hashlib import sha256
from heapq import nsmallest
from itertools import accumulate
from operator import attrgetter
from statistics import median
from typing import Any, NamedTuple, TypeAlias, TypeVar, overload

import numpy as np
import polars as pl
from pydantic_core import PydanticUndefined

from client.data.table import Table
from common.schema import Campaign, Dialog, Order, Product, Review, Row, Shop
from common.text import (
    FREQUENCY,
    MONEY,
    TASKS,
    YES,
    Bought,
    Example,
    Habit,
    Portrait,
    clean,
    copy_prompt,
    description_prompt,
    due,
    history_prompt,
    history_text,
    joiner,
    judgement_prompt,
    profile_prompt,
    profile_text,
    recency_score,
    reply_prompt,
    repurchase_prompt,
    review_prompt,
    rhythm,
    score,
    sentiment,
    sentiment_prompt,
)

RECENT_ITEMS = 4
BASKET_ITEMS = 5
LONG_GAP = 120
POSED = 32
"""Tasks of a kind that one customer poses at most, the newest ones, so that no customer is endless."""
YEAR = timedelta(days=365)
FAR = datetime(9999, 1, 1)
LIKED_CATEGORIES = 3
HELD_OUT_ITEMS = 5
"""One item in so many is kept for the evaluation of descriptions, which bear no date to be told apart by."""

USUAL = frozenset(task.key for task in TASKS.values() if task.weight)
CLASSES = ("negative", "neutral", "positive")

R = TypeVar("R", bound=Row)


class Bare(NamedTuple):
    """An order line taken straight from columns."""

    order_time: datetime
    order_id: str
    item_id: str
    item_name: str
    quantity: float
    price: float


Line: TypeAlias = Order | Bare


@dataclass(frozen=True)
class Basket:
    """What one customer bought at one time: item ids and names in order of appearance, each once, and what was paid.

    `prices` is per piece by item id, where a price is known; `spent` is the whole basket's, both in the shop's currency.
    """

    time: datetime
    items: Mapping[str, str]
    prices: Mapping[str, float] = field(default_factory=dict)
    spent: float = 0.0


@dataclass(frozen=True)
class Customer:
    """One person's book at one shop, in order of time."""

    id: str
    baskets: Sequence[Basket]
    reviews: Sequence[Review] = ()
    dialogs: Sequence[Dialog] = ()
    campaigns: Sequence[Campaign] = ()


@dataclass(frozen=True)
class Posed:
    """A task and the time of the event it asks about, by which training and held-out weeks are told apart.

    `label` is the class that a balanced choice looks at: one of `CLASSES` for sentiment, empty elsewhere.
    """

    time: datetime
    example: Example
    label: str = ""


class Customers(Sequence[Customer]):
    """A shop's customers, sorted by id; each is put together from the shop's rows when asked for.

    What is kept is one number a row: where the rows of each customer stand. Rows at or after `until` do not exist here,
    though somebody who left only such rows is still a customer, with an empty book: whether a customer can be drawn
    depends on no one else and on no date.
    """

    def __init__(self, shop: Shop, until: datetime | None = None) -> None:
        self._names = {product.item_id: product.name for product in shop.products}
        self._until = until
        self._orders = _Places(shop.orders)
        self._others = _Places(shop.reviews), _Places(shop.dialogs), _Places(shop.campaigns)
        self._lines = _lines(shop.orders)
        self._ids = sorted(set(self._orders.spans).union(*(table.spans for table in self._others)))

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, place: int) -> Customer: ...
    @overload
    def __getitem__(self, place: slice) -> list[Customer]: ...
    def __getitem__(self, place: int | slice) -> Customer | list[Customer]:
        """Return the customer at `place`, or the list of those in a slice."""
        if isinstance(place, slice):
            return [self._customer(one) for one in self._ids[place]]
        return self._customer(self._ids[place])

    def __iter__(self) -> Iterator[Customer]:
        return map(self._customer, self._ids)

    def _customer(self, one: str) -> Customer:
        lines = (line for line in self._lines(self._orders.of(one)) if self._known(line.order_time))
        reviews, dialogs, campaigns = (
            sorted((row for row in table.rows(one) if self._known(row.time)), key=lambda row: row.time)
            for table in self._others
        )
        return Customer(one, baskets(lines, self._names), reviews, dialogs, campaigns)

    def _known(self, time: datetime) -> bool:
        return self._until is None or time < self._until


def gather(shop: Shop, until: datetime | None = None) -> list[Customer]:
    """Return all of the shop's customers at once, sorted by id, as far as is known before `until`."""
    return list(Customers(shop, until))


class _Places:
    """Where the rows of each customer stand in a table: `spans` by customer id, into the sorted places."""

    def __init__(self, table: Sequence[Any]) -> None:
        codes: dict[str, int] = {}
        coded = array("i", (codes.setdefault(one, len(codes)) for one in _column(table, "customer_id")))
        code_N = np.frombuffer(coded, dtype=np.intc) if coded else np.zeros(0, dtype=np.intc)
        ends = list(accumulate(np.bincount(code_N, minlength=len(codes)).tolist()))
        self._table = table
        self._sorted = np.argsort(code_N, kind="stable").astype(np.int32 if len(code_N) < 2**31 else np.int64)
        self.spans = {one: (start, end) for one, start, end in zip(codes, [0, *ends], ends, strict=False)}

    def of(self, customer: str) -> list[int]:
        """Return the places of the customer's rows, in the table's order."""
        start, end = self.spans.get(customer, (0, 0))
        places: list[int] = self._sorted[start:end].tolist()
        return places

    def rows(self, customer: str) -> list[Any]:
        """Return the customer's rows as objects of the schema."""
        places = self.of(customer)
        if places and isinstance(self._table, Table):
            return list(Table(self._table.kind, self._table.frame[places]))
        return [self._table[place] for place in places]


def _column(table: Sequence[Any], name: str) -> Iterable[Any]:
    """Return one column of a table: read as such where the table has columns, from its rows where it has only rows."""
    if isinstance(table, Table) and len(table):
        return table.frame.get_column(name)
    return (getattr(row, name) for row in table)


def _lines(table: Sequence[Order]) -> Callable[[Sequence[int]], list[Line]]:
    """Return a function from places to order lines; from a columnar table they come without the cost of a checked row."""
    if not isinstance(table, Table) or not len(table):
        return lambda places: [table[place] for place in places]
    usual = {name: Order.model_fields[name].get_default() for name in Bare._fields}
    frame = table.frame.select(
        (pl.col(name).fill_null(usual[name]) if usual[name] is not PydanticUndefined else pl.col(name))
        if name in table.frame.columns
        else pl.lit(usual[name]).alias(name)
        for name in Bare._fields
    )
    return lambda places: [Bare(*row) for row in frame[places].rows()] if places else []


def baskets(orders: Iterable[Line], names: Mapping[str, str]) -> list[Basket]:
    """Return one basket an order id and day, or one a day where there are no order ids, in order of time."""
    parts: dict[tuple[date, str], list[Line]] = defaultdict(list)
    for row in sorted(orders, key=attrgetter("order_time", "order_id")):
        parts[row.order_time.date(), row.order_id].append(row)
    return [_basket(rows, names) for rows in parts.values()]


def _basket(rows: Sequence[Line], names: Mapping[str, str]) -> Basket:
    items = {row.item_id: _called(names.get(row.item_id) or row.item_name or row.item_id) for row in rows}
    prices = {row.item_id: row.price for row in rows if row.price}
    return Basket(rows[0].order_time, items, prices, sum(row.price * row.quantity for row in rows))


@lru_cache(maxsize=65_536)
def _called(name: str) -> str:
    """Return an item's name cleaned; the same names stand in very many lines."""
    return clean(name)


class Shelf(Mapping[str, Product]):
    """The shop's catalogue by item id, with what its list prices say; no customer has a part in it."""

    def __init__(self, products: Mapping[str, Product]) -> None:
        self._products = products

    def __getitem__(self, item: str) -> Product:
        return self._products[item]

    def __iter__(self) -> Iterator[str]:
        return iter(self._products)

    def __len__(self) -> int:
        return len(self._products)

    @cached_property
    def typical(self) -> float:
        """The median list price; 1 where the catalogue has no prices."""
        return median([one.price for one in self.values() if one.price] or [1.0])

    @cached_property
    def _by_category(self) -> dict[str, float]:
        prices: dict[str, list[float]] = defaultdict(list)
        for one in self.values():
            if one.price:
                prices[one.category].append(one.price)
        return {category: median(found) for category, found in prices.items()}

    def dearness(self, item: str) -> float | None:
        """Return an item's list price in median list prices of its category; None where it has none."""
        product = self.get(item)
        return product.price / self._by_category[product.category] if product and product.price else None


def history_before(customer: Customer, time: datetime) -> Sequence[Basket]:
    """Return the customer's baskets strictly before `time`."""
    return customer.baskets[: bisect_left(customer.baskets, time, key=lambda basket: basket.time)]


def known_before(customer: Customer, time: datetime) -> Customer:
    """Return the customer's book as it was at `time`."""
    return Customer(
        customer.id,
        history_before(customer, time),
        [one for one in customer.reviews if one.time < time],
        [one for one in customer.dialogs if one.time < time],
        [one for one in customer.campaigns if one.time < time],
    )


def habit(history: Sequence[Basket], time: datetime) -> Habit:
    """Return the rhythm in `history` as seen at `time`; a gap that cannot be known yet counts as long."""
    if len(history) < 2:
        return Habit(0, LONG_GAP)
    span = (history[-1].time - history[0].time).days
    return Habit(rhythm(len(history), max((time - history[0].time).days, 1)), round(span / (len(history) - 1)))


class _Item(NamedTuple):
    times: int
    first: datetime
    last: datetime
    name: str
    rank: tuple[int, float, str]


class Tally:
    """What a customer bought so far: how often, when last, under which name; grows basket by basket.

    The first `limit` items are found once and then kept up to date: an item that is not bought again never gains on
    the others.
    """

    def __init__(self, history: Iterable[Basket] = (), limit: int = RECENT_ITEMS) -> None:
        self._items: dict[str, _Item] = {}
        self._top: list[str] | None = None
        self._limit = limit
        for basket in history:
            self.add(basket)

    def add(self, basket: Basket) -> None:
        """Count one more basket."""
        time, ago = basket.time, (FAR - basket.time).total_seconds()
        for item, name in basket.items.items():
            known = self._items.get(item)
            times, first = (known.times + 1, known.first) if known else (1, time)
            self._items[item] = _Item(times, first, time, name, (-times, ago, item))
        if self._top is not None:
            self._top = sorted({*self._top, *basket.items}, key=self._rank)[: self._limit]

    def _rank(self, item: str) -> tuple[int, float, str]:
        return self._items[item].rank

    @property
    def items(self) -> Sequence[str]:
        """Ids of the items bought most often, later ones first among equals."""
        if self._top is None:
            self._top = nsmallest(self._limit, self._items, key=self._rank)
        return self._top

    def recent(self, time: datetime) -> list[Bought]:
        """Return the items bought most often as seen at `time`, in the order of `items`."""
        return [self.bought(item, time) for item in self.items]

    def bought(self, item: str, time: datetime) -> Bought:
        """Return what is known of one item at `time`."""
        found = self._items[item]
        return Bought(found.name, found.times, (time - found.last).days)

    def gap(self, item: str) -> float | None:
        """Return the mean days between two purchases of `item`; None after a single one."""
        found = self._items[item]
        return (found.last - found.first).days / (found.times - 1) if found.times > 1 else None


def next_prompt(history: Sequence[Basket], time: datetime, lang: str) -> str:
    """Return the repurchase prompt for a customer with `history`, asked at `time`."""
    return repurchase_prompt(habit(history, time), Tally(history).recent(time), lang)


def portrait(history: Sequence[Basket], products: Mapping[str, Product], time: datetime) -> Portrait:
    """Return a customer's R, F, M, categories, price level and love of offers over the year before `time`.

    Every threshold is a public constant or the catalogue's, never a quantile over customers: one customer's portrait
    would otherwise change with the others.
    """
    shelf = products if isinstance(products, Shelf) else Shelf(products)
    year = [basket for basket in history if time - YEAR <= basket.time < time]
    if not year:
        return Portrait(1, 1, 1, (), 1, 0)
    items = [item for basket in year for item in basket.items]
    liked = Counter(clean(shelf[item].category) for item in items if item in shelf and shelf[item].category)
    dear = [ratio for item in items if (ratio := shelf.dearness(item)) is not None]
    level = sum(dear) / len(dear) if dear else 1.0
    return Portrait(
        recency_score((time - year[-1].time).days),
        score(len(year), FREQUENCY),
        score(sum(basket.spent for basket in year) / shelf.typical, MONEY),
        tuple(category for category, _ in liked.most_common(LIKED_CATEGORIES)),
        int(level > 0.8) + int(level > 1.25),
        _love_of_offers(year, shelf),
    )


def _love_of_offers(year: Sequence[Basket], shelf: Shelf) -> int:
    """Return 0, 1 or 2: hardly ever, now and then (a fifth), or mostly (half) bought under 95 % of the list price."""
    paid = [(price, shelf[item].price) for basket in year for item, price in basket.prices.items() if item in shelf]
    cheap = [price < 0.95 * listed for price, listed in paid if listed]
    share = sum(cheap) / len(cheap) if cheap else 0.0
    return int(share >= 0.2) + int(share >= 0.5)


def pose(
    customer: Customer,
    products: Mapping[str, Product],
    lang: str,
    since: datetime | None = None,
    until: datetime | None = None,
    tasks: Collection[str] = USUAL,
    most: int = POSED,
) -> list[Posed]:
    """Return the tasks in the customer's book from `since` on and before `until`, in order of time.

    `tasks` are keys of `common.text.TASKS`; of each the newest `most` are asked.
    """
    window = _Window(since, until, most)
    shelf = products if isinstance(products, Shelf) else Shelf(products)
    posed = list(_baskets_posed(customer, shelf, lang, window, tasks))
    if "description" in tasks:
        posed += _descriptions_posed(customer, shelf, lang, window)
    if "copy" in tasks:
        posed += _copy_posed(customer, shelf, lang, window)
    posed += _reviews_posed(customer, shelf, lang, window, tasks)
    if "reply" in tasks:
        posed += _replies_posed(customer, lang, window)
    return sorted(posed, key=lambda one: one.time)


@dataclass(frozen=True)
class _Window:
    since: datetime | None
    until: datetime | None
    most: int

    def holds(self, time: datetime) -> bool:
        return (self.since is None or time >= self.since) and (self.until is None or time < self.until)

    def newest(self, rows: Iterable[R]) -> list[R]:
        """Return the newest rows in the window, in order of time."""
        return [row for row in rows if self.holds(row.time)][-self.most :]  # type: ignore[attr-defined]


def _baskets_posed(
    customer: Customer, shelf: Shelf, lang: str, window: _Window, tasks: Collection[str]
) -> Iterator[Posed]:
    asked = {"repurchase": _repurchase, "judgement": _judgement}
    chosen = [ask for key, ask in asked.items() if key in tasks]
    all_of_them, known, tally = customer.baskets, 0, Tally()
    places = [place for place in _with_a_history(all_of_them) if window.holds(all_of_them[place].time)][-window.most :]
    for place in places:
        basket = all_of_them[place]
        while all_of_them[known].time < basket.time:
            tally.add(all_of_them[known])
            known += 1
        yield from (Posed(basket.time, ask(all_of_them[:known], tally, basket, lang)) for ask in chosen)
        if place == places[-1]:
            yield from _portraits_posed(all_of_them[:known], tally, basket.time, shelf, lang, tasks)


def _with_a_history(baskets: Sequence[Basket]) -> range:
    """Return the places of the baskets before whose time there were two others."""
    if len(baskets) < 3:
        return range(0)
    return range(bisect_right(baskets, baskets[1].time, key=lambda basket: basket.time), len(baskets))


def _name(key: str, lang: str) -> str:
    return TASKS[key].name(lang)


def _repurchase(history: Sequence[Basket], tally: Tally, basket: Basket, lang: str) -> Example:
    prompt = repurchase_prompt(habit(history, basket.time), tally.recent(basket.time), lang)
    return Example(_name("repurchase", lang), prompt, joiner(lang).join(list(basket.items.values())[:BASKET_ITEMS]))


def _judgement(history: Sequence[Basket], tally: Tally, basket: Basket, lang: str) -> Example:
    """Ask about one of the items bought most, in turn basket by basket, so that the answer has no say in the choice."""
    item = tally.items[len(history) % len(tally.items)]
    candidate = tally.bought(item, basket.time)
    prompt = judgement_prompt(
        habit(history, basket.time),
        tally.recent(basket.time),
        candidate,
        due(candidate.days_ago, tally.gap(item)),
        lang,
    )
    return Example(_name("judgement", lang), prompt, YES[lang][item in basket.items])


def _portraits_posed(
    history: Sequence[Basket], tally: Tally, time: datetime, shelf: Shelf, lang: str, tasks: Collection[str]
) -> Iterator[Posed]:
    """Yield the customer's profile and history, once, as seen at the last basket asked about."""
    if "profile" in tasks:
        seen = portrait(history, shelf, time)
        yield Posed(time, Example(_name("profile", lang), profile_prompt(seen, lang), profile_text(seen, lang)))
    if "history" in tasks:
        rate, recent = habit(history, time), tally.recent(time)
        told = history_text(rate, recent, lang)
        yield Posed(time, Example(_name("history", lang), history_prompt(rate, recent, lang), told))


def held_out_item(item: str) -> bool:
    """Return whether descriptions of `item` are for evaluation only: a public property of its id."""
    return sha256(item.encode()).digest()[0] % HELD_OUT_ITEMS == 0


def _descriptions_posed(customer: Customer, shelf: Shelf, lang: str, window: _Window) -> list[Posed]:
    """Return the descriptions of what the customer bought in the window, each once.

    They bear no date, so one that is evaluated (`since` is given) is of an item that nobody ever trains on.
    """
    first: dict[str, datetime] = {}
    for basket in customer.baskets:
        for item in basket.items:
            if window.holds(basket.time) and item in shelf and shelf[item].description:
                first.setdefault(item, basket.time)
    chosen = [item for item in first if held_out_item(item) == (window.since is not None)][-window.most :]
    return [Posed(first[item], description_example(shelf[item], lang)) for item in chosen]


def description_example(product: Product, lang: str) -> Example:
    """Return the description task of one product."""
    prompt = description_prompt(clean(product.name), product.attributes, lang)
    return Example(_name("description", lang), prompt, clean(product.description))


def _copy_posed(customer: Customer, shelf: Shelf, lang: str, window: _Window) -> list[Posed]:
    return [
        Posed(
            row.time,
            Example(
                _name("copy", lang),
                offer_prompt(customer, shelf[row.item_id], row.time, row.channel, row.offer, lang),
                clean(row.text),
            ),
        )
        for row in window.newest(row for row in customer.campaigns if row.item_id in shelf)
    ]


def offer_prompt(
    customer: Customer, product: Product, time: datetime, channel: str, offer: str, lang: str = "zh"
) -> str:
    """Return the copy prompt for `customer` and `product`, asked at `time`."""
    history = history_before(customer, time)
    last = next((basket.time for basket in reversed(history) if product.item_id in basket.items), None)
    days = (time - last).days if last else LONG_GAP
    return copy_prompt(channel, clean(product.name), product.attributes, offer, habit(history, time), days, lang)


def _reviews_posed(
    customer: Customer, shelf: Shelf, lang: str, window: _Window, tasks: Collection[str]
) -> Iterator[Posed]:
    for row in window.newest(customer.reviews):
        if "sentiment" in tasks:
            example = Example(_name("sentiment", lang), sentiment_prompt(row.text, lang), sentiment(row.rating, lang))
            yield Posed(row.time, example, CLASSES[(row.rating > 2) + (row.rating > 3)])
        if "review" in tasks and row.item_id in shelf:
            prompt = review_prompt(clean(shelf[row.item_id].name), row.rating, lang)
            yield Posed(row.time, Example(_name("review", lang), prompt, clean(row.text)))


def _replies_posed(customer: Customer, lang: str, window: _Window) -> list[Posed]:
    return [
        Posed(
            row.time,
            Example(_name("reply", lang), reply_prompt(row.intent, row.status, row.question, lang), clean(row.answer)),
        )
        for row in window.newest(customer.dialogs)
    ]
