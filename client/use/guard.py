"""What must not stand in generated copy: personal data, forbidden claims, numbers nobody gave, marks of the prompt.

A finding blocks (the copy may not go out) or warns (a person should look). Everything is judged against `given`, the
facts that the shop itself wrote: name, attributes, offer. This is a net, not legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from client.data.scrub import LANDLINE, SURROGATE, URL, find, look

Level = Literal["block", "warn"]

AD_9 = "广告法第九条第三项：不得使用“国家级”“最高级”“最佳”等用语"
AD_9_STATE = "广告法第九条第二项：不得使用国家机关及其工作人员的名义或形象"
AD_17 = "广告法第十七条：普通商品不得涉及疾病治疗功能和医疗用语"
AD_28 = "广告法第二十八条：无法证明的内容可能构成虚假广告"
CHECK = "需要核实：有依据、限于自家商品或时间顺序时可以使用"

NO_NOUN = r"(?![次时步口天批个位章回件名课季期阶代现杯款盒])"
"""What follows 第一 where it only counts: 第一次, 第一口."""

TERMS: tuple[tuple[str, Level, str], ...] = (
    ("国家级", "block", AD_9),
    ("(?:世界|全球|宇宙|国际)级", "block", AD_9),
    ("最高级", "block", AD_9),
    ("最[佳优强棒顶牛]", "block", AD_9),
    ("最好(?![在先把用放趁冷热加搭配避提尽当现])", "block", AD_9),
    ("(?:全网|史上|历史|全国|全城)最?[低新]价?", "block", AD_9),
    (
        "最(?:便宜|[低优]价|划算|实惠|优惠|先进|权威|专业|安全|有效|高端|健康|正宗|受欢迎|畅销|好[喝吃用闻])",
        "block",
        AD_9,
    ),
    ("最(?!近|后|终|初|多|少|早|迟|晚|好|爱|喜欢|想|难忘|怕)[一-鿿]", "warn", CHECK),
    ("(?:顶级|极品|极致品质|至尊|无与伦比|绝无仅有|史无前例|前无古人|空前绝后|独一无二)", "block", AD_9),
    (f"(?:销量|全网|全国|全球|世界|行业|排名|口碑|品质|品牌|中国)第[一1]{NO_NOUN}", "block", AD_9),
    (f"第[一1①]{NO_NOUN}", "warn", CHECK),
    (r"(?<![a-z])(?:no\.?1|top\.?1)(?!\d)", "block", AD_9),
    ("(?:唯一|首个|首选|冠军|王牌|领导品牌|领先品牌|销冠)", "warn", CHECK),
    ("(?:国宴|特供|专供|国家领导人|国家机关)", "block", AD_9_STATE),
    ("(?:根治|包治|治愈|治疗|疗效|药效|降血[压糖脂]|抗癌|防癌|消炎|壮阳|延年益寿|包治百病)", "block", AD_17),
    ("(?:无副作用|零副作用|零风险|无任何副作用|无效退款)", "block", AD_28),
    ("(?:百分之百|百分百|100%)(?!棉|纯棉|羊毛|果汁)", "warn", AD_28),
    ("(?:绝对|永久|万能|祖传|秘方|神效|奇效|永不)", "warn", AD_28),
    ("(?:[零0]添加|纯天然|[零0]农药|[零0]激素)", "warn", AD_28),
)
"""Absolute and medical terms: a pattern, what it does, and why. 最近, 最后, 最终 and 第一次 are ordinary words."""

OFFERS = ("包邮", "免单", "半价", "免费", "买一送一", "赠品", "赠送", "立减", "秒杀", "清仓", "折扣")
MARKERS = re.compile(r"[【】｜]|<\||\|>|\w#\w+\*|" + SURROGATE.pattern)
NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?%?")
NUMERAL = "[零〇一二两三四五六七八九十百千]+(?:点[零一二三四五六七八九]+)?"
SPELLED = re.compile(f"{NUMERAL}(?=折|元|块钱|%)|(?<=满){NUMERAL}(?=[减送打立])|(?<=[减省]){NUMERAL}(?![一-鿿])")
NUMERALS = {word: value for value, word in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
TENS = {"十": 10, "百": 100, "千": 1000}
BETWEEN = r"[\s.。·、\-_*]{0,2}"
"""What is put between two letters to get a forbidden term past a reader: 最.佳."""


@dataclass(frozen=True)
class Finding:
    """What is wrong at `text[start:end]`; kind is `personal`, `claim`, `number`, `offer` or `marker`."""

    kind: str
    level: Level
    text: str
    start: int
    end: int
    reason: str


def check(text: str, given: str) -> list[Finding]:
    """Return everything in `text` that may not go out, or that someone should look at, from left to right.

    >>> [(one.kind, one.text) for one in check("全网第一的茉莉花茶，八折！", "茉莉花茶")]
    [('claim', '全网第一'), ('number', '八')]
    >>> check("茉莉花茶到新季了，第二件半价", "茉莉花茶｜优惠:第二件半价")
    []
    """
    findings = [*_personal(text, given), *_claims(text), *_numbers(text, given), *_offers(text, given), *_markers(text)]
    return sorted(findings, key=lambda one: (one.start, one.end))


def clean_copy(candidates: Iterable[str], given: str) -> str | None:
    """Return the first candidate with words in it and nothing that blocks; None if there is none.

    >>> clean_copy(["最佳好茶", "", "茶香还在等你"], "茉莉花茶")
    '茶香还在等你'
    """
    for candidate in candidates:
        if candidate.strip() and not any(one.level == "block" for one in check(candidate, given)):
            return candidate
    return None


def _personal(text: str, given: str) -> Iterator[Finding]:
    """Yield personal data; a web address or landline that the shop itself gave is its own and may stay."""
    for one in find(text):
        piece = text[one.start : one.end]
        if not (one.kind in (URL, LANDLINE) and piece in given):
            yield Finding("personal", "block", piece, one.start, one.end, f"个人信息：{one.kind}")


def _claims(text: str) -> Iterator[Finding]:
    """Yield forbidden terms, a term inside a longer one only once."""
    view = look(text)
    taken: set[int] = set()
    for pattern, level, reason in COMPILED:
        for match in pattern.finditer(view.plain):
            if taken.isdisjoint(range(*match.span())):
                taken.update(range(*match.span()))
                start, end = view.origin(*match.span())
                yield Finding("claim", level, text[start:end], start, end, reason)


def _spaced(pattern: str) -> re.Pattern[str]:
    """Return `pattern` compiled so that each two letters of a term may have a mark between them."""
    return re.compile(re.sub(r"(?<=[一-鿿])(?=[一-鿿\[]|\((?!\?!))(?![^\[]*\])", lambda _: BETWEEN, pattern), re.I)


COMPILED = tuple((_spaced(pattern), level, reason) for pattern, level, reason in TERMS)


def _numbers(text: str, given: str) -> Iterator[Finding]:
    """Yield numbers that do not stand in `given`, whether in digits or, before 折, 元 or behind 满, in words."""
    known = {value for _, _, value in _values(given)}
    for start, end, value in _values(text):
        if value not in known:
            yield Finding("number", "block", text[start:end], start, end, "商家没有给出的数字")


def _values(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield place and value of every number in `text`; `58.00` and `58` are one value."""
    view = look(text)
    for match in NUMBER.finditer(view.plain):
        yield *view.origin(*match.span()), _trimmed(match[0])
    for match in SPELLED.finditer(view.plain):
        yield *view.origin(*match.span()), spelled_number(match[0])


