"""The study of sentiment: each review once, public features, private steps that learn, intervals that hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from client.train.sampling import randomness_for
from common.errors import UserError
from common.model import load_base
from common.text import sentiment_prompt
from simulations import sentiment
from simulations.sentiment import (
    RESULT,
    TABLE,
    Reviews,
    Row,
    Study,
    Table,
    alone,
    as_markdown,
    difference,
    gradient_sum,
    letter_pairs,
    letters_of,
    made_up,
    make_reviews,
    plan_of,
    read_lines,
    read_states,
    run_sentiment,
    side_by_side,
    together,
    train,
    whiten,
)

GOOD, BAD = ("很好喝", "质量不错", "物流很快", "特别喜欢"), ("太难喝了", "质量很差", "物流太慢", "非常失望")
SMALL = Study(epsilons=(8.0, 1.0), rounds=6, rates=(10.0, 40.0), shops=3, divisor=60.0, draws=2)


def lines(count: int) -> list[tuple[str, bool]]:
    """Return made-up reviews, all different, half of them good."""
    return [
        (f"第{place}次买，{(GOOD if place % 2 else BAD)[place // 2 % 4]}", bool(place % 2)) for place in range(count)
    ]


@pytest.fixture(scope="module")
def reviews() -> Reviews:
    return make_reviews(lines(600), 3)


@pytest.fixture(scope="module")
def table(reviews: Reviews) -> Table:
    return Table(letter_pairs(reviews.texts), reviews)


def test_the_packages_reviews_come_each_once_and_none_with_both_classes() -> None:
    found = make_reviews(read_lines(), 10)
    keys = [letters_of(text) for text in found.texts]
    assert len(found.texts) == 17_320
    assert len(set(keys)) == len(keys)
    assert np.bincount(found.shop_N).min() > 1500
    assert (found.part_N[~found.seen_N] == 2).all()
    assert 0.15 < (found.part_N == 2).mean() < 0.25


def test_a_repetition_with_other_marks_counts_once_and_a_contradiction_not_at_all() -> None:
    found = make_reviews([("很 好！", True), ("很好", True), ("一般", True), ("一般。", False), ("差", False)], 2)
    assert sorted(found.texts) == ["差", "很 好！"]
    assert sorted(found.good_N.tolist()) == [0.0, 1.0]


def test_the_parts_and_the_merchant_of_a_review_do_not_depend_on_the_others(reviews: Reviews) -> None:
    whole = {text: (reviews.part_N[at], reviews.shop_N[at]) for at, text in enumerate(reviews.texts)}
    half = make_reviews(lines(300), 3)
    assert all(whole[text] == (half.part_N[at], half.shop_N[at]) for at, text in enumerate(half.texts))


def test_no_reviews_are_an_error_that_says_so() -> None:
    with pytest.raises(UserError, match="no review"):
        make_reviews([("！", True)], 2)


def test_every_review_is_at_most_of_length_one(tiny_base: str, reviews: Reviews) -> None:
    base = load_base(tiny_base)
    states_NH, said_NC = read_states(base, [sentiment_prompt(text) for text in reviews.texts[:20]])
    public_PH, _ = read_states(base, made_up(30))
    x_NW = side_by_side(whiten(states_NH, public_PH, 8), letter_pairs(reviews.texts[:20]))
    length_N = np.sqrt(np.asarray(x_NW.multiply(x_NW).sum(1)).ravel())
    assert np.allclose(length_N, 1.0)
    assert said_NC.shape == (20, 3)
    assert (said_NC < 0).all()


def test_a_reviews_states_do_not_depend_on_those_read_beside_it(tiny_base: str, reviews: Reviews) -> None:
    base = load_base(tiny_base)
    prompts = [sentiment_prompt(text) for text in (reviews.texts[0], "好" * 300, reviews.texts[1])]
    together_NH, _ = read_states(base, prompts)
    alone_NH, _ = read_states(base, prompts[:1])
    assert np.allclose(together_NH[0], alone_NH[0], atol=1e-5)


def test_one_customer_moves_the_sum_by_at_most_the_clip_norm() -> None:
    random = np.random.default_rng(3)
    x_NW = random.standard_normal((50, 7))
    x_NW /= np.linalg.norm(x_NW, axis=1, keepdims=True)
    good_N, weights_W = random.integers(0, 2, 50).astype(np.float64), 9 * random.standard_normal(7)
    whole = gradient_sum(sparse.csr_matrix(x_NW), good_N, weights_W, 0.5)
    moves = [
        np.linalg.norm(
            whole - gradient_sum(sparse.csr_matrix(np.delete(x_NW, at, 0)), np.delete(good_N, at), weights_W, 0.5)
        )
        for at in range(50)
    ]
    assert max(moves) <= 0.5 + 1e-9
    assert max(moves) > 0.49  # some are clipped


def test_what_a_merchant_sends_carries_the_noise_of_its_plan() -> None:
    plan = plan_of(SMALL, 8.0)
    nothing = (sparse.csr_matrix((1, 4000)), np.zeros(1))
    weights_W = train([nothing], plan, 1, 1.0)
    assert plan.sigma > 1
    assert weights_W.std() == pytest.approx(plan.sigma * plan.clip_norm / plan.divisor, rel=0.1)
    assert randomness_for(plan, 0) is not randomness_for(plan, 0)


def test_private_training_learns_to_tell_good_from_bad(table: Table) -> None:
    row = together(table, SMALL, 8.0, "federated")
    assert row.right_RN.shape == (2, int((table.reviews.part_N == 2).sum()))
    assert row.accuracy > 0.8
    assert row.rate in SMALL.rates


def test_every_shop_alone_reads_everybodys_test_reviews(table: Table) -> None:
    rows = alone(table, SMALL, 1.0)
    assert len(rows) == SMALL.shops
    assert {row.right_RN.shape[1] for row in rows} == {int((table.reviews.part_N == 2).sum())}


def test_the_test_part_has_no_say_in_what_is_trained_or_chosen(table: Table) -> None:
    study = replace(SMALL, epsilons=(float("inf"),), draws=1)
    turned_N = np.where(table.reviews.part_N == 2, 1 - table.reviews.good_N, table.reviews.good_N)
    turned = Table(table.x_NW, replace(table.reviews, good_N=turned_N))
    one, other = (together(each, study, float("inf"), "plain") for each in (table, turned))
    assert one.rate == other.rate
    assert (one.right_RN == ~other.right_RN).all()


def test_an_interval_holds_its_mean_and_a_difference_of_equals_is_nothing() -> None:
    random = np.random.default_rng(1)
    row = Row("ours", random.random((3, 400)) < 0.8)
    worse = Row("than", random.random((3, 400)) < 0.6)
    found = difference(row)
    assert found["low"] < found["mean"] < found["high"]
    assert found["high"] - found["low"] < 0.12
    assert difference(row, worse)["low"] > 0.05
    assert difference(row, Row("same", row.right_RN[:1].repeat(3, 0)))["high"] < 0.1


def test_the_study_writes_its_figures_and_a_table_in_which_epsilon_stands_with_delta(
    tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentiment, "read_lines", lambda: lines(300))
    told: list[str] = []
    study = replace(SMALL, epsilons=(8.0,), base=tiny_base, public=30, directions=8, divisor=30.0)
    found = run_sentiment(study, tmp_path, told.append)
    assert json.loads((tmp_path / RESULT).read_text("utf-8")) == json.loads(json.dumps(found))
    text = (tmp_path / TABLE).read_text("utf-8")
    assert text == as_markdown(found)
    assert "delta = 1e-06 for one customer" in text
    assert any("epsilon 8 (delta = 1e-06, one customer, period: all rounds)" in line for line in told)
    assert all("delta = 1e-06" in line for line in told if "epsilon" in line)
    assert [row["name"] for row in found["rows"]][:4] == ["one class", "public word lists", "the base's word",
                                                          "federated, epsilon 8"]  # fmt: skip
    assert len(found["alone"]["8"]) == 3
