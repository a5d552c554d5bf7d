from __future__ import annotations

from collections import Counter

import pytest

from common.schema import Shop
from simulations.control import TEXTS, scramble

TABLES = tuple(TEXTS)


def texts(shop: Shop) -> list[str]:
    return [getattr(row, name) for table in TABLES for row in getattr(shop, table) for name in TEXTS[table]]


@pytest.fixture(scope="module")
def mixed(shop: Shop) -> Shop:
    return scramble(shop, 7)


def test_every_length_and_every_count_stays(shop: Shop, mixed: Shop) -> None:
    assert [len(text) for text in texts(mixed)] == [len(text) for text in texts(shop)]
    before, after = (Counter("".join(texts(one))) for one in (shop, mixed))
    assert sorted(before.values()) == sorted(after.values())
    moved = sum(before[letter] != after[letter] for letter in before)
    assert moved > 0.5 * len(before)
    assert (mixed.id, mixed.name, mixed.lang) == (shop.id, shop.name, shop.lang)


def test_no_text_stays(shop: Shop, mixed: Shop) -> None:
    pairs = [(old, new) for old, new in zip(texts(shop), texts(mixed), strict=True) if len(old) > 3]
    assert len(pairs) > 100
    assert not any(old == new for old, new in pairs)


@pytest.mark.parametrize("table", TABLES)
def test_everything_that_is_no_text_stays(shop: Shop, mixed: Shop, table: str) -> None:
    left = set(TEXTS[table])
    for old, new in zip(getattr(shop, table), getattr(mixed, table), strict=True):
        assert new.model_dump(exclude=left) == old.model_dump(exclude=left)


def test_the_same_item_is_called_otherwise_in_every_order(shop: Shop, mixed: Shop) -> None:
    names = {product.item_id: product.name for product in shop.products}
    told = [order for order in mixed.orders if len(order.item_name) > 3]
    assert told
    assert not any(order.item_name == names[order.item_id] for order in told)


def test_the_deal_depends_on_the_seed_and_on_the_shop_alone(shops: tuple[Shop, ...], mixed: Shop) -> None:
    assert texts(scramble(shops[0], 7)) == texts(mixed)
    assert texts(scramble(shops[0], 8)) != texts(mixed)
    assert texts(scramble(shops[1], 7)) != texts(shops[1])


def test_the_shop_itself_is_left_alone(shop: Shop) -> None:
    before = texts(shop)
    scramble(shop, 7)
    assert texts(shop) == before
