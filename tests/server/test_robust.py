from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.lora import A_END, B_END, Adapter
from server.aggregation import RULES, Outcome, Round, combine
from server.lowrank import Matrix
from server.robust import PLAIN, ROBUST, krum_scores, median, multi_krum, norm_bound, robust, tolerated, trimmed_mean

METHODS = list(RULES)
GUARDS = [name for name in ROBUST if name != "none"]


def tensor(random: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(random.standard_normal(shape).astype(np.float32))


def a_round(method: str, merchants: int, ranks: Sequence[int] = (), scatter: float = 0.05) -> Round:
    """Return a round in which merchants move in one direction, with a little scatter of their own."""
    random = np.random.default_rng(5)
    shared: Adapter = {"q" + A_END: tensor(random, 3, 20), "q" + B_END: tensor(random, 30, 3)}
    if method == "flora":
        shared["q" + B_END] = torch.zeros(30, 3)
    common = {name: tensor(random, *value.shape) for name, value in shared.items()}
    updates = []
    for place in range(merchants):
        rank = ranks[place] if ranks else 3
        names = RULES[method].shared(shared, 1)
        whole = {name: common[name] + scatter * tensor(random, *shared[name].shape) for name in names}
        updates.append({name: one[:rank] if name.endswith(A_END) else one[:, :rank] for name, one in whole.items()})
    return Round(shared, updates, [1.0] * merchants, 1)


def spoil(round_: Round, liars: Sequence[int], scale: float) -> Round:
    """Return the round with the liars' changes multiplied by `scale`."""
    updates = [
        {name: value * scale for name, value in one.items()} if place in liars else one
        for place, one in enumerate(round_.updates)
    ]
    return replace(round_, updates=updates)


def served(outcome: Outcome, method: str) -> Matrix:
    """Return what nodes use: B A and residual, or A alone where B stays with the merchants."""
    a, b = (outcome.adapter["q" + end].double().numpy() for end in (A_END, B_END))
    if method == "fedsa":
        return np.asarray(a)
    rest = outcome.residual
    extra = rest["q" + B_END].double().numpy() @ rest["q" + A_END].double().numpy() if rest else 0.0
    return np.asarray(b @ a + extra)


def gram_of(points: Matrix) -> Matrix:
    return np.asarray(points @ points.T)


# --- screens and centres by themselves ---


def test_the_norm_bound_scales_what_is_longer_and_leaves_the_rest() -> None:
    points = np.diag([1.0, 3.0, 12.0])
    verdicts = norm_bound(gram_of(points), 4.0)
    assert [one.status for one in verdicts] == ["accepted", "accepted", "clipped"]
    assert verdicts[2].factor == pytest.approx(4 / 12)
    assert verdicts[2].reason == "update of norm 12, clipped to 4"
    assert [one.factor for one in norm_bound(gram_of(points))] == pytest.approx([1, 1, 3.3 / 12])  # the median is 3


def test_krum_sets_the_f_farthest_aside_by_the_papers_score() -> None:
    points = np.random.default_rng(1).standard_normal((9, 6))
    points[[2, 7]] += 50
    verdicts = multi_krum(gram_of(points), 0.25)
    squares = ((points[:, None] - points[None]) ** 2).sum(-1)
    scores = [sum(sorted(row[place != np.arange(9)])[: 9 - 2 - 2]) for place, row in enumerate(squares)]
    np.testing.assert_allclose(krum_scores(gram_of(points), 2), scores)
    worst = sorted(range(9), key=lambda place: scores[place])[-2:]
    assert sorted(worst) == [2, 7]
    assert [place for place, one in enumerate(verdicts) if one.status == "set aside"] == [2, 7]
    assert all(one.factor == 1.0 for place, one in enumerate(verdicts) if place not in worst)
    assert verdicts[2].reason.startswith("far from the others: score ")


@pytest.mark.parametrize(("replies", "aside"), [(1, 0), (2, 0), (4, 0), (5, 1), (6, 1), (7, 2), (10, 3)])
def test_krum_sets_no_more_aside_than_the_replies_bear(replies: int, aside: int) -> None:
    points = np.random.default_rng(replies).standard_normal((replies, 3))
    verdicts = multi_krum(gram_of(points), 0.49)
    assert sum(one.status == "set aside" for one in verdicts) == aside
    assert aside == 0 or replies >= 2 * aside + 3


def test_the_share_of_liars_is_rounded_down_and_not_by_binary_fractions() -> None:
    assert [tolerated(100, 0.29), tolerated(10, 0.3), tolerated(4, 0.2), tolerated(5, 0.2)] == [29, 3, 0, 1]


def test_the_trimmed_mean_is_numpys_on_sorted_columns() -> None:
    values = np.random.default_rng(2).standard_normal((10, 50))
    middle, left_out = trimmed_mean(values, 0.2)
    np.testing.assert_allclose(middle, np.sort(values, axis=0)[2:8].mean(axis=0))
    assert left_out.sum() == 4 * 50


@pytest.mark.parametrize("replies", range(1, 8))
def test_the_median_is_numpys(replies: int) -> None:
    values = np.random.default_rng(3).standard_normal((replies, 50))
    np.testing.assert_allclose(median(values)[0], np.median(values, axis=0))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.floats(0, 0.49), st.integers(0, 1000))
