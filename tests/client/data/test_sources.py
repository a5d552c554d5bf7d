from __future__ import annotations

import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from client.config import Source, load_merchant
from client.data.scrub import find
from client.data.sources import (
    FREE_TEXTS,
    HARMLESS,
    MEANING,
    SHOWN,
    STATUSES,
    Reading,
    fingerprint,
    read_shop,
    read_table,
    scan,
)
from client.data.table import Table
from common.errors import UserError
from common.schema import TABLES, Campaign, Dialog, Order, Product, Review, Row

EXAMPLE = Path(__file__).parents[3] / "examples" / "merchant"
HEADER = "customer_id,order_time,item_id,item_name,quantity,price,note\n"
GOOD = "c{0},2026-01-{1:02d},S1,茶,1,9.90,\n"


def source(folder: Path, text: str | bytes, name: str = "orders.csv", **settings: object) -> Source:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return Source.model_validate({"path": path, **settings})


def error(kind: type[Row], where: Source) -> str:
    with pytest.raises(UserError) as caught:
        read_table(kind, where)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def good(count: int) -> str:
    return "".join(GOOD.format(n, n % 28 + 1) for n in range(count))


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


def test_a_header_is_found_by_schema_name_by_mapping_and_by_common_chinese_names(tmp_path: Path) -> None:
    row = "c1,2026-01-03,S1,3\n"
    first = read_table(Order, source(tmp_path, "Customer_ID,order_time, item_id ,quantity\n" + row))
    chinese = read_table(Order, source(tmp_path, "会员号,下单时间,商品编号,数量\n" + row))
    columns = {"customer_id": "卡", "order_time": "何时", "item_id": "货", "quantity": "几件"}
    mapped = read_table(Order, source(tmp_path, "卡,何时,货,几件\n" + row, columns=columns))
    assert first == chinese == mapped
    assert first[0].quantity == 3


def test_a_preferred_header_wins_and_a_double_one_is_refused(tmp_path: Path) -> None:
    text = "客户编号,付款时间,下单时间,货号\nc1,2026-01-04,2026-01-03,S1\n"
    assert read_table(Order, source(tmp_path, text))[0].order_time == datetime(2026, 1, 3)
    assert "'备注' stands 2 times" in error(
        Order, source(tmp_path, text.replace("付款时间", "备注").replace("货号", "货号,备注"))
    )


def test_columns_that_the_schema_does_not_know_are_never_read(tmp_path: Path) -> None:
    text = "customer_id,order_time,item_id,收货电话,家庭住址\nc1,2026-01-03,S1,13800138000,人民路12号\n"
    where = source(tmp_path, text)
    assert read_table(Order, where) == [Order(customer_id="c1", order_time=datetime(2026, 1, 3), item_id="S1")]
    (batch,) = scan(Order, where)
    assert set(batch.frame.columns) == {*Order.model_fields, "place"}
    assert "1380013" not in str(batch.frame.to_dicts())


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


def test_what_is_scrubbed_is_counted_once_a_cell_and_not_once_a_text(tmp_path: Path) -> None:
    text = HEADER + "".join(f"c{n},2026-01-03,S1,茶,1,1,请打13800138000\n" for n in range(7))
    reading = Reading()
    rows = read_table(Order, source(tmp_path, text), reading)
    assert reading.scrubbed == Counter({"手机": 7})
    assert {row.note for row in rows} == {"请打<手机>"}


