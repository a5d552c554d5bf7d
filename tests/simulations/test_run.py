"""A run as a person meets it: killed and resumed, given bad input, out of disk."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from client.config import LEDGER, LEDGER_KEY, POLICY
from client.report.model import read_report
from client.round import open_ledger
from common.cli import main
from common.lora import load
from common.privacy.accountant import up
from common.privacy.keys import load_public_key
from common.privacy.policy import load_policy

ROOT = Path(__file__).resolve().parent.parent.parent
ROUNDS = 4
HELD = {"done", "set aside"}
"""What a merchant that answered can be: the reference holds one honest update in a few hundred back."""
FUGOU = (sys.executable, "-c", "from common.cli import main; main()")


def arguments(folder: Path, base: str) -> list[str]:
    """A small private run."""
    sets = {
        "world.customers": 10,
        "world.weeks": 20,
        "lora.rank": 4,
        "privacy.max_tokens": 64,
        "privacy.steps": 2,
        "engine.threads": 1,
        "evaluation.per_task": 2,
        "evaluation.questions": 2,
    }
    options = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    return [
        "simulate", "shops-zh", "-o", str(folder), "--base", base, "--merchants", "3", "--rounds", str(ROUNDS), *options
    ]  # fmt: skip


def fugou(*options: str, code: int | None = 0, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command line and check its exit code; one clear line where it failed."""
    done = subprocess.run(
        [*FUGOU, *options], cwd=ROOT, env={**os.environ, **extra}, capture_output=True, text=True, check=False
    )
    assert code is None or done.returncode == code, done.stderr
    if done.returncode:
        assert done.stderr.strip().splitlines()[-1].startswith("fugou: "), done.stderr
        assert "Traceback" not in done.stderr
    return done


def books(folder: Path) -> dict[str, Counter[tuple[str, int]]]:
    """Merchant -> how often each (entry type, round) stands in its ledger."""
    found = {}
    for merchant in sorted((folder / "merchants").iterdir()):
        policy = load_policy(merchant / POLICY, public_key=load_public_key(merchant / "keys" / "officer.pub"))
        with open_ledger(merchant, policy) as ledger:
            entries = [entry.body for entry in ledger.entries()]
        rounds = {body["seq"]: int(body["round"]) for body in entries if body["type"] == "RESERVE"}
        found[merchant.name] = Counter(
            (str(body["type"]), rounds.get(body.get("closes", body["seq"]), 0)) for body in entries
        )
    return found


def test_killed_at_three_random_moments_and_resumed_it_loses_no_charge_and_books_none_twice(
    tmp_path: Path, tiny_base: str
) -> None:
    folder = tmp_path / "run"
    kills, first = 0, True
    for _ in range(3):
        options = arguments(folder, tiny_base) if first else ["simulate", "--resume", "-o", str(folder)]
        child = subprocess.Popen(
            [*FUGOU, *options], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        kills += kill_in_a_round(child, folder)
        first = False
    fugou("simulate", "--resume", "-o", str(folder))

    assert kills >= 2
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == list(range(ROUNDS + 1))
    assert sorted(path.name for path in (folder / "rounds").glob("[0-9]*")) == [f"{n:04d}" for n in range(ROUNDS + 1)]
    burned = 0
    for merchant, entries in books(folder).items():
        for number in range(1, ROUNDS + 1):
            asked, sent, lost = (entries[kind, number] for kind in ("RESERVE", "RELEASE", "BURN"))
            assert sent == 1, f"{merchant} released round {number} {sent} times"
            assert asked == sent + lost, f"{merchant} round {number}: {asked} reserved, {sent} released, {lost} burned"
            burned += lost
    assert burned <= kills
    for number in range(1, ROUNDS + 1):
        record = json.loads((folder / "rounds" / f"{number:04d}" / "round.json").read_text())
        assert len(record["merchants"]) == 3
        assert {one["status"] for one in record["merchants"]} <= HELD
        for one in record["merchants"]:
            assert (folder / "merchants" / one["merchant"] / "outbox" / f"{one['update_digest']}.bin").is_file()
    load(folder / "model")


def kill_in_a_round(child: subprocess.Popen[str], folder: Path) -> bool:
    """Kill -9 a moment after the first round of this process began; return whether it was still running."""
    before = reserved(folder)
    while child.poll() is None and reserved(folder) <= before:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.6))
    running = child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    if child.stderr:
        child.stderr.close()
    return running


