"""The numbers of a report, from the merchant's ledger and signed policy alone: no row of the shop is opened.

`inspect` reads and verifies, `build` computes. Everything that is told about privacy loss is computed here, from the
charges in the ledger, and rounded so that it can only be larger than what was accounted.
"""

from __future__ import annotations

import json
import math
import platform
import tomllib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from client.config import FILE, LEDGER, LEDGER_KEY, POLICY
from client.officer import public_file, replay, signature_state
from client.report import model
from client.report.audit import read_audit
from client.report.model import Audience, Audit, Code, Report, Text
from client.report.words import CLAIMS, both
from common.charts import delta_text
from common.errors import FugouError
from common.privacy import accountant, chain
from common.privacy import plan as planning
from common.privacy.accountant import History, Setting
from common.privacy.chain import Book, Entry, Verdict
from common.privacy.keys import fingerprint, load_public_key, public_from_hex, public_hex
from common.privacy.ledger import rows_of
from common.privacy.ledger import verify as verify_ledger
from common.privacy.policy import Policy, policy_digest, read_policy

LIBRARIES = ("cryptography", "dp-accounting", "flwr", "numpy", "opacus", "peft", "torch", "transformers")
POINTS = 60
"""The most points of a staircase; each is one composition."""

RATES = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""False alarms at which the most hits are told; at 0.01 stands the sentence of the claim."""

SPOKEN = 0.01
PROFILE, FINE = 24, 2000
MERCHANTS = (1, 2, 3, 4, 5)
OVERLAP = 3
"""At how many shops a customer is taken to shop in the warning on the first page."""

RECORDS = (3, 8)
TEXT = 300


@dataclass(frozen=True)
class Finding:
    """What a merchant's folder holds for a report: the verdict, and the entries and book where it is good."""

    merchant: str
    name: str
    key: str
    """The ledger's public key, hex."""
    verdict: Verdict
    code: Code
    """`unverifiable`, `broken`, or `within_budget` where the ledger holds."""
    book: Book
    entries: tuple[Entry, ...]
    anchors: tuple[model.Anchor, ...]
    policy_state: str
    """Empty where policy.toml is what is in force; else what is wrong with it."""
    audit: Audit


# --- reading ---


def inspect(folder: Path, anchors: Sequence[tuple[int, str]] = ()) -> Finding:
    """Return what the merchant's folder holds; a ledger that does not hold is told, never raised.

    Raises `UserError` where there is no public key of the ledger to verify with.
    """
    public = load_public_key(public_file(folder, LEDGER_KEY))
    file = folder / LEDGER
    verdict = verify_ledger(file, public, anchors=anchors, outbox=folder / "outbox")
    seen = (*_anchors(folder), *(model.Anchor(where="--anchor", seq=seq, hash=one) for seq, one in anchors))
    book, entries = Book(), []
    if verdict.ok:
        for entry, book in replay(file):  # noqa: B007
            entries.append(entry)
    merchant, name = _identity(folder, book)
    return Finding(
        merchant,
        name,
        public_hex(public),
        verdict,
        _trouble(file, public, verdict),
        book,
        tuple(entries),
        seen,
        _policy_state(folder, book),
        read_audit(folder, [one.body["detail"] for one in entries if one.type == "AUDIT"]),
    )


def _trouble(file: Path, public: Any, verdict: Verdict) -> Code:
    """Return `within_budget`, or which trouble it is: entries that hold but miss what an anchor saw are unverifiable."""
    if verdict.ok:
        return "within_budget"
    try:
        alone = chain.examine(list(rows_of(file)), public)
    except Exception:
        return "broken" if file.exists() else "unverifiable"
    return "unverifiable" if alone.ok and "anchor" in verdict.reason else "broken"


