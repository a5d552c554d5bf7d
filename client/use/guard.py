"""What must not stand in generated copy: personal data, forbidden claims, numbers nobody gave, marks of the prompt.

Everything is judged against `given`, the facts that the shop itself wrote: name, attributes, offer. A finding

    blocks      the copy may not go out
    evidence    may go out once a person has seen the evidence: what can be proved, or holds for the shop's own goods only
    allowed     looks like one of these and is none: 最近 is time, 第一次 counts, 零添加 stands in the shop's own facts

The rules follow the advertising law of the People's Republic (广告法, 2021), the market regulator's guide to absolute terms
(广告绝对化用语执法指南, 2023) and, for prices, 明码标价和禁止价格欺诈规定 (2022). This is a net, not legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from client.data.scrub import LANDLINE, SURROGATE, URL, find, look

Level = Literal["block", "evidence", "allowed"]

AD_9 = "广告法第九条第三项：不得使用“国家级”“最高级”“最佳”等用语"
AD_9_STATE = "广告法第九条第二项：不得使用国家机关及其工作人员的名义或形象"
AD_9_VULGAR = "广告法第九条第八项：不得含有淫秽、色情、赌博、迷信、恐怖、暴力的内容"
AD_13 = "广告法第十三条：不得贬低其他生产经营者的商品或者服务"
AD_17 = "广告法第十七条：普通商品不得涉及疾病治疗功能和医疗用语"
AD_18 = "广告法第十八条：保健食品不得涉及疾病预防、治疗功能，不得声称为保障健康所必需"
AD_20 = "广告法第二十条：不得声称全部或者部分替代母乳"
AD_23 = "广告法第二十三条：酒类不得诱导饮酒，不得暗示饮酒有消除紧张和焦虑、增加体力等功效"
AD_24 = "广告法第二十四条：教育、培训不得对升学、通过考试等作保证性承诺"
AD_25 = "广告法第二十五条：有投资回报预期的商品不得对收益或与其相关的情况作保证性承诺"
AD_28 = "广告法第二十八条：无法证明的内容可能构成虚假广告"
AD_40 = "广告法第四十条：针对未成年人的广告不得劝诱其要求家长购买"
PRICE = "明码标价和禁止价格欺诈规定：被比较价格须真实、可查"
CHECK = "需要核实：有依据、限于自家商品或时间顺序时可以使用"

NO_NOUN = r"(?![次时步口天批个位章回件名课季期阶代现杯款盒])"
"""What follows 第一 where it only counts: 第一次, 第一口."""

TERMS: tuple[tuple[str, Level, str], ...] = (
    ("最(?:近|后|终|初|多|少|早|迟|晚|爱|喜欢|想|难忘|怕)", "allowed", "时间、数量或个人感受，不是对商品的绝对化评价"),
    (f"第[一1]{'(?=[次时步口天批个位章回件名课季期阶代现杯款盒])'}", "allowed", "表示顺序"),
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
    ("最(?!近|后|终|初|多|少|早|迟|晚|好|爱|喜欢|想|难忘|怕)[一-鿿]", "evidence", CHECK),
    ("(?:顶级|极品|极致品质|至尊|无与伦比|绝无仅有|史无前例|前无古人|空前绝后|独一无二)", "block", AD_9),
    (f"(?:销量|全网|全国|全球|世界|行业|排名|口碑|品质|品牌|中国)第[一1]{NO_NOUN}", "block", AD_9),
    (f"第[一1①]{NO_NOUN}", "evidence", CHECK),
    (r"(?<![a-z])(?:no\.?1|top\.?1)(?!\d)", "block", AD_9),
    ("(?:唯一|首个|首选|冠军|王牌|领导品牌|领先品牌|销冠)", "evidence", CHECK),
    ("(?:国宴|特供|专供|国家领导人|国家机关)", "block", AD_9_STATE),
    ("(?:根治|包治|治愈|治疗|疗效|药效|降血[压糖脂]|抗癌|防癌|消炎|壮阳|延年益寿|包治百病)", "block", AD_17),
    ("(?:无副作用|零副作用|零风险|无任何副作用|无效退款)", "block", AD_28),
    ("(?:百分之百|百分百|100%)(?=棉|纯棉|羊毛|果汁)", "allowed", "成分含量"),
    ("(?:百分之百|百分百|100%)", "evidence", AD_28),
    ("(?:绝对|永久|万能|祖传|秘方|神效|奇效|永不)", "evidence", AD_28),
    ("(?:[零0]添加|纯天然|[零0]农药|[零0]激素|纯手工|野生|有机(?!会)|进口|正品|专利|非遗|老字号)", "evidence", AD_28),
    ("(?:预防|抵抗|改善|缓解|调理|辅助治疗)(?:疾病|感冒|失眠|便秘|贫血|高血[压糖脂]|炎症|过敏)", "block", AD_17),
    (
        "(?:养胃|护肝|补肾|排毒|祛湿|清肠|减肥|瘦身|燃脂|助眠|安神|美白祛斑|祛痘|生发|抗衰|防脱|抗病毒|提高免疫力|增强免疫力)",
        "block",
        AD_17,
    ),
    ("(?:代替|替代|胜过)(?:药物|药品|吃药)|药到病除|立竿见影|神医|老中医", "block", AD_17),
    ("(?:保健必备|健康必需|人人必吃)", "block", AD_18),
    ("(?:替代|代替|媲美|胜过|接近)母乳", "block", AD_20),
    ("(?:不醉不归|一醉方休|千杯不醉|酒后驾|喝酒解压|借酒消愁|豪饮)", "block", AD_23),
    ("(?:包过|保过|保录取|保证(?:提分|通过|录取)|必过)", "block", AD_24),
    ("(?:稳赚|保本|无风险(?:投资|收益)|必涨|升值(?:空间|潜力)巨大|躺赚|一夜暴富)", "block", AD_25),
    ("(?:性感诱惑|情趣诱惑|约炮|赌一把|算命|转运|招财|辟邪|开光)", "block", AD_9_VULGAR),
    ("(?:别家|其他店|同行|某宝|某东|竞品|别的牌子)[^，。！？]{0,6}(?:假|差|贵|骗|垃圾|不如)", "block", AD_13),
    ("(?:让|叫|求)(?:爸爸|妈妈|爸妈|家长)[^，。！？]{0,4}买", "block", AD_40),
    ("(?:原价|划线价|专柜价|市场价|历史价|吊牌价)", "evidence", PRICE),
    (
        r"(?<![a-z])(?:cures?|heals?|treats? (?:disease|cancer|diabetes|insomnia)|miracle|clinically proven"
        r"|doctor[- ]recommended)(?![a-z])",
        "block",
        AD_17,
    ),
    (
        r"(?<![a-z])(?:guaranteed (?:results?|returns?)|risk[- ]free|no side effects?|lose weight fast)(?![a-z])",
        "block",
        AD_28,
    ),
    (
        r"(?<![a-z])(?:world'?s (?:best|finest|no)|(?:the|our) (?:very )?(?:best|finest|cheapest)"
        r"(?! (?:of luck|wishes|time|way|before))|number one|unbeatable|unrivalled)(?![a-z])",
        "block",
        AD_9,
    ),
    (
        r"(?<![a-z])(?:all[- ]natural|organic|chemical[- ]free|award[- ]winning|100% (?:natural|pure|safe))(?![a-z])",
        "evidence",
        AD_28,
    ),
)
"""Terms of advertising law: a pattern, what it does, and why; the first that holds of a place wins."""

OFFERS = (
    "包邮 免单 半价 免费 买一送一 赠品 赠送 附赠 加赠 立减 秒杀 清仓 折扣 特价 优惠券 代金券 红包 返现 积分 抽奖 "
    "满减 会员价 到手价 便宜 降价 减价 打折 特惠 优惠价 涨价 免邮 七天无理由 无理由退 包退 包换 退换 退款 假一赔 "
    "保价 上门 次日达 当天发货 现货 限时 限量 仅剩 售罄 最后一天 倒计时 邮费 运费".split()
)
OFFERS_EN = (
    "free shipping|free delivery|for free|discount|half price|buy one|% off|percent off|coupon|voucher|gift card|cash ?back|"
    "refund|money[- ]back|limited time|last chance|while stocks? lasts?|only \\d+ left|flash sale|clearance|cheaper|on sale|"
    "price (?:drop|cut|rise)|(?:lower|reduced|special) prices?"
)
"""What a shop promises only when it has said so itself: an offer, how a price compares, a term of sale, scarcity."""

PROMISED = re.compile("|".join(OFFERS) + "|" + OFFERS_EN, re.I)

MARKERS = re.compile(r"[【】｜]|<\||\|>|\w#\w+\*|" + SURROGATE.pattern)
NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?%?")
NUMERAL = "[零〇一二两三四五六七八九十百千]+(?:点[零一二三四五六七八九]+)?"
SPELLED = re.compile(
    f"{NUMERAL}(?=折|元|块钱|%)|(?<=满){NUMERAL}(?=[减送打立])|(?<=[减省]){NUMERAL}(?![一-鿿])"
    "|(?<![这那前后一-十])[三四五六七八九十百千]{1,4}(?=天[内起]|小时|年|克|公斤|斤|倍|毫升|度)"
)
UNIT = re.compile(
    "\\s?(kg|g|ml|l|cm|mm|千克|公斤|克|斤|毫升|升|厘米|毫米|寸|袋|颗|片|支|瓶|盒|罐|枚|包|件|杯|粒|双|条|张|块|元|折|天|小时|年|倍|度|码|岁)"
    "(?![a-z])",
    re.I,
)
UNITS = {"克": "g", "千克": "kg", "公斤": "kg", "毫升": "ml", "升": "l", "厘米": "cm", "毫米": "mm", "块": "元"}
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
    return [one for one in judge(text, given) if one.level != "allowed"]


def judge(text: str, given: str) -> list[Finding]:
    """Return what `check` returns and what looks like it and is allowed, each with its reason, from left to right.

    >>> [(one.level, one.text) for one in judge("最近到的零添加果干，第一次来", "零添加")]
    [('allowed', '最近'), ('allowed', '零添加'), ('allowed', '第一')]
    """
    claims = (_excused(one, given) for one in _claims(text))
    findings = [*_personal(text, given), *claims, *_numbers(text, given), *_offers(text, given), *_markers(text)]
    return sorted(findings, key=lambda one: (one.start, one.end))


def _excused(one: Finding, given: str) -> Finding:
    """Return a claim that needs evidence as allowed where the shop's own facts state it; a ban stays a ban."""
    if one.level == "evidence" and one.text in given:
        return replace(one, level="allowed", reason="商家资料中已写明，商家须保存依据")
    return one


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
    """Yield numbers that do not stand in `given` so: in digits or words, with the same unit and the same 满, 减 or 打."""
    known = {(one.value, one.unit, one.before) for one in _values(given)}
    for one in _values(text):
        units = {unit for value, unit, _ in known if value == one.value}
        befores = {before for value, _, before in known if value == one.value}
        if (one.unit not in units and not (one.unit in ("", "元") and units)) or one.before not in {"", *befores}:
            yield Finding("number", "block", text[one.start : one.end], one.start, one.end, "商家没有给出的数字")


@dataclass(frozen=True)
class _Value:
    start: int
    end: int
    value: str
    unit: str
    before: str


def _values(text: str) -> Iterator[_Value]:
    """Yield every number in `text` with its value, unit and what stands before it; `58.00` and `58` are one value."""
    view = look(text)
    for pattern, read in ((NUMBER, _trimmed), (SPELLED, spelled_number)):
        for match in pattern.finditer(view.plain):
            unit = UNIT.match(view.plain, match.end())
            name = UNITS.get(unit[1].lower(), unit[1].lower()) if unit else ""
            before = view.plain[max(match.start() - 1, 0) : match.start()]
            yield _Value(*view.origin(*match.span()), read(match[0]), name, before if before in "满减打省" else "")


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
    for match in PROMISED.finditer(text):
        if match[0].casefold() not in given.casefold():
            yield Finding("offer", "block", match[0], match.start(), match.end(), "商家没有给出的优惠或承诺")


def _markers(text: str) -> Iterator[Finding]:
    for match in MARKERS.finditer(text):
        yield Finding("marker", "block", match[0], match.start(), match.end(), "提示词或脱敏的标记")
