from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.readers.records import column_of
from client.data.values import (
    Parsed,
    parse_as,
    parse_number,
    parse_price,
    parse_rating,
    parse_time,
    read_ids,
    read_numbers,
    read_prices,
    read_ratings,
    read_texts,
    read_times,
)

THIRD = datetime(2026, 1, 3)
AFTERNOON = datetime(2026, 1, 3, 15, 5)
DAYS = st.datetimes(datetime(1990, 1, 1), datetime(2099, 12, 31)).map(lambda day: day.replace(microsecond=0))


def kinds(parsed: Parsed) -> dict[str, list[int]]:
    return {flaw.kind: [place for place, bad in enumerate(flaw.rows) if bad] for flaw in parsed.flaws}


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("2026-01-03", THIRD),
        ("2026/1/3", THIRD),
        ("2026.1.3", THIRD),
        ("20260103", THIRD),
        ("2026年1月3日", THIRD),
        ("2026年01月03日 星期六", THIRD),
        ("2026/1/3 周六 15:05", AFTERNOON),
        ("２０２６－０１－０３", THIRD),
        ("2026.01.03 7:05", datetime(2026, 1, 3, 7, 5)),
        ("2026年1月3日 14:05:09", datetime(2026, 1, 3, 14, 5, 9)),
        ("2026年1月3日14时05分", datetime(2026, 1, 3, 14, 5)),
        ("2026年1月3日14时", datetime(2026, 1, 3, 14)),
        ("2026年1月3日14点5分9秒", datetime(2026, 1, 3, 14, 5, 9)),
        ("2026-01-03T14:05:09.250", datetime(2026, 1, 3, 14, 5, 9)),
        ("20260103150500", AFTERNOON),
        ("202601031505", AFTERNOON),
        ("2026年1月3日 下午3:05", AFTERNOON),
        ("2026/1/3 下午 3:05:00", AFTERNOON),
        ("2026/1/3 3:05 PM", AFTERNOON),
        ("2026-1-3 下午15:05", AFTERNOON),
        ("2026-1-3 上午12:05", datetime(2026, 1, 3, 0, 5)),
        ("2026-1-3 12:05 PM", datetime(2026, 1, 3, 12, 5)),
        ("2026-1-3 中午12:05", datetime(2026, 1, 3, 12, 5)),
        ("2026-1-3 中午1:05", datetime(2026, 1, 3, 13, 5)),
        ("2026-1-3 晚上9:05", datetime(2026, 1, 3, 21, 5)),
        ("2026-01-03T07:05:00Z", AFTERNOON),
        ("2026-01-03 07:05 UTC", AFTERNOON),
        ("2026-01-03T15:05:00+08:00", AFTERNOON),
        ("2026-01-03 02:05:00.000-0500", AFTERNOON),
        ("1767423900", AFTERNOON),
        ("1767423900000", AFTERNOON),
        ("1767423900000000", AFTERNOON),
        ("1767423900.25", AFTERNOON),
    ],
)
def test_times_are_read_as_shops_and_programs_write_them(cell: str, expected: datetime) -> None:
    assert parse_time(cell) == expected
    assert read_times(pl.Series([cell])).values.to_list() == [expected]


@pytest.mark.parametrize(
    "cell",
    [
        *("", "2026-02-30", "46025", "03/04/2026", "3.4.2026", "26-1-3", "昨天", "2026-01", "2026-13-01", "20261301"),
        *("2026-01-03 24:00", "2026-01-03 12:60", "2026-01-03 上午13:05", "2026-01-03 晚上12:05", "2026-01-0314:05"),
        *("2026-01-03 12:05:61", "2026-01-03T14:05:09+25:00", "12345", "99999999999", "2026-01-03 14:05 2026-01-04"),
    ],
)
def test_what_is_not_a_time_or_could_be_two_is_refused(cell: str) -> None:
    with pytest.raises(ValueError, match="shop-local"):
        parse_time(cell)
    assert read_times(pl.Series([cell])).values.to_list() == [None]


@settings(max_examples=200, deadline=None)
@given(
    days=st.lists(DAYS, min_size=1, max_size=5),
    form=st.sampled_from(("%Y-%m-%d %H:%M:%S", "%Y/%m/%dT%H:%M", "%Y-%m-%d")),
)
def test_the_fast_way_and_the_exact_way_read_the_same_times(days: list[datetime], form: str) -> None:
    cells = [day.strftime(form) for day in days]
    assert read_times(pl.Series(cells)).values.to_list() == [parse_time(cell) for cell in cells]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789-/:T 年", max_size=20))
def test_the_fast_way_refuses_what_the_exact_way_refuses(cell: str) -> None:
    (fast,) = read_times(pl.Series([cell], dtype=pl.String)).values.to_list()
    try:
        exact = parse_time(cell.strip())
    except ValueError:
        assert fast is None
    else:
        assert fast == (exact if 1990 <= exact.year <= 2100 else None)


def test_times_of_every_type_are_naive_local_times_in_whole_seconds() -> None:
    utc = datetime(2026, 1, 3, 7, 5, 0, 250_000, UTC)
    for cells in (
        pl.Series([AFTERNOON]),
        pl.Series([AFTERNOON], dtype=pl.Datetime("ns")),
        pl.Series([utc]),
        column_of("t", [utc]),
        column_of("t", [utc, AFTERNOON])[:1],
        pl.Series([1767423900]),
        pl.Series([1767423900.25]),
        pl.Series([1767423900000]),
    ):
        parsed = read_times(cells)
        assert parsed.values.to_list() == [AFTERNOON]
        assert parsed.values.dtype == pl.Datetime("us")
    assert read_times(pl.Series([date(2026, 1, 3), None])).values.to_list() == [THIRD, None]


