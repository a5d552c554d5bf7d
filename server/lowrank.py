"""Sums of products B A in their factors: the dense d_out x d_in matrix is never made.

    sum_k c_k B_k A_k = [c_1 B_1 … c_K B_K] [A_1; …; A_K]        K products of rank r: N = K r

QR of both stacks leaves a core of at most N x N; its singular value decomposition is that of the whole. All in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

Matrix = npt.NDArray[np.float64]

ROUNDING = 1e-7
"""Singular values below this share of the largest are what fp32 factors leave behind, not a direction."""


@dataclass(frozen=True)
class Product:
    """B A in its factors, b: d_out x N and a: N x d_in."""

    b: Matrix = field(repr=False)
    a: Matrix = field(repr=False)

    def times(self, share: float | Matrix) -> Product:
        """Return the product with every direction (or each one its own) multiplied by `share`."""
        return Product(self.b * share, self.a)

    def first(self, rank: int) -> Product:
        """Return the first `rank` directions."""
        return Product(self.b[:, :rank], self.a[:rank])


@dataclass(frozen=True)
class Decomposition:
    """U S V' of a product: u d_out x p, s p values, largest first, vt q x d_in with q >= p; all rows orthonormal."""

    u: Matrix = field(repr=False)
    s: Matrix
    vt: Matrix = field(repr=False)


def matrix(tensor: torch.Tensor) -> Matrix:
    """Return a tensor's values in float64."""
    return np.asarray(tensor.double().numpy())


def tensor(values: Matrix) -> torch.Tensor:
    """Return values as an fp32 tensor."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def total(products: Sequence[Product]) -> Product:
    """Return the sum of products: their factors side by side."""
    return Product(np.hstack([one.b for one in products]), np.vstack([one.a for one in products]))


def decompose(product: Product) -> Decomposition:
    """Return the singular value decomposition of B A from the QR of both factors and the SVD of the core.

    d_out x N and N x d_in cost O((d_out + d_in) N^2 + N^3) instead of O(d_out d_in min(d_out, d_in)).
    """
    left, core_left = np.linalg.qr(product.b)
    right, core_right = np.linalg.qr(product.a.T)
    u, s, vt = np.linalg.svd(core_left @ core_right.T)
    return Decomposition(left @ u[:, : len(s)], s, vt @ right.T)


def truncated(product: Product, rank: int, energy: float = 1.0) -> Product:
    """Return the best product of at most `rank` directions, as B = U S with A = V', `rank` wide where N allows.

    With `energy` below one only as many directions stay as hold that share of the sum of squared singular values; the
    others keep their row of A and get a B of zeros, so that they can be trained again.
    """
    whole = decompose(product)
    kept = min(rank, len(whole.s), needed(whole.s, energy))
    a = whole.vt[:rank]
    b = np.zeros((len(whole.u), len(a)))
    b[:, :kept] = whole.u[:, :kept] * whole.s[:kept]
    return Product(b, a)


def compressed(product: Product, rank: int | None = None, scale: float = 0.0) -> Product:
    """Return the product without the directions that hold nothing but rounding; at most `rank` of them, if given.

    `scale` is the size of what the product was taken from, where it is a difference.
    """
    whole = decompose(product)
    kept = int(np.sum(whole.s > ROUNDING * max(whole.s[0], scale)))
    kept = kept if rank is None else min(kept, rank)
    root = np.sqrt(whole.s[:kept])
    return Product(whole.u[:, :kept] * root, root[:, None] * whole.vt[:kept])


def needed(s: Matrix, energy: float) -> int:
    """Return how many singular values, largest first, hold the share `energy` of the sum of squares."""
    if energy >= 1.0:
        return len(s)
    held = np.cumsum(s**2)
    return int(np.searchsorted(held, energy * held[-1])) + 1 if held[-1] > 0 else 0


def gram(products: Sequence[Product], combinations: Matrix) -> Matrix:
    """Return all inner products <D_i, D_j>_F of D_i = sum_n combinations[i, n] b_n a_n over the stacked directions n.

    <b a, b' a'>_F = (b . b') (a . a'), so two N x N Gram matrices hold everything.
    """
    stack = total(products)
    return np.asarray(combinations @ ((stack.b.T @ stack.b) * (stack.a @ stack.a.T)) @ combinations.T)


def norm(product: Product) -> float:
    """Return the Frobenius norm of B A."""
    return float(np.sqrt(max(0.0, np.sum((product.b.T @ product.b) * (product.a @ product.a.T)))))


def basis(vectors: Matrix) -> Matrix:
    """Return orthonormal columns that span the columns of `vectors`; columns of rounding span nothing."""
    u, s, _ = np.linalg.svd(vectors, full_matrices=False)
    return np.asarray(u[:, s > ROUNDING * s[0]] if s[0] > 0 else u[:, :0])


def consensus(bases: Sequence[Matrix], shares: Sequence[float], rank: int) -> Matrix:
    """Return the `rank` leading eigenvectors of P = sum_k w_k U_k U_k', as columns; fewer where the U_k hold fewer.

    With C = [sqrt(w_k) U_k] these are the left singular vectors of C, from the eigenvectors of the small C'C.
    """
    columns = np.hstack([np.sqrt(share) * one for one, share in zip(bases, shares, strict=True)])
    values, vectors = np.linalg.eigh(columns.T @ columns)
    leading = [place for place in np.argsort(values)[::-1][:rank] if values[place] > ROUNDING * values[-1]]
    return np.asarray(np.linalg.qr(columns @ vectors[:, leading]).Q)
