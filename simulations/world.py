"""A world of synthetic shops whose repurchase habits are known, as schema rows.

A shop is a function of (its number, customers, seed, skew, weeks) alone, so that one more merchant changes no other.
Each customer has a few items that are bought again and again: an item falls due after a gamma-distributed time around
its own interval, faster in its season and before the shopping festivals, until the habit or the customer is gone. What
falls due within a few days is bought in one basket, together with things the customer merely tries. Dues are drawn
first and baskets only gather them, so the mean interval in the rows is the habit's own.

Letters: C categories, N items of the shop, D days.
"""

from __future__ import annotations

import csv
import io
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cache
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.files import write_atomic
from common.schema import TABLES, Campaign, Dialog, Order, Product, Review, Row, Shop
from simulations.mixed import dealt
from simulations.words import campaigns, descriptions, dialogs, reviews
from simulations.words.catalogue import CATEGORIES, THEMES, Category, Kind, suiting
from simulations.words.grammar import Voice
from simulations.words.names import (
    BRAND_HEADS,
    BRAND_TAILS,
    ESTATES,
    NOTE_RULES,
    SHARED_BRANDS,
    SHOPS,
    STREETS,
    SURNAMES,
)

Floats = NDArray[np.float64]

START = date(2024, 10, 28)  # a Monday; 40 weeks hold 双11, 春节 and 618 and end in an ordinary summer
HELD_OUT_WEEKS = 6
BASKET = 5  # items at most
REVIEWS, DIALOGS, CAMPAIGNS = 3.0, 1.0, 3.0  # rows a customer
NOTES = 0.03  # of the baskets
MISHAPS = 0.14  # of the reviewed purchases; each costs two stars
NOVELTY = 0.9  # of what is tried was never bought before
OWN_BRANDS = 5
PEAKS = {"夏": 200, "秋": 290, "冬": 15}  # day of the year
NEW_YEARS = {2024: date(2024, 2, 10), 2025: date(2025, 1, 29), 2026: date(2026, 2, 17), 2027: date(2027, 2, 6)}
HOURS = tuple(range(24))
HOUR_WEIGHTS = (2, 1, 0, 0, 0, 0, 1, 3, 6, 8, 9, 8, 10, 9, 7, 7, 7, 7, 8, 10, 14, 15, 12, 6)


@dataclass(frozen=True)
class Habit:
    """What is true of one customer and one item: bought every `days` days from `since` until `until`.

    `days` is the mean over a year; in its season (夏, 秋, 冬) the item falls due sooner, outside it later. `until` is
    the day the habit ends, or None if it outlives the world.
    """

    shop_id: str
    customer_id: str
    item_id: str
    days: float
    since: date
    until: date | None
    season: str


@dataclass(frozen=True)
class Setting:
    """The arguments that a shop is a function of, beside its number."""

    customers: int
    seed: int
    skew: float
    weeks: int

    @property
    def days(self) -> int:
        """The length of the world in days."""
        return 7 * self.weeks


@dataclass(frozen=True)
class Item:
    """One product with the kind and the category it was made from."""

    product: Product
    kind: Kind
    category: Category
    quality: float  # mean stars


@dataclass(frozen=True)
class Customer:
    """One customer: what falls due (item number, mean days), how long baskets wait, what is tried."""

    id: str
    since: float  # day
    until: float  # day
    patience: float  # days that a due item waits for company in the basket
    curiosity: float  # tried items a basket
    trials: tuple[int, ...]  # item numbers in the order in which they will be tried
    regularity: float  # gamma shape of the intervals
    staples: tuple[tuple[int, float, float], ...]  # item number, mean days, day of the habit's end
    tastes: Floats  # (N,), cumulative


@dataclass(frozen=True)
class Plan:
    """One shop before its first day: catalogue, popularity and customers."""

    id: str
    name: str
    items: tuple[Item, ...]
    customers: tuple[Customer, ...]


