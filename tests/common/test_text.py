from __future__ import annotations

import doctest
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

import common.text
from common.text import (
    Bought,
    Habit,
    Lexicon,
    ago,
    attributes_text,
    clean,
    copy_prompt,
    description_prompt,
    joiner,
    keywords,
    reply_prompt,
    repurchase_prompt,
    review_prompt,
    rhythm,
    sentiment,
    sentiment_prompt,
    simplify,
    words,
)

ENGLISH = "It's 100% cotton; we've bought 3 packs (size M/L) - can't wait for more!"


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(common.text)
    assert result.attempted >= 4
    assert result.failed == 0


# --- cleaning ---


@pytest.mark.parametrize("hidden", ["\u200b", "\u200d", "\ufeff", "\u202e", "\u2066", "\u2069", "\x00", "\x1b", "\x85"])
def test_control_zero_width_and_direction_characters_are_removed(hidden: str) -> None:
    assert clean(f"好{hidden}茶") == "好茶"


@pytest.mark.parametrize("blank", [" ", "\n", "\t", "\r\n", "\u3000", "\u2028", " \n\t "])
def test_blanks_and_line_ends_become_one_space(blank: str) -> None:
    assert clean(f" 好茶{blank}再来 ") == "好茶 再来"


@pytest.mark.parametrize("text", [ENGLISH, "naïve café – 5 €", "龙井123克×2；买一送一！"])
def test_ordinary_text_is_not_touched(text: str) -> None:
    assert clean(text) == text


def test_full_width_digits_and_letters_become_ordinary_and_full_width_punctuation_stays() -> None:
    assert clean("ＡＺａｚ０９：（２５０ｇ），好！？％") == "AZaz09：（250g），好！？％"


def test_cleaning_keeps_the_script_that_a_shop_writes_in() -> None:
    assert clean("這款凍頂烏龍很香") == "這款凍頂烏龍很香"


@given(st.text(st.characters(max_codepoint=0x24F, exclude_categories=["C", "Z"])))
def test_latin_text_without_blanks_comes_through_cleaning_letter_for_letter(text: str) -> None:
    assert clean(text) == text
    assert simplify(text) == text


@given(st.text())
def test_clean_text_is_one_line_and_cleaning_twice_changes_nothing(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert once == once.strip()
    assert not any(unicodedata.category(letter) == "Cc" for letter in once)


# --- words ---


def test_words_are_cut_without_stop_words_and_punctuation() -> None:
    cut = words("我们的铁观音和茉莉花茶，都很好喝！！…… ——")
    assert "铁观音" in cut
    assert "茉莉花茶" in cut
    assert not {"我们", "的", "和", "都", "，", "！", "…", "—"} & set(cut)


def test_full_width_letters_are_read_as_ordinary_ones() -> None:
    assert words("ＡＢＣ１２３") == words("abc123") == ["abc123"]


def test_traditional_letters_are_the_same_words_as_simplified_ones() -> None:
    assert words("這款凍頂烏龍茶很香，包裝精緻") == words("这款冻顶乌龙茶很香，包装精致")
    assert keywords(["綠茶 綠茶", "绿茶 紅茶 红茶"], 2) == ["绿茶", "红茶"]


def test_a_word_is_simplified_by_its_meaning_and_simplified_text_is_left_alone() -> None:
    assert simplify("頭髮 發貨 皇后 後天 乾隆 乾淨") == "头发 发货 皇后 后天 乾隆 干净"
    plain = "著名的乾隆年间覆盖面，后来只有一只干净的头发卡子"
    assert simplify(plain) == plain


def test_english_words_are_lower_case_without_articles() -> None:
    assert words("The green Tea of the year") == ["green", "tea", "year"]


def test_another_list_of_stop_words_can_be_given() -> None:
    assert words("the green tea", Lexicon(stop_words=frozenset({"green"}))) == ["the", "tea"]


def test_keywords_are_the_most_frequent_words_of_two_letters_and_more() -> None:
    assert keywords(["龙井 龙井 香", "龙井 茶杯 香 香 香"], 2) == ["龙井", "茶杯"]
    assert keywords([], 3) == []


# --- buckets ---


@pytest.mark.parametrize(
    ("days", "word"),
    [
        (0, "当天"), (1, "3天内"), (3, "3天内"), (4, "1周"), (10, "1周"), (11, "2周"), (21, "2周"),
        (22, "1个月"), (45, "1个月"), (46, "2个月"), (90, "2个月"), (91, "3个月以上"), (4000, "3个月以上"),
    ],
)  # fmt: skip
def test_days_fall_into_buckets_at_their_edges(days: int, word: str) -> None:
    assert ago(days, "zh") == word


def test_both_languages_have_the_same_buckets() -> None:
    edges = range(120)
    pairs = {(ago(days, "zh"), ago(days, "en")) for days in edges}
    assert len(pairs) == len({zh for zh, _ in pairs}) == len({en for _, en in pairs}) == 7


@pytest.mark.parametrize(
    ("orders", "days", "bucket"), [(1, 31, 0), (1, 30, 1), (1, 1, 1), (2, 30, 1), (3, 30, 2), (3, 31, 1), (0, 30, 0)]
)
def test_rhythm_counts_orders_in_thirty_days(orders: int, days: int, bucket: int) -> None:
    assert rhythm(orders, days) == bucket


@pytest.mark.parametrize(("stars", "word"), [(1, "负面"), (2, "负面"), (3, "中性"), (4, "正面"), (5, "正面")])
def test_stars_become_a_sentiment(stars: int, word: str) -> None:
    assert sentiment(stars) == word


# --- prompts: the words the model is trained on, so they may not change by accident ---

OFTEN = Habit(2, 7)


def test_the_repurchase_prompt_as_written() -> None:
    recent = [Bought("牛奶", 6, 3), Bought("面包", 1, 40)]
    assert repurchase_prompt(OFTEN, recent, "zh") == "【复购】客户:高频·周期1周｜近购:牛奶×6·3天内;面包×1·1个月｜会买:"
    assert repurchase_prompt(Habit(0, 120), [], "zh") == "【复购】客户:低频·周期3个月以上｜近购:｜会买:"
    assert repurchase_prompt(OFTEN, [Bought("MILK", 6, 0), Bought("BREAD", 1, 40)], "en") == (
        "[repurchase] customer: frequent, every 1 week | recent: MILK x6, today; BREAD x1, 1 month | will buy: "
    )
    assert (joiner("zh"), joiner("en")) == ("、", ", ")


def test_the_other_prompts_as_written() -> None:
    tea = {"产地": "福建", "规格": "100g"}
    assert attributes_text(tea) == "产地#福建*规格#100g"
    assert copy_prompt("短信", "铁观音", tea, "满50减5", Habit(1, 30), 12) == (
        "【文案】渠道:短信｜商品:铁观音｜属性:产地#福建*规格#100g｜优惠:满50减5｜客户:中频·上次2周｜文案:"
    )
    assert "｜优惠:无｜" in copy_prompt("微信", "铁观音", {}, "", OFTEN, 0)
    assert description_prompt("铁观音", tea) == "【描述】商品:铁观音｜属性:产地#福建*规格#100g｜描述:"
    assert sentiment_prompt("很香\n") == "【情感】评价:很香｜情感:"
    assert review_prompt("铁观音", 5) == "【评价】商品:铁观音｜星级:5｜评价:"
    assert reply_prompt("物流", "", "到\u200b哪了？") == "【客服】意图:物流｜状态:无｜问题:到哪了？｜回复:"
    assert reply_prompt("", "已发货", "？") == "【客服】意图:其他｜状态:已发货｜问题:？｜回复:"
