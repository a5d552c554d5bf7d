"""From raw cells to the schema's values, a column at a time.

The usual forms go through polars; what they leave over goes, each distinct cell once, through the parsers of this
module, which know every form and say what they expect of the rest. What even they refuse is a flaw of that cell.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import polars as pl

from client.config import SHANGHAI
from client.data.readers.records import as_written
from client.data.scrub import find, hide
from common.text import clean

LONGEST_TEXT, LONGEST_ID = 20_000, 64
OVER = 64
"""Characters beyond the cut that are scrubbed too, so that no number is cut in two before it is found."""

FIRST_YEAR, LAST_YEAR = 1990, 2100
LARGEST = 1e9
"""Times and numbers outside these are slips of a hand or of a program, not of a shop."""

MISSING = frozenset(("", "\\n", "null", "(null)", "<null>", "none", "nan", "nat", "n/a", "#n/a", "-", "--"))
"""How programs write that a cell holds nothing, in lower case."""

BROKEN_FORMULA = r"^#(?:REF!|VALUE!|NAME\?|DIV/0!|NUM!|NULL!|SPILL!|CALC!)$"
FORMULA = r"^[=+@-]\s*[A-Za-z_.]+\("
FREE = frozenset(("免费", "免单", "赠品", "赠送", "free", "gift"))

Zones: TypeAlias = tuple[str, str]
"""The zone of times that carry none, and the shop's zone, in which every time is said."""


@dataclass(frozen=True)
class Flaw:
    """What is wrong with some cells of a column: its kind and, a row each, whether it is there."""

    kind: str
    rows: pl.Series


@dataclass(frozen=True)
class Parsed:
    """A column of the schema's values, empty where a cell is empty or refused; its flaws; what was scrubbed."""

    values: pl.Series
    flaws: Sequence[Flaw] = ()
    scrubbed: Counter[str] = field(default_factory=Counter)


# From any column to text.


def as_text(cells: pl.Series) -> pl.Series:
    """Return the cells as text without blanks around it, null where a cell holds nothing."""
    if cells.dtype.is_float():
        text = pl.Series(cells.name, list(map(as_written, cells.to_list())), dtype=pl.String)
    else:
        text = cells.cast(pl.String)
    text = text.str.strip_chars(" \t\r\n\u3000\u00a0\ufeff\u200b\0")
    if text.str.contains('="', literal=True).any():
        text = text.str.replace(r'^="([^"]*)"$', "$1")
    return text.to_frame().select(_or_null(pl.first())).to_series()


def _or_null(text: pl.Expr) -> pl.Expr:
    known = [one for one in MISSING if len(one) <= 6]
    short = text.str.len_bytes() <= 6
    return pl.when(short & text.str.to_lowercase().is_in(known)).then(None).otherwise(text)


def each(text: pl.Series, read: Callable[[str], Any], dtype: pl.DataType) -> tuple[pl.Series, pl.Series]:
    """Return what `read` makes of each distinct text, and where it raised `ValueError` or `KeyError`."""
    distinct = text.drop_nulls().unique()
    values, refused = [], []
    for cell in distinct.to_list():
        try:
            values.append(read(cell))
            refused.append(False)
        except (ValueError, KeyError):
            values.append(None)
            refused.append(True)
    known = pl.DataFrame({"cell": distinct, "value": pl.Series(values, dtype=dtype), "refused": refused})
    found = text.rename("cell").to_frame().join(known, on="cell", how="left", maintain_order="left")
    return found["value"], found["refused"].fill_null(False)


# Ids: the shop's own strings, which nobody changes.

ROUNDED = r"(?i)^[+-]?\d(?:\.\d+)?E[+]?\d+$"
UNSEEN = r"[\p{C}\p{Zl}\p{Zp}\x{FFFD}]"
TOO_MANY_DIGITS = 16
SURE = 4


def read_ids(cells: pl.Series) -> Parsed:
    """Return ids; empty ones, long ones, unprintable ones and those that a spreadsheet has rounded are flaws."""
    text = as_text(cells).str.replace(r"^['`](\d)", "$1")
    failed = text.str.contains(BROKEN_FORMULA).fill_null(False)
    rounded = text.str.contains(ROUNDED).fill_null(False) | _cut_to_15_digits(text)
    odd = ((text.str.len_chars() > LONGEST_ID) | text.str.contains(UNSEEN)).fill_null(False) & ~rounded
    flaws = [("empty-id", text.is_null()), ("formula-error", failed), ("rounded-id", rounded), ("id", odd)]
    return Parsed(_empty(text, failed | rounded | odd), _real(flaws))


