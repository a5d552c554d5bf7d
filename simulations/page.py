"""What a run looks like to a person: one self-contained HTML page a run, one to hold runs side by side, and the JSON.

The pages hold no script and fetch nothing: styles are allowed by their hash, charts are inline SVG, and whatever a
merchant wrote (names, copy, reasons) is escaped. A privacy loss never appears without δ, unit and period, and is always
rounded up; losses are never added or averaged (NIST SP 800-226 lists both as hazards).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from markupsafe import Markup

from common.charts import (
    Badge,
    Bar,
    BarRow,
    Caption,
    Column,
    Figure,
    Line,
    Table,
    Tile,
    bar_chart,
    column_chart,
    delta_text,
    line_chart,
    readable,
    shorten,
    visible,
)
from common.config import flatten
from common.errors import UserError
from common.files import write_atomic
from common.html import styled
from common.privacy.accountant import up
from common.verdicts import in_words
from simulations.phrases import PHRASES, Lang, phrase
from simulations.results import (
    ArmDifference,
    Arms,
    Charges,
    Guarantee,
    MerchantSummary,
    Recommend,
    Replies,
    RoundMerchant,
    RoundMetrics,
    RunResult,
    by_guarantee,
    merchant_ids,
    part_names,
    perplexity_fall,
    recommend_before_after,
    spent,
    standard_error_bound,
    statuses,
    task_names,
    time_parts,
    total_bytes,
    total_seconds,
)

Say = Callable[..., str]
UNTRAINED = ("popularity", "frequency")
SYSTEMS = (*UNTRAINED, "model", "blend", "desk")
LIMITS = ("limit_simulation", "limit_cover", "limit_credit", "limit_overlap", "limit_data")
BYTE_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
CHART_ROWS = 24


@dataclass(frozen=True)
class Panel:
    """One small multiple."""

    label: str
    chart: Markup


# ---- what a caller asks for


def write_report(run: RunResult, path: Path, lang: Lang) -> None:
    """Write the report of one run to `path`; raise `UserError` when it cannot be written."""
    write_atomic(path, _render("report.html.j2", lang, _report(_spoken(run, lang), partial(phrase, lang))))


def _spoken(run: RunResult, lang: Lang) -> RunResult:
    """Return the run with its verdicts' reasons in the page's language."""
    records = [
        replace(one, merchants=tuple(replace(who, reason=in_words(who.reason, lang)) for who in one.merchants))
        for one in run.records
    ]
    return replace(run, records=tuple(records))


def write_comparison(runs: Sequence[RunResult], path: Path, lang: Lang) -> None:
    """Write one page that holds `runs` side by side; raise `UserError` when there are none."""
    if not runs:
        raise UserError("no run to compare; name at least one folder that `fugou simulate -o` wrote")
    write_atomic(path, _render("comparison.html.j2", lang, _comparison(runs, partial(phrase, lang))))


def report_data(run: RunResult) -> dict[str, Any]:
    """Return the report as JSON values: the outcome, each merchant's loss with its terms, the rounds, the settings.

    Perplexities are as measured; epsilon is rounded up to two decimals, null where no noise was added.
    """
    before, after = recommend_before_after(run.rounds)
    up, down = total_bytes(run.rounds)
    data = {
        "schema": "fugou/run-report/1",
        "scenario": {"name": run.scenario.name, "title": run.scenario.title, "lang": run.scenario.lang},
        "rounds": run.last.round,
        "perplexity": {
            "before": run.first.perplexity,
            "after": run.last.perplexity,
            "fall_percent": perplexity_fall(run.first.perplexity, run.last.perplexity),
            "tokens": run.last.tokens,
            "by_round": [one.perplexity for one in run.rounds],
            "by_task": {
                task: [one.perplexity_by_task.get(task) for one in run.rounds] for task in task_names(run.rounds)
            },
        },
        "recommend": {"before": _recommend_data(before), "after": _recommend_data(after)},
        "arms": asdict(run.arms) if run.arms else None,
        "privacy": [_privacy_data(one) for one in run.merchants],
        "merchants": {
            merchant: {str(number): one.status for number, one in rounds.items()}
            for merchant, rounds in statuses(run.records).items()
        },
        "cost": {
            "bytes_up": up,
            "bytes_down": down,
            "seconds": total_seconds(run.rounds),
            "seconds_by_part": [time_parts(one) for one in run.rounds],
        },
        "settings": _finite(run.scenario.settings),
        "limits": [phrase("en", key) for key in (*LIMITS, "limit_once")],
    }
    plain: dict[str, Any] = json.loads(json.dumps(data, default=str, allow_nan=False))
    return plain


def _finite(value: Any) -> Any:
    """Return `value` with every infinity in it as text, since JSON has no number for it."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _recommend_data(figures: Recommend | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    return {"customers": figures.customers, "recall@10": dict(figures.recall), "ndcg@10": dict(figures.ndcg)}


