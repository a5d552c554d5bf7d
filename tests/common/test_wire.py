from __future__ import annotations

import io
import json
import struct
import tracemalloc
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.lora import Adapter, to_bytes
from common.wire import ARRAYS, ASK, REPLY, TrainAsk, TrainReply, read_arrays, unpack_ask, unpack_reply

NAME = "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"
SHAPE = (96, 4)
EXPECTED = {NAME: SHAPE}


def numbers(seed: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32))


UPDATE: Adapter = {NAME: numbers()}
ASKED = TrainAsk(
    "run-1", 3, "fedsvd", 0.1, 2**63 - 1, "ab" * 32, "cd" * 32, 2.0, {"a": torch.tensor([[1.5]]), **UPDATE}
)
DONE = TrainReply(
    "done",
    "qinghe-tea",
    3,
    charge={"sigma": 1.25, "rate": 0.1, "steps": 4, "unit": "customer"},
    policy_digest="ab" * 32,
    base_digest="cd" * 32,
    ledger_seq=7,
    ledger_head="ef" * 32,
    update_digest="01" * 32,
    update=UPDATE,
)


def npy(header: bytes, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """Return an npy file with any header at all."""
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + size + header + data


def real_npy(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


def carrying(data: bytes, dtype: str = "float32", shape: tuple[int, ...] = SHAPE, stype: str = "numpy.ndarray") -> Any:
    """Return the records of a reply whose one array is declared and filled as given."""
    content = DONE.pack()
    content[ARRAYS] = ArrayRecord({NAME: Array(dtype=dtype, shape=shape, stype=stype, data=data)})
    return content


def refused(content: RecordDict) -> str:
    """Return the one line that unpacking a reply ends with."""
    with pytest.raises(UserError) as caught:
        unpack_reply(content, EXPECTED)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- there and back ---


def test_an_ask_comes_back_bit_for_bit() -> None:
    ask, extra = unpack_ask(ASKED.pack())
    assert extra == frozenset()
    assert replace(ask, adapter={}) == replace(ASKED, adapter={})
    assert to_bytes(ask.adapter) == to_bytes(ASKED.adapter)


def test_a_reply_comes_back_bit_for_bit() -> None:
    reply = unpack_reply(DONE.pack(), EXPECTED)
    assert replace(reply, update={}) == replace(DONE, update={})
    assert to_bytes(reply.update) == to_bytes(UPDATE)


@pytest.mark.parametrize("status", ["refused", "failed"])
def test_a_reply_without_an_update_comes_back(status: Any) -> None:
    reply = TrainReply(status, "qinghe-tea", 3, reason="the budget is spent")
    assert unpack_reply(reply.pack(), EXPECTED) == reply


def test_a_reply_has_no_field_for_counts_losses_or_times() -> None:
    assert [field.name for field in fields(TrainReply)] == [
        "status", "merchant", "round", "reason", "charge", "policy_digest", "base_digest",
        "ledger_seq", "ledger_head", "ledger_sig", "update_digest", "update",
    ]  # fmt: skip
    packed = DONE.pack()
    assert set(packed) == {REPLY, ARRAYS}
    assert {key for key in packed.config_records[REPLY] if not key.startswith("charge.")} == {
        field.name for field in fields(TrainReply) if field.name not in ("charge", "update")
    }


def test_an_ask_has_no_field_for_a_privacy_parameter() -> None:
    assert [field.name for field in fields(TrainAsk)] == [
        "run", "round", "method", "local_rate", "seed", "base_digest", "settings_digest", "scale",
        "adapter", "residual", "local_optimizer", "adam_floor", "proximal", "wire", "head_share", "head",
    ]  # fmt: skip


# --- an ask that says more or other things ---


def test_whatever_else_an_ask_carries_is_reported_by_name() -> None:
    content = ASKED.pack()
    content.config_records[ASK]["sigma"] = 0.0
    content["config"] = ConfigRecord({"epsilon": 99.0})
    content["metrics"] = MetricRecord({"loss": 1.0})
    _, extra = unpack_ask(content)
    assert extra == {"sigma", "config", "metrics"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("round", "3"), ("round", 3.0), ("round", True), ("run", 7), ("local_rate", "1"), ("seed", 1.5), ("method", b"x")],
)
def test_an_ask_with_a_value_of_another_kind_is_one_line(key: str, value: Any) -> None:
    content = ASKED.pack()
    content.config_records[ASK][key] = value
    with pytest.raises(UserError, match=f"ask: {key} = ") as caught:
        unpack_ask(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["run", "round", "seed", "base_digest"])
def test_an_ask_with_something_missing_is_one_line(key: str) -> None:
    content = ASKED.pack()
    del content.config_records[ASK][key]
    with pytest.raises(UserError, match=f"ask: {key} = None"):
        unpack_ask(content)


def test_an_empty_message_is_no_ask_and_no_reply() -> None:
    with pytest.raises(UserError, match="ask: run = None"):
        unpack_ask(RecordDict())
    assert "status = None" in refused(RecordDict())


# --- a reply whose settings are not what they should be ---


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status", "great"), ("status", 1), ("merchant", 5), ("round", "3"), ("round", 3.0), ("reason", b"\xff"),
        ("reason", ["a"]), ("policy_digest", 1), ("base_digest", 2.5), ("ledger_seq", "7"), ("ledger_head", b"x"),
        ("update_digest", [1]), ("charge.sigma", b"x"), ("charge.sigma", [1.0]), ("charge.sigma", float("nan")),
    ],
)  # fmt: skip
def test_a_reply_with_a_value_of_another_kind_is_one_line(key: str, value: Any) -> None:
    content = DONE.pack()
    content.config_records[REPLY][key] = value
    assert key in refused(content)