@dataclass(frozen=True)
class Due:
    """One moment at which an item falls due for a customer, in days since the start."""

    day: float
    item: int


@dataclass(frozen=True)
class Moment:
    """A row that can be written about: customer, item number, time, and whether it was a repeat purchase."""

    customer_id: str
    item: int
    time: datetime
    again: bool


def make_shops(
    merchants: int = 8, customers: int = 240, seed: int = 7, *, skew: float = 0.6, weeks: int = 40
) -> tuple[Shop, ...]:
    """Return `merchants` Chinese shops of `customers` customers each, over `weeks` weeks.

    `skew` says how different their assortments are: 0, all sell everything alike; 1, each keeps to its own theme.
    Raises `UserError` for arguments that no world can be made of.
    """
    return tuple(LazyShops(merchants, customers, seed, skew=skew, weeks=weeks))


class LazyShops(Sequence[Shop]):
    """The shops that `make_shops` returns, each made when it is asked for and kept by nobody.

    `customers` may be a list, dealt out to the shops in turn.
    """

    def __init__(self, merchants: int, customers: int | Sequence[int], seed: int, *, skew: float, weeks: int) -> None:
        sizes = [customers] if isinstance(customers, int) else customers
        self._settings = [_check(merchants, Setting(size, seed, skew, weeks)) for size in sizes]
        self._merchants = merchants

    def __len__(self) -> int:
        return self._merchants

    @overload
    def __getitem__(self, place: int) -> Shop: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Shop]: ...
    def __getitem__(self, place: int | slice) -> Shop | Sequence[Shop]:
        """Return one shop, or several."""
        places = range(self._merchants)[place]
        if isinstance(places, range):
            return [self[one] for one in places]
        setting = dealt(self._settings, places, self._settings[0])
        return _make_shop(_plan(places, setting), places, setting)

    @property
    def ids(self) -> list[str]:
        """The shops' ids, without making the shops."""
        return [shop_id(index) for index in range(self._merchants)]


def truth(
    merchants: int = 8, customers: int = 240, seed: int = 7, *, skew: float = 0.6, weeks: int = 40
) -> tuple[Habit, ...]:
    """Return the habits behind the shops that `make_shops` makes of the same arguments."""
    setting = _check(merchants, Setting(customers, seed, skew, weeks))
    return tuple(habit for index in range(merchants) for habit in _habits(_plan(index, setting), setting))


def split_date(shop: Shop) -> datetime:
    """Return the midnight that leaves the last `HELD_OUT_WEEKS` weeks of the shop's world after it.

    Weeks are counted whole from `START`, so the date stays the same whoever ordered last, as a public date must.
    """
    if not shop.orders:
        raise UserError(f"shop {shop.id!r} has no orders, so no weeks to hold out; give it orders")
    last = max(order.order_time for order in shop.orders).date()
    weeks = (last - START).days // 7 + 1
    return datetime.combine(START, time()) + timedelta(weeks=weeks - HELD_OUT_WEEKS)


def write_shop(shop: Shop, folder: Path) -> tuple[Path, ...]:
    """Write the shop's tables as CSV (RFC 4180, UTF-8), one file a table that has rows, and return their paths."""
    return tuple(
        _write_table(folder / f"{table}.csv", row_type, rows)
        for table, row_type in TABLES.items()
        if (rows := getattr(shop, table))
    )


