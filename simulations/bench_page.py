"""`fugou bench all -o DIR`: every benchmark in turn, one file each, and a page that puts their figures side by side.

README.md holds the figures as one table, index.html the same with plots of what was measured beside what it is held against.

A benchmark whose file is in the folder is not run again, so a stopped run goes on where it was; one that fails is told on
the page and the others go on. Every row of the page names the one command that measures it again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.charts import Bar, BarRow, Caption, Column, Table, bar_chart
from common.charts import Figure as Drawing
from common.errors import FugouError, UserError
from common.files import write_atomic
from common.html import styled
from simulations.bench import run_benchmarks, short

Tell = Callable[[str], None]

PAGE, PLOTS = "README.md", "index.html"


@dataclass(frozen=True)
class Figure:
    """Numbers of a benchmark: of measurements whose name begins so, facts whose name ends so, and in which words."""

    measurement: str
    fact: str
    words: str


@dataclass(frozen=True)
class Plot:
    """Bars of a benchmark: of measurements whose name begins so, facts that match as a whole, and what they count.

    What the pattern's group holds is a bar's label; beside the facts there is each measurement's `peak MiB`.
    """

    measurement: str
    fact: str
    words: str


@dataclass(frozen=True)
class Case:
    """One run of a benchmark: its name, the settings that are not the usual ones, and what of it stands on the page."""

    bench: str
    changes: Mapping[str, Any]
    figures: tuple[Figure, ...]
    file: str = ""
    plots: tuple[Plot, ...] = ()

    @property
    def name(self) -> str:
        """What its file is called."""
        return self.file or self.bench

    @property
    def command(self) -> str:
        """The command that measures this again."""
        sets = (f"--set '{self.bench}.{key}={json.dumps(value)}'" for key, value in self.changes.items())
        return " ".join(["fugou bench", self.bench, *sets])


def _round(what: str) -> tuple[Figure, ...]:
    return (
        Figure("rounds", "fugou s a round", f"a round of four merchants, {what}, seconds"),
        Figure("rounds", "fugou / charged", "over a plain loop that charges and stores durably too"),
        Figure("rounds", "fugou / plain", "over a plain loop that writes nothing"),
        Figure("rounds", "fugou / flower", "over plain Flower on Ray"),
        Figure("rounds", "fugou / pfl", "over pfl"),
        Figure("rounds", "fugou / nvflare", "over NVIDIA FLARE's simulator"),
    )


def _step(what: str) -> tuple[Figure, ...]:
    return (
        Figure("times", "fast / plain", f"private step of 124 M parameters, {what}, over plain PEFT"),
        Figure("times", "fast / open", "over the same engine without privacy"),
        Figure("times", "fast / opacus", "over Opacus"),
    )


STEPS = (
    Plot("times", r"(plain|open|fast|opacus) cpu s", "processor seconds a step"),
    Plot("peak of ", "peak MiB", "peak memory, MiB"),
)
ROUNDS = (Plot("rounds", r"(\w+) s a round", "seconds a round"), Plot("rounds", r"(\w+) s in all", "seconds in all"))
CROWD = (
    Plot("", "peak MiB", "peak memory, MiB"),
    Plot("", "train ms a merchant-round", "milliseconds a merchant-round"),
)

CASES: tuple[Case, ...] = (
    Case("dp-step", {}, _step("full rows"), plots=STEPS),
    Case("dp-step", {"rows": "shops"}, _step("a shop's rows"), "dp-step-shops", STEPS),
    Case("dp-step", {"rows": "ragged"}, _step("rows of 8 to 64 ids"), "dp-step-ragged", STEPS),
    Case("dp-step", {"precision": "bfloat16"}, _step("full rows, base in bfloat16"), "dp-step-bfloat16", STEPS),
    Case("dp-step", {"precision": "int8"}, _step("full rows, base in eight bits"), "dp-step-int8", STEPS),
    Case(
        "dp-step",
        {"precision": "int8", "rows": "shops"},
        _step("a shop's rows, base in eight bits"),
        "dp-step-int8-shops",
        STEPS,
    ),
    Case("round-overhead", {}, _round("a base that costs nothing"), plots=ROUNDS),
    Case(
        "round-overhead",
        {"base": "default", "rounds": 5, "repetitions": 3},
        _round("the default base"),
        "round-overhead-default",
        ROUNDS,
    ),
    Case(
        "round-overhead",
        {"shape": "gpt2", "precision": "int8", "rounds": 4, "repetitions": 3, "threads": 2},
        _round("124 M parameters, base in eight bits"),
        "round-overhead-gpt2-int8",
        ROUNDS,
    ),
    Case(
        "merchants",
        {},
        (
            Figure("1000 merchants", "peak / first peak", "peak memory of 1,000 merchants over that of 100"),
            Figure("1000 merchants", "train ms a merchant-round", "milliseconds a merchant-round"),
        ),
        plots=CROWD,
    ),
    Case(
        "merchants",
        {"per_round": 0},
        (
            Figure(
                "1000 merchants", "peak / first peak", "all asked in each of ten rounds: peak memory over that of 100"
            ),
            Figure("1000 merchants", "train ms a merchant-round", "milliseconds a merchant-round"),
        ),
        "merchants-all",
        CROWD,
    ),
    Case(
        "recommend",
        {},
        (
            Figure("lists", " lists a second", "lists of ten a second on one thread"),
            Figure("lists", " recall@10", "recall@10 of them"),
        ),
        plots=(
            Plot("lists", "(.+) lists a second", "lists of ten a second"),
            Plot("lists", "(.+) recall@10", "recall@10 of the next order"),
        ),
    ),
    Case(
        "ingest",
        {},
        (Figure("csv", "lines a second", "order lines a second from a CSV"),),
        plots=(Plot("", "lines a second", "order lines a second"), Plot("", "peak MiB", "peak memory, MiB")),
    ),
    Case(
        "accounting",
        {},
        (Figure("accounting", "ours s", "seconds for epsilon of 10,000 rounds"),),
        plots=(Plot("accounting", "(.+) s", "seconds"),),
    ),
    Case(
        "aggregation",
        {},
        (Figure("aggregation", "fedsvd s", "seconds to add up 100 merchants by fedsvd"),),
        plots=(Plot("aggregation", "(.+) s", "seconds for 100 merchants"),),
    ),
    Case(
        "wire",
        {},
        (Figure("wire", "read s", "seconds to read and check a reply"),),
        plots=(Plot("wire", "(.+) s", "seconds a reply"),),
    ),
    Case(
        "membership",
        {},
        (Figure("", " AUC", "membership attack"),),
        plots=(Plot("", "(.+) AUC", "area under the ROC curve; 0.5 is chance"),),
    ),
    Case(
        "serve",
        {},
        (Figure("", " p99 ms", "99 in 100 answers of a shop's service within, milliseconds"),),
        plots=(Plot("", "(.+) p99 ms", "99 in 100 within, milliseconds"),),
    ),
)


def run_all(cases: Sequence[Case], folder: Path, tell: Tell) -> Path:
    """Run every case whose file is not in `folder` and return the page over all of them.

    Raises `UserError` when the folder cannot be written.
    """
    for case in cases:
        file = folder / f"{case.name}.json"
        if file.exists():
            tell(f"{case.name}: kept from before; remove {file} to measure it again")
            continue
        found = _measured(case, tell)
        if found:
            write_atomic(file, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
        _write(cases, folder)
    _write(cases, folder)
    return folder / PLOTS


def _write(cases: Sequence[Case], folder: Path) -> None:
    write_atomic(folder / PAGE, page(cases, folder))
    write_atomic(folder / PLOTS, plotted(cases, folder))


def _measured(case: Case, tell: Tell) -> dict[str, Any]:
    """Return what one case measured; nothing, said in a line, where it could not run."""
    try:
        return run_benchmarks([case.bench], {case.bench: dict(case.changes)}, tell)
    except (FugouError, OSError) as error:
        tell(f"{case.name}: not measured: {error}")
        return {}


def page(cases: Sequence[Case], folder: Path) -> str:
    """Return the page in Markdown: a table of figures with their commands, and the machine of each file."""
    rows = ["| what | figure | load before | command |", "| --- | ---: | ---: | --- |"]
    machines: dict[str, list[str]] = {}
    for case in cases:
        found = read_case(folder / f"{case.name}.json")
        if found is None:
            rows.append(f"| {case.name} | not measured | | `{case.command}` |")
            continue
        machines.setdefault(told(found["machine"]), []).append(case.name)
        rows += lines(case, found["benchmarks"][case.bench]["measurements"])
    made = [f"- {', '.join(names)}: {machine}" for machine, names in machines.items()]
    return "\n".join(["# Figures", "", *rows, "", "Machines:", "", *made]) + "\n"


def plotted(cases: Sequence[Case], folder: Path) -> str:
    """Return the page as one self-contained HTML file: every case with its plots, its figures and its command."""
    parts: list[dict[str, Any]] = []
    machines: dict[str, None] = {}
    for case in cases:
        found = read_case(folder / f"{case.name}.json")
        if found is None:
            parts.append({"name": case.name, "command": case.command, "plots": None})
            continue
        measurements = found["benchmarks"][case.bench]["measurements"]
        machines[told(found["machine"])] = None
        parts.append({
            "name": case.name,
            "command": case.command,
            "plots": [one for place, plot in enumerate(case.plots) if (one := drawing(case, place, plot, measurements))],
            "figures": Table(case.name, HEADS, [[words, value, load] for words, value, load in figures(case, measurements)]),
        })  # fmt: skip
    return styled(Path(__file__).parent / "templates", "bench.html.j2", parts=parts, machines=list(machines))


HEADS = (Column("what", "name"), Column("figure", "num"), Column("load before", "num"))


def drawing(case: Case, place: int, plot: Plot, measurements: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Return a plot with its numbers beside it; None where nothing of it was measured."""
    found = bars(plot, measurements)
    if not found:
        return None
    rows = [BarRow(label, [Bar(value, "solid", text)]) for label, value, text in found]
    words = "; ".join(f"{label} {text}" for label, _, text in found)
    caption = Caption(f"{case.name}-{place}", plot.words, words, x=plot.words)
    chart = bar_chart(caption, rows, high=max(value for _, value, _ in found) or 1.0, legend={})
    table = Table(plot.words, (Column("", "name"), Column(plot.words, "num")), [[one, text] for one, _, text in found])
    return Drawing(plot.words, [], chart, table)


