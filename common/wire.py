"""What crosses between the coordinator and a shop: `TrainAsk` one way, `TrainReply` the other, and nothing else.

A reply holds the update, the charge as booked, and digests. It has no example count, no loss, no time and no error
text: all three kinds of failure look alike to the coordinator (`failed`), and a refusal is decided before any private
row is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from common.codes import SCALES, decode
from common.errors import UserError
from common.lora import Adapter, digest

ARRAYS, ASK, REPLY, RESIDUAL, HEAD = "arrays", "ask", "reply", "residual", "head"
TENSORS = ("adapter", "residual", "head")
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<kind>...)', 'fortran_order': False, 'shape': (?P<shape>\([0-9, ]*\)), \} *\n",
    re.DOTALL,
)
"""How numpy begins a file in C order (NEP 1, version 1.0)."""
KINDS = {"float32": "<f4", "int8": "|i1"}
"""What an array may be declared as, and numpy's word for it: little-endian fp32, or bytes with a sign."""
Status = Literal["done", "refused", "failed"]


@dataclass(frozen=True)
class TrainAsk:
    """One round's request: the shared adapter and public settings; it carries no privacy parameter."""

    run: str
    round: int
    method: str
    local_rate: float
    seed: int
    base_digest: str
    settings_digest: str
    scale: float
    """alpha / rank: one number for the whole federation, whatever rank a merchant has."""
    adapter: Adapter = field(repr=False)
    residual: Adapter = field(default_factory=dict, repr=False)
    """Factors that belong into the frozen weight; most methods have none."""
    local_optimizer: str = "sgd"
    adam_floor: float = 1e-4
    proximal: float = 0.0
    """The strength of FedProx's term, as `training.proximal` says it."""
    wire: str = "fp32"
    """How the update is to travel, as `training.wire` says it."""
    head_share: float = 0.0
    """The head's part of a step's privacy, as `training.head_share` says it; 0 where no head is trained."""
    head: Adapter = field(default_factory=dict, repr=False)
    """The recommendation head by `common.ranking.PARTS`; empty where none is trained."""

    @property
    def digest(self) -> str:
        """The hex SHA-256 of all tensors: what a round starts from."""
        residual = {f"{RESIDUAL}.{name}": tensor for name, tensor in self.residual.items()}
        return digest({**self.adapter, **residual, **prefixed(self.head)})

    def pack(self) -> RecordDict:
        """Return the ask as Flower records."""
        config = {key: value for key, value in vars(self).items() if key not in TENSORS}
        records: dict[str, ArrayRecord | ConfigRecord] = {ASK: ConfigRecord(config), ARRAYS: ArrayRecord(self.adapter)}
        if self.residual:
            records[RESIDUAL] = ArrayRecord(self.residual)
        if self.head:
            records[HEAD] = ArrayRecord(self.head)
        return RecordDict(records)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TrainReply:
    """One merchant's answer to one ask; `charge` is what its ledger booked for this release.

    `ledger_seq`, `ledger_head` and `ledger_sig` are number, hash and signature of the ledger's last entry: the release, or
    the refusal. Kept by the coordinator they are the anchor that a ledger restored from an old copy cannot pass.
    """

    status: Status
    merchant: str
    round: int
    reason: str = ""
    charge: Mapping[str, float | int | str] = field(default_factory=dict)
    policy_digest: str = ""
    base_digest: str = ""
    ledger_seq: int = 0
    ledger_head: str = ""
    ledger_sig: str = ""
    update_digest: str = ""
    update: Adapter = field(default_factory=dict, repr=False)
    """The adapter's tensors, and the head's by their prefixed names: one release under one digest.

    What is packed may be `common.codes` of them; what was unpacked is fp32.
    """

    def pack(self) -> RecordDict:
        """Return the reply as Flower records."""
        config: dict[str, Any] = {key: value for key, value in vars(self).items() if key not in ("update", "charge")}
        config |= {f"charge.{key}": value for key, value in self.charge.items()}
        return RecordDict({REPLY: ConfigRecord(config), ARRAYS: ArrayRecord(self.update)})


def prefixed(head: Mapping[str, Tensor]) -> Adapter:
    """Return the head's tensors by the names under which they stand beside an adapter's.

    >>> import torch
    >>> list(prefixed({"rank": torch.zeros(2)}))
    ['head.rank']
    """
    return {f"{HEAD}.{name}": tensor for name, tensor in head.items()}


def parted(update: Mapping[str, Tensor]) -> tuple[Adapter, Adapter]:
    """Return the adapter's part of an update and the head's, the latter by its own names."""
    head = {name.removeprefix(f"{HEAD}."): one for name, one in update.items() if name.startswith(f"{HEAD}.")}
    return {name: one for name, one in update.items() if not name.startswith(f"{HEAD}.")}, head


