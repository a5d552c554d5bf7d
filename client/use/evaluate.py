"""How well the shared model does on a shop's later weeks: figures for the shop's own eyes.

B batch   T tokens
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import torch

from client.data.customers import Basket, Customer, gather, next_prompt, pose
from client.train.loss import token_losses
from client.use.recommend import (
    Catalogue,
    bought,
    by_frequency,
    by_popularity,
    candidates,
    catalogue,
    frequency_score,
    model_scores,
)
from client.use.recommend import blend as pool
from common.lora import Bench
from common.metrics import mean, ndcg_at, recall_at
from common.model import Base
from common.schema import Shop
from common.text import TASKS, Example
from common.tokens import Encoded, encode_examples, stack

K = 10
TARGET_DAYS = 30
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Asked:
    """One held-out question: a customer's history up to `time` and the item ids that the next basket really held."""

    history: Sequence[Basket]
    truth: frozenset[str]
    time: datetime


@dataclass(frozen=True)
class HeldOut:
    """A shop's later weeks, never trained on: encoded tasks by name with the customers they are of, and questions."""

    tasks: Mapping[str, Sequence[Encoded]]
    owners: Mapping[str, Sequence[str]]
    asked: Sequence[Asked]
    copy: Sequence[Example]
    customers: int
    shop: Catalogue
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
    seen = catalogue(customers, {item: product.name for item, product in products.items()}, until)
    asked = [question for customer in customers if (question := _question(customer, until)) is not None]
    return HeldOut(encoded, owners, every_nth(asked, questions), copy, len(customers), seen, shop.lang)


def every_nth(found: Sequence, limit: int) -> list:  # type: ignore[type-arg]
    """Return at most `limit` of `found`, evenly spread."""
    return [found[place * len(found) // limit] for place in range(limit)] if len(found) > limit else list(found)


def _question(customer: Customer, until: datetime) -> Asked | None:
    history = [basket for basket in customer.baskets if basket.time < until]
    later = [basket for basket in customer.baskets if until <= basket.time < until + timedelta(days=TARGET_DAYS)]
    if len(history) < 2 or not later:
        return None
    return Asked(history, frozenset(later[0].items), until)


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


def rankings(bench: Bench, held: HeldOut) -> list[dict[str, tuple[float, float]]]:
    """Return, for every question, recall@10 and nDCG@10 of each ranker."""
    return [{name: _score(ranked, one) for name, ranked in _ranked(bench, held, one).items()} for one in held.asked]


def _score(ranked: Sequence[str], one: Asked) -> tuple[float, float]:
    return recall_at(ranked, one.truth, K), ndcg_at(ranked, one.truth, K)


def _ranked(bench: Bench, held: HeldOut, one: Asked) -> dict[str, list[str]]:
    items = candidates(one.history, held.shop)
    opinion = dict(
        zip(
            items,
            model_scores(
                bench, next_prompt(one.history, one.time, held.lang), [held.shop.names[item] for item in items]
            ),
            strict=True,
        )
    )
    times = bought(one.history)
    pooled = {item: pool(frequency_score(item, one.history, times, held.shop), opinion[item]) for item in items}
    return {
        "popularity": by_popularity(held.shop)[:K],
        "frequency": by_frequency(one.history, held.shop)[:K],
        "model": sorted(items, key=lambda item: (-opinion[item], item))[:K],
        "blend": sorted(items, key=lambda item: (-pooled[item], item))[:K],
    }


def summarise(scored: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, dict[str, float]]:
    """Return mean recall@10 and nDCG@10 by ranker."""
    names = list(scored[0]) if scored else []
    return {
        f"recall@{K}": {name: mean([one[name][0] for one in scored]) for name in names},
        f"ndcg@{K}": {name: mean([one[name][1] for one in scored]) for name in names},
    }
