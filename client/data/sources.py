"""A merchant's tables as checked rows, in order of time, with personal data gone from every free text.

A table is read in three steps, each blind to the others: a reader turns a file or a query into pieces of raw cells,
`choose` finds the schema's fields in the header, and a piece becomes a `Batch` of typed columns. Columns that the schema
does not know are never looked at, so a phone or address column cannot reach a row. Cleaning and scrubbing come before
a row exists.

What is wrong with a cell is told and never guessed around: a row without a readable required cell is left out, an
optional cell is emptied, a text that is too long is cut. Where too many rows are so, the mapping is wrong, and the table
is refused.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import polars as pl

from client.config import STATUS, MerchantSettings, Source
from client.data.readers.database import open_database, shown
from client.data.readers.files import ending, expand
from client.data.readers.parquet import open_parquet
from client.data.readers.records import Piece, Records
from client.data.readers.text import open_text
from client.data.readers.workbook import open_workbook
from client.data.scrub import scrub
from client.data.table import Table, schema_of
from client.data.values import (
    Parsed,
    Texts,
    Zones,
    as_text,
    each,
    read_ids,
    read_prices,
    read_quantities,
    read_ratings,
    read_texts,
    read_times,
)
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

STATUS_HEADERS = tuple("status 订单状态 交易状态 退款状态 售后状态 支付状态 状态 order_status refund_status".split())
STATUSES: Mapping[str, tuple[str, ...]] = {
    "cancelled": (
        *"取消 已取消 交易取消 订单取消 关闭 已关闭 交易关闭 订单关闭 作废 已作废".split(),
        *"cancelled canceled closed void".split(),
    ),
    "refunded": (
        *"退款 已退款 退款成功 退款完成 全额退款 退货退款 退货退款成功 已退货 退货".split(),
        *"refunded returned".split(),
    ),
    "unpaid": (
        *"待付款 等待买家付款 等待付款 未付款 待支付 未支付".split(),
        *("unpaid", "pending", "pending payment", "awaiting payment"),
    ),
    "kept": (
        *"交易成功 已完成 完成 成功 已收货 已签收 待发货 已发货 卖家已发货 买家已付款 已付款 已支付 待评价".split(),
        *"等待买家确认收货 等待卖家发货 没有申请退款 无退款 未退款 无 否 正常 退款关闭 部分退款 退款中".split(),
        *"completed complete paid shipped delivered fulfilled processing success ok".split(),
    ),
}
"""What the words of a status column say became of an order line; only lines that are `kept` are purchases."""

FREE_TEXTS = frozenset(("item_name", "note", "name", "category", "brand", "attributes", "description", "text"))
FREE_TEXTS |= frozenset(("intent", "status", "question", "answer", "channel", "offer"))
"""The fields that people write words in; ids are the shop's own and go into no prompt."""

LEFT_OUT, EMPTIED, CUT, KEPT = "row left out", "value emptied", "text cut", "kept as it is"
HARMLESS = {"too-long": CUT, "formula": KEPT, "encoding": KEPT, "status": KEPT}
"""Kinds of problems that take away neither row nor value, and what is done."""

FORGIVEN = frozenset((*HARMLESS, "empty-text"))
"""Kinds that say nothing against the mapping, however many there are."""

MEANING: Mapping[str, str] = {
    "empty-id": "an id is missing",
    "id": "no id: longer than 64 characters, or with characters that cannot be seen",
    "rounded-id": "no id any more: a spreadsheet has rounded it; export the column as text",
    "empty": "empty, and needed",
    "empty-text": "no words",
    "time": "not a time such as 2026-01-03, 2026/1/3 14:05 or 2026年1月3日; for another form say how it is written, "
    'as in formats = { order_time = "%d/%m/%Y" }',
    "range": "outside what a shop can mean",
    "number": "not a number such as 58, 58.00 or ¥1,234.50",
    "zero": "a quantity of 0 is no purchase",
    "rating": "not a rating from 1 to 5",
    "too-long": "longer than 20,000 characters",
    "formula": "reads like a formula",
    "formula-error": "a formula that failed in the spreadsheet",
    "encoding": "holds characters that were lost in an earlier export (�)",
    "status": 'an unknown status; say what it means, as in statuses = { cancelled = ["作废"] }',
    "ragged": "more or fewer cells than the header; put quotes around a cell that holds a comma or a line break",
    "header": "the header again",
}
"""What a kind of problem means, in words that a message can use."""

