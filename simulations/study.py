"""A study: many short runs that differ in a few settings, several seeds each, one table with intervals.

    sweep       settings varied against each other; every combination is a cell
    tuning      a cell may try a few values of one more setting on a seed of its own, and each of its arms keeps its
                best; that seed is in no table, so the choice has seen none of the figures that are reported
    cell        the chosen settings on every seed of the study

A cell's figure is the mean over seeds of the held-out nats a token. Two cells are compared seed by seed and customer by
customer: a paired bootstrap that draws seeds, then customers within each shop (Efron & Tibshirani 1993, chapter 13;
two levels as in Ren et al. 2010, doi:10.1080/02664760903046102), so that both the luck of the noise and the choice of
customers are in the interval.

Every run is on disk under runs/, named by what it ran; a study that was stopped goes on where it was, and the runs that
were under way begin anew.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import multiprocessing
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from common.config import Settings, parse_settings
from common.errors import UserError
from common.files import canonical_json, write_atomic
from simulations.arms import Loss, losses_by_customer, losses_of
from simulations.scenario import Arm, Scenario, load_scenario

RESULT, TABLE = "study.json", "study.md"
RESAMPLES = 2000

Report = Callable[[str], None]
Changes = Mapping[str, Any]


class Sweep(Settings):
    """Settings varied against each other."""

    name: str
    vary: Mapping[str, tuple[Any, ...]] = Field(min_length=1)
    arms: tuple[Arm, ...] = ("federated",)
    tune: Mapping[str, tuple[Any, ...]] = Field(default_factory=dict, max_length=1)
    against: Mapping[str, Any] = Field(default_factory=dict)
    """The cell that others are compared with: the values of some of `vary`; the others stay equal."""


class Study(Settings):
    """A study file: what every run has in common, and the sweeps."""

    name: str
    title: str = ""
    scenario: str = "shops-zh"
    seeds: tuple[int, ...] = Field(min_length=2)
    tune_seed: int = 1
    changes: Mapping[str, Any] = Field(default_factory=dict)
    sweep: tuple[Sweep, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Cell:
    """One row of a table: the settings it varies, those that were tuned for it, and its figure."""

    settings: Changes
    tuned: Changes
    arm: Arm
    perplexity: float
    by_seed: tuple[float, ...]


@dataclass(frozen=True)
class Gap:
    """How far a cell's perplexity lies above (+) or below (-) that of the one it is held against, in per cent."""

    percent: float
    low: float
    high: float


def shipped_studies() -> dict[str, Path]:
    """Return name -> file of every study that ships."""
    folder = Path(str(resources.files("simulations"))) / "scenarios"
    return {path.stem: path for path in sorted(folder.glob("study-*.toml"))}


