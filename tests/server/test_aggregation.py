from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.factors import beside, cut
from common.lora import A_END, B_END, Adapter, to_bytes
from common.methods import METHODS
from server.aggregation import (
    RULES,
    Outcome,
    Round,
    Rule,
    combine,
    keep,
    realign,
    restarted,
    weighted_mean,
)
from server.lowrank import Matrix, basis, consensus
from server.optimizers import adam, yogi
from server.robust import robust

LAYERS = ("h.0.c_attn", "h.1.c_attn")
EXACT = [name for name, rule in RULES.items() if rule.exact]
WITHOUT_PRODUCT = ["fedsa"]
RANKS: dict[str, tuple[int, ...]] = {"equal": (4, 4, 4, 4), "mixed": (4, 1, 3, 2)}


def tensor(random: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(random.standard_normal(shape).astype(np.float32))


def adapter(seed: int, rank: int = 4, inputs: int = 24, outputs: int = 72) -> Adapter:
    """Return random factors of two layers; none of them is aligned with anything."""
    random = np.random.default_rng(seed)
    return {
        name + end: tensor(random, *shape)
        for name in LAYERS
        for end, shape in ((A_END, (rank, inputs)), (B_END, (outputs, rank)))
    }


def product(one: Adapter, layer: str) -> Matrix:
    """Return B A of one layer in float64."""
    return np.asarray(one[layer + B_END].double().numpy() @ one[layer + A_END].double().numpy())


def assert_same_product(new: Adapter, old: Adapter, relative: float) -> None:
    for layer in LAYERS:
        was = product(old, layer)
        assert np.linalg.norm(product(new, layer) - was) <= relative * np.linalg.norm(was)


def assert_orthonormal_rows(one: Adapter) -> None:
    for layer in LAYERS:
        a = one[layer + A_END].double().numpy()
        np.testing.assert_allclose(a @ a.T, np.eye(len(a)), atol=1e-6)


# --- the mean ---


def test_the_weighted_mean_is_numpys() -> None:
    updates, weights = [adapter(seed) for seed in range(5)], [1.0, 2.0, 0.5, 4.0, 0.25]
    mean = weighted_mean(updates, weights)
    assert list(mean) == sorted(updates[0])
    for name, value in mean.items():
        expected = np.average([one[name].double().numpy() for one in updates], axis=0, weights=weights)
        assert value.dtype == torch.float32
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_the_mean_of_one_is_itself_bit_for_bit_at_any_weight() -> None:
    one = adapter(1)
    for weight in (1.0, 7.0):
        assert all(torch.equal(value, one[name]) for name, value in weighted_mean([one], [weight]).items())


def test_the_mean_is_added_up_in_float64() -> None:
    large, small = {"x": torch.tensor([1e8])}, {"x": torch.tensor([1.0])}
    assert weighted_mean([large, small, {"x": torch.tensor([-1e8])}], [1.0, 1.0, 1.0])["x"].item() == pytest.approx(
        1 / 3
    )


def test_a_mean_leaves_the_updates_as_they_were() -> None:
    updates = [adapter(1), adapter(2)]
    weighted_mean(updates, [1.0, 3.0])
    assert all(torch.equal(value, adapter(1)[name]) for name, value in updates[0].items())


# --- realignment ---


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.floats(1e-4, 1e4))
def test_realignment_keeps_the_product_and_makes_the_rows_of_a_orthonormal(seed: int, rank: int, scale: float) -> None:
    old = {name: value * scale if name.endswith(B_END) else value for name, value in adapter(seed, rank).items()}
    new = realign(old)
    assert_same_product(new, old, 1e-6)
    assert_orthonormal_rows(new)
    assert {name: value.shape for name, value in new.items()} == {name: value.shape for name, value in old.items()}


def test_realignment_is_the_singular_value_decomposition_of_the_product() -> None:
    old = adapter(3)
    new = realign(old)
    for layer in LAYERS:
        u, s, vt = np.linalg.svd(product(old, layer), full_matrices=False)
        b = new[layer + B_END].double().numpy()
        np.testing.assert_allclose(np.linalg.norm(b, axis=0), s[:4], rtol=1e-5)  # singular values, largest first
        np.testing.assert_allclose(b.T @ b, np.diag(s[:4] ** 2), atol=1e-4 * s[0] ** 2)
        dense = (u[:, :4] * s[:4]) @ vt[:4]
        np.testing.assert_allclose(product(new, layer), dense, rtol=0, atol=1e-6 * s[0])


