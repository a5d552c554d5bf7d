"""The same work done three ways: together and privately, by each shop alone, and on all rows in one place.

    federated   every shop trains on its own rows, the coordinator aggregates        (the run itself)
    local       every shop trains alone: as many rounds, steps and as much epsilon   arms/local/<shop>/
    central     one merchant holds all shops' rows: an upper bound that nobody may
                have, as rows would have to leave their shops                        arms/central/

Every arm is a run folder of its own, trained through the same code under the same policy; central divides by the sum of
the shops' public divisors, so a customer weighs as much as in the mean of the federation. All arms are measured on the
same held-out examples, so their difference is taken customer by customer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from client.use.evaluate import example_losses, rankings, summarise
from common.errors import UserError
from common.files import write_atomic
from common.metrics import perplexity
from common.schema import Shop
from server.rounds import latest_round
from simulations.engines import lead
from simulations.folder import Run, begin, resumed
from simulations.measure import Held, head_of, models
from simulations.merchants import prepare, shops_of
from simulations.scenario import Scenario

FOLDER, LOSSES, ARMS = "arms", "losses.json", "arms.json"
RESAMPLES = 2000

Report = Callable[[str], None]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Loss:
    """One held-out example under one model: summed nats over its target tokens."""

    merchant: str
    customer: str
    task: str
    nats: float
    tokens: int


@dataclass(frozen=True)
class Difference:
    """How much one arm's perplexity lies above (+) or below (-) another's, in per cent, with a 95 % interval."""

    arm: str
    than: str
    percent: float
    low: float
    high: float
    customers: int


def run_arms(run: Run, shops: Sequence[Shop], held: Held, report: Report) -> None:
    """Train every further arm of `run`, measure all of them and write `arms.json`; what is on disk is kept."""
    score_last(run, held)
    for arm in run.scenario.scenario.arms[1:]:
        names = [f"local:{merchant}" for merchant in held.shops] if arm == "local" else [arm]
        for place, name in enumerate(names):
            report(f"arm {arm}: {place + 1} of {len(names)}")
            _one(run, name, shops, held)
    write_atomic(run.folder / ARMS, json.dumps(compared(run), ensure_ascii=False, indent=1) + "\n")


def _one(run: Run, arm: str, shops: Sequence[Shop], held: Held) -> None:
    """Train one arm's run and score its last round, unless that is done."""
    folder = arm_folder(run.folder, arm)
    if (folder / LOSSES).exists():
        return
    scenario = scenario_of(run.scenario, arm)
    sub = resumed(folder, scenario) if (folder / "scenario.toml").exists() else begin(folder, scenario)
    prepare(sub, shops_of(scenario, shops), lambda _: None)
    lead(sub, lambda _: None)
    seen = {arm.partition(":")[2]: held.shops[arm.partition(":")[2]]} if ":" in arm else held.shops
    score_last(sub, Held(seen, held.bench))


def scenario_of(scenario: Scenario, arm: str) -> Scenario:
    """Return the scenario of one further arm: `central`, or `local:<shop>`."""
    about = scenario.scenario.model_copy(update={"arm": arm, "arms": ("federated",)})
    return scenario.model_copy(update={"scenario": about})


def arm_folder(run: Path, arm: str) -> Path:
    """Return where an arm's run lies below the federated one.

    >>> arm_folder(Path("run"), "local:shop-1").as_posix()
    'run/arms/local/shop-1'
    """
    return run.joinpath(FOLDER, *arm.split(":")) if arm != "federated" else run


def score_last(run: Run, held: Held) -> None:
    """Write `losses.json`: every held-out example under the run's last adapter, and the rankings' means."""
    last = latest_round(run.folder)
    if last is None:
        raise UserError(f"{run.folder} has no round; start it again with --resume")
    if (run.folder / LOSSES).exists() and _read_tree(run.folder / LOSSES)["round"] == last.number:
        return
    found, ranks, head = [], [], head_of(run, last.number)
    for merchant, work in models(run, last.number, held.shops):
        shop = held.shops[merchant]
        ranks += rankings(shop, head)
        found += [
            [merchant, customer, task, round(nats.total, 6), nats.tokens]
            for task, losses in example_losses(work, shop).items()
            for customer, nats in zip(shop.owners[task], losses, strict=True)
        ]
    tree = {"round": last.number, "losses": found, "recommend": {"customers": len(ranks), **summarise(ranks)}}
    write_atomic(run.folder / LOSSES, json.dumps(tree, ensure_ascii=False) + "\n")


def read_losses(folder: Path) -> tuple[list[Loss], dict[str, Any]]:
    """Return what `score_last` wrote; raise `UserError` for a file that is damaged."""
    tree = _read_tree(folder / LOSSES)
    return tree["losses"], tree["recommend"]


