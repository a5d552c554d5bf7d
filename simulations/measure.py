"""What the simulator may see and nobody else: every shop's held-out weeks, after every round.

Nothing here travels: in a real federation the same figures stay in each shop (`fugou merchant evaluate`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from client.round import first_own, own_parts
from client.use.copywriter import write
from client.use.evaluate import HeldOut, Nats, held_out, losses, rankings, summarise
from common.errors import UserError
from common.factors import opened
from common.files import write_atomic
from common.lora import Bench, bench, put, residual_in
from common.methods import METHODS
from common.metrics import perplexity
from common.ranking import Floats
from common.schema import Shop
from server.aggregation import residual_of
from server.rounds import METRICS, figures, load_round, read_record
from simulations.engines import SECONDS
from simulations.folder import Run
from simulations.merchants import ids_of, until

SAMPLES = 4
KEPT = 32
"""Shops whose held-out weeks stay in memory; those of the others are made again whenever they are measured."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Held:
    """Every shop's held-out weeks by merchant id."""

    shops: Mapping[str, HeldOut] = field(repr=False)
    bench: Bench = field(repr=False)
    counts: dict[str, int] = field(default_factory=dict, repr=False)

    def customers(self, merchant: str) -> int | None:
        """Return how many customers a shop has; None for one that is not measured."""
        if merchant in self.shops and merchant not in self.counts:
            self.counts[merchant] = self.shops[merchant].customers
        return self.counts.get(merchant)


class Shelf(Mapping[str, HeldOut]):
    """Every measured shop's held-out weeks, made when they are looked at; the first `KEPT` of them are kept."""

    def __init__(self, places: Mapping[str, int], make: Callable[[int], HeldOut]) -> None:
        self._places, self._make = places, make
        self._kept: dict[str, HeldOut] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, merchant: object) -> bool:
        return merchant in self._places

    def __getitem__(self, merchant: str) -> HeldOut:
        place = self._places[merchant]
        held = self._kept.get(merchant) or self._make(place)
        if len(self._kept) < KEPT:
            self._kept[merchant] = held
        return held


def hold_out(run: Run, shops: Sequence[Shop]) -> Held:
    """Return the held-out weeks of the shops that are measured."""
    scenario = run.scenario
    work, wanted = bench(scenario.model.base, scenario.lora), scenario.evaluation
    counts: dict[str, int] = {}
    places = {name: place for place, name in enumerate(ids_of(shops)) if not wanted.shops or place < wanted.shops}

    def make(place: int) -> HeldOut:
        shop, tokens = shops[place], scenario.privacy.max_tokens
        held = held_out(shop, work.base, until(scenario), tokens, wanted.per_task, wanted.questions)
        counts[shop.id] = held.customers
        return held

    return Held(Shelf(places, make), work, counts)


def measure(run: Run, held: Held, number: int, report: Report) -> None:
    """Append the line of round `number` to `metrics.jsonl`, unless it is there already."""
    lines = read_metrics(run.folder)
    for missing in range(number + 1):
        if missing not in {line["round"] for line in lines}:
            lines.append(_measured(run, held, missing))
            text = "".join(
                json.dumps(line, ensure_ascii=False) + "\n" for line in sorted(lines, key=lambda one: one["round"])
            )
            write_atomic(run.folder / METRICS, text)
            report(outcome(lines[-1], run.scenario.training.rounds))


