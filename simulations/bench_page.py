"""`fugou bench all -o DIR`: every benchmark in turn, one file each, and a page that puts their figures side by side.

A benchmark whose file is in the folder is not run again, so a stopped run goes on where it was; one that fails is told on
the page and the others go on. Every row of the page names the one command that measures it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import FugouError, UserError
from common.files import write_atomic
from simulations.bench import run_benchmarks, short

Tell = Callable[[str], None]

PAGE = "README.md"


@dataclass(frozen=True)
class Figure:
    """Numbers of a benchmark: of measurements whose name begins so, facts whose name ends so, and in which words."""

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
    )


def _step(what: str) -> tuple[Figure, ...]:
    return (
        Figure("times", "fast / plain", f"private step of 124 M parameters, {what}, over plain PEFT"),
        Figure("times", "fast / open", "over the same engine without privacy"),
        Figure("times", "fast / opacus", "over Opacus"),
    )


CASES: tuple[Case, ...] = (
    Case("dp-step", {}, _step("full rows")),
    Case("dp-step", {"rows": "shops"}, _step("a shop's rows"), "dp-step-shops"),
    Case("dp-step", {"rows": "ragged"}, _step("rows of 8 to 64 ids"), "dp-step-ragged"),
    Case("round-overhead", {}, _round("a base that costs nothing")),
    Case(
        "round-overhead",
        {"base": "default", "rounds": 5, "repetitions": 3},
        _round("the default base"),
        "round-overhead-default",
    ),
    Case(
        "merchants",
        {},
        (
            Figure("1000 merchants", "peak / first peak", "peak memory of 1,000 merchants over that of 100"),
            Figure("1000 merchants", "train ms a merchant-round", "milliseconds a merchant-round"),
        ),
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
    ),
    Case("ingest", {}, (Figure("csv", "lines a second", "order lines a second from a CSV"),)),
    Case("accounting", {}, (Figure("accounting", "ours s", "seconds for epsilon of 10,000 rounds"),)),
    Case("aggregation", {}, (Figure("aggregation", "fedsvd s", "seconds to add up 100 merchants by fedsvd"),)),
    Case("wire", {}, (Figure("wire", "read s", "seconds to read and check a reply"),)),
    Case("membership", {}, (Figure("", " AUC", "membership attack"),)),
    Case("serve", {}, (Figure("", " p99 ms", "99 in 100 answers of a shop's service within, milliseconds"),)),
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
        write_atomic(folder / PAGE, page(cases, folder))
    write_atomic(folder / PAGE, page(cases, folder))
    return folder / PAGE


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
    for figure in case.figures:
        for one, fact in found_in(figure, measurements):
            more = ", ".join(
                text for text, whole in ((one["name"], figure.measurement), (fact, figure.fact)) if text != whole
            )
            words = f"{figure.words} ({more})" if more else figure.words
            yield f"| {words} | {short(one['facts'][fact])} | {one['load_before']:.1f} | {command} |"
            command = ""


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
