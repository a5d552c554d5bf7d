"""A merchant's tables as checked rows, in order of time, with personal data gone from every free text.

A table is read in three steps, each blind to the others: a reader turns a file into records (a header and lines of
cells), `_choose` finds the schema's fields in the header, and cells become rows. Columns that the schema does not know
are never looked at, so a phone or address column cannot reach a row. Cleaning and scrubbing come before the row exists.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pydantic import TypeAdapter, ValidationError

from client.config import MerchantSettings, Source
from client.data.scrub import find, hide, scrub
from common.errors import UserError
from common.schema import TABLES, Campaign, Dialog, Order, Product, Review, Row, Shop
from common.text import clean

R = TypeVar("R", bound=Row)

HEADERS: Mapping[str, tuple[str, ...]] = {
    "customer_id": (
        "客户编号",
        "客户号",
        "客户id",
        "顾客编号",
        "会员号",
        "会员编号",
        "会员id",
        "买家id",
        "用户id",
        "买家会员名",
    ),
    "order_time": (
        "下单时间",
        "订单时间",
        "下单日期",
        "购买时间",
        "订单创建时间",
        "订单付款时间",
        "付款时间",
        "时间",
        "日期",
    ),
    "time": ("时间", "日期", "评价时间", "评论时间", "咨询时间", "发送时间", "推送时间"),
    "item_id": ("商品编号", "商品编码", "商品id", "宝贝id", "货号", "商家编码", "sku", "sku编号"),
    "item_name": ("商品名称", "商品名", "品名", "宝贝标题", "商品标题"),
    "name": ("商品名称", "商品名", "品名", "名称", "宝贝标题", "商品标题"),
    "quantity": ("数量", "件数", "购买数量", "宝贝数量"),
    "price": ("单价", "价格", "售价", "商品单价", "商品价格"),
    "note": ("备注", "订单备注", "买家留言", "留言"),
    "order_id": ("订单号", "订单编号"),
    "category": ("类目", "品类", "分类", "商品分类"),
    "brand": ("品牌",),
    "attributes": ("属性", "商品属性"),
    "description": ("描述", "商品描述", "详情"),
    "review_id": ("评价编号", "评论编号", "评价id"),
    "rating": ("星级", "评分", "打分"),
    "text": ("评价内容", "评价", "评论内容", "评论", "内容", "文案", "文案内容"),
    "dialog_id": ("会话编号", "对话编号", "会话id"),
    "intent": ("意图", "咨询类型", "问题类型"),
    "status": ("状态", "订单状态"),
    "question": ("问题", "买家问题", "客户问题", "提问"),
    "answer": ("回复", "回答", "客服回复", "答复"),
    "campaign_id": ("活动编号", "营销编号", "活动id"),
    "channel": ("渠道", "推送渠道"),
    "offer": ("优惠", "优惠内容"),
}
"""The headers of a field that neither `columns` nor the schema's name finds, the preferred one first."""

FREE_TEXTS = frozenset(("item_name", "note", "name", "category", "brand", "attributes", "description", "text"))
FREE_TEXTS |= frozenset(("intent", "status", "question", "answer", "channel", "offer"))
"""The fields that people write words in; ids are the shop's own and go into no prompt."""

Texts: TypeAlias = dict[str, tuple[str, tuple[str, ...]]]
"""A cell -> the text without personal data, and the kinds of what was found in it."""

SHORT = 64
"""Texts up to this length are remembered while a table is read."""

A_TIME = re.compile(
    r"(\d{4})[-/.年](\d{1,2})[-/.月](\d{1,2})(?:(?:日\s*|T|\s+)(\d{1,2})[:时](\d{1,2})(?:[:分](\d{1,2})(?:\.\d+)?秒?|分)?|日)?"
)
A_NUMBER = re.compile(r"[¥$€]?\s*(-?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d+)?)\s*元?")
A_RATING = re.compile(r"([1-5])(?:\.0+)?\s*[星分]?|(★{1,5})☆{0,4}")
ROUNDED = re.compile(r"\d(?:\.\d+)?E\+\d+", re.I)


@dataclass(frozen=True)
class Records:
    """A file's header and its lines: the physical line that a record starts at, and its cells."""

    header: Sequence[str]
    lines: Iterator[tuple[int, list[str]]]


@dataclass
class Reading:
    """How reading went: what is wrong, one line a problem, and how many pieces of personal data went, by kind."""

    problems: list[str] = field(default_factory=list)
    scrubbed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Column:
    """One field of the schema and where it stands: header and place in a line."""

    name: str
    header: str
    place: int
    required: bool
    read: Callable[[str], Any]