def outcome(line: Mapping[str, Any], rounds: int) -> str:
    """Return one line about a measured round."""
    done, total = line["replies"].get("done", 0), sum(line["replies"].values())
    who = f", {done} of {total} merchants" if total else ""
    who += f", round {line['back_to']} again" if "back_to" in line else ""
    return f"round {line['round']}/{rounds}{who}: held-out perplexity {line['perplexity']:.2f}, {line['seconds']:.1f} s"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl`, none when it is not there."""
    path = folder / METRICS
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; remove it and --resume measures every round again") from None


def _measured(run: Run, held: Held, number: int) -> dict[str, Any]:
    began = time.monotonic()
    ends = number == 0 or number >= run.scenario.training.rounds
    found, scored, head = {}, [], head_of(run, number)
    for merchant, work in models(run, number, held.shops):
        shop = held.shops[merchant]
        found[merchant] = losses(work, shop)
        scored += rankings(shop, head) if ends else []
    record = read_record(run.folder, number)
    trained = sum(seconds_of(run.folder / "merchants" / one["merchant"], number) for one in record["merchants"])
    parts = dict(record["parts"])
    if run.scenario.engine.name == "inline" and "messages" in parts:
        parts = {"train": trained, "messages": max(parts["messages"] - trained, 0.0), "aggregate": parts["aggregate"]}
    parts["evaluate"] = time.monotonic() - began
    tasks = sorted({task for by_task in found.values() for task in by_task})
    return {
        **figures({**record, "parts": {name: round(seconds, 3) for name, seconds in parts.items()}}),
        **_perplexity([nats for by_task in found.values() for nats in by_task.values()]),
        "perplexity_by_task": {
            task: _perplexity([by_task[task] for by_task in found.values() if task in by_task])["perplexity"]
            for task in tasks
        },
        "by_merchant": {merchant: _perplexity(list(by_task.values())) for merchant, by_task in found.items()},
        **({"recommend": {"customers": len(scored), **summarise(scored)}} if scored else {}),
    }


def head_of(run: Run, number: int) -> Mapping[str, Floats] | None:
    """Return the recommendation head after round `number`, or None where none is trained."""
    state = load_round(run.folder, number).head
    return state.head if state else None


def models(run: Run, number: int, merchants: Iterable[str]) -> Iterator[tuple[str, Bench]]:
    """Yield every merchant with the model it has after round `number`: the shared adapter, in its method's own way.

    A residual lies in the frozen weights and a merchant's own parts beside the shared ones while the pair is in use.
    """
    saved = load_round(run.folder, number)
    method, lora = run.scenario.training.method, run.scenario.lora
    personal = METHODS[method].own or METHODS[method].stays
    wide = lora.model_copy(update={"rank": 2 * lora.rank, "alpha": 2 * lora.alpha}) if METHODS[method].own else lora
    work = bench(run.scenario.model.base, wide)
    with residual_in(work.model, residual_of(saved.state), lora.alpha / lora.rank):
        if not personal:
            put(work.model, saved.adapter)
        for merchant in merchants:
            if personal:
                owner = run.scenario.scenario.arm if run.scenario.scenario.arm == "central" else merchant
                kept = own_parts(run.folder / "merchants" / owner, run.id, number + 1, method)
                if METHODS[method].own and not kept:
                    kept = first_own(work, run.scenario.training.seed, lora.rank)
                put(work.model, opened(saved.adapter, kept, method))
            yield merchant, work


def copy_samples(run: Run, held: Held, last: int) -> list[dict[str, str]]:
    """Return one held-out campaign of each of the first shops: the base's words, the shared model's, the shop's own."""
    shops = dict(islice(((merchant, shop.copy[0]) for merchant, shop in held.shops.items() if shop.copy), SAMPLES))
    texts = {}
    for name, number in (("before", 0), ("after", last)):
        for merchant, work in models(run, number, shops):
            texts[name, merchant] = "\n".join(write(work, shops[merchant].prompt, 1))
    return [
        {
            "merchant": merchant,
            "prompt": shops[merchant].prompt,
            "before": texts["before", merchant],
            "after": texts["after", merchant],
            "reference": shops[merchant].target,
        }
        for merchant in shops
    ]


def _perplexity(nats: Sequence[Nats]) -> dict[str, Any]:
    tokens = sum(one.tokens for one in nats)
    return {"perplexity": round(perplexity(math.fsum(one.total for one in nats), tokens), 4), "tokens": tokens}


def seconds_of(folder: Path, number: int) -> float:
    """Return how long the merchant's last answer in round `number` took."""
    with suppress(FileNotFoundError):
        lines = [json.loads(line) for line in (folder / SECONDS).read_text().splitlines()]
        return float(next((line["seconds"] for line in reversed(lines) if line["round"] == number), 0.0))
    return 0.0
