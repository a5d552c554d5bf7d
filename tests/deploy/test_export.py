"""What a coordinator hands out after a run: metrics, and a model whose seal a merchant can check."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord

from client.trust import ALARMS, COORDINATOR_KEY, check_model, distrusts, read_chain
from common.cli import main
from common.config import LoraSettings
from common.errors import FugouError, UserError, VerificationFailed
from common.lora import WEIGHTS, Adapter, digest, save
from common.model import digest_of
from common.privacy.keys import load_key, public_path
from common.ranking import HEAD_FILE, PARTS, head_bytes
from common.seal import SEAL, SEAL_FILE, sign
from common.wire import TrainAsk
from server.deploy import runs
from server.deploy.app import write_state
from server.deploy.export import export
from server.deploy.layout import Layout, make_coordinator
from server.deploy.runs import CoordinatorRun
from server.deploy.signing import read_chain as read_bodies
from server.deploy.signing import seal_of
from server.ranking import begin
from server.rounds import SavedRound, round_folder, save_round

NAME = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"


def adapter_after(number: int) -> Adapter:
    return {NAME: torch.full((2, 3), float(number))}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return make_coordinator(tmp_path / "c", "茶商联盟", "localhost:9443")


@pytest.fixture
def shop(tmp_path: Path, layout: Layout, tiny_base: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A merchant that trusts the coordinator and stands on the tiny base."""
    monkeypatch.setenv("FUGOU_BASE", tiny_base)
    folder = tmp_path / "tea"
    (folder / "keys").mkdir(parents=True)
    (folder / COORDINATOR_KEY).write_bytes(public_path(layout.key).read_bytes())
    for table in ("orders", "products"):
        (folder / f"{table}.csv").write_text("")
    (folder / "merchant.toml").write_text(
        '[merchant]\nid = "tea"\n[sources]\norders = "orders.csv"\nproducts = "products.csv"\n'
    )
    return folder


def ask(run: CoordinatorRun, number: int, base: str) -> TrainAsk:
    digest = digest_of(Path(base))
    return TrainAsk(run.id, number, "fedavg", 1.0, 7, digest, "s" * 64, 2.0, adapter_after(number - 1))


def asked(layout: Layout, run: CoordinatorRun, number: int, base: str, shop: Path) -> None:
    """Ask the merchant for a round, which it must believe, and keep the round."""
    one = ask(run, number, base)
    content = one.pack()
    content[SEAL] = ConfigRecord(dict(seal_of(layout, one).record()))
    assert distrusts(content, shop) is None
    kept(run, number)


def kept(run: CoordinatorRun, number: int, head: bool = False) -> None:
    verdicts = [{"merchant": "tea", "status": "done", "charge": {}, "reason": ""}] if number else []
    record = {
        "round": number, "run": run.id, "method": "fedavg", "merchants": verdicts, "bytes_up": 10 * number,
        "bytes_down": 20 * number, "parts": {"messages": 1.0}, "seconds": 1.5, "adapter_digest": digest(adapter_after(number)),
    }  # fmt: skip
    state = begin({name: np.ones(part.shape, np.float32) for name, part in PARTS.items()}) if head else None
    save_round(run.folder, SavedRound(number, adapter_after(number), {}, state), record, LoraSettings(), "default")


@pytest.fixture
def run(layout: Layout, shop: Path, tiny_base: str) -> CoordinatorRun:
    """A run of two rounds that has ended; the merchant was asked in both."""
    run = runs.begin(layout, 2)
    kept(run, 0)
    for number in (1, 2):
        asked(layout, run, number, tiny_base, shop)
    write_state(run.folder, "finished")
    return run


