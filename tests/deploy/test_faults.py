"""Faults on real nodes, with real kill -9: what survives is what docs/coordinator.md says, and no charge is lost."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import sign_message
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

from client import node
from common import processes
from common.errors import Unreachable, UserError
from common.processes import Standing
from server.config import load_coordinator
from server.deploy import runs
from simulations.deployment import lead_on
from tests.deploy.conftest import Federation, entries

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")


def until(true: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def service(folder: Path, name: str) -> Standing:
    return next(one for one in processes.standing(folder) if one.name == name)


def kill(folder: Path, name: str) -> None:
    """Kill a service -9 and return once it is up again."""
    before = service(folder, name)
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: service(folder, name).alive and service(folder, name).restarts > before.restarts)


def children(pid: int) -> list[int]:
    """Return the children that still run; one that has ended stays until its parent takes leave of it."""
    with contextlib.suppress(OSError):
        every = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [one for one in every if Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[0] != "Z"]
    return []


def statuses(run: runs.CoordinatorRun, number: int) -> list[str]:
    return [one["status"] for one in runs.records(run.folder)[number]["merchants"]]


def all_charges_are_closed(shared: Federation) -> bool:
    """Return whether every reservation of every merchant was released, burned or refunded, one for one."""
    for folder in shared.merchants:
        closed = [one["closes"] for kind in ("RELEASE", "BURN", "REFUND") for one in entries(folder, kind)]
        opened = [one["seq"] for one in entries(folder, "RESERVE")]
        if sorted(closed) != opened:
            return False
    return True


@pytest.fixture(autouse=True)
def _everybody_online(shared: Federation) -> Iterator[None]:
    until(lambda: all(node.status(folder).online for folder in shared.merchants), 180.0)
    yield
    assert all_charges_are_closed(shared)


def test_a_run_goes_on_after_the_proxy_and_the_superlink_were_killed(shared: Federation) -> None:
    services = shared.layout.services
    run = shared.run("proxy-and-superlink", rounds=3)
    attempt = runs.submit(shared.layout, run)
    try:
        for number in runs.follow(shared.layout, run, attempt):
            if number in (0, 1):
                kill(services, ("proxy", "superlink")[number])
    except UserError as error:  # the SuperLink died while the ServerApp handed it an ask
        if "go on with `fugou coordinator run --resume`" not in str(error):
            raise
        lead_on(shared.layout, run, lambda _: None)
    # Flower hands an ask out once: one that its carrier dies with is lost, and its merchant late in that round alone.
    assert {one for number in (1, 2) for one in statuses(run, number)} <= {"done", "late"}
    assert statuses(run, 3) == ["done", "done"]


def test_a_killed_serverapp_is_gone_on_with_and_no_round_is_charged_twice(shared: Federation) -> None:
    before = [len(entries(folder, "RESERVE")) for folder in shared.merchants]
    run = shared.run("serverapp", rounds=1)
    attempt = runs.submit(shared.layout, run)
    with pytest.raises(Unreachable, match="was lost; go on with `fugou coordinator run --resume`"):
        kill_after_a_release(shared, run, attempt, before)
    assert run.state == "killed"
    again = runs.resume(shared.layout, 2)  # lengthened in the middle of round 1, which is asked again as it was
    assert again.id == run.id
    assert list(runs.follow(shared.layout, again, runs.submit(shared.layout, again)))[-1] == 2
    assert statuses(run, 2) == ["done", "done"]
    after = [len(entries(folder, "RESERVE")) for folder in shared.merchants]
    assert after == [count + 2 for count in before]


def kill_after_a_release(shared: Federation, run: runs.CoordinatorRun, attempt: int, before: list[int]) -> None:
    """Follow the run, and kill its ServerApp once a merchant has been charged in round 1."""
    for number in runs.follow(shared.layout, run, attempt):
        if number == 0:
            until(lambda: [len(entries(folder, "RELEASE")) for folder in shared.merchants] > before)
            os.kill(json.loads((run.folder / "state.json").read_text())["pid"], signal.SIGKILL)


def sent(folder: Path) -> int:
    """Return how many replies the merchant's node has got rid of."""
    return (folder / node.PLACE / "logs" / "supernode.log").read_text("utf-8").count("Sent successfully")


