"""A process that uses a ledger, for tests that kill it or let several race: `python ledger_worker.py VERB FOLDER …`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from common.errors import Refused
from common.privacy.chain import Book
from common.privacy.keys import load_key
from common.privacy.ledger import Ledger
from common.privacy.plan import plan_round


def charge(folder: Path, name: str, count: int) -> None:
    """Ask for `count` rounds, release what is granted, and print how many that were."""
    granted = 0
    with Ledger.open(folder, load_key(folder / "key")) as ledger:
        for number in range(count):
            try:
                reservation = ledger.reserve(plan_round(ledger.policy, name, number, "adapter"))
            except Refused:
                continue
            reservation.touch()
            ledger.release(reservation, f"{name} {number}".encode())
            granted += 1
    print(granted)


def forget(folder: Path, name: str, count: int) -> None:
    """Do as `charge` with a planted fault: the ledger does not count what was used."""
    Book.used = lambda self: 0  # type: ignore[method-assign]
    charge(folder, name, count)


def die(folder: Path, name: str, point: str) -> None:
    """Make one round and end the process as a power cut would at the write point `point`."""

    def on_write(here: str) -> None:
        if here == point:
            os.kill(os.getpid(), signal.SIGKILL)

    with Ledger.open(folder, load_key(folder / "key"), on_write=on_write) as ledger:
        reservation = ledger.reserve(plan_round(ledger.policy, name, 0, "adapter"))
        if point.startswith("refund"):
            ledger.refund(reservation)
            return
        reservation.touch()
        (folder / "rows-were-read").touch()
        if point.startswith("burn"):
            ledger.burn(reservation, "the model ran out of memory")
            return
        ledger.release(reservation, b"update")
        (folder / "update-was-sent").touch()


def hasty(folder: Path, name: str, point: str) -> None:
    """Do as `die` with a planted fault: the rows are read before the charge is reserved."""
    (folder / "rows-were-read").touch()
    die(folder, name, point)


def hold(folder: Path, name: str) -> None:
    """Reserve one round, say so, and sit on it until killed."""
    with Ledger.open(folder, load_key(folder / "key")) as ledger:
        ledger.reserve(plan_round(ledger.policy, name, 0, "adapter")).touch()
        print("held", flush=True)
        time.sleep(60)


if __name__ == "__main__":
    verb, where, run, *rest = sys.argv[1:]
    if verb == "hold":
        hold(Path(where), run)
    elif verb in ("die", "hasty"):
        {"die": die, "hasty": hasty}[verb](Path(where), run, rest[0])
    else:
        {"charge": charge, "forget": forget}[verb](Path(where), run, int(rest[0]))
