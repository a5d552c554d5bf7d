"""A round on disk: whole or not there.

rounds/0003/adapter/        the shared adapter after round 3, a PEFT folder
rounds/0003/round.json      who took part, charges as declared, digests, bytes, seconds
rounds/0003/optimizer.safetensors   the server optimizer's state, where it has one
rounds/0003/head.safetensors        the recommendation head, where one is trained; head-optimizer.safetensors beside it

Rounds are only ever added. A run that goes back to an earlier round gets one more round that is the earlier one again:
what lies between stays where it is and stays charged, and no round number is asked of a merchant twice, as it would answer
with what it released before.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.config import LoraSettings
from common.errors import UserError, VerificationFailed
from common.files import cannot_write, sync_folder, write_atomic
from common.lora import Adapter, digest, load, save, to_bytes
from server.optimizers import State
from server.ranking import HeadState, read_state, state_digest, write_state

ROUNDS, STATE, METRICS = "rounds", "optimizer.safetensors", "metrics.jsonl"


@dataclass(frozen=True)
class SavedRound:
    """The state of a run after `number` rounds."""

    number: int
    adapter: Adapter = field(repr=False)
    state: State = field(repr=False)
    head: HeadState | None = field(default=None, repr=False)


def round_folder(run: Path, number: int) -> Path:
    """Return where round `number` of the run in folder `run` lies."""
    return run / ROUNDS / f"{number:04d}"


def save_round(run: Path, saved: SavedRound, record: Mapping[str, Any], lora: LoraSettings, base: str) -> None:
    """Write a round beside the others by one rename, so that a crash leaves either all of it or none."""
    final = round_folder(run, saved.number)
    draft = final.with_name(f".{final.name}.draft")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        save(saved.adapter, draft / "adapter", lora, base)
        if saved.state:
            write_atomic(draft / STATE, to_bytes(saved.state))
        write_state(draft, saved.head)
        write_atomic(draft / "round.json", json.dumps(record, ensure_ascii=False, indent=1) + "\n")
        shutil.rmtree(final, ignore_errors=True)
        draft.replace(final)
        sync_folder(final.parent)
    except OSError as error:
        raise cannot_write(final, error) from error


def latest_round(run: Path) -> SavedRound | None:
    """Return the last whole round of a run, or None before the first."""
    numbers = [int(path.name) for path in (run / ROUNDS).glob("[0-9]*") if path.name.isdigit()]
    return load_round(run, max(numbers)) if numbers else None


def roll_back(run: Path, number: int, lora: LoraSettings, base: str) -> SavedRound:
    """Add a round that is round `number` again, adapter and server's state, and return it; the next one goes on from there.

    Nobody is asked in it and nobody charged. Where the last round is that already, it is returned as it is. Raises
    `UserError` for a round that the run does not have before its last.
    """
    last = latest_round(run)
    if last is None or not 0 <= number < last.number:
        have = f"rounds 0 to {last.number}; name one before the last" if last else "no round yet"
        raise UserError(f"round {number} cannot be gone back to: the run in {run} has {have}")
    told = read_record(run, last.number)
    if told.get("back_to") == number:
        return last
    earlier = load_round(run, number)
    again = SavedRound(last.number + 1, earlier.adapter, earlier.state, earlier.head)
    kept: dict[str, Any] = {key: told[key] for key in ("run", "method", "exact") if key in told}
    record: dict[str, Any] = {
        **kept,
        "round": again.number,
        "back_to": number,
        "set_aside": list(range(number + 1, again.number)),
        "merchants": [],
        "adapter_digest": digest(again.adapter),
        "state_digest": digest(again.state),
        "head_digest": state_digest(again.head),
        "bytes_down": 0,
        "bytes_up": 0,
        "parts": {},
        "seconds": 0.0,
    }
    save_round(run, again, record, lora, base)
    return again


def load_round(run: Path, number: int) -> SavedRound:
    """Return round `number`; raise `UserError` when it is not there or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = round_folder(run, number)
    try:
        state = load_file(folder / STATE) if (folder / STATE).exists() else {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"round folder {folder} cannot be read: {error}; remove it to go back one round") from None
    adapter, head = load(folder / "adapter"), read_state(folder)
    record = read_record(run, number)
    for what, key, found in (
        ("adapter", "adapter_digest", digest(adapter)),
        ("server's state", "state_digest", digest(state)),
        ("recommendation head", "head_digest", state_digest(head)),
    ):
        if record.get(key) not in (None, found):
            raise VerificationFailed(
                f"the {what} in {folder} is not the one its round.json tells of; restore or remove it"
            )
    return SavedRound(number, adapter, state, head)


def figures(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a round's line of `metrics.jsonl` as far as its record has it: time, bytes, and how merchants answered."""
    statuses = [one["status"] for one in record["merchants"]]
    return {
        "round": record["round"],
        **({"back_to": record["back_to"]} if "back_to" in record else {}),
        "seconds": record["seconds"],
        "parts": record["parts"],
        "bytes_up": record["bytes_up"],
        "bytes_down": record["bytes_down"],
        "replies": {status: statuses.count(status) for status in sorted(set(statuses))},
    }


def read_record(run: Path, number: int) -> dict[str, Any]:
    """Return `round.json` of round `number`."""
    path = round_folder(run, number) / "round.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; remove the round's folder to go back one round") from None
    return record
