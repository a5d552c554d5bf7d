"""Ledgers that stay open between rounds, in a process that answers for many merchants round after round.

A node answers one message and is done: it opens its ledger, uses it and closes it. A simulation asks the same merchants
again and again, and opening a ledger makes files, reads the whole chain and, on closing, writes the database a second
time. Inside `kept_open` a ledger is put aside instead, and taken up again for as long as its database and its key are the
very same files. Nothing is trusted for it: before every charge a kept ledger reads what others have written since, compares
its database with what it has seen last, and the anchor, as it does anyway.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from client.config import LEDGER, LEDGER_KEY
from common.errors import Refused
from common.privacy.ledger import Ledger

FILES_EACH = 4
"""What an open ledger holds: the database, its log and index, and its lock."""
MOST = 64
"""Ledgers that stay open, 0.14 MiB each: memory is to follow from what is asked, not from how many merchants there are."""

Stamp = tuple[tuple[int, ...], ...]


class Books:
    """Ledgers put aside, by folder; the first `most` of them stay, all others are closed as soon as they are done with.

    Merchants are asked in turn, so that whoever was asked longest ago is asked next: a place is not given to another.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._aside: dict[Path, tuple[Ledger, Stamp]] = {}

    @contextmanager
    def lend(self, folder: Path, open_anew: Callable[[], Ledger]) -> Iterator[Ledger]:
        """Yield the ledger put aside for `folder`, or a new one; it is put aside again unless the block failed."""
        ledger, stamp = self._aside.pop(folder, (None, ()))
        if ledger is not None and stamp != stamp_of(folder):
            ledger.close()
            ledger = None
        ledger = ledger or open_anew()
        try:
            yield ledger
        except Refused:
            self._put(folder, ledger)
            raise
        except BaseException:
            ledger.close()
            raise
        self._put(folder, ledger)

    def _put(self, folder: Path, ledger: Ledger) -> None:
        stamp = stamp_of(folder)
        if stamp and len(self._aside) < self._most:
            self._aside[folder] = ledger, stamp
        else:
            ledger.close()

    def close(self) -> None:
        """Close every ledger put aside."""
        for ledger, _ in self._aside.values():
            ledger.close()
        self._aside = {}


def stamp_of(folder: Path) -> Stamp:
    """Return what tells whether a merchant's database and key are the files they were; nothing where one is gone."""
    try:
        database, key = (folder / LEDGER).stat(), (folder / LEDGER_KEY).stat()
    except OSError:
        return ()
    return (
        (database.st_dev, database.st_ino),
        (key.st_dev, key.st_ino, key.st_mtime_ns, key.st_size, key.st_mode),
    )


_open: Books | None = None


@contextmanager
def kept_open(most: int | None = None) -> Iterator[None]:
    """Keep up to `most` ledgers open until the block ends; by default as many as an eighth of this process's files."""
    global _open
    before, _open = _open, Books(room() if most is None else most)
    try:
        yield
    finally:
        _open.close()
        _open = before


def room() -> int:
    """Return how many ledgers may stay open: a part of the files that this process may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(files // (8 * FILES_EACH), MOST)


@contextmanager
def ledger_of(folder: Path, open_anew: Callable[[], Ledger]) -> Iterator[Ledger]:
    """Yield the ledger of the merchant in `folder`, closed afterwards unless ledgers are kept open now."""
    if _open is None:
        with open_anew() as ledger:
            yield ledger
    else:
        with _open.lend(folder, open_anew) as ledger:
            yield ledger