def _write_table(path: Path, row_type: type[Row], rows: Sequence[Row]) -> Path:
    """Write `rows` under the field names of their schema and return `path`."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(row_type.model_fields))
    writer.writeheader()
    writer.writerows(row.model_dump(mode="json") for row in rows)
    write_atomic(path, text.getvalue())
    return path


def _check(merchants: int, setting: Setting) -> Setting:
    """Return `setting`, or raise `UserError` for what no world can be made of."""
    if merchants < 1 or setting.customers < 1:
        raise UserError(f"merchants={merchants}, customers={setting.customers}: a world needs at least one of each")
    if not 0 <= setting.skew <= 1:
        raise UserError(f"skew={setting.skew} is outside [0, 1]; 0 makes shops alike, 1 keeps them apart")
    if not HELD_OUT_WEEKS < setting.weeks <= 104:
        raise UserError(f"weeks={setting.weeks}: choose between {HELD_OUT_WEEKS + 1} and 104")
    if setting.seed < 0:
        raise UserError(f"seed={setting.seed} is negative; choose 0 or more")
    return setting


# --- the plan of a shop: what it sells, who comes, and how often


def _plan(index: int, setting: Setting) -> Plan:
    """Return shop number `index` before its first day."""
    rng = np.random.default_rng([setting.seed, index, 0])
    name = SHOPS[(index + index // len(SHOPS) * 5) % len(SHOPS)] + THEMES[index % len(THEMES)][0]
    shares_C = _shares(rng, index, setting.skew)
    items = _items(rng, index, setting, shares_C)
    popularity_N = _popularity(rng, items, shares_C)
    crowd = np.random.default_rng([setting.seed, index, 1])
    customers = tuple(_customer(crowd, number, items, popularity_N, setting) for number in range(setting.customers))
    return Plan(shop_id(index), name, items, customers)


def shop_id(index: int) -> str:
    """Return the id of shop number `index`.

    >>> shop_id(0)
    'shop-01'
    """
    return f"shop-{index + 1:02d}"


def _shares(rng: np.random.Generator, index: int, skew: float) -> Floats:
    """Return how much of the shop each category is: a Dirichlet draw around its theme, the sharper the more skew."""
    theme = THEMES[index % len(THEMES)][1]
    focus_C = np.array([4.0 - theme.index(category.name) if category.name in theme else 0.0 for category in CATEGORIES])
    mean_C = (1 - skew) / len(CATEGORIES) + skew * focus_C / focus_C.sum()
    concentration = 4 + 60 * (1 - skew)
    return np.asarray(rng.dirichlet(np.maximum(concentration * mean_C, 1e-3)))


def _items(rng: np.random.Generator, index: int, setting: Setting, shares_C: Floats) -> tuple[Item, ...]:
    """Return the shop's 80 to 120 items, spread over the categories by `shares_C`."""
    counts_C = rng.multinomial(int(rng.integers(80, 121)), shares_C)
    own = _own_brands(index, setting.seed)
    drawn = [
        choice
        for place, count in enumerate(counts_C)
        for choice in _assortment(rng, CATEGORIES[place], [*own, *_shared_brands(place)], int(count))
    ]
    words = random.Random(f"{setting.seed}/{index}/catalogue")
    voice = Voice(f"{setting.seed}/{index}/descriptions", descriptions.RULES, 1.2)
    return tuple(_item(words, voice, number, choice) for number, choice in enumerate(drawn))


Choice = tuple[Category, Kind, str, str, str]  # category, kind, brand, flavour, size


def _assortment(rng: np.random.Generator, category: Category, brands: Sequence[str], count: int) -> list[Choice]:
    """Return `count` different items of one category; some kinds fill more of the shelf than others."""
    shelf = [
        (category, kind, brand, flavour, size)
        for kind in category.kinds
        for brand in brands
        for flavour in kind.flavours
        for size in kind.sizes
    ]
    liking = dict(zip((kind.name for kind in category.kinds), rng.gamma(1.0, size=len(category.kinds)), strict=True))
    weights = np.array([0.01 + liking[choice[1].name] for choice in shelf])
    picks = rng.choice(len(shelf), size=min(count, len(shelf)), replace=False, p=weights / weights.sum())
    return [shelf[pick] for pick in picks]


@cache
def _brand_names(seed: int) -> tuple[str, ...]:
    """Return all invented brand names, shuffled."""
    names = [head + tail for head in BRAND_HEADS for tail in BRAND_TAILS]
    random.Random(f"{seed}/brands").shuffle(names)
    return tuple(names)


