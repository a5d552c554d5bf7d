"""What one round does and what it costs, as one object: the trainer, the accountant and the ledger read the same plan.

Also everything that is asked before a round runs: how much noise a target needs, how many rounds are left, and what
the guarantee would be for another unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from common.errors import UserError
from common.files import canonical_json, sha256
from common.privacy import accountant
from common.privacy.accountant import Setting, Spending
from common.privacy.policy import Policy, SignedPolicy, policy_digest


@dataclass(frozen=True)
class Charge:
    """What one round costs one customer: `steps` Poisson-sampled Gaussian steps.

    A promise to whoever stores or sends charges: fields are only ever added, meanings never change.
    """

    sigma: float
    """Noise multiplier: standard deviation of the noise over `clip_norm`; 0 means no noise and infinite epsilon."""
    rate: float
    """Chance that a customer is drawn into a step, each step anew."""
    steps: int
    clip_norm: float
    """The most one customer's gradient may weigh in L2; does not change epsilon."""


@dataclass(frozen=True)
class RoundPlan:
    """One round at one merchant: all numbers come from the signed policy, none from a message or from the data."""

    merchant: str
    run: str
    round: int
    rate: float
    sigma: float
    steps: int
    clip_norm: float
    divisor: float
    delta: float
    max_records: int
    policy_digest: str
    adapter_digest: str
    """Digest of the shared adapter the round starts from."""

    @property
    def charge(self) -> Charge:
        """What the round costs."""
        return Charge(self.sigma, self.rate, self.steps, self.clip_norm)

    @property
    def idem(self) -> str:
        """SHA-256 of who, what and with which numbers: the same round asked twice has the same, anything else not."""
        return sha256(canonical_json(self._identity()).encode())

    @property
    def params(self) -> dict[str, str]:
        """The numbers as decimal strings, as the ledger writes them."""
        return {
            "sigma": repr(self.sigma),
            "rate": repr(self.rate),
            "steps": repr(self.steps),
            "clip_norm": repr(self.clip_norm),
            "divisor": repr(self.divisor),
            "delta": repr(self.delta),
            "max_records": repr(self.max_records),
        }

    def _identity(self) -> dict[str, object]:
        return {
            "run": self.run,
            "round": repr(self.round),
            "merchant": self.merchant,
            "policy": self.policy_digest,
            "adapter": self.adapter_digest,
            "params": self.params,
        }


def plan_round(policy: SignedPolicy | Policy, run: str, round: int, adapter_digest: str) -> RoundPlan:  # noqa: A002
    """Return the plan of one round under `policy`; the run, the round and the adapter are all a coordinator names.

    Raises `UserError` for an empty run or adapter digest and for a round below 0.
    """
    if not run or not adapter_digest or round < 0:
        raise UserError(f"run = {run!r}, round = {round}, adapter digest = {adapter_digest!r}: name all three")
    mine, digest = (
        (policy.policy, policy.digest) if isinstance(policy, SignedPolicy) else (policy, policy_digest(policy))
    )
    return RoundPlan(
        merchant=mine.merchant,
        run=run,
        round=round,
        rate=mine.rate,
        sigma=mine.sigma_min,
        steps=mine.steps,
        clip_norm=mine.clip_norm,
        divisor=mine.divisor,
        delta=mine.delta,
        max_records=mine.max_records_per_customer,
        policy_digest=digest,
        adapter_digest=adapter_digest,
    )


def planned_charge(policy: Policy) -> Charge:
    """Return what every round under `policy` costs."""
    return Charge(policy.sigma_min, policy.rate, policy.steps, policy.clip_norm)


# --- the cap ---


def spent_epsilon(policy: Policy, charges: Iterable[Spending]) -> float:
    """Return the epsilon of `charges` at the policy's delta, by the accounting of the policy's mode."""
    if policy.mode == "adaptive":
        return accountant.filter_epsilon(charges, policy.delta)
    return accountant.epsilon(charges, policy.delta)


def within_cap(policy: Policy, charges: Iterable[Spending]) -> bool:
    """Return whether the privacy loss of `charges` stays within the policy's epsilon."""
    if policy.mode == "adaptive":
        return accountant.filter_epsilon(charges, policy.delta) <= policy.epsilon
    return accountant.within(charges, policy.delta, policy.epsilon)


def fits(policy: Policy, spent: Iterable[Spending], next: Spending) -> bool:  # noqa: A002
    """Return `within_cap` of `spent` and `next` together; fast when asked again and again for equal rounds."""
    after = (*spent, next)
    if policy.mode == "adaptive":
        return within_cap(policy, after)
    return accountant.within(after, policy.delta, policy.epsilon, growing=next)


