"""Refuses figures about privacy that mislead, before they are rendered: by what they show and by what they say.

`check_figure` looks at the facts behind a figure (which epsilon, at which delta, whose, how combined, what was left
out), `check_page` at the words of the finished page. Both raise `Misleading`, which is an error of ours and never of
the merchant's. The list follows NIST SP 800-226 ("privacy hazards"), Ponomareva et al. 2023 (arXiv:2303.00654, section
5.3.3) and our own reading of published reports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Literal

from client.report.model import Audience, Loss
from common.errors import FugouError


class Misleading(FugouError):
    """A figure that would let a reader believe more than was proved."""


@dataclass(frozen=True)
class Shown:
    """One epsilon as a figure shows it, with the facts that make it honest or not.

    The defaults are what this system does; a figure that shows something else has to say so, and is then refused.
    """

    text: str
    """The number as it stands on the page; ∞ where nothing bounds it."""
    exact: float | None
    """What was accounted; None where nothing bounds it."""
    delta: float | None
    unit: str
    adjacency: str
    period: str
    heading: str = "customer"
    """The unit that the figure's heading names."""
    role: Literal["headline", "lifetime", "reading", "course", "limit", "lower bound"] = "reading"
    labelled: Literal["upper bound", "lower bound", "limit", "actual"] = "upper bound"
    of: Literal["all rounds", "one round"] = "all rounds"
    merchants: int = 1
    combined: Literal["composed", "sum", "mean", "parallel"] = "composed"
    sampling: Literal["poisson", "shuffled"] = "poisson"
    accounted_as: Literal["poisson", "shuffled"] = "poisson"
    delta_from: Literal["policy", "customers"] = "policy"
    credits: tuple[str, ...] = ()
    """Everything beside the merchant's own noise and sampling that makes the number smaller."""
    leaves_out: tuple[str, ...] = ()
    """Spending of private data that is not counted: burned rounds, tuning runs, metrics."""


@dataclass(frozen=True)
class Figure:
    """What a figure is about: its losses, and the other numbers that a reader would take for a guarantee."""

    name: str
    losses: tuple[Shown, ...] = ()
    audience: Audience = "confidential"
    tone: Literal["neutral", "good"] = "neutral"
    """`good`: drawn as all clear."""
    grounds: tuple[str, ...] = ()
    """What a `good` tone rests on."""
    risk: Literal["worst case", "mean case"] = "worst case"
    exact_counts: tuple[str, ...] = ()
    """Exact numbers of people, rows, losses or personal data found that the figure shows."""


def shown(loss: Loss, text: str, role: Literal["headline", "lifetime", "reading", "course"] = "reading") -> Shown:
    """Return a loss of the report as a figure shows it under a heading that names its own unit."""
    return Shown(
        text,
        loss.epsilon,
        loss.delta,
        loss.unit,
        loss.adjacency,
        loss.period,
        loss.unit,
        role,
        merchants=loss.merchants,
    )


def check_figure(figure: Figure) -> Figure:
    """Return the figure when nothing about it misleads; raises `Misleading` naming the rule and the value."""
    for rule in FIGURE_RULES.values():
        problem = rule(figure)
        if problem:
            raise Misleading(f"figure {figure.name!r}: {problem}")
    for one in figure.losses:
        for named, told in LOSS_RULES.items():
            problem = told(one)
            if problem:
                raise Misleading(f"figure {figure.name!r}, ε = {one.text}, rule {named}: {problem}")
    return figure


# --- one epsilon ---


def _terms(one: Shown) -> str:
    missing = [name for name in ("delta", "unit", "adjacency", "period") if not getattr(one, name)]
    return f"it stands without {', '.join(missing)}" if missing else ""


def _rounding(one: Shown) -> str:
    if (one.exact is None) != (one.text == "∞"):
        return f"{one.text} is shown for {one.exact}"
    if one.exact is None or one.role in ("limit", "lower bound"):
        return ""
    return f"{one.text} is less than the {one.exact} accounted" if float(one.text) < one.exact else ""


def _per_round(one: Shown) -> str:
    return "it is of one round; rounds compose, tell the whole period" if one.of == "one round" else ""


