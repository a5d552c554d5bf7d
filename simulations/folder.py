"""The folder of a run: what was run, resolved, so that it can be gone on with or run again."""

from __future__ import annotations

import platform
import secrets
import tomllib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import tomli_w

from common.errors import UserError, VerificationFailed
from common.files import write_atomic
from common.lora import bench
from common.model import check_length
from simulations.scenario import Scenario, read_scenario

SCENARIO = "scenario.toml"
PACKAGES = ("flwr", "opacus", "peft", "torch", "transformers", "dp-accounting")


@dataclass(frozen=True)
class Run:
    """A run folder and what it runs; `id` names the run in every ledger."""

    folder: Path
    scenario: Scenario
    id: str

    @property
    def merchants(self) -> list[Path]:
        """The merchants' folders, in the order of their ids."""
        return sorted(path for path in (self.folder / "merchants").iterdir() if path.is_dir())


def begin(folder: Path, scenario: Scenario | None) -> Run:
    """Return a new run in an empty or missing `folder`."""
    if scenario is None:
        raise UserError("name a scenario; `fugou scenarios` lists them")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} is not empty; continue the run there with --resume, or choose another folder with -o"
        )
    scenario.policy("merchant", "")
    base = bench(scenario.model.base, scenario.lora).base
    check_length(base, scenario.privacy.max_tokens)
    scenario = scenario.model_copy(update={"model": scenario.model.model_copy(update={"base_digest": base.digest})})
    run = Run(folder, scenario, secrets.token_hex(8))
    tree = {
        "run": {"id": run.id, "sigma": scenario.sigma()},
        "versions": versions(),
        **scenario.model_dump(mode="json"),
    }
    write_atomic(folder / SCENARIO, tomli_w.dumps(tree))
    return run


def resumed(folder: Path, scenario: Scenario | None) -> Run:
    """Return the run that lies in `folder`; a scenario named beside it must be the same one."""
    path = folder / SCENARIO
    if not path.is_file():
        raise UserError(f"{folder} holds no run to resume ({SCENARIO} is missing); start one without --resume")
    kept = read_scenario(path)
    if scenario is not None and without_digest(kept) != without_digest(scenario):
        raise UserError(
            f"{folder} holds another run ({kept.scenario.name}, other settings); resume it without naming settings"
        )
    base = bench(kept.model.base, kept.lora).base
    if base.digest != kept.model.base_digest:
        raise VerificationFailed(
            f"base {kept.model.base!r} has changed since the run began; restore it or start a new run"
        )
    return Run(folder, kept, str(tomllib.loads(path.read_text("utf-8"))["run"]["id"]))


def without_digest(scenario: Scenario) -> Scenario:
    """Return the scenario as a person would have written it."""
    return scenario.model_copy(update={"model": scenario.model.model_copy(update={"base_digest": ""})})


def versions() -> dict[str, str]:
    """Return what ran the run."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
