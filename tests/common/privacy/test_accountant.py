from __future__ import annotations

import math
import time
import warnings

import pytest
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.rdp import rdp_privacy_accountant
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.privacy import accountant
from common.privacy.accountant import Setting, epsilon, epsilon_pld, epsilon_rdp

BASE = Setting(1.0, 0.02, 500)

TEN = [
    Setting(0.6, 0.01, 100),
    Setting(1.0, 0.01, 1000),
    Setting(2.0, 0.01, 5000),
    Setting(0.8, 0.02, 1000),
    Setting(1.0, 0.05, 100),
    Setting(1.5, 0.05, 1000),
    Setting(0.7, 0.041, 18),
    Setting(2.0, 0.1, 100),
    Setting(4.0, 1.0, 8),
    Setting(1.0, 0.5, 3),
]


@pytest.mark.parametrize("setting", TEN)
def test_epsilon_is_that_of_dp_accounting(setting: Setting) -> None:
    alone = privacy_loss_distribution.from_gaussian_mechanism(
        setting.sigma, sampling_prob=setting.rate, value_discretization_interval=1e-3
    )
    expected = alone.self_compose(setting.steps).get_epsilon_for_delta(1e-5)
    assert epsilon([setting], 1e-5) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("setting", "printed"),
    [
        (Setting(0.6, 0.01, 100), 3.816),
        (Setting(1.0, 0.01, 100), 0.718),
        (Setting(0.8, 0.02, 1000), 6.419),
        (Setting(1.0, 0.05, 1000), 10.99),
        (Setting(2.0, 0.1, 1000), 8.280),
    ],
)
def test_epsilon_agrees_with_figures_computed_on_another_day(setting: Setting, printed: float) -> None:
    assert epsilon([setting], 1e-5) == pytest.approx(printed, abs=6e-3)


@pytest.mark.parametrize("setting", TEN)
def test_the_grid_makes_epsilon_larger_and_never_smaller(setting: Setting) -> None:
    fine, coarse = epsilon([setting], 1e-6, grid=1e-4), epsilon([setting], 1e-6)
    assert fine - 1e-6 <= coarse <= fine + 0.01


@pytest.mark.parametrize("setting", TEN)
def test_renyi_is_never_below_the_privacy_loss_distribution(setting: Setting) -> None:
    assert epsilon_rdp([setting], 1e-6) >= epsilon_pld([setting], 1e-6) == epsilon([setting], 1e-6)


@pytest.mark.parametrize("setting", TEN)
def test_one_renyi_step_is_that_of_dp_accounting(setting: Setting) -> None:
    for order in accountant.ORDERS:
        theirs = rdp_privacy_accountant._compute_rdp_poisson_subsampled_gaussian(
            q=setting.rate, noise_multiplier=setting.sigma, orders=[order]
        )[0]
        assert accountant.renyi_step(setting.sigma, setting.rate, order) == pytest.approx(theirs, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("setting", TEN[:6])
def test_epsilon_by_renyi_is_that_of_opacus(setting: Setting) -> None:
    from opacus.accountants.analysis import rdp

    orders = list(accountant._ALL_ORDERS)
    curve = rdp.compute_rdp(q=setting.rate, noise_multiplier=setting.sigma, steps=setting.steps, orders=orders)
    theirs, _ = rdp.get_privacy_spent(orders=orders, rdp=curve, delta=1e-5)
    assert epsilon_rdp([setting], 1e-5) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("setting", [TEN[1], TEN[4], TEN[7]])
def test_a_third_accountant_agrees_within_its_own_error(setting: Setting) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        third = accountant.epsilon_prv([setting], 1e-5)
    assert third == pytest.approx(epsilon([setting], 1e-5) + 0.01, abs=5e-3)


def test_a_known_run_costs_what_is_known() -> None:
    assert epsilon([BASE], 1e-6) == pytest.approx(3.21, abs=0.01)
    assert epsilon([BASE], 1e-6, grid=1e-4) == pytest.approx(3.2136, abs=1e-3)
    assert epsilon_rdp([BASE], 1e-6) == pytest.approx(3.60, abs=0.01)
    assert accountant.filter_epsilon([BASE], 1e-6) == pytest.approx(4.02, abs=0.01)


@pytest.mark.parametrize(("k", "expected"), [(1, 3.21), (2, 6.96), (3, 11.08), (5, 20.39)])
def test_customers_with_several_records_pay_for_record_sampling(k: int, expected: float) -> None:
    assert accountant.epsilon_records(k, BASE, 1e-6) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("m", "expected"), [(1, 3.21), (2, 4.45), (3, 5.45), (5, 7.12), (10, 10.44)])
