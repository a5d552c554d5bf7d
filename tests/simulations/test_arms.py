"""The further arms: every shop alone, and all rows in one place, against the federated run."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from client.train.sampling import Randomness, Rehearsal
from client.train.trainer import train_round
from common.errors import UserError
from common.lora import A_END, B_END, Adapter, Bench, initial
from common.privacy.plan import RoundPlan
from common.schema import TABLES, Shop
from common.tokens import Rows
from server.aggregation import Round, combine
from server.rounds import latest_round
from simulations.arms import Loss, arm_folder, difference, losses_of, read_losses
from simulations.merchants import pooled
from simulations.run import simulate
from simulations.scenario import Scenario, load_scenario

SMALL = {
    "scenario.merchants": 2,
    "world.customers": 8,
    "world.weeks": 20,
    "lora.rank": 4,
    "privacy.max_tokens": 64,
    "privacy.steps": 1,
    "engine.threads": 1,
    "evaluation.per_task": 3,
    "evaluation.questions": 2,
    "training.rounds": 1,
    "scenario.arms": ("federated", "local", "central"),
}


def small(base: str, **changes: object) -> Scenario:
    return load_scenario("shops-zh", {**SMALL, "model.base": base, **changes})


@dataclass(frozen=True)
class Fixed:
    """Customers with one fixed row each."""

    rows_N: Rows

    def __len__(self) -> int:
        return len(self.rows_N.ids_BT)

    def rows(self, drawn: Sequence[int], randomness: Randomness) -> Rows:
        """Return the rows of the drawn customers."""
        return Rows(self.rows_N.ids_BT[list(drawn)], self.rows_N.counts_BT[list(drawn)])


def customers_of(count: int, seed: int) -> Fixed:
    random = np.random.default_rng(seed)
    return Fixed(Rows(random.integers(2, 1000, (count, 24)), random.random((count, 24)) < 0.7))


def one_round(work: Bench, start: Adapter, shops: Sequence[Fixed], method: str, number: int) -> Adapter:
    """Return the shared adapter after one round without noise in which everybody is drawn."""
    plan = RoundPlan("shop", "run", number, 1.0, 0.0, 1, 0.5, 4.0 * 6 / len(shops), 1e-6, 4, "p", "a")
    updates = [
        train_round(work.model, start, shop, plan, Rehearsal(1), method=method, local_rate=3.0) for shop in shops
    ]
    return combine(method, Round(start, updates, [1.0] * len(shops), number)).adapter


def products(adapter: Adapter) -> list[torch.Tensor]:
    return [
        adapter[name.removesuffix(A_END) + B_END].double() @ adapter[name].double() for name in adapter if A_END in name
    ]


@pytest.mark.parametrize(("method", "number"), [("fedavg", 1), ("ffa", 1), ("fedsvd", 1), ("rolora", 1), ("rolora", 2)])
def test_one_step_without_noise_is_the_same_together_and_in_one_place(method: str, number: int, work: Bench) -> None:
    start = initial(work.model, 5)
    start = {
        name: tensor + 0.02 * torch.sin(torch.arange(tensor.numel())).view_as(tensor) for name, tensor in start.items()
    }
    shops = [customers_of(count, seed) for seed, count in enumerate((4, 7, 1))]
    everybody = Fixed(
        Rows(*(np.concatenate([getattr(s.rows_N, part) for s in shops]) for part in ("ids_BT", "counts_BT")))
    )
    # three shops divide by 8 each and are averaged; one place divides by 24
    together = products(one_round(work, start, shops, method, number))
    central = products(one_round(work, start, [everybody], method, number))
    moved = max(float((a - b).abs().max()) for a, b in zip(together, products(start), strict=True))
    apart = max(float((a - b).abs().max()) for a, b in zip(together, central, strict=True))
    assert moved > 1e-4
    assert apart < 1e-6


@pytest.fixture(scope="module")
def folder(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private run with all three arms."""
    return simulate(
        small(tiny_base), tmp_path_factory.mktemp("arms") / "run", resume=False, report=lambda _: None
    ).folder


def test_every_arm_is_measured_on_the_same_examples(folder: Path) -> None:
    keys = [
        [(one.merchant, one.customer, one.task, one.tokens) for one in losses_of(folder, arm)[0]]
        for arm in ("federated", "local", "central")
    ]
    assert keys[0] == keys[1] == keys[2]
    assert {key[0] for key in keys[0]} == {"shop-01", "shop-02"}


