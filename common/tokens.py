"""Text to ids, and the mask of ids whose prediction counts.

N customers   B batch   T tokens
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from common.text import VOICES, Example

if TYPE_CHECKING:
    from common.model import Base

Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Encoded:
    """One example as ids; `counts` is true where the id belongs to the target or is the end after it."""

    task: str
    ids: tuple[int, ...]
    counts: tuple[bool, ...]


@dataclass(frozen=True)
class Rows:
    """Padded rows of ids, the mask of ids that count and the voice of each (none: all alike); shapes (B, T)."""

    ids_BT: Ids
    counts_BT: Mask
    voice_BT: Weights | None = None

    @property
    def weights(self) -> Mask | Weights:
        """How much each id counts, (B, T), in its customer's loss; the mask itself where all count alike."""
        return self.counts_BT if self.voice_BT is None else self.voice_BT


def encode_examples(base: Base, examples: Sequence[Example], max_tokens: int) -> list[Encoded]:
    """Return every example as ids of at most `max_tokens - 1`: too long a prompt loses its front, too long a target its end."""
    if not examples:
        return []
    prompts = _ids(base, [one.prompt for one in examples])
    targets = _ids(base, [one.target for one in examples])
    return [
        _fit(one.task, prompt, [*target, base.end], max_tokens - 1)
        for one, prompt, target in zip(examples, prompts, targets, strict=True)
    ]


def _ids(base: Base, texts: list[str]) -> list[list[int]]:
    return list(base.tokenizer(texts, add_special_tokens=False)["input_ids"])


def _fit(task: str, prompt: list[int], target: list[int], room: int) -> Encoded:
    target = target[: room - 1]
    prompt = prompt[-(room - len(target)) :]
    return Encoded(task, (*prompt, *target), (False,) * len(prompt) + (True,) * len(target))


def pack(records: Iterable[Encoded], end: int, max_tokens: int) -> tuple[list[int], list[int]]:
    """Return one row of ids, and the voice of each, 0 where it does not count.

    The row is `end`, then each record in turn for as long as it still fits into `max_tokens`.
    """
    ids, voices = [end], [0]
    for record in records:
        if len(ids) + len(record.ids) <= max_tokens:
            ids += record.ids
            voices += [VOICES.get(record.task, 1) * counts for counts in record.counts]
    return ids, voices


def stack(rows: Sequence[tuple[Sequence[int], Sequence[int]]], end: int, max_tokens: int) -> Rows:
    """Return rows padded on the right with `end` to exactly `max_tokens`: the shape says nothing about who was drawn."""
    ids_BT = np.full((len(rows), max_tokens), end, dtype=np.int64)
    voice_BT = np.zeros((len(rows), max_tokens), dtype=np.float32)
    for row, (ids, voices) in enumerate(rows):
        ids_BT[row, : len(ids)] = ids
        voice_BT[row, : len(voices)] = voices
    return Rows(ids_BT, voice_BT > 0, voice_BT)
