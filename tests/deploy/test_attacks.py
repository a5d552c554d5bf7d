"""Attacks on real nodes: each is refused with a clear line; nothing is charged that was not trained, nor the reverse."""

from __future__ import annotations

import http.client
import http.server
import json
import shutil
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from client import node
from client.config import load_merchant
from common import processes
from common.bundle import app_files
from common.errors import Unreachable, UserError, VerificationFailed
from common.wire import TrainReply
from server.config import load_coordinator
from server.deploy import control, runs, services
from server.deploy.certificates import make_authority, make_server_certificate
from server.deploy.enrolment import enroll, revoke
from server.deploy.signing import in_own_name
from simulations.grid import InlineGrid
from tests.deploy.conftest import Federation, entries


def until(true: Callable[[], object], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


# --- from outside ---


def ask_proxy(shared: Federation, path: str, *, tls: bool = True) -> int:
    """Return the HTTP status that the public port gives to a POST."""
    about = load_coordinator(shared.layout.root).coordinator
    context = ssl.create_default_context(cafile=str(shared.layout.authority))
    connection = (
        http.client.HTTPSConnection("localhost", about.port, context=context, timeout=20)
        if tls
        else http.client.HTTPConnection("localhost", about.port, timeout=20)
    )
    try:
        connection.request("POST", path, body=b"", headers={"content-type": "application/protobuf"})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/v1/control/list-runs",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "//v1/control/list-runs",
        "/v1/fleet/pull-messages/../../control/list-runs",
    ],
)
def test_nothing_but_a_nodes_own_requests_comes_in(shared: Federation, path: str) -> None:
    assert ask_proxy(shared, path) == 403


def test_a_nodes_request_without_a_key_is_unauthorised(shared: Federation) -> None:
    assert ask_proxy(shared, "/v1/fleet/pull-messages") in (400, 401, 403)


def test_plain_http_is_refused(shared: Federation) -> None:
    assert ask_proxy(shared, "/v1/fleet/pull-messages", tls=False) == 400


def test_the_control_interface_listens_on_loopback_alone(shared: Federation) -> None:
    assert services.superlink_address(shared.layout).startswith("127.0.0.1:")


# --- certificates ---


