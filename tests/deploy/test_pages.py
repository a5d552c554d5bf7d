"""The pages for both sides are true: the whole walk of docs/coordinator.md, typed as it stands there."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from client import node
from common import processes
from common.cli import main
from server.deploy.layout import Layout
from server.deploy.services import free_port
from tests.deploy.conftest import needs_nginx

DOCS = Path(__file__).resolve().parents[2] / "docs"


def lines(page: str, title: str) -> list[str]:
    """Return the commands in the section `title` of a page."""
    text = (DOCS / page).read_text("utf-8")
    section = text[text.index(f"## {title}") :].split("\n## ")[0]
    return [" ".join(line.split("#")[0].split()) for line in re.findall(r"^fugou .*$", section, re.M)]


def test_the_merchants_page_types_what_the_walk_types() -> None:
    walk = lines("coordinator.md", "Both sides, once")
    own = lines("merchant.md", "Joining a federation")
    assert len(own) >= 4
    assert set(own) <= set(walk)


def test_every_coordinator_verb_is_in_the_walk() -> None:
    walk = " ".join(lines("coordinator.md", "Both sides, once"))
    for verb in "init up down status enroll revoke merchants run stop rounds rollback export report".split():
        assert re.search(rf"coordinator (--dir coordinator )?{verb}\b", walk), verb


def test_both_sides_work_as_they_are_typed_on_one_machine(
    tmp_path: Path, tiny_base: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_nginx()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUGOU_BASE", tiny_base)
    monkeypatch.setenv("FUGOU_LANG", "zh")
    address = f"localhost:{free_port()}"
    said = {}
    try:
        for line in lines("coordinator.md", "Both sides, once"):
            monkeypatch.setattr(sys, "argv", shlex.split(line.replace("localhost:9443", address)))
            main()
            said[line] = capsys.readouterr().out
            assert said[line].strip(), line
    finally:
        processes.stop(tmp_path / "my-shop" / node.PLACE)
        processes.stop(Layout(tmp_path / "coordinator").services)
    assert "qing-he-tea 在线" in said["fugou merchant --dir my-shop status"]
    assert "qing-he-tea\tdone\t1" in said["fugou coordinator --dir coordinator rounds 1"]
    assert (tmp_path / "run-1" / "model" / "adapter_model.safetensors").exists()
    assert "qing-he-tea" in (tmp_path / "report" / "federation.html").read_text("utf-8")
    for folder in (tmp_path / "my-shop" / node.PLACE, tmp_path / "coordinator" / "services"):
        assert processes.marked(folder) == []
