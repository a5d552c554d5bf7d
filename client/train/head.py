"""The recommendation head: weights of a customer's own items and of an item's words, trained by private steps.

    rank         score(u, i) = rank . phi(u, i)          listwise softmax over the customer's own past items
    popularity   log share(i) = popularity . text(i)     softmax over the shop's shelf
    repeat       logit of being bought again             logistic regression on the customer's own items
    gap          log days until then                     least squares on the customer's own items

All four begin at zero. Each gradient reads one customer's purchases, the shelf (which is the shop's and no customer's)
and released weights, is clipped on its own and gets noise of its own share; together they are one Gaussian step of the
plan's noise multiplier (`common.ranking.Part.deviation`), drawn as the adapter's: Poisson, each customer on her own.

    N customers   B drawn   C cut dates   I items   F features   X texts   D buckets   M pairs of customer and text
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from client.train.sampling import Randomness, noisy, poisson
from client.use.ranking.book import Book, Whole
from client.use.ranking.features import Doubles, Pairs, pairs
from client.use.ranking.lists import Mask, next_order
from common.privacy.plan import RoundPlan
from common.ranking import BUCKETS, FEATURES, PARTS, USUAL_GAP, USUAL_REPEAT, Floats, Part, Texts

ITEMS = 120
"""Public bound of a customer's row: the items scored at a cut, those bought most often."""

Head = Mapping[str, Floats]


@dataclass(frozen=True)
class HeadData:
    """Every customer of a shop as one row: features, which items exist and which were bought, at each cut.

    The rest is what the words are learnt from. For each of M pairs of customer and text, rows adding up to 1 a customer
    or to 0: `items_M`, the different items she bought; `again_M`, those she bought again. `sold_ND`, `kept_ND` and
    `gaps_ND` are each customer's orders, items bought again and their log gaps, in buckets.
    """

    phi_NCIF: Floats = field(repr=False)
    valid_NCI: Mask = field(repr=False)
    bought_NCI: Mask = field(repr=False)
    customer_M: Whole = field(repr=False)
    text_M: Whole = field(repr=False)
    items_M: Doubles = field(repr=False)
    again_M: Doubles = field(repr=False)
    sold_ND: Floats = field(repr=False)
    kept_ND: Floats = field(repr=False)
    gaps_ND: Floats = field(repr=False)
    shelf_X: Floats = field(repr=False)
    """How many items of the shelf have each text."""
    texts: Texts = field(repr=False)

    def __len__(self) -> int:
        return len(self.phi_NCIF)

    @cached_property
    def places(self) -> Whole:
        """Where the terms of each pair stand in a flat table (N, D)."""
        found: Whole = self.customer_M[:, None] * BUCKETS + self.texts.place_XW[self.text_M]
        return found

    def in_buckets(self, weight_M: npt.NDArray[np.floating]) -> Floats:
        """Return (N, D): each customer's texts, added up with weights."""
        return in_buckets(len(self), self.places, self.texts.value_XW[self.text_M], weight_M)


def in_buckets(customers: int, places_MW: Whole, value_MW: Floats, weight_M: npt.NDArray[np.floating]) -> Floats:
    """Return (N, D) from flat places, values and one weight a row."""
    total = np.bincount(places_MW.ravel(), (value_MW * weight_M[:, None]).ravel(), customers * BUCKETS)
    return total.reshape(customers, BUCKETS).astype(np.float32)


def zero_head() -> dict[str, Floats]:
    """Return the head that every federation begins with."""
    return {name: np.zeros(part.shape, dtype=np.float32) for name, part in PARTS.items()}


def make_head_data(book: Book, cuts: Sequence[int], until: int, items: int = ITEMS) -> HeadData:
    """Return the head's rows: each cut day asks which items the next order within 30 days held, all before `until`."""
    customers = len(book.customers)
    shape = customers, len(cuts), items
    phi = np.zeros((*shape, len(FEATURES)), np.float32)
    valid, bought = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    past = book.before(until)
    for cut, day in enumerate(cuts):
        found, truth_UI = pairs(past, day), next_order(past, day)
        customer_R, place_R, row_R = _first(found, customers, items)
        phi[customer_R, cut, place_R] = found.phi_RF[row_R]
        valid[customer_R, cut, place_R] = True
        bought[customer_R, cut, place_R] = truth_UI[customer_R, found.item_R[row_R]]
    return HeadData(phi, valid, bought, *_words(book, pairs(past, until)))


