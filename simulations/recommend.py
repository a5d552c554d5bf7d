"""`fugou study recommend`: what a private, federated head is worth on real purchases, with intervals.

Complete Journey, a campaign's view: history before the cut, the customer's first order of the 30 days after it, recall
over the whole of that order. A merchant is a store with at least 20 customers of five orders or more before the cut.
The head is trained on earlier cuts only; every merchant adds its own full noise, so that nothing but noisy sums leave.
Items are taken at two levels: `sku`, product by product, and `text`, a brand with a product type.

Differences are paired by customer; intervals are percentile bootstraps over customers (Efron and Tibshirani 1993,
chapter 13), the noise of the runs as it fell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from client.train.head import Head, HeadData, make_head_data, train_head, zero_head
from client.train.sampling import randomness_for
from client.use.ranking.book import Book, Shelf, day_of, make_book, make_shelf
from client.use.ranking.features import Doubles
from client.use.ranking.guard import judge
from client.use.ranking.lists import TARGET_DAYS, K, Scores, next_order, score
from client.use.ranking.priors import priors
from client.use.ranking.rankers import (
    Choice,
    View,
    by_count,
    by_frequency,
    by_half_life,
    by_popularity,
    new_by_popularity,
    ranked,
    view,
)
from client.use.ranking.timing import due, timing
from common.errors import UserError
from common.files import write_atomic
from common.metrics import mean
from common.privacy.plan import RoundPlan, calibrate
from server.ranking import begin, mean_update, step
from simulations.journey import LOYAL, sold

Level = Literal["sku", "text"]
Tell = Callable[[str], None]

RESULT = "recommend.json"
LEAST = 20
RESAMPLES = 2000
COLD = 0.3
"""Part of the items that are taken out of everything but the test, to be launched in it."""


@dataclass(frozen=True)
class Study:
    """What is measured; epsilon is every merchant's for each of its customers, at `delta`, for all rounds together."""

    cut: datetime = datetime(2017, 11, 1)
    train: tuple[datetime, ...] = (datetime(2017, 8, 1), datetime(2017, 9, 1), datetime(2017, 10, 1))
    levels: tuple[Level, ...] = ("sku", "text")
    epsilons: tuple[float, ...] = (3.0, 1.0)
    delta: float = 1e-6
    rounds: int = 20
    draws: int = 1
    """How often the federated head is trained anew, with new noise; figures are means over them, customer by customer."""
    divisor: float = 32.0
    """A public constant: about a store's customers."""
    stores: int = 0
    """Take only so many stores; 0 takes all."""


@dataclass(frozen=True)
class Row:
    """One ranker's figures: means over customers, and (U, 2) recall@10 and nDCG@10 behind them."""

    name: str
    table_U2: Doubles = field(repr=False)

    @property
    def means(self) -> tuple[float, float]:
        """Recall@10 and nDCG@10."""
        recall, ndcg = self.table_U2.mean(0)
        return float(recall), float(ndcg)


# --- the stores ---


def load_books(lines: pl.DataFrame, level: Level, cut: datetime, stores: int = 0) -> list[Book]:
    """Return one book a store of `sold` lines: its customers of `LOYAL` orders before `cut`, if there are `LEAST`.

    Each store has item codes of its own. Raises `UserError` when no store qualifies.
    """
    past = lines.filter(pl.col("day") < day_of(cut)).select("store", "household", "day").unique()
    loyal = past.group_by("store", "household").len().filter(pl.col("len") >= LOYAL)
    kept = loyal.group_by("store").len("customers").filter(pl.col("customers") >= LEAST)
    chosen = kept.sort("customers", "store", descending=[True, False]).head(stores or kept.height).select("store")
    if not chosen.height:
        raise UserError(f"no store has {LEAST} customers of {LOYAL} orders before {cut:%Y-%m-%d}; take a later cut")
    rows = lines.join(loyal.join(chosen, on="store"), on=["store", "household"])
    item = pl.col("item") if level == "text" else pl.format("p{}", pl.col("product_id"))
    parts = rows.with_columns(code=item).sort("store").partition_by("store", maintain_order=True)
    return [_book(part) for part in parts]


