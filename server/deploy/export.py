"""A run folder from a coordinator's run: the same kind that a simulation leaves, without what only shops know.

DIR/
  scenario.toml     what was trained, with versions, the federation's id and the base's digest
  metrics.jsonl     a line a round: seconds, bytes, how merchants answered
  rounds/           every round: adapter, round.json with merchants by name
  model/            the last shared adapter, with a model card, and its seal once the run has ended
  chain.jsonl       every seal: what merchants compare
  federation.json federation.html
A figure of quality needs rows, and no row is here: `metrics.jsonl` has no perplexity.
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w
import torch

from common.cli import language
from common.errors import UserError
from common.factors import with_residual
from common.files import cannot_write, write_atomic
from common.lora import Adapter, save
from common.ranking import HEAD_FILE
from common.seal import SEAL_FILE
from server.aggregation import residual_of
from server.config import load_coordinator
from server.deploy.enrolment import read_merchants
from server.deploy.layout import Layout
from server.deploy.runs import CoordinatorRun, finished_rounds, records
from server.deploy.signing import close
from server.report import write_federation_report
from server.rounds import METRICS, ROUNDS, SavedRound, figures, load_round, round_folder

PACKAGES = ("flwr", "peft", "torch", "transformers")


def export(layout: Layout, run: CoordinatorRun, folder: Path) -> None:
    """Write the run into the empty or missing `folder`; raise `UserError` when it holds anything or the run has no round."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; name a new folder")
    numbers = finished_rounds(run.folder)
    if not numbers:
        raise UserError(f"run {run.id} has no round yet; export it after the first")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(run.folder / ROUNDS, folder / ROUNDS, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
        last = load_round(run.folder, numbers[-1])
        adapter, shape = with_residual(last.adapter, residual_of(last.state), run.settings.lora)
        save(adapter, folder / "model", shape, run.settings.model.base)
        if (head := round_folder(run.folder, numbers[-1]) / HEAD_FILE).exists():
            shutil.copyfile(head, folder / "model" / HEAD_FILE)
        write_seal(layout, run, last, adapter, folder / "model")
        if layout.chain.exists():
            shutil.copyfile(layout.chain, folder / "chain.jsonl")
    except OSError as error:
        raise cannot_write(folder, error) from error
    told = named_records(layout, run)
    write_atomic(folder / METRICS, "".join(json.dumps(figures(one)) + "\n" for one in told))
    for record in told:
        path = round_folder(folder, record["round"]) / "round.json"
        write_atomic(path, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    write_atomic(folder / "scenario.toml", tomli_w.dumps(scenario(layout, run)))
    write_atomic(folder / "model" / "README.md", card(run, numbers[-1]))
    write_report(layout, run, folder)


def write_seal(layout: Layout, run: CoordinatorRun, last: SavedRound, adapter: Adapter, folder: Path) -> None:
    """Sign the model that an ended run leaves, into `folder`; a run that goes on has none yet.

    Raises `VerificationFailed` where the model is not the one that was signed before.
    """
    if run.state == "running":
        return
    head = {name: torch.from_numpy(one) for name, one in last.head.head.items()} if last.head else {}
    seal = close(layout, run.id, last.number, adapter, head)
    if seal is not None:
        write_atomic(folder / SEAL_FILE, seal.text() + "\n")


def scenario(layout: Layout, run: CoordinatorRun) -> dict[str, Any]:
    """Return what was run, as the tables of a scenario file."""
    about = load_coordinator(layout.root).coordinator
    return {
        "scenario": {"name": run.id, "title": about.name, "merchants": len(read_merchants(layout))},
        "run": {"id": run.id, "federation": layout.federation},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        **run.settings.model_dump(mode="json"),
    }


def card(run: CoordinatorRun, number: int) -> str:
    """Return the model card of the shared adapter after round `number`."""
    settings = run.settings
    return (
        f"# Shared adapter of run {run.id}\n\n"
        f"LoRA of rank {settings.lora.rank} on {', '.join(settings.lora.targets)} for base `{settings.model.base}`, "
        f"method {settings.training.method}, after round {number}. Load it with `PeftModel.from_pretrained`.\n\n"
        "Every merchant's updates were clipped and noised on its own machine; what each declared is in `rounds/*/round.json`.\n"
    )


def write_report(layout: Layout, run: CoordinatorRun, folder: Path) -> Path:
    """Write the federation's report of the run into `folder` and return its page; merchants stand under their names."""
    with tempfile.TemporaryDirectory() as place:
        for record in named_records(layout, run):
            write_atomic(round_folder(Path(place), record["round"]) / "round.json", json.dumps(record))
        return write_federation_report(Path(place), folder, language())[0]


def named_records(layout: Layout, run: CoordinatorRun) -> list[dict[str, Any]]:
    """Return every `round.json` of the run, with merchants' names in place of nodes that never answered for themselves."""
    names = {f"node {one.node}": one.name for one in read_merchants(layout)}
    return [named(record, names) for record in records(run.folder)]


def named(record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a round's record with every merchant under the name that `names` has for it."""
    verdicts = [{**one, "merchant": names.get(one["merchant"], one["merchant"])} for one in record["merchants"]]
    return {**record, "merchants": verdicts}
