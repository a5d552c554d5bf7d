"""Our own e-commerce text for pre-training a base: every task format of `common.text` and more.

    python -m simulations.corpus -o trade.jsonl --documents 60000 --seed 1

Prose of our own (`simulations.passages`) and a small grammar over `simulations.lexicon`, their slots filled with goods
that are mostly made up on the spot: where names, numbers and brands cannot be known beforehand, the way to a low loss is
to read the prompt. Why made and not collected: open Chinese text has almost no trade in it, and the formats are ours.
The words are kept apart from the shops that models are judged on, so that a base has seen the formats and never the
shops.

One document is one line of JSON: `kind`, and `text` as a list of pieces that are encoded apart, because at a merchant
the prompt and the target are encoded apart too.

`--unseen` writes documents from the prose that is kept from training, and from nothing else.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from common.files import write_atomic
from common.text import (
    RHYTHM,
    YES,
    Bought,
    Habit,
    Portrait,
    ago,
    copy_prompt,
    description_prompt,
    due,
    history_prompt,
    history_text,
    joiner,
    judgement_prompt,
    profile_prompt,
    profile_text,
    reply_prompt,
    repurchase_prompt,
    review_prompt,
    sentiment,
    sentiment_prompt,
)
from simulations import lexicon as words
from simulations.lexicon import CATEGORIES, Category
from simulations.passages import Passage, categories, descriptions, passages

Item = TypeVar("Item")
GAPS = (0, 2, 7, 14, 30, 60, 120)
LAST = {"近": (0, 2, 7), "中": (14, 30), "久": (60, 120)}  # days since the last order, as headings of the prose say it
NUMBER = re.compile(r"\d+(?:\.\d+)?")
LETTERS = (
    "安白柏宝北本碧彩禾澄初春川纯翠丹淡朵方芳丰福甘谷果海和荷红湖花华槐惠吉佳简江金锦景静橘开可兰朗乐里莲良林岭"
    "流龙鹿禄绿麦满茂梅美米蜜棉妙木南念宁暖朴七晴泉然荣如润森山杉上尚舍深诗时实拾书树霜水松素潭棠桃甜田亭童望微"
    "苇文梧西溪喜夏仙香小晓新星杏秀雪雅岩燕野叶一怡艺银樱永悠游有雨玉园原月云在泽知芝稚舟竹庄紫"
)

PROMPTS: Sequence[str] = (
    "【文案】渠道:短信｜商品:特级碧螺春｜属性:产地#安徽*规格#250克｜优惠:满99减20｜客户:中频·上次1个月｜文案:",
    "【文案】渠道:社群｜商品:木棉猫砂｜属性:材质#豆腐*规格#6升｜优惠:第二件半价｜客户:高频·上次2周｜文案:",
    "【描述】商品:全棉四件套｜属性:材质#全棉*颜色#雾蓝*尺寸#1.8米｜描述:",
    "【描述】商品:手冲咖啡壶｜属性:容量#600毫升*材质#玻璃｜描述:",
    "【客服】意图:物流｜状态:已发货｜问题:我的猫粮到哪儿了？｜回复:",
    "【客服】意图:退换｜状态:已签收｜问题:帆布鞋小了一码，能换吗？｜回复:",
    "【履历】客户:高频·周期1周｜近购:鲜牛奶×6·3天内;土鸡蛋×4·1周｜履历:",
    "【复购】客户:高频·周期1周｜近购:鲜牛奶×6·3天内;土鸡蛋×4·1周;抽纸×2·1个月｜会买:",
    "【评价】商品:生椰拿铁粉｜星级:5｜评价:",
    "【情感】评价:味道很淡，包装也破了，不会再买。｜情感:",
)


class Draw(random.Random):
    """A source of chance that also says which prose may be used: that for training, or with `unseen` the rest."""

    unseen = False


@dataclass(frozen=True)
class Document:
    """One text in pieces that are encoded apart; `kind` names what it is."""

    kind: str
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Goods:
    """One made-up product."""

    name: str
    noun: str
    brand: str
    attributes: Mapping[str, str]
    category: Category


def write_corpus(path: Path, documents: int, seed: int, unseen: bool = False) -> None:
    """Write `documents` made-up texts to `path` as JSON lines; the same seed gives the same bytes."""
    lines = (
        json.dumps({"kind": one.kind, "text": one.pieces}, ensure_ascii=False)
        for one in make_documents(documents, seed, unseen)
    )
    write_atomic(path, "".join(f"{line}\n" for line in lines))


def make_documents(count: int, seed: int, unseen: bool = False) -> Iterator[Document]:
    """Yield `count` documents, kinds in the proportions of `KINDS`, or from reserved prose only.

    >>> [one.kind for one in make_documents(3, seed=0)] == [one.kind for one in make_documents(3, seed=0)]
    True
    """
    draw = Draw(seed)
    draw.unseen = unseen
    makers = UNSEEN if unseen else KINDS
    kinds, weights = list(makers), [weight for weight, _ in makers.values()]
    for kind in draw.choices(kinds, weights, k=count):
        yield Document(kind, makers[kind][1](draw))


@functools.cache
def all_categories() -> Sequence[Category]:
    """Return the categories of the word lists and of the prose."""
    return (*CATEGORIES, *categories())


def make_goods(draw: Draw, category: Category | None = None) -> Goods:
    """Return a product of `category`, or of any: a noun, perhaps a brand, two to four attributes."""
    category = category or draw.choice(all_categories())
    noun = draw.choice(category.nouns) if draw.random() < 0.75 else _odd_noun(draw)
    brand = _brand(draw)
    keys = draw.sample(list(category.attributes), k=min(draw.randint(2, 4), len(category.attributes)))
    attributes = {key: _other_number(draw, draw.choice(category.attributes[key])) for key in keys}
    value = draw.choice(list(attributes.values()))
    name = draw.choice(
        (noun, brand + noun, f"{brand} {noun}", value + noun, f"{brand}{value}{noun}", f"{noun} {value}")
    )
    return Goods(name, noun, brand, attributes, category)


def _odd_noun(draw: Draw) -> str:
    """Return a noun that no list has: something said of other goods before the end of a noun."""
    other, last = draw.choice(all_categories()), draw.choice(draw.choice(all_categories()).nouns)
    first = draw.choice((draw.choice(draw.choice(list(other.attributes.values()))), draw.choice(other.nouns)[:2]))
    return first + last[-draw.randint(2, 4) :]


def _brand(draw: Draw) -> str:
    """Return a made-up brand: half of them from two lists, the others two or three letters without a sense."""
    if draw.random() < 0.5:
        return draw.choice(words.BRAND_HEADS) + draw.choice(words.BRAND_TAILS)
    return "".join(draw.choices(LETTERS, k=draw.randint(2, 3)))


def _other_number(draw: Draw, value: str) -> str:
    """Return `value` with other numbers, half of the time."""
    if draw.random() < 0.5:
        return value
    return NUMBER.sub(lambda _: str(draw.choice((1, 2, 5, 10)) * draw.randint(1, 99)), value)


def make_offer(draw: Draw) -> str:
    """Return what a shop offers, its numbers made up."""
    if draw.random() < 0.25:
        return draw.choice([one for one in words.OFFERS if one != "无"])
    many, some, few = draw.randint(20, 500), draw.randint(3, 60), draw.randint(2, 9)
    gift = draw.choice(draw.choice(all_categories()).nouns)
    return draw.choice(
        (
            f"满{many}减{min(some, many // 2)}",
            f"立减{some}元",
            f"{draw.randint(5, 9)}.{draw.randint(1, 9)}折",
            f"{few}件{draw.randint(6, 9)}折",
            f"买{few}送{draw.randint(1, few)}",
            f"送{gift}",
            f"加{some}元换购{gift}",
            f"{many}元任选{few}件",
            f"无门槛{some}元券",
            f"积分翻{few}倍",
            f"熟客价{many}元",
            f"前{many}名免运费",
        )
    )


def _pick(draw: Draw, found: Sequence[Passage]) -> Passage | None:
    """Return one of the passages that may be used, or None where there is none."""
    usable = [one for one in found if one.reserved == draw.unseen]
    return draw.choice(usable) if usable else None


def _prose(draw: Draw, kind: str, lang: str = "zh", **tags: str) -> Passage:
    """Return a passage of a kind whose heading says `tags`."""
    found = [one for one in passages(kind, lang) if all(one.tags.get(key) == value for key, value in tags.items())]
    one = _pick(draw, found) or _pick(draw, passages(kind, lang))
    assert one is not None, kind
    return one


def _goods_for(draw: Draw, one: Passage) -> Goods:
    """Return goods of the category that the passage is about, or any."""
    named = [category for category in all_categories() if category.name == one.tags.get("cat")]
    return make_goods(draw, named[0] if named else None)


def listing(rng: Draw) -> tuple[str, ...]:
    """Return a title as shops write them, with the product's attributes below it."""
    goods = make_goods(rng)
    values = list(goods.attributes.values())
    tags = rng.sample(words.TITLE_TAGS, k=rng.randint(1, 3))
    title = " ".join(_mixed(rng, [goods.brand + goods.noun, *values, *tags]))
    facts = "，".join(f"{key}：{value}" for key, value in goods.attributes.items())
    return (f"{title}\n品牌：{goods.brand}，类目：{goods.category.name}，{facts}。",)