def test_realignment_at_the_size_of_gpt2() -> None:
    old = adapter(4, rank=8, inputs=768, outputs=2304)
    new = realign(old)
    assert_same_product(new, old, 1e-5)
    assert_orthonormal_rows(new)


def test_a_b_of_zeros_stays_zero_and_a_becomes_orthonormal() -> None:
    old = {name: value * 0 if name.endswith(B_END) else value for name, value in adapter(5).items()}
    new = realign(old)
    assert not any(value.any() for name, value in new.items() if name.endswith(B_END))
    assert_orthonormal_rows(new)


def test_factors_that_lack_rank_are_realigned_all_the_same() -> None:
    old = adapter(6)
    for layer in LAYERS:
        old[layer + B_END][:, 1] = old[layer + B_END][:, 0]
        old[layer + A_END][2] = 0
    new = realign(old)
    assert_same_product(new, old, 1e-6)
    assert_orthonormal_rows(new)
    assert all(bool(torch.isfinite(value).all()) for value in new.values())


def test_realigning_twice_changes_the_product_no_further() -> None:
    once = realign(adapter(7))
    assert_same_product(realign(once), once, 1e-6)


def test_realignment_leaves_its_argument_as_it_was() -> None:
    old = adapter(8)
    realign(old)
    assert all(torch.equal(value, adapter(8)[name]) for name, value in old.items())


# --- rounds, and the dense target they are held against ---


def change(shared: Adapter, names: Sequence[str], rank: int, seed: int, size: float = 1.0) -> Adapter:
    """Return a merchant's change of `names` at its own rank."""
    random = np.random.default_rng(seed)
    own = cut(shared, 0, rank)
    return {name: size * tensor(random, *own[name].shape) for name in names}


def a_round(
    method: str, ranks: Sequence[int], *, weights: Sequence[float] = (), number: int = 1, size: float = 1.0
) -> Round:
    """Return a round of `method` that begins with a random adapter of rank 4."""
    shared = adapter(1)
    names = RULES[method].shared(shared, number)
    updates = [change(shared, names, rank, 100 + place, size) for place, rank in enumerate(ranks)]
    return Round(shared, updates, weights or [1.0] * len(ranks), number)


def target(given: Round, layer: str) -> Matrix:
    """Return P + rate * sum_k w_k (P_k - P^k), dense, with the shares worked out once more."""
    a, b = (given.shared[layer + end].double().numpy() for end in (A_END, B_END))
    whole = b @ a
    for update, weight in zip(given.updates, given.weights, strict=True):
        rank = min(value.shape[0 if name.endswith(A_END) else 1] for name, value in update.items())
        moved = {end: update[layer + end].double().numpy() if layer + end in update else 0.0 for end in (A_END, B_END)}
        after = (b[:, :rank] + moved[B_END]) @ (a[:rank] + moved[A_END])
        whole = whole + given.rate * weight / sum(given.weights) * (after - b[:, :rank] @ a[:rank])
    return np.asarray(whole)


def served(outcome: Outcome, layer: str) -> Matrix:
    """Return what nodes add to a weight over s: the shared product and the residual."""
    whole = product(outcome.adapter, layer)
    return whole + product(outcome.residual, layer) if layer + A_END in outcome.residual else whole


def miss(given: Round, outcome: Outcome) -> float:
    """Return the largest relative distance from the target over all layers."""
    return max(
        float(np.linalg.norm(served(outcome, layer) - target(given, layer)) / np.linalg.norm(target(given, layer)))
        for layer in LAYERS
    )


# --- exactness ---


