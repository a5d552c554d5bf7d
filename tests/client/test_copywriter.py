from __future__ import annotations

import pytest

from client.use.copywriter import write
from common.lora import Bench, initial, put
from common.text import clean

PROMPT = "【文案】渠道:短信｜商品:茉莉花茶｜属性:产地#福建｜优惠:无｜客户:中频·上次1周｜文案:"


@pytest.fixture
def fresh(work: Bench) -> Bench:
    put(work.model, initial(work.model, 7))
    return work


def test_the_same_prompt_gives_the_same_texts(fresh: Bench) -> None:
    assert write(fresh, PROMPT, 3, 12) == write(fresh, PROMPT, 3, 12)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_at_most_so_many_different_clean_texts_come_back(fresh: Bench, count: int) -> None:
    texts = write(fresh, PROMPT, count, 10)
    assert 0 < len(texts) <= count
    assert len(set(texts)) == len(texts)
    for text in texts:
        assert text
        assert text == clean(text)
        assert "<|endoftext|>" not in text
        assert not text.startswith("【文案】")


def test_a_text_is_at_most_so_many_tokens_long(fresh: Bench) -> None:
    for text in write(fresh, PROMPT, 3, 5):
        assert len(fresh.base.tokenizer(text)["input_ids"]) <= 5 * 4  # broken bytes decode to one mark of three bytes


def test_a_prompt_longer_than_the_model_loses_its_front(fresh: Bench) -> None:
    long = "很长的历史；" * 200
    assert len(fresh.base.tokenizer(long)["input_ids"]) > fresh.base.model.config.n_positions
    assert isinstance(write(fresh, long, 1, 6), list)


def test_another_prompt_may_be_answered_otherwise_and_the_first_stays_first(fresh: Bench) -> None:
    (first,) = write(fresh, PROMPT, 1, 10)
    assert write(fresh, PROMPT, 4, 10)[0] == first
