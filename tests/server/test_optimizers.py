from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.config import ServerOptimizer
from common.lora import Adapter, to_bytes
from server.optimizers import BETA_1, BETA_2, OPTIMIZERS, TAU, State, adam, sgd


def made_up(seed: int) -> Adapter:
    random = np.random.default_rng(seed)
    return {name: torch.from_numpy(random.standard_normal((3, 5)).astype(np.float32)) for name in ("a", "b")}


def test_there_is_an_optimizer_for_every_name_in_the_settings() -> None:
    assert set(OPTIMIZERS) == set(get_args(ServerOptimizer))


def test_sgd_at_rate_one_adds_the_mean_and_keeps_no_state() -> None:
    shared, mean = made_up(1), made_up(2)
    new, state = sgd(shared, mean, {}, 1.0)
    assert state == {}
    assert all(torch.equal(new[name], shared[name] + mean[name]) for name in shared)


def test_sgd_at_another_rate_adds_its_share() -> None:
    shared, mean = made_up(1), made_up(2)
    new, _ = sgd(shared, mean, {}, 0.25)
    for name in shared:
        torch.testing.assert_close(new[name], shared[name] + mean[name] / 4)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_tensors_that_nobody_trained_stay_bit_for_bit(name: str) -> None:
    shared = made_up(1)
    new, _ = OPTIMIZERS[name](shared, {"b": made_up(2)["b"]}, {}, 0.5)
    assert torch.equal(new["a"], shared["a"])
    assert not torch.equal(new["b"], shared["b"])
    assert all(torch.equal(value, made_up(1)[key]) for key, value in shared.items())


def test_adam_is_the_papers_step_recomputed_in_numpy() -> None:
    shared, state = made_up(1), State()
    expected = {name: value.double().numpy() for name, value in shared.items()}
    m = {name: np.zeros((3, 5)) for name in shared}
    v = {name: np.zeros((3, 5)) for name in shared}
    for t in range(1, 6):
        mean = made_up(10 + t)
        shared, state = adam(shared, mean, state, 0.1)
        for name, update in mean.items():
            m[name] = BETA_1 * m[name] + (1 - BETA_1) * update.double().numpy()
            v[name] = BETA_2 * v[name] + (1 - BETA_2) * update.double().numpy() ** 2
            step = (m[name] / (1 - BETA_1**t)) / (np.sqrt(v[name] / (1 - BETA_2**t)) + TAU)
            expected[name] = expected[name] + 0.1 * step
            np.testing.assert_allclose(shared[name].numpy(), expected[name], rtol=2e-5, atol=1e-6)
    assert state["t"].item() == 5


def test_adam_agrees_with_torch_on_the_negative_mean() -> None:
    shared, state = made_up(1), State()
    theirs = [torch.nn.Parameter(shared[name].clone()) for name in sorted(shared)]
    optimizer = torch.optim.Adam(theirs, lr=0.1, betas=(BETA_1, BETA_2), eps=TAU)
    for t in range(4):
        mean = made_up(20 + t)
        shared, state = adam(shared, mean, state, 0.1)
        for parameter, name in zip(theirs, sorted(mean), strict=True):
            parameter.grad = -mean[name]
        optimizer.step()
    for parameter, name in zip(theirs, sorted(shared), strict=True):
        torch.testing.assert_close(shared[name], parameter.detach(), rtol=1e-5, atol=1e-6)


def test_a_mean_of_zeros_moves_nothing() -> None:
    shared = made_up(1)
    new, _ = adam(shared, {name: torch.zeros_like(value) for name, value in shared.items()}, {}, 1.0)
    assert all(torch.equal(new[name], shared[name]) for name in shared)


def test_the_state_goes_on_bit_for_bit_after_a_save_and_a_load(tmp_path: Path) -> None:
    shared, state = adam(made_up(1), made_up(2), {}, 0.1)
    (tmp_path / "state.safetensors").write_bytes(to_bytes(state))
    kept = load_file(tmp_path / "state.safetensors")
    straight, after = adam(shared, made_up(3), state, 0.1)
    resumed, again = adam(shared, made_up(3), kept, 0.1)
    assert to_bytes(straight) == to_bytes(resumed)
    assert to_bytes(after) == to_bytes(again)