def _anchors(folder: Path) -> Iterator[model.Anchor]:
    """Yield the anchor beside the ledger, as far as it can be read; whether the ledger covers it is the verdict's."""
    try:
        lines = (folder / LEDGER).with_suffix(".anchor").read_bytes().splitlines()
        seen = [(int(one["seq"]), str(one["hash"])) for one in map(json.loads, filter(bytes.strip, lines))]
        if seen:
            yield model.Anchor(where="ledger.anchor", seq=max(seen)[0], hash=max(seen)[1])
    except (OSError, ValueError, KeyError, TypeError):
        return


def _identity(folder: Path, book: Book) -> tuple[str, str]:
    """Return the merchant's id, from the ledger where it holds, and the shop's name; neither is worth an error."""
    try:
        about = tomllib.loads((folder / FILE).read_text("utf-8-sig")).get("merchant", {})
        named, called = str(about.get("id", "")), str(about.get("name", ""))
    except (OSError, ValueError, AttributeError):
        named, called = "", ""
    return book.merchant or (named if _is_id(named) else "unknown"), called[:TEXT]


def _is_id(text: str) -> bool:
    return 0 < len(text) <= 64 and not set(text) - set("abcdefghijklmnopqrstuvwxyz0123456789-")


def _policy_state(folder: Path, book: Book) -> str:
    state, _ = signature_state(folder)
    if state != "signed":
        return state
    try:
        same = book.policy is not None and policy_digest(read_policy(folder / POLICY)) == book.policy.digest
    except FugouError as error:
        return str(error)[:TEXT]
    return "" if same else "signed, not adopted"


# --- what the entries say of the period in force ---


@dataclass(frozen=True)
class Tally:
    """The entries of the period in force, counted and put in order of the charges."""

    released: int
    burned: int
    recovered: int
    refunded: int
    refusals: tuple[Entry, ...]
    rounds: Mapping[int, str]
    """entry -> the round it is about"""


def tally(finding: Finding) -> Tally:
    """Return how often what happened in the period in force."""
    start = max((one.seq for one in finding.entries if one.type == "RENEW"), default=0)
    mine = [one for one in finding.entries if one.seq >= start]
    kinds = [one.type for one in mine]
    return Tally(
        kinds.count("RELEASE"),
        kinds.count("BURN"),
        sum(int(one.body["charges"]) for one in mine if one.type == "RECOVER"),
        kinds.count("REFUND"),
        tuple(one for one in mine if one.type == "REFUSE"),
        dict(_rounds(finding.entries)),
    )


def _rounds(entries: Sequence[Entry]) -> Iterator[tuple[int, str]]:
    known: dict[int, str] = {}
    for entry in entries:
        body = entry.body
        asked = body["detail"].get("asked", {}) if isinstance(body["detail"], Mapping) else {}
        own = body.get("round", asked.get("round", "") if isinstance(asked, Mapping) else "")
        known[entry.seq] = known.get(int(body["closes"]), "") if "closes" in body else str(own)[:32]
        yield entry.seq, known[entry.seq]


# --- the report ---


def build(finding: Finding, audience: Audience, at: datetime, records: Sequence[int] = RECORDS) -> Report:
    """Return the report, unsigned; without any figure of privacy loss where the ledger does not hold.

    `records` are the counts for which the loss by record is told beside the customer's; each takes seconds to compute.
    """
    common: dict[str, Any] = {
        "report_id": str(uuid.uuid4()),
        "generated_at": _moment(at, audience),
        "generator": generator(),
        "audience": audience,
        "merchant": _merchant(finding, audience),
        "ledger": _ledger(finding, audience),
        "audit": _audit(finding.audit, audience),
        "signature": model.Signature(kid=_kid(finding.key), value=""),
    }
    parts = _told(finding, audience, records) if finding.verdict.ok else _silent(finding, audience)
    loss = parts["privacy_loss"]
    common["limitations"] = _limitations(loss)
    return Report(**common, **parts)


def _silent(finding: Finding, audience: Audience) -> dict[str, Any]:
    reason = (
        both("reason_ledger_shareable")
        if audience == "shareable"
        else both("reason_ledger", reason=finding.verdict.reason[:TEXT])
    )
    text = both(f"claim_{finding.code}", **({"seq": finding.verdict.broken_at} if finding.code == "broken" else {}))
    return {
        "period": None,
        "status": model.Status(code=finding.code, reasons=(reason,)),
        "claim": _claim_of(text, "none"),
        "guarantee": None,
        "privacy_loss": None,
        "budget": None,
        "mechanism": None,
        "events": (),
    }


