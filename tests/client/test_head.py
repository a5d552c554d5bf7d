"""The head under the same conformance as the adapter, and that it learns what it is for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats

from client.train import head as heads
from client.train.head import Head, HeadData, HeadSteps, gradients, make_head_data, train_head, zero_head
from client.train.sampling import Rehearsal, SecureRandom
from client.use.ranking.book import Book, make_book, make_shelf
from client.use.ranking.lists import next_order, score
from client.use.ranking.rankers import ranked, view
from common.privacy.plan import RoundPlan
from common.ranking import FEATURES, PARTS, USUAL_GAP, USUAL_REPEAT

PLAN = RoundPlan("shop", "run", 1, 1.0, 1.0, 1, 0.3, 8.0, 1e-6, 4, "p", "a")
CUTS, UNTIL = (60, 90), 120
WORDS = ("milk", "tea", "soap", "bread", "rice")


def book(count: int, seed: int = 0) -> Book:
    """A shop whose customers come back for a favourite, and now and then for something else; milk most of all."""
    rows = []
    for who in range(count):
        random = np.random.default_rng((seed, who))
        favourite, day = int(random.integers(0, 20)), int(random.integers(0, 10))
        while day < UNTIL + 30:
            rows += [(who, day, int(item)) for item in random.integers(0, 40, 2)]
            rows += [(who, day, favourite)] * int(random.random() < 0.8) + [(who, day, 0)] * int(random.random() < 0.5)
            day += int(random.integers(4, 10))
    shelf = make_shelf((f"i{one:02}", f"{WORDS[one % 5]} {one}", WORDS[one % 5], "food") for one in range(40))
    return make_book([f"c{who}" for who in range(count)], shelf, *np.array(rows, np.int64).reshape(-1, 3).T)


def data(count: int) -> HeadData:
    return make_head_data(book(count), CUTS, UNTIL)


def weights(seed: int = 3) -> dict[str, npt.NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    return {name: random.normal(0, 0.3, part.shape).astype(np.float32) for name, part in PARTS.items()}


def losses(head: dict[str, torch.Tensor], shop: Book, who: int) -> torch.Tensor:
    """Return one customer's four losses added up, from her purchases, by torch."""
    whole = make_head_data(shop, CUTS, UNTIL)
    texts, rows = shop.shelf.texts, [at for at, one in enumerate(whole.customer_M) if one == who]
    words = torch.zeros(len(texts), len(head["gap"]))
    words.scatter_add_(1, torch.from_numpy(texts.place_XW), torch.from_numpy(texts.value_XW))
    cuts = []
    for at in np.flatnonzero(whole.customer_L == who).tolist():
        mine = slice(whole.place_L[at], whole.place_L[at + 1])
        logged = (torch.from_numpy(whole.phi_QF[mine]) @ head["rank"]).log_softmax(0)
        if whole.bought_Q[mine].any():
            cuts.append(-logged[torch.from_numpy(whole.bought_Q[mine])].mean())
    total = torch.stack(cuts).mean() if cuts else torch.zeros(())
    hers = shop.before(UNTIL).of(np.arange(len(shop.customers)) == who)
    if len(hers.item_P):
        sales = (words @ head["popularity"])[torch.from_numpy(shop.shelf.text_I)].log_softmax(0)
        total = total - sales[torch.from_numpy(hers.item_P)].mean()
    times = {int(item): sorted(hers.day_P[hers.item_P == item].tolist()) for item in np.unique(hers.item_P)}
    said = (words @ head["repeat"] + USUAL_REPEAT)[torch.from_numpy(shop.shelf.text_I)]
    again = [torch.nn.functional.softplus(-said[i] if len(d) > 1 else said[i]) for i, d in times.items()]
    gaps = [
        0.5 * ((words @ head["gap"])[shop.shelf.text_I[i]] + USUAL_GAP - math.log((d[-1] - d[0]) / (len(d) - 1))) ** 2
        for i, d in times.items()
        if len(d) > 1
    ]
    assert len(rows) == len(times)  # every item of this shelf has a text of its own
    return total + (torch.stack(again).mean() if again else 0) + (torch.stack(gaps).mean() if gaps else 0)


def brute_force(shop: Book, who: int) -> dict[str, npt.NDArray[np.float32]]:
    """One customer's gradients by plain autograd."""
    head = {name: torch.from_numpy(one).requires_grad_(True) for name, one in weights().items()}
    losses(head, shop, who).backward()
    return {name: one.grad.numpy() if one.grad is not None else np.zeros(one.shape, "f4") for name, one in head.items()}


def test_the_gradients_are_those_of_each_customers_own_loss() -> None:
    shop = book(4)
    found = gradients(weights(), make_head_data(shop, CUTS, UNTIL))
    for who in range(4):
        for name, expected in brute_force(shop, who).items():
            np.testing.assert_allclose(found[name][who], expected, rtol=2e-3, atol=2e-5, err_msg=name)


def test_a_customers_gradient_is_the_same_whoever_else_shops_there() -> None:
    few, many = gradients(weights(), data(3)), gradients(weights(), data(9))
    for name in PARTS:
        np.testing.assert_allclose(few[name], many[name][:3], rtol=1e-4, atol=1e-7)


