"""The two rankers and the baselines they are held against: a book and a day in, lists of items out.

    repeat    rank . phi(u, i) + how likely the item's kind is bought again, less so the more often she has + popularity
    explore   how the item sells, less so with `debias`, + how it fits what the customer buys; for an item that nobody
              bought yet, how its kind sells and how much of that kind she buys

Only `rank` and the words' weights come from the federation; everything else is counted in the shop, where it ranks.

    U customers   R pairs of customer and item   I items   K places of a list
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from client.use.ranking.book import Book, Whole
from client.use.ranking.features import Doubles, Pairs, pairs
from client.use.ranking.lists import K, listed, popularity, spread, ties
from client.use.ranking.priors import appeal, debut, fit, priors, repeat_logits
from common.ranking import Floats

AGAIN, AGAIN_OFTEN, POPULAR = 1.0, -0.4, 0.2
"""Weights of what a shop knows of its items: public constants, chosen on another month than the one reported."""

Head = Mapping[str, Floats]


@dataclass(frozen=True)
class Choice:
    """A merchant's settings of a list: its places, how many of them repeat, and how far popularity is left out (0 to 1)."""

    k: int = K
    slots: int = K
    debias: float = 0.0


@dataclass(frozen=True)
class View:
    """A shop's book as seen on one day, with what every ranker reads of it."""

    book: Book
    day: int
    pairs: Pairs = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Customers and items."""
        return len(self.book.customers), len(self.book.shelf)

    @cached_property
    def popular(self) -> Doubles:
        """Orders of the last 90 days that held each item."""
        return popularity(self.book, self.day)

    @cached_property
    def buyers(self) -> Doubles:
        """How many customers ever bought each item."""
        return np.bincount(self.pairs.item_R, minlength=self.shape[1]).astype(np.float64)

    @cached_property
    def fits(self) -> Doubles:
        """Return (U, I) how well an item fits a customer, with what is known of one that nobody bought yet."""
        new_UI = debut(self.book, self.pairs, self.popular, self.buyers)
        fits_UI: Doubles = fit(self.book, self.pairs) + new_UI
        return fits_UI

    def unseen(self, score_UI: Doubles) -> Doubles:
        """Return (U, I) the scores with minus infinity for what a customer bought before."""
        fresh_UI = np.broadcast_to(score_UI, self.shape).copy()
        fresh_UI[self.pairs.customer_R, self.pairs.item_R] = -np.inf
        return fresh_UI


def view(book: Book, day: int) -> View:
    """Return the book as seen when `day` began."""
    return View(book, day, pairs(book, day))


def ranked(seen: View, head: Head, choice: Choice = Choice()) -> Whole:
    """Return (U, K) item codes: the repeat ranker's list and the explore ranker's, in the merchant's slots."""
    repeat_UI = spread(seen.pairs, ties(repeat_scores(seen, head, choice), seen.pairs, seen.popular), seen.shape)
    return listed(repeat_UI, explore_scores(seen, head, choice), choice.slots, choice.k)


def repeat_scores(seen: View, head: Head, choice: Choice = Choice()) -> Doubles:
    """Return (R,) the repeat ranker's scores."""
    found, shelf = seen.pairs, seen.book.shelf
    again_R = repeat_logits(found, shelf, priors(shelf, head))[found.item_R]
    habit_R = AGAIN * again_R + AGAIN_OFTEN * again_R * np.log1p(found.times_R)
    popular_R = POPULAR * (1 - 2 * choice.debias) * np.log1p(seen.popular[found.item_R])
    scores: Doubles = found.phi_RF @ head["rank"].astype(np.float64) + habit_R + popular_R
    return scores


def explore_scores(seen: View, head: Head, choice: Choice = Choice()) -> Doubles:
    """Return (U, I) the explore ranker's scores, minus infinity for what a customer bought before."""
    sells_I = appeal(seen.popular, seen.buyers, priors(seen.book.shelf, head))
    return seen.unseen((1 - choice.debias) * sells_I + seen.fits)


# --- baselines ---


def by_popularity(seen: View, popular_I: Doubles | None = None) -> Whole:
    """Return (U, K) what sells most, the same for everybody."""
    score_I = seen.popular if popular_I is None else popular_I
    nobody_UI = np.full(seen.shape, -np.inf)
    return listed(nobody_UI, np.broadcast_to(score_I, seen.shape))


def new_by_popularity(seen: View, popular_I: Doubles | None = None) -> Whole:
    """Return (U, K) what sells most of what a customer never bought."""
    score_I = seen.popular if popular_I is None else popular_I
    return listed(np.full(seen.shape, -np.inf), seen.unseen(score_I))


def by_count(seen: View) -> Whole:
    """Return (U, K) by personal frequency alone, ties by code, filled up by code."""
    return listed(spread(seen.pairs, seen.pairs.times_R.astype(np.float64), seen.shape), seen.unseen(np.zeros((1, 1))))


def by_frequency(seen: View, popular_I: Doubles | None = None) -> Whole:
    """Return (U, K) by personal frequency, ties and the rest by popularity (GP-TopFreq with popularity ties)."""
    return _by(seen, seen.pairs.times_R.astype(np.float64), popular_I)


def by_half_life(seen: View, popular_I: Doubles | None = None) -> Whole:
    """Return (U, K) by purchases that lose half their weight in 90 days, ties and the rest by popularity."""
    return _by(seen, seen.pairs.aged_R, popular_I)


def _by(seen: View, score_R: Doubles, popular_I: Doubles | None) -> Whole:
    tie_I = seen.popular if popular_I is None else popular_I
    return listed(spread(seen.pairs, ties(score_R, seen.pairs, tie_I), seen.shape), seen.unseen(tie_I))
