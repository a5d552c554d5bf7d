"""Where a merchant computes, and what it says where the device is not there."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from client.round import take_part
from client.train.device import pick
from common.cli import main
from common.config import LoraSettings
from common.errors import UserError
from common.lora import bench, initial
from common.wire import TrainAsk, TrainReply
from simulations.folder import begin
from simulations.merchants import make_world, prepare
from tests.conftest import needs_vnni
from tests.deploy.conftest import entries, small


def test_auto_is_a_device_that_tensors_can_be_on() -> None:
    assert torch.zeros(1).to(pick("auto")).device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick("cpu") == "cpu"


def test_a_gpu_that_is_not_there_is_told_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"train.device = 'cuda:99'.*write cpu or auto"):
        pick("cuda:99")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> Path:
    run = begin(tmp_path_factory.mktemp("device") / "run", small(tiny_base))
    prepare(run, make_world(run.scenario), lambda _: None)
    return run.merchants[0]


def computing(shop: Path, lines: str) -> None:
    """Let the shop's [train] say `lines` and nothing else."""
    path = shop / "merchant.toml"
    kept = path.read_text("utf-8").split("\n[train]")[0]
    path.write_text(f"{kept}\n[train]\n{lines}\n", "utf-8")


def asked(shop: Path, base: str, number: int) -> TrainReply:
    work = bench(base, LoraSettings(rank=4, alpha=8.0))
    ask = TrainAsk("device", 1, "fedavg", 1.0, 7, work.base.digest, "", 2.0, initial(work.model, 7))
    return take_part(replace(ask, round=number).pack(), shop)


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        ('device = "cpu"', 1),
        ('device = "auto"', 2),
        ('device = "auto"\nprecision = "bfloat16"', 3),
        pytest.param('device = "cpu"\nprecision = "int8"', 4, marks=needs_vnni),
    ],
)
def test_what_is_sent_is_finite_fp32_wherever_and_however_it_was_computed(
    shop: Path, tiny_base: str, lines: str, number: int
) -> None:
    computing(shop, lines)
    reply = asked(shop, tiny_base, number)
    assert reply.status == "done"
    assert {tensor.dtype for tensor in reply.update.values()} == {torch.float32}
    assert all(torch.isfinite(tensor).all() for tensor in reply.update.values())


@pytest.mark.parametrize(
    ("lines", "number", "words"),
    [
        ('device = "cuda:99"', 9, ("train.device = 'cuda:99'", "write cpu or auto")),
        ('precision = "int8"', 10, ("needs a processor with VNNI, which this one lacks", 'write "float32"')),
    ],
)
def test_a_round_that_this_machine_cannot_compute_fails_with_the_way_out_in_the_log_and_is_not_charged(
    shop: Path,
    tiny_base: str,
    lines: str,
    number: int,
    words: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    caplog.set_level(logging.ERROR)
    computing(shop, lines)
    before = len(entries(shop, "RESERVE"))
    reply = asked(shop, tiny_base, number)
    assert (reply.status, reply.reason) == ("failed", "")
    assert all(word in caplog.text for word in words)
    assert len(entries(shop, "RESERVE")) == before


def test_a_simulation_in_int8_is_not_begun_without_vnni(
    tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(UserError, match="needs a processor with VNNI"):
        begin(tmp_path / "run", small(tiny_base, **{"engine.precision": "int8"}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("lines", "words"),
    [('device = "cuda:99"', "write cpu or auto"), ('device = "gpu"', "train.device = 'gpu'")],
)
def test_a_node_that_could_not_compute_is_not_started(
    shop: Path, lines: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    computing(shop, lines)
    (shop / "keys" / "invitation.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["fugou", "--lang", "en", "merchant", "--dir", str(shop), "join"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in told
    assert not (shop / "node" / "services.json").exists()
