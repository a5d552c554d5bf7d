from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.customers import (
    BASKET_ITEMS,
    LONG_GAP,
    POSED,
    RECENT_ITEMS,
    Basket,
    Customer,
    Customers,
    Posed,
    Shelf,
    Tally,
    baskets,
    gather,
    habit,
    held_out_item,
    history_before,
    known_before,
    next_prompt,
    offer_prompt,
    portrait,
    pose,
)
from client.data.table import Table
from common.schema import Campaign, Dialog, Order, Product, Review, Row, Shop
from common.text import TASKS, Bought, Example, Habit, Portrait

R = TypeVar("R", bound=Row)
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


def test_an_english_shop_poses_the_same_tasks_in_english() -> None:
    english = posed_by("c1", replace(SHOP, lang="en"))
    assert [TASKS[one.task].zh for one in english] == [one.task for one in posed_by("c1")]
    assert english[:2] == [
        Example("sentiment", "[sentiment] review: 很香 下次再买 | sentiment: ", "positive"),
        Example("review", "[review] item: 茉莉花茶 | stars: 5 | review: ", "很香 下次再买"),
    ]
    assert english[2].prompt.endswith("| offer: 满50减5 | customer: regular, last 1 week | copy: ")
    assert english[3].prompt.startswith("[repurchase] customer: regular, every 1 week | recent: ")


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
            assert pose(known_before(who, cut), products, shop.lang) == [one for one in posed if one.time < cut]


def test_an_offer_never_bought_before_counts_as_long_ago() -> None:
    who = gather(SHOP)[1]
    assert "客户:低频·上次3个月以上｜" in offer_prompt(who, TEA, on(60), "短信", "")
    assert "客户:低频·上次2周｜" in offer_prompt(who, CAKE, on(60), "短信", "")


def test_a_stranger_can_be_asked_about_too() -> None:
    assert next_prompt([], on(0), "zh") == "【复购】客户:低频·周期3个月以上｜近购:｜会买:"


# --- judgement, profile, history, description ---


def posed_of(task: str, who: Customer, products: dict[str, Product] = PRODUCTS, lang: str = "zh") -> list[Posed]:
    return pose(who, products, lang, tasks={task})


def test_a_judgement_asks_about_one_of_the_items_bought_most_in_turn_whatever_the_answer() -> None:
    days = [Basket(on(10 * day), {"A": "茶"} if day % 2 else {"A": "茶", "B": "糕"}) for day in range(6)]
    asked = [one.example for one in posed_of("judgement", Customer("c", days))]
    assert [one.prompt.split("候选:")[1] for one in asked] == [
        "茶×2·1周·已到期｜会买:",
        "糕×2·1周·未到期｜会买:",
        "茶×4·1周·已到期｜会买:",
        "糕×3·1周·未到期｜会买:",
    ]
    assert [one.target for one in asked] == ["是", "否", "是", "否"]
    assert [one.target for one in (row.example for row in posed_of("judgement", Customer("c", days), lang="en"))] == [
        "yes", "no", "yes", "no",
    ]  # fmt: skip


def test_profile_and_history_are_posed_once_as_seen_before_the_newest_basket() -> None:
    who = gather(SHOP)[0]
    (told,) = posed_of("history", who)
    assert told.time == on(14)
    assert told.example == Example(
        "履历",
        "【履历】客户:中频·周期1周｜近购:茉莉花茶×2·1周;绿豆糕×1·1周｜履历:",
        "这位客户是中频客户，大约1周来一次，买过2次茉莉花茶（1周），买过1次绿豆糕（1周）。",
    )
    (seen,) = posed_of("profile", who)
    assert seen.time == on(14)
    assert seen.example.prompt == "【画像】R5F2M1｜品类:无｜价位:中｜促销敏感:低｜画像:"
    assert seen.example.target == "新客，刚认识我们不久，价位中，对优惠的反应低。"