def bars(plot: Plot, measurements: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, str]]:
    """Return label, length and text of a plot's bars; a fact with its interval is a text that begins with its number.

    >>> bars(Plot("", "(.+) AUC", ""), [{"name": "sigma 2", "facts": {"member AUC": "0.51 (0.48 to 0.54)"}}])
    [('member', 0.51, '0.51 (0.48 to 0.54)')]
    """
    chosen = [one for one in measurements if one["name"].startswith(plot.measurement)]
    found = []
    for one in chosen:
        for fact, value in {**one["facts"], "peak MiB": one.get("usage", {}).get("peak_mib")}.items():
            if value is None or not (match := re.fullmatch(plot.fact, fact)):
                continue
            name = one["name"] if len(chosen) > 1 or not match.groups() else ""
            label = ", ".join(part for part in (name, *match.groups()) if part)
            found.append((label, float(str(value).split()[0]), short(value)))
    return found


def read_case(file: Path) -> dict[str, Any] | None:
    """Return what a case's file holds, or None where there is none; raise `UserError` for a damaged one."""
    if not file.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}; remove it to measure again") from None
    return found


def lines(case: Case, measurements: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a row of the table for every figure that was measured; the first one names the command."""
    command = f"`{case.command}`"
    for words, value, load in figures(case, measurements):
        yield f"| {words} | {value} | {load} | {command} |"
        command = ""


def figures(case: Case, measurements: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yield words, value and load before of every figure that was measured."""
    for figure in case.figures:
        for one, fact in found_in(figure, measurements):
            more = ", ".join(
                text for text, whole in ((one["name"], figure.measurement), (fact, figure.fact)) if text != whole
            )
            words = f"{figure.words} ({more})" if more else figure.words
            yield words, short(one["facts"][fact]), f"{one['load_before']:.1f}"


def found_in(figure: Figure, measurements: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the measurements and facts that a figure names."""
    for one in measurements:
        if one["name"].startswith(figure.measurement):
            yield from ((one, fact) for fact in one["facts"] if fact.endswith(figure.fact))


def told(machine: Mapping[str, Any]) -> str:
    """Return a machine in a line.

    >>> told({"processor": "Xeon", "cores": 2, "system": "Linux 6"})
    'processor Xeon, cores 2, system Linux 6'
    """
    return ", ".join(f"{key} {value}" for key, value in machine.items())