def _own_brands(index: int, seed: int) -> list[str]:
    """Return the brands that only shop number `index` sells."""
    names = _brand_names(seed)
    return [names[(OWN_BRANDS * index + place) % len(names)] for place in range(OWN_BRANDS)]


def _shared_brands(place: int) -> list[str]:
    """Return the brands that any shop may sell in category number `place`."""
    return [SHARED_BRANDS[(3 * place + step) % len(SHARED_BRANDS)] for step in range(4)]


def _item(rng: random.Random, voice: Voice, number: int, choice: Choice) -> Item:
    """Return item `number`: its attributes, a price that grows with its size, a description."""
    category, kind, brand, flavour, size = choice
    attributes = {"类型": kind.name, category.flavour: flavour, "规格": size}
    fitting = {trait: suiting(values, kind.name) for trait, values in category.traits.items()}
    traits = rng.sample(sorted(category.traits), k=rng.choice((1, 2, 2, 3)))
    attributes |= {trait: rng.choice(fitting[trait]) for trait in traits if fitting[trait]}
    price = kind.price * rng.uniform(0.8, 1.3) * (1 + 0.7 * kind.sizes.index(size))
    facts = _facts(rng, category, kind, brand, flavour, size)
    product = Product(
        item_id=f"P{number + 1:03d}",
        name=f"{brand}{flavour}{kind.name}{size}",
        category=category.name,
        brand=brand,
        price=math.floor(price) + rng.choice((0.0, 0.5, 0.8, 0.9)),
        attributes=attributes,
        description=descriptions.description_text(rng, voice, facts, attributes, category.flavour),
    )
    return Item(product, kind, category, quality=min(4.9, max(2.4, rng.gauss(4.3, 0.5))))


def _facts(rng: random.Random, category: Category, kind: Kind, brand: str, flavour: str, size: str) -> dict[str, str]:
    """Return what sentences may say about an item."""
    return {
        "brand": brand,
        "kind": kind.name,
        "flavour": flavour,
        "flavour_name": category.flavour,
        "size": size,
        "verb": category.verb,
        "place": rng.choice(category.scenes),
        "use": rng.choice(suiting(category.uses, kind.name)),
    }


def _popularity(rng: np.random.Generator, items: Sequence[Item], shares_C: Floats) -> Floats:
    """Return each item's weight: long-tailed by rank (Zipf, exponent 0.9), times its category's share of the shop."""
    ranks_N = rng.permutation(len(items)) + 1
    by_name = {category.name: share for category, share in zip(CATEGORIES, shares_C, strict=True)}
    return np.asarray(ranks_N**-0.9 * np.array([0.02 + by_name[item.category.name] for item in items]))


def _customer(
    rng: np.random.Generator, number: int, items: Sequence[Item], popularity_N: Floats, setting: Setting
) -> Customer:
    """Return one customer: arrival, departure, rhythm, tastes and staples."""
    horizon = float(setting.days)
    since = 0.0 if rng.random() < 0.65 else rng.uniform(0.0, 0.7 * horizon)
    until = since + max(14.0, rng.exponential(2.5 * horizon))
    liking = {
        category.name: value for category, value in zip(CATEGORIES, rng.gamma(0.6, size=len(CATEGORIES)), strict=True)
    }
    tastes_N = np.array([0.03 + liking[item.category.name] for item in items]) * rng.lognormal(0.0, 0.7, len(items))
    tastes_N *= popularity_N
    tastes_N /= tastes_N.sum()
    pace = rng.lognormal(0.0, 0.2)
    staples = tuple(
        (item, _interval(rng, items[item].kind, pace), since + max(10.0, rng.exponential(3.0 * horizon)))
        for item in _staples(rng, items, tastes_N)
    )
    mixed_N = 0.5 * tastes_N + 0.5 * popularity_N / popularity_N.sum()
    return Customer(
        id=f"c{number + 1:04d}",
        since=since,
        until=until,
        patience=rng.uniform(1.0, 5.0),
        curiosity=rng.gamma(4.0, 0.45),
        trials=tuple(int(item) for item in np.argsort(-np.log(mixed_N) - rng.gumbel(size=len(items)))),
        regularity=rng.uniform(4.0, 20.0),
        staples=staples,
        tastes=np.cumsum(mixed_N),
    )


