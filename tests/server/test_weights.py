from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from server.weights import BANDS, by_band, by_noise, capped, equal, noise_variance

CHARGE: dict[str, float | int | str] = {
    "sigma": 1.5,
    "rate": 0.1,
    "steps": 4,
    "clip_norm": 0.5,
    "divisor": 64.0,
    "unit": "customer",
}


def test_equal_weights_are_equal() -> None:
    assert equal(3) == [1.0, 1.0, 1.0]


def test_a_declared_band_has_its_weight_and_the_counts_within_a_band_do_not_matter() -> None:
    assert by_band(["small", "medium", "large", "small"]) == [1.0, 3.0, 10.0, 1.0]
    assert list(BANDS.values()) == sorted(BANDS.values())


def test_a_band_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="size band '12873 customers' is none of small, medium, large"):
        by_band(["12873 customers"])


def test_the_variance_of_an_updates_noise_is_what_simulated_steps_show() -> None:
    random = np.random.default_rng(1)
    sigma, clip_norm, steps, divisor, local_rate = 1.5, 0.5, 4, 64.0, 0.8
    noise = random.normal(0, sigma * clip_norm, (steps, 200_000))
    update = -(local_rate * noise / divisor).sum(axis=0)
    assert noise_variance(CHARGE, local_rate) == pytest.approx(update.var(), rel=0.02)


def test_under_a_pull_the_noise_of_early_steps_shrinks_as_simulated_steps_show() -> None:
    charge = {"sigma": 2.0, "clip_norm": 0.5, "steps": 4, "divisor": 3.0}
    rate, pull = 0.8, 0.5
    random = np.random.default_rng(0)
    moved = np.zeros(200_000)
    for _ in range(4):
        moved += -rate * pull * moved + rate * random.normal(0, 2.0 * 0.5, moved.size) / 3.0
    assert noise_variance(charge, rate, pull) == pytest.approx(moved.var(), rel=0.02)
    assert noise_variance(charge, rate, 0.0) == noise_variance(charge, rate)


def test_a_charge_that_lacks_a_number_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="charge: divisor is missing"):
        noise_variance({key: value for key, value in CHARGE.items() if key != "divisor"}, 1.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=6), st.floats(1e-3, 10))
def test_weights_by_noise_have_the_least_variance_of_all_weights(variances: list[float], spread: float) -> None:
    totals = np.asarray(variances) + spread
    best = np.asarray(by_noise(variances, spread))
    best = best / best.sum()
    for seed in range(5):
        other = np.random.default_rng(seed).dirichlet(np.ones(len(totals)))
        assert np.sum(best**2 * totals) <= np.sum(other**2 * totals) * (1 + 1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=8))
def test_less_noise_never_weighs_less_and_nobody_weighs_more_than_k_plus_one_times_another(
    variances: list[float],
) -> None:
    weights = by_noise(variances)
    order = np.argsort(variances)
    assert all(weights[a] >= weights[b] for a, b in itertools.pairwise(order))
    assert max(weights) <= (len(weights) + 1) * min(weights) * (1 + 1e-9)


def test_without_noise_the_weights_are_equal() -> None:
    assert by_noise([0.0, 0.0]) == [1.0, 1.0]
    assert by_noise([1.0, 3.0], spread=0.0) == [1.0, 1.0]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=9), st.floats(0.05, 1))
def test_capped_weights_sum_to_one_keep_their_order_and_pass_no_cap(weights: list[float], cap: float) -> None:
    shares = capped(weights, cap)
    assert sum(shares) == pytest.approx(1)
    assert max(shares) <= max(cap, 1 / len(weights)) * (1 + 1e-9)
    assert all(
        shares[a] <= shares[b] * (1 + 1e-9)
        for a in range(len(weights))
        for b in range(len(weights))
        if weights[a] <= weights[b]
    )


def test_a_merchant_that_declares_a_billion_weighs_no_more_than_the_cap() -> None:
    assert capped([1.0, 1.0, 1.0, 1e9], 0.4) == pytest.approx([0.2, 0.2, 0.2, 0.4])


def test_weights_below_the_cap_stay_as_they_are() -> None:
    assert capped([1.0, 2.0, 3.0], 0.6) == pytest.approx([1 / 6, 2 / 6, 3 / 6])
