"""A hostile coordinator that holds the right key: what it may sign, a merchant still does not do."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, RecordDict

from client.round import take_part
from client.trust import COORDINATOR_KEY, distrusts
from common.config import LoraSettings
from common.lora import Adapter, bench, initial
from common.privacy.keys import create_key, public_path
from common.seal import SEAL, Body, body_of, sign
from common.wire import TrainAsk, TrainReply
from simulations.folder import begin
from simulations.merchants import make_world, prepare
from tests.deploy.conftest import entries, small


class Coordinator:
    """Signs whatever it is told to, in one chain."""

    def __init__(self, key: Ed25519PrivateKey, base: str, merchant: Path) -> None:
        work = bench(base, LoraSettings(rank=4, alpha=8.0))
        self.key, self.merchant, self.start = key, merchant, initial(work.model, 7)
        self.bodies: list[Body] = []
        self.first = TrainAsk("0001-aa", 1, "fedsvd", 1.0, 7, work.base.digest, "s" * 64, 2.0, self.start)

    def message(self, ask: TrainAsk, *, keep: bool = True) -> RecordDict:
        """Return a sealed message; with `keep` the chain goes on from it."""
        body = body_of(ask, "f" * 32, len(self.bodies) + 1)
        content = ask.pack()
        content[SEAL] = ConfigRecord(dict(sign(body, [one.digest for one in self.bodies], self.key).record()))
        if keep:
            self.bodies.append(body)
        return content

    def tell(self, content: RecordDict) -> TrainReply:
        """Return what the merchant answers, as its ClientApp does it."""
        return distrusts(content, self.merchant) or take_part(content, self.merchant)


@pytest.fixture
def coordinator(tmp_path: Path, tiny_base: str) -> Coordinator:
    scenario = small(tiny_base)
    run = begin(tmp_path / "run", scenario)
    prepare(run, make_world(scenario), lambda _: None)
    key = create_key(tmp_path / "coordinator")
    (run.merchants[0] / COORDINATOR_KEY).write_bytes(public_path(tmp_path / "coordinator").read_bytes())
    return Coordinator(key, tiny_base, run.merchants[0])


def charged(coordinator: Coordinator) -> tuple[int, int]:
    """Return how many charges were reserved and how many released."""
    return len(entries(coordinator.merchant, "RESERVE")), len(entries(coordinator.merchant, "RELEASE"))


def test_a_round_that_is_asked_twice_is_charged_once_and_answered_alike(coordinator: Coordinator) -> None:
    content = coordinator.message(coordinator.first)
    again = coordinator.first.pack()
    again[SEAL] = content[SEAL]
    one, two = coordinator.tell(content), coordinator.tell(again)
    assert (one.status, two.status) == ("done", "done")
    assert one.update_digest == two.update_digest != ""
    assert charged(coordinator) == (1, 1)


def filled(adapter: Adapter, value: float) -> Adapter:
    return {name: torch.full_like(tensor, value) for name, tensor in adapter.items()}


@pytest.mark.parametrize(("value", "status", "words"), [(1e30, "refused", "norm"), (float("nan"), "failed", "")])
def test_trap_weights_are_not_trained_on_and_not_charged(
    coordinator: Coordinator, value: float, status: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    reply = coordinator.tell(coordinator.message(replace(coordinator.first, adapter=filled(coordinator.start, value))))
    assert reply.status == status
    assert words in reply.reason
    assert words or "not finite" in caplog.text
    assert charged(coordinator) == (0, 0)


@pytest.mark.parametrize("key", ["sigma_min", "epsilon", "clip_norm", "rate", "steps"])
def test_an_ask_for_less_noise_is_refused_and_not_charged(coordinator: Coordinator, key: str) -> None:
    content = coordinator.message(coordinator.first)
    ask = content.config_records["ask"]
    ask[key] = 0.001
    reply = coordinator.tell(content)
    assert reply.status == "refused"
    assert key in reply.reason
    assert charged(coordinator) == (0, 0)


def test_replays_and_second_adapters_are_refused_and_not_charged(coordinator: Coordinator) -> None:
    old = coordinator.message(coordinator.first)
    kept = RecordDict(dict(old.items()))
    assert coordinator.tell(old).status == "done"
    second = replace(coordinator.first, round=2, adapter={**coordinator.start})
    other = coordinator.message(replace(second, adapter=filled(coordinator.start, 0.01)), keep=False)
    assert coordinator.tell(coordinator.message(second)).status == "done"
    assert charged(coordinator) == (2, 2)
    for content, words in ((kept, "is replayed"), (other, "two histories")):
        reply = coordinator.tell(content)
        assert (reply.status, words in reply.reason) == ("refused", True)
    assert charged(coordinator) == (2, 2)


def test_an_ask_without_the_coordinators_seal_is_refused_and_not_charged(coordinator: Coordinator) -> None:
    reply = coordinator.tell(coordinator.first.pack())
    assert (reply.status, reply.charge) == ("refused", {})
    assert "carries no seal" in reply.reason
    assert charged(coordinator) == (0, 0)
