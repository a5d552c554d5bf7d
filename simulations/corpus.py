"""Our own e-commerce text for pre-training a base: every task format of `common.text` and more.

    python -m simulations.corpus -o trade.jsonl --documents 60000 --seed 1

A small grammar over `simulations.lexicon`. Why made and not collected: open Chinese text has almost no trade in it, and
the formats are ours. The words are kept apart from the shops that models are judged on, so that a base has seen the
formats and never the shops.

One document is one line of JSON: `kind`, and `text` as a list of pieces that are encoded apart, because at a merchant
the prompt and the target are encoded apart too.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from common.files import write_atomic
from common.text import (
    RHYTHM,
    Bought,
    Habit,
    ago,
    copy_prompt,
    description_prompt,
    joiner,
    reply_prompt,
    repurchase_prompt,
    review_prompt,
    sentiment,
    sentiment_prompt,
)
from simulations import lexicon as words
from simulations.lexicon import CATEGORIES, Category

Item = TypeVar("Item")
GAPS = (0, 2, 7, 14, 30, 60, 120)

PROMPTS: Sequence[str] = (
    "您好，欢迎光临",
    "今天的天气",
    "【复购】客户:高频·周期1周｜近购:鲜牛奶×6·3天内;土鸡蛋×4·1周;抽纸×2·1个月｜会买:",
    "【文案】渠道:短信｜商品:特级碧螺春｜属性:产地#安徽*规格#250克｜优惠:满99减20｜客户:中频·上次1个月｜文案:",
    "【描述】商品:全棉四件套｜属性:材质#全棉*颜色#雾蓝*尺寸#1.8米｜描述:",
    "【情感】评价:味道很淡，包装也破了，不会再买。｜情感:",
    "【评价】商品:生椰拿铁粉｜星级:5｜评价:",
    "【评价】商品:帆布鞋｜星级:1｜评价:",
    "【客服】意图:物流｜状态:已发货｜问题:我的猫粮到哪儿了？｜回复:",
    "[repurchase] customer: frequent, every 1 week | recent: whole milk x6, within 3 days; bananas x4, 1 week | "
    "will buy: ",
)


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


def write_corpus(path: Path, documents: int, seed: int) -> None:
    """Write `documents` made-up texts to `path` as JSON lines; the same seed gives the same bytes."""
    lines = (
        json.dumps({"kind": one.kind, "text": one.pieces}, ensure_ascii=False)
        for one in make_documents(documents, seed)
    )
    write_atomic(path, "".join(f"{line}\n" for line in lines))


def make_documents(count: int, seed: int) -> Iterator[Document]:
    """Yield `count` documents, kinds in the proportions of `KINDS`.

    >>> [one.kind for one in make_documents(3, seed=0)] == [one.kind for one in make_documents(3, seed=0)]
    True
    """
    rng = random.Random(seed)
    kinds, weights = list(KINDS), [weight for weight, _ in KINDS.values()]
    for kind in rng.choices(kinds, weights, k=count):
        yield Document(kind, KINDS[kind][1](rng))


def make_goods(rng: random.Random, category: Category | None = None) -> Goods:
    """Return a product of `category`, or of any: a noun, perhaps a brand, two to four attributes."""
    category = category or rng.choice(CATEGORIES)
    noun = rng.choice(category.nouns)
    brand = rng.choice(words.BRAND_HEADS) + rng.choice(words.BRAND_TAILS)
    keys = rng.sample(list(category.attributes), k=rng.randint(2, min(4, len(category.attributes))))
    attributes = {key: rng.choice(category.attributes[key]) for key in keys}
    value = rng.choice(list(attributes.values()))
    name = rng.choice((noun, brand + noun, f"{brand} {noun}", value + noun, f"{brand}{value}{noun}", f"{noun} {value}"))
    return Goods(name, noun, brand, attributes, category)


def listing(rng: random.Random) -> tuple[str, ...]:
    """Return a title as shops write them, with the product's attributes below it."""
    goods = make_goods(rng)
    values = list(goods.attributes.values())
    tags = rng.sample(words.TITLE_TAGS, k=rng.randint(1, 3))
    title = " ".join(_mixed(rng, [goods.brand + goods.noun, *values, *tags]))
    facts = "，".join(f"{key}：{value}" for key, value in goods.attributes.items())
    return (f"{title}\n品牌：{goods.brand}，类目：{goods.category.name}，{facts}。",)