def read_shop(settings: MerchantSettings, reading: Reading | None = None) -> Shop:
    """Return the merchant's whole book: every table its settings name, each in order of time.

    Raises `UserError` for the first table with a bad row; `reading`, where given, takes counts of what was scrubbed.
    """
    sources = settings.sources

    def rows(kind: type[R], source: Source | None) -> list[R]:
        return read_table(kind, source, reading) if source else []

    return Shop(
        id=settings.merchant.id,
        name=settings.merchant.name or settings.merchant.id,
        lang=settings.merchant.lang,
        orders=rows(Order, sources.orders),
        products=rows(Product, sources.products),
        reviews=rows(Review, sources.reviews),
        dialogs=rows(Dialog, sources.dialogs),
        campaigns=rows(Campaign, sources.campaigns),
    )


def read_table(kind: type[R], source: Source, reading: Reading | None = None) -> list[R]:
    """Return every row of a table, in order of time where it has one; rows of one time keep the file's order.

    Raises `UserError` that names the file, the line, the column, the value (short, scrubbed) and what is expected.
    """
    reading = reading or Reading()
    before = len(reading.problems)
    rows = read_good(kind, source, reading)
    if problems := reading.problems[before:]:
        more = f" (and {len(problems) - 1} more such cells)" if len(problems) > 1 else ""
        raise UserError(problems[0] + more)
    return rows


def read_good(kind: type[R], source: Source, reading: Reading) -> list[R]:
    """Return the good rows of a table and put what is wrong with the others into `reading.problems`.

    Raises `UserError` for a file that cannot be read as a table at all.
    """
    records = _open(source.path)
    columns = _choose(kind, source, records.header)
    lines, cells = [], []
    texts: Texts = {}
    for line, record in records.lines:
        row = _cells(f"{source.path}: line {line}", record, columns, reading, texts)
        if row is not None:
            lines.append(line)
            cells.append(row)
    rows = _validate(kind, cells, lines, columns, source.path, reading)
    when = next((name for name in ("order_time", "time") if name in kind.model_fields), None)
    return sorted(rows, key=lambda row: getattr(row, when)) if when else rows


def _cells(
    where: str, record: list[str], columns: Sequence[Column], reading: Reading, texts: Texts
) -> dict[str, Any] | None:
    """Return the line's cells by field, empty optional ones left out; None, and a problem, if one cannot be read."""
    row: dict[str, Any] = {}
    try:
        for column in columns:
            cell = record[column.place].strip()
            if not cell and not column.required:
                continue
            if column.name in FREE_TEXTS:
                row[column.name] = _without_persons(cell, texts, reading)
            else:
                row[column.name] = column.read(cell)
    except ValueError as error:
        reading.problems.append(f"{where}, column {column.header!r}: {_short(cell)!r} is not {error}")
        return None
    return row


def _without_persons(cell: str, texts: Texts, reading: Reading) -> str:
    """Return a free text cleaned and scrubbed; a short one is remembered, as names of items stand in many lines."""
    known = texts.get(cell)
    if known is None:
        text = clean(cell)
        found = find(text)
        known = hide(text, found), tuple(one.kind for one in found)
        if len(cell) <= SHORT:
            texts[cell] = known
    if known[1]:
        reading.scrubbed.update(known[1])
    return known[0]


def _short(cell: str) -> str:
    """Return a cell as an error may show it."""
    text = scrub(clean(cell))
    return text if len(text) <= 30 else text[:29] + "…"


def _validate(
    kind: type[R],
    cells: list[dict[str, Any]],
    lines: list[int],
    columns: Sequence[Column],
    file: Path,
    reading: Reading,
) -> list[R]:
    """Return the rows the schema accepts; the others become problems."""
    rows = TypeAdapter(list[kind])  # type: ignore[valid-type]
    try:
        return rows.validate_python(cells)
    except ValidationError as error:
        bad = set()
        headers = {column.name: column.header for column in columns}
        for one in error.errors(include_url=False):
            place, name = int(one["loc"][0]), str(one["loc"][1])
            bad.add(place)
            value = _short(str(one["input"]))
            reading.problems.append(
                f"{file}: line {lines[place]}, column {headers.get(name, name)!r}: {value!r}: {one['msg'].lower()}"
            )
        return rows.validate_python([row for place, row in enumerate(cells) if place not in bad])


# From a header to columns.


