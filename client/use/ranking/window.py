"""One customer at a time: the lists of `rankers` without a table of all customers, for a shop of any size.

What a shop shares between its customers is counted once; then a list reads the customer's own pairs, the columns of the
items, and every pair of the shop twice, for what customers with books like hers bought.

    U customers   R pairs of customer and item   I items   K places of a list
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from client.use.ranking.book import Whole
from client.use.ranking.features import Doubles
from client.use.ranking.lists import K, Mask, listed, ties
from client.use.ranking.priors import DAMPING, LIKE, NEIGHBOURS, SHELF, appeal, kin, lift, likeness, priors
from client.use.ranking.rankers import Choice, View, repeat_scores
from common.ranking import Floats


@dataclass(frozen=True)
class Place:
    """One place of a list: the item's code, its ranker's score, and how often the customer bought it."""

    item: int
    score: float
    times: int


@dataclass(frozen=True)
class Window:
    """A shop's view with the scores of one ranker: (R,) for what was bought before, a function of the customer for new items.

    Items outside `offered_I` are in no list.
    """

    seen: View
    repeat_R: Doubles = field(repr=False)
    fresh: Callable[[int], Doubles] = field(repr=False)
    offered_I: Mask = field(repr=False)

    @cached_property
    def starts(self) -> Whole:
        """Where each customer's pairs begin, and where the last one's end."""
        places: Whole = np.searchsorted(self.seen.pairs.customer_R, np.arange(len(self.seen.book.customers) + 1))
        return places

    def best(self, customer: int, slots: int, k: int) -> list[Place]:
        """Return at most `k` places: the best `slots` bought before, then the best new ones; what is short fills up."""
        found, items = self.seen.pairs, len(self.seen.book.shelf)
        mine = slice(self.starts[customer], self.starts[customer + 1])
        times_I, repeat_I = np.zeros(items, dtype=np.int64), np.full(items, -np.inf)
        times_I[found.item_R[mine]], repeat_I[found.item_R[mine]] = found.times_R[mine], self.repeat_R[mine]
        fresh_I = np.where((times_I > 0) | ~self.offered_I, -np.inf, self.fresh(customer))
        repeat_I[~self.offered_I] = -np.inf
        score_I = np.where(times_I > 0, repeat_I, fresh_I)
        listed_K = listed(repeat_I[None], fresh_I[None], slots, min(k, items))[0] if items else np.zeros(0, np.int64)
        return [Place(item, float(score_I[item]), int(times_I[item])) for item in listed_K.tolist() if item >= 0]


def by_head(seen: View, head: Mapping[str, Floats], choice: Choice, offered_I: Mask | None = None) -> Window:
    """Return the window of the repeat ranker and the explore ranker, as `rankers.ranked` lists them for all at once."""
    repeat_R = ties(repeat_scores(seen, head, choice), seen.pairs, seen.popular)
    return Window(seen, repeat_R, explore(seen, head, choice), _all(seen) if offered_I is None else offered_I)


def by_habit(seen: View, head: Mapping[str, Floats], choice: Choice, offered_I: Mask | None = None) -> Window:
    """Return the window of what was bought most often, in log, with the explore ranker for what is new."""
    often_R = ties(np.log(seen.pairs.times_R), seen.pairs, seen.popular)
    return Window(seen, often_R, explore(seen, head, choice), _all(seen) if offered_I is None else offered_I)


def plain(seen: View) -> Window:
    """Return the window of `rankers.by_frequency`: frequency, ties and the rest by popularity."""
    often_R = ties(seen.pairs.times_R.astype(np.float64), seen.pairs, seen.popular)
    return Window(seen, often_R, lambda _: seen.popular, _all(seen))


def top(window: Window, asked_N: Whole) -> Whole:
    """Return (N, K) item codes for the customers asked about, -1 where a list is short."""
    found_NK = np.full((len(asked_N), K), -1, dtype=np.int64)
    for row, customer in enumerate(asked_N.tolist()):
        items = [one.item for one in window.best(customer, K, K)]
        found_NK[row, : len(items)] = items
    return found_NK


def _all(seen: View) -> Mask:
    return np.ones(len(seen.book.shelf), dtype=np.bool_)


def explore(seen: View, head: Mapping[str, Floats], choice: Choice) -> Callable[[int], Doubles]:
    """Return the explore ranker as a function from a customer to (I,) scores, as `rankers.explore_scores` has them."""
    found, shelf, customers = seen.pairs, seen.book.shelf, len(seen.book.customers)
    sells_I = (1 - choice.debias) * appeal(seen.popular, seen.buyers, priors(shelf, head))
    starts_U = np.searchsorted(found.customer_R, np.arange(customers + 1))
    bought_UI = csr_array((np.ones(len(found)), found.item_R, starts_U), shape=(customers, len(shelf)))
    weight_I = 1 / np.sqrt(seen.buyers + DAMPING)
    categories = int(shelf.category_I.max(initial=0)) + 1
    total_S = np.bincount(shelf.category_I[found.item_R], minlength=categories).astype(np.float64)
    kinds = int(shelf.kind_I.max(initial=0)) + 1
    total_K = np.bincount(shelf.kind_I[found.item_R], minlength=kinds).astype(np.float64)
    unsold_I, kin_I = seen.buyers == 0, kin(seen.popular, shelf)

    def scores(customer: int) -> Doubles:
        mine = found.item_R[starts_U[customer] : starts_U[customer + 1]]
        hers_I = np.zeros(len(shelf))
        hers_I[mine] = weight_I[mine] ** 2
        near_I = (bought_UI.T @ (bought_UI @ hers_I)) * weight_I / np.sqrt(len(mine) + 1)
        count_S = np.bincount(shelf.category_I[mine], minlength=categories)
        fit_I = SHELF * lift(count_S[None], total_S)[0][shelf.category_I] + NEIGHBOURS * np.log(near_I + 0.05)
        count_K = np.bincount(shelf.kind_I[mine], minlength=kinds)
        new_I = np.where(unsold_I, kin_I + lift(count_K[None], total_K)[0][shelf.kind_I], 0.0)
        found_I: Doubles = sells_I + fit_I + LIKE * likeness(shelf, mine) + new_I
        return found_I

    return scores
