"""What the shop itself says of an item, how much of it a text carries, and what a text says beyond it.

A noun that stands neither in the shop's own words nor in the small public list of words that say nothing of the goods
counts as invented. Parts of speech are those of the dictionary that jieba ships; English has no such dictionary here,
so every English word must be given or be in the public list.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from common.schema import Product
from common.text import attributes_text, clean, simplify, words

NEUTRAL_ZH = frozenset(
    "时候 时间 天气 日子 日常 味道 心情 家 家里 家人 朋友 老朋友 生活 地方 老地方 下午 早上 晚上 午后 清晨 夜里 "
    "周末 假期 季节 春天 夏天 秋天 冬天 春日 夏日 秋日 冬日 一天 今天 明天 昨天 最近 近来 时光 东西 事情 感觉 "
    "习惯 节奏 分量 库存 份 款 单 店 店里 小店 本店 我们 大家 亲 您 你 自己 回头客 老客 老客人 顾客 客户 客人 "
    "名字 手边 身边 桌 桌上 柜子 柜 架 罐 罐子 瓶 袋 盒 盒子 包 杯 杯子 碗 口 份儿 件 双 条 张 颗 片 块 次 回 "
    "下次 上次 这次 一次 那份 那罐 那盒 那款 那件 这款 这件 人 心 话 眼 手 嘴 头 面 里 外 上 下 前 后 中 边 旁 处 "
    "底 份子 点 些 种 样 一下 一点 惦记 念想 心意 消息 短信 微信 优惠 活动 价 商品 产品 货 订单 链接 页面 门 路 "
    "天 月 年 周 星期 号 钟 分 秒 一会儿 心里 差不多 手里 嘴里 家中 办公室 早餐 午餐 晚餐 早饭 晚饭 小事 好事 "
    "老样子 原样 时节 当季 新季 时令 问题 办法 选择 机会 缘分 惊喜 温度 光 风 雨 阳光 空气 世界 故事 记忆 回忆 "
    "节日 假日 傍晚 中午 夜晚 深夜 清早 一早 屋子 屋里 屋 房间 桌子 角落 孩子 爸妈 父母 家务 工作 功夫 工夫 耐心 "
    "细节 礼物 礼 福利 提醒 通知 频率 周期 规律 间隔 样子 模样 那种 这种 一种 方式 方便 需要 补货 补给 续 一份 "
    "两份 天天 每天 常客 客 主 事 物 神 力 气 色 身 花 新 旧".split()
)
"""Words of Chinese copy that say nothing of the goods."""

NEUTRAL_EN = frozenset(
    "a about after again all almost already also always am an and another any anything are around as at away back "
    "be because been before best between bit both bring but buy by call can cart check choose click come coming "
    "could day days did do does done down each easy empty enough enjoy even evening ever every everything fast "
    "favourite favorite favourites few fill find first fits for free from fresh friend full gave get gift give "
    "glad go goes going good got had half hand happy has have haven't hello her here here's hi him his home hope "
    "how i if in into is it it's its item items just keep kind kitchen know last later least left less let let's "
    "life like likes little ll long look low glance ago whenever suit looking lot love made make many may maybe "
    "me might mind moment month months more morning most much my near need needs never new next nice no not "
    "nothing now of off often old on once one only open or order ordered orders other our out over own pack pick "
    "place plan please ready really reach refill reminder restock right round run running said same save say see "
    "seen send set shelf shop should since so some something soon start stay still stock stop store such supply "
    "sure table take tap taste than thank thanks that that's the their them then there there's these they thing "
    "things think this those thought time times to today together tomorrow too top topped treat try two until up "
    "us use used usual usually very visit wait waiting want was way we we're we've week weekend weeks welcome "
    "well were what when where whether which while who why will with within without work would year yes yesterday "
    "yet you you'd you'll you're you've your yours within bought regular reorder rhythm calendar answer reply "
    "view details offer".split()
)
"""Words of English copy that say nothing of the goods."""

NOUNS = ("n", "j", "i", "l")
"""Tags of jieba's dictionary that name things: nouns of all kinds, short forms, set phrases."""