def _book(lines: pl.DataFrame) -> Book:
    """Return one store's book."""
    products = lines.unique("code").sort("code").select("code", "name", "type", "category")
    shelf = make_shelf(products.iter_rows())
    households = lines.select("household").unique().sort("household").with_row_index("customer")
    items = products.select("code").with_row_index("place")
    coded = lines.join(households, on="household").join(items, on="code")
    columns = (coded[name].to_numpy().astype(np.int64) for name in ("customer", "day", "place"))
    return make_book([f"h{one}" for one in households["household"]], shelf, *columns)


# --- training ---


def federate(data: Sequence[HeadData], study: Study, epsilon: float) -> Head:
    """Return the head after all rounds: each merchant's private step with its own noise, the mean, the server's step."""
    plan = plan_of(study, epsilon)
    randomness = randomness_for(plan, 0)
    state = begin(zero_head())
    for _ in range(study.rounds):
        state = step(state, mean_update([train_head(state.head, one, plan, randomness) for one in data]))
    return state.head


def plan_of(study: Study, epsilon: float) -> RoundPlan:
    """Return the plan of every round: all customers in one step, and the noise that `rounds` such rounds need."""
    sigma = calibrate(epsilon, study.delta, 1.0, 1, study.rounds)
    return RoundPlan("store", "recommend", 1, 1.0, sigma, 1, 1.0, study.divisor, study.delta, 1, "study", "head")


def alone(data: Sequence[HeadData], study: Study, epsilon: float) -> list[Head]:
    """Return every merchant's own head: as many rounds, the same steps and the same epsilon, nobody else's customers."""
    return [federate([one], study, epsilon) for one in data]


# --- the table ---


def measure(views: Sequence[View], lists: Callable[[int, View], npt.NDArray[np.int64]]) -> Doubles:
    """Return (U, 2) recall@10 and nDCG@10 of every customer who ordered in the 30 days, store by store."""
    found = [score(lists(place, seen), next_order(seen.book, seen.day)) for place, seen in enumerate(views)]
    return table(found)


def table(found: Sequence[Scores]) -> Doubles:
    """Return (U, 2): recall and nDCG of all stores' customers."""
    whole: Doubles = np.concatenate([np.stack([one.recall_U, one.ndcg_U], 1) for one in found])
    return whole


def baselines(views: Sequence[View], everywhere: Sequence[Doubles]) -> Iterator[Row]:
    """Yield the rankers without learning; `everywhere` is each store's items' popularity over all stores, which nobody has."""
    yield Row("popularity, all stores", measure(views, lambda at, seen: by_popularity(seen, everywhere[at])))
    yield Row("popularity, own store", measure(views, lambda _, seen: by_popularity(seen)))
    yield Row("personal frequency", measure(views, lambda _, seen: by_count(seen)))
    yield Row("GP-TopFreq", measure(views, lambda _, seen: by_frequency(seen)))
    yield Row("GP-TopFreq, ties by all stores", measure(views, lambda at, seen: by_frequency(seen, everywhere[at])))
    yield Row("half-life 90 days", measure(views, lambda _, seen: by_half_life(seen)))
    yield Row(
        "half-life 90 days, ties by all stores", measure(views, lambda at, seen: by_half_life(seen, everywhere[at]))
    )


def popular_everywhere(views: Sequence[View]) -> list[Doubles]:
    """Return for each store its items' orders of the last 90 days in all stores together."""
    total: dict[str, float] = {}
    for seen in views:
        for item, count in zip(seen.book.shelf.items, seen.popular.tolist(), strict=True):
            total[item] = total.get(item, 0.0) + count
    return [np.array([total[item] for item in seen.book.shelf.items]) for seen in views]


