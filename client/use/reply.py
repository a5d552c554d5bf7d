"""A draft for customer service (客服): what this shop answered before, or has written down, to a question like this one.

Answers are found by the words that questions share (cosine of tf-idf weights) among the shop's own dialogs and the
paragraphs of its `policies.md`. The shared model chooses among answers that are nearly as near; it adds no word of its
own. Where nothing is near enough, where an answer spoke of another customer's order, or where a person was asked for,
the question is handed over: a wrong promise costs more than a minute's wait.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.data.scrub import SURROGATE, scrub
from client.use.drafts import answer_scores
from client.use.guard import check
from client.use.reviews import quoted
from client.use.words import phrase
from common.errors import UserError
from common.lora import Bench
from common.schema import Dialog
from common.text import PLAIN, Lexicon, clean, reply_prompt, words

POLICIES = "policies.md"
NEAR = 0.45
"""Cosine from which on two questions are one."""

CHOICE = 0.9
"""Answers within this share of the nearest one are weighed by the model too."""

CASE_BOUND = re.compile(
    "昨天|今天|明天|刚刚|刚才|上午|下午|晚上|今晚|明早|[月日]号?(?:发|到|前|后)|已(?:经)?(?:发出|发货|签收|退款|补发|为您|帮您)"
    "|您的(?:包裹|订单|快递)|单号|补发|已为|yesterday|today|tomorrow|this (?:morning|afternoon|evening)"
    "|(?:has|have) (?:been )?(?:shipped|sent|refunded)|your (?:parcel|order) (?:is|has|was)",
    re.I,
)
"""An answer that speaks of one order and would be wrong for the next."""

PERSON = re.compile(
    "人工|真人|经理|投诉|举报|维权|消协|12315|工商|律师|起诉|赔偿|索赔|曝光|过敏|中毒|住院|医院|怀孕|孕妇|婴儿|受伤|拉肚子|吃坏|自杀|报警"
    "|human|real person|agent|manager|complain|lawyer|sue|compensat|allerg|hospital|pregnan|poison|injur|police",
    re.I,
)
ODD = re.compile(
    "忽略(?:以上|上面|之前|前面|所有)|无视|系统提示|提示词|扮演|假装你|你现在是|开发者模式|越狱|重复(?:以上|上面)|输出(?:以上|全部|所有|你的)|以下是新"
    "|指令|管理员(?:模式|权限)|解除限制|不受限制"
    "|ignore (?:all|any|the|your|previous|above)|disregard|system prompt|developer mode|jailbreak|pretend (?:you|to)"
    "|you are now|act as|roleplay|repeat (?:the|everything|all)|reveal|override|new instructions?|print your|dan mode|sudo"
    "|</?(?:system|script|user|assistant)|```|\\{\\{",
    re.I,
)


@dataclass(frozen=True)
class Source:
    """One thing the shop said: an answer with the question it was for, or a paragraph of its policies."""

    name: str
    status: str
    answer: str
    weights: Mapping[str, float] = field(repr=False)


@dataclass(frozen=True)
class Reply:
    """A draft, and whether to hand the question to a person instead; `confidence` is the nearness found, from 0 to 1."""

    text: str
    hand_over: bool
    reason: str
    confidence: float
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Memory:
    """What the shop has answered and written down, ready to be searched."""

    sources: tuple[Source, ...]
    rarity: Mapping[str, float] = field(repr=False)
    lang: str = "zh"
    lexicon: Lexicon = PLAIN

    def near(self, question: str) -> list[tuple[float, Source]]:
        """Return the sources by how near they are to `question`, nearest first; those that share no word are left out."""
        mine = _weights(question, self.rarity, self.lexicon)
        found = [(sum(mine[word] * one.weights.get(word, 0.0) for word in mine), one) for one in self.sources]
        return sorted((pair for pair in found if pair[0] > 0), key=lambda pair: (-pair[0], pair[1].name))


def remember(dialogs: Sequence[Dialog], policies: Iterable[str], lang: str, lexicon: Lexicon = PLAIN) -> Memory:
    """Return the memory of a shop's dialogs and the paragraphs of its policies."""
    told = [
        *((phrase(lang, "source_dialog", id=one.dialog_id), one.status, one.question, one.answer) for one in dialogs),
        *((phrase(lang, "source_policy", number=number), "", text, text) for number, text in enumerate(policies, 1)),
    ]
    counts = Counter(word for _, _, question, _ in told for word in set(words(question, lexicon)))
    rarity = {word: math.log((1 + len(told)) / (1 + count)) + 1 for word, count in counts.items()}
    sources = (
        Source(name, status, clean(answer), _weights(question, rarity, lexicon))
        for name, status, question, answer in told
        if answer.strip()
    )
    return Memory(tuple(sources), rarity, lang, lexicon)


