"""The coordinator's folder, settings, certificates, proxy and runs on disk: everything that needs no process."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from common.bundle import app_files, difference, files_digest, pack, unpack
from common.cli import main
from common.config import FederationSettings, LoraSettings, TrainingSettings
from common.errors import Unreachable, UserError
from common.lora import digest
from common.text import Example
from server.config import load_coordinator
from server.deploy import runs, services
from server.deploy.app import write_state
from server.deploy.certificates import SERVER, expiry, make_server_certificate, renew
from server.deploy.layout import Layout, hosts, make_coordinator
from server.reference import REFERENCE, read_reference, write_reference
from server.rounds import SavedRound, save_round


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return make_coordinator(tmp_path / "c", '茶商 "联盟"', f"localhost:{services.free_port()}")


# --- the folder ---


def test_a_new_coordinators_secrets_are_its_owners_alone(layout: Layout) -> None:
    assert stat.S_IMODE(layout.root.stat().st_mode) == 0o700
    for path in (layout.key, layout.secret, layout.tls / "ca.key", layout.tls / "server.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert load_coordinator(layout.root).coordinator.name == '茶商 "联盟"'
    assert load_coordinator(layout.root).federation() == FederationSettings()


@pytest.mark.parametrize(
    ("address", "words"),
    [("localhost", "coordinator.address"), ("localhost:x", "coordinator.address"), ("a b:1", "coordinator.address")],
)
def test_a_bad_address_leaves_no_folder(tmp_path: Path, address: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_coordinator(tmp_path / "c", "tea", address)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_anything_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        make_coordinator(tmp_path, "tea", "localhost:1")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_unknown_key_is_named(layout: Layout) -> None:
    path = layout.root / "coordinator.toml"
    path.write_text(path.read_text("utf-8") + "sigma = 0.1\n", "utf-8")
    with pytest.raises(UserError, match=r"unknown key 'training.sigma'"):
        load_coordinator(layout.root)


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["status"], "coordinator.toml: no such file", 2),
        (["--dir", "C", "status"], "not every service", 5),
        (["--dir", "C", "merchants", "--json"], "", 0),
        (["--dir", "C", "stop"], "has no run yet", 2),
        (["--dir", "C", "rollback", "3"], "has no run yet", 2),
        (["--dir", "C", "run", "--rounds", "0"], "--rounds", 2),
        (["--dir", "C", "enroll", "nowhere.pub", "--name", "tea", "--licence", "1"], "cannot read the public key", 2),
        (["--dir", "C", "revoke", "tea"], "no merchant 'tea' is enrolled", 2),
    ],
)
def test_the_commands_say_in_one_line_what_is_wrong(
    layout: Layout,
    tmp_path: Path,
    words: list[str],
    message: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    named = [str(layout.root) if word == "C" else word for word in words]
    monkeypatch.setattr(sys, "argv", ["fugou", "coordinator", *named])
    if code:
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == code
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
    else:
        main()


# --- certificates and proxy ---


def test_a_certificate_near_its_end_or_without_a_host_is_renewed(layout: Layout) -> None:
    names = hosts(load_coordinator(layout.root).coordinator)
    assert not renew(layout.tls, names)
    assert renew(layout.tls, [*names, "fl.example.com"])
    make_server_certificate(layout.tls, names, now=datetime.now(UTC) - timedelta(days=380))
    assert renew(layout.tls, names)
    assert expiry(layout.tls / SERVER) > datetime.now(UTC) + timedelta(days=390)


def test_the_proxys_configuration_lets_in_ten_requests_and_answers_403_to_the_rest(layout: Layout) -> None:
    text = services.nginx_conf(layout, load_coordinator(layout.root), 1234)
    assert text.count("proxy_pass") == 1
    assert "location / { return 403; }" in text
    assert "register-node|" not in text
    assert "|unregister-node" not in text
    assert len(services.FLEET) == 10


def test_a_port_that_is_taken_is_named_and_nothing_is_started(layout: Layout) -> None:
    about = load_coordinator(layout.root).coordinator
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", about.port))
        taken.listen()
        with pytest.raises(UserError, match=f"127.0.0.1:{about.port} cannot be listened on|is not on this machine"):
            services.up(layout)
    assert not (layout.services / "services.json").exists()


def test_a_machine_without_nginx_is_told_what_to_install(layout: Layout) -> None:
    path = layout.root / "coordinator.toml"
    path.write_text(path.read_text("utf-8").replace("names = []", 'names = []\nnginx = "no-such-proxy"'), "utf-8")
    with pytest.raises(UserError, match="apt-get install nginx"):
        services.up(layout)


def test_flower_is_kept_quiet_and_out_of_everybodys_home(layout: Layout) -> None:
    own = services.environment(layout)
    assert own["FLWR_TELEMETRY_ENABLED"] == "0"
    assert own["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert own["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert Path(own["FLWR_HOME"]).is_relative_to(layout.root)


# --- the app ---


def test_the_bundle_is_the_app_installed_here_and_one_changed_byte_is_named() -> None:
    files = app_files()
    bundle = pack(files)
    assert difference(bundle, files) == ""
    assert {name.partition("/")[0] for name in unpack(bundle)} == {
        "client",
        "common",
        "server",
        "pyproject.toml",
        ".info",
    }
    for name, change, words in (
        ("client/app.py", b"#", "client/app.py differs"),
        ("torch/__init__.py", b"", "torch/__init__.py is not part of the app"),
        ("pyproject.toml", b"\n[tool.more]\n", "pyproject.toml differs"),
    ):
        altered = {**files, name: files.get(name, b"") + change}
        assert words in difference(_zip(altered), files)
        assert files_digest(altered) != files_digest(files)
    assert "client/app.py is missing" in difference(
        _zip({k: v for k, v in files.items() if k != "client/app.py"}), files
    )
    assert "cannot be read" in difference(b"no zip", files)


def _zip(files: dict[str, bytes]) -> bytes:
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


# --- runs on disk ---


def finished(layout: Layout, rounds: int) -> runs.CoordinatorRun:
    """Return a run with whole rounds 0 to `rounds` on disk."""
    run = runs.begin(layout, rounds)
    adapter = {"base_model.model.h.0.c_attn.lora_A.weight": torch.zeros(2, 3)}
    for number in range(rounds + 1):
        record = {"round": number, "run": run.id, "merchants": [], "adapter_digest": digest(adapter)}
        save_round(run.folder, SavedRound(number, adapter, {}), record, LoraSettings(), "default")
    write_state(run.folder, "finished")
    return run


def test_going_back_adds_a_round_that_is_the_earlier_one_again(layout: Layout) -> None:
    run = finished(layout, 3)
    assert runs.roll_back(layout, 1).number == 4
    assert runs.finished_rounds(run.folder) == [0, 1, 2, 3, 4]
    assert runs.resume(layout, 6).id == run.id
    assert runs.records(run.folder)[4]["set_aside"] == [2, 3]
    with pytest.raises(UserError, match="round 7 cannot be gone back to"):
        runs.roll_back(layout, 7)


def test_a_run_keeps_the_examples_it_began_with_and_is_not_begun_without_them(layout: Layout) -> None:
    settings = FederationSettings(training=TrainingSettings(reference=True))
    before = sorted(layout.runs.glob("*"))
    with pytest.raises(UserError, match=r"reference\.jsonl is missing; training\.reference needs examples of your own"):
        runs.begin(layout, 2, settings=settings)
    assert sorted(layout.runs.glob("*")) == before
    mine = [Example("", "商品：绿茶\n文案：", "绿茶到货了")]
    write_reference(mine, layout.root / REFERENCE)
    run = runs.begin(layout, 2, settings=settings)
    (layout.root / REFERENCE).unlink()
    assert read_reference(run.folder / REFERENCE) == mine


def test_a_run_whose_process_is_gone_is_killed_and_one_that_runs_is_left_alone(layout: Layout) -> None:
    run = finished(layout, 1)
    write_state(run.folder, "running", pid=os.getpid())
    assert run.state == "running"
    with pytest.raises(UserError, match="runs now"):
        runs.resume(layout, None)
    with pytest.raises(UserError, match="runs now"):
        runs.roll_back(layout, 0)
    (run.folder / "state.json").write_text(
        json.dumps({"state": "running", "pid": os.getpid(), "started": "1", "reason": ""})
    )
    assert run.state == "killed"
    with pytest.raises(Unreachable, match="go on with `fugou coordinator run --resume`"):
        list(runs.follow(layout, run, 1))
    assert runs.resume(layout, 5).settings.training.rounds == 5
