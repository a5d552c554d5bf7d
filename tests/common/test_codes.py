"""Eight bits a number: right on average, never a step away, and nothing else is read as codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from flwr.app import ArrayRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from client.train.sampling import Rehearsal, SecureRandom
from common.codes import LEVELS, SCALES, decode, encode
from common.errors import UserError
from common.lora import Adapter
from common.wire import read_codes

DRAWS = 4000


def update_of(*values: float) -> Adapter:
    return {"b": torch.tensor(values)}


def mean_error_in_deviations(numbers: npt.NDArray[np.float32], words: Any) -> float:
    """Return the largest distance of a number's mean over `DRAWS` encodings from itself, in deviations of that mean."""
    update = {"b": torch.from_numpy(numbers)}
    scale = float(encode(update, words)[SCALES][0])
    total = np.zeros(len(numbers))
    for _ in range(DRAWS):
        total += decode(encode(update, words))["b"].double().numpy()
    chance = (numbers / scale) % 1
    deviation = scale * np.sqrt(np.maximum(chance * (1 - chance), 0.01) / DRAWS)
    return float(np.abs((total / DRAWS - numbers) / deviation).max())


def test_the_mean_over_draws_is_the_number_itself() -> None:
    numbers = np.random.default_rng(3).standard_normal(64).astype(np.float32)
    assert mean_error_in_deviations(numbers, SecureRandom().words) < 5.5  # 64 numbers: once in 400,000 runs


def test_rounding_to_the_nearest_code_would_be_seen() -> None:
    numbers = np.random.default_rng(3).standard_normal(64).astype(np.float32)

    def half(count: int) -> npt.NDArray[np.uint64]:
        return np.full(count, 2**63, np.uint64)

    assert mean_error_in_deviations(numbers, half) > 50


@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=40),
    st.integers(0, 2**32),
)
@settings(max_examples=200, deadline=None)
def test_no_number_is_a_whole_step_away(values: list[float], seed: int) -> None:
    coded = encode(update_of(*values), Rehearsal(seed).words)
    scale = float(coded[SCALES][0])
    error = decode(coded)["b"].double() - torch.tensor(values, dtype=torch.float64)
    assert float(error.abs().max()) <= scale * (1 + 1e-5)
    assert scale * LEVELS >= max(map(abs, values))
    assert scale * LEVELS <= max(map(abs, values)) * (1 + 1e-6) + 1e-42


def test_the_noise_of_rounding_is_a_quarter_of_a_squared_step_at_most() -> None:
    numbers = torch.from_numpy(np.random.default_rng(4).standard_normal(50_000).astype(np.float32))
    coded = encode({"b": numbers}, SecureRandom().words)
    variance = float((decode(coded)["b"] - numbers).double().pow(2).mean())
    assert variance < 0.25 * float(coded[SCALES][0]) ** 2
    assert variance < 2.5e-4  # against 1 of the noise that the numbers are made of


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, -1e-45, 3.4e38])
def test_the_least_and_the_largest_numbers_have_codes(value: float) -> None:
    back = decode(encode(update_of(value, 0.0), SecureRandom().words))["b"]
    assert torch.isfinite(back).all()
    assert back[1] == 0
    assert float(back[0]) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_has_no_codes(odd: float) -> None:
    with pytest.raises(UserError, match="'b' holds values that are not finite"):
        encode(update_of(1.0, odd), SecureRandom().words)


def test_every_tensor_has_a_scale_of_its_own_and_empty_ones_take_part() -> None:
    update = {"b": torch.ones(2, 3), "a": torch.full((2,), 1e-3), "c": torch.zeros(0, 4)}
    coded = encode(update, SecureRandom().words)
    assert [one.dtype for name, one in coded.items() if name != SCALES] == [torch.int8] * 3
    assert coded[SCALES].tolist() == pytest.approx([1e-3 / LEVELS, 1 / LEVELS, 0.0])
    back = decode(coded)
    assert list(back) == ["a", "b", "c"]
    for name, tensor in update.items():
        torch.testing.assert_close(back[name], tensor, rtol=1e-6, atol=0)


# --- replies ---

EXPECTED = {"a": (2,), "b": (2, 3)}


def coded_reply() -> Adapter:
    return encode({"a": torch.tensor([1.0, -2.0]), "b": torch.ones(2, 3)}, SecureRandom().words)


def refused(coded: Adapter) -> str:
    with pytest.raises(UserError) as caught:
        read_codes(ArrayRecord(coded), EXPECTED)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_codes_come_back_as_what_they_stand_for() -> None:
    coded = coded_reply()
    back, here = read_codes(ArrayRecord(coded), EXPECTED), decode(coded)
    assert list(back) == list(here)
    assert all(torch.equal(back[name], here[name]) for name in here)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0, -0.0, 3e38])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    words = refused({**coded_reply(), SCALES: torch.tensor([1.0, scale])})
    assert "'b': scale = " in words or "not finite" in words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"b": torch.full((2, 3), -128, dtype=torch.int8)}, "code -128 is beyond the 127 levels"),
        ({"b": torch.ones(2, 3)}, "expected int8 (2, 3)"),
        ({"b": torch.ones(2, 3, dtype=torch.uint8)}, "expected int8 (2, 3)"),
        ({"b": torch.ones(3, 2, dtype=torch.int8)}, "expected int8 (2, 3)"),
        ({"c": torch.ones(2, 3, dtype=torch.int8)}, "names differ"),
        ({SCALES: torch.ones(3)}, "expected float32 (2,)"),
        ({SCALES: torch.ones(1)}, "expected float32 (2,)"),
        ({SCALES: torch.ones(2, dtype=torch.float64)}, "expected float32 (2,)"),
        ({SCALES: torch.ones(2, dtype=torch.int8)}, "expected float32 (2,)"),
    ],
)
def test_codes_of_another_kind_are_refused(change: Adapter, words: str) -> None:
    assert words in refused({**coded_reply(), **change})


@pytest.mark.parametrize("name", ["a", SCALES])
def test_codes_without_one_of_their_parts_are_refused(name: str) -> None:
    assert "names differ" in refused({key: one for key, one in coded_reply().items() if key != name})
