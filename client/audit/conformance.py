"""Whether this install's trainer does what the claim is computed from: each property on its own, on invented rows.

    isolation      a customer's gradient is that of its row alone, for every engine
    clipping       every customer for itself, to C, whatever its gradient weighs
    not finite     a row of NaN or infinity counts as zero and touches nobody
    divisor        the policy's constant, however many customers there are
    head           its parts clipped each to its own norm; together no less noise than the policy's, and that noise is there
    noise          sigma C in every tensor (chi-square), centred, fresh though the seed is the same
    sampling       every customer on its own with the policy's rate: how many, and how unevenly
    accounting     the accountant's epsilon against the closed form of one Gaussian (Balle and Wang 2018)

Random checks are called failed where a correct trainer would fail them less than once in ten million audits.

    N customers   d numbers
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from client.audit.bounds import Floats
from client.audit.canaries import LOUD, METHOD, Synthetic, append, gentle, warm
from client.train import head, trainer
from client.train.loss import customer_loss
from client.train.sampling import SecureRandom, randomness_for
from client.train.trainer import BY_HOOKS, LocalSettings
from client.use.ranking.book import make_book, make_shelf
from common.lora import Adapter, Bench, put
from common.methods import trained
from common.privacy import accountant
from common.privacy.accountant import Setting, gaussian_delta
from common.privacy.plan import RoundPlan
from common.ranking import PARTS

RARE = 1e-7
"""A p-value below this is a failure."""

CLOSE = 0.01
"""The most by which a figure that is no chance may be off, relative."""

CLOSE_IN_HALF = 0.1
"""The same where the base is computed in bfloat16 or int8, which have 8 bits of a number."""

WIDTH, DRAWS, AT_ONCE = 64, 60, 20
MOST_STEPS = 4
BESIDE = 0.5
"""The head's share of a step where it is trained beside an adapter."""
SEED = 7


@dataclass(frozen=True)
class Check:
    """One property: what was seen, what theory says, and whether that is the same."""

    test: str
    observed: float
    predicted: float
    passed: bool


def near(test: str, observed: float, predicted: float, close: float = CLOSE) -> Check:
    """Return the check that `observed` is `predicted` but for rounding."""
    off = abs(observed - predicted)
    return Check(test, finite(observed), predicted, off <= close * max(abs(predicted), 1.0))


def rare(test: str, observed: float, predicted: float, p: float) -> Check:
    """Return the check that what was observed is not too rare under what is predicted."""
    return Check(test, finite(observed), predicted, p >= RARE)


def finite(value: float) -> float:
    """Return `value`, or the largest number there is for what is none."""
    return value if math.isfinite(value) else 1e308


def conformance(work: Bench, plan: RoundPlan, engines: Sequence[LocalSettings]) -> Iterator[Check]:
    """Yield every check of the trainer, under the policy's `plan`; no private row is read and nothing is charged."""
    noisy = replace(plan, sigma=plan.sigma or 1.0, steps=min(plan.steps, MOST_STEPS))
    for settings in engines:
        yield from on_rows(work, plan, settings)
    yield from on_gradients(noisy)
    yield from on_head(noisy)
    yield from on_noise_of_head(noisy)
    yield from on_noise(work, noisy, engines[0])
    yield from on_sampling(noisy)
    yield from on_accounting()


# --- the gradient of every row ---


def on_rows(work: Bench, plan: RoundPlan, settings: LocalSettings) -> Iterator[Check]:
    """Yield whether an engine's gradients, and a whole round's clipped sum, are those of a loop over customers."""
    adapter = warm(work)
    customers = Synthetic(5, work.base.model.config.vocab_size)
    alone_Nd = one_by_one(work, adapter, customers)
    found_Nd = by_engine(work, adapter, customers, plan, settings)
    close = CLOSE if settings.dp_engine == "opacus" or settings.precision == "float32" else CLOSE_IN_HALF
    yield near(f"gradients one by one, {settings.dp_engine}", distance(found_Nd, alone_Nd), 0.0, close)
    norms_N = np.linalg.norm(alone_Nd, axis=1)
    clip = float(np.median(norms_N))
    expected_d = (alone_Nd * np.minimum(1.0, clip / norms_N)[:, None]).sum(0)
    quiet = replace(plan, sigma=0.0, rate=1.0, steps=1, clip_norm=clip)
    found_d = whole_round(work, adapter, customers, quiet, settings)
    yield near(f"clipped sum of customers, {settings.dp_engine}", distance(found_d, expected_d), 0.0, close)


