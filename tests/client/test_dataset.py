from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import TypeVar

import numpy as np
import pytest

from client.data.customers import gather, pose
from client.data.dataset import Dataset, known_before, make_dataset
from client.train.sampling import Rehearsal
from common.model import Base, load_base
from common.schema import Row, Shop
from common.tokens import Encoded, encode_examples

R = TypeVar("R", bound=Row)
TOKENS, RECORDS = 96, 4
MARK = "紫电清霜"
TEXTS = ("item_name", "text", "question", "answer", "offer")


@pytest.fixture(scope="module")
def base(tiny_base: str) -> Base:
    return load_base(tiny_base)


@pytest.fixture(scope="module")
def made(shop: Shop, base: Base) -> Dataset:
    return make_dataset(shop, base, TOKENS, RECORDS, None)


def ids_of(shop: Shop) -> list[str]:
    return [customer.id for customer in gather(shop)]


def change(rows: Sequence[R], chosen: Sequence[bool]) -> tuple[R, ...]:
    """Return the rows with a marker in every text of those that are chosen."""
    return tuple(
        row.model_copy(update={name: MARK + getattr(row, name) for name in TEXTS if hasattr(row, name)}) if one else row
        for row, one in zip(rows, chosen, strict=True)
    )


def marked(shop: Shop, customer: str = "", until: datetime | None = None) -> Shop:
    """Return the shop with a marker in every row of one customer, or in every row from `until` on."""

    def pick(row: Row) -> bool:
        time = getattr(row, "order_time", None) or getattr(row, "time", None)
        return row.customer_id == customer if until is None else bool(time and time >= until)  # type: ignore[attr-defined]

    def spoil(rows: Sequence[R]) -> tuple[R, ...]:
        return change(rows, [pick(row) for row in rows])

    return replace(
        shop,
        orders=spoil(shop.orders),
        reviews=spoil(shop.reviews),
        dialogs=spoil(shop.dialogs),
        campaigns=spoil(shop.campaigns),
    )


def without(shop: Shop, customer: str) -> Shop:
    return replace(
        shop,
        orders=[row for row in shop.orders if row.customer_id != customer],
        reviews=[row for row in shop.reviews if row.customer_id != customer],
        dialogs=[row for row in shop.dialogs if row.customer_id != customer],
        campaigns=[row for row in shop.campaigns if row.customer_id != customer],
    )


def text_of(records: Sequence[Encoded], base: Base) -> str:
    return "\n".join(str(base.tokenizer.decode(list(record.ids))) for record in records)


# --- one row a customer ---


def test_there_is_one_bounded_row_for_every_customer(shop: Shop, made: Dataset) -> None:
    assert len(made) == len(ids_of(shop)) == 12
    rows = made.rows(range(len(made)), Rehearsal(1))
    assert rows.ids_BT.shape == rows.counts_BT.shape == (12, TOKENS)
    assert (rows.ids_BT[:, 0] == made.end).all()
    assert not rows.counts_BT[:, 0].any()
    assert made.rows([], Rehearsal(1)).ids_BT.shape == (0, TOKENS)


def test_a_row_holds_records_of_its_own_customer_only(shop: Shop, base: Base) -> None:
    ids = ids_of(shop)
    for place in (0, 5, 11):
        spoilt = make_dataset(marked(shop, ids[place]), base, TOKENS, RECORDS, None)
        for other, records in enumerate(spoilt.records):
            assert (MARK in text_of(records, base)) == (other == place)


def test_one_customer_more_or_less_changes_no_record_of_anybody_else(shop: Shop, base: Base, made: Dataset) -> None:
    ids = ids_of(shop)
    for place in (0, 6, 11):
        fewer = make_dataset(without(shop, ids[place]), base, TOKENS, RECORDS, None)
        assert len(fewer) == len(made) - 1
        assert list(fewer.records) == [records for other, records in enumerate(made.records) if other != place]
        assert (fewer.max_tokens, fewer.max_records, fewer.end) == (made.max_tokens, made.max_records, made.end)


