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
from client.use.ranking.rankers import by_frequency, ranked, view
from common.ranking import Floats

EXPECTED = 0.005
"""The head's gain in nDCG@10 that is assumed before a shop has looked."""
PATIENCE = 200.0
"""Customers that the assumption counts for."""


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
    ours, plain = score(ranked(seen, head), truth_UI).ndcg_U, score(by_frequency(seen), truth_UI).ndcg_U
    if not len(ours):
        return Verdict(0, 0.0, 0.0, True)
    return Verdict(len(ours), float(ours.mean()), float(plain.mean()), keeps(float((ours - plain).mean()), len(ours)))


def keeps(gain: float, customers: int) -> bool:
    """Return whether a shop with this mean gain over so many customers uses the head.

    >>> keeps(-0.01, 30), keeps(-0.05, 30), keeps(-0.01, 1000)
    (True, False, False)
    """
    return bool(np.average([gain, EXPECTED], weights=[customers, PATIENCE]) >= 0)