def heads(data: Sequence[HeadData], views: Sequence[View], study: Study, tell: Tell) -> tuple[list[Row], list[Head]]:
    """Return the rows of the federated and the lonely heads at every epsilon, and the federated heads of the first."""
    rows: list[Row] = []
    first: list[Head] = []
    for epsilon in study.epsilons:
        together = [federate(data, study, epsilon) for _ in range(study.draws)]
        own = alone(data, study, epsilon)
        first = first or together
        tables = [measure_heads(views, [head] * len(views)) for head in together]
        rows.append(Row(f"federated, epsilon {epsilon:g}", np.mean(tables, axis=0)))
        rows.append(Row(f"local only, epsilon {epsilon:g}", measure_heads(views, own)))
        for row in rows[-2:]:
            tell(f"{row.name}: recall {row.means[0]:.4f}, nDCG {row.means[1]:.4f}")
    return rows, first


def measure_heads(views: Sequence[View], found: Sequence[Head]) -> Doubles:
    """Return (U, 2) with one head a store."""
    return measure(views, lambda at, seen: ranked(seen, found[at]))


def difference(ours: Row, than: Row, seed: int = 0) -> dict[str, Any]:
    """Return by how much `ours` is above `than`, in recall@10 and nDCG@10, each with its 95 % interval."""
    gap_U2 = ours.table_U2 - than.table_U2
    generator = np.random.default_rng(seed)
    count = len(gap_U2)
    drawn = generator.multinomial(count, np.full(count, 1 / count), RESAMPLES) @ gap_U2 / count
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    figures = {
        name: {"mean": float(gap_U2[:, at].mean()), "low": float(low[at]), "high": float(high[at])}
        for at, name in enumerate(("recall@10", "ndcg@10"))
    }
    return {"ours": ours.name, "than": than.name, **figures}


def compared(rows: Sequence[Row], study: Study) -> list[dict[str, Any]]:
    """Return every federated row against the baselines that matter and against shops that train alone."""
    named = {row.name: row for row in rows}
    plain = [name for name in named if name.startswith(("GP-TopFreq", "half-life"))]
    pairs = [
        (f"federated, epsilon {epsilon:g}", than)
        for epsilon in study.epsilons
        for than in (*plain, f"local only, epsilon {epsilon:g}")
    ]
    return [difference(named[ours], named[than]) for ours, than in pairs]


# --- new items, new shops, who is due, and the guard ---


def explored(views: Sequence[View], everywhere: Sequence[Doubles], found: Sequence[Head]) -> list[Row]:
    """Return the rows of new items: what was bought within 30 days and never before, ranked among what is new to her."""
    nobody = Choice(slots=0)
    ours = [_new_table(views, [ranked(seen, head, nobody) for seen in views]) for head in found]
    return [
        Row("explore", np.mean(ours, axis=0)),
        Row("popularity, own store", _new_table(views, [new_by_popularity(seen) for seen in views])),
        Row("popularity, all stores", _new_table(views, list(map(new_by_popularity, views, everywhere)))),
    ]


def _new_table(views: Sequence[View], lists: Sequence[npt.NDArray[np.int64]]) -> Doubles:
    return table([score(listed_UK, new_items(seen)) for listed_UK, seen in zip(lists, views, strict=True)])


def new_items(seen: View) -> npt.NDArray[np.bool_]:
    """Return (U, I): what each customer bought in the 30 days and never before."""
    bought_UI = seen.book.between(seen.day, seen.day + TARGET_DAYS).table()
    bought_UI[seen.pairs.customer_R, seen.pairs.item_R] = False
    return bought_UI


def cold(item: str) -> bool:
    """Return whether an item is launched in the test: a public property of its id."""
    return hashlib.sha256(b"launch " + item.encode()).digest()[0] < COLD * 256


def without_cold(book: Book) -> Book:
    """Return the book as if its cold items had never been on the shelf."""
    shelf = book.shelf
    stays_I = np.array([not cold(item) for item in shelf.items])
    place_I, kept = np.cumsum(stays_I) - 1, np.flatnonzero(stays_I).tolist()
    items, names = [shelf.items[at] for at in kept], [shelf.names[at] for at in kept]
    short = Shelf(items, names, shelf.kind_I[kept], shelf.category_I[kept], shelf.text_I[kept], shelf.texts)
    stays_P = stays_I[book.item_P]
    return Book(book.customers, short, book.customer_P[stays_P], book.day_P[stays_P], place_I[book.item_P[stays_P]])