def load_study(name: str) -> Study:
    """Return the shipped study `name`, or the one in the file `name`; raise `UserError` for one that cannot be run."""
    known = shipped_studies()
    path = known.get(name) or Path(name)
    try:
        study = parse_settings(Study, tomllib.loads(path.read_text("utf-8")), f"study {path}")
    except OSError as error:
        names = ", ".join(known) or "none"
        raise UserError(f"study {name!r} cannot be read: {error.strerror}; shipped: {names}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"study {path} is not TOML: {error}") from None
    if study.tune_seed in study.seeds:
        raise UserError(f"study {path}: tune_seed = {study.tune_seed} is among the seeds; tune on a seed of its own")
    for sweep in study.sweep:
        for changes in cells(sweep):
            scenario_of(study, changes, study.seeds[0], sweep.arms)
    return study


def cells(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Yield every combination of the sweep's values.

    >>> list(cells(Sweep(name="s", vary={"a.b": (1, 2), "a.c": (3,)})))
    [{'a.b': 1, 'a.c': 3}, {'a.b': 2, 'a.c': 3}]
    """
    for values in itertools.product(*sweep.vary.values()):
        yield dict(zip(sweep.vary, values, strict=True))


def scenario_of(study: Study, changes: Changes, seed: int, arms: Sequence[Arm]) -> Scenario:
    """Return the scenario of one run with those of `arms` and, as every run has it, the federated one."""
    wanted = ("federated", *(arm for arm in arms if arm != "federated"))
    seeds = {"scenario.seed": seed, "training.seed": seed, "scenario.arms": wanted}
    return load_scenario(study.scenario, {**study.changes, **changes, **seeds})


def run_folder(out: Path, scenario: Scenario) -> Path:
    """Return where the run of `scenario` lies: runs/ and the first digits of a digest of its settings."""
    text = _key(scenario.model_dump(mode="json"))
    return out / "runs" / hashlib.sha256(text.encode()).hexdigest()[:16]


def _key(settings: Changes) -> str:
    """Return one text for settings, whatever their order."""
    return canonical_json(plain(settings))


def plain(value: Any) -> Any:
    """Return `value` as strict JSON can hold it: infinity, which an epsilon may be, as the text "inf".

    >>> plain({"privacy.epsilon": [8.0, float("inf")]})
    {'privacy.epsilon': [8.0, 'inf']}
    """
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def run_study(study: Study, out: Path, report: Report, jobs: int = 1) -> dict[str, Any]:
    """Run what is still to run, `jobs` runs at a time, and return the content of study.json.

    It and study.md are written after every sweep, so that the first tables can be read while the others are made.
    """
    _claim(study, out)
    tables: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for sweep in study.sweep:
        tables.append(_run_sweep(study, sweep, out, report, jobs))
        result = {"study": plain(study.model_dump(mode="json")), "sweeps": plain(tables)}
        write_atomic(out / RESULT, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
        write_atomic(out / TABLE, as_markdown(study, tables))
        report(str(out / TABLE))
    return result


def _claim(study: Study, out: Path) -> None:
    """Write the study into its folder, or check that the folder is of the same study."""
    path, text = (
        out / "asked.json",
        json.dumps(plain(study.model_dump(mode="json")), ensure_ascii=False, indent=1) + "\n",
    )
    if path.exists():
        if path.read_text("utf-8") != text:
            raise UserError(f"{out} holds another study or other settings of it; choose another folder with -o")
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and holds no study; choose another folder with -o")
    else:
        write_atomic(path, text)


def _run_sweep(study: Study, sweep: Sweep, out: Path, report: Report, jobs: int) -> dict[str, Any]:
    every = list(cells(sweep))
    tries = [{**one, **tried} for one in every for tried in _tries(sweep)]
    tuning = [scenario_of(study, one, study.tune_seed, sweep.arms) for one in tries]
    _run(f"{sweep.name}, tuning", tuning, out, report, jobs)
    chosen = [(one, arm, _tuned(study, sweep, one, out, arm)) for one in every for arm in sweep.arms]
    asked = {(_key(one), arm): _asked(study, one, tuned, chosen) for one, arm, tuned in chosen}
    _run(sweep.name, [run for runs in asked.values() for run in runs], out, report, jobs)
    found = {
        (key, arm): [losses_of(run_folder(out, one), arm)[0] for one in runs] for (key, arm), runs in asked.items()
    }
    rows = [_cell(one, tuned, arm, found[_key(one), arm]) for one, arm, tuned in chosen]
    return {"name": sweep.name, "rows": [_row(sweep, row, found) for row in rows]}


def _asked(
    study: Study, changes: Changes, tuned: Changes, chosen: Sequence[tuple[Changes, Arm, Changes]]
) -> list[Scenario]:
    """Return the runs of one cell, one a seed, with every arm that chose the same tuned value."""
    arms = [arm for one, arm, value in chosen if (one, value) == (changes, tuned)]
    return [scenario_of(study, {**changes, **tuned}, seed, arms) for seed in study.seeds]


def _cell(changes: Changes, tuned: Changes, arm: Arm, losses: Sequence[Sequence[Loss]]) -> Cell:
    return Cell(changes, tuned, arm, math.exp(sum(map(nats, losses)) / len(losses)), _perplexities(losses))


def _perplexities(losses: Sequence[Sequence[Loss]]) -> tuple[float, ...]:
    return tuple(round(math.exp(nats(one)), 4) for one in losses)


def _row(sweep: Sweep, row: Cell, found: Mapping[tuple[str, Arm], list[list[Loss]]]) -> dict[str, Any]:
    against: tuple[str, Arm] = (_key({**row.settings, **sweep.against}), "federated")
    mine = (_key(row.settings), row.arm)
    gap = None if against == mine or against not in found else vars(compare(found[mine], found[against]))
    return {**vars(row), "perplexity": round(row.perplexity, 4), "gap": gap}


def nats(losses: Sequence[Loss]) -> float:
    """Return the mean nats a token."""
    return math.fsum(one.nats for one in losses) / sum(one.tokens for one in losses)


def _tries(sweep: Sweep) -> list[dict[str, Any]]:
    """Return the values of the tuned setting that are tried for every cell."""
    return [{key: value} for key, values in sweep.tune.items() for value in values]


def _tuned(study: Study, sweep: Sweep, changes: Changes, out: Path, arm: str) -> dict[str, Any]:
    """Return the tuned setting with the lowest loss of that arm on the tuning seed: every arm has its own best."""
    tries = _tries(sweep)
    if not tries:
        return {}
    asked = [scenario_of(study, {**changes, **one}, study.tune_seed, sweep.arms) for one in tries]
    lost = [nats(losses_of(run_folder(out, one), arm)[0]) for one in asked]
    return tries[lost.index(min(lost))]


def _run(what: str, scenarios: Sequence[Scenario], out: Path, report: Report, jobs: int) -> None:
    """Run those of `scenarios` that were not run before, `jobs` at a time, each in a process of its own if several."""
    waiting = {folder: one for one in scenarios if not _is_done(folder := run_folder(out, one))}
    report(f"{what}: {len(waiting)} of {len({run_folder(out, one) for one in scenarios})} runs to do")
    started = time.monotonic()
    for number, _ in enumerate(_each(waiting, jobs), start=1):
        left = (time.monotonic() - started) / number * (len(waiting) - number) / 60
        report(f"{what}: run {number} of {len(waiting)}, {left:.0f} min left")


def _each(waiting: Mapping[Path, Scenario], jobs: int) -> Iterator[None]:
    if jobs == 1 or len(waiting) < 2:
        yield from map(_run_one, waiting.values(), waiting)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for done in as_completed([pool.submit(_run_one, one, folder) for folder, one in waiting.items()]):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_one(scenario: Scenario, folder: Path) -> None:
    from simulations.cli import quiet_libraries
    from simulations.run import train

    quiet_libraries()
    if folder.exists():
        shutil.rmtree(
            folder
        )  # a killed run has paid for a round that it never had: it would not be equal to the others
    train(scenario, folder)
    write_atomic(folder / "done", "")


def _is_done(folder: Path) -> bool:
    return (folder / "done").exists()


def compare(ours: Sequence[Sequence[Loss]], theirs: Sequence[Sequence[Loss]], seed: int = 0) -> Gap:
    """Return how far `ours`, one list of losses a seed, lies from `theirs`: 100 (exp(mean nats a token) - 1).

    The interval draws seeds with replacement, and customers with replacement within each shop of each seed.
    """
    generator = np.random.default_rng(seed)
    tables = [losses_by_customer(mine, other) for mine, other in zip(ours, theirs, strict=True)]
    each = np.array([np.sum([shop.sum(0) for shop in shops], axis=0) for shops in tables])
    drawn = np.stack([_resampled(shops, generator) for shops in tables])  # (seeds, RESAMPLES)
    picks = generator.integers(0, len(tables), (RESAMPLES, len(tables)))
    means = drawn[picks, np.arange(RESAMPLES)[:, None]].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    percent, low, high = (round(100 * float(np.expm1(one)), 4) for one in ((each[:, 0] / each[:, 1]).mean(), low, high))
    return Gap(percent, low, high)


def _resampled(shops: Sequence[Any], generator: np.random.Generator) -> Any:
    """Return (RESAMPLES,) differences in nats a token, customers drawn within each shop."""
    total = np.zeros((RESAMPLES, 2))
    for table_C2 in shops:
        count = len(table_C2)
        total += generator.multinomial(count, np.full(count, 1 / count), RESAMPLES) @ table_C2
    return total[:, 0] / total[:, 1]


# ---- the table


def words(changes: Changes) -> str:
    """Return settings as a person would say them.

    >>> words({"training.method": "ffa", "privacy.epsilon": 8.0})
    'method ffa, epsilon 8'
    """
    return ", ".join(f"{key.rpartition('.')[2]} {_value(value)}" for key, value in changes.items())


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_markdown(study: Study, tables: Sequence[Mapping[str, Any]]) -> str:
    """Return the tables of a study; every epsilon in them stands with delta, unit and period in the line above."""
    scenario = load_scenario(study.scenario, study.changes)
    privacy = scenario.privacy
    lines = [
        f"# {study.title or study.name}",
        "",
        f"Scenario `{study.scenario}` with {words(study.changes) or 'nothing changed'}; seeds "
        f"{', '.join(map(str, study.seeds))}; tuned on seed {study.tune_seed}. Epsilon is a merchant's cap at delta = "
        f"{privacy.delta:g} for one customer, period {privacy.period}. Perplexity is of held-out target tokens; the "
        "gap is in per cent of perplexity with a 95 % interval over seeds and customers.",
    ]
    for table in tables:
        lines += ["", f"## {table['name']}", "", *_markdown_rows(table["rows"])]
    return "\n".join(lines) + "\n"


def _markdown_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = list(rows[0]["settings"])
    tuned = list(rows[0]["tuned"])
    heads = [*(key.rpartition(".")[2] for key in keys), "arm", *(key.rpartition(".")[2] for key in tuned)]
    lines = [
        f"| {' | '.join(heads)} | perplexity | gap | 95 % interval |",
        f"| {' | '.join('---' for _ in heads)} | ---: | ---: | --- |",
    ]
    for row in rows:
        cells_ = (
            [_value(row["settings"][key]) for key in keys] + [row["arm"]] + [_value(row["tuned"][k]) for k in tuned]
        )
        gap = row["gap"]
        percent = f"{gap['percent']:+.1f} % | {gap['low']:+.1f} to {gap['high']:+.1f}" if gap else "– | –"
        lines.append(f"| {' | '.join(cells_)} | {row['perplexity']:.1f} | {percent} |")
    return lines
