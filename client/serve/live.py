"""The desk that answers now: opened once, with the adapter merged into the base, and opened anew when its files change.

A new round arrives as a new weights file in the adapter's folder. What stands on disk is read beside what answers, and
takes its place in one assignment; a caller who holds the old desk finishes with it. Files that cannot be read leave the
old desk where it is, and the reason is told.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from client.config import FILE, MerchantSettings, load_merchant
from client.serve.gather import Gatherer, Tell
from client.use.campaign import OPT_OUT
from client.use.copywriter import Writer, writer_of
from client.use.desk import Desk, adapter_shape, open_desk
from client.use.reply import POLICIES
from common.errors import FugouError
from common.files import sha256
from common.lora import WEIGHTS, Bench, attach, load, put
from common.model import load_base

EVERY = 3.0
"""Seconds between two looks at the files."""

State = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Opened:
    """One desk with what it was opened from."""

    desk: Desk = field(repr=False)
    adapter: str
    """First hex digits of the SHA-256 of the adapter's weights; empty where the bare base answers."""
    since: datetime
    state: State = field(repr=False)


class Live:
    """The desk of a folder, kept up to date; `swaps` counts desks that took another's place, `trouble` says why one did not."""

    def __init__(
        self, folder: Path, tell: Tell = lambda width: None, changed: Callable[[], None] = lambda: None
    ) -> None:
        self.folder = folder
        self.swaps = 0
        self.trouble = ""
        self._changed = changed
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._gatherer = Gatherer(self._writer, tell)
        self.opened = self._open()

    @property
    def desk(self) -> Desk:
        """The desk that answers now."""
        return self.opened.desk

    def watch(self, every: float = EVERY) -> None:
        """Look at the files every so many seconds from now on, in a thread of its own."""
        self._thread = threading.Thread(target=self._look_again, args=(every,), name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End both threads."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        self._gatherer.close()

    def refresh(self) -> bool:
        """Open the desk anew if a file has changed since; return whether another desk answers now."""
        if state_of(self.folder, self.desk.settings) == self.opened.state:
            return False
        try:
            self.opened = self._open()
        except (FugouError, OSError) as error:
            self.trouble = str(error)
            return False
        self.swaps, self.trouble = self.swaps + 1, ""
        self._changed()
        return True

    def _look_again(self, every: float) -> None:
        while not self._stop.wait(every):
            self.refresh()

    def _open(self) -> Opened:
        settings = load_merchant(self.folder)
        state = state_of(self.folder, settings)
        work = merged(settings)
        desk = replace(open_desk(self.folder, work), writer=self._gatherer.write)
        for prepared in (desk.usual, desk.memory, desk.corpus, desk.silent):
            assert prepared is not None
        weights = settings.model.adapter / WEIGHTS if settings.model.adapter else None
        digest = sha256(weights.read_bytes())[:12] if weights else ""
        return Opened(desk, digest, datetime.now(UTC), state)

    def _writer(self) -> Writer:
        return writer_of(self.desk.bench)


def merged(settings: MerchantSettings) -> Bench:
    """Return a base of its own with the merchant's adapter added into its weights: W + (alpha / r) B A, once."""
    base = load_base(settings.model.base)
    if not settings.model.adapter:
        return Bench(base, cast(Any, base.model))
    model = attach(base, adapter_shape(settings.model.adapter))
    put(model, load(settings.model.adapter))
    return Bench(base, cast(Any, model.merge_and_unload()))


def state_of(folder: Path, settings: MerchantSettings) -> State:
    """Return name, time and size of every file that a desk is opened from; one that is missing has size -1."""
    return tuple(_stamp(file) for file in _files(folder, settings))


def _files(folder: Path, settings: MerchantSettings) -> Iterator[Path]:
    yield from (folder / name for name in (FILE, POLICIES, *OPT_OUT))
    for _, source in settings.sources:
        if source and source.path != Path():
            yield from sorted(source.path.parent.glob(source.path.name)) if "*" in source.path.name else [source.path]
    if settings.model.adapter:
        yield settings.model.adapter / WEIGHTS


def _stamp(file: Path) -> tuple[str, int, int]:
    try:
        found = file.stat()
    except OSError:
        return str(file), 0, -1
    return str(file), found.st_mtime_ns, found.st_size
