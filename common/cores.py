"""Threads that each compute on one core."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def one_core_each(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield `count` threads that each compute on one core; nothing else may compute with torch while the block lasts.

    Why not one operation on all cores: its parts wait for each other at every step, and where a core is shared with
    other work all wait for that one. Here the free core takes the next piece.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