def description(rng: Draw) -> tuple[str, ...]:
    """Return the description task: attributes in, prose that uses them out."""
    goods = make_goods(rng)
    line = _pick(rng, descriptions(goods.category.name))
    if line is None or (not rng.unseen and rng.random() < 0.25):
        return description_prompt(goods.name, goods.attributes), _plain_description(rng, goods)
    text = _fill(rng, [line.text], goods)
    if not rng.unseen and rng.random() < 0.6:
        text = rng.choice((text + _facts(rng, goods) + "。", _facts(rng, goods) + "。" + text))
    return description_prompt(goods.name, goods.attributes), text


def prose_description(rng: Draw) -> tuple[str, ...]:
    """Return the description task with goods that prose was written for."""
    category = rng.choice([one for one in categories() if _pick(rng, descriptions(one.name))])
    goods, line = make_goods(rng, category), _pick(rng, descriptions(category.name))
    assert line is not None
    return description_prompt(goods.name, goods.attributes), _fill(rng, [line.text], goods)


def _facts(rng: Draw, goods: Goods) -> str:
    """Return the attributes in words."""
    pairs = _mixed(rng, list(goods.attributes.items()))
    return "，".join(rng.choice(words.DESCRIPTION_VALUES).format(key=key, value=value) for key, value in pairs)