def test_no_f_liars_take_a_centre_beyond_the_honest(replies: int, liars: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.standard_normal((replies, 6))
    f = tolerated(replies, liars)
    honest = values[f:].copy()
    values[:f] = random.choice([-1e9, 1e9], size=(f, 6))
    for middle in (trimmed_mean(values, liars)[0], median(values)[0]):
        assert np.all(middle >= honest.min(axis=0) - 1e-9)
        assert np.all(middle <= honest.max(axis=0) + 1e-9)


# --- in every method's geometry ---


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("method", METHODS)
def test_one_merchant_of_five_cannot_carry_the_round_away(method: str, guard: str) -> None:
    honest = a_round(method, 5)
    clean = served(combine(method, honest), method)
    fair = np.linalg.norm(
        clean - served(combine(method, replace(honest, updates=honest.updates[:4], weights=[1.0] * 4)), method)
    )
    moved = np.linalg.norm(clean - served(Outcome(honest.shared, {}), method))
    attacked = spoil(honest, [4], -100.0)
    guarded = combine(method, replace(attacked, robust=robust(guard, 0.2)))
    drift = np.linalg.norm(served(guarded, method) - clean)
    assert drift < 0.7 * moved + fair
    assert np.linalg.norm(served(combine(method, attacked), method) - clean) > 10 * moved
    assert guarded.judgements[4].status == ("clipped" if guard == "norm" else "set aside")
    assert guarded.judgements[4].reason


@pytest.mark.parametrize("method", METHODS)
def test_krum_leaves_exactly_the_round_without_the_liar(method: str) -> None:
    attacked = spoil(a_round(method, 5), [1], 100.0)
    guarded = combine(method, replace(attacked, robust=robust("krum", 0.2)))
    assert [one.status for one in guarded.judgements] == ["accepted", "set aside", *["accepted"] * 3]
    rest = [one for place, one in enumerate(attacked.updates) if place != 1]
    without = combine(method, replace(attacked, updates=rest, weights=[1.0] * 4))
    np.testing.assert_array_equal(served(guarded, method), served(without, method))


@pytest.mark.parametrize("method", ["ffa", "fedex", "flora", "flexlora"])
def test_a_bounded_merchant_moves_the_mean_by_its_weight_times_the_limit(method: str) -> None:
    still = a_round(method, 4)
    still = replace(
        still, updates=[{n: v * 0 for n, v in one.items()} for one in still.updates[:3]] + [still.updates[3]]
    )
    shouted = replace(spoil(still, [3], 1000.0), robust=robust("norm", limit=0.5))
    outcome = combine(method, shouted)
    start = Outcome(still.shared, {})
    if RULES[method].geometry == "products":
        assert np.linalg.norm(served(outcome, method) - served(start, method)) < 0.5 / 4 + 1e-4
        if method != "flexlora":
            assert np.linalg.norm(served(outcome, method) - served(start, method)) > 0.49 / 4
    else:
        change = torch.linalg.vector_norm(outcome.adapter["q" + B_END] - still.shared["q" + B_END])
        assert float(change) == pytest.approx(0.5 / 4, rel=1e-4)


@pytest.mark.parametrize("method", ["fedex", "flora", "flexlora", "florist"])
def test_inner_products_of_products_are_the_dense_ones(method: str) -> None:
    round_ = a_round(method, 4, ranks=(3, 1, 2, 3))
    a, b = (round_.shared["q" + end].double().numpy() for end in (A_END, B_END))
    changes = []
    for update in round_.updates:
        rank = update["q" + A_END].shape[0]
        after = (b[:, :rank] + update["q" + B_END].double().numpy()) @ (a[:rank] + update["q" + A_END].double().numpy())
        changes.append((after - b[:, :rank] @ a[:rank]).ravel())
    np.testing.assert_allclose(RULES[method].inner(round_), gram_of(np.stack(changes)), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_inner_products_compare_what_is_added_up_and_not_the_bytes_sent(method: str) -> None:
    """Two merchants whose factors differ and whose products are the same stand at distance zero among products."""
    round_ = a_round(method, 2)
    turn = torch.diag(torch.tensor([2.0, 0.5, -1.0]))
    if RULES[method].geometry == "products":
        shared = {"q" + A_END: torch.zeros(3, 20), "q" + B_END: torch.zeros(30, 3)}
        one = round_.updates[0]
        other = {"q" + A_END: turn.inverse() @ one["q" + A_END], "q" + B_END: one["q" + B_END] @ turn}
        gram = RULES[method].inner(replace(round_, shared=shared, updates=[one, other]))
    else:
        gram = RULES[method].inner(replace(round_, updates=[round_.updates[0]] * 2))
    assert gram[0, 0] + gram[1, 1] - 2 * gram[0, 1] == pytest.approx(0.0, abs=1e-6 * gram[0, 0])


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("method", METHODS)
def test_merchants_of_mixed_rank_are_judged_all_the_same(method: str, guard: str) -> None:
    attacked = spoil(a_round(method, 6, ranks=(3, 2, 3, 2, 3, 2)), [0], 100.0)
    outcome = combine(method, replace(attacked, robust=robust(guard, 0.2)))
    assert len(outcome.judgements) == 6
    assert outcome.judgements[0].status != "accepted"
    assert all(bool(torch.isfinite(value).all()) for value in outcome.adapter.values())


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("fedgsa", "florist")])
def test_where_nobody_moves_a_guard_leaves_what_was_served(method: str, guard: str) -> None:
    still = spoil(a_round(method, 6, ranks=(3, 2, 3, 2, 1, 3)), range(6), 0.0)
    outcome = combine(method, replace(still, robust=robust(guard)))
    np.testing.assert_allclose(served(outcome, method), served(Outcome(still.shared, {}), method), atol=1e-4)


