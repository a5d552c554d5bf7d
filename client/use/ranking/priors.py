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
from common.ranking import BUCKETS, USUAL_GAP, USUAL_REPEAT, Floats

BELIEVED = 15.0
"""Pairs of customer and item that the words' opinion of a kind counts for, against the shop's own."""
UNSEEN = 0.3
"""Orders that an item without any counts for."""
WORDS = 0.3
"""The words' say beside the shop's own sales, in the list of new items."""
DAMPING, SHRINK = 5.0, 10.0
"""Buyers more for every item, and items more for every customer, that likeness and a category's share are shrunk by."""
SHELF, NEIGHBOURS, LIKE = 0.3, 1.0, 2.0
"""Weights of how a new item fits a customer: its category among hers, what customers with books like hers bought, and how
alike its words are to those of what she bought."""
KIN = 2.0, 3.0
"""Items more for every kind, and for every category, that its sales an item are shrunk by: to its category's, to the shop's."""
FAINT = 0.01
"""Orders an item more for every kind, so that a shop without sales has an opinion of none."""


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
    starts_U = np.searchsorted(found.customer_R, np.arange(1, len(book.customers)))
    alike_UI = np.stack([likeness(book.shelf, mine) for mine in np.split(found.item_R, starts_U)])
    near_UI = np.log(neighbours(book, found) + 0.05)
    fits_UI: Doubles = SHELF * affinity(book, found) + NEIGHBOURS * near_UI + LIKE * alike_UI
    return fits_UI


def likeness(shelf: Shelf, items: Whole) -> Doubles:
    """Return (I,) how alike every item's words are to those of `items` together: the cosine of their vectors."""
    texts, text_M = shelf.texts, shelf.text_I[items]
    whole_D = np.bincount(texts.place_XW[text_M].ravel(), texts.value_XW[text_M].ravel(), BUCKETS)
    alike_X = texts.times((whole_D / max(float(np.linalg.norm(whole_D)), 1e-6)).astype(np.float32))
    found: Doubles = alike_X[shelf.text_I].astype(np.float64)
    return found


def kin(recent_I: Doubles, shelf: Shelf) -> Doubles:
    """Return (I,) how the items of each item's kind sell here, above the shop's mean, in log: for one nobody bought yet.

    Sales an item of the kind, shrunk to its category's, and those to the shop's.
    """
    (few, more), usual = KIN, float(recent_I.mean()) if len(recent_I) else 0.0
    category_I, kind_I = shelf.category_I, shelf.kind_I

    def shrunk(code_I: Whole, weight: float, to_I: Doubles | float) -> Doubles:
        sales_I = np.bincount(code_I, recent_I, minlength=1)[code_I] + weight * to_I
        each_I: Doubles = sales_I / (np.bincount(code_I, minlength=1)[code_I] + weight)
        return each_I

    each_I = shrunk(kind_I, few, shrunk(category_I, more, usual))
    found: Doubles = np.log((each_I + FAINT) / (usual + FAINT))
    return found


def debut(book: Book, found: Pairs, recent_I: Doubles, buyers_I: Doubles) -> Doubles:
    """Return (U, I) how an item that nobody bought yet will do with a customer, in log; 0 for any other.

    How its kind sells here, and by how much more she buys of that kind than all do.
    """
    kind_I, customers = book.shelf.kind_I, len(book.customers)
    kinds = int(kind_I.max(initial=0)) + 1
    keys = found.customer_R * kinds + kind_I[found.item_R]
    count_UK = np.bincount(keys, minlength=customers * kinds).reshape(customers, kinds)
    hers_UI = lift(count_UK, count_UK.sum(0).astype(np.float64))[:, kind_I]
    will_UI: Doubles = np.where(buyers_I == 0, kin(recent_I, book.shelf) + hers_UI, 0.0)
    return will_UI


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
    """Return (U, S) the log of a customer's share of each code over the shop's, from counts of hers and of all."""
    share_S = (total_S + 0.5) / (total_S.sum() + 0.5 * len(total_S))
    mine_US = (count_US + SHRINK * share_S) / (count_US.sum(1, keepdims=True) + SHRINK)
    found_US: Doubles = np.log(mine_US / share_S)
    return found_US
