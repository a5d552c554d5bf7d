"""What a round costs beside training: accounting, adding up and the wire, each next to the way others do it.

    accounting    epsilon of a long history of charges, the history read anew each time
    aggregation   K merchants' updates of a GPT-2 of 124M parameters into the next shared adapter
    wire          one reply packed, sized, read and checked, in fp32 and in int8

Every figure stands beside proof that both sides did the same: epsilons, distances of products, digests.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
from opacus.accountants import PRVAccountant
from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent
from pydantic import Field

from client.train.sampling import SecureRandom
from common.codes import encode
from common.config import Settings
from common.lora import A_END, B_END, Adapter, digest
from common.privacy import accountant
from common.privacy.plan import Charge
from common.wire import TrainReply, unpack_reply
from server.aggregation import RULES, Round, combine
from server.strategy import size_of

D_IN, D_OUT = 768, 2304  # c_attn of GPT-2 with 124M parameters
RDP_ORDERS = [1 + x / 10 for x in range(1, 100)] + [*range(12, 65), 96, 128, 192, 256, 384, 512]

Timed = dict[str, list[float]]


class Accounting(Settings):
    """The history that is accounted for."""

    rounds: Annotated[int, Field(ge=1, le=10_000_000)] = Field(10_000, description="charges in the history")
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(3, description="private steps of a round")
    kinds: Annotated[int, Field(ge=1, le=16)] = Field(3, description="different (sigma, rate) among the charges")
    delta: Annotated[float, Field(gt=0, lt=1)] = Field(1e-6, description="delta of the claim")
    repetitions: Annotated[int, Field(ge=1, le=100)] = Field(5, description="interleaved repetitions")


class Aggregation(Settings):
    """The updates that are added up."""

    merchants: Annotated[int, Field(ge=1, le=10_000)] = Field(100, description="replies in the round")
    layers: Annotated[int, Field(ge=1, le=96)] = Field(12, description="adapted matrices, 768 by 2304 each")
    rank: Annotated[int, Field(ge=1, le=64)] = Field(8, description="rank of every adapter")
    methods: tuple[str, ...] = Field(("fedsvd", "fedavg", "ffa", "fedgsa", "florist"), description="rules to time")
    repetitions: Annotated[int, Field(ge=1, le=100)] = Field(5, description="interleaved repetitions")


class Wire(Settings):
    """The reply that is packed and read."""

    layers: Annotated[int, Field(ge=1, le=96)] = Field(12, description="adapted matrices, 768 by 2304 each")
    rank: Annotated[int, Field(ge=1, le=64)] = Field(8, description="rank of the adapter")
    repetitions: Annotated[int, Field(ge=1, le=1000)] = Field(20, description="repetitions")


def in_turn(ways: Mapping[str, Callable[[], Any]], repetitions: int) -> tuple[Timed, dict[str, Any]]:
    """Return processor seconds of every way, taken in turn, and what each returned last; the first turn only warms."""
    seconds: Timed = {name: [] for name in ways}
    last: dict[str, Any] = {}
    for turn in range(repetitions + 1):
        for name, way in ways.items():
            began = time.process_time()
            last[name] = way()
            if turn:
                seconds[name].append(time.process_time() - began)
    return seconds, last


def medians(seconds: Timed) -> dict[str, float]:
    """Return `NAME s` -> the median of its seconds."""
    return {f"{name} s": median(each) for name, each in seconds.items()}


# --- accounting ---


def history(settings: Accounting) -> list[Charge]:
    """Return the charges of all rounds; later kinds have a little more noise."""
    return [
        Charge(4.0 + 0.5 * (number % settings.kinds), 0.01, settings.steps, 1.0) for number in range(settings.rounds)
    ]


def accounting_facts(settings: Accounting) -> dict[str, Any]:
    """Return seconds and epsilons: ours, dp-accounting's PLD charge by charge as added, Opacus' PRV and Opacus' RDP."""
    charges = history(settings)
    ways: dict[str, Callable[[], Any]] = {
        "ours": partial(ours, charges, settings.delta),
        "dp-accounting PLD": partial(library_pld, charges, settings.delta),
        "Opacus PRV": partial(opacus_prv, charges, settings.delta),
        "Opacus RDP": partial(opacus_rdp, charges, settings.delta),
    }
    seconds, found = in_turn(ways, settings.repetitions)
    terms = {"delta": settings.delta, "unit": "one customer", "period": f"all {settings.rounds} rounds"}
    return {**medians(seconds), **{f"{name} epsilon": value for name, value in found.items()}, **terms}


