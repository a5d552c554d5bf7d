"""One round at one merchant: exact customer-level DP-SGD on the adapter, and on whatever else has one gradient a customer.

    for each of `steps` steps            (a public number)
        draw customers                   (Poisson, each with probability `rate`)
        one gradient a customer          (of a loss that reads the customer's row only; the fast engine or Opacus hooks)
        zero what is not finite, clip to C, add up
        add noise of deviation sigma * C (also when nobody was drawn)
        divide by the public `divisor`, step        (`steps`: from here on nothing reads a row)

Abadi et al. 2016 (arXiv:1607.00133) with customers as the unit, one row a customer. Every number that shapes the
mechanism is in `RoundPlan`, the very object the ledger charges; the count of customers shapes nothing.

The recommendation head may be trained in the very same steps, on the same drawn customers, and released with the adapter.
Let h be its share, C and C_k the clip norms of the adapter and of the head's parts, s_k the parts' own shares, which add up
to at most 1. Divide the adapter's clipped sum by C / sqrt(1 - h), part k's by C_k / sqrt(h s_k), and write all of it behind
one another as one vector. One customer moves it by at most

    sqrt((1 - h) + h sum_k s_k) <= 1        in L2,

and noise of deviation sigma on each of its numbers makes one Gaussian step of noise multiplier sigma on one Poisson draw:
what the ledger charges for the adapter alone. Scaled back, the noise's deviation is sigma C / sqrt(1 - h) on the adapter and
sigma C_k / sqrt(h s_k) on part k. The next step may read both, as it may read any step before it (adaptive composition).

    N customers   B batch   T tokens
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from peft import PeftModel

from client.train.fast import FastGradients, Padding, Precision
from client.train.loss import customer_loss
from client.train.sampling import Randomness, Whole, noisy, poisson
from client.train.steps import PLAIN_STEP, Anchor, LocalStep, make_optimizer
from common.lora import Adapter, difference, lift, named_in, put
from common.methods import trained
from common.privacy.plan import RoundPlan
from common.tokens import Rows

Gradients: TypeAlias = Callable[[list[int]], None]
Beside: TypeAlias = Callable[[Whole], None]
"""What else is done with the customers drawn into a step."""


class CustomerRows(Protocol):
    """A merchant's customers, one bounded row each."""

    def __len__(self) -> int: ...

    def rows(self, drawn: Sequence[int], randomness: Randomness) -> Rows:
        """Return the rows of the `drawn` customers, in that order, all of one public length."""
        ...


@dataclass(frozen=True)
class LocalSettings:
    """How a merchant computes, none of it visible in the result's distribution: microbatch in customers.

    `precision` and `padding` are the fast engine's. Under `full` the time of a step follows from how many customers were
    drawn; under `buckets` also from how long their rows are.
    """

    microbatch: int = 16
    device: str = "cpu"
    dp_engine: Literal["fast", "opacus"] = "fast"
    precision: Precision = "float32"
    padding: Padding = "full"


BY_HOOKS = LocalSettings(dp_engine="opacus")


def train_round(
    model: PeftModel,
    adapter: Adapter,
    customers: CustomerRows,
    plan: RoundPlan,
    randomness: Randomness,
    *,
    method: str,
    local_rate: float,
    step: LocalStep = PLAIN_STEP,
    settings: LocalSettings = LocalSettings(),
    share: float = 1.0,
    beside: Beside = lambda _: None,
) -> Adapter:
    """Return the noisy update of the tensors that `method` trains, after `plan.steps` private steps from `adapter`.

    `share` is the adapter's part of every step's privacy, 1 - h; `beside` is told who was drawn into each step.
    """
    names = trained(adapter, method, plan.round)
    move(model, settings.device)
    put(model, adapter)
    mine = replace(plan, sigma=plan.sigma / math.sqrt(share))
    with private(model, names, mine, local_rate, randomness, settings, step) as (engine, optimizer):

        def gradients(drawn: list[int]) -> None:
            per_customer_gradients(engine, customers.rows(drawn, randomness), settings.device)

        private_steps(optimizer, len(customers), plan, randomness, settings.microbatch, gradients, beside)
    return difference(lift(model), adapter, names)


def private_steps(
    optimizer: CustomerDPOptimizer,
    customers: int,
    plan: RoundPlan,
    randomness: Randomness,
    microbatch: int,
    gradients: Gradients,
    beside: Beside = lambda _: None,
) -> None:
    """Take exactly `plan.steps` steps, each on a fresh Poisson draw out of N `customers`, which `beside` is told of."""
    for _ in range(plan.steps):
        drawn_B = poisson(customers, plan.rate, randomness)
        private_step(optimizer, drawn_B, microbatch, gradients)
        beside(drawn_B)


def private_step(optimizer: CustomerDPOptimizer, drawn_B: Whole, microbatch: int, gradients: Gradients) -> None:
    """Take one step on the drawn customers; with nobody drawn the step is noise alone.

    `gradients(part)` leaves (B, *weight) in every trainable parameter's `grad_sample`, one row a customer.
    """
    parts = list(microbatches(drawn_B, microbatch))
    for place, part in enumerate(parts):
        optimizer.zero_grad(set_to_none=True)
        if len(part):
            gradients(part.tolist())
        else:
            optimizer.gradients_of_nobody()
        optimizer.signal_skip_step(place < len(parts) - 1)
        optimizer.step()


