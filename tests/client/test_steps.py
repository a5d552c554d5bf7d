"""What comes after the noise: the anchor and Adam less the noise's variance, against the papers and against a leak."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from client.train import steps, trainer
from client.train.sampling import Randomness, Rehearsal, SecureRandom
from client.train.steps import BETA_1, BETA_2, PLAIN_STEP, Anchor, CorrectedAdam, LocalStep, fault_of
from client.train.trainer import LocalSettings, private, private_steps, train_round
from common.lora import Adapter, Bench, initial, put
from common.privacy.plan import RoundPlan
from common.tokens import Rows

T = 24
PLAN = RoundPlan("shop", "run", 1, 0.5, 1.0, 3, 0.5, 4.0, 1e-6, 4, "p", "a")
QUIET = replace(PLAN, sigma=0.0)
PHI = (PLAN.sigma * PLAN.clip_norm / PLAN.divisor) ** 2
ADAM, PULLED = LocalStep("adam"), LocalStep(proximal=0.2)
ENGINES = [LocalSettings(), LocalSettings(dp_engine="opacus")]


class Customers:
    """Customers as fixed rows of ids."""

    def __init__(self, count: int, seed: int = 3) -> None:
        self.ids_NT = np.random.default_rng(seed).integers(2, 1000, (count, T)).astype(np.int64)

    def __len__(self) -> int:
        return len(self.ids_NT)

    def rows(self, drawn: Sequence[int], randomness: Randomness) -> Rows:
        return Rows(self.ids_NT[list(drawn)], np.ones((len(drawn), T), dtype=np.bool_))


def warm(work: Bench) -> Adapter:
    """An adapter in the middle of a run: B is not zero."""
    random = np.random.default_rng(5)
    noise = {name: random.standard_normal(tuple(one.shape)) for name, one in initial(work.model, 5).items()}
    return {name: one + torch.from_numpy(0.05 * noise[name]).float() for name, one in initial(work.model, 5).items()}


def lead(work: Bench, plan: RoundPlan, step: LocalStep = PLAIN_STEP, rate: float = 0.5, **options: Any) -> torch.Tensor:
    """One round's update as one row; its randomness is rehearsed, noise and all."""
    given = {"customers": Customers(6), "randomness": Rehearsal(7), "settings": LocalSettings(), **options}
    update = train_round(
        work.model,
        warm(work),
        given["customers"],
        plan,
        given["randomness"],
        method="fedavg",
        local_rate=rate,
        step=step,
        settings=given["settings"],
    )
    return torch.cat([one.flatten() for one in update.values()])


def gradients_seen(
    work: Bench, plan: RoundPlan, step: LocalStep, monkeypatch: pytest.MonkeyPatch
) -> list[torch.Tensor]:
    """The noisy gradients that the round's optimizer was given, step by step."""
    seen: list[torch.Tensor] = []
    kind: Any = CorrectedAdam if step.optimizer == "adam" else torch.optim.SGD
    honest = kind.step

    def watched(self: torch.optim.Optimizer, closure: None = None) -> None:
        parameters = [one for group in self.param_groups for one in group["params"]]
        seen.append(torch.cat([one.grad.flatten().clone() for one in parameters if one.grad is not None]))
        honest(self, closure)

    monkeypatch.setattr(kind, "step", watched)
    lead(work, plan, step)
    monkeypatch.undo()
    return seen


# --- DP-AdamBC is what the paper says ---


def by_hand(gradients: Sequence[np.ndarray[Any, Any]], rate: float, phi: float, floor: float) -> np.ndarray[Any, Any]:
    """Return where the paper's algorithm 1 moves weights that begin at zero; float64."""
    weights, m, v = (np.zeros_like(gradients[0]) for _ in range(3))
    for t, g in enumerate(gradients, 1):
        m = BETA_1 * m + (1 - BETA_1) * g
        v = BETA_2 * v + (1 - BETA_2) * g * g
        m_hat, v_hat = m / (1 - BETA_1**t), v / (1 - BETA_2**t)
        weights = weights - rate * m_hat / np.sqrt(np.maximum(v_hat - phi, floor))
    return weights


@pytest.mark.parametrize(("phi", "floor"), [(0.0, 1e-8), (0.3, 1e-4), (5.0, 0.01)])
def test_corrected_adam_is_the_papers_algorithm(phi: float, floor: float) -> None:
    gradients = list(np.random.default_rng(1).standard_normal((7, 50)))
    weight = torch.nn.Parameter(torch.zeros(50, dtype=torch.float64))
    optimizer = CorrectedAdam([weight], 0.1, phi, floor)
    for one in gradients:
        weight.grad = torch.from_numpy(one)
        optimizer.step()
    np.testing.assert_allclose(weight.detach().numpy(), by_hand(gradients, 0.1, phi, floor), rtol=1e-9)


