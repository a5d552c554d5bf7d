"""Canaries: invented customers with gradients of their own, in or out by a secret coin, through the real private steps.

    coins are thrown and their commitment is written down      (before the first step)
    canary i owns some coordinates of the adapter and a unit vector u_i on them
    where its coin says "in", its gradient 1000 C u_i stands beside those of synthetic customers
    the trainer clips, adds up, adds noise, divides, steps      (client.train.trainer, unchanged)
    score of i = <released update, u_i>                          (what anybody sees who gets the update)

The coordinates of two canaries never meet, so a correct trainer gives scores of mean C T with, and 0 without, and of
standard deviation sigma C sqrt(T) in both cases. No private row is read: the customers beside them are random ids.

    m canaries   d numbers of the adapter   k coordinates of a canary   T steps
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from client.audit.bounds import Bits, Floats
from client.train import trainer
from client.train.sampling import Randomness, SecureRandom
from client.train.trainer import LocalSettings
from common.files import sha256
from common.lora import Adapter, Bench, difference, initial, lift, put
from common.methods import trained
from common.privacy import accountant
from common.privacy.accountant import Setting
from common.privacy.plan import RoundPlan
from common.tokens import Rows

COINS = b"fugou-audit-coins-v1\0"
METHOD = "fedavg"
LOUD = 1000.0
"""How many clip norms a canary's gradient weighs before it is clipped."""

MATES, TOKENS = 4, 24
CANARIES, STEPS, SIGMA, DELTA = 1000, 4, 2.5, 1e-5
"""The audit's own schedule: everybody is drawn, and the claim is about epsilon = 3.4, which so many canaries can tell."""

MOVED = 1e-3
"""Deviation of a weight's noise: small beside the weights, so that the engines run on sane numbers."""


@dataclass(frozen=True)
class Coins:
    """One secret fair coin a canary; whoever knows the commitment can check them once they are told."""

    bits_m: Bits = field(repr=False)
    nonce: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The coins as a row of 0 and 1."""
        return "".join("1" if bit else "0" for bit in self.bits_m)

    @property
    def commitment(self) -> str:
        """SHA-256 of `fugou-audit-coins-v1`, a zero byte, the nonce, and the coins as a row of 0 and 1."""
        return sha256(COINS + self.nonce + self.text.encode())


def toss(count: int, randomness: Randomness) -> Coins:
    """Return `count` coins and a nonce of 32 bytes."""
    return Coins((randomness.words(count) & np.uint64(1)).astype(np.bool_), randomness.words(4).tobytes())


@dataclass(frozen=True)
class Schedule:
    """What a canary run does; the clip norm and the divisor are the policy's."""

    plan: RoundPlan
    canaries: int
    delta: float = DELTA

    @property
    def claimed(self) -> float:
        """Epsilon of the canary run by the accountant, at `delta`."""
        return accountant.epsilon((Setting(self.plan.sigma, 1.0, self.plan.steps),), self.delta)

    @property
    def spread(self) -> float:
        """The standard deviation that every score ought to have."""
        return self.plan.sigma * self.plan.clip_norm * math.sqrt(self.plan.steps)


def schedule(plan: RoundPlan, canaries: int, width: int) -> Schedule:
    """Return the canary run beside the policy's `plan`, for an adapter of `width` numbers: a coordinate each at least."""
    return Schedule(replace(plan, rate=1.0, sigma=SIGMA, steps=STEPS), min(canaries, width))


class Synthetic:
    """Customers of random ids and various lengths; nobody's rows."""

    def __init__(self, count: int, vocabulary: int, tokens: int = TOKENS) -> None:
        random = np.random.default_rng()
        lengths_N1 = random.integers(3, tokens + 1, (count, 1))
        self.ids_NT = random.integers(0, vocabulary, (count, tokens))
        self.counts_NT = np.arange(tokens)[None, :] < lengths_N1

    def __len__(self) -> int:
        return len(self.ids_NT)

    def rows(self, drawn: Sequence[int], randomness: Randomness) -> Rows:
        """Return the rows of the `drawn` customers."""
        return Rows(self.ids_NT[list(drawn)].astype(np.int64), self.counts_NT[list(drawn)])