@pytest.mark.parametrize("mix", RANKS)
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("method", EXACT)
def test_an_exact_rule_serves_the_target_product(method: str, number: int, mix: str) -> None:
    for weights in ((1.0, 1.0, 1.0, 1.0), (3.0, 1.0, 0.5, 2.0)):
        given = a_round(method, RANKS[mix], weights=weights, number=number)
        for rate in (1.0, 0.3):
            paced = replace(given, rate=rate)
            assert miss(paced, combine(method, paced)) < 1e-6


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(EXACT),
    st.lists(st.tuples(st.integers(1, 4), st.floats(0.01, 100)), min_size=1, max_size=5),
    st.floats(1e-3, 1e3),
)
def test_exactness_holds_at_any_ranks_weights_and_sizes(
    method: str, merchants: list[tuple[int, float]], size: float
) -> None:
    ranks, weights = zip(*merchants, strict=True)
    round_ = a_round(method, ranks, weights=weights, size=size)
    assert miss(round_, combine(method, round_)) < 1e-5


@pytest.mark.parametrize("mix", RANKS)
@pytest.mark.parametrize("method", [name for name in RULES if name not in (*EXACT, *WITHOUT_PRODUCT)])
def test_a_rule_that_is_not_exact_is_labelled_so(method: str, mix: str) -> None:
    given = a_round(method, RANKS[mix])
    assert miss(given, combine(method, given)) > 1e-2


@pytest.mark.parametrize("mix", RANKS)
@pytest.mark.parametrize("method", RULES)
def test_a_round_in_which_nobody_moves_serves_what_was_served_before(method: str, mix: str) -> None:
    given = a_round(method, RANKS[mix], size=0.0)
    start = realign(given.shared) if method == "florist" else given.shared
    outcome = combine(method, replace(given, shared=start, energy=1.0))
    for layer in LAYERS:
        np.testing.assert_allclose(served(outcome, layer), product(start, layer), atol=1e-5)


@pytest.mark.parametrize("method", RULES)
def test_a_rule_leaves_the_round_as_it_was(method: str) -> None:
    given, same = a_round(method, RANKS["mixed"]), a_round(method, RANKS["mixed"])
    combine(method, given)
    assert to_bytes(given.shared) == to_bytes(same.shared)
    assert [to_bytes(one) for one in given.updates] == [to_bytes(one) for one in same.updates]


@pytest.mark.parametrize("method", RULES)
def test_every_merchant_moves_the_result_by_its_weight(method: str) -> None:
    given = a_round(method, RANKS["equal"], weights=(1.0, 1.0, 1.0, 5.0))
    whole = combine(method, given)
    for place in range(4):
        less = [one for spot, one in enumerate(given.updates) if spot != place]
        weights = [one for spot, one in enumerate(given.weights) if spot != place]
        without = combine(method, replace(given, updates=less, weights=weights))
        assert to_bytes(without.adapter | without.residual) != to_bytes(whole.adapter | whole.residual) or (
            method == "flora" and to_bytes(without.state) != to_bytes(whole.state)
        )


@pytest.mark.parametrize("method", RULES)
def test_the_shapes_of_the_shared_adapter_stay_and_everything_is_finite_fp32(method: str) -> None:
    given = a_round(method, (1, 1))
    outcome = combine(method, given)
    assert {name: value.shape for name, value in outcome.adapter.items()} == {
        name: value.shape for name, value in given.shared.items()
    }
    for value in (outcome.adapter | outcome.residual).values():
        assert value.dtype == torch.float32
        assert bool(torch.isfinite(value).all())


@pytest.mark.parametrize("method", RULES)
def test_nothing_as_large_as_the_weight_is_ever_made(method: str) -> None:
    """The dense product would take 320 gigabytes here, its float64 twice that."""
    random = np.random.default_rng(3)
    shared = {"q" + A_END: tensor(random, 2, 200_000), "q" + B_END: tensor(random, 400_000, 2)}
    names = RULES[method].shared(shared, 1)
    given = Round(shared, [change(shared, names, 2, seed) for seed in (1, 2, 3)], [1.0, 2.0, 3.0], 1)
    outcome = combine(method, given)
    assert all(bool(torch.isfinite(value).all()) for value in outcome.adapter.values())
    assert (
        combine(method, replace(given, robust=robust("krum", 0.2))).judgements[0].status == "accepted"
    )  # inner products, too


# --- planted bugs: what the references got wrong, and what we could get wrong ---


def apart(given: Round, rule: Rule) -> Outcome:
    """Average A and B apart and call it exact."""
    return RULES["fedavg"].add(given, rule)