def _cut_to_15_digits(text: pl.Series) -> pl.Series:
    """Return where an id has lost its last digits: a spreadsheet keeps 15, and all the column's long ids end in zeros."""
    long = text.str.contains(rf"^\d{{{TOO_MANY_DIGITS + 1},{LONGEST_ID}}}$").fill_null(False)
    if text.filter(long).n_unique() >= SURE and text.filter(long).str.contains(r"^\d{15}0+$").all():
        return long
    return pl.repeat(False, len(text), eager=True)


# Times.

PARTS_OF_DAY = {"上午": 0, "am": 0, "早上": 0, "凌晨": 0, "下午": 12, "pm": 12, "晚上": 12, "中午": 12}
A_TIME = re.compile(
    r"(?P<year>\d{4})[-/.年](?P<month>\d{1,2})[-/.月](?P<day>\d{1,2})(?P<ri>日)?\s*(?:\(?(?:星期|周)[一二三四五六日天]\)?)?"
    r"(?:(?:(?<=[日\s一二三四五六天)])|T)\s*(?P<part>上午|下午|凌晨|早上|中午|晚上|am|pm)?\s*"
    r"(?P<hour>\d{1,2})[:时点](?:(?P<minute>\d{1,2})(?:[:分](?:(?P<second>\d{1,2})(?:[.,]\d+)?秒?)?)?)?"
    r"\s*(?P<half>am|pm)?\s*(?P<offset>Z|UTC|GMT|[+-]\d{2}:?\d{2})?)?",
    re.I,
)
COMPACT = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d)?)?")
EPOCH = re.compile(r"(\d{10})(?:\.\d+|\d{3}|\d{6})?")
PLAIN_TIME = r"^\d{4}(?:-\d{1,2}-|/\d{1,2}/)\d{1,2}(?:[T ]\d{1,2}:[0-5]\d(?::[0-5]\d)?)?$"
PLAIN_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d")
MOMENT = pl.Datetime("us")
A_TIME_IS = "a shop-local day or time such as 2026-01-03, 2026/1/3 14:05 or 2026年1月3日"


def read_times(cells: pl.Series, zones: Zones = (SHANGHAI, SHANGHAI), written: str = "") -> Parsed:
    """Return naive shop-local times in whole seconds; `written` is the column's own `strptime` format, if it has one."""
    if isinstance(cells.dtype, (pl.Date, pl.Datetime)):
        missing, times = (
            cells.is_null(),
            _moved(cells.cast(pl.Datetime("us")) if cells.dtype == pl.Date else cells, zones),
        )
        refused = times.is_null() & ~missing
    else:
        text = as_text(cells)
        missing = text.is_null()
        read = partial(parse_as, written=written, zones=zones) if written else partial(parse_time, zones=zones)
        times, refused = each(text, read, MOMENT) if written else _times(text, read, zones)
    times = times.dt.truncate("1s")
    outside = ~times.dt.year().is_between(FIRST_YEAR, LAST_YEAR).fill_null(True)
    return Parsed(_empty(times, refused | outside), _real([("empty", missing), ("time", refused), ("range", outside)]))


def _times(text: pl.Series, read: Callable[[str], datetime], zones: Zones) -> tuple[pl.Series, pl.Series]:
    """Return the times of the plain forms through polars, of all others through `read`."""
    plain = text.str.contains(PLAIN_TIME).fill_null(False)
    like = text.set(~plain, None).str.replace_all("/", "-", literal=True).str.replace("T", " ", literal=True)
    times = pl.Series([], dtype=MOMENT).extend_constant(None, len(text))
    for form in PLAIN_FORMATS:
        if times.null_count() > len(text) - plain.sum():
            times = times.zip_with(times.is_not_null(), like.str.to_datetime(form, time_unit="us", strict=False))
    times = _moved(times, zones)
    rest = text.set(times.is_not_null(), None)
    if rest.null_count() == len(rest):
        return times, pl.repeat(False, len(text), eager=True)
    others, refused = each(rest, read, MOMENT)
    return times.zip_with(times.is_not_null(), others), refused


def _moved(times: pl.Series, zones: Zones) -> pl.Series:
    """Return times, with or without a zone, as naive times of the shop; an hour that a clock leaps over is null."""
    aware = times.dtype.time_zone is not None  # type: ignore[attr-defined]
    if not aware and zones[0] == zones[1]:
        return times.cast(MOMENT)
    if not aware:
        times = times.dt.replace_time_zone(zones[0], ambiguous="earliest", non_existent="null")
    return times.dt.convert_time_zone(zones[1]).dt.replace_time_zone(None).cast(MOMENT)