def _staples(rng: np.random.Generator, items: Sequence[Item], tastes_N: Floats) -> list[int]:
    """Return two to five items by taste, one of a kind."""
    wanted = int(rng.integers(2, 6))
    chosen: dict[str, int] = {}
    for item in rng.choice(len(items), size=min(3 * wanted, len(items)), replace=False, p=tastes_N):
        chosen.setdefault(items[item].kind.name, int(item))
    return list(chosen.values())[:wanted]


def _interval(rng: np.random.Generator, kind: Kind, pace: float) -> float:
    """Return the customer's own mean interval for a kind, in days; never under 5."""
    return max(5.0, float(kind.days * pace * rng.lognormal(0.0, 0.25)))


def _habits(plan: Plan, setting: Setting) -> Iterator[Habit]:
    """Yield the habits of the plan's customers."""
    for customer in plan.customers:
        for item, days, end in customer.staples:
            last = min(end, customer.until)
            yield Habit(
                shop_id=plan.id,
                customer_id=customer.id,
                item_id=plan.items[item].product.item_id,
                days=days,
                since=START + timedelta(days=int(customer.since)),
                until=START + timedelta(days=math.ceil(last)) if last < setting.days else None,
                season=plan.items[item].kind.season,
            )


# --- the year: how fast time runs for an item


@cache
def _clock(season: str, days: int) -> Floats:
    """Return how much shopping time has passed at the start of each day, (D+1,): 365 a year, unevenly spread."""
    pace_D = np.array([_pace(START + timedelta(days=day), season) for day in range(max(days, 365))])
    pace_D /= pace_D[:365].mean()
    return np.concatenate([[0.0], np.cumsum(pace_D[:days])])


def _pace(day: date, season: str) -> float:
    """Return how fast an item of `season` falls due on `day`, against its yearly mean."""
    if season not in PEAKS:
        return _festival(day)
    angle = 2 * math.pi * (day.timetuple().tm_yday - PEAKS[season]) / 365
    return max(0.12, 1 + 1.1 * math.cos(angle)) * _festival(day)


def _festival(day: date) -> float:
    """Return the pull of 双11, 618 and 春节: more before the day, less after it."""
    month_day = (day.month, day.day)
    if (11, 1) <= month_day <= (11, 11) or (6, 8) <= month_day <= (6, 18):
        return 1.6
    if (11, 12) <= month_day <= (11, 24) or (6, 19) <= month_day <= (6, 28):
        return 0.7
    to_new_year = (NEW_YEARS[day.year] - day).days
    if 0 < to_new_year <= 14:
        return 1.4
    return 0.35 if -7 <= to_new_year <= 0 else 1.0


# --- the days of a shop: dues, baskets, rows


def _make_shop(plan: Plan, index: int, setting: Setting) -> Shop:
    """Return the shop with all its rows."""
    rng = np.random.default_rng([setting.seed, index, 2])
    words = random.Random(f"{setting.seed}/{index}/words")
    baskets = sorted(
        (
            (day, customer, items)
            for customer in plan.customers
            for day, items in _baskets(rng, plan, customer, setting)
        ),
        key=lambda basket: (basket[0], basket[1].id),
    )
    orders: list[Order] = []
    moments: list[Moment] = []
    _fill(words, plan, index, setting, baskets, orders, moments)
    return Shop(
        id=plan.id,
        name=plan.name,
        lang="zh",
        orders=tuple(orders),
        products=tuple(item.product for item in plan.items),
        reviews=_reviews(plan, index, setting, moments),
        dialogs=_dialogs(plan, index, setting, moments),
        campaigns=_campaigns(plan, index, setting, moments),
    )


