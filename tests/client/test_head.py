"""The head under the same conformance as the adapter, and that it learns what it is for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest
import torch
from scipy import stats

from client.data.customers import Basket, Customer
from client.train import head as heads
from client.train.head import (
    FEATURES,
    ITEMS,
    Head,
    HeadData,
    head_gradients,
    head_loss,
    head_row,
    make_head_data,
    train_head,
)
from client.train.sampling import Rehearsal, SecureRandom
from client.train.trainer import CustomerDPOptimizer, private
from common.privacy.plan import RoundPlan

START = datetime(2026, 1, 1)
PLAN = RoundPlan("shop", "run", 1, 1.0, 1.0, 1, 0.3, 8.0, 1e-6, 4, "p", "a")


def customer(seed: int, baskets: int = 12) -> Customer:
    """A customer who comes back for a favourite, and now and then for something else."""
    random = np.random.default_rng(seed)
    favourite, day, found = f"i{random.integers(0, 9)}", 0, []
    for _ in range(baskets):
        day += int(random.integers(4, 10))
        items = {f"i{one}": f"商品{one}" for one in random.integers(0, 30, 2)}
        if random.random() < 0.8:
            items[favourite] = "心头好"
        found.append(Basket(START + timedelta(days=day), items))
    return Customer(f"c{seed}", found)


def data(count: int) -> HeadData:
    return make_head_data([customer(seed) for seed in range(count)])


def weights(seed: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.3, len(FEATURES)).astype(np.float32))


def gradients(customers: HeadData, drawn: Sequence[int]) -> torch.Tensor:
    """Per-customer gradients as the trainer computes them, (B, F)."""
    head = Head()
    with torch.no_grad():
        head.score.weight.copy_(weights()[None, :])
    with private(head, ["score.weight"], PLAN, 1.0, SecureRandom()) as (hooks, optimizer):
        optimizer.zero_grad(set_to_none=True)
        head_gradients(hooks, customers.take(drawn))
        return torch.cat([p.grad_sample.flatten(1) for p in optimizer.params], 1).detach()


def brute_force(customers: HeadData, one: int) -> torch.Tensor:
    """One customer's gradient by plain autograd on that row alone, (F,)."""
    w_F = weights().requires_grad_(True)
    row = customers.take([one])
    scores_BCI = torch.from_numpy(row.features_BCIF) @ w_F
    head_loss(scores_BCI, torch.from_numpy(row.valid_BCI), torch.from_numpy(row.bought_BCI)).sum().backward()
    assert w_F.grad is not None
    return w_F.grad


def test_the_gradients_are_those_of_each_customer_alone() -> None:
    customers = data(6)
    together = gradients(customers, range(6))
    for one in range(6):
        torch.testing.assert_close(gradients(customers, [one])[0], together[one], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(brute_force(customers, one), together[one], rtol=1e-4, atol=1e-6)


def test_planted_fault_a_loss_that_averages_over_the_batch_couples_customers(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = heads.head_loss
    monkeypatch.setattr(heads, "head_loss", lambda *rows: honest(*rows) / len(rows[0]))
    customers = data(3)
    assert not torch.allclose(gradients(customers, [0])[0], gradients(customers, [0, 1, 2])[0], rtol=1e-3)


def released_sum(customers: HeadData, clip: float) -> torch.Tensor:
    plan = replace(PLAN, sigma=0.0, clip_norm=clip)
    return -plan.divisor * train_head(weights(), customers, plan, Rehearsal(1), local_rate=1.0)


@pytest.mark.parametrize("clip", [1e-3, 0.1, 10.0])
def test_the_clipped_sum_equals_a_loop_over_customers(clip: float) -> None:
    customers = data(7)
    total = torch.zeros(len(FEATURES))
    for one in range(7):
        gradient = brute_force(customers, one)
        total += gradient * min(1.0, clip / (float(gradient.norm()) + 1e-6))
    torch.testing.assert_close(released_sum(customers, clip), total, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("clip", [1e-3, 0.1, 10.0])
def test_one_customer_more_moves_the_sum_by_at_most_the_clip_norm(clip: float) -> None:
    moved = released_sum(data(5), clip) - released_sum(data(4), clip)
    assert float(moved.norm()) <= clip * 1.0001


def test_nobody_drawn_is_noise_alone() -> None:
    plan = replace(PLAN, steps=3)
    updates = torch.cat([train_head(weights(), data(0), plan, SecureRandom(), local_rate=1.0) for _ in range(80)])
    deviation = plan.sigma * plan.clip_norm / plan.divisor * math.sqrt(plan.steps)
    assert stats.kstest(updates.numpy() / deviation, "norm").pvalue > 1e-7


def test_planted_fault_no_noise_on_the_head_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(self: CustomerDPOptimizer) -> None:
        for parameter in self.params:
            parameter.grad = parameter.summed_grad.view_as(parameter)

    monkeypatch.setattr(CustomerDPOptimizer, "add_noise", silent)
    assert float(train_head(weights(), data(0), PLAN, SecureRandom(), local_rate=1.0).abs().max()) == 0


def test_a_broken_row_contributes_nothing() -> None:
    honest = released_sum(data(3), 0.1)
    more = data(4)
    more.rows.features_BCIF[3] = np.inf
    torch.testing.assert_close(released_sum(more, 0.1), honest, rtol=1e-4, atol=1e-6)


def test_a_row_reads_its_customer_only_and_never_the_basket_it_asks_about() -> None:
    one = customer(4)
    whole = head_row(one.baskets)
    longer = head_row([*one.baskets[:-1], Basket(one.baskets[-1].time, {"new": "新品"})])
    assert np.array_equal(whole.features_BCIF, longer.features_BCIF)
    assert not np.array_equal(whole.bought_BCI, longer.bought_BCI)
    assert whole.features_BCIF.shape[1:] == (ITEMS, len(FEATURES))
    assert float(np.abs(whole.features_BCIF).max()) <= 4


def test_customers_with_too_few_baskets_keep_an_empty_row_without_a_gradient() -> None:
    few = make_head_data([customer(1, baskets=2), customer(2)])
    found = gradients(few, [0, 1])
    assert len(few) == 2
    assert float(found[0].norm()) == 0 < float(found[1].norm())


def test_it_learns_to_rank_what_customers_buy_again_also_with_noise() -> None:
    customers = data(300)
    row = customers.take(range(300))
    tensors = [torch.from_numpy(part) for part in (row.features_BCIF, row.valid_BCI, row.bought_BCI)]
    w_F, plan = torch.zeros(len(FEATURES)), replace(PLAN, steps=20, rate=0.5, divisor=150.0)
    before = float(head_loss(tensors[0] @ w_F, tensors[1], tensors[2]).mean())
    w_F = w_F + train_head(w_F, customers, plan, SecureRandom(), local_rate=2.0)
    after = float(head_loss(tensors[0] @ w_F, tensors[1], tensors[2]).mean())
    assert after < 0.9 * before
