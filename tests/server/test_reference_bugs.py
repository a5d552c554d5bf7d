"""Errors that published code of federated LoRA under differential privacy has, each beside what ours does instead.

Those about the server's algebra (V taken for V', residuals without weights or scale, one client's mean, A trained under FFA)
are among the planted bugs of `test_aggregation`; here are those about accounting, and about weights that lie transposed.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.config import LoraSettings
from common.factors import layers
from common.lora import Adapter, bench, initial, put, residual_in
from common.privacy import accountant
from common.privacy.accountant import Setting
from common.privacy.keys import create_key
from common.privacy.ledger import Ledger
from common.privacy.plan import calibrate, plan_round, planned_charge
from common.privacy.policy import Policy, seal
from server.strategy import drawn
from simulations.scenario import Scenario, load_scenario

# --- noise for the expected number of rounds: FedSVD, FedASK, and Flower's Opacus example ---

MERCHANTS, PER_ROUND, ROUNDS = 8, 2, 12


def federation(**changes: Any) -> Scenario:
    """A federation that asks a quarter of its merchants in a round."""
    named = {"scenario.merchants": MERCHANTS, "training.per_round": PER_ROUND, "training.rounds": ROUNDS}
    return load_scenario("shops-zh", {**named, "privacy.spare_rounds": 0, **changes})


def epsilon_of(scenario: Scenario, sigma: float, rounds: int) -> float:
    """Return what so many rounds cost, at the scenario's rate, steps and delta."""
    privacy = scenario.privacy
    return accountant.epsilon([Setting(sigma, privacy.rate, privacy.steps * rounds)], privacy.delta)


def test_noise_covers_a_merchant_that_is_drawn_every_time_and_not_the_expected_one() -> None:
    scenario = federation()
    privacy, expected = scenario.privacy, ROUNDS * PER_ROUND // MERCHANTS
    for_expected = calibrate(privacy.epsilon, privacy.delta, privacy.rate, privacy.steps, expected)
    asked = Counter(
        node
        for number in range(1, ROUNDS + 1)
        for node in drawn(range(MERCHANTS), PER_ROUND, scenario.training.seed, number)
    )
    unlucky = max(asked.values())
    assert unlucky > expected
    assert epsilon_of(scenario, for_expected, unlucky) > privacy.epsilon  # what the references do
    assert epsilon_of(scenario, scenario.sigma(), unlucky) <= privacy.epsilon
    assert epsilon_of(scenario, scenario.sigma(), ROUNDS) <= privacy.epsilon


def test_asking_fewer_merchants_in_a_round_lowers_nobodys_noise() -> None:
    assert federation().sigma() == federation(**{"training.per_round": 0}).sigma()


# --- the epsilon of one round, printed as that of the run: a fresh engine every round ---


def ledger_policy() -> Policy:
    """Return a policy of ten rounds."""
    return Policy(
        merchant="tea-1",
        epsilon=8.0,
        period="2026Q4",
        max_rounds=10,
        sigma_min=1.2,
        rate=0.1,
        steps=4,
        clip_norm=1.0,
        divisor=24.0,
        max_records_per_customer=4,
        max_tokens=64,
    )


def test_the_epsilon_that_is_told_is_that_of_all_rounds_also_in_another_process(tmp_path: Path) -> None:
    policy, key, folder = ledger_policy(), create_key(tmp_path / "key"), tmp_path / "shop"
    folder.mkdir()
    Ledger.create(folder, seal(policy, create_key(tmp_path / "officer")), key).close()
    told = []
    for number in range(1, 4):
        with Ledger.open(folder, key) as ledger:  # opened anew, as a process of its own would
            reservation = ledger.reserve(plan_round(ledger.policy, "run", number, "adapter"))
            reservation.touch()
            ledger.release(reservation, b"update")
            told.append(ledger.epsilon_spent())
    one, three = (accountant.epsilon([planned_charge(policy)] * count, policy.delta) for count in (1, 3))
    assert told[0] == pytest.approx(one)
    assert told[2] == pytest.approx(three)
    assert told[0] < told[1] < told[2]


# --- a residual laid into a weight the wrong way round: FedEx-LoRA's code for Conv1D ---


def logits(base: str, lora: LoraSettings, adapter: Adapter, residual: Adapter) -> torch.Tensor:
    """Return what the base says with an adapter beside and a residual inside its weights."""
    work = bench(base, lora)
    put(work.model, adapter)
    with residual_in(work.model, residual, lora.alpha / lora.rank), torch.inference_mode():
        found: torch.Tensor = work.model(input_ids=torch.arange(20)[None]).logits
    return found


@pytest.mark.parametrize("target", ["c_attn", "attn.c_proj"])
def test_a_residual_inside_the_weight_does_what_the_adapter_beside_it_does(tiny_base: str, target: str) -> None:
    lora = LoraSettings(rank=4, alpha=8.0, targets=(target,))
    start = initial(bench(tiny_base, lora).model, 3)
    random = np.random.default_rng(1)
    change = {name: torch.from_numpy(random.standard_normal(tuple(one.shape))).float() for name, one in start.items()}
    beside = logits(tiny_base, lora, change, {})
    torch.testing.assert_close(logits(tiny_base, lora, start, change), beside, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(tiny_base, lora, start, {}), beside, atol=1e-2)


def test_planted_fault_a_residual_transposed_in_a_square_weight_is_seen(tiny_base: str) -> None:
    lora = LoraSettings(rank=4, alpha=8.0, targets=("attn.c_proj",))
    start = initial(bench(tiny_base, lora).model, 3)
    random = np.random.default_rng(1)
    change = {name: torch.from_numpy(random.standard_normal(tuple(one.shape))).float() for name, one in start.items()}
    turned = dict(change)
    for a_name, b_name in layers(change):
        turned[a_name], turned[b_name] = change[b_name].T.contiguous(), change[a_name].T.contiguous()
    beside = logits(tiny_base, lora, change, {})
    assert not torch.allclose(logits(tiny_base, lora, start, turned), beside, atol=1e-2)
