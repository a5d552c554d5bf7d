"""How good the words and the guesses are, measured on this shop's later weeks, each beside something simple.

BLEU alone is worthless here: copying another product's copy scores better than a faithful text. So coverage, invented
words and distinct runs always stand beside it. Everything is exact, on private rows, and for the shop's own eyes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from client.use.copywriter import Copy, writer_of
from client.use.desk import Desk
from client.use.drafts import Draft, Request
from client.use.evaluate import Nats, every_nth, example_losses, held_out, rankings
from client.use.facts import Facts, coverage, invented
from client.use.guard import check
from client.use.ranking.lists import K
from client.use.reviews import class_shares
from client.use.templates import copy_of
from common.errors import UserError
from common.schema import Campaign, Review
from common.text import SENTIMENT, TASKS, clean, sentiment

WEEKS = 4
RESAMPLES = 1000
MAX_TOKENS = 256


@dataclass(frozen=True)
class Figure:
    """One figure with its 95 % interval (bootstrap over customers) and what something simple reaches on the same rows.

    `unit` is `share`, `score` or `nats`; `count` is how many cases it rests on.
    """

    key: str
    value: float
    low: float
    high: float
    count: int
    unit: str
    baseline: float | None = None


@dataclass(frozen=True)
class Quality:
    """Everything that `fugou merchant evaluate` says; `samples` are (wanted, written) pairs for a person to read."""

    shop: str
    measured: str
    since: str
    figures: tuple[Figure, ...]
    samples: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Case:
    """One message the shop really sent, what the model drafted in its place, what would go out, and the plain wording."""

    customer: str
    facts: Facts
    reference: str
    drafts: tuple[str, ...]
    copy: Copy
    plain: str


def measure(desk: Desk, questions: int, until: datetime | None, seed: int) -> Quality:
    """Return the figures of the weeks from `until` on: at most `questions` cases of each kind, the same for every model.

    Raises `UserError` when nothing happened in those weeks.
    """
    if desk.book is None:
        raise UserError("this desk was opened without its tables; open it with open_desk")
    since = until or desk.settings.train.until or desk.time - timedelta(weeks=WEEKS)
    held = held_out(desk.book, desk.bench.base, since, MAX_TOKENS, questions, questions)
    losses = example_losses(desk.bench, held)
    cases = list(_cases(desk, since, questions, seed))
    figures = [
        *_ranking_figures(rankings(held, desk.head)),
        *_loss_figures(losses, held.owners, desk.lang, {task: _letters(desk, task, held) for task in losses}),
        *_copy_figures(cases, desk.lang),
        *_review_figures(desk, every_nth([one for one in desk.book.reviews if one.time >= since], questions)),
    ]
    if not figures:
        raise UserError(f"no order, message or review since {since:%Y-%m-%d}; name an earlier day with --until")
    samples = tuple((one.reference, one.copy.text) for one in cases[:3])
    name = desk.settings.merchant.name or desk.settings.merchant.id
    return Quality(name, f"{datetime.now():%Y-%m-%d}", f"{since:%Y-%m-%d}", tuple(figures), samples)


# --- intervals ---


def interval(values: Sequence[float], groups: Sequence[str] = ()) -> tuple[float, float]:
    """Return the 2.5 and 97.5 % points of the mean over `RESAMPLES` draws of whole groups, each value its own without.

    >>> interval([1.0, 1.0, 1.0])
    (1.0, 1.0)
    """
    by_group: dict[str, list[float]] = {}
    for place, value in enumerate(values):
        by_group.setdefault(groups[place] if groups else str(place), []).append(value)
    total_G = np.array([sum(found) for found in by_group.values()])
    count_G = np.array([len(found) for found in by_group.values()], dtype=float)
    return ratio_interval(total_G, count_G)


def ratio_interval(top_G: Any, bottom_G: Any) -> tuple[float, float]:
    """Return the 2.5 and 97.5 % points of sum(top) / sum(bottom) over `RESAMPLES` draws of groups."""
    random = np.random.Generator(np.random.Philox(RESAMPLES))
    picked_RG = random.integers(0, len(top_G), (RESAMPLES, len(top_G)))
    bottoms_R = np.maximum(np.asarray(bottom_G)[picked_RG].sum(1), 1e-12)
    low, high = np.quantile(np.asarray(top_G)[picked_RG].sum(1) / bottoms_R, [0.025, 0.975])
    return float(low), float(high)


def _share(key: str, values: Sequence[float], groups: Sequence[str], baseline: float | None = None) -> Figure:
    low, high = interval(values, groups)
    return Figure(key, sum(values) / len(values), low, high, len(values), "share", baseline)


# --- what to offer ---


def _ranking_figures(scored: Sequence[Mapping[str, tuple[float, float]]]) -> Iterator[Figure]:
    """Yield recall and nDCG of what the desk offers, beside the customer's own frequency."""
    if not scored:
        return
    mine = "desk" if "desk" in scored[0] else next(iter(scored[0]))
    for place, name in enumerate((f"recall_{K}", f"ndcg_{K}")):
        values = [one[mine][place] for one in scored]
        simple = sum(one["frequency"][place] for one in scored) / len(scored) if "frequency" in scored[0] else None
        yield _share(name, values, (), simple)


