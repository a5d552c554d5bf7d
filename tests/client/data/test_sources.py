from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import pytest

from client.config import Source, load_merchant
from client.data.scrub import find
from client.data.sources import (
    FREE_TEXTS,
    Reading,
    parse_number,
    parse_rating,
    parse_time,
    read_good,
    read_shop,
    read_table,
)
from common.errors import UserError
from common.schema import TABLES, Campaign, Dialog, Order, Product, Review, Row

EXAMPLE = Path(__file__).parents[3] / "examples" / "merchant"
HEADER = "customer_id,order_time,item_id,item_name,quantity,price,note\n"


def source(folder: Path, text: str | bytes, name: str = "orders.csv", **columns: str) -> Source:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return Source(path=path, columns=columns)


def error(kind: type[Row], where: Source) -> str:
    with pytest.raises(UserError) as caught:
        read_table(kind, where)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_row_becomes_a_checked_order_without_the_phone_number(tmp_path: Path) -> None:
    text = HEADER + "c01,2026-01-03,SKU7,茉莉花茶,2,58.00,备注：请打13800138000\n"
    assert read_table(Order, source(tmp_path, text)) == [
        Order(
            customer_id="c01",
            order_time=datetime(2026, 1, 3),
            item_id="SKU7",
            item_name="茉莉花茶",
            quantity=2,
            price=58,
            note="备注：请打<手机>",
        )
    ]


@pytest.mark.parametrize(
    ("mark", "separator", "end"), [("", ",", "\n"), ("\ufeff", "\t", "\r\n"), ("\ufeff", ",", "\r")]
)
def test_marks_separators_and_line_ends_do_not_matter(tmp_path: Path, mark: str, separator: str, end: str) -> None:
    lines = ("customer_id,order_time,item_id,note", 'c1,2026-01-03,S1,"好\n茶"', "c2,2026-01-02,S2,")
    text = mark + "".join(line.replace(",", separator) + end for line in lines)
    orders = read_table(Order, source(tmp_path, text))
    assert [(order.customer_id, order.note) for order in orders] == [("c2", ""), ("c1", "好 茶")]


def test_a_header_is_found_by_schema_name_by_mapping_and_by_common_chinese_names(tmp_path: Path) -> None:
    row = "c1,2026-01-03,S1,3\n"
    first = read_table(Order, source(tmp_path, "Customer_ID,order_time, item_id ,quantity\n" + row))
    chinese = read_table(Order, source(tmp_path, "会员号,下单时间,商品编号,数量\n" + row))
    mapped = source(
        tmp_path, "卡,何时,货,几件\n" + row, customer_id="卡", order_time="何时", item_id="货", quantity="几件"
    )
    assert first == chinese == read_table(Order, mapped)
    assert first[0].quantity == 3


def test_a_preferred_header_wins_and_a_double_one_is_refused(tmp_path: Path) -> None:
    text = "客户编号,付款时间,下单时间,货号\nc1,2026-01-04,2026-01-03,S1\n"
    assert read_table(Order, source(tmp_path, text))[0].order_time == datetime(2026, 1, 3)
    assert "'备注' stands 2 times" in error(
        Order, source(tmp_path, text.replace("付款时间", "备注").replace("货号", "货号,备注"))
    )


def test_columns_that_the_schema_does_not_know_are_never_read(tmp_path: Path) -> None:
    text = "customer_id,order_time,item_id,收货电话,家庭住址\nc1,2026-01-03,S1,13800138000,人民路12号\n"
    assert read_table(Order, source(tmp_path, text)) == [
        Order(customer_id="c1", order_time=datetime(2026, 1, 3), item_id="S1")
    ]


@pytest.mark.parametrize("kind", [Order, Product, Review, Dialog, Campaign])
def test_no_free_text_of_any_table_keeps_a_phone_number(tmp_path: Path, kind: type[Row]) -> None:
    values = {"order_time": "2026-01-03", "time": "2026-01-03", "rating": "5", "quantity": "1", "price": "9"}
    cells = {
        name: values.get(name) or (f"产地#1{name}*请打１38 0013-8000" if name in FREE_TEXTS else "x1")
        for name in kind.model_fields
    }
    reading = Reading()
    rows = read_table(kind, source(tmp_path, ",".join(cells) + "\n" + ",".join(cells.values()) + "\n"), reading)
    assert "0013" not in rows[0].model_dump_json()
    assert reading.scrubbed["手机"] == len(FREE_TEXTS & set(cells)) > 0


def test_every_field_of_the_schema_is_an_id_a_value_or_a_free_text() -> None:
    fields = {name for kind in TABLES.values() for name in kind.model_fields}
    ids = {name for name in fields if name.endswith("_id")}
    assert fields - ids - FREE_TEXTS == {"order_time", "time", "quantity", "price", "rating"}


def test_rows_come_in_order_of_time_and_equal_times_in_the_files_order(tmp_path: Path) -> None:
    text = "customer_id,order_time,item_id\nb,2026-01-02,1\na,2026-01-02,2\nc,2026-01-01,3\n"
    assert [row.customer_id for row in read_table(Order, source(tmp_path, text))] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("2026-01-03", datetime(2026, 1, 3)),
        ("2026/1/3", datetime(2026, 1, 3)),
        ("2026.01.03 7:05", datetime(2026, 1, 3, 7, 5)),
        ("2026年1月3日", datetime(2026, 1, 3)),
        ("2026年1月3日 14:05:09", datetime(2026, 1, 3, 14, 5, 9)),
        ("2026年1月3日14时05分", datetime(2026, 1, 3, 14, 5)),
        ("２０２６－０１－０３", datetime(2026, 1, 3)),
        ("2026-01-03T14:05:09.250", datetime(2026, 1, 3, 14, 5, 9)),
    ],
)
def test_days_are_read_as_shops_write_them(cell: str, expected: datetime) -> None:
    assert parse_time(cell) == expected


