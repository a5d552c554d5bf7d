"""`fugou study recommend`: what a private, federated head is worth on real purchases, with intervals.

Complete Journey, a campaign's view: history before the cut, the customer's first order of the 30 days after it, recall
over the whole of that order. A merchant is a store with at least 20 customers of five orders or more before the cut.
The head is trained on earlier cuts only; every merchant adds its own full noise, so that nothing but noisy sums leave.
Items are taken at two levels: `sku`, product by product, and `text`, a brand with a product type.

Every private head is trained several times with new noise, and every figure is the mean over those draws. Differences are
paired by customer; intervals are percentile bootstraps (Efron and Tibshirani 1993, chapter 13) over customers and draws.

    D draws   U customers   R resamples
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
from client.use.ranking.lists import TARGET_DAYS, K, Mask, Scores, listed, next_order, score
from client.use.ranking.priors import priors
from client.use.ranking.rankers import (
    Choice,
    View,
    by_count,
    by_frequency,
    by_half_life,
    by_popularity,
    explore_scores,
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
LAUNCHES = {"all stores": False, "own store": True}
"""Whose new items are ranked on launch day, and whether only those that the customer's own store will sell."""

Catalogue = Mapping[str, tuple[str, str, str, str]]
"""Items of all stores: (id, name, kind, category) by id."""


@dataclass(frozen=True)
class Study:
    """What is measured; epsilon is every merchant's for each of its customers, at `delta`, for all rounds together."""

    cut: datetime = datetime(2017, 11, 1)
    train: tuple[datetime, ...] = (datetime(2017, 8, 1), datetime(2017, 9, 1), datetime(2017, 10, 1))
    levels: tuple[Level, ...] = ("sku", "text")
    epsilons: tuple[float, ...] = (3.0, 1.0)
    delta: float = 1e-6
    rounds: int = 40
    draws: int = 3
    """How often every head is trained anew, with new noise; figures are means over them."""
    divisor: float = 32.0
    """A public constant: about a store's customers."""
    stores: int = 0
    """Take only so many stores; 0 takes all."""


@dataclass(frozen=True)
class Row:
    """One ranker's figures: recall@10 and nDCG@10 of every customer in every draw, one draw where nothing is drawn."""

    name: str
    table_DU2: Doubles = field(repr=False)

    @property
    def means(self) -> tuple[float, float]:
        """Recall@10 and nDCG@10, means over draws and customers."""
        recall, ndcg = self.table_DU2.mean((0, 1))
        return float(recall), float(ndcg)


def row(name: str, *tables: Doubles) -> Row:
    """Return the row of one (U, 2) table a draw."""
    return Row(name, np.stack(tables))


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
    parts = rows.sort("store").partition_by("store", maintain_order=True)
    return [book_of(part, level) for part in parts]


