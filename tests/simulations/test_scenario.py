from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from common.config import from_run_config
from common.errors import UserError
from common.privacy.accountant import Setting, epsilon
from common.privacy.plan import would_pass
from simulations.merchants import noise_of
from simulations.scenario import Scenario, load_scenario, parse_changes, read_scenario, shipped


def changed(**changes: Any) -> Scenario:
    """Return the Chinese scenario with changes; `training__rounds` stands for `training.rounds`."""
    return load_scenario("shops-zh", {key.replace("__", "."): value for key, value in changes.items()})


def one_line(name: str, changes: dict[str, Any] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_scenario(name, {"privacy.epsilon": math.inf} | (changes or {})).policy("shop", "ab" * 32)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what ships ---


def test_two_scenarios_ship() -> None:
    assert list(shipped()) == ["complete-journey", "shops-zh"]


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_scenario_loads_under_its_own_name_with_a_title(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.scenario.name == name
    assert scenario.scenario.title
    assert math.isfinite(scenario.privacy.epsilon)
    assert scenario.privacy.delta <= 1e-5


@pytest.mark.parametrize("name", shipped())
def test_what_travels_to_merchants_fits_into_a_run_config(name: str) -> None:
    scenario = load_scenario(name)
    settings = scenario.federation()
    assert settings.training.merchants == scenario.scenario.merchants
    assert from_run_config(settings.to_run_config()) == settings


# --- names, files, keys ---


def test_an_unknown_name_lists_the_scenarios_there_are() -> None:
    assert one_line("shop-zh") == (
        "unknown scenario 'shop-zh'; there are complete-journey, shops-zh, or name a .toml file"
    )


def test_a_persons_own_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[run]\nid = "x"\n[versions]\npython = "3"\n[scenario]\nname = "mine"\nmerchants = 2\n', "utf-8")
    assert load_scenario(str(path)).scenario.merchants == 2
    assert read_scenario(path, {"scenario.merchants": 5}).scenario.merchants == 5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[scenario", "is not TOML"),
        ("", "scenario mine: scenario is missing"),
        ("[scenario]", "scenario.name is missing"),
        ("scenario = 3", "scenario = 3"),
        ('[scenario]\nname = "x"\ntitel = "y"', "unknown key 'scenario.titel'; known here: name, title, world"),
        ('[scenario]\nname = "x"\n[prvacy]\nepsilon = 1', "unknown key 'prvacy'"),
        ('[scenario]\nname = "x"\n[lora]\nrank = 0', "lora.rank = 0"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert says in one_line(str(path))


def test_a_missing_file_and_one_that_is_not_text_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    assert "mine.toml cannot be read: No such file" in one_line(str(path))
    path.write_bytes(b"\xff\xfe")
    assert "is not TOML" in one_line(str(path))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("training.round", 3, "unknown key 'training.round'; known here: method, rounds"),
        ("training.method", "median", "training.method = 'median'"),
        ("privacy.epsilon", 0, "privacy.epsilon = 0"),
        ("privacy.epsilon", math.nan, "privacy.epsilon = nan"),
        ("privacy.delta", 0.01, "privacy.delta = 0.01"),
        ("privacy.sigma", 1.0, "unknown key 'privacy.sigma'"),
        ("privacy.clip_norm", math.inf, "clip_norm"),
        ("privacy.max_tokens", 100_000, "max_tokens = 100000"),
        ("privacy.period", "next year", "period = 'next year'"),
        ("lora.alpha", 0.5, "lora.alpha = 0.5"),
        ("lora.alpha", 12.5, "lora.alpha = 12.5"),
        ("scenario.merchants", 0, "scenario.merchants = 0"),
        ("engine.name", "warp", "engine.name = 'warp'"),
    ],
)
def test_a_bad_change_is_one_line_with_key_and_value(key: str, value: object, says: str) -> None:
    assert says in one_line("shops-zh", {key: value})


# --- --set ---


def test_changes_are_read_as_toml_and_a_bare_word_as_text() -> None:
    assert parse_changes(
        ["training.rounds=3", "model.base=some/folder", "lora.targets=['c_attn','c_proj']", "privacy.epsilon=inf",
         "scenario.control = true", 'scenario.title="a=b"']
    ) == {
        "training.rounds": 3, "model.base": "some/folder", "lora.targets": ["c_attn", "c_proj"],
        "privacy.epsilon": math.inf, "scenario.control": True, "scenario.title": "a=b",
    }  # fmt: skip


def test_a_change_leaves_the_rest_of_its_table() -> None:
    scenario = changed(training__rounds=3, lora__targets=["c_attn", "c_proj"])
    assert scenario.training.rounds == 3
    assert scenario.training.method == load_scenario("shops-zh").training.method
    assert scenario.lora.targets == ("c_attn", "c_proj")


@pytest.mark.parametrize("text", ["rounds=3", "training.rounds", "", "=3"])
def test_a_change_without_table_and_value_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"--set .*: write table\.key=value"):
        parse_changes([text])


def test_a_table_cannot_be_set_to_a_value_and_to_keys() -> None:
    assert "no table" in one_line("shops-zh", {"training.rounds": 3, "training.rounds.x": 4})


# --- privacy ---

ROUNDS, SPARE = 4, 2


@pytest.fixture(scope="module")
def private() -> Scenario:
    return changed(training__rounds=ROUNDS, privacy__spare_rounds=SPARE, privacy__epsilon=0.5)


def test_sigma_covers_all_rounds_and_the_spare_ones_and_is_not_larger_than_that(private: Scenario) -> None:
    privacy, sigma = private.privacy, private.sigma()
    steps = privacy.steps * (ROUNDS + SPARE)
    assert epsilon([Setting(sigma, privacy.rate, steps)], privacy.delta) <= 0.5
    assert epsilon([Setting(sigma - 0.01, privacy.rate, steps)], privacy.delta) > 0.5


def test_the_policy_allows_exactly_the_rounds_that_the_noise_covers(private: Scenario) -> None:
    policy = private.policy("shop-01", "ab" * 32)
    assert (policy.merchant, policy.base, policy.max_rounds) == ("shop-01", "ab" * 32, ROUNDS + SPARE)
    assert (policy.sigma_min, policy.rate, policy.steps) == (
        private.sigma(),
        private.privacy.rate,
        private.privacy.steps,
    )
    charge = Setting(policy.sigma_min, policy.rate, policy.steps)
    assert would_pass(policy, [charge] * (ROUNDS + SPARE - 1), charge)
    assert not would_pass(policy, [charge] * (ROUNDS + SPARE), charge)


def test_the_policy_names_the_adapter_that_is_trained() -> None:
    scenario = changed(lora__rank=4, lora__alpha=8, lora__targets=["c_attn", "c_proj"], privacy__epsilon=math.inf)
    policy = scenario.policy("s", "ab" * 32)
    assert (policy.lora.targets, policy.lora.rank, policy.lora.alpha) == (("c_attn", "c_proj"), 4, 8)


def test_an_infinite_epsilon_is_no_noise() -> None:
    scenario = changed(privacy__epsilon=math.inf)
    assert scenario.sigma() == 0.0
    assert scenario.policy("s", "ab" * 32).epsilon == math.inf


def test_noise_is_told_with_delta_unit_and_period() -> None:
    terms = "(delta = 1e-06, one customer, period 2026Q4)"
    assert re.fullmatch(r"sigma \d\.\d{3} for epsilon 8 " + re.escape(terms), noise_of(load_scenario("shops-zh")))
    several = {"mixed.epsilons": (8.0, math.inf, 2.0)}
    found = noise_of(load_scenario("shops-zh", several))
    assert re.fullmatch(r"sigma .* for epsilon 8, no noise, sigma .* for epsilon 2 " + re.escape(terms), found)
    assert noise_of(load_scenario("shops-zh", {"privacy.epsilon": math.inf})) == "no noise"