def distance(found: Floats, expected: Floats) -> float:
    """Return how far the two are apart, relative to the expected one's length."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def one_by_one(work: Bench, adapter: Adapter, customers: Synthetic) -> Floats:
    """Return (N, d) gradients by plain autograd, a run for every customer."""
    put(work.model, adapter)
    names = trained(adapter, METHOD, 1)
    parameters = [p for name, p in work.model.named_parameters() if trainer.choose(p, plain(name) in names)]
    device = parameters[0].device
    found = []
    for one in range(len(customers)):
        rows = customers.rows([one], SecureRandom())
        ids_BT, counts_BT = torch.from_numpy(rows.ids_BT).to(device), torch.from_numpy(rows.weights).to(device)
        loss = customer_loss(work.model(input_ids=ids_BT).logits, ids_BT, counts_BT).sum()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return np.asarray(torch.stack(found).double().cpu().numpy())


def plain(name: str) -> str:
    """Return the name of a tensor as the adapter has it."""
    return name.replace(".default.", ".")


def by_engine(work: Bench, adapter: Adapter, customers: Synthetic, plan: RoundPlan, settings: LocalSettings) -> Floats:
    """Return (N, d) gradients as the trainer computes them, all customers at once."""
    put(work.model, adapter)
    names, secure = trained(adapter, METHOD, 1), SecureRandom()
    with trainer.private(work.model, names, plan, 1.0, secure, settings) as (engine, optimizer):
        optimizer.zero_grad(set_to_none=True)
        rows = customers.rows(range(len(customers)), secure)
        trainer.per_customer_gradients(engine, rows, settings.device)
        found_Nd = torch.cat([p.grad_sample.flatten(1) for p in optimizer.params], 1)
        return np.asarray(found_Nd.detach().double().cpu().numpy())


def whole_round(
    work: Bench, adapter: Adapter, customers: Synthetic, plan: RoundPlan, settings: LocalSettings
) -> Floats:
    """Return (d,) the sum that one whole round tells, in the order of the model's parameters."""
    rate = gentle(plan)
    update = trainer.train_round(
        work.model, adapter, customers, plan, SecureRandom(), method=METHOD, local_rate=rate, settings=settings
    )
    order = [plain(name) for name, _ in work.model.named_parameters() if plain(name) in update]
    flat = torch.cat([update[name].flatten() for name in order]).double().numpy()
    return np.asarray(-flat * (plan.divisor / rate))


# --- gradients of any size, put where an engine would leave them ---


def release(plan: RoundPlan, rows_Nd: Floats, microbatch: int = 16, rate: float | None = None) -> Floats:
    """Return (d,) the change of `WIDTH` weights at zero, as sums, after the plan's steps on these gradients."""
    probe = torch.nn.Linear(WIDTH, 1, bias=False)
    torch.nn.init.zeros_(probe.weight)
    given = torch.from_numpy(rows_Nd).float()
    secure = SecureRandom()
    with trainer.private(probe, ["weight"], plan, rate or plan.divisor, secure, BY_HOOKS) as (_, optimizer):

        def gradients(drawn: list[int]) -> None:
            optimizer.gradients_of_nobody()
            append(optimizer.params, given[drawn])

        trainer.private_steps(optimizer, len(rows_Nd), plan, secure, microbatch, gradients)
    return np.asarray(-probe.weight.detach()[0].double().numpy())


def loud(count: int, weight: float) -> Floats:
    """Return gradients (N, d), each along a coordinate of its own, of this L2 norm."""
    return np.eye(WIDTH)[:count] * weight


def on_gradients(plan: RoundPlan) -> Iterator[Check]:
    """Yield whether clipping, rows that are not finite and the divisor are as they must be, without noise."""
    quiet = replace(plan, sigma=0.0, rate=1.0, steps=1)
    clip = plan.clip_norm
    for microbatch in (1, 16):
        many = release(quiet, loud(9, LOUD * clip), microbatch)
        yield near(f"nine loud customers, microbatch {microbatch}", float(np.linalg.norm(many)) / clip, 3.0)
        yield near(f"the most that one moves, microbatch {microbatch}", float(np.abs(many).max()) / clip, 1.0)
    yield near(
        "a quiet customer is left as it is", float(np.linalg.norm(release(quiet, loud(1, clip / 2)))) / clip, 0.5
    )
    yield from on_broken_rows(quiet)
    for count in (3, 40):
        rows_Nd = np.concatenate([loud(1, LOUD * clip), np.zeros((count - 1, WIDTH))])
        moved = float(np.linalg.norm(release(quiet, rows_Nd, rate=1.0)))
        yield near(f"divisor with {count} customers", moved * plan.divisor / clip, 1.0)


