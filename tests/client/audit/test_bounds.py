"""The bounds against another implementation's numbers, and against simulated mechanisms whose loss is known."""

from __future__ import annotations

import numpy as np
import pytest

from client.audit.bounds import (
    Guesses,
    area,
    curve,
    epsilon_fdp,
    epsilon_one_run,
    fdp_disproved,
    guess,
    mu_of,
    one_run_p,
    proportion,
)
from common.privacy.accountant import gaussian_delta

REFERENCE = (
    # m, guesses, right, alpha, delta, one run (Steinke et al.), f-DP (Mahloujifar et al.)
    (1000, 200, 200, 0.05, 1e-5, 4.166490, 7.256823),
    (1000, 332, 332, 0.025, 1e-5, 4.457268, 7.856263),
    (1000, 332, 290, 0.025, 1e-5, 1.603915, 2.533359),
    (1000, 332, 310, 0.025, 1e-5, 2.209254, 3.525066),
    (500, 100, 80, 0.05, 1e-6, 0.958239, 1.767266),
    (2000, 600, 420, 0.05, 1e-5, 0.696925, 1.113256),
    (400, 50, 50, 0.01, 1e-5, 2.311884, 3.524083),
    (1000, 332, 170, 0.05, 1e-5, 0.0, 0.0),
)
"""`_epsilon_one_run` and `_epsilon_one_run_fdp` of jax-privacy 2.0.0 (jax_privacy/auditing.py, Apache-2.0), as computed by it."""


@pytest.mark.parametrize(("m", "made", "right", "alpha", "delta", "one_run", "fdp"), REFERENCE)
def test_bounds_are_those_of_jax_privacy(
    m: int, made: int, right: int, alpha: float, delta: float, one_run: float, fdp: float
) -> None:
    found = Guesses(m, made, right)
    assert epsilon_one_run(found, alpha, delta) == pytest.approx(one_run, abs=3e-5)
    assert epsilon_fdp(found, alpha, delta) == pytest.approx(fdp, abs=3e-5)


def test_a_bound_is_the_edge_of_what_is_disproved() -> None:
    found = Guesses(1000, 332, 290)
    one_run, fdp = epsilon_one_run(found, 0.05, 1e-5), epsilon_fdp(found, 0.05, 1e-5)
    assert one_run_p(found, one_run, 1e-5) <= 0.05 < one_run_p(found, one_run + 1e-3, 1e-5)
    assert fdp_disproved(found, mu_of(fdp, 1e-5), 0.05)
    assert not fdp_disproved(found, mu_of(fdp + 1e-3, 1e-5), 0.05)


def test_mu_and_delta_are_each_others_inverse() -> None:
    for epsilon in (0.1, 1.0, 3.4, 20.0):
        assert gaussian_delta(mu_of(epsilon, 1e-5), epsilon) == pytest.approx(1e-5, rel=1e-6)


def simulated(mu: float, seed: int, m: int = 1000) -> Guesses:
    """Guesses from scores of a Gaussian mechanism."""
    random = np.random.default_rng(seed)
    coins_m = random.random(m) < 0.5
    return guess(mu * coins_m + random.standard_normal(m), coins_m)


def test_a_mechanism_is_hardly_ever_disproved_at_its_own_loss() -> None:
    wrong = sum(fdp_disproved(simulated(0.8, seed), 0.8, 0.05) for seed in range(400))
    assert wrong <= 32  # 20 would be 5 %


@pytest.mark.parametrize("mu", [0.6, 0.8])
def test_a_mechanism_four_times_as_leaky_is_disproved_every_time(mu: float) -> None:
    assert all(fdp_disproved(simulated(4 * mu, seed), mu, 0.025) for seed in range(20))


def test_guesses_come_from_both_ends_and_nowhere_else() -> None:
    coins_m = np.array([False, False, True, False, True, True])
    assert guess(np.arange(6.0), coins_m, share=0.7) == Guesses(6, 4, 4)
    assert guess(-np.arange(6.0), coins_m, share=0.7) == Guesses(6, 4, 0)


def test_description_of_scores() -> None:
    coins_m = np.array([True] * 100 + [False] * 100)
    apart = np.concatenate([np.arange(100.0) + 1000, np.arange(100.0)])
    assert area(apart, coins_m) == 1.0
    assert area(-apart, coins_m) == 0.0
    assert area(np.zeros(200), coins_m) == 0.5
    assert curve(apart, coins_m)[0] == (0.01, 1.0)
    assert all(hits == 0.0 for _, hits in curve(np.zeros(200), coins_m))


def test_an_interval_holds_the_share_and_ends_at_the_ends() -> None:
    low, high = proportion(7, 20)
    assert low == pytest.approx(0.15391, abs=1e-5)  # as in statistics tables
    assert high == pytest.approx(0.59219, abs=1e-5)
    assert proportion(0, 20)[0] == 0.0
    assert proportion(20, 20)[1] == 1.0
