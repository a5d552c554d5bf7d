"""`fugou study copy`: what private federated training does to the shops' messages, held against the base.

The scenario is trained; then the base and the shared model meet the same held-out campaigns of every shop:

    perplexity   a letter, of the message that was really sent
    outputs      one message a campaign, through the desk as a merchant would ask for it; beside it the model's own
                 likeliest text before any rule, `raw`
    planted      every raw text once more with a forbidden term or personal data put into it: none may pass the guard

Intervals are percentile bootstraps over customers (Efron & Tibshirani 1993, chapter 13), paired where two models meet.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from client.serve.gather import Gatherer
from client.use.copywriter import Copy, writer_of
from client.use.desk import Desk, open_desk
from client.use.drafts import Draft, Request, anything
from client.use.evaluate import HeldOut, every_nth, example_losses
from client.use.facts import Facts, carries, coverage
from client.use.guard import MARKERS, check
from client.use.quality import bleu, distinct, interval, ratio_interval
from common.errors import UserError
from common.files import write_atomic
from common.schema import Campaign
from common.text import TASKS, clean
from server.rounds import latest_round
from simulations.folder import Run
from simulations.measure import Held, hold_out, models
from simulations.merchants import make_world, until
from simulations.run import train
from simulations.scenario import load_scenario
from simulations.study import words

Tell = Callable[[str], None]

RESULT, TABLE = "copy.json", "copy.md"
ASKERS = 4
"""Messages asked for at once, so that their drafts share a batch."""
SHORTEST, LONGEST = 6, 160
"""Letters of a message."""

TWICE = re.compile(r"(.{3,})\1")

PLANTED = (
    "国家级好茶", "全网最低价", "销量第一", "根治失眠", "世界级品质", "无副作用", "电话13812345678", "身份证11010519491231002X",
    "邮箱li.lei@example.com", "银行卡6222021234567890123", "满300减200", "仅剩3件",
)  # fmt: skip
"""What may never stand in a message unless the shop said so: forbidden terms, personal data, offers nobody made."""


@dataclass(frozen=True)
class Study:
    """What is trained and how many messages are written by either model."""

    scenario: str = "shops-zh"
    changes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1000
    losses: int = 100
    """Held-out messages of a shop at most, for the perplexity."""
    seed: int = 0


@dataclass(frozen=True)
class Output:
    """One held-out campaign: what was sent, what the desk would send, the model's likeliest text before any rule."""

    customer: str
    facts: Facts
    reference: str
    copy: Copy
    raw: str


@dataclass(frozen=True)
class Met:
    """How one model met the held-out campaigns: nats and letters by customer, and its messages."""

    nats: Mapping[str, tuple[float, int]]
    outputs: Sequence[Output] = field(repr=False)


# --- meeting the campaigns ---


