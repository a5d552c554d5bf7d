"""Products in eight bits by sixteen: near those of the rounded weights, every row alone, packed anew where weights change."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from torch.nn import Parameter

from client.train import products
from client.train.products import (
    Bytes,
    EightBits,
    EightBitWords,
    Floating,
    FloatingWords,
    check_eight_bits,
    eight_bits,
    exact,
    in_bytes,
    once,
    restored,
    rounded,
)
from common.errors import UserError
from tests.conftest import needs_vnni

IN, OUT = 96, 50


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


@pytest.fixture
def weight() -> torch.Tensor:
    return normal(IN, OUT, seed=2) * torch.linspace(0.01, 3, OUT)


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def test_a_weight_is_at_most_half_a_step_from_what_stands_for_it(weight: torch.Tensor) -> None:
    levels_OI, step_O = rounded(weight.t())
    assert levels_OI.dtype == torch.int8
    assert levels_OI.abs().amax(1).tolist() == [127] * OUT
    off_OI = (restored(weight.t()) - weight.t()).abs()
    assert bool((off_OI <= 0.501 * step_O[:, None]).all())
    assert torch.equal(restored(restored(weight.t())), restored(weight.t()))


def test_bytes_stand_for_the_row_to_half_a_part_in_32767_of_its_largest() -> None:
    x_NI = normal(40, IN) * torch.logspace(-20, 20, 40)[:, None]
    x_NI[3] = 0
    x: Bytes = in_bytes(x_NI)
    back_NI = x.unit_N1.double() * (256 * (x.high_NI.double() - 128) + x.low_NI.double())
    off_N = (back_NI - x_NI).abs().amax(1) / x_NI.abs().amax(1).clamp(min=1e-30)
    assert float(off_N.max()) < 0.51 / 32767
    assert not bool(back_NI[3].any())


@pytest.mark.parametrize("onednn", [True, False])
def test_in_float32_both_libraries_give_the_same_products(
    weight: torch.Tensor, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "onednn_is_quicker", lambda: onednn)
    monkeypatch.setattr(products, "WORTH", 0)
    x_NI, dy_NO, bias_O = normal(300, IN), normal(300, OUT, seed=3), normal(OUT, seed=4)
    frozen, words = Floating(weight, bias_O), FloatingWords(weight.t().contiguous())
    assert apart(frozen.out(x_NI), x_NI.double() @ weight.double() + bias_O) < 1e-6
    assert apart(frozen.back(dy_NO), dy_NO.double() @ weight.double().t()) < 1e-6
    assert apart(words.odds(words.ready(x_NI)), x_NI.double() @ weight.double()) < 1e-6
    assert apart(words.mixed(dy_NO.abs()), dy_NO.abs().double() @ weight.double().t()) < 1e-6


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
def test_small_products_of_many_row_numbers_leave_no_kernels_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "onednn_is_quicker", lambda: True)
    weight_OI, own = normal(96, 32), psutil.Process()
    products.linear(normal(9, 32), weight_OI)
    before = own.memory_info().rss
    for rows in range(10, 410):
        products.linear(normal(rows, 32), weight_OI)
    assert own.memory_info().rss - before < 50 * 2**20  # 240 MiB where each has a kernel


def test_mkl_is_left_on_amds_processors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for vendor, quicker in (("AuthenticAMD", torch.backends.mkldnn.is_available()), ("GenuineIntel", False)):
        monkeypatch.setattr(Path, "read_text", lambda path, vendor=vendor: f"processor: 0\nvendor_id: {vendor}\n")
        assert products.onednn_is_quicker.__wrapped__() == quicker

    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert not products.onednn_is_quicker.__wrapped__()


@needs_vnni
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_both_ways_are_those_of_the_rounded_weights(weight: torch.Tensor, size: float) -> None:
    x_NI, dy_NO, bias_O = size * normal(300, IN), size * normal(300, OUT, seed=3), size * normal(OUT, seed=4)
    stands_IO = restored(weight.t()).t().double()
    frozen = EightBits(eight_bits(weight), bias_O)
    assert apart(frozen.out(x_NI), x_NI.double() @ stands_IO + bias_O) < 5e-5
    assert apart(frozen.back(dy_NO), dy_NO.double() @ stands_IO.t()) < 5e-5
    assert apart(frozen.out(x_NI), x_NI.double() @ weight.double() + bias_O) > 1e-3


@needs_vnni
def test_the_heads_words_are_those_of_the_rounded_rows(weight: torch.Tensor) -> None:
    words, rows_OI = EightBitWords(eight_bits(weight)), restored(weight.t()).double()
    hidden_NI = normal(30, IN)
    odds_NO = words.odds(words.ready(hidden_NI))
    assert apart(odds_NO, hidden_NI.double() @ rows_OI.t()) < 5e-5
    shares_NO = odds_NO.softmax(1)
    expected_NI = shares_NO.double() @ rows_OI
    assert apart(words.mixed(shares_NO), expected_NI) < 1e-4


@needs_vnni
def test_a_row_comes_out_the_same_whoever_is_beside_it(weight: torch.Tensor) -> None:
    frozen, x_NI, dy_NO = EightBits(eight_bits(weight), torch.zeros(OUT)), normal(33, IN), normal(33, OUT)
    loud = x_NI * 1e6
    loud[7], loud[20] = x_NI[7], float("nan")
    assert torch.equal(frozen.out(loud)[7], frozen.out(x_NI)[7])
    assert torch.equal(frozen.out(x_NI[7:8])[0], frozen.out(x_NI)[7])
    assert torch.equal(frozen.back(dy_NO[7:9]), frozen.back(dy_NO)[7:9])


@needs_vnni
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_comes_out_not_finite_and_no_other(weight: torch.Tensor, value: float) -> None:
    frozen, x_NI, dy_NO = EightBits(eight_bits(weight), torch.zeros(OUT)), normal(9, IN), normal(9, OUT)
    x_NI[4, 11] = dy_NO[4, 11] = value
    for found in (frozen.out(x_NI), frozen.back(dy_NO)):
        assert not bool(torch.isfinite(found[4]).any())
        assert bool(torch.isfinite(found[[0, 1, 2, 3, 5, 6, 7, 8]]).all())


def test_planted_fault_a_step_for_all_rows_lets_one_row_change_another(monkeypatch: pytest.MonkeyPatch) -> None:
    x_NI = normal(5, IN)
    loud = x_NI.clone()
    loud[0] *= 1e6
    assert torch.equal(in_bytes(loud).low_NI[1:], in_bytes(x_NI).low_NI[1:])
    pooled = SimpleNamespace(**{name: getattr(torch, name) for name in ("int16", "uint8", "mul")})
    pooled.maximum = lambda one, other: torch.maximum(one, other).amax().expand(len(one), 1).clone()
    monkeypatch.setattr(products, "torch", pooled)
    assert not torch.equal(in_bytes(loud).low_NI[1:], in_bytes(x_NI).low_NI[1:])


def test_what_is_made_of_a_weight_is_kept_until_the_weight_is_another() -> None:
    weight = Parameter(normal(3, 4), requires_grad=False)
    made: list[float] = []

    def make() -> float:
        made.append(float(weight.sum()))
        return made[-1]

    first = once(weight, make)
    assert once(weight, make) == first
    assert len(made) == 1
    with torch.no_grad():
        weight.add_(1.0)
    assert once(weight, make) == pytest.approx(first + 12, abs=1e-4)
    before, weight.data = weight.data, weight.data * 2
    assert once(weight, make) == pytest.approx(2 * (first + 12), abs=1e-4)
    weight.data = before
    assert once(weight, make) == pytest.approx(first + 12, abs=1e-4)
    assert len(made) == 4


def test_where_it_cannot_be_had_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r'the device is cuda:0; write "bfloat16"'):
        check_eight_bits("cuda:0")
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    with monkeypatch.context() as patch:
        patch.setattr(products, "by_bytes", lambda x_NI, *_: torch.ones(len(x_NI), 40))
        with pytest.raises(UserError, match="does not multiply bytes as asked"):
            check_eight_bits("cpu")
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(UserError, match=r'needs a processor with VNNI, .* write "float32"'):
        check_eight_bits("cpu")


@needs_vnni
def test_this_machine_multiplies_bytes_exactly() -> None:
    assert exact()
    check_eight_bits("cpu")
