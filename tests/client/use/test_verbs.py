"""The daily verbs as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from client.cli import merchant
from client.use.campaign import read_campaign
from client.use.label import LABEL
from common.errors import UserError
from tests.client.serve.conftest import copy_of_example


@pytest.fixture(scope="module")
def folder(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_example(tmp_path_factory.mktemp("verbs") / "m", tiny_base)


def typed(folder: Path, *words: str) -> Result:
    """Return what one command line gave; its error, where there is one, is raised."""
    return CliRunner().invoke(merchant, ["--dir", str(folder), *words], catch_exceptions=False)


def test_copy_and_describe_print_texts_with_their_label(folder: Path) -> None:
    found = json.loads(typed(folder, "copy", "c01", "--product", "SKU7", "-n", "2", "--json").stdout)
    assert len(found["texts"]) == 2
    assert found["label"] == LABEL
    assert found["AIGC"]["Label"] == "1"
    plain = typed(folder, "describe", "SKU4", "-n", "1")
    assert plain.stdout == "桂花乌龙，产地福建，香型桂花香，规格120g。\n"
    assert LABEL in plain.stderr


def test_an_offer_is_named_in_every_text(folder: Path) -> None:
    lines = typed(folder, "copy", "c01", "--product", "SKU7", "--offer", "满100减10").stdout.splitlines()
    assert lines
    assert all("满100减10" in line for line in lines)


def test_a_review_a_profile_and_a_reply_are_printed(folder: Path) -> None:
    review = json.loads(typed(folder, "review", "太差了，包装破了", "--json").stdout)
    assert review["sentiment"] == "负面"
    assert "包装" in typed(folder, "review", "包装破了").stdout
    assert any(tag["kind"] == "rfm" for tag in json.loads(typed(folder, "profile", "c01", "--json").stdout))
    assert "R4F4M4" in typed(folder, "profile", "c01").stdout
    assert typed(folder, "reply", "茶包泡几分钟合适").stdout.startswith("开水冲下去等三分钟就好")
    assert json.loads(typed(folder, "reply", "我要投诉", "--json").stdout)["hand_over"] is True


def test_a_campaign_leaves_out_who_opted_out_is_labelled_twice_and_comes_out_the_same_again(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "optout.csv").write_text("c01\n")
    try:
        for name in ("a.csv", "b.csv"):
            typed(folder, "campaign", "-o", str(tmp_path / name), "--due-within", "30", "--limit", "3", "--seed", "4")
    finally:
        (folder / "optout.csv").unlink()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    lines = read_campaign(tmp_path / "a.csv")
    assert len(lines) == 3
    assert "c01" not in {line.customer_id for line in lines}
    assert all(line.text.endswith("拒收请回复R") and line.label == LABEL for line in lines)
    assert json.loads((tmp_path / "a.csv.aigc.json").read_text("utf-8"))["AIGC"]["ContentProducer"] == "qinghe-tea"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("copy", "c99"), "customer 'c99' is not in this shop's files"),
        (("copy", "c01", "--product", "X"), "product 'X' is not in this shop's catalogue of 12 items"),
        (("describe", "X"), "product 'X' is not in"),
        (("profile", "nobody"), "customer 'nobody' is not in"),
    ],
)
def test_what_is_not_there_is_one_line(folder: Path, words: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        typed(folder, *words)


def test_a_key_is_made_and_shown_once(folder: Path) -> None:
    key = typed(folder, "serve", "--new-key", "till").stdout.strip()
    assert key.startswith("fk_")
    assert key not in (folder / "keys" / "api.json").read_text()
