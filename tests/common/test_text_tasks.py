"""The prompt and target of every task, in both languages: the words models are trained on may not change by accident."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

import common.text
from common.text import (
    DUE,
    LEVEL,
    SENTIMENT,
    TAG_LINES,
    TAGS,
    TASKS,
    YES,
    Bought,
    Habit,
    Portrait,
    copy_prompt,
    description_prompt,
    due,
    history_prompt,
    history_text,
    judgement_prompt,
    profile_prompt,
    profile_tag,
    profile_text,
    recency_score,
    reply_prompt,
    repurchase_prompt,
    review_prompt,
    score,
    sentiment,
    sentiment_prompt,
)

OFTEN, ONCE = Habit(2, 7), Habit(0, 120)
MILK, BREAD = Bought("牛奶", 6, 3), Bought("面包", 1, 40)
TEA = {"产地": "福建", "规格": "100g"}
PERSON = Portrait(4, 5, 3, ("乳品", "烘焙"), 1, 2)


def prompts(lang: str) -> Mapping[str, str]:
    return {
        "repurchase": repurchase_prompt(OFTEN, [MILK, BREAD], lang),
        "judgement": judgement_prompt(OFTEN, [MILK, BREAD], BREAD, 2, lang),
        "copy": copy_prompt("短信", "铁观音", TEA, "满50减5", Habit(1, 30), 12, lang),
        "description": description_prompt("铁观音", TEA, lang),
        "sentiment": sentiment_prompt("很香\n", lang),
        "review": review_prompt("铁观音", 5, lang),
        "reply": reply_prompt("物流", "已发货", "到\u200b哪了？", lang),
        "profile": profile_prompt(PERSON, lang),
        "history": history_prompt(OFTEN, [MILK, BREAD], lang),
    }


ZH = {
    "repurchase": "【复购】客户:高频·周期1周｜近购:牛奶×6·3天内;面包×1·1个月｜会买:",
    "judgement": "【复购】客户:高频·周期1周｜近购:牛奶×6·3天内;面包×1·1个月｜候选:面包×1·1个月·已到期｜会买:",
    "copy": "【文案】渠道:短信｜商品:铁观音｜属性:产地#福建*规格#100g｜优惠:满50减5｜客户:中频·上次2周｜文案:",
    "description": "【描述】商品:铁观音｜属性:产地#福建*规格#100g｜描述:",
    "sentiment": "【情感】评价:很香｜情感:",
    "review": "【评价】商品:铁观音｜星级:5｜评价:",
    "reply": "【客服】意图:物流｜状态:已发货｜问题:到哪了？｜回复:",
    "profile": "【画像】R4F5M3｜品类:乳品、烘焙｜价位:中｜促销敏感:高｜画像:",
    "history": "【履历】客户:高频·周期1周｜近购:牛奶×6·3天内;面包×1·1个月｜履历:",
}
RECENT = "customer: frequent, every 1 week | recent: 牛奶 x6, within 3 days; 面包 x1, 1 month"
EN = {
    "repurchase": f"[repurchase] {RECENT} | will buy: ",
    "judgement": f"[repurchase] {RECENT} | candidate: 面包 x1, 1 month, due | will buy: ",
    "copy": "[copy] channel: 短信 | item: 铁观音 | attributes: 产地#福建*规格#100g | offer: 满50减5 | "
    "customer: regular, last 2 weeks | copy: ",
    "description": "[description] item: 铁观音 | attributes: 产地#福建*规格#100g | description: ",
    "sentiment": "[sentiment] review: 很香 | sentiment: ",
    "review": "[review] item: 铁观音 | stars: 5 | review: ",
    "reply": "[service] intent: 物流 | status: 已发货 | question: 到哪了？ | reply: ",
    "profile": "[profile] R4F5M3 | categories: 乳品, 烘焙 | prices: middle | offers: high | profile: ",
    "history": f"[history] {RECENT} | history: ",
}


@pytest.mark.parametrize(("lang", "written"), [("zh", ZH), ("en", EN)])
def test_every_task_has_this_prompt(lang: str, written: Mapping[str, str]) -> None:
    assert prompts(lang) == written
    assert list(written) == list(TASKS)


@pytest.mark.parametrize("key", TASKS)
def test_every_task_stands_in_the_table_of_the_module_under_its_names(key: str) -> None:
    task = TASKS[key]
    assert (task.key, task.name("zh"), task.name("en")) == (key, task.zh, key)
    assert any(line.split()[:2] == [key, task.zh] for line in (common.text.__doc__ or "").splitlines())


def test_names_of_tasks_are_all_different() -> None:
    assert len({task.zh for task in TASKS.values()} | {task.en for task in TASKS.values()}) == 2 * len(TASKS)


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_what_is_missing_has_a_word_of_its_own(lang: str) -> None:
    none, other = ("无", "其他") if lang == "zh" else ("none", "other")
    assert none in copy_prompt("短信", "茶", {}, "", OFTEN, 0, lang)
    assert other in reply_prompt("", "已发货", "？", lang)
    assert none in reply_prompt("物流", "", "？", lang)
    nobody = Portrait(1, 1, 1, (), 1, 0)
    assert none in profile_prompt(nobody, lang)
    assert profile_text(nobody, lang).startswith(TAGS[lang][0])


@pytest.mark.parametrize(
    "table", [SENTIMENT, YES, DUE, LEVEL, TAGS, TAG_LINES, common.text.RHYTHM], ids=lambda one: one["en"][0]
)
def test_every_word_table_has_the_same_length_in_both_languages_and_no_word_twice(
    table: Mapping[str, tuple[str, ...]],
) -> None:
    assert set(table) == {"zh", "en"}
    assert len(table["zh"]) == len(table["en"]) == len(set(table["zh"])) == len(set(table["en"]))


# --- targets ---


def test_the_targets_that_follow_by_rule_as_written() -> None:
    assert [sentiment(stars, "en") for stars in range(1, 6)] == [
        "negative", "negative", "neutral", "positive", "positive",
    ]  # fmt: skip
    assert profile_text(PERSON, "en") == (
        "loyal: comes again and again, often buys 乳品, 烘焙; prices middle, answers to offers high."
    )
    assert history_text(OFTEN, [MILK], "zh") == "这位客户是高频客户，大约1周来一次，买过6次牛奶（3天内）。"
    assert (
        history_text(OFTEN, [MILK], "en") == "A customer (frequent, every 1 week) who bought 6 x 牛奶 (within 3 days)."
    )
    assert history_text(ONCE, [], "zh") == "这位客户是低频客户，大约3个月以上来一次。"
    assert history_text(ONCE, [], "en") == "A customer (occasional, every over 3 months) who bought nothing yet."


@pytest.mark.parametrize(
    ("recency", "frequency", "tag"),
    [
        (1, 5, "沉睡"), (2, 1, "沉睡"), (3, 4, "常客"), (5, 5, "常客"),
        (4, 2, "新客"), (5, 1, "新客"), (3, 2, "稳定"), (4, 3, "稳定"),
    ],
)  # fmt: skip
def test_the_tag_follows_from_r_and_f(recency: int, frequency: int, tag: str) -> None:
    assert TAGS["zh"][profile_tag(Portrait(recency, frequency, 3, (), 1, 1))] == tag


@pytest.mark.parametrize(("days", "r"), [(0, 5), (7, 5), (8, 4), (21, 4), (45, 3), (90, 2), (91, 1), (4000, 1)])
def test_r_has_fixed_public_edges(days: int, r: int) -> None:
    assert recency_score(days) == r


def test_a_score_counts_the_steps_that_are_reached() -> None:
    assert [score(value, (2, 3, 6, 12)) for value in (0, 1, 2, 5, 6, 11, 12, 99)] == [1, 1, 2, 3, 4, 4, 5, 5]


def test_an_item_is_due_by_its_own_gap() -> None:
    assert [due(days, 10.0) for days in (0, 6, 7, 9, 10, 99)] == [0, 0, 1, 1, 2, 2]
    assert due(0, None) == due(99, None) == 3
    assert due(0, 0.0) == 2
