"""The mark that a text was generated, overlap with training text, and who wants no messages."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from client.use.campaign import CampaignLine, beside, opted_out, sent, write_campaign, write_metadata
from client.use.label import metadata
from client.use.overlap import corpus_of
from common.errors import UserError
from common.schema import Dialog


def asked(number: int, customer: str, question: str) -> Dialog:
    return Dialog(
        dialog_id=str(number), customer_id=customer, time=datetime(2026, 1, number), question=question, answer="好"
    )


def test_the_implicit_label_has_the_standards_fields_and_follows_from_the_texts(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    write_campaign([CampaignLine("c", "i", "n", "短信", "好茶", "why")], path)
    write_metadata(path, "qinghe-tea", ["好茶"])
    label = json.loads(beside(path).read_text("utf-8"))["AIGC"]
    assert set(label) == {
        "Label", "ContentProducer", "ProduceID", "ReservedCode1", "ContentPropagator", "PropagateID", "ReservedCode2",
    }  # fmt: skip
    assert label["ProduceID"] == metadata("qinghe-tea", ["好茶"])["AIGC"]["ProduceID"]
    assert label["ProduceID"] != metadata("qinghe-tea", ["别的"])["AIGC"]["ProduceID"]


@pytest.mark.parametrize(
    ("text", "channel", "lang", "mark", "out"),
    [
        ("茶到了。", "短信", "zh", False, "茶到了。拒收请回复R"),
        ("茶到了", "短信", "zh", False, "茶到了。拒收请回复R"),
        ("茶到了。", "微信", "zh", False, "茶到了。"),
        ("茶到了。", "微信", "zh", True, "茶到了。（AI生成）"),
        ("Tea is here.", "SMS", "en", False, "Tea is here. Reply STOP to opt out"),
    ],
)
def test_a_text_message_says_how_to_refuse_more(text: str, channel: str, lang: str, mark: bool, out: str) -> None:
    assert sent(text, channel, lang, mark) == out


def test_who_opted_out_is_listed_or_wrote_so_and_may_come_back(tmp_path: Path) -> None:
    dialogs = [
        asked(1, "a", "退订"), asked(2, "b", "TD"), asked(3, "c", "please unsubscribe me"), asked(4, "b", "可以再发优惠了"),
        asked(5, "d", "退货怎么办"), asked(6, "e", "别再发短信了"),
    ]  # fmt: skip
    (tmp_path / "optout.csv").write_text("f,2026-01-01\n\n g \n", "utf-8")
    assert opted_out(tmp_path, dialogs) == {"a", "c", "e", "f", "g"}
    (tmp_path / "optout.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"optout\.csv cannot be read"):
        opted_out(tmp_path, [])


def test_what_one_customer_wrote_is_overlap_and_what_everybody_writes_is_not() -> None:
    secret = "上回送我妈的那罐茶她说比老家的还香"
    corpus = corpus_of([secret, *["物流很快包装完好下次还会再来买"] * 5])
    assert corpus.overlap(f"{secret}！") > 0.5
    assert corpus.overlap("物流很快包装完好下次还会再来买") == 0
    assert corpus.overlap(secret, given=secret) == 0
    assert corpus.overlap("短") == 0
