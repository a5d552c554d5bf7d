"""The federation's report: what every merchant claimed, side by side, from the records of rounds alone.

It is for those who lead a federation and for the merchants in it, and holds what the coordinator knows and nothing more:
charges as declared, verdicts, digests and anchors. `federation.json` has it for programs, `federation.html` for people;
the page has no script, fetches nothing, and escapes whatever a merchant wrote.

An epsilon bounds the updates that were received; it is never added up or averaged over merchants.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from common.charts import Bar, BarRow, Caption, Column, Figure, Table, bar_chart, delta_text
from common.errors import UserError
from common.files import write_atomic
from common.html import styled
from common.privacy import accountant
from common.privacy.accountant import Setting, up
from common.verdicts import in_words
from server.report_words import Lang, phrase
from server.rounds import ROUNDS, read_record

SCHEMA = "fugou/federation-report/1"
PAGE, DATA = "federation.html", "federation.json"
CHART_ROWS, SAID, WIDE = 24, 100, 12
TEXT = 200

Say = Callable[..., str]


@dataclass(frozen=True)
class Part:
    """One merchant's part in one round, as recorded."""

    round: int
    status: str
    reason: str
    charge: Mapping[str, Any]
    policy_digest: str
    ledger_seq: int
    ledger_head: str
    update_digest: str


@dataclass(frozen=True)
class Claim:
    """What one merchant's declared charges come to; `epsilon` is null where nothing bounds it or nothing was sent."""

    merchant: str
    epsilon: float | None
    delta: float | None
    unit: str
    period: str
    private: bool
    sigma: tuple[float, ...]
    rate: tuple[float, ...]
    steps: int
    received: int
    rounds: Mapping[str, str]
    policy_digest: str
    anchor: tuple[int, str] | None
    updates: Mapping[str, str]


@dataclass(frozen=True)
class Federation:
    """A run as its coordinator knows it."""

    run: str
    rounds: tuple[int, ...]
    claims: tuple[Claim, ...]
    adapters: Mapping[str, str]
    said: tuple[tuple[int, str, str, str], ...]
    """(round, merchant, status, reason) of everything that was not simply done."""
    warnings: tuple[Mapping[str, Any], ...]


