"""Where a merchant computes: `cpu`, a GPU by number, or whatever is there."""

from __future__ import annotations

import torch

from client.config import MerchantSettings
from client.train.products import check_eight_bits
from common.errors import UserError


def on_device(settings: MerchantSettings) -> MerchantSettings:
    """Return the settings with `train.device` as `pick` reads it: before anything is charged.

    Raises `UserError` for a GPU that is not there, and for a precision that the device cannot compute in.
    """
    train = settings.train.model_copy(update={"device": pick(settings.train.device)})
    if train.precision == "int8":
        check_eight_bits(train.device)
    return settings.model_copy(update={"train": train})


def pick(name: str) -> str:
    """Return the device that `train.device` stands for: `auto` takes the first GPU, or the processor where there is none.

    Raises `UserError` for a GPU that is not there.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda:0" if there else "cpu"
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= there:
        raise UserError(f"train.device = {name!r}: this machine has {there} GPUs that torch can use; write cpu or auto")
    return name
