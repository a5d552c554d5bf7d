"""Muon: momentum whose direction is made orthogonal before it is applied to a weight matrix.

Keller Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the length of a step is matched to
AdamW's as in Liu et al. 2025 (arXiv 2502.16982, section 2.2), so that one learning rate serves both.

Why not torch.optim.Muon: it iterates in bf16, which on processors without matrix units takes twice the time of fp32;
and one matrix after the other, where several cores could each take one.

    N matrices   A rows   C columns
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: steep at zero, so that five steps are enough
STEPS = 5
RMS = 0.2  # of an entry of AdamW's update, as a rule

Move = tuple[torch.Tensor, dict[str, Any]]  # a weight and the settings of its group


class Muon(torch.optim.Optimizer):
    """Muon over weight matrices; `parts` matrices lie side by side in one weight (query, key, value).

    Each weight keeps one buffer, `momentum`, which `state_dict` holds. Weights are moved independently of each other,
    through `each`, which may be a thread pool's `map`.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        decay: float = 0.1,
        each: Callable[[Callable[[Move], None], Iterable[Move]], Iterable[None]] = map,
    ) -> None:
        self.each = each
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": decay, "parts": 1})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient by one step."""
        moves = [(one, group) for group in self.param_groups for one in group["params"] if one.grad is not None]
        for _ in self.each(self._move, moves):
            pass

    @torch.no_grad()
    def _move(self, move: Move) -> None:
        """Move one weight, each of its parts along its own orthogonal direction."""
        weight, group = move
        matrices_NAC = torch.stack(self._pull(weight, group["momentum"]).chunk(group["parts"], dim=1))
        length = group["lr"] * RMS * math.sqrt(max(matrices_NAC.shape[1:]))
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(torch.cat(tuple(orthogonal(matrices_NAC)), dim=1), alpha=-length)

    def _pull(self, weight: torch.Tensor, momentum: float) -> torch.Tensor:
        """Return the gradient mixed with its running mean (Nesterov), which is updated."""
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        assert weight.grad is not None
        mean: torch.Tensor = state["momentum"].lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(mean, momentum)


def orthogonal(matrices_NAC: torch.Tensor) -> torch.Tensor:
    """Return (N, A, C) each matrix with its singular values near 1 (0.7 to 1.2), its singular vectors as they were.

    >>> turned = orthogonal(torch.tensor([[[3.0, 0.0], [0.0, 0.1]]]))[0]
    >>> bool((turned.diagonal() > 0.6).all() and (turned.diagonal() < 1.3).all())
    True
    """
    if matrices_NAC.shape[1] > matrices_NAC.shape[2]:
        turned: torch.Tensor = orthogonal(matrices_NAC.mT).mT
        return turned
    now_NAC: torch.Tensor = matrices_NAC / (matrices_NAC.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if 2 * now_NAC.shape[1] <= now_NAC.shape[2]:
        return torch.bmm(_factor(now_NAC @ now_NAC.mT), now_NAC)
    for _ in range(STEPS):
        now_NAC = _polynomial(now_NAC @ now_NAC.mT) @ now_NAC
    return now_NAC


def _polynomial(square_NAA: torch.Tensor) -> torch.Tensor:
    """Return (N, A, A) what one step multiplies X by, from X Xᵀ."""
    first, third, fifth = COEFFICIENTS
    even_NAA = torch.baddbmm(square_NAA, square_NAA, square_NAA, beta=third, alpha=fifth)
    even_NAA.diagonal(dim1=1, dim2=2).add_(first)
    return even_NAA


def _factor(square_NAA: torch.Tensor) -> torch.Tensor:
    """Return (N, A, A) what all steps together multiply X by, from X Xᵀ: half the work where X is wide."""
    factor_NAA = _polynomial(square_NAA)
    last_NAA = factor_NAA
    for _ in range(STEPS - 1):
        square_NAA = last_NAA @ square_NAA @ last_NAA
        last_NAA = _polynomial(square_NAA)
        factor_NAA = last_NAA @ factor_NAA
    return factor_NAA
