"""The tables of a small invented shop, as CSV, in Chinese or English: what a newcomer finds in a fresh folder.

Every customer, order and word is made up. Customers come back in their own rhythms, so that `check` and `metrics` have
something to say.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from common.schema import TABLES

START = datetime(2026, 1, 5, 9, 30)

RHYTHMS = (
    (0, (0,), 9, 14),
    (3, (1,), 12, 11),
    (7, (2, 0), 15, 9),
    (12, (3,), 21, 6),
    (16, (4, 1), 28, 5),
    (25, (0, 2), 31, 4),
    (33, (5,), 18, 6),
    (47, (1, 5), 40, 3),
    (58, (2,), 26, 3),
    (71, (3, 4), 33, 2),
    (90, (4,), 0, 1),
    (118, (5,), 0, 1),
)
"""One customer a line: day of the first order after `START`, items taken, days between orders, number of orders."""


@dataclass(frozen=True)
class Words:
    """What the tables say in one language; headers in the order of the schema's fields."""

    headers: Mapping[str, Mapping[str, str]]
    products: Sequence[Mapping[str, str]]
    reviews: Sequence[tuple[int, int, int, str]]
    """(customer, item, stars, text)"""
    dialogs: Sequence[tuple[int, str, str, str, str]]
    """(customer, intent, status, question, answer)"""
    campaigns: Sequence[tuple[int, int, str, str, str]]
    """(customer, item, channel, offer, text)"""


ZH = Words(
    {
        "orders": {
            "order_id": "订单号",
            "customer_id": "客户编号",
            "order_time": "下单时间",
            "item_id": "商品编号",
            "item_name": "商品名称",
            "quantity": "数量",
            "price": "单价",
        },
        "products": {
            "item_id": "商品编号",
            "name": "商品名称",
            "category": "类目",
            "brand": "品牌",
            "price": "单价",
            "attributes": "属性",
            "description": "描述",
        },
        "reviews": {
            "review_id": "评价编号",
            "customer_id": "客户编号",
            "item_id": "商品编号",
            "time": "评价时间",
            "rating": "星级",
            "text": "评价内容",
        },
        "dialogs": {
            "dialog_id": "会话编号",
            "customer_id": "客户编号",
            "time": "咨询时间",
            "intent": "意图",
            "status": "状态",
            "question": "问题",
            "answer": "回复",
        },
        "campaigns": {
            "campaign_id": "活动编号",
            "customer_id": "客户编号",
            "item_id": "商品编号",
            "time": "发送时间",
            "channel": "渠道",
            "offer": "优惠",
            "text": "文案",
        },
    },
    (
        {
            "item_id": "P1",
            "name": "意式拼配咖啡豆",
            "category": "咖啡",
            "brand": "半山烘焙",
            "price": "68.00",
            "attributes": "烘焙#中深*规格#250g*风味#坚果",
            "description": "坚果和可可的底色，做奶咖不会被牛奶盖住。",
        },
        {
            "item_id": "P2",
            "name": "云南日晒咖啡豆",
            "category": "咖啡",
            "brand": "半山烘焙",
            "price": "75.00",
            "attributes": "烘焙#中浅*规格#200g*风味#莓果",
            "description": "闻起来像一碗熟透的莓子，放凉了更甜。",
        },
        {
            "item_id": "P3",
            "name": "挂耳咖啡",
            "category": "咖啡",
            "brand": "半山烘焙",
            "price": "49.00",
            "attributes": "规格#10包*风味#焦糖",
            "description": "撕开、挂上、注水，三分钟喝到现磨的味道。",
        },
        {
            "item_id": "P4",
            "name": "燕麦饼干",
            "category": "点心",
            "brand": "麦仓",
            "price": "26.00",
            "attributes": "规格#180g*口味#原味",
            "description": "烤得够干，咬下去有响声，配咖啡不抢味。",
        },
        {
            "item_id": "P5",
            "name": "海盐黑巧",
            "category": "点心",
            "brand": "麦仓",
            "price": "32.00",
            "attributes": "规格#100g*可可#70%",
            "description": "先苦后咸，最后留一点回甘。",
        },
        {
            "item_id": "P6",
            "name": "无漂白滤纸",
            "category": "器具",
            "brand": "白露",
            "price": "19.00",
            "attributes": "规格#100张*尺寸#V60",
            "description": "纸味轻，流速稳，一盒用三个月。",
        },
    ),
    (
        (0, 0, 5, "豆子新鲜，养了一周再喝更顺，已经回购好几次"),
        (1, 1, 5, "莓果味很明显，手冲出来干净"),
        (2, 2, 4, "出差带着方便，就是外盒压扁了一点"),
        (3, 3, 3, "味道还行，比想象的硬"),
        (4, 4, 2, "到手有点化了，希望夏天加冰袋"),
        (6, 5, 5, "滤纸没有怪味，厚薄也合适"),
    ),
    (
        (0, "用法", "已签收", "这款豆子用多少度的水合适？", "您好，建议九十度左右，磨得稍粗一点，喝起来更圆润。"),
        (2, "物流", "已发货", "请问今天能到吗？", "您好，包裹已经到同城了，一般当天下午派送，请留意短信。"),
        (4, "售后", "已签收", "巧克力化了怎么办？", "非常抱歉，您拍一张照片发来，我们马上给您补发一份并加冰袋。"),
    ),
    (
        (0, 0, "短信", "满120减15", "常喝的那袋豆子该见底了吧？满120减15，续上明早的那一杯。"),
        (1, 1, "微信", "", "新一批云南日晒刚出炉，还是你喜欢的莓果调子。"),
        (3, 3, "短信", "第二件半价", "下午三点的小饼干，第二件半价，叫上同事一起。"),
    ),
)

