"""Studies: cells, tuning on a seed of its own, resuming, and intervals that hold what they promise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from common.errors import UserError
from simulations.arms import Loss, losses_of
from simulations.study import (
    Sweep,
    cells,
    compare,
    load_study,
    nats,
    run_folder,
    run_study,
    scenario_of,
    shipped_studies,
)

CHANGES = {
    "scenario.merchants": 2,
    "world.customers": 6,
    "world.weeks": 20,
    "lora.rank": 2,
    "lora.alpha": 4.0,
    "privacy.max_tokens": 48,
    "privacy.steps": 1,
    "training.rounds": 1,
    "engine.threads": 1,
    "evaluation.per_task": 2,
    "evaluation.questions": 0,
}


def write_study(path: Path, base: str, **changes: Any) -> Path:
    tree = {
        "name": "small",
        "seeds": [3, 4],
        "tune_seed": 1,
        "changes": {**CHANGES, "model.base": base},
        "sweep": [
            {
                "name": "methods",
                "arms": ["federated", "local"],
                "vary": {"training.method": ["ffa", "fedavg"]},
                "tune": {"training.local_rate": [0.01, 1.0]},
                "against": {"training.method": "ffa"},
            }
        ],
        **changes,
    }
    path.write_text(tomli_w.dumps(tree), "utf-8")
    return path


def test_every_shipped_study_can_be_run() -> None:
    assert "study-methods" in shipped_studies()
    for name in shipped_studies():
        study = load_study(name)
        assert sum(1 for sweep in study.sweep for _ in cells(sweep)) > 1


def test_a_study_runs_each_cell_on_every_seed_and_goes_on_where_it_was(tiny_base: str, tmp_path: Path) -> None:
    study = load_study(str(write_study(tmp_path / "small.toml", tiny_base)))
    said: list[str] = []
    result = run_study(study, tmp_path / "out", said.append, jobs=2)
    assert "methods, tuning: run 4 of 4, 0 min left" in said
    (rows,) = [sweep["rows"] for sweep in result["sweeps"]]
    assert [(row["settings"]["training.method"], row["arm"]) for row in rows] == [
        ("ffa", "federated"), ("ffa", "local"), ("fedavg", "federated"), ("fedavg", "local")
    ]  # fmt: skip
    assert rows[0]["gap"] is None
    assert rows[1]["gap"]["low"] <= rows[1]["gap"]["percent"] <= rows[1]["gap"]["high"]
    for row in rows:
        assert len(row["by_seed"]) == 2
        mean = math.fsum(map(math.log, row["by_seed"])) / 2
        assert row["perplexity"] == pytest.approx(math.exp(mean), rel=1e-3)
    table = (tmp_path / "out" / "study.md").read_text("utf-8")
    assert "| fedavg | federated |" in table
    assert "delta = 1e-06 for one customer, period 2026Q4" in table
    runs = sorted((tmp_path / "out" / "runs").iterdir())
    chosen = {(row["settings"]["training.method"], row["tuned"]["training.local_rate"]) for row in rows}
    assert len(runs) == 2 * 2 + 2 * len(
        chosen
    )  # two values each on the tuning seed; then two seeds for what was chosen
    stamps = {one: (one / "losses.json").stat().st_mtime_ns for one in runs}
    assert json.loads((tmp_path / "out" / "study.json").read_text("utf-8"))["sweeps"] == json.loads(
        json.dumps(result["sweeps"])
    )
    (runs[0] / "done").unlink()  # as if the study had been killed during this run
    run_study(study, tmp_path / "out", said.append)
    anew = {one: (one / "losses.json").stat().st_mtime_ns != stamps[one] for one in runs}
    assert anew == {one: one == runs[0] for one in runs}


def test_a_study_without_noise_is_written_as_strict_json(tiny_base: str, tmp_path: Path) -> None:
    sweep = {"name": "budgets", "vary": {"privacy.epsilon": [8.0, math.inf]}, "against": {"privacy.epsilon": 8.0}}
    study = load_study(str(write_study(tmp_path / "small.toml", tiny_base, sweep=[sweep])))
    run_study(study, tmp_path / "out", lambda _: None)

    def refuse(text: str) -> None:
        raise AssertionError(text)

    found = json.loads((tmp_path / "out" / "study.json").read_text("utf-8"), parse_constant=refuse)
    rows = found["sweeps"][0]["rows"]
    assert [row["settings"]["privacy.epsilon"] for row in rows] == [8.0, "inf"]
    assert rows[1]["gap"] is not None
    assert "| inf | federated |" in (tmp_path / "out" / "study.md").read_text("utf-8")


def test_a_tuned_value_is_the_best_of_its_own_seed_and_arm(tiny_base: str, tmp_path: Path) -> None:
    study = load_study(str(write_study(tmp_path / "small.toml", tiny_base)))
    result = run_study(study, tmp_path / "out", lambda _: None)
    for row in result["sweeps"][0]["rows"]:
        tried = {}
        for rate in (0.01, 1.0):
            changes = {**row["settings"], "training.local_rate": rate}
            scenario = scenario_of(study, changes, study.tune_seed, study.sweep[0].arms)
            tried[rate] = nats(losses_of(run_folder(tmp_path / "out", scenario), row["arm"])[0])
        assert row["tuned"]["training.local_rate"] == min(tried, key=tried.__getitem__)


def test_a_folder_of_another_study_is_left_alone(tiny_base: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    study = load_study(str(write_study(tmp_path / "small.toml", tiny_base)))
    with pytest.raises(UserError, match="not empty and holds no study"):
        run_study(study, out, lambda _: None)
    assert [one.name for one in out.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tune_seed": 3}, "tune on a seed of its own"),
        ({"seeds": [3]}, "seeds"),
        ({"sweep": []}, "sweep"),
        ({"sweep": [{"name": "x", "vary": {"training.metod": ["ffa", "fedavg"]}}]}, "unknown key 'training.metod'"),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused_before_it_starts(
    changes: dict[str, Any], words: str, tiny_base: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        load_study(str(write_study(tmp_path / "small.toml", tiny_base, **changes)))


def test_an_unknown_study_is_named_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"'study-nothing' cannot be read.*shipped: study-arms"):
        load_study("study-nothing")


def made(
    random: np.random.Generator, effect: float, seeds: int, customers: int
) -> tuple[list[list[Loss]], list[list[Loss]]]:
    """Two cells whose true difference is `effect` nats a token, with luck of the seed and of the customer."""
    pairs = []
    for _ in range(seeds):
        luck = random.normal(0, 0.02)
        shifts = effect + luck + random.normal(0, 0.1, customers)
        ours = [Loss("m", f"c{i}", "t", 10 * (3 + shift), 10) for i, shift in enumerate(shifts)]
        pairs.append((ours, [Loss("m", f"c{i}", "t", 30.0, 10) for i in range(customers)]))
    return [a for a, _ in pairs], [b for _, b in pairs]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    truth = 100 * math.expm1(0.05)
    found = [compare(*made(random, 0.05, 6, 30)) for _ in range(150)]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert covered > 0.8  # a bootstrap over six seeds covers less than 95 %
    zero = [compare(*made(random, 0.0, 6, 30)) for _ in range(150)]
    assert np.mean([one.low > 0 or one.high < 0 for one in zero]) < 0.2


def test_an_interval_without_the_luck_of_seeds_would_be_too_narrow() -> None:
    random = np.random.default_rng(6)
    ours, theirs = made(random, 0.0, 6, 300)
    whole = compare(ours, theirs)
    one_seed = compare(ours[:1] * 6, theirs[:1] * 6)
    assert whole.high - whole.low > 1.5 * (one_seed.high - one_seed.low)


def test_the_gap_is_the_mean_of_the_seeds() -> None:
    ours, theirs = made(np.random.default_rng(7), 0.1, 3, 5)
    mean = np.mean([nats(a) - nats(b) for a, b in zip(ours, theirs, strict=True)])
    assert compare(ours, theirs).percent == pytest.approx(100 * math.expm1(mean), abs=1e-3)


def test_cells_are_the_product_of_all_values() -> None:
    sweep = Sweep(name="s", vary={"a.x": (1, 2, 3), "a.y": ("p", "q")})
    assert len(list(cells(sweep))) == 6