# --- how surprised the model is ---


def _letters(desk: Desk, task: str, held: Any) -> list[int]:
    """Return the letters of every target, so that a loss can be said a letter, whatever the tokenizer."""
    decode = desk.bench.base.tokenizer.decode
    return [
        len(str(decode([token for token, counts in zip(one.ids, one.counts, strict=True) if counts][:-1])))
        for one in held.tasks[task]
    ]


def _loss_figures(
    losses: Mapping[str, Sequence[Nats]],
    owners: Mapping[str, Sequence[str]],
    lang: str,
    letters: Mapping[str, Sequence[int]],
) -> Iterator[Figure]:
    """Yield the perplexity a letter of copy and of replies on what was really written."""
    for key in ("copy", "reply"):
        task = TASKS[key].name(lang)
        if not losses.get(task):
            continue
        totals: dict[str, list[float]] = {}
        for owner, nats, count in zip(owners[task], losses[task], letters[task], strict=True):
            pair = totals.setdefault(owner, [0.0, 0.0])
            pair[0], pair[1] = pair[0] + nats.total, pair[1] + count
        top, bottom = (np.array([pair[place] for pair in totals.values()]) for place in (0, 1))
        low, high = ratio_interval(top, bottom)
        value = float(top.sum() / max(bottom.sum(), 1.0))
        yield Figure(f"ppl_{key}", math.exp(value), math.exp(low), math.exp(high), len(losses[task]), "score")


# --- in which words ---


def _cases(desk: Desk, since: datetime, limit: int, seed: int) -> Iterator[Case]:
    """Yield the messages sent since then with what the model would have sent, asked as of that moment."""
    assert desk.book is not None
    sent = [
        one for one in desk.book.campaigns if one.time >= since and one.item_id in desk.products and one.text.strip()
    ]
    for row in every_nth(sent, limit):
        case = _case(desk, row, seed)
        if case:
            yield case


def _case(desk: Desk, row: Campaign, seed: int) -> Case | None:
    raw: list[str] = []

    def recorded(requests: Sequence[Request]) -> list[list[Draft]]:
        unbound = [replace(one, allow=lambda text: True) for one in requests]
        raw.extend(draft.text for draft in writer_of(desk.bench)(unbound[:1])[0])
        return writer_of(desk.bench)(requests)

    then = desk.at(row.time, recorded)
    customer, product = desk.customers.get(row.customer_id), desk.products[row.item_id]
    if customer is None:
        return None
    copies = then.compose(customer, product, 1, row.channel, row.offer, seed)
    facts, last = then.facts(customer, product, row.offer)
    plain = next(copy_of(facts, last, desk.lang), "")
    return Case(row.customer_id, facts, clean(row.text), tuple(raw), copies[0], plain) if copies else None


