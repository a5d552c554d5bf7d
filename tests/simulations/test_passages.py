"""The prose in `simulations/prose`: readable, its slots known, nothing doubled, and no word of the evaluated shops' brands."""

from __future__ import annotations

import string
from pathlib import Path

import pytest

from simulations.passages import FOLDER, RESERVED, categories, descriptions, passages, read_passages

FILES = sorted(FOLDER.glob("*.txt"))
SLOTS = {"name", "noun", "brand", "key", "value", "point", "point2", "scene", "scene2", "offer"}
FORBIDDEN = ("国家级", "根治", "100%", "全网第一", "世界第一", "销量第一")


def test_headings_give_tags_and_lines_their_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        "# kind=copy channel=短信 cat=茶叶\n\n您好{noun}。\n # kind=story\n从前。\n", "utf-8"
    )
    found = [(one.tags, one.text) for one in read_passages(tmp_path / "a.txt")]
    assert found == [
        ({"kind": "copy", "channel": "短信", "cat": "茶叶"}, "您好{noun}。"),
        ({"kind": "story"}, "从前。"),
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_slots_are_known_and_no_line_comes_twice(path: Path) -> None:
    texts = [one.text for one in read_passages(path)]
    assert {slot for text in texts for _, slot, _, _ in string.Formatter().parse(text) if slot is not None} <= SLOTS
    lines = [text for text in texts if text.split(":")[0] not in ("attributes", "nouns", "points")]
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_text_boasts_as_the_advertising_law_forbids(path: Path) -> None:
    assert not [one.text for one in read_passages(path) if any(word in one.text for word in FORBIDDEN)]


def test_every_task_has_prose_for_training_and_some_kept_from_it() -> None:
    for kind in ("copy", "service", "review", "story"):
        found = passages(kind)
        kept = sum(one.reserved for one in found)
        assert len(found) > 50
        assert 0 < kept < 3 * len(found) / RESERVED
    assert {one.tags["stars"] for one in passages("review")} == {"1", "2", "3", "4", "5"}
    assert all(" => " in one.text for lang in ("zh", "en") for one in passages("service", lang))


def test_every_category_can_make_goods_and_has_sentences_about_them() -> None:
    assert len(categories()) > 30
    for one in categories():
        assert min(len(one.nouns), len(one.points), len(one.good), len(one.bad), len(one.scenes)) >= 4
        assert len(one.attributes) >= 2
        assert all(all(values) for values in one.attributes.values())
        assert one.days > 0
        assert len(descriptions(one.name)) > 5
    assert descriptions("没有的品类") == ()
