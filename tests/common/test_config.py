from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import (
    FederationSettings,
    LoraSettings,
    ModelSettings,
    TrainingSettings,
    flatten,
    from_run_config,
    nest,
    parse_settings,
)
from common.errors import UserError

OTHER = FederationSettings(
    model=ModelSettings(base="some/folder", base_digest="ab" * 32),
    lora=LoraSettings(targets=("c_attn", "c_proj"), rank=4, alpha=8.5),
    training=TrainingSettings(method="ffa", rounds=3, server_optimizer="adam", seed=2**63 - 1),
)


@pytest.mark.parametrize("settings", [FederationSettings(), OTHER])
def test_settings_come_back_from_flowers_flat_run_config(settings: FederationSettings) -> None:
    flat = settings.to_run_config()
    assert all(isinstance(value, (str, int, float, bool)) for value in flat.values())
    assert from_run_config(flat) == settings


def test_a_run_config_may_leave_out_what_has_a_default() -> None:
    assert from_run_config({}) == FederationSettings()
    assert from_run_config({"lora.targets": "c_attn, c_fc"}).lora.targets == ("c_attn", "c_fc")


@pytest.mark.parametrize(
    ("flat", "parts"),
    [
        ({"lora.rnk": 4}, ("'lora.rnk'", "targets, rank, alpha")),
        ({"sigma": 0.1}, ("'sigma'", "model, lora, training")),
        ({"privacy.sigma": 0.1}, ("'privacy'", "model, lora, training")),
        ({"lora.rank": 0}, ("lora.rank = 0", "greater than or equal to 1")),
        ({"training.method": "median"}, ("training.method = 'median'", "fedsvd")),
        ({"training.rounds": "many"}, ("training.rounds = 'many'", "integer")),
        ({"training.quorum": 1.5}, ("training.quorum = 1.5",)),
        ({"lora": 3}, ("lora = 3",)),
    ],
)
def test_a_bad_run_config_is_one_line_that_names_key_and_value(flat: dict[str, object], parts: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        from_run_config(flat)
    line = str(caught.value)
    assert "\n" not in line
    for part in ("run-config", *parts):
        assert part in line


@pytest.mark.parametrize("flat", [{"lora": 3, "lora.rank": 4}, {"lora.rank": 4, "lora.rank.x": 3}])
def test_a_key_cannot_be_a_value_and_a_table(flat: dict[str, object]) -> None:
    with pytest.raises(UserError, match="is one value here, no table"):
        from_run_config(flat)


@pytest.mark.parametrize(
    ("flat", "parts"),
    [
        ({"training.proximal": 2.0, "training.local_rate": 1.0}, ("training.proximal", "2.0", "take at most 1")),
        ({"training.proximal": -0.1}, ("training.proximal", "-0.1")),
        ({"training.proximal": float("inf")}, ("training.proximal", "inf")),
        ({"training.head_share": 1.0}, ("training.head_share", "1.0")),
        ({"training.head_share": 0.001}, ("training.head_share", "0.001", "at least 0.01, or 0")),
        ({"training.adam_floor": 0.0}, ("training.adam_floor", "0.0")),
        ({"training.local_optimizer": "lamb"}, ("training.local_optimizer", "lamb")),
        (
            {"training.local_optimizer": "adam", "training.weights": "noise"},
            ("training.weights", "noise", "equal or band"),
        ),
    ],
)
def test_a_step_that_cannot_be_taken_is_one_line(flat: dict[str, object], parts: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        from_run_config(flat)
    assert all(part in str(caught.value) for part in parts)
    assert "\n" not in str(caught.value)


def test_the_largest_pull_is_taken() -> None:
    settings = from_run_config({"training.proximal": 0.5, "training.local_rate": 2.0})
    assert settings.training.proximal == 0.5


def test_every_bad_key_is_named_at_once() -> None:
    with pytest.raises(UserError, match=r"rank = 0: .*; training\.rounds = -1: "):
        parse_settings(FederationSettings, {"lora": {"rank": 0}, "training": {"rounds": -1}}, "settings")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        FederationSettings().lora.rank = 3  # type: ignore[misc]


def test_the_digest_is_the_same_for_the_same_settings_and_differs_for_any_change() -> None:
    changed = [
        FederationSettings(),
        FederationSettings(model=ModelSettings(base="x")),
        FederationSettings(lora=LoraSettings(rank=9)),
        FederationSettings(lora=LoraSettings(targets=("c_proj",))),
        FederationSettings(training=TrainingSettings(seed=8)),
        FederationSettings(training=TrainingSettings(local_rate=1.0000001)),
        FederationSettings(training=TrainingSettings(wire="int8")),
    ]
    assert len({one.digest() for one in changed}) == len(changed)
    assert from_run_config(OTHER.to_run_config()).digest() == OTHER.digest()


def test_the_digest_of_a_run_that_is_lengthened_stays() -> None:
    short, long = (FederationSettings(training=TrainingSettings(rounds=rounds)) for rounds in (3, 30))
    assert short.digest() == long.digest()


def test_the_digest_does_not_tell_a_default_from_the_same_value_written_out() -> None:
    first = FederationSettings().digest()
    assert len(first) == 64
    assert first == FederationSettings(lora=LoraSettings(rank=8, alpha=16)).digest()


TREES = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.from_regex(r"[a-z]{1,3}", fullmatch=True), inner, min_size=1, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,3}", fullmatch=True), TREES, max_size=4))
def test_nest_is_the_inverse_of_flatten(tree: dict[str, object]) -> None:
    assert nest(flatten(tree)) == tree
