"""One optimiser step of an adapter, four ways on the same rows: what `fugou bench dp-step` runs in processes of its own.

    plain     PEFT as it comes, float32, the batch's mean loss, no privacy: what a step costs anyway
    open      the fast engine on the whole batch as if it were one customer, no clipping, no noise
    fast      the private step with the fast engine
    opacus    the private step with Opacus' hooks, the reference

Weights are random: time does not depend on them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import Field
from transformers import GPT2Config, GPT2LMHeadModel

from client.data.dataset import make_dataset
from client.train.fast import FastGradients, Precision
from client.train.products import on_grid
from client.train.sampling import Rehearsal, SecureRandom
from client.train.trainer import LocalSettings, per_customer_gradients, private, private_step
from common.config import Settings
from common.files import sha256
from common.lora import lift
from common.methods import trained
from common.model import load_base
from common.privacy.plan import RoundPlan
from common.tokens import Rows
from simulations.merchants import make_world
from simulations.scenario import load_scenario

Way: TypeAlias = Literal["plain", "open", "fast", "opacus"]
WAYS: tuple[Way, ...] = ("plain", "open", "fast", "opacus")
PLAN = RoundPlan("bench", "dp-step", 1, 1.0, 1.0, 1, 1.0, 16.0, 1e-6, 1, "p", "a")
RATE = 1e-3
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {},
    "tiny": {
        "n_layer": 2,
        "n_embd": 32,
        "n_head": 2,
        "vocab_size": 200,
        "n_positions": 64,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
}


class DpStep(Settings):
    """The step that is measured."""

    shape: Literal["gpt2", "tiny"] = Field("gpt2", description="gpt2 has 124M parameters")
    batch: Annotated[int, Field(ge=1, le=1024)] = Field(16, description="customers in the step")
    tokens: Annotated[int, Field(ge=8, le=1024)] = Field(64, description="bound of a customer's row")
    rank: Annotated[int, Field(ge=1, le=256)] = Field(8, description="rank of the adapter on c_attn")
    method: Literal["fedsvd", "fedavg"] = Field("fedsvd", description="fedsvd trains B, fedavg A and B")
    rows: Literal["full", "ragged", "shops"] = Field(
        "full",
        description="full: every id counts; ragged: 8 ids to the bound, the second half counts; shops: a shop's of "
        "shops-zh as training makes them; the last two by buckets",
    )
    precision: Precision = Field("float32", description="of the base in the fast engine; plain and opacus are float32")
    threads: Annotated[int, Field(ge=1, le=256)] = Field(2, description="threads of torch")
    repetitions: Annotated[int, Field(ge=1, le=100)] = Field(5, description="interleaved steps of every way")


Step: TypeAlias = Callable[[], object]


def carrier(settings: DpStep) -> PeftModel:
    """Return a GPT-2 of that shape with random weights and an adapter in the middle of a run."""
    config = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **SHAPES[settings.shape])
    config.loss_type = "ForCausalLMLoss"
    model = GPT2LMHeadModel(config).requires_grad_(False)
    lora = LoraConfig(
        r=settings.rank, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    carried = get_peft_model(model, lora)
    random = np.random.default_rng(3)
    with torch.no_grad():
        for name, parameter in carried.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.from_numpy(0.02 * random.standard_normal(parameter.shape)))
    return carried


def draw_rows(settings: DpStep, vocabulary: int) -> Rows:
    """Return the rows of the step's customers, the same for every way."""
    if settings.rows == "shops":
        return shop_rows(settings)
    random = np.random.default_rng(1)
    ids_BT = random.integers(1, vocabulary, (settings.batch, settings.tokens))
    places_T = np.arange(settings.tokens)[None]
    lengths_B1 = random.integers(8, settings.tokens + 1, (settings.batch, 1))
    if settings.rows == "full":
        return Rows(ids_BT, np.ones_like(ids_BT, dtype=np.bool_))
    return Rows(ids_BT, (places_T >= lengths_B1 // 2) & (places_T < lengths_B1))


def shop_rows(settings: DpStep) -> Rows:
    """Return what the first customers of a shop would train on, by the default base's ids."""
    customers = max(settings.batch, 60)
    scenario = load_scenario("shops-zh", {"scenario.merchants": 1, "world.customers": customers})
    made = make_dataset(make_world(scenario)[0], load_base("default"), settings.tokens, 4, None)
    rows = made.rows(range(settings.batch), Rehearsal(1))
    return replace(rows, ids_BT=rows.ids_BT % SHAPES[settings.shape].get("vocab_size", 50257))


def local(settings: DpStep, way: Way) -> LocalSettings:
    """Return how that way computes."""
    if way == "opacus":
        return LocalSettings(settings.batch, dp_engine="opacus")
    padding: Literal["full", "buckets"] = "full" if settings.rows == "full" else "buckets"
    return LocalSettings(settings.batch, precision=settings.precision, padding=padding)


@contextmanager
def ready(settings: DpStep, way: Way, model: PeftModel, rows: Rows) -> Iterator[Step]:
    """Yield one step of that way, to be called as often as wanted while the block lasts."""
    names = trained(lift(model), settings.method, 1)
    with private(model, names, PLAN, RATE, SecureRandom(), local(settings, way)) as (engine, optimizer):
        if way == "plain":
            model.train()
            yield lambda: plain_step(model, rows, optimizer.original_optimizer)
        elif isinstance(engine, FastGradients) and way == "open":
            yield lambda: open_step(engine, rows, optimizer.original_optimizer)
        else:
            drawn_B = np.arange(settings.batch)
            yield lambda: private_step(
                optimizer, drawn_B, settings.batch, lambda _: per_customer_gradients(engine, rows, "cpu")
            )


def plain_step(model: PeftModel, rows: Rows, optimizer: torch.optim.Optimizer) -> None:
    """Take a step on the batch's mean loss, as PEFT's own examples do."""
    optimizer.zero_grad(set_to_none=True)
    ids_BT, counts_BT = torch.from_numpy(rows.ids_BT), torch.from_numpy(rows.counts_BT)
    model(input_ids=ids_BT, labels=ids_BT.masked_fill(~counts_BT, -100)).loss.backward()
    optimizer.step()


def open_step(engine: FastGradients, rows: Rows, optimizer: torch.optim.Optimizer) -> None:
    """Take a step with the fast engine's kernels and one gradient for the whole batch."""
    optimizer.zero_grad(set_to_none=True)
    ids_BT, counts_BT = torch.from_numpy(rows.ids_BT), torch.from_numpy(rows.counts_BT)
    done = engine.passes(ids_BT, counts_BT, together=True)
    for parameter in engine.parameters():
        parameter.grad = torch.cat([part.of(parameter) for _, part in done]).sum(0)
    optimizer.step()


def clipped(settings: DpStep, way: Way, model: PeftModel, rows: Rows) -> torch.Tensor:
    """Return the clipped sum (d,) that a private way releases before noise."""
    names = trained(lift(model), settings.method, 1)
    with private(model, names, replace(PLAN, sigma=0.0), RATE, SecureRandom(), local(settings, way)) as (engine, own):
        per_customer_gradients(engine, rows, "cpu")
        own.clip_and_accumulate()
        return torch.cat([parameter.summed_grad.flatten() for parameter in own.params])


def time_ways(settings: DpStep, ways: list[Way]) -> dict[str, Any]:
    """Return seconds of every step, ways in turn within every repetition, and what shows that they did the same work."""
    model = carrier(settings)
    rows = draw_rows(settings, model.config.vocab_size)
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for repetition in range(settings.repetitions + 1):
        for way in ways[repetition % len(ways) :] + ways[: repetition % len(ways)]:
            with ready(settings, way, model, rows) as step:
                cpu, wall = time.process_time(), time.perf_counter()
                step()
                spent = (time.process_time() - cpu, time.perf_counter() - wall)
            if repetition:  # the first warms allocators and caches
                seconds[way].append(spent)
    return {"seconds": seconds, **proof(settings, model, rows)}


def proof(settings: DpStep, model: PeftModel, rows: Rows) -> dict[str, Any]:
    """Return the checksum of the rows, and how far the fast engine's clipped sum is from the reference's.

    Under int8 both are of the rounded weights: what they stand for is in float32 to Opacus.
    """
    if settings.precision == "int8":
        on_grid(model.get_base_model())
    found, expected = (clipped(settings, way, model, rows) for way in ("fast", "opacus"))
    return {
        "rows_sha256": sha256(rows.ids_BT.tobytes() + rows.counts_BT.tobytes()),
        "tokens_counted": int(rows.counts_BT[:, 1:].sum()),
        "distance": float((found - expected).norm() / expected.norm()),
    }


def peak_of(settings: DpStep, way: Way) -> dict[str, Any]:
    """Return nothing of note after two steps of one way: the process's peak memory is what is asked for."""
    model = carrier(settings)
    rows = draw_rows(settings, model.config.vocab_size)
    with ready(settings, way, model, rows) as step:
        step()
        step()
    return {"steps": 2}


def ratio(seconds: Mapping[str, Sequence[Sequence[float]]], way: str, other: str) -> float:
    """Return the median over repetitions of processor time of `way` over `other`, each taken side by side."""
    return median(one[0] / two[0] for one, two in zip(seconds[way], seconds[other], strict=True))


def main(given: Sequence[str]) -> None:
    """Print one JSON object: times of several ways side by side, or a run of one way for its peak."""
    settings = DpStep.model_validate_json(given[0])
    ways = [way for way in WAYS if way in given[1].split(",")]
    torch.set_num_threads(settings.threads)
    print(json.dumps(time_ways(settings, ways) if len(ways) > 1 else peak_of(settings, ways[0])))