@pytest.mark.parametrize("guard", ["trimmed", "median"])
@pytest.mark.parametrize("method", ["fedex", "flora"])
def test_a_centre_of_equal_products_is_that_product_in_full(method: str, guard: str) -> None:
    one = a_round(method, 1)
    same = replace(one, updates=list(one.updates) * 5, weights=[1.0] * 5, robust=robust(guard))
    np.testing.assert_allclose(served(combine(method, same), method), served(combine(method, one), method), atol=1e-4)


def test_without_a_guard_everybody_is_accepted_as_they_are() -> None:
    for method in METHODS:
        outcome = combine(method, spoil(a_round(method, 5), [4], 100.0))
        assert [one.status for one in outcome.judgements] == ["accepted"] * 5


def test_a_guard_says_nothing_of_a_merchant_that_is_alone() -> None:
    for guard in ROBUST:
        outcome = combine("fedsvd", replace(a_round("fedsvd", 1), robust=robust(guard)))
        assert [one.status for one in outcome.judgements] == ["accepted"]


# --- settings ---


def test_every_guard_names_itself_and_its_paper() -> None:
    for name in GUARDS:
        assert robust(name).name == name
        assert "arXiv:" in robust(name).source
        assert (robust(name).screen is None) != (robust(name).centre is None)
    assert robust("none") is PLAIN


@pytest.mark.parametrize(
    ("name", "liars", "limit", "says"),
    [
        ("bulyan", 0.2, 0.0, "robust = 'bulyan' is none of"),
        ("krum", 0.5, 0.0, "liars = 0.5"),
        ("trimmed", -0.1, 0.0, "liars = -0.1"),
        ("krum", float("nan"), 0.0, "liars = nan"),
        ("norm", 0.2, -1.0, "limit = -1.0"),
        ("norm", 0.2, float("nan"), "limit = nan"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(name: str, liars: float, limit: float, says: str) -> None:
    with pytest.raises(UserError, match=says) as told:
        robust(name, liars, limit)
    assert "\n" not in str(told.value)
