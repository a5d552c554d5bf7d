"""What a shop's lists of ten cost: what `fugou bench recommend` runs in a process of its own.

    fugou     one customer at a time, as a shop's service is asked, without a table of all customers
    table     the same rankers on a table of all customers and items, which must give the same lists
    cosine    implicit's likeness of items by cosine
    als       implicit's factors of customers and items (Hu, Koren & Volinsky 2008, doi:10.1109/ICDM.2008.22)

The shop is Complete Journey's, all its households together, as seen on one day; each way has the same purchases, is asked for
the same customers, on one thread. The head is trained on earlier months of the same households, without noise: here it
is time that is measured, and `fugou study recommend` has what a private head is worth. Recall and nDCG are of each
customer's first order of the 30 days after.

    U customers   I items   K places of a list
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import Field
from scipy.sparse import csr_matrix

from client.train.head import make_head_data
from client.use.ranking.book import Book, Whole, day_of
from client.use.ranking.lists import K, next_order, score
from client.use.ranking.rankers import Choice, ranked, view
from client.use.ranking.window import by_head, top
from common.config import Settings
from common.errors import UserError
from simulations.journey import sold
from simulations.recommend import Level, Study, book_of, days_of, federate
from simulations.upkeep import in_turn, medians

Way: TypeAlias = Literal["fugou", "table", "cosine", "als"]
WAYS: tuple[Way, ...] = ("fugou", "table", "cosine", "als")
PEERS: tuple[Way, ...] = ("cosine", "als")
PACKAGES = ("--no-deps", "implicit==0.7.3", "threadpoolctl==3.6.0")
"""What pip is asked for where a peer is among the ways."""
ALIKE = 0.999
"""The least part of customers whose lists by one and by table are the same; equal scores may stand in another order."""


class Recommend(Settings):
    """The shop that is asked."""

    level: Level = Field("text", description="items by brand and type of product, or each by itself")
    customers: Annotated[int, Field(ge=0)] = Field(0, description="the first so many households; 0 takes all")
    rounds: Annotated[int, Field(ge=1)] = Field(40, description="steps of the head's training")
    repetitions: Annotated[int, Field(ge=1, le=100)] = Field(5, description="interleaved repetitions")
    ways: tuple[Way, ...] = Field(WAYS, description="ways to compare; cosine and als get an environment of their own")


def shop(settings: Recommend) -> Book:
    """Return the shop's book."""
    lines = sold()
    if settings.customers:
        first = lines.select("household").unique().sort("household").head(settings.customers)
        lines = lines.join(first, on="household")
    return book_of(lines, settings.level)


def counts_of(book: Book) -> Any:
    """Return (U, I): on how many days each customer bought each item."""
    ones_P = np.ones(len(book.item_P), dtype=np.float32)
    return csr_matrix((ones_P, (book.customer_P, book.item_P)), shape=(len(book.customers), len(book.shelf)))


def peer(way: Way) -> Any:
    """Return implicit's model of that way, untrained."""
    if way == "cosine":
        from implicit.nearest_neighbours import CosineRecommender

        return CosineRecommender(K=50, num_threads=1)
    from implicit.als import AlternatingLeastSquares

    return AlternatingLeastSquares(factors=64, iterations=15, num_threads=1, use_gpu=False, random_state=1)


def facts(settings: Recommend) -> dict[str, float]:
    """Return by way processor seconds until the first list and for all lists, lists a second, recall@10 and nDCG@10.

    Raises `UserError` when one customer at a time and the table give different lists.
    """
    study = Study(rounds=settings.rounds)
    book, day = shop(settings), day_of(study.cut)
    head = federate([make_head_data(book, days_of(study), day)], study, math.inf)
    everybody_U, counts = np.arange(len(book.customers)), counts_of(book.before(day))
    opened: dict[str, Any] = {}
    steps: dict[str, Callable[[], Any]] = {}

    def open_fugou() -> None:
        opened["fugou"] = by_head(view(book, day), head, Choice())

    def fit(way: Way) -> None:
        opened[way] = peer(way)
        opened[way].fit(counts, show_progress=False)

    def ask(way: Way) -> Whole:
        found: Whole = opened[way].recommend(everybody_U, counts, N=K, filter_already_liked_items=False)[0]
        return found

    for way in settings.ways:
        if way == "fugou":
            steps |= {"fugou open": open_fugou, "fugou lists": lambda: top(opened["fugou"], everybody_U)}
        elif way == "table":
            steps["table lists"] = lambda: ranked(view(book, day), head)
        else:
            steps |= {f"{way} open": partial(fit, way), f"{way} lists": partial(ask, way)}
    seconds, last = in_turn(steps, settings.repetitions)
    found = medians(seconds) | {"customers": len(everybody_U), "items": len(book.shelf), "purchases": len(book.item_P)}
    truth_UI = next_order(book, day)
    for way in settings.ways:
        told = score(last[f"{way} lists"].astype(np.int64), truth_UI)
        found[f"{way} lists a second"] = len(everybody_U) / found[f"{way} lists s"]
        found |= {f"{way} recall@10": float(told.recall_U.mean()), f"{way} nDCG@10": float(told.ndcg_U.mean())}
    if {"fugou", "table"} <= set(settings.ways):
        found["lists alike"] = alike(last["fugou lists"], last["table lists"])
    return found


def alike(one_UK: Whole, other_UK: Whole) -> float:
    """Return the part of customers whose lists are the same; raise `UserError` when it is less than `ALIKE`."""
    part = float((one_UK == other_UK).all(1).mean())
    if part < ALIKE:
        raise UserError(f"only {part:.1%} of lists are the same one by one and by table: they did other work")
    return part


def main(given: Sequence[str]) -> None:
    """Print the facts as a JSON object."""
    print(json.dumps(facts(Recommend.model_validate_json(given[0]))))