SHOWN = 20
"""Problems of one kind and column that are kept in full; of the others there is a count."""

NEEDED = ("orders", "products")
"""Tables without which there is no shop."""

FEW = 5
"""So many unreadable rows never refuse a table by their share, as long as they are not the greater part."""


@dataclass(frozen=True)
class Problem:
    """One cell or record that cannot be taken as it is, where it stands, and what is done about it."""

    table: str
    source: str
    place: str
    column: str
    value: str
    kind: str
    does: str

    def __str__(self) -> str:
        column = f", column {self.column!r}" if self.column else ""
        return f"{self.source}: {self.place}{column}: {self.value!r}: {MEANING[self.kind]}"


@dataclass(frozen=True)
class Batch:
    """Some rows of one table as typed columns: the schema's fields that the source has, and `place`, an int.

    `problems` holds the first `SHOWN` of each column and kind, `counts` how many there are by (column, kind, what is
    done); `bad` counts the rows with an unreadable cell, `excluded` the rows left out on purpose, by reason; `rows`
    counts everything that was read. `source` and `unit` say where the rows are from, `where(place)` in words.
    """

    frame: pl.DataFrame = field(repr=False)
    source: str
    unit: str
    rows: int
    bad: int
    problems: Sequence[Problem]
    counts: Counter[tuple[str, str, str]]
    excluded: Counter[str]
    scrubbed: Counter[str]

    def where(self, place: int) -> str:
        """Return the place in words, such as `line 12`."""
        return f"{self.unit} {place}"


@dataclass
class Reading:
    """How reading went, at bounded memory: what was wrong, left out on purpose, and hidden as personal data.

    `counts` is by (table, column, kind, what is done), `excluded` by (table, reason), `rows` and `bad` by table.
    """

    problems: list[Problem] = field(default_factory=list)
    counts: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    excluded: Counter[tuple[str, str]] = field(default_factory=Counter)
    scrubbed: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)

    def add(self, table: str, batch: Batch) -> None:
        """Take in what one batch of `table` has to tell."""
        for one in batch.problems:
            if (
                sum(
                    kept.table == table and (kept.column, kept.kind) == (one.column, one.kind) for kept in self.problems
                )
                < SHOWN
            ):
                self.problems.append(one)
        for (column, kind, does), count in batch.counts.items():
            self.counts[table, column, kind, does] += count
        for reason, count in batch.excluded.items():
            self.excluded[table, reason] += count
        self.scrubbed.update(batch.scrubbed)
        self.rows[table] += batch.rows
        self.bad[table] += batch.bad


@dataclass(frozen=True)
class Column:
    """One field of the schema, or a status column, and where it stands: header and place in a record."""

    name: str
    header: str
    place: int
    required: bool


def table_of(kind: type[Row]) -> str:
    """Return the name of the table whose rows are of `kind`.

    >>> table_of(Order)
    'orders'
    """
    return next(table for table, row in TABLES.items() if row is kind)


def read_shop(settings: MerchantSettings, reading: Reading | None = None) -> Shop:
    """Return the merchant's whole book: every table its settings name, each in order of time.

    Raises `UserError` for the first table that cannot be read; `reading`, where given, takes what is to be told.
    """
    sources = settings.sources

    def rows(kind: type[R], source: Source | None) -> Sequence[R]:
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


def read_table(kind: type[R], source: Source, reading: Reading | None = None) -> Table[R]:
    """Return the rows of a table, in order of time where it has one; rows of one time keep the source's order.

    Raises `UserError` where `scan` does.
    """
    table, frames = table_of(kind), []
    for batch in scan(kind, source):
        frames.append(batch.frame.drop("place"))
        if reading is not None:
            reading.add(table, batch)
    return Table.sorted(kind, pl.concat(frames) if frames else pl.DataFrame(schema=schema_of(kind)))