def description(rng: random.Random) -> tuple[str, ...]:
    """Return the description task: attributes in, prose that uses them out."""
    goods = make_goods(rng)
    facts = [
        rng.choice(words.DESCRIPTION_VALUES).format(key=key, value=value)
        for key, value in _mixed(rng, list(goods.attributes.items()))
    ]
    parts = [
        _fill(rng, words.DESCRIPTION_OPENINGS, goods) + "，".join(facts),
        "，".join(_some(rng, goods.category.points, 3)),
    ]
    if rng.random() < 0.7:
        parts.append(_fill(rng, words.DESCRIPTION_ENDINGS, goods).rstrip("。"))
    return description_prompt(goods.name, goods.attributes), "。".join(parts) + "。"


def copy(rng: random.Random) -> tuple[str, ...]:
    """Return the copy task: channel, product, offer and the customer's rhythm in, a short message out."""
    goods, offer = make_goods(rng), rng.choice(words.OFFERS)
    habit, last = Habit(rng.randrange(3), rng.choice(GAPS)), rng.choice(GAPS)
    greeting = _fill(rng, words.GREETINGS, goods)
    text = greeting + _fill(rng, words.LEADS, goods)
    if offer != "无":
        text += rng.choice(words.OFFER_LINES).format(offer=offer)
    text += rng.choice(words.CALLS)
    return copy_prompt(rng.choice(words.CHANNELS), goods.name, goods.attributes, offer, habit, last), text


def review_text(rng: random.Random, goods: Goods, stars: int) -> str:
    """Return what a customer with `stars` stars writes: praise, blame, or some of each."""
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


def review(rng: random.Random) -> tuple[str, ...]:
    """Return the review task: product and stars in, a customer's words out."""
    goods, stars = make_goods(rng), rng.choice((1, 2, 3, 4, 5, 5))
    return review_prompt(goods.name, stars), review_text(rng, goods, stars)


def opinion(rng: random.Random) -> tuple[str, ...]:
    """Return the sentiment task: a review in, one word out."""
    stars = rng.choice((1, 2, 3, 3, 4, 5))
    return sentiment_prompt(review_text(rng, make_goods(rng), stars)), sentiment(stars)


def service(rng: random.Random) -> tuple[str, ...]:
    """Return the service task: intent, order status and question in, a reply out."""
    intent = rng.choice(list(words.SERVICE))
    questions, replies = words.SERVICE[intent]
    goods, status = make_goods(rng), rng.choice(list(replies))
    return reply_prompt(intent, status, _fill(rng, questions, goods)), _fill(rng, replies[status], goods)


def repurchase(rng: random.Random) -> tuple[str, ...]:
    """Return the repurchase task in Chinese: what was bought and when in, what comes next out."""
    chosen = rng.sample(CATEGORIES, k=rng.randint(1, 4))
    basket = [make_goods(rng, rng.choice(chosen)) for _ in range(rng.randint(2, 7))]
    return _history(rng, {one.name: one.category.days for one in basket}, "zh")


def repurchase_english(rng: random.Random) -> tuple[str, ...]:
    """Return the repurchase task in English."""
    aisles = rng.choices(list(words.ENGLISH_GOODS.values()), k=rng.randint(2, 7))
    goods = {_english_name(rng, rng.choice(aisle)): rng.choice((7, 14, 30)) for aisle in aisles}
    return _history(rng, goods, "en")