def _choose(kind: type[Row], source: Source, header: Sequence[str]) -> list[Column]:
    """Return the columns of `header` that the schema knows: by `columns`, by the schema's name, or by `HEADERS`."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(header):
        places.setdefault(_plain(name), []).append(place)
    columns = []
    for name, info in kind.model_fields.items():
        names = [source.columns[name]] if name in source.columns else [name, *HEADERS.get(name, ())]
        found = next((places[_plain(one)] for one in names if _plain(one) in places), [])
        if len(found) > 1:
            raise UserError(f"{source.path}: {header[found[0]]!r} stands {len(found)} times in the header; rename one")
        if not found and (info.is_required() or name in source.columns):
            raise _missing(kind, source, name, names, header)
        if found:
            read = READ.get(name, _identifier)
            columns.append(Column(name, header[found[0]], found[0], info.is_required(), read))
    return columns


def _missing(kind: type[Row], source: Source, name: str, names: Sequence[str], header: Sequence[str]) -> UserError:
    wanted = " or ".join(names[:4])
    table = next(table for table, row in TABLES.items() if row is kind)
    return UserError(
        f"{source.path}: no column for {name} ({wanted}); found {', '.join(header) or 'an empty header'}; "
        f'rename one, or map it: [sources] {table} = {{path = …, columns = {{{name} = "your header"}}}}'
    )


def _plain(header: str) -> str:
    return unicodedata.normalize("NFKC", header).strip().casefold()


# From a cell to a value; each raises `ValueError` with what it expects.


def parse_time(cell: str) -> datetime:
    """Return a shop-local time from `2026-01-03`, `2026/1/3 9:05` or `2026年1月3日 09:05:30`.

    >>> parse_time("2026年1月3日 9:05")
    datetime.datetime(2026, 1, 3, 9, 5)
    """
    match = A_TIME.fullmatch(cell) or A_TIME.fullmatch(unicodedata.normalize("NFKC", cell))
    if match:
        year, month, day, hour, minute, second = match.groups(default="0")
        try:
            return datetime(int(year), int(month), int(day), int(hour), int(minute), int(second))
        except ValueError:
            pass
    raise ValueError("a shop-local day or time such as 2026-01-03, 2026/1/3 14:05 or 2026年1月3日")


def parse_number(cell: str) -> float:
    """Return a number from `58`, `1,234.50` or `¥1,234.50`.

    >>> parse_number("￥1,234.50"), parse_number("58元")
    (1234.5, 58.0)
    """
    match = A_NUMBER.fullmatch(cell) or A_NUMBER.fullmatch(unicodedata.normalize("NFKC", cell))
    if not match:
        raise ValueError("a number such as 58, 58.00 or ¥1,234.50")
    return float(match[1].replace(",", ""))


def parse_rating(cell: str) -> int:
    """Return 1 to 5 from `4`, `4星` or `★★★★☆`.

    >>> parse_rating("4星"), parse_rating("★★★★☆")
    (4, 4)
    """
    match = A_RATING.fullmatch(unicodedata.normalize("NFKC", cell))
    if not match:
        raise ValueError("a rating from 1 to 5")
    return int(match[1]) if match[1] else len(match[2])


def _identifier(cell: str) -> str:
    if not cell:
        raise ValueError("an id; this column may not be empty")
    if ROUNDED.fullmatch(cell):
        raise ValueError("an id any more: a spreadsheet has rounded it; export the column as text")
    return cell


READ: Mapping[str, Callable[[str], Any]] = {
    "order_time": parse_time,
    "time": parse_time,
    "quantity": parse_number,
    "price": parse_number,
    "rating": parse_rating,
}


# From a file to records.


def _open(path: Path) -> Records:
    """Return the records of the file at `path`, by its ending."""
    if path.suffix.lower() not in READERS:
        raise UserError(
            f"{path}: cannot tell what a {path.suffix or 'nameless'} file holds; known endings: {', '.join(READERS)}"
        )
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; correct [sources] in merchant.toml") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; check its permissions") from None
    return READERS[path.suffix.lower()](path, data)


def read_csv(path: Path, data: bytes) -> Records:
    """Return the records of a CSV file: UTF-8 with or without BOM, with commas or tabs as its header has."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {line} is not UTF-8; save the file as UTF-8 CSV") from None
    first = text.lstrip().partition("\n")[0]
    separator = "\t" if first.count("\t") > first.count(",") else ","
    lines = _csv_lines(path, csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    _, header = next(lines, (1, []))
    header = [name.strip() for name in header]
    return Records(header, _as_wide(path, lines, header))


def _csv_lines(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield every record that is not blank, with the line it starts at."""
    start = 1
    try:
        for record in reader:
            if any(cell.strip() for cell in record):
                yield start, record
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}: line {start}: broken CSV: {error}; check the quotes of this record") from None


def _as_wide(
    path: Path, lines: Iterator[tuple[int, list[str]]], header: Sequence[str]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the records, each as wide as the header; raise for one that is not, as its cells may be shifted."""
    for line, record in lines:
        extra = len(record) - len(header)
        if extra > 0 and not any(record[len(header) :]):
            record = record[: len(header)]
        elif extra:
            raise UserError(
                f"{path}: line {line} has {len(record)} cells where the header has {len(header)}; "
                "put quotes around a cell that holds a comma or a line break"
            )
        yield line, record


READERS: Mapping[str, Callable[[Path, bytes], Records]] = {".csv": read_csv, ".tsv": read_csv, ".txt": read_csv}
