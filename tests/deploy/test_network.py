"""A merchant loses the network in the middle of a round, for real: its node lives in a network namespace behind a cut link."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from client import node
from common.files import write_atomic
from server.config import load_coordinator
from server.deploy import runs
from server.deploy.certificates import renew
from server.deploy.layout import hosts
from server.deploy.services import answers
from tests.deploy.conftest import Federation, entries, needs_nginx

NEW_NET = 0x40000000
"""CLONE_NEWNET of setns(2)."""


def until(true: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def ip(words: str) -> None:
    """Run `ip`; skip the test with its reason where this machine does not allow it."""
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed here: apt-get install iproute2")
    done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"ip {words}: {done.stderr.strip()}; network namespaces need root and CAP_NET_ADMIN")


@dataclass(frozen=True)
class Link:
    """A namespace of its own and the one cable that leads out of it: `here` is this machine's end, with `address`."""

    namespace: str
    here: str
    address: str

    def cut(self) -> None:
        """Let no packet through in either direction."""
        ip(f"link set {self.here} down")

    def mend(self) -> None:
        """Let packets through again."""
        ip(f"link set {self.here} up")

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Let this thread, and every process that it starts, have the namespace's network."""
        libc = ctypes.CDLL(None, use_errno=True)
        with (
            Path("/proc/thread-self/ns/net").open("rb") as outside,
            Path(f"/run/netns/{self.namespace}").open("rb") as inner,
        ):
            assert libc.setns(inner.fileno(), NEW_NET) == 0, os.strerror(ctypes.get_errno())
            try:
                yield
            finally:
                assert libc.setns(outside.fileno(), NEW_NET) == 0, os.strerror(ctypes.get_errno())


@pytest.fixture
def link() -> Iterator[Link]:
    number = os.getpid() % 25_000
    net = f"10.{100 + number // 250}.{number % 250}"
    link = Link(f"fugou-{number}", f"fg{number}a", f"{net}.1")
    ip(f"netns add {link.namespace}")
    try:
        ip(f"link add {link.here} type veth peer name fg{number}b netns {link.namespace}")
        ip(f"addr add {link.address}/30 dev {link.here}")
        ip(f"link set {link.here} up")
        for words in (f"addr add {net}.2/30 dev fg{number}b", f"link set fg{number}b up", "link set lo up"):
            ip(f"-n {link.namespace} {words}")
        yield link
    finally:
        subprocess.run(["ip", "netns", "del", link.namespace], check=False)


@contextmanager
def proxy_on(shared: Federation, address: str) -> Iterator[int]:
    """Run a second proxy like the coordinator's own on another address of this machine, and yield its port."""
    layout, about = shared.layout, load_coordinator(shared.layout.root).coordinator
    renew(layout.tls, [*hosts(about), address])
    folder = layout.services / "second"
    folder.mkdir(exist_ok=True)
    text = (layout.services / "nginx" / "nginx.conf").read_text("utf-8")
    text = text.replace(str(layout.services / "nginx"), str(folder))
    write_atomic(
        folder / "nginx.conf", text.replace(f"listen 127.0.0.1:{about.port}", f"listen {address}:{about.port}")
    )
    words = [shutil.which(about.nginx) or "", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    nginx = subprocess.Popen([*words, "-e", str(folder / "error.log"), "-g", "daemon off;"])
    try:
        until(lambda: answers(layout, f"{address}:{about.port}"), 30.0)
        yield about.port
    finally:
        nginx.terminate()
        nginx.wait(20)


@contextmanager
def moved(shared: Federation, folder: Path, link: Link) -> Iterator[None]:
    """Let the merchant's node run behind the link for as long as the block lasts."""
    path = folder / "merchant.toml"
    before = path.read_text("utf-8")
    node.leave(folder)
    with proxy_on(shared, link.address) as port:
        path.write_text(re.sub(r"(?m)^\[server\].*?(?=^\[|\Z)", "", before, flags=re.S), "utf-8")
        with path.open("a", encoding="utf-8") as file:
            file.write(f'\n[server]\naddress = "{link.address}:{port}"\n')
        try:
            with link.inside():
                node.join(folder)
            yield
        finally:
            node.leave(folder)
            path.write_text(before, "utf-8")
            node.join(folder)


def counts(folder: Path) -> dict[str, int]:
    return {kind: len(entries(folder, kind)) for kind in ("RESERVE", "RELEASE", "BURN", "REFUND")}


def statuses(run: runs.CoordinatorRun, number: int) -> dict[str, str]:
    """Return what became of every merchant in a round, and of a node that did not answer."""
    told = runs.records(run.folder)[number]["merchants"]
    return {one["merchant"].split()[0]: one["status"] for one in told}


def test_a_network_that_is_cut_in_mid_round_costs_nothing_when_it_is_back_in_time_and_one_round_when_not(
    shared: Federation, link: Link
) -> None:
    needs_nginx()
    there, away = shared.merchants
    with moved(shared, away, link):
        until(lambda: node.status(there).online and node.status(away).online)
        before = counts(away)
        run = shared.run("network", rounds=4, timeout=300.0, wait=180.0)
        attempt = runs.submit(shared.layout, run)
        for number in runs.follow(shared.layout, run, attempt):
            if number == 0:  # short: while the merchant trains for round 1
                until(lambda: counts(away)["RESERVE"] > before["RESERVE"])
                link.cut()
                time.sleep(8)
                link.mend()
            elif number == 1:  # long: from the middle of round 2 until Flower takes the node to be gone
                until(lambda: counts(away)["RESERVE"] > before["RESERVE"] + 1)
                link.cut()
            elif number == 2:
                link.mend()
        found = [statuses(run, number) for number in range(1, 5)]
        after = counts(away)
    assert found[0] == {there.name: "done", away.name: "done"}
    assert found[1] == {there.name: "done", "node": "late"}
    assert found[3] == {there.name: "done", away.name: "done"}
    assert after["BURN"] == before["BURN"]
    assert after["RELEASE"] - before["RELEASE"] == after["RESERVE"] - before["RESERVE"] >= 3