def test_without_noise_and_floor_it_is_torchs_adam() -> None:
    ours, theirs = (torch.nn.Parameter(torch.ones(30, dtype=torch.float64)) for _ in range(2))
    adam = torch.optim.Adam([theirs], lr=0.1, betas=(BETA_1, BETA_2), eps=0.0)
    optimizer = CorrectedAdam([ours], 0.1, 0.0, 1e-30)
    for one in np.random.default_rng(2).standard_normal((5, 30)):
        ours.grad, theirs.grad = torch.from_numpy(one), torch.from_numpy(one)
        optimizer.step()
        adam.step()
    torch.testing.assert_close(ours, theirs)


def test_taking_the_noises_variance_off_leaves_the_gradients_own_second_moment() -> None:
    numbers, phi, gradient = 200_000, 0.09, 0.5
    noisy = gradient + math.sqrt(phi) * torch.from_numpy(np.random.default_rng(3).standard_normal((4, numbers)))
    weight = torch.nn.Parameter(torch.zeros(numbers, dtype=torch.float64))
    optimizer = CorrectedAdam([weight], 1.0, phi, 1e-9)
    for one in noisy:
        weight.grad = one
        optimizer.step()
    state = optimizer.state[weight]
    moment = float((state["v"] / (1 - BETA_2 ** state["t"])).mean())
    assert moment == pytest.approx(gradient**2 + phi, rel=0.01)
    assert moment - phi == pytest.approx(gradient**2, rel=0.01)