TAGGED = re.compile(r"【[^】]*】|<[^<>]*>")
MARKS = re.compile(r"[|｜<>【】\[\]{}#*]")
ENGLISH = re.compile(r"[A-Za-z][A-Za-z'’\-]*")
CHINESE = re.compile(r"[一-鿿]+")


@dataclass(frozen=True)
class Facts:
    """What may be said of one item: its name, the values of its attributes, an offer, and every word of the shop on it."""

    name: str
    attributes: Mapping[str, str]
    offer: str
    given: str

    @property
    def wanted(self) -> tuple[str, ...]:
        """What a text should carry: the name, the values, the offer."""
        return tuple(one for one in (self.name, *self.attributes.values(), self.offer) if one)


def facts_of(product: Product, offer: str = "") -> Facts:
    """Return what may be said of `product`, with the offer that is made, cleaned.

    >>> facts_of(Product(item_id="1", name="茉莉花茶", attributes="香型#茉莉*规格#150g"), "满100减10").wanted
    ('茉莉花茶', '茉莉', '150g', '满100减10')
    """
    name = said(product.name) or product.item_id
    attributes = {said(key): said(value) for key, value in product.attributes.items() if said(value)}
    parts = (name, attributes_text(attributes), product.category, product.brand, product.description, offer)
    return Facts(name, attributes, said(offer), " ".join(said(part) for part in parts if part))


def said(text: str) -> str:
    """Return a shop's words such that they can stand in a prompt and in copy: no tags before a name, no marks of a prompt.

    >>> said("【新品】茉莉花茶｜150g"), said("【茉莉花茶】")
    ('茉莉花茶 150g', '茉莉花茶')
    """
    plain = clean(text)
    bare = clean(MARKS.sub(" ", TAGGED.sub(" ", plain)))
    return bare or clean(MARKS.sub(" ", plain))


def carries(text: str, value: str) -> bool:
    """Return whether `text` says `value`: letter by letter, spaces, capitals and script apart.

    >>> carries("150 G一罐的茉莉花茶", "150g"), carries("好茶", "150g")
    (True, False)
    """
    return _plain(value) in _plain(text)


def coverage(text: str, facts: Facts) -> float:
    """Return the share of `facts.wanted` that `text` carries, from 0 to 1; 1 where nothing is wanted."""
    wanted = facts.wanted
    return sum(carries(text, one) for one in wanted) / len(wanted) if wanted else 1.0


def invented(text: str, given: str) -> list[str]:
    """Return the words in `text` that name things which neither `given` nor the public lists know, each once.

    >>> invented("茉莉花茶到了，配蒜蓉辣酱", "茉莉花茶")
    ['蒜蓉', '辣酱']
    >>> invented("Your jasmine tea cures everything", "Jasmine tea")
    ['cures']
    """
    known = _plain(given)
    odd = [word for word in _words(clean(text)) if _plain(word) not in known and _names_a_thing(word)]
    return list(dict.fromkeys(odd))


@functools.lru_cache(maxsize=4096)
def _plain(text: str) -> str:
    return re.sub(r"\s+", "", simplify(text)).casefold()


def _words(text: str) -> list[str]:
    return [*(word for word in words(text) if CHINESE.fullmatch(word)), *ENGLISH.findall(text)]


def _names_a_thing(word: str) -> bool:
    if word.isascii():
        lower = word.casefold().replace("’", "'").strip("'-")
        return len(lower) > 1 and not _is_neutral(lower)
    return word not in NEUTRAL_ZH and _tags().get(word, "x").startswith(NOUNS)


def _is_neutral(word: str) -> bool:
    stems = (word, word.removesuffix("'s"), word.removesuffix("s"), word.removesuffix("ed"), word.removesuffix("ing"))
    return any(stem in NEUTRAL_EN for stem in stems)


@functools.cache
def _tags() -> Mapping[str, str]:
    """Return the part of speech of every word in the dictionary that jieba ships, first letters only."""
    words("茶")  # jieba's first import is noisy, and common.text knows how to keep it quiet
    lines = (line.split() for line in files("jieba").joinpath("dict.txt").read_text("utf-8").splitlines())
    return {word: tag[:1] for word, _, tag in (line for line in lines if len(line) == 3)}
