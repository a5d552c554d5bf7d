"""The made-up corpus: the task prompts of `common.text`, the same bytes for the same seed, and real variety."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from common.text import SENTIMENT, joiner
from simulations.corpus import KINDS, UNSEEN, Draw, make_documents, make_goods, make_offer, review_text, write_corpus
from simulations.passages import passages

PHONE = re.compile(r"1[3-9]\d{9}|\d{7,}|https?://|www\.")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_corpus(tmp_path / name, 200, seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_a_line_is_a_kind_and_pieces_of_text(tmp_path: Path) -> None:
    write_corpus(tmp_path / "trade.jsonl", 300, 1)
    rows = [json.loads(line) for line in (tmp_path / "trade.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 300
    assert {row["kind"] for row in rows} <= set(KINDS)
    assert all(isinstance(piece, str) and piece for row in rows for piece in row["text"])


@pytest.mark.parametrize(
    ("kind", "start", "end"),
    [
        ("trade/repurchase", "【复购】客户:", "｜会买:"),
        ("trade/repurchase-english", "[repurchase] customer: ", " | will buy: "),
        ("trade/copy", "【文案】渠道:", "｜文案:"),
        ("trade/description", "【描述】商品:", "｜描述:"),
        ("trade/sentiment", "【情感】评价:", "｜情感:"),
        ("trade/review", "【评价】商品:", "｜评价:"),
        ("trade/service", "【客服】意图:", "｜回复:"),
        ("trade/judgement", ("【复购】", "[repurchase]"), ("｜会买:", " | will buy: ")),
        ("trade/history", ("【履历】", "[history]"), ("｜履历:", " | history: ")),
        ("trade/profile", ("【画像】R", "[profile] R"), ("｜画像:", " | profile: ")),
    ],
)
def test_every_task_has_its_prompt_and_its_target(
    kind: str, start: str | tuple[str, ...], end: str | tuple[str, ...]
) -> None:
    rng = Draw(0)
    for _ in range(50):
        prompt, target = KINDS[kind][1](rng)
        assert prompt.startswith(start)
        assert prompt.endswith(end)
        assert target
        assert "{" not in target


@pytest.mark.parametrize(("kind", "lang"), [("trade/repurchase", "zh"), ("trade/repurchase-english", "en")])
def test_what_comes_next_was_bought_before(kind: str, lang: str) -> None:
    rng = Draw(1)
    for _ in range(50):
        prompt, target = KINDS[kind][1](rng)
        names = target.split(joiner(lang))
        assert len(set(names)) == len(names)
        assert all(name in prompt for name in names)


def test_every_kind_can_be_made_and_leaves_no_slot_open() -> None:
    for kinds, unseen in ((KINDS, False), (UNSEEN, True)):
        draw = Draw(5)
        draw.unseen = unseen
        for _, maker in kinds.values():
            for _ in range(40):
                assert not [piece for piece in maker(draw) if not piece or "{" in piece or "}" in piece]


def test_reserved_prose_is_used_where_it_is_asked_for_and_nowhere_else() -> None:
    heads = [(one.reserved, one.text.split("{")[0]) for one in passages("story")]
    kept, usual = ({text for reserved, text in heads if reserved == side and len(text) > 5} for side in (True, False))
    told = [one.pieces[0] for one in make_documents(4000, seed=1) if one.kind == "trade/story"]
    assert any(text.startswith(tuple(usual)) for text in told)
    assert not [text for text in told if text.startswith(tuple(kept))]
    unseen = list(make_documents(400, seed=1, unseen=True))
    assert {one.kind for one in unseen} == set(UNSEEN)
    stories = [one.pieces[0] for one in unseen if one.kind == "unseen/story"]
    assert all(any(story.startswith(text) for story in stories) for text in kept)
    assert not [text for text in stories if text.startswith(tuple(usual))]


def test_what_an_offer_is_stands_in_the_prompt_and_in_the_copy() -> None:
    draw = Draw(4)
    made = [KINDS["trade/copy"][1](draw) for _ in range(200)]
    offers = [prompt.split("｜优惠:")[1].split("｜")[0] for prompt, _ in made]
    assert all(offer == "无" or offer in text for offer, (_, text) in zip(offers, made, strict=True))
    assert len({make_offer(draw) for _ in range(300)}) > 200


def test_goods_are_mostly_made_up_on_the_spot() -> None:
    draw = Draw(6)
    goods = [make_goods(draw) for _ in range(500)]
    assert len({one.name for one in goods}) > 470
    assert all(2 <= len(one.attributes) <= 4 and one.noun in one.name for one in goods)


def test_sentiment_follows_the_stars() -> None:
    rng = Draw(2)
    targets = {KINDS["trade/sentiment"][1](rng)[1] for _ in range(60)}
    assert targets == set(SENTIMENT["zh"])
    said = {stars: {review_text(rng, make_goods(rng), stars) for _ in range(150)} for stars in (1, 3, 5)}
    assert not said[1] & said[5]
    assert any("就是" in text for text in said[3])


def test_texts_seldom_repeat_and_carry_no_numbers_of_persons() -> None:
    texts = ["".join(one.pieces) for one in make_documents(3000, seed=3)]
    assert len(set(texts)) > 0.93 * len(texts)
    assert not [text for text in texts if PHONE.search(text)]