def _combination(one: Shown) -> str:
    if one.combined in ("sum", "mean"):
        return f"it is a {one.combined} over {one.merchants} merchants; losses compose, they do not add or average"
    return ""


def _parallel(one: Shown) -> str:
    what = "it is composed in parallel, and customers of several merchants overlap"
    return what if one.combined == "parallel" else ""


def _heading(one: Shown) -> str:
    return f"it is for one {one.unit} under a heading that says {one.heading}" if one.unit != one.heading else ""


def _sampling(one: Shown) -> str:
    what = f"the loader is {one.sampling} and it is accounted as {one.accounted_as}"
    return what if one.sampling != one.accounted_as else ""


def _delta(one: Shown) -> str:
    return "delta follows from the number of customers, which it gives away" if one.delta_from == "customers" else ""


NO_CREDIT = {"secure aggregation", "transport encryption", "removal of personal data", "hidden steps"}


def _credits(one: Shown) -> str:
    if "client sampling" in one.credits:
        return "it counts the coordinator's sampling of merchants, and the coordinator is whom it protects from"
    counted = sorted(NO_CREDIT & set(one.credits))
    return f"it takes credit for {', '.join(counted)}" if counted else ""


def _omissions(one: Shown) -> str:
    return f"it leaves out {', '.join(one.leaves_out)}" if one.leaves_out else ""


def _lower(one: Shown) -> str:
    if one.role == "lower bound" and one.labelled != "lower bound":
        return f"an audit's lower bound is labelled {one.labelled}"
    return "it is called the actual loss, and only bounds are known" if one.labelled == "actual" else ""


LOSS_RULES: Mapping[str, Callable[[Shown], str]] = {
    "terms": _terms,
    "rounding": _rounding,
    "per-round": _per_round,
    "combination": _combination,
    "parallel": _parallel,
    "heading": _heading,
    "sampling": _sampling,
    "delta": _delta,
    "credits": _credits,
    "omissions": _omissions,
    "lower-bound": _lower,
}


# --- a figure as a whole ---


def _lifetime(figure: Figure) -> str:
    roles = {one.role for one in figure.losses}
    alone = "headline" in roles and "lifetime" not in roles
    return "the period's loss stands without the lifetime's beside it" if alone else ""


def _tone(figure: Figure) -> str:
    needed = {"ledger verified", "assumptions known"}
    alone = figure.tone == "good" and not needed <= set(figure.grounds)
    return f"it is drawn as all clear by {list(figure.grounds) or 'epsilon alone'}" if alone else ""


def _risk(figure: Figure) -> str:
    return "the risk is a mean over customers, and outliers run more" if figure.risk == "mean case" else ""


def _counts(figure: Figure) -> str:
    told = ", ".join(figure.exact_counts)
    return f"it tells exact counts ({told}) to others" if figure.audience == "shareable" and told else ""


FIGURE_RULES: Mapping[str, Callable[[Figure], str]] = {
    "lifetime": _lifetime,
    "tone": _tone,
    "risk": _risk,
    "counts": _counts,
}


# --- the words of a page ---

NUMBER = re.compile(r"(?:ε|epsilon)\s*(?:≤|=|<|为|是|:|：|of|is)\s*[\d∞]")
TERMS = (re.compile("δ|delta"), re.compile("customer|record|顾客|记录"), re.compile("period|周期|since|自"))

