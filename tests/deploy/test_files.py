"""What ships in deploy/: units and compose file name commands that exist, and give no more rights than are needed."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from client import node
from common.cli import fugou
from common.model import DEFAULT_FOLDER
from server.deploy.layout import Layout

HERE = Path(__file__).resolve().parents[2] / "deploy"
UNITS = sorted(HERE.glob("*.service"))
PROFILES = {"coordinator": "coordinator", "node": "merchant", "trainer": "merchant"}


def unit(path: Path) -> dict[str, str]:
    """Return the [Service] section of a unit; of a key that stands twice, the last."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text("utf-8"))
    return dict(parser["Service"])


def compose() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((HERE / "compose.yaml").read_text("utf-8"))
    return tree


def dockerfile() -> str:
    return (HERE / "Dockerfile").read_text("utf-8")


def project() -> dict[str, Any]:
    return tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))


def parse(words: list[str]) -> None:
    """Let the command line parse `words`, as far as it does without running anything."""
    command: click.Command = fugou
    context = click.Context(command, info_name="fugou")
    while isinstance(command, click.Group):
        if words[0] == "--dir":
            words = words[2:]
        inner = command.get_command(context, words[0])
        assert inner is not None, words
        command, words = inner, words[1:]
    command.make_context("fugou", words)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_units_commands_exist(path: Path) -> None:
    service = unit(path)
    for key in ("ExecStart", "ExecStopPost"):
        if key in service:
            program, *words = shlex.split(service[key].replace("%i", "tea"))
            assert program == "/opt/fugou/.venv/bin/fugou"
            parse(words)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_has_few_rights_and_is_restarted_for_ever(path: Path) -> None:
    service = unit(path)
    assert service["User"] == "fugou"
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert service["Restart"] == "always"
    assert "FLWR_TELEMETRY_ENABLED=0" in path.read_text("utf-8")


def test_the_trainer_reaches_loopback_only_and_the_node_writes_its_own_folder_only() -> None:
    trainer, node = unit(HERE / "fugou-trainer@.service"), unit(HERE / "fugou-merchant@.service")
    assert (trainer["IPAddressDeny"], trainer["IPAddressAllow"]) == ("any", "localhost")
    assert node["ReadWritePaths"] == "/var/lib/fugou/%i/node"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_understands_every_key(path: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed here")
    for one in UNITS:
        shutil.copy(one, tmp_path / one.name.replace("@", "@tea") if one == path else tmp_path / one.name)
    named = tmp_path / path.name.replace("@", "@tea")
    said = subprocess.run(["systemd-analyze", "verify", str(named)], capture_output=True, text=True, check=False).stderr
    assert not re.search(r"Unknown|Failed to parse|Invalid", said), said


@pytest.mark.parametrize("name", PROFILES)
def test_a_container_is_pinned_read_only_and_without_capabilities(name: str) -> None:
    service = compose()["services"][name]
    assert service["profiles"] == [PROFILES[name]]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["user"] == "10001:10001"
    assert re.fullmatch(r"fugou:\d+\.\d+\.\d+", service["image"])
    assert service["healthcheck"]["test"][0] == "CMD"
    parse(list(service["command"]))


def test_the_trainers_network_has_no_way_out_and_no_address_of_the_host() -> None:
    tree = compose()
    inside = tree["networks"]["inside"]
    assert inside["internal"] is True
    assert inside["driver_opts"] == {"com.docker.network.bridge.inhibit_ipv4": "true"}
    assert tree["services"]["trainer"]["networks"] == ["inside"]
    assert "ports" not in tree["services"]["node"]


def test_the_node_has_no_table_and_writes_its_own_folder_only() -> None:
    services = compose()["services"]
    mounts = {
        name: [(one["target"], one.get("read_only", False)) for one in services[name]["volumes"]] for name in PROFILES
    }
    assert mounts["node"] == [("/state", True), (f"/state/{node.PLACE}", False)]
    assert mounts["trainer"] == [("/state", False), ("/data", True)]
    assert services["node"]["volumes"][1]["source"].endswith(f"/{node.PLACE}")


def test_a_folder_that_is_not_there_is_not_made_by_the_engine() -> None:
    for name in PROFILES:
        for mount in compose()["services"][name]["volumes"]:
            assert (mount["type"], mount["bind"]) == ("bind", {"create_host_path": False})


def test_a_trainer_starts_also_where_the_node_is_not_let_in_yet() -> None:
    services = compose()["services"]
    assert services["trainer"]["depends_on"] == ["node"]
    for name in ("node", "trainer"):
        assert node.HOST in services[name]["environment"]
        assert services[name]["restart"] == "unless-stopped"


def test_health_checks_look_where_the_code_writes() -> None:
    services = compose()["services"]
    assert services["coordinator"]["healthcheck"]["test"][-2:] == [str(Layout(Path("/state")).services), "--check"]
    for name, host in (("node", "127.0.0.1"), ("trainer", "node")):
        *words, code = services[name]["healthcheck"]["test"]
        assert words == ["CMD", "python", "-c"]
        assert f"'{Path('/state') / node.PORT}'" in code
        assert f"(('{host}'," in code
        compile(code, name, "exec")


def test_the_image_is_built_from_a_pinned_one_and_runs_as_the_user_that_owns_the_folders() -> None:
    text = dockerfile()
    assert re.findall(r"^FROM (\S+)$", text, re.M) == ["python:3.11.13-slim-bookworm"]
    assert re.search(r"^USER fugou$", text, re.M)
    assert "-c constraints.txt" in text
    (group,), (user,) = re.findall(r"groupadd --gid (\d+) fugou", text), re.findall(r"useradd --uid (\d+)", text)
    assert {one["user"] for one in compose()["services"].values()} == {f"{user}:{group}"}


def test_the_image_holds_every_package_the_base_and_the_version_that_compose_names() -> None:
    text, about = dockerfile(), project()
    rooms = {name.split(".")[0] for name in about["tool"]["setuptools"]["packages"]}
    copied = set(re.findall(r"^COPY (\w+) \1$", text, re.M))
    assert copied == rooms | {DEFAULT_FOLDER.parent.name}
    assert f"FUGOU_BASE=/opt/fugou/{DEFAULT_FOLDER.parent.name}/{DEFAULT_FOLDER.name} " in text
    for service in compose()["services"].values():
        assert service["image"] == f"fugou:{about['project']['version']}"
        assert service["build"]["args"] == re.findall(r"^ARG (\w+)$", text, re.M)
