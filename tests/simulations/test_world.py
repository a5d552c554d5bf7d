"""The synthetic world: the same again for the same arguments, with the habits, repeats and words it promises."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, time, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import pytest

from common.errors import UserError
from common.schema import TABLES, Order, Shop
from simulations.words import campaigns
from simulations.words.catalogue import CATEGORIES, suiting
from simulations.world import HELD_OUT_WEEKS, START, Habit, make_shops, split_date, truth, write_shop

PHONE = re.compile(r"1[35789]\d{9}")


@pytest.fixture(scope="module")
def world() -> tuple[Shop, ...]:
    return make_shops()


@pytest.fixture(scope="module")
def small() -> tuple[Shop, ...]:
    return make_shops(2, 30, seed=3, weeks=20)


def histories(shop: Shop) -> dict[str, list[Order]]:
    by_customer: dict[str, list[Order]] = defaultdict(list)
    for order in shop.orders:
        by_customer[order.customer_id].append(order)
    return by_customer


def repeat_shares(shop: Shop) -> list[float]:
    """Return the share of known items in each customer's first basket after the split."""
    split, shares = split_date(shop), []
    for orders in histories(shop).values():
        known = {order.item_id for order in orders if order.order_time < split}
        later = [order for order in orders if order.order_time >= split]
        if known and later:
            basket = {order.item_id for order in later if order.order_id == later[0].order_id}
            shares.append(len(basket & known) / len(basket))
    return shares


def gaps(orders: Sequence[Order], item_id: str) -> list[float]:
    """Return the days between one customer's purchases of one item."""
    times = [order.order_time for order in orders if order.item_id == item_id]
    return [(later - earlier) / timedelta(days=1) for earlier, later in pairwise(times)]


def skeletons(shop: Shop, texts: Sequence[str]) -> set[str]:
    """Return the texts with product words, digits and the shop's name masked."""
    words = {word for product in shop.products for word in (product.name, product.brand, *product.attributes.values())}
    mask = re.compile("|".join(map(re.escape, sorted({*words, shop.name}, key=len, reverse=True))))
    return {re.sub(r"\d+", "#", mask.sub("□", text)) for text in texts}


def grams(texts: Sequence[str], size: int) -> list[str]:
    return [text[start : start + size] for text in texts for start in range(len(text) - size + 1)]


def test_the_same_arguments_make_the_same_world(small: tuple[Shop, ...]) -> None:
    assert make_shops(2, 30, seed=3, weeks=20) == small
    assert make_shops(2, 30, seed=4, weeks=20) != small


def test_one_more_merchant_changes_no_other(small: tuple[Shop, ...]) -> None:
    assert make_shops(3, 30, seed=3, weeks=20)[:2] == small
    assert truth(3, 30, seed=3, weeks=20)[: len(truth(2, 30, seed=3, weeks=20))] == truth(2, 30, seed=3, weeks=20)


def test_shops_have_names_products_and_customers_of_their_own(world: tuple[Shop, ...]) -> None:
    assert len(world) == 8
    assert len({shop.name for shop in world}) == 8
    assert all(shop.lang == "zh" and 60 <= len(shop.products) <= 120 for shop in world)
    assert all(len(histories(shop)) >= 220 for shop in world)


def test_every_row_belongs_to_a_product_and_an_attribute_list_is_never_empty(world: tuple[Shop, ...]) -> None:
    for shop in world:
        items = {product.item_id for product in shop.products}
        assert {row.item_id for rows in (shop.orders, shop.reviews, shop.campaigns) for row in rows} <= items
        assert len({product.name for product in shop.products}) == len(shop.products)
        assert all(len(product.attributes) >= 3 and product.description for product in shop.products)


def test_tables_are_in_order_of_time_and_inside_the_weeks(world: tuple[Shop, ...]) -> None:
    first, end = datetime.combine(START, time()), datetime.combine(START, time()) + timedelta(weeks=40)
    for shop in world:
        times = [order.order_time for order in shop.orders]
        assert times == sorted(times)
        assert first <= times[0] <= times[-1] < end


def test_loyal_customers_buy_at_the_interval_of_their_habit(world: tuple[Shop, ...]) -> None:
    orders = {(shop.id, customer): rows for shop in world for customer, rows in histories(shop).items()}
    ratios = []
    for habit in truth():
        seen = gaps(orders.get((habit.shop_id, habit.customer_id), []), habit.item_id)
        if habit.season == "全年" and len(seen) >= 10:
            ratios.append(mean(seen) / habit.days)
    assert len(ratios) > 300
    assert 0.93 < median(ratios) < 1.04
    assert mean(0.7 < ratio < 1.3 for ratio in ratios) > 0.9


