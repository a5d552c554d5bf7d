"""What an attacker measures stays below what the accountant claims: RDP >= PLD >= an empirical lower bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from common.privacy.accountant import Setting, epsilon, epsilon_rdp

DELTA, TRIALS, FAILURE = 1e-5, 40_000, 0.01


def sums(
    sigma: float, rate: float, steps: int, present: bool, seed: int
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return what an attacker sees of a canary of norm one: the sum of all noisy steps along it, many times over."""
    random = np.random.default_rng(seed)
    drawn = random.binomial(steps, rate, TRIALS) if present else np.zeros(TRIALS)
    return drawn + sigma * math.sqrt(steps) * random.standard_normal(TRIALS)


def lower_bound(sigma: float, rate: float, steps: int) -> float:
    """Return epsilon's lower bound at confidence 0.98: threshold on one half, Clopper-Pearson on the other."""
    inside, outside = sums(sigma, rate, steps, True, 1), sums(sigma, rate, steps, False, 2)
    half = TRIALS // 2
    thresholds = np.quantile(outside[:half], [0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999])
    best = max(thresholds, key=lambda cut: _bound(inside[:half] > cut, outside[:half] > cut))
    return _bound(inside[half:] > best, outside[half:] > best)


def _bound(
    hits: np.ndarray[tuple[int], np.dtype[np.bool_]], alarms: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> float:
    count = len(hits)
    low = stats.beta.ppf(FAILURE, hits.sum(), count - hits.sum() + 1)
    high = stats.beta.ppf(1 - FAILURE, alarms.sum() + 1, count - alarms.sum())
    return math.log(max((low - DELTA) / high, 1e-9))


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"), [(1.0, 1.0, 1), (2.0, 1.0, 8), (1.0, 0.1, 60), (0.8, 0.5, 4), (5.0, 1.0, 40)]
)
def test_an_attack_never_measures_more_than_is_claimed(sigma: float, rate: float, steps: int) -> None:
    charge = (Setting(sigma, rate, steps),)
    assert lower_bound(sigma, rate, steps) <= epsilon(charge, DELTA) <= epsilon_rdp(charge, DELTA)


def test_planted_fault_an_attack_on_a_quarter_of_the_noise_measures_more_than_is_claimed() -> None:
    assert lower_bound(4.0 / 4, 1.0, 8) > epsilon((Setting(4.0, 1.0, 8),), DELTA)
    assert lower_bound(2.0, 1.0, 8) > 0.5
