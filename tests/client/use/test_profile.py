from __future__ import annotations

from datetime import datetime, timedelta

from client.data.customers import Basket, Customer
from client.use.profile import profile
from common.schema import Product, Review

DAY = datetime(2026, 6, 1, 20)
PRODUCTS = {
    "A": Product(item_id="A", name="花茶", category="茶叶", brand="青禾", price=50.0),
    "B": Product(item_id="B", name="酥", category="点心", brand="小满", price=30.0),
}


def buyer() -> Customer:
    baskets = [
        Basket(DAY - timedelta(days=days), {"A": "花茶"} if days != 20 else {"A": "花茶", "B": "酥"}, {"A": 40.0}, 40.0)
        for days in (40, 30, 20, 10)
    ]
    return Customer(
        "c",
        baskets,
        [Review(review_id="r", customer_id="c", item_id="A", time=DAY - timedelta(days=5), rating=5, text="花香花香")],
    )


def test_every_tag_carries_its_evidence() -> None:
    tags = {one.kind: one for one in profile(buyer(), PRODUCTS, DAY, "zh")}
    assert set(tags) == {"segment", "rfm", "category", "brand", "price", "offers", "rhythm", "due", "when", "interest"}
    assert tags["rfm"].value == "R4F3M2"
    assert tags["rfm"].evidence == "上次下单 10 天前；近一年 4 单，共 160.00"
    assert tags["due"].value == f"{DAY:%Y-%m-%d}"
    assert tags["offers"].value == "高"
    assert tags["offers"].evidence.startswith("4/4 件")
    assert tags["rhythm"].evidence == "4 单，平均间隔 10 天"


def test_likings_are_counted_over_the_year() -> None:
    found = [(one.value, one.evidence) for one in profile(buyer(), PRODUCTS, DAY, "en") if one.kind == "category"]
    assert found == [("茶叶", "4 of 5 items within a year"), ("点心", "1 of 5 items within a year")]


def test_nothing_later_is_known_and_nobody_without_orders_has_a_profile() -> None:
    early = profile(buyer(), PRODUCTS, DAY - timedelta(days=35), "zh")
    assert {one.kind for one in early} == {"segment", "rfm", "category", "brand", "price", "offers", "rhythm"}
    assert profile(Customer("x", []), PRODUCTS, DAY, "zh") == []
    assert profile(buyer(), PRODUCTS, DAY - timedelta(days=400), "zh") == []