def test_a_habit_ends_when_the_truth_says_so(world: tuple[Shop, ...]) -> None:
    shops = {shop.id: histories(shop) for shop in world}
    before = after = 0
    for habit in truth():
        if habit.until is None or habit.season != "全年":
            continue
        end, span = datetime.combine(habit.until, time()), timedelta(days=28)
        times = [o.order_time for o in shops[habit.shop_id].get(habit.customer_id, []) if o.item_id == habit.item_id]
        before += sum(end - span <= moment < end for moment in times)
        after += sum(end + timedelta(days=6) <= moment < end + timedelta(days=6) + span for moment in times)
    assert after < 0.15 * before


def monthly(world: Sequence[Shop], habits: Sequence[Habit], season: str, month: int) -> int:
    items = {(habit.shop_id, habit.item_id) for habit in habits if habit.season == season}
    return sum((shop.id, o.item_id) in items for shop in world for o in shop.orders if o.order_time.month == month)


def test_summer_things_sell_in_summer_and_winter_things_in_winter(world: tuple[Shop, ...]) -> None:
    habits = truth()
    assert monthly(world, habits, "夏", 7) > 2 * monthly(world, habits, "夏", 1)
    assert monthly(world, habits, "冬", 12) > 2 * monthly(world, habits, "冬", 7)


def test_about_half_of_the_next_basket_is_a_repeat(world: tuple[Shop, ...]) -> None:
    shares = [mean(repeat_shares(shop)) for shop in world]
    assert 0.35 <= mean(shares) <= 0.55
    assert all(0.3 < share < 0.7 for share in shares)


def test_a_basket_has_one_to_five_items_and_one_moment(world: tuple[Shop, ...]) -> None:
    baskets = defaultdict(list)
    for order in world[0].orders:
        baskets[order.order_id].append(order)
    assert {len(basket) for basket in baskets.values()} == {1, 2, 3, 4, 5}
    assert all(len({(order.customer_id, order.order_time) for order in basket}) == 1 for basket in baskets.values())
    assert all(len({order.item_id for order in basket}) == len(basket) for basket in baskets.values())


def test_few_items_make_much_of_the_sales(world: tuple[Shop, ...]) -> None:
    for shop in world:
        counts: dict[str, int] = defaultdict(int)
        for order in shop.orders:
            counts[order.item_id] += 1
        ranked = sorted(counts.values(), reverse=True)
        assert sum(ranked[:10]) > 3 * 10 / len(shop.products) * 0.7 * len(shop.orders)
        assert ranked[0] > 8 * median(ranked[-10:])


def test_skew_sets_how_far_assortments_differ() -> None:
    def overlap(skew: float) -> float:
        shops = make_shops(6, 2, seed=1, skew=skew, weeks=8)
        shelves = [{product.category for product in shop.products} for shop in shops]
        return mean(len(a & b) / len(a | b) for a in shelves for b in shelves if a is not b)

    assert overlap(0.0) > overlap(0.6) > overlap(0.95)


def test_shops_share_some_brands_and_keep_others_for_themselves(world: tuple[Shop, ...]) -> None:
    brands = [{product.brand for product in shop.products} for shop in world]
    for number, own in enumerate(brands):
        others = set().union(*(brands[:number] + brands[number + 1 :]))
        assert own & others
        assert own - others


@pytest.mark.parametrize("table", ["campaigns", "reviews"])
def test_hardly_any_text_is_written_twice(world: tuple[Shop, ...], table: str) -> None:
    for shop in world:
        texts = [row.text for row in getattr(shop, table)]
        assert len(texts) > 600
        assert len(set(texts)) >= 0.9 * len(texts)
        assert len(set(grams(texts, 4))) > 0.2 * len(grams(texts, 4))


@pytest.mark.parametrize("table", ["campaigns", "reviews"])
def test_texts_are_not_filled_in_templates(world: tuple[Shop, ...], table: str) -> None:
    masked = set().union(*(skeletons(shop, [row.text for row in getattr(shop, table)]) for shop in world))
    assert len(masked) > 2000


def test_shops_differ_in_their_words_and_share_some(world: tuple[Shop, ...]) -> None:
    pairs = [set(grams([row.text for row in shop.campaigns], 2)) for shop in world]
    overlaps = [len(a & b) / len(a | b) for a in pairs for b in pairs if a is not b]
    assert 0.1 < min(overlaps) <= max(overlaps) < 0.5


def test_a_message_fits_its_channel_and_ends_like_one(world: tuple[Shop, ...]) -> None:
    for campaign in (campaign for shop in world for campaign in shop.campaigns):
        assert 10 < len(campaign.text) <= campaigns.LONGEST[campaign.channel]
        assert not re.search(r"[<>()|]|，，|。。|，$", campaign.text)
        assert not re.search("完美|最佳|国家级|顶级|极致|最好|第一", campaign.text)


