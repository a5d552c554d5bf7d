"""What a merchant does with a step's gradient once it is clipped, noised and divided.

Everything here reads that gradient, public numbers and the weights, which are themselves made of noisy gradients alone. It
is post-processing: it changes neither what is clipped nor the noise nor the charge, so no choice here costs any privacy. All
of it begins anew in every round.

    g~ = (sum of clipped gradients + N(0, (sigma C)^2)) / divisor

sgd    w <- w - rate g~
adam   w <- w - rate m^ / sqrt(max(v^ - Phi, floor))       Phi = (sigma C / divisor)^2

The second is DP-AdamBC (Tang, Shpilevskiy and Lecuyer 2023, arXiv:2312.14334): noise adds its own variance Phi to every
second moment, under which Adam forgets which numbers have a large gradient; Phi is public, so it is taken off again.

`proximal` adds mu/2 |w - w0|^2 to what is minimised, w0 the shared adapter that the round began with (FedProx: Li et al.
2020, arXiv:1812.06127). Its gradient mu (w - w0) holds no row and so needs no clipping; it moves the weights on its own, as
weight decay does in AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), and Phi stays the variance of what Adam sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from common.config import LocalOptimizer

BETA_1, BETA_2 = 0.9, 0.999


@dataclass(frozen=True)
class LocalStep:
    """How a step moves the weights: public numbers that the ask carries."""

    optimizer: LocalOptimizer = "sgd"
    floor: float = 1e-4
    """For adam: the least that a second moment counts for, gamma' of the paper."""
    proximal: float = 0.0
    """The strength mu of FedProx's term; 0 leaves it out."""


PLAIN_STEP = LocalStep()


def make_optimizer(
    parameters: Sequence[torch.nn.Parameter], rate: float, step: LocalStep, variance: float
) -> torch.optim.Optimizer:
    """Return the optimizer of one round; `variance` is what the noise adds to every number of a gradient, Phi."""
    if step.optimizer == "adam":
        return CorrectedAdam(parameters, rate, variance, step.floor)
    return torch.optim.SGD(parameters, lr=rate)


class CorrectedAdam(torch.optim.Optimizer):
    """Adam with both moments' start corrected (Kingma and Ba 2014) and the noise's variance taken off the second."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], rate: float, variance: float, floor: float) -> None:
        super().__init__(parameters, {"lr": rate, "variance": variance, "floor": floor})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: torch.nn.Parameter, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(t=0, m=torch.zeros_like(gradient), v=torch.zeros_like(gradient))
        state["t"] += 1
        state["m"].mul_(BETA_1).add_(gradient, alpha=1 - BETA_1)
        state["v"].mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
        mean = state["m"] / (1 - BETA_1 ** state["t"])
        square = state["v"] / (1 - BETA_2 ** state["t"])
        parameter.sub_(group["lr"] * mean / (square - group["variance"]).clamp(min=group["floor"]).sqrt())


class Anchor:
    """Where a round began, and a pull back to it: `w - strength (w - w0)`, before every step."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], strength: float) -> None:
        self._start = [(one, one.detach().clone()) for one in parameters] if strength else []
        self._strength = strength

    @torch.no_grad()
    def pull(self) -> None:
        """Move every parameter towards its start; reads the weights and nothing else."""
        for parameter, start in self._start:
            parameter.sub_(self._strength * (parameter - start))


def fault_of(step: LocalStep, rate: float) -> str:
    """Return what is wrong with numbers that came in a message, in a line; nothing where they are sane."""
    if step.optimizer not in ("sgd", "adam"):
        return f"local_optimizer = {step.optimizer!r} is neither sgd nor adam"
    if not 0 <= step.proximal * rate <= 1:
        return f"proximal = {step.proximal:g} at local_rate = {rate:g}: their product must lie in [0, 1]"
    if not (step.floor > 0 and math.isfinite(step.floor)):
        return f"adam_floor = {step.floor:g} must be a finite number above 0"
    return ""
