"""The attack: it works where nothing protects, its figures are right, and it knows no coin."""

from __future__ import annotations

import json
import math
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from client.audit.bounds import area
from client.setup import draft
from client.train.sampling import SecureRandom
from client.train.trainer import train_round
from common.config import LoraSettings
from common.errors import UserError
from common.lora import Bench, bench, initial
from simulations.bench import BENCHMARKS
from simulations.membership import (
    OBSERVERS,
    Candidates,
    Membership,
    Who,
    alignments,
    attacked,
    candidates,
    ceiling,
    deviation_of_area,
    facts,
    judge,
    main,
    own,
    plan_of,
    sigma_of,
    standardised,
    table,
    write_table,
)

SMALL = Membership(
    federations=6, merchants=3, candidates=20, rounds=6, steps=4, rate=0.2, tokens=4, local_rate=0.3, epsilons=(2.0,)
)


@pytest.fixture
def small(tiny_base: str) -> Bench:
    return bench(tiny_base, LoraSettings(rank=4, alpha=8.0))


def test_without_noise_both_attackers_find_the_members_and_under_a_cap_they_do_not(small: Bench) -> None:
    found = {}
    for who, cap in SMALL.arms:
        coins_A, scores = attacked(small, SMALL, who, sigma_of(SMALL, cap))
        found[who, cap] = {name: judge(name, scores[name], coins_A) for name in OBSERVERS}
    sure: list[tuple[Who, str]] = [("customer", "coordinator"), ("canary", "coordinator"), ("canary", "member")]
    for who, name in sure:
        assert found[who, math.inf][name].auc_low > 0.6
        assert found[who, 2.0][name].auc < found[who, math.inf][name].auc - 0.1


def test_the_step_of_one_candidate_is_aligned_with_that_candidate_and_its_opposite_is_opposed(small: Bench) -> None:
    (shop,) = candidates(SMALL.model_copy(update={"merchants": 1}), "canary", small.base)
    adapter = initial(small.model, 3)
    plan = plan_of(SMALL.model_copy(update={"rate": 1.0, "steps": 1}), 0.0, 0, 1)
    place = int(np.flatnonzero(shop.coins_N)[4])
    alone = Candidates(shop.all, np.arange(len(shop.coins_N)) == place)
    move = train_round(small.model, adapter, alone, plan, SecureRandom(), method="fedavg", local_rate=0.5)
    back = {name: -tensor for name, tensor in move.items()}
    nothing = {name: torch.zeros_like(tensor) for name, tensor in move.items()}
    with_N, against_N, none_N = alignments(small, adapter, [move, back, nothing], [shop])
    assert with_N[place] == pytest.approx(1.0, abs=1e-4)
    assert np.delete(with_N, place).max() < 0.9
    np.testing.assert_allclose(against_N, -with_N, atol=1e-6)
    assert not none_N.any()


def test_a_coordinator_holds_a_candidate_against_those_who_cannot_be_in_the_update() -> None:
    values_MA = np.array([[9.0, 8.0, 1.0, 3.0], [0.0, 4.0, 6.0, 2.0]])
    np.testing.assert_allclose(own(values_MA), [7.0, 6.0, 2.0, 0.0])
    np.testing.assert_allclose(own(np.array([[1.0, 3.0]])), [-1.0, 1.0])
    assert not standardised(np.ones(3), np.ones(3)).any()


def test_only_those_whose_coin_says_in_are_customers_and_only_their_own_id_counts(small: Bench) -> None:
    shops = candidates(SMALL, "canary", small.base)
    targets = np.concatenate([shop.all.ids_BT[:, -1] for shop in shops])
    assert len(set(targets.tolist())) == len(targets)
    for shop in shops:
        rows = shop.rows(range(len(shop)), SecureRandom())
        assert rows.ids_BT[:, -1].tolist() == shop.all.ids_BT[shop.coins_N, -1].tolist()
        assert rows.counts_BT.sum(1).tolist() == [1] * len(shop)
        assert rows.counts_BT[:, -1].all()


def test_customers_are_those_of_shops_that_nobody_has_seen_with_the_row_that_training_makes(small: Bench) -> None:
    shops, others = (candidates(SMALL, "customer", small.base) for _ in range(2))
    assert [len(shop.coins_N) for shop in shops] == [SMALL.candidates] * SMALL.merchants
    for shop, other in zip(shops, others, strict=True):
        assert shop.all.ids_BT.shape[1] <= SMALL.max_tokens
        assert not np.array_equal(shop.all.ids_BT, other.all.ids_BT)
        assert (shop.all.counts_BT.sum(1) > 1).mean() > 0.6
        rows = shop.rows([0, 2], SecureRandom())
        places = np.flatnonzero(shop.coins_N)[[0, 2]]
        assert rows.ids_BT.tolist() == shop.all.ids_BT[places].tolist()
        assert rows.voice_BT is not None
        assert shop.all.voice_BT is not None
        assert rows.voice_BT.tolist() == shop.all.voice_BT[places].tolist()


