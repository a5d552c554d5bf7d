from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.config import ServerOptimizer
from common.lora import A_END, B_END, Adapter, to_bytes
from server.optimizers import BETA_1, BETA_2, OPTIMIZERS, TAU, State, Step, adam, carried, sgd, yogi


def made_up(seed: int) -> Adapter:
    random = np.random.default_rng(seed)
    return {name: torch.from_numpy(random.standard_normal((3, 5)).astype(np.float32)) for name in ("a", "b")}


def test_there_is_an_optimizer_for_every_name_in_the_settings() -> None:
    assert set(get_args(ServerOptimizer)) <= set(OPTIMIZERS) == {"sgd", "adam", "yogi"}


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
    assert {name: value.item() for name, value in state.items() if name.startswith("t.")} == {"t.a": 5, "t.b": 5}


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


def test_yogi_is_the_papers_step_recomputed_in_numpy() -> None:
    shared, state = made_up(1), State()
    expected = {name: value.double().numpy() for name, value in shared.items()}
    m = {name: np.zeros((3, 5)) for name in shared}
    v = {name: np.full((3, 5), TAU**2) for name in shared}
    for t in range(1, 6):
        mean = made_up(10 + t) if t < 4 else {name: 0.01 * value for name, value in made_up(10 + t).items()}
        shared, state = yogi(shared, mean, state, 0.1)
        for name, update in mean.items():
            u = update.double().numpy()
            m[name] = BETA_1 * m[name] + (1 - BETA_1) * u
            v[name] = v[name] - (1 - BETA_2) * u**2 * np.sign(v[name] - u**2)
            expected[name] = expected[name] + 0.1 * m[name] / (np.sqrt(v[name]) + TAU)
            np.testing.assert_allclose(shared[name].numpy(), expected[name], rtol=2e-5, atol=1e-5)
            np.testing.assert_allclose(state[f"v.{name}"].numpy(), v[name], rtol=1e-4, atol=1e-9)


def test_yogi_forgets_a_burst_more_slowly_than_adam() -> None:
    shared, big, small = made_up(1), {"a": torch.full((3, 5), 10.0)}, {"a": torch.full((3, 5), 0.1)}
    kept = {}
    for name, step in (("adam", adam), ("yogi", yogi)):
        _, state = step(shared, big, {}, 0.1)
        start = float(state["v.a"].mean())
        for _ in range(200):
            _, state = step(shared, small, state, 0.1)
        kept[name] = float(state["v.a"].mean()) / start
    assert kept["adam"] < 0.2 < 0.9 < kept["yogi"]


@pytest.mark.parametrize("name", ["adam", "yogi"])
def test_a_factor_that_trains_every_other_round_takes_the_steps_it_would_take_alone(name: str) -> None:
    step = OPTIMIZERS[name]
    together, state = made_up(1), State()
    alone, own = made_up(1), State()
    for t in range(3):
        together, state = step(together, {"a": made_up(10 + t)["a"]}, state, 0.1)
        together, state = step(together, {"b": made_up(20 + t)["b"]}, state, 0.1)
        alone, own = step(alone, {"b": made_up(20 + t)["b"]}, own, 0.1)
    assert torch.equal(together["b"], alone["b"])


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_what_else_the_server_keeps_is_left_alone(name: str) -> None:
    kept: State = {"residual.q.lora_A.weight": torch.ones(2, 3)}
    _, state = OPTIMIZERS[name](made_up(1), made_up(2), kept, 0.1)
    assert torch.equal(state["residual.q.lora_A.weight"], torch.ones(2, 3))
    assert list(kept) == ["residual.q.lora_A.weight"]


def test_moments_carried_along_an_orthogonal_turn_lose_nothing() -> None:
    random = np.random.default_rng(3)
    a = torch.from_numpy(np.linalg.qr(random.standard_normal((9, 3)))[0].T.astype(np.float32))
    turn = torch.from_numpy(np.linalg.qr(random.standard_normal((3, 3)))[0].astype(np.float32))
    before = {"q" + A_END: a, "q" + B_END: torch.ones(5, 3)}
    after = {"q" + A_END: turn.T @ a, "q" + B_END: before["q" + B_END] @ turn}
    m, v = torch.from_numpy(random.standard_normal((5, 3)).astype(np.float32)), torch.ones(5, 3)
    state = carried({f"m.q{B_END}": m, f"v.q{B_END}": v, "other": m}, before, after)
    torch.testing.assert_close(state[f"m.q{B_END}"] @ after["q" + A_END], m @ a)
    torch.testing.assert_close(state[f"v.q{B_END}"], v)  # equal variances stay equal in any direction
    assert state["other"] is m


def test_nothing_is_carried_where_nothing_turned() -> None:
    state = adam(
        {"q" + A_END: torch.ones(2, 3), "q" + B_END: torch.ones(4, 2)}, {"q" + B_END: torch.ones(4, 2)}, {}, 1
    )[1]
    same = {"q" + A_END: torch.ones(2, 3), "q" + B_END: torch.zeros(4, 2)}
    assert all(value is state[name] for name, value in carried(state, same, dict(same)).items())


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_mean_of_zeros_moves_nothing(name: str) -> None:
    shared = made_up(1)
    new, _ = OPTIMIZERS[name](shared, {name: torch.zeros_like(value) for name, value in shared.items()}, {}, 1.0)
    assert all(torch.equal(new[name], shared[name]) for name in shared)


@pytest.mark.parametrize("step", [adam, yogi])
def test_the_state_goes_on_bit_for_bit_after_a_save_and_a_load(tmp_path: Path, step: Step) -> None:
    shared, state = step(made_up(1), made_up(2), {}, 0.1)
    (tmp_path / "state.safetensors").write_bytes(to_bytes(state))
    kept = load_file(tmp_path / "state.safetensors")
    straight, after = step(shared, made_up(3), state, 0.1)
    resumed, again = step(shared, made_up(3), kept, 0.1)
    assert to_bytes(straight) == to_bytes(resumed)
    assert to_bytes(after) == to_bytes(again)
