"""The head's step at the coordinator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.ranking import PARTS, Floats
from server.optimizers import State, adam
from server.ranking import (
    FEWEST,
    LATENESS,
    PATHS,
    HeadState,
    begin,
    mean_update,
    moments,
    rate,
    read_state,
    step,
    write_state,
)


def update(value: float) -> dict[str, Floats]:
    return {name: np.full(part.shape, value, np.float32) for name, part in PARTS.items()}


def test_the_mean_is_taken_of_every_tensor() -> None:
    found = mean_update([update(1.0), update(3.0)])
    assert all((one == 2.0).all() for one in found.values())


def some_rounds(rounds: int, seed: int = 0) -> tuple[list[HeadState], list[dict[str, Floats]]]:
    """Return the states after each of some rounds, and the updates behind them."""
    random = np.random.default_rng(seed)
    states, changes = [begin(update(0.0))], []
    for _ in range(rounds):
        changes.append({name: random.normal(0, 0.01, part.shape).astype(np.float32) for name, part in PARTS.items()})
        states.append(step(states[-1], mean_update([changes[-1]]), 20))
    return states[1:], changes


def test_the_weights_that_go_on_move_as_the_federations_adam_does() -> None:
    states, changes = some_rounds(5)
    tensors = {"rank": torch.zeros(PARTS["rank"].shape)}
    memory: State = {}
    for change in changes:
        tensors, memory = adam(tensors, {"rank": torch.from_numpy(change["rank"])}, memory, rate("rank", 20))
    np.testing.assert_allclose(states[-1].asked["rank"], tensors["rank"].numpy(), rtol=1e-3, atol=1e-5)
    assert states[-1].rounds == 5


def test_the_released_weights_are_the_mean_of_all_rounds_the_later_ones_counting_more() -> None:
    states, _ = some_rounds(12)
    counts = np.ones(12)
    for at in range(1, 12):  # the share of round t in the mean of t rounds is (LATENESS + 1) / (t + LATENESS)
        counts[at], counts[:at] = (LATENESS + 1) / (at + 1 + LATENESS), counts[:at] * at / (at + 1 + LATENESS)
    expected = sum(count * one.asked["rank"].astype(float) for count, one in zip(counts, states, strict=True))
    assert counts.sum() == pytest.approx(1)
    assert (np.diff(counts) > 0).all()
    np.testing.assert_allclose(states[-1].head["rank"], expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(states[-1].head["rank"], states[-1].asked["rank"], rtol=1e-2)
    assert np.array_equal(states[-1].head["gap"], states[-1].asked["gap"])


def test_a_run_of_more_rounds_goes_equally_far_and_a_short_one_takes_no_leap() -> None:
    for rounds in (FEWEST, 20, 400):
        state = begin(update(0.0))
        for _ in range(rounds):
            state = step(state, mean_update([update(1e-3)]), rounds)
        assert float(state.head["gap"][0]) == pytest.approx(PATHS["gap"] * 1e-3, rel=1e-3)
    assert rate("rank", 1) == rate("rank", FEWEST) == PATHS["rank"] / FEWEST


def test_the_weights_of_words_add_up_so_that_noise_does_not_grow_into_a_step() -> None:
    state = step(step(begin(update(0.0)), mean_update([update(0.01)]), 20), mean_update([update(-0.01)]), 20)
    for name in ("popularity", "repeat", "gap"):
        assert float(np.abs(state.head[name]).max()) == pytest.approx(0.0, abs=1e-6)
    once = step(begin(update(0.0)), mean_update([update(1e-6)]), 20)
    assert float(once.head["popularity"][0]) == pytest.approx(rate("popularity", 20) * 1e-6)


def test_a_saved_state_goes_on_as_if_it_had_never_been_saved(tmp_path: Path) -> None:
    states, changes = some_rounds(4)
    write_state(tmp_path, states[2])
    again = read_state(tmp_path)
    assert again is not None
    after = step(again, mean_update([changes[3]]), 20)
    assert np.array_equal(after.head["rank"], states[3].head["rank"])
    assert all(np.array_equal(one, moments(states[3])[name]) for name, one in moments(after).items())
