"""`fugou bench all`: a file a benchmark, a page over all, kept figures kept and failures told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from common.cli import main
from common.errors import UserError
from simulations.bench import BENCHMARKS, short
from simulations.bench_page import CASES, PAGE, PLOTS, Case, Figure, Plot, bars, lines, run_all

WIRE = Case(
    "wire",
    {"layers": 1, "rank": 2, "repetitions": 1},
    (Figure("wire", "read s", "seconds to read a reply"),),
    plots=(Plot("wire", "(pack|read|digest) s", "seconds a reply"), Plot("wire", "nothing of it", "not measured")),
)


def test_every_benchmark_is_on_the_page_with_settings_that_it_takes_and_a_file_of_its_own() -> None:
    assert {case.bench for case in CASES} == set(BENCHMARKS)
    for case in CASES:
        BENCHMARKS[case.bench].settings.model_validate(dict(case.changes))
    assert len({case.name for case in CASES}) == len(CASES)


def test_figures_and_the_command_that_measures_them_again_stand_on_one_page(tmp_path: Path) -> None:
    said: list[str] = []
    page = run_all([WIRE], tmp_path / "figures", said.append)
    assert page == tmp_path / "figures" / PLOTS
    text = page.with_name(PAGE).read_text("utf-8")
    found = json.loads((tmp_path / "figures" / "wire.json").read_text("utf-8"))
    assert found["benchmarks"]["wire"]["settings"]["layers"] == 1
    assert "| seconds to read a reply | " in text
    assert "`fugou bench wire --set 'wire.layers=1' --set 'wire.rank=2' --set 'wire.repetitions=1'`" in text
    assert f"processor {found['machine']['processor']}" in text

    facts = found["benchmarks"]["wire"]["measurements"][0]["facts"]
    drawn = page.read_text("utf-8")
    assert drawn.count("<svg") == 1
    for fact in ("pack s", "read s", "digest s"):
        assert f"{fact.removesuffix(' s')} {short(facts[fact])}" in drawn
    assert "<script" not in drawn
    assert "default-src &#39;none&#39;" in drawn or "default-src 'none'" in drawn


def test_a_benchmark_whose_file_is_there_is_not_run_again(tmp_path: Path) -> None:
    run_all([WIRE], tmp_path, lambda _: None)
    before = (tmp_path / "wire.json").read_bytes()
    said: list[str] = []
    run_all([WIRE], tmp_path, said.append)
    assert (tmp_path / "wire.json").read_bytes() == before
    assert said == [f"wire: kept from before; remove {tmp_path / 'wire.json'} to measure it again"]


def test_one_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    bad = Case("wire", {"rank": -1}, (), "bad")
    said: list[str] = []
    page = run_all([bad, WIRE], tmp_path, said.append)
    assert "not measured" in page.read_text("utf-8")
    text = page.with_name(PAGE).read_text("utf-8")
    assert any(line.startswith("bad: not measured: --set wire: rank = -1") for line in said)
    assert "| bad | not measured |" in text
    assert "| seconds to read a reply | " in text
    assert not (tmp_path / "bad.json").exists()


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "wire.json").write_text("{", "utf-8")
    with pytest.raises(UserError, match=r"wire\.json is damaged: .*; remove it to measure again"):
        run_all([WIRE], tmp_path, lambda _: None)


def test_a_figure_names_facts_by_their_end_and_says_which() -> None:
    case = Case("serve", {}, (Figure("", " p99 ms", "within"),))
    one = {"name": "mixed", "load_before": 0.5, "facts": {"copy p99 ms": 120.0, "copy p50 ms": 60.0, "ask p99 ms": 9.0}}
    assert list(lines(case, [one])) == [
        "| within (mixed, copy p99 ms) | 120 | 0.5 | `fugou bench serve` |",
        "| within (mixed, ask p99 ms) | 9 | 0.5 |  |",
    ]


def test_bars_are_labelled_by_what_differs() -> None:
    crowd = [
        {
            "name": f"{count} merchants",
            "facts": {"train ms a merchant-round": 2.5},
            "usage": {"peak_mib": 500.0 + count},
        }
        for count in (100, 1000)
    ]
    assert bars(Plot("", "peak MiB", ""), crowd) == [
        ("100 merchants", 600.0, "600"),
        ("1000 merchants", 1500.0, "1,500"),
    ]
    times = [{"name": "times", "facts": {"fast cpu s": 2.0, "plain cpu s": 4.0, "fast / plain": 0.5}}]
    assert bars(Plot("times", r"(\w+) cpu s", ""), times) == [("fast", 2.0, "2"), ("plain", 4.0, "4")]


def test_settings_of_all_are_those_of_the_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fugou", "bench", "all", "--set", "wire.rank=2"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "fugou: --set wire.rank=2 goes with a benchmark's name; all takes each as it is\n"
