"""One simulated merchant's folder, for tests that ask it by hand."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.lora import bench
from simulations.merchants import open_shop
from simulations.scenario import Scenario, load_scenario
from simulations.world import make_shops


def two_rounds(base: str, **told: Any) -> Scenario:
    """A few tiny shops and two private rounds, on one thread, with what is told besides; no check that chance can decide."""
    usual = {
        "world.weeks": 20,
        "model.base": base,
        "lora.rank": 4,
        "training.rounds": 2,
        "training.reference": False,
        "privacy.rate": 0.5,
        "privacy.steps": 2,
        "privacy.max_tokens": 64,
        "privacy.spare_rounds": 8,
        "engine.threads": 1,
        "evaluation.per_task": 1,
    }
    return load_scenario("shops-zh", usual | told)


def opened(scenario: Scenario, folder: Path) -> Path:
    """Return the folder of one shop of the scenario, named as the shop is to be."""
    digest = bench(scenario.model.base, scenario.lora).base.digest
    scenario = scenario.model_copy(update={"model": scenario.model.model_copy(update={"base_digest": digest})})
    world = scenario.world
    open_shop(scenario, replace(make_shops(1, world.customers, 7, weeks=world.weeks)[0], id=folder.name), folder)
    return folder


@pytest.fixture
def shop_folder(model_shop: Path, tmp_path: Path) -> Path:
    """A copy of the module's `model_shop`, for one test to spend."""
    return Path(shutil.copytree(model_shop, tmp_path / "tea-1"))


@pytest.fixture
def empty(shop_folder: Path) -> Path:
    """The same shop before its first row: what it releases is noise alone."""
    path = shop_folder / "merchant.toml"
    text, changed = re.subn(r"(?m)^until = .*$", "until = 2000-01-01", path.read_text("utf-8"))
    assert changed == 1
    path.write_text(text, "utf-8")
    return shop_folder
