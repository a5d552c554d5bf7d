"""The head's manifest: texts become the same vectors everywhere, and all parts together cost one step."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from common.errors import UserError
from common.ranking import BUCKETS, FEATURES, PARTS, TERMS, bucket, head_bytes, read_head, terms, vectors


def test_all_parts_of_a_step_together_are_one_step_of_the_noise_multiplier() -> None:
    """The squared sensitivity over noise adds up over parts: sum (C_k / deviation_k)^2 = sum share_k / sigma^2."""
    sigma = 3.7
    loss = sum((part.clip_norm / part.deviation(sigma)) ** 2 for part in PARTS.values())
    assert math.isclose(sum(part.share for part in PARTS.values()), 1.0)
    assert loss <= 1 / sigma**2 * (1 + 1e-12)
    assert PARTS["rank"].shape == (len(FEATURES),)


def test_a_text_is_a_vector_of_unit_length_whose_name_weighs_most() -> None:
    found = vectors([("Private label bananas", "produce / tropical fruit")])
    assert math.isclose(float(np.linalg.norm(found.value_XW[0])), 1.0, rel_tol=1e-6)
    assert abs(found.value_XW[0, 0]) == pytest.approx(2 * abs(found.value_XW[0, 1]))
    assert found.place_XW.max() < BUCKETS


def test_the_same_name_has_the_same_vector_in_every_shop_and_another_name_has_not() -> None:
    one, other = vectors([("牛奶 250ml", "乳品")]), vectors([("面包", "烘焙"), ("牛奶 250ml", "乳品")])
    assert np.array_equal(one.place_XW[0], other.place_XW[1])
    assert np.array_equal(one.value_XW[0], other.value_XW[1])
    weight_D = np.zeros(BUCKETS, np.float32)
    weight_D[bucket("name 牛奶 250ml")[0]] = bucket("name 牛奶 250ml")[1]
    assert other.times(weight_D)[1] > 0.5 > abs(other.times(weight_D)[0])


def test_a_bucket_is_a_public_function_of_the_word() -> None:
    assert bucket("milk") == bucket("milk")
    places = [bucket(f"w{one}") for one in range(4000)]
    assert len({place for place, _ in places}) > 0.8 * BUCKETS  # 1 - e^-2 of them are hit by chance
    assert abs(sum(sign for _, sign in places)) < 6 * math.sqrt(4000)


def test_a_text_without_words_and_one_with_too_many_are_still_texts() -> None:
    found = vectors([("", ""), (" ".join(f"word{one}" for one in range(40)), "")])
    assert np.isfinite(found.value_XW).all()
    assert found.value_XW.shape == (2, TERMS)
    assert terms("") == []


def test_a_head_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    head = {name: random.normal(size=part.shape).astype(np.float32) for name, part in PARTS.items()}
    (tmp_path / "head.safetensors").write_bytes(head_bytes(head))
    found = read_head(tmp_path / "head.safetensors")
    assert set(found) == set(head)
    assert all(np.array_equal(found[name], head[name]) for name in PARTS)


def test_a_head_that_is_missing_damaged_of_another_shape_or_not_finite_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    with pytest.raises(UserError, match="cannot be read"):
        read_head(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        read_head(path)
    save_file({"rank": np.zeros(3, np.float32)}, path)
    with pytest.raises(UserError, match="take a run of this version"):
        read_head(path)
    broken = {name: np.full(part.shape, np.nan, np.float32) for name, part in PARTS.items()}
    save_file(broken, path)
    with pytest.raises(UserError, match="not finite"):
        read_head(path)
