"""Conformance of the private step: each property, and a planted fault that breaks it."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from client.train import fast, trainer
from client.train.loss import customer_loss
from client.train.sampling import Randomness, Rehearsal, SecureRandom, noisy, normal, poisson, randomness_for
from client.train.trainer import CustomerDPOptimizer, LocalSettings, per_customer_gradients, private
from common.lora import Adapter, Bench, difference, initial, lift, put
from common.methods import trained
from common.privacy.plan import RoundPlan
from common.tokens import Rows

T = 24
PLAN = RoundPlan("shop", "run", 1, 0.5, 1.0, 3, 0.5, 4.0, 1e-6, 4, "p", "a")


ENGINES: dict[str, LocalSettings] = {
    "fast": LocalSettings(),
    "fast, buckets": LocalSettings(padding="buckets"),
    "opacus": LocalSettings(dp_engine="opacus"),
}
_now: list[LocalSettings] = []


@pytest.fixture(params=list(ENGINES), autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each test of this module runs with every engine."""
    _now[:] = [ENGINES[request.param]]
    yield request.param
    _now.clear()


def train_round(*given: Any, microbatch: int = 16, **named: Any) -> Adapter:
    """A round with the engine under test."""
    return trainer.train_round(*given, **named, settings=replace(_now[0], microbatch=microbatch))


class Customers:
    """Customers as fixed rows of ids."""

    def __init__(self, lengths: Sequence[int], seed: int = 3) -> None:
        random = np.random.default_rng(seed)
        self.ids_NT = random.integers(2, 1000, (len(lengths), T))
        self.counts_NT = np.arange(T)[None, :] < np.asarray(lengths)[:, None]

    def __len__(self) -> int:
        return len(self.ids_NT)

    def rows(self, drawn: Sequence[int], randomness: Randomness) -> Rows:
        return Rows(self.ids_NT[list(drawn)].astype(np.int64), self.counts_NT[list(drawn)])


class Everybody(Rehearsal):
    """Reproducible words; with rate 1 everybody is drawn."""


def warm(work: Bench, seed: int = 5) -> Adapter:
    """An adapter in the middle of a run: B is not zero."""
    random = np.random.default_rng(seed)
    start = initial(work.model, seed)
    return {
        name: tensor + torch.from_numpy(0.05 * random.standard_normal(tensor.shape)).float()
        for name, tensor in start.items()
    }


def gradients(work: Bench, customers: Customers, drawn: list[int], names: Sequence[str] | None = None) -> torch.Tensor:
    """Per-customer gradients as the trainer computes them, (B, d)."""
    adapter = warm(work)
    put(work.model, adapter)
    with private(work.model, names or list(adapter), PLAN, 1.0, SecureRandom(), _now[0]) as (hooks, optimizer):
        optimizer.zero_grad(set_to_none=True)
        per_customer_gradients(hooks, customers.rows(drawn, SecureRandom()), "cpu")
        return torch.cat([p.grad_sample.flatten(1) for p in optimizer.params], 1).detach()


def brute_force(work: Bench, customers: Customers, one: int) -> torch.Tensor:
    """One customer's gradient by plain autograd on that row alone, (d,)."""
    put(work.model, warm(work))
    parameters = [p for name, p in work.model.named_parameters() if "lora_" in name]
    for parameter in parameters:
        parameter.requires_grad_(True)
    rows = customers.rows([one], SecureRandom())
    ids_BT, counts_BT = torch.from_numpy(rows.ids_BT), torch.from_numpy(rows.counts_BT)
    loss = customer_loss(work.model(input_ids=ids_BT).logits, ids_BT, counts_BT).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


# --- a customer's gradient is that customer's ---


def isolated(work: Bench) -> bool:
    """Whether customer 0's gradient is the same whoever is drawn beside it."""
    customers = Customers([T, 6, 17, 2])
    alone = gradients(work, customers, [0])[0]
    together = gradients(work, customers, [0, 1, 2, 3])[0]
    return bool(torch.allclose(alone, together, rtol=1e-4, atol=1e-6))