def test_a_round_with_adam_moves_by_the_papers_steps_on_the_trainers_noisy_gradients(
    work: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = gradients_seen(work, PLAN, ADAM, monkeypatch)
    assert len(seen) == PLAN.steps
    expected = by_hand([one.double().numpy() for one in seen], 0.5, PHI, ADAM.floor)
    np.testing.assert_allclose(lead(work, PLAN, ADAM).numpy(), expected, rtol=2e-3, atol=1e-5)


def test_planted_fault_a_variance_of_the_sum_instead_of_the_mean_is_seen(
    work: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = lead(work, PLAN, ADAM)
    real = steps.make_optimizer
    monkeypatch.setattr(trainer, "make_optimizer", lambda p, r, s, phi: real(p, r, s, phi * PLAN.divisor**2))
    assert not torch.allclose(lead(work, PLAN, ADAM), honest, rtol=1e-2)


# --- FedProx is what the paper says ---


def test_the_pull_is_the_gradient_of_half_mu_times_the_squared_distance() -> None:
    mu, rate = 0.7, 0.2
    ours, theirs = (torch.nn.Parameter(torch.arange(5, dtype=torch.float64)) for _ in range(2))
    start = torch.arange(5, dtype=torch.float64)
    anchor = Anchor([ours], rate * mu)
    sgd = torch.optim.SGD([theirs], lr=rate)
    for one in np.random.default_rng(4).standard_normal((4, 5)):
        gradient = torch.from_numpy(one)
        sgd.zero_grad()
        ((gradient * theirs).sum() + mu / 2 * (theirs - start).square().sum()).backward()
        sgd.step()
        anchor.pull()
        with torch.no_grad():
            ours.sub_(rate * gradient)
    torch.testing.assert_close(ours, theirs)


def test_a_round_under_a_pull_stays_nearer_to_where_it_began(work: Bench) -> None:
    lengths = [float(lead(work, QUIET, LocalStep(proximal=mu)).norm()) for mu in (0.0, 0.5, 2.0)]
    assert lengths[0] > lengths[1] > lengths[2] > 0


def test_a_pull_of_one_forgets_all_steps_but_the_last(work: Bench) -> None:
    many, one = replace(PLAN, steps=5), replace(PLAN, steps=1)
    held = lead(work, many, LocalStep(proximal=2.0), customers=Customers(0))
    expected = PLAN.sigma * PLAN.clip_norm / PLAN.divisor * 0.5
    assert float(held.std()) == pytest.approx(expected, rel=0.05)
    assert float(lead(work, one, customers=Customers(0)).std()) == pytest.approx(expected, rel=0.05)


def test_the_pull_comes_once_a_step_however_small_the_microbatches(work: Bench) -> None:
    whole = lead(work, QUIET, PULLED, settings=LocalSettings(microbatch=16))
    torch.testing.assert_close(lead(work, QUIET, PULLED, settings=LocalSettings(microbatch=1)), whole)


# --- neither costs any privacy ---


class Counted(Rehearsal):
    """Rehearsed words that are counted."""

    def __init__(self, *key: int | str) -> None:
        super().__init__(*key)
        self.asked: list[int] = []

    def words(self, count: int) -> Any:
        self.asked.append(count)
        return super().words(count)


@pytest.mark.parametrize("step", [ADAM, PULLED, LocalStep("adam", proximal=0.2)], ids=["adam", "pull", "both"])
def test_draws_noise_clip_and_charge_are_the_same_whatever_comes_after(
    work: Bench, monkeypatch: pytest.MonkeyPatch, step: LocalStep
) -> None:
    asked = []
    for one in (PLAIN_STEP, step):
        words = Counted(7)
        lead(work, PLAN, one, randomness=words)
        asked.append(words.asked)
    assert asked[0] == asked[1]
    first = [gradients_seen(work, PLAN, one, monkeypatch)[0] for one in (PLAIN_STEP, step)]
    assert torch.equal(*first)  # clipped, noised and divided before either has a say
    assert PLAN.charge == replace(PLAN).charge


@pytest.mark.parametrize("settings", ENGINES, ids=["fast", "opacus"])
@pytest.mark.parametrize("step", [ADAM, PULLED], ids=["adam", "pull"])
def test_what_comes_after_the_noise_reads_no_row(work: Bench, step: LocalStep, settings: LocalSettings) -> None:
    put(work.model, warm(work))
    names = list(warm(work))
    ends = []
    for rows in (1, 2):
        put(work.model, warm(work))
        with private(work.model, names, PLAN, 0.5, Rehearsal(1), settings, step) as (_, optimizer):
            for parameter in optimizer.params:
                parameter.data += 0.1  # as after a step, so that there is something to pull
                parameter.grad_sample = parameter.new_full((rows, *parameter.shape), float(rows))
                parameter.summed_grad = None
            optimizer.pre_step()
            # What the optimizer finds is set to the same numbers: the weights after it must be the same too.
            for parameter in optimizer.params:
                parameter.grad = torch.ones_like(parameter)
            optimizer.original_optimizer.step()
            ends.append(torch.cat([one.detach().flatten().clone() for one in optimizer.params]))
    assert torch.equal(*ends)


@pytest.mark.parametrize("step", [ADAM, PULLED], ids=["adam", "pull"])
def test_nothing_of_a_round_is_left_for_the_next(work: Bench, step: LocalStep) -> None:
    first = lead(work, QUIET, step)
    lead(work, QUIET, step, customers=Customers(6, seed=9))
    assert torch.equal(lead(work, QUIET, step), first)
    assert all(one.grad is None and not hasattr(one, "grad_sample") for one in work.model.parameters())


def test_planted_fault_moments_that_outlive_a_round_are_seen(work: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[torch.optim.Optimizer] = []
    real = steps.make_optimizer

    def hoarding(parameters: Any, rate: float, step: LocalStep, phi: float) -> torch.optim.Optimizer:
        kept.append(kept[0] if kept else real(parameters, rate, step, phi))
        return kept[-1]

    monkeypatch.setattr(trainer, "make_optimizer", hoarding)
    first = lead(work, QUIET, ADAM)
    assert not torch.equal(lead(work, QUIET, ADAM), first)


@pytest.mark.parametrize("step", [ADAM, PULLED], ids=["adam", "pull"])
def test_both_engines_end_in_the_same_place(work: Bench, step: LocalStep) -> None:
    ends = [lead(work, QUIET, step, settings=settings) for settings in ENGINES]
    torch.testing.assert_close(*ends, rtol=1e-2, atol=1e-4)


def test_an_empty_draw_moves_adam_too(work: Bench) -> None:
    adapter = warm(work)
    put(work.model, adapter)
    with private(work.model, list(adapter), PLAN, 0.5, SecureRandom(), LocalSettings(), ADAM) as (_, optimizer):
        private_steps(optimizer, 0, PLAN, SecureRandom(), 16, lambda drawn: None)
        assert {optimizer.original_optimizer.state[one]["t"] for one in optimizer.params} == {PLAN.steps}


# --- numbers that came in a message ---


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (LocalStep("lamb"), "neither sgd nor adam"),  # type: ignore[arg-type]
        (LocalStep(proximal=3.0), r"must lie in \[0, 1\]"),
        (LocalStep(proximal=-1.0), r"must lie in \[0, 1\]"),
        (LocalStep(proximal=math.nan), r"must lie in \[0, 1\]"),
        (LocalStep(proximal=math.inf), r"must lie in \[0, 1\]"),
        (LocalStep("adam", floor=0.0), "above 0"),
        (LocalStep("adam", floor=math.nan), "above 0"),
        (LocalStep("adam", floor=math.inf), "above 0"),
    ],
)
def test_numbers_that_no_sane_run_has_are_named(step: LocalStep, says: str) -> None:
    import re

    assert re.search(says, fault_of(step, 0.5))
    assert fault_of(ADAM, 0.5) == fault_of(PULLED, 0.5) == ""
