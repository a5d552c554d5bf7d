"""Text on its way to the model and back: cleaning, words, and the prompt of every task.

Two paths. The *fluent* path (`clean`) keeps every word and feeds language-model training; the *word* path
(`words`, `keywords`) cuts with jieba, drops stop words, and feeds similarity and evaluation.

Numbers enter prompts as words from fixed public tables (`AGO`), so that the model meets few symbols and no exact value
is there to be memorised.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jieba

CONTROL = re.compile(r"[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
BLANKS = re.compile(r"\s+")
NOT_A_WORD = re.compile(r"^[\W_]+$")

STOP_WORDS = frozenset(
    (
        "的 了 和 是 就 都 而 及 与 着 或 一个 没有 我们 你们 他们 它们 这个 那个 这 那 我 你 您 他 她 它 在 也 还 很 "
        "又 吧 吗 呢 啊 呀 哦 嗯 把 被 让 给 对 从 到 由 向 以 为 于 之 等 并 但 但是 因为 所以 如果 虽然 可以 会 要 "
        "有 不 上 下 中 来 去 说 the a an of and or to in on for with is are was were "
        "be this that it as at by from you your we our "
    ).split()
)

AGO_ZH = ((0, "当天"), (3, "3天内"), (10, "1周"), (21, "2周"), (45, "1个月"), (90, "2个月"))
AGO_EN = ((0, "today"), (3, "within 3 days"), (10, "1 week"), (21, "2 weeks"), (45, "1 month"), (90, "2 months"))
LONGER = {"zh": "3个月以上", "en": "over 3 months"}
AGO = {"zh": AGO_ZH, "en": AGO_EN}
RHYTHM = {"zh": ("低频", "中频", "高频"), "en": ("occasional", "regular", "frequent")}
SENTIMENT = {"zh": ("负面", "中性", "正面"), "en": ("negative", "neutral", "positive")}


@dataclass(frozen=True)
class Example:
    """One task for the model: the loss counts on `target` only."""

    task: str
    prompt: str
    target: str


@dataclass(frozen=True)
class Bought:
    """One item in a customer's history: times bought and days since the last time."""

    name: str
    times: int
    days_ago: int


@dataclass(frozen=True)
class Habit:
    """A customer's rhythm as a prompt says it; `gap_days` is the mean gap between orders, `rhythm` 0, 1 or 2."""

    rhythm: int
    gap_days: int


def clean(text: str) -> str:
    r"""Return `text` on one line, without control, zero-width and direction characters; every word stays.

    >>> clean("好\u200b茶 \n 下次再来")
    '好茶 下次再来'
    """
    return BLANKS.sub(" ", CONTROL.sub("", text.replace("\n", " ").replace("\t", " "))).strip()


def words(text: str, stop_words: frozenset[str] = STOP_WORDS) -> list[str]:
    """Return the words of `text` in order, cut by jieba after NFKC, without stop words and punctuation.

    >>> words("这款茉莉花茶很香，下次再买！")
    ['款', '茉莉花茶', '很香', '下次', '再', '买']
    """
    cut = _segmenter().lcut(unicodedata.normalize("NFKC", clean(text)).lower())
    return [word for word in cut if word not in stop_words and not NOT_A_WORD.match(word)]


def keywords(texts: Iterable[str], count: int) -> list[str]:
    """Return the `count` most frequent words of two letters or more in `texts`, ties in order of appearance."""
    tally = Counter(word for text in texts for word in words(text) if len(word) > 1)
    return [word for word, _ in tally.most_common(count)]


@functools.cache
def _segmenter() -> jieba.Tokenizer:
    import logging
    import warnings

    with warnings.catch_warnings():  # jieba still imports pkg_resources and has bare escapes
        warnings.simplefilter("ignore")
        import jieba
    jieba.setLogLevel(logging.WARNING)
    tokenizer = jieba.Tokenizer()
    tokenizer.initialize()
    return tokenizer


def ago(days: int, lang: str) -> str:
    """Return the bucket word for `days` ago, from the public table `AGO`.

    >>> ago(5, "zh"), ago(200, "en")
    ('1周', 'over 3 months')
    """
    return next((word for limit, word in AGO[lang] if days <= limit), LONGER[lang])


def rhythm(orders: int, days: int) -> int:
    """Return 0 (under one order in 30 days), 1, or 2 (three and more) for `orders` within `days`."""
    monthly = orders * 30 / max(days, 30)
    return int(monthly >= 1) + int(monthly >= 3)


def attributes_text(attributes: Mapping[str, str]) -> str:
    """Return attributes as they stand in prompts and files: `材质#棉*风格#简约`."""
    return "*".join(f"{name}#{what}" for name, what in attributes.items())


def repurchase_prompt(habit: Habit, recent: Sequence[Bought], lang: str) -> str:
    """Return the prompt that asks which items come next; the target is their names joined by `joiner(lang)`.

    >>> repurchase_prompt(Habit(2, 7), [Bought("牛奶", 6, 3)], "zh")
    '【复购】客户:高频·周期1周｜近购:牛奶×6·3天内｜会买:'
    """
    how_often, gap = RHYTHM[lang][habit.rhythm], ago(habit.gap_days, lang)
    if lang == "zh":
        items = ";".join(f"{one.name}×{one.times}·{ago(one.days_ago, lang)}" for one in recent)
        return f"【复购】客户:{how_often}·周期{gap}｜近购:{items}｜会买:"
    items = "; ".join(f"{one.name} x{one.times}, {ago(one.days_ago, lang)}" for one in recent)
    return f"[repurchase] customer: {how_often}, every {gap} | recent: {items} | will buy: "


def joiner(lang: str) -> str:
    """Return what stands between item names in a target."""
    return "、" if lang == "zh" else ", "


def copy_prompt(
    channel: str, name: str, attributes: Mapping[str, str], offer: str, habit: Habit, last_days: int
) -> str:
    """Return the prompt whose target is repurchase copy (复购文案) for one customer and item."""
    return (
        f"【文案】渠道:{channel}｜商品:{name}｜属性:{attributes_text(attributes)}｜优惠:{offer or '无'}"
        f"｜客户:{RHYTHM['zh'][habit.rhythm]}·上次{ago(last_days, 'zh')}｜文案:"
    )


def description_prompt(name: str, attributes: Mapping[str, str]) -> str:
    """Return the prompt whose target is a product description."""
    return f"【描述】商品:{name}｜属性:{attributes_text(attributes)}｜描述:"


def sentiment_prompt(text: str) -> str:
    """Return the prompt whose target is one of `SENTIMENT['zh']`."""
    return f"【情感】评价:{clean(text)}｜情感:"


def sentiment(rating: int) -> str:
    """Return the sentiment word of a review with `rating` stars: 1-2 negative, 3 neutral, 4-5 positive."""
    return SENTIMENT["zh"][(rating > 2) + (rating > 3)]


def review_prompt(name: str, rating: int) -> str:
    """Return the prompt whose target is a review of `rating` stars."""
    return f"【评价】商品:{name}｜星级:{rating}｜评价:"


def reply_prompt(intent: str, status: str, question: str) -> str:
    """Return the prompt whose target is a service reply (客服回复)."""
    return f"【客服】意图:{intent or '其他'}｜状态:{status or '无'}｜问题:{clean(question)}｜回复:"
