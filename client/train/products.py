"""Products with frozen matrices, forward and backward: in floating point, or in eight bits by sixteen.

In float32 whichever of torch's two libraries is faster here multiplies what is large, by the weights as they lie.

A processor without matrix units multiplies bytes four times as fast as float32 (AVX-512 VNNI).
The weights are frozen, so they are rounded once, every column o of outputs at its own step:

    W[i, o] = step[o] k[i, o] + at most step[o] / 2          k an integer of eight bits, step[o] = max |W[:, o]| / 127

What runs through them is rounded to sixteen bits at a step of its own row, so that no row sees another, and taken as two
bytes, one product each, added up in integers without error:

    x[n, i] = size[n] / 32767 (256 high + low)               size[n] = max |x[n]|

The network with rounded weights is a network of its own (W8 of Dettmers et al. 2022, arXiv:2208.07339), and its gradients come
out of here as near as sixteen bits are: one part in 10,000 of what float32 gives for it. What runs on beside these products goes
row by row, so that a customer's gradient is hers to the last bit, whoever is drawn with her.

    N rows   I inputs   O outputs
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from common.errors import UserError

LEVELS = 32767
"""The largest whole number that a row's largest stands for."""
WORTH = 10**8
"""Multiplications from which a product is oneDNN's, which makes a kernel for every new number of rows and keeps a thousand."""
LEAST = 1e-30
"""What a row's largest counts at least, so that a row of zeros stays one."""


class Frozen(Protocol):
    """A matrix W (I, O) that is not trained, with its bias."""

    def out(self, x_NI: torch.Tensor) -> torch.Tensor:
        """Return x W + b, (N, O)."""
        ...

    def back(self, dy_NO: torch.Tensor) -> torch.Tensor:
        """Return dy W', (N, I)."""
        ...


class Words(Protocol):
    """A part of the head: the rows W (words, I) of some ids."""

    def ready(self, hidden_NI: torch.Tensor) -> Any:
        """Return hidden states as `odds` of every part takes them."""
        ...

    def odds(self, ready: Any) -> torch.Tensor:
        """Return logits (N, words) in float32."""
        ...

    def mixed(self, shares: torch.Tensor) -> torch.Tensor:
        """Return (N, I): each word's row times its share, of shares (N, words) that are not negative and written over."""
        ...


@dataclass(frozen=True)
class Floating:
    """W as it is, in float32 or bfloat16."""

    weight_IO: torch.Tensor
    bias_O: torch.Tensor

    def out(self, x_NI: torch.Tensor) -> torch.Tensor:
        """Return x W + b, (N, O)."""
        return linear(x_NI, self.weight_IO.t(), self.bias_O)

    def back(self, dy_NO: torch.Tensor) -> torch.Tensor:
        """Return dy W', (N, I)."""
        return linear(dy_NO, self.weight_IO)


@dataclass(frozen=True)
class FloatingWords:
    """Rows of the head as they are."""

    rows_WI: torch.Tensor

    def ready(self, hidden_NI: torch.Tensor) -> torch.Tensor:
        """Return hidden states as they are."""
        return hidden_NI

    def odds(self, ready: torch.Tensor) -> torch.Tensor:
        """Return logits (N, words)."""
        return linear(ready, self.rows_WI).float()

    def mixed(self, shares: torch.Tensor) -> torch.Tensor:
        """Return (N, I): each word's row times its share."""
        return linear(shares.to(self.rows_WI.dtype), self.rows_WI.t())


def linear(x_NI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """Return x W' + b, (N, O)."""
    large = len(x_NI) * weight_OI.numel() >= WORTH
    if large and x_NI.dtype is torch.float32 and not x_NI.is_cuda and onednn_is_quicker():
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, weight_OI, bias_O, "none", [], "")
        return found
    return F.linear(x_NI, weight_OI, bias_O)


@functools.cache
def onednn_is_quicker() -> bool:
    """Return whether float32 is multiplied faster by oneDNN than by MKL, which is held back on AMD's processors."""
    try:
        vendor = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return vendor and torch.backends.mkldnn.is_available()


