"""Every aggregation method through a whole run: trained, measured in its own way, cut short, gone on with."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from client.round import own_folder
from client.train import trainer
from client.train.sampling import noisy
from client.use.desk import adapter_shape
from client.use.evaluate import losses
from common.lora import bench, load, put
from common.methods import METHODS
from server.rounds import latest_round
from simulations.folder import Run
from simulations.measure import hold_out, models
from simulations.merchants import make_world
from simulations.run import simulate
from simulations.scenario import load_scenario

ROUNDS = 2


def run_of(method: str, base: str, folder: Path, **changes: object) -> Run:
    small = {
        "model.base": base,
        "scenario.merchants": 2,
        "world.customers": 6,
        "world.weeks": 20,
        "lora.rank": 4,
        "privacy.epsilon": float("inf"),
        "privacy.rate": 1.0,
        "privacy.steps": 2,
        "privacy.divisor": 3.0,
        "privacy.max_tokens": 64,
        "training.rounds": ROUNDS,
        "training.method": method,
        "training.local_rate": 0.5,
        "engine.threads": 1,
        "evaluation.per_task": 4,
        "evaluation.questions": 0,
    }
    return simulate(load_scenario("shops-zh", {**small, **changes}), folder, resume=False, report=lambda _: None)


def perplexities(folder: Path) -> list[float]:
    return [json.loads(line)["perplexity"] for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_goes_on_where_it_was_cut_short(method: str, tiny_base: str, tmp_path: Path) -> None:
    run = run_of(method, tiny_base, tmp_path / "run")
    before, _, after = figures = perplexities(run.folder)
    assert after < 0.97 * before
    whole = latest_round(run.folder)
    assert whole is not None
    record = json.loads((run.folder / "rounds" / "0002" / "round.json").read_text("utf-8"))
    assert {one["status"] for one in record["merchants"]} == {"done"}
    shutil.rmtree(run.folder / "rounds" / "0002")
    (run.folder / "metrics.jsonl").write_text("")
    simulate(None, run.folder, resume=True, report=lambda _: None)
    again = latest_round(run.folder)
    assert again is not None
    assert perplexities(run.folder) == figures
    for mine, other in ((whole.adapter, again.adapter), (whole.state, again.state)):
        assert set(mine) == set(other)
        assert all(torch.equal(mine[name], other[name]) for name in mine)
    kept = [list(own_folder(folder, run.id).glob("*.safetensors")) for folder in run.merchants]
    personal = bool(METHODS[method].own or METHODS[method].stays)
    assert [len(one) for one in kept] == [ROUNDS * personal] * 2


def deviation_of_kept(method: str, base: str, folder: Path) -> float:
    """Return how far what a merchant keeps spreads, in units of the noise it must carry, where no row has a target."""
    private = {"privacy.epsilon": 8.0, "privacy.rate": 0.5, "training.rounds": 1, "scenario.control": "noise"}
    run = run_of(method, base, folder, **private)
    sigma, privacy = run.scenario.sigma(), run.scenario.privacy
    expected = 0.5 * sigma * privacy.clip_norm / privacy.divisor * math.sqrt(privacy.steps)
    (file,) = own_folder(run.merchants[0], run.id).glob("*.safetensors")
    kept = torch.cat([one.flatten() for name, one in load_file(file).items() if name.endswith("lora_B.weight")])
    return float(kept.std()) / expected


@pytest.mark.parametrize("method", ["fedsa", "sdflora"])
def test_what_a_merchant_keeps_carries_the_same_noise_as_what_it_sends(
    method: str, tiny_base: str, tmp_path: Path
) -> None:
    assert deviation_of_kept(method, tiny_base, tmp_path / "run") == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("method", ["fedsa", "sdflora"])
def test_planted_fault_a_part_that_stays_without_noise_is_seen(
    method: str, tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def quiet(total: Any, deviation: float, randomness: Any) -> Any:
        return noisy(total, deviation / 4, randomness)

    monkeypatch.setattr(trainer, "noisy", quiet)
    assert deviation_of_kept(method, tiny_base, tmp_path / "run") < 0.5


def test_a_residual_is_measured_with_the_adapter(tiny_base: str, tmp_path: Path) -> None:
    """flora starts its adapter anew each round: all that was learned lies in the residual."""
    run = run_of("flora", tiny_base, tmp_path / "run")
    last = latest_round(run.folder)
    assert last is not None
    assert all(bool((tensor == 0).all()) for name, tensor in last.adapter.items() if name.endswith("lora_B.weight"))
    assert any(name.startswith("residual.") for name in last.state)


@pytest.mark.parametrize("method", ["flora", "fedex"])
def test_the_models_folder_alone_says_what_the_run_measured(method: str, tiny_base: str, tmp_path: Path) -> None:
    run = run_of(method, tiny_base, tmp_path / "run")
    held = hold_out(run, make_world(run.scenario))
    shape = adapter_shape(run.folder / "model")
    alone = bench(tiny_base, shape)
    put(alone.model, load(run.folder / "model"))
    assert shape.rank > run.scenario.lora.rank
    for name, work in models(run, ROUNDS, held.shops):
        wanted, found = losses(work, held.shops[name]), losses(alone, held.shops[name])
        for task in wanted:
            assert found[task].total == pytest.approx(wanted[task].total, rel=1e-4)


def test_merchants_are_drawn_for_a_round_from_the_public_seed(tiny_base: str, tmp_path: Path) -> None:
    who = []
    for name in ("one", "two"):
        run = run_of(
            "fedsvd",
            tiny_base,
            tmp_path / name,
            **{"scenario.merchants": 4, "training.per_round": 2, "training.seed": 6},
        )
        records = [json.loads((run.folder / "rounds" / f"{n:04d}" / "round.json").read_text("utf-8")) for n in (1, 2)]
        who.append([sorted(one["merchant"] for one in record["merchants"]) for record in records])
    assert who[0] == who[1]
    assert all(len(one) == 2 for one in who[0])
    assert who[0][0] != who[0][1]