def test_a_dataset_holds_nothing_that_is_shared_but_public_bounds() -> None:
    assert [field.name for field in fields(Dataset)] == ["records", "end", "max_tokens", "max_records"]


def test_a_customer_without_a_task_keeps_an_empty_row(shop: Shop, base: Base) -> None:
    start = min(order.order_time for order in shop.orders)
    early = make_dataset(shop, base, TOKENS, RECORDS, start)
    assert len(early) == 12
    rows = early.rows(range(12), Rehearsal(1))
    assert (rows.ids_BT == early.end).all()
    assert not rows.counts_BT.any()


# --- the later weeks ---


def test_rows_from_the_cut_on_are_never_in_a_training_record(shop: Shop, base: Base, made: Dataset) -> None:
    times = sorted(order.order_time for order in shop.orders)
    until = times[len(times) // 2]
    cut = make_dataset(shop, base, TOKENS, RECORDS, until)
    spoilt = make_dataset(marked(shop, until=until), base, TOKENS, RECORDS, until)
    assert list(spoilt.records) == list(cut.records)
    assert 0 < sum(map(len, cut.records)) < sum(map(len, made.records))


def test_a_training_record_is_a_task_whose_event_lies_before_the_cut(shop: Shop, base: Base) -> None:
    products = {product.item_id: product for product in shop.products}
    event = pose(gather(shop)[3], products, shop.lang)[2].time
    cut = make_dataset(shop, base, TOKENS, RECORDS, event)
    for customer, records in zip(gather(shop), cut.records, strict=True):
        posed = [one.example for one in pose(customer, products, shop.lang) if one.time < event]
        assert list(records) == encode_examples(base, posed, TOKENS)
        known = pose(known_before(customer, event), products, shop.lang)
        assert [one.example for one in known] == posed


# --- bounds ---


def small(task: str, count: int, first: int = 1) -> list[Encoded]:
    """Return records of two ids each, every one with its own number."""
    return [Encoded(task, (number, 0), (False, True)) for number in range(first, first + count)]


def taken(data: Dataset, seed: int) -> list[int]:
    """Return the numbers of the records in the one customer's row."""
    row = data.rows([0], Rehearsal(seed)).ids_BT[0]
    return [int(one) for one in row if one != data.end]


def test_a_row_takes_at_most_so_many_records_freshly_chosen() -> None:
    data = Dataset([small("复购", 40)], 0, 64, RECORDS)
    draws = [tuple(taken(data, seed)) for seed in range(20)]
    assert {len(draw) for draw in draws} == {RECORDS}
    assert all(len(set(draw)) == RECORDS for draw in draws)
    assert len(set(draws)) > 15
    assert tuple(taken(data, 3)) == draws[3]


def test_every_record_has_the_same_chance() -> None:
    data = Dataset([small("复购", 8)], 0, 64, 2)
    randomness = Rehearsal(5)
    found = [int(one) for _ in range(2000) for one in data.rows([0], randomness).ids_BT[0] if one]
    np.testing.assert_allclose(np.bincount(found, minlength=9)[1:] / 2000, 0.25, atol=0.045)


def test_a_rare_task_is_not_crowded_out_by_a_frequent_one() -> None:
    data = Dataset([[*small("复购", 30), *small("文案", 1, 100), *small("评价", 2, 200)]], 0, 64, 3)
    for seed in range(10):
        kinds = sorted(number // 100 for number in taken(data, seed))
        assert kinds == [0, 1, 2]


def test_a_record_that_does_not_fit_is_left_out_whole() -> None:
    long = Encoded("复购", tuple(range(1, 12)), (False,) * 5 + (True,) * 6)
    data = Dataset([[long, *small("复购", 1, 50)]], 0, 8, RECORDS)
    assert taken(data, 1) == [50]


def test_rows_come_in_the_order_of_the_draw() -> None:
    data = Dataset([small("复购", 1, number) for number in (11, 12, 13)], 0, 4, RECORDS)
    assert data.rows([2, 0, 2], Rehearsal(1)).ids_BT.tolist() == [[0, 13, 0, 0], [0, 11, 0, 0], [0, 13, 0, 0]]