def _privacy_data(one: MerchantSummary) -> dict[str, Any]:
    charges = one.charges
    return {
        "merchant": one.merchant,
        "private": one.private,
        "epsilon": float(up(one.epsilon)) if one.epsilon is not None else None,
        "delta": one.delta,
        "unit": one.unit,
        "period": one.period,
        "epsilon_limit": one.epsilon_limit,
        "rounds_left": one.rounds_left,
        "charges": {key: getattr(charges, key) for key in ("released", "burned", "refused", "refunded")},
    }


def _render(template: str, lang: Lang, page: Mapping[str, Any]) -> str:
    return styled(Path(__file__).parent / "templates", template, page=page, say=partial(phrase, lang))


# ---- numbers as words


def percent_text(percent: float) -> str:
    """Return a change in percent with its sign: a fall of 77 is −77.0%.

    >>> percent_text(77.0), percent_text(-3.21)
    ('−77.0%', '+3.2%')
    """
    return f"{'−' if percent > 0 else '+'}{abs(percent):.1f}%"


def bytes_text(count: int) -> str:
    """Return a number of bytes in the largest decimal unit that fits.

    >>> bytes_text(1_250_000), bytes_text(0)
    ('1.25 MB', '0 B')
    """
    unit, size = _byte_unit(count)
    return f"{count} B" if unit == "B" else f"{readable(count / size)} {unit}"


def _byte_unit(largest: int) -> tuple[str, float]:
    return next((pair for pair in BYTE_UNITS if largest >= pair[1]), BYTE_UNITS[-1])


def duration_text(seconds: float) -> str:
    """Return a duration in the units that a person would use.

    >>> [duration_text(x) for x in (4.25, 75.0, 7500.0)]
    ['4.25 s', '1 min 15 s', '2 h 5 min']
    """
    if seconds < 60:
        return f"{readable(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _terms(guarantee: Guarantee, say: Say) -> dict[str, str]:
    unit = say(guarantee.unit) if guarantee.unit in ("customer", "record") else guarantee.unit
    return {"delta": delta_text(guarantee.delta), "unit": unit, "period": guarantee.period}


def _optional(value: float | None, form: Callable[[float], str]) -> str:
    return "–" if value is None else form(value)


def _three(value: float) -> str:
    return f"{value:.3f}"


# ---- one run


def _report(run: RunResult, say: Say) -> dict[str, Any]:
    groups = by_guarantee(run.merchants)
    return {
        "title": run.scenario.title or run.scenario.name,
        "kind": say("page"),
        "facts": _facts(run, say),
        "outcome": _outcome(run, say),
        "second": _recommend_outcome(run, say),
        "tiles": _tiles(run, say),
        "limits": [say(key) for key in (*LIMITS, "limit_once")],
        "perplexity": _perplexity_figure(run, say),
        "panels": _task_panels(run, say),
        "arms": _arms_figure(run, say),
        "recommend": _recommend_figure(run, say),
        "privacy": [_privacy_figure(place, *group, say) for place, group in enumerate(groups.items())],
        "open_merchants": _open_merchants(run, say),
        "merchants": _merchants_table(run, say),
        "merchant_notes": _merchant_notes(run, say),
        "reasons": _reasons_table(run, say),
        "costs": _cost_figures(run, say),
        "samples": _samples(run),
        "settings": _settings(run),
        "digests": _digests_table(run, say),
    }


def _facts(run: RunResult, say: Say) -> str:
    seed = flatten(run.scenario.settings).get("scenario.seed", "–")
    return f"{say('scenario')} {run.scenario.name} · {say('seed')} {seed} · {say('folder')} {run.folder.name}"


def _outcome(run: RunResult, say: Say) -> str:
    before, after = run.first.perplexity, run.last.perplexity
    fall = perplexity_fall(before, after)
    key = "untrained" if len(run.rounds) == 1 else "fell" if fall > 0 else "rose" if fall < 0 else "stayed"
    places = {"before": readable(before), "after": readable(after), "percent": f"{abs(fall):.1f}"}
    counts = {"rounds": run.last.round, "merchants": len(merchant_ids(run))}
    return say(key, **places, **counts) + _bound_clause(run, say)


