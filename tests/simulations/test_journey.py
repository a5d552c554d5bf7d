"""Real shops from the Complete Journey: their shape, their ids, and that nothing is invented."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from itertools import pairwise

import polars as pl
import pytest

from common.errors import UserError
from common.schema import Shop
from simulations.journey import LOYAL, _item_id, _tidy, load_shops, sold, split_date


@pytest.fixture(scope="module")
def shops() -> tuple[Shop, ...]:
    return load_shops(22, households=25)


@pytest.fixture(scope="module")
def largest() -> Shop:
    return load_shops(1)[0]


def test_there_are_more_than_twenty_real_stores(shops: tuple[Shop, ...]) -> None:
    assert len({shop.id for shop in shops}) == 22
    assert all(shop.lang == "en" and not (shop.reviews or shop.dialogs or shop.campaigns) for shop in shops)


def test_at_most_the_asked_households_are_kept(shops: tuple[Shop, ...]) -> None:
    assert all(len({order.customer_id for order in shop.orders}) == 25 for shop in shops)


def test_the_largest_store_has_ninety_five_customers_of_five_baskets(largest: Shop) -> None:
    baskets: dict[str, set[str]] = defaultdict(set)
    for order in largest.orders:
        baskets[order.customer_id].add(order.order_id)
    assert len(baskets) == 95
    assert min(len(orders) for orders in baskets.values()) >= LOYAL


def test_the_store_shrinks_but_stays_itself_when_households_are_limited(shops: tuple[Shop, ...], largest: Shop) -> None:
    kept = {order.customer_id for order in shops[0].orders}
    assert shops[0].id == largest.id
    assert list(shops[0].orders) == [order for order in largest.orders if order.customer_id in kept]


def test_a_basket_is_one_household_on_one_day_with_each_item_once(largest: Shop) -> None:
    baskets = defaultdict(list)
    for order in largest.orders:
        baskets[order.order_id].append(order)
    for orders in baskets.values():
        assert len({(order.customer_id, order.order_time) for order in orders}) == 1
        assert len({order.item_id for order in orders}) == len(orders)


def test_orders_are_in_order_of_time_within_the_year(largest: Shop) -> None:
    assert all(a.order_time <= b.order_time for a, b in pairwise(largest.orders))
    assert {order.order_time.year for order in largest.orders} <= {2017, 2018}


def test_the_split_is_one_public_date_with_orders_on_both_sides(shops: tuple[Shop, ...]) -> None:
    assert {split_date(shop) for shop in shops} == {datetime(2017, 11, 20)}
    for shop in shops:
        assert shop.orders[0].order_time < split_date(shop) < shop.orders[-1].order_time


def test_a_shop_of_another_world_is_not_split_here() -> None:
    with pytest.raises(UserError, match="'zh'"):
        split_date(Shop("s", "s", "zh", orders=(), products=()))


def test_items_are_brand_and_type_and_shared_between_stores(shops: tuple[Shop, ...]) -> None:
    names = [{product.item_id: product.name for product in shop.products} for shop in shops]
    milk = _item_id("private label fluid milk white only")
    assert all(items[milk] == "private label fluid milk white only" for items in names)
    assert all({order.item_id for order in shop.orders} == set(items) for shop, items in zip(shops, names, strict=True))


def test_products_have_type_brand_and_category_and_no_invented_description(largest: Shop) -> None:
    for product in largest.products:
        assert product.name == f"{product.brand} {product.attributes['type']}"
        assert product.brand in {"private label", "national brand"}
        assert " / " in product.category
        assert not product.description
        assert not product.category.startswith(("fuel", "miscellaneous", "coupon"))


def test_names_lose_cut_off_ends_and_abbreviations() -> None:
    assert _tidy("FRZN SS PREMIUM ENTREES/DNRS/N") == "frozen ss premium entrees / dinners"
    assert _tidy("CANDY BARS (SINGLES)(INCLUDING") == "candy bars (singles)"
    assert _tidy("POTATOES SWEET&YAMS") == "potatoes sweet & yams"


def test_too_many_merchants_are_refused_with_the_number_there_is() -> None:
    with pytest.raises(UserError, match="only 6 stores have 60 customers"):
        load_shops(24, min_customers=60)
    with pytest.raises(UserError, match="merchants=0"):
        load_shops(0)


def test_what_is_sold_in_columns_is_what_the_shops_hold(largest: Shop) -> None:
    lines = sold().filter(pl.col("store") == int(largest.id.removeprefix("store-")))
    rows = zip(lines["household"].to_list(), lines["day"].to_list(), lines["item"].to_list(), strict=True)
    customers = {order.customer_id for order in largest.orders}
    found = {(f"h{who}", day, item) for who, day, item in rows if f"h{who}" in customers}
    days = {(one.customer_id, (one.order_time - datetime(1970, 1, 1)).days, one.item_id) for one in largest.orders}
    assert found == days
    named = {product.item_id: (product.name, product.category) for product in largest.products}
    kinds = dict(zip(lines["item"].to_list(), lines["name"].to_list(), strict=True))
    assert all(kinds[item] == name for item, (name, _) in named.items())
