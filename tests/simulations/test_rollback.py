"""A run that goes back to an earlier round: new numbers, charges that stay, and what would go wrong otherwise."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from client.config import LEDGER
from common.cli import main
from common.errors import UserError
from common.lora import load, to_bytes
from common.privacy.keys import load_public_key
from common.privacy.ledger import read, verify
from server.rounds import load_round, read_record, round_folder
from simulations.folder import Run
from simulations.results import load_run
from simulations.run import simulate
from simulations.scenario import Scenario, load_scenario

ROUNDS, STOPPED, BACK = 5, 3, 1


def small(base: str, **changes: Any) -> Scenario:
    """Two private shops on one thread."""
    return load_scenario(
        "shops-zh",
        {
            "scenario.merchants": 2,
            "world.customers": 6,
            "world.weeks": 12,
            "model.base": base,
            "lora.rank": 4,
            "training.rounds": ROUNDS,
            "training.server_optimizer": "adam",
            "privacy.steps": 1,
            "privacy.max_tokens": 64,
            "engine.threads": 1,
            "evaluation.per_task": 1,
            "evaluation.questions": 0,
            **changes,
        },
    )


class Stopped(Exception):
    """The power is gone."""


def stop(line: str) -> None:
    """Stop the run once round `STOPPED` has been measured."""
    if line.startswith(f"round {STOPPED}/"):
        raise Stopped


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> Path:
    """The folder of a run that was stopped after round 3 of 5."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(Stopped):
        simulate(small(tiny_base), folder, resume=False, report=stop)
    return folder


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What the run that went back reported."""
    return []


@pytest.fixture(scope="module")
def gone_back(stopped: Path, tmp_path_factory: pytest.TempPathFactory, said: list[str]) -> Run:
    """The same run, gone on from round 1 to its end."""
    folder = tmp_path_factory.mktemp("runs") / "back"
    shutil.copytree(stopped, folder)
    return simulate(None, folder, resume=True, report=said.append, from_round=BACK)


def rounds_asked(run: Path) -> list[list[str]]:
    """Return, round by round, who took part."""
    numbers = sorted(int(path.name) for path in (run / "rounds").glob("[0-9]*"))
    return [[one["status"] for one in read_record(run, number)["merchants"]] for number in numbers]


def test_the_run_goes_on_under_new_numbers_from_the_earlier_adapter(
    gone_back: Run, stopped: Path, said: list[str]
) -> None:
    folder = gone_back.folder
    assert rounds_asked(folder) == [[], ["done"] * 2, ["done"] * 2, ["done"] * 2, [], ["done"] * 2]
    record = read_record(folder, STOPPED + 1)
    assert (record["back_to"], record["set_aside"]) == (BACK, [2, 3])
    earlier, again = load_round(folder, BACK), load_round(folder, STOPPED + 1)
    assert to_bytes(earlier.adapter) == to_bytes(again.adapter)
    assert to_bytes(earlier.state) == to_bytes(again.state)
    assert f"round {STOPPED + 1} is round {BACK} again; rounds since then stay on disk and charged, 1 to go" in said
    for number in range(STOPPED + 1):
        files = [path for path in round_folder(stopped, number).rglob("*") if path.is_file()]
        assert files
        for path in files:
            assert path.read_bytes() == (folder / path.relative_to(stopped)).read_bytes()
    assert to_bytes(load(folder / "model")) == to_bytes(load_round(folder, ROUNDS).adapter)


def test_charges_stay_and_each_round_is_charged_once(gone_back: Run) -> None:
    for merchant in gone_back.merchants:
        book = read(merchant / LEDGER)
        assert (book.counts["RESERVE"], book.counts["RELEASE"]) == (STOPPED + 1, STOPPED + 1)
        assert verify(
            merchant / LEDGER, load_public_key(merchant / "keys" / "ledger.pub"), outbox=merchant / "outbox"
        ).ok
    told = [json.loads((merchant / "summary.json").read_text("utf-8")) for merchant in gone_back.merchants]
    assert {one["charges"]["released"] for one in told} == {STOPPED + 1}


def test_the_figures_show_the_way_back(gone_back: Run) -> None:
    result = load_run(gone_back.folder)
    figures = [one.perplexity for one in result.rounds]
    assert len(figures) == ROUNDS + 1
    assert figures[STOPPED + 1] == figures[BACK]
    assert (gone_back.folder / "report.html").is_file()


def test_giving_the_same_command_again_changes_nothing(gone_back: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(gone_back.folder, folder)
    shutil.rmtree(round_folder(folder, ROUNDS))  # as if it had been stopped right after going back
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:-1]), "utf-8")
    said: list[str] = []
    with pytest.raises(Stopped):
        simulate(None, folder, resume=True, report=lambda line: stop_at(said, line), from_round=BACK)
    assert said[0].startswith(f"round {STOPPED + 1} is round {BACK} again")
    assert sorted(path.name for path in (folder / "rounds").glob("[0-9]*"))[-1] <= f"{ROUNDS:04d}"


def stop_at(said: list[str], line: str) -> None:
    """Keep the first line and stop at the second."""
    said.append(line)
    if len(said) > 1:
        raise Stopped


def test_planted_fault_taking_rounds_away_instead_brings_the_old_update_back(stopped: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    for number in (2, 3):
        shutil.rmtree(round_folder(folder, number))
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:2]), "utf-8")

    def stop_soon(line: str) -> None:
        if line.startswith("round 2/"):
            raise Stopped

    with pytest.raises(Stopped):
        simulate(None, folder, resume=True, report=stop_soon)
    assert to_bytes(load_round(folder, 2).adapter) == to_bytes(load_round(stopped, 2).adapter)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resume", "--from-round", "3"], "has rounds 0 to 3; name one before the last"),
        (["--resume", "--from-round", "9"], "round 9 cannot be gone back to"),
        (["--from-round", "1"], "--from-round 1 goes with --resume"),
    ],
)
def test_a_round_that_cannot_be_is_one_line_and_nothing_is_written(
    stopped: Path,
    options: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(path for path in stopped.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["fugou", "simulate", "-o", str(stopped), *options])
    with pytest.raises(SystemExit) as stop_:
        main()
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop_.value.code == 2
    assert last.startswith("fugou: ")
    assert words in last
    assert sorted(path for path in stopped.rglob("*")) == before


@pytest.mark.parametrize("method", ["fedsa"])
def test_what_merchants_keep_for_themselves_cannot_be_taken_back(method: str, tiny_base: str, tmp_path: Path) -> None:
    changes = {"training.method": method, "training.server_optimizer": "sgd", "training.rounds": 1}
    run = simulate(small(tiny_base, **changes), tmp_path / "run", resume=False, report=lambda _: None)
    with pytest.raises(UserError, match=f"under {method} merchants keep a part that no coordinator can take back"):
        simulate(None, run.folder, resume=True, report=lambda _: None, from_round=0)
