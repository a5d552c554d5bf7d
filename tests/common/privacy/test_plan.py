from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.privacy import accountant, plan
from common.privacy.accountant import Setting
from common.privacy.plan import Charge, RoundPlan, plan_round
from common.privacy.policy import Policy, SignedPolicy, seal

OFFICER = Ed25519PrivateKey.generate()


def make_policy(**changes: Any) -> Policy:
    values: dict[str, Any] = {
        "merchant": "tea-house",
        "epsilon": 4.0,
        "period": "2026Q4",
        "max_rounds": 100,
        "sigma_min": 1.0,
        "rate": 0.02,
        "steps": 50,
        "clip_norm": 0.5,
        "divisor": 16.0,
        "max_records_per_customer": 8,
        "max_tokens": 64,
    }
    return Policy.model_validate(values | changes)


def signed(**changes: Any) -> SignedPolicy:
    return seal(make_policy(**changes), OFFICER)


def make_plan() -> RoundPlan:
    return plan_round(signed(), "autumn", 3, "a" * 64)


def test_a_plan_takes_every_number_from_the_policy() -> None:
    made = make_plan()
    assert made.charge == Charge(sigma=1.0, rate=0.02, steps=50, clip_norm=0.5)
    assert (made.divisor, made.delta, made.max_records, made.merchant) == (16.0, 1e-6, 8, "tea-house")
    assert made.policy_digest == signed().digest
    assert made == plan_round(make_policy(), "autumn", 3, "a" * 64)


def test_the_same_round_has_the_same_identity_and_anything_else_another() -> None:
    made = make_plan()
    assert make_plan().idem == made.idem
    changes: dict[str, object] = {
        "merchant": "coffee",
        "run": "winter",
        "round": 4,
        "rate": 0.03,
        "sigma": 1.1,
        "steps": 51,
        "clip_norm": 0.6,
        "divisor": 17.0,
        "delta": 1e-5,
        "max_records": 9,
        "policy_digest": "b" * 64,
        "adapter_digest": "b" * 64,
    }
    assert set(changes) == {field.name for field in dataclasses.fields(RoundPlan)}
    others = {dataclasses.replace(made, **{key: value}).idem for key, value in changes.items()}  # type: ignore[arg-type]
    assert len(others | {made.idem}) == len(changes) + 1


def test_a_charge_keeps_its_fields_and_meanings() -> None:
    """Charges are stored and sent: fields may be added at the end, these four stay."""
    assert [field.name for field in dataclasses.fields(Charge)][:4] == ["sigma", "rate", "steps", "clip_norm"]


@pytest.mark.parametrize(("run", "number", "adapter"), [("", 1, "a"), ("r", -1, "a"), ("r", 1, "")])
def test_a_round_without_a_name_is_not_planned(run: str, number: int, adapter: str) -> None:
    with pytest.raises(UserError, match="name all three"):
        plan_round(signed(), run, number, adapter)


@pytest.mark.parametrize("target", [1.0, 4.0, 8.0])
def test_calibrated_noise_meets_its_target_and_a_thousandth_less_does_not(target: float) -> None:
    sigma = plan.calibrate(target, 1e-6, 0.02, 50, 10)
    assert accountant.epsilon([Setting(sigma, 0.02, 500)], 1e-6) <= target
    assert accountant.epsilon([Setting(sigma - 0.001, 0.02, 500)], 1e-6) > target
    assert sigma == round(sigma, 3)


def test_calibration_has_ends() -> None:
    assert plan.calibrate(math.inf, 1e-6, 0.02, 50, 10) == 0.0
    with pytest.raises(UserError, match="cannot be met"):
        plan.calibrate(0.0001, 1e-6, 1.0, 100, 100)
    with pytest.raises(UserError, match="epsilon"):
        plan.calibrate(0.0, 1e-6, 0.02, 50, 10)
    with pytest.raises(UserError, match="rounds"):
        plan.calibrate(1.0, 1e-6, 0.02, 50, 0)