PHRASES: Mapping[str, re.Pattern[str]] = {
    name: re.compile(pattern, re.I)
    for name, pattern in {
        "percentage-left": r"\d\s*%\s*(?:of\s+)?(?:the\s+|your\s+)?(?:privacy|budget)[^.;]{0,12}(?:left|remain|spent|used)"
        r"|(?:privacy|budget)\s+(?:left|remaining|spent|used)\s*:?\s*\d+(?:\.\d+)?\s*%"
        r"|(?:隐私|预算)[^。；，,]{0,6}(?:剩余|还剩|已用|剩下)[^。；，,]{0,4}\d+(?:\.\d+)?\s*%"
        r"|\d\s*%\s*的?(?:隐私|预算)",
        "per-round": r"(?:ε|epsilon)\s*(?:per|a|each|every)\s+round|(?:each|every|one) round (?:costs|has|spends) (?:ε|epsilon)"
        r"|(?:每|一)轮(?:的|花费|消耗)?\s*ε\s*(?:≤|=|为)",
        "combination": r"(?:average|mean|total|summed|sum of)\s+(?:the\s+)?(?:ε|epsilon)"
        r"|(?:平均|合计|总)的?\s*ε|ε\s*(?:之和|合计|平均)",
        "lower-bound": r"(?:actual|true|real)\s+(?:ε|epsilon|privacy loss)\s*(?:=|is|≤)|no leaks?\b|nothing leaks"
        r"|(?:实际|真实)的?\s*(?:ε|隐私损失)\s*(?:=|≤|为|是)|(?:没有|未发现|无)泄[露漏]",
        "parallel": r"parallel composition|并行组合",
        "credits": r"(?:secure aggregation|tls|encryption|desensiti[sz]ation|scrubbing)"
        r"\s+(?:lowers|reduces|improves|tightens)\s+(?:ε|epsilon)"
        r"|(?:安全聚合|加密|脱敏)[^。；]{0,6}(?:降低|减小)了?\s*ε",
        "client-sampling": r"amplif\w+\s+by\s+(?:client|merchant)\s+(?:sub)?sampling|(?:商家|客户端)抽样(?:放大|增强)",
        "mean-risk": r"(?:average|typical|mean)\s+(?:risk|customer)|(?:平均|典型)的?(?:风险|顾客)",
        "promise": r"\b(?:is|are|fully|completely|stays?)\s+anonymous|zero[- ]risk|risk[- ]free|(?:gdpr|pipl)[- ]compliant"
        r"|no data (?:ever )?leaves|encrypted,? (?:and )?therefore|(?:完全|已经?|彻底)匿名|零风险|绝对安全|(?:已|完全)合规",
    }.items()
}
"""Rule -> words that no page of ours says."""

COUNTS = re.compile(
    r"\d[\d,]*\s+(?:customers|orders|purchases|rows)\b|\d[\d,]*\s*(?:位|名|个)(?:顾客|客户)|\bloss\s*[=:]\s*\d"
    r"|\d[\d,]*\s*(?:处|条)个人信息",
    re.I,
)
"""Exact counts, which a page for others does not say."""


def check_page(page: str, audience: Audience) -> str:
    """Return the page when nothing that it says misleads; raises `Misleading` with the rule and the words."""
    for block in blocks(page):
        for name, pattern in PHRASES.items():
            if pattern.search(block):
                raise Misleading(f"rule {name}: the page says {block[:120]!r}")
        if NUMBER.search(block) and not all(term.search(block) for term in TERMS):
            raise Misleading(f"rule terms: an epsilon without delta, unit and period: {block[:120]!r}")
        if audience == "shareable" and COUNTS.search(block):
            raise Misleading(f"rule counts: an exact count on a page for others: {block[:120]!r}")
    return page


INLINE = {"bdi", "b", "i", "em", "strong", "span", "code", "abbr", "sub", "sup", "tspan"}
SAID_BY_OTHERS = "quoted"
"""Class of what strangers wrote: shown escaped, and not ours to be held to."""


class _Blocks(HTMLParser):
    """Collects the text between tags that begin or end a block; skips style and what others wrote."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = [""]
        self.skip: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a block, or something that is passed over."""
        quoted = SAID_BY_OTHERS in (dict(attrs).get("class") or "").split()
        if self.skip:
            self.skip += [tag] if tag == self.skip[0] else []
        elif tag == "style" or quoted:
            self.skip = [tag]
        elif tag not in INLINE:
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        """End a block."""
        if self.skip:
            if tag == self.skip[0]:
                self.skip.pop()
        elif tag not in INLINE:
            self.found.append("")

    def handle_data(self, data: str) -> None:
        """Take text in."""
        if not self.skip:
            self.found[-1] += data


def blocks(page: str) -> Iterator[str]:
    """Yield the visible texts of a page, one a block, spaces joined."""
    parser = _Blocks()
    parser.feed(page)
    parser.close()
    for text in parser.found:
        said = " ".join(text.split())
        if said:
            yield said