def _bound_clause(run: RunResult, say: Say) -> str:
    """Return the second half of the outcome: one bound only where one bound is true of every merchant it names."""
    groups = by_guarantee(run.merchants)
    private = sum(map(len, groups.values()))
    if not private:
        return say("no_bound" if run.merchants else "unknown_bound")
    if len(groups) > 1:
        return say("at_bounds")
    [(guarantee, members)] = groups.items()
    key = "at_bound" if private == len(run.merchants) else "at_bound_some"
    places = {"epsilon": up(max(map(spent, members))), **_terms(guarantee, say)}
    return say(key, **places, private=private, open=len(run.merchants) - private)


def _recommend_outcome(run: RunResult, say: Say) -> str:
    before, after = recommend_before_after(run.rounds)
    figures = after or before
    if figures is None:
        return ""
    return say("recommend_outcome", customers=figures.customers, values=_recall_words(before, after, say))


def _recall_words(before: Recommend | None, after: Recommend | None, say: Say) -> str:
    return say("comma").join(
        f"{_named(system, say)} {' → '.join(dict.fromkeys(map(_three, _pair(system, before, after))))}"
        for system in _systems(before, after)
    )


def _pair(system: str, before: Recommend | None, after: Recommend | None) -> list[float]:
    return [one.recall[system] for one in (before, after) if one is not None and system in one.recall]


def _systems(*figures: Recommend | None) -> list[str]:
    found = dict.fromkeys(system for one in figures if one is not None for system in one.recall)
    return [*(known for known in SYSTEMS if known in found), *(other for other in found if other not in SYSTEMS)]


def _named(key: str, say: Say) -> str:
    """Return a recommender's or a part's name; one we have no word for keeps its own."""
    known = (*SYSTEMS, "train", "aggregate", "messages", "evaluate", "other")
    return say(key) if key in known else key


def _tiles(run: RunResult, say: Say) -> list[Tile]:
    first, last, (up, down) = run.first, run.last, total_bytes(run.rounds)
    course = (
        readable(first.perplexity) if first is last else f"{readable(first.perplexity)} → {readable(last.perplexity)}"
    )
    counts = {"rounds": last.round, "merchants": len(merchant_ids(run))}
    return [
        Tile(say("tile_perplexity"), course, say("tile_tokens", tokens=f"{last.tokens:,}")),
        *_recall_tile(run, say),
        *_privacy_tile(run, say),
        Tile(
            say("tile_traffic"),
            bytes_text(up + down),
            say("tile_traffic_note", up=bytes_text(up), down=bytes_text(down)),
        ),
        Tile(say("tile_time"), duration_text(total_seconds(run.rounds)), say("tile_time_note", **counts)),
    ]


def _recall_tile(run: RunResult, say: Say) -> list[Tile]:
    before, after = recommend_before_after(run.rounds)
    figures = after or before
    system = next((one for one in ("desk", "blend", "model") if figures and one in figures.recall), None)
    if figures is None or system is None:
        return []
    baseline = _optional(figures.recall.get("frequency"), _three)
    note = say("tile_recall_note", baseline=baseline)
    return [Tile(say("tile_recall", system=say(system)), _three(figures.recall[system]), note)]


def _privacy_tile(run: RunResult, say: Say) -> list[Tile]:
    groups = by_guarantee(run.merchants)
    if not run.merchants:
        return []
    if not groups:
        return [Tile(say("tile_noise"), say("tile_none"), say("tile_none_note"))]
    if len(groups) > 1 or sum(map(len, groups.values())) < len(run.merchants):
        return [Tile(say("tile_noise"), say("tile_mixed"), say("tile_mixed_note"))]
    [(guarantee, members)] = groups.items()
    worst, terms = max(members, key=spent), _terms(guarantee, say)
    note = say("tile_epsilon_note", **terms, limit=f"{worst.limit:g}")
    return [Tile(say("tile_epsilon", delta=terms["delta"]), f"≤ {up(spent(worst))}", note)]


# ---- perplexity


def _perplexity_figure(run: RunResult, say: Say) -> Figure:
    values = [one.perplexity for one in run.rounds]
    log = max(values) > 8 * min(values)
    caption = Caption(
        "perplexity",
        say("perplexity_by_round"),
        say("perplexity_desc", before=readable(values[0]), after=readable(values[-1]), rounds=run.last.round),
        say("rounds_axis"),
        say("perplexity_axis_log" if log else "perplexity_axis"),
    )
    chart = line_chart(caption, [Line(say("overall"), _course(run))])
    note = say("perplexity_note", tokens=f"{run.last.tokens:,}")
    return Figure(say("overall_title"), [note], chart, _perplexity_table(run, say))