def launch(books: Sequence[Book], study: Study, epsilon: float) -> dict[str, float]:
    """Return recall@10 on launch day: items nobody ever saw, of all stores, ranked among themselves by their words.

    The truth is what a customer bought of them within 30 days; `random` is what chance reaches.
    """
    data = [make_head_data(without_cold(book), _days(study), day_of(study.cut)) for book in books]
    found = [federate(data, study, epsilon) for _ in range(study.draws)]
    said: list[dict[str, float]] = [{} for _ in found]
    for book in books:
        for one, head in zip(said, found, strict=True):
            one |= {
                item: value
                for item, value in zip(book.shelf.items, priors(book.shelf, head).popularity_I.tolist(), strict=True)
                if cold(item)
            }
    best = [set(sorted(one, key=lambda item: (-one[item], item))[:K]) for one in said]
    bought = [items for book in books for items in _cold_bought(book, day_of(study.cut)) if items]
    recall = mean([mean([len(items & top) / len(items) for items in bought]) for top in best])
    return {"items": len(said[0]), "customers": len(bought), "recall@10": recall, "random": K / len(said[0])}


def _cold_bought(book: Book, day: int) -> list[set[str]]:
    later = book.between(day, day + TARGET_DAYS)
    found: list[set[str]] = [set() for _ in book.customers]
    for who, item in zip(later.customer_P.tolist(), later.item_P.tolist(), strict=True):
        if cold(book.shelf.items[item]):
            found[who].add(book.shelf.items[item])
    return found


def newcomers(views: Sequence[View], data: Sequence[HeadData], study: Study) -> dict[str, Any]:
    """Return what the head is worth at stores that took no part: every fourth one, with the head of the others."""
    new = views[::4]
    head = federate([one for at, one in enumerate(data) if at % 4], study, study.epsilons[0])
    ours = Row("head of other stores", measure_heads(new, [head] * len(new)))
    plain = Row("GP-TopFreq at new stores", measure(new, lambda _, seen: by_frequency(seen)))
    return {"stores": len(new), "rows": [_plain(ours), _plain(plain)], "difference": difference(ours, plain)}


def returns(views: Sequence[View]) -> dict[str, float]:
    """Return how well the chance of an order within 30 days tells who orders: area under the curve, beside recency."""
    chance = np.concatenate([due(timing(seen.book, seen.day), TARGET_DAYS) for seen in views])
    found = [timing(seen.book, seen.day) for seen in views]
    recency = np.concatenate([(one.last_U - one.known_U).astype(np.float64) for one in found])
    came = np.concatenate([_came(seen) for seen in views])
    return {
        "customers": len(came),
        "returned": float(came.mean()),
        "auc": area(chance, came),
        "auc of recency": area(recency, came),
        "mean chance": float(chance.mean()),
    }


def _came(seen: View) -> npt.NDArray[np.bool_]:
    later = seen.book.between(seen.day, seen.day + TARGET_DAYS)
    return np.bincount(later.customer_P, minlength=seen.shape[0]) > 0