def _plain_description(rng: Draw, goods: Goods) -> str:
    parts = [_fill(rng, words.DESCRIPTION_OPENINGS, goods) + _facts(rng, goods)]
    parts.append("，".join(_some(rng, goods.category.points, 3)))
    if rng.random() < 0.7:
        parts.append(_fill(rng, words.DESCRIPTION_ENDINGS, goods).rstrip("。"))
    return "。".join(parts) + "。"


def copy(rng: Draw) -> tuple[str, ...]:
    """Return the copy task: channel, product, offer and the customer's rhythm in, a short message out."""
    if not rng.unseen and rng.random() < 0.2:
        return _plain_copy(rng)
    one = _prose(rng, "copy")
    goods, offer = _goods_for(rng, one), make_offer(rng) if "{offer}" in one.text else "无"
    habit = Habit(RHYTHM["zh"].index(one.tags.get("rhythm", "中频")), rng.choice(GAPS))
    text = _fill(rng, [one.text], goods, offer)
    if offer == "无" and rng.random() < 0.3:
        offer = make_offer(rng)
        text = f"{text}{rng.choice(words.OFFER_LINES).format(offer=offer).rstrip('，')}。"
    last = rng.choice(LAST[one.tags.get("last", "中")])
    return copy_prompt(one.tags.get("channel", "短信"), goods.name, goods.attributes, offer, habit, last), text