def read_policies(folder: Path) -> list[str]:
    """Return the paragraphs of `policies.md` in a merchant's folder, none where there is no such file.

    Raises `UserError` for a file that cannot be read as UTF-8.
    """
    file = folder / POLICIES
    try:
        text = file.read_bytes().decode("utf-8-sig") if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}; save it as UTF-8 text, a paragraph a rule") from None
    paragraphs = (clean(re.sub(r"^#+\s*", "", part, flags=re.M)) for part in re.split(r"\n\s*\n", text))
    return [part for part in paragraphs if part]


def _weights(text: str, rarity: Mapping[str, float], lexicon: Lexicon) -> dict[str, float]:
    counts = Counter(words(text, lexicon))
    raw = {word: count * rarity.get(word, 1.0) for word, count in counts.items()}
    length = math.sqrt(sum(weight**2 for weight in raw.values()))
    return {word: weight / length for word, weight in raw.items()} if length else {}


def answer(bench: Bench, memory: Memory, question: str, status: str = "", intent: str = "") -> Reply:
    """Return a reply to `question`, or the sentence that hands it over with the reason why."""
    lang = memory.lang
    for pattern, why in ((ODD, "why_odd"), (PERSON, "why_asked")):
        if pattern.search(question):
            return _handed_over(lang, phrase(lang, why))
    found = memory.near(quoted(question))
    best = found[0][0] if found else 0.0
    if best < NEAR:
        return _handed_over(lang, phrase(lang, "why_unlike", score=best), best)
    usable = [(score, one) for score, one in found if score >= CHOICE * best and _holds(one, status)]
    if not usable:
        return _handed_over(lang, phrase(lang, "why_case"), best, (found[0][1].name,))
    prompt = reply_prompt(quoted(intent), quoted(status), quoted(question), lang)
    score, source = _chosen(bench, prompt, usable)
    text = SURROGATE.sub("", scrub(source.answer))
    if any(one.level == "block" and one.kind in ("personal", "claim", "marker") for one in check(text, source.answer)):
        return _handed_over(lang, phrase(lang, "why_blocked"), score, (source.name,))
    return Reply(text, False, "", round(score, 4), (source.name,))


def _holds(source: Source, status: str) -> bool:
    """Return whether an answer may be given to somebody else: it speaks of no one order."""
    return not CASE_BOUND.search(source.answer) and (not status or not source.status or source.status == status)


def _chosen(bench: Bench, prompt: str, usable: Sequence[tuple[float, Source]]) -> tuple[float, Source]:
    """Return the answer that the model finds likeliest a letter, of those that are nearly as near."""
    if len(usable) == 1:
        return usable[0]
    scores = answer_scores(bench, [prompt], [one.answer for _, one in usable])[0]
    by_letter = [score / max(len(one.answer), 1) for score, (_, one) in zip(scores, usable, strict=True)]
    return usable[max(range(len(usable)), key=lambda place: (by_letter[place], -place))]


def _handed_over(lang: str, reason: str, score: float = 0.0, sources: tuple[str, ...] = ()) -> Reply:
    return Reply(phrase(lang, "hand_over"), True, reason, round(score, 4), sources)


def lines(reply: Reply) -> Iterator[str]:
    """Yield a reply as lines: the draft, then where it comes from or why a person is asked."""
    yield reply.text
    if reply.reason:
        yield f"→ {reply.reason}"
    yield from (f"← {one}" for one in reply.sources)
