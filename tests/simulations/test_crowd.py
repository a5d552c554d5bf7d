"""Many shops in one process: what is held follows from what is asked for, not from how many there are."""

from __future__ import annotations

import gc
import json
import math
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from flwr.app import Message

from client.train import state
from common.errors import UserError
from server.rounds import read_record
from simulations import crowd, engines, measure
from simulations.bench import run_benchmarks
from simulations.folder import Run
from simulations.grid import InlineGrid
from simulations.measure import hold_out
from simulations.merchants import make_world
from simulations.run import simulate
from simulations.scenario import load_scenario

KEPT = 4


class Watched(InlineGrid):
    """A grid that notes how many replies are alive whenever another one has been made."""

    alive: list[int]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        replies: weakref.WeakSet[Message] = weakref.WeakSet()
        for reply in super().send_and_receive(messages, timeout=timeout):
            replies.add(reply)
            gc.collect()
            Watched.alive.append(len(replies))
            yield reply


class Hoarding(InlineGrid):
    """A grid that makes every reply before it hands out the first."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        replies = list(super().send_and_receive(messages, timeout=timeout))
        gc.collect()
        Watched.alive.append(sum(1 for reply in replies if reply is not None))
        yield from replies


@pytest.fixture(autouse=True)
def _quick_collection() -> Iterator[None]:
    """Leave what was there before out of every collection, which is asked for again and again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def lead(merchants: int, base: str, folder: Path) -> Run:
    """One round in which all of so many tiny shops are asked, on one thread and without noise."""
    scenario = load_scenario(
        "shops-zh",
        {
            "scenario.merchants": merchants,
            "world.customers": 3,
            "world.weeks": 12,
            "model.base": base,
            "lora.rank": 4,
            "training.rounds": 1,
            "training.reference": False,
            "privacy.epsilon": math.inf,
            "privacy.rate": 0.5,
            "privacy.steps": 1,
            "privacy.max_tokens": 64,
            "engine.threads": 1,
            "evaluation.per_task": 1,
            "evaluation.questions": 0,
        },
    )
    return simulate(scenario, folder, resume=False, report=lambda _: None)


def open_files() -> int:
    """Return how many files this process holds open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted where /proc is")
def test_files_data_sets_and_replies_that_are_held_do_not_grow_with_the_merchants(
    tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "KEPT", KEPT)
    monkeypatch.setattr(engines, "InlineGrid", Watched)
    held = []
    for merchants in (8, 40):
        state._warm.clear()
        Watched.alive = []
        run = lead(merchants, tiny_base, tmp_path / str(merchants))
        record = read_record(run.folder, 1)
        assert [one["status"] for one in record["merchants"]] == ["done"] * merchants
        assert len(Watched.alive) == merchants
        gc.collect()
        held.append((len(state._warm), max(Watched.alive), open_files()))
    assert held[0] == held[1]
    assert held[0][:2] == (KEPT, 2)  # the reply in hand, and the one that is made next
    state._warm.clear()


def test_planted_fault_a_grid_that_hoards_replies_is_seen(
    tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "InlineGrid", Hoarding)
    Watched.alive = []
    lead(5, tiny_base, tmp_path / "run")
    assert max(Watched.alive) == 5


def test_held_out_weeks_beyond_what_is_kept_are_made_again_and_are_the_same(
    tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lead(4, tiny_base, tmp_path / "run")
    shops = make_world(run.scenario)
    whole = hold_out(run, shops)
    monkeypatch.setattr(measure, "KEPT", 1)
    few = hold_out(run, shops)
    assert list(few.shops) == list(whole.shops) == ["shop-01", "shop-02", "shop-03", "shop-04"]
    assert few.shops["shop-01"] is few.shops["shop-01"]
    assert few.shops["shop-03"] is not few.shops["shop-03"]
    for name in whole.shops:
        assert few.shops[name].owners == whole.shops[name].owners
        assert few.customers(name) == whole.customers(name) == 3
    assert few.customers("shop-05") is None
    told = json.loads((run.folder / "merchants" / "shop-04" / "summary.json").read_text("utf-8"))
    assert told["customers"] == 3


# --- the benchmark ---


def test_the_benchmark_says_what_a_merchant_round_took_and_how_memory_grew() -> None:
    settings = {"merchants": [2, 3], "rounds": 1, "per_round": 2, "customers": 3, "measured": 1}
    said: list[str] = []
    found = run_benchmarks(["merchants"], {"merchants": settings}, said.append)["benchmarks"]["merchants"]
    first, second = found["measurements"]
    assert [one["facts"]["merchants"] for one in (first, second)] == [2, 3]
    assert [one["facts"]["merchant-rounds"] for one in (first, second)] == [2, 2]
    assert first["facts"]["train ms a merchant-round"] > 0
    grown = second["usage"]["peak_mib"] / first["usage"]["peak_mib"]
    assert second["facts"]["peak / first peak"] == pytest.approx(grown)
    assert 0.8 < grown < 1.1
    assert any("2 merchants" in line for line in said)


def test_a_round_that_did_not_come_off_is_no_measurement(tmp_path: Path) -> None:
    line = {"replies": {"done": 3, "failed": 1}, "parts": {"train": 1.0, "messages": 0.1, "aggregate": 0.1}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"replies": {}}) + "\n" + json.dumps(line) + "\n", "utf-8")
    with pytest.raises(UserError, match="3 of 4 replies of 9 merchants were done"):
        crowd.facts(tmp_path, 9)