def unweighted(given: Round, rule: Rule) -> Outcome:
    """Work out the residual with equal weights whatever the weights are."""
    right = RULES["fedex"].add(given, rule)
    wrong = RULES["fedex"].add(replace(given, weights=[1.0] * len(given.updates)), rule)
    return replace(right, state=wrong.state)


def first_only(given: Round, rule: Rule) -> Outcome:
    """Go on with the first merchant alone."""
    return RULES["fedavg"].add(replace(given, updates=given.updates[:1], weights=[1.0]), rule)


def both_weighted(given: Round, rule: Rule) -> Outcome:
    """Multiply A as well as B by the weight, on the stack."""
    rooted = [{name: value * 0.5 for name, value in one.items()} for one in given.updates]
    return RULES["flora"].add(replace(given, updates=rooted), rule)


def taken_for_transposed(given: Round, rule: Rule) -> Outcome:
    """Take the V of `torch.svd` for V', as a published FedSVD does."""
    moved = RULES["ffa"].add(given, rule).adapter
    new = dict(moved)
    for layer in LAYERS:
        u, s, v = torch.svd(moved[layer + B_END] @ moved[layer + A_END])
        new[layer + A_END], new[layer + B_END] = v[:4, :24], u[:, :4] * s[:4]
    return Outcome(new, {})


def shortened(given: Round, rule: Rule) -> Outcome:
    """Cut the stack to the shared rank and forget the rest."""
    return RULES["flexlora"].add(given, rule)


def half_of_both(given: Round, rule: Rule) -> Outcome:
    """Average in one factor and leave the other where the first merchant has it."""
    moved = RULES["ffa"].add(given, rule).adapter
    return Outcome({name: value * (1.01 if name.endswith(A_END) else 1.0) for name, value in moved.items()}, {})


@pytest.mark.parametrize(
    ("method", "bug"),
    [
        ("ffa", first_only),
        ("ffa", half_of_both),
        ("fedsvd", taken_for_transposed),
        ("rolora", half_of_both),
        ("sdflora", taken_for_transposed),
        ("fedex", apart),
        ("fedex", unweighted),
        ("flora", apart),
        ("flora", first_only),
        ("flora", both_weighted),
        ("flora", shortened),
    ],
)
def test_a_planted_bug_misses_the_target(method: str, bug: Callable[[Round, Rule], Outcome]) -> None:
    given, rule = a_round(method, RANKS["equal"], weights=(3.0, 1.0, 0.5, 2.0)), RULES[method]
    assert miss(given, rule.add(given, rule)) < 1e-6
    assert miss(given, bug(given, rule)) > 1e-3


# --- fedgsa ---


def test_fedgsa_is_its_dense_form() -> None:
    given = a_round("fedgsa", RANKS["equal"], weights=(3.0, 1.0, 0.5, 2.0))
    outcome, shares = combine("fedgsa", given), given.shares
    for layer in LAYERS:
        a, b = (given.shared[layer + end].double().numpy() for end in (A_END, B_END))
        products = [(b + update[layer + B_END].double().numpy()) @ a for update in given.updates]
        tops = [np.linalg.svd(one)[0][:, :4] for one in products]
        agreed = np.linalg.eigh(sum(w * u @ u.T for w, u in zip(shares, tops, strict=True)))[1][:, -4:]
        mean = sum(w * one for w, one in zip(shares, products, strict=True))
        np.testing.assert_allclose(product(outcome.adapter, layer), agreed @ (agreed.T @ mean), atol=1e-4)
    assert_orthonormal_rows(outcome.adapter)


def test_merchants_that_agree_lose_nothing_under_fedgsa() -> None:
    given = a_round("fedgsa", RANKS["equal"])
    same = replace(given, updates=[given.updates[0]] * 3, weights=[1.0] * 3)
    assert miss(same, combine("fedgsa", same)) < 1e-6


def test_a_merchant_that_sends_nothing_has_no_say_in_the_consensus() -> None:
    empty, full = basis(np.zeros((9, 2))), basis(np.eye(9)[:, :2])
    assert empty.shape == (9, 0)
    agreed = consensus([empty, full], [0.9, 0.1], 3)
    np.testing.assert_allclose(agreed @ agreed.T, np.diag([1.0] * 2 + [0.0] * 7), atol=1e-12)