def write_federation_report(folder: Path, out: Path, lang: Lang) -> tuple[Path, Path]:
    """Write `federation.html` and `federation.json` of the run in `folder` to `out` and return both paths.

    Raises `UserError` where there is no round, or a round cannot be read.
    """
    found = read_federation(folder)
    write_atomic(out / DATA, json.dumps(as_data(found), ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    write_atomic(out / PAGE, page_of(found, lang))
    return out / PAGE, out / DATA


# --- reading ---


def read_federation(folder: Path) -> Federation:
    """Return what the records of the run in `folder` say."""
    numbers = sorted(int(path.name) for path in (folder / ROUNDS).glob("[0-9]*") if path.name.isdigit())
    records = {number: read_record(folder, number) for number in numbers if number}
    if not records:
        raise UserError(f"{folder} holds no round yet; lead one before asking for its report")
    parts = _parts(records)
    claims = tuple(_claim(merchant, own) for merchant, own in sorted(parts.items()))
    return Federation(
        run=str(next(iter(records.values())).get("run", "")),
        rounds=tuple(records),
        claims=claims,
        adapters={str(number): str(one.get("adapter_digest", "")) for number, one in records.items()},
        said=tuple(
            (one.round, merchant, one.status, one.reason[:TEXT])
            for merchant, own in sorted(parts.items())
            for one in own
            if one.reason
        ),
        warnings=tuple(warning for merchant, own in sorted(parts.items()) for warning in _warnings(merchant, own)),
    )


def _parts(records: Mapping[int, Mapping[str, Any]]) -> dict[str, list[Part]]:
    """Return merchant -> its parts in order of rounds; two in one round are both kept."""
    found: dict[str, list[Part]] = {}
    for number, record in records.items():
        for one in record.get("merchants", ()):
            found.setdefault(str(one.get("merchant", ""))[:TEXT], []).append(_part(number, one))
    return found


def _part(number: int, one: Mapping[str, Any]) -> Part:
    return Part(
        round=number,
        status=str(one.get("status", "")),
        reason=str(one.get("reason", "")),
        charge=dict(one.get("charge") or {}),
        policy_digest=str(one.get("policy_digest", "")),
        ledger_seq=int(one.get("ledger_seq") or 0),
        ledger_head=str(one.get("ledger_head", "")),
        update_digest=str(one.get("update_digest", "")),
    )


def _claim(merchant: str, parts: Sequence[Part]) -> Claim:
    received = [one for one in parts if one.charge and one.update_digest]
    charges, delta = _settings(received), _worst(received)
    last = max((one for one in parts if one.ledger_head), key=lambda one: one.round, default=None)
    return Claim(
        merchant=merchant,
        epsilon=_epsilon(charges, delta),
        delta=delta,
        unit=_told(received, "unit"),
        period=_told(received, "period"),
        private=bool(charges) and all(one.sigma > 0 for one in charges),
        sigma=tuple(sorted({one.sigma for one in charges})),
        rate=tuple(sorted({one.rate for one in charges})),
        steps=sum(one.steps for one in charges),
        received=len(received),
        rounds={str(one.round): one.status for one in parts},
        policy_digest=next((one.policy_digest for one in reversed(parts) if one.policy_digest), ""),
        anchor=(last.ledger_seq, last.ledger_head) if last else None,
        updates={str(one.round): one.update_digest for one in received},
    )


def _settings(received: Sequence[Part]) -> list[Setting]:
    """Return the charges as the accountant takes them; one that is no charge counts as a round without any noise."""
    return [_setting(one.charge) for one in received]


def _setting(charge: Mapping[str, Any]) -> Setting:
    try:
        found = Setting(float(charge["sigma"]), float(charge["rate"]), int(charge["steps"]))
        accountant.merge((found,))
    except (KeyError, TypeError, ValueError, OverflowError, UserError):
        return Setting(0.0, 1.0, 1)
    return found


def _worst(received: Sequence[Part]) -> float | None:
    """Return the smallest delta that was declared, at which the loss is largest; None where none was that is one."""
    told = [one.charge.get("delta") for one in received]
    good = [float(one) for one in told if isinstance(one, (int, float)) and 0 < one < 1]
    return min(good, default=None)


def _epsilon(charges: Sequence[Setting], delta: float | None) -> float | None:
    """Return epsilon rounded up to two decimals, or None where nothing bounds it or nothing was received."""
    if not charges or delta is None:
        return None
    found = accountant.epsilon(charges, delta)
    return float(up(found)) if math.isfinite(found) else None


def _told(received: Sequence[Part], key: str) -> str:
    """Return what was declared, once each, in order."""
    return ", ".join(dict.fromkeys(str(one.charge[key])[:TEXT] for one in received if key in one.charge))


def _warnings(merchant: str, parts: Sequence[Part]) -> Iterator[Mapping[str, Any]]:
    """Yield a ledger that does not go forward, and a policy that changed, between one round and the next."""
    signed = [one for one in parts if one.ledger_head]
    for before, now in pairwise(signed):
        same = (now.ledger_seq, now.ledger_head) == (before.ledger_seq, before.ledger_head)
        if now.ledger_seq <= before.ledger_seq and not (same and now.status == "refused"):
            yield {
                "kind": "back", "merchant": merchant, "round": now.round, "now": now.ledger_seq,
                "before": before.round, "then": before.ledger_seq,
            }  # fmt: skip
        if now.policy_digest != before.policy_digest:
            yield {"kind": "other_policy", "merchant": merchant, "round": now.round}


def as_data(found: Federation) -> dict[str, Any]:
    """Return the report as JSON values."""
    return {"schema": SCHEMA, **asdict(found)}


# --- the page ---


def page_of(found: Federation, lang: Lang) -> str:
    """Return the report as one self-contained HTML page."""
    say = partial(phrase, lang)
    found = replace(found, said=tuple((*one[:3], in_words(one[3], lang)) for one in found.said))
    folder = Path(__file__).parent / "templates"
    return styled(folder, "federation.html.j2", "federation.css.j2", page=_page(found, say), say=say)


def _page(found: Federation, say: Say) -> dict[str, Any]:
    return {
        "title": say("title", run=found.run),
        "facts": say("facts", rounds=len(found.rounds), merchants=len(found.claims)),
        "limits": [say(key) for key in ("limit_declared", "limit_received", "limit_sum", "limit_unseen")],
        "claims": _claims_figure(found, say),
        "rounds": [_rounds_table(found, say, span) for span in _spans(found.rounds)],
        "adapters": _adapters(found, say),
        "said": _said(found, say),
        "warnings": [
            say(one["kind"], **{key: value for key, value in one.items() if key != "kind"}) for one in found.warnings
        ],
    }


def _claims_figure(found: Federation, say: Say) -> Figure:
    bounded = [one for one in found.claims if one.epsilon is not None and one.private]
    worst = sorted(bounded, key=lambda one: -(one.epsilon or 0.0))[:CHART_ROWS]
    rows = [BarRow(one.merchant, [Bar(one.epsilon or 0.0, "solid", _bound(one, say))]) for one in worst]
    told = "; ".join(f"{one.merchant} {_bound(one, say)}" for one in worst)
    caption = Caption("claims", say("chart"), say("chart_alt", rows=told), x=say("chart_axis"))
    high = max([one.epsilon or 0.0 for one in worst], default=1.0)
    return Figure(
        say("chart"), [say("claims_note")], bar_chart(caption, rows, high=high, legend={}), _claims(found, say)
    )


def _claims(found: Federation, say: Say) -> Table:
    columns = [
        Column(say("merchant"), "name"), Column(say("epsilon"), "num"), Column(say("delta"), "num"),
        Column(say("period")), Column(say("mechanism")), Column(say("taken"), "num"), Column(say("policy"), "digest"),
        Column(say("head"), "digest"),
    ]  # fmt: skip
    return Table(say("claims"), columns, [_row(one, found, say) for one in found.claims])


def _row(one: Claim, found: Federation, say: Say) -> list[str]:
    return [
        one.merchant,
        _bound(one, say),
        delta_text(one.delta) if one.delta else "–",
        one.period or "–",
        f"{_listed(one.sigma)} / {_listed(one.rate)} / {one.steps}" if one.received else "–",
        f"{one.received} / {len(found.rounds)}",
        one.policy_digest[:16] or "–",
        f"{one.anchor[0]}:{one.anchor[1][:16]}" if one.anchor else "–",
    ]


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _bound(one: Claim, say: Say) -> str:
    if not one.received:
        return say("nothing")
    if not one.private:
        return say("open")
    return f"{one.epsilon:.2f}" if one.epsilon is not None else say("unbounded")


def _spans(rounds: Sequence[int]) -> list[Sequence[int]]:
    return [rounds[start : start + WIDE] for start in range(0, len(rounds), WIDE)]


def _rounds_table(found: Federation, say: Say, span: Sequence[int]) -> Table:
    rows = [[one.merchant, *(_mark(one.rounds.get(str(number), ""), say) for number in span)] for one in found.claims]
    return Table(say("rounds"), [Column(say("merchant"), "name"), *(Column(str(n), "state") for n in span)], rows)


def _mark(status: str, say: Say) -> str:
    return say(f"mark_{status}") if status in ("", "done", "refused", "failed", "late", "set aside") else status


def _adapters(found: Federation, say: Say) -> Table:
    columns = [Column(say("round"), "num"), Column(say("adapter"), "digest")]
    return Table(say("adapter"), columns, [[number, digest] for number, digest in found.adapters.items()])


def _said(found: Federation, say: Say) -> Table:
    columns = [
        Column(say("round"), "num"),
        Column(say("merchant"), "name"),
        Column(say("status")),
        Column(say("reason")),
    ]
    rows = [
        [str(number), merchant, _mark(status, say), reason] for number, merchant, status, reason in found.said[-SAID:]
    ]
    return Table(say("said"), columns, rows)