def _told(finding: Finding, audience: Audience, records: Sequence[int]) -> dict[str, Any]:
    signed, count = finding.book.in_force(), tally(finding)
    policy = signed.policy
    loss = _loss(finding.book, policy, records)
    left = planning.rounds_within(policy, finding.book.committed(), policy.max_rounds - finding.book.used())
    return {
        "period": model.Period(
            name=policy.period,
            policy_digest=signed.digest,
            policy_signer=signed.signer,
            data_blocks=(policy.period,),
            lifetime=tuple(finding.book.periods),
        ),
        "status": _status(finding, count, left, audience),
        "claim": _claim(finding.book, policy, loss),
        "guarantee": _guarantee(finding, policy),
        "privacy_loss": loss,
        "budget": _budget(finding.book, policy, count, left, audience),
        "mechanism": _mechanism(policy),
        "events": tuple(_events(finding.entries, count.rounds, audience)),
    }


def generator() -> model.Generator:
    """Return what makes the report: version, digest of the code, libraries."""
    from client.round import app_digest

    return model.Generator(
        version=version("fugou"),
        code_sha256=app_digest(),
        python=platform.python_version(),
        libraries={name: version(name) for name in LIBRARIES},
    )


def _moment(at: datetime, audience: Audience) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d" if audience == "shareable" else "%Y-%m-%dT%H:%M:%SZ")


def _kid(key: str) -> str:
    return fingerprint(public_from_hex(key))


def _merchant(finding: Finding, audience: Audience) -> model.Merchant:
    return model.Merchant(
        merchant_id=finding.merchant,
        name=None if audience == "shareable" else finding.name,
        ledger_key=finding.key,
        ledger_key_fingerprint=_kid(finding.key),
    )


def _ledger(finding: Finding, audience: Audience) -> model.LedgerState:
    verdict, open_ = finding.verdict, audience == "confidential"
    anomalies = [*verdict.anomalies]
    if verdict.ok and finding.policy_state:
        anomalies.append(both("anomaly_policy", state=finding.policy_state).en)
    return model.LedgerState(
        head_seq=verdict.head[0],
        head_hash=verdict.head[1],
        verified=verdict.ok,
        broken_at=verdict.broken_at,
        reason=verdict.reason[:TEXT] if open_ else "",
        anchors=finding.anchors,
        anomalies=tuple(anomalies),
    )


def _audit(audit: Audit, audience: Audience) -> Audit:
    """Return the audit; how many canaries there were is no count of customers and may be shared."""
    return audit if audience == "confidential" else audit.model_copy(update={"reason": ""})


def _limitations(loss: model.PrivacyLoss | None) -> tuple[Text, ...]:
    """Return what is not protected; the loss of a customer of three shops is told with its figure."""
    keys = ("not_metadata", "not_duration", "not_other_use", "not_group", "not_legal")
    return (both("not_merchant"), _overlap(loss), *map(both, keys))


def _overlap(loss: model.PrivacyLoss | None) -> Text:
    three = next((one for one in loss.by_unit if one.merchants == OVERLAP), None) if loss else None
    if three is None or not three.epsilon:
        return both("not_overlap")
    return both("not_overlap_told", epsilon=f"{three.epsilon:.2f}", delta=delta_text(three.delta), period=three.period)


# --- status and claim ---


def _status(finding: Finding, count: Tally, left: int, audience: Audience) -> model.Status:
    policy = finding.book.in_force().policy
    code, reason = _code(finding, count, left, policy)
    limit = policy.max_rounds
    if code == "refused":
        said = str(count.refusals[-1].body["detail"].get("reason", ""))[:TEXT]
        shared = audience == "shareable"
        text = both("reason_refused_shareable") if shared else both("reason_refused", reason=said)
    else:
        text = both(reason, **({"left": left, "limit": limit} if "{left}" in CLAIMS[reason][0] else {}))
    return model.Status(code=code, reasons=(text,))