def area(score_N: Doubles, true_N: npt.NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: the chance that a true one scores above a false one, ties by half.

    >>> area(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
    0.875
    """
    _, code_N, count = np.unique(score_N, return_inverse=True, return_counts=True)
    rank_N = (np.cumsum(count) - (count - 1) / 2)[code_N]
    hits, misses = int(true_N.sum()), int((~true_N).sum())
    return float((rank_N[true_N].sum() - hits * (hits + 1) / 2) / (hits * misses))


def guarded(views: Sequence[View], head: Head) -> tuple[Row, int]:
    """Return the row of shops that judge for themselves which ranker to use, and how many do not use the head."""
    use = [judge(seen.book, seen.day, head).use_head for seen in views]
    row = Row(
        "federated with guard", measure(views, lambda at, seen: ranked(seen, head) if use[at] else by_frequency(seen))
    )
    return row, use.count(False)


# --- all of it ---


def run_recommend(study: Study, folder: Path, tell: Tell) -> dict[str, Any]:
    """Return all figures, also written to `recommend.json` in `folder`."""
    found: dict[str, Any] = {"cut": f"{study.cut:%Y-%m-%d}", "rounds": study.rounds, "draws": study.draws}
    found |= {"epsilons": list(study.epsilons), "delta": study.delta}
    lines = sold()
    for level in study.levels:
        books = load_books(lines, level, study.cut, study.stores)
        tell(f"{level}: {len(books)} stores, {sum(len(book.customers) for book in books)} customers")
        found[level] = run_level(books, study, tell)
        if level == "text":
            found["launch"] = launch(books, study, study.epsilons[0])
            tell(f"launch day: {found['launch']}")
    write_atomic(folder / RESULT, json.dumps(found, indent=1) + "\n")
    tell(report(found))
    tell(f"written to {folder / RESULT}")
    return found


def run_level(books: Sequence[Book], study: Study, tell: Tell) -> dict[str, Any]:
    """Return the figures at one level of items."""
    day = day_of(study.cut)
    views = [view(book, day) for book in books]
    everywhere = popular_everywhere(views)
    rows = list(baselines(views, everywhere))
    data = [make_head_data(book, _days(study), day) for book in books]
    learned, found = heads(data, views, study, tell)
    guard, fallen = guarded(views, found[0])
    explore = explored(views, everywhere, found)
    return {
        "stores": len(books),
        "customers": sum(len(book.customers) for book in books),
        "asked": len(rows[0].table_U2),
        "rows": [_plain(row) for row in (*rows, *learned, guard)],
        "differences": [
            *compared([*rows, *learned], study),
            *(difference(guard, row) for row in (rows[3], learned[0])),
        ],
        "stores that fall back": fallen,
        "explore": [_plain(row) for row in explore],
        "explore differences": [difference(explore[0], row) for row in explore[1:]],
        "newcomers": newcomers(views, data, study),
        "returns": returns(views),
    }


def _days(study: Study) -> list[int]:
    return [day_of(one) for one in study.train]


def _plain(row: Row) -> dict[str, Any]:
    recall, ndcg = row.means
    return {"name": row.name, "recall@10": recall, "ndcg@10": ndcg}


def report(found: Mapping[str, Any]) -> str:
    """Return the figures as text."""
    lines: list[str] = []
    for level in ("sku", "text"):
        if level in found:
            lines += _level_lines(level, found[level])
    if "launch" in found:
        one = found["launch"]
        lines.append(
            f"launch day, {one['items']} new items: recall@10 {one['recall@10']:.4f}, chance {one['random']:.4f}"
        )
    return "\n".join(lines)


def _level_lines(level: str, one: Mapping[str, Any]) -> Iterator[str]:
    yield f"{level}: {one['stores']} stores, {one['customers']} customers, {one['asked']} of them asked about"
    for row in one["rows"]:
        yield f"  {row['name']:40} recall@10 {row['recall@10']:.4f}  nDCG@10 {row['ndcg@10']:.4f}"
    for gap in (*one["differences"], *one["explore differences"], one["newcomers"]["difference"]):
        yield f"  {gap['ours']} - {gap['than']}: {_interval(gap['recall@10'])}, {_interval(gap['ndcg@10'])}"
    for row in one["explore"]:
        yield f"  new items, {row['name']:29} recall@10 {row['recall@10']:.4f}  nDCG@10 {row['ndcg@10']:.4f}"
    yield f"  {one['stores that fall back']} stores fall back; order within 30 days: AUC {one['returns']['auc']:.4f}"


def _interval(one: Mapping[str, float]) -> str:
    return f"{one['mean']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]"