def test_a_customers_gradient_does_not_depend_on_who_else_was_drawn(work: Bench) -> None:
    assert isolated(work)


def test_planted_fault_a_mean_over_the_batchs_tokens_couples_customers(
    work: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def coupled(logits_BTV: torch.Tensor, ids_BT: torch.Tensor, counts_BT: torch.Tensor) -> torch.Tensor:
        own = customer_loss(logits_BTV, ids_BT, counts_BT) * counts_BT[:, 1:].sum(1)
        return own / counts_BT[:, 1:].sum()

    def weights(counts_BT: torch.Tensor) -> torch.Tensor:
        return counts_BT / counts_BT[:, 1:].sum()

    monkeypatch.setattr(trainer, "customer_loss", coupled)
    monkeypatch.setattr(fast, "token_weights", weights)
    assert not isolated(work)


def test_the_gradients_are_those_of_plain_autograd_one_customer_at_a_time(work: Bench) -> None:
    customers = Customers([T, 6, 17, 0])
    found = gradients(work, customers, [0, 1, 2, 3])
    for one in range(4):
        torch.testing.assert_close(found[one], brute_force(work, customers, one), rtol=1e-3, atol=1e-6)


def clipped_sum(work: Bench, customers: Customers, plan: RoundPlan) -> torch.Tensor:
    """The released sum of one full step without noise, (d,)."""
    adapter = warm(work)
    update = train_round(
        work.model,
        adapter,
        customers,
        replace(plan, rate=1.0, sigma=0.0, steps=1),
        Everybody(1),
        method="fedavg",
        local_rate=1.0,
    )
    return -plan.divisor * torch.cat([update[name].flatten() for name in named(work)])


def named(work: Bench) -> list[str]:
    """The adapter's names in the order of the model's parameters."""
    return [name.replace(".default.", ".") for name, _ in work.model.named_parameters() if "lora_" in name]


def by_loop(work: Bench, customers: Customers, clip: float) -> torch.Tensor:
    """The clipped sum by a loop over customers."""
    total = torch.zeros(())
    for one in range(len(customers)):
        gradient = brute_force(work, customers, one)
        total = total + gradient * min(1.0, clip / (float(gradient.norm()) + 1e-6))
    return total


def test_the_clipped_sum_equals_a_loop_over_customers(work: Bench) -> None:
    customers = Customers([T, 6, 17, 3, 9])
    clip = float(brute_force(work, customers, 1).norm()) * 0.9
    found = clipped_sum(work, customers, replace(PLAN, clip_norm=clip))
    torch.testing.assert_close(found, by_loop(work, customers, clip), rtol=1e-3, atol=1e-5)


def test_planted_fault_clipping_the_batch_instead_of_each_customer_is_seen(
    work: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clip_the_sum(self: CustomerDPOptimizer) -> None:
        total = torch.stack([g.sum(0).norm() for g in self.grad_samples]).norm()
        for parameter in self.params:
            parameter.summed_grad = parameter.grad_sample.sum(0) * min(1.0, self.max_grad_norm / float(total))

    monkeypatch.setattr(CustomerDPOptimizer, "clip_and_accumulate", clip_the_sum)
    customers = Customers([T, 6, 17, 3, 9])
    clip = float(brute_force(work, customers, 1).norm()) * 0.9
    found = clipped_sum(work, customers, replace(PLAN, clip_norm=clip))
    assert not torch.allclose(found, by_loop(work, customers, clip), rtol=1e-3, atol=1e-5)


def test_adding_a_customer_moves_the_sum_by_at_most_the_clip_norm(work: Bench) -> None:
    both, one_less = Customers([T, 20, 17, 12]), Customers([T, 20, 17, 12])
    one_less.ids_NT, one_less.counts_NT = one_less.ids_NT[:3], one_less.counts_NT[:3]
    for clip in (1e-3, 0.1, 100.0):
        plan = replace(PLAN, clip_norm=clip)
        moved = clipped_sum(work, both, plan) - clipped_sum(work, one_less, plan)
        assert float(moved.norm()) <= clip * 1.0001


# --- neighbours run the same program ---


class Trace:
    """Everything a step does that another could see: shapes, divisor, noise drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[Any] = []
        step = CustomerDPOptimizer.scale_grad

        def scale(optimizer: CustomerDPOptimizer) -> None:
            before = [p.grad.clone() for p in optimizer.params]
            step(optimizer)
            ratios = {round(float((b / p.grad).nanmedian()), 3) for b, p in zip(before, optimizer.params, strict=True)}
            self.seen.append(("divisor", sorted(ratios)))

        def draw(total: Any, deviation: float, randomness: Randomness) -> Any:
            self.seen.append(("noise", total.shape, deviation))
            return noisy(total, deviation, randomness)

        monkeypatch.setattr(CustomerDPOptimizer, "scale_grad", scale)
        monkeypatch.setattr(trainer, "noisy", draw)


def trace_of(work: Bench, customers: Customers, plan: RoundPlan) -> list[Any]:
    with pytest.MonkeyPatch.context() as patch:
        trace = Trace(patch)
        update = train_round(work.model, warm(work), customers, plan, SecureRandom(), method="ffa", local_rate=1.0)
        return [*trace.seen, sorted((name, tuple(tensor.shape)) for name, tensor in update.items())]


@pytest.mark.parametrize("customers", [3, 4, 7, 8, 31, 32])
def test_neighbouring_data_sets_run_the_same_steps_shapes_and_divisor(work: Bench, customers: int) -> None:
    lengths = [5 + one % 19 for one in range(customers + 1)]
    assert trace_of(work, Customers(lengths[:-1]), PLAN) == trace_of(work, Customers(lengths), PLAN)


def test_planted_fault_a_divisor_taken_from_the_customers_is_seen(work: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = CustomerDPOptimizer.__init__

    def from_data(self: Any, optimizer: Any, plan: RoundPlan, *rest: Any) -> None:
        honest(self, optimizer, replace(plan, divisor=float(seen)), *rest)

    monkeypatch.setattr(CustomerDPOptimizer, "__init__", from_data)
    seen = 31
    few = trace_of(work, Customers([9] * 31), PLAN)
    seen = 32
    assert few != trace_of(work, Customers([9] * 32), PLAN)


# --- noise ---


def released(work: Bench, customers: Customers, plan: RoundPlan, **options: Any) -> torch.Tensor:
    """One released update, (d,)."""
    adapter = warm(work)
    update = train_round(
        work.model, adapter, customers, plan, SecureRandom(), method="fedavg", local_rate=1.0, **options
    )
    return torch.cat([tensor.flatten() for tensor in update.values()])


def test_an_empty_draw_still_adds_noise_of_the_right_size(work: Bench) -> None:
    nobody = Customers([])
    update = released(work, nobody, replace(PLAN, steps=4))
    expected = PLAN.sigma * PLAN.clip_norm / PLAN.divisor * math.sqrt(4)
    assert stats.kstest(update.numpy() / expected, "norm").pvalue > 1e-6


def test_planted_fault_skipping_the_empty_draw_is_seen(work: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "microbatches", lambda drawn, size: iter([drawn] if len(drawn) else []))
    assert float(released(work, Customers([]), PLAN).abs().max()) == 0


def test_every_trainable_tensor_has_noise_of_sigma_times_clip(work: Bench) -> None:
    adapter = warm(work)
    for method in ("fedavg", "ffa", "fedsvd"):
        updates = [
            train_round(work.model, adapter, Customers([]), PLAN, SecureRandom(), method=method, local_rate=1.0)
            for _ in range(12)
        ]
        assert list(updates[0]) == trained(adapter, method, 1)
        expected = PLAN.sigma * PLAN.clip_norm / PLAN.divisor * math.sqrt(PLAN.steps)
        for name in updates[0]:
            values = torch.stack([update[name] for update in updates]).numpy().ravel() / expected
            assert stats.kstest(values, "norm").pvalue > 1e-7, name


def test_planted_fault_noise_divided_by_four_is_seen(work: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "noisy", lambda total, deviation, random: noisy(total, deviation / 4, random))
    update = released(work, Customers([]), replace(PLAN, steps=4))
    expected = PLAN.sigma * PLAN.clip_norm / PLAN.divisor * math.sqrt(4)
    assert stats.kstest(update.numpy() / expected, "norm").pvalue < 1e-4


@contextmanager
def broken_customer(value: float) -> Any:
    """Make the gradient of every customer whose first id is 13 equal to `value`."""
    honest: Callable[..., None] = trainer.per_customer_gradients

    def hostile(hooks: Any, rows: Rows, device: str) -> None:
        honest(hooks, rows, device)
        for parameter in hooks.parameters():
            if getattr(parameter, "grad_sample", None) is not None:
                parameter.grad_sample[torch.from_numpy(rows.ids_BT[:, 0] == 13)] = value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "per_customer_gradients", hostile)
        yield


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30, 500.0])
def test_a_broken_row_leaves_the_noises_distribution_as_it_is(work: Bench, value: float) -> None:
    customers = Customers([T] * 3)
    customers.ids_NT[:, 0] = 13
    plan = replace(PLAN, rate=1.0, sigma=4.0, steps=1)
    with broken_customer(value):
        update = released(work, customers, plan)
    expected = plan.sigma * plan.clip_norm / plan.divisor
    assert bool(torch.isfinite(update).all())
    assert stats.kstest(update.numpy() / expected, "norm").pvalue > 1e-6


def test_planted_fault_without_zeroing_a_nan_row_poisons_the_release(
    work: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opacus.optimizers import DPOptimizer

    monkeypatch.setattr(CustomerDPOptimizer, "clip_and_accumulate", DPOptimizer.clip_and_accumulate)
    customers = Customers([T] * 2)
    customers.ids_NT[:, 0] = 13
    with broken_customer(math.nan):
        assert not bool(torch.isfinite(released(work, customers, replace(PLAN, rate=1.0))).all())


def test_a_broken_row_does_not_touch_its_batch_mates(work: Bench) -> None:
    customers = Customers([T, 9, 14])
    honest = clipped_sum(work, customers, PLAN)
    more = Customers([T, 9, 14, 8])
    more.ids_NT[3, 0] = 13
    with broken_customer(math.nan):
        torch.testing.assert_close(clipped_sum(work, more, PLAN), honest, rtol=1e-4, atol=1e-6)


# --- randomness ---


def test_noise_comes_from_the_operating_system_whatever_the_seed(work: Bench) -> None:
    customers = Customers([T, 9])
    torch.manual_seed(42)
    first = train_round(work.model, warm(work), customers, PLAN, randomness_for(PLAN, 7), method="ffa", local_rate=1.0)
    torch.manual_seed(42)
    second = train_round(work.model, warm(work), customers, PLAN, randomness_for(PLAN, 7), method="ffa", local_rate=1.0)
    assert all(not torch.equal(first[name], second[name]) for name in first)


def test_planted_fault_a_seeded_source_repeats_itself(work: Bench) -> None:
    runs = [
        train_round(work.model, warm(work), Customers([T, 9]), PLAN, Rehearsal(7), method="ffa", local_rate=1.0)
        for _ in range(2)
    ]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_a_seed_is_listened_to_only_where_the_policy_has_no_noise() -> None:
    assert isinstance(randomness_for(PLAN, 7), SecureRandom)
    assert isinstance(randomness_for(replace(PLAN, sigma=1e-9), 7), SecureRandom)
    assert isinstance(randomness_for(replace(PLAN, sigma=0.0), 7), Rehearsal)


def test_randomness_cannot_be_saved() -> None:
    with pytest.raises(TypeError, match="never saved"):
        pickle.dumps(SecureRandom())


def test_draws_are_poisson_and_independent() -> None:
    random, rate, customers, steps = SecureRandom(), 0.15, 60, 4000
    drawn = np.zeros((steps, customers), dtype=bool)
    for step in range(steps):
        drawn[step, poisson(customers, rate, random)] = True
    counts = drawn.sum(0)
    assert min(stats.binomtest(int(count), steps, rate).pvalue for count in counts) > 1e-7
    sizes = drawn.sum(1)
    variance = customers * rate * (1 - rate)
    assert abs(sizes.var() / variance - 1) < 0.12
    pairs = np.corrcoef(drawn.T)[np.triu_indices(customers, 1)]
    assert np.abs(pairs).max() < 5.5 / math.sqrt(steps)
    assert np.abs(np.corrcoef(sizes[:-1], sizes[1:])[0, 1]) < 4.5 / math.sqrt(steps)


def test_planted_fault_a_fixed_batch_size_is_not_poisson() -> None:
    random, generator = SecureRandom(), np.random.default_rng(1)
    sizes = [len(generator.choice(60, 9, replace=False)) for _ in range(500)]
    honest = [len(poisson(60, 0.15, random)) for _ in range(500)]
    assert np.var(sizes) < 1 < np.var(honest)


def test_rate_one_draws_everybody_and_a_tiny_rate_hardly_anybody() -> None:
    assert poisson(5, 1.0, SecureRandom()).tolist() == [0, 1, 2, 3, 4]
    assert sum(len(poisson(1000, 1e-9, SecureRandom())) for _ in range(20)) == 0


def test_normals_are_normal_out_to_the_tails() -> None:
    values = normal(400_001, SecureRandom())
    assert len(values) == 400_001
    assert stats.kstest(values, "norm").pvalue > 1e-7
    assert 4.0 < np.abs(values).max() < 8.6


def test_a_release_lies_on_the_public_grid() -> None:
    sums = np.array([0.1234567, -3.3, 0.0])
    grid = 0.5 / 2**12
    steps = noisy(sums, 0.5, SecureRandom()) / grid
    assert np.array_equal(steps, np.rint(steps))
    assert np.array_equal(noisy(sums, 0.0, SecureRandom()), sums)


# --- the rest of a round ---


def test_microbatches_change_memory_and_nothing_else(work: Bench) -> None:
    customers, plan = Customers([T, 6, 17, 3, 9, 11, 24]), replace(PLAN, sigma=0.0, rate=0.8)
    runs = [
        train_round(
            work.model,
            warm(work),
            customers,
            plan,
            randomness_for(plan, 7),
            method="fedavg",
            local_rate=1.0,
            microbatch=size,
        )
        for size in (1, 3, 64)
    ]
    for other in runs[1:]:
        for name in runs[0]:
            torch.testing.assert_close(other[name], runs[0][name], rtol=1e-3, atol=1e-6)


def test_planted_fault_noise_for_every_microbatch_is_seen(work: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CustomerDPOptimizer, "signal_skip_step", lambda self, do_skip=True: None)
    plan = replace(PLAN, rate=1.0, steps=1, sigma=50.0)
    update = released(work, Customers([T] * 8), plan, microbatch=1)
    expected = plan.sigma * plan.clip_norm / plan.divisor
    assert stats.kstest(update.numpy() / expected, "norm").pvalue < 1e-4


def test_a_round_leaves_the_base_and_the_frozen_factor_as_they_were(work: Bench) -> None:
    base = {name: p.clone() for name, p in work.model.named_parameters() if "lora_" not in name}
    adapter = warm(work)
    update = train_round(work.model, adapter, Customers([T, 9]), PLAN, SecureRandom(), method="fedsvd", local_rate=1.0)
    assert all(name.endswith("lora_B.weight") for name in update)
    after = lift(work.model)
    assert all(torch.equal(after[name], adapter[name]) for name in adapter if name.endswith("lora_A.weight"))
    assert all(float(tensor.abs().max()) > 0 for tensor in difference(after, adapter, list(update)).values())
    assert all(torch.equal(p, base[name]) for name, p in work.model.named_parameters() if "lora_" not in name)


def test_no_gradient_of_anybody_outlives_a_round(work: Bench) -> None:
    released(work, Customers([T, 9]), PLAN)
    for parameter in work.model.parameters():
        assert parameter.grad is None
        assert not hasattr(parameter, "grad_sample")
        assert not hasattr(parameter, "summed_grad")
