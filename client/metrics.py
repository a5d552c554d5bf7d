"""How a shop's customers come back: repurchase rate, frequency, cohorts, RFM, days to the next purchase.

A *purchase* is one customer on one day: several orders of a day are one visit to the shop. The last day in the data is
the day of asking, never the clock, so the same tables give the same figures on any day.

Every figure is exact and without noise, for the shop's own eyes: nothing here is sent anywhere or charged. What a
figure means is written in `client.words` (`metrics_*`) and printed beside it; the tests recompute each in plain SQL.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

import polars as pl

from client.config import MerchantSettings
from client.data.sources import scan
from client.words import say, table
from common.errors import UserError
from common.schema import Order

WINDOWS = (7, 30, 60, 90, 180, 365)
MONTHS = 12
PROMPT_DAYS = (7, 14, 30, 60, 90)
SEGMENTS = ("champion", "rising", "keep", "rescue", "loyal", "new", "quiet", "lost")
"""The eight classes of RFM, by (R, F, M) high or low; `segment_*` in `client.words` says which is which."""
HIGH = 4


@dataclass(frozen=True)
class Returning:
    """Two repurchase rates of one window of `days`: after the first purchase, and within the last `days` of the data."""

    days: int
    customers: int
    """Customers whose first purchase lies at least `days` before the end: the others cannot be judged yet."""
    returned: int
    rate: float | None
    active: int
    """Customers with a purchase in the last `days` days."""
    repeated: int
    period_rate: float | None
    """None where the data is shorter than `days`."""


@dataclass(frozen=True)
class Month:
    """Purchases and buying customers of one calendar month; `whole` says whether the data covers all of it."""

    month: str
    customers: int
    purchases: int
    per_customer: float
    whole: bool


@dataclass(frozen=True)
class Cohort:
    """The customers whose first purchase lies in `month`, and the share of them that bought in the months after it."""

    month: str
    customers: int
    retention: tuple[float | None, ...]
    """None where that month is not over yet."""


@dataclass(frozen=True)
class Segment:
    """One class of customers; medians of days since the last purchase, of purchases and of money spent."""

    name: str
    customers: int
    share: float
    recency_days: float
    purchases: float
    spend: float


@dataclass(frozen=True)
class Waiting:
    """Days from one purchase to the next: Kaplan-Meier, with the gaps that are still open counted as open."""

    closed: int
    open: int
    quartiles: tuple[int | None, int | None, int | None]
    """Days after which a quarter, half and three quarters have come back; None where the data ends before."""
    closed_median: float | None
    """The median of the closed gaps alone: too short, as long gaps are the ones still open."""
    within: Mapping[str, float]
    """days -> share of gaps closed by then."""


@dataclass(frozen=True)
class Metrics:
    """Everything that `fugou merchant metrics` says."""

    first_day: str
    last_day: str
    customers: int
    purchases: int
    repurchase: tuple[Returning, ...]
    overall: float
    """Share of all customers with two purchases or more."""
    frequency: float
    """Purchases an active customer and month."""
    months: tuple[Month, ...]
    cohorts: tuple[Cohort, ...]
    segments: tuple[Segment, ...]
    waiting: Waiting


# --- from order lines to purchases ---


class Purchases:
    """Order lines on their way to one row a customer and day; as large as the purchases, not as the lines."""

    def __init__(self) -> None:
        self._parts: list[pl.DataFrame] = []
        self._waiting = 0

    def add(self, orders: pl.DataFrame) -> None:
        """Count the lines of one piece: columns `customer_id`, `order_time`, `quantity`, `price`."""
        self._parts.append(
            orders.lazy()
            .group_by(customer=pl.col("customer_id"), day=pl.col("order_time").dt.date())
            .agg(spend=(pl.col("quantity").fill_null(1.0) * pl.col("price").fill_null(0.0)).sum())
            .collect()
        )
        self._waiting += self._parts[-1].height
        if self._waiting > 2 * self._parts[0].height + 1_000_000:
            self.frame()

    def frame(self) -> pl.DataFrame:
        """Return `customer`, `day` and `spend`, one row a purchase, sorted by customer and day."""
        if not self._parts:
            return pl.DataFrame(schema={"customer": pl.String, "day": pl.Date, "spend": pl.Float64})
        whole = pl.concat(self._parts).group_by("customer", "day").agg(pl.col("spend").sum()).sort("customer", "day")
        self._parts, self._waiting = [whole], 0
        return whole


def read_purchases(settings: MerchantSettings) -> pl.DataFrame:
    """Return the purchases of a merchant; raises `UserError` when there are none."""
    found = Purchases()
    for batch in scan(Order, settings.sources.orders):
        found.add(batch.frame)
    purchases = found.frame()
    if purchases.is_empty():
        raise UserError(say("no_purchases", folder=settings.folder))
    return purchases


# --- figures ---


def measure(purchases: pl.DataFrame, windows: Sequence[int] = WINDOWS) -> Metrics:
    """Return the figures of `purchases` (`customer`, `day`, `spend`, one row a customer and day, at least one)."""
    visits = visits_of(purchases)
    begin, end = ends(visits)
    months = monthly(visits, begin, end)
    active_months = sum(one.customers for one in months)
    return Metrics(
        begin.isoformat(),
        end.isoformat(),
        visits["customer"].n_unique(),
        visits.height,
        tuple(repurchase(visits, end, days) for days in windows),
        overall(visits),
        visits.height / active_months,
        months,
        cohorts(visits, end),
        segments(rfm(visits, end)),
        waiting(visits, end),
    )


def visits_of(purchases: pl.DataFrame) -> pl.DataFrame:
    """Return purchases with the `next` and the `first` day of their customer, and their `month` as a number."""
    return purchases.sort("customer", "day").with_columns(
        next=pl.col("day").shift(-1).over("customer"),
        first=pl.col("day").min().over("customer"),
        month=_month(pl.col("day")),
    )


def ends(visits: pl.DataFrame) -> tuple[date, date]:
    """Return the first and the last day of the data."""
    begin, end = visits["day"].min(), visits["day"].max()
    assert isinstance(begin, date)
    assert isinstance(end, date)
    return begin, end


def overall(visits: pl.DataFrame) -> float:
    """Return the share of all customers with two purchases or more."""
    firsts = visits.filter(pl.col("day") == pl.col("first"))
    return firsts.filter(pl.col("next").is_not_null()).height / firsts.height


def repurchase(visits: pl.DataFrame, end: date, days: int) -> Returning:
    """Return both repurchase rates of a window of `days` days that is judged at `end`."""
    judged = visits.filter(
        (pl.col("day") == pl.col("first")) & (pl.col("day") <= end - timedelta(days=days)),
    )
    returned = judged.filter((pl.col("next") - pl.col("day")) <= timedelta(days=days)).height
    begin = visits["day"].min()
    late = visits.filter(pl.col("day") > end - timedelta(days=days)).group_by("customer").len()
    repeated = late.filter(pl.col("len") >= 2).height
    covered = isinstance(begin, date) and begin <= end - timedelta(days=days - 1)
    return Returning(
        days,
        judged.height,
        returned,
        _share(returned, judged.height),
        late.height,
        repeated,
        _share(repeated, late.height) if covered else None,
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def monthly(visits: pl.DataFrame, begin: date, end: date) -> tuple[Month, ...]:
    """Return every month with a purchase, in order of time."""
    counted = visits.group_by("month").agg(pl.col("customer").n_unique(), pl.len().alias("purchases")).sort("month")
    return tuple(
        Month(_name(month), customers, purchases, purchases / customers, _whole(month, begin, end))
        for month, customers, purchases in counted.iter_rows()
    )


def cohorts(visits: pl.DataFrame, end: date) -> tuple[Cohort, ...]:
    """Return the cohorts by month of the first purchase; a month is counted once it is over."""
    active = visits.select("customer", "month", start=_month(pl.col("first"))).unique()
    counts = active.group_by("start", after=pl.col("month") - pl.col("start")).len()
    bought = {(start, after): number for start, after, number in counts.iter_rows()}
    last = _index(end) - (not _over(_index(end), end))
    return tuple(
        Cohort(
            _name(start),
            bought[start, 0],
            tuple(
                bought.get((start, after), 0) / bought[start, 0] if start + after <= last else None
                for after in range(1, MONTHS + 1)
            ),
        )
        for start in sorted({start for start, _ in bought})
    )


def rfm(visits: pl.DataFrame, end: date) -> pl.DataFrame:
    """Return one row a customer: `recency_days`, `purchases`, `spend`, scores `r`, `f`, `m` from 1 to 5, and `segment`.

    A score is 1 + floor(5 * share of customers that do worse): quintiles in which equals score the same.
    """
    people = visits.group_by("customer").agg(
        recency_days=(pl.lit(end) - pl.col("day").max()).dt.total_days(),
        purchases=pl.len(),
        spend=pl.col("spend").sum(),
    )
    scored = people.with_columns(
        r=_quintile(-pl.col("recency_days")), f=_quintile(pl.col("purchases")), m=_quintile(pl.col("spend").round(2))
    )
    place = 4 * (pl.col("m") < HIGH) + 2 * (pl.col("r") < HIGH) + (pl.col("f") < HIGH)
    return scored.with_columns(segment=place.replace_strict(dict(enumerate(SEGMENTS)))).sort("customer")


def _quintile(value: pl.Expr) -> pl.Expr:
    return 1 + 5 * (value.rank("min").cast(pl.Int64) - 1) // pl.len()


def segments(scored: pl.DataFrame) -> tuple[Segment, ...]:
    """Return the classes that have customers, in the order of `SEGMENTS`."""
    groups = scored.group_by("segment").agg(
        pl.len(), pl.col("recency_days").median(), pl.col("purchases").median(), pl.col("spend").median()
    )
    rows = {str(row["segment"]): row for row in groups.iter_rows(named=True)}
    return tuple(
        Segment(
            name,
            rows[name]["len"],
            rows[name]["len"] / scored.height,
            rows[name]["recency_days"],
            rows[name]["purchases"],
            rows[name]["spend"],
        )
        for name in SEGMENTS
        if name in rows
    )


def waiting(visits: pl.DataFrame, end: date) -> Waiting:
    """Return the days to the next purchase; a customer's last gap is open and says only that it is at least so long.

    The share still waiting after t days is the product over closed gaps d <= t of (1 - closed / at risk)
    (Kaplan and Meier 1958, doi:10.1080/01621459.1958.10501452).
    """
    gaps = visits.select(
        closed=pl.col("next").is_not_null(),
        days=(pl.col("next").fill_null(pl.lit(end)) - pl.col("day")).dt.total_days(),
    )
    steps = gaps.group_by("days").agg(pl.col("closed").sum(), pl.len().alias("ended")).sort("days")
    curve = steps.select("days", still=(1 - pl.col("closed") / pl.col("ended").cum_sum(reverse=True)).cum_prod())
    closed = gaps.filter("closed")["days"]
    return Waiting(
        len(closed),
        gaps.height - len(closed),
        (_reached(curve, 0.75), _reached(curve, 0.5), _reached(curve, 0.25)),
        _number(closed.median()),
        {str(days): 1 - _still(curve, days) for days in PROMPT_DAYS if days <= int(steps["days"][-1])},
    )


def _reached(curve: pl.DataFrame, share: float) -> int | None:
    """Return the first day on which at most `share` still wait; the tolerance is that of the running product."""
    days = curve.filter(pl.col("still") <= share + 1e-12)["days"]
    return int(days[0]) if len(days) else None


def _still(curve: pl.DataFrame, days: int) -> float:
    before = curve.filter(pl.col("days") <= days)["still"]
    return float(before[-1]) if len(before) else 1.0


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


# --- months as numbers: 12 * year + month - 1 ---


def _month(day: pl.Expr) -> pl.Expr:
    return day.dt.year().cast(pl.Int64) * 12 + day.dt.month().cast(pl.Int64) - 1


def _index(day: date) -> int:
    return 12 * day.year + day.month - 1


def _name(month: int) -> str:
    return f"{month // 12}-{month % 12 + 1:02d}"


def _over(month: int, end: date) -> bool:
    year, place = divmod(month, 12)
    return end >= date(year, place + 1, calendar.monthrange(year, place + 1)[1])


def _whole(month: int, begin: date, end: date) -> bool:
    return _over(month, end) and (begin.day == 1 or month > _index(begin))


# --- in words ---


def as_dict(metrics: Metrics) -> dict[str, Any]:
    """Return the figures for JSON, with the definitions in both languages' keys as they are printed."""
    return {"definitions": {name: say(f"metrics_{name}") for name in DEFINED}, **asdict(metrics)}