def _code(finding: Finding, count: Tally, left: int, policy: Policy) -> tuple[Code, str]:
    """Return the gravest thing that is true: a violated audit before a spent budget before a refusal."""
    if finding.audit.state == "violation":
        return "violation", "reason_violation"
    if policy.sigma_min == 0:
        return "no_guarantee", "reason_open"
    if left == 0:
        return "exhausted", "reason_exhausted"
    if _refused_last(finding.entries):
        return "refused", "reason_refused"
    if left * 10 <= policy.max_rounds or left == 1:
        return "near_limit", "reason_near"
    return "within_budget", "reason_within"


def _refused_last(entries: Sequence[Entry]) -> bool:
    """Return whether the last thing asked of this merchant was refused; notes of reports and audits do not count."""
    kinds = [one.type for one in entries if one.type not in ("REPORT", "AUDIT")]
    return bool(kinds) and kinds[-1] == "REFUSE"


def _claim(book: Book, policy: Policy, loss: model.PrivacyLoss) -> model.Claim:
    if policy.sigma_min == 0 or loss.headline.epsilon is None:
        return _claim_of(both("claim_open"), "none")
    if not book.spent:
        return _claim_of(both("claim_nothing", period=policy.period), "no release")
    epsilon, tpr = loss.headline.epsilon, next(one.tpr_max for one in loss.tradeoff if one.fpr == SPOKEN)
    text = both(
        "claim",
        period=policy.period,
        records=policy.max_records_per_customer,
        epsilon=f"{epsilon:.2f}",
        delta=delta_text(policy.delta),
        tpr=percent(tpr),
    )
    return _claim_of(text, f"({epsilon:.2f}, {policy.delta:g})-DP, add-or-remove-one customer, period {policy.period}")


def _claim_of(text: Text, formal: str) -> model.Claim:
    meant = tuple(map(both, ("not_legal", "not_merchant", "not_overlap", "not_metadata", "not_group")))
    return model.Claim(zh=text.zh, en=text.en, formal=formal, what_it_does_not_mean=meant)


# --- privacy loss ---


def shown(epsilon: float) -> float | None:
    """Return epsilon as it is told: rounded up to two decimals, None where nothing bounds it.

    >>> shown(3.2101), shown(math.inf)
    (3.22, None)
    """
    return None if math.isinf(epsilon) else float(accountant.up(epsilon))


def up(value: float, digits: int = 3) -> float:
    """Return `value` rounded up to so many digits that count.

    >>> up(0.04321), up(1.2341e-7), up(0.0)
    (0.0433, 1.24e-07, 0.0)
    """
    exact = Decimal(repr(value))
    if not exact:
        return 0.0
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), ROUND_CEILING))


def percent(share: float) -> str:
    """Return a share as a percentage with at most one decimal, rounded up.

    >>> percent(0.0433), percent(1.0)
    ('4.4', '100')
    """
    return f"{Decimal(repr(share * 100)).quantize(Decimal('0.1'), ROUND_CEILING).normalize():f}"


def _loss(book: Book, policy: Policy, records: Sequence[int]) -> model.PrivacyLoss:
    spent, life = accountant.merge(book.spent), accountant.merge((*book.former, *book.spent))
    curve = _profile(policy, spent)
    return model.PrivacyLoss(
        headline=_of(policy, _epsilon(policy, spent)),
        with_reserved=_of(policy, _epsilon(policy, book.committed())),
        lifetime=_of(policy, _epsilon(policy, life), period=f"since {book.periods[0]}"),
        by_unit=tuple(_readings(policy, spent, records)),
        accountant=_accountant(policy, spent),
        staircase=_staircase(book, policy),
        profile=curve,
        gdp_mu=None if policy.mode == "adaptive" else _finite(accountant.gdp_mu(spent)),
        tradeoff=tuple(_tradeoff(policy, spent)),
        tradeoff_basis="epsilon and delta" if policy.mode == "adaptive" else "profile",
        max_advantage=_advantage(policy, spent),
    )


