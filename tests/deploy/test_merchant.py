"""A merchant's side of joining: keys, invitations, one clear line for everything that is not right."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import stat
import sys
from pathlib import Path

import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor.types import ExecutionSpec

from client import node, supernode
from client.config import load_merchant
from client.trust import COORDINATOR_KEY
from common.cli import main
from common.errors import UserError, VerificationFailed
from common.forks import ForkExecutor
from server.deploy.enrolment import Enrolled, enroll, invitation, read_merchants, read_node_key, revoke
from server.deploy.layout import Layout, make_coordinator

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "merchant"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A copy of the example merchant."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "shop"))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return make_coordinator(tmp_path / "c", "tea", "localhost:9443")


def invited(layout: Layout, shop: Path) -> Path:
    """Return the invitation of the example merchant, enrolled as node 7."""
    enroll(layout, node.request(shop), identity(shop), "licence-1", lambda _: 7)
    return layout.invitations / f"{identity(shop)}.json"


def identity(shop: Path) -> str:
    return load_merchant(shop).merchant.id


def type_(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the exit code of a command line."""
    monkeypatch.setattr(sys, "argv", ["fugou", "--lang", "en", *words])
    monkeypatch.setenv("FUGOU_LANG", "en")
    try:
        main()
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def test_the_first_join_makes_a_key_for_its_owner_alone_and_keeps_it(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert type_(["merchant", "--dir", str(shop), "join"], monkeypatch) == 0
    first = (shop / "keys/node.pub").read_text()
    assert first.startswith("ecdsa-sha2-nistp384 ")
    assert stat.S_IMODE((shop / "keys/node").stat().st_mode) == 0o600
    assert node.node_fingerprint(shop) in capsys.readouterr().out
    assert type_(["merchant", "--dir", str(shop), "join"], monkeypatch) == 0
    assert (shop / "keys/node.pub").read_text() == first
    assert type_(["merchant", "--dir", str(shop), "join", "--new-key"], monkeypatch) == 0
    assert (shop / "keys/node.pub").read_text() != first
    assert len(list((shop / "keys").glob("node.*.old"))) == 1


def test_both_sides_show_the_same_fingerprint_of_a_node(layout: Layout, shop: Path) -> None:
    invited(layout, shop)
    (entry,) = read_merchants(layout)
    assert entry.fingerprint == node.node_fingerprint(shop)
    assert entry.key == read_node_key(shop / "keys/node.pub")


def test_an_invitation_pins_the_coordinators_key_and_another_one_is_refused(
    layout: Layout, shop: Path, tmp_path: Path
) -> None:
    node.take_invitation(shop, invited(layout, shop))
    assert (shop / COORDINATOR_KEY).read_bytes() == (layout.root / "keys/coordinator.pub").read_bytes()
    other = make_coordinator(tmp_path / "d", "coffee", "localhost:9444")
    path = invited(other, shop)
    with pytest.raises(VerificationFailed, match="belongs to another coordinator"):
        node.take_invitation(shop, path)
    assert (shop / COORDINATOR_KEY).read_bytes() == (layout.root / "keys/coordinator.pub").read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"merchant": "other"}, "invites 'other'"),
        ({"key": "0" * 16}, "is for key 0000000000000000"),
        ({"address": "localhost"}, "is no invitation (address)"),
        ({"coordinator_key": "x"}, "is no invitation (coordinator_key)"),
        ({"sigma": 0.1}, "is no invitation (sigma)"),
    ],
)
def test_an_invitation_that_is_not_meant_for_this_shop_changes_nothing(
    layout: Layout, shop: Path, change: dict[str, object], words: str
) -> None:
    path = invited(layout, shop)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError) as refused:
        node.take_invitation(shop, path)
    assert words in str(refused.value)
    assert not (shop / COORDINATOR_KEY).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '"tea"', "null"])
