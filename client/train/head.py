"""The recommendation head: weights of a customer's own items and of an item's words, trained by private steps.

    rank         score(u, i) = rank . phi(u, i)          listwise softmax over the customer's own past items
    popularity   log share(i) = popularity . text(i)     softmax over the shop's shelf
    repeat       logit of being bought again             logistic regression on the customer's own items
    gap          log days until then                     least squares on the customer's own items

All four begin at zero. Each gradient reads one customer's purchases, the shelf (which is the shop's and no customer's)
and released weights, is clipped on its own and gets noise of its own share; together they are one Gaussian step of the
plan's noise multiplier (`common.ranking.Part.deviation`), drawn as the adapter's: Poisson, each customer on her own.

    N customers   B drawn   L lists, one a customer and cut date   Q pairs of list and item shown   F features
    X texts   D buckets   M pairs of customer and text   W weights of a part
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from client.train.sampling import Randomness, noisy, poisson
from client.use.ranking.book import Book, Whole
from client.use.ranking.features import Doubles, Pairs, pairs
from client.use.ranking.lists import Mask, next_purchases
from common.privacy.plan import RoundPlan
from common.ranking import BUCKETS, PARTS, USUAL_GAP, USUAL_REPEAT, Floats, Part, Texts

ITEMS = 120
"""Public bound of a customer's row: the items scored at a cut, those bought most often."""
BATCH = 256
"""Customers whose gradients are in memory at once."""

Head = Mapping[str, Floats]


@dataclass(frozen=True)
class HeadData:
    """Every customer of a shop as one row, kept as what is in it: some 60 bytes an item shown and as many an item bought.

    A list is what one customer had bought by one cut: (L,) whose it is, (L + 1,) where its items begin and end, features
    and which were bought next.

    The rest is what the words are learnt from. For each of M pairs of customer and text, parts that add up to 1 a customer
    or to 0: `items_M` of the different items she bought, `again_M` of those she bought again, `sold_M` of her orders; and
    `kept_M`, items bought again as a part of all, `gaps_M`, the log gaps of those, as parts of `again_M`.
    """

    customers: int
    customer_L: Whole = field(repr=False)
    place_L: Whole = field(repr=False)
    phi_QF: Floats = field(repr=False)
    bought_Q: Mask = field(repr=False)
    customer_M: Whole = field(repr=False)
    text_M: Whole = field(repr=False)
    items_M: Floats = field(repr=False)
    again_M: Floats = field(repr=False)
    sold_M: Floats = field(repr=False)
    kept_M: Floats = field(repr=False)
    gaps_M: Floats = field(repr=False)
    shelf_X: Floats = field(repr=False)
    """How many items of the shelf have each text."""
    texts: Texts = field(repr=False)

    def __len__(self) -> int:
        return self.customers

    def between(self, start: int, end: int) -> HeadData:
        """Return the rows of the customers from place `start` on and before `end`; itself where these are all."""
        if start == 0 and end >= self.customers:
            return self
        lists = slice(*np.searchsorted(self.customer_L, (start, end)))
        first, last = self.place_L[lists.start], self.place_L[lists.stop]
        mine = slice(*np.searchsorted(self.customer_M, (start, end)))
        words = ("text_M", "items_M", "again_M", "sold_M", "kept_M", "gaps_M")
        return replace(
            self,
            customers=min(end, self.customers) - start,
            customer_L=self.customer_L[lists] - start,
            place_L=self.place_L[lists.start : lists.stop + 1] - first,
            phi_QF=self.phi_QF[first:last],
            bought_Q=self.bought_Q[first:last],
            customer_M=self.customer_M[mine] - start,
            **{name: getattr(self, name)[mine] for name in words},
        )

    def batches(self, size: int) -> Iterator[tuple[int, HeadData]]:
        """Yield (start, rows) of all customers, `size` at a time."""
        for start in range(0, self.customers, size):
            yield start, self.between(start, start + size)

    @cached_property
    def words(self) -> csr_array:
        """(N D, M): how much every pair of customer and text has of the customer's bucket."""
        place_MW = self.customer_M[:, None] * BUCKETS + self.texts.place_XW[self.text_M]
        value_MW = self.texts.value_XW[self.text_M]
        row_E, column_E = place_MW[value_MW != 0], np.nonzero(value_MW)[0]
        return csr_array((value_MW[value_MW != 0], (row_E, column_E)), (self.customers * BUCKETS, len(self.text_M)))

    def in_buckets(self, weight_M: npt.NDArray[np.floating]) -> Floats:
        """Return (N, D): each customer's texts, added up with weights."""
        found: Floats = (self.words @ weight_M.astype(np.float32)).reshape(self.customers, BUCKETS)
        return found

    @cached_property
    def sold_words(self) -> Floats:
        """Each customer's orders in buckets."""
        return self.in_buckets(self.sold_M)


