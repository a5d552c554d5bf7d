"""Which ranker a shop uses: the federation's head, or plain frequency where its own last 30 days say so.

The comparison reads the shop's rows, and its result stays in the shop. With few customers it is mostly chance, so it is
shrunk towards what the head gained elsewhere; that makes a loss rarer, no method can rule it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from client.use.ranking.book import Book
from client.use.ranking.lists import TARGET_DAYS, next_order, score
from client.use.ranking.rankers import Choice, view
from client.use.ranking.window import by_head, plain, top
from common.ranking import Floats

EXPECTED = 0.005
"""The head's gain in nDCG@10 that is assumed before a shop has looked."""
PATIENCE = 200.0
"""Customers that the assumption counts for."""
ASKED = 500
"""Customers that are looked at, evenly spread: more would move the verdict by less than the assumption does."""


@dataclass(frozen=True)
class Verdict:
    """What a shop's last 30 days say: nDCG@10 of both over its customers who ordered, and whether the head is used."""

    customers: int
    head: float
    frequency: float
    use_head: bool


def judge(book: Book, day: int, head: Mapping[str, Floats]) -> Verdict:
    """Return the verdict as of `day`: both rankers as they would have ranked 30 days before, on what was then ordered."""
    then = day - TARGET_DAYS
    past = book.before(day)
    seen, truth_UI = view(past, then), next_order(past, then)
    asked_N = np.flatnonzero(truth_UI.any(1))
    asked_N = asked_N[np.arange(min(ASKED, len(asked_N))) * len(asked_N) // max(min(ASKED, len(asked_N)), 1)]
    if not len(asked_N):
        return Verdict(0, 0.0, 0.0, True)
    windows = by_head(seen, head, Choice()), plain(seen)
    ours, simple = (score(top(one, asked_N), truth_UI[asked_N]).ndcg_U for one in windows)
    gain = float((ours - simple).mean())
    return Verdict(len(ours), float(ours.mean()), float(simple.mean()), keeps(gain, len(ours)))


def keeps(gain: float, customers: int) -> bool:
    """Return whether a shop with this mean gain over so many customers uses the head.

    >>> keeps(-0.01, 30), keeps(-0.05, 30), keeps(-0.01, 1000)
    (True, False, False)
    """
    return bool(np.average([gain, EXPECTED], weights=[customers, PATIENCE]) >= 0)