def test_a_portrait_reads_a_years_orders_against_the_catalogue_and_public_steps() -> None:
    shelf = {
        "A": Product(item_id="A", name="茶", category="茶", price=80),
        "B": Product(item_id="B", name="糕", category="点心", price=10),
        "C": Product(item_id="C", name="粗茶", category="茶", price=20),
    }
    sold = [(-400, "B", 10.0, 99), (0, "A", 80.0, 1), (20, "A", 40.0, 2), (30, "B", 10.0, 1), (40, "A", 40.0, 1)]
    rows = [
        Order(customer_id="c", order_time=on(day), item_id=item, price=price, quantity=number)
        for day, item, price, number in sold
    ]
    history = baskets(rows, {})
    # median list price 20: (80 + 80 + 10 + 40) / 20 = 10.5 since last year; tea at 80 / 50, cake at 10 / 10
    assert portrait(history, shelf, on(50)) == Portrait(4, 3, 3, ("茶", "点心"), 2, 2)
    assert portrait(history, shelf, on(41)).recency == 5
    assert portrait(history[:1], shelf, on(50)) == portrait([], shelf, on(50)) == Portrait(1, 1, 1, (), 1, 0)
    assert portrait(history, {}, on(50)) == Portrait(4, 3, 5, (), 1, 0)


def test_the_shelf_is_the_catalogue_with_its_list_prices() -> None:
    shelf = Shelf(
        {name: Product(item_id=name, name=name, price=price) for name, price in (("A", 10), ("B", 30), ("C", 0))}
    )
    assert (len(shelf), list(shelf), shelf.typical) == (3, ["A", "B", "C"], 20)
    assert [shelf.dearness(item) for item in ("A", "B", "C", "Z")] == [0.5, 1.5, None, None]
    assert Shelf({}).typical == 1


def test_a_description_is_posed_of_what_was_bought_and_never_both_trained_on_and_evaluated() -> None:
    items = [f"i{number}" for number in range(40)]
    products = {one: Product(item_id=one, name=f"物{one}", description=f"关于 {one}\n") for one in items}
    products["i1"] = products["i1"].model_copy(update={"description": ""})
    who = Customer("c", [Basket(on(day), {"i0": "物", one: "物", "Z": "外"}) for day, one in enumerate(items)])
    trained, judged = (
        pose(who, products, "zh", tasks={"description"}, most=99),
        pose(who, products, "zh", since=on(0), tasks={"description"}, most=99),
    )
    later = {f"关于 {one}" for one in items if held_out_item(one)}
    assert {one.example.target for one in judged} == later
    assert {one.example.target for one in trained} == {f"关于 {one}" for one in items if one != "i1"} - later
    assert 3 < len(later) < 15
    assert trained[0].example.prompt.startswith("【描述】商品:物i")


# --- bounds and time ---


def busy(days: Sequence[int], who: str = "c") -> Shop:
    """Return a shop in which one customer leaves a row of every kind on each of `days`."""
    orders = [order(who, day, item, f"o{day}") for day in days for item in ("A", f"x{day}")]
    reviews = [
        Review(review_id=f"R{day}", customer_id=who, item_id="A", time=on(day), rating=1 + day % 5, text=f"评{day}")
        for day in days
    ]
    dialogs = [
        Dialog(dialog_id=f"D{day}", customer_id=who, time=on(day), question=f"问{day}", answer=f"答{day}")
        for day in days
    ]
    campaigns = [
        Campaign(campaign_id=f"M{day}", customer_id=who, item_id="A", time=on(day), text=f"文{day}") for day in days
    ]
    products = [
        Product(item_id=item, name=f"物{item}", description=f"述{item}") for item in ("A", *(f"x{day}" for day in days))
    ]
    return Shop("s", "s", "zh", orders, products, reviews, dialogs, campaigns)


