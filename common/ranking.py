"""What every node must agree on about recommendation: the head's numbers by name, and how text becomes a vector.

The head is a few hundred numbers that travel with the adapter: weights of the features of a customer and an item, and
weights of an item's words that tell how popular it will be, how often it is bought again and after how long.

    score(u, i) = rank . phi(u, i)           for items that customer u bought before
    prior(i)    = popularity | repeat | gap . text(i)

No list of items is shared: phi reads one customer's own history and public constants, text reads the item's name.

    F features   D buckets   X texts   W terms of a text
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.errors import UserError

Floats = npt.NDArray[np.float32]

HEAD_FILE = "head.safetensors"
"""The head's file, in a round's folder and beside the shared adapter in a run's model folder."""

FEATURES = (
    "times",
    "decay .9",
    "decay .6",
    "half-life 30 days",
    "half-life 90 days",
    "rate",
    "days since",
    "overdue",
    "overdue squared",
    "has gap",
    "due",
    "kind bought",
    "kind days since",
    "shelf rate",
)
"""The entries of phi, in order; each is a fixed public transform within [-4, 4]."""

BUCKETS = 2048
"""D, the numbers a text becomes: its terms' hashes, a public function."""
TERMS = 12
"""Terms of a text that count, the whole name first."""
NAME = 2.0
"""The weight of the whole name beside its words: what is named alike is alike, in whichever shop."""

USUAL_REPEAT = -1.0
"""About one item in four is bought again: the weights of `repeat` tell how an item differs from this logit."""
USUAL_GAP = 3.0
"""Log of three weeks: the weights of `gap` tell how an item differs from it."""


@dataclass(frozen=True)
class Part:
    """One tensor of the head: its shape, the clip norm of a customer's gradient, and its part of a step's privacy."""

    shape: tuple[int, ...]
    clip_norm: float
    share: float

    def deviation(self, sigma: float, head_share: float = 1.0) -> float:
        """Return the noise's standard deviation for which all parts together cost one step of noise multiplier `sigma`.

        With part k divided by C_k / sqrt(share_k), a customer moves the whole by at most sqrt(sum share_k) <= 1 in L2,
        so noise of deviation sigma there, sigma C_k / sqrt(share_k) here, is one Gaussian step of multiplier sigma.

        Beside an adapter the head has `head_share` of the step and every part that share of its own: what one customer
        moves, in units of the noise, is then at most sqrt(head_share) / sigma (`client.train.trainer`).
        """
        return sigma * self.clip_norm / math.sqrt(self.share * head_share)


PARTS: Mapping[str, Part] = {
    "rank": Part((len(FEATURES),), 0.3, 0.4),
    "popularity": Part((BUCKETS,), 0.1, 0.25),
    "repeat": Part((BUCKETS,), 0.05, 0.25),
    "gap": Part((BUCKETS,), 0.1, 0.1),
}
"""The head's tensors by name; a customer's gradient is clipped in each apart from the others and from the adapter."""


@dataclass(frozen=True)
class Texts:
    """X texts as sparse vectors of unit length: the buckets of their terms and the values there, zero where none is left."""

    place_XW: npt.NDArray[np.int64]
    value_XW: Floats

    def __len__(self) -> int:
        return len(self.place_XW)

    def times(self, weight_D: Floats) -> Floats:
        """Return (X,) the product of every text with the weights."""
        found: Floats = (weight_D[self.place_XW] * self.value_XW).sum(1)
        return found


def vectors(texts: Sequence[tuple[str, str]]) -> Texts:
    """Return the vectors of (name, shelf): the whole name, then the words of both, hashed with a sign.

    Weinberger et al. 2009 (arXiv:0902.2206): the sign makes collisions cancel on average.
    """
    place_XW = np.zeros((len(texts), TERMS), dtype=np.int64)
    value_XW = np.zeros((len(texts), TERMS), dtype=np.float32)
    for row, (name, shelf) in enumerate(texts):
        found = ["name " + " ".join(terms(name)), *dict.fromkeys([*terms(name), *terms(shelf)])][:TERMS]
        for at, term in enumerate(found):
            place_XW[row, at], value_XW[row, at] = bucket(term)
        value_XW[row, 0] *= NAME
    return Texts(place_XW, value_XW / np.maximum(np.linalg.norm(value_XW, axis=1, keepdims=True), 1e-6))


def terms(text: str) -> list[str]:
    """Return a text's words, and pairs of Chinese characters that stand together.

    >>> terms("Private label fluid milk")
    ['private', 'label', 'fluid', 'milk']
    >>> terms("纯牛奶 250ml")
    ['纯牛', '牛奶', '250ml']
    """
    words: list[str] = []
    for run in re.findall(r"[\u4e00-\u9fff]+|[a-z0-9]+", text.lower()):
        words += [run[at : at + 2] for at in range(max(len(run) - 1, 1))] if run[0] >= "\u4e00" else [run]
    return words


@lru_cache(maxsize=65_536)
def bucket(word: str) -> tuple[int, int]:
    """Return a word's bucket and its sign, by SHA-256: the same at every node."""
    digest = hashlib.sha256(word.encode()).digest()
    return int.from_bytes(digest[:4], "big") % BUCKETS, 1 - 2 * (digest[4] & 1)


def head_bytes(head: Mapping[str, Floats]) -> bytes:
    """Return the head as the content of `head.safetensors`."""
    from safetensors.numpy import save

    found: bytes = save({name: np.ascontiguousarray(head[name], dtype=np.float32) for name in PARTS})
    return found


def read_head(path: Path) -> dict[str, Floats]:
    """Return the head in the file `path`; raise `UserError` when it is missing, damaged or of another shape."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"head {path} cannot be read: {error}; point [model] adapter at a run's model folder") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if shapes != {name: part.shape for name, part in PARTS.items()}:
        raise UserError(
            f"head {path} holds {shapes}; this version's has {', '.join(PARTS)}: take a run of this version"
        )
    if any(one.dtype != np.float32 or not np.isfinite(one).all() for one in found.values()):
        raise UserError(f"head {path} holds numbers that are not finite 32-bit floats; take another round's")
    return dict(found)