def _perplexity_table(run: RunResult, say: Say) -> Table:
    tasks = task_names(run.rounds)
    columns = [
        Column(say("round"), "round"),
        *(Column(name, "num") for name in (say("overall"), *(_task(task, say) for task in tasks))),
    ]
    rows = [
        [str(one.round), *(_optional(x, readable) for x in (one.perplexity, *map(one.perplexity_by_task.get, tasks)))]
        for one in run.rounds
    ]
    return Table(say("perplexity_by_round"), columns, rows)


def _task(task: str, say: Say) -> str:
    """Return a task's name with a gloss where the page speaks another language; a task we do not know keeps its own."""
    return say(f"task_{task}") if f"task_{task}" in PHRASES else task


def _task_panels(run: RunResult, say: Say) -> list[Panel]:
    panels = []
    for place, task in enumerate(task_names(run.rounds)):
        points = [(one.round, one.perplexity_by_task[task]) for one in run.rounds if task in one.perplexity_by_task]
        title = say("task_title", task=_task(task, say))
        first, last = readable(points[0][1]), readable(points[-1][1])
        words = say("perplexity_desc", before=first, after=last, rounds=points[-1][0])
        caption = Caption(f"task-{place}", title, words, say("round"), say("perplexity"))
        panels.append(Panel(_task(task, say), line_chart(caption, [Line(task, points)], compact=True)))
    return panels


# ---- arms


def _arms_figure(run: RunResult, say: Say) -> Figure | None:
    if run.arms is None:
        return None
    values = {say("arm_base"): run.first.perplexity}
    values |= {say(f"arm_{arm}"): figures.perplexity for arm, figures in run.arms.arms.items()}
    fills = ["pale", *("stripes" if arm == "central" else "solid" for arm in run.arms.arms)]
    rows = [
        BarRow(name, [Bar(value, fill, readable(value))])
        for (name, value), fill in zip(values.items(), fills, strict=True)
    ]
    caption = Caption(
        "arms",
        say("arms_title"),
        say("arms_desc", values=say("comma").join(f"{name} {readable(value)}" for name, value in values.items())),
        say("perplexity_axis"),
    )
    notes = [_difference_words(one, say) for one in run.arms.differences] + [say("arms_note")]
    chart = bar_chart(caption, rows, high=max(values.values()), legend={})
    return Figure(say("arms_title"), notes, chart, _arms_table(run, run.arms, say))


def _difference_words(one: ArmDifference, say: Say) -> str:
    key = "arm_differs" if one.low > 0 or one.high < 0 else "arm_no_difference"
    places = {name: f"{'−' if value < 0 else '+'}{abs(value):.1f}%" for name, value in _ends(one).items()}
    return say(key, arm=say(f"arm_{one.arm}"), than=say(f"arm_{one.than}"), customers=one.customers, **places)


def _ends(one: ArmDifference) -> dict[str, float]:
    return {"percent": one.percent, "low": one.low, "high": one.high}


def _arms_table(run: RunResult, arms: Arms, say: Say) -> Table:
    tasks = sorted({task for figures in arms.arms.values() for task in figures.by_task})
    titles = (say("overall"), *(_task(task, say) for task in tasks))
    columns = [Column(say("arm"), "name"), *(Column(title, "num") for title in titles)]
    base = run.first.perplexity_by_task
    rows = [[say("arm_base"), *(_optional(x, readable) for x in (run.first.perplexity, *map(base.get, tasks)))]]
    for arm, figures in arms.arms.items():
        by_task = {task: score.perplexity for task, score in figures.by_task.items()}
        cells = (figures.perplexity, *map(by_task.get, tasks))
        rows.append([say(f"arm_{arm}"), *(_optional(x, readable) for x in cells)])
    return Table(say("arms_title"), columns, rows)


# ---- recommendation


def _recommend_figure(run: RunResult, say: Say) -> Figure | None:
    before, after = recommend_before_after(run.rounds)
    figures = after or before
    if figures is None:
        return None
    rows = [BarRow(_named(system, say), _recall_bars(system, before, after)) for system in _systems(before, after)]
    used = {bar.fill for row in rows for bar in row.bars}
    words = {"pale": say("fixed"), "stripes": say("before"), "solid": say("after")}
    caption = Caption(
        "recommend",
        say("recommend_title"),
        say("recommend_desc", values=_recall_words(before, after, say)),
        say("recall_axis"),
    )
    means = [bar.value for row in rows for bar in row.bars]
    chart = bar_chart(
        caption, rows, high=max(means) or 1.0, legend={fill: text for fill, text in words.items() if fill in used}
    )
    error = max(standard_error_bound(mean, figures.customers) for mean in means)
    note = say("recommend_note", customers=figures.customers, error=_three(error))
    return Figure(say("recommend_title"), [note], chart, _recommend_table(before, after, say))