def _of(policy: Policy, epsilon: float, **more: Any) -> model.Loss:
    return model.Loss(
        **{"epsilon": shown(epsilon), "delta": policy.delta, "unit": policy.unit, "period": policy.period, **more}
    )


def _epsilon(policy: Policy, charges: History) -> float:
    return planning.spent_epsilon(policy, charges)


def _times(history: History, count: int) -> History:
    return tuple(Setting(one.sigma, one.rate, one.steps * count) for one in history)


def _readings(policy: Policy, spent: History, records: Sequence[int]) -> Iterator[model.Loss]:
    """Yield the loss of the same rounds for a customer of m shops, and for one with k records were a record the unit."""
    for m in MERCHANTS:
        yield _of(policy, _epsilon(policy, _times(spent, m)), merchants=m)
    if len(spent) == 1 and policy.mode == "schedule":
        for k in records:
            yield _of(policy, accountant.epsilon_records(k, spent[0], policy.delta), unit="record", records=k)


def _accountant(policy: Policy, spent: History) -> model.Accountant:
    cross = model.CrossCheck(epsilon=shown(accountant.epsilon_rdp(spent, policy.delta)))
    method: Literal["PLD", "RDP filter"] = "RDP filter" if policy.mode == "adaptive" else "PLD"
    return model.Accountant(version=version("dp-accounting"), method=method, cross_check=cross)