@contextmanager
def server(folder: Path, *, tls: bool) -> Iterator[str]:
    """Yield the address of an HTTP server with the certificate in `folder`, or without any."""
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        web.socket = context.wrap_socket(web.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    try:
        yield f"localhost:{web.server_port}"
    finally:
        web.shutdown()
        web.server_close()
        thread.join()


def test_a_valid_certificate_is_taken_and_an_expired_one_refused(tmp_path: Path) -> None:
    make_authority(tmp_path, "tea")
    make_server_certificate(tmp_path, ["localhost"])
    with server(tmp_path, tls=True) as address:
        node.probe(address, tmp_path / "ca.crt")
    make_server_certificate(tmp_path, ["localhost"], now=datetime.now(UTC) - timedelta(days=400))
    with server(tmp_path, tls=True) as address, pytest.raises(VerificationFailed, match="certificate has expired"):
        node.probe(address, tmp_path / "ca.crt")


def test_a_certificate_of_another_authority_or_host_is_refused(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        make_authority(tmp_path / name, name)
    make_server_certificate(tmp_path / "theirs", ["localhost"])
    make_server_certificate(tmp_path / "ours", ["elsewhere.example"])
    with server(tmp_path / "theirs", tls=True) as address, pytest.raises(VerificationFailed, match="certificate of"):
        node.probe(address, tmp_path / "ours" / "ca.crt")
    with server(tmp_path / "ours", tls=True) as address, pytest.raises(VerificationFailed, match="localhost"):
        node.probe(address, tmp_path / "ours" / "ca.crt")


def test_a_server_without_tls_and_one_that_is_not_there_are_told_apart(tmp_path: Path) -> None:
    make_authority(tmp_path, "tea")
    with server(tmp_path, tls=False) as address, pytest.raises(VerificationFailed, match="does not speak TLS"):
        node.probe(address, tmp_path / "ca.crt")
    with pytest.raises(Unreachable, match="does not answer"):
        node.probe(f"localhost:{services.free_port()}", tmp_path / "ca.crt")


# --- keys ---


def test_a_key_gets_in_once_it_is_enrolled_and_not_after_it_is_revoked(shared: Federation, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    shutil.copytree(shared.merchants[0], stranger, ignore=shutil.ignore_patterns("node", "ledger.db*", "models"))
    text = (stranger / "merchant.toml").read_text("utf-8")
    (stranger / "merchant.toml").write_text(text.replace('id = "shop-01"', 'id = "stranger"'), "utf-8")
    key = node.request(stranger, new_key=True)
    forged = json.loads((stranger / node.INVITATION).read_text("utf-8"))
    forged |= {"merchant": "stranger", "key": node.node_fingerprint(stranger)}
    (stranger / "forged.json").write_text(json.dumps(forged))
    node.take_invitation(stranger, stranger / "forged.json")
    (supernode, _) = node.plan(stranger)

    processes.start(stranger / node.PLACE, [supernode])
    try:
        with pytest.raises(Unreachable, match="does not know this key"):
            node.wait_until_online(stranger, 60.0)
        enroll(shared.layout, key, "stranger", "licence-x", lambda pem: control.register(shared.layout, pem))
        until(lambda: node.online(stranger))
        revoke(shared.layout, "stranger", lambda number: control.unregister(shared.layout, number))
        restarts = processes.standing(stranger / node.PLACE)[0].restarts
        until(lambda: processes.standing(stranger / node.PLACE)[0].restarts > restarts or not node.online(stranger))
    finally:
        node.leave(stranger)
    with pytest.raises(UserError, match="is revoked as stranger"):
        enroll(shared.layout, key, "again", "licence-y", lambda _: pytest.fail("a burned key was registered"))
    assert entries(stranger, "RESERVE") == []


@pytest.mark.parametrize(
    ("name", "licence", "words"),
    [
        ("shop-01", "licence-new", "is enrolled already with key"),
        ("newcomer", "licence-shop-01", "one licence, one key, one vote"),
        ("Bad Name", "licence-new", "lower-case letters"),
        ("newcomer", " ", "business licence"),
    ],
)
def test_one_licence_one_key_one_vote(shared: Federation, tmp_path: Path, name: str, licence: str, words: str) -> None:
    shutil.copy(shared.merchants[0] / "merchant.toml", tmp_path / "merchant.toml")
    for table in shared.merchants[0].glob("*.csv"):
        shutil.copy(table, tmp_path)
    key = node.request(tmp_path)
    with pytest.raises(UserError, match=words):
        enroll(shared.layout, key, name, licence, lambda _: pytest.fail("it was registered"))


def test_an_invitation_for_another_key_or_merchant_is_refused(shared: Federation) -> None:
    one, two = shared.merchants
    with pytest.raises(UserError, match="invites 'shop-02'"):
        node.take_invitation(one, two / node.INVITATION)


def test_a_reply_in_another_merchants_name_becomes_an_error() -> None:
    grid = InlineGrid(ClientApp(), 1)  # gives messages a run
    content = TrainReply("refused", "shop-02", 1).pack()
    ask = grid.create_message(RecordDict({"ask": ConfigRecord()}), MessageType.TRAIN, 11, "1")
    reply = Message(content, reply_to=ask)
    assert in_own_name(reply, {11: "shop-02"}).has_content()
    for names in ({11: "shop-01"}, {}):
        spoiled = in_own_name(reply, names)
        assert spoiled.has_error()
        assert spoiled.metadata.reply_to_message_id == reply.metadata.reply_to_message_id


# --- the app and the run ---


def test_an_app_with_one_byte_changed_is_not_run_and_nothing_is_charged(shared: Federation) -> None:
    before = [len(entries(folder, "RESERVE")) for folder in shared.merchants]
    files = app_files()
    files["client/app.py"] = files["client/app.py"].replace(b"unpack, call, pack", b"unpack, call, pacc")
    assert files["client/app.py"] != app_files()["client/app.py"]
    run = shared.run("altered", rounds=1)
    config = {
        **run.settings.to_run_config(),
        "output": str(run.folder),
        "coordinator": str(shared.layout.root),
        "run": run.id,
    }
    attempt = control.start_run(shared.layout, config, files)
    assert list(runs.follow(shared.layout, run, attempt)) == [0, 1]
    verdicts = runs.records(run.folder)[1]["merchants"]
    assert [(one["status"], one["reason"]) for one in verdicts] == [("failed", "The FAB could not be verified.")] * 2
    for folder in shared.merchants:
        log = (folder / node.PLACE / "logs" / "supernode.log").read_text("utf-8")
        assert "the app is refused: client/app.py differs from the one installed here" in log
    assert [len(entries(folder, "RESERVE")) for folder in shared.merchants] == before


@pytest.mark.parametrize("key", ["privacy.sigma_min", "privacy.epsilon", "sigma", "training.noise", "clip_norm"])
def test_a_run_that_asks_for_less_noise_is_not_started(shared: Federation, key: str) -> None:
    run = shared.run("less-noise", rounds=1)
    config = {**run.settings.to_run_config(), "output": str(run.folder), "coordinator": "x", "run": run.id, key: 0.01}
    with pytest.raises(UserError, match="Invalid run configuration"):
        control.start_run(shared.layout, config)
    shutil.rmtree(run.folder)


def test_a_run_trains_on_both_nodes_and_every_charge_has_its_release(shared: Federation) -> None:
    before = [[len(entries(folder, event)) for event in ("RESERVE", "RELEASE")] for folder in shared.merchants]
    run = shared.lead("plain", rounds=1)
    assert [one["status"] for one in runs.records(run.folder)[1]["merchants"]] == ["done", "done"]
    for folder, counts in zip(shared.merchants, before, strict=True):
        assert [len(entries(folder, event)) for event in ("RESERVE", "RELEASE")] == [one + 1 for one in counts]
        assert node.status(folder).online
        assert load_merchant(folder).server.address == ""