@pytest.mark.parametrize("key", ["status", "merchant", "round", "base_digest", "ledger_seq", "update_digest"])
def test_a_reply_with_something_missing_is_one_line(key: str) -> None:
    content = DONE.pack()
    del content.config_records[REPLY][key]
    assert f"{key} = None" in refused(content)


def test_whatever_is_unpacked_can_be_written_as_json() -> None:
    reply = unpack_reply(DONE.pack(), EXPECTED)
    json.dumps({**vars(reply), "update": None, "charge": dict(reply.charge)}, allow_nan=False)


# --- a reply whose arrays are not what they should be ---


def test_arrays_under_other_names_are_not_read() -> None:
    for update in ({}, {"other": numbers()}, UPDATE | {"other": numbers()}):
        assert "names differ" in refused(replace(DONE, update=update).pack())


def test_a_reply_that_is_not_done_may_not_bring_arrays() -> None:
    assert "names differ" in refused(replace(DONE, status="failed").pack())


@pytest.mark.parametrize(
    "update",
    [
        numbers().double(),
        numbers().half(),
        numbers().int(),
        numbers()[:-1],
        numbers().T.contiguous(),
        numbers().ravel(),
    ],
    ids=["float64", "float16", "int32", "shorter", "transposed", "flat"],
)
def test_arrays_of_another_type_or_shape_are_refused(update: torch.Tensor) -> None:
    assert "expected float32 (96, 4)" in refused(replace(DONE, update={NAME: update}).pack())


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(odd: float) -> None:
    values = numbers()
    values[95, 3] = odd
    assert "not finite" in refused(replace(DONE, update={NAME: values}).pack())


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(SHAPE), np.zeros(SHAPE, ">f4"), np.zeros(SHAPE, np.float16), np.zeros((96, 5), np.float32),
        np.zeros((384,), np.float32), np.asfortranarray(np.ones(SHAPE, np.float32)), np.zeros(SHAPE, np.int32),
    ],
    ids=["float64", "big-endian", "float16", "wider", "flat", "fortran", "int32"],
)  # fmt: skip
def test_a_header_that_differs_from_what_is_declared_is_refused(values: Any) -> None:
    assert "no npy file" in refused(carrying(real_npy(values)))


def test_a_small_message_that_claims_four_tebibytes_allocates_nothing() -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
    data = npy(header.ljust(117) + b"\n")
    assert len(data) == 128
    tracemalloc.start()
    try:
        assert "expected float32 (96, 4)" in refused(carrying(data, shape=(2**40,)))
        assert "no npy file of (96, 4)" in refused(carrying(data))
        with pytest.raises(UserError, match="128 bytes"):
            read_arrays(carrying(data, shape=(2**40,)).array_records[ARRAYS])
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cut", [0, 5, 8, 60, 127, 128, 1000, 96 * 4 * 4 + 127])
def test_a_truncated_array_is_refused(cut: int) -> None:
    whole = real_npy(numbers().numpy())
    assert cut < len(whole)
    assert NAME in refused(carrying(whole[:cut]))


def test_bytes_behind_the_array_are_refused() -> None:
    assert "no npy file" in refused(carrying(real_npy(numbers().numpy()) + b"\0"))


def test_pickled_objects_are_never_opened() -> None:
    data = real_npy(np.array([print] * 384, dtype=object).reshape(SHAPE))
    assert "no npy file of (96, 4)" in refused(carrying(data))
    assert "expected float32" in refused(carrying(data, dtype="object"))
    assert "expected float32" in refused(carrying(real_npy(numbers().numpy()), stype="pickle"))


@pytest.mark.parametrize(
    "header",
    [
        b"", b"{", b"{'descr': '<f4', (", b"[]", b"{}", b"\xff\xfe", b"(" * 9000, b"-" * 9000 + b"1", b"{" * 200,
        b"{'descr': (), 'fortran_order': False, 'shape': (96, 4)}",
        b"{'descr': 'V', 'fortran_order': False, 'shape': (96, 4)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (96L, 4)}",
        b"{'descr': '<f4', 'fortran_order': 0, 'shape': (96, 4)}",
        b"{'descr': [('x', '<f4', (9999999, 9999999))], 'fortran_order': False, 'shape': (96, 4)}",
        b"{[]: 1}", b"__import__('os').system('true')", b"'x' * 9999999999",
    ],
    ids=range(18),
)  # fmt: skip
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0), (9, 9)])
def test_a_header_that_is_none_is_one_line(header: bytes, version: tuple[int, int]) -> None:
    assert NAME in refused(carrying(npy(header, bytes(1536), version)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda header: npy(header, bytes(1536))))
def test_no_bytes_at_all_get_through_as_an_array(data: bytes) -> None:
    refused(carrying(data))


def test_an_ask_whose_array_has_impossible_sizes_is_one_line() -> None:
    content = ASKED.pack()
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1), }"
    content[ARRAYS] = ArrayRecord({NAME: Array("float32", (-1, -1), "numpy.ndarray", npy(header, bytes(4)))})
    with pytest.raises(UserError, match="no npy file"):
        unpack_ask(content)
