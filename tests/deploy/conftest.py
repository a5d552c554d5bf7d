"""A federation that many tests share: a coordinator and two merchants as real processes with TLS, node keys and nginx."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from server.deploy import runs
from server.deploy.layout import Layout
from simulations.deployment import federation, lead_on
from simulations.folder import begin
from simulations.merchants import make_world, prepare
from simulations.scenario import Scenario, load_scenario


def needs_nginx() -> None:
    """Skip the test where there is no proxy to start."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed here: apt-get install nginx")


def small(base: str, **changes: Any) -> Scenario:
    """Return shops-zh with two shops of 24 customers on a tiny base."""
    tree: dict[str, Any] = {
        "scenario.merchants": 2,
        "world.customers": 24,
        "world.weeks": 20,
        "model.base": base,
        "lora.rank": 4,
        "lora.alpha": 8.0,
        "training.rounds": 2,
        "training.reference": False,
        "training.timeout": 60.0,
        "training.wait": 90.0,
        "engine.threads": 1,
        "privacy.rate": 0.3,
        "privacy.steps": 2,
        "privacy.divisor": 8.0,
        "privacy.spare_rounds": 30,
        "evaluation.per_task": 2,
        "evaluation.questions": 2,
    }
    return load_scenario("shops-zh", {**tree, **changes})


@dataclass(frozen=True)
class Federation:
    """A coordinator that is up and the folders of its merchants, both online."""

    layout: Layout
    merchants: tuple[Path, ...]
    scenario: Scenario

    def run(self, name: str, **training: Any) -> runs.CoordinatorRun:
        """Return a new run of this federation, changed as named, in a folder of the coordinator's."""
        settings = self.scenario.federation()
        settings = settings.model_copy(update={"training": settings.training.model_copy(update=training)})
        folder = self.layout.runs / f"{len(list(self.layout.runs.glob('*'))) + 1:04d}-{name}"
        run = runs.CoordinatorRun(folder, folder.name, settings)
        runs._write(run)
        return run

    def lead(self, name: str, **training: Any) -> runs.CoordinatorRun:
        """Return a run that has been led to its end."""
        run = self.run(name, **training)
        lead_on(self.layout, run, lambda _: None)
        return run


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> Iterator[Federation]:
    """The federation that is up for all tests of a session that ask for it."""
    needs_nginx()
    place = tmp_path_factory.mktemp("federation")
    scenario = small(tiny_base)
    run = begin(place / "run", scenario)
    prepare(run, make_world(scenario), lambda _: None)
    merchants = tuple(run.merchants)
    with federation(place, merchants) as layout:
        tables: Mapping[str, Any] = scenario.model_dump(mode="json")
        text = (layout.root / "coordinator.toml").read_text("utf-8").split("[model]")[0]
        kept = {name: tables[name] for name in ("model", "lora", "training")}
        (layout.root / "coordinator.toml").write_text(text + tomli_w.dumps(kept), "utf-8")
        yield Federation(layout, merchants, run.scenario)


def entries(merchant: Path, kind: str) -> list[dict[str, Any]]:
    """Return what a merchant's ledger holds of one kind (RESERVE, RELEASE, BURN …), oldest first; reading changes nothing."""
    path = merchant / "ledger.db"
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as base:
        if not base.execute("SELECT 1 FROM sqlite_master WHERE name = 'entries'").fetchone():
            return []  # a merchant's first ledger, in the making
        rows = base.execute("SELECT text FROM entries WHERE type = ? ORDER BY seq", (kind,)).fetchall()
    return [json.loads(row[0]) for row in rows]
