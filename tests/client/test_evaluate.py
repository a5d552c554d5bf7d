from __future__ import annotations

import math
from datetime import datetime, timedelta

import numpy as np
import pytest
import torch

from client.data.customers import gather, pose
from client.use.evaluate import (
    BATCH_TOKENS,
    HeldOut,
    by_length,
    every_nth,
    held_out,
    losses,
    rankings,
    summarise,
)
from client.use.ranking.book import day_of
from client.use.ranking.lists import TARGET_DAYS
from client.use.ranking.rankers import by_frequency, view
from common.lora import Bench, initial, put
from common.metrics import ndcg_at, perplexity, recall_at
from common.ranking import FEATURES, PARTS
from common.schema import Shop
from common.tokens import Encoded, encode_examples

TOKENS = 96
RANKERS = ["popularity", "frequency", "desk"]


def four_weeks_before_the_end(shop: Shop) -> datetime:
    return max(row.order_time for row in shop.orders) - timedelta(weeks=4)


@pytest.fixture
def fresh(work: Bench) -> Bench:
    put(work.model, initial(work.model, 7))
    return work


@pytest.fixture
def held(shop: Shop, fresh: Bench) -> HeldOut:
    return held_out(shop, fresh.base, max(row.order_time for row in shop.orders) - timedelta(weeks=4), TOKENS, 6, 5)


def direct_nats(bench: Bench, one: Encoded) -> float:
    """Return the loss of one example alone, token by token from the model's probabilities."""
    ids = [bench.base.end, *one.ids]
    with torch.inference_mode():
        said = bench.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -sum(float(said[place, ids[place + 1]]) for place, counts in enumerate(one.counts) if counts)


def test_held_out_tasks_are_those_from_the_cut_on(shop: Shop, fresh: Bench) -> None:
    until = max(row.order_time for row in shop.orders) - timedelta(weeks=4)
    held = held_out(shop, fresh.base, until, TOKENS, 10_000, 10_000)
    products = {product.item_id: product for product in shop.products}
    posed = [one for who in gather(shop) for one in pose(who, products, shop.lang) if one.time >= until]
    assert sum(map(len, held.tasks.values())) == len(posed)
    for task, found in held.tasks.items():
        wanted = [one.example for one in posed if one.example.task == task]
        assert list(found) == encode_examples(fresh.base, wanted, TOKENS)


def test_a_question_is_a_customer_of_two_orders_who_came_again_within_the_days(shop: Shop, fresh: Bench) -> None:
    until = max(row.order_time for row in shop.orders) - timedelta(weeks=4)
    held = held_out(shop, fresh.base, until, TOKENS, 0, 10_000)
    assert held.day == day_of(until + timedelta(days=1))
    expected = []
    for who in gather(shop):
        days = [day_of(basket.time) for basket in who.baskets]
        if len({day for day in days if day < held.day}) >= 2:
            expected += [who.id] if any(held.day <= day < held.day + TARGET_DAYS for day in days) else []
    assert [held.book.customers[one] for one in held.asked] == expected
    assert expected


def test_the_bounds_hold_and_nothing_at_all_can_be_asked_for(shop: Shop, fresh: Bench, held: HeldOut) -> None:
    assert all(0 < len(found) <= 6 for found in held.tasks.values())
    assert 0 < len(held.asked) <= 5
    nothing = held_out(shop, fresh.base, four_weeks_before_the_end(shop), TOKENS, 0, 0)
    assert not any(nothing.tasks.values())
    assert rankings(nothing) == []
    assert all(one.tokens == 0 for one in losses(fresh, nothing).values())


def test_what_is_ranked_by_is_as_it_was_at_the_cut(shop: Shop, fresh: Bench, held: HeldOut) -> None:
    later = [row for row in shop.orders if day_of(row.order_time) >= held.day]
    assert later
    more = Shop(shop.id, shop.name, shop.lang, [*shop.orders, *later * 3], shop.products)
    assert rankings(held_out(more, fresh.base, four_weeks_before_the_end(shop), TOKENS, 1, 5)) == rankings(held)


@pytest.mark.parametrize("count", [0, 1, 3, 7, 10])
def test_every_nth_is_evenly_spread_and_keeps_the_order(count: int) -> None:
    found = every_nth(range(7), count)
    assert found == sorted(set(found))
    assert len(found) == min(count, 7)
    assert set(every_nth(range(9), 3)) == {0, 3, 6}


def test_losses_equal_a_direct_computation(fresh: Bench, held: HeldOut) -> None:
    found = losses(fresh, held)
    assert set(found) == set(held.tasks)
    for task, examples in held.tasks.items():
        nats = sum(direct_nats(fresh, one) for one in examples)
        tokens = sum(sum(one.counts) for one in examples)
        assert found[task].tokens == tokens
        assert found[task].total == pytest.approx(nats, rel=1e-5)
        assert perplexity(found[task].total, tokens) == pytest.approx(math.exp(nats / tokens), rel=1e-5)


def test_batches_hold_every_example_once_within_the_bound() -> None:
    found = [Encoded("t", (1,) * length, (True,) * length) for length in (900, 3, 3000, 40, 40, 5000, 2)]
    batches = by_length(found)
    assert sorted(place for batch in batches for place, _ in batch) == list(range(len(found)))
    assert all(found[place] is one for batch in batches for place, one in batch)
    for batch in batches:
        longest = max(len(one.ids) for _, one in batch)
        assert len(batch) == 1 or len(batch) * (1 + longest) <= BATCH_TOKENS
        assert longest == len(batch[-1][1].ids)


def test_evaluation_gives_the_same_figures_every_time(shop: Shop, fresh: Bench, held: HeldOut) -> None:
    again = held_out(shop, fresh.base, four_weeks_before_the_end(shop), TOKENS, 6, 5)
    assert again == held
    assert losses(fresh, again) == losses(fresh, held)
    assert rankings(again) == rankings(held)


def test_every_ranker_is_scored_on_every_question(held: HeldOut) -> None:
    scored = rankings(held)
    assert len(scored) == len(held.asked)
    seen = view(held.book, held.day)
    listed = by_frequency(seen)
    for found, who in zip(scored, held.asked, strict=True):
        assert list(found) == RANKERS
        mine = held.book.between(held.day, held.day + TARGET_DAYS)
        days = mine.day_P[mine.customer_P == who]
        items = mine.item_P[mine.customer_P == who][days == days.min()]
        truth, ranking = frozenset(map(str, items)), list(map(str, listed[who]))
        assert found["frequency"] == pytest.approx((recall_at(ranking, truth, 10), ndcg_at(ranking, truth, 10)))
        assert all(0 <= value <= 1 for pair in found.values() for value in pair)


def test_a_head_that_knows_nothing_of_this_shop_changes_the_desks_list_alone(held: HeldOut) -> None:
    head = {name: np.zeros(part.shape, np.float32) for name, part in PARTS.items()}
    head["rank"][FEATURES.index("days since")] = -9.0
    plain, other = rankings(held), rankings(held, head)
    assert [(one["popularity"], one["frequency"]) for one in plain] == [
        (one["popularity"], one["frequency"]) for one in other
    ]


def test_a_summary_is_the_mean_over_questions() -> None:
    scored = [{"a": (1.0, 0.5), "b": (0.0, 0.0)}, {"a": (0.0, 0.25), "b": (1.0, 1.0)}]
    assert summarise(scored) == {"recall@10": {"a": 0.5, "b": 0.5}, "ndcg@10": {"a": 0.375, "b": 0.5}}
    assert summarise([]) == {"recall@10": {}, "ndcg@10": {}}
