"""One noise-free federation, seven ways on the same rows: what `fugou bench round-overhead` runs in processes of its own.

    bare      a Python loop: PEFT, autograd, SGD, the mean of B, on rows that are ready
    plain     a Python loop around fugou's own training of one merchant, which also reads, poses and encodes the rows
    charged   the plain loop, with each merchant's charge on disk before it trains and its update on disk after: the least
              that a private federation must do, and the loop that does the same work as fugou
    fugou     the whole house: Flower's messages, checks, policies, ledgers, checkpoints
    flower, pfl, nvflare   others' frameworks around the bare step (`simulations.peers`)

`bare` and the peers get their rows for nothing and charge nothing, the other three make their rows anew as merchants do.
There is no noise and nobody is left out of a step, so all ways must end with the same adapter. Under int8 all stand on one
base whose weights eight bits can say: to fugou's own training in eight bits, to the others in float32.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch
from pydantic import Field
from transformers import GPT2Config, GPT2LMHeadModel

from client.config import POLICY, load_merchant
from client.data.dataset import Dataset, make_dataset
from client.data.sources import read_shop
from client.round import open_ledger
from client.train.products import on_grid
from client.train.sampling import poisson, randomness_for
from client.train.trainer import LocalSettings, train_round
from common.config import Settings
from common.errors import UserError
from common.lora import Adapter, Bench, bench, digest, initial, to_bytes
from common.methods import trained
from common.model import DEFAULT, load_base
from common.privacy.plan import RoundPlan, plan_round
from common.privacy.policy import load_policy
from server.rounds import latest_round
from simulations import peers
from simulations.crowd import write_base
from simulations.engines import lead
from simulations.folder import Run, begin, resumed
from simulations.merchants import make_world, prepare
from simulations.peers import Course, Stopwatch
from simulations.scenario import load_scenario

Way: TypeAlias = Literal["bare", "plain", "charged", "fugou", "flower", "pfl", "nvflare"]
WAYS: tuple[Way, ...] = ("bare", "plain", "charged", "fugou", "flower", "pfl", "nvflare")
ELSEWHERE = ("flower", "nvflare")
"""Ways that work in processes of their own, whose seconds of processor are not ours to read."""
METHOD = "ffa"  # what is averaged is B alone, so that a mean of weights is all that any peer has to do
UNCLIPPED = 1e6
NEAR: Mapping[str, float] = {"float32": 1e-5, "int8": 3e-4}
"""How far two ways' checksums may lie apart, of the adapter's norm; eight bits give gradients within a part in 10,000."""
RUN, ROWS = "run", "rows.npz"


class Overhead(Settings):
    """The federation that is led."""

    base: str = Field("", description="base to stand on, such as default; empty: random weights")
    shape: Literal["tiny", "gpt2"] = Field(
        "tiny",
        description="of random weights: tiny has two layers, gpt2 124M parameters and the default base's tokenizer",
    )
    precision: Literal["float32", "int8"] = Field(
        "float32", description="of the base in fugou's training; all ways stand on weights that it can say"
    )
    merchants: Annotated[int, Field(ge=1, le=1000)] = Field(4, description="merchants, all asked in every round")
    steps: Annotated[int, Field(ge=1, le=100)] = Field(1, description="steps of a merchant in a round")
    rounds: Annotated[int, Field(ge=2, le=1000)] = Field(
        12, description="rounds; the first warms up and is not counted"
    )
    customers: Annotated[int, Field(ge=2, le=1000)] = Field(8, description="customers a shop, all in every step")
    tokens: Annotated[int, Field(ge=16, le=256)] = Field(64, description="bound of a customer's row")
    threads: Annotated[int, Field(ge=1, le=256)] = Field(1, description="threads of torch")
    repetitions: Annotated[int, Field(ge=1, le=100)] = Field(5, description="runs of every way, in turn")
    ways: tuple[Way, ...] = Field(WAYS, description="ways to compare; pfl and nvflare get an environment of their own")


# --- what all ways share ---


def open_run(settings: Overhead, folder: Path) -> Run:
    """Return a new run of that federation in `folder`: base, shops, policies without noise."""
    changes: dict[str, Any] = {
        "scenario.merchants": settings.merchants,
        "world.customers": settings.customers,
        "world.weeks": 20,
        "model.base": base_of(settings, folder),
        "training.method": METHOD,
        "training.rounds": settings.rounds,
        "training.robust": "none",
        "training.reference": False,
        "training.local_rate": 0.1,
        "privacy.epsilon": math.inf,
        "privacy.spare_rounds": 0,
        "privacy.rate": 1.0,
        "privacy.steps": settings.steps,
        "privacy.clip_norm": UNCLIPPED,
        "privacy.divisor": float(settings.customers),
        "privacy.max_tokens": settings.tokens,
        "engine.threads": settings.threads,
        "engine.microbatch": settings.customers,
        "engine.precision": settings.precision,
    }
    run = begin(folder / RUN, load_scenario("shops-zh", changes))
    prepare(run, make_world(run.scenario), lambda _: None)
    return run


def base_of(settings: Overhead, folder: Path) -> str:
    """Return the base that every way stands on, made in `folder` where it is not there already."""
    base = settings.base
    if not base and settings.shape == "tiny":
        base = str(write_base(folder / "base"))
    if base and settings.precision == "float32":
        return base
    loaded, made = load_base(base or DEFAULT), folder / "made"
    model = loaded.model if base else GPT2LMHeadModel(GPT2Config(bos_token_id=loaded.end, eos_token_id=loaded.end))
    if settings.precision == "int8":
        on_grid(model)
    model.save_pretrained(made)
    loaded.tokenizer.save_pretrained(made)
    return str(made)


def plan_of(run: Run, merchant: str, number: int) -> RoundPlan:
    """Return the plan of one merchant's round."""
    return plan_round(run.scenario.policy(merchant, run.scenario.model.base_digest), run.id, number, METHOD)


