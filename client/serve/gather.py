"""Requests for drafts from many callers at once, written together in one batch."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from client.use.copywriter import Writer
from client.use.drafts import Draft, Request

WAIT = 0.004
"""Seconds that a first request waits for others; far less than writing takes."""

WIDE = 24
"""Drafts in one batch; wider ones no longer pay on two cores."""

Tell = Callable[[int], None]


@dataclass(frozen=True)
class _Asked:
    requests: Sequence[Request]
    found: Future[list[list[Draft]]] = field(default_factory=Future)

    @property
    def width(self) -> int:
        return sum(len(one.begins) for one in self.requests)


class Gatherer:
    """One thread that drafts for all; `write` is what callers use as their `Writer`."""

    def __init__(self, writer: Callable[[], Writer], tell: Tell = lambda width: None) -> None:
        self._writer = writer
        self._tell = tell
        self._queue: queue.Queue[_Asked | None] = queue.Queue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="drafts", daemon=True)
        self._thread.start()

    def write(self, requests: Sequence[Request]) -> list[list[Draft]]:
        """Return the drafts of `requests`, written together with whatever others ask for at this moment."""
        if self._closed:
            raise RuntimeError("no drafts are written any more")
        asked = _Asked(requests)
        self._queue.put(asked)
        return asked.found.result()

    def close(self) -> None:
        """End the thread after what was asked for is written."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        left: _Asked | None = None
        while (first := left or self._queue.get()) is not None:
            batch, left, ended = self._more(first)
            self._answer(batch)
            if ended:
                return

    def _more(self, first: _Asked) -> tuple[list[_Asked], _Asked | None, bool]:
        """Return what to write now, what no longer fits, and whether the end was asked for."""
        batch, width, until = [first], first.width, time.monotonic() + WAIT
        while width < WIDE:
            try:
                other = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if other is None:
                return batch, None, True
            if width + other.width > WIDE:
                return batch, other, False
            batch.append(other)
            width += other.width
        return batch, None, False

    def _answer(self, batch: Sequence[_Asked]) -> None:
        self._tell(sum(one.width for one in batch))
        try:
            found = iter(self._writer()([request for one in batch for request in one.requests]))
            for one in batch:
                one.found.set_result([next(found) for _ in one.requests])
        except Exception as error:
            for one in batch:
                if not one.found.done():
                    one.found.set_exception(error)
