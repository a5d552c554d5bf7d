from __future__ import annotations

import numpy as np
import pytest
import torch

from client.use.drafts import Request, answer_scores, drafts
from common.lora import Bench, initial, put
from common.text import clean

PROMPT = "【文案】渠道:短信｜商品:茉莉花茶｜属性:产地#福建｜优惠:无｜客户:中频·上次1周｜文案:"


@pytest.fixture
def fresh(work: Bench) -> Bench:
    put(work.model, initial(work.model, 7))
    return work


def test_the_same_request_gives_the_same_drafts_and_another_seed_others(fresh: Bench) -> None:
    one = Request(PROMPT, ("茶。", "好。", "新。"), 12, seed=3)
    other = Request(PROMPT, ("茶。", "好。", "新。"), 12, seed=4)
    assert drafts(fresh, [one]) == drafts(fresh, [one])
    first, second = drafts(fresh, [one])[0], drafts(fresh, [other])[0]
    assert first[0] == second[0], "the first draft takes the likeliest tokens, whatever the seed"


def test_drafts_begin_as_asked_and_are_clean(fresh: Bench) -> None:
    (found,) = drafts(fresh, [Request(PROMPT, ("茉莉花茶。", "满100减10。"), 20)])
    assert [draft.text.startswith(begin) for draft, begin in zip(found, ("茉莉", "满100"), strict=True)] == [True, True]
    assert all(draft.text == clean(draft.text) for draft in found)
    assert all(draft.score < 0 for draft in found)


def test_a_token_that_is_not_allowed_is_never_gone_on_from(fresh: Bench) -> None:
    asked: list[str] = []

    def free(text: str) -> bool:
        asked.append(text)
        return True

    drafts(fresh, [Request(PROMPT, ("茶。",) * 4, 24, free, seed=1)])
    odd = next(letter for text in asked for letter in text[2:] if letter not in "茶。")
    asked.clear()

    def bound(text: str) -> bool:
        asked.append(text)
        return odd not in text

    drafts(fresh, [Request(PROMPT, ("茶。",) * 4, 24, bound, seed=1)])
    assert any(odd in text for text in asked), "the model would have said it"
    starts = {text for text in asked if odd in text}
    assert not any(text != start and text.startswith(start) for text in asked for start in starts)


def test_nothing_allowed_is_no_draft(fresh: Bench) -> None:
    assert drafts(fresh, [Request(PROMPT, ("",), 8, lambda text: False)]) == [[]]
    assert drafts(fresh, []) == []


def test_a_request_is_written_the_same_beside_others_of_other_lengths(fresh: Bench) -> None:
    requests = [
        Request(PROMPT, ("茶。", "好。"), 10, seed=1),
        Request("短", ("新。",), 16, seed=2),
        Request("很长的历史；" * 60, ("茶。",), 8, seed=3),
    ]
    together = drafts(fresh, requests)
    for request, found in zip(requests, together, strict=True):
        assert [draft.text for draft in found] == [draft.text for draft in drafts(fresh, [request])[0]]


def test_a_draft_without_an_end_goes_back_to_its_last_sentence(fresh: Bench) -> None:
    for draft in drafts(fresh, [Request(PROMPT, ("好茶。再来", "好茶。还有"), 6)])[0]:
        assert draft.ended or draft.text.endswith(("。", "！", "？", "!", "?", ".", "~", "～"))


def test_scores_of_answers_are_sums_of_log_probabilities(fresh: Bench) -> None:
    found = answer_scores(fresh, [PROMPT, "短"], ["正面", "负面", "好"])
    base = fresh.base
    for row, prompt in enumerate([PROMPT, "短"]):
        for column, answer in enumerate(["正面", "负面", "好"]):
            ask = [base.end, *base.tokenizer(prompt)["input_ids"]]
            say = base.tokenizer(answer)["input_ids"]
            with torch.inference_mode():
                log_TV = fresh.model(torch.tensor([[*ask, *say]])).logits[0].log_softmax(-1)
            alone = sum(float(log_TV[len(ask) + step - 1, token]) for step, token in enumerate(say))
            assert np.isclose(found[row, column], alone, atol=1e-3)
