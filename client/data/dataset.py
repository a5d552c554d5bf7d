"""Customers ready for the model: one bounded row each, and nothing of them in any other row.

Why one customer's row is all that one customer can change: which tasks a customer poses, how they are weighted, which
tasks a step takes and how classes are balanced is settled from the customer's own rows, public settings and a seed
of the customer's own, fresh in every step. Nothing is counted over customers. In particular no class weight is the
shop's inverse frequency, which would carry every review into every other customer's gradient: `customer` balances
within one person's reviews, `declared` thins by shares that the merchant declares in public. Either way a row stays a
row, and its clipped gradient is bounded by the clip norm as before.

    N customers   B batch   T tokens
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import shake_256
from itertools import islice
from typing import overload

import numpy as np

from client.config import TrainChoice
from client.data.customers import CLASSES, Customers, Posed, Shelf, pose
from client.train.sampling import Floats, Randomness
from common.model import Base
from common.schema import Shop
from common.text import TASKS
from common.tokens import Rows, encode_examples, pack, stack

KEPT_LETTERS = 10_000_000
"""Letters of posed tasks that are kept for the next step, about 50 MB; what is not kept is posed again when drawn."""
SEED_WORDS = 4
USUAL_TRAIN = TrainChoice()


@dataclass(frozen=True)
class Choice:
    """How a row is made of a customer's tasks; public settings, the same for every customer.

    `weights` by the name that examples carry (an unknown name weighs 1), `keep` the probability by class with which a
    task stays in a step.
    """

    recent: bool = False
    by_class: bool = False
    weights: Mapping[str, float] = field(default_factory=dict)
    keep: Mapping[str, float] = field(default_factory=dict)


def make_choice(train: TrainChoice, lang: str) -> Choice:
    """Return the merchant's settings as a choice."""
    shares = {label: getattr(train.shares, label) for label in CLASSES}
    rarest = min(shares.values())
    return Choice(
        recent=train.records == "recent",
        by_class=train.balance == "customer",
        weights={TASKS[key].name(lang): weight for key, weight in train.weights.items()},
        keep={label: rarest / share for label, share in shares.items()} if train.balance == "declared" else {},
    )


@dataclass(frozen=True)
class Dataset:
    """What a merchant trains on: the tasks each customer poses, the public bounds of a row and how it is chosen."""

    tasks: Sequence[Sequence[Posed]] = field(repr=False)
    base: Base = field(repr=False)
    max_tokens: int
    max_records: int
    choice: Choice = Choice()

    def __len__(self) -> int:
        return len(self.tasks)

    def rows(self, drawn: Sequence[int], randomness: Randomness) -> Rows:
        """Return one row for every drawn customer: at most `max_records` of the customer's own tasks, freshly chosen.

        Each customer takes the same number of words for a seed, however many tasks there are, so that nobody's tasks
        move anybody else's choice.
        """
        seeds_BW = randomness.words(SEED_WORDS * len(drawn)).reshape(len(drawn), SEED_WORDS)
        chosen = [
            choose(self.tasks[one], self.choice, self.max_records, seed_W.tobytes())
            for one, seed_W in zip(drawn, seeds_BW, strict=True)
        ]
        every = [task.example for row in chosen for task in row]
        encoded = iter(encode_examples(self.base, every, self.max_tokens))
        rows = [pack(islice(encoded, len(row)), self.base.end, self.max_tokens) for row in chosen]
        return stack(rows, self.base.end, self.max_tokens)