def test_the_comparison_holds_what_the_losses_say(folder: Path) -> None:
    told = json.loads((folder / "arms.json").read_text("utf-8"))
    last = json.loads((folder / "metrics.jsonl").read_text("utf-8").splitlines()[-1])
    assert list(told["arms"]) == ["federated", "local", "central"]
    assert told["arms"]["federated"]["perplexity"] == pytest.approx(last["perplexity"], rel=1e-4)
    for arm, figures in told["arms"].items():
        losses = losses_of(folder, arm)[0]
        mean = math.fsum(one.nats for one in losses) / sum(one.tokens for one in losses)
        assert figures["perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)
    assert [(one["arm"], one["than"]) for one in told["differences"]] == [
        ("federated", "local"),
        ("federated", "central"),
    ]
    html = (folder / "report.html").read_text("utf-8")
    assert "单店各自训练" in html
    assert "上限" in html


def test_every_arm_is_charged_by_its_own_ledger_under_the_same_policy(folder: Path) -> None:
    policies = [path.read_text("utf-8") for path in sorted(folder.rglob("policy.toml"))]
    assert len(policies) == 2 + 2 + 1
    assert len({line for text in policies for line in text.splitlines() if line.startswith(("sigma_min", "rate"))}) == 2
    assert len(list(folder.rglob("ledger.db"))) == 5


def test_an_arm_that_was_cut_short_is_gone_on_with(folder: Path, tiny_base: str, tmp_path: Path) -> None:
    local = arm_folder(folder, "local:shop-02")
    before = read_losses(arm_folder(folder, "local:shop-01"))[0]
    (local / "losses.json").unlink()
    round_before = latest_round(local)
    simulate(None, folder, resume=True, report=lambda _: None)
    round_after = latest_round(local)
    assert round_before is not None
    assert round_after is not None
    assert all(torch.equal(round_before.adapter[name], round_after.adapter[name]) for name in round_before.adapter)
    assert read_losses(arm_folder(folder, "local:shop-01"))[0] == before


def test_a_damaged_file_of_losses_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "losses.json").write_text('{"losses": [1]}')
    with pytest.raises(UserError, match=r"losses\.json cannot be read"):
        read_losses(tmp_path)


def test_pooled_rows_keep_customers_and_items_of_two_shops_apart(shops: tuple[Shop, ...]) -> None:
    one = pooled(shops)
    assert len({row.customer_id for row in one.orders}) == sum(
        len({row.customer_id for row in s.orders}) for s in shops
    )
    assert len({row.item_id for row in one.products}) == sum(len(shop.products) for shop in shops)
    for table in TABLES:
        assert len(getattr(one, table)) == sum(len(getattr(shop, table)) for shop in shops)


def losses(nats: list[list[float]], tokens: int = 4) -> list[Loss]:
    return [Loss(f"m{place % 2}", f"c{place}", "t", value, tokens) for place, row in enumerate(nats) for value in row]


def test_the_difference_is_the_ratio_of_perplexities() -> None:
    ours = sorted(losses([[4.0], [8.0], [6.0], [2.0]]), key=lambda one: one.merchant)
    theirs = sorted(losses([[8.0], [8.0], [8.0], [8.0]]), key=lambda one: one.merchant)
    found = difference("federated", ours, "local", theirs)
    assert found.percent == pytest.approx(100 * (math.exp(20 / 16 - 32 / 16) - 1), abs=1e-3)
    assert found.low <= found.percent <= found.high
    assert found.customers == 4


def test_the_interval_is_that_of_all_resamples() -> None:
    """With two customers a merchant every resample can be listed."""
    shifts = [[1.0, 3.0], [0.0, 8.0]]  # nats a customer, by merchant
    ours = [Loss(f"m{m}", f"c{c}", "t", 10 + shift, 10) for m, row in enumerate(shifts) for c, shift in enumerate(row)]
    theirs = [Loss(one.merchant, one.customer, "t", 10.0, 10) for one in ours]
    pairs = [[sum(draw) for draw in itertools.product(row, repeat=2)] for row in shifts]
    every = sorted(100 * math.expm1((a + b) / 40) for a in pairs[0] for b in pairs[1])
    found = difference("a", ours, "b", theirs)
    assert found.low == pytest.approx(every[0], abs=1e-3)  # each end has probability 1/16, more than 2.5 %
    assert found.high == pytest.approx(every[-1], abs=1e-3)
    assert statistics.median(every) > 0


def test_two_arms_of_other_examples_are_not_compared() -> None:
    with pytest.raises(UserError, match="different examples"):
        difference("a", losses([[1.0]]), "b", losses([[1.0], [2.0]]))
