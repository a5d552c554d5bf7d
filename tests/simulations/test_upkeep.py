"""The benchmarks of what a round costs beside training: both sides of each comparison did the same."""

from __future__ import annotations

import pytest

from common.privacy import accountant
from simulations.bench import run_benchmarks
from simulations.upkeep import (
    Accounting,
    Aggregation,
    Wire,
    accounting_facts,
    adapter_of,
    aggregation_facts,
    dense_fedsvd,
    distance,
    history,
    in_turn,
    ours,
    round_of,
    wire_facts,
)


def test_all_accountants_agree_on_the_history_and_ours_is_never_below_the_exact_one() -> None:
    settings = Accounting(rounds=300, repetitions=1)
    facts = accounting_facts(settings)
    exact = facts["dp-accounting PLD epsilon"]
    assert exact * 0.999 <= facts["ours epsilon"] <= 1.05 * exact
    assert facts["Opacus PRV epsilon"] == pytest.approx(exact, rel=0.1, abs=0.02)
    assert facts["Opacus RDP epsilon"] >= exact
    assert (facts["delta"], facts["unit"], facts["period"]) == (settings.delta, "one customer", "all 300 rounds")
    assert len({one.sigma for one in history(settings)}) == settings.kinds


def test_nothing_is_remembered_between_repetitions() -> None:
    charges = history(Accounting(rounds=5))
    ours(charges, 1e-6)
    assert accountant._one_step.cache_info().currsize > 0
    ours(charges, 1e-6)
    assert accountant._one_step.cache_info().hits == 0


def test_the_cheap_rule_and_the_dense_one_have_one_product() -> None:
    settings = Aggregation(merchants=3, layers=1, rank=4, methods=("fedsvd", "fedavg"), repetitions=1)
    facts = aggregation_facts(settings)
    assert facts["distance"] < 1e-4
    assert facts["fedsvd s"] > 0
    assert facts["fedavg s"] > 0
    given = round_of(settings, "fedsvd")
    assert distance(given.shared, dense_fedsvd(given)) > 0.01  # the round moved something


def test_a_distance_is_seen() -> None:
    import numpy as np

    one = adapter_of(1, 2, np.random.default_rng(0))
    assert distance(one, one) == 0
    assert distance(one, {name: 1.1 * value for name, value in one.items()}) == pytest.approx(0.21 / 1.21, rel=1e-4)


def test_a_reply_survives_the_wire() -> None:
    facts = wire_facts(Wire(layers=2, rank=2, repetitions=1))
    assert facts["digest survives"] == "true"
    assert facts["bytes"] == 2 * 2304 * 2 * 4 + facts["bytes beyond the floats"]
    assert 2 * 2304 * 2 < facts["int8 bytes"] < facts["bytes"] / 3
    assert 0 < facts["int8 noise / update"] < 0.03


def test_ways_take_turns_and_the_first_turn_is_not_counted() -> None:
    calls: list[str] = []
    seconds, last = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2}
    assert set(last) == {"a", "b"}


def test_they_run_by_name() -> None:
    said: list[str] = []
    found = run_benchmarks(["wire"], {"wire": {"layers": 1, "rank": 1, "repetitions": 1}}, said.append)
    assert found["benchmarks"]["wire"]["measurements"][0]["facts"]["bytes"] > 2304 * 4
    assert len(said) == 1