def datasets(run: Run, work: Bench) -> dict[str, Dataset]:
    """Return every merchant's training set, as its node makes it."""
    found = {}
    for folder in sorted(run.merchants):
        settings, privacy = load_merchant(folder), run.scenario.privacy
        found[folder.name] = make_dataset(
            read_shop(settings), work.base, privacy.max_tokens, privacy.max_records_per_customer, settings.train.until
        )
    return found


def write_rows(run: Run, file: Path) -> None:
    """Write every row that every merchant trains on, (rounds, merchants, steps, customers, tokens), and which ids count."""
    work = bench(run.scenario.model.base, run.scenario.lora)
    sets, steps = datasets(run, work), range(run.scenario.privacy.steps)
    ids, counts = [], []
    for number in range(1, run.scenario.training.rounds + 1):
        for merchant, dataset in sets.items():
            plan = plan_of(run, merchant, number)
            randomness = randomness_for(plan, run.scenario.training.seed)
            for _ in steps:
                rows = dataset.rows(poisson(len(dataset), plan.rate, randomness).tolist(), randomness)
                ids.append(rows.ids_BT)
                counts.append(rows.weights)
    shape = (-1, len(sets), len(steps), *ids[0].shape)
    np.savez(file, ids=np.stack(ids).reshape(shape), counts=np.stack(counts).reshape(shape))


# --- the ways ---


Step: TypeAlias = Callable[[str, RoundPlan], Adapter]
"""One merchant's part in a round by hand: its name and plan in, its update out."""


def plain(run: Run, file: Path) -> Course:
    """Lead the rounds as a loop over fugou's own training, without messages, ledgers and checkpoints."""
    del file
    return by_hand(run, lambda step: step)


def charged(run: Run, file: Path) -> Course:
    """Lead the rounds as the plain loop with every merchant's ledger: charged before it trains, released after."""
    del file
    with ExitStack() as stack:
        policies = {one.name: load_policy(one / POLICY) for one in run.merchants}
        ledgers = {one.name: stack.enter_context(open_ledger(one, policies[one.name])) for one in run.merchants}

        def paid(step: Step) -> Step:
            def both(merchant: str, plan: RoundPlan) -> Adapter:
                mine = plan_round(policies[merchant], plan.run, plan.round, plan.adapter_digest)
                with ledgers[merchant].reserve(mine) as reservation:
                    reservation.touch()
                    change = step(merchant, plan)
                    ledgers[merchant].release(reservation, to_bytes(change))
                return change

            return both

        return by_hand(run, paid)


def by_hand(run: Run, around: Callable[[Step], Step]) -> Course:
    """Lead the rounds as a loop over fugou's own training of one merchant, with `around` around it."""
    scenario, watch = run.scenario, Stopwatch()
    work = bench(scenario.model.base, scenario.lora)
    sets, shared = datasets(run, work), initial(work.model, scenario.training.seed)
    names = trained(shared, METHOD, 1)
    policies = {merchant: scenario.policy(merchant, scenario.model.base_digest) for merchant in sets}

    def train(merchant: str, plan: RoundPlan) -> Adapter:
        randomness, rate = randomness_for(plan, scenario.training.seed), scenario.training.local_rate
        return train_round(
            work.model, shared, sets[merchant], plan, randomness, method=METHOD, local_rate=rate, settings=local(run)
        )

    step = around(train)
    watch.stroke()
    for number in range(1, scenario.training.rounds + 1):
        start = digest(shared)
        changes = [step(one, plan_round(policies[one], run.id, number, start)) for one in sets]
        shared = shared | {n: shared[n] + torch.stack([one[n] for one in changes]).mean(0) for n in names}
        watch.stroke()
    return watch.course({name: shared[name] for name in names})