def test_planted_fault_a_part_that_reads_all_customers_couples_them(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = heads.rank_gradients
    monkeypatch.setattr(heads, "rank_gradients", lambda rank, rows: honest(rank, rows) / len(rows))
    assert not np.allclose(gradients(weights(), data(3))["rank"], gradients(weights(), data(9))["rank"][:3], rtol=1e-2)


def released_sum(count: int, head: Head | None = None) -> dict[str, npt.NDArray[np.float32]]:
    plan = replace(PLAN, sigma=0.0)
    found = train_head(head or weights(), data(count), plan, Rehearsal(1))
    return {name: -plan.divisor * one for name, one in found.items()}


def test_the_clipped_sums_equal_a_loop_over_customers() -> None:
    each, total = gradients(weights(), data(7)), released_sum(7)
    for name, part in PARTS.items():
        expected = sum(one * min(1.0, part.clip_norm / float(np.linalg.norm(one))) for one in each[name].astype(float))
        np.testing.assert_allclose(total[name], expected, rtol=1e-3, atol=1e-5)


def moved_by_one_more(sigma: float) -> float:
    """Return by how much a sixth customer moves all parts together, in units of each part's noise."""
    before, after = released_sum(5), released_sum(6)
    return math.sqrt(
        sum((np.linalg.norm(after[name] - before[name]) / part.deviation(sigma)) ** 2 for name, part in PARTS.items())
    )


def test_one_customer_more_moves_all_parts_together_by_at_most_one_step_of_the_plan() -> None:
    """In units of each part's noise the whole move is at most 1 / sigma, which is what the plan is charged for."""
    assert 0 < moved_by_one_more(2.0) <= 1 / 2.0 * 1.0001


def test_planted_fault_a_customer_who_stands_in_two_batches_moves_the_sum_too_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = HeadData.between
    monkeypatch.setattr(heads, "BATCH", 3)
    monkeypatch.setattr(HeadData, "between", lambda self, start, end: honest(self, start, self.customers))
    assert moved_by_one_more(2.0) > 1 / 2.0 * 1.0001


def test_batches_add_up_to_the_same_sum_and_only_the_drawn_count(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, plan = data(9), replace(PLAN, sigma=0.0)
    drawn = np.array([0, 3, 4, 8])
    sums = []
    for size in (2, 4, 9, 100):
        monkeypatch.setattr(heads, "BATCH", size)
        steps = HeadSteps(weights(), rows, plan, Rehearsal(1))
        steps.step(drawn)
        sums.append(steps.update())
    each = gradients(weights(), rows)
    for name, part in PARTS.items():
        hers = each[name][drawn].astype(float)
        clipped = hers * np.minimum(1, part.clip_norm / np.linalg.norm(hers, axis=1))[:, None]
        for one in sums:
            np.testing.assert_allclose(-plan.divisor * one[name], clipped.sum(0), rtol=1e-3, atol=1e-5)


def test_rows_take_as_much_memory_as_there_is_in_them() -> None:
    rows = data(60)
    shown, pairs = len(rows.bought_Q), len(rows.text_M)
    kept = sum(one.nbytes for one in vars(rows).values() if isinstance(one, np.ndarray))
    assert kept < 60 * shown + 40 * pairs + 60 * len(rows) + 1000
    assert kept / len(rows) < 6000


def test_nobody_drawn_is_noise_alone_of_each_parts_own_size() -> None:
    plan = replace(PLAN, steps=3)
    for name, part in PARTS.items():
        updates = [
            train_head(zero_head(), data(0), plan, SecureRandom())[name] for _ in range(40 if name == "rank" else 1)
        ]
        deviation = part.deviation(plan.sigma) / plan.divisor * math.sqrt(plan.steps)
        assert stats.kstest(np.concatenate(updates) / deviation, "norm").pvalue > 1e-7


def test_planted_fault_no_noise_on_the_head_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "noisy", lambda total, deviation, randomness: total)
    found = train_head(zero_head(), data(0), PLAN, SecureRandom())
    assert all(not one.any() for one in found.values())


def test_a_broken_row_contributes_nothing() -> None:
    honest, more = released_sum(3), data(4)
    more.phi_QF[more.place_L[np.searchsorted(more.customer_L, 3)] :] = np.inf
    for field in (more.sold_M, more.kept_M, more.gaps_M):
        field[more.customer_M == 3] = np.inf
    found = train_head(weights(), more, replace(PLAN, sigma=0.0), Rehearsal(1))
    for name, one in found.items():
        np.testing.assert_allclose(-PLAN.divisor * one, honest[name], rtol=1e-3, atol=1e-5)


def test_the_order_asked_about_is_in_no_feature_and_nothing_from_until_on_counts() -> None:
    shop = book(5)
    whole = make_head_data(shop, (90,), 120)
    shorter = make_head_data(shop.before(90), (90,), 120)
    assert np.array_equal(whole.phi_QF, shorter.phi_QF)
    assert whole.bought_Q.any()
    assert not shorter.bought_Q.any()
    later = make_head_data(shop.before(120), (90,), 120)
    assert np.array_equal(whole.sold_M, later.sold_M)
    assert np.array_equal(whole.bought_Q, later.bought_Q)


def test_customers_without_purchases_keep_a_row_without_a_gradient() -> None:
    shop = book(3)
    gone = shop.of(np.array([True, False, True]))
    found = gradients(weights(), make_head_data(gone, CUTS, UNTIL))
    for name in PARTS:
        assert not found[name][1].any()
        assert found[name][0].any()


def test_it_learns_what_customers_buy_again_also_with_noise() -> None:
    shop = book(150)
    rows, plan = make_head_data(shop, CUTS, UNTIL), replace(PLAN, steps=30, sigma=2.0, divisor=150.0)
    update = train_head(zero_head(), rows, plan, SecureRandom(), local_rate=2.0)
    seen, truth = view(shop, UNTIL), next_order(shop, UNTIL)
    backwards = {**update, "rank": -update["rank"]}
    learned, turned = (float(score(ranked(seen, one), truth).ndcg_U.mean()) for one in (update, backwards))
    assert learned > turned + 0.05
    assert len(update["rank"]) == len(FEATURES)
    said = shop.shelf.texts.times(update["popularity"])
    assert said[shop.shelf.text_I[0]] == said.max()