@pytest.mark.parametrize("cell", ["", "2026-02-30", "46025", "03/01/2026", "2026-01-03T14:05:09Z", "26-1-3", "昨天"])
def test_what_is_not_a_day_is_refused(cell: str) -> None:
    with pytest.raises(ValueError, match="shop-local"):
        parse_time(cell)


def test_money_is_read_with_its_marks() -> None:
    cells = ("58", "¥58.00", "￥1,234.50", "１，２３４．５", "58元", "$ 9.9")
    assert [parse_number(cell) for cell in cells] == [58, 58, 1234.5, 1234.5, 58, 9.9]


@pytest.mark.parametrize("cell", ["12,5", "1.234,50", "inf", "nan", "1e5", "两件", "", "5-6"])
def test_what_is_not_a_number_is_refused(cell: str) -> None:
    with pytest.raises(ValueError, match="a number such as"):
        parse_number(cell)


def test_ratings_are_read_as_numbers_words_or_stars() -> None:
    assert [parse_rating(cell) for cell in ("5", "4星", "3.0", "★★☆☆☆", "１")] == [5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("c1,2026-13-03,S1,茶,1,1,\n", "line 4, column 'order_time': '2026-13-03' is not a shop-local day"),
        ("c1,2026-01-03,S1,茶,两,1,\n", "line 4, column 'quantity': '两' is not a number"),
        ("c1,2026-01-03,S1,茶,0,1,\n", "line 4, column 'quantity': '0.0': input should be greater than 0"),
        ("c1,2026-01-03,,茶,1,1,\n", "line 4, column 'item_id': '' is not an id"),
        ("1.38E+10,2026-01-03,S1,茶,1,1,\n", "line 4, column 'customer_id': '1.38E+10' is not an id any more"),
        ("c1,打13800138000,S1,茶,1,1,\n", "line 4, column 'order_time': '打<手机>' is not"),
        ("c1,2026-01-03,S1,茶\n", "line 4 has 4 cells where the header has 7"),
        ('c1,2026-01-03,S1,"茶,1,1,\n', "line 4: broken CSV"),
    ],
)
def test_a_bad_row_is_named_by_file_line_column_value_and_way_out(tmp_path: Path, row: str, expected: str) -> None:
    good = HEADER + 'c0,2026-01-01,S0,"茶\n叶",1,1,\n'
    message = error(Order, source(tmp_path, good + row))
    assert message.startswith(str(tmp_path / "orders.csv"))
    assert expected in message


def test_a_missing_column_names_what_is_there_and_what_is_wanted(tmp_path: Path) -> None:
    message = error(Order, source(tmp_path, "会员,下单时间,货号\nc1,2026-01-03,S1\n"))
    assert "no column for customer_id (customer_id or 客户编号" in message
    assert "found 会员, 下单时间, 货号" in message
    assert "no column for note (留言栏)" in error(Order, source(tmp_path, HEADER, note="留言栏"))
    assert "found an empty header" in error(Order, source(tmp_path, ""))


def test_bytes_in_another_encoding_name_the_line(tmp_path: Path) -> None:
    data = HEADER.encode() + "c1,2026-01-03,S1,茶,1,1,\n".encode("gb18030")
    assert "line 2 is not UTF-8" in error(Order, source(tmp_path, data))


def test_a_file_that_is_not_there_or_not_known_is_one_line(tmp_path: Path) -> None:
    assert "no such file" in error(Order, Source(path=tmp_path / "none.csv"))
    assert "known endings: .csv" in error(Order, source(tmp_path, "", "orders.xlsx"))


def test_good_rows_come_back_beside_every_problem(tmp_path: Path) -> None:
    text = (
        HEADER + "c1,2026-01-03,S1,茶,1,1,\nc2,昨天,S1,茶,1,1,\nc3,2026-01-01,S1,茶,-1,1,\nc4,2026-01-02,S1,茶,1,1,\n"
    )
    reading = Reading()
    rows = read_good(Order, source(tmp_path, text), reading)
    assert [row.customer_id for row in rows] == ["c4", "c1"]
    assert [problem.split(": ")[1].split(",")[0] for problem in reading.problems] == ["line 3", "line 4"]
    assert "1 more" in error(Order, source(tmp_path, text))


def test_the_example_shop_can_be_read_and_is_clean() -> None:
    reading = Reading()
    shop = read_shop(load_merchant(EXAMPLE), reading)
    assert (shop.id, shop.name, shop.lang) == ("qinghe-tea", "青禾茶铺", "zh")
    assert len({order.customer_id for order in shop.orders}) == 12
    assert {order.item_id for order in shop.orders} <= {product.item_id for product in shop.products}
    assert len(shop.reviews) > 20
    assert len(shop.dialogs) >= 10
    assert len(shop.campaigns) >= 12
    assert reading.problems == []
    assert set(reading.scrubbed) == {"手机", "地址", "微信", "姓名"}
    assert not any(find(order.note) for order in shop.orders)


def test_a_hundred_thousand_orders_are_read_in_seconds(tmp_path: Path) -> None:
    notes = ("", "", "", "请打13800138000", "和上次一样")
    rows = (
        f"c{n % 500},2026-01-{n % 28 + 1:02d} 10:{n % 60:02d},S{n % 90},花茶{n % 90}号 150g,{n % 3 + 1},58.00,{notes[n % 5]}\n"
        for n in range(100_000)
    )
    where = source(tmp_path, HEADER + "".join(rows))
    started = time.process_time()
    assert len(read_table(Order, where)) == 100_000
    assert time.process_time() - started < 6
