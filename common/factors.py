"""Adapters cut and joined along their rank: for merchants of smaller rank, for private halves, for residuals.

    [B1 B2] [A1; A2] = B1 A1 + B2 A2        A: r x d_in, B: d_out x r

One scale s = alpha / r holds for every part, so an adapter of another rank takes alpha = s * its rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch

from common.config import LoraSettings
from common.lora import A_END, B_END, Adapter, difference
from common.methods import METHODS, chosen, sent


def layers(adapter: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str]]:
    """Yield the names of A and B of every layer, sorted."""
    for name in sorted(adapter):
        if name.endswith(A_END):
            yield name, name.removesuffix(A_END) + B_END


def axis(name: str) -> int:
    """Return along which axis of a factor its rank lies: 0 for A, 1 for B."""
    return 0 if name.endswith(A_END) else 1


def at_rank(shapes: Mapping[str, tuple[int, ...]], rank: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the same factors at another rank."""
    return {name: tuple(rank if at == axis(name) else n for at, n in enumerate(shapes[name])) for name in shapes}


def cut(adapter: Mapping[str, torch.Tensor], start: int, end: int) -> Adapter:
    """Return directions `start` to `end` of every factor; after `fedsvd` the first r are the best adapter of rank r."""
    return {
        name: tensor.narrow(axis(name), start, min(end, tensor.shape[axis(name)]) - start).clone()
        for name, tensor in adapter.items()
    }


def padded(adapter: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor]) -> Adapter:
    """Return the factors of a smaller rank with zeros up to the shapes in `like`.

    Cho et al. 2024, arXiv:2401.06432. Exact for a change of one factor where the other one is shared and frozen.
    """
    whole = {}
    for name, tensor in adapter.items():
        if tensor.shape == like[name].shape:
            whole[name] = tensor
            continue
        whole[name] = tensor.new_zeros(like[name].shape)
        whole[name].narrow(axis(name), 0, tensor.shape[axis(name)]).copy_(tensor)
    return whole


def beside(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> Adapter:
    """Return one adapter whose product is the sum of both; a layer that `second` lacks, or is narrower in, gets zeros.

    Every layer comes out with the same rank, as PEFT's folder wants it.
    """
    rank = max((tensor.shape[axis(name)] for name, tensor in second.items()), default=0)
    whole = {}
    for name, tensor in first.items():
        shape = list(tensor.shape)
        shape[axis(name)] = rank
        room = {name: tensor.new_zeros(shape)}
        more = padded({name: second[name]}, room) if name in second else room
        whole[name] = torch.cat([tensor, more[name]], dim=axis(name))
    return whole


def with_residual(
    adapter: Adapter, residual: Mapping[str, torch.Tensor], lora: LoraSettings
) -> tuple[Adapter, LoraSettings]:
    """Return one adapter for the bare base that does what `adapter` does on a base that carries `residual`, and its shape."""
    whole = beside(adapter, residual) if residual else adapter
    rank = next(tensor.shape[axis(name)] for name, tensor in whole.items())
    return whole, lora.model_copy(update={"rank": rank, "alpha": lora.alpha * rank / lora.rank})


@dataclass(frozen=True)
class Closed:
    """What a merchant has after a round: what travels, and what it keeps for the next."""

    update: Adapter = field(repr=False)
    kept: Adapter = field(repr=False)


def opened(asked: Adapter, kept: Adapter, method: str) -> Adapter:
    """Return what the merchant's model carries in a round: the shared adapter with the merchant's own parts in place.

    `kept` is what `close` returned in the merchant's last round; where there is none yet, a method with a private
    adapter takes its start (A drawn at random, B zero), and `fedsa` goes on from the shared B.
    """
    if METHODS[method].own:
        return beside(asked, kept)
    return {**asked, **kept}


def close(after: Adapter, asked: Adapter, method: str, number: int) -> Closed:
    """Return the change that travels and the part that stays, from what the model carries after round `number`."""
    travel = METHODS[method]
    rank = next(tensor.shape[axis(name)] for name, tensor in asked.items())
    shared = cut(after, 0, rank)
    kept = {name: shared[name] for name in chosen(shared, travel.stays)}
    if travel.own:
        kept = cut(after, rank, max(tensor.shape[axis(name)] for name, tensor in after.items()))
    return Closed(difference(shared, asked, sent(asked, method, number)), kept)