def _dues(rng: np.random.Generator, plan: Plan, customer: Customer, setting: Setting) -> list[Due]:
    """Return when each of the customer's staples falls due, in order of time."""
    dues = []
    for item, days, end in customer.staples:
        clock = _clock(plan.items[item].kind.season, setting.days)
        first = float(np.interp(customer.since, np.arange(len(clock)), clock)) + rng.uniform(0.0, days)
        count = math.ceil(1.5 * clock[-1] / days) + 12
        gaps = rng.gamma(customer.regularity, days / customer.regularity, size=count)
        passed = first + np.concatenate([[0.0], np.cumsum(gaps)])
        moments = np.interp(passed[passed < clock[-1]], clock, np.arange(len(clock)))
        dues += [Due(float(day), item) for day in moments[moments < min(end, customer.until)]]
    return sorted(dues, key=lambda due: due.day)


def _baskets(
    rng: np.random.Generator, plan: Plan, customer: Customer, setting: Setting
) -> Iterator[tuple[int, list[int]]]:
    """Yield the customer's baskets in order of time: the day and the item numbers, one to five."""
    trips = _trips(rng, plan, customer, setting)
    wishes = rng.poisson(customer.curiosity, size=len(trips))
    seen: set[int] = set()
    for (day, staples), wish in zip(trips, wishes, strict=True):
        wanted = min(max(int(wish), 0 if staples else 1), BASKET - len(staples))
        basket = list(dict.fromkeys([*staples, *_tried(rng, customer, seen | set(staples), wanted)]))
        seen.update(basket)
        yield int(day), basket


def _trips(rng: np.random.Generator, plan: Plan, customer: Customer, setting: Setting) -> list[tuple[float, list[int]]]:
    """Return when the customer comes and what is due then; now and then it is nothing."""
    trips: list[tuple[float, list[int]]] = []
    for due in _dues(rng, plan, customer, setting):
        if trips and due.day - trips[-1][0] <= customer.patience and _fits(trips[-1][1], due.item):
            trips[-1][1].append(due.item)
        else:
            trips.append((due.day, [due.item]))
    last = min(customer.until, float(setting.days))
    trips += [(rng.uniform(customer.since, last), []) for _ in range(rng.poisson((last - customer.since) / 60.0))]
    return sorted(trips)


def _fits(items: Sequence[int], item: int) -> bool:
    """Return whether a basket of `items` can take `item`."""
    return len(items) < BASKET and item not in items


def _tried(rng: np.random.Generator, customer: Customer, seen: set[int], count: int) -> list[int]:
    """Return `count` items the customer feels like: mostly the next ones never bought, sometimes any to the taste."""
    fresh = [item for item in customer.trials[: len(seen) + count] if item not in seen]
    tried = []
    for chance, draw in rng.random((count, 2)):
        if chance < NOVELTY and fresh:
            tried.append(fresh.pop(0))
        else:
            tried.append(int(np.searchsorted(customer.tastes, draw * customer.tastes[-1])))
    return tried


def _fill(
    rng: random.Random,
    plan: Plan,
    index: int,
    setting: Setting,
    baskets: Sequence[tuple[int, Customer, list[int]]],
    orders: list[Order],
    moments: list[Moment],
) -> None:
    """Append the order lines of `baskets` to `orders`, and to `moments` what can be written about."""
    voice = Voice(f"{setting.seed}/{index}/notes", NOTE_RULES, 0.5)
    seen: set[tuple[str, int]] = set()
    for number, (day, customer, items) in enumerate(_at_their_times(rng, baskets)):
        note = voice.say(rng, "<note>", _person(rng)) if rng.random() < NOTES else ""
        discount = 0.85 if _festival(day.date()) > 1.3 else rng.choice((1.0, 1.0, 1.0, 0.95, 0.9))
        for item in items:
            moments.append(Moment(customer.id, item, day, (customer.id, item) in seen))
            seen.add((customer.id, item))
            orders.append(_order(rng, plan.items[item].product, moments[-1], discount, note, f"O{number + 1:06d}"))


