"""Rows to customers: one person's orders, reviews, dialogs and campaigns, in order of time, and the tasks they pose.

Everything here reads one customer at a time. The only shared inputs are the catalogue, which is the shop's and no
customer's, and public constants.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from common.schema import Campaign, Dialog, Order, Product, Review, Row, Shop
from common.text import (
    Bought,
    Example,
    Habit,
    clean,
    copy_prompt,
    joiner,
    reply_prompt,
    repurchase_prompt,
    review_prompt,
    rhythm,
    sentiment,
    sentiment_prompt,
)

RECENT_ITEMS = 4
BASKET_ITEMS = 5
LONG_GAP = 120
POSED_BASKETS = 32


@dataclass(frozen=True)
class Basket:
    """What one customer bought at one time: item ids and names in order of appearance, each once."""

    time: datetime
    items: Mapping[str, str]


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
    """A task and the time of the event it asks about, by which training and held-out weeks are told apart."""

    time: datetime
    example: Example


def gather(shop: Shop) -> list[Customer]:
    """Return the shop's customers, sorted by id."""
    names = {product.item_id: product.name for product in shop.products}
    orders, reviews = _by_customer(shop.orders), _by_customer(shop.reviews)
    dialogs, campaigns = _by_customer(shop.dialogs), _by_customer(shop.campaigns)
    ids = sorted({*orders, *reviews, *dialogs, *campaigns})
    return [
        Customer(
            one,
            baskets(orders.get(one, []), names),
            sorted(reviews.get(one, []), key=lambda row: row.time),
            sorted(dialogs.get(one, []), key=lambda row: row.time),
            sorted(campaigns.get(one, []), key=lambda row: row.time),
        )
        for one in ids
    ]


def _by_customer(rows: Iterable[Row]) -> dict[str, list]:  # type: ignore[type-arg]
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.customer_id].append(row)  # type: ignore[attr-defined]
    return groups


def baskets(orders: Sequence[Order], names: Mapping[str, str]) -> list[Basket]:
    """Return one basket an order id, or one a day where there are no order ids."""
    ordered = sorted(orders, key=lambda row: (row.order_time, row.order_id))
    parts = groupby(ordered, key=lambda row: row.order_id or row.order_time.date().isoformat())
    return [_basket(list(rows), names) for _, rows in parts]


def _basket(rows: Sequence[Order], names: Mapping[str, str]) -> Basket:
    items = {row.item_id: clean(names.get(row.item_id) or row.item_name or row.item_id) for row in rows}
    return Basket(rows[0].order_time, items)


def history_before(customer: Customer, time: datetime) -> list[Basket]:
    """Return the customer's baskets strictly before `time`."""
    return [basket for basket in customer.baskets if basket.time < time]


def habit(history: Sequence[Basket], time: datetime) -> Habit:
    """Return the rhythm in `history` as seen at `time`; a gap that cannot be known yet counts as long."""
    if len(history) < 2:
        return Habit(0, LONG_GAP)
    span = (history[-1].time - history[0].time).days
    return Habit(rhythm(len(history), max((time - history[0].time).days, 1)), round(span / (len(history) - 1)))


class Tally:
    """What a customer bought so far: how often, when last, under which name; grows basket by basket."""

    def __init__(self, history: Iterable[Basket] = ()) -> None:
        self._items: dict[str, tuple[int, datetime, str]] = {}
        for basket in history:
            self.add(basket)

    def add(self, basket: Basket) -> None:
        """Count one more basket."""
        for item, name in basket.items.items():
            times = self._items[item][0] if item in self._items else 0
            self._items[item] = (times + 1, basket.time, name)

    def recent(self, time: datetime, limit: int = RECENT_ITEMS) -> list[Bought]:
        """Return the `limit` items bought most often, later ones first among equals."""
        ranked = sorted(self._items.items(), key=lambda one: (-one[1][0], -one[1][1].timestamp(), one[0]))
        return [Bought(name, times, (time - last).days) for _, (times, last, name) in ranked[:limit]]


def next_prompt(history: Sequence[Basket], time: datetime, lang: str) -> str:
    """Return the repurchase prompt for a customer with `history`, asked at `time`."""
    return repurchase_prompt(habit(history, time), Tally(history).recent(time), lang)


def pose(
    customer: Customer,
    products: Mapping[str, Product],
    lang: str,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[Posed]:
    """Return every task in the customer's book from `since` on and before `until`, in order of time.

    Of the orders only the last `POSED_BASKETS` in that time are asked about, so that no customer is endless.
    """
    posed = _baskets_posed(customer, lang, since, until)
    if lang == "zh":
        others = _copy_posed(customer, products) + _reviews_posed(customer, products)
        others += [
            Posed(row.time, Example("客服", reply_prompt(row.intent, row.status, row.question), clean(row.answer)))
            for row in customer.dialogs
        ]
        posed += [one for one in others if _within(one.time, since, until)]
    return sorted(posed, key=lambda one: one.time)


def _within(time: datetime, since: datetime | None, until: datetime | None) -> bool:
    return (since is None or time >= since) and (until is None or time < until)


def _baskets_posed(customer: Customer, lang: str, since: datetime | None, until: datetime | None) -> list[Posed]:
    task = "复购" if lang == "zh" else "repurchase"
    places = [
        place for place, basket in enumerate(customer.baskets) if place >= 2 and _within(basket.time, since, until)
    ]
    chosen, tally, posed = frozenset(places[-POSED_BASKETS:]), Tally(), []
    for place, basket in enumerate(customer.baskets):
        if place in chosen:
            prompt = repurchase_prompt(habit(customer.baskets[:place], basket.time), tally.recent(basket.time), lang)
            target = joiner(lang).join(list(basket.items.values())[:BASKET_ITEMS])
            posed.append(Posed(basket.time, Example(task, prompt, target)))
        tally.add(basket)
    return posed


def _copy_posed(customer: Customer, products: Mapping[str, Product]) -> list[Posed]:
    posed = []
    for row in customer.campaigns:
        if row.item_id in products:
            prompt = offer_prompt(customer, products[row.item_id], row.time, row.channel, row.offer)
            posed.append(Posed(row.time, Example("文案", prompt, clean(row.text))))
    return posed


def offer_prompt(customer: Customer, product: Product, time: datetime, channel: str, offer: str) -> str:
    """Return the copy prompt for `customer` and `product`, asked at `time`."""
    history = history_before(customer, time)
    last = next((basket.time for basket in reversed(history) if product.item_id in basket.items), None)
    days = (time - last).days if last else LONG_GAP
    return copy_prompt(channel, clean(product.name), product.attributes, offer, habit(history, time), days)


def _reviews_posed(customer: Customer, products: Mapping[str, Product]) -> list[Posed]:
    posed = []
    for row in customer.reviews:
        posed.append(Posed(row.time, Example("情感", sentiment_prompt(row.text), sentiment(row.rating))))
        if row.item_id in products:
            prompt = review_prompt(clean(products[row.item_id].name), row.rating)
            posed.append(Posed(row.time, Example("评价", prompt, clean(row.text))))
    return posed