def microbatches(drawn_B: Whole, size: int) -> Iterator[Whole]:
    """Yield `drawn_B` in parts of at most `size`; one empty part when nobody was drawn."""
    for start in range(0, max(len(drawn_B), 1), size):
        yield drawn_B[start : start + size]


def per_customer_gradients(engine: GradSampleModule | FastGradients, rows: Rows, device: str) -> None:
    """Leave (B, *weight) gradients in every trainable parameter's `grad_sample`."""
    ids_BT = torch.from_numpy(rows.ids_BT).to(device)
    weights_BT = torch.from_numpy(rows.weights).to(device)
    if isinstance(engine, FastGradients):
        engine.gradients(ids_BT, weights_BT)
        return
    logits_BTV = engine(input_ids=ids_BT).logits
    customer_loss(logits_BTV, ids_BT, weights_BT).sum().backward()


class CustomerDPOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer with four changes: no row that is not finite, noise from `randomness`, a public divisor, an anchor."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, plan: RoundPlan, randomness: Randomness, pull: float = 0.0
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.sigma,
            max_grad_norm=plan.clip_norm,
            expected_batch_size=plan.divisor,
            loss_reduction="mean",
        )
        self.randomness = randomness
        self.anchor = Anchor(self.params, pull)

    def gradients_of_nobody(self) -> None:
        """Set empty gradients, as if the model had run on zero customers."""
        for parameter in self.params:
            parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)

    def clip_and_accumulate(self) -> None:
        """Zero rows that are not finite, then clip and add up as Opacus does.

        A row whose norm overflows counts as not finite. Zeroing reads the row itself only, so it moves the sum by at
        most C like any other row, and no NaN can tell that the row was drawn.
        """
        finite_B = torch.isfinite(sum(g.flatten(1).pow(2).sum(1) for g in self.grad_samples))
        for parameter in self.params:
            rows = parameter.grad_sample
            keep = finite_B.view(-1, *[1] * (rows.dim() - 1))
            parameter.grad_sample = torch.where(keep, rows, torch.zeros_like(rows))
        super().clip_and_accumulate()

    def add_noise(self) -> None:
        """Add normal noise of deviation sigma * C to every trainable tensor's clipped sum."""
        deviation = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            total = parameter.summed_grad
            values = noisy(total.detach().cpu().numpy().ravel(), deviation, self.randomness)
            parameter.grad = torch.from_numpy(values).to(total.device, parameter.dtype).view_as(parameter)

    def scale_grad(self) -> None:
        """Divide by the public divisor; then the gradient is done, and the weights are pulled to where the round began."""
        super().scale_grad()
        self.anchor.pull()


@contextmanager
def private(
    model: torch.nn.Module,
    names: Sequence[str],
    plan: RoundPlan,
    rate: float,
    randomness: Randomness,
    settings: LocalSettings = BY_HOOKS,
    step: LocalStep = PLAIN_STEP,
) -> Iterator[tuple[GradSampleModule | FastGradients, CustomerDPOptimizer]]:
    """Put engine and optimizer around `model` for as long as the block lasts; only `names` can be trained in it."""
    chosen = [parameter for name, parameter in named_in(model) if choose(parameter, name in names)]
    variance = (plan.sigma * plan.clip_norm / plan.divisor) ** 2
    steps = make_optimizer(chosen, rate, step, variance)
    optimizer = CustomerDPOptimizer(steps, plan, randomness, rate * step.proximal)
    try:
        if settings.dp_engine == "fast":
            yield FastGradients(model, settings.precision, settings.padding), optimizer
        else:
            with hooked(model) as hooks:
                yield hooks, optimizer
    finally:
        clear(model)


@contextmanager
def hooked(model: torch.nn.Module) -> Iterator[GradSampleModule]:
    """Put Opacus' hooks on `model` for as long as the block lasts."""
    model.train()
    hooks = GradSampleModule(model, loss_reduction="sum")
    with warnings.catch_warnings():
        # The first layer's input needs no gradient; its hook still has the activations and the output's gradient.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        try:
            yield hooks
        finally:
            hooks.remove_hooks()


def move(model: torch.nn.Module, device: str) -> None:
    """Bring the model to `device`; walking through all modules for nothing takes a millisecond."""
    if any(parameter.device != torch.device(device) for _, parameter in named_in(model)):
        model.to(device)


def choose(parameter: torch.nn.Parameter, chosen: bool) -> bool:
    """Let `parameter` be trained or not, and return which."""
    parameter.requires_grad_(chosen)
    return chosen


def clear(model: torch.nn.Module) -> None:
    """Leave no gradient of anybody in memory."""
    for _, parameter in named_in(model):
        for leftover in ("grad_sample", "summed_grad"):
            if hasattr(parameter, leftover):
                delattr(parameter, leftover)
        parameter.grad = None
    if model.training:
        model.eval()