def on_broken_rows(quiet: RoundPlan) -> Iterator[Check]:
    """Yield how far a row that is not finite moves the sum, and how many numbers of the sum are not finite."""
    honest = loud(3, quiet.clip_norm / 2)
    expected_d = release(quiet, honest)
    for value in (math.nan, math.inf, 3e38):
        found_d = release(quiet, np.concatenate([honest, np.full((1, WIDTH), value)]))
        yield near(f"numbers lost to a row of {value:g}", float((~np.isfinite(found_d)).sum()), 0.0)
        moved = float(np.linalg.norm(np.nan_to_num(found_d - expected_d))) / quiet.clip_norm
        yield Check(f"moved by a row of {value:g}", moved, 0.0, moved <= 1 + CLOSE)


def on_head(plan: RoundPlan) -> Iterator[Check]:
    """Yield whether the recommendation head's parts are clipped, and what their noise comes to when seen together."""
    for name, part in PARTS.items():
        width = math.prod(part.shape)
        rows_NW = np.eye(9, width, dtype=np.float32) * np.float32(LOUD)
        rows_NW[8] = np.nan
        found_W = head.clipped_sum(rows_NW, part) / part.clip_norm
        yield near(f"head, {name}: eight loud customers and one of NaN", float(np.linalg.norm(found_W)), math.sqrt(8))
    moved = sum((part.clip_norm / part.deviation(plan.sigma)) ** 2 for part in PARTS.values())
    together = 1 / math.sqrt(moved)
    yield Check(
        "head, noise multiplier of all parts together", together, plan.sigma, together >= plan.sigma * (1 - 1e-9)
    )
    beside = sum((part.clip_norm / part.deviation(plan.sigma, BESIDE)) ** 2 for part in PARTS.values())
    half = 1 / math.sqrt(beside + (1 - BESIDE) / plan.sigma**2)
    yield Check("head beside an adapter, noise multiplier", half, plan.sigma, half >= plan.sigma * (1 - 1e-9))


# --- noise ---


def on_noise_of_head(plan: RoundPlan) -> Iterator[Check]:
    """Yield whether a round of the head on nobody's rows releases the noise that was accounted, part by part."""
    for what, share in (("head", 1.0), ("head beside an adapter", BESIDE)):
        first, second = (released_head(plan, share) for _ in range(2))
        for name in PARTS:
            yield spread(f"{what}, {name}: noise", np.concatenate([first[name], second[name]]), 1.0)
        one, other = (np.concatenate(list(found.values())) for found in (first, second))
        alike = float(np.mean(one * other))
        yield rare(
            f"{what}, noise of two rounds of one seed, correlation", alike, 0.0, chance(alike * math.sqrt(one.size))
        )


def released_head(plan: RoundPlan, share: float) -> dict[str, Floats]:
    """Return part -> what a round on nobody's rows releases, in units of the noise that the part is due."""
    shelf = make_shelf([("invented", "invented tea", "tea", "food")])
    nobody = head.make_head_data(make_book([], shelf, *np.zeros((3, 0), dtype=np.int64)), (1,), 2)
    steps = head.HeadSteps(head.zero_head(), nobody, plan, randomness_for(plan, SEED), head_share=share)
    for _ in range(plan.steps):
        steps.step(np.zeros(0, dtype=np.int64))
    units = {
        name: part.deviation(plan.sigma, share) * math.sqrt(plan.steps) / plan.divisor for name, part in PARTS.items()
    }
    return {name: one.astype(np.float64).ravel() / units[name] for name, one in steps.update().items()}


def on_noise(work: Bench, plan: RoundPlan, settings: LocalSettings) -> Iterator[Check]:
    """Yield whether a round on nobody's rows releases the noise that was accounted, tensor by tensor."""
    adapter, nobody = warm(work), Synthetic(0, work.base.model.config.vocab_size)
    updates = [
        trainer.train_round(
            work.model, adapter, nobody, plan, randomness_for(plan, SEED),
            method=METHOD, local_rate=gentle(plan), settings=settings,
        )
        for _ in range(2)
    ]  # fmt: skip
    unit = gentle(plan) * plan.sigma * plan.clip_norm * math.sqrt(plan.steps) / plan.divisor
    first, second = (torch.cat([one.flatten() for one in update.values()]).double().numpy() for update in updates)
    yield spread("noise, all tensors", np.concatenate([first, second]), unit)
    third = trainer.train_round(
        work.model, adapter, nobody, plan, randomness_for(plan, SEED),
        method=METHOD, local_rate=gentle(plan), settings=settings, share=1 - BESIDE,
    )  # fmt: skip
    flat = torch.cat([one.flatten() for one in third.values()]).double().numpy()
    yield spread("noise beside a head", flat, unit / math.sqrt(1 - BESIDE))
    parts = [(np.concatenate([update[name].double().numpy().ravel() for update in updates])) for name in updates[0]]
    worst = min(parts, key=lambda values: chance_of_spread(values, unit))
    p = chance_of_spread(worst, unit) * len(parts)
    yield rare(f"noise, least likely of {len(parts)} tensors", float(np.sqrt((worst**2).mean())) / unit, 1.0, p)
    root = math.sqrt(first.size)
    yield rare("noise, mean", float(first.mean()) / unit, 0.0, chance(float(first.mean()) / unit * root))
    alike = float(np.mean(first * second)) / unit**2
    yield rare("noise of two rounds of one seed, correlation", alike, 0.0, chance(alike * root))
    yield rare("noise, shape", float(stats.kurtosis(first)), 0.0, float(stats.kstest(first / unit, "norm").pvalue))


