"""Each way to mislead is refused, case by case; what is honest passes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from client.report.lint import Figure, Misleading, Shown, blocks, check_figure, check_page
from client.report.words import CLAIMS, WORDS

LOSS = Shown("3.22", 3.22, 1e-6, "customer", "add-or-remove-one", "2026Q3")
HONEST = Figure("loss", (replace(LOSS, role="headline"), replace(LOSS, role="lifetime", period="since 2026Q3")))


def test_an_honest_figure_passes() -> None:
    assert check_figure(HONEST) is HONEST
    both = replace(HONEST, tone="good", grounds=("ledger verified", "assumptions known"))
    assert check_figure(both) is both
    assert check_figure(Figure("open", (replace(LOSS, text="∞", exact=None),)))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"delta": None}, "stands without delta"),
        ({"unit": "", "heading": ""}, "stands without unit"),
        ({"adjacency": ""}, "stands without adjacency"),
        ({"period": ""}, "stands without period"),
        ({"of": "one round"}, "is of one round"),
        ({"combined": "sum", "merchants": 3}, "sum over 3 merchants"),
        ({"combined": "mean", "merchants": 3}, "mean over 3 merchants"),
        ({"combined": "parallel", "merchants": 3}, "composed in parallel"),
        ({"text": "3.21"}, "3.21 is less than the 3.22 accounted"),
        ({"text": "∞"}, "∞ is shown for 3.22"),
        ({"text": "3.22", "exact": None}, "3.22 is shown for None"),
        ({"unit": "record"}, "for one record under a heading that says customer"),
        ({"sampling": "shuffled"}, "the loader is shuffled and it is accounted as poisson"),
        ({"credits": ("client sampling",)}, "the coordinator is whom it protects from"),
        ({"credits": ("secure aggregation",)}, "takes credit for secure aggregation"),
        ({"credits": ("transport encryption",)}, "takes credit for transport encryption"),
        ({"credits": ("removal of personal data",)}, "takes credit for removal of personal data"),
        ({"credits": ("hidden steps",)}, "takes credit for hidden steps"),
        ({"role": "lower bound", "labelled": "actual"}, "lower bound is labelled actual"),
        ({"labelled": "actual"}, "called the actual loss"),
        ({"delta_from": "customers"}, "delta follows from the number of customers"),
        ({"leaves_out": ("burned rounds",)}, "leaves out burned rounds"),
        ({"leaves_out": ("tuning runs", "metrics")}, "leaves out tuning runs, metrics"),
    ],
)
def test_a_loss_that_misleads_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(Misleading, match=word):
        check_figure(Figure("loss", (replace(LOSS, **change),)))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"losses": HONEST.losses[:1]}, "without the lifetime's beside it"),
        ({"tone": "good"}, "all clear by epsilon alone"),
        ({"tone": "good", "grounds": ("ledger verified",)}, "all clear by"),
        ({"risk": "mean case"}, "outliers run more"),
        ({"audience": "shareable", "exact_counts": ("customers",)}, "exact counts"),
    ],
)
def test_a_figure_that_misleads_as_a_whole_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(Misleading, match=word):
        check_figure(replace(HONEST, **change))


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ("ε = 3.22", "terms"),
        ("ε ≤ 3.22 (δ = 10⁻⁶)", "terms"),
        ("本周期 ε ≤ 3.22，单位：一位顾客", "terms"),
        ("62 % of the privacy budget left", "percentage-left"),
        ("privacy left: 62 %", "percentage-left"),
        ("隐私预算剩余 62 %", "percentage-left"),
        ("还有 62% 的隐私", "percentage-left"),
        ("a loss of ε per round", "per-round"),
        ("每轮 ε ≤ 0.4", "per-round"),
        ("the average ε of all merchants", "combination"),
        ("各商家 ε 之和", "combination"),
        ("总ε为 9", "combination"),
        ("the actual ε is 1.14", "lower-bound"),
        ("no leak was found", "lower-bound"),
        ("审计未发现泄露", "lower-bound"),
        ("真实隐私损失为 1.14", "lower-bound"),
        ("by parallel composition over merchants", "parallel"),
        ("由于并行组合", "parallel"),
        ("secure aggregation lowers ε", "credits"),
        ("脱敏降低了 ε", "credits"),
        ("amplified by client sampling", "client-sampling"),
        ("商家抽样放大", "client-sampling"),
        ("the average risk", "mean-risk"),
        ("平均风险很低", "mean-risk"),
        ("the data is anonymous", "promise"),
        ("GDPR-compliant", "promise"),
        ("完全匿名", "promise"),
        ("零风险", "promise"),
        ("no data leaves the shop", "promise"),
    ],
)
def test_words_that_mislead_are_refused_in_both_languages(words: str, rule: str) -> None:
    with pytest.raises(Misleading, match=f"rule {rule}"):
        check_page(f"<main><p>{words}</p></main>", "confidential")


@pytest.mark.parametrize("words", ["1,204 customers", "本店 1204 位顾客", "loss: 2.31", "隐去 37 处个人信息"])
def test_exact_counts_are_for_the_merchant_only(words: str) -> None:
    page = f"<p>{words}</p>"
    assert check_page(page, "confidential") == page
    with pytest.raises(Misleading, match="rule counts"):
        check_page(page, "shareable")


def test_an_epsilon_with_its_terms_passes_also_when_parts_are_inline() -> None:
    page = "<div><b>ε ≤ 3.22</b> <span>δ = 10⁻⁶, unit: one customer, period: 2026Q3</span></div>"
    assert check_page(page, "shareable") == page
    with pytest.raises(Misleading, match="rule terms"):
        check_page(page.replace("<span>", "<p>"), "shareable")


def test_what_strangers_wrote_is_not_ours_to_be_held_to() -> None:
    assert [*blocks('<p>a</p><p class="quoted">ε = 1 <b>no leak</b></p><style>p{}</style><p>b</p>')] == ["a", "b"]


@pytest.mark.parametrize("key", [*CLAIMS, *WORDS])
def test_no_phrase_of_ours_misleads(key: str) -> None:
    for text in {**CLAIMS, **WORDS}[key]:
        check_page(f"<p>{text}</p>", "confidential")
