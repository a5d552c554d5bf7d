"""An update in eight bits a number: whole codes and one scale a tensor, rounded at random so that the mean stays.

    s = max |x| / 127        Q(x) = s (floor(x / s) + [u < x / s - floor(x / s)]),  u uniform in [0, 1)

E Q(x) = x, |Q(x) - x| < s, and the variance of one number is at most s^2 / 4: QSGD (Alistarh et al. 2017, arXiv:1610.02132)
with the largest magnitude in place of the L2 norm and 127 levels. It is for updates that are noised already: code and scale
are then functions of what may be seen, and no charge, clip norm or noise knows of it. Such noise is alike on all numbers of a
tensor, so that one scale fits them all.

    K tensors, in the order of their names
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from common.errors import UserError

SCALES = "scales"
"""The name under which a coded update carries its K scales, fp32."""
LEVELS = 127
Words: TypeAlias = Callable[[int], npt.NDArray[np.uint64]]
"""`count` -> so many independent uniform words of 64 bits."""
Tensors: TypeAlias = dict[str, torch.Tensor]


def encode(update: Mapping[str, torch.Tensor], words: Words) -> Tensors:
    """Return int8 codes by name, and under `SCALES` what a step of each is worth; raise `UserError` for what is not finite.

    >>> import torch
    >>> coded = encode({"b": torch.tensor([127.0, -64.0, 0.0])}, lambda count: np.zeros(count, np.uint64))
    >>> coded["b"].tolist(), coded["scales"].tolist()
    ([127, -64, 0], [1.0])
    """
    names = sorted(update)
    scales_K = np.array([_scale(name, update[name]) for name in names], np.float32)
    codes = {name: _rounded(update[name], scale, words) for name, scale in zip(names, scales_K, strict=True)}
    return {**codes, SCALES: torch.from_numpy(scales_K)}


def _scale(name: str, tensor: torch.Tensor) -> np.float32:
    """Return the least fp32 number that 127 times reaches every magnitude; 0 where all are 0."""
    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    if not np.isfinite(largest):
        raise UserError(f"update {name!r} holds values that are not finite; it has no int8 form")
    scale = np.float32(largest / LEVELS)
    return np.nextafter(scale, np.float32(np.inf)) if float(scale) * LEVELS < largest else scale


def _rounded(tensor: torch.Tensor, scale: np.float32, words: Words) -> torch.Tensor:
    """Return the codes of one tensor: each number goes down or up, in proportion to how near it lies."""
    steps = tensor.numpy().astype(np.float64) / (float(scale) or 1.0)
    chance = (words(steps.size) >> np.uint64(32)).astype(np.float64).reshape(steps.shape) * 2.0**-32
    return torch.from_numpy(np.floor(steps + chance).astype(np.int8))


def decode(coded: Mapping[str, torch.Tensor]) -> Tensors:
    """Return the fp32 tensors that `coded` stands for, sorted by name; raise `UserError` for codes that `encode` never makes."""
    names = sorted(name for name in coded if name != SCALES)
    scales_K: npt.NDArray[Any] = coded[SCALES].numpy()
    for name, scale in zip(names, scales_K, strict=True):
        _check(name, coded[name], float(scale))
    return {name: coded[name].float() * float(scale) for name, scale in zip(names, scales_K, strict=True)}


def _check(name: str, codes: torch.Tensor, scale: float) -> None:
    if not 0 <= scale * LEVELS <= float(np.finfo(np.float32).max) or np.signbit(scale):
        raise UserError(f"update {name!r}: scale = {scale:g} is no scale of fp32 numbers")
    if codes.numel() and int(codes.min()) < -LEVELS:
        raise UserError(f"update {name!r}: code {int(codes.min())} is beyond the {LEVELS} levels")