@dataclass(frozen=True)
class Directions:
    """Where each canary points: its coordinates and its signs, both (m, k); a unit vector has 1 / sqrt(k) at each."""

    places_mk: npt.NDArray[np.int64]
    signs_mk: npt.NDArray[np.int64]
    width: int

    def rows(self, chosen: Sequence[int], length: float) -> torch.Tensor:
        """Return the gradients (B, d) of the chosen canaries, each of this L2 norm."""
        k = self.places_mk.shape[1]
        rows_Bd = torch.zeros(len(chosen), self.width)
        values = torch.from_numpy(self.signs_mk[chosen] * (length / math.sqrt(k))).float()
        return rows_Bd.scatter_(1, torch.from_numpy(self.places_mk[chosen]), values)

    def scores(self, released_d: Floats) -> Floats:
        """Return (m,) the part of what was released along each canary."""
        found: Floats = (released_d[self.places_mk] * self.signs_mk).sum(1) / math.sqrt(self.places_mk.shape[1])
        return found


def directions(count: int, width: int) -> Directions:
    """Return directions of `count` canaries over `width` numbers; no two share a coordinate."""
    random = np.random.default_rng()
    k = width // count
    places = random.permutation(width)[: count * k].reshape(count, k)
    return Directions(places, random.integers(0, 2, places.shape) * 2 - 1, width)


def warm(work: Bench) -> Adapter:
    """Return an adapter as in the middle of a run: no factor is zero, so every tensor has gradients."""
    random = np.random.default_rng()
    start = initial(work.model, int(random.integers(2**31)))
    return {
        name: tensor + torch.from_numpy(0.02 * random.standard_normal(tensor.shape)).float()
        for name, tensor in start.items()
    }


def width_of(work: Bench) -> int:
    """Return how many numbers the method trains."""
    adapter = lift(work.model)
    return sum(adapter[name].numel() for name in trained(adapter, METHOD, 1))


def gentle(plan: RoundPlan) -> float:
    """Return the learning rate at which the noise of a whole round moves every weight by `MOVED`."""
    return MOVED * plan.divisor / (max(plan.sigma, 1.0) * plan.clip_norm * math.sqrt(plan.steps))


def canary_scores(work: Bench, planned: Schedule, coins: Coins, settings: LocalSettings) -> Floats:
    """Return (m,) scores after one run of the private steps with the canaries whose coin says "in"."""
    plan, secure = planned.plan, SecureRandom()
    adapter = warm(work)
    names = trained(adapter, METHOD, 1)
    mates = Synthetic(MATES, work.base.model.config.vocab_size)
    pointing = directions(planned.canaries, width_of(work))
    inside = np.flatnonzero(coins.bits_m)
    work.model.to(settings.device)
    put(work.model, adapter)
    with trainer.private(work.model, names, plan, gentle(plan), secure, settings) as (engine, optimizer):
        order = [name.replace(".default.", ".") for name, p in work.model.named_parameters() if p.requires_grad]

        def gradients(drawn: list[int]) -> None:
            beside = [one for one in drawn if one < len(mates)]
            if beside:
                trainer.per_customer_gradients(engine, mates.rows(beside, secure), settings.device)
            else:
                optimizer.gradients_of_nobody()
            planted = inside[[one - len(mates) for one in drawn if one >= len(mates)]]
            append(optimizer.params, pointing.rows(planted.tolist(), LOUD * plan.clip_norm))

        size = together(pointing.width)
        trainer.private_steps(optimizer, len(mates) + len(inside), plan, secure, size, gradients)
    update = difference(lift(work.model), adapter, names)
    return pointing.scores(released(update, order, plan, gentle(plan)))


def together(width: int) -> int:
    """Return how many customers a microbatch holds: at most 128, and about 64 MiB of gradients."""
    return max(1, min(128, (1 << 24) // width))


def append(parameters: Sequence[Any], rows_Bd: torch.Tensor) -> None:
    """Put the rows (B, d), split as the parameters are, behind the gradients that stand there."""
    start = 0
    for parameter in parameters:
        part = rows_Bd[:, start : start + parameter.numel()].reshape(-1, *parameter.shape)
        parameter.grad_sample = torch.cat([parameter.grad_sample, part.to(parameter.grad_sample)])
        start += parameter.numel()


def released(update: Adapter, order: Sequence[str], plan: RoundPlan, rate: float) -> Floats:
    """Return (d,) the noisy sums that a released update tells of: learning rate and divisor are public."""
    flat = torch.cat([update[name].flatten() for name in order]).double().numpy()
    return np.asarray(-flat * (plan.divisor / rate))
