"""The made-up corpus: the task prompts of `common.text`, the same bytes for the same seed, and real variety."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from common.text import SENTIMENT, joiner
from simulations.corpus import KINDS, make_documents, make_goods, review_text, write_corpus

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
        ("trade/profile", "【画像】R", "｜画像:"),
    ],
)
def test_every_task_has_its_prompt_and_its_target(kind: str, start: str, end: str) -> None:
    rng = random.Random(0)
    for _ in range(50):
        prompt, target = KINDS[kind][1](rng)
        assert prompt.startswith(start)
        assert prompt.endswith(end)
        assert target
        assert "{" not in target


@pytest.mark.parametrize(("kind", "lang"), [("trade/repurchase", "zh"), ("trade/repurchase-english", "en")])
def test_what_comes_next_was_bought_before(kind: str, lang: str) -> None:
    rng = random.Random(1)
    for _ in range(50):
        prompt, target = KINDS[kind][1](rng)
        names = target.split(joiner(lang))
        assert len(set(names)) == len(names)
        assert all(name in prompt for name in names)


def test_sentiment_follows_the_stars() -> None:
    rng = random.Random(2)
    targets = {KINDS["trade/sentiment"][1](rng)[1] for _ in range(60)}
    assert targets == set(SENTIMENT["zh"])
    assert "就是" in review_text(rng, make_goods(rng), 3)


def test_texts_seldom_repeat_and_carry_no_numbers_of_persons() -> None:
    texts = ["".join(one.pieces) for one in make_documents(3000, seed=3)]
    assert len(set(texts)) > 0.93 * len(texts)
    assert not [text for text in texts if PHONE.search(text)]
