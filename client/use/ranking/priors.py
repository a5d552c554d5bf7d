"""What is known of an item before anybody here bought it, and how a shop's own purchases correct it.

The words' weights come with the released head, so a new item and a new shop are served on their first day. The shop's
own counts are used where it ranks and nowhere else: they are in no feature that the head is trained on, as one
customer's purchases would then move the gradients of others.

    U customers   I items   R pairs of customer and item
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from client.use.ranking.book import Book, Shelf, Whole
from client.use.ranking.features import Doubles, Pairs
from common.ranking import USUAL_GAP, USUAL_REPEAT, Floats

BELIEVED = 15.0
"""Pairs of customer and item that the words' opinion of a kind counts for, against the shop's own."""
UNSEEN = 0.3
"""Orders that an item without any counts for."""
WORDS = 0.3
"""The words' say beside the shop's own sales, in the list of new items."""
DAMPING, SHRINK = 5.0, 10.0
"""Buyers more for every item, and items more for every customer, that likeness and a category's share are shrunk by."""
SHELF, NEIGHBOURS = 0.3, 1.0
"""Weights of how a new item fits a customer: its category among hers, and what customers with books like hers bought."""


@dataclass(frozen=True)
class Priors:
    """What words say of every item, (I,): log share of sales up to a constant, logit of being bought again, log days."""

    popularity_I: Floats
    repeat_I: Floats
    gap_I: Floats


def priors(shelf: Shelf, head: Mapping[str, Floats]) -> Priors:
    """Return what the head's words say of the shelf's items."""
    texts = shelf.texts
    return Priors(
        texts.times(head["popularity"])[shelf.text_I],
        (USUAL_REPEAT + texts.times(head["repeat"]))[shelf.text_I],
        (USUAL_GAP + texts.times(head["gap"]))[shelf.text_I],
    )


def repeat_logits(found: Pairs, shelf: Shelf, said: Priors) -> Doubles:
    """Return (I,) how likely an item is bought again, as a logit above the usual one: its kind's share, shrunk to words.

    A kind is what is alike under other brands and sizes. Of an item's buyers here, those who bought it twice are
    counted; `BELIEVED` such pairs are worth as much as what the words say.
    """
    kinds = int(shelf.kind_I.max(initial=0)) + 1
    kind_R = shelf.kind_I[found.item_R]
    pairs_I = np.bincount(kind_R, minlength=kinds)[shelf.kind_I]
    again_I = np.bincount(kind_R, found.times_R > 1, kinds)[shelf.kind_I]
    words_I = 1 / (1 + np.exp(-said.repeat_I.astype(np.float64)))
    share_I = np.clip((again_I + BELIEVED * words_I) / (pairs_I + BELIEVED), 0.02, 0.98)
    logits: Doubles = np.log(share_I / (1 - share_I)) - USUAL_REPEAT
    return logits


def appeal(recent_I: Doubles, buyers_I: Doubles, said: Priors) -> Doubles:
    """Return (I,) how an item sells to those who never bought it, in log: lately, to how many people ever, and by words."""
    sales: Doubles = 0.5 * np.log(recent_I + UNSEEN) + 0.5 * np.log(buyers_I + UNSEEN) + WORDS * said.popularity_I
    return sales


def fit(book: Book, found: Pairs) -> Doubles:
    """Return (U, I) how well an item fits what a customer buys, in log."""
    fits_UI: Doubles = SHELF * affinity(book, found) + NEIGHBOURS * np.log(neighbours(book, found) + 0.05)
    return fits_UI


def neighbours(book: Book, found: Pairs, damping: float = DAMPING) -> Doubles:
    """Return (U, I) what customers with books like hers bought: item-based cosine over the shop's own pairs.

    Sarwar et al. 2001 (doi:10.1145/371920.372071), computed by way of customers, who are fewer than items; `damping`
    buyers more for every item, so that what one person bought is like nothing.
    """
    bought_UI = np.zeros((len(book.customers), len(book.shelf)))
    bought_UI[found.customer_R, found.item_R] = 1.0
    length_U1 = np.sqrt(bought_UI.sum(1, keepdims=True) + 1)
    bought_UI /= np.sqrt(bought_UI.sum(0) + damping)
    alike_UI: Doubles = (bought_UI @ bought_UI.T) @ bought_UI / length_U1
    return alike_UI


def affinity(book: Book, found: Pairs) -> Doubles:
    """Return (U, I) by how much more a customer buys of an item's category than all do here, in log, shrunk."""
    category_I, customers = book.shelf.category_I, len(book.customers)
    categories = int(category_I.max(initial=0)) + 1
    keys = found.customer_R * categories + category_I[found.item_R]
    count_US = np.bincount(keys, minlength=customers * categories).reshape(customers, categories)
    found_UI: Doubles = lift(count_US, count_US.sum(0).astype(np.float64))[:, category_I]
    return found_UI


def lift(count_US: Whole, total_S: Doubles) -> Doubles:
    """Return (U, S) the log of a customer's share of each category over the shop's, from counts of hers and of all."""
    share_S = (total_S + 0.5) / (total_S.sum() + 0.5 * len(total_S))
    mine_US = (count_US + SHRINK * share_S) / (count_US.sum(1, keepdims=True) + SHRINK)
    found_US: Doubles = np.log(mine_US / share_S)
    return found_US
