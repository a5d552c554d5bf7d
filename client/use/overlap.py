"""Whether a generated text repeats what a customer or a campaign once said: runs of letters that stand in training text.

A run that the item's own facts hold, or that very many texts share, is nobody's secret; a run that one single customer
wrote is what must not come back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from common.schema import Shop
from common.text import clean

RUN = 12
"""Letters of a run; English counts four letters for one of Chinese."""

SHARED = 3
"""Texts from which on a run is common wording."""


@dataclass(frozen=True)
class Corpus:
    """Runs of letters in training text, each with how many texts hold it."""

    runs: dict[int, int] = field(repr=False)
    lengths: tuple[int, int] = (RUN, 4 * RUN)

    def overlap(self, text: str, given: str = "") -> float:
        """Return the share of the runs in `text` that stand in fewer than `SHARED` training texts and not in `given`."""
        pieces = runs_of(clean(text))
        own = runs_of(clean(given))
        rare = [piece for piece in pieces if piece not in own and 0 < self.runs.get(piece, 0) < SHARED]
        return len(rare) / len(pieces) if pieces else 0.0


def runs_of(text: str) -> set[int]:
    """Return the runs of `text` as hashes; a text shorter than a run has none."""
    length = 4 * RUN if text.isascii() else RUN
    return {hash(text[place : place + length]) for place in range(len(text) - length + 1)}


def corpus_of(texts: Iterable[str]) -> Corpus:
    """Return the runs of `texts`.

    >>> corpus_of(["茉莉香很干净，早上一杯，已经是第三罐了"]).overlap("早上一杯，已经是第三罐了，真的")
    0.25
    """
    runs: dict[int, int] = {}
    for text in texts:
        for piece in runs_of(clean(text)):
            runs[piece] = runs.get(piece, 0) + 1
    return Corpus(runs)


def training_texts(shop: Shop) -> Iterable[str]:
    """Yield every free text that a customer's tasks are posed from."""
    for review in shop.reviews:
        yield review.text
    for dialog in shop.dialogs:
        yield dialog.question
        yield dialog.answer
    for campaign in shop.campaigns:
        yield campaign.text
