"""The report as a page for people: one self-contained HTML file without script, made from the signed JSON alone.

Styles are allowed by their hash and nothing else is; charts are inline SVG with their numbers in a table beside.
Whatever a stranger wrote (names, reasons) is escaped and marked as quoted. Every figure passes `lint` before it is
drawn, and the finished page once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from client.report.charts import Axis, Curve, Mark, Segment, bars, budget_bar, interval, plane, powers, span
from client.report.data import percent
from client.report.lint import Figure as Facts
from client.report.lint import Shown, check_figure, check_page, shown
from client.report.model import Budget, Loss, PrivacyLoss, Report, Text
from client.report.seal import digest_of
from client.report.words import WORDS, Lang, phrase
from common.charts import Bar, BarRow, Caption, Column, Figure, Table, Tile, delta_text
from common.html import styled

Say = Callable[..., str]
ENTRIES = 40
"""The last so many entries stand on the page."""

GLOSSARY = ("epsilon", "delta", "unit", "period", "round", "anchor", "audit")
MARKS = {"BURN": ("mark_burned", "cross", 12.0), "REFUSE": ("mark_refused", "diamond", 24.0)}
SYMBOLS = {
    "within_budget": "●", "near_limit": "▲", "exhausted": "■", "refused": "◆", "no_guarantee": "○", "violation": "✕",
    "unverifiable": "?", "broken": "✕",
}  # fmt: skip


def page_of(report: Report, lang: Lang) -> str:
    """Return the report as HTML; raises `Misleading` rather than show a figure that misleads."""
    say = partial(phrase, lang)
    parts = _head(report, lang, say) | (_told(report, lang, say) if report.privacy_loss else {"silent": True})
    return check_page(_rendered(parts, lang, say), report.audience)


def _rendered(page: dict[str, Any], lang: Lang, say: Say) -> str:
    return styled(Path(__file__).parent / "templates", "report.html.j2", page=page, say=say)


def _head(report: Report, lang: Lang, say: Say) -> dict[str, Any]:
    code = report.status.code
    return {
        "silent": False,
        "kind": say("page"),
        "name": report.merchant.name or report.merchant.merchant_id,
        "merchant": report.merchant.merchant_id,
        "facts": _facts(report, say),
        "audience": say("for_others" if report.audience == "shareable" else "for_merchant"),
        "state": {
            "code": code,
            "symbol": SYMBOLS[code],
            "label": say(f"state_{code}"),
            "reasons": [one.said(lang) for one in report.status.reasons],
            "quoted": code in ("refused", "unverifiable", "broken"),
        },
        "claim": report.claim.zh if lang == "zh" else report.claim.en,
        "limits": [one.said(lang) for one in report.limitations],
        "tiles": _tiles(report, say),
        "now": say(f"now_{code}") if f"now_{code}" in WORDS else "",
        "anomalies": report.ledger.anomalies,
        "verify": say("verify_note", key=report.merchant.ledger_key, kid=report.merchant.ledger_key_fingerprint),
        "digest": digest_of(report),
        "version": report.generator.version,
        "glossary": [say(f"word_{one}") for one in GLOSSARY],
    }


def _facts(report: Report, say: Say) -> str:
    known = {"merchant": report.merchant.merchant_id, "at": report.generated_at, "report": report.report_id}
    return say("facts", period=report.period.name, **known) if report.period else say("facts_silent", **known)


def terms(loss: Loss, say: Say) -> str:
    """Return delta, unit and period of a loss in words."""
    first = loss.period.removeprefix("since ")
    return say("terms" if first == loss.period else "terms_lifetime", delta=delta_text(loss.delta), period=first)


def figure_text(epsilon: float | None) -> str:
    """Return an epsilon of the report as it stands on the page: two decimals, ∞ where nothing bounds it.

    >>> figure_text(6.3), figure_text(None)
    ('6.30', '∞')
    """
    return "∞" if epsilon is None else f"{epsilon:.2f}"


def _tiles(report: Report, say: Say) -> list[Tile]:
    loss, budget = report.privacy_loss, report.budget
    if loss is None or budget is None:
        none = [Tile(say(key), say("no_figure"), say("no_figure_note")) for key in ("tile_loss",)]
        return [*none, _ledger_tile(report, say)]
    first, life = figure_text(loss.headline.epsilon), figure_text(loss.lifetime.epsilon)
    facts = (shown(loss.headline, first, "headline"), shown(loss.lifetime, life, "lifetime"))
    check_figure(Facts("at a glance", facts, report.audience))
    used = budget.rounds.released + budget.rounds.burned + budget.rounds.recovered + budget.rounds.reserved
    note = say("rounds_note", spent=used, limit=budget.rounds.limit)
    return [
        Tile(say("tile_loss"), f"ε ≤ {first}", terms(loss.headline, say)),
        Tile(say("tile_lifetime"), f"ε ≤ {life}", terms(loss.lifetime, say)),
        Tile(say("tile_rounds"), str(budget.rounds.left), note),
        _ledger_tile(report, say),
        _audit_tile(report, say),
    ]


def _ledger_tile(report: Report, say: Say) -> Tile:
    ledger = report.ledger
    if not ledger.verified:
        return Tile(say("tile_ledger"), say("not_verified"), say("ledger_note_broken", seq=ledger.broken_at))
    note = say("ledger_note", seq=ledger.head_seq, anchors=len(ledger.anchors))
    return Tile(say("tile_ledger"), say("verified"), note)


def _audit_tile(report: Report, say: Say) -> Tile:
    state = report.audit.state
    note = say("audit_none_note") if state == "not_audited" else say("audit_note") if state != "unreadable" else ""
    return Tile(say("tile_audit"), say(f"audit_{state}"), note)


# --- the rest ---


def _told(report: Report, lang: Lang, say: Say) -> dict[str, Any]:
    loss, budget = report.privacy_loss, report.budget
    if loss is None or budget is None:
        return {}
    return {
        "budget": [_budget_figure(report, budget, say), _stairs_figure(report, loss, budget, say)],
        "refusals": _refusals(report, budget, say),
        "meaning": list(_meanings(report, loss, say)),
        "audit_words": _audit_words(report, say),
        "audit": _audit_figure(report, say) if report.audit.epsilon_lower_bound is not None else None,
        "checks": _checks(report, say),
        "assumptions": _assumptions(report, lang, say),
        "who": _who(report, loss, lang, say),
        "events": _events(report, say),
        "events_note": say("events_note", shown=min(ENTRIES, len(report.events)), count=len(report.events)),
    }


def _budget_figure(report: Report, budget: Budget, say: Say) -> Figure:
    rounds = budget.rounds
    used = rounds.released + rounds.burned + rounds.recovered + rounds.reserved
    counts = {
        "released": (rounds.released, "solid"),
        "burned": (rounds.burned, "stripes"),
        "recovered": (rounds.recovered, "mesh"),
        "reserved": (rounds.reserved, "dots"),
        "left": (rounds.left, "hollow"),
        "closed": (max(0, rounds.limit - used - rounds.left), "pale"),
    }
    check_figure(Facts("budget", audience=report.audience))
    told = {key: count for key, (count, _) in counts.items() if count}
    parts = say("comma").join(f"{say(key)} {count}" for key, count in told.items())
    alt = say("rounds_figure_alt", parts=parts, limit=rounds.limit)
    chart = budget_bar(
        Caption("budget", say("rounds_figure"), alt, x=say("axis_rounds")),
        [Segment(say(key), count, fill) for key, (count, fill) in counts.items()],
    )
    rows = [[say(key), str(count), say(f"mean_{key}")] for key, (count, _) in counts.items()]
    rows += [[say("refunded"), str(rounds.refunded), say("mean_refunded")]]
    rows += [[say("refused"), str(len(budget.refusals)), say("mean_refused")]]
    columns = [Column(say("head_what")), Column(say("head_rounds"), "num"), Column(say("head_meaning"), "words")]
    return Figure(say("rounds_figure"), [say("rounds_figure_note")], chart, Table(say("rounds_figure"), columns, rows))


def _stairs_figure(report: Report, loss: PrivacyLoss, budget: Budget, say: Say) -> Figure:
    stairs, words = loss.staircase, terms(loss.headline, say)
    past, ahead = _points(stairs.spent), _points(stairs.forecast)
    facts = [_course(loss.headline, one.epsilon) for one in (*stairs.spent, *stairs.forecast)]
    check_figure(Facts("staircase", tuple(facts), report.audience))
    limit = budget.epsilon_limit
    last = max(one.rounds for one in (*stairs.spent, *stairs.forecast))
    heights = [y for _, y in (*past, *ahead)] + ([limit] if limit else [])
    alt = say(
        "stairs_alt",
        now=figure_text(stairs.spent[-1].epsilon), rounds=stairs.spent[-1].rounds,
        end=figure_text(stairs.forecast[-1].epsilon), last=stairs.forecast[-1].rounds, terms=words,
    )  # fmt: skip
    curves = [Curve(say("happened"), past, 0, True), Curve(say("planned"), ahead, 1, True)]
    chart = plane(
        Caption("stairs", say("stairs"), alt),
        Axis(say("axis_rounds"), _whole(max(last, 1))),
        Axis(say("axis_epsilon"), span([1.2 * max(heights, default=0.0)])),
        [one for one in curves if len(one.points) > 1] or curves[:1],
        _marks(report, past, say),
        (say("limit"), limit) if limit and heights else None,
    )
    return Figure(say("stairs"), [say("stairs_note", terms=words)], chart, _stairs_table(loss, budget, words, say))


def _course(loss: Loss, epsilon: float | None) -> Shown:
    return shown(loss.model_copy(update={"epsilon": epsilon}), figure_text(epsilon), "course")


def _points(steps: Sequence[Any]) -> list[tuple[float, float]]:
    return [(float(one.rounds), one.epsilon) for one in steps if one.epsilon is not None]


def _whole(last: int) -> list[float]:
    every = max(1, -(-last // 8))
    return [float(n) for n in range(0, last + every, every)]


def _marks(report: Report, past: Sequence[tuple[float, float]], say: Say) -> list[Mark]:
    """Return a mark where a burned round was charged and where a request was refused, at points of the staircase."""
    at, found, heights = 0, dict[tuple[str, int], Mark](), dict(past)
    start = max((one.seq for one in report.events if one.type == "RENEW"), default=0)
    for event in report.events:
        if event.seq < start:
            continue
        at += event.type in ("RELEASE", "BURN")
        if event.type in ("BURN", "REFUSE") and at in heights:
            label, kind, lift = MARKS[event.type]
            found[event.type, at] = Mark(say(label), float(at), heights[at], kind, lift)
    return [*found.values()]


def _stairs_table(loss: PrivacyLoss, budget: Budget, words: str, say: Say) -> Table:
    steps = [(one, "happened") for one in loss.staircase.spent]
    steps += [(one, "planned") for one in loss.staircase.forecast if one.rounds > steps[-1][0].rounds]
    rows = [[str(one.rounds), figure_text(one.epsilon), say(kind)] for one, kind in steps]
    rows.append([str(budget.rounds.limit), figure_text(budget.epsilon_limit), say("limit")])
    columns = [
        Column(say("axis_rounds"), "num"), Column(say("head_epsilon", terms=words), "num"), Column(say("head_kind"))
    ]  # fmt: skip
    return Table(say("stairs"), columns, rows)


def _refusals(report: Report, budget: Budget, say: Say) -> Table:
    open_ = report.audience == "confidential"
    columns = [Column(say("head_seq"), "num"), Column(say("head_round"), "num")]
    columns += [Column(say("head_at"), "keep"), Column(say("head_reason"), "quoted words")] if open_ else []
    rows = [
        [str(one.seq), one.round, *([_clock(one.at), one.reason or ""] if open_ else [])] for one in budget.refusals
    ]
    return Table(say("refusals"), columns, rows)


def _clock(at: str | None) -> str:
    return (at or "").replace("T", " ")


# --- what it means ---


def _meanings(report: Report, loss: PrivacyLoss, say: Say) -> Iterator[Figure]:
    yield _tradeoff_figure(report, loss, say)
    yield _whose_figure(report, loss, say)
    if len([one for one in loss.profile if one.delta > 0]) > 1:
        yield _profile_figure(report, loss, say)


def _share(value: float) -> str:
    """Return a share as a tick's percentage.

    >>> _share(0.0001), _share(0.5)
    ('0.01%', '50%')
    """
    return f"{value * 100:g}%"


def _tradeoff_figure(report: Report, loss: PrivacyLoss, say: Say) -> Figure:
    basis = say("basis_profile" if loss.tradeoff_basis == "profile" else "basis_pair")
    check_figure(Facts("attack", audience=report.audience, risk="worst case"))
    spoken = next(one for one in loss.tradeoff if one.fpr == 0.01)
    ticks = (0.0001, 0.001, 0.01, 0.1, 1.0)
    curves = [
        Curve(say("curve_bound"), [(one.fpr, one.tpr_max) for one in loss.tradeoff] + [(1.0, 1.0)], 0),
        Curve(say("curve_coin"), [(0.0001, 0.0001), (1.0, 1.0)], 2, marked=False),
    ]
    measured = [(one.fpr, one.tpr) for one in report.audit.roc if min(one.fpr, one.tpr) >= 0.0001]
    if measured:
        curves.append(Curve(say("curve_audit"), sorted(measured), 1))
    chart = plane(
        Caption("attack", say("tradeoff"), say("tradeoff_alt", fpr="1", tpr=percent(spoken.tpr_max))),
        Axis(say("axis_fpr"), ticks, True, _share),
        Axis(say("axis_tpr"), ticks, True, _share),
        curves,
    )
    rows = [[_share(one.fpr), f"{percent(one.tpr_max)}%", _share(one.fpr)] for one in loss.tradeoff]
    columns = [
        Column(say("head_fpr"), "num"), Column(say("head_tpr"), "num"), Column(say("head_coin"), "num")
    ]  # fmt: skip
    notes = [say("tradeoff_note", basis=basis, terms=terms(loss.headline, say))]
    if measured:
        notes.append(say("tradeoff_audit"))
    return Figure(say("tradeoff"), notes, chart, Table(say("tradeoff"), columns, rows))


def _whose_figure(report: Report, loss: PrivacyLoss, say: Say) -> Figure:
    lines = [*loss.by_unit[:1], loss.lifetime, *loss.by_unit[1:]]
    texts = [figure_text(one.epsilon) for one in lines]
    facts = [shown(one, text) for one, text in zip(lines, texts, strict=True)]
    check_figure(Facts("whose", tuple(facts), report.audience))
    delta = delta_text(loss.headline.delta)
    bars_ = [
        (_who_short(one, loss, say), "", one.epsilon, text, "stripes" if one.unit == "record" else "solid")
        for one, text in zip(lines, texts, strict=True)
    ]
    parts = say("comma").join(f"{_who_is(one, loss, say)} {text}" for one, text in zip(lines, texts, strict=True))
    axis = say("head_bound", delta=delta)
    chart = bars(Caption("whose", say("whose"), say("whose_alt", parts=parts, delta=delta), x=axis), bars_)
    rows = [
        [_who_is(one, loss, say), text, say(f"unit_{one.unit}_word"), _window(one, say)]
        for one, text in zip(lines, texts, strict=True)
    ]
    columns = [
        Column(say("head_who"), "words"),
        Column(axis, "num"),
        Column(say("head_unit"), "keep"),
        Column(say("head_window"), "keep"),
    ]
    notes = [say("whose_note", delta=delta)]
    notes += [say("whose_record_note")] if any(one.unit == "record" for one in lines) else []
    return Figure(say("whose"), notes, chart, Table(say("whose"), columns, rows))


def _who_is(one: Loss, loss: PrivacyLoss, say: Say) -> str:
    return _who_key(one, loss, say, "whose")


def _who_short(one: Loss, loss: PrivacyLoss, say: Say) -> str:
    return _who_key(one, loss, say, "short")


def _who_key(one: Loss, loss: PrivacyLoss, say: Say, form: str) -> str:
    if one is loss.lifetime:
        return say(f"{form}_lifetime")
    if one.unit == "record":
        return say(f"{form}_record", count=one.records)
    return say(f"{form}_many", count=one.merchants) if one.merchants > 1 else say(f"{form}_here")


def _window(one: Loss, say: Say) -> str:
    first = one.period.removeprefix("since ")
    return first if first == one.period else say("since", period=first)


def _profile_figure(report: Report, loss: PrivacyLoss, say: Say) -> Figure:
    points = [(one.epsilon, one.delta) for one in loss.profile if one.delta > 0]
    check_figure(Facts("profile", (shown(loss.headline, figure_text(loss.headline.epsilon)),), report.audience))
    delta, period = loss.headline.delta, loss.headline.period
    at = loss.headline.epsilon or 0.0
    ticks = powers(min(points[-1][1], delta), points[0][1])
    alt = say("profile_alt", delta=delta_text(delta), epsilon=figure_text(at), period=period)
    chart = plane(
        Caption("profile", say("profile"), alt),
        Axis("ε", span([points[-1][0]])),
        Axis(say("axis_delta"), ticks, True, delta_text),
        [Curve(say("curve_profile"), points, 0, marked=False)],
        [Mark(say("policy_delta"), at, delta, "circle")],
    )
    rows = [[f"{one.epsilon:.2f}", f"{one.delta:.3g}"] for one in loss.profile[::2]]
    columns = [Column("ε", "num"), Column("δ", "num")]
    return Figure(say("profile"), [say("profile_note", period=period)], chart, Table(say("profile"), columns, rows))


# --- audit ---


def _audit_words(report: Report, say: Say) -> list[str]:
    audit = report.audit
    if audit.state == "not_audited":
        return [say("audit_absent")]
    if audit.state == "unreadable":
        return [say("audit_bad_file", reason=audit.reason)]
    words = [] if audit.in_ledger else [say("audit_foreign")]
    return [
        say(
            "audit_design",
            design=audit.design or "–", method=audit.method or "–", data=audit.data or "–",
            canaries="–" if audit.canaries is None else audit.canaries,
        ),
        *words,
    ]  # fmt: skip


def _audit_figure(report: Report, say: Say) -> Figure:
    audit = report.audit
    claimed, lower, most = audit.claimed_epsilon or 0.0, audit.epsilon_lower_bound or 0.0, audit.max_certifiable_epsilon
    delta = delta_text(audit.delta) if audit.delta else "0"
    loss = report.privacy_loss
    base = Shown(f"{lower:.2f}", lower, audit.delta, "customer", "add-or-remove-one", "audit")
    facts = [
        replace(base, role="lower bound", labelled="lower bound"),
        replace(base, text=f"{claimed:.2f}", exact=claimed, role="limit"),
    ]
    check_figure(Facts("audit", tuple(facts) if loss and audit.delta else (), report.audience))
    axis = say("audit_axis", delta=delta, confidence=f"{audit.confidence or 0:.0%}")
    legend = {"solid": say("audit_claimed"), "stripes": say("audit_lower")}
    if most is not None:
        legend["limit"] = say("audit_certifiable")
    alt = say("audit_alt", claimed=f"{claimed:.2f}", lower=f"{lower:.2f}", delta=delta)
    chart = interval(
        Caption("audit", say("audit_figure"), alt, x=axis),
        BarRow(say("audit_lower"), [Bar(lower, "stripes", f"{lower:.2f}")], limit=most),
        BarRow(say("audit_claimed"), [Bar(claimed, "solid", f"{claimed:.2f}")]),
        legend,
    )
    rows = [[say("audit_claimed"), f"{claimed:.2f}"], [say("audit_lower"), f"{lower:.2f}"]]
    rows += [[say("audit_certifiable"), f"{most:.2f}"]] if most is not None else []
    limit = say("audit_max_unknown") if most is None else say("audit_max", value=f"{most:.2f}")
    columns = [Column(say("head_item")), Column(axis, "num")]
    note = say("audit_figure_note", max=limit)
    return Figure(say("audit_figure"), [note], chart, Table(say("audit_figure"), columns, rows))


def _checks(report: Report, say: Say) -> Table | None:
    rows = [
        [one.test, f"{one.observed:g}", f"{one.predicted:g}", say("passed" if one.passed else "failed")]
        for one in report.audit.conformance
    ]
    columns = [
        Column(say("head_test"), "quoted"), Column(say("head_observed"), "num"), Column(say("head_predicted"), "num"),
        Column(say("head_passed")),
    ]  # fmt: skip
    return Table(say("audit"), columns, rows) if rows else None


# --- the ground it stands on ---


def _assumptions(report: Report, lang: Lang, say: Say) -> list[dict[str, Any]]:
    given = report.guarantee.assumptions if report.guarantee else ()
    return [
        {
            "id": one.id, "text": one.text.said(lang), "kind": one.status, "word": say(one.status),
            "evidence": one.evidence,
        }
        for one in given
    ]  # fmt: skip


def _who(report: Report, loss: PrivacyLoss, lang: Lang, say: Say) -> Table:
    guarantee, mechanism, period = report.guarantee, report.mechanism, report.period
    if guarantee is None or mechanism is None or period is None:
        return Table(say("who"), [], [])
    join = partial(_joined, lang=lang, say=say)
    rows = [
        [say("row_unit"), guarantee.unit_definition.said(lang)],
        [say("row_adjacency"), say("adjacency")],
        [say("row_from"), join(guarantee.protected_from)],
        [say("row_trust"), join(guarantee.trusted)],
        [say("row_covers"), join(guarantee.outputs_covered)],
        [say("row_post"), join(guarantee.post_processing)],
        [say("row_access"), join(guarantee.data_accesses_not_covered)],
        [say("row_open"), join(guarantee.unprotected_quantities)],
        [say("row_credits"), join(guarantee.credits_not_taken)],
        [say("row_mechanism"), _mechanism(report, say)],
        [say("row_accounting"), _accounting(loss, say)],
        [say("row_advantage"), say("advantage", value=percent(loss.max_advantage))],
        *([[say("row_gdp"), say("gdp", mu=f"{loss.gdp_mu:.3g}")]] if loss.gdp_mu else []),
        [say("row_policy"), say("policy", digest=period.policy_digest, signer=period.policy_signer[:16] + "…")],
        [say("row_renewal"), report.budget.renewal.said(lang) if report.budget else ""],
    ]
    return Table(say("who"), [Column(say("head_item"), "name"), Column(say("head_value"), "digest-free")], rows)


def _joined(texts: Sequence[Text], lang: Lang, say: Say) -> str:
    return say("comma").join(one.said(lang) for one in texts)


def _mechanism(report: Report, say: Say) -> str:
    one = report.mechanism
    if one is None:
        return ""
    return say(
        "mechanism",
        steps=one.sampling.steps_per_round, rate=f"{one.sampling.rate:g}", clip=f"{one.clip_norm:g}",
        sigma=f"{one.noise_multiplier:g}", divisor=f"{one.divisor:g}", rank=one.trainable.rank,
        targets=say("comma").join(one.trainable.targets),
    )  # fmt: skip


def _accounting(loss: PrivacyLoss, say: Say) -> str:
    one = loss.accountant
    cross = figure_text(one.cross_check.epsilon)
    return say(
        "accounting",
        name=one.name,
        version=one.version,
        method=one.method,
        cross=cross,
        terms=terms(loss.headline, say),
    )


def _events(report: Report, say: Say) -> Table:
    open_ = report.audience == "confidential"
    columns = [Column(say("head_seq"), "num"), Column(say("head_type")), Column(say("head_round"), "num")]
    columns += [Column(say("head_at"), "keep"), Column(say("head_note"), "quoted words")] if open_ else []
    columns.append(Column(say("head_hash"), "hash"))
    rows = []
    for one in report.events[-ENTRIES:]:
        ends = say("closes", seq=one.closes) if one.closes is not None else ""
        note = " ".join(filter(None, (ends, one.note)))
        rows.append(
            [str(one.seq), one.type, one.round, *([_clock(one.at), note] if open_ else []), one.entry_hash[:16]]
        )
    return Table(say("events"), columns, rows)