# --- stacks: flexlora, florist, flora, fedex ---


def test_flexlora_is_the_dense_truncation() -> None:
    given = a_round("flexlora", RANKS["mixed"], weights=(3.0, 1.0, 0.5, 2.0))
    outcome = combine("flexlora", given)
    for layer in LAYERS:
        u, s, vt = np.linalg.svd(target(given, layer), full_matrices=False)
        np.testing.assert_allclose(product(outcome.adapter, layer), (u[:, :4] * s[:4]) @ vt[:4], atol=1e-5 * s[0])
    assert_orthonormal_rows(outcome.adapter)


def test_the_first_directions_of_flexlora_are_the_best_adapter_of_a_smaller_rank() -> None:
    given = a_round("flexlora", RANKS["equal"])
    small = cut(combine("flexlora", given).adapter, 0, 2)
    for layer in LAYERS:
        u, s, vt = np.linalg.svd(target(given, layer), full_matrices=False)
        np.testing.assert_allclose(product(small, layer), (u[:, :2] * s[:2]) @ vt[:2], atol=1e-5 * s[0])


def test_flexlora_and_florist_are_exact_where_the_rank_suffices() -> None:
    for method in ("flexlora", "florist"):
        given = replace(a_round(method, (4,)), energy=1.0)
        assert miss(given, combine(method, given)) < 1e-6


def test_florist_keeps_the_energy_asked_for_and_no_direction_more() -> None:
    given = a_round("florist", RANKS["equal"])
    for energy in (0.1, 0.3, 0.6):
        outcome = combine("florist", replace(given, energy=energy))
        for layer in LAYERS:
            s = np.linalg.svd(target(given, layer), compute_uv=False)
            kept = int(np.count_nonzero(np.linalg.norm(outcome.adapter[layer + B_END].numpy(), axis=0)))
            held = np.cumsum(s**2) / np.sum(s**2)
            assert kept == 4 or held[kept - 1] >= energy
            assert kept == 1 or held[kept - 2] < energy
    assert_orthonormal_rows(outcome.adapter)  # the directions that were dropped can be trained again


@pytest.mark.parametrize("method", ["fedex", "flora"])
def test_the_residual_of_all_rounds_together_serves_the_sum_of_all_targets(method: str) -> None:
    given = a_round(method, RANKS["mixed"], weights=(3.0, 1.0, 0.5, 2.0))
    expected = {layer: np.zeros((72, 24)) for layer in LAYERS}
    for number in (1, 2, 3):
        names = RULES[method].shared(given.shared, number)
        updates = [change(given.shared, names, rank, 10 * number + rank) for rank in RANKS["mixed"]]
        given = replace(given, updates=updates, number=number)
        outcome = combine(method, given)
        for layer in LAYERS:
            expected[layer] = expected[layer] + target(given, layer) - product(outcome.adapter, layer)
            folded = product(outcome.residual, layer)
            assert np.linalg.norm(folded - expected[layer]) < 1e-5 * np.linalg.norm(expected[layer])
        given = replace(given, shared=outcome.adapter, state=outcome.state)


def test_fedex_alone_leaves_no_residual_and_two_merchants_leave_one_of_their_rank() -> None:
    assert combine("fedex", a_round("fedex", (4,))).residual == {}
    residual = combine("fedex", a_round("fedex", (4, 4))).residual
    assert {value.shape for name, value in residual.items() if name.endswith(A_END)} == {(4, 24)}


def test_a_limit_on_the_residual_is_the_best_of_that_rank() -> None:
    given = a_round("fedex", RANKS["equal"])
    whole, short = combine("fedex", given).residual, combine("fedex", replace(given, residual_rank=3)).residual
    for layer in LAYERS:
        u, s, vt = np.linalg.svd(product(whole, layer), full_matrices=False)
        np.testing.assert_allclose(product(short, layer), (u[:, :3] * s[:3]) @ vt[:3], atol=1e-5 * s[0])


def test_a_residual_beside_the_adapter_is_one_adapter_for_a_peft_folder() -> None:
    given = a_round("fedex", RANKS["equal"])
    outcome = combine("fedex", given)
    whole = beside(outcome.adapter, outcome.residual)
    assert {value.shape[0] for name, value in whole.items() if name.endswith(A_END)} == {4 + 12}
    assert miss(given, Outcome(whole, {})) < 1e-6