@pytest.mark.parametrize("mode", ["schedule", "adaptive"])
def test_rounds_left_is_the_last_number_within_the_cap(mode: str) -> None:
    policy = make_policy(mode=mode)
    charge = plan.planned_charge(policy)
    left = plan.rounds_left(policy, ())
    assert plan.spent_epsilon(policy, [charge] * left) <= policy.epsilon
    assert plan.spent_epsilon(policy, [charge] * (left + 1)) > policy.epsilon
    assert plan.rounds_left(policy, [charge] * 5) == left - 5
    assert plan.rounds_left(policy, [charge] * (left + 3)) == 0
    assert plan.would_pass(policy, [charge] * (left - 1), charge)
    assert not plan.would_pass(policy, [charge] * left, charge)


def test_the_adaptive_filter_allows_fewer_rounds_than_the_schedule() -> None:
    assert plan.rounds_left(make_policy(mode="adaptive"), ()) < plan.rounds_left(make_policy(), ())


def test_rounds_end_with_max_rounds_even_without_a_cap() -> None:
    free = make_policy(epsilon=math.inf, sigma_min=0, max_rounds=7)
    charge = plan.planned_charge(free)
    assert plan.rounds_left(free, ()) == 7
    assert plan.would_pass(free, [charge] * 6, charge)
    assert not plan.would_pass(free, [charge] * 7, charge)


@pytest.mark.parametrize("mode", ["schedule", "adaptive"])
def test_other_rounds_made_before_count_against_the_cap(mode: str) -> None:
    policy = make_policy(mode=mode, epsilon=8.0)
    charge = plan.planned_charge(policy)
    heavy = Charge(0.8, 0.05, 3, 0.5)
    left = plan.rounds_left(policy, [heavy])
    assert 0 < left < plan.rounds_left(policy, ()) - 1
    assert plan.would_pass(policy, [heavy, *[charge] * (left - 1)], charge)
    assert not plan.would_pass(policy, [heavy, *[charge] * left], charge)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.7, 1.0, 1.5, 3.0]), st.integers(1, 60)), max_size=40))
def test_whatever_is_asked_in_whatever_order_the_filter_keeps_the_cap(asked: list[tuple[float, int]]) -> None:
    policy = make_policy(mode="adaptive", max_rounds=1000)
    spent: list[Charge] = []
    for sigma, steps in asked:
        charge = Charge(sigma, 0.03, steps, 1.0)
        if plan.would_pass(policy, spent, charge):
            spent.append(charge)
    assert accountant.filter_epsilon(spent, policy.delta) <= policy.epsilon
    assert accountant.epsilon_rdp(spent, policy.delta) <= policy.epsilon


def test_the_filter_is_the_test_on_some_order_with_a_share_of_delta() -> None:
    charges = [Charge(1.0, 0.02, 50, 1.0)] * 3
    share = 1e-6 / len(accountant.ORDERS)
    by_hand = min(
        150 * accountant.renyi_step(1.0, 0.02, a) + math.log((a - 1) / a) - (math.log(share) + math.log(a)) / (a - 1)
        for a in accountant.ORDERS
    )
    assert accountant.filter_epsilon(charges, 1e-6) == pytest.approx(by_hand)


def test_the_staircase_climbs_to_the_cap() -> None:
    policy = make_policy()
    steps = plan.staircase(policy, (), points=6)
    assert steps[0] == (0, 0.0)
    assert steps[-1][0] == plan.rounds_left(policy, ())
    heights = [height for _, height in steps]
    assert heights == sorted(heights)
    assert heights[-1] <= policy.epsilon
    assert len(steps) <= 8


def test_other_readings_of_the_unit_are_told() -> None:
    policy = make_policy(max_rounds=10)
    table = {(line.unit, line.count): line.epsilon for line in plan.what_if(policy)}
    expected = {
        ("merchants", 1): 3.21,
        ("merchants", 2): 4.45,
        ("merchants", 3): 5.45,
        ("merchants", 5): 7.12,
        ("records", 2): 6.96,
        ("records", 3): 11.08,
        ("records", 5): 20.39,
    }
    assert table == pytest.approx(expected, abs=0.01)
