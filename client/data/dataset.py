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

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import shake_256
from itertools import islice
from typing import TypeVar, overload

import numpy as np

from client.config import TrainChoice
from client.data.customers import CLASSES, Customers, Posed, Shelf, pose
from client.train.sampling import Floats, Randomness
from common.model import Base
from common.schema import Shop
from common.text import TASKS, Example
from common.tokens import Encoded, Rows, encode_examples, pack, stack

KEPT_LETTERS = 10_000_000
"""Letters of posed tasks that are kept for the next step, about 50 MB; what is not kept is posed again when drawn."""
KEPT_IDS = 500_000
"""Ids of examples that are kept for the next step, about 10 MB with what holds them; the others are encoded again."""
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


@dataclass(frozen=True, slots=True)
class Brief:
    """A posed task as the ids that training sees of it; the first `prompt` of them do not count."""

    task: str
    label: str
    ids: array[int] = field(repr=False)
    prompt: int

    def encoded(self) -> Encoded:
        """Return the ids with their mask."""
        return Encoded(self.task, tuple(self.ids), (False,) * self.prompt + (True,) * (len(self.ids) - self.prompt))


Task = TypeVar("Task", Posed, Brief)


class Encodings:
    """Examples as ids, those used last, so that a task drawn again is not encoded again; ids follow from the text alone."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int, Example], Brief] = OrderedDict()
        self._ids = 0

    def encode(self, base: Base, examples: Sequence[Example], max_tokens: int) -> list[Encoded]:
        """Return what `encode_examples` does."""
        keys = [(base.digest, max_tokens, one) for one in examples]
        new = [key for key in dict.fromkeys(keys) if key not in self._kept]
        made = dict(zip(new, encode_examples(base, [one for *_, one in new], max_tokens), strict=True))
        found = [made.get(key) or self._again(key) for key in keys]
        for key, encoded in made.items():
            self._keep(key, encoded)
        return found

    def _again(self, key: tuple[str, int, Example]) -> Encoded:
        self._kept.move_to_end(key)
        return self._kept[key].encoded()

    def _keep(self, key: tuple[str, int, Example], encoded: Encoded) -> None:
        self._kept[key] = brief(encoded)
        self._ids += len(encoded.ids)
        while self._ids > KEPT_IDS and len(self._kept) > 1:
            self._ids -= len(self._kept.popitem(last=False)[1].ids)


_encodings = Encodings()


def brief(encoded: Encoded, label: str = "") -> Brief:
    """Return an encoded task in little memory."""
    return Brief(encoded.task, label, array("i", encoded.ids), len(encoded.counts) - sum(encoded.counts))


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
        chosen = [
            choose(self.tasks[one], self.choice, self.max_records, seed)
            for one, seed in zip(drawn, seeds(len(drawn), randomness), strict=True)
        ]
        encoded = iter(self._encoded([task for row in chosen for task in row]))
        return packed((islice(encoded, len(row)) for row in chosen), self.base.end, self.max_tokens)

    def _encoded(self, tasks: Sequence[Posed]) -> list[Encoded]:
        return _encodings.encode(self.base, [task.example for task in tasks], self.max_tokens)

    def condensed(self, most: int) -> Condensed | None:
        """Return the same training set as ids alone, no text kept; None where that takes more than `most` ids."""
        table = Condensed(self.base, self.max_tokens, self.max_records, self.choice)
        for place in range(len(self)):
            tasks = self.tasks[place]
            encoded = encode_examples(self.base, [task.example for task in tasks], self.max_tokens)
            table.add([_kind(task) for task in tasks], encoded)
            if len(table.ids) > most:
                return None
        return table


def seeds(count: int, randomness: Randomness) -> list[bytes]:
    """Return a fresh seed for each of `count` customers."""
    return [seed_W.tobytes() for seed_W in randomness.words(SEED_WORDS * count).reshape(count, SEED_WORDS)]


def packed(chosen: Iterable[Iterable[Encoded]], end: int, max_tokens: int) -> Rows:
    """Return one row of at most `max_tokens` for every customer's chosen tasks."""
    return stack([pack(row, end, max_tokens) for row in chosen], end, max_tokens)


class Condensed:
    """A small shop's training set as ids in one array, a few bytes each: what is kept of a shop that makes room."""

    def __init__(self, base: Base, max_tokens: int, max_records: int, choice: Choice) -> None:
        self.ids = array("H" if base.model.config.vocab_size <= 1 << 16 else "i")
        self._end, self._bounds, self._choice = base.end, (max_tokens, max_records), choice
        self._kinds: dict[tuple[str, str], int] = {}
        self._tasks = array("i")  # three numbers a task: its kind, the ids of its prompt, where its ids end
        self._ends = array("i", [0])  # which task comes after a customer's last one

    def add(self, kinds: Sequence[tuple[str, str]], encoded: Sequence[Encoded]) -> None:
        """Take in the tasks of the next customer, (task, label) and ids of each."""
        for kind, one in zip(kinds, encoded, strict=True):
            self.ids.extend(one.ids)
            number = self._kinds.setdefault(kind, len(self._kinds))
            self._tasks.extend((number, len(one.counts) - sum(one.counts), len(self.ids)))
        self._ends.append(len(self._tasks) // 3)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def rows(self, drawn: Sequence[int], randomness: Randomness) -> Rows:
        """Return what the data set's own `rows` would, from the same randomness."""
        kinds, (tokens, records) = list(self._kinds), self._bounds
        chosen = (
            choose(self._briefs(one, kinds), self._choice, records, seed)
            for one, seed in zip(drawn, seeds(len(drawn), randomness), strict=True)
        )
        return packed(([task.encoded() for task in row] for row in chosen), self._end, tokens)

    def _briefs(self, place: int, kinds: Sequence[tuple[str, str]]) -> list[Brief]:
        return [self._brief(number, kinds) for number in range(self._ends[place], self._ends[place + 1])]

    def _brief(self, number: int, kinds: Sequence[tuple[str, str]]) -> Brief:
        kind, prompt, end = self._tasks[3 * number : 3 * number + 3]
        begin = self._tasks[3 * number - 1] if number else 0
        return Brief(*kinds[kind], self.ids[begin:end], prompt)


def _kind(task: Posed | Brief) -> tuple[str, str]:
    """Return what a choice looks at: the task's name and its label."""
    return (task.task if isinstance(task, Brief) else task.example.task, task.label)


def choose(posed: Sequence[Task], choice: Choice, limit: int, seed: bytes) -> list[Task]:
    """Return at most `limit` of one customer's tasks, given in order of time; a function of its arguments alone.

    Tasks take turns by weight: the n-th of a name comes at (n - u) / weight with one uniform u a name, so its share of
    the row is in proportion to its weight and no frequent task crowds out a rare one. Within a name the newest come
    first, or any order at random; under `by_class` the classes of a name take turns too.
    """
    kinds = [_kind(one) for one in posed]
    names = sorted({name for name, _ in kinds})
    dice = _dice(seed, 2 * len(posed) + len(names))
    first, stays, starts = np.split(dice, [len(posed), 2 * len(posed)])
    order = range(len(posed) - 1, -1, -1) if choice.recent else first.argsort(kind="stable").tolist()
    kept = [place for place in order if stays[place] < choice.keep.get(kinds[place][1], 1.0)]
    if choice.by_class:
        kept = _in_turn([kinds[place] for place in kept], kept)
    start = dict(zip(names, starts.tolist(), strict=True))
    met: Counter[str] = Counter()
    turns: list[tuple[float, int, int]] = []
    for place in kept:
        name = kinds[place][0]
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