EN = Words(
    {table: {name: name for name in one} for table, one in ZH.headers.items()},
    (
        {
            "item_id": "P1",
            "name": "house blend coffee beans",
            "category": "coffee",
            "brand": "Halfway Hill",
            "price": "9.80",
            "attributes": "roast#medium dark*size#250 g*taste#nuts",
            "description": "Nuts and cocoa; keeps its voice in milk.",
        },
        {
            "item_id": "P2",
            "name": "natural process coffee beans",
            "category": "coffee",
            "brand": "Halfway Hill",
            "price": "10.90",
            "attributes": "roast#medium light*size#200 g*taste#berries",
            "description": "Smells of ripe berries and gets sweeter as it cools.",
        },
        {
            "item_id": "P3",
            "name": "drip coffee bags",
            "category": "coffee",
            "brand": "Halfway Hill",
            "price": "7.10",
            "attributes": "size#10 bags*taste#caramel",
            "description": "Tear, hang, pour: a fresh cup in three minutes.",
        },
        {
            "item_id": "P4",
            "name": "oat biscuits",
            "category": "snacks",
            "brand": "Grain Loft",
            "price": "3.80",
            "attributes": "size#180 g*taste#plain",
            "description": "Baked dry enough to snap, quiet beside a coffee.",
        },
        {
            "item_id": "P5",
            "name": "sea salt dark chocolate",
            "category": "snacks",
            "brand": "Grain Loft",
            "price": "4.60",
            "attributes": "size#100 g*cocoa#70%",
            "description": "Bitter first, then salt, and a sweet end.",
        },
        {
            "item_id": "P6",
            "name": "unbleached paper filters",
            "category": "tools",
            "brand": "White Dew",
            "price": "2.80",
            "attributes": "size#100 sheets*shape#V60",
            "description": "Little taste of paper, an even flow, three months a box.",
        },
    ),
    (
        (0, 0, 5, "Fresh beans, better still after a week; my fourth bag already"),
        (1, 1, 5, "You can really taste the berries, a clean cup"),
        (2, 2, 4, "Handy on the road, though the box came a little crushed"),
        (3, 3, 3, "Fine, harder than I thought"),
        (4, 4, 2, "Arrived half melted, please add an ice pack in summer"),
        (6, 5, 5, "No smell, and just the right weight"),
    ),
    (
        (0, "usage", "delivered", "How hot should the water be?", "About ninety degrees, and grind a little coarser."),
        (
            2,
            "shipping",
            "shipped",
            "Will it come today?",
            "It is in your town already and usually arrives by afternoon.",
        ),
        (
            4,
            "service",
            "delivered",
            "The chocolate melted.",
            "We are sorry; send us a photo and a new one is on its way.",
        ),
    ),
    (
        (0, 0, "sms", "2 off 20", "Your usual bag must be nearly empty: 2 off 20 on the next one."),
        (1, 1, "mail", "", "A new batch of the natural process is out of the roaster, berries and all."),
        (3, 3, "sms", "second half price", "Biscuits at three? The second box is half price."),
    ),
)


