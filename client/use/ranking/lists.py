"""Lists: what to show a customer, from two rankers and a merchant's number of slots for each.

The repeat ranker orders what the customer bought before, the explore ranker what she did not. One softmax over both
measured worse on real purchases than two lists with fixed slots.

    U customers   I items   K places of a list
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.use.ranking.book import Book, Whole
from client.use.ranking.features import Doubles, Pairs

Mask = npt.NDArray[np.bool_]

POPULAR_DAYS = 90
TARGET_DAYS = 30
K = 10


def popularity(book: Book, day: int, days: int = POPULAR_DAYS) -> Doubles:
    """Return (I,) in how many orders of the `days` before `day` each item was."""
    held: Doubles = np.bincount(book.between(day - days, day).item_P, minlength=len(book.shelf)).astype(np.float64)
    return held


def spread(pairs: Pairs, score_R: npt.NDArray[np.floating], shape: tuple[int, int]) -> Doubles:
    """Return (U, I) scores, minus infinity for what a customer never bought."""
    score_UI = np.full(shape, -np.inf)
    score_UI[pairs.customer_R, pairs.item_R] = score_R
    return score_UI


def ties(score_R: npt.NDArray[np.floating], pairs: Pairs, popular_I: Doubles, width: float = 1e-6) -> Doubles:
    """Return the scores with popularity deciding between equals: it adds less than `width`."""
    share_I = popular_I / (popular_I.max(initial=0) + 1)
    found: Doubles = score_R + width * share_I[pairs.item_R]
    return found


def listed(repeat_UI: Doubles, explore_UI: Doubles, slots: int = K, k: int = K) -> Whole:
    """Return (U, K) item codes: the best `slots` bought before, then the best new ones; what is short fills up.

    Both are scores with minus infinity for an item that is not in that list. -1 stands where nothing is left.
    """
    repeat_UK, known_UK = _best(repeat_UI, k)
    explore_UK, new_UK = _best(explore_UI, k)
    first = np.where(known_UK & (np.arange(repeat_UK.shape[1]) < slots), 0, np.where(known_UK, 2, 3))
    keys = np.concatenate([first, np.where(new_UK, 1, 3)], 1)
    order = np.argsort(keys, axis=1, kind="stable")[:, :k]
    items = np.where(np.concatenate([known_UK, new_UK], 1), np.concatenate([repeat_UK, explore_UK], 1), -1)
    found: Whole = np.take_along_axis(items, order, 1)
    return found


def _best(score_UI: Doubles, k: int) -> tuple[Whole, npt.NDArray[np.bool_]]:
    """Return (U, k) the best items, the best first, and which of them have a score at all."""
    k = min(k, score_UI.shape[1])
    part = np.sort(np.argpartition(-score_UI, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(score_UI, part, 1), axis=1, kind="stable")
    best = np.take_along_axis(part, order, 1)
    return best, np.isfinite(np.take_along_axis(score_UI, best, 1))


def next_order(book: Book, day: int, days: int = TARGET_DAYS) -> Mask:
    """Return (U, I): what each customer's first order of the `days` from `day` on held."""
    truth_UI = np.zeros((len(book.customers), len(book.shelf)), dtype=np.bool_)
    truth_UI[next_purchases(book, day, days)] = True
    return truth_UI


def next_purchases(book: Book, day: int, days: int = TARGET_DAYS) -> tuple[Whole, Whole]:
    """Return customer and item of every purchase in each customer's first order of the `days` from `day` on."""
    later = book.between(day, day + days)
    first_U = np.full(len(book.customers), 1 << 30)
    np.minimum.at(first_U, later.customer_P, later.day_P)
    now_P = later.day_P == first_U[later.customer_P]
    return later.customer_P[now_P], later.item_P[now_P]


@dataclass(frozen=True)
class Scores:
    """Recall@K and nDCG@K of every customer who was asked about, (U,) each, and which they are."""

    customer_U: Whole
    recall_U: Doubles
    ndcg_U: Doubles


def score(listed_UK: Whole, truth_UI: Mask) -> Scores:
    """Return recall and nDCG of every customer with a truth; the ideal gain is cut at min(K, |truth|).

    The same definitions as `common.metrics.recall_at` and `ndcg_at`, for all customers at once.
    """
    wanted_U = truth_UI.sum(1)
    asked_U = np.flatnonzero(wanted_U)
    hit_UK = np.take_along_axis(truth_UI, np.maximum(listed_UK, 0), 1)[asked_U] & (listed_UK[asked_U] >= 0)
    gain_K = 1 / np.log2(np.arange(listed_UK.shape[1]) + 2)
    ideal_U = np.cumsum(gain_K)[np.minimum(wanted_U[asked_U], len(gain_K)) - 1]
    return Scores(asked_U, hit_UK.sum(1) / wanted_U[asked_U], (hit_UK * gain_K).sum(1) / ideal_U)