def _plain_copy(rng: Draw) -> tuple[str, ...]:
    goods, offer = make_goods(rng), make_offer(rng) if rng.random() < 0.9 else "无"
    habit, last = Habit(rng.randrange(3), rng.choice(GAPS)), rng.choice(GAPS)
    greeting = _fill(rng, words.GREETINGS, goods)
    text = greeting + _fill(rng, words.LEADS, goods)
    if offer != "无":
        text += rng.choice(words.OFFER_LINES).format(offer=offer)
    text += rng.choice(words.CALLS)
    return copy_prompt(rng.choice(words.CHANNELS), goods.name, goods.attributes, offer, habit, last), text


def review_text(rng: Draw, goods: Goods, stars: int) -> str:
    """Return what a customer with `stars` stars writes: praise, blame, or some of each."""
    if rng.unseen or rng.random() < 0.6:
        text = _fill(rng, [_said_of(rng, goods, stars).text], goods)
        if rng.unseen or stars == 3 or rng.random() < 0.6:
            return text
        return text + "，".join(_some(rng, goods.category.good if stars > 3 else goods.category.bad, 3)) + "。"
    return _plain_review(rng, goods, stars)


def _said_of(rng: Draw, goods: Goods, stars: int) -> Passage:
    """Return a review with `stars` stars that was written of any goods or of this category."""
    rated = [one for one in passages("review") if one.tags["stars"] == str(stars)]
    one = _pick(rng, [one for one in rated if one.tags.get("cat", goods.category.name) == goods.category.name])
    return one or _prose(rng, "review", stars=str(stars))


def _plain_review(rng: Draw, goods: Goods, stars: int) -> str:
    good = _some(rng, goods.category.good, 3) if stars > 2 else []
    bad = _some(rng, goods.category.bad, 3) if stars < 4 else []
    if stars == 3:
        body = f"{good[0]}，就是{bad[0]}，"
        ending = rng.choice(words.REVIEW_ENDINGS_FAIR)
    elif stars > 3:
        extra = [rng.choice(words.DELIVERY_GOOD)] if rng.random() < 0.3 else []
        body, ending = "，".join([*good, *extra]) + "，", rng.choice(words.REVIEW_ENDINGS_GOOD)
    else:
        extra = [rng.choice(words.DELIVERY_BAD)] if rng.random() < 0.3 else []
        body, ending = "，".join([*bad, *extra]) + "，", rng.choice(words.REVIEW_ENDINGS_BAD)
    opening = rng.choice(words.REVIEW_OPENINGS).format(count=rng.randint(2, 9), span=rng.choice(words.SPANS))
    subject = goods.noun if rng.random() < 0.3 else ""
    return (opening + subject + body + ending).removesuffix("，") + ("" if ending else "。")


def review(rng: Draw) -> tuple[str, ...]:
    """Return the review task: product and stars in, a customer's words out."""
    goods, stars = make_goods(rng), rng.choice((1, 2, 3, 4, 5, 5))
    return review_prompt(goods.name, stars), review_text(rng, goods, stars)


def opinion(rng: Draw) -> tuple[str, ...]:
    """Return the sentiment task: a review in, one word out."""
    stars = rng.choice((1, 2, 3, 3, 4, 5))
    return sentiment_prompt(review_text(rng, make_goods(rng), stars)), sentiment(stars)


def service(rng: Draw) -> tuple[str, ...]:
    """Return the service task: intent, order status and question in, a reply out."""
    if not rng.unseen and rng.random() < 0.15:
        intent = rng.choice(list(words.SERVICE))
        questions, replies = words.SERVICE[intent]
        goods, status = make_goods(rng), rng.choice(list(replies))
        return reply_prompt(intent, status, _fill(rng, questions, goods)), _fill(rng, replies[status], goods)
    one = _prose(rng, "service")
    question, answer = _same_fill(rng, one.text, _goods_for(rng, one)).split(" => ", 1)
    return reply_prompt(one.tags.get("intent", ""), one.tags.get("status", ""), question), answer