def test_rows_come_in_order_of_time_and_equal_times_in_the_files_order(tmp_path: Path) -> None:
    text = "customer_id,order_time,item_id\nb,2026-01-02,1\na,2026-01-02,2\nc,2026-01-01,3\n"
    assert [row.customer_id for row in read_table(Order, source(tmp_path, text))] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("row", "column", "value", "kind"),
    [
        ("c1,2026-13-03,S1,茶,1,1,", "order_time", "2026-13-03", "time"),
        ("c1,03/04/2026,S1,茶,1,1,", "order_time", "03/04/2026", "time"),
        ("c1,9999-01-03,S1,茶,1,1,", "order_time", "9999-01-03", "range"),
        ("c1,,S1,茶,1,1,", "order_time", "", "empty"),
        ("c1,2026-01-03,,茶,1,1,", "item_id", "", "empty-id"),
        ("NULL,2026-01-03,S1,茶,1,1,", "customer_id", "NULL", "empty-id"),
        ("1.38E+10,2026-01-03,S1,茶,1,1,", "customer_id", "1.38E+10", "rounded-id"),
        ("#N/A,2026-01-03,S1,茶,1,1,", "customer_id", "#N/A", "empty-id"),
        ("#REF!,2026-01-03,S1,茶,1,1,", "customer_id", "#REF!", "formula-error"),
        ("c\u200b1,2026-01-03,S1,茶,1,1,", "customer_id", "c1", "id"),
        ("c\ufffd1,2026-01-03,S1,茶,1,1,", "customer_id", "c\ufffd1", "id"),
        (f"{'c' * 65},2026-01-03,S1,茶,1,1,", "customer_id", "c" * 29 + "…", "id"),
        ("c1,打13800138000,S1,茶,1,1,", "order_time", "打<手机>", "time"),
        ("c1,2026-01-03,S1,茶,0,1,", "quantity", "0", "zero"),
        ("c1,2026-01-03,S1,茶", "", "4 cells where the header has 7"[:30], "ragged"),
        ("c1,2026-01-03,S1,茶,1,1,,,x", "", "9 cells where the header has 7"[:30], "ragged"),
        (HEADER.strip(), "", "customer_id", "header"),
    ],
)
def test_a_row_that_cannot_be_read_is_left_out_and_told_with_its_place(
    tmp_path: Path, row: str, column: str, value: str, kind: str
) -> None:
    where = source(tmp_path, HEADER + 'c0,2026-01-01,S0,"茶\n叶",1,1,\n' + row + "\n" + good(3))
    reading = Reading()
    assert [one.customer_id for one in read_table(Order, where, reading)] == ["c0", "c0", "c1", "c2"]
    (problem,) = reading.problems
    assert (problem.table, problem.source, problem.place) == ("orders", str(where.path), "line 4")
    assert (problem.column, problem.value, problem.kind, problem.does) == (column, value, kind, "row left out")
    assert reading.counts == {("orders", column, kind, "row left out"): 1}
    assert (reading.rows["orders"], reading.bad["orders"]) == (5, 1)
    assert "\n" not in str(problem)


@pytest.mark.parametrize(
    ("cells", "field", "default", "kind"),
    [
        ("茶,两,1,", "quantity", 1.0, "number"),
        ("茶,1e300,1,", "quantity", 1.0, "number"),
        ("茶,99999999999,1,", "quantity", 1.0, "range"),
        ("茶,inf,1,", "quantity", 1.0, "number"),
        ("茶,1,面议,", "price", 0.0, "number"),
        ("茶,1,-3,", "price", 0.0, "range"),
        ("#NAME?,1,1,", "item_name", "", "formula-error"),
    ],
)
def test_an_optional_cell_that_cannot_be_read_is_emptied_and_told(
    tmp_path: Path, cells: str, field: str, default: object, kind: str
) -> None:
    where = source(tmp_path, HEADER + good(3) + f"c9,2026-02-01,S1,{cells}\n")
    reading = Reading()
    rows = read_table(Order, where, reading)
    assert len(rows) == 4
    assert getattr(rows[3], field) == default
    assert [(one.place, one.column, one.kind, one.does) for one in reading.problems] == [
        ("line 5", field, kind, "value emptied")
    ]


def test_an_optional_cell_that_is_empty_is_no_problem(tmp_path: Path) -> None:
    reading = Reading()
    rows = read_table(
        Order, source(tmp_path, HEADER + "c1,2026-01-03,S1,,,,\nc1,2026-01-04,S1,NULL,-,nan,\\N\n"), reading
    )
    assert [(row.item_name, row.quantity, row.price, row.note) for row in rows] == [("", 1, 0, "")] * 2
    assert reading.problems == []


def test_a_long_text_is_cut_and_no_number_is_cut_in_two(tmp_path: Path) -> None:
    text = "好" * 19_995 + "13800138000" + "茶" * 9
    where = source(tmp_path, HEADER + f"c1,2026-01-03,S1,茶,1,1,{text}\n")
    reading = Reading()
    (row,) = read_table(Order, where, reading)
    assert row.note.startswith("好" * 19_995)
    assert "138" not in row.note
    assert len(row.note) <= 20_000
    assert [(one.kind, one.does) for one in reading.problems] == [("too-long", "text cut")]
    assert len(reading.problems[0].value) <= 30