def _recall_bars(system: str, before: Recommend | None, after: Recommend | None) -> list[Bar]:
    values = _pair(system, before, after)
    if system in UNTRAINED and len(set(values)) == 1:
        return [Bar(values[0], "pale", _three(values[0]))]
    fills = [fill for fill, one in (("stripes", before), ("solid", after)) if one is not None and system in one.recall]
    return [Bar(value, fill, _three(value)) for value, fill in zip(values, fills, strict=True)]


def _recommend_table(before: Recommend | None, after: Recommend | None, say: Say) -> Table:
    titles = ("recall_before", "recall_after", "ndcg_before", "ndcg_after")
    rows = [
        [
            _named(system, say),
            *(_optional(one.recall.get(system) if one else None, _three) for one in (before, after)),
            *(_optional(one.ndcg.get(system) if one else None, _three) for one in (before, after)),
        ]
        for system in _systems(before, after)
    ]
    columns = [Column(say("system"), "name"), *(Column(say(title), "num") for title in titles)]
    return Table(say("recommend_title"), columns, rows)


# ---- privacy


def _privacy_figure(place: int, guarantee: Guarantee, members: Sequence[MerchantSummary], say: Say) -> Figure:
    terms = _terms(guarantee, say)
    shown = members
    if len(members) > CHART_ROWS:
        shown = sorted(members, key=lambda one: one.limit - spent(one))[:CHART_ROWS]
    rows = [_loss_row(one.label, one, _setbacks(one, say)) for one in shown]
    most = [say("privacy_most", shown=len(shown), count=len(members))] if len(shown) < len(members) else []
    return Figure(
        say("privacy_title", **terms),
        [say("privacy_note"), *most],
        _loss_chart(f"privacy-{place}", say("privacy_title", **terms), rows, terms, say),
        _loss_table(members, terms, say),
    )


def _loss_row(label: str, one: MerchantSummary, words: str) -> BarRow:
    return BarRow(label, [Bar(spent(one), "solid", f"≤ {up(spent(one))}")], one.limit, words)


def _loss_chart(key: str, title: str, rows: Sequence[BarRow], terms: Mapping[str, str], say: Say) -> Markup:
    words = say("comma").join(
        say("privacy_value", merchant=row.label, epsilon=row.bars[0].text, limit=f"{row.limit or 0.0:g}")
        for row in rows
    )
    caption = Caption(key, title, say("privacy_desc", values=words), say("epsilon_axis", **terms))
    high = max(max(row.limit or 0.0, row.bars[0].value) for row in rows)
    return bar_chart(caption, rows, high=high or 1.0, legend={"solid": say("spent_bar"), "limit": say("limit_head")})


def _loss_table(members: Sequence[MerchantSummary], terms: Mapping[str, str], say: Say) -> Table:
    columns = [
        Column(say("merchant"), "name"),
        Column(say("epsilon_head", **terms), "num"),
        Column(say("limit_head"), "num"),
        Column(say("left_head"), "num"),
        Column(say("charges_head"), "words"),
        Column(say("noise_head"), "keep"),
    ]
    rows = [
        [
            one.label,
            up(spent(one)),
            f"{one.limit:g}",
            _optional(one.rounds_left, str),
            _charges_words(one.charges, say),
            " · ".join(_optional(x, "{:g}".format) for x in (one.sigma, one.rate, one.steps)),
        ]
        for one in members
    ]
    return Table(say("privacy_title", **terms), columns, rows)


def _charges_words(charges: Charges, say: Say) -> str:
    counts = {key: getattr(charges, key) for key in ("released", "burned", "refused", "refunded")}
    return say("comma").join(say(key, n=n) for key, n in counts.items() if n) or say("no_charges")


def _setbacks(one: MerchantSummary, say: Say) -> str:
    """Return in words what a bar alone would not show: charges burned or refused, a limit that was passed."""
    counts = {"burned": one.charges.burned, "refused": one.charges.refused}
    over = [say("over_limit")] if spent(one) > one.limit else []
    return say("comma").join([*over, *(say(key, n=n) for key, n in counts.items() if n)])


def _open_merchants(run: RunResult, say: Say) -> str:
    names = [one.label for one in run.merchants if not one.private]
    return say("open_merchants", names=say("comma").join(names)) if names else ""


# ---- merchants