def _words(book: Book, whole: Pairs) -> tuple[Whole, Whole, Doubles, Doubles, Floats, Floats, Floats, Floats, Texts]:
    """Return the fields of `HeadData` that words are learnt from, in order, from all pairs of customer and item."""
    customers, texts = len(book.customers), book.shelf.texts
    again_R = (whole.times_R > 1).astype(np.float64)
    gap_R = again_R * (np.log(np.maximum(whole.gap_R, 0.5)) - USUAL_GAP)
    size = max(len(texts), 1)
    key_M, of_R = np.unique(whole.customer_R * size + book.shelf.text_I[whole.item_R], return_inverse=True)
    customer_M, text_M = np.divmod(key_M, size)
    places_MW, value_MW = customer_M[:, None] * BUCKETS + texts.place_XW[text_M], texts.value_XW[text_M]

    def part_of(weight_R: npt.NDArray[np.floating], count_R: npt.NDArray[np.floating]) -> Doubles:
        count_N = np.maximum(np.bincount(whole.customer_R, count_R, customers), 1)
        found: Doubles = np.bincount(of_R, weight_R, len(key_M)) / count_N[customer_M]
        return found

    def buckets(weight_M: Doubles) -> Floats:
        return in_buckets(customers, places_MW, value_MW, weight_M)

    one_R, times_R = np.ones(len(whole)), whole.times_R.astype(np.float64)
    return (
        customer_M,
        text_M,
        part_of(one_R, one_R),
        part_of(again_R, again_R),
        buckets(part_of(times_R, times_R)),
        buckets(part_of(again_R, one_R)),
        buckets(part_of(gap_R, again_R)),
        np.bincount(book.shelf.text_I, minlength=len(texts)).astype(np.float32),
        texts,
    )


def _first(found: Pairs, customers: int, items: int) -> tuple[Whole, Whole, Whole]:
    """Return customer, place and row of each customer's first `items` pairs: bought most often, then most recently."""
    order = np.lexsort((found.item_R, found.since_R, -found.times_R, found.customer_R))
    customer_R = found.customer_R[order]
    place_R = np.arange(len(order)) - np.searchsorted(customer_R, np.arange(customers))[customer_R]
    kept = place_R < items
    return customer_R[kept], place_R[kept], order[kept]


class HeadSteps:
    """The head within one round: a noisy step for every draw of customers, with `head_share` of the step's privacy.

    Draws come from outside, so that head and adapter see the same customers in the same step: one Poisson draw, one
    Gaussian step (`client.train.trainer` says why).
    """

    def __init__(
        self,
        head: Head,
        customers: HeadData,
        plan: RoundPlan,
        randomness: Randomness,
        local_rate: float = 1.0,
        head_share: float = 1.0,
    ) -> None:
        self._start, self._customers, self._plan, self._randomness = head, customers, plan, randomness
        self._rate, self._share = local_rate, head_share
        self._now = {name: head[name].astype(np.float64) for name in PARTS}

    def step(self, drawn_B: Whole) -> None:
        """Take one step on the drawn customers; with nobody drawn it is noise alone."""
        found = gradients({name: one.astype(np.float32) for name, one in self._now.items()}, self._customers)
        for name, part in PARTS.items():
            rows_BW = found[name] if len(drawn_B) == len(self._customers) else found[name][drawn_B]
            deviation = part.deviation(self._plan.sigma, self._share)
            total = noisy(clipped_sum(rows_BW, part), deviation, self._randomness)
            self._now[name] = self._now[name] - self._rate * total / self._plan.divisor

    def update(self) -> dict[str, Floats]:
        """Return the noisy update of all steps so far."""
        return {name: (self._now[name] - self._start[name]).astype(np.float32) for name in PARTS}


