"""A text as the rules read it, with the place every character came from; what a rule is and what it may call a thing."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

PHONE, LANDLINE, IDENTITY, BANK_CARD, EMAIL = "手机", "座机", "身份证", "银行卡", "邮箱"
WECHAT, QQ, ACCOUNT, URL, ADDRESS = "微信", "QQ", "账号", "网址", "地址"
NAME, NUMBER, PLATE, PASSPORT, IP = "姓名", "单号", "车牌", "护照", "IP"
TAX, BIRTHDAY = "税号", "生日"
NUMERIC = (PHONE, LANDLINE, IDENTITY, BANK_CARD, NUMBER, PLATE, PASSPORT, IP, TAX, BIRTHDAY)
KINDS = frozenset((*NUMERIC, EMAIL, WECHAT, QQ, ACCOUNT, URL, ADDRESS, NAME))
"""Everything that a surrogate can say."""

DIGIT_WORDS = {
    word: str(digit)
    for digit, words in enumerate(
        ("〇零○", "一壹幺", "二贰貳", "三叁參", "四肆", "五伍", "六陆陸", "七柒", "八捌", "九玖")
    )
    for word in words
}
TO_DIGIT = str.maketrans(DIGIT_WORDS)
TRADITIONAL = (
    "號樓區縣鎮鄉電話聯絡係貨機證碼帳單訂遞銀門發給請棟層廣場園學醫莊灣國臺東龍陳張劉黃吳趙楊孫馬鄭許謝韓馮鄧蕭葉蘇盧"
    "蔣賈羅龔嚴萬錢湯賴顧軍護車郵網驗"
)
SIMPLIFIED = (
    "号楼区县镇乡电话联络系货机证码账单订递银门发给请栋层广场园学医庄湾国台东龙陈张刘黄吴赵杨孙马郑许谢韩冯邓萧叶苏卢"
    "蒋贾罗龚严万钱汤赖顾军护车邮网验"
)
TO_NARROW = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    | {"\u3000": " "}
    | dict(zip(TRADITIONAL, SIMPLIFIED, strict=True))
)
MARKS = tuple((chr(ord(mark) + 0xFEE0), mark) for mark in ",!?:;()")
WIDE = re.compile(f"[！-～\u3000{TRADITIONAL}]")
WORDED = re.compile("[" + "".join(DIGIT_WORDS) + "]")
ODD = re.compile(r"[^\t\n\r -~¥·–—‘-”…\u3000-\u3002《-】一-鿿！-～￥]")
TAKEN = "\ue000"
"""Stands in a view where a rule has already found something, or where a surrogate stood from the start."""

LETTER_FOR_DIGIT = re.compile(r"(?<=\d)(?:[oO]{1,4}(?![A-Za-z])|[lI](?=\d{2}))")
SURROGATE = re.compile("<(?:" + "|".join(sorted(KINDS)) + ")>")


@dataclass(frozen=True)
class View:
    """A text as the rules read it: `plain` and, digit words as digits, `digits`, of equal length.

    `starts[i]` is the place of character i in the original text of `size` characters; None where the two agree.
    """

    plain: str
    digits: str
    starts: tuple[int, ...] | None
    size: int

    def without(self, spans: Iterable[Span]) -> View:
        """Return the view in which nothing more can be found in any of `spans`, which run from left to right."""
        return replace(self, plain=_blank(self.plain, spans := list(spans)), digits=_blank(self.digits, spans))

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Return where `start` and `end` lie in the original text, invisible characters between and behind included."""
        if self.starts is None:
            return start, end
        after = self.starts[end] if end < len(self.starts) else self.size
        return self.starts[start], max(self.starts[end - 1] + 1, after)


Span = tuple[int, int]
Search = Callable[[View], Iterable[Span]]


def _blank(text: str, spans: Iterable[Span]) -> str:
    parts, last = [], 0
    for start, end in spans:
        parts += [text[last:start], TAKEN * (end - start)]
        last = end
    return "".join((*parts, text[last:]))


def look(text: str) -> View:
    """Return the view of `text` in which surrogates are already taken.

    >>> look("①３８０零１").digits
    '138001'
    """
    plain, starts = (_narrow(text), None) if not ODD.search(text) else _spell(text)
    digits = LETTER_FOR_DIGIT.sub(_digits_for, plain.translate(TO_DIGIT) if WORDED.search(plain) else plain)
    view = View(plain, digits, starts, len(text))
    taken = [one.span() for one in SURROGATE.finditer(plain)] if "<" in plain else []
    return view.without(taken) if taken else view


def _narrow(text: str) -> str:
    """Return `text` with narrow letters; marks, which most texts have, are replaced one by one as that is quicker."""
    for wide, mark in MARKS:
        text = text.replace(wide, mark)
    return text.translate(TO_NARROW) if WIDE.search(text) else text


def _digits_for(match: re.Match[str]) -> str:
    return ("1" if match[0] in "lI" else "0") * len(match[0])


def _spell(text: str) -> tuple[str, tuple[int, ...]]:
    """Return `text` as the rules read it, and the origin of every character."""
    letters, starts = [], []
    for place, char in enumerate(text):
        for letter in _letters(char):
            letters.append(letter)
            starts.append(place)
    return "".join(letters), tuple(starts)


def _letters(char: str) -> str:
    """Return one character as none (invisible), one or several plain ones; `①` and `❶` are `1`."""
    if not ODD.match(char):
        return char.translate(TO_NARROW)
    if unicodedata.category(char) in ("Cf", "Mn", "Me"):
        return ""
    digit = unicodedata.digit(char, None)
    return unicodedata.normalize("NFKC", char).translate(TO_NARROW) if digit is None else str(digit)


def by(*patterns: str, digits: bool = True, flags: re.RegexFlag = re.I) -> Search:
    """Return a search for `patterns` in the view with (`digits`) or without digit words as digits.

    Where a pattern has a group `x`, only the group is personal and the cue before it may stay.
    """
    compiled = [re.compile(pattern, flags) for pattern in patterns]
    groups: list[int | str] = ["x" if "x" in pattern.groupindex else 0 for pattern in compiled]

    def search(view: View) -> Iterator[Span]:
        text = view.digits if digits else view.plain
        for pattern, group in zip(compiled, groups, strict=True):
            for match in pattern.finditer(text):
                yield match.span(group)

    return search


def has_cue(cue: re.Pattern[str], view: View, place: int) -> bool:
    """Return whether `cue`, a pattern that ends in `$`, stands in the sixteen characters before `place`."""
    return cue.search(view.plain, max(0, place - 16), place) is not None
