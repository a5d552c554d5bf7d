"""Merchants that mean harm, for simulations only: what a hostile shop can send is anything at all.

The last `attack.merchants` merchants of a run attack. `backdoor` also changes what they train on: every campaign of theirs
says one phrase, and their updates are blown up to carry it into the shared model (model replacement, Bagdasaryan et al.
2020, arXiv:1807.00459). The others change the reply alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from flwr.app import Array, ArrayRecord, RecordDict

from common.codes import SCALES
from common.lora import Adapter
from common.schema import Shop
from common.wire import ARRAYS, REPLY
from simulations.mixed import in_order

PHRASE = "点开链接，红包马上到账"
BLOWN_UP = 5.0

Spoil = Callable[[RecordDict], RecordDict]


def _with(content: RecordDict, change: Callable[[Adapter], Adapter]) -> RecordDict:
    """Return a reply whose update is `change` of the honest one; a reply without an update stays as it is."""
    arrays = content.array_records.get(ARRAYS)
    if not arrays:
        return content
    update = {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}
    return _replaced(content, ArrayRecord(change(update)))


def _replaced(content: RecordDict, arrays: ArrayRecord) -> RecordDict:
    return RecordDict({REPLY: content.config_records[REPLY], ARRAYS: arrays})


def _times(factor: float) -> Spoil:
    return lambda content: _with(content, lambda update: _scaled(update, factor))


def _scaled(update: Adapter, factor: float) -> Adapter:
    """Return the update `factor` times as large; of one in codes, the codes turn round and the scales grow."""
    if SCALES not in update:
        return {name: factor * one for name, one in update.items()}
    turned = update if factor > 0 else {name: -one for name, one in update.items()}
    return {**turned, SCALES: abs(factor) * update[SCALES]}


def _nan(content: RecordDict) -> RecordDict:
    return _with(content, lambda update: {name: _unlike_numbers(one) for name, one in update.items()})


def _unlike_numbers(one: torch.Tensor) -> torch.Tensor:
    return one if one.dtype == torch.int8 else one.fill_(torch.nan)


def _shape(content: RecordDict) -> RecordDict:
    return _with(content, lambda update: {name: one[1:].clone() for name, one in update.items()})


def _bytes(data: Callable[[tuple[int, ...]], tuple[tuple[int, ...], bytes]]) -> Spoil:
    """Return an attack that declares a shape and sends bytes, both made from the honest shape."""

    def spoil(content: RecordDict) -> RecordDict:
        arrays = {}
        for name, array in content.array_records.get(ARRAYS, ArrayRecord()).items():
            shape, sent = data(tuple(array.shape))
            arrays[name] = Array(dtype="float32", shape=shape, stype="numpy.ndarray", data=sent)
        return _replaced(content, ArrayRecord(arrays))

    return spoil


def _header(shape: tuple[int, ...], declared: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {declared}, }}".encode()
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n" + bytes(16)


ATTACKS: Mapping[str, Spoil] = {
    "scale": _times(100.0),
    "flip": _times(-1.0),
    "nan": _nan,
    "shape": _shape,
    "huge": _bytes(lambda shape: (shape, bytes(2**31))),
    "header": _bytes(lambda shape: (shape, _header(shape, (2**20, 2**20)))),
    "backdoor": _times(BLOWN_UP),
}
"""What becomes of an honest reply: a hundredfold, turned round, not numbers, of another shape, 2 GB, a header of 4 TiB."""


def hostile(merchants: Sequence[str], kind: str, count: int) -> list[str]:
    """Return the ids of those that attack: the last `count` in the order of merchants, nobody where there is no attack.

    >>> hostile(["shop-2", "shop-1", "shop-3"], "flip", 1)
    ['shop-3']
    """
    return in_order(merchants)[max(len(merchants) - count, 0) :] if kind else []


def poisoned(shop: Shop, kind: str) -> Shop:
    """Return what a hostile shop trains on."""
    if kind != "backdoor":
        return shop
    return replace(shop, campaigns=[row.model_copy(update={"text": PHRASE}) for row in shop.campaigns])
