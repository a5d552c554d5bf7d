"""What `fugou merchant check` prints: a page for people, and the same as plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from client.check import Report, Shopping, TableCount, Trained
from client.findings import Findings, Key
from client.metrics import percent
from client.words import say, table

FEW = 3
CLIP = 400


def lines(report: Report, everything: bool = False) -> Iterator[str]:
    """Yield the page; with `everything`, each finding that was kept instead of the first few of a kind."""
    yield say("check_head", name=report.name, id=report.merchant)
    yield say("check_harmless")
    yield ""
    yield table(_counts(report.tables))
    for name, reason in report.refused.items():
        yield say("check_refused", table=name, reason=reason)
    yield ""
    yield from _shopping(report.shopping)
    yield from _scrubbed(report.scrubbed)
    if report.trained:
        yield from _trained(report.trained)
    yield from report.notes
    yield ""
    yield from _findings(report.findings, everything)
    if report.trained:
        yield from _examples(report.trained)


def _counts(tables: Mapping[str, TableCount]) -> list[list[str]]:
    head = [say(f"head_{key}") for key in ("table", "read", "good", "excluded")]
    return [head, *([name, f"{one.read:,}", f"{one.good:,}", _excluded(one.excluded)] for name, one in tables.items())]


def _excluded(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{say(f'reason_{reason}')} {count:,}" for reason, count in sorted(reasons.items()) if count)


def _shopping(shop: Shopping | None) -> Iterator[str]:
    if shop is None:
        yield say("check_nobody")
        return
    yield say(
        "check_shop",
        customers=f"{shop.customers:,}",
        purchases=f"{shop.purchases:,}",
        begin=shop.first_day,
        end=shop.last_day,
        items=f"{shop.items:,}",
        top=", ".join(say("check_top", name=name, count=f"{count:,}") for name, count in shop.top),
    )
    rates = ", ".join(
        say("check_rate", days=one.days, rate=percent(one.rate), customers=f"{one.customers:,}")
        for one in shop.repurchase
    )
    yield say("check_rates", rates=rates, overall=percent(shop.overall))


def _scrubbed(kinds: Mapping[str, int]) -> Iterator[str]:
    ordered = sorted(kinds.items(), key=lambda one: (-one[1], one[0]))
    found = ", ".join(f"{say(f'hidden_{kind}')} {count:,}" for kind, count in ordered)
    yield say("check_scrubbed", kinds=found) if found else say("check_nothing_scrubbed")


def _trained(trained: Trained) -> Iterator[str]:
    yield say(
        "check_trained",
        customers=f"{trained.customers:,}",
        records=f"{sum(trained.tasks.values()):,}",
        tasks=", ".join(f"{task} {count:,}" for task, count in sorted(trained.tasks.items())) or "–",
        held_out=say("check_held_out", count=f"{trained.held_out:,}") if trained.held_out else "",
    )
    yield say("check_before", **asdict(trained.before))
    if trained.after:
        yield say("check_after", bound=trained.bound, **asdict(trained.after))
    if not trained.whole:
        yield say("check_sampled", customers=f"{trained.customers:,}")


def _findings(findings: Findings, everything: bool) -> Iterator[str]:
    if not findings.counts:
        yield say("check_no_findings")
        return
    yield say("check_findings")
    for key, count in sorted(findings.counts.items()):
        yield _finding(key, count)
        shown = findings.shown.get(key, [])[: None if everything else FEW]
        for one in shown:
            yield say("check_place", source=one.source, place=one.place, value=one.value).rstrip()
        if count > len(shown):
            yield say("check_more", count=f"{count - len(shown):,}")


def _finding(key: Key, count: int) -> str:
    return say(
        "check_finding",
        table=key.table,
        column=key.column or say("check_record"),
        kind=say(f"kind_{key.kind}"),
        count=f"{count:,}",
        does=say("does_" + key.does.replace(" ", "_")),
    )


def _examples(trained: Trained) -> Iterator[str]:
    yield ""
    yield say("check_examples")
    for prompt, target in trained.examples.values():
        yield say("check_example", prompt=_clipped(prompt), target=_clipped(target))


def _clipped(text: str) -> str:
    return text if len(text) <= CLIP else text[: CLIP - 1] + "…"


def as_dict(report: Report) -> dict[str, Any]:
    """Return the report for JSON; every finding that was kept is in it."""
    findings = report.findings
    return {
        "merchant": report.merchant,
        "name": report.name,
        "tables": {name: _count(one) for name, one in report.tables.items()},
        "totals": [{**key._asdict(), "count": count} for key, count in sorted(findings.counts.items())],
        "findings": [asdict(one) for _, some in sorted(findings.shown.items()) for one in some],
        "scrubbed": dict(report.scrubbed),
        "shopping": asdict(report.shopping) if report.shopping else None,
        "trained": asdict(report.trained) if report.trained else None,
        "notes": list(report.notes),
    }


def _count(one: TableCount) -> dict[str, Any]:
    return {
        "read": one.read,
        "good": one.good,
        "excluded": dict(one.excluded),
        "refused": str(one.refused) if one.refused else None,
    }
