from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import Method
from common.lora import A_END, B_END, Adapter
from server.aggregation import RULES, Matrix, keep, realign, weighted_mean

LAYERS = ("h.0.c_attn", "h.1.c_attn")


def tensor(random: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(random.standard_normal(shape).astype(np.float32))


def adapter(seed: int, rank: int = 4, inputs: int = 24, outputs: int = 72) -> Adapter:
    """Return random factors of two layers; none of them is aligned with anything."""
    random = np.random.default_rng(seed)
    return {
        name + end: tensor(random, *shape)
        for name in LAYERS
        for end, shape in ((A_END, (rank, inputs)), (B_END, (outputs, rank)))
    }


def product(one: Adapter, layer: str) -> Matrix:
    """Return B A of one layer in float64."""
    return np.asarray(one[layer + B_END].double().numpy() @ one[layer + A_END].double().numpy())


def assert_same_product(new: Adapter, old: Adapter, relative: float) -> None:
    for layer in LAYERS:
        was = product(old, layer)
        assert np.linalg.norm(product(new, layer) - was) <= relative * np.linalg.norm(was)


def assert_orthonormal_rows(one: Adapter) -> None:
    for layer in LAYERS:
        a = one[layer + A_END].double().numpy()
        np.testing.assert_allclose(a @ a.T, np.eye(len(a)), atol=1e-6)


# --- the mean ---


def test_the_weighted_mean_is_numpys() -> None:
    updates, weights = [adapter(seed) for seed in range(5)], [1.0, 2.0, 0.5, 4.0, 0.25]
    mean = weighted_mean(updates, weights)
    assert list(mean) == sorted(updates[0])
    for name, value in mean.items():
        expected = np.average([one[name].double().numpy() for one in updates], axis=0, weights=weights)
        assert value.dtype == torch.float32
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_the_mean_of_one_is_itself_bit_for_bit_at_any_weight() -> None:
    one = adapter(1)
    for weight in (1.0, 7.0):
        assert all(torch.equal(value, one[name]) for name, value in weighted_mean([one], [weight]).items())


def test_the_mean_is_added_up_in_float64() -> None:
    large, small = {"x": torch.tensor([1e8])}, {"x": torch.tensor([1.0])}
    assert weighted_mean([large, small, {"x": torch.tensor([-1e8])}], [1.0, 1.0, 1.0])["x"].item() == pytest.approx(
        1 / 3
    )


def test_a_mean_leaves_the_updates_as_they_were() -> None:
    updates = [adapter(1), adapter(2)]
    weighted_mean(updates, [1.0, 3.0])
    assert all(torch.equal(value, adapter(1)[name]) for name, value in updates[0].items())


# --- realignment ---


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.floats(1e-4, 1e4))
def test_realignment_keeps_the_product_and_makes_the_rows_of_a_orthonormal(seed: int, rank: int, scale: float) -> None:
    old = {name: value * scale if name.endswith(B_END) else value for name, value in adapter(seed, rank).items()}
    new = realign(old)
    assert_same_product(new, old, 1e-6)
    assert_orthonormal_rows(new)
    assert {name: value.shape for name, value in new.items()} == {name: value.shape for name, value in old.items()}


def test_realignment_is_the_singular_value_decomposition_of_the_product() -> None:
    old = adapter(3)
    new = realign(old)
    for layer in LAYERS:
        u, s, vt = np.linalg.svd(product(old, layer), full_matrices=False)
        b = new[layer + B_END].double().numpy()
        np.testing.assert_allclose(np.linalg.norm(b, axis=0), s[:4], rtol=1e-5)  # singular values, largest first
        np.testing.assert_allclose(b.T @ b, np.diag(s[:4] ** 2), atol=1e-4 * s[0] ** 2)
        dense = (u[:, :4] * s[:4]) @ vt[:4]
        np.testing.assert_allclose(product(new, layer), dense, rtol=0, atol=1e-6 * s[0])


def test_realignment_at_the_size_of_gpt2() -> None:
    old = adapter(4, rank=8, inputs=768, outputs=2304)
    new = realign(old)
    assert_same_product(new, old, 1e-5)
    assert_orthonormal_rows(new)


def test_a_b_of_zeros_stays_zero_and_a_becomes_orthonormal() -> None:
    old = {name: value * 0 if name.endswith(B_END) else value for name, value in adapter(5).items()}
    new = realign(old)
    assert not any(value.any() for name, value in new.items() if name.endswith(B_END))
    assert_orthonormal_rows(new)


def test_factors_that_lack_rank_are_realigned_all_the_same() -> None:
    old = adapter(6)
    for layer in LAYERS:
        old[layer + B_END][:, 1] = old[layer + B_END][:, 0]
        old[layer + A_END][2] = 0
    new = realign(old)
    assert_same_product(new, old, 1e-6)
    assert_orthonormal_rows(new)
    assert all(bool(torch.isfinite(value).all()) for value in new.values())


def test_realigning_twice_changes_the_product_no_further() -> None:
    once = realign(adapter(7))
    assert_same_product(realign(once), once, 1e-6)


def test_realignment_leaves_its_argument_as_it_was() -> None:
    old = adapter(8)
    realign(old)
    assert all(torch.equal(value, adapter(8)[name]) for name, value in old.items())


# --- the registry ---


def test_there_is_a_rule_for_every_method_and_no_other() -> None:
    assert set(RULES) == set(get_args(Method))
    for name, rule in RULES.items():
        assert rule.name == name
        assert "arXiv:" in rule.source
    assert RULES["fedavg"].settle is RULES["ffa"].settle is keep
    assert RULES["fedsvd"].settle is realign


def test_a_rule_that_calls_itself_exact_averages_products_exactly() -> None:
    start, updates = adapter(9), [adapter(seed) for seed in (10, 11, 12)]
    for rule in RULES.values():
        names = [name for name in start if rule.name == "fedavg" or name.endswith(B_END)]
        merchants = [start | {name: start[name] + one[name] for name in names} for one in updates]
        mean = weighted_mean([{name: one[name] for name in names} for one in updates], [1.0, 1.0, 1.0])
        shared = rule.settle(start | {name: start[name] + mean[name] for name in names})
        for layer in LAYERS:
            ideal = np.mean([product(one, layer) for one in merchants], axis=0)
            error = np.linalg.norm(product(shared, layer) - ideal) / np.linalg.norm(ideal)
            assert (error < 1e-6) == rule.exact