def would_pass(policy: Policy, spent: Sequence[Spending], next: Spending) -> bool:  # noqa: A002
    """Return whether one more charge is allowed: one round of `max_rounds`, and epsilon within the cap.

    `spent` is one item a charge, released, burned or reserved. In mode "adaptive" this is the Renyi filter: some
    order's sum must stay within what (epsilon, delta / number of orders) allows it, which is the same as the smallest
    converted epsilon being within the cap. Valid even if `next` was chosen after seeing what came before.
    """
    return len(spent) < policy.max_rounds and fits(policy, spent, next)


def rounds_left(policy: Policy, charges: Sequence[Spending]) -> int:
    """Return how many more planned rounds the policy allows after `charges` (one item a charge)."""
    return rounds_within(policy, accountant.merge(charges), policy.max_rounds - len(charges))


def rounds_within(policy: Policy, spent: accountant.History, limit: int) -> int:
    """Return how many more planned rounds, at most `limit`, keep epsilon within the cap after `spent`."""
    if limit <= 0:
        return 0
    if math.isinf(policy.epsilon):
        return limit
    if policy.mode == "adaptive":
        return accountant.largest(lambda n: _after(policy, spent, n) <= policy.epsilon, limit)
    charge = planned_charge(policy)
    here = [s for s in spent if (s.sigma, s.rate) == (charge.sigma, charge.rate)]
    others = tuple(s for s in spent if s not in here)
    allowed = accountant.steps_allowed(others, charge.sigma, charge.rate, policy.delta, policy.epsilon)
    return max(0, min(limit, (allowed - sum(s.steps for s in here)) // charge.steps))


def _after(policy: Policy, spent: accountant.History, rounds: int) -> float:
    charge = planned_charge(policy)
    return spent_epsilon(policy, (*spent, Setting(charge.sigma, charge.rate, charge.steps * rounds)))


def staircase(policy: Policy, charges: Sequence[Spending], points: int = 60) -> tuple[tuple[int, float], ...]:
    """Return (further rounds, epsilon then) from 0 to the last round allowed, at most `points` + 1 steps."""
    spent = accountant.merge(charges)
    left = rounds_left(policy, charges)
    every = max(1, -(-left // points))
    rounds = sorted({*range(0, left + 1, every), left})
    return tuple((n, _after(policy, spent, n)) for n in rounds)


# --- before the policy is written ---

SIGMA_GRID = 1000
"""Noise multipliers are whole thousandths: a public menu, which keeps histories short."""


@lru_cache(maxsize=256)
def calibrate(epsilon: float, delta: float, rate: float, steps: int, rounds: int) -> float:
    """Return the smallest noise multiplier, in whole thousandths, whose `rounds` rounds cost at most `epsilon`.

    0 for an infinite epsilon. Raises `UserError` when even a noise multiplier of 1000 does not do.
    """
    if not epsilon > 0:
        raise UserError(f"epsilon = {epsilon}: must be above 0")
    if steps < 1 or rounds < 1:
        raise UserError(f"steps = {steps}, rounds = {rounds}: both are 1 or more")
    if math.isinf(epsilon):
        return 0.0

    def too_little(thousandths: int) -> bool:
        sigma = thousandths / SIGMA_GRID
        return not accountant.within((Setting(sigma, rate, steps * rounds),), delta, epsilon)

    def too_little_by_renyi(thousandths: int) -> bool:
        charge = Setting(thousandths / SIGMA_GRID, rate, steps * rounds)
        return thousandths == 0 or accountant.epsilon_rdp((charge,), delta) > epsilon

    most = 1000 * SIGMA_GRID
    # The Renyi bound is cheap and asks for a little too much: the search under the exact one begins just below it.
    low = accountant.largest(too_little_by_renyi, most) * 3 // 4
    while low and not too_little(low):
        low //= 2
    found = low + accountant.largest(lambda more: more == 0 or too_little(low + more), most - low) + 1
    if found > most:
        raise UserError(
            f"epsilon = {epsilon} cannot be met in {rounds} rounds of {steps} steps; take fewer, or rate < {rate}"
        )
    return found / SIGMA_GRID


@dataclass(frozen=True)
class WhatIf:
    """One line of the table "whose epsilon?"."""

    unit: str
    """`records`: single records sampled, a customer has `count`. `merchants`: a customer shops at `count`."""
    count: int
    epsilon: float


def what_if(
    policy: Policy, *, records: Sequence[int] = (2, 3, 5), merchants: Sequence[int] = (1, 2, 3, 5)
) -> tuple[WhatIf, ...]:
    """Return what all rounds the policy allows would cost a customer under other readings of the unit.

    `merchants` 1 is the policy's own promise. `records` shows why one sampled item is one whole customer.
    """
    rounds = rounds_left(policy, ())
    charge = planned_charge(policy)
    whole = Setting(charge.sigma, charge.rate, charge.steps * rounds)
    at = [WhatIf("merchants", m, accountant.epsilon_customers_at(m, (whole,), policy.delta)) for m in merchants]
    of = [WhatIf("records", k, accountant.epsilon_records(k, whole, policy.delta)) for k in records]
    return (*at, *of)