def parse_time(cell: str, zones: Zones = (SHANGHAI, SHANGHAI)) -> datetime:
    """Return a shop-local time from a day or time in Chinese or ISO form, or from seconds or milliseconds since 1970.

    >>> parse_time("2026年1月3日 下午3:05"), parse_time("2026-01-03T01:05:00Z")
    (datetime.datetime(2026, 1, 3, 15, 5), datetime.datetime(2026, 1, 3, 9, 5))
    """
    cell = unicodedata.normalize("NFKC", cell)
    try:
        if match := EPOCH.fullmatch(cell):
            return _local(datetime.fromtimestamp(int(match[1]), UTC), zones)
        if match := COMPACT.fullmatch(cell):
            return _local(datetime(*(int(part or 0) for part in match.groups())), zones)  # type: ignore[arg-type]
        if match := A_TIME.fullmatch(cell):
            return _local(_spelled(match), zones)
    except (ValueError, OverflowError):
        pass
    raise ValueError(A_TIME_IS)


def parse_as(cell: str, written: str, zones: Zones = (SHANGHAI, SHANGHAI)) -> datetime:
    """Return a shop-local time that is written in the `strptime` format `written`.

    >>> parse_as("03/04/2026", "%d/%m/%Y")
    datetime.datetime(2026, 4, 3, 0, 0)
    """
    try:
        return _local(datetime.strptime(cell, written), zones)
    except OverflowError as error:
        raise ValueError(str(error)) from None


def _spelled(match: re.Match[str]) -> datetime:
    """Return the time that a match of `A_TIME` spells, aware if it carries an offset."""
    year, month, day, hour, minute, second = (
        int(match[name] or 0) for name in ("year", "month", "day", "hour", "minute", "second")
    )
    if part := (match["part"] or match["half"] or "").lower():
        hour = _hour_of(part, hour)
    time = datetime(year, month, day, hour, minute, second)
    offset = (match["offset"] or "").upper()
    if not offset:
        return time
    if offset in ("Z", "UTC", "GMT"):
        return time.replace(tzinfo=UTC)
    return datetime.strptime(f"{time.isoformat()}{offset.replace(':', '')}", "%Y-%m-%dT%H:%M:%S%z")


def _hour_of(part: str, hour: int) -> int:
    """Return the hour of the day for an hour said with its part of the day; 0 to 23, or `ValueError`."""
    if hour > 12:
        if PARTS_OF_DAY[part] == 0:
            raise ValueError(A_TIME_IS)
        return hour
    if part == "中午":
        return hour if hour >= 10 else hour + 12
    if part == "晚上" and hour == 12:
        raise ValueError(A_TIME_IS)
    return hour % 12 + PARTS_OF_DAY[part]


def _local(time: datetime, zones: Zones) -> datetime:
    """Return a time as a naive one of the shop; raise `ValueError` for an hour that a clock has leapt over."""
    if time.tzinfo is None and zones[0] == zones[1]:
        return time
    aware = time if time.tzinfo else time.replace(tzinfo=ZoneInfo(zones[0]))
    if time.tzinfo is None and aware.astimezone(UTC).astimezone(aware.tzinfo).replace(tzinfo=None) != time:
        raise ValueError(A_TIME_IS)
    return aware.astimezone(ZoneInfo(zones[1])).replace(tzinfo=None)


# Numbers.

A_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*(?:CN¥|CNY|RMB|人民币|[¥$€£])?\s*(?P<minus>-?)(?P<number>(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d*)?|\.\d+)(?P<tiny>E-\d+)?"
    r"\s*(?:元|圆|块|CNY|RMB|件|个|只|盒|袋|包|瓶|罐|条|支|双|套|份|本|张|台|箱|片|块|斤|kg|公斤|g|克|pcs?)?",
    re.I,
)
PLAIN_NUMBER = r"^-?\d{1,15}(?:\.\d{1,15})?$"
A_NUMBER_IS = "a number such as 58, 58.00 or ¥1,234.50"


def read_numbers(cells: pl.Series, read: Callable[[str], float] | None = None) -> Parsed:
    """Return numbers of size up to `LARGEST`."""
    if cells.dtype.is_numeric():
        numbers = cells.cast(pl.Float64).fill_nan(None)
        refused = numbers.is_infinite().fill_null(False)
    else:
        text = as_text(cells)
        numbers = text.set(~text.str.contains(PLAIN_NUMBER).fill_null(False), None).cast(pl.Float64)
        others, refused = each(text.set(numbers.is_not_null(), None), read or parse_number, pl.Float64())
        numbers = numbers.zip_with(numbers.is_not_null(), others)
    outside = (numbers.abs() > LARGEST).fill_null(False) & ~refused
    return Parsed(_empty(numbers, refused | outside), _real([("number", refused), ("range", outside)]))


