"""What the server does with the mean update: pure functions of the adapter, the mean and a state.

FedOpt: Reddi et al. 2020, arXiv:2003.00295. The mean update plays the part of the negative gradient. A state is made of
private updates only, so it costs no budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from common.factors import layers
from common.lora import Adapter

State = dict[str, torch.Tensor]
Step = Callable[[Adapter, Adapter, State, float], tuple[Adapter, State]]

BETA_1, BETA_2, TAU = 0.9, 0.99, 1e-3


def sgd(shared: Adapter, mean: Adapter, state: State, rate: float) -> tuple[Adapter, State]:
    """Return `shared + rate * mean`; at rate 1 this is plain federated averaging."""
    return {name: tensor + rate * mean[name] if name in mean else tensor for name, tensor in shared.items()}, state


def adam(shared: Adapter, mean: Adapter, state: State, rate: float) -> tuple[Adapter, State]:
    """Return FedAdam's step with bias correction (Kingma and Ba 2014, arXiv:1412.6980).

    The state holds `m.<name>`, `v.<name>` and `t.<name>`: a factor that trains every other round counts its own steps.
    """
    new, new_state = dict(shared), dict(state)
    for name, update in mean.items():
        t = state.get(f"t.{name}", torch.zeros(())) + 1
        m = BETA_1 * state.get(f"m.{name}", torch.zeros_like(update)) + (1 - BETA_1) * update
        v = BETA_2 * state.get(f"v.{name}", torch.zeros_like(update)) + (1 - BETA_2) * update.square()
        new_state |= {f"m.{name}": m, f"v.{name}": v, f"t.{name}": t}
        step = (m / (1 - BETA_1**t)) / ((v / (1 - BETA_2**t)).sqrt() + TAU)
        new[name] = shared[name] + rate * step
    return new, new_state


def yogi(shared: Adapter, mean: Adapter, state: State, rate: float) -> tuple[Adapter, State]:
    """Return FedYogi's step: v moves by at most (1 - beta_2) update^2 a round, so a burst of large updates is forgotten slowly.

    Zaheer et al. 2018 (NeurIPS, "Adaptive methods for nonconvex optimization"); FedOpt's algorithm 2 with v beginning at
    TAU^2 and no bias correction. The state holds `m.<name>` and `v.<name>`.
    """
    new, new_state = dict(shared), dict(state)
    for name, update in mean.items():
        square = update.square()
        m = BETA_1 * state.get(f"m.{name}", torch.zeros_like(update)) + (1 - BETA_1) * update
        v = state.get(f"v.{name}", torch.full_like(update, TAU**2))
        v = v - (1 - BETA_2) * square * torch.sign(v - square)
        new_state |= {f"m.{name}": m, f"v.{name}": v}
        new[name] = shared[name] + rate * m / (v.sqrt() + TAU)
    return new, new_state


def carried(state: State, before: Adapter, after: Adapter) -> State:
    """Return the state in the directions of `after`, where a rule has turned the factors' own.

    With A after orthonormal, B A = (B T) A_after for T = A A_after', so a moment m of B becomes m T; the second moments
    become v (T * T), what they are for independent numbers.
    """
    turned = dict(state)
    for a_name, b_name in layers(before):
        if f"m.{b_name}" in state and not torch.equal(before[a_name], after[a_name]):
            turn = (before[a_name].double() @ after[a_name].double().T).float()
            turned[f"m.{b_name}"] = state[f"m.{b_name}"] @ turn
            turned[f"v.{b_name}"] = state[f"v.{b_name}"] @ turn.square()
    return turned


OPTIMIZERS: Mapping[str, Step] = {"sgd": sgd, "adam": adam, "yogi": yogi}