@dataclass(frozen=True)
class Packed:
    """W in eight bits, packed for the processor both ways, with every output's step."""

    there: torch.Tensor
    home: torch.Tensor
    step_O: torch.Tensor

    def back(self, dy: Bytes) -> torch.Tensor:
        """Return (N, I): dy W' of a dy that has been taken times the steps."""
        return product(dy, self.home, torch.ones(self.home.shape[1])).mul_(dy.unit_N1)


@dataclass(frozen=True)
class EightBits:
    """W in eight bits, with its bias."""

    packed: Packed
    bias_O: torch.Tensor

    def out(self, x_NI: torch.Tensor) -> torch.Tensor:
        """Return x W + b, (N, O)."""
        x = in_bytes(x_NI)
        found_NO = product(x, self.packed.there, self.packed.step_O)
        return torch.addcmul(self.bias_O, found_NO, x.unit_N1, out=found_NO)

    def back(self, dy_NO: torch.Tensor) -> torch.Tensor:
        """Return dy W', (N, I)."""
        scaled_NO = dy_NO * self.packed.step_O
        return self.packed.back(in_bytes(scaled_NO, to=scaled_NO))


@dataclass(frozen=True)
class EightBitWords:
    """Rows of the head in eight bits."""

    packed: Packed

    def ready(self, hidden_NI: torch.Tensor) -> Bytes:
        """Return hidden states in bytes."""
        return in_bytes(hidden_NI)

    def odds(self, ready: Bytes) -> torch.Tensor:
        """Return logits (N, words)."""
        return product(ready, self.packed.there, self.packed.step_O).mul_(ready.unit_N1)

    def mixed(self, shares: torch.Tensor) -> torch.Tensor:
        """Return (N, I): each word's row times its share."""
        shares.mul_(self.packed.step_O)
        return self.packed.back(in_bytes(shares, shares.amax(1, keepdim=True), to=shares))


def eight_bits(weight_IO: torch.Tensor) -> Packed:
    """Return a matrix (I, O) in eight bits."""
    levels_OI, step_O = rounded(weight_IO.t())
    return Packed(packed(levels_OI), packed(levels_OI.t()), step_O)


