"""phi: what a shop knows of a customer and an item that she bought before, as seen on one day.

A row reads the customer's own purchases before the day, the item's name and public constants, and nothing of other
customers: the gradient of one customer does not change when another joins. Repeat purchases carry most of what a next
basket holds (Ariannezhad et al. 2022, ReCANet, SIGIR), frequency with recency most of what can be known of them
(Hu et al. 2020, TIFU-KNN, arXiv:2006.00556).

    P purchases   R pairs of customer and item   F features   U customers   I items
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.use.ranking.book import Book, Whole
from common.ranking import FEATURES, Floats

Doubles = npt.NDArray[np.float64]

LIMIT = 4.0
WEEK, PRIOR_DAYS = 7, 30


@dataclass(frozen=True)
class Pairs:
    """Every customer with every item she bought before the day: codes, phi (R, F), and how often and when."""

    customer_R: Whole = field(repr=False)
    item_R: Whole = field(repr=False)
    phi_RF: Floats = field(repr=False)
    times_R: Whole = field(repr=False)
    since_R: Whole = field(repr=False)
    gap_R: Doubles = field(repr=False)
    """Mean days between two purchases; 0 after a single one."""
    aged_R: Doubles = field(repr=False)
    """Purchases that lose half their weight in 90 days."""

    def __len__(self) -> int:
        return len(self.customer_R)


def pairs(book: Book, day: int) -> Pairs:
    """Return the pairs as seen on `day`, customer by customer."""
    past = book.before(day)
    size = max(len(book.shelf), 1)
    key_R, of_P = np.unique(past.customer_P * size + past.item_P, return_inverse=True)
    customer_R, item_R = np.divmod(key_R, size)
    place_P, orders_U, first_U = orders(past)
    back_P = orders_U[past.customer_P] - 1 - place_P
    ago_P = (day - past.day_P).astype(np.float64)

    def total(weight_P: npt.NDArray[np.floating]) -> Doubles:
        added: Doubles = np.bincount(of_P, weight_P, len(key_R)).astype(np.float64)
        return added

    times_R = np.bincount(of_P, minlength=len(key_R))
    since_R, began_R = np.full(len(key_R), 1 << 20), np.zeros(len(key_R), dtype=np.int64)
    np.minimum.at(since_R, of_P, day - past.day_P)
    np.maximum.at(began_R, of_P, day - past.day_P)
    known_R = times_R > 1
    gap_R = np.where(known_R, (began_R - since_R) / np.maximum(times_R - 1, 1), 0.0)
    overdue_R = np.where(known_R, np.clip(np.log((since_R + 1) / np.maximum(gap_R, 0.5)), -3, 3), 0.0)
    seen_R = (day - first_U)[customer_R]
    aged_R = total(0.5 ** (ago_P / 90))
    kind_R, kind_since_R, shelf_R = _kin(past, day, customer_R, item_R)
    columns = (
        np.log1p(times_R),
        np.log(total(0.9**back_P) + 0.05),
        np.log(total(0.6**back_P) + 0.01) / 2,
        np.log(total(0.5 ** (ago_P / 30)) + 0.01) / 2,
        np.log(aged_R + 0.05),
        np.log(times_R / orders_U[customer_R] + 0.01),
        np.log1p(since_R) / 3,
        overdue_R,
        overdue_R**2 / 3,
        known_R.astype(np.float64),
        np.log(-np.expm1(-WEEK * times_R / (seen_R + PRIOR_DAYS))) / 2,
        np.log1p(kind_R - times_R) / 2,
        np.log1p(kind_since_R) / 3,
        (shelf_R - times_R) / orders_U[customer_R],
    )
    phi_RF = np.clip(np.stack(columns, 1), -LIMIT, LIMIT).astype(np.float32).reshape(-1, len(FEATURES))
    return Pairs(customer_R, item_R, phi_RF, times_R, since_R, gap_R, aged_R)


def orders(book: Book) -> tuple[Whole, Whole, Whole]:
    """Return (P,) the place of a purchase's order among its customer's, (U,) how many orders, (U,) the first day."""
    customers = len(book.customers)
    new_P = np.ones(len(book.day_P), dtype=np.bool_)
    new_P[1:] = (np.diff(book.customer_P) != 0) | (np.diff(book.day_P) != 0)
    orders_U = np.bincount(book.customer_P[new_P], minlength=customers)
    starts_U = np.concatenate([[0], np.cumsum(orders_U)[:-1]])
    first_U = np.zeros(customers, dtype=np.int64)
    first_U[book.customer_P[::-1]] = book.day_P[::-1]
    return np.cumsum(new_P) - 1 - starts_U[book.customer_P], orders_U, first_U


def _kin(past: Book, day: int, customer_R: Whole, item_R: Whole) -> tuple[Whole, Whole, Whole]:
    """Return for every pair how often its kind was bought, how many days ago last, and how often its category."""
    kind_I, category_I = past.shelf.kind_I, past.shelf.category_I
    kinds, categories = int(kind_I.max(initial=0)) + 1, int(category_I.max(initial=0)) + 1
    customers = len(past.customers)
    kind_P = past.customer_P * kinds + kind_I[past.item_P]
    count_K = np.bincount(kind_P, minlength=customers * kinds)
    last_K = np.zeros(customers * kinds, dtype=np.int64)
    np.maximum.at(last_K, kind_P, past.day_P)
    count_S = np.bincount(past.customer_P * categories + category_I[past.item_P], minlength=customers * categories)
    kind_R, shelf_R = customer_R * kinds + kind_I[item_R], customer_R * categories + category_I[item_R]
    return count_K[kind_R], day - last_K[kind_R], count_S[shelf_R]