def _basket(rng: Draw) -> dict[str, int]:
    """Return a few products by name, each with its typical days between purchases."""
    chosen = rng.sample(all_categories(), k=rng.randint(1, 4))
    basket = [make_goods(rng, rng.choice(chosen)) for _ in range(rng.randint(2, 6))]
    return {one.name: one.category.days for one in basket}


def _english_basket(rng: Draw) -> dict[str, int]:
    aisles = rng.choices(list(words.ENGLISH_GOODS.values()), k=rng.randint(2, 6))
    return {_english_name(rng, rng.choice(aisle)): rng.choice((7, 14, 30)) for aisle in aisles}


def repurchase(rng: Draw) -> tuple[str, ...]:
    """Return the repurchase task in Chinese: what was bought and when in, what comes next out."""
    return _history(rng, _basket(rng), "zh")


def repurchase_english(rng: Draw) -> tuple[str, ...]:
    """Return the repurchase task in English."""
    return _history(rng, _english_basket(rng), "en")


def judgement(rng: Draw) -> tuple[str, ...]:
    """Return the judgement task: a history and a candidate in, yes or no out; what is due is likely bought."""
    lang = rng.choice(("zh", "zh", "en"))
    habit, bought = _bought(rng, _basket(rng) if lang == "zh" else _english_basket(rng))
    candidate = rng.choice(bought)
    how = due(candidate.days_ago, rng.choice((7, 14, 30, None)))
    yes = rng.random() < (0.1, 0.5, 0.85, 0.3)[how]
    return judgement_prompt(habit, bought, candidate, how, lang), YES[lang][yes]


def told_history(rng: Draw) -> tuple[str, ...]:
    """Return the history task: what was bought and when in, the same in a sentence out."""
    lang = rng.choice(("zh", "zh", "zh", "en"))
    habit, bought = _bought(rng, _basket(rng) if lang == "zh" else _english_basket(rng))
    return history_prompt(habit, bought, lang), history_text(habit, bought, lang)


def profile(rng: Draw) -> tuple[str, ...]:
    """Return the profile task: recency, frequency and money from 1 to 5 in, tag and a sentence out."""
    scores = [rng.randint(1, 5) for _ in range(3)]
    lang = rng.choice(("zh", "zh", "zh", "en"))
    names = [one.name for one in all_categories()] if lang == "zh" else list(words.ENGLISH_GOODS)
    portrait = Portrait(
        scores[0],
        scores[1],
        scores[2],
        tuple(rng.sample(names, k=rng.randint(1, 3))),
        rng.randrange(3),
        rng.randrange(3),
    )
    return profile_prompt(portrait, lang), profile_text(portrait, lang)


def story(rng: Draw) -> tuple[str, ...]:
    """Return a customer's purchases told by the shop."""
    if not rng.unseen and rng.random() < 0.3:
        return _plain_story(rng)
    one = _prose(rng, "story")
    return (_fill(rng, [one.text], _goods_for(rng, one)),)


def _plain_story(rng: Draw) -> tuple[str, ...]:
    bought = [(make_goods(rng), rng.choice(GAPS)) for _ in range(rng.randint(2, 4))]
    lines = "，".join(f"买过{rng.randint(1, 6)}次{one.name}（{ago(days, 'zh')}）" for one, days in bought)
    favourite, rhythm = bought[0][0], rng.choice(RHYTHM["zh"])
    return (f"这位客户是{rhythm}客户，{lines}。最喜欢{favourite.noun}，因为{rng.choice(favourite.category.good)}。",)


def english(rng: Draw) -> tuple[str, ...]:
    """Return English of the trade: a message, a description, a story, a review or an answer, or names by aisle."""
    aisle = rng.choice(list(words.ENGLISH_GOODS))
    name = _english_name(rng, rng.choice(words.ENGLISH_GOODS[aisle]))
    kind = rng.choice(("copy", "description", "story", "review", "service", "names"))
    if kind == "names":
        names = rng.sample(words.ENGLISH_GOODS[aisle], k=3)
        return (f"{aisle}: " + ", ".join(_english_name(rng, one) for one in names),)
    one = _prose(rng, kind, "en")
    text = one.text.replace("{name}", name).replace("{noun}", name)
    if kind == "review":
        return review_prompt(name, int(one.tags["stars"]), "en"), text
    if kind == "service":
        question, answer = text.split(" => ", 1)
        return reply_prompt(one.tags.get("intent", ""), one.tags.get("status", ""), question, "en"), answer
    return (text,)