def _copy_figures(cases: Sequence[Case], lang: str) -> Iterator[Figure]:
    if not cases:
        return
    owners = [one.customer for one in cases]
    texts, plains = [one.copy.text for one in cases], [one.plain for one in cases]
    references = [one.reference for one in cases]
    for name, score in (("bleu", bleu), ("chrf", chrf)):
        yield _corpus_score(name, score, texts, references, plains, owners, lang)
    rouge = [rouge_l(text, reference, lang) for text, reference in zip(texts, references, strict=True)]
    simple = [rouge_l(text, reference, lang) for text, reference in zip(plains, references, strict=True)]
    yield _share("rouge_l", rouge, owners, sum(simple) / len(simple))
    variety = distinct(texts, 2)  # of the set as a whole: drawing texts twice would lower it, so it has no interval
    yield Figure("distinct_2", variety, variety, variety, len(texts), "share", distinct(references, 2))
    yield _share("coverage", [coverage(one.copy.text, one.facts) for one in cases], owners,
                 sum(coverage(one.reference, one.facts) for one in cases) / len(cases))  # fmt: skip
    yield _share("by_model", [float(one.copy.source == "model") for one in cases], owners)
    yield from _safety_figures(cases, owners)


def _safety_figures(cases: Sequence[Case], owners: Sequence[str]) -> Iterator[Figure]:
    """Yield how often what goes out invents, breaks a rule or holds personal data, beside the drafts before the guard."""
    drafts = [(text, one.facts) for one in cases for text in one.drafts]
    for key, wrong in (("invented", _invents), ("banned", _banned), ("personal", _personal)):
        before = sum(wrong(text, facts) for text, facts in drafts) / len(drafts) if drafts else None
        yield _share(key, [wrong(one.copy.text, one.facts) for one in cases], owners, before)


def _invents(text: str, facts: Facts) -> float:
    return float(
        bool(invented(text, facts.given)) or any(one.kind in ("number", "offer") for one in check(text, facts.given))
    )


def _banned(text: str, facts: Facts) -> float:
    return float(any(one.kind == "claim" and one.level == "block" for one in check(text, facts.given)))


def _personal(text: str, facts: Facts) -> float:
    return float(any(one.kind == "personal" for one in check(text, facts.given)))