def _merchants_table(run: RunResult, say: Say) -> Table:
    did, numbers = statuses(run.records), [record.round for record in run.records]
    summaries = {one.merchant: one for one in run.merchants}
    titles = ("customers", "perplexity_before", "perplexity_after", "change")
    columns = [
        Column(say("merchant"), "name"),
        *(Column(say(title), "num") for title in titles),
        *(Column(str(number), "state") for number in numbers),
    ]
    rows: list[list[str | Badge]] = [
        [
            summaries[merchant].label if merchant in summaries else merchant,
            _optional(summaries[merchant].customers if merchant in summaries else None, "{:,}".format),
            *_own_course(merchant, run),
            *(_badge(did.get(merchant, {}).get(number), say) for number in numbers),
        ]
        for merchant in merchant_ids(run)
    ]
    return Table(say("merchants"), columns, rows)


def _own_course(merchant: str, run: RunResult) -> list[str]:
    before, after = run.first.by_merchant.get(merchant), run.last.by_merchant.get(merchant)
    fall = perplexity_fall(before.perplexity, after.perplexity) if before and after else None
    return [
        _optional(before.perplexity if before else None, readable),
        _optional(after.perplexity if after else None, readable),
        _optional(fall, percent_text),
    ]


def _badge(one: RoundMerchant | None, say: Say) -> Badge:
    status = one.status if one else "absent"
    word = say(f"{status}_word")
    title = say("comma").join([word, one.reason]) if one and one.reason else word
    return Badge(say(f"{status}_letter"), status.replace(" ", "-"), title)


def _merchant_notes(run: RunResult, say: Say) -> list[str]:
    met = dict.fromkeys(one.status for rounds in statuses(run.records).values() for one in rounds.values())
    legend = say("comma").join(f"{say(f'{status}_letter')} = {say(f'{status}_word')}" for status in met)
    both = [key for key in run.first.by_merchant if key in run.last.by_merchant and len(run.rounds) > 1]
    better = sum(run.last.by_merchant[key].perplexity < run.first.by_merchant[key].perplexity for key in both)
    return [
        say("merchants_note", legend=legend) if legend else say("merchants_only"),
        *([say("merchants_better", better=better, count=len(both))] if both else []),
    ]


def _reasons_table(run: RunResult, say: Say) -> Table:
    names = {one.merchant: one.label for one in run.merchants}
    rows = [
        [str(record.round), names.get(one.merchant, one.merchant), say(f"{one.status}_word"), one.reason or "–"]
        for record in run.records
        for one in record.merchants
        if one.status != "done"
    ]
    kinds = (("round", "round"), ("merchant", "name"), ("status", "keep"), ("reason", "name"))
    return Table(say("reasons"), [Column(say(title), kind) for title, kind in kinds], rows)


# ---- what it cost


def _cost_figures(run: RunResult, say: Say) -> list[Figure]:
    trained = [one for one in run.rounds if one.round > 0]
    return [_traffic_figure(trained, say), _time_figure(run.rounds, say)] if trained else []


def _traffic_figure(rounds: Sequence[RoundMetrics], say: Say) -> Figure:
    unit, size = _byte_unit(max(max(one.bytes_up, one.bytes_down) for one in rounds))
    columns = {one.round: (one.bytes_up / size, one.bytes_down / size) for one in rounds}
    up, down = map(bytes_text, total_bytes(rounds))
    words = say("traffic_desc", rounds=len(rounds), up=up, down=down)
    caption = Caption("traffic", say("traffic_title"), words, say("round"), unit)
    table = Table(
        say("traffic_title"),
        [
            Column(say("round"), "round"),
            *(Column(f"{say(way)} ({unit})", "num") for way in ("up", "down")),
            Column(say("replies"), "words"),
        ],
        [[str(one.round), *map(readable, columns[one.round]), _replies_words(one.replies, say)] for one in rounds],
    )
    chart = column_chart(caption, columns, [say("up"), say("down")], stacked=False)
    return Figure(say("traffic_title"), [say("traffic_note")], chart, table)


def _replies_words(replies: Replies, say: Say) -> str:
    counts = {key: getattr(replies, key) for key in ("done", "refused", "failed", "late")}
    return say("comma").join(say("count_word", n=n, word=say(f"{key}_word")) for key, n in counts.items() if n) or "–"


def _time_figure(rounds: Sequence[RoundMetrics], say: Say) -> Figure:
    parts = part_names(rounds)
    columns = {one.round: [time_parts(one).get(part, 0.0) for part in parts] for one in rounds}
    labels = [_named(part, say) for part in parts]
    words = say("time_desc", rounds=rounds[-1].round, total=duration_text(total_seconds(rounds)))
    caption = Caption("time", say("time_title"), words, say("rounds_axis"), say("seconds_axis"))
    table = Table(
        say("time_title"),
        [Column(say("round"), "round"), *(Column(label, "num") for label in (*labels, say("total")))],
        [[str(one.round), *map(readable, (*columns[one.round], one.seconds))] for one in rounds],
    )
    chart = column_chart(caption, columns, labels, stacked=True)
    return Figure(say("time_title"), [say("time_note")], chart, table)