DEFINED = ("purchase", "repurchase", "frequency", "cohorts", "rfm", "waiting")


def lines(metrics: Metrics, name: str) -> Iterator[str]:
    """Yield the page: every table under the definition of what it shows."""
    yield say(
        "metrics_head",
        name=name,
        customers=metrics.customers,
        purchases=metrics.purchases,
        begin=metrics.first_day,
        end=metrics.last_day,
    )
    yield say("metrics_own_eyes")
    parts: Mapping[str, Iterable[str]] = {
        "purchase": (),
        "repurchase": _repurchase_lines(metrics),
        "frequency": _frequency_lines(metrics),
        "cohorts": _cohort_lines(metrics),
        "rfm": _segment_lines(metrics),
        "waiting": _waiting_lines(metrics.waiting),
    }
    for key, rows in parts.items():
        yield ""
        yield say(f"metrics_{key}")
        yield from rows


def percent(share: float | None) -> str:
    """Return a share as people read it; a dash where there is none."""
    return "–" if share is None else f"{100 * share:.1f}%"


def _repurchase_lines(metrics: Metrics) -> Iterator[str]:
    head = [say(f"head_{key}") for key in ("window", "judged", "returned", "rate", "active", "repeated", "rate")]
    rows = [
        [
            say("days", days=one.days),
            str(one.customers),
            str(one.returned),
            percent(one.rate),
            str(one.active),
            str(one.repeated),
            percent(one.period_rate),
        ]
        for one in metrics.repurchase
    ]
    yield table([head, *rows])
    yield say("metrics_overall", rate=percent(metrics.overall))


