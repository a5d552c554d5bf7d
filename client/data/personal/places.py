"""Addresses: a chain of parts (city, district, street, estate, house, room) that is precise enough to find someone.

A text is read once for the endings of parts (`路`, `小区`, `3栋`); neighbours make a chain; the chain is an address if it
has a house or room, if a residence follows a district, or if something before it says that one lives or sends there.
A province, a city or a landmark alone is an origin of goods and stays: `产自浙江省杭州市西湖区`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from client.data.personal.view import TAKEN, Span, View, by

PROVINCE = (
    "北京|上海|天津|重庆|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|海南|四川|贵州|云南|陕西|甘肃|青海|台湾|"
    "内蒙古|广西|西藏|宁夏|新疆|香港|澳门"
)
HOME = (
    "小区|花园|公寓|家园|新村|嘉园|社区|宿舍|家属院|家属楼|大院"
    "|名苑|佳苑|雅苑|华庭|豪庭|名都|家苑|公馆|花苑|别墅|山庄|寓所|安置房|廉租房"
)
STREET = r"(?:大街|大道|胡同|路|街|巷|弄|道)(?:[东西南北中](?=[0-9]))?"
AREA = (
    "工业园|科技园|产业园|软件园|创业园|园区|大厦|大楼|广场|中心"
    "|学校|大学|学院|中学|小学|医院|校区|住院部|国际|农贸市场|市场|驿站|超市|便利店|岗亭|小卖部|SOHO"
)
WEAK = "里|屯|庄|苑|城|府|湾|郡|庭|院|坊|寓|园|阁|轩|居|墅|期|区|段"
NUMBER = r"(?:[0-9十百]{1,6}|[A-Z]\d{0,3}|[甲乙丙丁东南西北])(?:-\d{1,4}){0,2}"
NOT_A_HOUSE = r"(?![店链色码料电井砂线才就收发到下会买晚早那左以试床楼院])"
FINE = rf"{NUMBER}(?:号院|号楼|栋|幢|座|塔|单元|楼|层|室|房|户|组|舍|门(?!口)|斋)"
FIRST = (
    "".join(sorted({one[0] for one in f"{HOME}|{AREA}|{WEAK}".split("|")}))
    + "0-9A-Z十百甲乙丙丁东西南北塔附自省市县旗盟地街镇乡村大胡路巷弄道"
)
PART = re.compile(
    rf"(?=[{FIRST}])(?:(?P<fine>{FINE}|塔\d)"
    rf"|(?P<house>附?{NUMBER}号(?:之\d|附\d+号)?{NOT_A_HOUSE})"
    r"|(?P<room>(?<![\d\-])\d{1,3}-\d{1,2}-\d{3,4}(?![\d\-])|(?<![\d\-])\d{1,3}-\d{3,4}(?=室))"
    rf"|(?P<home>{HOME})"
    r"|(?P<region>自治[区州县旗]|[省市县旗盟]|地区|(?<![小社园校景战专地市业息])区(?![域别间分里]))"
    r"|(?P<town>街道办?|[镇乡])"
    r"|(?P<village>村委会|村)"
    rf"|(?P<area>{AREA})"
    rf"|(?P<street>{STREET})"
    rf"|(?P<weak>{WEAK}))",
    re.I,
)
STOP = re.compile(
    r"[的了在到是我你您他她请送寄给去往把跟也就很还要没这那哪址改每块货买卖吃喝好看]|产[自地于]|[来出源]自|原产|[0-9][座条]|公司|单位|[提收]点|(?<![富])有(?!色)|(?<![成首新丰])都|发(?![展达祥区])|从(?!化)"
    r"|住(?!宅)|(?<![解开])放|(?<![青少中])年|月(?![坛湖亮河季星牙])|日(?![照喀月新])|(?<![广状庆])元(?![宝和通])|(?<![马口新])店(?!区)|件|(?<!无)为|个(?!旧)"
    r"|和(?![平谐顺田])|不(?!夜)|[^一-鿿0-9A-Za-z]"
)
INNER_STOP = re.compile(r"[的了你您他她请我是很也就还要没在去说条]|(?<!富)有(?!色)|[^一-鿿0-9A-Za-z]")
LONGEST_NAME = 10
NUMBERED = ("fine", "house", "room")
BETWEEN = re.compile(r"[\s,，\-]{0,2}")
TAIL = re.compile(
    r"[楼F]?之\d|附\d{1,3}号|\d{1,3}床|\s?\d{1,3}-\d{1,3}(?![\d\-])|\s?[\-]?\d{2,5}[A-Z]?(?:室|房)?(?![0-9A-Za-z元块件个克斤号年月%.:]|-\d)|(?<=[期塔座栋幢])\s?\d{1,5}(?![0-9元块件个克斤])",
    re.I,
)
POSTCODE = re.compile(r"[\s,，]{0,2}[0-9]{6}(?!\d)")
CORNER = re.compile(r"^[与和跟]")
MEASURE = re.compile("(?<![\\d一-鿿])一[座栋幢层]|[了是有在的用]一[座栋幢层]|[两几整每]")
SENT = re.compile(
    r"(?:寄|寄到|寄往|寄去|送到|发到|发往|送货到|家住|(?<!入)住在?|家在|老家|改成|改到|改地址|换成|自提点|代收点|地址|住址|收货地)"
    r"[:,，是\s]{0,3}(?:了|在)?$"
)
NEAR = re.compile(r"楼下|门口|大厅|快递柜|丰巢|门卫|保安")
ORIGIN = re.compile(r"(?:产|产自|产地|出自|来自|原产|源自|产于)[:是于\s]{0,2}$")
CROSSING = re.compile(r"(?:交叉口|路口|交汇处?|交界处|交口)")
COLLECTED = re.compile(r"\s?(?:代收|自提)")
RECEIVED = re.compile(r"\s?(?:收|代收|自提)(?![到获])")


@dataclass(frozen=True)
class Part:
    """One part of an address, `text[start:end]`; `level` is the name of its group in `PART`."""

    level: str
    start: int
    end: int


def addresses(view: View) -> Iterator[Span]:
    """Yield addresses without their cue, and what stands between a cue and the end of its clause."""
    text = view.digits
    last = 0
    for chain in _chains(text, view.plain):
        if chain[0].start >= last and _is_address(text, chain):
            last = _tail(text, chain[-1].end)
            yield chain[0].start, last
    yield from _cued(view)


def _chains(text: str, plain: str) -> Iterator[list[Part]]:
    """Yield the parts that stand side by side, each with its own name in front."""
    chain: list[Part] = []
    for match in PART.finditer(text):
        if match.lastgroup == "fine" and MEASURE.match(plain, match.start()):
            continue
        level = match.lastgroup or ""
        end = chain[-1].end if chain else 0
        part = _follow(text, chain[-1], level, match.span()) if chain else None
        if part:
            chain.append(part)
            continue
        if chain:
            yield chain
        chain = _first(text, end, level, match.span())
    if chain:
        yield chain


def _follow(text: str, last: Part, level: str, span: Span) -> Part | None:
    """Return the part as a neighbour of `last`, None if it is not."""
    start, stop = span
    between = BETWEEN.match(text, last.end)
    name_from = between.end() if between else last.end
    if level in NUMBERED and name_from >= start:
        return Part(level, last.end, stop)
    if {",", "，"} & set(text[last.end : name_from]) and level not in ("region", "town", "street"):
        return None
    name = text[name_from:start]
    if level == "street" == last.level:
        name = CORNER.sub("", name)
    if not name:
        apart = name_from > last.end and level != "home"
        return None if apart or (last.level in NUMBERED and level != "area") else Part(level, last.end, stop)
    longest = {"fine": 8, "house": 4 * (last.level == "village"), "room": 0}.get(level, LONGEST_NAME)
    return Part(level, last.end, stop) if len(name) <= longest and not INNER_STOP.search(name) else None


def _first(text: str, end: int, level: str, span: Span) -> list[Part]:
    """Return a chain of one part with the name before it; none where an ending stands alone."""
    start, stop = span
    if level in NUMBERED:
        whole = start == 0 or not (text[start - 1].isascii() and text[start - 1].isalnum())
        return [Part(level, start, stop)] if whole and text[start - 1 : start] != "第" else []
    name = text[max(end, start - LONGEST_NAME) : start]
    cut = max((match.end() for match in STOP.finditer(name)), default=0)
    return [Part(level, start - len(name) + cut, stop)] if cut < len(name) else []


ROOMS = ("室", "房", "户", "舍", "斋", "单元")
HOUSES = ("号院", "号楼", "栋", "幢", "座", "塔", "单元", "舍")


def _is_address(text: str, chain: list[Part]) -> bool:
    """Return whether the chain is precise enough to find someone, or somebody is said to live there."""
    before = text[max(0, chain[0].start - 12) : chain[0].start]
    if ORIGIN.search(before) or before.endswith("第"):
        return False
    levels = {part.level for part in chain}
    return (
        "room" in levels
        or _is_house(text, chain, levels)
        or _is_building(text, chain)
        or (len(chain) > 1 and bool(levels & {"region", "home", "street"}) and SENT.search(before) is not None)
        or _is_residence(text, chain)
    )


def _is_house(text: str, chain: list[Part], levels: set[str]) -> bool:
    """Return whether there is a house, building or room, and a place for it to be in."""
    places = levels & {"street", "home", "village", "area"}
    fine = [text[part.start : part.end] for part in chain if part.level == "fine"]
    buildings = any(one.endswith(HOUSES) or one.startswith("塔") for one in fine)
    if places and ("house" in levels or buildings or ("region" in levels and fine)):
        return True
    if "region" in levels and len(chain) > 1 and ("house" in levels or fine):
        return True
    if levels & {"town", "weak"} and buildings:
        return True
    return len(chain) > 1 and chain[-1].level in ("home", "area") and TAIL.match(text, chain[-1].end) is not None


def _is_building(text: str, chain: list[Part]) -> bool:
    """Return whether there are two numbers one inside the other, `3栋2单元`, `5号楼502`, or a door to wait at."""
    fine = [text[part.start : part.end] for part in chain if part.level == "fine"]
    kinds = {one.lstrip(" -0123456789ABCDEFGabcdefg甲乙丙丁东南西北十百") for one in fine}
    if not any(one.endswith(HOUSES) for one in fine):
        return False
    rooms = any(one.endswith(ROOMS) for one in fine)
    end = chain[-1].end
    return (rooms and len(kinds) > 1) or TAIL.match(text, end) is not None or NEAR.match(text, end) is not None


def _is_residence(text: str, chain: list[Part]) -> bool:
    """Return whether streets cross, a district is followed by a street or home, or somebody receives there."""
    levels, end = [part.level for part in chain], chain[-1].end
    if levels.count("street") > 1 and CROSSING.match(text, end):
        return True
    if "region" not in levels and "town" not in levels:
        return levels[-1] == "village" and COLLECTED.match(text, end) is not None
    after = levels[levels.index("region") + 1 :] if "region" in levels else levels
    if len(levels) > 2 and RECEIVED.match(text, end):
        return True
    if text[end : end + 1] == "的" and "home" not in after:
        return False
    lives = {"home", "village", "street"} if "region" in levels else {"home"}
    return bool(lives.intersection(after)) or ("region" in levels and text[:end].endswith(("街道", "街道办")))


def _tail(text: str, end: int) -> int:
    """Return where an address ends that goes on with a room and a post code."""
    for pattern in (CROSSING, TAIL, POSTCODE):
        match = pattern.match(text, end)
        end = match.end() if match else end
    return end


LETTER = r"(?:(?![的了有在到是我你您他她请送寄给发往去从把和跟与也就都很还要不没这那哪址])[一-鿿A-Za-z0-9])"
_cued = by(
    rf"(?:地址|住址)\s+(?P<x>(?:{PROVINCE})(?:省|市|自治区)?{LETTER}{{1,20}})",
    r"(?:地址|住址)\s?[:是]\s?(?P<x>[^,，。;；!！?？\n\ue000]{0,60}?[省市区县镇乡村路街道号栋室园][^,，。;；!！?？\n\ue000]{0,60})",
    rf"(?:寄到|送到|发到|送货到|寄往|家住|住在)\s?(?P<x>(?:{PROVINCE})(?:省|市|自治区)?{LETTER}{{1,7}}?(?:市|区|县))",
    r"(?:邮编|邮政编码)[:是\s]{0,2}(?P<x>\d{6})(?!\d)",
    r"(?:定位|坐标|经纬度|位置)?[:\s]{0,2}(?P<x>(?<![\d.])\d{2,3}\.\d{4,8}\s?,\s?\d{2,3}\.\d{4,8}(?![\d.]))",
    r"(?<![A-Z])(?P<x>[NS]\d{1,2}\.\d{3,8}[°,\s]{0,2}[EW]\d{1,3}\.\d{3,8})",
    r"(?<=[放])(?P<x>[东南西北大后侧]门(?:岗亭|保安室|门卫|传达室))",
)

KIND = (
    r"(?:Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr|Boulevard|Blvd"
    r"|Court|Ct|Terrace|Ter|Place|Pl|Parkway|Pkwy|Highway|Hwy|Way|Square|Sq)"
)
TOWN = r"(?:,\s?[A-Z][a-z]+(?:\s[A-Z][a-z]+){0,2}){0,3}(?:,?\s[A-Z]{2}\s\d{5}(?:-\d{4})?|\s[A-Z]{1,2}\d{1,2}[A-Z]?\s\d[A-Z]{2})?"
addresses_en = by(
    rf"\b(?:(?:Room|Flat|Apt|Unit|Suite)\s\w{{1,5}},\s)?(?:Building\s\w{{1,3}},\s)?(?:No\.\s?)?\d{{1,5}}[A-Z]?\s(?:[NSEW]\.?\s)?"
    rf"(?:[A-Z][a-z'’]+\s){{1,3}}{KIND}\b\.?(?:,?\s(?:Apt|Unit|Suite|#)\.?\s?\w{{1,5}})?{TOWN}",
    rf"\bP\.?O\.? Box \d{{2,6}}{TOWN}",
    flags=re.NOFLAG,
)


def english_addresses(view: View) -> Iterator[Span]:
    """Yield street addresses written in English."""
    yield from (span for span in addresses_en(view) if TAKEN not in view.plain[slice(*span)])