Maker = Callable[[Draw], tuple[str, ...]]

KINDS: Mapping[str, tuple[float, Maker]] = {
    "trade/listing": (7, listing),
    "trade/description": (15, description),
    "trade/copy": (19, copy),
    "trade/review": (13, review),
    "trade/sentiment": (6, opinion),
    "trade/service": (13, service),
    "trade/repurchase": (9, repurchase),
    "trade/judgement": (2, judgement),
    "trade/profile": (3, profile),
    "trade/history": (4, told_history),
    "trade/story": (4, story),
    "trade/english": (6, english),
    "trade/repurchase-english": (4, repurchase_english),
}
UNSEEN: Mapping[str, tuple[float, Maker]] = {
    "unseen/description": (1, prose_description),
    "unseen/copy": (1, copy),
    "unseen/review": (1, review),
    "unseen/service": (1, service),
    "unseen/story": (1, story),
}


def _bought(rng: Draw, periods: Mapping[str, int]) -> tuple[Habit, list[Bought]]:
    """Return a customer's rhythm and purchases of the named items, the latest first."""
    habit = Habit(rng.randrange(3), rng.choice(GAPS))
    bought = [Bought(name, rng.choice((1, 1, 2, 3, 4, 6, 9)), rng.choice(GAPS)) for name in periods]
    return habit, sorted(bought, key=lambda one: one.days_ago)


def _history(rng: Draw, periods: Mapping[str, int], lang: str) -> tuple[str, ...]:
    """Return prompt and target for items with typical `periods` in days: what is bought often and due comes next."""
    habit, bought = _bought(rng, periods)
    due_of = {b.name: b.times * min(1.0, b.days_ago / periods[b.name]) * rng.uniform(0.5, 1.5) for b in bought}
    ranked = sorted(due_of, key=due_of.__getitem__, reverse=True)
    return repurchase_prompt(habit, bought, lang), joiner(lang).join(ranked[: rng.randint(1, 3)])


def _english_name(rng: Draw, name: str) -> str:
    return f"{rng.choice(words.ENGLISH_QUALITIES)} {name}" if rng.random() < 0.4 else name


def _fill(rng: Draw, lines: Sequence[str], goods: Goods, offer: str | None = None) -> str:
    """Return one of `lines` with its slots filled from `goods`."""
    return _same_fill(rng, rng.choice(lines), goods, offer)


def _same_fill(rng: Draw, line: str, goods: Goods, offer: str | None = None) -> str:
    """Return `line` with its slots filled; a slot that comes twice is filled alike."""
    key, value = rng.choice(list(goods.attributes.items()))
    point, point2 = rng.sample(goods.category.points, k=2)
    scene, scene2 = rng.sample(goods.category.scenes, k=2)
    return line.format(
        name=goods.name,
        noun=goods.noun,
        brand=goods.brand,
        key=key,
        value=value,
        point=point,
        point2=point2,
        scene=scene,
        scene2=scene2,
        bad=rng.choice(goods.category.bad),
        offer=offer or make_offer(rng),
        polite=rng.choice(words.POLITE),
    )


def _some(rng: Draw, lines: Sequence[str], most: int) -> list[str]:
    return rng.sample(lines, k=rng.randint(1, most))


def _mixed(rng: Draw, items: list[Item]) -> list[Item]:
    return rng.sample(items, k=len(items))


def main() -> None:
    """Write a corpus from the command line."""
    parser = argparse.ArgumentParser(description="Write made-up e-commerce text, one JSON document a line.")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--unseen", action="store_true", help="write from the prose that is kept from training")
    given = parser.parse_args()
    write_corpus(given.out, given.documents, given.seed, given.unseen)


if __name__ == "__main__":
    main()
