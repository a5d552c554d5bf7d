"""The head's step at the coordinator, chosen for noise that every merchant adds: few rounds, small steps.

The ranking weights are few and of different scale, so they move by an adaptive step of fixed size. The weights of words
are many and most carry no signal at all in one round, where an adaptive step would be a random walk: they add up.
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
RATES: Mapping[str, float] = {"rank": 0.1, "popularity": 20.0, "repeat": 20.0, "gap": 20.0}
ADAPTIVE = ("rank",)
MOMENTS = "head-optimizer.safetensors"
"""The file of what the adaptive step remembers, beside the head."""

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HeadState:
    """The head and what its adaptive step remembers: first and second moments of the mean updates, rounds done."""

    head: Mapping[str, Floats]
    first: Mapping[str, Doubles]
    second: Mapping[str, Doubles]
    rounds: int = 0


def begin(head: Mapping[str, Floats]) -> HeadState:
    """Return the state before the first round."""
    nothing = {name: np.zeros(PARTS[name].shape) for name in ADAPTIVE}
    return HeadState(head, nothing, nothing)


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


def step(state: HeadState, update: Mapping[str, Doubles]) -> HeadState:
    """Return the state after one round with mean `update`: Adam (arXiv:1412.6980) where adaptive, else a plain sum."""
    rounds = state.rounds + 1
    first = {name: BETA_1 * state.first[name] + (1 - BETA_1) * update[name] for name in ADAPTIVE}
    second = {name: BETA_2 * state.second[name] + (1 - BETA_2) * update[name] ** 2 for name in ADAPTIVE}
    moves = dict(update) | {
        name: first[name] / (1 - BETA_1**rounds) / (np.sqrt(second[name] / (1 - BETA_2**rounds)) + TAU)
        for name in ADAPTIVE
    }
    head = {name: (state.head[name] + RATES[name] * moves[name]).astype(np.float32) for name in PARTS}
    return HeadState(head, first, second, rounds)


# --- on disk ---


def moments(state: HeadState) -> dict[str, Doubles]:
    """Return what the adaptive step remembers by name: `first.rank`, `second.rank`, `rounds`."""
    kept = {f"{kind}.{name}": one for kind in ("first", "second") for name, one in getattr(state, kind).items()}
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
        first, second = ({name: kept[f"{kind}.{name}"] for name in ADAPTIVE} for kind in ("first", "second"))
        return HeadState(head, first, second, int(kept["rounds"][0]))
    except (OSError, SafetensorError, KeyError, IndexError) as error:
        raise UserError(
            f"{folder / MOMENTS} cannot be read: {error}; remove the round's folder to go back one round"
        ) from None