def test_a_formula_and_lost_characters_are_kept_and_told(tmp_path: Path) -> None:
    where = source(
        tmp_path, HEADER + """c1,2026-01-03,S1,"=HYPERLINK(""x"",""茶"")",1,1,\nc1,2026-01-04,S1,"茶\ufffd",1,1,\n"""
    )
    reading = Reading()
    rows = read_table(Order, where, reading)
    assert [row.item_name for row in rows] == ['=HYPERLINK("x","茶")', "茶\ufffd"]
    assert [(one.kind, one.does) for one in reading.problems] == [
        ("formula", "kept as it is"),
        ("encoding", "kept as it is"),
    ]


def test_a_review_without_words_is_left_out_and_says_nothing_against_the_mapping(tmp_path: Path) -> None:
    header = "review_id,customer_id,item_id,time,rating,text\n"
    rows = "".join(f"r{n},c1,S1,2026-01-03,5,{'' if n % 2 else '好'}\n" for n in range(40))
    reading = Reading()
    assert len(read_table(Review, source(tmp_path, header + rows), reading)) == 20
    assert reading.counts == {("reviews", "text", "empty-text", "row left out"): 20}
    assert reading.bad["reviews"] == 0


def test_a_table_with_too_many_bad_rows_is_refused_with_the_commonest_reason_and_an_example(tmp_path: Path) -> None:
    bad = "".join(f"c{n},昨天,S1,茶,1,1,\n" for n in range(11)) + "c1,2026-01-03,,茶,1,1,\n"
    message = error(Order, source(tmp_path, HEADER + good(100) + bad))
    assert "line 102, column 'order_time': '昨天': not a time such as 2026-01-03" in message
    assert "12 of 112 rows of orders cannot be read, 11 of them so" in message
    assert "max_bad (now 0.05)" in message
    assert len(read_table(Order, source(tmp_path, HEADER + good(100) + bad, max_bad=0.2))) == 100


def test_a_slip_in_a_small_table_does_not_refuse_it_but_one_that_is_mostly_bad_is(tmp_path: Path) -> None:
    bad = "c9,昨天,S1,茶,1,1,\n"
    assert len(read_table(Order, source(tmp_path, HEADER + good(6) + bad * 5))) == 6
    assert "5 of 9 rows" in error(Order, source(tmp_path, HEADER + good(4) + bad * 5))
    assert "1 of 1 rows" in error(Order, source(tmp_path, HEADER + bad))


def test_a_column_of_emptied_cells_refuses_the_table_too(tmp_path: Path) -> None:
    rows = "".join(f"c{n},2026-01-03,S1,茶,1,见详情页,\n" for n in range(50))
    assert "column 'price': '见详情页': not a number" in error(Order, source(tmp_path, HEADER + rows))


def test_problems_are_counted_in_full_and_kept_a_few_of_each(tmp_path: Path) -> None:
    rows = "".join(f"c{n},2026-01-03,S1,茶,{'两' if n % 2 else 0},1,\n" for n in range(200))
    reading = Reading()
    read_table(Order, source(tmp_path, HEADER + rows, max_bad=1), reading)
    assert Counter(one.kind for one in reading.problems) == {"number": SHOWN, "zero": SHOWN}
    assert reading.counts == {
        ("orders", "quantity", "number", "value emptied"): 100,
        ("orders", "quantity", "zero", "row left out"): 100,
    }


def test_cancelled_refunded_unpaid_and_returned_lines_and_blank_ones_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = (
        "c1,2026-01-01,S1,1,交易成功,没有申请退款",
        "c2,2026-01-02,S1,1,交易关闭,没有申请退款",
        "c3,2026-01-03,S1,1,交易成功,退款成功",
        "c4,2026-01-04,S1,1,等待买家付款,",
        "c5,2026-01-05,S1,-1,交易成功,",
        "c6,2026-01-06,S1,1,,退款关闭",
        ",,,,,",
        "",
        "c7,昨天,S1,1,已取消,",
    )
    where = source(tmp_path, "customer_id,order_time,item_id,数量,订单状态,退款状态\n" + "\n".join(lines) + "\n")
    reading = Reading()
    assert [row.customer_id for row in read_table(Order, where, reading)] == ["c1", "c6"]
    assert reading.excluded == {
        ("orders", "cancelled"): 2,
        ("orders", "refunded"): 1,
        ("orders", "unpaid"): 1,
        ("orders", "returns"): 1,
        ("orders", "blank"): 2,
    }
    assert reading.problems == []
    assert reading.rows["orders"] == 9


