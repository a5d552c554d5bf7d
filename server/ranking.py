"""The head's step at the coordinator, chosen for noise that every merchant adds: few rounds, small steps.

The ranking weights are few and of different scale, so they move by an adaptive step of fixed size. The weights of words
are many and most carry no signal at all in one round, where an adaptive step would be a random walk: they add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.ranking import PARTS, Floats

BETA_1, BETA_2, TAU = 0.9, 0.99, 1e-3
RATES: Mapping[str, float] = {"rank": 0.1, "popularity": 20.0, "repeat": 20.0, "gap": 20.0}
ADAPTIVE = ("rank",)

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