def scan(kind: type[R], source: Source) -> Iterator[Batch]:
    """Yield a table batch by batch, at bounded memory, in the source's order.

    Raises `UserError` for what is no table, for a column that is missing, and, at the end, for a table in which more than
    `source.max_bad` of the rows have a cell that cannot be read; `Unreachable` for a database that does not answer.
    """
    table = table_of(kind)
    told = Reading()
    texts: Texts = {}
    for records in _opened(source):
        try:
            columns = choose(kind, source, records)
            reader = partial(_batch, kind, source, records, columns, texts)
            for piece in records.pieces([column.place for column in columns]):
                batch = reader(piece)
                told.add(table, batch)
                yield batch
        finally:
            records.close()
    if table in NEEDED and told.rows[table] == told.excluded[table, "blank"]:
        raise UserError(
            f"{_place(source)} has no {table}: no {table[:-1]} that can be used stands below its header; "
            "export the table again"
        )
    _refuse_if_hopeless(table, source, told)


def _place(source: Source) -> str:
    """Return where a source lies, as a message may show it."""
    return shown(source.url) if source.url else str(source.path)


def _refuse_if_hopeless(table: str, source: Source, told: Reading) -> None:
    """Raise `UserError` when so many rows are bad that it is the mapping, and no slip."""
    bad, rows = told.bad[table], told.rows[table] - sum(told.excluded.values())
    if bad <= source.max_bad * rows or (bad <= FEW and bad * 2 <= rows):
        return
    by = Counter({(column, kind): count for (_, column, kind, _), count in told.counts.items() if kind not in FORGIVEN})
    (column, kind), count = by.most_common(1)[0]
    example = next(one for one in told.problems if (one.column, one.kind) == (column, kind))
    raise UserError(
        f"{example}; {bad} of {rows} rows of {table} cannot be read, {count} of them so; correct [sources] or the file, "
        f"or allow more with max_bad (now {source.max_bad:g})"
    )


# From a header to columns.