def _corpus_score(
    name: str,
    score: Callable[[Sequence[str], Sequence[str], str], float],
    texts: Sequence[str],
    references: Sequence[str],
    plains: Sequence[str],
    owners: Sequence[str],
    lang: str,
) -> Figure:
    """Return a corpus score with an interval over customers; fewer draws, as each is a whole corpus scored again."""
    by_owner: dict[str, list[int]] = {}
    for place, owner in enumerate(owners):
        by_owner.setdefault(owner, []).append(place)
    random, groups = np.random.Generator(np.random.Philox(RESAMPLES)), list(by_owner.values())
    drawn = []
    for _ in range(RESAMPLES // 10):
        places = [place for pick in random.integers(0, len(groups), len(groups)) for place in groups[pick]]
        drawn.append(score([texts[one] for one in places], [references[one] for one in places], lang))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Figure(
        name,
        score(texts, references, lang),
        float(low),
        float(high),
        len(texts),
        "score",
        score(plains, references, lang),
    )


def bleu(texts: Sequence[str], references: Sequence[str], lang: str) -> float:
    """Return sacrebleu's corpus BLEU-4, from 0 to 100, Chinese cut letter by letter (Post 2018, arXiv:1804.08771)."""
    from sacrebleu import corpus_bleu

    return float(corpus_bleu(list(texts), [list(references)], tokenize="zh" if lang == "zh" else "13a").score)


def chrf(texts: Sequence[str], references: Sequence[str], lang: str) -> float:
    """Return sacrebleu's chrF, from 0 to 100 (Popović 2015)."""
    from sacrebleu import corpus_chrf

    return float(corpus_chrf(list(texts), [list(references)]).score)


def rouge_l(text: str, reference: str, lang: str) -> float:
    """Return ROUGE-L's F1 (Lin 2004) over letters of Chinese or words of English, from 0 to 1.

    >>> rouge_l("茉莉花茶到了", "茉莉花茶来了", "zh")
    0.8333333333333334
    """
    one, other = (list(clean(part)) if lang == "zh" else clean(part).casefold().split() for part in (text, reference))
    common = _longest_common(one, other)
    return 2 * common / (len(one) + len(other)) if one and other else 0.0


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    row = [0] * (len(other) + 1)
    for first in one:
        before = 0
        for place, second in enumerate(other, 1):
            before, row[place] = row[place], before + 1 if first == second else max(row[place], row[place - 1])
    return row[-1]


def distinct(texts: Sequence[str], length: int) -> float:
    """Return the share of different runs among all runs of `length` letters.

    >>> distinct(["茶茶茶"], 2)
    0.5
    """
    runs = Counter(text[place : place + length] for text in texts for place in range(len(text) - length + 1))
    return len(runs) / runs.total() if runs else 0.0


# --- how reviews feel ---


def _review_figures(desk: Desk, reviews: Sequence[Review]) -> Iterator[Figure]:
    """Yield accuracy and macro F1 of the class against the stars; the baseline always says positive."""
    if not reviews:
        return
    names = list(SENTIMENT[desk.lang])
    truth = [names.index(sentiment(one.rating, desk.lang)) for one in reviews]
    found: list[int] = []
    for start in range(0, len(reviews), 16):
        part = [one.text for one in reviews[start : start + 16]]
        found += class_shares(desk.bench, part, desk.lang, desk.usual).argmax(1).tolist()
    owners = [one.customer_id for one in reviews]
    right = [float(one == other) for one, other in zip(found, truth, strict=True)]
    yield _share("accuracy", right, owners, truth.count(2) / len(truth))
    yield Figure(
        "f1",
        macro_f1(truth, found),
        *_f1_interval(truth, found),
        len(truth),
        "share",
        macro_f1(truth, [2] * len(truth)),
    )


def macro_f1(truth: Sequence[int], found: Sequence[int]) -> float:
    """Return the mean F1 of the classes that occur in `truth`.

    >>> macro_f1([0, 2, 2], [0, 2, 0])
    0.6666666666666666
    """
    scores = []
    for one in sorted(set(truth)):
        hit = sum(a == b == one for a, b in zip(truth, found, strict=True))
        scores.append(2 * hit / (truth.count(one) + found.count(one)))
    return sum(scores) / len(scores)


def _f1_interval(truth: Sequence[int], found: Sequence[int]) -> tuple[float, float]:
    random = np.random.Generator(np.random.Philox(RESAMPLES))
    one, other = np.array(truth), np.array(found)
    drawn = [
        macro_f1(one[places].tolist(), other[places].tolist())
        for places in random.integers(0, len(one), (RESAMPLES // 5, len(one)))
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


# --- told ---

NAMES: Mapping[str, tuple[str, str]] = {
    f"recall_{K}": ("推荐：下一单里有多少在前十个推荐中", "offers: share of the next basket among the first ten"),
    f"ndcg_{K}": ("推荐：排序质量 nDCG@10", "offers: quality of the order, nDCG@10"),
    "ppl_copy": ("文案：对真实文案每个字的困惑度（越低越好）", "copy: perplexity a letter of what was sent (low is good)"),
    "ppl_reply": ("客服：对真实回复每个字的困惑度（越低越好）", "replies: perplexity a letter of the answers (low is good)"),
    "bleu": ("文案：与店里真实文案的相似 BLEU（0–100，仅供参考）", "copy: likeness to what was sent, BLEU (0-100, a hint only)"),
    "chrf": ("文案：与真实文案的相似 chrF（0–100）", "copy: likeness to what was sent, chrF (0-100)"),
    "rouge_l": ("文案：与真实文案的相似 ROUGE-L", "copy: likeness to what was sent, ROUGE-L"),
    "distinct_2": ("文案：不重样的程度 distinct-2", "copy: variety, distinct-2"),
    "coverage": ("文案：写到了多少商品信息", "copy: share of the item's facts in it"),
    "by_model": ("文案：由模型写成（其余用固定句式）", "copy: written by the model (else a plain wording)"),
    "invented": ("文案：含有商家没给的信息（核查后）", "copy: says what was not given (after the guard)"),
    "banned": ("文案：含有广告法禁用语（核查后）", "copy: holds a banned term (after the guard)"),
    "personal": ("文案：含有个人信息（核查后）", "copy: holds personal data (after the guard)"),
    "accuracy": ("评价：正面、中性、负面判断正确", "reviews: class read rightly"),
    "f1": ("评价：三类平均 F1", "reviews: mean F1 of the classes"),
}  # fmt: skip
"""What each figure is, in a marketer's words."""

BESIDE: Mapping[str, tuple[str, str]] = {
    f"recall_{K}": ("按个人购买次数", "own frequency"),
    f"ndcg_{K}": ("按个人购买次数", "own frequency"),
    "bleu": ("固定句式", "plain wording"),
    "chrf": ("固定句式", "plain wording"),
    "rouge_l": ("固定句式", "plain wording"),
    "distinct_2": ("店里真实文案", "what was sent"),
    "coverage": ("店里真实文案", "what was sent"),
    "invented": ("核查前的草稿", "drafts before the guard"),
    "banned": ("核查前的草稿", "drafts before the guard"),
    "personal": ("核查前的草稿", "drafts before the guard"),
    "accuracy": ("一律算正面", "always positive"),
    "f1": ("一律算正面", "always positive"),
}
"""What stands beside a figure."""


def shown(figure: Figure, value: float) -> str:
    """Return a value as people read it: shares in per cent, scores to one or two digits.

    >>> shown(Figure("coverage", 0.5, 0, 1, 3, "share"), 0.5), shown(Figure("bleu", 3.21, 0, 1, 3, "score"), 3.21)
    ('50.0%', '3.21')
    """
    return f"{value:.1%}" if figure.unit == "share" else f"{value:.2f}"


def as_dict(found: Quality) -> dict[str, Any]:
    """Return the figures as JSON values, each with its names and as it is shown."""
    rows = [
        {**asdict(one), "zh": NAMES[one.key][0], "en": NAMES[one.key][1], "shown": shown(one, one.value)}
        for one in found.figures
    ]
    return {
        "schema": "fugou/quality/1", "shop": found.shop, "measured": found.measured, "since": found.since,
        "rows": rows, "samples": [{"sent": one, "written": other} for one, other in found.samples],
    }  # fmt: skip


def cells(figure: Figure, lang: str) -> tuple[str, str, str, str, str]:
    """Return a figure as a row of a table: name, value, interval, what stands beside it, cases."""
    place = int(lang == "en")
    beside = f"{BESIDE[figure.key][place]} {shown(figure, figure.baseline)}" if figure.baseline is not None else ""
    within = f"{shown(figure, figure.low)} – {shown(figure, figure.high)}"
    return NAMES[figure.key][place], shown(figure, figure.value), within, beside, str(figure.count)


def lines(found: Quality, lang: str) -> Iterator[str]:
    """Yield the figures as lines."""
    from client.use.words import phrase
    from client.words import table

    yield phrase(lang, "quality_head", shop=found.shop, since=found.since)
    head = tuple(phrase(lang, f"quality_{key}") for key in ("name", "value", "interval", "beside", "count"))
    yield table([head, *(cells(one, lang) for one in found.figures)])
    yield phrase(lang, "quality_note")
