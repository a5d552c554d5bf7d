from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from client.data.customers import (
    BASKET_ITEMS,
    LONG_GAP,
    RECENT_ITEMS,
    Basket,
    Customer,
    Tally,
    baskets,
    gather,
    habit,
    history_before,
    next_prompt,
    offer_prompt,
    pose,
)
from common.schema import Campaign, Dialog, Order, Product, Review, Shop
from common.text import Bought, Example, Habit

DAY = datetime(2026, 1, 1, 9)
TEA = Product(item_id="A", name="茉莉花茶", attributes={"产地": "福建"})
CAKE = Product(item_id="B", name="绿豆糕")
PRODUCTS = {"A": TEA, "B": CAKE}


def on(day: int) -> datetime:
    return DAY + timedelta(days=day)


def order(customer: str, day: int, item: str, order_id: str = "", name: str = "") -> Order:
    return Order(customer_id=customer, order_time=on(day), item_id=item, item_name=name, order_id=order_id)


ORDERS = [
    order("c2", 40, "B"),
    order("c1", 14, "A"),
    order("c1", 0, "A"),
    order("c1", 7, "B"),
    order("c1", 7, "A"),
]
REVIEW = Review(review_id="R1", customer_id="c1", item_id="A", time=on(8), rating=5, text="很香\n下次再买")
DIALOG = Dialog(
    dialog_id="D1", customer_id="c3", time=on(9), intent="物流", status="已发货", question="到哪了", answer="在路上"
)
CAMPAIGN = Campaign(
    campaign_id="M1", customer_id="c1", item_id="A", time=on(12), channel="短信", offer="满50减5", text="茶又到了"
)
SHOP = Shop("s", "茶铺", "zh", ORDERS, [TEA, CAKE], [REVIEW], [DIALOG], [CAMPAIGN])


def posed_by(customer: str, shop: Shop = SHOP) -> list[Example]:
    who = next(one for one in gather(shop) if one.id == customer)
    return [one.example for one in pose(who, PRODUCTS, shop.lang)]


# --- rows to customers ---


def test_everybody_who_left_a_row_is_a_customer_once_in_the_order_of_ids() -> None:
    assert [one.id for one in gather(SHOP)] == ["c1", "c2", "c3"]


def test_a_customers_book_holds_the_customers_own_rows_in_order_of_time(shop: Shop) -> None:
    customers = gather(shop)
    assert sum(len(one.reviews) for one in customers) == len(shop.reviews)
    assert sum(len(one.campaigns) for one in customers) == len(shop.campaigns)
    assert sum(len(one.dialogs) for one in customers) == len(shop.dialogs)
    for one in customers:
        assert all(row.customer_id == one.id for row in one.reviews)
        assert all(row.customer_id == one.id for row in one.dialogs)
        assert all(row.customer_id == one.id for row in one.campaigns)
        assert [basket.time for basket in one.baskets] == sorted(basket.time for basket in one.baskets)
        mine = {order.item_id for order in shop.orders if order.customer_id == one.id}
        assert {item for basket in one.baskets for item in basket.items} == mine


def test_a_basket_is_an_order_id_or_a_day() -> None:
    rows = [order("c", 0, "A", "o1"), order("c", 0, "B", "o2"), order("c", 3, "A"), order("c", 3, "B")]
    assert [list(one.items) for one in baskets(rows, {})] == [["A"], ["B"], ["A", "B"]]


def test_an_item_is_called_by_the_catalogue_else_by_the_order_else_by_its_id() -> None:
    rows = [order("c", 0, "A", name="旧名"), order("c", 0, "X", name=" 某\u200b物 "), order("c", 0, "Y")]
    assert baskets(rows, {"A": "茉莉花茶"})[0].items == {"A": "茉莉花茶", "X": "某物", "Y": "Y"}


def test_history_is_what_lies_strictly_before() -> None:
    who = gather(SHOP)[0]
    assert [one.time for one in history_before(who, on(7))] == [on(0)]


# --- habits ---


@pytest.mark.parametrize(
    ("days", "asked", "expected"),
    [
        ([], 10, Habit(0, LONG_GAP)),
        ([0], 10, Habit(0, LONG_GAP)),
        ([0, 7], 14, Habit(1, 7)),
        ([0, 7, 14], 21, Habit(2, 7)),
        ([0, 90], 91, Habit(0, 90)),
        ([0, 0], 0, Habit(1, 0)),
    ],
)
def test_a_habit_is_how_often_and_how_far_apart(days: list[int], asked: int, expected: Habit) -> None:
    assert habit([Basket(on(day), {"A": "茶"}) for day in days], on(asked)) == expected


