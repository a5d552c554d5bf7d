"""The head's step at the coordinator, chosen for noise that every merchant adds: small steps, the later ones averaged.

The ranking weights are few and of different scale, so they move by an adaptive step of fixed size. The weights of words
are many and most carry no signal at all in one round, where an adaptive step would be a random walk: they add up.

A run of more rounds has more noise in each, and takes smaller steps: all rounds together go equally far. What is
released is the ranking weights' mean over the rounds, the later ones counting more, which costs no privacy: it is made of
what was released before. The next round goes on from the weights themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.errors import UserError
from common.files import sha256, write_atomic
from common.ranking import HEAD_FILE, PARTS, Floats, head_bytes, read_head
from server.robust import median, trimmed_mean

BETA_1, BETA_2, TAU = 0.9, 0.99, 1e-3
PATHS: Mapping[str, float] = {"rank": 2.0, "popularity": 400.0, "repeat": 400.0, "gap": 400.0}
"""How far a run's rounds go together: the sum of their rates."""
FEWEST = 10
"""A run of fewer rounds steps as one of so many does; a longer step would jump past what it looks for."""
ADAPTIVE = ("rank",)
LATENESS = 3.0
"""Round t counts as t to this power in the mean: half of what counts are the last sixth of the rounds."""
MOMENTS = "head-optimizer.safetensors"
"""The file of what the adaptive step remembers, beside the head."""

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HeadState:
    """The head as released, and what its adaptive step remembers: the weights it goes on from, moments, rounds done."""

    head: Mapping[str, Floats]
    now: Mapping[str, Floats]
    first: Mapping[str, Doubles]
    second: Mapping[str, Doubles]
    rounds: int = 0

    @property
    def asked(self) -> Mapping[str, Floats]:
        """The head that the merchants train on in the next round."""
        return {**self.head, **self.now}


def begin(head: Mapping[str, Floats]) -> HeadState:
    """Return the state before the first round."""
    nothing = {name: np.zeros(PARTS[name].shape) for name in ADAPTIVE}
    return HeadState(head, {name: head[name] for name in ADAPTIVE}, nothing, nothing)


def rate(name: str, rounds: int) -> float:
    """Return the rate of one tensor in every round of a run of so many.

    >>> rate("rank", 40), rate("rank", 3)
    (0.05, 0.2)
    """
    return PATHS[name] / max(rounds, FEWEST)


def mean_update(updates: Sequence[Mapping[str, Floats]]) -> dict[str, Doubles]:
    """Return the plain mean of the merchants' updates."""
    return {name: np.mean([update[name].astype(np.float64) for update in updates], axis=0) for name in PARTS}


def middle_update(updates: Sequence[Mapping[str, Floats]], robust: str, liars: float) -> dict[str, Doubles]:
    """Return the updates' mean where `robust` is none, else the trimmed mean of every number, or its median.

    The screens `norm` and `krum` look at the adapter alone: who they set aside has no part in the head either, but an
    honest adapter vouches for no head. So under any guard the head's numbers are taken from the middle.
    """
    if robust == "none":
        return mean_update(updates)
    rows = {name: np.stack([update[name].astype(np.float64) for update in updates]) for name in PARTS}
    return {
        name: (median(one_KW) if robust == "median" else trimmed_mean(one_KW, liars))[0]
        for name, one_KW in rows.items()
    }


def step(state: HeadState, update: Mapping[str, Doubles], rounds: int) -> HeadState:
    """Return the state after one round of `rounds` with mean `update`: Adam (arXiv:1412.6980) where adaptive, else a sum.

    The released weights of an adaptive tensor are its polynomial-decay average (Shamir and Zhang 2013, arXiv:1212.1824).
    """
    done = state.rounds + 1
    first = {name: BETA_1 * state.first[name] + (1 - BETA_1) * update[name] for name in ADAPTIVE}
    second = {name: BETA_2 * state.second[name] + (1 - BETA_2) * update[name] ** 2 for name in ADAPTIVE}
    moves = dict(update) | {
        name: first[name] / (1 - BETA_1**done) / (np.sqrt(second[name] / (1 - BETA_2**done)) + TAU) for name in ADAPTIVE
    }
    after = {name: (state.asked[name] + rate(name, rounds) * moves[name]).astype(np.float32) for name in PARTS}
    now, latest = {name: after[name] for name in ADAPTIVE}, (LATENESS + 1) / (done + LATENESS)
    mean = {name: (state.head[name] + latest * (now[name] - state.head[name])).astype(np.float32) for name in ADAPTIVE}
    return HeadState({**after, **mean}, now, first, second, done)


# --- on disk ---


def moments(state: HeadState) -> dict[str, Doubles]:
    """Return what the adaptive step remembers by name: `now.rank`, `first.rank`, `second.rank`, `rounds`."""
    kept = {
        f"{kind}.{name}": one.astype(np.float64)
        for kind in ("now", "first", "second")
        for name, one in getattr(state, kind).items()
    }
    return {**kept, "rounds": np.array([state.rounds], dtype=np.float64)}


def state_digest(state: HeadState | None) -> str:
    """Return the hex SHA-256 of head and moments; the empty text where no head is trained."""
    return sha256(head_bytes(state.head) + _bytes(state)) if state else ""


def _bytes(state: HeadState) -> bytes:
    from safetensors.numpy import save

    found: bytes = save(moments(state))
    return found


def write_state(folder: Path, state: HeadState | None) -> None:
    """Write head and moments into a round's folder, where there is a head."""
    if state:
        write_atomic(folder / HEAD_FILE, head_bytes(state.head))
        write_atomic(folder / MOMENTS, _bytes(state))


def read_state(folder: Path) -> HeadState | None:
    """Return the head's state in a round's folder, or None where it has none; raise `UserError` for a damaged one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not (folder / HEAD_FILE).exists() and not (folder / MOMENTS).exists():
        return None
    head = read_head(folder / HEAD_FILE)
    try:
        kept = load_file(folder / MOMENTS)
        now, first, second = ({name: kept[f"{one}.{name}"] for name in ADAPTIVE} for one in ("now", "first", "second"))
        asked = {name: weights.astype(np.float32) for name, weights in now.items()}
        return HeadState(head, asked, first, second, int(kept["rounds"][0]))
    except (OSError, SafetensorError, KeyError, IndexError) as error:
        raise UserError(
            f"{folder / MOMENTS} cannot be read: {error}; remove the round's folder to go back one round"
        ) from None