def test_an_export_has_a_line_of_metrics_for_every_round(layout: Layout, run: CoordinatorRun, tmp_path: Path) -> None:
    export(layout, run, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [one["round"] for one in lines] == [0, 1, 2]
    assert lines[2] == {
        "round": 2,
        "seconds": 1.5,
        "parts": {"messages": 1.0},
        "bytes_up": 20,
        "bytes_down": 40,
        "replies": {"done": 1},
    }


def test_a_model_of_an_ended_run_is_believed_and_becomes_part_of_the_shown_history(
    layout: Layout, run: CoordinatorRun, shop: Path, tmp_path: Path
) -> None:
    export(layout, run, tmp_path / "out")
    for place in (tmp_path / "out", tmp_path / "out" / "model"):
        body = check_model(shop, place).body
        assert (body.run, body.round, body.seq) == (run.id, 2, 3)
    last = read_chain(shop)
    assert last is not None
    assert last.body.closes
    assert read_bodies(tmp_path / "out" / "chain.jsonl")[-1] == last.body


def test_the_same_model_gets_the_same_seal_again_and_the_run_can_go_on(
    layout: Layout, run: CoordinatorRun, shop: Path, tiny_base: str, tmp_path: Path
) -> None:
    export(layout, run, tmp_path / "one")
    export(layout, run, tmp_path / "two")
    assert (tmp_path / "one/model" / SEAL_FILE).read_text() == (tmp_path / "two/model" / SEAL_FILE).read_text()
    check_model(shop, tmp_path / "one")
    asked(layout, run, 3, tiny_base, shop)
    export(layout, run, tmp_path / "three")
    assert check_model(shop, tmp_path / "three").body.seq == 5
    assert check_model(shop, tmp_path / "one").body.seq == 3
    last = read_chain(shop)
    assert last is not None
    assert last.body.seq == 5


def test_a_round_asked_again_after_the_end_keeps_its_seal(
    layout: Layout, run: CoordinatorRun, tiny_base: str, tmp_path: Path
) -> None:
    before = seal_of(layout, ask(run, 2, tiny_base))
    export(layout, run, tmp_path / "out")
    assert seal_of(layout, ask(run, 2, tiny_base)) == before


def test_a_head_is_part_of_what_is_signed(layout: Layout, run: CoordinatorRun, shop: Path, tmp_path: Path) -> None:
    kept(run, 3, head=True)
    export(layout, run, tmp_path / "out")
    assert check_model(shop, tmp_path / "out").body.round == 3
    (tmp_path / "out/model" / HEAD_FILE).write_bytes(
        head_bytes({name: np.zeros(part.shape, np.float32) for name, part in PARTS.items()})
    )
    with pytest.raises(VerificationFailed, match="is of model"):
        check_model(shop, tmp_path / "out")


def other_weights(layout: Layout, model: Path) -> None:
    save({NAME: torch.full((2, 3), 2.0000002)}, model, LoraSettings(), "default")


def no_weights(layout: Layout, model: Path) -> None:
    (model / WEIGHTS).unlink()


def a_head(layout: Layout, model: Path) -> None:
    head = {name: np.zeros(part.shape, np.float32) for name, part in PARTS.items()}
    (model / HEAD_FILE).write_bytes(head_bytes(head))


def another_round(layout: Layout, model: Path) -> None:
    text = (model / SEAL_FILE).read_text("utf-8")
    (model / SEAL_FILE).write_text(text.replace('\\"round\\":2', '\\"round\\":9'), "utf-8")


def seal_of_an_ask(layout: Layout, model: Path) -> None:
    bodies = read_bodies(layout.chain)
    seal = sign(bodies[1], [bodies[0].digest], load_key(layout.key))
    (model / SEAL_FILE).write_text(seal.text())


def another_story(layout: Layout, model: Path) -> None:
    bodies = read_bodies(layout.chain)
    first = replace(bodies[0], adapter_digest="0" * 64)
    seal = sign(bodies[2], [first.digest, bodies[1].digest], load_key(layout.key))
    (model / SEAL_FILE).write_text(seal.text())


def another_base(layout: Layout, model: Path) -> None:
    bodies = read_bodies(layout.chain)
    body = replace(bodies[2], base_digest="0" * 64)
    (model / SEAL_FILE).write_text(sign(body, [one.digest for one in bodies[:2]], load_key(layout.key)).text())


def no_seal(layout: Layout, model: Path) -> None:
    (model / SEAL_FILE).unlink()


def broken_seal(layout: Layout, model: Path) -> None:
    (model / SEAL_FILE).write_text("{")


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (other_weights, VerificationFailed, "is of model"),
        (a_head, VerificationFailed, "is of model"),
        (another_round, VerificationFailed, "does not end its own chain"),
        (seal_of_an_ask, VerificationFailed, "is the seal of an ask"),
        (another_story, VerificationFailed, "two histories"),
        (another_base, VerificationFailed, "is of base 0000"),
        (no_weights, UserError, "copy it again"),
        (no_seal, UserError, "made after the run has ended"),
        (broken_seal, UserError, "cannot be read"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_model_that_is_not_the_one_that_was_signed_is_not_believed(
    spoil: Callable[[Layout, Path], None],
    kind: type[FugouError],
    words: str,
    layout: Layout,
    run: CoordinatorRun,
    shop: Path,
    tmp_path: Path,
) -> None:
    export(layout, run, tmp_path / "out")
    spoil(layout, tmp_path / "out" / "model")
    with pytest.raises(kind, match=words):
        check_model(shop, tmp_path / "out")
    last = read_chain(shop)
    assert last is not None
    assert last.body.seq == 2
    assert (shop / ALARMS).exists() == (spoil is another_story)


def test_a_stranger_to_the_federation_is_told_to_join(
    layout: Layout, run: CoordinatorRun, shop: Path, tmp_path: Path
) -> None:
    export(layout, run, tmp_path / "out")
    (shop / COORDINATOR_KEY).unlink()
    with pytest.raises(UserError, match="`fugou merchant join` comes first"):
        check_model(shop, tmp_path / "out")


def test_a_run_that_goes_on_and_a_run_that_nobody_was_asked_in_leave_no_seal(
    layout: Layout, run: CoordinatorRun, tmp_path: Path
) -> None:
    write_state(run.folder, "running", pid=os.getpid())
    export(layout, run, tmp_path / "out")
    assert not (tmp_path / "out/model" / SEAL_FILE).exists()
    other = runs.begin(layout, 2)
    kept(other, 0)
    kept(other, 1)
    export(layout, other, tmp_path / "other")
    assert not (tmp_path / "other/model" / SEAL_FILE).exists()
    assert len(read_bodies(layout.chain)) == 2


def test_a_round_that_was_changed_after_it_was_signed_is_not_signed_again(
    layout: Layout, run: CoordinatorRun, tmp_path: Path
) -> None:
    export(layout, run, tmp_path / "out")
    record = json.loads((round_folder(run.folder, 2) / "round.json").read_text("utf-8"))
    record["adapter_digest"] = digest(adapter_after(5))
    save_round(run.folder, SavedRound(2, adapter_after(5), {}), record, LoraSettings(), "default")
    with pytest.raises(VerificationFailed, match="was closed at round 2 with model"):
        export(layout, run, tmp_path / "again")
    assert len(read_bodies(layout.chain)) == 3


def test_a_closing_seal_is_no_seal_of_an_ask(
    layout: Layout, run: CoordinatorRun, shop: Path, tiny_base: str, tmp_path: Path
) -> None:
    export(layout, run, tmp_path / "out")
    one = replace(ask(run, 2, tiny_base), adapter=adapter_after(2))
    content = one.pack()
    content[SEAL] = ConfigRecord(dict(check_model(shop, tmp_path / "out").record()))
    refusal = distrusts(content, shop)
    assert refusal is not None
    assert refusal.status == "refused"
    assert "names ask_digest" in refusal.reason


@pytest.mark.parametrize(("changed", "code"), [(False, 0), (True, 4)])
def test_the_verb_says_what_holds_and_exits_with_4_when_it_does_not(
    changed: bool,
    code: int,
    layout: Layout,
    run: CoordinatorRun,
    shop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export(layout, run, tmp_path / "out")
    if changed:
        other_weights(layout, tmp_path / "out" / "model")
    words = ["fugou", "--lang", "en", "merchant", "--dir", str(shop), "verify", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setenv("FUGOU_LANG", "en")
    if not changed:
        main()
        assert "is signed by the coordinator and unchanged" in capsys.readouterr().out
        return
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == code
    assert "is of model" in capsys.readouterr().err
