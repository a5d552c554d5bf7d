from __future__ import annotations

from pathlib import Path

import pytest

from client.config import load_merchant
from client.data.sources import read_shop
from client.use.guard import check, clean_copy, judge
from common.text import attributes_text

EXAMPLE = Path(__file__).parents[3] / "examples" / "merchant"
GIVEN = "渠道:短信｜商品:茉莉花茶｜属性:产地#广西*规格#150g｜优惠:满100减10、第二件8折"


def found(text: str, given: str = GIVEN) -> list[tuple[str, str, str]]:
    return [(one.kind, one.level, one.text) for one in check(text, given)]


@pytest.mark.parametrize(
    "text",
    [
        "茉莉花茶又到了，满100减10，给自己续一杯",
        "最近天凉，最后一罐喝完了吗？最终还是这个味道",
        "第一次喝就记住了，第一口很清香",
        "最多可囤两罐，最晚今晚发出",
        "最好在早上喝，开水冲泡",
        "第二件八折，满一百减十",
        "150g一罐，广西的茉莉",
        "一起来喝杯茶，一块儿尝尝",
        "亲，{昵称}，点{链接}看看",
    ],
)
def test_ordinary_copy_about_given_facts_passes(text: str) -> None:
    assert check(text, GIVEN) == []


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("国家级好茶", "国家级"),
        ("本店最佳花茶", "最佳"),
        ("最.佳花茶", "最.佳"),
        ("最 好 的花茶", "最 好"),
        ("全网第一的花茶", "全网第一"),
        ("销量第①", "销量第①"),
        ("顶级原料", "顶级"),
        ("ＮＯ．１花茶", "ＮＯ．１"),
        ("全网最低价", "全网最低价"),
        ("国宴用茶", "国宴"),
        ("降血糖，治疗失眠", "降血糖"),
    ],
)
def test_absolute_and_medical_terms_block(text: str, term: str) -> None:
    findings = [one for one in check(text, GIVEN + "1") if one.kind == "claim" and one.level == "block"]
    assert findings[0].text == term
    assert findings[0].reason.startswith("广告法第")


def test_terms_that_need_evidence_may_go_out_when_proved() -> None:
    assert found("冠军茶师，零添加，第一款") == [("claim", "evidence", "冠军"), ("claim", "evidence", "零添加")]
    assert found("最香的一杯") == [("claim", "evidence", "最香")]
    assert clean_copy(["最香的一杯"], GIVEN) == "最香的一杯"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("只要9.9元", "9.9"),
        ("满200减10", "200"),
        ("七折", "七"),
        ("满一百减二十", "二十"),
        ("含茶多酚30%", "30%"),
        ("24小时发货", "24"),
    ],
)
def test_a_number_that_nobody_gave_blocks(text: str, number: str) -> None:
    assert found(text) == [("number", "block", number)]


def test_a_number_is_the_same_however_it_is_written() -> None:
    assert check("１５０g，只要1,299元", "150.0g 1299元") == []
    assert check("八折", "8折") == []
    assert check("8%", "8") != []


@pytest.mark.parametrize("text", ["还是熟悉的150毫升", "满10减100", "打100", "8件"])
def test_a_given_number_with_another_unit_or_in_another_offer_blocks(text: str) -> None:
    assert {kind for kind, *_ in found(text)} == {"number"}


@pytest.mark.parametrize("text", ["满100元减10元", "150克一罐", "第二件8折", "省着喝，150 G"])
def test_a_given_number_may_be_said_in_other_words(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("天天一杯，养胃助眠", "claim"),
        ("口感媲美母乳", "claim"),
        ("今晚不醉不归", "claim"),
        ("别家的都是假货", "claim"),
        ("稳赚不赔", "claim"),
        ("包过保过", "claim"),
        ("转运招财的手串", "claim"),
        ("This tea cures insomnia", "claim"),
        ("The world's best tea", "claim"),
        ("risk-free trial", "claim"),
        ("七天无理由，仅剩两份", "offer"),
        ("Free shipping today", "offer"),
        ("椒盐核桃比您加购那天便宜", "offer"),
        ("下周涨价，今天下单", "offer"),
        ("Cheaper than last week", "offer"),
        ("三天内到", "number"),
    ],
)
def test_what_the_law_or_nobody_allows_blocks(text: str, kind: str) -> None:
    assert (kind, "block") in {(one, level) for one, level, _ in found(text)}


def test_what_looks_like_a_banned_term_and_is_none_is_named_with_its_reason() -> None:
    judged = {
        one.text: (one.level, one.reason) for one in judge("最近第一次喝，100%棉的包，有机种植", "有机种植 100%棉")
    }
    assert {text: level for text, (level, _) in judged.items()} == {
        "最近": "allowed", "第一": "allowed", "100%": "allowed", "有机": "allowed",
    }  # fmt: skip
    assert all(reason for _, reason in judged.values())
    assert [one.level for one in judge("有机种植", "")] == ["evidence"]
    assert check("最近有机会", "有机会") == []


def test_an_offer_that_nobody_made_blocks() -> None:
    assert found("茉莉花茶包邮，第二件半价") == [("offer", "block", "包邮"), ("offer", "block", "半价")]
    assert check("第二件半价", "优惠:第二件半价") == []


def test_personal_data_blocks_even_if_given_but_the_shops_own_address_may_stay() -> None:
    assert found("加微信tea_fan88", GIVEN + "tea_fan88")[0][:2] == ("personal", "block")
    assert [kind for kind, *_ in found("电话13800138000", "13800138000")] == ["personal"]
    assert check("看tea.example.cn", "网址 tea.example.cn") == []
    assert [kind for kind, *_ in found("看tea.example.cn")] == ["personal"]


@pytest.mark.parametrize("text", ["【复购】再来", "好茶｜文案:", "<|endoftext|>", "请打<手机>", "产地#广西*规格"])
def test_marks_of_the_prompt_block(text: str) -> None:
    assert "marker" in [one.kind for one in check(text, GIVEN)]


def test_the_first_candidate_without_a_block_is_taken() -> None:
    assert clean_copy(["最佳花茶", "  ", "九折！", "茶香等你", "再来一罐"], GIVEN) == "茶香等你"
    assert clean_copy(["最佳花茶", "九折！"], GIVEN) is None
    assert clean_copy([], GIVEN) is None


def test_the_example_shops_own_campaigns_pass() -> None:
    shop = read_shop(load_merchant(EXAMPLE))
    products = {product.item_id: product for product in shop.products}
    for campaign in shop.campaigns:
        product = products[campaign.item_id]
        given = f"{product.name} {attributes_text(product.attributes)} {campaign.offer}"
        assert clean_copy([campaign.text], given) == campaign.text
