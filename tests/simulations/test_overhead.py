"""The round-overhead benchmark: every way does the same work, and one that does other work is not compared."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.model import load_base
from simulations.bench import environment_with, run_benchmarks
from simulations.overhead import NEAR, Overhead, base_of, compare, facts_of, ready_folder
from simulations.peers import Stopwatch, flat, given_up, unflat
from tests.conftest import needs_vnni

SMALL = Overhead(merchants=2, steps=2, rounds=3, customers=3, repetitions=1, ways=("bare", "plain", "charged", "fugou"))


def test_a_bare_loop_a_plain_one_and_the_whole_house_end_with_one_adapter(tmp_path: Path) -> None:
    work = ready_folder(SMALL, tmp_path)
    assert work["merchant-rounds"] == 6
    assert work["tokens"] > 100
    courses: dict[str, list[dict[str, Any]]] = {way: [facts_of(SMALL, way, tmp_path)] for way in SMALL.ways}
    facts = compare(courses, 1e-5)
    assert float(facts["fugou / plain"]) > 0
    assert all(len(runs[0]["seconds"]) == 2 for runs in courses.values())
    assert courses["plain"][0]["checksum"] == courses["charged"][0]["checksum"] == courses["fugou"][0]["checksum"]
    assert float(facts["fugou / charged cpu"]) > 0
    assert courses["bare"][0]["norm"] > 0


@needs_vnni
def test_a_house_in_eight_bits_ends_where_a_float32_loop_on_the_same_weights_does(tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"precision": "int8"})
    ready_folder(settings, tmp_path)
    courses = {way: [facts_of(settings, way, tmp_path)] for way in ("bare", "charged", "fugou")}
    facts = compare(courses, NEAR["int8"])
    assert courses["fugou"][0]["checksum"] == courses["charged"][0]["checksum"] != courses["bare"][0]["checksum"]
    assert 0 < float(facts["spread of checksums"]) < NEAR["int8"] * float(facts["norm"])


def test_a_base_of_124_million_random_weights_reads_as_the_default_one(tmp_path: Path) -> None:
    made, default = load_base(base_of(Overhead(shape="gpt2"), tmp_path)), load_base()
    assert made.model.num_parameters() == 124_439_808
    assert made.tokenizer("复购的顾客").input_ids == default.tokenizer("复购的顾客").input_ids
    assert made.end == default.end


def test_a_way_that_did_other_work_is_not_compared() -> None:
    course = {"seconds": [1.0], "cpu": [1.0], "total": 2.0, "norm": 1.0, "checksum": 0.5}
    with pytest.raises(UserError, match="it did other work"):
        compare({"bare": [course], "fugou": [{**course, "checksum": 0.6}]}, 1e-3)


def test_ratios_are_of_medians() -> None:
    course = {"seconds": [1.0, 5.0, 2.0], "cpu": [2.0], "total": 2.0, "norm": 1.0, "checksum": 0.5}
    facts = compare({"bare": [course], "fugou": [{**course, "seconds": [4.0], "cpu": [8.0]}]}, 1e-5)
    assert facts["fugou / bare"] == 2.0
    assert facts["fugou / bare cpu"] == 4.0
    assert facts["bare s a round"] == 2.0


def test_the_first_round_is_not_counted() -> None:
    watch = Stopwatch()
    watch.strokes = [(0.0, 0.0), (10.0, 5.0), (11.0, 5.5), (13.0, 5.75)]
    course = watch.course({})
    assert course.seconds == [1.0, 2.0]
    assert course.cpu == [0.5, 0.25]


def test_it_runs_by_name_in_processes_of_its_own() -> None:
    said: list[str] = []
    changes = {**SMALL.model_dump(), "rounds": 2, "ways": ["bare", "fugou"]}
    found = run_benchmarks(["round-overhead"], {"round-overhead": changes}, said.append)
    facts = found["benchmarks"]["round-overhead"]["measurements"][0]["facts"]
    assert facts["fugou / bare"] > 0
    assert facts["merchant-rounds"] == 4


def test_a_package_that_cannot_be_installed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"pip cannot install no-such-package: .*leave that peer out"):
        environment_with([["no-such-package"]], tmp_path / "peers")


def test_a_peers_environment_has_its_own_packages_before_ours(tmp_path: Path) -> None:
    own = tmp_path / "wheel" / "jieba"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text("theirs = True\n")
    (own.parent / "pyproject.toml").write_text('[project]\nname = "jieba"\nversion = "99"\n')
    ask = ("--no-build-isolation", "--no-deps", str(own.parent))
    python = environment_with([ask], tmp_path / "peers")
    seen = "import jieba, numpy, simulations, sys; print(jieba.theirs, numpy.__version__, sys.prefix)"
    said = subprocess.run([python, "-c", seen], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["True", np.__version__, str(tmp_path / "peers")]
    import jieba

    assert not hasattr(jieba, "theirs")


def test_a_vector_of_all_weights_and_back() -> None:
    adapter = {"b": torch.arange(6.0).view(2, 3), "a": -torch.ones(2)}
    assert flat(adapter).tolist() == [-1, -1, 0, 1, 2, 3, 4, 5]
    again = unflat(flat(adapter), adapter)
    assert all(torch.equal(again[name], adapter[name]) for name in adapter)


def test_a_peer_that_waits_for_ever_is_given_up() -> None:
    began = time.monotonic()
    asleep = (sys.executable, "-c", "import time; time.sleep(60)")
    with subprocess.Popen(asleep) as before:
        with pytest.raises(UserError, match="did not end within 1 s"), given_up(1.0):
            subprocess.run(asleep, check=True)
        assert time.monotonic() - began < 30
        assert before.poll() is None  # what was there before the block lives on
        before.kill()
    with pytest.raises(ZeroDivisionError), given_up(60.0):
        _ = 1 / 0