def test_a_file_that_is_no_invitation_is_one_line(shop: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="is no invitation"):
        node.read_invitation(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["status"], "not in a federation yet", 0),
        (["leave"], "0 processes", 0),
        (["join", "nowhere.json"], "cannot read the invitation", 2),
        (["status", "--compare", "tea"], "write PLACE:LINK", 2),
        (["status", "--compare", "1:ab"], "chain ends at 0", 2),
        (["join", "--foreground", "--only", "node"], "cannot read the invitation", 2),
    ],
)
def test_the_commands_say_how_it_stands(
    shop: Path,
    words: list[str],
    message: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    node.request(shop)
    assert type_(["merchant", "--dir", str(shop), *words], monkeypatch) == code
    said = capsys.readouterr()
    assert message in (said.err if code else said.out)


def test_a_merchant_that_joined_and_is_not_online_exits_with_5(
    layout: Layout, shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node.take_invitation(shop, invited(layout, shop))
    assert type_(["merchant", "--dir", str(shop), "status", "--json"], monkeypatch) == 5
    told = json.loads(capsys.readouterr().out)
    assert (told["joined"], told["running"], told["online"]) == (True, False, False)
    assert type_(["merchant", "--dir", str(shop), "join"], monkeypatch) == 2  # unsigned policy, or nobody listens
    assert not (shop / "node" / "services.json").exists()


@pytest.mark.parametrize(
    ("lines", "online"),
    [
        ("", False),
        ("== supervisor starts supernode", False),
        ("== supervisor starts supernode\nSuperNode ID: 7", True),
        ("== supervisor starts supernode\nSuperNode ID: 7\nConnection attempt failed, retrying", False),
        (
            "== supervisor starts supernode\nSuperNode ID: 7\nConnection attempt failed\nConnection successful after 9 s",
            True,
        ),
        ("== supervisor starts supernode\nSuperNode ID: 7\n== supervisor starts supernode\n[code: 2004]", False),
    ],
)
def test_a_node_is_online_while_the_coordinator_has_let_it_in_and_answers(
    tmp_path: Path, lines: str, online: bool
) -> None:
    (tmp_path / "node" / "logs").mkdir(parents=True)
    (tmp_path / "node" / "logs" / "supernode.log").write_text(lines)
    assert node.online(tmp_path) == online


def test_an_invitation_can_be_taken_without_starting_anything(
    layout: Layout, shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = invited(layout, shop)
    assert type_(["merchant", "--dir", str(shop), "join", "--no-start"], monkeypatch) == 2
    assert "--no-start takes an INVITATION" in capsys.readouterr().err
    assert type_(["merchant", "--dir", str(shop), "join", str(path), "--no-start"], monkeypatch) == 0
    assert "starts the node" in capsys.readouterr().out
    assert node.read_invitation(shop / node.INVITATION).merchant == identity(shop)
    assert list((shop / "node").iterdir()) == []


def test_a_node_that_systemd_or_a_container_watches_is_seen_by_its_port_and_its_own_log(
    layout: Layout, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.take_invitation(shop, invited(layout, shop))
    monkeypatch.setenv(node.HOST, "0.0.0.0")
    log = node.begin_log(shop, "supernode")
    with socket.create_server(("127.0.0.1", 0)) as port:
        (shop / node.PORT).write_text(f"{port.getsockname()[1]}\n")
        assert (node.status(shop).running, node.status(shop).online) == (True, False)
        with log.open("a") as file:
            file.write("INFO: SuperNode ID: 7\n")
        assert (node.status(shop).running, node.status(shop).online) == (True, True)
    assert (node.status(shop).running, node.status(shop).online) == (False, False)


def test_a_supernode_of_systemd_or_a_container_writes_flowers_words_below_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=supernode.log.name)  # a simulation in this process lets it say less
    path = node.begin_log(tmp_path, "supernode")
    supernode.keep_log(str(path))
    handler = supernode.log.handlers[-1]
    try:
        supernode.log.info("SuperNode ID: %d", 7)
        supernode.log.debug("Runtime.AcquireTask")
    finally:
        supernode.log.removeHandler(handler)
        handler.close()
    assert node.online(tmp_path)
    assert "AcquireTask" not in path.read_text()
    assert node.begin_log(tmp_path, "supernode") == path
    assert not node.online(tmp_path)


def test_a_revoked_merchant_comes_back_with_a_new_key_only(layout: Layout, shop: Path) -> None:
    invited(layout, shop)
    gone: list[int] = []
    revoke(layout, identity(shop), gone.append)
    assert gone == [7]
    assert not (layout.invitations / f"{identity(shop)}.json").exists()
    with pytest.raises(UserError, match="is revoked as"):
        invited(layout, shop)
    node.request(shop, new_key=True)
    invited(layout, shop)
    assert [one.revoked for one in read_merchants(layout)] == [True, False]


@pytest.mark.parametrize("text", ["", "ssh-rsa AAAA", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFQ0"])
def test_a_key_that_is_none_is_not_registered(layout: Layout, tmp_path: Path, text: str) -> None:
    (tmp_path / "x.pub").write_text(text)
    with pytest.raises(UserError, match=r"x\.pub is no "):
        enroll(layout, tmp_path / "x.pub", "tea", "1", lambda _: pytest.fail("it was registered"))
    assert read_merchants(layout) == []


def test_an_invitation_holds_no_secret(layout: Layout) -> None:
    told = json.dumps(invitation(layout, Enrolled("tea", "1", "PEM", 7)))
    for secret in (layout.key, layout.secret, layout.tls / "ca.key", layout.tls / "server.key"):
        assert secret.read_text().split("\n")[1 if secret != layout.secret else 0][:40] not in told


@pytest.mark.parametrize("kind", [TaskType.CLIENT_APP, TaskType.SERVER_APP])
def test_a_warm_executor_takes_one_kind_of_task_and_leaves_no_zombie(kind: TaskType) -> None:
    executor = ForkExecutor(kind, lambda _: None)
    assert executor.get_eligible_capacity({TaskType.CLIENT_APP, TaskType.SERVER_APP}) == ({kind}, set())
    executor.reconcile()


@pytest.mark.parametrize(("end", "code"), [(0, 0), (3, 3), ("reason", 1), (None, 1)])
def test_a_task_is_a_child_of_its_own_and_its_end_is_the_childs(end: object, code: int, tmp_path: Path) -> None:
    def work(spec: ExecutionSpec) -> None:
        (tmp_path / spec.token).write_text(str(os.getpid()))
        if end is None:
            raise ValueError("a task that fails")
        raise SystemExit(end)

    spec = ExecutionSpec(TaskType.SERVER_APP, "127.0.0.1:1", "one", True, None, False, None, False, 1)
    ForkExecutor(TaskType.SERVER_APP, work).launch(spec)
    pid, status = os.wait()
    assert (tmp_path / "one").read_text() == str(pid)
    assert os.waitstatus_to_exitcode(status) == code