def choose(kind: type[Row], source: Source, records: Records) -> list[Column]:
    """Return the columns of a header that the schema knows: by `columns`, by the schema's name, or by `HEADERS`.

    Raises `UserError` for a required or a mapped column that is not there, and for one that stands there twice.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(records.header):
        places[_plain(name)].append(place)
    columns = []
    for name, info in kind.model_fields.items():
        mapped = name in source.columns
        names = [source.columns[name]] if mapped else [name, *HEADERS.get(name, ())]
        found = next((places[_plain(one)] for one in names if _plain(one) in places), [])
        if not found and (info.is_required() or mapped):
            raise _missing(kind, records, name, names)
        if found:
            columns.append(_column(name, found, records, required=info.is_required()))
    return columns + (_status_columns(kind, source, records, places) if kind is Order else [])


def _column(name: str, found: Sequence[int], records: Records, *, required: bool) -> Column:
    header = records.header[found[0]]
    if len(found) > 1:
        raise UserError(f"{records.name}: {header!r} stands {len(found)} times in the header; rename one")
    return Column(name, header, found[0], required)


def _status_columns(
    kind: type[Row], source: Source, records: Records, places: Mapping[str, Sequence[int]]
) -> list[Column]:
    """Return every column that says what became of an order line; a shop may have one of orders and one of refunds."""
    names = [source.columns[STATUS]] if STATUS in source.columns else STATUS_HEADERS
    found = [places[_plain(one)] for one in names if _plain(one) in places]
    if not found and STATUS in source.columns:
        raise _missing(kind, records, STATUS, names)
    return [_column(STATUS, one, records, required=False) for one in found]


def _missing(kind: type[Row], records: Records, name: str, names: Sequence[str]) -> UserError:
    wanted = " or ".join(names[:4])
    found = ", ".join(_short(name) for name in records.header[:40]) or "an empty header"
    return UserError(
        f"{records.name}: no column for {name} ({wanted}); found {found}; "
        f'rename one, or map it: [sources] {table_of(kind)} = {{path = …, columns = {{{name} = "your header"}}}}'
    )


def _plain(header: str) -> str:
    return unicodedata.normalize("NFKC", header).strip("\ufeff \t\r\n").casefold()


# From a piece of raw cells to a batch.


def _batch(
    kind: type[Row], source: Source, records: Records, columns: Sequence[Column], texts: Texts, piece: Piece
) -> Batch:
    """Return a piece as typed columns, with everything that is to be told about it."""
    tale = _Tale(table_of(kind), records.name, records.unit)
    for damaged in piece.damaged:
        tale.of_record(damaged.place, damaged.kind, damaged.text)
    cells = piece.cells.with_columns(piece.places.alias("place"))
    cells = _without_headers(cells, columns, tale)
    if kind is Order:
        cells = _purchases(cells, columns, source, tale)
    zones = (source.timezone or source.local, source.local)
    fields = [(n, column) for n, column in enumerate(columns) if column.name in kind.model_fields]
    parsed = [(column, cells[str(n)], _read(column.name, cells[str(n)], source, zones, texts)) for n, column in fields]
    keep = _not_returned(parsed, cells.height, tale)
    lost, bad = ~keep, pl.repeat(False, cells.height, eager=True)
    for column, raw, one in parsed:
        for flaw in one.flaws:
            kind_, does = _verdict(column, flaw.kind)
            rows = flaw.rows & keep
            if does and rows.any():
                tale.of_cells(column.header, kind_, does, raw.filter(rows), cells["place"].filter(rows))
                lost = lost | rows if does == LEFT_OUT else lost
                bad = bad | rows if kind_ not in FORGIVEN else bad
    for _, _, one in parsed:
        tale.scrubbed.update(one.scrubbed)
    frame = _whole(kind, {column.name: one.values for column, _, one in parsed}, cells["place"]).filter(~lost)
    tale.excluded["blank"] += piece.blank
    return tale.batch(frame, piece.rows, int(bad.sum()) + tale.records)


class _Tale:
    """What is to be told about one piece, while it is read."""

    def __init__(self, table: str, source: str, unit: str) -> None:
        self.table, self.source, self.unit = table, source, unit
        self.problems: list[Problem] = []
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.excluded: Counter[str] = Counter()
        self.scrubbed: Counter[str] = Counter()
        self.records = 0

    def of_record(self, place: int, kind: str, text: str) -> None:
        """Tell of a whole record that is left out."""
        self.records += 1
        self._count("", kind, LEFT_OUT, [(place, text)], 1)

    def of_cells(self, column: str, kind: str, does: str, cells: pl.Series, places: pl.Series) -> None:
        """Tell of the cells of one column that share what is wrong with them."""
        few = zip(places.head(SHOWN).to_list(), cells.head(SHOWN).to_list(), strict=True)
        self._count(column, kind, does, few, len(cells))

    def _count(self, column: str, kind: str, does: str, few: Iterable[tuple[int, object]], count: int) -> None:
        told = self.counts[column, kind, does]
        self.counts[column, kind, does] += count
        for place, value in islice(few, max(SHOWN - told, 0)):
            where = f"{self.unit} {place}"
            self.problems.append(Problem(self.table, self.source, where, column, _short(value), kind, does))

    def batch(self, frame: pl.DataFrame, rows: int, bad: int) -> Batch:
        """Return the rows with what is told about them."""
        excluded = Counter({reason: count for reason, count in self.excluded.items() if count})
        return Batch(
            frame, self.source, self.unit, rows, bad, tuple(self.problems), self.counts, excluded, self.scrubbed
        )


def _short(value: object) -> str:
    """Return a cell as a message may show it: without personal data, on one line, not long."""
    text = scrub(clean(str(value)[:200])) if value is not None else ""
    return text if len(text) <= 30 else text[:29] + "…"


def _without_headers(cells: pl.DataFrame, columns: Sequence[Column], tale: _Tale) -> pl.DataFrame:
    """Return the records without those that say the header again, as files do that were glued together."""
    texts = [(str(n), column.header) for n, column in enumerate(columns) if cells[str(n)].dtype == pl.String]
    if len(texts) < len(columns):
        return cells
    again = cells.select(pl.all_horizontal(pl.col(n).str.strip_chars() == header for n, header in texts)).to_series()
    again = again.fill_null(False)
    if not again.any():
        return cells
    for place in cells["place"].filter(again).to_list():
        tale.of_record(place, "header", columns[0].header)
    return cells.filter(~again)


def _purchases(cells: pl.DataFrame, columns: Sequence[Column], source: Source, tale: _Tale) -> pl.DataFrame:
    """Return the order lines that a status column does not call cancelled, refunded or unpaid; the others are counted."""
    meaning = {word: reason for reason, words in STATUSES.items() for word in words}
    meaning |= {_plain(word): reason for reason, words in source.statuses.items() for word in words}
    for n, column in enumerate(columns):
        if column.name != STATUS:
            continue
        raw = as_text(cells[str(n)])
        said, unknown = each(raw, lambda word: meaning[_plain(word)], pl.String())
        if unknown.any():
            tale.of_cells(column.header, "status", KEPT, raw.filter(unknown), cells["place"].filter(unknown))
        gone = (said != "kept").fill_null(False)
        for reason, count in said.filter(gone).value_counts().iter_rows():
            tale.excluded[reason] += count
        cells = cells.filter(~gone)
    return cells


def _not_returned(parsed: Sequence[tuple[Column, pl.Series, Parsed]], height: int, tale: _Tale) -> pl.Series:
    """Return which rows give nothing back; lines of a negative quantity are returns, and counted."""
    quantity = next((one.values for column, _, one in parsed if column.name == "quantity"), None)
    if quantity is None:
        return pl.repeat(True, height, eager=True)
    returned = (quantity < 0).fill_null(False)
    tale.excluded["returns"] += int(returned.sum())
    return ~returned


def _verdict(column: Column, kind: str) -> tuple[str, str]:
    """Return the kind of a flaw as it is told, and what is done; nothing is done about an optional cell that is empty."""
    if kind in ("empty", "empty-id") and not column.required:
        return kind, ""
    if kind == "empty" and column.name in FREE_TEXTS:
        kind = "empty-text"
    return kind, HARMLESS.get(kind) or (LEFT_OUT if column.required or kind == "zero" else EMPTIED)


def _whole(kind: type[Row], values: Mapping[str, pl.Series], places: pl.Series) -> pl.DataFrame:
    """Return the columns of every field of the schema, an empty or absent cell as the schema's default, and `place`."""
    columns = []
    for name, info in kind.model_fields.items():
        default = "" if info.default_factory else info.default
        if name not in values:
            columns.append(pl.repeat(default, len(places), eager=True).alias(name))
        else:
            column = values[name].alias(name)
            columns.append(column if info.is_required() else column.fill_null(default))
    return pl.DataFrame([*columns, places.alias("place")])


