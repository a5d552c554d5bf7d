"""The study of messages: base and tuned model meet the same campaigns, and nothing planted passes the guard."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.use.guard import check
from simulations.messages import (
    PLANTED,
    RESULT,
    TABLE,
    Met,
    Output,
    Study,
    as_markdown,
    perplexity_gap,
    planted,
    run_copy,
    ungrounded,
    valid,
    wrongs,
)

CHANGES = {
    "scenario.merchants": 2,
    "world.customers": 10,
    "world.weeks": 20,
    "lora.rank": 2,
    "training.rounds": 1,
    "privacy.max_tokens": 64,
    "privacy.steps": 1,
    "engine.threads": 1,
}


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def folder(tiny_base: str, tmp_path_factory: pytest.TempPathFactory, told: list[str]) -> Path:
    found = tmp_path_factory.mktemp("copy")
    study = Study(changes={**CHANGES, "model.base": tiny_base}, outputs=6, losses=4)
    run_copy(study, found, told.append)
    return found


@pytest.fixture(scope="module")
def result(folder: Path) -> Any:
    return json.loads((folder / RESULT).read_text("utf-8"))


def test_both_models_write_a_message_for_the_same_campaigns(result: Any) -> None:
    assert result["outputs"] == 6
    assert list(result["models"]) == ["base", "private"]
    one, other = (result["models"][name]["references"] for name in ("base", "private"))
    assert one == other


def test_what_goes_out_breaks_no_rule_whatever_the_model_wrote(result: Any) -> None:
    for model in result["models"].values():
        for name in ("invented price, offer or number", "forbidden term", "personal data", "mark of a prompt"):
            assert model["sent"][name]["mean"] == 0.0
        assert model["sent"]["format"]["mean"] == 1.0


def test_the_table_holds_every_figure_and_epsilon_stands_with_delta_unit_and_period(result: Any, folder: Path) -> None:
    text = (folder / TABLE).read_text("utf-8")
    assert text == as_markdown(result)
    assert "(delta = 1e-06, unit: customer, period: 2026Q4)" in text
    for name in result["models"]["base"]["raw"]:
        assert f"| {name} |" in text


def written(folder: Path) -> dict[str, int]:
    """When each round's tensors were written."""
    found = {str(path): path.stat().st_mtime_ns for path in (folder / "run" / "rounds").rglob("*.safetensors")}
    assert found
    return found


def test_a_study_that_was_stopped_goes_on_with_its_run(
    folder: Path, result: Any, tiny_base: str, told: list[str]
) -> None:
    trained = written(folder)
    study = Study(changes={**CHANGES, "model.base": tiny_base}, outputs=6, losses=4)
    again = run_copy(study, folder, told.append)
    assert written(folder) == trained
    assert json.loads(json.dumps(again)) == result


def test_the_gap_is_paired_by_customer_and_said_a_letter() -> None:
    base = Met({f"c{one}": (10.0 + one, 10) for one in range(20)}, ())
    tuned = Met({who: (0.9 * nats, letters) for who, (nats, letters) in base.nats.items()}, ())
    found = perplexity_gap(base, tuned)
    assert found["customers"] == 20
    assert found["base"] == pytest.approx(7.029, abs=1e-3)  # exp(390 / 200)
    assert found["private"] < found["base"]
    assert found["low"] < found["percent"] < found["high"] < 0
    assert perplexity_gap(base, base)["percent"] == 0.0


def test_a_value_that_was_not_given_is_ungrounded() -> None:
    values = re.compile("福建|广西|清香")
    assert ungrounded("福建的清香", "产地福建", values) == (1, 2)
    assert ungrounded("好茶", "产地福建", values) == (0, 0)


def test_the_form_of_a_message() -> None:
    assert valid("茉莉花茶到新季了，给您留了一罐。")
    assert not valid("茶")
    assert not valid("茉莉花茶｜优惠:满减")
    assert not valid("好茶好茶好茶好茶好茶好茶")
    assert not valid("茶" * 200)


def test_what_is_wrong_with_a_text_is_told_by_kind() -> None:
    assert wrongs("茉莉花茶到了", "茉莉花茶") == dict.fromkeys(wrongs("", ""), False)
    assert wrongs("茉莉花茶满300减50", "茉莉花茶")["invented price, offer or number"]
    assert wrongs("国家级好茶", "茶")["forbidden term"]
    assert wrongs("打13812345678", "茶")["personal data"]


@pytest.mark.parametrize("term", PLANTED)
def test_every_planted_term_is_one_that_the_guard_blocks(term: str) -> None:
    assert any(one.level == "block" for one in check(f"茉莉花茶到了，{term}，想起来就看看。", "茉莉花茶"))


def test_what_the_shop_gave_is_not_planted(result: Any) -> None:
    assert result["planted"] == {name: {"texts": 6, "passed": 0} for name in ("base", "private")}


def test_a_guard_that_looks_away_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from client.use.copywriter import Copy
    from client.use.facts import Facts
    from simulations import messages

    one = Output("c", Facts("茶", {}, "", "茶"), "茶", Copy("茶", "model", 0.0, 1.0), "茶到了，想起来就看看。")
    met = Met({}, [replace(one, customer=f"c{number}") for number in range(12)])
    assert planted(met) == {"texts": 12, "passed": 0}
    monkeypatch.setattr(messages, "check", lambda text, given: [])
    assert planted(met) == {"texts": 12, "passed": 12}