def ours(charges: Sequence[Charge], delta: float) -> float:
    """Return our epsilon with nothing remembered from before."""
    for one in vars(accountant).values():
        if hasattr(one, "cache_clear"):
            one.cache_clear()
    return accountant.epsilon(charges, delta)


def library_pld(charges: Sequence[Charge], delta: float) -> float:
    """Return the epsilon of dp-accounting's PLD accountant, equal charges composed at once."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    tally = PLDAccountant()
    for setting in accountant.merge(charges):
        tally.compose(PoissonSampledDpEvent(setting.rate, GaussianDpEvent(setting.sigma)), setting.steps)
    return float(tally.get_epsilon(delta))


def opacus_prv(charges: Sequence[Charge], delta: float) -> float:
    """Return the epsilon of Opacus' PRV accountant."""
    tally = PRVAccountant()
    tally.history = [(one.sigma, one.rate, one.steps) for one in accountant.merge(charges)]
    with larger_orders_unsaid():
        return float(tally.get_epsilon(delta))


@contextmanager
def larger_orders_unsaid() -> Iterator[None]:
    """Pass over Opacus' remark that a still larger order would be tighter: its orders are part of what is compared."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the largest")
        yield


def opacus_rdp(charges: Sequence[Charge], delta: float) -> float:
    """Return the epsilon of Opacus' RDP analysis over its default orders."""
    total = sum(
        compute_rdp(q=one.rate, noise_multiplier=one.sigma, steps=one.steps, orders=RDP_ORDERS)
        for one in accountant.merge(charges)
    )
    with larger_orders_unsaid():
        return float(get_privacy_spent(orders=RDP_ORDERS, rdp=total, delta=delta)[0])


# --- aggregation ---


def adapter_of(layers: int, rank: int, random: np.random.Generator, scale: float = 1.0) -> Adapter:
    """Return an adapter with random factors for `layers` matrices."""
    shapes = {A_END: (rank, D_IN), B_END: (D_OUT, rank)}
    return {
        f"h.{layer}.c_attn{end}": torch.from_numpy(scale * random.standard_normal(shape, dtype=np.float32))
        for layer in range(layers)
        for end, shape in shapes.items()
    }


def round_of(settings: Aggregation, method: str) -> Round:
    """Return a round in which every merchant moved what the method sends."""
    random = np.random.default_rng(5)
    shared = adapter_of(settings.layers, settings.rank, random)
    names = set(RULES[method].shared(shared, 1))
    moves = [adapter_of(settings.layers, settings.rank, random, 0.1) for _ in range(settings.merchants)]
    updates = [{name: one for name, one in move.items() if name in names} for move in moves]
    return Round(shared, updates, [1.0] * settings.merchants, 1, seed=3)


def aggregation_facts(settings: Aggregation) -> dict[str, Any]:
    """Return seconds of every rule and of `fedsvd` as its paper writes it (a dense SVD), and how far the two products lie."""
    rounds = {method: round_of(settings, method) for method in settings.methods}
    ways: dict[str, Callable[[], Any]] = {method: partial(combine, method, given) for method, given in rounds.items()}
    if "fedsvd" in rounds:
        ways["fedsvd dense"] = partial(dense_fedsvd, rounds["fedsvd"])
    seconds, found = in_turn(ways, settings.repetitions)
    facts: dict[str, Any] = medians(seconds)
    if "fedsvd" in rounds:
        facts["dense / cheap"] = facts["fedsvd dense s"] / facts["fedsvd s"]
        facts["distance"] = distance(found["fedsvd"].adapter, found["fedsvd dense"])
    return facts


