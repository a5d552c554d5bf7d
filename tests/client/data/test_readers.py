from __future__ import annotations

import gzip
import zipfile
from contextlib import closing
from datetime import date, datetime
from pathlib import Path

import polars as pl
import pytest
from openpyxl import Workbook

from client.config import Source
from client.data.readers.files import ending, expand
from client.data.readers.records import Piece, Records
from client.data.readers.text import open_text
from client.data.sources import Reading, open_file, read_table, scan
from common.errors import UserError
from common.schema import Order

HEADER = ("客户编号", "下单时间", "商品编号", "商品名称", "数量", "单价", "备注")
ROWS: tuple[tuple[object, ...], ...] = (
    ("c2", "2026-01-04 10:00:00", "S1", "茉莉花茶", 1, 58.5, '送给"老王",谢谢'),
    ("c1", "2026-01-03 09:05:00", "S2", "糯米糕", 2, 12, "两行\n备注"),
)


def pieces_of(records: Records, wanted: tuple[int, ...] = (0,)) -> list[Piece]:
    with closing(records):
        return list(records.pieces(wanted))


def rows_of(records: Records, wanted: tuple[int, ...] = (0, 2)) -> list[tuple[object, ...]]:
    return [row for piece in pieces_of(records, wanted) for row in piece.cells.rows()]


def orders(path: Path, **settings: object) -> list[Order]:
    return list(read_table(Order, Source.model_validate({"path": path, **settings})))


def expected() -> list[Order]:
    names = ("customer_id", "order_time", "item_id", "item_name", "quantity", "price", "note")
    return [
        Order.model_validate({**dict(zip(names, row, strict=True)), "note": str(row[6]).replace("\n", " ")})
        for row in (ROWS[1], ROWS[0])
    ]


def csv_text(separator: str = ",") -> str:
    def cell(value: object) -> str:
        text = str(value).replace('"', '""')
        return f'"{text}"' if any(mark in text for mark in ',\t"\n') else text

    return "".join(separator.join(map(cell, row)) + "\r\n" for row in (HEADER, *ROWS))


def workbook(path: Path, *sheets: tuple[str, tuple[tuple[object, ...], ...]]) -> Path:
    book = Workbook()
    book.remove(book.active)
    for name, rows in sheets:
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