def test_a_ledger_whose_making_was_cut_short_is_made_again(finished: Path, tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shutil.copytree(next((finished / "merchants").iterdir()), shop)
    for leftover in shop.glob("ledger.*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    (shop / LEDGER).touch()
    policy = load_policy(shop / POLICY, public_key=load_public_key(shop / "keys" / "officer.pub"))
    with open_ledger(shop, policy) as ledger:
        assert [entry.type for entry in ledger.entries()] == ["GENESIS", "POLICY"]


def reserved(folder: Path) -> int:
    """How many bytes the ledgers' logs hold: they grow with every reservation."""
    files = [*folder.glob(f"merchants/*/{LEDGER}"), *folder.glob(f"merchants/*/{LEDGER}-wal")]
    return sum(path.stat().st_size for path in files if path.exists())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "done"
    fugou(*arguments(folder, tiny_base))
    return folder


def test_the_run_folder_is_what_the_contract_says(finished: Path, tiny_base: str) -> None:
    from peft import PeftModel
    from transformers import GPT2LMHeadModel

    assert {path.name for path in finished.iterdir()} == {
        "scenario.toml", "metrics.jsonl", "rounds", "model", "merchants", "report.json", "report.html", "samples.json",
        "federation.json", "federation.html", "reference.jsonl",
    }  # fmt: skip
    model = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(tiny_base), finished / "model")
    assert any(float(p.abs().max()) > 0 for name, p in model.named_parameters() if "lora_B" in name)
    for merchant in (finished / "merchants").iterdir():
        told = json.loads((merchant / "summary.json").read_text())
        assert told["epsilon"] <= told["epsilon_limit"] == 8.0
        assert (told["delta"], told["unit"], told["charges"]["released"]) == (1e-6, "customer", ROUNDS)
        report = read_report((merchant / "report.json").read_bytes())
        assert report.privacy_loss is not None
        assert report.privacy_loss.headline.epsilon == float(up(told["epsilon"]))
        assert (merchant / "report.html").exists()


def test_the_federations_page_bounds_what_each_merchants_own_ledger_tells(finished: Path) -> None:
    found = json.loads((finished / "federation.json").read_text("utf-8"))
    own = {path.name: json.loads((path / "summary.json").read_text()) for path in (finished / "merchants").iterdir()}
    assert {one["merchant"] for one in found["claims"]} == set(own)
    for one in found["claims"]:
        told = own[one["merchant"]]
        assert one["epsilon"] == float(up(told["epsilon"]))
        assert (one["delta"], one["unit"], one["period"]) == (told["delta"], told["unit"], told["period"])
        assert one["received"] == ROUNDS
    assert not any(told["name"] and told["name"] in (finished / "federation.html").read_text() for told in own.values())


def test_nothing_in_a_run_folder_could_bring_randomness_back(finished: Path) -> None:
    from safetensors import safe_open

    known = {
        ".json",
        ".jsonl",
        ".toml",
        ".csv",
        ".md",
        ".html",
        ".safetensors",
        ".bin",
        ".db",
        ".anchor",
        ".lock",
        ".sig",
        ".pub",
        "",
    }
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert {path.suffix.removesuffix("-wal").removesuffix("-shm") for path in files} <= known
    for path in files:
        if path.suffix in (".safetensors", ".bin"):
            with safe_open(path, framework="pt") as file:
                assert all(".lora_" in name for name in file.keys()), path  # noqa: SIM118


def test_resuming_a_finished_run_changes_nothing(finished: Path) -> None:
    before = (finished / "metrics.jsonl").read_bytes(), (finished / "model" / "adapter_model.safetensors").read_bytes()
    entries = books(finished)
    fugou("simulate", "--resume", "-o", str(finished))
    after = (finished / "metrics.jsonl").read_bytes(), (finished / "model" / "adapter_model.safetensors").read_bytes()
    assert (before, entries) == (after, books(finished))


def test_an_output_folder_that_holds_another_run_is_left_alone(finished: Path, tiny_base: str) -> None:
    before = (finished / "metrics.jsonl").read_bytes()
    done = fugou(*arguments(finished, tiny_base), code=2)
    assert "not empty" in done.stderr
    assert "--resume" in done.stderr
    other = fugou(*arguments(finished, tiny_base), "--resume", "--seed", "8", code=2)
    assert "another run" in other.stderr
    assert (finished / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["simulate", "shop-zh"], "unknown scenario 'shop-zh'"),
        (["simulate", "nowhere.toml"], "cannot be read"),
        (["simulate", "--set", "training.round=3"], "unknown key 'training.round'"),
        (["simulate", "--set", "training.rounds=-3"], "training.rounds = -3"),
        (["simulate", "--set", "rounds"], "table.key=value"),
        (["simulate", "--method", "fedmagic"], "training.method = 'fedmagic'"),
        (["simulate", "--epsilon", "-1"], "privacy.epsilon = -1.0"),
        (["simulate", "--epsilon", "nan"], "privacy.epsilon"),
        (["simulate", "--rounds", "0"], "--rounds"),
        (["simulate", "--resume"], "needs the run's folder"),
        (["simulate", "--arms", "local"], "name it too"),
        (["simulate", "--arms", "federated,lokal"], "lokal is none of federated, local, central"),
        (
            ["simulate", "--engine", "deployment", "--set", "attack.kind=nan", "--base", "BASE"],
            "attacks and absences need inline or ray",
        ),
        (["simulate", "--base", "no/such/folder/here"], "does not exist"),
        (["simulate", "--base", "somebody/no-such-gpt2"], "cannot be had from the hub"),
        (["scenarios", "nowhere"], "unknown scenario"),
        (["simulat"], "No such command"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(
    tmp_path: Path,
    tiny_base: str,
    options: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    where = ["-o", str(folder)] if options[0] == "simulate" and "--resume" not in options else []
    monkeypatch.setattr(sys, "argv", ["fugou", *(part.replace("BASE", tiny_base) for part in options), *where])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2
    assert words in said[-1]
    assert said[-1].startswith("fugou: ")
    assert not folder.exists()


def test_a_damaged_base_folder_is_named(tmp_path: Path, tiny_base: str) -> None:
    broken = tmp_path / "base"
    shutil.copytree(tiny_base, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    done = fugou("simulate", "--base", str(broken), "-o", str(tmp_path / "run"), code=2)
    assert "is damaged" in done.stderr


def test_a_base_that_changed_under_a_run_stops_the_resume(finished: Path, tmp_path: Path, tiny_base: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    text = (folder / "scenario.toml").read_text()
    (folder / "scenario.toml").write_text(text.replace('base_digest = "', 'base_digest = "0'))
    done = fugou("simulate", "--resume", "-o", str(folder), code=4)
    assert "has changed since the run began" in done.stderr


def test_a_damaged_round_is_named(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    weights = folder / "rounds" / f"{ROUNDS:04d}" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    done = fugou("simulate", "--resume", "-o", str(folder), code=2)
    assert "cannot be read" in done.stderr


def test_no_permission_is_one_line(tmp_path: Path, tiny_base: str) -> None:
    place = Path("/proc/fugou-run")
    done = fugou("simulate", "--base", tiny_base, "-o", str(place), code=2)
    assert str(place) in done.stderr


def can_mount() -> bool:
    """Whether this machine lets a test mount a small file system."""
    return os.geteuid() == 0 and shutil.which("mount") is not None and Path("/proc/filesystems").exists()


@pytest.mark.skipif(not can_mount(), reason="mounting a small tmpfs needs root")
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(tmp_path: Path, tiny_base: str) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)], check=False).returncode:
        pytest.skip("this machine does not allow mounting a tmpfs")
    try:
        folder = place / "run"
        done = fugou(*arguments(folder, tiny_base), code=2)
        assert "free space or choose another folder" in done.stderr
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        fugou("simulate", "--resume", "-o", str(folder))
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == ROUNDS + 1
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def test_the_ledger_key_of_a_merchant_is_its_own(finished: Path) -> None:
    modes = {(merchant / LEDGER_KEY).stat().st_mode & 0o777 for merchant in (finished / "merchants").iterdir()}
    assert modes == {0o600}
