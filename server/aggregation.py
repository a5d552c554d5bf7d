"""The rules that turn merchants' updates into the next shared adapter: pure functions, one registry at the foot.

    W x + s B A x      s = alpha / r      K merchants      A: r x d_in      B: d_out x r

All of it is post-processing of updates that are already private, so no rule costs any budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from common.lora import A_END, B_END, Adapter

Matrix = npt.NDArray[np.float64]


def weighted_mean(updates: Sequence[Mapping[str, torch.Tensor]], weights: Sequence[float]) -> Adapter:
    """Return sum_k w_k u_k with the weights scaled to sum to one, added up in the order given, in float64.

    Weights are public numbers (McMahan et al. 2017, arXiv:1602.05629, with n_k replaced by a public weight).
    """
    shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    return {name: _sum(updates, shares, name) for name in sorted(updates[0])}


def _sum(updates: Sequence[Mapping[str, torch.Tensor]], shares: Matrix, name: str) -> torch.Tensor:
    total = torch.zeros(updates[0][name].shape, dtype=torch.float64)
    for update, share in zip(updates, shares, strict=True):
        total += float(share) * update[name].double()
    return total.float()


def keep(adapter: Adapter) -> Adapter:
    """Return the adapter as it is."""
    return adapter


def realign(adapter: Adapter) -> Adapter:
    """Return the same product B A with orthonormal rows in every A and the singular values in B.

    FedSVD (Lee et al. 2025, arXiv:2505.12805): U S V' = svd(B A), A <- V', B <- U S. Here from the QR of both factors and
    the SVD of an r x r core, so nothing of size d_out x d_in is ever made; the product is kept to rounding error.
    """
    new = dict(adapter)
    for name in adapter:
        if name.endswith(A_END):
            partner = name.removesuffix(A_END) + B_END
            new[name], new[partner] = _realigned(adapter[name], adapter[partner])
    return new


def _realigned(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    left, core_left = np.linalg.qr(b.double().numpy())
    right, core_right = np.linalg.qr(a.double().numpy().T)
    u, s, vt = np.linalg.svd(core_left @ core_right.T)
    return _tensor(vt @ right.T), _tensor(left @ u * s)


def _tensor(matrix: Matrix) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(matrix, dtype=np.float32))


@dataclass(frozen=True)
class Rule:
    """What merchants train and what happens to the shared adapter after the server's step.

    `exact` says whether the mean of the merchants' products equals the product of the shared factors.
    """

    name: str
    settle: Callable[[Adapter], Adapter]
    exact: bool
    source: str


RULES: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("fedavg", keep, False, "A and B averaged apart: FedIT, Zhang et al. 2023, arXiv:2305.05644"),
        Rule("ffa", keep, True, "A frozen for the run, B averaged: Sun et al. 2024, arXiv:2403.12313"),
        Rule("fedsvd", realign, True, "B averaged, then A realigned by SVD: Lee et al. 2025, arXiv:2505.12805"),
    )
}
