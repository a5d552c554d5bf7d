"""Mobile numbers and landlines: digits that add up to a number, in a shape that people write numbers in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from client.data.personal.view import Span, View, by, has_cue

MOBILE = re.compile(r"1[3-9]\d{9}")
COUNTRY = re.compile(r"^(?:00)?86(?=1[3-9])")
FILLER = r"转|杠|横杠|点|空格?"
DIGIT_RUN = re.compile(rf"\d(?:(?:(?:[^\w\ue000\n]|_){{0,3}}|[ ]?(?:{FILLER})[ ]?)\d){{10,}}")
GROUP = re.compile(r"\d+")
TIGHT = frozenset(",/、。:;，")
"""What stands between the members of a list as well as between the groups of a number."""

SHAPES = {(3, 4, 4), (3, 8), (7, 4), (3, 3, 5)}
LOOSE_SHAPES = {(4, 4, 3), (1, 3, 3, 4), (2, 3, 3, 3), (1, 2, 4, 4), (3, 2, 2, 2, 2), (3, 2, 3, 3), (3, 4, 2, 2)}
PHONE_CUE = re.compile(
    r"(?:电话|手机|号码|联系|致电|[打拨]|(?<![a-z])tel|phone|mobile|call|cell|text)[号我是为:\s]{0,4}\+?$", re.I
)
PRICED = re.compile(
    r"(?:[价¥￥$元档款]|售|卖|货号|批[次号]|型号|[编条]码|款号|专利|国药准字)[位格为是:\s]{0,3}[A-Za-z]{0,2}$"
)
PRICES = re.compile(r"\s?(?:元|块|包邮|任选|起|[都的三]?(?:是好价|档|个配置|码|款)|[.]\d)")
GLUED = re.compile(r"(?<!\d)1[3-9]\d{9}(?=\d{1,2}[件个包盒瓶袋箱份斤套只双])")
MASKED = re.compile(r"(?<!\d)1[3-9]\d[\s\-]?[*x×]{3,6}[\s\-]?\d{2,4}(?!\d)", re.I)
ABROAD = re.compile(
    r"(?<!\d)\+[1-9]\d{0,2}(?:[ \-]{0,2}[()]?\d){7,12}(?!\d)"
    r"|(?<![\d\-.])(?:1[ \-.])?\(?(?![48]00)[2-9]\d\d\)?[ .\-]\d{3}[ .\-]\d{4}(?![\d\-])"
    r"|(?<![\d\-.])07\d{3}[ \-]?\d{6}(?!\d)"
)
CALLED = re.compile(
    r"(?:call|text|phone|mobile|cell|tel|number is)(?: me)?(?: at| on)?[ :]{1,2}([2-9]\d{9}|0\d{9,10})(?!\d)", re.I
)
ENGLISH = "zero|oh|one|two|three|four|five|six|seven|eight|nine"
IN_WORDS = re.compile(rf"\b(?:(?:{ENGLISH})[ ,\-]{{1,2}}){{9,12}}(?:{ENGLISH})\b", re.I)

HOMOPHONES = {
    word: str(digit)
    for digit, words in enumerate(
        (
            "洞灵凌铃玲林",
            "衣伊依",
            "两尔儿饵贰",
            "伞散仨山",
            "寺司思斯肆",
            "舞吾午武",
            "溜留流柳",
            "拐妻期起漆",
            "吧巴把扒",
            "勾酒久舅韭",
        )
    )
    for word in words
}
TO_SPOKEN = str.maketrans(HOMOPHONES)
_SPOKEN = "[" + "".join(HOMOPHONES) + r"\d]"
SPOKEN = re.compile(rf"(?<!\d){_SPOKEN}(?:[ \-.]?{_SPOKEN}){{10}}(?!\d)")


def mobiles(view: View) -> Iterator[Span]:
    """Yield mobile numbers: in digits first, then where words stand for digits, last where words only sound like them."""
    yield from _in_runs(view.plain)
    yield from (match.span() for match in GLUED.finditer(view.plain))
    if view.digits != view.plain:
        yield from _in_runs(view.digits)
        yield from _glued_to_words(view)
    for pattern in (MASKED, ABROAD, IN_WORDS):
        yield from (match.span() for match in pattern.finditer(view.digits))
    yield from (match.span(1) for match in CALLED.finditer(view.plain))
    yield from _spoken(view)


def _in_runs(text: str) -> Iterator[Span]:
    for run in DIGIT_RUN.finditer(text):
        groups = [group.span() for group in GROUP.finditer(text, *run.span())]
        first = 0
        while first < len(groups):
            last = _mobile_from(text, groups[first : first + 15])
            if last:
                start = groups[first][0]
                yield start - text.startswith("+", start - 1), groups[first + last - 1][1]
            first += last or 1


def _mobile_from(text: str, groups: list[Span]) -> int:
    """Return how many of `groups`, from the first on, make one mobile number; 0 if none do."""
    joined = ""
    for count, (start, end) in enumerate(groups, 1):
        joined += text[start:end]
        body = COUNTRY.sub("", joined[:16])
        if len(joined) > 15 or len(body) > 11:
            return 0
        if MOBILE.fullmatch(body) and _is_shape(text, groups[:count], len(joined) - len(body)):
            return count
    return 0


def _is_shape(text: str, groups: list[Span], country: int) -> bool:
    """Return whether the groups, less `country` digits in front, look like a number and not like a list of prices."""
    sizes = _sizes(groups, country)
    before = max(0, groups[0][0] - 12)
    if PHONE_CUE.search(text, before, groups[0][0]):
        return True
    if PRICED.search(text, before, groups[0][0]) or (len(sizes) > 1 and PRICES.match(text, groups[-1][1])):
        return False
    if len(sizes) == 1 or max(sizes) == 1 or tuple(sizes) in SHAPES:
        return True
    gaps = {text[one[1] : two[0]].strip() for one, two in pairwise(groups)}
    if any(TIGHT & set(gap) for gap in gaps) or _is_list(text, groups):
        return False
    return tuple(sizes) in LOOSE_SHAPES or (len(sizes) <= 3 and len(gaps) == 1)


def _sizes(groups: list[Span], country: int) -> list[int]:
    """Return the lengths of the groups without the first `country` digits."""
    sizes = [end - start for start, end in groups]
    while country:
        taken = min(country, sizes[0])
        country, sizes[0] = country - taken, sizes[0] - taken
        sizes = sizes if sizes[0] else sizes[1:]
    return sizes


def _is_list(text: str, groups: list[Span]) -> bool:
    """Return whether three groups or more end in the same of 9, 8 and 0, as prices in a list do: `1399 1499 159`."""
    ends, starts = {text[end - 1] for _, end in groups}, {text[start] for start, _ in groups}
    return len(groups) > 2 and len(ends) == 1 and not ends.isdisjoint("980") and "0" not in starts


def _glued_to_words(view: View) -> Iterator[Span]:
    """Yield numbers whose last digit word runs into the next word: `…零零零一定`."""
    for run in re.finditer(r"\d{11,}", view.digits):
        if view.plain[run.start() : run.end()] != run[0]:
            yield from (match.span() for match in MOBILE.finditer(view.digits, *run.span()))


def _spoken(view: View) -> Iterator[Span]:
    """Yield mobile numbers in which words only sound like digits: `幺三拐洞洞…`; eleven in a row are no sentence."""
    if not HOMOPHONES.keys().isdisjoint(view.digits):
        for match in SPOKEN.finditer(view.digits):
            if MOBILE.fullmatch(re.sub(r"[ \-.]", "", match[0].translate(TO_SPOKEN))):
                yield match.span()


_BE = r"[\s:是为=#→\-]{0,4}"
AREA = r"(?:10|2\d|[3-9]\d\d)"
_landlines = by(
    r"(?<![\d.])(?:\+?86[\s\-]?)?\(?0(?:10|2\d|[3-9]\d[1-9])\)?[\s\-–—.]{0,2}[2-8]\d{2,3}[\s\-]?\d{4}"
    r"(?:\s?(?:转|分机|ext\.?|-|x)\s?\d{1,6})?(?!\d)",
    rf"(?<![\d.])\+?86[\s\-]{AREA}[\s\-]\d{{3,4}}[\s\-]?\d{{4}}(?!\d)",
    r"(?<![\d.\-])0[2-9]-\d{3,4}-\d{4}(?![\d\-])",
    r"(?<!\d)[48]00(?:-\d{3}-\d{4}|-\d{4}-\d{3}|-\d{7}| \d{3} \d{4}|[1-9]\d{6})(?!\d)",
    rf"(?:座机|固话|电话|热线|传真|(?<![a-z])tel|phone)(?:号码|号)?{_BE}(?P<x>[2-8]\d{{2,3}}[\s\-]?\d{{4}})(?![\d元])",
    rf"(?:热线|客服电话|电话){_BE}(?P<x>9[56]\d{{3,4}})(?!\d)",
)
CODED = re.compile(r"(?:货号|编[码号]|条码|型号|批号|sku|item|upc|ean|isbn)[:\s]{0,2}$", re.I)


def landlines(view: View) -> Iterator[Span]:
    """Yield landlines and service numbers, but no number that is said to be that of an article."""
    for start, end in _landlines(view):
        if not has_cue(CODED, view, start):
            yield start, end