def _read_tree(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text("utf-8"))
        losses = [Loss(str(m), str(c), str(t), float(n), int(k)) for m, c, t, n, k in tree["losses"]]
        return {"round": int(tree["round"]), "losses": losses, "recommend": tree["recommend"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and --resume measures it again") from None


def losses_of(run: Path, arm: str) -> tuple[list[Loss], list[dict[str, Any]]]:
    """Return the held-out losses of an arm in one order, and the ranking figures of its runs."""
    folders = sorted(arm_folder(run, arm).iterdir()) if arm == "local" else [arm_folder(run, arm)]
    parts = [read_losses(folder) for folder in folders if folder.is_dir()]
    losses = sorted((one for found, _ in parts for one in found), key=lambda one: (one.merchant, one.task))
    return losses, [recommend for _, recommend in parts]


def compared(run: Run) -> dict[str, Any]:
    """Return the content of `arms.json`: each arm's figures, and every difference from the federated arm."""
    found = {arm: losses_of(run.folder, arm) for arm in run.scenario.scenario.arms}
    ours = found["federated"][0]
    differences = [difference("federated", ours, arm, found[arm][0]) for arm in found if arm != "federated"]
    return {
        "arms": {arm: _figures(losses, recommend) for arm, (losses, recommend) in found.items()},
        "differences": [vars(one) for one in differences],
    }


def _figures(losses: Sequence[Loss], recommend: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    customers = sum(one["customers"] for one in recommend)
    means = {
        measure: {
            ranker: sum(one["customers"] * one[measure][ranker] for one in recommend if one["customers"]) / customers
            for ranker in next(one for one in recommend if one["customers"])[measure]
        }
        for measure in (("recall@10", "ndcg@10") if customers else ())
    }
    return {
        **_perplexity(losses),
        "by_task": {task: _perplexity([one for one in losses if one.task == task]) for task in _names(losses, "task")},
        "by_merchant": {
            name: _perplexity([one for one in losses if one.merchant == name]) for name in _names(losses, "merchant")
        },
        **({"recommend": {"customers": customers, **means}} if customers else {}),
    }


def _names(losses: Sequence[Loss], what: str) -> list[str]:
    return sorted({getattr(one, what) for one in losses})


def _perplexity(losses: Sequence[Loss]) -> dict[str, Any]:
    tokens = sum(one.tokens for one in losses)
    return {"perplexity": round(perplexity(sum(one.nats for one in losses), tokens), 4), "tokens": tokens}


def difference(arm: str, ours: Sequence[Loss], than: str, theirs: Sequence[Loss], seed: int = 0) -> Difference:
    """Return how far `ours` lies from `theirs` on the same examples: 100 (exp(mean nats a token, ours - theirs) - 1).

    The interval is a paired percentile bootstrap (Efron & Tibshirani 1993, chapter 13) over customers, drawn within
    each merchant; the merchants, and the noise of this one run, are as they are. Raises `UserError` when the examples
    differ.
    """
    tables = losses_by_customer(ours, theirs)
    generator = np.random.default_rng(seed)
    drawn = sum((_resampled(table, generator) for table in tables), np.zeros((RESAMPLES, 2)))
    total = np.sum([table.sum(0) for table in tables], axis=0)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    percent, low, high = (round(100 * float(np.expm1(one)), 4) for one in (total[0] / total[1], low, high))
    return Difference(arm, than, percent, low, high, sum(map(len, tables)))


def losses_by_customer(ours: Sequence[Loss], theirs: Sequence[Loss]) -> list[Array]:
    """Return one table a merchant, (customers, 2): the difference in nats and the tokens; both measured alike.

    Raises `UserError` when the two were measured on different examples.
    """
    same = [(one.merchant, one.customer, one.task, one.tokens) for one in ours]
    if same != [(one.merchant, one.customer, one.task, one.tokens) for one in theirs]:
        raise UserError("two models were measured on different examples; measure them again on the same scenario")
    return [_by_customer(ours, theirs, merchant) for merchant in _names(ours, "merchant")]


def _by_customer(ours: Sequence[Loss], theirs: Sequence[Loss], merchant: str) -> Array:
    """Return (customers, 2): the difference in nats and the tokens of every customer of one merchant."""
    sums: dict[str, list[float]] = {}
    for mine, other in zip(ours, theirs, strict=True):
        if mine.merchant == merchant:
            entry = sums.setdefault(mine.customer, [0.0, 0.0])
            entry[0] += mine.nats - other.nats
            entry[1] += mine.tokens
    return np.array(list(sums.values()))


def _resampled(table_C2: Array, generator: np.random.Generator) -> Array:
    """Return (RESAMPLES, 2): sums over as many customers, drawn with replacement."""
    count = len(table_C2)
    counts: Array = generator.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)
    summed: Array = counts @ table_C2
    return summed