@pytest.mark.parametrize("key", TASKS)
def test_nobody_poses_a_task_more_often_than_the_bound_and_the_newest_stay(key: str) -> None:
    shop = busy(range(POSED + 20))
    (who,), products = gather(shop), {product.item_id: product for product in shop.products}
    every = pose(who, products, "zh", tasks={key}, most=10**6)
    assert pose(who, products, "zh", tasks={key}) == every[-POSED:]
    assert pose(who, products, "zh", tasks={key}, most=3) == every[-3:]
    assert len(every) > POSED or key in ("profile", "history")


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize("key", sorted(set(TASKS) - {"description"}))
def test_no_prompt_says_anything_that_happened_at_its_own_time_or_later(key: str, lang: str) -> None:
    shop = busy(range(0, 60, 3))
    products = {product.item_id: product for product in shop.products}
    for cut in (on(15), on(30), on(57)):

        def asked(rows: Shop, cut: datetime = cut) -> set[str]:
            (who,) = gather(rows)
            posed = pose(who, products, lang, until=cut + timedelta(days=1), tasks={key})
            return {one.example.prompt for one in posed if one.time == cut}

        own = {"sentiment": f"评{(cut - DAY).days}", "reply": f"问{(cut - DAY).days}"}  # what is asked about
        expected = {prompt.replace(own.get(key, "\n"), "坏") for prompt in asked(shop)}
        assert asked(_spoilt(shop, cut)) == expected != set()


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize("key", TASKS)
def test_what_is_posed_before_a_day_does_not_depend_on_any_row_of_that_day_or_later(key: str, lang: str) -> None:
    shop = busy(range(0, 60, 3))
    products = {product.item_id: product for product in shop.products}
    for cut in (on(15), on(30)):
        (known,), (spoilt,), (cut_short,) = gather(shop), gather(_spoilt(shop, cut)), gather(_spoilt(shop, cut), cut)
        posed = pose(known, products, lang, until=cut, tasks={key})
        assert posed
        assert pose(spoilt, products, lang, until=cut, tasks={key}) == posed
        assert pose(known_before(spoilt, cut), products, lang, tasks={key}) == posed
        assert pose(cut_short, products, lang, tasks={key}) == posed


def test_an_order_written_over_several_days_says_nothing_of_its_later_days() -> None:
    rows = [order("c", day, item, "o1") for day, item in ((0, "A"), (9, "B"))]
    assert [list(one.items) for one in baskets(rows, {})] == [["A"], ["B"]]
    shop = Shop("s", "s", "zh", [*rows, order("c", 2, "C", "o2")], [])
    (who,) = gather(shop, on(5))
    assert [list(one.items) for one in who.baskets] == [["A"], ["C"]]


def test_two_orders_of_one_moment_know_nothing_of_each_other() -> None:
    rows = [order("c", day, item, f"o{day}{item}") for day in (0, 5, 9) for item in "AB"]
    (who,) = gather(Shop("s", "s", "zh", rows, []))
    last = [one.example.prompt for one in pose(who, {}, "zh") if one.time == on(9)]
    assert len(last) == 2
    assert len(set(last)) == 1


def _spoilt(shop: Shop, cut: datetime) -> Shop:
    """Return the shop with another item, other words and twice as many rows from `cut` on."""
    return replace(
        shop,
        orders=[
            row
            if row.order_time < cut
            else row.model_copy(update={"item_id": "x3", "order_id": f"{row.order_id}/{copy}"})
            for row in shop.orders
            for copy in range(1 if row.order_time < cut else 2)
        ],
        reviews=[row if row.time < cut else row.model_copy(update={"text": "坏"}) for row in shop.reviews],
        dialogs=[
            row if row.time < cut else row.model_copy(update={"question": "坏", "answer": "坏"}) for row in shop.dialogs
        ],
        campaigns=[row if row.time < cut else row.model_copy(update={"text": "坏"}) for row in shop.campaigns],
    )


@given(st.lists(st.tuples(st.integers(0, 9), st.sets(st.sampled_from("ABCDEFG"), min_size=1)), max_size=25))
def test_the_tally_kept_up_to_date_is_the_one_counted_afresh(bought: list[tuple[int, set[str]]]) -> None:
    history = [
        Basket(on(day), {item: item for item in sorted(items)}) for day, items in sorted(bought, key=lambda one: one[0])
    ]
    kept = Tally(limit=3)
    for place, basket in enumerate(history):
        kept.add(basket)
        seen = history[: place + 1]
        times = {item: sum(item in one.items for one in seen) for one in seen for item in one.items}
        last = {item: max(one.time for one in seen if item in one.items) for item in times}
        ranked = sorted(times, key=lambda item: (-times[item], -last[item].timestamp(), item))
        assert list(kept.items) == ranked[:3]