def test_more_canaries_than_ids_are_refused(small: Bench) -> None:
    with pytest.raises(UserError, match="1500 candidates"):
        candidates(SMALL.model_copy(update={"candidates": 500}), "canary", small.base)


def test_an_arm_has_the_noise_that_its_cap_asks_for_and_the_last_one_none_all_else_is_equal() -> None:
    assert SMALL.arms == (
        ("customer", 2.0), ("customer", math.inf), ("canary", 2.0), ("canary", math.inf)
    )  # fmt: skip
    private, open_ = (plan_of(SMALL, sigma_of(SMALL, cap), 0, 1) for _, cap in SMALL.arms[:2])
    assert private.sigma > 0 == open_.sigma
    assert (private.steps, private.rate, private.divisor) == (open_.steps, open_.rate, open_.divisor)
    assert 0.01 < ceiling(SMALL, private.sigma)["0.01"] < 1.0
    assert ceiling(SMALL, 0.0)["0.01"] == 1.0


def test_the_arms_are_those_of_the_policy_that_a_new_merchant_signs() -> None:
    drafted, attack = draft("tea-house", date(2026, 11, 22)), Membership()
    assert (attack.rounds, attack.steps, attack.rate) == (drafted.max_rounds, drafted.steps, drafted.rate)
    assert (attack.epsilons[0], attack.delta, attack.clip_norm) == (drafted.epsilon, drafted.delta, drafted.clip_norm)
    assert sigma_of(attack, drafted.epsilon) == drafted.sigma_min


def test_a_cap_that_is_no_cap_is_refused() -> None:
    for cap in (0.0, math.inf, math.nan):
        with pytest.raises(ValidationError):
            Membership(epsilons=(cap,))


def test_figures_of_an_attack_that_knows_and_of_one_that_guesses() -> None:
    coins_N = np.arange(400) % 2 == 0
    knows = judge("member", coins_N + np.linspace(0, 0.1, 400), coins_N)
    assert (knows.auc, knows.at_chance, knows.hits["0.01"][0]) == (1.0, False, 1.0)
    blind = judge("member", np.random.default_rng(3).standard_normal(400), coins_N)
    assert blind.at_chance
    assert blind.hits["0.05"][1] < 0.05 < blind.hits["0.05"][2]
    assert judge("member", np.full(400, np.nan), coins_N).auc == 0.5


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    random, truth, inside = np.random.default_rng(5), 0.7602, 0  # Phi(1 / sqrt(2))
    for _ in range(300):
        coins_N = random.random(160) < 0.5
        scores_N = coins_N + random.standard_normal(160)
        inside += abs(area(scores_N, coins_N) - truth) <= 1.96 * deviation_of_area(scores_N, coins_N)
    assert 0.90 <= inside / 300 <= 0.985


ARM = {
    "who": "customer", "sigma": 0.8, "epsilon": "7.99", "delta": 1e-6, "in": 60, "out": 60,
    "ceiling": {"0.01": 0.4, "0.05": 0.6},
    "attacks": [
        {"observer": name, "auc": 0.51, "auc interval": [0.45, 0.57], "at chance": True,
         "hits": {"0.01": [0.01, 0.0, 0.05], "0.05": [0.06, 0.02, 0.1]}}
        for name in ("member", "coordinator")
    ],
}  # fmt: skip


def test_the_table_lands_between_the_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- membership -->\nold\n<!-- /membership -->\nafter\n", "utf-8")
    write_table(page, table(SMALL, [ARM]))
    text = page.read_text("utf-8")
    assert text.startswith("before\n<!-- membership -->\n")
    assert text.endswith("<!-- /membership -->\nafter\n")
    assert "old" not in text
    assert (
        "| customers | σ = 0.8 | 7.99, δ = 1e-06 | every shared adapter | 0.510 (0.450–0.570) | 1.0 % (0.0–5.0) |"
        in text
    )
    assert "| 40 % | 60 % |" in text
    page.write_text("no marks\n", "utf-8")
    with pytest.raises(UserError, match="no place"):
        write_table(page, "x\n")
    assert page.read_text("utf-8") == "no marks\n"


def test_a_line_of_the_bench_names_epsilon_with_delta_unit_and_period() -> None:
    found = facts(SMALL, ARM)
    assert found["epsilon"] == "7.99 (delta = 1e-06, one customer, 6 rounds)"
    assert found["member AUC"] == "0.510 (0.450 to 0.570)"


def test_an_arm_is_one_line_of_json(tiny_base: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = SMALL.model_copy(update={"base": tiny_base, "federations": 2, "rounds": 1, "steps": 1})
    for who, cap in settings.arms:
        main([settings.model_dump_json(), who, str(cap)])
        found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        assert (found["who"], found["sigma"] > 0, found["in"] + found["out"]) == (who, math.isfinite(cap), 120)
        assert [one["observer"] for one in found["attacks"]] == ["member", "coordinator"]
    assert "membership" in BENCHMARKS
