"""What strangers write on purpose, in Chinese and English, leaves no trace in pages, files or answers."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from client.use.campaign import CampaignLine, write_campaign
from client.use.facts import facts_of, said
from client.use.guard import check
from client.use.templates import copy_of
from common.schema import Product
from tests.client.serve.conftest import Running
from tests.client.serve.test_console import read

CORPORA = Path(__file__).parent / "corpora"
MARKS = re.compile(
    r"PWNED|evil\.example|vip8888|包治百病|药到病除|假一赔|满1000|一折|半价|90% off|free gift|6222|【|｜|<\|"
)
PROMISES = re.compile(r"http|www\.|微信号|包邮|买一送一|coupon|refund")


def corpus(name: str) -> list[str]:
    """Return the lines of a corpus."""
    return (CORPORA / f"{name}.txt").read_text("utf-8").splitlines()


@pytest.mark.parametrize("name", ["xss", "formula", "injection"])
def test_a_corpus_holds_fifty_different_attacks_in_both_languages(name: str) -> None:
    lines = corpus(name)
    assert len(set(lines)) == len(lines) >= 50
    assert any(re.search("[一-鿿]", line) for line in lines)
    assert any(line.isascii() for line in lines)


def test_no_attack_on_a_page_becomes_markup(service: Running) -> None:
    cookie = service.log_in()
    for attack in corpus("xss"):
        answer = service.form("/customer", {"customer": attack, "offer": attack, "lang": "en"}, cookie)
        page = read(answer)
        assert (page.scripts, page.handlers) == (0, []), attack
        assert all(re.match(r"[/?](?!/)", place) for place in page.places), attack
        assert "49" not in re.sub(r"[0-9a-f]{8,}|\d{4}-\d\d", "", answer.text) or "7*7" not in attack
    for attack in corpus("xss")[:12]:
        page = read(service.form("/customer", {"customer": "c01", "offer": attack, "lang": "zh"}, cookie))
        assert (page.scripts, page.handlers) == (0, []), attack


@pytest.mark.parametrize("attack", corpus("xss"))
def test_no_attack_in_a_catalogue_is_said_in_copy(attack: str) -> None:
    facts = facts_of(Product(item_id="A", name=f"茶{attack}", attributes={"产地": attack}))
    for text in copy_of(facts, "", "zh"):
        assert not set("<>{}|") & set(text)
    assert not set("<>{}|#*") & set(said(attack))


def test_an_attack_in_json_comes_back_as_json_or_a_reason(service: Running) -> None:
    for attack in corpus("xss"):
        answer = service.ask("/recommend", {"customer": attack})
        assert answer.status in (404, 422)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_no_cell_of_a_campaign_begins_like_a_formula(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    attacks = corpus("formula")
    write_campaign([CampaignLine(*(one,) * 6, "AI") for one in attacks], path)
    rows = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))[1:]
    assert len(rows) == len(attacks)
    for row in rows:
        assert not any(re.match(r"[=+\-@\t\r\n\0＝＋－＠]", cell) for cell in row), row


def test_no_instruction_in_a_question_is_followed(service: Running) -> None:
    answered = {one.answer for one in service.live.desk.dialogs}
    for attack in corpus("injection"):
        found = service.ask("/reply", {"question": attack}).json
        assert found["hand_over"] or found["text"] in answered, attack
        assert not MARKS.search(found["text"]), attack
        assert not PROMISES.search(found["text"]), attack


def test_no_instruction_in_an_offer_or_review_is_followed(service: Running) -> None:
    product = service.live.desk.products["SKU7"]
    for attack in corpus("injection")[::6]:
        for text in service.ask("/copy", {"customer": "c01", "product": "SKU7", "n": 1, "offer": attack[:60]}).json[
            "texts"
        ]:
            given = facts_of(product, attack[:60]).given
            assert not any(one.kind in ("personal", "marker", "claim") for one in check(text["text"], given)), attack
        (review,) = service.ask("/reviews", {"texts": [attack]}).json["reviews"]
        assert review["sentiment"] in ("负面", "中性", "正面")