# CSV.


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("packed", [False, True])
def test_encodings_separators_and_packing_do_not_matter(
    tmp_path: Path, encoding: str, separator: str, packed: bool
) -> None:
    data = csv_text(separator).encode(encoding)
    path = tmp_path / ("orders.csv.gz" if packed else "orders.csv")
    path.write_bytes(gzip.compress(data) if packed else data)
    assert orders(path) == expected()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_place_is_the_physical_line_also_behind_quoted_line_breaks(tmp_path: Path, end: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(end.join(("", "a,b", '1,"x', 'y"', "", "2,z", '3,"', '"', "4,")).encode())
    (piece,) = pieces_of(open_text(path), (0, 1))
    assert piece.cells["0"].to_list() == ["1", "2", "3", "4"]
    assert piece.places.to_list() == [3, 6, 7, 9]
    assert piece.blank == 1


def test_one_column_two_times_the_same_and_none_but_the_wanted_are_handed_on(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b,c\n1,2,3\n4,5,6\n")
    assert rows_of(open_text(path), (2,)) == [("3",), ("6",)]
    assert rows_of(open_text(path), (1, 1, 0)) == [("2", "2", "1"), ("5", "5", "4")]


def test_ragged_records_are_told_with_their_line_and_empty_extra_cells_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2,\n3\n4,5,6\n7,8\n")
    (piece,) = pieces_of(open_text(path))
    assert piece.places.to_list() == [2, 5]
    assert [(one.place, one.kind) for one in piece.damaged] == [(3, "ragged"), (4, "ragged")]
    assert piece.rows == 4


def test_a_file_may_be_only_ascii_before_its_chinese_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n" + b"1,x\n" * 600_000 + "2,花茶\n".encode("gb18030"))
    last = rows_of(open_text(path), (0, 1))[-1]
    assert last == ("2", "花茶")


def test_two_letters_that_are_utf8_by_chance_do_not_make_a_gb18030_file_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("名,b\n陇,1\n花茶,2\n".encode("gb18030"))
    assert rows_of(open_text(path), (0, 1)) == [("陇", "1"), ("花茶", "2")]


def test_an_encoding_that_is_given_is_the_only_one_tried(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("a,名\n1,花茶\n".encode())
    with pytest.raises(UserError, match="line 1 is not GB18030;"):
        open_text(path, "gb18030")
    path.write_bytes("a,名\n1,花茶\n".encode("gb18030"))
    with pytest.raises(UserError, match="line 1 is not UTF-8;"):
        open_text(path, "utf-8")


@pytest.mark.parametrize("place", [2, 70_000, 300_000])
def test_the_line_of_a_damaged_byte_is_named(tmp_path: Path, place: int) -> None:
    lines = [f"{n},花茶花茶\r\n".encode() for n in range(1, 300_003)]
    lines[place - 1] = b"x,\xff\xff\r\n"
    path = tmp_path / "a.csv"
    path.write_bytes(b"".join(lines))
    with pytest.raises(UserError, match=f"line {place} is not UTF-8"):
        open_text(path)


@pytest.mark.parametrize(("first", "second"), [("utf-8", "gb18030"), ("gb18030", "utf-8")])
def test_a_file_of_two_encodings_is_refused_with_the_line_where_they_change(
    tmp_path: Path, first: str, second: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("客户,名\n1,茉莉花茶\n".encode(first) + "2,普洱茶饼\n3,绿茶\n".encode(second))
    with pytest.raises(UserError, match=r"line 3 is (not )?UTF-8"):
        open_text(path)


def test_the_damage_is_where_a_file_leaves_its_encoding_and_not_where_another_would(tmp_path: Path) -> None:
    text = "客户,名称\n1,茉莉花茶\n".encode() + "2,普洱茶饼\n".encode("gb18030")
    assert text.decode("gb18030")
    path = tmp_path / "a.csv"
    path.write_bytes(text)
    with pytest.raises(UserError, match="line 3 is not UTF-8; save the file"):
        open_text(path)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w") as file:
        file.write("a,b\n")
        for n in range(30):
            file.write(f"{n},{'x' * 3_000_000}\n")
    sizes = [piece.cells.estimated_size() for piece in pieces_of(open_text(path), (0, 1))]
    assert len(sizes) > 3
    assert max(sizes) < 25_000_000


# XLSX.


def test_a_workbook_is_read_with_its_own_types(tmp_path: Path) -> None:
    typed = tuple((row[0], datetime.fromisoformat(str(row[1])), *row[2:]) for row in ROWS)
    path = workbook(tmp_path / "a.xlsx", ("订单", (HEADER, *typed)), ("空", ()))
    assert orders(path) == expected()
    path = workbook(tmp_path / "b.xlsx", ("订单", ((), HEADER, *typed)))
    (batch,) = scan(Order, Source(path=path))
    assert [batch.where(place) for place in batch.frame["place"]] == ["sheet '订单' row 3", "sheet '订单' row 4"]


def test_dates_numbers_and_ids_of_cells_are_what_the_spreadsheet_shows(tmp_path: Path) -> None:
    book = Workbook()
    sheet = book.active
    sheet.append(HEADER[:3])
    sheet.append([123, date(2026, 1, 3), 10**17 + 1])
    sheet.append([4567, 46026.5, 7.0])
    sheet.append(["=1+1", datetime(2026, 1, 5), "S"])
    sheet["A2"].number_format = "00000"
    sheet["B3"].number_format = "yyyy/m/d h:mm"
    book.save(tmp_path / "a.xlsx")
    reading = Reading()
    rows = read_table(Order, Source(path=tmp_path / "a.xlsx", max_bad=1), reading)
    assert [(row.customer_id, row.order_time, row.item_id) for row in rows] == [("4567", datetime(2026, 1, 4, 12), "7")]
    assert [(one.place, one.column, one.kind) for one in reading.problems] == [
        ("sheet 'Sheet' row 4", "客户编号", "formula-error"),
        ("sheet 'Sheet' row 2", "商品编号", "rounded-id"),
    ]
    records = open_file(tmp_path / "a.xlsx", Source(path=tmp_path / "a.xlsx"))
    assert rows_of(records, (0,))[0] == ("00123",)


def test_the_sheet_is_the_one_named_or_the_only_one_with_rows(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", ("说明", (("读我",),)), ("订单", (HEADER, *ROWS)))
    with pytest.raises(UserError, match="2 sheets \\(说明, 订单\\); say which"):
        orders(path)
    assert orders(path, sheet="订单") == expected()
    with pytest.raises(UserError, match="no sheet '订'; there are 说明, 订单"):
        orders(path, sheet="订")


def test_a_size_that_a_workbook_only_claims_hides_no_rows(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", ("订单", (HEADER, *ROWS)))
    with zipfile.ZipFile(path) as parts:
        data = {name: parts.read(name) for name in parts.namelist()}
    sheet = data["xl/worksheets/sheet1.xml"]
    assert b'<dimension ref="A1:G3"' in sheet
    data["xl/worksheets/sheet1.xml"] = sheet.replace(b'<dimension ref="A1:G3"', b'<dimension ref="A1"')
    with zipfile.ZipFile(path, "w") as parts:
        for name, content in data.items():
            parts.writestr(name, content)
    assert orders(path) == expected()


def test_a_long_sheet_comes_in_pieces(tmp_path: Path) -> None:
    rows = tuple((f"c{n}", "2026-01-03", "S1") for n in range(9000))
    path = workbook(tmp_path / "a.xlsx", ("订单", (HEADER[:3], *rows)))
    pieces = pieces_of(open_file(path, Source(path=path)))
    assert len(pieces) == 2
    assert pl.concat(piece.places for piece in pieces).to_list() == list(range(2, 9002))


# Parquet.


def frame() -> pl.DataFrame:
    return pl.DataFrame(ROWS, schema=list(HEADER), orient="row", strict=False)


def test_parquet_is_read_with_its_own_types(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    typed = frame().with_columns(
        pl.col("下单时间").str.to_datetime().dt.replace_time_zone("Asia/Shanghai").dt.convert_time_zone("UTC"),
        pl.col("单价").cast(pl.Decimal(10, 2)),
        pl.col("商品名称").cast(pl.Categorical),
    )
    typed.write_parquet(path)
    assert orders(path) == expected()


def test_a_large_row_group_comes_in_pieces_with_row_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"a": range(150_000), "b": "x"}).write_parquet(path, row_group_size=1_000_000)
    pieces = pieces_of(open_file(path, Source(path=path)))
    assert [len(piece.places) for piece in pieces] == [65_536, 65_536, 18_928]
    assert pieces[1].places[0] == 65_537
    assert pl.concat(piece.cells for piece in pieces)["0"].to_list() == list(range(150_000))


# Files and globs.


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    (tmp_path / "p").mkdir()
    for name, row in (("2026-02", ROWS[0]), ("2026-01", ROWS[1])):
        pl.DataFrame([row], schema=list(HEADER), orient="row").write_parquet(tmp_path / "p" / f"{name}.parquet")
    return tmp_path / "p"


def test_a_glob_reads_its_files_in_order_of_their_names(parts: Path) -> None:
    assert [path.stem for path in expand(parts / "*.parquet")] == ["2026-01", "2026-02"]
    assert orders(parts / "*.parquet") == expected()
    batches = list(scan(Order, Source(path=parts / "2026-*.parquet")))
    assert [(Path(one.source).stem, one.where(1)) for one in batches] == [("2026-01", "row 1"), ("2026-02", "row 1")]


def test_files_of_one_table_may_differ_in_the_order_of_columns_only(parts: Path) -> None:
    frame().select(reversed(HEADER)).write_parquet(parts / "2026-03.parquet")
    assert len(orders(parts / "*.parquet")) == 4
    frame().rename({"备注": "留言"}).write_parquet(parts / "2026-04.parquet")
    with pytest.raises(UserError, match=r"2026-04\.parquet: its columns are not those of 2026-01\.parquet: 备注, 留言"):
        orders(parts / "*.parquet")


def test_a_name_that_holds_a_star_and_is_there_is_no_glob(tmp_path: Path) -> None:
    (tmp_path / "a[1].csv").write_text(csv_text())
    assert orders(tmp_path / "a[1].csv") == expected()


def test_an_ending_says_what_a_file_holds() -> None:
    assert [ending(Path(name)) for name in ("a.CSV", "b.csv.gz", "c.2026.parquet", "d", "e.gz")] == [
        *(".csv", ".csv.gz", ".parquet", "", ".gz"),
    ]