def test_a_killed_training_process_costs_its_charge_and_a_killed_node_comes_back_by_itself(shared: Federation) -> None:
    """Flower takes a minute to notice either, so that both are killed in one round: the one trains, the other has answered."""
    other, folder = shared.merchants
    executor = service(folder / node.PLACE, "executor").pid
    before, answered, restarts = len(entries(folder, "RESERVE")), sent(other), restarts_of(other)
    killed: list[int] = []

    def hunt() -> None:
        until(lambda: len(entries(folder, "RESERVE")) > before)
        for child in children(executor):
            os.kill(child, signal.SIGKILL)
            killed.append(child)
        until(lambda: sent(other) > answered)
        os.kill(service(other / node.PLACE, "supernode").pid, signal.SIGKILL)

    thread = threading.Thread(target=hunt)
    thread.start()
    run = shared.lead("killed", rounds=3, timeout=200.0, wait=180.0)
    thread.join()
    assert len(killed) == 1
    assert sorted(statuses(run, 1)) == ["done", "failed"]
    assert sorted(statuses(run, 2)) in (["done", "done"], ["done", "late"])  # asked before the node was back, or after
    assert statuses(run, 3) == ["done", "done"]
    assert len(entries(folder, "BURN")) == 1
    assert restarts_of(other) > restarts


def restarts_of(folder: Path) -> int:
    return service(folder / node.PLACE, "supernode").restarts


def test_a_merchant_slower_than_the_deadline_is_late_and_takes_part_again(shared: Federation) -> None:
    folder = shared.merchants[1]
    executor = service(folder / node.PLACE, "executor").pid
    run = shared.run("slow", rounds=3, timeout=15.0)
    attempt = runs.submit(shared.layout, run)
    os.kill(executor, signal.SIGSTOP)
    try:
        for number in runs.follow(shared.layout, run, attempt):
            if number == 1:
                os.kill(executor, signal.SIGCONT)
    finally:
        os.kill(executor, signal.SIGCONT)
    assert sorted(statuses(run, 1)) == ["done", "late"]
    assert statuses(run, 3) == ["done", "done"]


def test_a_merchant_whose_disk_takes_no_byte_fails_and_is_not_charged(shared: Federation) -> None:
    folder = shared.merchants[1]
    executor = service(folder / node.PLACE, "executor").pid
    before = len(entries(folder, "RESERVE"))
    limits = resource.prlimit(executor, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        run = shared.lead("disk-full", rounds=1)
    finally:
        resource.prlimit(executor, resource.RLIMIT_FSIZE, limits)
    assert sorted(statuses(run, 1)) == ["done", "failed"]
    told = [one["reason"] for one in runs.records(run.folder)[1]["merchants"] if one["status"] == "failed"]
    assert told in ([""], ["failed with code 2"]), "the coordinator reads a path of the shop's"
    assert len(entries(folder, "RESERVE")) == before
    assert statuses(shared.lead("disk-free", rounds=1), 1) == ["done", "done"]


def heartbeat(shared: Federation, folder: Path, seconds: float) -> int:
    """Return the HTTP status of a node's heartbeat that was signed by a clock `seconds` off, sent through the proxy."""
    key = load_ssh_private_key((folder / node.NODE_KEY).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    stamp = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    number = int(json.loads((folder / node.INVITATION).read_text("utf-8"))["node"])
    request = SendNodeHeartbeatRequest(node=Node(node_id=number), heartbeat_interval=60.0)
    reply = httpx.post(
        f"https://{load_coordinator(shared.layout.root).coordinator.address}/v1/fleet/send-node-heartbeat",
        content=request.SerializeToString(deterministic=True),
        headers={
            "content-type": PROTOBUF_MEDIA_TYPE,
            "accept": PROTOBUF_MEDIA_TYPE,
            FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(public).decode(),
            FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(sign_message(key, stamp.encode("ascii"))).decode(),
            TIMESTAMP_HEADER: stamp,
        },
        verify=ssl.create_default_context(cafile=str(shared.layout.authority)),
        trust_env=False,
    )
    return reply.status_code


@pytest.mark.parametrize(("seconds", "status"), [(0.0, 200), (-3600.0, 401), (3600.0, 401)])
def test_a_node_whose_clock_jumped_is_not_let_in_until_it_is_right_again(
    shared: Federation, seconds: float, status: int
) -> None:
    assert heartbeat(shared, shared.merchants[0], seconds) == status