def train_head(
    head: Head, customers: HeadData, plan: RoundPlan, randomness: Randomness, local_rate: float = 1.0
) -> dict[str, Floats]:
    """Return the noisy update of the head's weights after `plan.steps` private steps from `head`, without an adapter."""
    steps = HeadSteps(head, customers, plan, randomness, local_rate)
    for _ in range(plan.steps):
        steps.step(poisson(len(customers), plan.rate, randomness))
    return steps.update()


def clipped_sum(gradient_BW: Floats, part: Part) -> Doubles:
    """Return (W,) the sum of the rows, each scaled to at most the part's clip norm; a row that is not finite counts zero."""
    with np.errstate(over="ignore", invalid="ignore"):
        norm_B = np.linalg.norm(gradient_BW, axis=1)
    finite_B = np.isfinite(norm_B)
    scale_B = np.minimum(1.0, part.clip_norm / np.maximum(norm_B[finite_B], 1e-12))
    kept_BW = gradient_BW if finite_B.all() else gradient_BW[finite_B]
    total: Doubles = (scale_B.astype(np.float32) @ kept_BW).astype(np.float64)
    return total


def gradients(head: Head, data: HeadData) -> dict[str, Floats]:
    """Return each part's gradients (N, W), one row a customer, of her loss alone.

    All customers' are computed, drawn or not, so that the time says nothing about the draw.
    """
    texts = data.texts
    share_X = data.shelf_X * np.exp(np.clip(texts.times(head["popularity"]), -30, 30))
    share_X = share_X / max(float(share_X.sum()), 1e-12)
    expected_D = np.bincount(texts.place_XW.ravel(), (texts.value_XW * share_X[:, None]).ravel(), BUCKETS)
    hope_X = 1 / (1 + np.exp(-np.clip(texts.times(head["repeat"]) + USUAL_REPEAT, -30, 30)))
    asked_N1 = np.bincount(data.customer_M, data.items_M, len(data))[:, None]
    return {
        "rank": rank_gradients(head["rank"], data),
        "popularity": asked_N1.astype(np.float32) * expected_D.astype(np.float32) - data.sold_ND,
        "repeat": data.in_buckets(data.items_M * hope_X[data.text_M]) - data.kept_ND,
        "gap": data.in_buckets(data.again_M * texts.times(head["gap"])[data.text_M]) - data.gaps_ND,
    }


def rank_gradients(rank: Floats, data: HeadData) -> Floats:
    """Return (N, F), each the mean over the customer's cuts in which something repeats of the listwise softmax gradient."""
    wanted_NC1, length = data.bought_NCI.sum(-1, keepdims=True), math.prod(data.bought_NCI.shape[1:])
    with np.errstate(invalid="ignore", over="ignore"):  # a row that is not finite is left out when it is clipped
        off_NCI = shares(data.phi_NCIF @ rank, data.valid_NCI) - data.bought_NCI / np.maximum(wanted_NC1, 1)
        off_N1L = np.where(wanted_NC1 > 0, off_NCI, 0.0).astype(np.float32).reshape(len(data), 1, length)
        total_NF = (off_N1L @ data.phi_NCIF.reshape(len(data), length, len(rank)))[:, 0]
    found: Floats = total_NF / np.maximum((wanted_NC1[..., 0] > 0).sum(1), 1).astype(np.float32)[:, None]
    return found


def shares(score_NCI: Floats, valid_NCI: Mask) -> Floats:
    """Return the softmax over the items that exist; zeros where a cut has none."""
    shown_NCI = np.where(valid_NCI, score_NCI, -np.inf)
    top_NC1 = np.where(valid_NCI.any(-1), shown_NCI.max(-1, initial=-np.inf), 0.0)[..., None]
    odds_NCI = np.exp(shown_NCI - top_NC1)
    found: Floats = odds_NCI / np.maximum(odds_NCI.sum(-1, keepdims=True), 1e-12)
    return found