def test_an_hour_that_the_clock_leaps_over_is_refused() -> None:
    parsed = read_times(pl.Series(["2026-03-29 02:30:00", "2026-03-29 03:30:00"]), ("Europe/Berlin", "Asia/Shanghai"))
    assert parsed.values.to_list() == [None, datetime(2026, 3, 29, 9, 30)]
    assert kinds(parsed) == {"time": [0]}


def test_a_written_format_knows_offsets_too() -> None:
    assert parse_as("03/04/2026 07:05 +0000", "%d/%m/%Y %H:%M %z") == datetime(2026, 4, 3, 15, 5)
    with pytest.raises(ValueError, match="does not match"):
        parse_as("2026-01-03", "%d/%m/%Y")


def test_times_outside_a_shops_life_are_flaws() -> None:
    parsed = read_times(pl.Series(["0001-01-01", "1989-12-31", "1990-01-01", "2101-01-01", None]))
    assert kinds(parsed) == {"range": [0, 1, 3], "empty": [4]}


def test_money_and_quantities_are_read_with_their_marks() -> None:
    cells = (
        "58",
        "¥58.00",
        "￥1,234.50",
        "１，２３４．５",
        "58元",
        "$ 9.9",
        "CNY 12",
        "-¥5",
        "¥-5",
        "+3",
        ".5",
        "58.",
        "3件",
        "2 盒",
    )
    expected = [58, 58, 1234.5, 1234.5, 58, 9.9, 12, -5, -5, 3, 0.5, 58, 3, 2]
    assert [parse_number(cell) for cell in cells] == expected
    assert read_numbers(pl.Series(cells)).values.to_list() == expected
    assert parse_number("7.1e-15") == 7.1e-15


@pytest.mark.parametrize(
    "cell", ["12,5", "1.234,50", "inf", "nan", "1e5", "1e300", "两件", "", "5-6", "--5", "-¥-5", "1 2", "0x1F"]
)
def test_what_is_not_a_number_is_refused(cell: str) -> None:
    with pytest.raises(ValueError, match="a number such as"):
        parse_number(cell)
    assert read_numbers(pl.Series([cell])).values.to_list() == [None]


def test_numbers_out_of_range_are_flaws_whatever_their_type() -> None:
    parsed = read_numbers(pl.Series([float("nan"), float("inf"), -float("inf"), 1e300, 2.5, None]))
    assert parsed.values.to_list() == [None, None, None, None, 2.5, None]
    assert kinds(parsed) == {"number": [1, 2], "range": [3]}
    assert read_numbers(pl.Series([Decimal("58.10")])).values.to_list() == [58.1]
    assert kinds(read_numbers(pl.Series(["1" + "0" * 14]))) == {"range": [0]}


def test_what_is_free_costs_nothing_and_nothing_costs_less() -> None:
    assert [parse_price(cell) for cell in ("免费", "赠品", "FREE", "9.9")] == [0, 0, 0, 9.9]
    assert kinds(read_prices(pl.Series([1.0, -0.01]))) == {"range": [1]}


def test_ratings_are_read_as_numbers_words_or_stars() -> None:
    cells = ("5", "4星", "3.0", "★★☆☆☆", "１", "好评", "差评")
    assert [parse_rating(cell) for cell in cells] == [5, 4, 3, 2, 1, 5, 1]
    assert read_ratings(pl.Series([5.0, 4.0, 3.5, 6.0, None])).values.to_list() == [5, 4, None, None, None]


@pytest.mark.parametrize("cell", ["0", "6", "80", "4.5", "很好", "★★★★★★"])
def test_what_is_not_a_rating_is_refused(cell: str) -> None:
    with pytest.raises(ValueError, match="from 1 to 5"):
        parse_rating(cell)


def test_ids_of_every_type_are_the_strings_a_person_would_write() -> None:
    for cells, expected in (
        (pl.Series([13800, None]), ["13800", None]),
        (pl.Series([13800.0, float("nan")]), ["13800", None]),
        (pl.Series([2**53 + 1]), ["9007199254740993"]),
        (pl.Series(["c1"], dtype=pl.Categorical), ["c1"]),
        (column_of("id", [Decimal(7), "x", b"y", True]), ["7", "x", "y", "True"]),
    ):
        assert read_ids(cells).values.to_list() == expected
    assert kinds(read_ids(pl.Series([1.38e17]))) == {"rounded-id": [0]}


def test_a_text_is_scrubbed_once_and_counted_as_often_as_it_stands() -> None:
    cells = pl.Series(["请打13800138000", None, "请打13800138000", "好\u200b茶 \n 香"])
    parsed = read_texts(cells, {})
    assert parsed.values.to_list() == ["请打<手机>", None, "请打<手机>", "好茶 香"]
    assert parsed.scrubbed == {"手机": 2}


def test_a_piece_without_rows_has_no_flaws() -> None:
    none = pl.Series([], dtype=pl.String)
    for parsed in (read_ids(none), read_times(none), read_numbers(none), read_ratings(none), read_texts(none, {})):
        assert len(parsed.values) == 0
        assert parsed.flaws == []
    assert read_times(pl.Series([], dtype=pl.Date)).values.len() == 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5), st.booleans()),
        max_size=8,
    )
)
def test_any_mixture_of_values_becomes_a_column_of_the_same_length(cells: list[object]) -> None:
    column = column_of("a", cells)
    assert len(column) == len(cells)
    assert all(one is None for cell, one in zip(cells, column.to_list(), strict=True) if cell is None)
    for read in (read_ids, read_times, read_numbers):
        assert len(read(column).values) == len(cells)


def test_a_duration_is_no_time() -> None:
    assert kinds(read_times(column_of("t", [timedelta(hours=3)]))) == {"time": [0]}
