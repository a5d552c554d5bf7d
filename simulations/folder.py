"""The folder of a run: what was run, resolved, so that it can be gone on with or run again."""

from __future__ import annotations

import math
import platform
import secrets
import tomllib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import tomli_w

from client.train.products import check_eight_bits
from common.errors import UserError, VerificationFailed
from common.files import write_atomic
from common.lora import bench
from common.methods import METHODS
from common.model import check_length
from server.aggregation import RULES
from simulations.mixed import in_order
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
        """The merchants' folders, in the order in which lists are dealt out to them."""
        folder = self.folder / "merchants"
        return [folder / name for name in in_order([path.name for path in folder.iterdir() if path.is_dir()])]


def begin(folder: Path, scenario: Scenario | None) -> Run:
    """Return a new run in an empty or missing `folder`."""
    if scenario is None:
        raise UserError("name a scenario; `fugou scenarios` lists them")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} is not empty; continue the run there with --resume, or choose another folder with -o"
        )
    check_mixed(scenario)
    if scenario.engine.precision == "int8":
        check_eight_bits("cpu")
    base = bench(scenario.model.base, scenario.lora).base
    check_length(base, scenario.privacy.max_tokens)
    scenario = scenario.model_copy(update={"model": scenario.model.model_copy(update={"base_digest": base.digest})})
    run = Run(folder, scenario, secrets.token_hex(8))
    tree = {
        "run": {"id": run.id, "sigma": list(scenario.caps().values()) if scenario.mixed.epsilons else scenario.sigma()},
        "versions": versions(),
        **scenario.model_dump(mode="json"),
    }
    write_atomic(folder / SCENARIO, tomli_w.dumps(tree))
    return run


def check_mixed(scenario: Scenario) -> None:
    """Raise `UserError` unless every merchant can have a policy, and the method can add up what they send."""
    mixed, method, rank = scenario.mixed, scenario.training.method, scenario.lora.rank
    name = f"scenario {scenario.scenario.name}"
    for place in range(
        min(scenario.scenario.merchants, math.lcm(*map(len, (mixed.ranks or [0], mixed.epsilons or [0]))))
    ):
        scenario.policy("merchant", "", place)
    if mixed.ranks and max(mixed.ranks) > rank:
        raise UserError(f"{name}: mixed.ranks = {list(mixed.ranks)}: at most lora.rank = {rank}; raise lora.rank")
    if any(one != rank for one in mixed.ranks) and not mixes_ranks(method):
        able = ", ".join(one for one in METHODS if mixes_ranks(one))
        raise UserError(f"{name}: mixed.ranks: {method} cannot add up adapters of different rank; take {able}")
    if mixed.customers and scenario.scenario.world != "shops-zh":
        raise UserError(f"{name}: mixed.customers: the shops of {scenario.scenario.world} are as large as they are")
    if mixed != type(mixed)() and scenario.scenario.arms != ("federated",):
        raise UserError(f"{name}: [mixed] and scenario.arms: the arms compare merchants that are alike; leave one out")


def mixes_ranks(method: str) -> bool:
    """Return whether `method` adds up adapters of different rank as exactly as equal ones, and merchants keep no part.

    A change of one factor is padded with zeros, products are stacked; means of A and of B apart would mix directions.
    """
    travel = METHODS[method]
    both = any(len(trains) > 1 for trains in travel.cycle)
    return not (travel.stays or travel.own) and (not both or RULES[method].geometry == "products")


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
