"""Personal data out of free text: what was found, and the text with `<手机>` in its place.

The text is read through a *view* (`personal/view.py`): NFKC, no invisible characters, `一三八` read as `138`,
each character with the place it came from. On the view, rules run in order; a rule is a pattern, then a checksum or a
context. What is found gives way in the original text to a surrogate that says the kind and nothing else: nothing leads
back, not even whether two numbers were the same. Chinese and English texts share one public list of surrogates.

This is the second line of defence and earns no privacy credit: the accounting assumes that nothing was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from client.data.personal.contacts import accounts, addresses_of_machines, emails, qqs, urls, wechats
from client.data.personal.numbers import (
    birthdays,
    cards,
    identities,
    is_identity,
    is_luhn,
    long_numbers,
    orders,
    passports,
    plates,
    taxes,
)
from client.data.personal.people import WEAKLY, english_names, names
from client.data.personal.phones import HOMOPHONES, landlines, mobiles
from client.data.personal.places import addresses, english_addresses
from client.data.personal.view import (
    ACCOUNT,
    ADDRESS,
    BANK_CARD,
    BIRTHDAY,
    EMAIL,
    IDENTITY,
    IP,
    KINDS,
    LANDLINE,
    NAME,
    NUMBER,
    NUMERIC,
    PASSPORT,
    PHONE,
    PLATE,
    QQ,
    SURROGATE,
    TAKEN,
    TAX,
    URL,
    WECHAT,
    Search,
    View,
    look,
)

__all__ = [
    "KINDS",
    "LANDLINE",
    "NUMERIC",
    "SURROGATE",
    "URL",
    "Found",
    "View",
    "find",
    "hide",
    "is_identity",
    "is_luhn",
    "look",
    "scrub",
]


@dataclass(frozen=True)
class Found:
    """One piece of personal data: its kind, one of `KINDS`, and where it stands in the text, `text[start:end]`."""

    kind: str
    start: int
    end: int


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
    if not any(trigger.search(text) for trigger in TRIGGERS):
        return []
    view = look(text)
    found: list[Found] = []
    for kind, worth, search in RULES:
        if worth.search(view.digits):
            spans = _free(view, search)
            found += [Found(kind, *view.origin(*span)) for span in spans]
            view = view.without(spans) if spans else view
    return sorted(found, key=lambda one: one.start)


def _free(view: View, search: Search) -> list[tuple[int, int]]:
    """Return what `search` finds where nothing was found before, from left to right; of two that overlap, the first."""
    taken = bytearray(len(view.plain))
    spans = []
    for start, end in search(view):
        if start < end and TAKEN not in view.plain[start:end] and not any(taken[start:end]):
            taken[start:end] = b"\1" * (end - start)
            spans.append((start, end))
    return sorted(spans)


WORDS = "零〇一二三四五六七八九壹贰叁貳參肆伍陆陸柒捌玖幺"
SIGNS = f"[0-9A-Za-zＡ-Ｚａ-ｚ０-９{WORDS}]"
SOUNDS = "[" + "".join(HOMOPHONES) + WORDS + "]"
TRIGGERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"[@＠#￥₤\u2060-\u206f\u2460-\u24ff\u2776-\u2793\ufe0f\u200b-\u200f\ufeff\U00010000-\U0010ffff]",
        f"{SIGNS}(?:[^一-鿿]{{0,3}}{SIGNS}){{3}}",
        f"{SIGNS}[号栋幢座室楼舍弄单號棟樓]",
        f"{SOUNDS}(?:[ .\\-]?{SOUNDS}){{6}}",
        "先生|女士|小姐|太太|老师|师傅|医生|经理|阿姨|叔叔|大哥|大姐|大妈|教授|总监|店长|老板|主任|护士"
        "|收货人|收件人|联系人|联络人|寄件人|签收人|取件人|提货人|收款人|付款人|预订人|预定人|认证人|持卡人|收貨人|聯絡人|聯繫人"
        "|姓名|姓 名|真名|实名|名字|户名|抬头|落款|本名|我叫|人叫|公叫|婆叫|子叫|儿叫|妈叫|爸叫|友叫|名叫|他叫|她叫"
        "|地址|住址|寄到|送到|发到|寄往|家住|住在|家在|自提点|代收点|生日|出生|生于|邮编|微信|微博|抖音|旺旺|快手|小红书",
        *(pattern.pattern for pattern in WEAKLY),
        "[区县區縣].{1,8}[路街道里村园苑區]|[市州].{2,6}[市县区镇].{1,8}[路街村]|村.{0,3}代收|[厦寓舍园区楼座][0-9]{3}|路[与和].{1,8}路",
    )
)
"""What a text must have one of for the rules to be worth their time."""

LONG = re.compile(r"\d(?:\D{0,3}\d){6}")
HAS_ACCOUNT = re.compile(
    "旺旺|抖音|快手|小红书|红薯|微博|支付宝|淘宝|京东|闲鱼|拼多多|B站|知乎|钉钉|陌陌|推特|豆瓣|贴吧|飞书|探探|用户名|昵称|网名|@"
    "|[iI][dD] ?:|[uU]ser ?name|[tT]elegram|T[gG]|tg|[wW]hats|[sS]kype|[iI]ns|[tT]witter|[fF]acebook|[lL]ine|[sS]nap|[tT]ik"
)
HAS_ORDER = re.compile(
    r"[单号码卡水串证站](?:[a-zA-Z]{0,4}[\s:是为=#→\-,]{0,4}[A-Za-z]{0,6}\d)|序列号|\d{9}|SN|IMEI|1Z"
    r"|[a-zA-Z.][ :#]{1,3}[A-Z]{0,6}-?\d{3}"
)
HAS_ADDRESS = re.compile(
    r"[厦寓舍园区楼座] ?\d{3}|[0-9A-Z甲乙丙丁十百][号栋幢座单室组楼舍塔弄]|\d-\d{1,2}-\d{3}|\d-\d{3,4}室"
    r"|址|[寄送发货]到|寄往|家[住在]|住在"
    r"|改[成到地]|邮编|[区县].{1,8}[路街道里村园苑区]|[市州].{2,6}[市县区镇].{1,8}[路街村]|自提|代收|路[与和]|\.\d{4}|[东南西北大]门岗"
)
RULES: tuple[tuple[str, re.Pattern[str], Search], ...] = (
    (EMAIL, re.compile(r"@|艾特|圈a|[aA][tT]\b|#|点com|\.com"), emails),
    (URL, re.compile(r"://|[A-Za-z0-9][.。点] ?[A-Za-z]{2}|[¥￥$€₤][A-Za-z0-9]{9}"), urls),
    (IDENTITY, re.compile(r"\d(?:[ \-._/·]?\d){8}|\d{6}\*|[A-Z]\d{9}"), identities),
    (NUMBER, HAS_ORDER, orders),
    (BANK_CARD, re.compile(r"\d(?:[ \-.]?\d){13}|\d\d ?\*"), cards),
    (TAX, re.compile(r"\d{8}|税号|代码|识别号"), taxes),
    (ACCOUNT, HAS_ACCOUNT, accounts),
    (WECHAT, re.compile(r"[A-Za-z0-9_\-]{6}"), wechats),
    (QQ, re.compile(r"[qQ扣叩蔻球群企]"), qqs),
    (NUMBER, re.compile(r"\d{15}"), long_numbers),
    (
        PHONE,
        re.compile(r"\d\d?\d?[\s\-]?[*xX×]{3}|" + LONG.pattern + "|(?:" + SOUNDS + r"|\d){7}|(?i:three|five|eight)"),
        mobiles,
    ),
    (LANDLINE, re.compile(r"\d(?:\D{0,3}\d){4}"), landlines),
    (IP, re.compile(r"\d\.\d{1,3}\.\d|:[0-9A-Fa-f]{0,4}:"), addresses_of_machines),
    (PLATE, re.compile(r"[A-Za-z][·\s\-]?[A-Za-z0-9]{5}|plate"), plates),
    (PASSPORT, re.compile(r"\d{7}"), passports),
    (BIRTHDAY, re.compile(r"出生|生[日于的人]|[Bb]irth|[Bb]orn|D[Oo][Bb]|dob"), birthdays),
    (ADDRESS, HAS_ADDRESS, addresses),
    (ADDRESS, re.compile(r"\d[A-Z]? [A-Z]|Box"), english_addresses),
    (NAME, re.compile(""), names),
    (NAME, re.compile(r"[A-Z][a-z]"), english_names),
)