def book_of(lines: pl.DataFrame, level: Level) -> Book:
    """Return one store's book of `sold` lines."""
    lines = lines.with_columns(code=pl.col("item") if level == "text" else pl.format("p{}", pl.col("product_id")))
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
        state = step(state, mean_update([train_head(state.asked, one, plan, randomness) for one in data]), study.rounds)
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
    yield row("popularity, all stores", measure(views, lambda at, seen: by_popularity(seen, everywhere[at])))
    yield row("popularity, own store", measure(views, lambda _, seen: by_popularity(seen)))
    yield row("personal frequency", measure(views, lambda _, seen: by_count(seen)))
    yield row("GP-TopFreq", measure(views, lambda _, seen: by_frequency(seen)))
    yield row("GP-TopFreq, ties by all stores", measure(views, lambda at, seen: by_frequency(seen, everywhere[at])))
    yield row("half-life 90 days", measure(views, lambda _, seen: by_half_life(seen)))
    yield row(
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
        own = [alone(data, study, epsilon) for _ in range(study.draws)]
        first = first or together
        shared = (measure_heads(views, [head] * len(views)) for head in together)
        rows.append(row(f"federated, epsilon {epsilon:g}", *shared))
        rows.append(row(f"local only, epsilon {epsilon:g}", *(measure_heads(views, found) for found in own)))
        for one in rows[-2:]:
            tell(f"{one.name}: recall {one.means[0]:.4f}, nDCG {one.means[1]:.4f}")
    return rows, first


def measure_heads(views: Sequence[View], found: Sequence[Head]) -> Doubles:
    """Return (U, 2) with one head a store."""
    return measure(views, lambda at, seen: ranked(seen, found[at]))


def difference(ours: Row, than: Row, seed: int = 0) -> dict[str, Any]:
    """Return by how much `ours` is above `than`, in recall@10 and nDCG@10, each with its 95 % interval.

    A resample draws customers, the same for both, and of each row its draws of the noise.
    """
    generator = np.random.default_rng(seed)
    count = ours.table_DU2.shape[1]
    weight_RU = generator.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
    gap_R2 = _resampled(ours, weight_RU, generator) - _resampled(than, weight_RU, generator)
    low, high = np.quantile(gap_R2, (0.025, 0.975), axis=0)
    figures = {
        name: {"mean": ours.means[at] - than.means[at], "low": float(low[at]), "high": float(high[at])}
        for at, name in enumerate(("recall@10", "ndcg@10"))
    }
    return {"ours": ours.name, "than": than.name, **figures}


def _resampled(one: Row, weight_RU: Doubles, generator: np.random.Generator) -> Doubles:
    """Return (R, 2) the row's means with the customers' weights, over draws of the noise taken with replacement."""
    draws = len(one.table_DU2)
    share_RD = generator.multinomial(draws, np.full(draws, 1 / draws), len(weight_RU)) / draws
    found: Doubles = np.einsum("rd,drk->rk", share_RD, weight_RU @ one.table_DU2)
    return found


def compared(rows: Sequence[Row], study: Study) -> list[dict[str, Any]]:
    """Return every federated row against the baselines that matter and against shops that train alone."""
    named = {one.name: one for one in rows}
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
    return [
        row("explore", *(_new_table(views, [ranked(seen, head, nobody) for seen in views]) for head in found)),
        row("popularity, own store", _new_table(views, [new_by_popularity(seen) for seen in views])),
        row("popularity, all stores", _new_table(views, list(map(new_by_popularity, views, everywhere)))),
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


def catalogue_of(lines: pl.DataFrame) -> Catalogue:
    """Return every item of `sold` lines by its id."""
    return {one[0]: one for one in lines.unique("item").sort("item").select("item", "name", "type", "category").rows()}


def without_cold(book: Book) -> Book:
    """Return the book as if its cold items had never been on the shelf."""
    shelf = book.shelf
    stays_I = np.array([not cold(item) for item in shelf.items])
    place_I, kept = np.cumsum(stays_I) - 1, np.flatnonzero(stays_I).tolist()
    items, names = [shelf.items[at] for at in kept], [shelf.names[at] for at in kept]
    short = Shelf(items, names, shelf.kind_I[kept], shelf.category_I[kept], shelf.text_I[kept], shelf.texts)
    stays_P = stays_I[book.item_P]
    return Book(book.customers, short, book.customer_P[stays_P], book.day_P[stays_P], place_I[book.item_P[stays_P]])


def launched(book: Book, catalogue: Catalogue) -> Book:
    """Return the book on a shelf with the cold items of all stores, none of which was ever bought."""
    short = without_cold(book)
    shelf = make_shelf(catalogue[item] for item in [*short.shelf.items, *filter(cold, catalogue)])
    place = {item: at for at, item in enumerate(shelf.items)}
    moved_I = np.array([place[item] for item in short.shelf.items], dtype=np.int64)
    return Book(book.customers, shelf, short.customer_P, short.day_P, moved_I[short.item_P])


def launch(books: Sequence[Book], catalogue: Catalogue, study: Study, epsilon: float) -> dict[str, Any]:
    """Return recall@10 on launch day: items that nobody ever bought, ranked for the customers of shops that run.

    The truth is what a customer bought of them within 30 days. Once the candidates are the new items of all stores, once
    those that her store will have sold by the end of the year; `random` is what chance reaches among the same.
    """
    day = day_of(study.cut)
    data = [make_head_data(without_cold(book), days_of(study), day) for book in books]
    found = [federate(data, study, epsilon) for _ in range(study.draws)]
    views = [view(launched(book, catalogue), day) for book in books]
    truths = [_cold_bought(book, seen) for book, seen in zip(books, views, strict=True)]
    said: dict[str, Any] = {"customers": sum(int(truth_UI.any(1).sum()) for truth_UI in truths)}
    for name, own in LAUNCHES.items():
        masks = [_among(book, seen, own) for book, seen in zip(books, views, strict=True)]
        chance = _mean_over(truths, [K / int(mask_I.sum()) for mask_I in masks])
        recall = [_launch_recall(views, truths, masks, head) for head in found]
        said[name] = _against_chance(recall, chance) | {"items": float(np.mean([mask_I.sum() for mask_I in masks]))}
    return said


def _cold_bought(book: Book, seen: View) -> Mask:
    """Return (U, I) on the view's shelf: which cold items each customer bought in the 30 days."""
    later, place = (
        book.between(seen.day, seen.day + TARGET_DAYS),
        {item: at for at, item in enumerate(seen.book.shelf.items)},
    )
    bought_UI = np.zeros(seen.shape, dtype=np.bool_)
    for who, item in zip(later.customer_P.tolist(), later.item_P.tolist(), strict=True):
        if cold(book.shelf.items[item]):
            bought_UI[who, place[book.shelf.items[item]]] = True
    return bought_UI


def _among(book: Book, seen: View, own: bool) -> Mask:
    """Return (I,) which items of the view's shelf are ranked: the cold ones, or of these the store's own."""
    mine = set(book.shelf.items)
    return np.array([cold(item) and (not own or item in mine) for item in seen.book.shelf.items])


def _launch_recall(views: Sequence[View], truths: Sequence[Mask], masks: Sequence[Mask], head: Head) -> float:
    lists = [
        listed(np.full(seen.shape, -np.inf), np.where(mask_I, explore_scores(seen, head, Choice()), -np.inf))
        for seen, mask_I in zip(views, masks, strict=True)
    ]
    return float(table([score(one, truth) for one, truth in zip(lists, truths, strict=True)])[:, 0].mean())


def _mean_over(truths: Sequence[Mask], value: Sequence[float]) -> float:
    """Return the mean of each store's value over the customers who are asked about."""
    return float(np.average(value, weights=[truth_UI.any(1).sum() for truth_UI in truths]))


def _against_chance(recall_D: Sequence[float], chance: float) -> dict[str, Any]:
    """Return recall@10, what chance reaches, and how many times that every draw reached, the least one first."""
    return {"recall@10": mean(recall_D), "random": chance, "times random": sorted(one / chance for one in recall_D)}


def newcomers(views: Sequence[View], data: Sequence[HeadData], study: Study) -> dict[str, Any]:
    """Return what the head is worth at stores that took no part: every fourth one, with the head of the others.

    Once with the store's own past, and once on its first day, when all that is known of its shelf is its items' words.
    """
    new, others = views[::4], [one for at, one in enumerate(data) if at % 4]
    found = [federate(others, study, study.epsilons[0]) for _ in range(study.draws)]
    ours = row("head of other stores", *(measure_heads(new, [head] * len(new)) for head in found))
    plain = row("GP-TopFreq at new stores", measure(new, lambda _, seen: by_frequency(seen)))
    return {
        "stores": len(new),
        "rows": [_plain(ours), _plain(plain)],
        "difference": difference(ours, plain),
        "first day": first_day(new, found),
    }


def first_day(views: Sequence[View], found: Sequence[Head]) -> dict[str, Any]:
    """Return recall@10 of one list a store, by words alone, of all its items; the truth is each customer's next order."""
    recall = [
        float(measure(views, lambda _, seen, head=head: by_popularity(seen, _words_say(seen, head)))[:, 0].mean())  # type: ignore[misc]
        for head in found
    ]
    truths = [next_order(seen.book, seen.day) for seen in views]
    chance = _mean_over(truths, [K / seen.shape[1] for seen in views])
    return _against_chance(recall, chance) | {"items": float(np.mean([seen.shape[1] for seen in views]))}


def _words_say(seen: View, head: Head) -> Doubles:
    return priors(seen.book.shelf, head).popularity_I.astype(np.float64)


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


def guarded(views: Sequence[View], found: Sequence[Head]) -> tuple[Row, float]:
    """Return the row of shops that judge for themselves which ranker to use, and how many on average do not use the head."""
    verdicts = [[judge(seen.book, seen.day, head).use_head for seen in views] for head in found]
    tables = [_guarded(views, head, use) for head, use in zip(found, verdicts, strict=True)]
    return row("federated with guard", *tables), mean([float(use.count(False)) for use in verdicts])


def _guarded(views: Sequence[View], head: Head, use: Sequence[bool]) -> Doubles:
    return measure(views, lambda at, seen: ranked(seen, head) if use[at] else by_frequency(seen))


# --- all of it ---


def run_recommend(study: Study, folder: Path, tell: Tell) -> dict[str, Any]:
    """Return all figures, also written to `recommend.json` in `folder`."""
    found: dict[str, Any] = {"cut": f"{study.cut:%Y-%m-%d}", "rounds": study.rounds, "draws": study.draws}
    found |= {"epsilons": list(study.epsilons), "delta": study.delta}
    tell(terms(study.delta))
    lines = sold()
    for level in study.levels:
        books = load_books(lines, level, study.cut, study.stores)
        tell(f"{level}: {len(books)} stores, {sum(len(book.customers) for book in books)} customers")
        found[level] = run_level(books, study, tell)
        if level == "text":
            found["launch"] = launch(books, catalogue_of(lines), study, study.epsilons[0])
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
    data = [make_head_data(book, days_of(study), day) for book in books]
    learned, found = heads(data, views, study, tell)
    guard, fallen = guarded(views, found)
    explore = explored(views, everywhere, found)
    return {
        "stores": len(books),
        "customers": sum(len(book.customers) for book in books),
        "asked": rows[0].table_DU2.shape[1],
        "rows": [_plain(one) for one in (*rows, *learned, guard)],
        "differences": [
            *compared([*rows, *learned], study),
            *(difference(guard, one) for one in (rows[3], learned[0])),
        ],
        "stores that fall back": fallen,
        "explore": [_plain(one) for one in explore],
        "explore differences": [difference(explore[0], one) for one in explore[1:]],
        "newcomers": newcomers(views, data, study),
        "returns": returns(views),
    }


def days_of(study: Study) -> list[int]:
    """Return the days that heads are trained on."""
    return [day_of(one) for one in study.train]


def _plain(one: Row) -> dict[str, Any]:
    recall, ndcg = one.means
    draws = {"recall@10 by draw": one.table_DU2[..., 0].mean(1).tolist()} if len(one.table_DU2) > 1 else {}
    return {"name": one.name, "recall@10": recall, "ndcg@10": ndcg, **draws}


def terms(delta: float) -> str:
    """Return what every epsilon of the study is for."""
    return f"epsilon is every store's at delta = {delta:g} for one customer, period: all rounds of the study together"


def report(found: Mapping[str, Any]) -> str:
    """Return the figures as text."""
    lines = [terms(found["delta"])]
    for level in ("sku", "text"):
        if level in found:
            lines += _level_lines(level, found[level])
    if "launch" in found:
        lines += [f"launch day, new items of {name}, {_chances(found['launch'][name])}" for name in LAUNCHES]
    return "\n".join(lines)


def _level_lines(level: str, one: Mapping[str, Any]) -> Iterator[str]:
    yield f"{level}: {one['stores']} stores, {one['customers']} customers, {one['asked']} of them asked about"
    for told in one["rows"]:
        yield f"  {told['name']:40} recall@10 {told['recall@10']:.4f}  nDCG@10 {told['ndcg@10']:.4f}"
    for gap in (*one["differences"], *one["explore differences"], one["newcomers"]["difference"]):
        yield f"  {gap['ours']} - {gap['than']}: {_interval(gap['recall@10'])}, {_interval(gap['ndcg@10'])}"
    for told in one["explore"]:
        yield f"  new items, {told['name']:29} recall@10 {told['recall@10']:.4f}  nDCG@10 {told['ndcg@10']:.4f}"
    yield f"  a new store's first day, {_chances(one['newcomers']['first day'])}"
    yield f"  {one['stores that fall back']:g} stores fall back; order within 30 days: AUC {one['returns']['auc']:.4f}"


def _chances(one: Mapping[str, Any]) -> str:
    times = ", ".join(f"{value:.1f}" for value in one["times random"])
    return f"10 of {one['items']:.0f}: recall@10 {one['recall@10']:.4f}, chance {one['random']:.4f}, times chance by draw {times}"


def _interval(one: Mapping[str, float]) -> str:
    return f"{one['mean']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]"
