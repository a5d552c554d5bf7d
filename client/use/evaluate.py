"""How well the shared model does on a shop's later weeks: figures for the shop's own eyes.

B batch   T tokens
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import torch

from client.data.customers import gather, pose
from client.train.loss import token_losses
from client.use.ranking.book import Book, day_of, open_book
from client.use.ranking.features import orders
from client.use.ranking.lists import TARGET_DAYS, K, listed, next_order, score
from client.use.ranking.rankers import Choice, view
from client.use.ranking.window import plain, top
from client.use.recommend import open_window
from common.lora import Bench
from common.metrics import mean
from common.model import Base
from common.ranking import Floats
from common.schema import Shop
from common.text import TASKS, Example
from common.tokens import Encoded, encode_examples, stack

BATCH_TOKENS = 4096


@dataclass(frozen=True)
class HeldOut:
    """A shop's later weeks, never trained on: encoded tasks by name with the customers they are of, and questions.

    A question is a customer of the book, by place: what the first order of the `TARGET_DAYS` from `day` on holds.
    """

    tasks: Mapping[str, Sequence[Encoded]]
    owners: Mapping[str, Sequence[str]]
    asked: Sequence[int]
    copy: Sequence[Example]
    customers: int
    book: Book = field(compare=False)
    day: int
    lang: str


def held_out(shop: Shop, base: Base, until: datetime, max_tokens: int, per_task: int, questions: int) -> HeldOut:
    """Return at most `per_task` tasks of each kind and `questions` next-basket questions from `until` on.

    The choice takes every n-th in the order of customers, so that it is the same for every model and every round.
    """
    products = {product.item_id: product for product in shop.products}
    customers = gather(shop)
    posed = defaultdict(list)
    for customer in customers:
        for one in pose(customer, products, shop.lang, since=until):
            posed[one.example.task].append((customer.id, one.example))
    tasks = {task: every_nth(found, per_task) for task, found in sorted(posed.items())}
    encoded = {task: encode_examples(base, [one for _, one in found], max_tokens) for task, found in tasks.items()}
    owners = {task: [owner for owner, _ in found] for task, found in tasks.items()}
    copy = [one for _, one in posed[TASKS["copy"].name(shop.lang)]]
    book, day = open_book(customers, products), day_of(until + timedelta(days=1) - timedelta(microseconds=1))
    asked = every_nth(_questions(book, day), questions)
    return HeldOut(encoded, owners, asked, copy, len(customers), book, day, shop.lang)


def _questions(book: Book, day: int) -> list[int]:
    """Return the customers who ordered on two days before `day` and again within `TARGET_DAYS`."""
    days_U = orders(book.before(day))[1]
    later_P = book.between(day, day + TARGET_DAYS).customer_P
    return [who for who in np.unique(later_P).tolist() if days_U[who] >= 2]


def every_nth(found: Sequence, limit: int) -> list:  # type: ignore[type-arg]
    """Return at most `limit` of `found`, evenly spread."""
    return [found[place * len(found) // limit] for place in range(limit)] if len(found) > limit else list(found)


@dataclass(frozen=True)
class Nats:
    """Summed negative log-likelihood in nats over a number of target tokens."""

    total: float
    tokens: int


def losses(bench: Bench, held: HeldOut) -> dict[str, Nats]:
    """Return the loss of every task's held-out target tokens."""
    return {
        task: Nats(math.fsum(one.total for one in found), sum(one.tokens for one in found))
        for task, found in example_losses(bench, held).items()
    }


def example_losses(bench: Bench, held: HeldOut) -> dict[str, list[Nats]]:
    """Return the loss of every held-out example, task by task, in the order of `held.tasks` and `held.owners`."""
    return {task: _losses(bench, found) for task, found in held.tasks.items()}


def _losses(bench: Bench, found: Sequence[Encoded]) -> list[Nats]:
    nats: dict[int, Nats] = {}
    with torch.inference_mode():
        for batch in by_length(found):
            rows = stack(
                [([bench.base.end, *one.ids], [False, *one.counts]) for _, one in batch],
                bench.base.end,
                1 + len(batch[-1][1].ids),
            )
            ids_BT, counts_BT = torch.from_numpy(rows.ids_BT), torch.from_numpy(rows.counts_BT)
            totals_B = token_losses(bench.model(input_ids=ids_BT).logits, ids_BT, counts_BT).sum(1)
            for (place, _), total, tokens in zip(batch, totals_B.tolist(), counts_BT.sum(1).tolist(), strict=True):
                nats[place] = Nats(total, tokens)
    return [nats[place] for place in range(len(found))]


def by_length(found: Sequence[Encoded]) -> list[list[tuple[int, Encoded]]]:
    """Return batches of at most `BATCH_TOKENS` padded tokens, shorter examples first, each with its place in `found`."""
    batches: list[list[tuple[int, Encoded]]] = []
    for place, one in sorted(enumerate(found), key=lambda pair: len(pair[1].ids)):
        if not batches or (len(batches[-1]) + 1) * (1 + len(one.ids)) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append((place, one))
    return batches


def rankings(held: HeldOut, head: Mapping[str, Floats] | None = None) -> list[dict[str, tuple[float, float]]]:
    """Return, for every question, recall@10 and nDCG@10 of each ranker; `desk` is what the shop's desk offers with `head`."""
    past = held.book.before(held.day)
    seen, asked_N = view(past, held.day), np.array(held.asked, dtype=np.int64)
    truth_NI = next_order(held.book, held.day)[asked_N]
    popular_NI = np.broadcast_to(seen.popular, truth_NI.shape)
    lists = {
        "popularity": listed(np.full(truth_NI.shape, -np.inf), popular_NI),
        "frequency": top(plain(seen), asked_N),
        "desk": top(open_window(seen, head, Choice()), asked_N),
    }
    found = {name: score(listed_NK, truth_NI) for name, listed_NK in lists.items()}
    return [
        {name: (float(one.recall_U[row]), float(one.ndcg_U[row])) for name, one in found.items()}
        for row in range(len(asked_N))
    ]


def summarise(scored: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, dict[str, float]]:
    """Return mean recall@10 and nDCG@10 by ranker."""
    names = list(scored[0]) if scored else []
    return {
        f"recall@{K}": {name: mean([one[name][0] for one in scored]) for name in names},
        f"ndcg@{K}": {name: mean([one[name][1] for one in scored]) for name in names},
    }