def zero_head() -> dict[str, Floats]:
    """Return the head that every federation begins with."""
    return {name: np.zeros(part.shape, dtype=np.float32) for name, part in PARTS.items()}


def make_head_data(book: Book, cuts: Sequence[int], until: int, items: int = ITEMS) -> HeadData:
    """Return the head's rows: each cut day asks which items the next order within 30 days held, all before `until`."""
    past, size = book.before(until), max(len(book.shelf), 1)
    cuts_Q, customers_Q, phis, truths = [], [], [], []
    for cut, day in enumerate(cuts):
        found, (whose_P, which_P) = pairs(past, day), next_purchases(past, day)
        row_R = _first(found, len(book.customers), items)
        customer_R, item_R = found.customer_R[row_R], found.item_R[row_R]
        customers_Q.append(customer_R)
        cuts_Q.append(np.full(len(row_R), cut))
        phis.append(found.phi_RF[row_R])
        truths.append(np.isin(customer_R * size + item_R, whose_P * size + which_P))
    list_Q = np.concatenate(customers_Q) * len(cuts) + np.concatenate(cuts_Q)
    order = np.argsort(list_Q, kind="stable")
    list_L, starts_L = np.unique(list_Q[order], return_index=True)
    return HeadData(
        len(book.customers),
        list_L // len(cuts),
        np.append(starts_L, len(list_Q)),
        np.concatenate(phis)[order],
        np.concatenate(truths)[order],
        *_words(book, pairs(past, until)),
    )


def _words(book: Book, whole: Pairs) -> tuple[Whole, Whole, Floats, Floats, Floats, Floats, Floats, Floats, Texts]:
    """Return the fields of `HeadData` that words are learnt from, in order, from all pairs of customer and item."""
    customers, texts = len(book.customers), book.shelf.texts
    again_R = (whole.times_R > 1).astype(np.float64)
    gap_R = again_R * (np.log(np.maximum(whole.gap_R, 0.5)) - USUAL_GAP)
    size = max(len(texts), 1)
    key_M, of_R = np.unique(whole.customer_R * size + book.shelf.text_I[whole.item_R], return_inverse=True)
    customer_M, text_M = np.divmod(key_M, size)

    def part_of(weight_R: npt.NDArray[np.floating], count_R: npt.NDArray[np.floating]) -> Floats:
        count_N = np.maximum(np.bincount(whole.customer_R, count_R, customers), 1)
        return (np.bincount(of_R, weight_R, len(key_M)) / count_N[customer_M]).astype(np.float32)

    one_R, times_R = np.ones(len(whole)), whole.times_R.astype(np.float64)
    return (
        customer_M,
        text_M,
        part_of(one_R, one_R),
        part_of(again_R, again_R),
        part_of(times_R, times_R),
        part_of(again_R, one_R),
        part_of(gap_R, again_R),
        np.bincount(book.shelf.text_I, minlength=len(texts)).astype(np.float32),
        texts,
    )


