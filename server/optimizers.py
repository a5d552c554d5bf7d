"""What the server does with the mean update: pure functions of the adapter, the mean and a state.

FedOpt: Reddi et al. 2020, arXiv:2003.00295.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from common.lora import Adapter

State = dict[str, torch.Tensor]
Step = Callable[[Adapter, Adapter, State, float], tuple[Adapter, State]]

BETA_1, BETA_2, TAU = 0.9, 0.99, 1e-3


def sgd(shared: Adapter, mean: Adapter, state: State, rate: float) -> tuple[Adapter, State]:
    """Return `shared + rate * mean`; at rate 1 this is plain federated averaging."""
    return {name: tensor + rate * mean[name] if name in mean else tensor for name, tensor in shared.items()}, state


def adam(shared: Adapter, mean: Adapter, state: State, rate: float) -> tuple[Adapter, State]:
    """Return FedAdam's step with bias correction; the mean update plays the part of the negative gradient.

    The state holds `m.<name>`, `v.<name>` and `t`; it is made of private updates only, so it costs no budget.
    """
    t = state.get("t", torch.zeros(())) + 1
    new_state: State = {"t": t}
    new = dict(shared)
    for name, update in mean.items():
        m = BETA_1 * state.get(f"m.{name}", torch.zeros_like(update)) + (1 - BETA_1) * update
        v = BETA_2 * state.get(f"v.{name}", torch.zeros_like(update)) + (1 - BETA_2) * update.square()
        new_state |= {f"m.{name}": m, f"v.{name}": v}
        step = (m / (1 - BETA_1**t)) / ((v / (1 - BETA_2**t)).sqrt() + TAU)
        new[name] = shared[name] + rate * step
    return new, new_state


OPTIMIZERS: Mapping[str, Step] = {"sgd": sgd, "adam": adam}
