"""The attack: it works where nothing protects, its figures are right, and it knows no coin."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from client.audit.bounds import area
from client.train.sampling import SecureRandom
from common.config import LoraSettings
from common.errors import UserError
from common.lora import bench
from simulations.bench import BENCHMARKS
from simulations.membership import (
    ARMS,
    Membership,
    candidates,
    ceiling,
    deviation_of_area,
    judge,
    main,
    observed,
    plan_of,
    sigma_of,
    table,
    write_table,
)

SMALL = Membership(merchants=2, candidates=60, rounds=4, steps=3, rate=0.3, tokens=4, local_rate=2.0)


def test_the_attack_finds_members_without_noise_and_fewer_with_it(tiny_base: str) -> None:
    work = bench(tiny_base, LoraSettings(rank=4, alpha=8.0))
    found = {}
    for arm in ARMS:
        shops = candidates(SMALL, 1024)
        coins_N = np.concatenate([shop.coins_N for shop in shops])
        scores = observed(work, SMALL, arm, shops)
        found[arm] = {name: judge(name, one, coins_N) for name, one in scores.items()}
    assert found["open"]["coordinator"].auc_low > 0.6
    assert found["private"]["coordinator"].auc < found["open"]["coordinator"].auc - 0.1


def test_only_those_whose_coin_says_in_are_customers_and_only_their_own_id_counts() -> None:
    shops = candidates(SMALL, 1024)
    targets = np.concatenate([shop.ids_NT[:, -1] for shop in shops])
    assert len(set(targets.tolist())) == len(targets)
    for shop in shops:
        rows = shop.rows(range(len(shop)), SecureRandom())
        assert rows.ids_BT[:, -1].tolist() == shop.ids_NT[shop.coins_N, -1].tolist()
        assert rows.counts_BT.sum(1).tolist() == [1] * len(shop)
        assert rows.counts_BT[:, -1].all()


def test_more_candidates_than_ids_are_refused() -> None:
    with pytest.raises(UserError, match="120 candidates"):
        candidates(SMALL, 100)


def test_the_private_arm_has_the_noise_that_its_cap_asks_for_and_the_open_one_none() -> None:
    private, open_ = (plan_of(SMALL, arm, 0, 1) for arm in ARMS)
    assert private.sigma == sigma_of(SMALL) > 0
    assert open_.sigma == 0
    assert (private.steps, private.rate, private.divisor) == (open_.steps, open_.rate, open_.divisor)
    assert 0.01 < ceiling(SMALL, "private")["0.01"] < 1.0
    assert ceiling(SMALL, "open")["0.01"] == 1.0


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
    "arm": "private", "sigma": 0.8, "epsilon": "7.99", "delta": 1e-6, "in": 60, "out": 60,
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
    assert "| σ = 0.8 | 7.99, δ = 1e-06 | the shared adapter | 0.510 (0.450–0.570) | 1.0 % (0.0–5.0) |" in text
    page.write_text("no marks\n", "utf-8")
    with pytest.raises(UserError, match="no place"):
        write_table(page, "x\n")
    assert page.read_text("utf-8") == "no marks\n"


def test_an_arm_is_one_line_of_json(tiny_base: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = SMALL.model_copy(update={"base": tiny_base, "rounds": 1, "steps": 1, "candidates": 20})
    main([settings.model_dump_json(), "private"])
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (found["arm"], found["in"] + found["out"]) == ("private", 40)
    assert [one["observer"] for one in found["attacks"]] == ["member", "coordinator"]
    assert "membership" in BENCHMARKS