def _trimmed(number: str) -> str:
    """Return a number without what does not change it: thousands marks, zeros in front and behind."""
    whole, _, fraction = number.rstrip("%").replace(",", "").partition(".")
    fraction = fraction.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "") + "%" * number.endswith("%")


def spelled_number(words: str) -> str:
    """Return a Chinese numeral below ten thousand as digits; without 十, 百 or 千 it is read digit by digit.

    >>> spelled_number("一百二十"), spelled_number("八点五"), spelled_number("十"), spelled_number("八八")
    ('120', '8.5', '10', '88')
    """
    whole, _, fraction = words.partition("点")
    if not TENS.keys() & set(whole):
        left = "".join(str(NUMERALS[word]) for word in whole)
    else:
        total, last = 0, 0
        for word in whole:
            total, last = (total + (last or 1) * TENS[word], 0) if word in TENS else (total, NUMERALS[word])
        left = str(total + last)
    return left + ("." + "".join(str(NUMERALS[word]) for word in fraction) if fraction else "")


def _offers(text: str, given: str) -> Iterator[Finding]:
    for offer in OFFERS:
        if offer not in given:
            for match in re.finditer(offer, text):
                yield Finding("offer", "block", offer, match.start(), match.end(), "商家没有给出的优惠")


def _markers(text: str) -> Iterator[Finding]:
    for match in MARKERS.finditer(text):
        yield Finding("marker", "block", match[0], match.start(), match.end(), "提示词或脱敏的标记")
