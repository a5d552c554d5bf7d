"""What an audit found, as strict values, and what it comes to: consistent, violation, or inconclusive.

    violation       a lower bound above the claim, or a property of the trainer that does not hold
    inconclusive    no violation, and the canaries could not have shown one: the claim is above what they can certify
    consistent      neither; which is not a proof

`audit.json` holds all of it, the coins and the scores as well, so that a reader can compute every bound again. An unknown
field, a missing one or a value of another kind is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy import stats

from client.audit.bounds import Floats, Guesses, area, curve, epsilon_fdp, epsilon_one_run, guess
from client.audit.canaries import Coins, Schedule
from client.audit.conformance import Check, chance_of_spread, rare

CONFIDENCE = 0.95
DIGITS = 3
"""Scores are rounded to so many digits of a clip norm before any bound is computed, so that the file tells them exactly."""

Result = Literal["consistent", "violation", "inconclusive"]
Share = Annotated[float, Field(ge=0, le=1)]
Bound = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Part(BaseModel):
    """A part of the file: frozen, closed to fields it does not know, by the names that stand in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class Conformance(Part):
    """One property of the trainer."""

    test: str
    observed: float = Field(allow_inf_nan=False)
    predicted: float = Field(allow_inf_nan=False)
    passed: bool = Field(alias="pass")


class CanaryRun(Part):
    """One run of the canaries through one engine: what was guessed from its scores, and what that disproves."""

    engine: Literal["fast", "opacus"]
    guesses: int = Field(ge=0)
    right: int = Field(ge=0)
    epsilon_fdp: Bound
    epsilon_one_run: Bound
    auc: Share
    mean_in: float = Field(allow_inf_nan=False)
    deviation_out: float = Field(allow_inf_nan=False)
    scores: tuple[float, ...] = Field(description="one a canary, in clip norms")


class AuditFile(Part):
    """The whole of `audit.json`."""

    schema_: Literal["fugou/audit/1"] = Field(default="fugou/audit/1", alias="schema")
    generated_at: str
    version: str
    app_digest: Hash
    base_digest: Hash
    policy_digest: Hash
    design: str
    method: str
    data: str
    m: int = Field(ge=2, description="canaries")
    included: int = Field(ge=0, description="canaries whose coin said in")
    coins: str = Field(pattern=r"^[01]+$")
    nonce: Hash
    coin_commitment: Hash
    steps: int = Field(ge=1)
    noise_multiplier: float = Field(ge=0)
    confidence: Share
    delta: Share
    claimed_epsilon: Bound
    epsilon_lower_bound: Bound
    max_certifiable_epsilon: Bound
    result: Result
    reasons: tuple[str, ...]
    runs: tuple[CanaryRun, ...]
    conformance: tuple[Conformance, ...]
    roc: tuple[tuple[Share, Share], ...]
    seconds: float = Field(ge=0)

    def text(self) -> str:
        """Return the file's content."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), ensure_ascii=False, indent=1) + "\n"


def read_audit_file(data: bytes) -> AuditFile:
    """Return the audit in the bytes of an `audit.json`; raises pydantic's `ValidationError` for anything else."""
    return AuditFile.model_validate_json(data)


def rounded(scores_m: Floats, planned: Schedule) -> Floats:
    """Return the scores in clip norms, as the file tells them."""
    norms_m: Floats = scores_m / planned.plan.clip_norm
    return np.asarray(np.nan_to_num(norms_m, posinf=1e9, neginf=-1e9), dtype=np.float64).round(DIGITS)


def judged(
    engine: Literal["fast", "opacus"], scores_m: Floats, coins: Coins, planned: Schedule, runs: int
) -> CanaryRun:
    """Return one engine's run with its bounds; what may go wrong is shared among `runs` engines."""
    alpha = (1 - CONFIDENCE) / runs
    found = guess(scores_m, coins.bits_m)
    inside, outside = scores_m[coins.bits_m], scores_m[~coins.bits_m]
    return CanaryRun(
        engine=engine,
        guesses=found.made,
        right=found.right,
        epsilon_fdp=down(epsilon_fdp(found, alpha, planned.delta)),
        epsilon_one_run=down(epsilon_one_run(found, alpha, planned.delta)),
        auc=round(area(scores_m, coins.bits_m), 4),
        mean_in=round(float(inside.mean()), 4) if len(inside) else 0.0,
        deviation_out=round(float(np.sqrt((outside**2).mean())), 4) if len(outside) else 0.0,
        scores=tuple(scores_m.tolist()),
    )


def down(epsilon: float) -> float:
    """Return a lower bound rounded down to three decimals."""
    return math.floor(epsilon * 1000) / 1000


def certifiable(planned: Schedule, runs: int) -> float:
    """Return the lower bound that all guesses right would give."""
    made = guess(np.arange(planned.canaries, dtype=np.float64), np.ones(planned.canaries, dtype=np.bool_)).made
    return down(epsilon_fdp(Guesses(planned.canaries, made, made), (1 - CONFIDENCE) / runs, planned.delta))


def on_scores(run: CanaryRun, coins: Coins, planned: Schedule) -> Iterator[Check]:
    """Yield whether the scores lie about C T and 0, as far apart from there as the noise is."""
    scores_m = np.asarray(run.scores)
    unit, reach = planned.spread / planned.plan.clip_norm, float(planned.plan.steps)
    for side, middle, values in (("in", reach, scores_m[coins.bits_m]), ("out", 0.0, scores_m[~coins.bits_m])):
        if not len(values):
            continue
        z = (float(values.mean()) - middle) / unit * math.sqrt(len(values))
        yield rare(
            f"canaries {side}, mean, {run.engine}", float(values.mean()), middle, 2 * float(stats.norm.sf(abs(z)))
        )
        deviation = float(np.sqrt(((values - middle) ** 2).mean()))
        p = chance_of_spread(values - middle, unit)
        yield rare(f"canaries {side}, deviation, {run.engine}", deviation, unit, p)


def verdict(
    runs: Sequence[CanaryRun], checks: Iterable[Check], claimed: float, most: float
) -> tuple[Result, list[str]]:
    """Return the result, and every reason for it in words."""
    above = [
        f"canaries through the {run.engine} engine: epsilon is at least {run.epsilon_fdp:.2f}, claimed are {claimed:.2f}"
        for run in runs
        if run.epsilon_fdp > claimed
    ]
    failed = [
        f"{one.test}: {one.observed:.4g} where {one.predicted:.4g} is predicted" for one in checks if not one.passed
    ]
    if above or failed:
        return "violation", above + failed
    if most <= claimed:
        return "inconclusive", [f"so many canaries certify {most:.2f} at most, claimed are {claimed:.2f}"]
    return "consistent", []


def lower_bound(runs: Sequence[CanaryRun]) -> float:
    """Return the largest lower bound of all engines."""
    return max((run.epsilon_fdp for run in runs), default=0.0)


def roc(runs: Sequence[CanaryRun], coins: Coins) -> tuple[tuple[float, float], ...]:
    """Return the ROC points of the engine with the largest lower bound."""
    best = max(runs, key=lambda run: run.epsilon_fdp)
    return curve(np.asarray(best.scores), coins.bits_m)