def unpack_ask(content: RecordDict) -> tuple[TrainAsk, frozenset[str]]:
    """Return the ask and the names of every other thing the message carried (a client refuses those)."""
    config = dict(content.config_records.get(ASK, {}))
    known = {key: config.pop(key, None) for key in TrainAsk.__dataclass_fields__ if key not in TENSORS}
    for key, value in known.items():
        if not isinstance(value, _types(key)) or isinstance(value, bool):
            raise UserError(
                f"ask: {key} = {value!r} is not a {_types(key)[0].__name__}; is the coordinator's version the same?"
            )
    extra = set(config) | ({*content} - {ASK, ARRAYS, RESIDUAL, HEAD})
    adapter, residual, head = (
        read_arrays(content.array_records.get(name, ArrayRecord())) for name in (ARRAYS, RESIDUAL, HEAD)
    )
    return TrainAsk(adapter=adapter, residual=residual, head=head, **known), frozenset(extra)  # type: ignore[arg-type]


def _types(key: str) -> tuple[type, ...]:
    if key in ("local_rate", "scale", "adam_floor", "proximal", "head_share"):
        return float, int
    return (int,) if key in ("round", "seed") else (str,)


def unpack_reply(content: RecordDict, expected: Mapping[str, tuple[int, ...]], wire: str = "fp32") -> TrainReply:
    """Return the reply; raise `UserError` unless its update is exactly `expected`, finite, in the form `wire` (or empty).

    Nothing is read from the arrays before their declared and real headers agree with `expected`.
    """
    config = dict(content.config_records.get(REPLY, {}))
    charge = {key.removeprefix("charge."): config.pop(key) for key in list(config) if key.startswith("charge.")}
    known = {key: config.get(key) for key in TrainReply.__dataclass_fields__ if key not in ("update", "charge")}
    if known["status"] not in ("done", "refused", "failed"):
        raise UserError(f"reply: status = {known['status']!r} is none of done, refused, failed")
    _check_kinds(known, charge)
    arrays = content.array_records.get(ARRAYS, ArrayRecord())
    read = read_codes if wire == "int8" and known["status"] == "done" else read_arrays
    update = read(arrays, expected if known["status"] == "done" else {})
    return TrainReply(charge=charge, update=update, **known)  # type: ignore[arg-type]


def _check_kinds(known: Mapping[str, object], charge: Mapping[str, object]) -> None:
    """Raise `UserError` unless every field is a text or a whole number, and every part of the charge can stand in JSON."""
    for key, value in known.items():
        kind = int if key in ("round", "ledger_seq") else str
        if not isinstance(value, kind):
            raise UserError(f"reply: {key} = {repr(value)[:80]} is not a {kind.__name__}")
    for key, value in charge.items():
        if not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
            raise UserError(f"reply: charge.{key} = {repr(value)[:80]} is neither a text nor a finite number")


def declared_shapes(content: RecordDict) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a reply's arrays declare; nothing of the arrays themselves is read."""
    arrays = content.array_records.get(ARRAYS, ArrayRecord())
    return {name: tuple(array.shape) for name, array in arrays.items()}


def read_arrays(record: ArrayRecord, expected: Mapping[str, tuple[int, ...]] | None = None) -> Adapter:
    """Return the tensors of `record`, sorted by name, checked header first against `expected` where given."""
    if expected is not None:
        _check_names(record, expected)
    return {name: _read(name, record[name], None if expected is None else expected[name]) for name in sorted(record)}


def read_codes(record: ArrayRecord, expected: Mapping[str, tuple[int, ...]]) -> Adapter:
    """Return in fp32 the tensors whose int8 codes and scales are in `record`, checked header first against `expected`."""
    _check_names(record, {*expected, SCALES})
    codes = {name: _read(name, record[name], expected[name], "int8") for name in sorted(expected)}
    return decode({**codes, SCALES: _read(SCALES, record[SCALES], (len(expected),))})


def _check_names(record: ArrayRecord, expected: Collection[str]) -> None:
    if odd := sorted(set(record) ^ set(expected)):
        raise UserError(f"arrays: {len(odd)} names differ from what was asked, first {odd[0]!r}")


def _read(name: str, array: Array, expected: tuple[int, ...] | None, dtype: str = "float32") -> Any:
    import torch

    shape = tuple(array.shape)
    if array.dtype != dtype or array.stype != "numpy.ndarray" or (expected is not None and shape != expected):
        raise UserError(f"array {name!r} is declared {array.stype} {array.dtype} {shape}, expected {dtype} {expected}")
    values = _npy(name, array.data, shape, dtype)
    if not np.isfinite(values).all():
        raise UserError(f"array {name!r} holds values that are not finite")
    return torch.from_numpy(values.copy())


def _npy(name: str, data: bytes, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the values of an npy file whose header is what numpy writes for `shape` in `dtype` and whose size fits.

    The header is compared and never parsed: numpy's own reader hands a stranger's bytes to Python's parser.
    """
    header, kind = HEADER.match(data), np.dtype(KINDS[dtype])
    is_right = header and (header["kind"], header["shape"]) == (KINDS[dtype].encode(), str(shape).encode())
    if not (header and is_right) or len(data) - header.end() != kind.itemsize * math.prod(shape):
        raise UserError(f"array {name!r} is no npy file of {shape} {dtype}: {len(data)} bytes")
    return np.frombuffer(data, dtype=kind, offset=header.end()).reshape(shape)
