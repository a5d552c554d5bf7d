from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import polars as pl
import pytest

from common.cli import main
from common.errors import UserError
from simulations.bench import (
    BENCHMARKS,
    FUGOU,
    Ingest,
    Measurement,
    Usage,
    line,
    machine,
    measure,
    run_benchmarks,
    write_times,
)

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"ingest": {"lines": 400, "times": 3}}


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fugou", "bench", *words])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_without_a_name_the_benchmarks_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 0
    assert [one.split("\t")[0] for one in capsys.readouterr().out.splitlines()] == list(BENCHMARKS)


def test_an_unknown_benchmark_or_setting_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["nonsense"], ["ingest", "--set", "nonsense.times=1"], ["ingest", "--set", "ingest.nonsense=1"]):
        assert run(monkeypatch, *words) == 2
        assert re.fullmatch(r"fugou: .*nonsense.*\n", capsys.readouterr().err)


def test_ingest_reads_every_line_in_every_form_and_says_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ingest.json"
    settings = [f"ingest.{key}={value}" for key, value in SMALL["ingest"].items()]
    assert run(monkeypatch, "ingest", "-o", str(file), *(part for one in settings for part in ("--set", one))) == 0
    found = json.loads(file.read_text("utf-8"))
    parts = found["benchmarks"]["ingest"]["measurements"]
    assert [(one["name"], one["facts"]["lines"]) for one in parts] == [
        ("parquet", 400),
        ("csv", 400),
        ("sqlite", 400),
        ("csv x3", 1200),
    ]
    assert all(one["usage"]["wall_seconds"] > 0 and one["usage"]["peak_mib"] > 20 for one in parts)
    assert found["machine"]["cores"] >= 1


def test_a_process_is_measured_by_itself_and_not_with_its_parents_memory(tmp_path: Path) -> None:
    ballast = bytearray(300 * 2**20)
    small = measure([sys.executable, "-c", "print('out')"], tmp_path / "small")
    large = measure(
        [sys.executable, "-c", "import time; a = bytes(200 * 2**20).replace(b'\\0', b'x'); time.sleep(0.3)"],
        tmp_path / "large",
    )
    assert len(ballast) > 2**20 * small.peak_mib
    assert large.peak_mib > small.peak_mib + 150
    assert large.wall_seconds > 0.3
    assert (tmp_path / "small").read_text() == "out\n"


def test_a_command_that_fails_is_told_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ended with 2 and said: fugou: .*no such file"):
        measure([*FUGOU, "merchant", "--dir", str(tmp_path), "check"], tmp_path / "out")


def test_the_longer_table_repeats_the_lines_with_customers_of_their_own(tmp_path: Path) -> None:
    orders = pl.DataFrame({"household_id": [1, 2], "basket_id": [7, 8], "product_id": [5, 5]})
    write_times(orders, tmp_path / "long.csv", 3)
    long = pl.read_csv(tmp_path / "long.csv")
    assert long.height == 6
    assert long["household_id"].n_unique() == long["basket_id"].n_unique() == 6
    assert long["product_id"].to_list() == [5] * 6


def test_the_machine_and_a_measurement_are_said_in_words() -> None:
    assert {"processor", "cores", "system", "python", "polars"} <= set(machine())
    part = Measurement("csv", Usage(12.34, 20.0, 512.4), 0.5, {"lines": 7, "lines a second": 1234.5})
    said = line("ingest", part)
    assert (
        said == "ingest csv: 12.3 s, 20.0 s of processor, peak 512 MiB, load before 0.5; lines 7, lines a second 1,234"
    )


def test_settings_out_of_range_are_refused_before_anything_is_written() -> None:
    with pytest.raises(UserError, match=r"times = -1"):
        run_benchmarks(["ingest"], {"ingest": {"times": -1}}, print)
    assert Ingest().times == 10