def _at_their_times(
    rng: random.Random, baskets: Sequence[tuple[int, Customer, list[int]]]
) -> list[tuple[datetime, Customer, list[int]]]:
    """Return the baskets with a time of day each, in order of time: few at night, most in the evening."""
    hours = rng.choices(HOURS, weights=HOUR_WEIGHTS, k=len(baskets))
    timed = [
        (
            datetime.combine(START, time(hour, rng.randrange(60), rng.randrange(60))) + timedelta(days=day),
            customer,
            items,
        )
        for hour, (day, customer, items) in zip(hours, baskets, strict=True)
    ]
    return sorted(timed, key=lambda basket: (basket[0], basket[1].id))


def _order(rng: random.Random, product: Product, moment: Moment, discount: float, note: str, order_id: str) -> Order:
    """Return one order line."""
    return Order(
        customer_id=moment.customer_id,
        order_time=moment.time,
        item_id=product.item_id,
        item_name=product.name,
        quantity=rng.choices((1.0, 2.0, 3.0), weights=(85, 12, 3))[0],
        price=round(product.price * discount, 2),
        note=note,
        order_id=order_id,
    )


def _person(rng: random.Random) -> dict[str, str]:
    """Return an invented person's telephone number, address and surname; the number's middle is always 0000."""
    return {
        "phone": f"1{rng.choice('35789')}{rng.randrange(10)}0000{rng.randrange(10_000):04d}",
        "address": f"{rng.choice(STREETS)}{rng.randrange(1, 300)}号{rng.choice(ESTATES)}"
        f"{rng.randrange(1, 30)}栋{rng.randrange(1, 30)}0{rng.randrange(1, 7)}室",
        "surname": rng.choice(SURNAMES),
    }


# --- what is written


def _sample(rng: random.Random, moments: Sequence[Moment], count: float) -> list[Moment]:
    """Return `count` of the moments, or all if there are fewer, in order of time."""
    return sorted(rng.sample(moments, k=min(round(count), len(moments))), key=lambda moment: moment.time)


def _reviews(plan: Plan, index: int, setting: Setting, moments: Sequence[Moment]) -> tuple[Review, ...]:
    """Return reviews of some of the purchases, written two to nine days later."""
    rng = random.Random(f"{setting.seed}/{index}/reviews")
    voice = Voice(f"{setting.seed}/{index}/reviews", reviews.RULES, 1.0)
    end = datetime.combine(START, time()) + timedelta(days=setting.days - 10)
    early = [moment for moment in moments if moment.time < end]
    return tuple(
        _review(rng, voice, plan, moment, f"R{number + 1:05d}")
        for number, moment in enumerate(_sample(rng, early, REVIEWS * setting.customers))
    )


def _review(rng: random.Random, voice: Voice, plan: Plan, moment: Moment, review_id: str) -> Review:
    """Return one review; its stars follow the item's quality."""
    item = plan.items[moment.item]
    mishap = 2.0 if rng.random() < MISHAPS else 0.0
    stars = round(min(5.0, max(1.0, rng.gauss(item.quality + 0.3 * moment.again - mishap, 1.1))))
    facts = _item_facts(rng, item)
    return Review(
        review_id=review_id,
        customer_id=moment.customer_id,
        item_id=item.product.item_id,
        time=moment.time + timedelta(days=rng.randint(2, 9), minutes=rng.randrange(-300, 300)),
        rating=stars,
        text=reviews.review_text(rng, voice, item.category, facts, stars, again=moment.again),
    )


def _item_facts(rng: random.Random, item: Item) -> dict[str, str]:
    """Return what sentences may say about a product."""
    attributes = item.product.attributes
    return _facts(
        rng, item.category, item.kind, item.product.brand, attributes[item.category.flavour], attributes["规格"]
    )


