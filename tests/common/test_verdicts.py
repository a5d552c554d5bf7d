"""What the coordinator says of a reply is Chinese on a Chinese page; what merchants say stays theirs."""

from __future__ import annotations

import re

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from common.errors import UserError
from common.verdicts import in_words
from common.wire import read_arrays
from server.reference import objections
from server.robust import judged, multi_krum, norm_bound


def said() -> list[str]:
    """Reasons as the code that gives verdicts makes them."""
    apart = np.diag([1.0, 1.0, 1.0, 1.0, 400.0])
    left = np.array([0.0, 4.0, 10.0])
    honest = {"a": 3.0, "b": 3.5, "c": 2.5}
    return [
        one
        for one in (
            *(verdict.reason for verdict in norm_bound(apart)),
            *(verdict.reason for verdict in multi_krum(apart, 0.2)),
            *(verdict.reason for verdict in judged(left, 10)),
            objections({**honest, "d": -6.0}, {})["d"],
            objections({**honest, "d": -0.1}, {one: [3.0] for one in honest} | {"d": [-2.8]})["d"],
            *(str(error) for error in refused()),
        )
        if one
    ]


def refused() -> list[UserError]:
    found = []
    for array in (
        Array(np.full((2, 3), np.nan, dtype=np.float32)),
        Array(np.zeros((3, 2), dtype=np.float32)),
        Array(dtype="float32", shape=(2, 3), stype="numpy.ndarray", data=b"none"),
    ):
        with pytest.raises(UserError) as error:
            read_arrays(ArrayRecord({"a": array}), {"a": (2, 3)})
        found.append(error.value)
    return found


def test_every_verdict_that_the_code_gives_has_chinese_words_with_the_same_numbers() -> None:
    assert len(said()) >= 8
    for reason in said():
        chinese = in_words(reason, "zh")
        assert re.search("[一-鿿]", chinese), reason
        assert sorted(re.findall(r"\d+", chinese)) == sorted(re.findall(r"\d+", reason))
        assert in_words(reason, "en") == reason


def test_what_a_merchant_says_is_not_touched() -> None:
    for own in ("update of norm 3, clipped to 2 and more", "盘点，今天不参加", "against the coordinator's reference"):
        assert in_words(own, "zh") == own
