from __future__ import annotations

import numpy as np
import pytest

from common.model import Base, load_base
from common.text import LABEL_VOICE, Example
from common.tokens import Encoded, encode_examples, pack, stack

SHORT = Example("复购", "【复购】客户:高频｜会买:", "牛奶、面包")


@pytest.fixture(scope="module")
def base(tiny_base: str) -> Base:
    return load_base(tiny_base)


def counted(one: Encoded) -> list[int]:
    return [id_ for id_, counts in zip(one.ids, one.counts, strict=True) if counts]


def test_the_prompt_never_counts_and_the_target_and_its_end_do(base: Base) -> None:
    (one,) = encode_examples(base, [SHORT], 128)
    prompt = base.tokenizer(SHORT.prompt)["input_ids"]
    target = base.tokenizer(SHORT.target)["input_ids"]
    assert list(one.ids) == [*prompt, *target, base.end]
    assert list(one.counts) == [False] * len(prompt) + [True] * (len(target) + 1)
    assert one.task == "复购"


def test_too_long_a_prompt_loses_its_front_and_keeps_the_whole_target(base: Base) -> None:
    long = Example("复购", "很长的历史；" * 60 + "｜会买:", "牛奶")
    (one,) = encode_examples(base, [long], 32)
    assert len(one.ids) == 31
    assert counted(one) == [*base.tokenizer("牛奶")["input_ids"], base.end]
    whole = base.tokenizer(long.prompt)["input_ids"]
    kept = [id_ for id_, counts in zip(one.ids, one.counts, strict=True) if not counts]
    assert kept == whole[-len(kept) :]


def test_too_long_a_target_loses_its_end_and_leaves_the_prompt_one_id(base: Base) -> None:
    (one,) = encode_examples(base, [Example("文案", "【文案】写:", "说不完的话" * 40)], 16)
    assert len(one.ids) == 15
    assert one.counts == (False,) + (True,) * 14
    assert base.end not in one.ids


def test_examples_are_encoded_each_on_its_own_and_in_order(base: Base) -> None:
    other = Example("评价", "【评价】", "好" * 50)
    assert encode_examples(base, [SHORT, other], 64) == [
        *encode_examples(base, [SHORT], 64),
        *encode_examples(base, [other], 64),
    ]
    assert encode_examples(base, [], 64) == []


def test_an_empty_target_counts_its_end_only(base: Base) -> None:
    (one,) = encode_examples(base, [Example("复购", "会买:", "")], 64)
    assert counted(one) == [base.end]


def test_a_row_takes_the_records_that_fit_and_passes_over_those_that_do_not() -> None:
    small, large = Encoded("a", (1, 2), (False, True)), Encoded("b", (3,) * 6, (False,) + (True,) * 5)
    ids, counts = pack([small, large, small], end=9, max_tokens=6)
    assert ids == [9, 1, 2, 1, 2]
    assert counts == [False, False, True, False, True]
    assert pack([], end=9, max_tokens=6) == ([9], [False])


@pytest.mark.parametrize("rows", [[], [([9], [False])], [([9, 1], [False, True]), ([9, 1, 2, 3], [False] * 4)]])
def test_all_rows_have_one_public_length_and_padding_never_counts(rows: list[tuple[list[int], list[bool]]]) -> None:
    stacked = stack(rows, end=9, max_tokens=5)
    assert stacked.ids_BT.shape == stacked.counts_BT.shape == (len(rows), 5)
    assert stacked.ids_BT.dtype == np.int64
    for row, (ids, counts) in enumerate(rows):
        assert stacked.ids_BT[row].tolist() == ids + [9] * (5 - len(ids))
        assert stacked.counts_BT[row].tolist() == counts + [False] * (5 - len(ids))


def test_one_word_of_an_answer_has_a_louder_voice_than_a_word_of_a_sentence() -> None:
    word, sentence = Encoded("情感", (5, 6, 1), (False, True, True)), Encoded("文案", (7, 8, 1), (False, True, True))
    ids, voices = pack([word, sentence], 1, 16)
    assert ids == [1, 5, 6, 1, 7, 8, 1]
    assert voices == [0, 0, LABEL_VOICE, LABEL_VOICE, 0, 1, 1]
    rows = stack([(ids, voices)], 1, 8)
    assert rows.weights.tolist() == [[*map(float, voices), 0.0]]
    assert rows.counts_BT.tolist() == [[*(voice > 0 for voice in voices), False]]
