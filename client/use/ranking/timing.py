"""Who is due: how likely a customer orders within the next days, from when she ordered before.

BG/NBD (Fader, Hardie, Lee 2005, Marketing Science 24(2)): while a customer is with the shop, she orders at a rate of
her own, Gamma over customers; after each order she may stay away for good, with a chance of her own, Beta over customers.

    U customers   x orders after the first   t days from first to last order   T days from first order to today
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.use.ranking.book import Book, Whole
from client.use.ranking.features import Doubles, orders

USUAL_DAYS = 7.0
"""The rhythm of a shop nobody came back to yet."""
SHAPE, GAPS = 1.0, 2.0
LEAVES, STAYS = 0.3, 3.0
"""Beta(LEAVES, STAYS): about one customer in eleven does not come back after an order."""


@dataclass(frozen=True)
class Timing:
    """Orders of every customer as seen on one day: x, t and T (U,), in days."""

    again_U: Whole
    last_U: Whole
    known_U: Whole


def timing(book: Book, day: int) -> Timing:
    """Return what `book` says of every customer's orders before `day`; a day counts as one order."""
    past = book.before(day)
    _, orders_U, first_U = orders(past)
    last_U = np.zeros(len(book.customers), dtype=np.int64)
    np.maximum.at(last_U, past.customer_P, past.day_P)
    came_U = orders_U > 0
    return Timing(np.maximum(orders_U - 1, 0), (last_U - first_U) * came_U, (day - first_U) * came_U)


def rhythm(found: Timing) -> float:
    """Return the shop's median of its customers' mean days between orders."""
    back = found.again_U > 0
    return float(np.median(found.last_U[back] / found.again_U[back])) if back.any() else USUAL_DAYS


def due(found: Timing, within: int, gap: float | None = None) -> Doubles:
    """Return (U,) the chance of at least one order within the next `within` days; 0 for who never ordered.

    The prior's rate is one order in `GAPS` of the shop's usual gaps, worth `SHAPE` orders; the customer's own count
    decides soon. Equations 4 and 5 of the paper, with the rate's posterior Gamma(r + x, alpha + T).
    """
    alpha = GAPS * max(rhythm(found) if gap is None else gap, 0.5)
    x, back = found.again_U.astype(np.float64), found.again_U > 0
    odds_U = LEAVES / (STAYS + np.maximum(x, 1) - 1) * ((alpha + found.known_U) / (alpha + found.last_U)) ** (SHAPE + x)
    alive_U = 1 / (1 + np.where(back, odds_U, 0.0))
    none_U = ((alpha + found.known_U) / (alpha + found.known_U + within)) ** (SHAPE + x)
    chance: Doubles = np.where(found.known_U > 0, alive_U * (1 - none_U), 0.0)
    return chance