def _staircase(book: Book, policy: Policy) -> model.Staircase:
    past = [
        model.Step(rounds=n, epsilon=shown(_epsilon(policy, accountant.merge(book.spent[:n]))))
        for n in thinned(len(book.spent))
    ]
    charges = (*book.spent, *(one.charge for one in book.held.values()))
    ahead = planning.staircase(policy, charges, POINTS // 2)
    future = [model.Step(rounds=len(charges) + n, epsilon=shown(epsilon)) for n, epsilon in ahead]
    return model.Staircase(
        delta=policy.delta, unit=policy.unit, period=policy.period, spent=tuple(past), forecast=tuple(future)
    )


def thinned(last: int, points: int = POINTS) -> list[int]:
    """Return 0 to `last`, thinned to about `points` whole numbers, both ends in.

    >>> thinned(3), thinned(1000, 4)
    ([0, 1, 2, 3], [0, 250, 500, 750, 1000])
    """
    return sorted({*range(0, last + 1, max(1, -(-last // points))), last})


def _profile(policy: Policy, spent: History) -> tuple[model.ProfilePoint, ...]:
    """Return delta over epsilon; for an adaptive policy only the pair that the filter guarantees is proved."""
    top = _epsilon(policy, spent)
    if policy.mode == "adaptive" or math.isinf(top):
        return () if math.isinf(top) else (model.ProfilePoint(epsilon=_up2(top), delta=policy.delta),)
    reach = accountant.epsilon(spent, policy.delta / 100) if spent else 0.0
    epsilons = [_up2(reach * i / PROFILE) for i in range(PROFILE + 1)] if reach else [0.0]
    deltas = accountant.privacy_profile(spent, epsilons)
    return tuple(model.ProfilePoint(epsilon=e, delta=up(d)) for e, d in zip(epsilons, deltas, strict=True))


def _up2(value: float) -> float:
    return float(accountant.up(value))


def _tradeoff(policy: Policy, spent: History) -> Iterator[model.Tradeoff]:
    """Yield the most hits for every rate of false alarms: the least that any point of the profile allows."""
    curve = _fine(policy, spent)
    for fpr in RATES:
        most = min((pair_hits(epsilon, delta, fpr) for epsilon, delta in curve), default=1.0)
        yield model.Tradeoff(fpr=fpr, tpr_max=min(1.0, up(most)))


def _fine(policy: Policy, spent: History) -> list[tuple[float, float]]:
    """Return the profile finely, or for an adaptive policy the pair that the filter guarantees; nothing without noise."""
    top = _epsilon(policy, spent) if policy.mode == "adaptive" else accountant.epsilon_pld(spent, 1e-12)
    if math.isinf(top):
        return []
    if policy.mode == "adaptive":
        return [(top, policy.delta if spent else 0.0)]
    epsilons = [top * i / FINE for i in range(FINE + 1)]
    return list(zip(epsilons, accountant.privacy_profile(spent, epsilons), strict=True))


def pair_hits(epsilon: float, delta: float, fpr: float) -> float:
    """Return the most hits at a rate of false alarms that (epsilon, delta) alone allows (Wasserman and Zhou 2010)."""
    if math.isinf(epsilon):
        return 1.0
    above = math.exp(min(epsilon, 700.0)) * fpr + delta
    return max(fpr, min(1.0, above, 1 - math.exp(-epsilon) * (1 - delta - fpr)))


def _advantage(policy: Policy, spent: History) -> float:
    """Return the largest gap between hits and false alarms of any membership test."""
    if policy.mode != "adaptive":
        return min(1.0, up(accountant.privacy_profile(spent, [0.0])[0]))
    epsilon = _epsilon(policy, spent)
    return 1.0 if math.isinf(epsilon) else min(1.0, up(1 - 2 * (1 - policy.delta) / (1 + math.exp(epsilon))))


def _finite(mu: float) -> float | None:
    return None if math.isinf(mu) else up(mu)


# --- guarantee, budget, mechanism ---

TRAINER, LEDGER_TESTS = "tests/client/test_trainer.py::", "tests/common/privacy/test_ledger.py::"
PROOFS: Mapping[str, tuple[str, ...]] = {
    "a_unit": ("tests/client/test_dataset.py",),
    "a_poisson": (f"{TRAINER}test_draws_are_poisson_and_independent",),
    "a_isolation": (f"{TRAINER}test_a_customers_gradient_does_not_depend_on_who_else_was_drawn",),
    "a_clip": (
        f"{TRAINER}test_adding_a_customer_moves_the_sum_by_at_most_the_clip_norm",
        f"{TRAINER}test_a_broken_row_leaves_the_noises_distribution_as_it_is",
    ),
    "a_noise": (
        f"{TRAINER}test_every_trainable_tensor_has_noise_of_sigma_times_clip",
        f"{TRAINER}test_noise_comes_from_the_operating_system_whatever_the_seed",
    ),
    "a_head": (
        "tests/client/test_head.py::test_one_customer_more_moves_all_parts_together_by_at_most_one_step_of_the_plan",
        "tests/simulations/test_head.py::test_head_and_adapter_together_carry_the_noise_that_the_ledger_books",
        "tests/simulations/test_head.py::test_the_charge_is_the_same_with_and_without_a_head",
    ),
    "a_divisor": (f"{TRAINER}test_neighbouring_data_sets_run_the_same_steps_shapes_and_divisor",),
}
"""Assumption -> the shipped tests that show it; each carries a planted fault that it must catch."""

NOISY = ("a_noise", "a_head")
"""What is true only where there is noise."""

ASSUMED = ("a_machine", "a_identity", "a_blocks", "a_tuning", "a_os_random")


def _guarantee(finding: Finding, policy: Policy) -> model.Guarantee:
    return model.Guarantee(
        protected_from=_texts("from_coordinator", "from_merchants", "from_holders"),
        trusted=_texts("trust_machine", "trust_people"),
        privacy_unit=policy.unit,
        unit_definition=both("unit_customer", records=policy.max_records_per_customer),
        max_records_per_customer=policy.max_records_per_customer,
        outputs_covered=_texts("covers_updates"),
        post_processing=_texts("post_adapter", "post_copy", "post_recommend"),
        data_accesses_not_covered=_texts("access_check", "access_scrub", "access_evaluate", "access_tuning"),
        unprotected_quantities=_texts("open_taking_part", "open_rounds", "open_constants", "open_duration"),
        credits_not_taken=_texts("credit_secagg", "credit_clients", "credit_hidden", "credit_scrub", "credit_tls"),
        assumptions=tuple(_assumptions(finding, policy)),
    )


def _texts(*keys: str) -> tuple[Text, ...]:
    return tuple(map(both, keys))


def _assumptions(finding: Finding, policy: Policy) -> Iterator[model.Assumption]:
    seq, digest = finding.verdict.head
    head = f"ledger entry {seq} {digest}"
    held = [
        ("a_signed_policy", (f"policy {finding.book.in_force().digest}",)),
        ("a_charge_first", (f"{LEDGER_TESTS}test_a_kill_at_any_write_never_loses_a_charge", head)),
        ("a_chain", (head,)),
        ("a_filter" if policy.mode == "adaptive" else "a_declared", (head,)),
    ]
    lines: list[tuple[str, str, tuple[str, ...]]] = [(key, "enforced", proof) for key, proof in held]
    lines += [(key, "tested", proof) for key, proof in PROOFS.items() if policy.sigma_min > 0 or key not in NOISY]
    if policy.sigma_min == 0:
        lines.append(("a_no_noise", "violated", (f"policy {finding.book.in_force().digest}",)))
    lines += [(key, "assumed", ()) for key in ASSUMED]
    for place, (key, status, proof) in enumerate(lines, 1):
        yield model.Assumption.model_validate(
            {"id": f"A{place}", "text": both(key), "status": status, "evidence": proof}
        )


def _budget(book: Book, policy: Policy, count: Tally, left: int, audience: Audience) -> model.Budget:
    return model.Budget(
        filter="RDP-filter" if policy.mode == "adaptive" else "predeclared-PLD",
        epsilon_limit=policy.epsilon if math.isfinite(policy.epsilon) else None,
        delta_limit=policy.delta,
        period=policy.period,
        unit=policy.unit,
        rounds=model.Rounds(
            released=count.released,
            burned=count.burned,
            recovered=count.recovered,
            reserved=len(book.held),
            refunded=count.refunded,
            left=left,
            limit=policy.max_rounds,
        ),
        refusals=tuple(_refusal(one, count.rounds, audience) for one in count.refusals),
        renewal=both("renewal"),
    )


def _refusal(entry: Entry, rounds: Mapping[int, str], audience: Audience) -> model.Refusal:
    open_ = audience == "confidential"
    reason = str(entry.body["detail"].get("reason", ""))[:TEXT]
    at = str(entry.body["wall_time"])[:19]
    return model.Refusal(
        seq=entry.seq, round=rounds[entry.seq], reason=reason if open_ else None, at=at if open_ else None
    )


def _mechanism(policy: Policy) -> model.Mechanism:
    return model.Mechanism(
        noise_multiplier=policy.sigma_min,
        clip_norm=policy.clip_norm,
        sampling=model.Sampling(rate=policy.rate, steps_per_round=policy.steps),
        divisor=policy.divisor,
        trainable=model.Lora(targets=policy.lora.targets, rank=policy.lora.rank, alpha=policy.lora.alpha),
        max_tokens=policy.max_tokens,
        base_digest=policy.base,
        apps=policy.apps,
    )


def _events(entries: Sequence[Entry], rounds: Mapping[int, str], audience: Audience) -> Iterator[model.Event]:
    open_ = audience == "confidential"
    for one in entries:
        yield model.Event(
            seq=one.seq,
            type=one.type,
            round=rounds[one.seq],
            entry_hash=one.hash,
            closes=int(one.body["closes"]) if "closes" in one.body else None,
            update_sha256=one.body.get("update_sha256"),
            at=str(one.body["wall_time"])[:19] if open_ else None,
            note=_note(one) if open_ else None,
        )


def _note(entry: Entry) -> str:
    body = entry.body
    if "charges" in body:
        return f"{body['charges']} rounds"
    detail: Mapping[str, Any] = body["detail"]
    return str(detail.get("reason", detail.get("report", "")))[:TEXT]