# --- a shop by columns ---


def by_columns(kind: type[R], rows: Sequence[R]) -> Table[R]:
    return Table.sorted(kind, pl.DataFrame([row.model_dump() for row in rows], infer_schema_length=None))


def columnar(shop: Shop) -> Shop:
    """Return the shop with tables by columns, as they are read from files."""
    return replace(
        shop,
        orders=by_columns(Order, shop.orders),
        reviews=by_columns(Review, shop.reviews),
        dialogs=by_columns(Dialog, shop.dialogs),
        campaigns=by_columns(Campaign, shop.campaigns),
    )


def test_a_shop_by_columns_has_the_same_customers_as_a_shop_by_rows(shop: Shop) -> None:
    assert gather(columnar(shop)) == gather(shop)
    assert gather(columnar(SHOP), on(9)) == gather(SHOP, on(9))


def test_columns_and_cells_that_are_missing_take_the_schemas_defaults() -> None:
    frame = pl.DataFrame(
        {
            "customer_id": ["c", "c"],
            "order_time": [on(0), on(1)],
            "item_id": ["A", "B"],
            "quantity": [None, 2.0],
            "price": [3.0, 4.0],
        }
    )
    (who,) = gather(Shop("s", "s", "zh", Table(Order, frame), [TEA]))
    assert [(one.items, one.prices, one.spent) for one in who.baskets] == [
        ({"A": "茉莉花茶"}, {"A": 3.0}, 3.0),
        ({"B": "B"}, {"B": 4.0}, 8.0),
    ]


def test_tables_without_a_row_or_column_have_no_customers() -> None:
    empty = Table(Order, pl.DataFrame())
    assert gather(Shop("s", "s", "zh", empty, [])) == gather(Shop("s", "s", "zh", [], [])) == []
    (who,) = gather(replace(SHOP, orders=empty, reviews=[], campaigns=[]))
    assert (who.id, who.baskets) == ("c3", [])


def test_customers_are_found_by_place_slice_and_in_turn() -> None:
    customers = Customers(SHOP)
    assert len(customers) == 3
    assert [one.id for one in customers] == [customers[place].id for place in range(3)] == ["c1", "c2", "c3"]
    assert [one.id for one in customers[1:]] == ["c2", "c3"]
    assert customers[-1].id == "c3"
    with pytest.raises(IndexError):
        customers[3]


def test_a_customer_whose_rows_are_all_later_is_still_a_customer_with_an_empty_book() -> None:
    late = gather(SHOP, on(9))
    assert [(one.id, len(one.baskets), len(one.reviews)) for one in late] == [("c1", 2, 1), ("c2", 0, 0), ("c3", 0, 0)]


class Counted(Table[Order]):
    """A table that counts the rows it makes objects of."""

    made = 0

    def _rows(self, frame: pl.DataFrame) -> list[Order]:
        Counted.made += frame.height
        return super()._rows(frame)

    def __iter__(self) -> Iterator[Order]:
        raise AssertionError("a table of orders is not walked through row by row")


def test_grouping_a_shop_by_columns_makes_no_object_of_any_order_line() -> None:
    lines = 50_000
    frame = pl.DataFrame(
        {
            "customer_id": [f"c{number % 5_000}" for number in range(lines)],
            "order_time": [on(number // 5_000) for number in range(lines)],
            "item_id": [f"i{number % 7}" for number in range(lines)],
        }
    )
    customers = Customers(Shop("s", "s", "zh", Counted(Order, frame), []))
    assert len(customers) == 5_000
    assert [len(basket.items) for basket in customers[77].baskets] == [1] * 10
    assert Counted.made == 0
