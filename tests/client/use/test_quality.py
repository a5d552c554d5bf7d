from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from client.use.desk import Desk, open_desk
from client.use.quality import (
    BESIDE,
    NAMES,
    Figure,
    Quality,
    as_dict,
    bleu,
    cells,
    chrf,
    distinct,
    interval,
    lines,
    macro_f1,
    measure,
    ratio_interval,
    rouge_l,
)
from client.use.quality_page import page_of, write_page
from common.errors import UserError
from tests.client.serve.conftest import copy_of_example


@pytest.fixture(scope="module")
def desk(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return open_desk(copy_of_example(tmp_path_factory.mktemp("quality") / "m", tiny_base))


@pytest.fixture(scope="module")
def found(desk: Desk) -> Quality:
    return measure(desk, 3, datetime(2026, 2, 1), 0)


def test_every_kind_of_work_is_measured_with_an_interval_and_something_beside_it(found: Quality) -> None:
    figures = {one.key: one for one in found.figures}
    assert set(figures) == set(NAMES)
    for key, one in figures.items():
        assert one.low <= one.value + 1e-9, key
        assert one.value <= one.high + 1e-9, key
        assert one.count > 0
        assert (one.baseline is not None) == (key in BESIDE), key
    assert figures["ppl_copy"].value > 1


def test_what_goes_out_invents_nothing_and_breaks_no_rule(found: Quality) -> None:
    figures = {one.key: one.value for one in found.figures}
    assert (figures["invented"], figures["banned"], figures["personal"]) == (0, 0, 0)
    assert figures["coverage"] == 1.0, "the plain wording carries every fact"


def test_weeks_without_anything_are_told(desk: Desk) -> None:
    with pytest.raises(UserError, match=r"since 2030-01-01; name an earlier day with --until"):
        measure(desk, 3, datetime(2030, 1, 1), 0)


def test_the_page_holds_every_figure_and_nothing_that_runs(found: Quality, tmp_path: Path) -> None:
    nasty = Quality(
        "<script>x</script>", found.measured, found.since, found.figures, (("=1", "<img src=x onerror=y>"),)
    )
    for lang in ("zh", "en"):
        page = page_of(nasty, lang)
        assert not re.search(r"<script|<img|onerror=y>", page)
        assert "unsafe" not in page
        for one in found.figures:
            assert cells(one, lang)[0] in page.replace("&#39;", "'")
    write_page(found, tmp_path, "en")
    rows = json.loads((tmp_path / "quality.json").read_text("utf-8"))["rows"]
    assert [row["shown"] for row in rows] == [row["shown"] for row in as_dict(found)["rows"]]
    assert len(list(lines(found, "zh"))) == 3


def test_texts_are_scored_as_published() -> None:
    assert bleu(["茉莉花茶到了"], ["茉莉花茶到了"], "zh") == pytest.approx(100)
    assert chrf(["茉莉花茶到了"], ["茉莉花茶到了"], "zh") == pytest.approx(100)
    assert bleu(["一二三四五"], ["六七八九十"], "zh") < 5
    assert rouge_l("the cat sat", "the cat ran", "en") == pytest.approx(2 / 3)
    assert rouge_l("", "茶", "zh") == 0.0
    assert distinct(["茶茶茶茶"], 2) == pytest.approx(1 / 3)
    assert distinct([], 2) == 0.0


def test_macro_f1_is_what_the_confusion_matrix_says() -> None:
    # class 0: tp 1, fp 1, fn 1; class 1: tp 1, fp 0, fn 1; class 2: tp 2, fp 1, fn 0
    assert macro_f1([0, 0, 1, 1, 2, 2], [0, 2, 1, 0, 2, 2]) == pytest.approx((1 / 2 + 2 / 3 + 4 / 5) / 3)


def test_an_interval_covers_the_mean_and_draws_whole_groups() -> None:
    random = np.random.default_rng(0)
    values = random.normal(3, 1, 400).tolist()
    low, high = interval(values)
    assert low < 3.1
    assert high > 2.9
    assert high - low == pytest.approx(4 * 1 / 20, rel=0.2)  # about four standard errors
    wide = interval([0.0] * 50 + [1.0] * 50, ["a"] * 50 + ["b"] * 50)
    assert wide == (0.0, 1.0)
    assert ratio_interval(np.array([1.0, 1.0]), np.array([2.0, 2.0])) == (0.5, 0.5)


def test_a_figure_reads_in_both_languages() -> None:
    one = Figure("coverage", 0.5, 0.25, 0.75, 8, "share", 0.4)
    assert cells(one, "zh") == ("文案：写到了多少商品信息", "50.0%", "25.0% – 75.0%", "店里真实文案 40.0%", "8")
    assert cells(one, "en")[3] == "what was sent 40.0%"