def profile(rng: random.Random) -> tuple[str, ...]:
    """Return a customer's profile: recency, frequency and money from 1 to 5 in, tags and a sentence out."""
    recency, frequency, money = (rng.randint(1, 5) for _ in range(3))
    names = "、".join(one.name for one in rng.sample(CATEGORIES, k=rng.randint(1, 3)))
    spend, offers = words.SPENDS[(money - 1) // 2], rng.choice(words.SPENDS)
    tag = _profile_tag(recency, frequency)
    line = rng.choice(words.PROFILE_LINES[tag])
    prompt = f"【画像】R{recency}F{frequency}M{money}｜品类:{names}｜价位:{spend}｜促销敏感:{offers}｜画像:"
    return prompt, f"{tag}，{line}常买{names}，价位{spend}，对优惠的反应{offers}。"


def history_prose(rng: random.Random) -> tuple[str, ...]:
    """Return a customer's purchases told in sentences."""
    bought = [(make_goods(rng), rng.choice(GAPS)) for _ in range(rng.randint(2, 4))]
    lines = "，".join(f"买过{rng.randint(1, 6)}次{one.name}（{ago(days, 'zh')}）" for one, days in bought)
    favourite, rhythm = bought[0][0], rng.choice(RHYTHM["zh"])
    return (f"这位客户是{rhythm}客户，{lines}。最喜欢{favourite.noun}，因为{rng.choice(favourite.category.good)}。",)


def listing_english(rng: random.Random) -> tuple[str, ...]:
    """Return an English product name with its aisle."""
    aisle = rng.choice(list(words.ENGLISH_GOODS))
    names = rng.sample(words.ENGLISH_GOODS[aisle], k=3)
    return (f"{aisle}: " + ", ".join(_english_name(rng, name) for name in names),)


KINDS: Mapping[str, tuple[float, Callable[[random.Random], tuple[str, ...]]]] = {
    "trade/listing": (12, listing),
    "trade/description": (14, description),
    "trade/copy": (16, copy),
    "trade/review": (14, review),
    "trade/sentiment": (8, opinion),
    "trade/service": (10, service),
    "trade/repurchase": (14, repurchase),
    "trade/profile": (4, profile),
    "trade/history": (3, history_prose),
    "trade/english": (2, listing_english),
    "trade/repurchase-english": (6, repurchase_english),
}


def _history(rng: random.Random, periods: Mapping[str, int], lang: str) -> tuple[str, ...]:
    """Return prompt and target for items with typical `periods` in days: what is bought often and due comes next."""
    habit = Habit(rng.randrange(3), rng.choice(GAPS))
    bought = [Bought(name, rng.choice((1, 1, 2, 3, 4, 6, 9)), rng.choice(GAPS)) for name in periods]
    bought.sort(key=lambda one: one.days_ago)
    due = {b.name: b.times * min(1.0, b.days_ago / periods[b.name]) * rng.uniform(0.5, 1.5) for b in bought}
    ranked = sorted(due, key=due.__getitem__, reverse=True)
    return repurchase_prompt(habit, bought, lang), joiner(lang).join(ranked[: rng.randint(1, 3)])


def _english_name(rng: random.Random, name: str) -> str:
    return f"{rng.choice(words.ENGLISH_QUALITIES)} {name}" if rng.random() < 0.4 else name


def _profile_tag(recency: int, frequency: int) -> str:
    """Return the customer's tag from recency and frequency scores, 5 the best."""
    if recency <= 2:
        return "沉睡"
    if frequency >= 4:
        return "常客"
    return "新客" if frequency <= 2 and recency >= 4 else "稳定"


def _fill(rng: random.Random, lines: Sequence[str], goods: Goods) -> str:
    """Return one of `lines` with its slots filled from `goods`."""
    key, value = rng.choice(list(goods.attributes.items()))
    point, point2 = rng.sample(goods.category.points, k=2)
    scene, scene2 = rng.sample(goods.category.scenes, k=2)
    return rng.choice(lines).format(
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
        offer=rng.choice([one for one in words.OFFERS if one != "无"]),
        polite=rng.choice(words.POLITE),
    )


def _some(rng: random.Random, lines: Sequence[str], most: int) -> list[str]:
    return rng.sample(lines, k=rng.randint(1, most))


def _mixed(rng: random.Random, items: list[Item]) -> list[Item]:
    return rng.sample(items, k=len(items))


def main() -> None:
    """Write a corpus from the command line."""
    parser = argparse.ArgumentParser(description="Write made-up e-commerce text, one JSON document a line.")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    write_corpus(given.out, given.documents, given.seed)


if __name__ == "__main__":
    main()