def _dialogs(plan: Plan, index: int, setting: Setting, moments: Sequence[Moment]) -> tuple[Dialog, ...]:
    """Return questions about some of the purchases and the shop's answers."""
    rng = random.Random(f"{setting.seed}/{index}/dialogs")
    voice = Voice(f"{setting.seed}/{index}/dialogs", dialogs.RULES, 1.1)
    style = campaigns.draw_style(random.Random(f"{setting.seed}/{index}/style"), plan.name)
    return tuple(
        _dialog(rng, voice, style, plan, moment, f"D{number + 1:05d}")
        for number, moment in enumerate(_sample(rng, moments, DIALOGS * setting.customers))
    )


def _dialog(
    rng: random.Random, voice: Voice, style: dict[str, str], plan: Plan, moment: Moment, dialog_id: str
) -> Dialog:
    """Return one question and its answer."""
    item = plan.items[moment.item]
    intent = rng.choices(list(dialogs.STATUSES), weights=(30, 20, 18, 12, 8, 12))[0]
    status = rng.choice(dialogs.STATUSES[intent])
    facts = {**_item_facts(rng, item), **_person(rng)}
    facts["item"] = rng.choice((item.kind.name, facts["flavour"] + item.kind.name, facts["brand"] + item.kind.name))
    facts["offer"] = rng.choice([offer for offer in campaigns.OFFERS if offer != "无"])
    question, answer = dialogs.dialog_text(rng, voice, style, facts, intent, status)
    return Dialog(
        dialog_id=dialog_id,
        customer_id=moment.customer_id,
        time=moment.time + timedelta(minutes=rng.randrange(1, 600)),
        intent=intent,
        status=status,
        question=question,
        answer=answer,
    )


def _campaigns(plan: Plan, index: int, setting: Setting, moments: Sequence[Moment]) -> tuple[Campaign, ...]:
    """Return the messages that the shop sent shortly before items were bought again."""
    rng = random.Random(f"{setting.seed}/{index}/campaigns")
    voice = Voice(f"{setting.seed}/{index}/campaigns", campaigns.RULES, 1.0)
    style = campaigns.draw_style(random.Random(f"{setting.seed}/{index}/style"), plan.name)
    due = [moment for moment in moments if moment.again]
    return tuple(
        _campaign(rng, voice, style, plan, moment, f"M{number + 1:05d}")
        for number, moment in enumerate(_sample(rng, due, CAMPAIGNS * setting.customers))
    )


def _campaign(
    rng: random.Random, voice: Voice, style: dict[str, str], plan: Plan, moment: Moment, campaign_id: str
) -> Campaign:
    """Return one message; it goes out one to three days before the purchase."""
    item = plan.items[moment.item]
    pitch = _pitch(rng, voice, item)
    return Campaign(
        campaign_id=campaign_id,
        customer_id=moment.customer_id,
        item_id=item.product.item_id,
        time=datetime.combine(moment.time.date(), time(rng.randint(9, 20), rng.randrange(60)))
        - timedelta(days=rng.randint(1, 3)),
        channel=pitch.channel,
        offer=pitch.offer,
        text=campaigns.campaign_text(rng, voice, style, pitch),
    )


def _pitch(rng: random.Random, voice: Voice, item: Item) -> campaigns.Pitch:
    """Return what a message about `item` may say; a shop has its favourite channels and offers."""
    return campaigns.Pitch(
        name=item.product.name,
        brand=item.product.brand,
        kind=item.kind.name,
        flavour_name=item.category.flavour,
        attributes=item.product.attributes,
        place=rng.choice(item.category.scenes),
        offer=voice.pick(rng, "offers", campaigns.OFFERS),
        channel=voice.pick(rng, "channels", list(campaigns.LONGEST)),
        verb=item.category.verb,
    )