def _read(name: str, cells: pl.Series, source: Source, zones: Zones, texts: Texts) -> Parsed:
    """Return the values of a column, read as its field asks."""
    if name in FREE_TEXTS:
        return read_texts(cells, texts)
    if name in ("order_time", "time"):
        return read_times(cells, zones, source.formats.get(name, ""))
    return READ.get(name, read_ids)(cells)


READ: Mapping[str, Callable[[pl.Series], Parsed]] = {
    "quantity": read_quantities,
    "price": read_prices,
    "rating": read_ratings,
}


# From a source to records.


def _opened(source: Source) -> Iterator[Records]:
    """Yield the records of the source's database, or of every file it names, in order of their names.

    Raises `UserError` where the files of one table do not have the same columns.
    """
    if source.url:
        yield open_database(source.url, source.query)
        return
    paths = expand(source.path)
    first: list[str] = []
    for path in paths if len(paths) > 1 else ():
        records = open_file(path, source)
        records.close()
        header = sorted(map(_plain, records.header))
        first = first or header
        if differing := sorted(set(header) ^ set(first)):
            raise UserError(
                f"{path}: its columns are not those of {paths[0].name}: {', '.join(differing)}; "
                "files of one table must have the same header"
            )
    for path in paths:
        yield open_file(path, source)


def open_file(path: Path, source: Source) -> Records:
    """Return the records of the file at `path`, by its ending."""
    kind = ending(path)
    if kind in TEXTS:
        return open_text(path, source.encoding)
    if kind in WORKBOOKS:
        return open_workbook(path, source.sheet)
    if kind in PARQUETS:
        return open_parquet(path)
    known = ", ".join((*TEXTS, *WORKBOOKS, *PARQUETS))
    what = path.suffix if path.suffix else "nameless"
    raise UserError(f"{path}: cannot tell what a {what} file holds; known endings: {known}")


TEXTS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
WORKBOOKS = (".xlsx", ".xlsm")
PARQUETS = (".parquet", ".pq")
"""What is read, by the ending of a file's name."""


def fingerprint(source: Source) -> tuple[object, ...]:
    """Return what changes when the source's files change; what a database holds is never taken to be the same."""
    if source.url:
        return (object(),)
    stats = ((path, path.stat()) for path in expand(source.path))
    return (source.model_dump_json(), *((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in stats))