def test_a_message_says_the_item_and_nothing_that_was_not_given(world: tuple[Shop, ...]) -> None:
    lexicon = {value for shop in world for product in shop.products for value in product.attributes.values()}
    named = total = strange = mentioned = 0
    for shop in world:
        products = {product.item_id: product for product in shop.products}
        for campaign in shop.campaigns:
            product = products[campaign.item_id]
            given = " ".join((*product.attributes.values(), product.name, campaign.offer))
            assert product.attributes["类型"] in campaign.text
            assert set(re.findall(r"\d+", campaign.text)) <= set(re.findall(r"\d+", given))
            assert campaign.offer == "无" or campaign.offer in campaign.text
            named += sum(value in campaign.text for value in product.attributes.values())
            total += len(product.attributes)
            said = [value for value in lexicon if len(value) > 1 and value in campaign.text]
            strange += sum(value not in given for value in said)
            mentioned += len(said)
    assert named / total > 0.85
    assert strange / mentioned < 0.05


def test_messages_go_out_before_the_item_is_bought_again(world: tuple[Shop, ...]) -> None:
    orders = histories(world[0])
    for campaign in world[0].campaigns:
        times = [o.order_time for o in orders[campaign.customer_id] if o.item_id == campaign.item_id]
        assert any(timedelta() < moment - campaign.time < timedelta(days=5) for moment in times[1:])


def test_reviews_agree_with_their_stars(world: tuple[Shop, ...]) -> None:
    praise, blame = re.compile("满意|好评|真不错|爱了|会回购|五星"), re.compile("失望|太坑|劝退|避雷|不会再|换别家")
    reviews = [review for shop in world for review in shop.reviews]
    assert {review.rating for review in reviews} == {1, 2, 3, 4, 5}
    high = [review.text for review in reviews if review.rating == 5]
    low = [review.text for review in reviews if review.rating == 1]
    assert sum(bool(praise.search(text)) for text in high) > 20 * sum(bool(blame.search(text)) for text in high)
    assert sum(bool(blame.search(text)) for text in low) > 20 * sum(bool(praise.search(text)) for text in low)


def test_dialogs_have_intent_status_question_and_answer(world: tuple[Shop, ...]) -> None:
    dialogs = [dialog for shop in world for dialog in shop.dialogs]
    assert {dialog.intent for dialog in dialogs} == {"物流", "退换", "用法", "库存", "发票", "优惠"}
    assert all(dialog.status and len(dialog.question) > 3 and len(dialog.answer) > 5 for dialog in dialogs)
    assert not any(re.search(r"[<>()|]", dialog.question + dialog.answer) for dialog in dialogs)


def test_some_notes_carry_telephone_numbers_and_most_orders_no_note(world: tuple[Shop, ...]) -> None:
    notes = [order.note for shop in world for order in shop.orders]
    assert 0.01 < mean(bool(note) for note in notes) < 0.06
    phones = [phone for note in notes for phone in PHONE.findall(note)]
    assert phones
    assert all(phone[3:7] == "0000" for phone in phones)


def test_every_kind_has_words_that_suit_it() -> None:
    for category in CATEGORIES:
        for kind in category.kinds:
            assert all(suiting(options, kind.name) for options in (category.praise, category.complaints, category.uses))
            assert any(suiting(values, kind.name) for values in category.traits.values())


def test_the_split_leaves_the_last_six_weeks_out(small: tuple[Shop, ...]) -> None:
    split = split_date(small[0])
    assert split == datetime.combine(START, time()) + timedelta(weeks=20 - HELD_OUT_WEEKS)
    assert any(order.order_time >= split for order in small[0].orders)


def test_the_split_does_not_move_with_the_customer_who_ordered_last(small: tuple[Shop, ...]) -> None:
    last = small[0].orders[-1].customer_id
    rest = tuple(order for order in small[0].orders if order.customer_id != last)
    assert split_date(replace(small[0], orders=rest)) == split_date(small[0])


def test_a_shop_without_orders_has_no_split() -> None:
    with pytest.raises(UserError, match="no orders"):
        split_date(Shop("s", "s", "zh", orders=(), products=()))


def test_written_tables_read_back_as_the_same_rows(small: tuple[Shop, ...], tmp_path: Path) -> None:
    paths = write_shop(small[0], tmp_path)
    assert {path.name for path in paths} == {f"{table}.csv" for table in TABLES}
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            assert reader.fieldnames == list(TABLES[path.stem].model_fields)
            rows = [TABLES[path.stem].model_validate(row) for row in reader]
        assert rows == list(getattr(small[0], path.stem))


def test_a_table_without_rows_is_not_written(small: tuple[Shop, ...], tmp_path: Path) -> None:
    shop = Shop("s", "s", "zh", orders=small[0].orders[:3], products=small[0].products[:1])
    assert [path.name for path in write_shop(shop, tmp_path)] == ["orders.csv", "products.csv"]
    assert (tmp_path / "orders.csv").read_bytes().count(b"\r\n") == 4


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"merchants": 0}, "merchants=0"),
        ({"customers": 0}, "customers=0"),
        ({"skew": 1.5}, "skew=1.5"),
        ({"weeks": 6}, "weeks=6"),
        ({"weeks": 200}, "weeks=200"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_an_impossible_world_is_refused_by_name_and_value(arguments: dict[str, int], word: str) -> None:
    with pytest.raises(UserError, match=re.escape(word)):
        make_shops(**arguments)
