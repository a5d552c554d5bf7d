"""The head's step at the coordinator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.ranking import PARTS, Floats
from server.optimizers import State, adam
from server.ranking import RATES, begin, mean_update, step


def update(value: float) -> dict[str, Floats]:
    return {name: np.full(part.shape, value, np.float32) for name, part in PARTS.items()}


def test_the_mean_is_taken_of_every_tensor() -> None:
    found = mean_update([update(1.0), update(3.0)])
    assert all((one == 2.0).all() for one in found.values())


def test_ranking_weights_move_as_the_federations_adam_does() -> None:
    random = np.random.default_rng(0)
    state, tensors = begin(update(0.0)), {"rank": torch.zeros(PARTS["rank"].shape)}
    memory: State = {}
    for _ in range(5):
        change = {name: random.normal(0, 0.01, part.shape) for name, part in PARTS.items()}
        state = step(state, change)
        tensors, memory = adam(tensors, {"rank": torch.from_numpy(change["rank"]).float()}, memory, RATES["rank"])
    np.testing.assert_allclose(state.head["rank"], tensors["rank"].numpy(), rtol=1e-3, atol=1e-5)
    assert state.rounds == 5


def test_the_weights_of_words_add_up_so_that_noise_does_not_grow_into_a_step() -> None:
    state = step(step(begin(update(0.0)), mean_update([update(0.01)])), mean_update([update(-0.01)]))
    for name in ("popularity", "repeat", "gap"):
        assert float(np.abs(state.head[name]).max()) == pytest.approx(0.0, abs=1e-6)
    once = step(begin(update(0.0)), mean_update([update(1e-6)]))
    assert float(once.head["popularity"][0]) == pytest.approx(RATES["popularity"] * 1e-6)
