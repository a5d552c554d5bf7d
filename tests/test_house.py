"""Who may import whom: the walls of the house, held by the code's own imports."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import client
import common
import server
import simulations

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {"common": (), "client": ("common",), "server": ("common",), "simulations": ("common", "client", "server")}
LIGHT = (
    "common.privacy.policy",
    "common.privacy.plan",
    "common.privacy.accountant",
    "common.privacy.ledger",
    "common.config",
)


def imports(path: Path) -> Iterator[str]:
    """Yield the first part of every module that the file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; rooms are imported by their folder's name"
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_it_may(room: str) -> None:
    allowed = {room, *ROOMS[room]}
    for path in (ROOT / room).rglob("*.py"):
        foreign = set(imports(path)) & set(ROOMS) - allowed
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}; {room} may import {sorted(allowed)}"


def test_the_rooms_are_the_ones_in_this_checkout() -> None:
    for room in (common, client, server, simulations):
        assert room.__file__
        assert Path(room.__file__).resolve().is_relative_to(ROOT), f"{room.__name__} comes from {room.__file__}"


def test_the_rooms_inits_are_empty_so_that_flower_can_import_them_half_way() -> None:
    for room in ("common", "client", "server"):
        for path in (ROOT / room).rglob("__init__.py"):
            assert not path.read_text().strip(), f"{path} must stay empty"


@pytest.mark.parametrize("module", LIGHT)
def test_budget_and_settings_need_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_command_line_starts_without_any_room() -> None:
    code = "import sys, common.cli; sys.exit(bool({'client', 'server', 'simulations', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_package_is_listed_so_that_an_install_is_whole() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts) for room in ROOMS for path in (ROOT / room).rglob("__init__.py")
    }
    assert set(listed) == found


def test_what_flower_ships_to_nodes_is_code_and_the_readme_only() -> None:
    app = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert all(pattern.endswith(".py") or pattern == "/README.md" for pattern in app["fab-include"])
    assert app["components"] == {"serverapp": "server.app:app", "clientapp": "client.app:app"}


def test_no_source_seeds_the_generator_that_noise_could_come_from() -> None:
    for room in ("common", "client", "server"):
        for path in (ROOT / room).rglob("*.py"):
            assert "manual_seed(" not in path.read_text("utf-8"), f"{path} seeds torch"