def test_an_unknown_status_is_kept_and_told_until_the_merchant_says_what_it_means(tmp_path: Path) -> None:
    text = "customer_id,order_time,item_id,状态X\nc1,2026-01-01,S1,转人工\nc2,2026-01-02,S1,ＣＬＯＳＥＤ\n"
    reading = Reading()
    rows = read_table(Order, source(tmp_path, text, columns={"status": "状态X"}), reading)
    assert [row.customer_id for row in rows] == ["c1"]
    assert [(one.column, one.value, one.kind, one.does) for one in reading.problems] == [
        ("状态X", "转人工", "status", "kept as it is")
    ]
    said = source(tmp_path, text, columns={"status": "状态X"}, statuses={"cancelled": ["转人工"]})
    reading = Reading()
    assert len(read_table(Order, said, reading)) == 0
    assert reading.problems == []


def test_no_word_of_a_status_means_two_things() -> None:
    words = [word for words in STATUSES.values() for word in words]
    assert len(words) == len(set(words))


def test_times_with_an_offset_and_epochs_are_said_in_the_shops_zone(tmp_path: Path) -> None:
    text = "customer_id,order_time,item_id\nc1,2026-01-03T16:30:00Z,S1\nc2,1767457800,S1\nc3,2026-01-04 00:30,S1\n"
    rows = read_table(Order, source(tmp_path, text))
    assert {row.order_time for row in rows} == {datetime(2026, 1, 4, 0, 30)}
    tokyo = read_table(Order, source(tmp_path, text).at("Asia/Tokyo"))
    assert [row.order_time.hour for row in tokyo] == [0, 1, 1]
    utc = read_table(Order, source(tmp_path, text, timezone="UTC"))
    assert [row.order_time for row in utc] == [datetime(2026, 1, 4, 0, 30)] * 2 + [datetime(2026, 1, 4, 8, 30)]


def test_a_column_with_a_format_of_its_own_is_read_by_it_and_by_nothing_else(tmp_path: Path) -> None:
    text = "customer_id,order_time,item_id\nc1,03/04/2026,S1\nc2,04/03/2026,S1\nc3,2026-01-01,S1\n"
    reading = Reading()
    rows = read_table(Order, source(tmp_path, text, formats={"order_time": "%d/%m/%Y"}, max_bad=1), reading)
    assert [(row.customer_id, row.order_time) for row in rows] == [
        ("c2", datetime(2026, 3, 4)),
        ("c1", datetime(2026, 4, 3)),
    ]
    assert [(one.value, one.kind) for one in reading.problems] == [("2026-01-01", "time")]


def test_a_column_of_ids_that_all_lost_their_last_digits_is_refused(tmp_path: Path) -> None:
    rows = "".join(f"{123456789012345 + n}000,2026-01-03,S1,茶,1,1,\n" for n in range(20))
    assert "a spreadsheet has rounded it" in error(Order, source(tmp_path, HEADER + rows))
    whole = "".join(f"{123456789012345678 + n},2026-01-03,S1,茶,1,1,\n" for n in range(20))
    assert len(read_table(Order, source(tmp_path, HEADER + whole))) == 20


def test_a_rounded_order_id_is_emptied_so_that_no_two_orders_become_one(tmp_path: Path) -> None:
    text = "customer_id,order_time,item_id,order_id\n"
    text += "".join(f"c1,2026-01-0{n},S1,{n}.23E+17\n" for n in (1, 2)) + "c1,2026-01-03,S1,T3\n"
    reading = Reading()
    rows = read_table(Order, source(tmp_path, text, max_bad=1), reading)
    assert [row.order_id for row in rows] == ["", "", "T3"]
    assert [one.does for one in reading.problems] == ["value emptied"] * 2