def test_customers_of_several_merchants_pay_for_each(m: int, expected: float) -> None:
    assert accountant.epsilon_customers_at(m, [BASE], 1e-6) == pytest.approx(expected, abs=0.01)


def test_what_an_attacker_wins_is_read_off_the_whole_profile() -> None:
    assert accountant.tpr_at_fpr([BASE], 0.01) == pytest.approx(0.043, abs=5e-4)
    from_epsilon_alone = math.exp(epsilon([BASE], 1e-6)) * 0.01 + 1e-6
    assert from_epsilon_alone == pytest.approx(0.249, abs=1e-3)


def test_the_profile_starts_at_the_largest_advantage_and_falls() -> None:
    profile = accountant.privacy_profile([BASE], [0.0, 1.0, 2.0, 3.0, 3.2139])
    assert profile[0] == pytest.approx(0.223, abs=1e-3)
    assert list(profile) == sorted(profile, reverse=True)
    assert profile[-1] <= 1e-6


def test_gaussian_without_sampling_has_the_mu_it_was_made_with() -> None:
    plain = Setting(2.0, 1.0, 4)
    assert accountant.gdp_mu([plain]) == pytest.approx(1.0, abs=2e-3)
    expected = accountant._normal_cdf(-2.3263479 + 1.0)
    assert accountant.tpr_at_fpr([plain], 0.01) == pytest.approx(expected, abs=2e-3)
    assert accountant.tpr_at_fpr([plain], 0.01) >= expected - 1e-6


def test_gaussian_delta_is_epsilon_turned_round() -> None:
    eps = epsilon([Setting(2.0, 1.0, 4)], 1e-6)
    assert accountant.gaussian_delta(1.0, eps) == pytest.approx(1e-6, rel=1e-2)
    assert accountant.gaussian_delta(1.0, eps) <= 1e-6


def one_step_delta(sigma: float, rate: float, eps: float) -> float:
    """Return delta(epsilon) of one sampled Gaussian step from its densities, the larger of removing and adding."""

    def upper(x: float) -> float:
        return 0.5 * math.erfc(x / sigma / math.sqrt(2))

    def edge(ratio: float) -> float:
        return sigma**2 * math.log(ratio / rate) + 0.5

    high = edge(math.exp(eps) - 1 + rate)
    removing = (1 - rate) * upper(high) + rate * upper(high - 1) - math.exp(eps) * upper(high)
    if math.exp(-eps) - 1 + rate <= 0:
        return removing
    low = edge(math.exp(-eps) - 1 + rate)
    mixed = (1 - rate) * (1 - upper(low)) + rate * (1 - upper(low - 1))
    return max(removing, 1 - upper(low) - math.exp(eps) * mixed)


@pytest.mark.parametrize(("sigma", "rate"), [(1.0, 0.02), (0.7, 0.041), (2.0, 0.3), (0.5, 0.5)])
def test_one_step_is_bounded_by_its_densities_worked_out_by_hand(sigma: float, rate: float) -> None:
    epsilons = [0.1, 0.5, 1.0, 2.0]
    for eps, delta in zip(epsilons, accountant.privacy_profile([Setting(sigma, rate, 1)], epsilons), strict=True):
        exact = one_step_delta(sigma, rate, eps)
        assert exact - 1e-12 <= delta <= exact * 1.001 + 1e-9


def test_where_epsilon_is_as_small_as_the_grid_renyi_is_the_better_bound() -> None:
    little = [Setting(6.0, 0.001953125, 110)]
    assert epsilon(little, 1e-5) == epsilon_rdp(little, 1e-5) < epsilon_pld(little, 1e-5) < 0.02


def test_no_noise_is_infinite_and_asks_no_library() -> None:
    silent = [Setting(0.0, 0.1, 1)]
    assert epsilon(silent, 1e-6) == math.inf
    assert epsilon_rdp(silent, 1e-6) == math.inf
    assert accountant.filter_epsilon(silent, 1e-6) == math.inf
    assert accountant.epsilon_records(3, silent[0], 1e-6) == math.inf
    assert accountant.privacy_profile(silent, [0.0, 9.0]) == (1.0, 1.0)
    assert accountant.tpr_at_fpr(silent, 0.01) == 1.0
    assert accountant.gdp_mu(silent) == math.inf
    assert not accountant.within(silent, 1e-6, 1e9)


def test_nothing_spent_is_no_loss() -> None:
    for nothing in ([], [Setting(1.0, 0.1, 0)], [Setting(1.0, 0.0, 9)]):
        assert epsilon(nothing, 1e-6) == 0.0
        assert accountant.tpr_at_fpr(nothing, 0.01) == pytest.approx(0.01)
        assert accountant.gdp_mu(nothing) == 0.0