def test_recent_items_are_those_bought_most_often_and_later_ones_first_among_equals() -> None:
    who = gather(SHOP)[0]
    assert Tally(who.baskets).recent(on(20)) == [Bought("茉莉花茶", 3, 6), Bought("绿豆糕", 1, 13)]
    many = [Basket(on(day), {f"i{day}": f"第{day}样"}) for day in range(RECENT_ITEMS + 3)]
    assert [one.name for one in Tally(many).recent(on(20))] == [f"第{day}样" for day in range(RECENT_ITEMS + 2, 2, -1)]


# --- tasks ---


def test_known_orders_give_exactly_this_prompt_and_target() -> None:
    buying = [one for one in posed_by("c1") if one.task == "复购"]
    assert buying == [Example("复购", "【复购】客户:中频·周期1周｜近购:茉莉花茶×2·1周;绿豆糕×1·1周｜会买:", "茉莉花茶")]


def test_reviews_dialogs_and_campaigns_give_exactly_these_tasks() -> None:
    assert posed_by("c1")[:3] == [
        Example("情感", "【情感】评价:很香 下次再买｜情感:", "正面"),
        Example("评价", "【评价】商品:茉莉花茶｜星级:5｜评价:", "很香 下次再买"),
        Example(
            "文案",
            "【文案】渠道:短信｜商品:茉莉花茶｜属性:产地#福建｜优惠:满50减5｜客户:中频·上次1周｜文案:",
            "茶又到了",
        ),
    ]
    assert posed_by("c3") == [Example("客服", "【客服】意图:物流｜状态:已发货｜问题:到哪了｜回复:", "在路上")]
    assert posed_by("c2") == []


def test_an_english_shop_poses_repurchase_only() -> None:
    shop = Shop("s", "shop", "en", ORDERS, [TEA, CAKE], [REVIEW], [DIALOG], [CAMPAIGN])
    (one,) = posed_by("c1", shop)
    assert one.task == "repurchase"
    assert one.prompt.startswith("[repurchase] customer: regular, every 1 week | recent: ")


def test_a_target_names_the_first_items_of_a_basket_only() -> None:
    rows = [order("c", day, f"i{item}", name=f"物{item}") for day in (0, 5, 9) for item in range(BASKET_ITEMS + 4)]
    (one,) = posed_by("c", Shop("s", "s", "zh", rows, []))
    assert one.target == "、".join(f"物{item}" for item in range(BASKET_ITEMS))


def test_a_campaign_or_review_for_an_item_that_is_not_in_the_catalogue_poses_nothing_about_it() -> None:
    odd = [CAMPAIGN.model_copy(update={"item_id": "Z"})], [REVIEW.model_copy(update={"item_id": "Z"})]
    shop = Shop("s", "s", "zh", [], [TEA], odd[1], [], odd[0])
    assert [one.task for one in posed_by("c1", shop)] == ["情感"]


def test_tasks_stand_in_order_of_time_and_look_back_only(shop: Shop) -> None:
    products = {product.item_id: product for product in shop.products}
    for who in gather(shop):
        posed = pose(who, products, shop.lang)
        assert [one.time for one in posed] == sorted(one.time for one in posed)
        for cut in (posed[len(posed) // 2].time,) if posed else ():
            known = Customer(
                who.id,
                [one for one in who.baskets if one.time < cut],
                [one for one in who.reviews if one.time < cut],
                [one for one in who.dialogs if one.time < cut],
                [one for one in who.campaigns if one.time < cut],
            )
            assert pose(known, products, shop.lang) == [one for one in posed if one.time < cut]


def test_an_offer_never_bought_before_counts_as_long_ago() -> None:
    who = gather(SHOP)[1]
    assert "客户:低频·上次3个月以上｜" in offer_prompt(who, TEA, on(60), "短信", "")
    assert "客户:低频·上次2周｜" in offer_prompt(who, CAKE, on(60), "短信", "")


def test_a_stranger_can_be_asked_about_too() -> None:
    assert next_prompt([], on(0), "zh") == "【复购】客户:低频·周期3个月以上｜近购:｜会买:"