def test_flora_begins_anew_from_public_numbers() -> None:
    given = a_round("flora", RANKS["equal"], number=3)
    fresh = combine("flora", given).adapter
    assert to_bytes(fresh) == to_bytes(restarted(given.shared, given.seed, 3))
    assert to_bytes(fresh) != to_bytes(restarted(given.shared, given.seed, 4))
    assert not any(value.any() for name, value in fresh.items() if name.endswith(B_END))
    assert_orthonormal_rows(fresh)


# --- factors ---


def test_rolora_moves_b_in_odd_rounds_and_a_in_even_ones() -> None:
    for number, end in ((1, B_END), (2, A_END), (3, B_END)):
        given = a_round("rolora", RANKS["equal"], number=number)
        new = combine("rolora", given).adapter
        changed = {name for name in new if not torch.equal(new[name], given.shared[name])}
        assert changed == {layer + end for layer in LAYERS}


def test_fedsa_moves_a_alone() -> None:
    given = a_round("fedsa", RANKS["equal"], weights=(3.0, 1.0, 0.5, 2.0))
    new = combine("fedsa", given).adapter
    for layer in LAYERS:
        moved = np.average(
            [one[layer + A_END].double().numpy() for one in given.updates], axis=0, weights=given.weights
        )
        np.testing.assert_allclose(new[layer + A_END].numpy(), given.shared[layer + A_END].numpy() + moved, rtol=1e-5)
        assert torch.equal(new[layer + B_END], given.shared[layer + B_END])


def test_momentum_follows_the_directions_that_realignment_turns() -> None:
    given = replace(a_round("fedsvd", RANKS["equal"]), step=adam, rate=0.1)
    first = combine("fedsvd", replace(given, shared=realign(given.shared)))
    assert set(first.state) == set(adam(realign(given.shared), dict(given.updates[0]), {}, 0.1)[1])
    mean = weighted_mean(given.updates, given.weights)
    for layer in LAYERS:
        turned = first.state[f"m.{layer}{B_END}"].double() @ first.adapter[layer + A_END].double()
        still = 0.1 * mean[layer + B_END].double() @ realign(given.shared)[layer + A_END].double()
        torch.testing.assert_close(turned, still, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["fedex", "flora", "flexlora", "florist"])
def test_an_optimizer_of_factors_is_refused_where_products_are_added(method: str) -> None:
    for step in (adam, yogi):
        with pytest.raises(UserError, match="take sgd"):
            combine(method, replace(a_round(method, (4, 4)), step=step))


@pytest.mark.parametrize("weights", [[1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")], []])
def test_a_weight_that_is_no_positive_number_is_refused(weights: list[float]) -> None:
    with pytest.raises(UserError, match="weight must be a number above 0"):
        combine("ffa", replace(a_round("ffa", (4, 4)), weights=weights))


def test_weights_that_do_not_fit_the_replies_are_refused() -> None:
    with pytest.raises(UserError, match="3 weights for 2 updates"):
        combine("ffa", replace(a_round("ffa", (4, 4)), weights=[1.0] * 3))


# --- the registry ---


def test_there_is_a_rule_for_every_method_and_no_other() -> None:
    assert list(RULES) == list(METHODS)
    for name, rule in RULES.items():
        assert rule.name == name
        assert "arXiv:" in rule.source
        assert rule.keeps
        assert rule.releases
        assert rule.ranks
        assert rule.travel is METHODS[name]
    assert RULES["fedavg"].settle is RULES["ffa"].settle is keep
    assert RULES["fedsvd"].settle is realign


def test_what_a_rule_says_it_releases_is_what_travels() -> None:
    for rule in RULES.values():
        travels = {letter for number in (1, 2) for letter in rule.travel.sends(number)}
        said = rule.releases.split(";")[0].replace("shared B", "B")
        assert {letter for letter in "AB" if f" {letter}" in said} == travels


def test_ffa_fedsvd_and_fedgsa_never_move_a_before_settling() -> None:
    for name in ("ffa", "fedsvd", "fedgsa", "sdflora"):
        assert {letter for number in range(1, 5) for letter in RULES[name].travel.trains(number)} == {"B"}
