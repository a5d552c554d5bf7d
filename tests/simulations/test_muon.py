"""Muon: directions with even singular values, steps of AdamW's length, state that can be saved."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from simulations.muon import RMS, Muon, orthogonal


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    """Return a fixed random tensor."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 6, 6), (2, 4, 20), (2, 20, 4), (1, 1, 5)])
def test_directions_keep_singular_vectors_and_even_out_singular_values(shape: tuple[int, int, int]) -> None:
    matrices = random(*shape)
    turned = orthogonal(matrices)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    inner = left.mT @ turned @ right.mT
    wide = values / values.sum(1, keepdim=True) > 0.02
    assert ((inner.diagonal(dim1=1, dim2=2) > 0.6) | ~wide).all()
    assert (inner.diagonal(dim1=1, dim2=2) < 1.3).all()
    off = inner - torch.diag_embed(inner.diagonal(dim1=1, dim2=2))
    assert off.abs().max() < 1e-4


def test_wide_matrices_take_the_short_way_to_the_same_result() -> None:
    wide = random(2, 8, 64)
    padded = torch.cat([wide, torch.zeros(2, 40, 64)], dim=1)
    assert torch.allclose(orthogonal(wide), orthogonal(padded)[:, :8], atol=1e-5)


def test_the_parts_of_a_weight_are_turned_apart() -> None:
    weight = torch.zeros(4, 12, requires_grad=True)
    weight.grad = random(4, 12)
    Muon([{"params": [weight], "parts": 3}], lr=1.0, decay=0.0).step()
    expected = torch.cat(tuple(orthogonal(torch.stack(weight.grad.chunk(3, dim=1)))), dim=1)
    assert torch.allclose(weight, -RMS * 2 * expected, atol=1e-6)


def test_a_step_is_as_long_as_the_rate_says_and_a_weight_without_gradient_stays() -> None:
    moved, still = torch.ones(16, 64, requires_grad=True), torch.ones(3, 3, requires_grad=True)
    moved.grad = 1e-6 * random(16, 64)
    Muon([{"params": [moved, still]}], lr=0.01, decay=0.0).step()
    assert (moved - 1).square().mean().sqrt().item() == pytest.approx(0.01 * RMS, rel=0.15)
    assert torch.equal(still, torch.ones(3, 3))


def test_a_restored_state_and_a_pool_of_threads_change_nothing() -> None:
    start = random(5, 5)
    gradients = [random(5, 5, seed=seed) for seed in range(4)]

    def run(split: int, pool: ThreadPoolExecutor | None) -> torch.Tensor:
        weight = start.clone().requires_grad_()
        muon = Muon([{"params": [weight]}], lr=0.1, each=pool.map if pool else map)
        for number, gradient in enumerate(gradients):
            if number == split:
                saved = copy.deepcopy(muon.state_dict())
                muon = Muon([{"params": [weight]}], lr=0.5)
                muon.load_state_dict(saved)
            weight.grad = gradient.clone()
            muon.step()
        return weight.detach()

    with ThreadPoolExecutor(2) as pool:
        assert torch.equal(run(split=9, pool=None), run(split=2, pool=pool))


def test_what_goes_wrong_in_a_thread_is_not_lost() -> None:
    weight = torch.ones(2, 2, requires_grad=True)
    weight.grad = torch.ones(2, 2)
    muon = Muon([{"params": [weight], "parts": 0}], lr=0.1)
    with ThreadPoolExecutor(2) as pool:
        muon.each = pool.map
        with pytest.raises(RuntimeError):
            muon.step()
