"""The coordinator's own examples tell a turned update from an honest one, and noise from neither."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.config import LoraSettings
from common.errors import UserError
from common.factors import at_rank
from common.lora import Bench, bench, factors_in, initial
from common.text import Example
from server.reference import REFERENCE, agreement, direction, objections, read_reference, write_reference
from server.rounds import read_record
from server.strategy import agreements
from simulations.folder import Run
from simulations.run import simulate
from simulations.scenario import load_scenario

EXAMPLES = [Example("", f"商品：{name}\n文案：", f"{name}到货了，欢迎回来看看") for name in ("绿茶", "红茶", "白茶")]


@pytest.fixture
def work(tiny_base: str) -> Bench:
    return bench(tiny_base, LoraSettings(rank=4, alpha=8))


def loss(work: Bench) -> float:
    """Return the mean nats of the examples' target tokens, by the model's own loss."""
    total = tokens = 0.0
    for one in EXAMPLES:
        prompt = work.base.tokenizer(one.prompt, add_special_tokens=False)["input_ids"]
        target = [*work.base.tokenizer(one.target, add_special_tokens=False)["input_ids"], work.base.end]
        ids = torch.tensor([[work.base.end, *prompt, *target]])
        labels = torch.tensor([[-100] * (1 + len(prompt)) + target])
        with torch.no_grad():
            total += len(target) * float(work.model(input_ids=ids, labels=labels).loss)
        tokens += len(target)
    return total / tokens


def test_the_direction_is_the_slope_of_the_loss(work: Bench) -> None:
    start = initial(work.model, 1)
    names = [name for name in start if name.endswith("lora_B.weight")]
    towards = direction(work, EXAMPLES, start, {}, 2.0, names)
    assert sorted(towards) == names
    factors, at_start = factors_in(work.model), loss(work)
    length = math.sqrt(sum(float(one.square().sum()) for one in towards.values()))
    tokens = sum(len(work.base.tokenizer(one.target, add_special_tokens=False)["input_ids"]) + 1 for one in EXAMPLES)
    step = 1e-2
    with torch.no_grad():
        for name in names:
            factors[name].add_(towards[name] * step / length)
    assert loss(work) - at_start == pytest.approx(-step * length / tokens, rel=0.05)
    assert all(one.grad is None for one in factors.values())


def test_agreement_is_standard_normal_for_noise_and_large_for_what_leads_the_same_way(work: Bench) -> None:
    start = initial(work.model, 1)
    towards = {name: torch.randn_like(one) for name, one in start.items() if name.endswith("lora_B.weight")}
    noise = [agreement({name: torch.randn_like(one) for name, one in towards.items()}, towards) for _ in range(400)]
    mean = math.fsum(noise) / len(noise)
    assert abs(mean) < 4 / math.sqrt(len(noise))
    assert math.fsum(one * one for one in noise) / len(noise) == pytest.approx(1, abs=4 * math.sqrt(2 / len(noise)))
    numbers = sum(one.numel() for one in towards.values())
    assert agreement(towards, towards) == pytest.approx(math.sqrt(numbers))
    assert agreement({name: -3 * one for name, one in towards.items()}, towards) == pytest.approx(-math.sqrt(numbers))
    assert agreement({name: 0 * one for name, one in towards.items()}, towards) == 0.0
    small = at_rank({name: tuple(one.shape) for name, one in towards.items()}, 2)
    cut = {name: towards[name][:, : shape[1]] for name, shape in small.items()}
    assert agreement(cut, towards) > 0.5 * math.sqrt(numbers / 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "is missing"),
        ("", "has no example"),
        ("\n\n", "has no example"),
        ("{", "line 1 is not JSON"),
        ("[1]", "line 1 is not an object"),
        ('{"prompt": "a", "target": "b"}\n{"prompt": "a"}', "line 2"),
        ('{"prompt": "a", "target": ""}', "target"),
        ('{"prompt": "a", "target": "b", "weight": 3}', "weight"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_file_that_is_none_is_named_with_its_line(tmp_path: Path, text: str | bytes | None, says: str) -> None:
    path = tmp_path / REFERENCE
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=says) as error:
        read_reference(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_reference(EXAMPLES, tmp_path / REFERENCE)
    assert read_reference(tmp_path / REFERENCE) == EXAMPLES


SHOPS = 6
"""Of three, chance alone can set two honest ones so far apart that a turned one does not lie far below both."""


def run_of(base: str, folder: Path, **changes: Any) -> Run:
    """Six shops of which one turns its update round, at a budget under which noise hides the sign from the eye."""
    scenario = load_scenario(
        "shops-zh",
        {
            "scenario.merchants": SHOPS,
            "world.customers": 120,
            "world.weeks": 20,
            "model.base": base,
            "lora.rank": 4,
            "training.rounds": 2,
            "training.local_rate": 0.1,
            "training.reference": True,
            "privacy.rate": 0.5,
            "privacy.steps": 3,
            "privacy.divisor": 60.0,
            "privacy.max_tokens": 64,
            "engine.threads": 1,
            "evaluation.per_task": 2,
            "evaluation.questions": 0,
            "attack.kind": "flip",
            "attack.merchants": 1,
            **changes,
        },
    )
    return simulate(scenario, folder, resume=False, report=lambda _: None)


def statuses(run: Run, number: int) -> dict[str, str]:
    return {one["merchant"]: one["status"] for one in read_record(run.folder, number)["merchants"]}


def test_a_turned_sign_is_set_aside_under_noise_and_passes_without_the_reference(
    tmp_path: Path, tiny_base: str
) -> None:
    run = run_of(tiny_base, tmp_path / "with")
    for number in (1, 2):
        assert list(statuses(run, number).values()) == ["done"] * (SHOPS - 1) + ["set aside"]
    (turned,) = [one for one in read_record(run.folder, 1)["merchants"] if one["status"] == "set aside"]
    assert turned["reason"].startswith("against the coordinator's reference: z = -")
    assert turned["weight"] == 0.0
    assert turned["charge"]["sigma"] > 0.5
    found = agreements(run.folder, 2)
    assert [len(found[name]) for name in statuses(run, 2)] == [2] * SHOPS
    assert len(read_reference(run.folder / REFERENCE)) == 128

    without = run_of(tiny_base, tmp_path / "without", **{"training.reference": False, "training.rounds": 1})
    assert set(statuses(without, 1).values()) == {"done"}
    assert not (without.folder / REFERENCE).exists()
    assert "agreement" not in json.dumps(read_record(without.folder, 1))


def share_set_aside(mean: float, turned: int) -> tuple[float, float]:
    """Return which share of ten merchants' updates is set aside in a run of six rounds, honest ones' and turned ones'."""
    random, signs, runs = np.random.default_rng(7), np.where(np.arange(10) < turned, -1.0, 1.0), 200
    out = np.zeros(10)
    for _ in range(runs):
        before: dict[str, list[float]] = {}
        for falling in (1.0, 1.0, 0.8, 0.6, 0.4, 0.3):
            values = signs * mean * falling + random.standard_normal(10)
            found = {str(place): float(z) for place, z in enumerate(values)}
            out += [bool(reason) for reason in objections(found, before).values()]
            before = {one: [*before.get(one, ()), z] for one, z in found.items()}
    out /= 6 * runs
    return float(out[turned:].mean()), float(out[:turned].mean()) if turned else 0.0


@pytest.mark.parametrize(
    ("mean", "turned", "honest_at_most", "turned_at_least"),
    [(0.0, 0, 1e-3, 0.0), (1.0, 0, 0.005, 0.0), (3.0, 0, 0.005, 0.0), (3.0, 2, 0.005, 0.95), (3.0, 4, 0.005, 0.5)],
)
def test_how_often_an_honest_and_a_turned_update_are_set_aside(
    mean: float, turned: int, honest_at_most: float, turned_at_least: float
) -> None:
    """`mean` is an honest agreement's in the first round; 2.5 to 4 was measured at epsilon 8, 0 is noise alone."""
    honest, caught = share_set_aside(mean, turned)
    assert honest <= honest_at_most
    assert caught >= turned_at_least


def test_real_purchases_have_no_examples_that_are_nobodys(tmp_path: Path, tiny_base: str) -> None:
    scenario = load_scenario("complete-journey", {"model.base": tiny_base, "training.reference": True})
    with pytest.raises(UserError, match="no examples that are nobody's; set it to false"):
        simulate(scenario, tmp_path / "run", resume=False, report=lambda _: None)