# ---- samples, settings


def _samples(run: RunResult) -> list[dict[str, str]]:
    names = {one.merchant: one.label for one in run.merchants}
    return [
        {
            "merchant": names.get(one.merchant, one.merchant),
            "prompt": one.prompt,
            "before": one.before,
            "after": one.after,
            "reference": one.reference or "–",
        }
        for one in run.samples
    ]


def _settings(run: RunResult) -> list[tuple[str, list[tuple[str, str]]]]:
    return [
        (title, [(key, _setting_text(value)) for key, value in flatten(table).items()])
        for title, table in run.scenario.settings.items()
        if isinstance(table, Mapping)
    ]


def _setting_text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_setting_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _digests_table(run: RunResult, say: Say) -> Table:
    columns = [Column(say("round"), "round"), Column(say("method"), "keep"), Column(say("digest"), "digest")]
    rows = [[str(one.round), one.method, one.adapter_digest] for one in run.records if one.adapter_digest]
    return Table(say("digests"), columns, rows)


# ---- several runs


def _comparison(runs: Sequence[RunResult], say: Say) -> dict[str, Any]:
    marks = [chr(ord("A") + i) if i < 26 else f"#{i + 1}" for i in range(len(runs))]
    named = dict(zip(marks, runs, strict=True))
    return {
        "title": say("comparison_of", count=len(runs)),
        "kind": say("comparison"),
        "facts": " · ".join(f"{mark} {_title(run)} ({run.folder.name})" for mark, run in named.items()),
        "limits": [say(key) for key in (*LIMITS, "limit_compare")],
        "warning": say("different_tokens") if _differ(runs) else "",
        "runs": _runs_table(named, say),
        "perplexity": _perplexities_figure(named, say),
        "recommend": _recalls_figure(named, say),
        "privacy": _losses_figures(named, say),
        "differences": _differences_table(named, say),
    }


def _title(run: RunResult) -> str:
    return run.scenario.title or run.scenario.name


def _differ(runs: Sequence[RunResult]) -> bool:
    return len({(run.last.tokens, round(run.first.perplexity, 3)) for run in runs}) > 1


def _runs_table(runs: Mapping[str, RunResult], say: Say) -> Table:
    kinds = (
        ("run", "keep"),
        ("scenario_head", "name"),
        ("folder", "name"),
        ("method", "keep"),
        ("rounds", "num"),
        ("merchants_head", "num"),
        ("perplexity_before", "num"),
        ("perplexity_after", "num"),
        ("change", "num"),
        ("tokens", "num"),
        ("privacy_worst", "bound"),
        ("tile_traffic", "num"),
        ("tile_time", "num"),
    )
    rows = [[mark, *_run_cells(run, say)] for mark, run in runs.items()]
    return Table(say("runs"), [Column(say(title), kind) for title, kind in kinds], rows)


def _run_cells(run: RunResult, say: Say) -> list[str]:
    before, after = run.first.perplexity, run.last.perplexity
    return [
        _title(run),
        run.folder.name,
        str(flatten(run.scenario.settings).get("training.method", "–")),
        str(run.last.round),
        str(len(merchant_ids(run))),
        readable(before),
        readable(after),
        percent_text(perplexity_fall(before, after)),
        f"{run.last.tokens:,}",
        _bounds(run, say),
        bytes_text(sum(total_bytes(run.rounds))),
        duration_text(total_seconds(run.rounds)),
    ]


def _bounds(run: RunResult, say: Say) -> str:
    """Return the largest loss under each set of terms that the run's merchants signed, and that some added no noise."""
    bounds = [
        say("bound", epsilon=up(max(map(spent, members))), **_terms(guarantee, say))
        for guarantee, members in by_guarantee(run.merchants).items()
    ]
    free = [say("no_noise")] if any(not one.private for one in run.merchants) else []
    return "; ".join([*bounds, *free]) or "–"


