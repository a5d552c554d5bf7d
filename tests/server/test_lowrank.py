from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.lowrank import (
    Matrix,
    Product,
    basis,
    compressed,
    consensus,
    decompose,
    gram,
    needed,
    norm,
    total,
    truncated,
)


def made_up(seed: int, rank: int, outputs: int = 30, inputs: int = 20) -> Product:
    random = np.random.default_rng(seed)
    return Product(random.standard_normal((outputs, rank)), random.standard_normal((rank, inputs)))


def dense(product: Product) -> Matrix:
    return np.asarray(product.b @ product.a)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_a_decomposition_is_that_of_the_dense_matrix(seed: int, rank: int, outputs: int, inputs: int) -> None:
    product = made_up(seed, rank, outputs, inputs)
    whole = decompose(product)
    values = np.linalg.svd(dense(product), compute_uv=False)
    np.testing.assert_allclose(whole.s[: len(values)], values[: len(whole.s)], atol=1e-9 * values[0])
    np.testing.assert_allclose(whole.u * whole.s @ whole.vt[: len(whole.s)], dense(product), atol=1e-9 * values[0])
    np.testing.assert_allclose(whole.vt @ whole.vt.T, np.eye(len(whole.vt)), atol=1e-9)


def test_a_sum_of_products_of_mixed_rank_is_their_dense_sum() -> None:
    parts = [made_up(1, 2).times(0.5), made_up(2, 5).times(-2.0), made_up(3, 1)]
    np.testing.assert_allclose(dense(total(parts)), sum(dense(one) for one in parts))


@pytest.mark.parametrize("rank", [1, 3, 5, 8])
def test_a_truncation_is_the_best_of_its_rank_and_as_wide_as_asked(rank: int) -> None:
    product = made_up(4, 5)
    short = truncated(product, rank)
    u, s, vt = np.linalg.svd(dense(product), full_matrices=False)
    kept = min(rank, 5)
    np.testing.assert_allclose(dense(short), (u[:, :kept] * s[:kept]) @ vt[:kept], atol=1e-10)
    assert short.b.shape == (30, kept)
    assert short.a.shape == (kept, 20)


def test_the_number_of_directions_is_the_smallest_that_holds_the_energy() -> None:
    s = np.sqrt(np.array([8.0, 1.0, 0.6, 0.4]))
    assert [needed(s, share) for share in (0.5, 0.8, 0.81, 0.9, 0.96, 0.97, 1.0)] == [1, 1, 2, 2, 3, 4, 4]
    assert needed(np.zeros(3), 0.9) == 0


def test_compression_drops_rounding_and_keeps_the_product() -> None:
    product = made_up(5, 3)
    thrice = total([product.times(0.2), product.times(0.3), product.times(0.5)])
    small = compressed(thrice)
    assert small.b.shape == (30, 3)
    np.testing.assert_allclose(dense(small), dense(product), atol=1e-10)
    assert compressed(product.times(0.0)).b.shape == (30, 0)
    assert compressed(product.times(1e-9), scale=norm(product)).b.shape == (30, 0)


def test_inner_products_of_differences_are_the_dense_ones() -> None:
    parts = [made_up(seed, rank) for seed, rank in ((6, 2), (7, 3), (8, 3))]
    combinations = np.array([[1.0] * 2 + [0.0] * 3 + [-1.0, -1.0, 0.0], [0.0] * 2 + [1.0] * 3 + [-1.0] * 3])
    first = dense(parts[0]) - dense(parts[2].first(2))
    second = dense(parts[1]) - dense(parts[2])
    flat = np.stack([first.ravel(), second.ravel()])
    np.testing.assert_allclose(gram(parts, combinations), flat @ flat.T)
    assert norm(parts[0]) == pytest.approx(np.linalg.norm(dense(parts[0])))


def test_the_consensus_is_the_leading_eigenspace_of_the_mean_projection() -> None:
    bases = [basis(made_up(seed, 3).b) for seed in (1, 2, 3)]
    shares = [0.5, 0.3, 0.2]
    agreed = consensus(bases, shares, 4)
    whole = sum(share * one @ one.T for one, share in zip(bases, shares, strict=True))
    top = np.linalg.eigh(np.asarray(whole))[1][:, -4:]
    np.testing.assert_allclose(agreed @ agreed.T, top @ top.T, atol=1e-9)


def test_columns_that_repeat_span_only_what_they_span() -> None:
    column = made_up(1, 1).b
    assert basis(np.hstack([column, 2 * column])).shape == (30, 1)
    assert basis(np.zeros((30, 2))).shape == (30, 0)
