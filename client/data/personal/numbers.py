"""Numbers that belong to a person: identity, bank card, plate, passport, tax, birthday, order and parcel."""

from __future__ import annotations

import re
from collections.abc import Iterator

from client.data.personal.view import Span, View, by, has_cue

END = r"(?![A-Za-z0-9])"
BE = r"[\s:是为=#→\-]{0,4}"
GAP = r"[ \-._/·]?"
GAPS = re.compile(r"[^0-9A-Za-z]+")

IDENTITY_18 = re.compile(rf"(?<!\d)[1-9](?:{GAP}\d){{16}}{GAP}[\dXx](?![\dA-Za-z])")
IDENTITY_15 = re.compile(r"(?<![\dA-Za-z])[1-9]\d{14}(?![\dA-Za-z])")
IDENTITY_CUE = re.compile(r"(?:身[份分]证|证件|身份|sfz)(?:号码|字号|号)?[是为:\s]{0,3}$", re.I)
PROVINCES = frozenset(map(str, (*range(11, 16), *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55))))
PROVINCES |= frozenset(map(str, (*range(61, 66), 71, 81, 82, 83)))
MORE_IDENTITIES = by(
    r"(?<!\d)[1-9]\d{5}(?:(?:19|20)\d\d)?\*{4,8}[\dX]{2,4}(?!\d)",
    rf"身[份分]证(?:字号|号码|号)?{BE}(?P<x>[A-Z][12]\d{{8}}|[A-Z]\d{{6}}\([\dA]\))" + END,
    r"(?:\bssn|social security)(?: number| no\.?)?[ :#]{0,3}(?P<x>\d{3}([ \-]?)\d\d\2\d{4})(?!\d)",
)
CARD = re.compile(r"(?<!\d)[34569](?:[ \-.]?\d){14,18}(?!\d)")
CARD_CUE = re.compile(r"(?:卡号?|账[号户]|card(?: number| no\.?)?)[号是为:\s]{0,3}$", re.I)
MORE_CARDS = by(
    r"(?<!\d)[3-69]\d{3}[ \-]?\d{0,2}[*x]{2,6}[ \-*x]{1,10}\d{4}(?!\d)",
    rf"(?:银行卡|储蓄卡|信用卡|账户|账号|(?<!会员)(?<!医保)卡号){BE}(?P<x>\d(?:[ \-.]?\d){{14,20}})(?!\d)",
)


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


def identities(view: View) -> Iterator[Span]:
    """Yield identity numbers of 18 and 15 digits, masked ones, and those of other places behind a cue."""
    for match in IDENTITY_18.finditer(view.digits):
        if is_identity(GAPS.sub("", match[0])) or has_cue(IDENTITY_CUE, view, match.start()):
            yield match.span()
    for match in IDENTITY_15.finditer(view.digits):
        if _is_born(match[0][:2], "19" + match[0][6:12]) or has_cue(IDENTITY_CUE, view, match.start()):
            yield match.span()
    yield from MORE_IDENTITIES(view)


def cards(view: View) -> Iterator[Span]:
    """Yield bank cards: 15 to 19 digits with a check digit, or behind a cue."""
    for match in CARD.finditer(view.digits):
        if has_cue(CARD_CUE, view, match.start()) or (_is_grouped(match[0]) and is_luhn(GAPS.sub("", match[0]))):
            yield match.span()
    yield from MORE_CARDS(view)


def _is_grouped(number: str) -> bool:
    """Return whether the groups are those of a card and not a list of years or sizes."""
    sizes = [len(group) for group in GAPS.split(number)]
    return len(sizes) <= 3 or max(sizes) == 1 or set(sizes[:-1]) == {4}