def _perplexities_figure(runs: Mapping[str, RunResult], say: Say) -> Figure:
    same = len(set(map(_title, runs.values()))) < len(runs)
    lines = [
        Line(_line_label(mark, run.folder.name if same else _title(run)), _course(run), mark)
        for mark, run in runs.items()
    ]
    values = [y for line in lines for _, y in line.points]
    log = max(values) > 8 * min(values)
    words = say("comma").join(f"{line.label}: {readable(line.points[-1][1])}" for line in lines)
    caption = Caption(
        "perplexity",
        say("perplexity_by_round"),
        say("perplexity_runs_desc", values=words),
        say("rounds_axis"),
        say("perplexity_axis_log" if log else "perplexity_axis"),
    )
    longest = max(runs.values(), key=lambda run: run.last.round)
    rows = [
        [str(at.round), *(readable(one.perplexity) if one else "–" for one in row)]
        for at, row in zip(longest.rounds, zip_longest(*(run.rounds for run in runs.values())), strict=True)
    ]
    columns = [Column(say("round"), "round"), *(Column(mark, "num") for mark in runs)]
    table = Table(say("perplexity_by_round"), columns, rows)
    return Figure(say("overall_title"), [say("axis_note")], line_chart(caption, lines), table)


def _course(run: RunResult) -> list[tuple[float, float]]:
    return [(one.round, one.perplexity) for one in run.rounds]


def _line_label(mark: str, name: str) -> str:
    return f"{mark} {shorten(visible(name), 160.0)}"


def _recalls_figure(runs: Mapping[str, RunResult], say: Say) -> Figure | None:
    measured = {mark: after for mark, run in runs.items() if (after := recommend_before_after(run.rounds)[1])}
    if not measured:
        return None
    systems = _systems(*measured.values())
    fills = {"frequency": "pale", "model": "stripes", "blend": "solid", "desk": "solid"}
    rows = [
        BarRow(
            mark,
            [Bar(one.recall[key], fill, _three(one.recall[key])) for key, fill in fills.items() if key in one.recall],
        )
        for mark, one in measured.items()
    ]
    words = "; ".join(f"{mark} {_recall_words(None, one, say)}" for mark, one in measured.items())
    caption = Caption("recommend", say("recommend_runs"), say("recommend_desc", values=words), say("recall_axis"))
    high = max((bar.value for row in rows for bar in row.bars), default=1.0) or 1.0
    legend = {fill: _named(key, say) for key, fill in fills.items() if key in systems}
    return Figure(
        say("recommend_runs"),
        [say("recommend_runs_note")],
        bar_chart(caption, rows, high=high, legend=legend),
        _recalls_table(measured, systems, say),
    )


def _recalls_table(measured: Mapping[str, Recommend], systems: Sequence[str], say: Say) -> Table:
    rows = [
        [
            mark,
            f"{one.customers:,}",
            *(_optional(one.recall.get(key), _three) for key in systems),
            *(_optional(one.ndcg.get(key), _three) for key in systems),
        ]
        for mark, one in measured.items()
    ]
    columns = [
        Column(say("run"), "keep"),
        Column(say("customers"), "num"),
        *(Column(f"recall@10 {_named(key, say)}", "num") for key in systems),
        *(Column(f"NDCG@10 {_named(key, say)}", "num") for key in systems),
    ]
    return Table(say("recommend_runs"), columns, rows)


def _losses_figures(runs: Mapping[str, RunResult], say: Say) -> list[Figure]:
    """Return one figure for each set of terms: losses under different δ, unit or period never share an axis."""
    groups: dict[Guarantee, list[tuple[str, MerchantSummary, int]]] = {}
    for mark, run in runs.items():
        for guarantee, members in by_guarantee(run.merchants).items():
            groups.setdefault(guarantee, []).append((mark, max(members, key=spent), len(members)))
    return [_losses_figure(place, *group, say) for place, group in enumerate(groups.items())]


def _losses_figure(
    place: int, guarantee: Guarantee, worst: Sequence[tuple[str, MerchantSummary, int]], say: Say
) -> Figure:
    terms = _terms(guarantee, say)
    title = say("privacy_runs", **terms)
    rows = [_loss_row(mark, one, say("worst_of", count=count)) for mark, one, count in worst]
    columns = [
        Column(say("run"), "keep"),
        Column(say("merchant"), "name"),
        Column(say("epsilon_head", **terms), "num"),
        Column(say("limit_head"), "num"),
    ]
    cells = [[mark, one.label, up(spent(one)), f"{one.limit:g}"] for mark, one, _ in worst]
    chart = _loss_chart(f"privacy-{place}", title, rows, terms, say)
    return Figure(title, [say("privacy_note")], chart, Table(title, columns, cells))


def _differences_table(runs: Mapping[str, RunResult], say: Say) -> Table:
    flat = [flatten(run.scenario.settings) for run in runs.values()]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows: list[list[str]] = [
        [key, *(_setting_text(one.get(key, "–")) for one in flat)]
        for key in keys
        if len({_setting_text(one.get(key, "–")) for one in flat}) > 1
    ]
    return Table(say("differences"), [Column(say("setting"), "name"), *(Column(mark, "name") for mark in runs)], rows)