def dense_fedsvd(given: Round) -> Adapter:
    """Return the next adapter of FedSVD by the singular value decomposition of every whole product B A."""
    new: Adapter = {}
    for a_name in (name for name in given.shared if name.endswith(A_END)):
        b_name = a_name.removesuffix(A_END) + B_END
        moved = torch.stack([update[b_name] for update in given.updates]).mean(0)
        left, values, right = torch.linalg.svd((given.shared[b_name] + moved) @ given.shared[a_name], False)
        rank = len(given.shared[a_name])
        new |= {a_name: right[:rank], b_name: left[:, :rank] * values[:rank]}
    return new


def distance(ours: Adapter, theirs: Adapter) -> float:
    """Return the largest relative difference of two adapters' products over all matrices."""
    worst = 0.0
    for a_name in (name for name in ours if name.endswith(A_END)):
        b_name = a_name.removesuffix(A_END) + B_END
        mine, other = (one[b_name] @ one[a_name] for one in (ours, theirs))
        worst = max(worst, float((mine - other).norm() / other.norm()))
    return worst


# --- wire ---


def wire_facts(settings: Wire) -> dict[str, Any]:
    """Return bytes of a reply in both forms, and seconds to make, pack, and read and check it.

    The digest must survive the way in fp32; what int8 adds stands as a share of the update's norm.
    """
    whole = adapter_of(settings.layers, settings.rank, np.random.default_rng(2))
    update = {name: one for name, one in whole.items() if name.endswith(B_END)}
    words = SecureRandom().words
    reply = TrainReply("done", "bench", 1, charge=vars(Charge(1.0, 0.1, 3, 1.0)), update=update)
    coded = replace(reply, update=encode(update, words))
    expected = {name: tuple(one.shape) for name, one in update.items()}
    packed, packed8 = reply.pack(), coded.pack()
    ways: dict[str, Callable[[], Any]] = {
        "pack": reply.pack,
        "read": partial(unpack_reply, packed, expected),
        "digest": partial(digest, update),
        "int8 encode": partial(encode, update, words),
        "int8 pack": coded.pack,
        "int8 read": partial(unpack_reply, packed8, expected, "int8"),
    }
    seconds, found = in_turn(ways, settings.repetitions)
    floats = 4 * sum(math.prod(shape) for shape in expected.values())
    same = digest(found["read"].update) == found["digest"]
    return {
        **medians(seconds),
        "bytes": size_of(packed),
        "bytes beyond the floats": size_of(packed) - floats,
        "int8 bytes": size_of(packed8),
        "fp32 / int8": size_of(packed) / size_of(packed8),
        "digest survives": str(same).lower(),
        "int8 noise / update": _apart(found["int8 read"].update, update),
    }


def _apart(one: Adapter, other: Adapter) -> float:
    """Return the norm of the difference over the norm of `other`."""
    far = sum(float((one[name] - other[name]).norm()) ** 2 for name in other)
    return math.sqrt(far / sum(float(tensor.norm()) ** 2 for tensor in other.values()))


PARTS: Mapping[str, tuple[type[Settings], Callable[[Any], dict[str, Any]]]] = {
    "accounting": (Accounting, accounting_facts),
    "aggregation": (Aggregation, aggregation_facts),
    "wire": (Wire, wire_facts),
}


def main(given: Sequence[str]) -> None:
    """Print the facts of one part as a JSON object."""
    settings, facts = PARTS[given[0]]
    print(json.dumps(facts(settings.model_validate_json(given[1]))))