def choose(posed: Sequence[Posed], choice: Choice, limit: int, seed: bytes) -> list[Posed]:
    """Return at most `limit` of one customer's tasks, given in order of time; a function of its arguments alone.

    Tasks take turns by weight: the n-th of a name comes at (n - u) / weight with one uniform u a name, so its share of
    the row is in proportion to its weight and no frequent task crowds out a rare one. Within a name the newest come
    first, or any order at random; under `by_class` the classes of a name take turns too.
    """
    names = sorted({one.example.task for one in posed})
    dice = _dice(seed, 2 * len(posed) + len(names))
    first, stays, starts = np.split(dice, [len(posed), 2 * len(posed)])
    order = range(len(posed) - 1, -1, -1) if choice.recent else first.argsort(kind="stable").tolist()
    kept = [place for place in order if stays[place] < choice.keep.get(posed[place].label, 1.0)]
    if choice.by_class:
        kept = _in_turn([(posed[place].example.task, posed[place].label) for place in kept], kept)
    start = dict(zip(names, starts.tolist(), strict=True))
    met: Counter[str] = Counter()
    turns: list[tuple[float, int, int]] = []
    for place in kept:
        name = posed[place].example.task
        weight = choice.weights.get(name, 1.0)
        if weight > 0:
            met[name] += 1
            turns.append(((met[name] - start[name]) / weight, len(turns), place))
    return [posed[place] for _, _, place in sorted(turns)[:limit]]


def _in_turn(classes: Sequence[tuple[str, str]], places: Sequence[int]) -> list[int]:
    """Return `places` such that the first of every class stand before the second of any."""
    met: Counter[tuple[str, str]] = Counter()
    turns = []
    for number, (one, place) in enumerate(zip(classes, places, strict=True)):
        met[one] += 1
        turns.append((met[one], number, place))
    return [place for _, _, place in sorted(turns)]


def _dice(seed: bytes, count: int) -> Floats:
    """Return `count` numbers in [0, 1) that follow from `seed` by SHAKE-256 (FIPS 202)."""
    words = np.frombuffer(shake_256(seed).digest(8 * count), dtype=np.uint64)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Tasks(Sequence[Sequence[Posed]]):
    """Each customer's tasks in order of time, posed when the customer is drawn; those used last are kept."""

    def __init__(self, customers: Customers, shelf: Shelf, lang: str, keys: frozenset[str]) -> None:
        self._customers, self._shelf, self._lang, self._keys = customers, shelf, lang, keys
        self._kept: OrderedDict[int, Sequence[Posed]] = OrderedDict()
        self._letters = 0

    def __len__(self) -> int:
        return len(self._customers)

    @overload
    def __getitem__(self, place: int) -> Sequence[Posed]: ...
    @overload
    def __getitem__(self, place: slice) -> list[Sequence[Posed]]: ...
    def __getitem__(self, place: int | slice) -> Sequence[Posed] | list[Sequence[Posed]]:
        """Return the tasks of the customer at `place`, or of those in a slice."""
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        if place not in self._kept:
            self._keep(place, pose(self._customers[place], self._shelf, self._lang, tasks=self._keys))
        self._kept.move_to_end(place)
        return self._kept[place]

    def _keep(self, place: int, posed: Sequence[Posed]) -> None:
        self._kept[place] = posed
        self._letters += _letters(posed)
        while self._letters > KEPT_LETTERS and len(self._kept) > 1:
            self._letters -= _letters(self._kept.popitem(last=False)[1])


def _letters(posed: Sequence[Posed]) -> int:
    return 1 + sum(len(one.example.prompt) + len(one.example.target) for one in posed)


def make_dataset(
    shop: Shop,
    base: Base,
    max_tokens: int,
    max_records: int,
    until: datetime | None,
    train: TrainChoice = USUAL_TRAIN,
) -> Dataset:
    """Return the training set of `shop`: the tasks of every customer, posed from rows before `until` alone.

    A customer without a task keeps an empty row: whether a customer can be drawn depends on no one else.
    """
    choice = make_choice(train, shop.lang)
    keys = frozenset(key for key, weight in train.weights.items() if weight)
    shelf = Shelf({product.item_id: product for product in shop.products})
    posed = Tasks(Customers(shop, until), shelf, shop.lang, keys)
    return Dataset(posed, base, max_tokens, max_records, choice)