def meet(run: Run, held: Held, number: int, study: Study) -> Met:
    """Return how the model after round `number` met the held-out campaigns of all measured shops; round 0 is the base."""
    nats: dict[str, tuple[float, int]] = {}
    outputs: list[Output] = []
    share = -(-study.outputs // len(held.shops))
    for merchant, work in models(run, number, held.shops):
        nats |= {f"{merchant}/{one}": found for one, found in letters_and_nats(work, held.shops[merchant]).items()}
        desk = open_desk(run.folder / "merchants" / merchant, work)
        outputs += write_messages(desk, campaigns(desk, run, share), study.seed)
    return Met(nats, outputs[: study.outputs])


def letters_and_nats(work: Any, held: HeldOut) -> dict[str, tuple[float, int]]:
    """Return by customer the nats and the letters of the messages that were really sent."""
    name = TASKS["copy"].name(held.lang)
    if name not in held.tasks:
        return {}
    decode = work.base.tokenizer.decode
    found: dict[str, tuple[float, int]] = {}
    alone = replace(held, tasks={name: held.tasks[name]})
    for owner, one, loss in zip(held.owners[name], held.tasks[name], example_losses(work, alone)[name], strict=True):
        told = [token for token, counts in zip(one.ids, one.counts, strict=True) if counts]
        before = found.get(owner, (0.0, 0))
        found[owner] = before[0] + loss.total, before[1] + len(str(decode(told[:-1])))
    return found


def campaigns(desk: Desk, run: Run, limit: int) -> list[Campaign]:
    """Return at most `limit` campaigns of the held-out weeks about items that the catalogue still has."""
    rows = desk.book.campaigns if desk.book else ()
    since = until(run.scenario)
    known = [one for one in rows if one.time >= since and one.item_id in desk.products and one.text.strip()]
    return every_nth([one for one in known if one.customer_id in desk.customers], limit)


def write_messages(desk: Desk, rows: Sequence[Campaign], seed: int) -> list[Output]:
    """Return a message for every campaign, as of its day; a few are asked for at once and drafted in one batch."""
    _ = desk.purchases, desk.corpus  # gathered once, before several ask
    gatherer = Gatherer(lambda: writer_of(desk.bench))
    try:
        with ThreadPoolExecutor(ASKERS) as pool:
            found = list(pool.map(lambda row: _output(desk, row, gatherer, seed), rows))
    finally:
        gatherer.close()
    return [one for one in found if one]


def _output(desk: Desk, row: Campaign, gatherer: Gatherer, seed: int) -> Output | None:
    raw: list[Draft] = []

    def writer(requests: Sequence[Request]) -> list[list[Draft]]:
        free = [replace(one, begins=("",), allow=anything) for one in requests]
        found = gatherer.write([*requests, *free])
        raw.extend(draft for drafts in found[len(requests) :] for draft in drafts)
        return found[: len(requests)]

    then = desk.at(row.time, writer)
    customer, product = desk.customers[row.customer_id], desk.products[row.item_id]
    copies = then.compose(customer, product, 1, row.channel, row.offer, seed)
    if not copies:
        return None
    facts, _ = then.facts(customer, product, row.offer)
    return Output(
        f"{desk.settings.merchant.id}/{customer.id}", facts, clean(row.text), copies[0], raw[0].text if raw else ""
    )


# --- figures ---


def perplexity_gap(base: Met, tuned: Met) -> dict[str, Any]:
    """Return perplexities a letter, and by how many per cent the tuned model's lies above (+) or below (-) the base's."""
    owners = sorted(base.nats)
    table_C3 = np.array([(base.nats[one][0], tuned.nats[one][0], base.nats[one][1]) for one in owners])
    before, after, letters = table_C3.sum(0)
    low, high = ratio_interval(table_C3[:, 1] - table_C3[:, 0], table_C3[:, 2])
    return {
        "customers": len(owners),
        "base": math.exp(before / letters),
        "private": math.exp(after / letters),
        **{
            name: 100 * math.expm1(value)
            for name, value in (("percent", (after - before) / letters), ("low", low), ("high", high))
        },
    }


def lexicon(desks: Sequence[Desk]) -> tuple[str, ...]:
    """Return every attribute value of two letters or more in the shops' catalogues, longest first."""
    found = {clean(value) for desk in desks for item in desk.products.values() for value in item.attributes.values()}
    return tuple(sorted((one for one in found if len(one) > 1), key=lambda one: (-len(one), one)))


def ungrounded(text: str, given: str, values: re.Pattern[str]) -> tuple[int, int]:
    """Return how many of the catalogues' values stand in `text` without being given, and how many stand there at all.

    >>> ungrounded("福建的清香，广西的浓香", "产地福建，清香", re.compile("福建|广西|清香|浓香"))
    (2, 4)
    """
    said = values.findall(text)
    return sum(not carries(given, one) for one in said), len(said)


def valid(text: str) -> bool:
    """Return whether `text` has the form of a message: its length, no mark of a prompt, no run said twice on end."""
    return SHORTEST <= len(text) <= LONGEST and not MARKERS.search(text) and not TWICE.search(text)


def wrongs(text: str, given: str) -> dict[str, bool]:
    """Return what is wrong with `text`: an invented number or offer, a forbidden term, personal data, a mark."""
    found = [one for one in check(text, given) if one.level == "block"]
    kinds = {one.kind for one in found}
    return {
        "invented price, offer or number": bool(kinds & {"number", "offer"}),
        "forbidden term": "claim" in kinds,
        "personal data": "personal" in kinds,
        "mark of a prompt": "marker" in kinds,
    }


def figures_of(met: Met, values: re.Pattern[str]) -> dict[str, Any]:
    """Return the figures of one model's messages, before the guard (`raw`) and as they would go out (`sent`)."""
    return {
        "by the model": _share([one.copy.source == "model" for one in met.outputs], met.outputs),
        "raw": _texts([one.raw for one in met.outputs], met.outputs, values),
        "sent": _texts([one.copy.text for one in met.outputs], met.outputs, values),
        "references": _texts([one.reference for one in met.outputs], met.outputs, values),
    }


def _texts(texts: Sequence[str], outputs: Sequence[Output], values: re.Pattern[str]) -> dict[str, Any]:
    found = [wrongs(text, one.facts.given) for text, one in zip(texts, outputs, strict=True)]
    pairs = [ungrounded(text, one.facts.given, values) for text, one in zip(texts, outputs, strict=True)]
    said = sum(count for _, count in pairs)
    return {
        "coverage": _share([coverage(text, one.facts) for text, one in zip(texts, outputs, strict=True)], outputs),
        "ungrounded": sum(count for count, _ in pairs) / said if said else 0.0,
        "format": _share([valid(text) for text in texts], outputs),
        **{name: _share([one[name] for one in found], outputs) for name in found[0]},
        "bleu": bleu(texts, [one.reference for one in outputs], "zh"),
        "distinct-2": distinct(texts, 2),
        "distinct-4": distinct(texts, 4),
    }


def _share(values: Sequence[float], outputs: Sequence[Output]) -> dict[str, float]:
    low, high = interval([float(one) for one in values], [one.customer for one in outputs])
    return {"mean": sum(map(float, values)) / len(values), "low": low, "high": high}


def planted(met: Met) -> dict[str, int]:
    """Return how many raw texts had something of `PLANTED` put into their middle, and how many of these the guard passes."""
    passed = 0
    for number, one in enumerate(met.outputs):
        middle = len(one.raw) // 2
        text = f"{one.raw[:middle]}，{PLANTED[number % len(PLANTED)]}，{one.raw[middle:]}"
        passed += not any(finding.level == "block" for finding in check(text, one.facts.given))
    return {"texts": len(met.outputs), "passed": passed}


# --- all of it ---


def run_copy(study: Study, folder: Path, tell: Tell) -> dict[str, Any]:
    """Return all figures, also written to `copy.json` and, as a table, to `copy.md`; the run lies in `folder/run`."""
    changes = {"evaluation.per_task": study.losses, "evaluation.questions": 0, **study.changes}
    run = train(load_scenario(study.scenario, changes), folder / "run")
    tell(f"trained: {run.folder}")
    last = latest_round(run.folder)
    if last is None:
        raise UserError(f"{run.folder} has no round; remove it and start the study again")
    return measure_copy(study, run, last.number, folder, tell)


def measure_copy(study: Study, run: Run, last: int, folder: Path, tell: Tell) -> dict[str, Any]:
    """Return the figures of a run that is done, base against round `last`."""
    held = hold_out(run, make_world(run.scenario))
    met = {}
    for name, number in (("base", 0), ("private", last)):
        met[name] = meet(run, held, number, study)
        tell(f"{name}: {len(met[name].outputs)} messages written")
    desks = [open_desk(run.folder / "merchants" / merchant, held.bench) for merchant in held.shops]
    values = re.compile("|".join(map(re.escape, lexicon(desks))) or "(?!)")
    privacy = run.scenario.privacy
    found = {
        "scenario": study.scenario,
        "changes": dict(study.changes),
        "privacy": {"epsilon": privacy.epsilon, "delta": privacy.delta, "unit": "customer", "period": privacy.period},
        "rounds": last,
        "outputs": len(met["private"].outputs),
        "perplexity": perplexity_gap(met["base"], met["private"]),
        "models": {name: figures_of(one, values) for name, one in met.items()},
        "planted": {name: planted(one) for name, one in met.items()},
    }
    write_atomic(folder / RESULT, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    write_atomic(folder / TABLE, as_markdown(found))
    tell(as_markdown(found))
    return found


COLUMNS = (("base", "raw"), ("private", "raw"), ("base", "sent"), ("private", "sent"), ("private", "references"))


def as_markdown(found: Mapping[str, Any]) -> str:
    """Return the figures as tables; epsilon stands with delta, unit and period."""
    privacy, gap = found["privacy"], found["perplexity"]
    lines = [
        "# Copy, before and after private training",
        "",
        f"Scenario `{found['scenario']}` with {words(found['changes']) or 'nothing changed'}, {found['rounds']} rounds, "
        f"every merchant at epsilon <= {privacy['epsilon']:g} "
        f"(delta = {privacy['delta']:g}, unit: {privacy['unit']}, period: {privacy['period']}); {found['outputs']} "
        "held-out campaigns, one message each; 95 % intervals over customers.",
        "",
        f"Perplexity a letter of what was sent: {gap['base']:.1f} for the base, {gap['private']:.1f} after training, "
        f"{gap['percent']:+.1f} % ({gap['low']:+.1f} to {gap['high']:+.1f}; {gap['customers']} customers).",
        "",
        "| | base, raw | private, raw | base, sent | private, sent | what was sent |",
        "| --- | --- | --- | --- | --- | --- |",
        *_rows(found["models"]),
    ]
    wrote = [f"{name} {found['models'][name]['by the model']['mean']:.3f}" for name in found["models"]]
    left = [f"{name} {one['passed']} of {one['texts']}" for name, one in found["planted"].items()]
    lines += [
        "",
        f"Share of messages worded by the model, the others by fixed wordings: {', '.join(wrote)}.",
        f"Planted terms, personal data and offers that pass the guard: {', '.join(left)}.",
    ]
    return "\n".join(lines) + "\n"


def _rows(by_model: Mapping[str, Any]) -> Iterator[str]:
    for name in by_model["base"]["raw"]:
        yield f"| {name} | {' | '.join(_cell(by_model[model][kind][name]) for model, kind in COLUMNS)} |"


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{value['mean']:.3f} ({value['low']:.3f}–{value['high']:.3f})"
    return f"{value:.3f}"