CARRIER = "顺丰|圆通|中通|申通|韵达|极兔|京东物流|德邦|邮政|百世|天天快递|丰网|菜鸟|EMS|USPS|UPS|DHL|FedEx"
PARCEL = r"(?:SF|YT|JD|ZTO|STO|YD|JT|DPK|EMS|JDV|LP|YZ|TB|CN)"
TAIL = r"(?:[a-z]{0,6}\d[\da-z]*(?:-[\da-z]+){0,3})"
orders = by(
    rf"(?:订单|快递|运|物流|退货|换货|退款|售后|交易|流水|取货|包裹|发票|会员|单)(?:单号|编号|号码|卡号|号){BE}"
    rf"(?P<x>[a-z]{{0,6}}\d[\d\-]{{4,30}}\d)" + END,
    r"(?:快递单|物流单|运单|交易|流水|支付宝流水|凭证)\s?(?P<x>\d{10,32})(?!\d)",
    rf"(?:取件|提货|取货|验证|提取|核销)码{BE}(?P<x>(?=[a-z]*\d)[a-z]{{0,2}}\d[\da-z]*(?:-[\da-z]{{1,6}}){{0,3}})(?![\d张])",
    r"驿站[,，\s]{0,2}(?P<x>\d{1,2}-\d{1,2}-\d{3,5})(?!\d)",
    rf"(?:医保卡|社保卡?|会员卡|公积金)(?:账?号)?{BE}(?P<x>[a-z]?\d{{6,20}})" + END,
    rf"(?:IMEI|串号){BE}(?P<x>\d{{14,16}})(?!\d)",
    rf"(?:序列号(?:\s?SN)?|(?<![a-z])SN(?=[:是])){BE}(?P<x>(?=[A-Z]*\d)[A-Z0-9]{{8,20}})" + END,
    rf"(?:{CARRIER})(?:快递|速递|单号)?[\s:]{{0,2}}(?P<x>[a-z]{{0,4}}\d{{10,22}})(?!\d)",
    r"(?:订单|快递|物流|包裹)\s?(?P<x>\d{10,24})(?!\d)",
    rf"(?<![a-z0-9]){PARCEL}[a-z]{{0,2}}\s?\d{{10,18}}(?!\d)",
    r"(?<![a-z0-9])[a-z]{2}\d{9}[a-z]{2}" + END,
    r"(?<![a-z0-9])1Z[0-9A-Z]{16}" + END,
    r"(?:order|tracking|parcel|invoice)\s?(?:number|no\.?|id|#)?[\s:#]{1,3}(?P<x>(?=[a-z\-]*\d)[a-z]{0,6}-?\d[\d\-]{4,30}\d)"
    + END,
    r"USPS\s(?P<x>\d{4}(?: \d{2,4}){4,6})(?!\d)",
    r"(?:loyalty card|member(?:ship)? (?:id|no\.?|number)|household (?:key|id)"
    r"|customer (?:id|number))[\s:#]{1,3}(?P<x>\d{5,20})(?!\d)",
)
_long_numbers = by(r"(?<![\d.])(?!0086)\d{15,32}(?![\d.])")
LICENCE = re.compile(r"(?:认证|证书|许可证|标准号?|追溯码|专利号?|批准文号|备案号?)[:号为是\s]{0,2}[A-Za-z]{0,3}$")


def long_numbers(view: View) -> Iterator[Span]:
    """Yield numbers that are too long for goods: orders, parcels, payments; but not those of a licence."""
    for start, end in _long_numbers(view):
        if not has_cue(LICENCE, view, start):
            yield start, end


plates = by(
    r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼]\s?[A-Z][·\s\-]?(?=[A-Z]{0,2}\d)(?=(?:[A-Z]*\d){3})"
    r"[A-HJ-NP-Z0-9]{5,6}" + END,
    r"(?:license plate|plate number)[ :#]{1,3}(?P<x>(?=[A-Z]*\d)[A-Z0-9]{5,8})\b",
)
_DOCUMENT = "护照|通行证|台胞证|回乡证|军官证|居留证|passport"
passports = by(
    rf"(?:{_DOCUMENT})(?:号码|号|\s?no\.?|\s?number)?{BE}(?P<x>[a-z]{{0,2}}\d{{7,10}}|[一-鿿]字第\d{{6,8}}号)" + END,
    rf"(?<![a-z0-9])(?P<x>[a-z]{{1,2}}\d{{7,8}})(?=\s?是?我?的?(?:{_DOCUMENT}))",
)
taxes = by(
    rf"(?:税号|信用代码|识别号){BE}(?P<x>[0-9A-Z]{{15,20}})" + END,
    r"(?<![0-9A-Z])9[1-3]\d{6}(?=\d*[A-Z])[0-9A-HJ-NPQRTUWXY]{10}(?![0-9A-Z])",
    digits=False,
)
_YEAR = r"(?:19|20)\d\d"
_DATE = rf"{_YEAR}\s?[\-/.年]\s?\d{{1,2}}(?:\s?[\-/.月]\s?\d{{1,2}}日?|月)?|{_YEAR}[01]\d[0-3]\d(?!\d)"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|June?|July?|Aug|Sept?|Oct|Nov|Dec)[a-z]*\.?"
birthdays = by(
    rf"(?:出生(?:日期|年月|于)?|生日|生于|生辰|birthday|born(?: on)?|birth|\bdob){BE}"
    rf"(?P<x>{_DATE}|\d{{1,2}}月\d{{1,2}}[日号]|[0-9正十冬腊]{{1,2}}月初?[0-9十廿]{{1,3}}|{_MONTH}\s\d{{1,2}},?\s\d{{4}}|\d{{1,2}}/\d{{1,2}}/\d{{2,4}})",
    rf"(?P<x>{_DATE})(?=(?:出生|生的|生日|生人))",
)
