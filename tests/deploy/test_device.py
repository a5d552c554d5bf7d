"""Where a merchant computes."""

from __future__ import annotations

import pytest
import torch

from client.train.device import pick
from common.errors import UserError


def test_auto_is_a_device_that_tensors_can_be_on() -> None:
    assert torch.zeros(1).to(pick("auto")).device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick("cpu") == "cpu"


def test_a_gpu_that_is_not_there_is_told_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"train.device = 'cuda:99'.*write cpu or auto"):
        pick("cuda:99")