def rounded(weight_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return whole numbers (O, I) in eight bits and each row's step (O,).

    >>> levels, step = rounded(torch.tensor([[1.0, -0.5, 0.0], [0.0, 0.0, 0.0]]))
    >>> levels.tolist(), (127 * step).tolist()[0]
    ([[127, -64, 0], [0, 0, 0]], 1.0)
    """
    step_O = weight_OI.abs().amax(1).clamp_(min=LEAST) / 127
    return (weight_OI / step_O[:, None]).round_().to(torch.int8), step_O


def restored(weight_OI: torch.Tensor) -> torch.Tensor:
    """Return what the rounded weight stands for, every row at its own step."""
    levels_OI, step_O = rounded(weight_OI)
    return levels_OI * step_O[:, None]


def on_grid(base: GPT2LMHeadModel) -> None:
    """Set a network's weights to what eight bits stand for, in float32: the network whose gradients come out of here."""
    matrices = [one.weight.t() for one in base.transformer.modules() if isinstance(one, Conv1D)]
    with torch.no_grad():
        for weight_OI in (*matrices, base.lm_head.weight):
            weight_OI.copy_(restored(weight_OI))


def packed(levels_OI: torch.Tensor) -> torch.Tensor:
    """Return whole numbers of eight bits as oneDNN wants them."""
    found: torch.Tensor = torch.ops.onednn.qlinear_prepack(levels_OI.contiguous(), None)
    return found


@dataclass(frozen=True)
class Bytes:
    """Rows in sixteen bits: unit (256 (high - 128) + low), (N, I), with every row's own unit (N, 1)."""

    high_NI: torch.Tensor
    low_NI: torch.Tensor
    unit_N1: torch.Tensor


def in_bytes(x_NI: torch.Tensor, most_N1: torch.Tensor | None = None, to: torch.Tensor | None = None) -> Bytes:
    """Return rows in sixteen bits; one that is not finite gets a unit that is not.

    `most` is each row's largest size, where it is known; `to` is room for as many numbers, which is written over.
    """
    if most_N1 is None:
        most_N1 = torch.maximum(x_NI.amax(1, keepdim=True), x_NI.amin(1, keepdim=True).neg_())
    size_N1 = most_N1.clamp(min=LEAST)
    whole_NI = torch.mul(x_NI, LEVELS / size_N1, out=to).round_().to(torch.int16)
    low_NI = whole_NI.to(torch.uint8)  # what does not fit falls off
    high_NI = whole_NI.bitwise_right_shift_(8).add_(128).to(torch.uint8)
    return Bytes(high_NI, low_NI, size_N1.div_(LEVELS))


def product(x: Bytes, levels: torch.Tensor, step_O: torch.Tensor) -> torch.Tensor:
    """Return (N, O): rows times packed `levels` times `step_O`, every row still to be taken times its unit."""
    zeros_O = torch.zeros(len(step_O), dtype=torch.int32)
    low_NO = by_bytes(x.low_NI, 1.0, 0, levels, step_O, zeros_O, None)
    return by_bytes(x.high_NI, 256.0, 128, levels, step_O, zeros_O, low_NO)


def by_bytes(
    x_NI: torch.Tensor,
    unit: float,
    zero: int,
    levels: torch.Tensor,
    step_O: torch.Tensor,
    zeros_O: torch.Tensor,
    to_NO: torch.Tensor | None,
) -> torch.Tensor:
    """Return unit (x - zero) W, (N, O) in float32, with x in bytes; added to `to` in place where there is one."""
    given, linear = (x_NI, unit, zero, levels, step_O, zeros_O), torch.ops.onednn.qlinear_pointwise
    found: torch.Tensor
    if to_NO is None:
        found = linear(*given, None, 1.0, 0, torch.float32, "none", [], "")
    else:
        found = linear.binary(*given, to_NO, None, 1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, "none", [], "")
    return found


# --- weights that many rounds share are packed once ---

_kept: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
Made = TypeVar("Made")


def once(weight: torch.Tensor, make: Callable[[], Made]) -> Made:
    """Return what `make` makes of a weight: kept as long as the weight is, made anew where it was changed or exchanged."""
    kept = _kept.get(weight)
    if kept is None or kept[0].data_ptr() != weight.data_ptr() or kept[1] != weight._version:
        # The weight's storage is held besides, so that no other can come to lie at its address.
        kept = _kept[weight] = weight.detach(), weight._version, make()
    made: Made = kept[2]
    return made


def check_eight_bits(device: str) -> None:
    """Raise `UserError` where a product in eight bits cannot be had, or is not what it should be."""
    if device != "cpu":
        raise UserError(f'precision = "int8" is for processors, and the device is {device}; write "bfloat16"')
    if not torch.cpu._is_vnni_supported():
        raise UserError('precision = "int8" needs a processor with VNNI, which this one lacks; write "float32"')
    if not exact():
        raise UserError(
            f'precision = "int8": torch {torch.__version__} does not multiply bytes as asked; write "float32"'
        )


def exact() -> bool:
    """Return whether bytes are multiplied without error, as integers are."""
    x_NI = torch.arange(8 * 96, dtype=torch.int32).mul_(37).remainder_(256).to(torch.uint8).view(8, 96)
    levels_OI = torch.arange(40 * 96, dtype=torch.int32).mul_(53).remainder_(255).sub_(127).to(torch.int8).view(40, 96)
    wanted_NO = (3 * x_NI.long() - 256) @ levels_OI.long().t()
    try:
        given = packed(levels_OI), torch.ones(40), torch.zeros(40, dtype=torch.int32)
        found_NO = by_bytes(x_NI, 2.0, 128, *given, by_bytes(x_NI, 1.0, 0, *given, None))
    except (RuntimeError, AttributeError):
        return False
    return bool((found_NO == wanted_NO).all())
