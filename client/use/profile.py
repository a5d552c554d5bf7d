"""What is known of a customer (画像): tags by rule, each with the rows that it rests on.

The thresholds are the public ones of `common.text`, the same that the model was trained with, so that no tag depends on
another customer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from client.data.customers import LONG_GAP, YEAR, Basket, Customer, Shelf, habit, history_before, portrait
from client.use.words import phrase
from common.schema import Product
from common.text import LEVEL, PLAIN, RHYTHM, TAGS, Lexicon, clean, joiner, keywords, profile_tag

TOP = 3
HOURS = ((5, "night"), (12, "morning"), (18, "afternoon"), (24, "evening"))


@dataclass(frozen=True)
class Tag:
    """One tag: what kind, what it says, and the evidence in the shop's own rows."""

    kind: str
    name: str
    value: str
    evidence: str


@dataclass(frozen=True)
class Seen:
    """A customer as seen at a time: the year before it, the whole history, and the catalogue."""

    customer: Customer
    history: Sequence[Basket]
    year: Sequence[Basket]
    shelf: Shelf
    time: datetime
    lang: str
    lexicon: Lexicon = PLAIN

    def tag(self, kind: str, value: str, why: str, **places: object) -> Tag:
        """Return a tag in the shop's language."""
        return Tag(kind, phrase(self.lang, f"tag_{kind}"), value, phrase(self.lang, f"why_{why}", **places))

    @property
    def items(self) -> list[str]:
        """Ids of the items bought within the year, as often as baskets held them."""
        return [item for basket in self.year for item in basket.items]


def profile(
    customer: Customer, products: Mapping[str, Product], time: datetime, lang: str, lexicon: Lexicon = PLAIN
) -> list[Tag]:
    """Return the customer's tags as seen at `time`; none for a customer without an order before it."""
    history = history_before(customer, time)
    if not history:
        return []
    year = [basket for basket in history if basket.time >= time - YEAR]
    seen = Seen(customer, history, year, Shelf(products), time, lang, lexicon)
    parts = (_standing, _tastes, _prices, _rhythm, _talk)
    return [tag for part in parts for tag in part(seen)]


def _standing(seen: Seen) -> Iterator[Tag]:
    it = portrait(seen.history, seen.shelf, seen.time)
    days, orders = (seen.time - seen.history[-1].time).days, len(seen.year)
    tag = TAGS[seen.lang][profile_tag(it)]
    yield seen.tag("segment", tag, "segment", recency=it.recency, frequency=it.frequency, orders=orders)
    score = f"R{it.recency}F{it.frequency}M{it.money}"
    yield seen.tag("rfm", score, "rfm", days=days, orders=orders, spent=sum(one.spent for one in seen.year))


def _tastes(seen: Seen) -> Iterator[Tag]:
    items = [seen.shelf[item] for item in seen.items if item in seen.shelf]
    for kind, values in (("category", [one.category for one in items]), ("brand", [one.brand for one in items])):
        for value, count in Counter(clean(value) for value in values if value.strip()).most_common(TOP):
            yield seen.tag(kind, value, "share", part=count, whole=len(seen.items))


def _prices(seen: Seen) -> Iterator[Tag]:
    it = portrait(seen.history, seen.shelf, seen.time)
    ratios = [ratio for item in seen.items if (ratio := seen.shelf.dearness(item)) is not None]
    level = LEVEL[seen.lang]
    if ratios:
        yield seen.tag("price", level[it.spend], "price", ratio=sum(ratios) / len(ratios))
    else:
        yield seen.tag("price", level[it.spend], "no_price")
    paid = [
        price < 0.95 * seen.shelf[item].price
        for basket in seen.year
        for item, price in basket.prices.items()
        if item in seen.shelf and seen.shelf[item].price
    ]
    if paid:
        yield seen.tag("offers", level[it.offers], "offers", part=sum(paid), whole=len(paid))


def _rhythm(seen: Seen) -> Iterator[Tag]:
    rate, orders = habit(seen.history, seen.time), len(seen.history)
    if orders < 2 or rate.gap_days >= LONG_GAP:
        yield seen.tag("rhythm", RHYTHM[seen.lang][rate.rhythm], "once", orders=orders)
        return
    gap = phrase(seen.lang, "gap_days", gap=rate.gap_days)
    often = f"{RHYTHM[seen.lang][rate.rhythm]}{'，' if seen.lang == 'zh' else ', '}{gap}"
    yield seen.tag("rhythm", often, "rhythm", orders=orders, gap=rate.gap_days)
    last = seen.history[-1].time
    due = last + timedelta(days=rate.gap_days)
    yield seen.tag("due", f"{due:%Y-%m-%d}", "due", last=f"{last:%Y-%m-%d}", gap=rate.gap_days)
    value, count = _most(_moments(seen.history))
    if 2 * count > orders:
        words = joiner(seen.lang).join(phrase(seen.lang, one) for one in value)
        yield seen.tag("when", words, "when", part=count, whole=orders)


def _moments(history: Sequence[Basket]) -> Iterator[tuple[str, str]]:
    for basket in history:
        day = "weekend" if basket.time.weekday() >= 5 else "weekday"
        yield day, next(name for until, name in HOURS if basket.time.hour < until)


def _most(values: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], int]:
    return Counter(values).most_common(1)[0]


def _talk(seen: Seen) -> Iterator[Tag]:
    reviews = [one.text for one in seen.customer.reviews if one.time < seen.time]
    found = keywords(reviews, TOP, seen.lexicon)
    if found:
        yield seen.tag("interest", joiner(seen.lang).join(found), "interest", count=len(reviews))
