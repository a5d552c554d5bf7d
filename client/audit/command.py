"""`fugou merchant audit`: conformance and canaries through this install's own trainer, and what follows from them.

The policy and the base are the merchant's; every row is invented. The ledger notes the coins' commitment before the first
step and the result after the last, so that an audit which was broken off, or run again until it pleased, can be seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from client.audit import verdict
from client.audit.canaries import METHOD, Coins, Schedule, canary_scores, schedule, toss, width_of
from client.audit.conformance import Check, conformance
from client.audit.verdict import AuditFile, CanaryRun, Conformance
from client.audit.words import say
from client.config import OFFICER_KEY, POLICY, MerchantSettings, load_merchant
from client.report.audit import FILE
from client.round import LOCAL, app_digest, lora_of, open_ledger
from client.train.fast import check_model
from client.train.sampling import SecureRandom
from client.train.trainer import LocalSettings
from common.errors import UserError, VerificationFailed
from common.files import sha256, write_atomic
from common.lora import Bench, bench
from common.privacy.accountant import up
from common.privacy.keys import load_public_key, public_path
from common.privacy.ledger import Ledger
from common.privacy.plan import RoundPlan, plan_round
from common.privacy.policy import SignedPolicy, load_policy

Tell = Callable[[str], None]
FEWEST, MOST = 100, 20_000


@dataclass(frozen=True)
class Subject:
    """What is audited: a base with the policy's adapter, the policy's round, and the engines that can run it."""

    work: Bench
    plan: RoundPlan
    engines: tuple[LocalSettings, ...]


def audit(folder: Path, canaries: int, tell: Tell) -> AuditFile:
    """Return the audit of the merchant in `folder`: written to `audit.json`, noted in the ledger, told line by line.

    Raises `VerificationFailed` for a violation, after it is written and noted, and `UserError` for too few canaries.
    """
    if not FEWEST <= canaries <= MOST:
        raise UserError(say("few", given=canaries, least=FEWEST, most=MOST))
    settings = load_merchant(folder)
    policy = load_policy(folder / POLICY, public_key=load_public_key(public_path(folder / OFFICER_KEY)))
    with open_ledger(folder, policy) as ledger, threads(settings):
        found = _noted(ledger, folder, policy, subject(settings, policy), canaries, tell)
    if found.result == "violation":
        raise VerificationFailed(say("violation", why="; ".join(found.reasons[:3])))
    tell(say(found.result, why="; ".join(found.reasons)))
    return found


def _noted(ledger: Ledger, folder: Path, policy: SignedPolicy, about: Subject, canaries: int, tell: Tell) -> AuditFile:
    """Return the audit, with its coins noted before and its result noted after."""
    planned = schedule(about.plan, canaries, width_of(about.work))
    coins = toss(planned.canaries, SecureRandom())
    ledger.note("AUDIT", {"coin_commitment": coins.commitment, "canaries": planned.canaries})
    tell(say("begun", count=planned.canaries, commitment=coins.commitment[:16]))
    found = examined(about, planned, coins, policy.digest, tell)
    write_atomic(folder / FILE, found.text())
    digest = sha256((folder / FILE).read_bytes())
    ledger.note(
        "AUDIT",
        {
            "result": found.result,
            "sha256": digest,
            "coin_commitment": coins.commitment,
            "claimed_epsilon": found.claimed_epsilon,
            "epsilon_lower_bound": found.epsilon_lower_bound,
            "delta": found.delta,
        },
    )
    tell(say("written", file=folder / FILE, digest=digest[:16]))
    return found


def subject(settings: MerchantSettings, policy: SignedPolicy) -> Subject:
    """Return what a round of this merchant runs on, without anything of the shop."""
    work = bench(settings.model.base, lora_of(policy.policy, METHOD))
    plan = plan_round(policy, "audit", 0, "audit")
    return Subject(work, plan, engines(work, LocalSettings(**settings.train.model_dump(include=LOCAL))))


def engines(work: Bench, own: LocalSettings) -> tuple[LocalSettings, ...]:
    """Return the merchant's own engine, and the other one where it can run this base."""
    fast, opacus = replace(own, dp_engine="fast"), replace(own, dp_engine="opacus")
    try:
        check_model(work.model.get_base_model())
    except UserError:
        return (opacus,)
    return (fast, opacus) if own.dp_engine == "fast" else (opacus, fast)


@contextmanager
def threads(settings: MerchantSettings) -> Iterator[None]:
    """Compute with the merchant's number of threads for as long as the block lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(settings.train.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def examined(about: Subject, planned: Schedule, coins: Coins, policy_digest: str, tell: Tell) -> AuditFile:
    """Return what conformance and canaries find."""
    began = time.monotonic()
    checks = list(conformance(about.work, about.plan, about.engines))
    runs = []
    for settings in about.engines:
        scores_m = verdict.rounded(canary_scores(about.work, planned, coins, settings), planned)
        run = verdict.judged(settings.dp_engine, scores_m, coins, planned, len(about.engines))
        checks += verdict.on_scores(run, coins, planned)
        runs.append(run)
        tell(_line(run, planned))
    tell(say("checked", passed=sum(one.passed for one in checks), total=len(checks)))
    return _file(about, planned, coins, policy_digest, checks, runs, time.monotonic() - began)


def _line(run: CanaryRun, planned: Schedule) -> str:
    return say(
        "measured",
        engine=run.engine,
        made=run.guesses,
        right=run.right,
        lower=run.epsilon_fdp,
        delta=planned.delta,
        confidence=verdict.CONFIDENCE,
        claimed=up(planned.claimed),
    )


def _file(
    about: Subject,
    planned: Schedule,
    coins: Coins,
    policy_digest: str,
    checks: list[Check],
    runs: list[CanaryRun],
    seconds: float,
) -> AuditFile:
    claimed, most = planned.claimed, verdict.certifiable(planned, len(runs))
    result, reasons = verdict.verdict(runs, checks, claimed, most)
    return AuditFile(
        generated_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version("fugou"),
        app_digest=app_digest(),
        base_digest=about.work.base.digest,
        policy_digest=policy_digest,
        design="one-run gradient canaries, coins committed first",
        method="f-DP in one run (arXiv:2410.22235), beside the one-run bound (arXiv:2305.08846)",
        data="synthetic rows; no customer's",
        m=planned.canaries,
        included=int(coins.bits_m.sum()),
        coins=coins.text,
        nonce=coins.nonce.hex(),
        coin_commitment=coins.commitment,
        steps=planned.plan.steps,
        noise_multiplier=planned.plan.sigma,
        confidence=verdict.CONFIDENCE,
        delta=planned.delta,
        claimed_epsilon=float(up(claimed)),
        epsilon_lower_bound=verdict.lower_bound(runs),
        max_certifiable_epsilon=most,
        result=result,
        reasons=tuple(reasons),
        runs=tuple(runs),
        conformance=tuple(
            Conformance(test=one.test, observed=one.observed, predicted=one.predicted, passed=one.passed)
            for one in checks
        ),
        roc=verdict.roc(runs, coins),
        seconds=round(seconds, 2),
    )
