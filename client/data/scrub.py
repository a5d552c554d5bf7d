"""Personal data out of free text: what was found, and the text with `<手机>` in its place.

The text is read through a *view* (`look`): NFKC, no invisible characters, digit words as digits (`一三八` -> `138`),
each character with the place it came from. On the view, rules run in order; a rule is a pattern, then a checksum or a
context. What is found gives way in the original text to a surrogate that says the kind and nothing else: nothing leads
back, not even whether two numbers were the same. Chinese and English texts share one public list of surrogates.

This is the second line of defence and earns no privacy credit: the accounting assumes that nothing was found.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

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
TO_NARROW = str.maketrans({chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {"\u3000": " "})
ODD = re.compile(r"[^\t\n\r -~¥·–—‘-”…\u3000-\u3002《-】一-鿿！-～￥]")
TAKEN = "\ue000"
"""Stands in a view where a rule has already found something, or where a surrogate stood from the start."""

LETTER_FOR_ZERO = re.compile(r"(?<=\d)[oO]{1,4}(?![A-Za-z])")
SURROGATE = re.compile("<(?:" + "|".join(sorted(KINDS)) + ")>")


@dataclass(frozen=True)
class Found:
    """One piece of personal data: its kind, one of `KINDS`, and where it stands in the text, `text[start:end]`."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class View:
    """A text as the rules read it: `plain` and, digit words as digits, `digits`, of equal length.

    `starts[i]` is the place of character i in the original text of `size` characters; None where the two agree.
    """

    plain: str
    digits: str
    starts: tuple[int, ...] | None
    size: int

    def without(self, start: int, end: int) -> View:
        """Return the view in which nothing more can be found between `start` and `end`."""
        gap = TAKEN * (end - start)
        return replace(
            self,
            plain=self.plain[:start] + gap + self.plain[end:],
            digits=self.digits[:start] + gap + self.digits[end:],
        )

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Return where `start` and `end` lie in the original text, invisible characters between and behind included."""
        if self.starts is None:
            return start, end
        after = self.starts[end] if end < len(self.starts) else self.size
        return self.starts[start], max(self.starts[end - 1] + 1, after)


Span = tuple[int, int]
Search = Callable[[View], Iterable[Span]]


def scrub(text: str) -> str:
    """Return `text` with a surrogate in place of everything `find` finds; scrubbing twice changes nothing.

    >>> scrub("备注：请打１３８-0013-8000，微信同号")
    '备注：请打<手机>，微信同号'
    """
    return hide(text, find(text))


def hide(text: str, found: Iterable[Found]) -> str:
    """Return `text` with a surrogate in place of everything in `found`, which runs from left to right.

    >>> hide("我叫李雷", [Found("姓名", 2, 4)])
    '我叫<姓名>'
    """
    parts, last = [], 0
    for one in found:
        parts += [text[last : one.start], f"<{one.kind}>"]
        last = one.end
    return "".join((*parts, text[last:])) if parts else text


def find(text: str) -> list[Found]:
    """Return the personal data in `text`, from left to right, without overlaps.

    >>> find("身份证11010519491231002X")
    [Found(kind='身份证', start=3, end=21)]
    """
    if not WORTH_A_LOOK.search(text):
        return []
    view = look(text)
    found = []
    for kind, worth, search in RULES:
        if not worth.search(view.digits):
            continue
        for start, end in search(view):
            if TAKEN not in view.plain[start:end]:
                found.append(Found(kind, *view.origin(start, end)))
                view = view.without(start, end)
    return sorted(found, key=lambda one: one.start)


def look(text: str) -> View:
    """Return the view of `text` in which surrogates are already taken."""
    plain, starts = (text.translate(TO_NARROW), None) if not ODD.search(text) else _spell(text)
    digits = LETTER_FOR_ZERO.sub(lambda match: "0" * len(match[0]), plain.translate(TO_DIGIT))
    view = View(plain, digits, starts, len(text))
    for one in SURROGATE.finditer(plain):
        view = view.without(*one.span())
    return view


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
    return unicodedata.normalize("NFKC", char) if digit is None else str(digit)


# Mobile numbers: groups of digits that add up to eleven, in a shape that people write numbers in.

MOBILE = re.compile(r"1[3-9]\d{9}")
COUNTRY = re.compile(r"^(?:00)?86(?=1[3-9])")
DIGIT_RUN = re.compile(r"\d(?:[\s\-–—_.·*~,/、。|()+=]{0,3}\d){10,}")
GROUP = re.compile(r"\d+")
LOOSE = frozenset(" -–—_.·*~()+")
SHAPES = {(3, 4, 4), (3, 8), (7, 4), (3, 3, 5)}
LOOSE_SHAPES = {(4, 4, 3), (1, 3, 3, 4), (2, 3, 3, 3), (1, 2, 4, 4), (3, 2, 2, 2, 2), (3, 2, 3, 3), (3, 4, 2, 2)}
PHONE_CUE = re.compile(r"(?:电话|手机|号码|联系|致电|[打拨]|tel|phone|mobile|call)[号我是为:\s]{0,4}\+?$", re.I)
GLUED = re.compile(r"(?<!\d)1[3-9]\d{9}(?=\d{1,2}[件个包盒瓶袋箱份斤套只双])")
MASKED = re.compile(r"(?<!\d)1[3-9]\d[\s\-]?[*x×]{3,6}[\s\-]?\d{2,4}(?!\d)", re.I)
ABROAD = re.compile(
    r"(?<!\d)\+[1-9]\d(?:[ \-]?\d){7,12}(?!\d)|(?<![\d\-.])\(?(?![48]00)[2-9]\d\d\)?[ .\-]\d{3}[ .\-]\d{4}(?![\d\-])"
)


def _mobiles(view: View) -> Iterator[Span]:
    """Yield mobile numbers: in digits first, then where words stand for digits."""
    yield from _in_runs(view.plain)
    for pattern in (GLUED, MASKED, ABROAD):
        yield from (match.span() for match in pattern.finditer(view.plain))
    yield from _in_runs(view.digits)
    for run in re.finditer(r"\d{11,}", view.digits):
        if view.plain[run.start() : run.end()] != run[0]:  # a spelled number may run into the next word: …零零零一定
            yield from (match.span() for match in MOBILE.finditer(view.digits, *run.span()))


def _in_runs(text: str) -> Iterator[Span]:
    for run in DIGIT_RUN.finditer(text):
        groups = [group.span() for group in GROUP.finditer(text, *run.span())]
        first = 0
        while first < len(groups):
            last = _mobile_from(text, groups[first:])
            if last:
                start = groups[first][0]
                yield start - text.startswith("+", start - 1), groups[first + last - 1][1]
            first += last or 1


def _mobile_from(text: str, groups: list[Span]) -> int:
    """Return how many of `groups`, from the first on, make one mobile number; 0 if none do."""
    joined = ""
    for count, (start, end) in enumerate(groups, 1):
        joined += text[start:end]
        body = COUNTRY.sub("", joined)
        if len(body) > 11:
            return 0
        if MOBILE.fullmatch(body) and _is_shape(text, groups[:count], len(joined) - len(body)):
            return count
    return 0


def _is_shape(text: str, groups: list[Span], country: int) -> bool:
    """Return whether the groups, less `country` digits in front, look like a number and not like a list of prices."""
    sizes = [end - start for start, end in groups]
    while country:
        taken = min(country, sizes[0])
        country, sizes[0] = country - taken, sizes[0] - taken
        sizes = sizes if sizes[0] else sizes[1:]
    gaps = {text[one[1] : two[0]].strip() for one, two in pairwise(groups)}
    if len(sizes) == 1 or max(sizes) == 1 or tuple(sizes) in SHAPES:
        return True
    if PHONE_CUE.search(text, max(0, groups[0][0] - 12), groups[0][0]):
        return True
    return all(LOOSE.issuperset(gap) for gap in gaps) and (
        tuple(sizes) in LOOSE_SHAPES or (len(sizes) <= 3 and len(gaps) == 1)
    )


# Numbers with a checksum.

IDENTITY_18 = re.compile(r"(?<!\d)[1-9](?:[ \-]?\d){16}[ \-]?[\dXx](?![\dA-Za-z])")
IDENTITY_15 = re.compile(r"(?<![\dA-Za-z])[1-9]\d{14}(?![\dA-Za-z])")
IDENTITY_CUE = re.compile(r"身份证(?:号码|号)?[是为:\s]{0,3}$")
PROVINCES = frozenset(map(str, (*range(11, 16), *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55))))
PROVINCES |= frozenset(map(str, (*range(61, 66), 71, 81, 82, 83)))
CARD = re.compile(r"(?<!\d)[2-69]\d{3}(?:[ \-]?\d){12,15}(?!\d)")
CARD_CUE = re.compile(r"(?:卡号|银行卡|储蓄卡|信用卡|账号|账户)[号是为:\s]{0,3}$")


def is_identity(digits: str) -> bool:
    """Return whether 18 characters are a resident identity number: province, birth date, MOD 11-2 (GB 11643-1999).

    >>> is_identity("11010519491231002X"), is_identity("110105194912310021")
    (True, False)
    """
    weighted = sum(int(digit) * 2 ** (17 - place) for place, digit in enumerate(digits[:17]))
    return _is_born(digits[:2], digits[6:14]) and "10X98765432"[weighted % 11] == digits[17].upper()


def _is_born(province: str, date: str) -> bool:
    year, month, day = int(date[:4]), int(date[4:6]), int(date[6:])
    return province in PROVINCES and 1900 <= year <= 2099 and 1 <= month <= 12 and 1 <= day <= 31


def is_luhn(digits: str) -> bool:
    """Return whether the last digit is the Luhn check digit of the others (ISO/IEC 7812-1).

    >>> is_luhn("6222021234567890128"), is_luhn("6222021234567890123")
    (True, False)
    """
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def _identities(view: View) -> Iterator[Span]:
    for match in IDENTITY_18.finditer(view.digits):
        number = re.sub(r"[ \-]", "", match[0])
        if is_identity(number) or _has_cue(IDENTITY_CUE, view, match.start()):
            yield match.span()
    for match in IDENTITY_15.finditer(view.digits):
        if _is_born(match[0][:2], "19" + match[0][6:12]) or _has_cue(IDENTITY_CUE, view, match.start()):
            yield match.span()


def _cards(view: View) -> Iterator[Span]:
    for match in CARD.finditer(view.digits):
        if is_luhn(re.sub(r"[ \-]", "", match[0])) or _has_cue(CARD_CUE, view, match.start()):
            yield match.span()


def _has_cue(cue: re.Pattern[str], view: View, place: int) -> bool:
    return cue.search(view.plain, max(0, place - 16), place) is not None


# Everything that one pattern decides; where it has a group `x`, only the group is personal and the cue may stay.


def _by(*patterns: str, digits: bool = True, flags: re.RegexFlag = re.I) -> Search:
    """Return a search for `patterns` in the view with (`digits`) or without digit words as digits."""
    compiled = [re.compile(pattern, flags) for pattern in patterns]

    def search(view: View) -> Iterator[Span]:
        for pattern in compiled:
            for match in pattern.finditer(view.digits if digits else view.plain):
                yield match.span("x" if "x" in pattern.groupindex else 0)

    return search


END = r"(?![A-Za-z0-9])"
BE = r"[\s:是为=#→\-]{0,4}"
MAILERS = r"(?:qq|163|126|139|189|gmail|sina|sohu|outlook|hotmail|foxmail|yeah|aliyun|icloud)"
EMAILS = _by(
    r"[a-z0-9][a-z0-9._%+\-]*\s?(?:@|艾特|[(\[]\s?at\s?[)\]])\s?[a-z0-9\-]+(?:\s?(?:\.|点|dot)\s?[a-z]{2,}){1,3}",
    rf"[a-z0-9][a-z0-9._%+\-]*\s?[#\s]\s?{MAILERS}\s?(?:\.|点)\s?(?:com|cn|net)" + END,
    digits=False,
)
TOP = r"(?:com|cn|net|org|top|xyz|shop|vip|cc|me|io|info|link|club|site|online|tv|co|uk)"
URLS = _by(
    r"(?:https?|ftp)://[^\s,;()<>\"'、。一-鿿]+",
    rf"(?<![a-z0-9@.\-])(?:[a-z0-9\-]+\.)+{TOP}(?![a-z0-9\-])(?:\.[a-z]{{2}})?(?::\d{{2,5}})?(?:/[^\s,;()<>\"'、。一-鿿]*)?",
    r"[¥￥$€][a-z0-9]{9,14}[¥￥$€]",
    digits=False,
)
WEIXIN = (
    r"(?:[微薇威维徽][信❤]|v信|[微薇]号|(?<![a-z])(?:vx|wx|weixin|wechat)|[加+➕][v微薇威](?![a-z]*生素)|(?<![a-z])v我)"
)
IDS = r"[a-z][a-z0-9_\-]{5,19}"
WECHATS = _by(
    rf"{WEIXIN}(?:号码|号|id|账号)?(?:[\s:是为=→\-]{{1,4}}|(?<=[号v微薇威]))(?P<x>{IDS}|[1-9]\d{{5,11}})" + END,
    rf"{WEIXIN}(?:号码|号|id|账号)?(?P<x>(?=[a-z\-]*[\d_]){IDS}|[1-9]\d{{5,11}})" + END,
    digits=False,
)
QQS = _by(
    rf"(?:(?<![a-z])qq|扣扣|叩叩|球球|企鹅号|(?<![a-z])q(?=号|群|:))(?:号码|号|群|群号)?{BE}"
    r"(?P<x>[1-9]\d(?:[ \-]?\d){3,10})" + END
)
ACCOUNTS = _by(
    rf"(?:旺旺|抖音|快手|小红书|微博|支付宝|淘宝|闲鱼|telegram|whatsapp)(?:账号|号码|号|id|:){BE}(?P<x>[a-z0-9_][a-z0-9_.\-]{{4,29}})"
)
PARCEL = r"(?:SF|YT|JD|ZTO|STO|YD|JT|DPK|EMS|JDV|LP|YZ)"
NUMBERS = _by(
    rf"(?:订单|快递|运|物流|退货|换货|退款|售后|交易|流水|取货|包裹|单)(?:单号|编号|号码|号){BE}(?P<x>[a-z]{{0,6}}\d[\d\-]{{4,24}}\d)"
    + END,
    rf"(?:取件|提货|取货|验证)码{BE}(?P<x>[a-z]?\d[\d\-]{{2,10}}\d)" + END,
    rf"(?:order|tracking|parcel|invoice)\s?(?:number|no\.?|id|#){BE}(?P<x>[a-z]{{0,6}}\d[\d\-]{{4,24}}\d)" + END,
    r"(?:订单|快递|物流|包裹)\s?(?P<x>\d{10,24})(?!\d)",
    rf"(?<![a-z0-9]){PARCEL}[a-z]{{0,2}}\s?\d{{10,15}}(?!\d)",
    r"(?<![a-z0-9])[a-z]{2}\d{9}CN" + END,
    digits=False,
)
LONG_NUMBERS = _by(r"(?<![\d.])(?!0086)\d{15,24}(?![\d.])", digits=False)
LANDLINES = _by(
    r"(?<![\d.])(?:\+?86[\s\-]?)?\(?0(?:10|2\d|[3-9]\d\d)\)?[\s\-–—]{0,2}\d{3,4}[\s\-]?\d{4}"
    r"(?:\s?(?:转|分机|ext\.?|-|x)\s?\d{1,6})?(?!\d)",
    r"(?<!\d)[48]00(?:-\d{3}-\d{4}|-\d{4}-\d{3}|-\d{7}| \d{3} \d{4})(?!\d)",
    rf"(?:座机|固话|电话|热线|传真|(?<![a-z])tel|phone)(?:号码|号)?{BE}(?P<x>[2-8]\d{{2,3}}[\s\-]?\d{{4}})(?![\d元])",
)
OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
IPS = _by(rf"(?<![\d.v本])(?:{OCTET}\.){{3}}{OCTET}(?![\d.])", digits=False)
PLATES = _by(
    r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-HJ-NP-Z][·\s\-]?(?=[A-Z]{0,2}\d)(?=(?:[A-Z]*\d){3})[A-HJ-NP-Z0-9]{5,6}"
    + END
)
PASSPORTS = _by(rf"(?:护照|通行证|台胞证|回乡证|passport)(?:号码|号|no\.?)?{BE}(?P<x>[a-z]{{1,2}}\d{{7,10}})" + END)
TAXES = _by(
    rf"(?:税号|信用代码|识别号){BE}(?P<x>[0-9A-Z]{{15,20}})" + END,
    r"(?<![0-9A-Z])9[1-3]\d{6}(?=\d*[A-Z])[0-9A-HJ-NPQRTUWXY]{10}(?![0-9A-Z])",
    digits=False,
)
BIRTHDAYS = _by(
    rf"(?:出生(?:日期|年月)?|生日|birthday|born on){BE}(?P<x>(?:19|20)\d\d[\-/.年]\d{{1,2}}[\-/.月]\d{{1,2}}日?)",
    digits=False,
)

# Addresses: region, street or estate, and a fine part (house, building, room). Without a fine part it is a place of
# origin or a landmark and stays.

PROVINCE = (
    "北京|上海|天津|重庆|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|海南|四川|贵州|云南|陕西|甘肃|青海|台湾|"
    "内蒙古|广西|西藏|宁夏|新疆|香港|澳门"
)
LETTER = r"(?:(?![的了有在到是我你您他她请送寄给发往去从把和跟与也就都很还要不没这那哪址])[一-鿿A-Za-z0-9])"
REGION = (
    rf"(?=\S)(?:(?:{PROVINCE})(?:省|市|自治区|壮族自治区|维吾尔自治区)?)?\s?(?:{LETTER}{{1,7}}?(?:市|自治州|地区|盟))?\s?"
    rf"(?:{LETTER}{{1,7}}?(?:区|县|旗))?\s?(?:{LETTER}{{1,7}}?(?:镇|乡|街道))?\s?"
)
STREET = r"(?:路|大街|街|大道|巷|弄|胡同|小区|花园|公寓|大厦|家园|新村|嘉园|社区|宿舍|街道|工业园|科技园|产业园)"
PLACE = (
    r"(?:道|里|村|屯|庄|广场|苑|城|府|学校|大学|学院|中学|小学|医院|园区|中心|湾|郡|庭|院|坊|寓|名都|国际|园|阁|轩|居)"
)
UNIT = r"[0-9A-Za-z甲乙丙丁东南西北]{1,5}(?:-\d{1,4}){0,2}"
HOUSE = rf"{UNIT}号(?!店|链接|色|码|电池|才|就|收到|发货|到货|下单|会员|买|晚|早|那天|左右)"
BUILDING = rf"{UNIT}(?:号院|号楼|栋|幢|座|单元|室|组)"
REST = (
    rf"(?:\s?{UNIT}(?:号院|号楼|号|栋|幢|座|塔|单元|楼|层|室|房|户|组|门)(?!店|链接))*"
    r"(?:\s?\d{2,5}(?:室|房)?(?![0-9A-Za-z元块件个克斤号年月%.]))?"
)
MIDDLE = rf"(?:\s?{LETTER}{{1,10}}?(?:{STREET}|{PLACE}))?"
ADDRESSES = _by(
    rf"{REGION}{LETTER}{{1,10}}?{STREET}\s?{HOUSE}{MIDDLE}{REST}",
    rf"{REGION}{LETTER}{{1,10}}?(?:{STREET}|{PLACE})\s?{BUILDING}{REST}",
    rf"(?<![A-Za-z0-9]){UNIT}(?:号院|号楼|栋|幢)\s?{UNIT}(?:单元|室|房|层|楼|门){REST}",
    r"(?<![A-Za-z0-9])\d{1,3}(?:号院|号楼|栋|幢|单元)\s?\d{3,4}(?:室|房)?(?![0-9元块件个克])",
    r"(?<![\d\-])\d{1,3}-\d{1,2}-\d{3,4}室",
    rf"{LETTER}{{1,10}}?(?:小区|花园|公寓|家园|新村|宿舍)\s?\d{{1,3}}-\d{{1,2}}-\d{{3,4}}室?(?!\d)",
    rf"(?:地址|住址)\s+(?P<x>(?:{PROVINCE})(?:省|市|自治区)?{LETTER}{{1,20}})",
    r"(?:地址|住址)\s?[:是]\s?(?P<x>[^,，。;；!！?？\n\ue000]*?[省市区县镇乡村路街道号栋室园][^,，。;；!！?？\n\ue000]*)",
    rf"(?:寄到|送到|发到|送货到|寄往|家住|住在)\s?(?P<x>(?:{PROVINCE})(?:省|市|自治区)?{LETTER}{{1,7}}?(?:市|区|县)(?:{LETTER}{{1,7}}?(?:区|县|镇|乡|街道|村|路|街))?)",
)
STREETS_EN = _by(
    r"\b\d{1,5}\s(?:[NSEW]\.?\s)?(?:[A-Z][a-z]+\s){1,3}(?:Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct)\b"
    r"\.?(?:,?\s(?:Apt|Unit|Suite|#)\.?\s?\w{1,5})?(?:,\s[A-Z][a-z]+(?:\s[A-Z][a-z]+)?)?(?:,?\s[A-Z]{2}\s\d{5})?",
    flags=re.NOFLAG,
)

# Names: only behind a strong cue, in front of a title, or beside a number that was found.

SURNAME = (
    "(?:欧阳|司马|上官|诸葛|东方|皇甫|尉迟|慕容|司徒|[王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎"
    "余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文施樊殷颜庞章倪严俞温季])"
)
NOT_A_NAME = (
    r"(?!高[端龄挑贵级个]|白领|白色|任何|方便|万能|金牌|金色|温柔|温馨|文艺|文静|时尚|成熟|单身|年轻|易[瘦胖]|常[用规]|史上|严格|谢谢|马上|黄色|周[一二三四五六日末到]|"
    r"于是|何[时况必]|夏[天季]|江[南北]|龙井|毛[尖峰巾]|石[榴斛]|金[骏骑]|白[茶毫牡]|黄[芪茶金]|武夷|余额|施工|任意|高[兴考]|许多|许久|曾经|成功|方[式法]|易[碎拆]|万[一分]|"
    r"严[重选]|常[温年]|文[字明]|叶子|田园|钱[多少])"
)
GIVEN = r"(?:(?![的了是在有先女太说要打，]|小姐)[一-鿿]){1,2}"
TITLE = r"(?:先生|女士|小姐|太太)"
EDGE = r"(?<![一-鿿A-Za-z0-9])"
TO_WHOM = r"(?<=[给找叫由请是系\-:\s])"
NAMES = _by(
    rf"(?:收货人|收件人|联系人|寄件人|签收人|取件人|姓名|真名|我叫|本人叫)\s?[:是为叫]?\s?(?P<x>{NOT_A_NAME}{SURNAME}[·]?{GIVEN})(?![一-鿿]|{TITLE})",
    rf"(?:收货人|收件人|联系人|寄件人|签收人|取件人|姓名|真名)\s?[:是为叫]\s?(?P<x>{SURNAME}{GIVEN}|[A-Z][a-z]+(?:\s[A-Z][a-z]+)?)",
    rf"我叫(?P<x>{NOT_A_NAME}{SURNAME}{GIVEN})",
    rf"(?:{EDGE}|{TO_WHOM})(?P<x>{NOT_A_NAME}{SURNAME}(?:{GIVEN})?)(?={TITLE})",
    rf"(?P<x>{SURNAME})(?={TITLE}(?:收|的?(?:电话|订单|号码)))",
    rf"{EDGE}(?P<x>{NOT_A_NAME}{SURNAME}{GIVEN})(?=[\s,，、:：/]{{1,2}}{TAKEN})",
    rf"(?<={TAKEN})[\s,，、:：/]{{1,2}}(?P<x>{NOT_A_NAME}{SURNAME}{GIVEN})(?![一-鿿A-Za-z0-9])",
    r"\b(?:Mr|Mrs|Ms|Miss|Dr)\.?\s(?P<x>[A-Z][a-z]+(?:\s[A-Z][a-z]+)?)\b",
    r"\b(?:[Nn]ame|[Cc]ontact|[Aa]ttn|[Rr]ecipient)\s?:\s?(?P<x>[A-Z][a-z]+\s[A-Z][a-z]+)\b",
    digits=False,
    flags=re.NOFLAG,
)

WORTH_A_LOOK = re.compile(
    r"\d|[@＠A-Za-zＡ-Ｚａ-ｚ]|艾特|[扣叩球]{2}|[先女]生|女士|小姐|太太|[收联寄签取][货件系收]人|姓名|真名|我叫|本人叫|地址|住址|寄到|送到|发到|寄往|家住|住在"
    r"|[零〇一二三四五六七八九壹贰叁肆伍陆柒捌玖幺](?:\W{0,3}[零〇一二三四五六七八九壹贰叁肆伍陆柒捌玖幺]){3}|[一二三四五六七八九十][号栋幢座室]|[^\x00-\uffff]|[\u2460-\u24ff\u2776-\u2793]"
)
LONG = re.compile(r"\d(?:\D{0,3}\d){6}")
RULES: tuple[tuple[str, re.Pattern[str], Search], ...] = (
    (EMAIL, re.compile(r"@|艾特|\bat\b|#|点com|\.com", re.I), EMAILS),
    (URL, re.compile(r"://|[A-Za-z0-9]\.[A-Za-z]{2}|[¥￥$€][A-Za-z0-9]{9}"), URLS),
    (NUMBER, re.compile(r"\d[\d\-]{2,}\d"), NUMBERS),
    (IDENTITY, re.compile(r"\d(?:[ \-]?\d){14}"), _identities),
    (BANK_CARD, re.compile(r"\d(?:[ \-]?\d){15}"), _cards),
    (TAX, re.compile(r"\d{8}|税号|代码|识别号"), TAXES),
    (WECHAT, re.compile(r"[微薇威维徽v]|[wv]x|we", re.I), WECHATS),
    (QQ, re.compile(r"q|扣|叩|球球|企鹅", re.I), QQS),
    (ACCOUNT, re.compile(r"[A-Za-z0-9_]{5}"), ACCOUNTS),
    (NUMBER, re.compile(r"\d{15}"), LONG_NUMBERS),
    (PHONE, re.compile(r"\d\d?\d?[\s\-]?[*x×]{3}|" + LONG.pattern, re.I), _mobiles),
    (LANDLINE, LONG, LANDLINES),
    (IP, re.compile(r"\d\.\d{1,3}\.\d"), IPS),
    (PLATE, re.compile(r"[A-Za-z][·\s\-]?[A-Za-z0-9]{5}"), PLATES),
    (PASSPORT, re.compile(r"\d{7}"), PASSPORTS),
    (BIRTHDAY, re.compile(r"出生|生日|birth|born", re.I), BIRTHDAYS),
    (
        ADDRESS,
        re.compile(r"[0-9甲乙丙丁][号栋幢座单室组]|\d-\d{3}|地址|住址|[寄送发货]到|寄往|家住|住在|\d室"),
        ADDRESSES,
    ),
    (ADDRESS, re.compile(r"\d [A-Z]"), STREETS_EN),
    (
        NAME,
        re.compile(rf"先生|女士|小姐|太太|[货件系签取]人|名|我叫|本人叫|{TAKEN}|M[rsi]|Dr|ame|ontact|ttn|ecipient"),
        NAMES,
    ),
)