def _frequency_lines(metrics: Metrics) -> Iterator[str]:
    yield say("metrics_per_month", frequency=f"{metrics.frequency:.2f}")
    head = [say(f"head_{key}") for key in ("month", "customers", "purchases", "each")]
    yield table([head, *(_month_cells(one) for one in metrics.months)])


def _month_cells(one: Month) -> list[str]:
    month = one.month if one.whole else say("part_of", month=one.month)
    return [month, str(one.customers), str(one.purchases), f"{one.per_customer:.2f}"]


def _cohort_lines(metrics: Metrics) -> Iterator[str]:
    known = [sum(share is not None for share in one.retention) for one in metrics.cohorts]
    wide = max(1, *known) if known else 1
    head = [say("head_month"), say("head_customers"), *(f"+{after}" for after in range(1, wide + 1))]
    yield table(
        [head, *([one.month, str(one.customers), *map(percent, one.retention[:wide])] for one in metrics.cohorts)]
    )


def _segment_lines(metrics: Metrics) -> Iterator[str]:
    head = [say(f"head_{key}") for key in ("segment", "customers", "share", "recency", "purchases", "spend")]
    rows = [
        [
            say(f"segment_{one.name}"),
            str(one.customers),
            percent(one.share),
            f"{one.recency_days:g}",
            f"{one.purchases:g}",
            f"{one.spend:,.2f}",
        ]
        for one in metrics.segments
    ]
    yield table([head, *rows])


def _waiting_lines(waits: Waiting) -> Iterator[str]:
    quarter, half, most = ("–" if days is None else say("days", days=days) for days in waits.quartiles)
    yield say("metrics_quartiles", quarter=quarter, half=half, most=most, closed=waits.closed, open=waits.open)
    if waits.closed_median is not None:
        yield say("metrics_closed", days=f"{waits.closed_median:g}")
    if waits.within:
        head = [say("head_within"), *(say("days", days=days) for days in waits.within)]
        yield table([head, [say("head_share"), *map(percent, waits.within.values())]])