def spread(test: str, values: Floats, unit: float) -> Check:
    """Return whether `values` are normal numbers about 0 of deviation `unit`: their squares add up as chi-square does."""
    return rare(test, float(np.sqrt((values**2).mean())) / unit, 1.0, chance_of_spread(values, unit))


def chance_of_spread(values: Floats, unit: float) -> float:
    """Return the two-sided p-value of the sum of squares."""
    total, count = float((values**2).sum()) / unit**2, values.size
    return 2 * min(float(stats.chi2.cdf(total, count)), float(stats.chi2.sf(total, count)))


def chance(z: float) -> float:
    """Return the two-sided p-value of a standard normal number."""
    return 2 * float(stats.norm.sf(abs(z)))


# --- sampling ---


def on_sampling(plan: RoundPlan) -> Iterator[Check]:
    """Yield whether customers are drawn at the policy's rate, each on its own, in exactly the steps that are charged."""
    customers = max(200, math.ceil(AT_ONCE / plan.rate))
    sizes_T = draws(replace(plan, steps=DRAWS), customers)
    yield near("steps", float(len(sizes_T)), float(DRAWS))
    seen, expected = int(sizes_T.sum()), customers * plan.rate
    p = float(stats.binomtest(seen, customers * DRAWS, plan.rate).pvalue)
    yield rare("sampling rate", seen / (customers * DRAWS), plan.rate, p)
    if plan.rate < 1:
        uneven = float(sizes_T.var(ddof=1)) / (expected * (1 - plan.rate))
        low, high = (stats.chi2.cdf(uneven * (DRAWS - 1), DRAWS - 1), stats.chi2.sf(uneven * (DRAWS - 1), DRAWS - 1))
        yield rare("variance of how many are drawn", uneven, 1.0, 2 * min(float(low), float(high)))


def draws(plan: RoundPlan, customers: int) -> npt.NDArray[np.int64]:
    """Return (T,) how many customers were drawn into each step; their gradients are zero."""
    probe = torch.nn.Linear(WIDTH, 1, bias=False)
    secure, sizes = SecureRandom(), []
    with trainer.private(probe, ["weight"], plan, 1.0, secure, BY_HOOKS) as (_, optimizer):
        take = optimizer.step
        drawn_now = 0

        def gradients(drawn: list[int]) -> None:
            nonlocal drawn_now
            drawn_now += len(drawn)
            optimizer.gradients_of_nobody()
            append(optimizer.params, torch.zeros(len(drawn), WIDTH))

        def step() -> None:
            nonlocal drawn_now
            take()
            sizes.append(drawn_now)
            drawn_now = 0

        optimizer.step = step
        trainer.private_steps(optimizer, customers, plan, secure, customers, gradients)
    return np.asarray(sizes, dtype=np.int64)


# --- accounting ---


def on_accounting() -> Iterator[Check]:
    """Yield whether the accountant's epsilon is the closed form's, no smaller and hardly larger."""
    for sigma, steps in ((1.0, 1), (2.5, 4)):
        told = accountant.epsilon((Setting(sigma, 1.0, steps),), 1e-6)
        exact = closed_form(math.sqrt(steps) / sigma, 1e-6)
        yield Check(
            f"epsilon, sigma {sigma:g}, {steps} steps", told, exact, exact - 1e-6 <= told <= exact * (1 + CLOSE)
        )


def closed_form(mu: float, delta: float) -> float:
    """Return the epsilon of one Gaussian mechanism with sensitivity over noise `mu`, to 1e-9."""
    low, high = 0.0, 100.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(mu, middle) > delta else (low, middle)
    return high
