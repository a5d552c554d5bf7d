"""Runs of a coordinator: begun, followed, stopped, gone on with, taken back.

A run keeps its name when it is resumed, so that a merchant asked twice for one round sends what it sent and charges
nothing. A run that is taken back to an earlier round goes on under new round numbers: they are new work.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import FederationSettings, parse_settings
from common.errors import Unreachable, UserError
from common.files import write_atomic
from common.processes import started
from server.config import load_coordinator
from server.deploy.app import COORDINATOR, RUN, STATE
from server.deploy.control import run_status, start_run, stop_run
from server.deploy.layout import Layout
from server.reference import REFERENCE, read_reference, write_reference
from server.rounds import ROUNDS, SavedRound, read_record
from server.rounds import roll_back as repeat_round

SETTINGS = "settings.json"
POLL = 0.5
START_PATIENCE = 300.0
"""Seconds between asking for a run and its ServerApp saying that it runs."""
STATUS_EVERY = 10.0

Report = Callable[[str], None]


@dataclass(frozen=True)
class CoordinatorRun:
    """One run: its folder, its name, and what it trains."""

    folder: Path
    id: str
    settings: FederationSettings

    @property
    def state(self) -> str:
        """`running`, `finished`, `failed`, `stopped`, `killed` (it ran, and its process is gone) or `new`."""
        record = self._state()
        if record.get("state") == "running" and started(int(record["pid"])) != record["started"]:
            return "killed"
        return str(record.get("state", "new"))

    @property
    def reason(self) -> str:
        """Why a failed run failed."""
        return str(self._state().get("reason", ""))

    def _state(self) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads((self.folder / STATE).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return record


def begin(
    layout: Layout, rounds: int | None, folder: Path | None = None, settings: FederationSettings | None = None
) -> CoordinatorRun:
    """Return a new run with the settings of `coordinator.toml`, or `settings`; `folder` is a place of its own for it."""
    settings = settings or load_coordinator(layout.root).federation()
    if rounds is not None:
        settings = with_rounds(settings, rounds)
    name = f"{len(list(layout.runs.glob('*'))) + 1:04d}-{secrets.token_hex(4)}"
    run = CoordinatorRun(layout.runs / name, name, settings)
    if settings.training.reference:
        write_reference(read_reference(layout.root / REFERENCE), run.folder / REFERENCE)
    _write(run)
    return run


def latest(layout: Layout) -> CoordinatorRun:
    """Return the newest run; raise `UserError` when there is none."""
    folders = sorted(path for path in layout.runs.glob("[0-9]*-*") if (path / SETTINGS).exists())
    if not folders:
        raise UserError(f"{layout.root} has no run yet; `fugou coordinator run` starts one")
    return open_run(folders[-1])


def open_run(folder: Path) -> CoordinatorRun:
    """Return the run in `folder`; raise `UserError` when there is none."""
    path = folder / SETTINGS
    try:
        tree = json.loads(path.read_text("utf-8"))
        return CoordinatorRun(folder, str(tree["id"]), parse_settings(FederationSettings, tree["settings"], str(path)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}; start a new run") from None


def resume(layout: Layout, rounds: int | None) -> CoordinatorRun:
    """Return the newest run, ready to go on, up to `rounds` in all; raise `UserError` when it runs now."""
    run = latest(layout)
    if run.state == "running":
        raise UserError(f"run {run.id} runs now; `fugou coordinator stop` stops it")
    if rounds is not None:
        run = CoordinatorRun(run.folder, run.id, with_rounds(run.settings, rounds))
        _write(run)
    return run


def with_rounds(settings: FederationSettings, rounds: int) -> FederationSettings:
    """Return the settings with another number of rounds."""
    return settings.model_copy(update={"training": settings.training.model_copy(update={"rounds": rounds})})


def _write(run: CoordinatorRun) -> None:
    tree = {"id": run.id, "settings": run.settings.model_dump(mode="json")}
    write_atomic(run.folder / SETTINGS, json.dumps(tree, ensure_ascii=False, indent=1) + "\n")


def submit(layout: Layout, run: CoordinatorRun) -> int:
    """Hand the run to the SuperLink and return Flower's id of this attempt."""
    (run.folder / STATE).unlink(missing_ok=True)
    config = {
        **run.settings.to_run_config(),
        "output": str(run.folder.resolve()),
        COORDINATOR: str(layout.root),
        RUN: run.id,
    }
    attempt = start_run(layout, config)
    write_atomic(run.folder / "attempt.json", json.dumps({"flower": str(attempt)}) + "\n")
    return attempt


def follow(layout: Layout, run: CoordinatorRun, attempt: int) -> Iterator[int]:
    """Yield the number of every round as it is whole on disk, until the run has finished.

    Raises `UserError` when the run failed, `Unreachable` when its process was lost; both say how to go on.
    """
    shown = -1
    began = asked = time.monotonic()
    while True:
        state = run.state
        numbers = finished_rounds(run.folder)
        yield from (one for one in numbers if one > shown)
        shown = max([shown, *numbers])
        now = time.monotonic()
        if now - asked > STATUS_EVERY and state in ("new", "killed"):
            asked = now
            _check_not_ended(layout, run, attempt)
        _check(run, state, now - began)
        if state == "finished":
            return
        time.sleep(POLL)


def _check(run: CoordinatorRun, state: str, waited: float) -> None:
    if state == "failed":
        raise UserError(f"run {run.id} failed: {run.reason}; go on with `fugou coordinator run --resume`")
    if state == "stopped":
        raise UserError(f"run {run.id} was stopped; go on with `fugou coordinator run --resume`")
    if state == "killed":
        raise Unreachable(f"the process of run {run.id} was lost; go on with `fugou coordinator run --resume`")
    if state == "new" and waited > START_PATIENCE:
        raise Unreachable(f"run {run.id} did not start in {START_PATIENCE:g} s; services/logs/executor.log says why")


def _check_not_ended(layout: Layout, run: CoordinatorRun, attempt: int) -> None:
    status = run_status(layout, attempt)
    if status.startswith("finished"):
        raise UserError(f"run {run.id} ended before it began ({status}); services/logs/executor.log says why")


def stop(layout: Layout, run: CoordinatorRun) -> bool:
    """Stop the run's present attempt; return whether there was one. A merchant that trains now still finishes its round."""
    try:
        attempt = int(json.loads((run.folder / "attempt.json").read_text("utf-8"))["flower"])
    except (OSError, ValueError, KeyError):
        return False
    return run.state == "running" and stop_run(layout, attempt)


def finished_rounds(folder: Path) -> list[int]:
    """Return the numbers of all rounds that are whole on disk; 0 is the start."""
    return sorted(int(path.name) for path in (folder / ROUNDS).glob("[0-9]*") if path.name.isdigit())


def records(folder: Path) -> list[dict[str, Any]]:
    """Return every `round.json` of the run in order."""
    return [read_record(folder, number) for number in finished_rounds(folder)]


def roll_back(layout: Layout, number: int) -> SavedRound:
    """Add to the newest run a round that is its round `number` again, and return it; no round is taken away or used twice.

    Raises `UserError` when there is no such round or the run runs now. What merchants were charged stays charged.
    """
    run = latest(layout)
    if run.state == "running":
        raise UserError(f"run {run.id} runs now; `fugou coordinator stop` stops it")
    return repeat_round(run.folder, number, run.settings.lora, run.settings.model.base)
