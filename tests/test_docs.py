"""The documentation is true: pages match the code, commands in it exist and run, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import click
import pytest

from common.cli import fugou, main
from common.config import parse_settings
from simulations.scenario import Scenario, shipped

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def load_pages() -> ModuleType:
    """Return `docs/pages.py` as a module."""
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "docs" / "pages.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages = load_pages()


@pytest.mark.parametrize("name", pages.PAGES)
def test_a_page_written_by_the_code_is_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text("utf-8") == pages.PAGES[name](), f"docs/{name} is old; run `make docs`"


@pytest.mark.parametrize("name", dict(pages.commands(fugou, "fugou")))
def test_every_command_has_help_with_an_example_or_says_that_it_is_not_built(name: str) -> None:
    command = dict(pages.commands(fugou, "fugou"))[name]
    text = command.help or ""
    assert "not built yet" in text or "Example: fugou" in text or name == "fugou", name
    assert all(option.help for option in command.params if isinstance(option, click.Option)), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_documentation_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def spoken() -> list[tuple[str, str]]:
    """Return page and command line of every `fugou …` in a code block or in code."""
    found = []
    for page in PAGES:
        if page.name in ("cli.md", "log.md"):
            continue
        text = page.read_text("utf-8")
        blocks = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
        found += [(page.name, line.split("#")[0].strip()) for line in blocks if line.startswith("fugou")]
        found += [(page.name, line) for line in re.findall(r"`(fugou [^`…|]+)`", text)]
    return found


@pytest.mark.parametrize(("page", "line"), spoken())
def test_every_command_line_in_the_documentation_can_be_parsed(page: str, line: str) -> None:
    words = shlex.split(line)[1:]
    command: click.Command = fugou
    context = click.Context(command, info_name="fugou")
    while isinstance(command, click.Group) and words and not words[0].startswith("--help"):
        if words[0] in ("--dir", "--lang"):
            words = words[2:]
            continue
        inner = command.get_command(context, words.pop(0))
        assert inner is not None, f"{page}: {line}"
        command = inner
    if not isinstance(command, click.Group) and words:
        command.make_context("fugou", words)


@pytest.fixture
def example(tmp_path: Path, tiny_base: str) -> Path:
    """A copy of the example merchant on a small base."""
    folder = tmp_path / "merchant"
    shutil.copytree(ROOT / "examples" / "merchant", folder)
    settings = tomllib.loads((folder / "merchant.toml").read_text("utf-8"))
    assert settings.get("model", {}).get("base", "default") == "default"
    text = (folder / "merchant.toml").read_text("utf-8")
    text = re.sub(r"(?m)^base = .*$", "", text)
    text = (
        re.sub(r"(?m)^\[model\]$", f'[model]\nbase = "{tiny_base}"', text)
        if "[model]" in text
        else f'{text}\n[model]\nbase = "{tiny_base}"\n'
    )
    (folder / "merchant.toml").write_text(text, "utf-8")
    return folder


@pytest.mark.parametrize("line", [line for page, line in spoken() if page == "merchant.md" and "examples/" in line])
def test_the_merchants_page_works_as_it_is_typed(
    line: str, example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(example) if word == "examples/merchant" else word for word in shlex.split(line)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", words)
    main()
    if "campaign" in words:
        assert (tmp_path / "campaign.csv").exists()
    else:
        assert capsys.readouterr()


def test_a_newcomers_walk_works_as_it_is_typed_from_init_to_a_signed_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "merchant.md").read_text("utf-8")
    walk = text[text.index("## A newcomer's walk") : text.index("## Tables")]
    steps = [line.split("#")[0] for line in re.findall(r"^fugou .*$", walk, re.M)]
    assert [next(verb for verb in ("init", "check", "metrics") if verb in step) for step in steps[:3]] == [
        "init",
        "check",
        "metrics",
    ]
    monkeypatch.chdir(tmp_path)
    for step in steps:
        monkeypatch.setenv("FUGOU_LANG", "zh")
        monkeypatch.setattr(sys, "argv", shlex.split(step))
        main()
        assert capsys.readouterr().out.strip(), step
    assert (tmp_path / "my-shop" / "policy.toml.sig").exists()


def test_the_readmes_two_commands_are_targets_and_ci_runs_the_second() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^simulate: install$", makefile, re.M)
    assert re.search(r"^test: lint$", makefile, re.M)
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make simulate" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_scenario_is_valid_and_named_after_its_file(name: str) -> None:
    tree = tomllib.loads(shipped()[name].read_text("utf-8"))
    assert parse_settings(Scenario, tree, name).scenario.name == name
    assert name in (ROOT / "docs" / "simulations.md").read_text("utf-8")