def local(run: Run) -> LocalSettings:
    """Return how every merchant of the run computes."""
    engine = run.scenario.engine
    return LocalSettings(microbatch=engine.microbatch, precision=engine.precision, padding=engine.padding)


def fugou(run: Run, file: Path) -> Course:
    """Lead the rounds with everything that a simulation has but its measurements of quality."""
    del file
    watch = Stopwatch()
    lead(run, watch.stroke)
    last = latest_round(run.folder)
    assert last is not None
    return watch.course({name: last.adapter[name] for name in trained(last.adapter, METHOD, 1)})


LEADERS: Mapping[Way, Callable[[Run, Path], Course]] = {
    "bare": peers.bare,
    "plain": plain,
    "charged": charged,
    "fugou": fugou,
    "flower": peers.flower,
    "pfl": peers.pfl,
    "nvflare": peers.nvflare,
}


def ready_folder(settings: Overhead, folder: Path) -> dict[str, int]:
    """Write base, run and rows that every way begins from into `folder`; return how much there is to train on."""
    torch.set_num_threads(settings.threads)
    run = open_run(settings, folder)
    write_rows(run, folder / ROWS)
    with np.load(folder / ROWS) as rows:
        return {"merchant-rounds": settings.merchants * settings.rounds, "tokens": int(rows["counts"].sum())}


def facts_of(settings: Overhead, way: Way, folder: Path) -> dict[str, Any]:
    """Return seconds a round, seconds in all, and size and checksum of what one way ended with.

    The checksum weighs every number by its place, so that no two different adapters are taken for the same.
    """
    torch.set_num_threads(settings.threads)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        shutil.copytree(folder / RUN, Path(own) / RUN)
        run = resumed(Path(own) / RUN, None)
        began = time.perf_counter()
        course = LEADERS[way](run, folder / ROWS)
        total = time.perf_counter() - began
    flat = torch.cat([one.flatten() for _, one in sorted(course.final.items())]).double()
    checksum = float((flat * torch.arange(1, len(flat) + 1).double().sin()).sum())
    return {
        "seconds": course.seconds,
        "cpu": course.cpu,
        "total": total,
        "norm": float(flat.norm()),
        "checksum": checksum,
    }


def compare(courses: Mapping[str, Sequence[Mapping[str, Any]]], near: float) -> dict[str, float | str]:
    """Return each way's median seconds a round and in all, fugou's over the others', and how far the adapters differ.

    Seconds of processor are of the way's own process: what Ray's actors take is not in them.

    Raises `UserError` when a way's checksum is further than `near` norms from the first's: then it did other work.
    """
    each, cpu = (
        {way: median(second for one in runs for second in one[clock]) for way, runs in courses.items()}
        for clock in ("seconds", "cpu")
    )
    facts: dict[str, float | str] = {f"{way} s a round": seconds for way, seconds in each.items()}
    facts |= {f"{way} cpu s a round": seconds for way, seconds in cpu.items() if way not in ELSEWHERE}
    facts |= {f"{way} s in all": median(one["total"] for one in runs) for way, runs in courses.items()}
    others = [way for way in each if way != "fugou" and "fugou" in each]
    facts |= {f"fugou / {way}": each["fugou"] / each[way] for way in others}
    facts |= {f"fugou / {way} cpu": cpu["fugou"] / cpu[way] for way in others if way not in ELSEWHERE}
    ends = {way: one for way, runs in courses.items() for one in runs}
    first = next(iter(ends.values()))
    for way, one in ends.items():
        if abs(one["checksum"] - first["checksum"]) > near * first["norm"]:
            raise UserError(f"{way} ended with checksum {one['checksum']}, not {first['checksum']}: it did other work")
    spread = max(abs(one["checksum"] - first["checksum"]) for one in ends.values())
    return {**facts, "checksum": first["checksum"], "spread of checksums": spread, "norm": first["norm"]}


def main(given: Sequence[str]) -> None:
    """Print the facts of one way, or of what was made ready for all of them, as a JSON object."""
    settings, folder = Overhead.model_validate_json(given[0]), Path(given[2])
    way = next((way for way in WAYS if way == given[1]), None)
    print(json.dumps(facts_of(settings, way, folder) if way else ready_folder(settings, folder)))
