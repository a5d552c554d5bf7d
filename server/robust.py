"""What protects a round from merchants that send harm: screens of whole replies, and centres that no few can move.

A screen reads all inner products of the merchants' changes, a K x K matrix, so it works in whatever geometry a method adds
up in: factors, or products B A. A centre takes the mean's place, number by number, on the coordinates of that geometry.
The updates are private already, so all of this is post-processing.

    K replies      f of them may lie      n numbers in an update
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.errors import UserError
from server.lowrank import Matrix

Status = Literal["accepted", "clipped", "set aside"]


@dataclass(frozen=True)
class Judgement:
    """What becomes of one reply: `factor` multiplies its change, 0 for a reply set aside; `reason` is one line."""

    status: Status
    factor: float
    reason: str = ""


ACCEPTED = Judgement("accepted", 1.0)

MARGIN = 1.1
"""How far above the round's median an update may be before `norm` shortens it."""

Screen = Callable[[Matrix], list[Judgement]]
"""Takes the K x K inner products of the changes."""
Centre = Callable[[Matrix], tuple[Matrix, Matrix]]
"""Takes K x n numbers; returns n numbers, and for every reply how many of its numbers were left out."""


@dataclass(frozen=True)
class Robust:
    """One robust rule: a screen, a centre, or neither. A centre gives every reply one voice, whatever its weight."""

    name: str
    source: str
    screen: Screen | None = None
    centre: Centre | None = None


def tolerated(replies: int, liars: float) -> int:
    """Return how many of `replies` are taken for possible liars: the share, rounded down."""
    return int(replies * liars + 1e-9)


def norms(gram: Matrix) -> Matrix:
    """Return the norm of every change."""
    return np.asarray(np.sqrt(np.maximum(np.diag(gram), 0.0)))


def norm_bound(gram: Matrix, limit: float = 0.0) -> list[Judgement]:
    """Return verdicts that scale every change down to norm `limit`; 0 takes a little more than this round's median.

    Sun et al. 2019, arXiv:1911.07963: one merchant then moves the mean by at most its weight times the limit. Honest
    updates under equal noise are almost equally long, as noise is most of them; the margin leaves them as they are.
    """
    lengths = norms(gram)
    bound = limit or MARGIN * float(np.median(lengths))
    return [
        ACCEPTED
        if length <= bound
        else Judgement("clipped", bound / length, f"update of norm {length:.3g}, clipped to {bound:.3g}")
        for length in lengths
    ]


def multi_krum(gram: Matrix, liars: float) -> list[Judgement]:
    """Return verdicts that set the f least central replies aside.

    A reply's score is the sum of squared distances to its K - f - 2 nearest; the K - f lowest scores stay. Blanchard et
    al. 2017, arXiv:1703.02757, who need K >= 2 f + 3: where the replies are too few for f, f is lowered to what they bear.
    """
    replies = len(gram)
    f = max(0, min(tolerated(replies, liars), (replies - 3) // 2))
    if f == 0:
        return [ACCEPTED] * replies
    scores = krum_scores(gram, f)
    aside = set(np.argsort(scores, kind="stable")[replies - f :].tolist())
    middle = float(np.median(scores))
    return [
        Judgement("set aside", 0.0, f"far from the others: score {score:.3g}, the median is {middle:.3g}")
        if place in aside
        else ACCEPTED
        for place, score in enumerate(scores.tolist())
    ]


def krum_scores(gram: Matrix, f: int) -> Matrix:
    """Return for every reply the sum of squared distances to its K - f - 2 nearest others."""
    squares = np.diag(gram)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0.0)
    np.fill_diagonal(distances, np.inf)
    return np.asarray(np.sort(distances, axis=1)[:, : len(gram) - f - 2].sum(axis=1))


def trimmed_mean(values: Matrix, liars: float) -> tuple[Matrix, Matrix]:
    """Return the mean without the f largest and the f smallest of every number, and how often each reply was left out.

    Yin et al. 2018, arXiv:1803.01498. Every reply has one voice whatever its weight.
    """
    replies = len(values)
    f = min(tolerated(replies, liars), (replies - 1) // 2)
    order = np.argsort(values, axis=0, kind="stable")
    middle = np.take_along_axis(values, order[f : replies - f], axis=0).mean(axis=0)
    outside = np.concatenate([order[:f], order[replies - f :]])
    return middle, np.bincount(outside.ravel(), minlength=replies).astype(np.float64)


def median(values: Matrix) -> tuple[Matrix, Matrix]:
    """Return the median of every number, and how often each reply was not in the middle (Yin et al. 2018)."""
    return trimmed_mean(values, 0.5)


def judged(left_out: Matrix, numbers: int) -> list[Judgement]:
    """Return verdicts for a centre: `left_out` of each reply's `numbers` were not used.

    An honest reply is left out about as often as the average reply; one that is left out everywhere had no part at all.
    """
    if numbers == 0 or not left_out.any():
        return [ACCEPTED] * len(left_out)
    usual = float(left_out.mean()) / numbers
    return [_judged(float(one) / numbers, usual) for one in left_out]


def _judged(share: float, usual: float) -> Judgement:
    reason = f"{share:.0%} of its numbers left out; the average is {usual:.0%}"
    if share == 0:
        return ACCEPTED
    return Judgement("set aside" if share == 1 else "clipped", 1 - share, reason)


PLAIN = Robust("none", "the weighted mean; one merchant can move it anywhere")

ROBUST: Mapping[str, Callable[[float, float], Robust]] = {
    "none": lambda liars, limit: PLAIN,
    "norm": lambda liars, limit: Robust(
        "norm", "Sun et al. 2019, arXiv:1911.07963", screen=lambda gram: norm_bound(gram, limit)
    ),
    "krum": lambda liars, limit: Robust(
        "krum", "Blanchard et al. 2017, arXiv:1703.02757", screen=lambda gram: multi_krum(gram, liars)
    ),
    "trimmed": lambda liars, limit: Robust(
        "trimmed", "Yin et al. 2018, arXiv:1803.01498", centre=lambda values: trimmed_mean(values, liars)
    ),
    "median": lambda liars, limit: Robust("median", "Yin et al. 2018, arXiv:1803.01498", centre=median),
}


def robust(name: str, liars: float = 0.2, limit: float = 0.0) -> Robust:
    """Return the robust rule called `name`; raise `UserError` for a name, share or limit that cannot be.

    `liars`: the share of merchants that may lie, for `krum` and `trimmed`; `limit`: the norm for `norm`, 0 for the median.
    """
    if name not in ROBUST:
        raise UserError(f"robust = {name!r} is none of {', '.join(ROBUST)}")
    if not 0 <= liars < 0.5:
        raise UserError(f"liars = {liars}: a share from 0 to below 0.5; where half of the merchants lie nothing helps")
    if not limit >= 0:
        raise UserError(f"limit = {limit}: a norm above 0, or 0 for a tenth above the median of the round")
    return ROBUST[name](liars, limit)
