from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from common.cli import GROUP, fugou, language, main

PROBE = """
import click
from common.errors import BudgetSpent, FugouError, Refused, Unreachable, UserError, VerificationFailed

ENDS = {
    "done": None,
    "user": UserError("rank = 0: must be 1 or more"),
    "refused": Refused("the policy says no"),
    "spent": BudgetSpent("round 9 would take epsilon to 8.1; the cap is 8"),
    "broken": VerificationFailed("ledger.db: entry 3 does not hold"),
    "unreachable": Unreachable("host:9092 does not answer"),
    "ours": FugouError("a bug of ours"),
    "bug": ZeroDivisionError("division by zero"),
    "missing": FileNotFoundError(2, "No such file or directory", "orders.csv"),
    "interrupt": KeyboardInterrupt(),
}

@click.command()
@click.argument("how", type=click.Choice(list(ENDS)))
def probe(how):
    if ENDS[how]:
        raise ENDS[how]
    click.echo("done")
"""


@pytest.fixture
def _probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install one more room whose command ends in any way that is asked for."""
    (tmp_path / "probe_room.py").write_text(PROBE)
    info = tmp_path / "probe_room-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probe-room\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nprobe = probe_room:probe\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("probe_room", None)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Return the exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["fugou", *words])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def every_command() -> list[tuple[str, click.Command]]:
    """Return every command and sub-command that this house brings, by what a person types."""
    found = []
    for entry in sorted(entry_points(group=GROUP), key=lambda one: one.name):
        command = entry.load()
        found.append((entry.name, command))
        if isinstance(command, click.Group):
            found += [(f"{entry.name} {name}", sub) for name, sub in command.commands.items()]
    return found


COMMANDS = every_command()


# --- help ---


def test_help_lists_every_rooms_commands() -> None:
    result = CliRunner().invoke(fugou, ["--help"])
    assert result.exit_code == 0
    for name in ("merchant", "coordinator", "simulate", "scenarios", "compare", "bench", "pretrain"):
        assert f"\n  {name} " in result.output


@pytest.mark.parametrize("command", [command for _, command in COMMANDS], ids=[name for name, _ in COMMANDS])
def test_every_command_has_help_with_an_example(command: click.Command) -> None:
    assert command.help
    assert "Example: fugou " in command.help


@pytest.mark.parametrize("name", [name for name, _ in COMMANDS])
def test_every_examples_command_is_one_that_exists(name: str) -> None:
    text = dict(COMMANDS)[name].help or ""
    if "Example: " in text:
        typed = text.split("Example: fugou ")[1].splitlines()[0].split()
        root, *sub = name.split()
        assert root in typed[:3]  # --lang may stand before it
        assert all(part in typed for part in sub)


@pytest.mark.parametrize("name", [name for name, _ in COMMANDS])
def test_every_command_answers_to_help(name: str) -> None:
    result = CliRunner().invoke(fugou, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: fugou {name.split()[0]}")


def test_the_installed_command_starts_without_loading_a_room() -> None:
    code = "import sys; from common.cli import fugou, main; sys.argv = ['fugou', '--version']\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "print([name for name in ('torch', 'flwr', 'client', 'server', 'simulations') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["fugou, version 0.1.0", "[]"]


# --- how it ends ---


@pytest.mark.usefixtures("_probe")
@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("user", 2, "rank = 0"),
        ("missing", 2, "orders.csv: No such file or directory"),
        ("refused", 3, "the policy says no"),
        ("spent", 3, "the cap is 8"),
        ("broken", 4, "entry 3 does not hold"),
        ("unreachable", 5, "does not answer"),
        ("ours", 1, "a bug of ours"),
        ("bug", 1, "ZeroDivisionError: division by zero; run again with FUGOU_DEBUG=1 and report"),
        ("interrupt", 130, "interrupted; go on with --resume"),
    ],
)
def test_an_error_is_one_line_on_standard_error_and_its_exit_code(
    how: str, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "probe", how) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.strip().startswith("fugou: ")
    assert err.strip().count("\n") == 0


@pytest.mark.usefixtures("_probe")
def test_what_works_ends_with_zero(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "probe", "done") == 0
    assert capsys.readouterr() == ("done\n", "")


@pytest.mark.usefixtures("_probe")
def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUGOU_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, "probe", "bug")


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("simulat", "No such command 'simulat'"),
        ("simulate --rouns 3", "No such option '--rouns'"),
        ("simulate --rounds 0", "0 is not in the range"),
        ("simulate --engine warp", "'warp' is not one of"),
        ("simulate no-such-scenario", "unknown scenario 'no-such-scenario'"),
        ("simulate shops-zh --set rounds=3", "--set 'rounds=3': write table.key=value"),
        ("simulate shops-zh --set training.round=3", "unknown key 'training.round'"),
        ("simulate --resume", "--resume needs the run's folder"),
        ("simulate --arms central", "compared with the federated one"),
        ("scenarios nothing", "unknown scenario 'nothing'"),
        ("bench nothing", "nothing"),
        ("coordinator up", "`fugou coordinator init DIR` makes one"),
        ("merchant serve --port 80", "make one with `fugou merchant serve --new-key NAME`"),
        ("merchant --dir /nowhere recommend c01", "/nowhere/merchant.toml: no such file"),
        ("merchant copy", "Missing argument 'CUSTOMER'"),
    ],
)
def test_wrong_usage_ends_with_two_and_says_what_is_wrong(
    typed: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *typed.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.splitlines()[-1].startswith("fugou: ")


# --- output ---


@pytest.mark.parametrize("typed", ["scenarios --json", "scenarios shops-zh --json"])
def test_json_output_parses(typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, *typed.split()) == 0
    value = json.loads(capsys.readouterr().out)
    assert "shops-zh" in (value, value.get("scenario", {}).get("name"), *value)


def test_the_language_follows_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUGOU_LANG", "en")
    assert language() == "en"
    assert run(monkeypatch, "--lang", "zh", "scenarios") == 0
    assert language() == "zh"
