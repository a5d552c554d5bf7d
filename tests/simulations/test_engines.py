"""Both engines and a plain loop do the same work: the same adapter, bit for bit."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from client.config import load_merchant
from client.data.dataset import make_dataset
from client.data.sources import read_shop
from client.train.sampling import randomness_for
from client.train.trainer import LocalSettings, train_round
from common.errors import UserError
from common.lora import Adapter, bench, digest, initial, load
from common.methods import trained
from common.privacy.plan import plan_round
from server.aggregation import RULES
from server.rounds import read_record
from simulations.engines import check_engine
from simulations.folder import Run
from simulations.run import simulate
from simulations.scenario import Scenario, load_scenario


def small(base: str, **changes: Any) -> Scenario:
    """Three shops of ten customers, two rounds, no noise, one thread."""
    return load_scenario(
        "shops-zh",
        {
            "scenario.merchants": 3,
            "world.customers": 10,
            "world.weeks": 20,
            "model.base": base,
            "lora.rank": 4,
            "training.rounds": 2,
            "training.robust": "none",
            "privacy.epsilon": math.inf,
            "privacy.rate": 0.5,
            "privacy.steps": 2,
            "privacy.divisor": 5.0,
            "privacy.max_tokens": 64,
            "engine.threads": 1,
            "evaluation.per_task": 2,
            "evaluation.questions": 2,
            **changes,
        },
    )


def plain_loop(run: Run) -> Adapter:
    """The same federation as a loop anybody can read: no Flower, no ledger, no strategy."""
    scenario, training = run.scenario, run.scenario.training
    work = bench(scenario.model.base, scenario.lora)
    until = load_merchant(run.merchants[0]).train.until
    data = {
        folder.name: make_dataset(read_shop(load_merchant(folder)), work.base, scenario.privacy.max_tokens, 4, until)
        for folder in run.merchants
    }
    shared = initial(work.model, training.seed)
    for number in range(1, training.rounds + 1):
        updates = []
        for merchant in sorted(data):
            plan = plan_round(scenario.policy(merchant, scenario.model.base_digest), run.id, number, digest(shared))
            updates.append(
                train_round(
                    work.model,
                    shared,
                    data[merchant],
                    plan,
                    randomness_for(plan, training.seed),
                    method=training.method,
                    local_rate=training.local_rate,
                    settings=LocalSettings(padding=scenario.engine.padding),
                )
            )
        moved = {name: shared[name] + mean(updates, name) for name in trained(shared, training.method, 1)}
        shared = RULES[training.method].settle({**shared, **moved})
    return shared


def mean(updates: Sequence[Adapter], name: str) -> torch.Tensor:
    """The mean of one tensor over merchants, added up in float64."""
    return torch.stack([(1 / len(updates)) * update[name].double() for update in updates]).sum(0).float()


def late(run: Run) -> list[int]:
    """Return how many merchants were late in each round."""
    rounds = [read_record(run.folder, number) for number in range(1, run.scenario.training.rounds + 1)]
    return [sum(one["status"] == "late" for one in record["merchants"]) for record in rounds]


def same(one: Adapter, other: Adapter) -> bool:
    """Whether two adapters are equal to the last bit."""
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", ["fedavg", "ffa", "fedsvd"])
def test_the_inline_engine_ends_where_a_plain_loop_ends(tmp_path: Path, tiny_base: str, method: str) -> None:
    run = simulate(
        small(tiny_base, **{"training.method": method}), tmp_path / "run", resume=False, report=lambda _: None
    )
    final = load(run.folder / "model")
    assert same(final, plain_loop(run))
    assert not same(final, initial(bench(tiny_base, run.scenario.lora).model, run.scenario.training.seed))


def test_ray_below_a_path_with_a_space_is_refused_as_its_workers_would_never_start(
    tmp_path: Path, tiny_base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.setattr(sys, "prefix", "/opt/my tools/.venv")
    with pytest.raises(UserError, match="holds a space; use --engine inline"):
        simulate(small(tiny_base, **{"engine.name": "ray"}), tmp_path / "ray", resume=False, report=lambda _: None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(" " in sys.prefix, reason="Ray cannot start workers below a path with a space")
def test_flowers_engine_on_ray_ends_there_too_with_a_merchant_that_comes_back(tmp_path: Path, tiny_base: str) -> None:
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    away = {"mixed.away": (0.0, (2,), 0.0), "training.quorum": 0.5, "training.rounds": 3}
    inline = simulate(small(tiny_base, **away), tmp_path / "inline", resume=False, report=lambda _: None)
    try:
        other = simulate(
            small(tiny_base, **away, **{"engine.name": "ray"}), tmp_path / "ray", resume=False, report=lambda _: None
        )
    finally:
        ray.shutdown()
    assert same(load(inline.folder / "model"), load(other.folder / "model"))
    assert [late(run) for run in (inline, other)] == [[0, 1, 0]] * 2


def test_another_seed_is_another_run(tmp_path: Path, tiny_base: str) -> None:
    ends = [
        simulate(small(tiny_base, **{"training.seed": seed}), tmp_path / str(seed), resume=False, report=lambda _: None)
        for seed in (7, 8)
    ]
    assert not same(*(load(run.folder / "model") for run in ends))


def test_with_noise_the_same_seed_never_gives_the_same_adapter_twice(tmp_path: Path, tiny_base: str) -> None:
    ends = [
        simulate(small(tiny_base, **{"privacy.epsilon": 8.0}), tmp_path / name, resume=False, report=lambda _: None)
        for name in ("a", "b")
    ]
    assert not same(*(load(run.folder / "model") for run in ends))


def test_made_up_attackers_are_refused_on_real_nodes(tiny_base: str) -> None:
    check_engine(small(tiny_base, **{"engine.name": "deployment"}))
    with pytest.raises(UserError, match="need inline or ray"):
        check_engine(small(tiny_base, **{"engine.name": "deployment", "attack.kind": "nan"}))


def test_ffa_and_fedsvd_are_one_method_while_a_has_orthonormal_rows_and_everybody_steps_by_sgd(
    tmp_path: Path, tiny_base: str
) -> None:
    ends = []
    for method in ("ffa", "fedsvd"):
        changes = {"training.method": method}
        run = simulate(small(tiny_base, **changes), tmp_path / method, resume=False, report=lambda _: None)
        ends.append(products(load(run.folder / "model")))
    for name, product in ends[0].items():
        torch.testing.assert_close(product, ends[1][name], rtol=1e-3, atol=1e-6)


def products(adapter: Adapter) -> dict[str, torch.Tensor]:
    """The product B A of every layer."""
    ends = {name: name.replace("lora_A", "lora_B") for name in adapter if "lora_A" in name}
    return {a: adapter[b].double() @ adapter[a].double() for a, b in ends.items()}
