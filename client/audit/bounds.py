"""What right guesses about canaries disprove: lower bounds on epsilon from one training run. Pure statistics.

Every one of m canaries was in or out by a fair coin. Whoever sees only what is released guesses `r` of the coins and gets
`v` right. Under (epsilon, delta)-differential privacy more than about e**epsilon / (1 + e**epsilon) of them cannot be right
by chance; the largest epsilon that is still too small for what was seen is the lower bound.

    epsilon_one_run    Steinke, Nasr, Jagielski 2023, arXiv:2305.08846, theorem 5.2: any mechanism
    epsilon_fdp        Mahloujifar, Melis, Chaudhuri 2024, arXiv:2410.22235, algorithm 2: mechanisms as good as a Gaussian

A bound is never the loss itself: a better guesser may disprove more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from common.privacy.accountant import gaussian_delta

Floats = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]

SHARE = 1 / 3
"""Of the canaries guessed, half of them from each end; fixed in advance, so that no choice has to be paid for."""

PRECISION = 1e-5
FALSE_ALARMS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class Guesses:
    """How many of `m` coins were guessed, and how many rightly."""

    m: int
    made: int
    right: int


def guess(scores_m: Floats, coins_m: Bits, share: float = SHARE) -> Guesses:
    """Return the guesses "in" for the highest scores and "out" for the lowest, `share` of all canaries together."""
    half = max(1, int(len(scores_m) * share / 2))
    order = np.argsort(scores_m, kind="stable")
    right = int(coins_m[order[-half:]].sum() + (~coins_m[order[:half]]).sum())
    return Guesses(len(scores_m), 2 * half, right)


def epsilon_one_run(guesses: Guesses, alpha: float, delta: float) -> float:
    """Return the largest epsilon that the guesses disprove with confidence 1 - `alpha`; 0 where they disprove none."""
    return _largest(lambda epsilon: one_run_p(guesses, epsilon, delta) <= alpha)


def one_run_p(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Return the chance of so many right guesses under (epsilon, delta)-differential privacy, at most."""
    made, right = guesses.made, guesses.right
    q = 1 / (1 + math.exp(-epsilon))
    beyond = float(special.bdtrc(right - 1, made, q))
    if not delta or not right:
        return min(1.0, beyond)
    near = np.arange(1, right + 1)
    slack = float(np.max((special.bdtrc(right - near - 1, made, q) - beyond) / near))
    return min(1.0, beyond + 2 * guesses.m * delta * max(slack, 0.0))


def epsilon_fdp(guesses: Guesses, alpha: float, delta: float) -> float:
    """Return the largest epsilon whose Gaussian mechanism, the one that is (epsilon, delta)-DP, the guesses disprove."""
    return _largest(lambda epsilon: fdp_disproved(guesses, mu_of(epsilon, delta), alpha))


def fdp_disproved(guesses: Guesses, mu: float, alpha: float) -> bool:
    """Return whether a mu-GDP mechanism gives so many right guesses with a chance of less than `alpha`."""
    m, made, right = guesses.m, guesses.made, guesses.right
    inside, outside = alpha * right / m, alpha * (made - right) / m
    for left in range(right - 1, -1, -1):
        least = max(outside, float(special.ndtr(special.ndtri(inside) - mu)))
        if least == outside:  # then neither changes any more
            break
        inside = min(1.0, inside + left / (made - left) * (least - outside))
        outside = least
    return inside + outside > made / m


def mu_of(epsilon: float, delta: float) -> float:
    """Return the mu whose Gaussian mechanism is exactly (epsilon, delta)-DP (Balle and Wang 2018, arXiv:1805.06530)."""
    low, high = 0.0, 1.0
    while gaussian_delta(high, epsilon) < delta:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if gaussian_delta(middle, epsilon) >= delta else (middle, high)
    return high


def _largest(disproved: Callable[[float], bool]) -> float:
    """Return the largest epsilon below 500 that is disproved, to `PRECISION` from below; 0 where none is."""
    if not disproved(PRECISION):
        return 0.0
    low, high = PRECISION, 1.0
    while high < 500 and disproved(high):
        low, high = high, 2 * high
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if disproved(middle) else (low, middle)
    return low


# --- what the scores look like; description, no proof ---


def area(scores_m: Floats, coins_m: Bits) -> float:
    """Return the area under the ROC curve: the chance that a canary that is in scores above one that is out; 0.5 if none."""
    inside, outside = int(coins_m.sum()), int((~coins_m).sum())
    if not inside or not outside:
        return 0.5
    ranks = stats.rankdata(scores_m)
    return float((ranks[coins_m].sum() - inside * (inside + 1) / 2) / (inside * outside))


def hits_at(scores_m: Floats, coins_m: Bits, false_alarms: float) -> tuple[int, int]:
    """Return (hits, canaries in) of the lowest threshold with at most this rate of false alarms."""
    outside = np.sort(scores_m[~coins_m])[::-1]
    allowed = int(false_alarms * len(outside))
    threshold = outside[allowed] if allowed < len(outside) else -math.inf
    return int((scores_m[coins_m] > threshold).sum()), int(coins_m.sum())


def curve(scores_m: Floats, coins_m: Bits) -> tuple[tuple[float, float], ...]:
    """Return (false alarms, hits) as shares, for the false alarms that a report draws."""
    found = ((rate, hits_at(scores_m, coins_m, rate)) for rate in FALSE_ALARMS)
    return tuple((rate, round(hits / max(total, 1), 4)) for rate, (hits, total) in found)


def proportion(hits: int, total: int, alpha: float = 0.05) -> tuple[float, float]:
    """Return the interval of Clopper and Pearson 1934 for a share, at confidence 1 - `alpha`."""
    low = float(special.betaincinv(hits, total - hits + 1, alpha / 2)) if hits else 0.0
    high = float(special.betaincinv(hits + 1, total - hits, 1 - alpha / 2)) if hits < total else 1.0
    return low, high
