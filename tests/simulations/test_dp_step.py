"""The dp-step benchmark on a tiny network: every way does the same work, and says what it took."""

from __future__ import annotations

import json

import numpy as np
import torch

from client.train.loss import customer_loss
from simulations.bench import BENCHMARKS, run_benchmarks, short
from simulations.dp_step import WAYS, DpStep, carrier, clipped, draw_rows, proof, ratio, ready
from tests.conftest import needs_vnni

TINY = DpStep(shape="tiny", batch=5, tokens=24, rank=4, threads=1, repetitions=1)


def test_ways_are_timed_in_turn_and_each_peak_is_taken_apart() -> None:
    said: list[str] = []
    changes = {**TINY.model_dump(), "rows": "ragged", "method": "fedavg"}
    found = json.loads(json.dumps(run_benchmarks(["dp-step"], {"dp-step": changes}, said.append)))
    times, *peaks = found["benchmarks"]["dp-step"]["measurements"]
    assert all(times["facts"][f"{way} cpu s"] > 0 for way in WAYS)
    assert times["facts"]["distance"] < 1e-5
    assert times["facts"]["tokens_counted"] == int(
        draw_rows(TINY.model_copy(update={"rows": "ragged"}), 200).counts_BT[:, 1:].sum()
    )
    assert [one["name"] for one in peaks] == ["peak of plain", "peak of fast", "peak of opacus"]
    assert all(one["usage"]["peak_mib"] > 50 for one in peaks)
    assert len(said) == 5


@needs_vnni
def test_in_int8_the_clipped_sum_is_compared_on_the_rounded_weights() -> None:
    settings = TINY.model_copy(update={"precision": "int8"})
    model = carrier(settings)
    rows = draw_rows(settings, 200)
    unrounded = clipped(settings, "opacus", model, rows)
    assert proof(settings, model, rows)["distance"] < 1e-3
    assert float((clipped(settings, "opacus", model, rows) - unrounded).norm() / unrounded.norm()) > 1e-3


def test_a_ratio_is_taken_side_by_side() -> None:
    seconds = {"fast": [(1.0, 0.0), (2.0, 0.0), (9.0, 0.0)], "plain": [(2.0, 0.0), (4.0, 0.0), (9.0, 0.0)]}
    assert ratio(seconds, "fast", "plain") == 0.5


def test_the_open_step_follows_the_gradient_of_the_customers_losses_added_up() -> None:
    for settings in (TINY, TINY.model_copy(update={"rows": "ragged"})):
        model = carrier(settings)
        rows = draw_rows(settings, 200)
        ids_BT, counts_BT = torch.from_numpy(rows.ids_BT), torch.from_numpy(rows.counts_BT)
        with ready(settings, "open", model, rows) as step:
            parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
            loss = customer_loss(model(input_ids=ids_BT).logits, ids_BT, counts_BT).sum()
            expected = torch.autograd.grad(loss, parameters)
            step()
            for parameter, gradient in zip(parameters, expected, strict=True):
                assert parameter.grad is not None
                torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_ragged_rows_differ_in_length_and_full_ones_count_everywhere() -> None:
    ragged = draw_rows(TINY.model_copy(update={"rows": "ragged", "batch": 64}), 200)
    ends = np.where(ragged.counts_BT, np.arange(24), 0).max(1)
    assert len(set(ends.tolist())) > 8
    assert bool(draw_rows(TINY, 200).counts_BT.all())


def test_a_shops_rows_are_the_same_every_time_and_hold_prompts_that_do_not_count() -> None:
    settings = TINY.model_copy(update={"rows": "shops", "batch": 20})
    one, other = (draw_rows(settings, 200) for _ in range(2))
    assert one.ids_BT.shape == (20, 24)
    assert int(one.ids_BT.max()) < 200
    assert bool((one.ids_BT == other.ids_BT).all() and (one.counts_BT == other.counts_BT).all())
    assert 0.05 < one.counts_BT.mean() < 0.95


def test_the_benchmark_is_listed_and_facts_are_readable() -> None:
    assert "without privacy" in BENCHMARKS["dp-step"].about
    assert [short(value) for value in (0.61234, 123456.7, 12, "ab")] == ["0.612", "123,457", "12", "ab"]