def test_ids_that_a_spreadsheet_was_told_to_keep_are_read_as_they_are_meant(tmp_path: Path) -> None:
    text = 'customer_id,order_time,item_id\n"=""0012""",2026-01-03,\'0034\n\t0056 ,2026-01-04,会员 #7/ä\n'
    rows = read_table(Order, source(tmp_path, text))
    assert [(row.customer_id, row.item_id) for row in rows] == [("0012", "0034"), ("0056", "会员 #7/ä")]


def test_a_missing_column_names_what_is_there_and_what_is_wanted(tmp_path: Path) -> None:
    message = error(Order, source(tmp_path, "会员,下单时间,货号\nc1,2026-01-03,S1\n"))
    assert "no column for customer_id (customer_id or 客户编号" in message
    assert "found 会员, 下单时间, 货号" in message
    assert "no column for note (留言栏)" in error(Order, source(tmp_path, HEADER, columns={"note": "留言栏"}))
    assert "no column for status (态)" in error(Order, source(tmp_path, HEADER, columns={"status": "态"}))
    assert "found an empty header" in error(Order, source(tmp_path, ""))


def test_a_table_that_a_shop_can_do_without_may_be_empty(tmp_path: Path) -> None:
    reviews = read_table(Review, source(tmp_path, "review_id,customer_id,item_id,time,rating,text\n"))
    assert (len(reviews), list(reviews)) == (0, [])
    assert "has no products" in error(Product, source(tmp_path, "item_id,name\n"))


def test_every_kind_of_problem_has_words() -> None:
    assert set(HARMLESS) < set(MEANING)
    assert all(words and "\n" not in words for words in MEANING.values())


def test_a_scan_gives_typed_columns_without_gaps_and_the_place_of_each_row(tmp_path: Path) -> None:
    (batch,) = scan(Order, source(tmp_path, HEADER + good(2) + "c9,昨天,S1,茶,1,1,\n" + good(1)))
    assert dict(batch.frame.schema) == {
        "customer_id": pl.String(),
        "order_time": pl.Datetime("us"),
        "item_id": pl.String(),
        "item_name": pl.String(),
        "quantity": pl.Float64(),
        "price": pl.Float64(),
        "note": pl.String(),
        "order_id": pl.String(),
        "place": pl.Int64(),
    }
    assert batch.frame["place"].to_list() == [2, 3, 5]
    assert batch.where(5) == "line 5"
    assert sum(batch.frame.null_count().row(0)) == 0


def test_a_large_table_comes_in_pieces_that_lose_and_double_nothing(tmp_path: Path) -> None:
    where = source(tmp_path, HEADER + good(70_000))
    batches = list(scan(Order, where))
    assert [batch.rows for batch in batches] == [65_536, 4_464]
    assert pl.concat(batch.frame for batch in batches)["place"].to_list() == list(range(2, 70_002))


def test_a_fingerprint_changes_with_the_file_and_with_how_it_is_read(tmp_path: Path) -> None:
    where = source(tmp_path, HEADER + good(2))
    before = fingerprint(where)
    assert fingerprint(where) == before
    assert fingerprint(where.model_copy(update={"max_bad": 0.5})) != before
    assert fingerprint(source(tmp_path, HEADER + good(3))) != before
    database = Source.model_validate({"path": "sqlite:////x.db?table=a"})
    assert fingerprint(database) != fingerprint(database)


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


def test_a_table_is_a_sequence_of_rows_that_are_made_when_they_are_looked_at(tmp_path: Path) -> None:
    table = read_table(Order, source(tmp_path, HEADER + good(5000)))
    assert isinstance(table, Table)
    rows = list(table)
    assert len(rows) == len(table) == 5000
    assert table[7] == rows[7]
    assert table[-1] == rows[-1]
    assert table[10:20] == rows[10:20]
    assert table[::-1000] == rows[::-1000]
    assert rows[3] in table
    assert table != rows[1:]
    assert not table[:0]
    with pytest.raises(IndexError, match="row 5000 of a table of 5000"):
        table[5000]


def test_a_product_of_a_table_has_its_attributes_apart(tmp_path: Path) -> None:
    where = source(
        tmp_path, "item_id,name,attributes,price\nS1,茶,产地#福建*香型#茉莉,免费\nS2,糕,,9元\n", "products.csv"
    )
    assert read_table(Product, where) == [
        Product(item_id="S1", name="茶", attributes={"产地": "福建", "香型": "茉莉"}),
        Product(item_id="S2", name="糕", price=9),
    ]


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
