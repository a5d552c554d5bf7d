"""What to offer one customer, and who is due: the shop's rankers, with the shared head where it serves this shop.

All of it runs inside the shop, on the shop's rows, and no language model is asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.use.ranking import timing
from client.use.ranking.book import Book
from client.use.ranking.guard import judge
from client.use.ranking.lists import K
from client.use.ranking.rankers import Choice, View
from client.use.ranking.window import Place, Window, by_habit, by_head
from common.ranking import HEAD_FILE, PARTS, Floats, read_head

LIKELY = 0.5
"""The most that a customer's chance of an order within the days asked about must be for her to be due."""

NO_HEAD: Mapping[str, Floats] = {name: np.zeros(part.shape, dtype=np.float32) for name, part in PARTS.items()}


@dataclass(frozen=True)
class Offer:
    """One item for one customer, bought `times` times before.

    `score` compares items bought before with one another, and new ones with one another, not one kind with the other.
    """

    item_id: str
    name: str
    score: float
    times: int


def head_in(folder: Path | None) -> Mapping[str, Floats] | None:
    """Return the head in a run's model folder, or None where there is none; raise `UserError` for one that is damaged."""
    path = folder / HEAD_FILE if folder else None
    return read_head(path) if path and path.exists() else None


def open_window(
    seen: View, head: Mapping[str, Floats] | None, choice: Choice, names: Mapping[str, str] | None = None
) -> Window:
    """Return the window that a shop ranks by: the head's where there is one and the guard keeps it, else by frequency.

    Only items with a name in `names` are offered, all where it is None: what left the catalogue cannot be sold. Without
    the head new items are ranked all the same, by the shop's own sales and likeness.
    """
    offered_I = np.array([names is None or item in names for item in seen.book.shelf.items], dtype=np.bool_)
    if head is not None and judge(seen.book, seen.day, head).use_head:
        return by_head(seen, head, choice, offered_I)
    return by_habit(seen, head if head is not None else NO_HEAD, choice, offered_I)


def slots_of(k: int, slots: int) -> int:
    """Return how many of `k` places are for items bought before, as `slots` of ten say, rounded up.

    >>> slots_of(10, 8), slots_of(5, 8), slots_of(1, 8), slots_of(3, 0)
    (8, 4, 1, 0)
    """
    return -(-k * slots // K)


def offers(window: Window, customer: int, names: Mapping[str, str], slots: int, k: int) -> list[Offer]:
    """Return at most `k` items for the customer at that place of the book, known ones in their slots first."""
    return [_offer(window, one, names) for one in window.best(customer, slots_of(k, slots), k)]


def _offer(window: Window, one: Place, names: Mapping[str, str]) -> Offer:
    item = window.seen.book.shelf.items[one.item]
    return Offer(item, names[item], one.score, one.times)


def due(book: Book, day: int, within: int) -> list[str]:
    """Return the customers who will likely order within `within` days, the likeliest first, ties in the book's order.

    Only who came back before: a single order tells no rhythm. Likely is more likely than not, or, where the days are few
    for the shop's rhythm, than for somebody who is known to keep it: an order every `rhythm` days at random.
    """
    found = timing.timing(book, day)
    chance_U = np.where(found.again_U > 0, timing.due(found, within), 0.0)
    least = min(LIKELY, -math.expm1(-within / max(timing.rhythm(found), 0.5)))
    order = np.argsort(-chance_U, kind="stable")
    return [book.customers[place] for place in order.tolist() if chance_U[place] >= max(least, 1e-9)]