def read_quantities(cells: pl.Series) -> Parsed:
    """Return how many pieces; none at all is a flaw, fewer is a return, for the caller to see."""
    parsed = read_numbers(cells)
    none = (parsed.values == 0).fill_null(False)
    return Parsed(_empty(parsed.values, none), [*parsed.flaws, *_real([("zero", none)])])


def read_prices(cells: pl.Series) -> Parsed:
    """Return prices, 0 for what is free; one below 0 is a flaw."""
    parsed = read_numbers(cells, parse_price)
    below = (parsed.values < 0).fill_null(False)
    return Parsed(_empty(parsed.values, below), [*parsed.flaws, *_real([("range", below)])])


def parse_number(cell: str) -> float:
    """Return a number from `58`, `1,234.50`, `¥1,234.50` or `3件`.

    >>> parse_number("￥1,234.50"), parse_number("58元")
    (1234.5, 58.0)
    """
    match = A_NUMBER.fullmatch(unicodedata.normalize("NFKC", cell))
    if not match or (match["sign"] and match["minus"]):
        raise ValueError(A_NUMBER_IS)
    return float(match["sign"] + match["minus"] + match["number"].replace(",", "") + (match["tiny"] or ""))


def parse_price(cell: str) -> float:
    """Return a price, 0 for what is free.

    >>> parse_price("免费"), parse_price("9.9元")
    (0.0, 9.9)
    """
    return 0.0 if cell.lower() in FREE else parse_number(cell)


# Ratings.

A_RATING = re.compile(r"([1-5])(?:\.0+)?\s*[星分]?|(★{1,5})☆{0,4}")
RATED = {"好评": 5, "中评": 3, "差评": 1}


def read_ratings(cells: pl.Series) -> Parsed:
    """Return ratings from 1 to 5."""
    text = as_text(cells)
    ratings, refused = each(text, parse_rating, pl.Int64())
    return Parsed(ratings, _real([("empty", text.is_null()), ("rating", refused)]))


def parse_rating(cell: str) -> int:
    """Return 1 to 5 from `4`, `4星`, `★★★★☆` or `好评`.

    >>> parse_rating("4星"), parse_rating("★★★★☆"), parse_rating("差评")
    (4, 4, 1)
    """
    match = A_RATING.fullmatch(unicodedata.normalize("NFKC", cell))
    if match:
        return int(match[1]) if match[1] else len(match[2])
    if cell not in RATED:
        raise ValueError("a rating from 1 to 5")
    return RATED[cell]


# Free texts.

Texts: TypeAlias = dict[str, tuple[str, tuple[str, ...]]]
"""A cell -> the text without personal data, and the kinds of what was found in it."""

SHORT, REMEMBERED = 64, 100_000
"""Texts up to this length are remembered while a table is read, so many of them."""


def read_texts(cells: pl.Series, known: Texts) -> Parsed:
    """Return free texts, cleaned and scrubbed, each distinct one once; what is too long is cut."""
    text = as_text(cells)
    long = (text.str.len_chars() > LONGEST_TEXT).fill_null(False)
    if long.any():
        text = text.str.slice(0, LONGEST_TEXT + OVER)
    counts = text.drop_nulls().value_counts()
    originals, times = counts.to_series(0).to_list(), counts.to_series(1).to_list()
    scrubbed: Counter[str] = Counter()
    results = []
    for cell, count in zip(originals, times, strict=True):
        result, kinds = without_persons(cell, known)
        results.append(result[:LONGEST_TEXT])
        for kind in kinds:
            scrubbed[kind] += count
    if results:
        text = text.replace_strict(originals, results, return_dtype=pl.String)
    failed = text.str.contains(BROKEN_FORMULA).fill_null(False)
    flaws = [
        ("empty", text.is_null() | (text == "").fill_null(False)),
        ("formula-error", failed),
        ("formula", text.str.contains(FORMULA).fill_null(False)),
        ("encoding", text.str.contains("\ufffd", literal=True).fill_null(False)),
        ("too-long", long),
    ]
    return Parsed(_empty(text, failed), _real(flaws), scrubbed)


def without_persons(cell: str, known: Texts) -> tuple[str, tuple[str, ...]]:
    """Return a free text cleaned and scrubbed, and the kinds of what went; a short one is remembered."""
    done = known.get(cell)
    if done is None:
        text = clean(cell)
        found = find(text)
        done = hide(text, found), tuple(one.kind for one in found)
        if len(cell) <= SHORT and len(known) < REMEMBERED:
            known[cell] = done
    return done


def _empty(values: pl.Series, where: pl.Series) -> pl.Series:
    return values.set(where, None) if where.any() else values


def _real(flaws: Iterable[tuple[str, pl.Series]]) -> list[Flaw]:
    return [Flaw(kind, rows) for kind, rows in flaws if rows.any()]
