"""Facts, wordings and the composing of copy."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from client.use.copywriter import FLUENT, Writer, compose, grounded, likeness_of
from client.use.drafts import Draft, Request
from client.use.facts import Facts, carries, coverage, facts_of, invented, said
from client.use.guard import check
from client.use.templates import copy_of, description_of
from common.schema import Product

TEA = Product.model_validate(
    {
        "item_id": "SKU7",
        "name": "【新品】茉莉花茶",
        "category": "茶叶",
        "brand": "青禾里",
        "attributes": "产地#广西*规格#150g",
        "description": "花香干净",
    }
)
FACTS = facts_of(TEA)


def said_by(*texts: str, score: float = -0.5) -> Writer:
    """Return a writer that always says these texts."""

    def writer(requests: Sequence[Request]) -> list[list[Draft]]:
        return [[Draft(text, score, True) for text in texts] for _ in requests]

    return writer


def test_facts_are_what_the_shop_says_without_tags_and_marks() -> None:
    assert FACTS.name == "茉莉花茶"
    assert FACTS.wanted == ("茉莉花茶", "广西", "150g")
    assert "青禾里" in FACTS.given
    assert not check(FACTS.name, FACTS.given)
    assert said("<b>茶</b>｜[x] {y}") == "茶 x y"


def test_coverage_counts_what_a_text_carries() -> None:
    assert coverage("茉莉花茶，150 G", FACTS) == pytest.approx(2 / 3)
    assert coverage("", Facts("", {}, "", "")) == 1.0
    assert carries("綠茶到了", "绿茶")


@pytest.mark.parametrize(
    ("text", "given", "odd"),
    [
        ("茉莉花茶到了，家里还有吗", "茉莉花茶", []),
        ("茉莉花茶配辣酱", "茉莉花茶", ["辣酱"]),
        ("拼音读本很好", "茉莉花茶", ["拼音", "读本"]),
        ("Time for more jasmine tea", "Jasmine tea", []),
        ("Jasmine tea with a free umbrella", "Jasmine tea", ["umbrella"]),
    ],
)
def test_a_thing_that_nobody_gave_is_invented(text: str, given: str, odd: list[str]) -> None:
    assert invented(text, given) == odd


def test_drafts_come_first_and_wordings_fill_up() -> None:
    found = compose(said_by("茉莉花茶，家里还有吗？"), "", FACTS, copy_of(FACTS, "", "zh"), 3)
    assert [one.source for one in found] == ["model", "template", "template"]
    assert found[0].text == "茉莉花茶，家里还有吗？"
    assert found[1].coverage == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "全网第一的茉莉花茶", "茉莉花茶，立减", "茉莉花茶只要9元", "茉莉花茶，13800138000", "茉莉花茶｜文案:好",
        "茉莉花茶送辣酱", "家里还有吗？",
        "还是150毫升的茉莉花茶",
    ],
)  # fmt: skip
def test_a_draft_that_may_not_go_out_is_none(text: str) -> None:
    assert all(one.source == "template" for one in compose(said_by(text), "", FACTS, copy_of(FACTS, "", "zh"), 3))


def test_a_draft_that_the_model_itself_finds_odd_is_none() -> None:
    writer = said_by("茉莉花茶，家里还有吗？", score=FLUENT - 0.1)
    assert compose(writer, "", FACTS, (), 3) == []


def test_an_offer_must_be_carried_and_may_then_be_said() -> None:
    facts = facts_of(TEA, "满100减10")
    texts = ("茉莉花茶，家里还有吗？", "满100减10，茉莉花茶等您。")
    (one,) = compose(said_by(*texts), "", facts, (), 3)
    assert one.text == texts[1]


def test_two_texts_that_are_nearly_one_count_once() -> None:
    twice = said_by("茉莉花茶，家里还有吗？", "茉莉花茶，家里还有吗！", "茉莉花茶到了，回来看看。")
    assert len(compose(twice, "", FACTS, (), 3)) == 2
    assert likeness_of("茶香", "茶香") == 1.0


def test_terms_that_need_evidence_are_told() -> None:
    (one,) = compose(said_by("茉莉花茶，纯天然，家里还有吗？"), "", FACTS, (), 1)
    assert one.evidence[0].startswith("纯天然：广告法")


@pytest.mark.parametrize(
    ("text", "may"),
    [
        ("茉莉花茶", True), ("茉莉花茶1", True), ("茉莉花茶15", True), ("茉莉花茶2", False), ("茉莉花茶【", False),
        ("好的好的好的好的", False), ("茉莉花茶包邮", False), ("茉莉花茶辣酱来了", False),
    ],
)  # fmt: skip
def test_a_token_is_taken_only_where_the_text_stays_grounded(text: str, may: bool) -> None:
    assert grounded(FACTS.given)(text) is may


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize("offer", ["", "满100减10"])
@pytest.mark.parametrize("ago", ["", "2周"])
def test_every_wording_passes_the_guard_and_invents_nothing(lang: str, offer: str, ago: str) -> None:
    facts = facts_of(TEA, offer)
    texts = [*copy_of(facts, ago, lang), *description_of(facts.name, facts.attributes, lang)]
    assert len(texts) >= 4
    for text in texts:
        assert check(text, f"{facts.given} {ago}") == [], text
        assert invented(text, f"{facts.given} {ago}") == [], text


def test_an_item_without_attributes_has_wordings_too() -> None:
    bare = facts_of(Product(item_id="A", name="茶"))
    assert list(copy_of(bare, "", "zh")) == ["茶还在老地方，快用完的话，就来添一份。"]
    assert list(description_of("茶", {}, "zh")) == ["茶。"]