def example_tables(lang: str) -> dict[str, str]:
    """Return file name -> CSV text of the invented shop's five tables.

    >>> example_tables("zh")["products.csv"].splitlines()[0]
    '商品编号,商品名称,类目,品牌,单价,属性,描述'
    """
    words = ZH if lang == "zh" else EN
    rows: dict[str, Iterable[Mapping[str, object]]] = {
        "orders": sorted(_orders(words), key=lambda row: str(row["order_time"])),
        "products": words.products,
        "reviews": _reviews(words),
        "dialogs": _dialogs(words),
        "campaigns": _campaigns(words),
    }
    return {f"{name}.csv": _csv(words.headers[name], rows[name]) for name in TABLES}


def _orders(words: Words) -> Iterator[Mapping[str, object]]:
    for who, (first, items, gap, count) in enumerate(RHYTHMS):
        for number in range(count):
            time = START + timedelta(days=first + gap * number + number % 3, minutes=37 * who + 11 * number)
            for item in items[: 1 + number % len(items)]:
                product = words.products[item]
                yield {
                    "order_id": f"T{who + 1:02d}{number + 1:02d}",
                    "customer_id": _customer(who),
                    "order_time": _minute(time),
                    "item_id": product["item_id"],
                    "item_name": product["name"],
                    "quantity": 1 + (who + number) % 2,
                    "price": product["price"],
                }


def _reviews(words: Words) -> Iterator[Mapping[str, object]]:
    for number, (who, item, stars, text) in enumerate(words.reviews):
        yield {
            "review_id": f"R{number + 1:02d}",
            "customer_id": _customer(who),
            "item_id": words.products[item]["item_id"],
            "time": _minute(_after(who, 4)),
            "rating": stars,
            "text": text,
        }


def _dialogs(words: Words) -> Iterator[Mapping[str, object]]:
    for number, (who, intent, status, question, answer) in enumerate(words.dialogs):
        yield {
            "dialog_id": f"D{number + 1:02d}",
            "customer_id": _customer(who),
            "time": _minute(_after(who, 2)),
            "intent": intent,
            "status": status,
            "question": question,
            "answer": answer,
        }


def _campaigns(words: Words) -> Iterator[Mapping[str, object]]:
    for number, (who, item, channel, offer, text) in enumerate(words.campaigns):
        yield {
            "campaign_id": f"M{number + 1:02d}",
            "customer_id": _customer(who),
            "item_id": words.products[item]["item_id"],
            "time": _minute(_after(who, 30)),
            "channel": channel,
            "offer": offer,
            "text": text,
        }


def _customer(who: int) -> str:
    return f"c{who + 1:02d}"


def _after(who: int, days: int) -> datetime:
    return START + timedelta(days=RHYTHMS[who][0] + days, hours=1 + who)


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"


def _csv(headers: Mapping[str, str], rows: Iterable[Mapping[str, object]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headers.values())
    writer.writerows([row[name] for name in headers] for row in rows)
    return text.getvalue()