def test_order_and_grouping_of_charges_do_not_matter() -> None:
    a, b = Setting(1.0, 0.02, 7), Setting(1.3, 0.05, 3)
    assert epsilon([a, b, a], 1e-6) == epsilon([b, Setting(1.0, 0.02, 14)], 1e-6)


@settings(max_examples=8, deadline=None)
@given(
    sigma=st.floats(0.5, 8),
    rate=st.floats(1e-3, 0.2),
    steps=st.integers(1, 400),
    more=st.integers(1, 50),
    delta=st.sampled_from([1e-5, 1e-6, 1e-7]),
)
def test_more_steps_cost_more_more_noise_costs_less(
    sigma: float, rate: float, steps: int, more: int, delta: float
) -> None:
    here = epsilon([Setting(sigma, rate, steps)], delta)
    assert epsilon([Setting(sigma, rate, steps + more)], delta) >= here - 1e-9
    assert epsilon([Setting(sigma * 1.5, rate, steps)], delta) <= here + 1e-3
    assert here <= epsilon_rdp([Setting(sigma, rate, steps)], delta)


@settings(max_examples=15, deadline=None)
@given(
    sigma=st.sampled_from([0.7, 1.0, 2.0]),
    steps=st.integers(1, 600),
    others=st.integers(0, 200),
    cap=st.floats(0.1, 6),
)
def test_the_quick_answer_about_a_cap_is_the_slow_one(sigma: float, steps: int, others: int, cap: float) -> None:
    charges = [Setting(1.4, 0.02, others), Setting(sigma, 0.02, steps)]
    slow = epsilon(charges, 1e-6) <= cap
    assert accountant.within(charges, 1e-6, cap, growing=charges[1]) == slow


def test_steps_allowed_is_the_last_number_under_the_cap() -> None:
    most = accountant.steps_allowed((), 1.0, 0.02, 1e-6, 4.0)
    assert epsilon([Setting(1.0, 0.02, most)], 1e-6) <= 4.0 < epsilon([Setting(1.0, 0.02, most + 1)], 1e-6)
    assert accountant.steps_allowed((Setting(0.5, 0.5, 100),), 1.0, 0.02, 1e-6, 4.0) == -1


@pytest.mark.parametrize("sigma", [0.003, 0.02, 0.1, 0.3])
def test_almost_no_noise_still_gets_a_finite_upper_bound(sigma: float) -> None:
    setting = Setting(sigma, 0.05, 200)
    assert 1 < epsilon([setting], 1e-6) <= epsilon_rdp([setting], 1e-6) * 1.001


def test_ten_thousand_rounds_are_accounted_in_seconds() -> None:
    charges = [Setting(1.0, 0.02, 50)] * 9000 + [Setting(1.1, 0.02, 50)] * 500 + [Setting(0.9, 0.02, 20)] * 500
    epsilon([BASE], 1e-6)
    begin = time.perf_counter()
    assert epsilon(charges, 1e-6) <= epsilon_rdp(charges, 1e-6)
    assert time.perf_counter() - begin < 20


def test_steps_are_not_taken_for_independent_of_how_they_are_split() -> None:
    """A planted fault, forgetting all rounds but the last, is visible: the accountant composes."""
    rounds = [Setting(1.0, 0.05, 20)] * 5
    assert epsilon(rounds, 1e-5) > 1.3 * epsilon(rounds[-1:], 1e-5)


@pytest.mark.parametrize(
    ("charge", "word"),
    [(Setting(-1.0, 0.1, 1), "sigma"), (Setting(1.0, 1.5, 1), "rate"), (Setting(1.0, 0.1, -1), "steps")],
)
def test_impossible_charges_are_named(charge: Setting, word: str) -> None:
    with pytest.raises(UserError, match=word):
        epsilon([charge], 1e-6)


def test_impossible_questions_are_named() -> None:
    for delta in (0.0, 1.0, math.nan, -1e-6):
        with pytest.raises(UserError, match="delta"):
            epsilon([BASE], delta)
    with pytest.raises(UserError, match="fpr"):
        accountant.tpr_at_fpr([BASE], 1.2)
    with pytest.raises(UserError, match="m = 0"):
        accountant.epsilon_customers_at(0, [BASE], 1e-6)
    with pytest.raises(UserError, match="k = 0"):
        accountant.epsilon_records(0, BASE, 1e-6)
    with pytest.raises(UserError, match="sigma"):
        epsilon([Setting(math.nan, 0.1, 1)], 1e-6)