def _first(found: Pairs, customers: int, items: int) -> Whole:
    """Return which pairs are each customer's first `items`: bought most often, then most recently; customer by customer."""
    order = np.lexsort((found.item_R, found.since_R, -found.times_R, found.customer_R))
    customer_R = found.customer_R[order]
    place_R = np.arange(len(order)) - np.searchsorted(customer_R, np.arange(customers))[customer_R]
    kept: Whole = order[place_R < items]
    return kept


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
        totals = self._clipped_sums(drawn_B)
        for name, part in PARTS.items():
            total = noisy(totals[name], part.deviation(self._plan.sigma, self._share), self._randomness)
            self._now[name] = self._now[name] - self._rate * total / self._plan.divisor

    def _clipped_sums(self, drawn_B: Whole) -> dict[str, Doubles]:
        """Return each part's clipped sum over the drawn customers.

        All customers' gradients are computed, drawn or not, so that the time says nothing about the draw.
        """
        head = {name: one.astype(np.float32) for name, one in self._now.items()}
        totals = {name: np.zeros(part.shape) for name, part in PARTS.items()}
        drawn_N = np.bincount(drawn_B, minlength=len(self._customers)) > 0
        for start, rows in self._customers.batches(BATCH):
            found, here_N = gradients(head, rows), drawn_N[start : start + len(rows)]
            for name, part in PARTS.items():
                totals[name] += clipped_sum(found[name] if here_N.all() else found[name][here_N], part)
        return totals

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
    """Return each part's gradients (N, W), one row a customer, of her loss alone."""
    texts = data.texts
    share_X = data.shelf_X * np.exp(np.clip(texts.times(head["popularity"]), -30, 30))
    share_X = share_X / max(float(share_X.sum()), 1e-12)
    expected_D = np.bincount(texts.place_XW.ravel(), (texts.value_XW * share_X[:, None]).ravel(), BUCKETS)
    hope_X = 1 / (1 + np.exp(-np.clip(texts.times(head["repeat"]) + USUAL_REPEAT, -30, 30)))
    asked_N1 = np.bincount(data.customer_M, data.items_M, len(data))[:, None].astype(np.float32)
    return {
        "rank": rank_gradients(head["rank"], data),
        "popularity": asked_N1 * expected_D.astype(np.float32) - data.sold_words,
        "repeat": data.in_buckets(data.items_M * hope_X[data.text_M] - data.kept_M),
        "gap": data.in_buckets(data.again_M * texts.times(head["gap"])[data.text_M] - data.gaps_M),
    }


def rank_gradients(rank: Floats, data: HeadData) -> Floats:
    """Return (N, F), each the mean over the customer's lists in which something repeats of the listwise softmax gradient."""
    total_NF, starts_L = np.zeros((len(data), len(rank)), np.float32), data.place_L[:-1]
    if not len(starts_L):
        return total_NF
    length_L = np.diff(data.place_L)
    wanted_L = np.add.reduceat(data.bought_Q.astype(np.float32), starts_L)
    asked_L = (wanted_L > 0).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # a row that is not finite is left out when it is clipped
        off_Q = shares(data.phi_QF @ rank, data.place_L) - data.bought_Q / np.repeat(np.maximum(wanted_L, 1), length_L)
        off_LF = np.add.reduceat(off_Q[:, None] * data.phi_QF, starts_L)
        np.add.at(total_NF, data.customer_L, off_LF * asked_L[:, None])
    asked_N = np.bincount(data.customer_L, asked_L, len(data))
    found: Floats = total_NF / np.maximum(asked_N, 1).astype(np.float32)[:, None]
    return found


def shares(score_Q: Floats, place_L: Whole) -> Floats:
    """Return the softmax of every list's scores; list l is what stands from `place_L[l]` to `place_L[l + 1]`."""
    starts_L, length_L = place_L[:-1], np.diff(place_L)
    odds_Q = np.exp(score_Q - np.repeat(np.maximum.reduceat(score_Q, starts_L), length_L))
    found: Floats = odds_Q / np.repeat(np.add.reduceat(odds_Q, starts_L), length_L)
    return found
