"""The third engine: a coordinator and its merchants as processes of their own on this machine, with TLS, keys and proxy.

Nothing here is a stand-in: the coordinator is made, started and driven as `fugou coordinator` does it, every merchant
joins as `fugou merchant join` does, and all of it is stopped at the end, whatever happened. The coordinator's folder is a
temporary one; rounds go into the run's own folder.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from client import node
from client.config import load_merchant
from client.trust import CHAIN, COORDINATOR_KEY
from common.config import FederationSettings
from common.errors import FugouError
from server.deploy import runs, services
from server.deploy.control import register
from server.deploy.enrolment import enroll
from server.deploy.layout import Layout, make_coordinator


def lead_deployed(
    folder: Path, settings: FederationSettings, run: str, merchants: Sequence[Path], watch: Callable[[int], None]
) -> None:
    """Lead the rounds of `run` into `folder` with every merchant on a node of its own; `watch` sees every whole round.

    Raises `UserError` when the run fails or nginx is missing.
    """
    with tempfile.TemporaryDirectory(prefix="fugou-") as place, federation(Path(place), merchants) as layout:
        lead_on(layout, runs.CoordinatorRun(folder, run, settings), watch)


def lead_on(layout: Layout, run: runs.CoordinatorRun, watch: Callable[[int], None]) -> None:
    """Lead a run on a coordinator that is up; raise `UserError` or `Unreachable` with the way to go on."""
    for number in runs.follow(layout, run, runs.submit(layout, run)):
        watch(number)


@contextlib.contextmanager
def federation(place: Path, merchants: Sequence[Path]) -> Iterator[Layout]:
    """Yield a coordinator below `place` that runs, with every merchant enrolled and online; stop everything at the end."""
    layout = make_coordinator(place / "coordinator", "demo", f"localhost:{services.free_port()}")
    try:
        services.up(layout)
        for merchant in merchants:
            invite(layout, merchant)
            node.launch(merchant)
        for merchant in merchants:
            node.arrive(merchant)
        yield layout
    finally:
        with ThreadPoolExecutor() as pool:  # each waits for its processes to end
            list(pool.map(left, merchants))
        services.down(layout)


def left(merchant: Path) -> None:
    """Stop the merchant's node, whatever state it is in, and leave of it what people read: its logs and its list of services."""
    with contextlib.suppress(FugouError):
        node.leave(merchant)
    for name in node.FLOWER.values():
        shutil.rmtree(merchant / node.PLACE / name, ignore_errors=True)
    (merchant / node.SECRET).unlink(missing_ok=True)


def invite(layout: Layout, merchant: Path) -> None:
    """Enroll the merchant in folder `merchant` and let it take its invitation: what two people do by hand."""
    key = node.request(merchant, new_key=True)
    name = load_merchant(merchant).merchant.id
    for trusted in (COORDINATOR_KEY, CHAIN):  # of an earlier coordinator, where the run was resumed
        (merchant / trusted).unlink(missing_ok=True)
    entry = enroll(layout, key, name, f"licence-{name}", functools.partial(register, layout))
    node.take_invitation(merchant, layout.invitations / f"{entry.name}.json")
