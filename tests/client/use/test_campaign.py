from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.use.campaign import HEADER, LABEL, CampaignLine, _armed, _disarmed, read_campaign, write_campaign
from common.errors import UserError

LINE = CampaignLine("c01", "SKU7", "茉莉花茶", "短信", "茶香还在，再来一罐？", "上次买于1个月前")
HARD = CampaignLine("=1+1", "+86", '"引号", 逗号', "@短信", "第一行\r\n第二行\n=cmd", "－全角", "AI生成")


def test_lines_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "out" / "campaign.csv"
    assert write_campaign([LINE, HARD], path) == 2
    assert read_campaign(path) == [LINE, HARD]


def test_the_file_is_utf_8_with_a_mark_and_rfc_4180(tmp_path: Path) -> None:
    path = tmp_path / "campaign.csv"
    write_campaign([LINE], path)
    data = path.read_bytes()
    assert data.startswith(
        b"\xef\xbb\xbfcustomer_id,item_id,item_name,channel,text,reason,AI\xe7\x94\x9f\xe6\x88\x90\r\n"
    )
    assert data.count(b"\r\n") == 2


def test_every_line_carries_the_label_in_its_own_column(tmp_path: Path) -> None:
    path = tmp_path / "campaign.csv"
    write_campaign([LINE, LINE], path)
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"))))
    assert [row["AI生成"] for row in rows] == [LABEL, LABEL]
    with pytest.raises(UserError, match="line 1 has no AI生成 label"):
        write_campaign([CampaignLine("c", "i", "n", "短信", "text", "why", " ")], path)
    assert len(read_campaign(path)) == 2


@pytest.mark.parametrize("first", list("=+-@\t\r\n\0＝＋－＠"))
def test_no_cell_begins_like_a_formula(tmp_path: Path, first: str) -> None:
    path = tmp_path / "campaign.csv"
    line = CampaignLine(*(f"{first}HYPERLINK(1)",) * len(HEADER))
    write_campaign([line], path)
    _, row = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""))
    assert all(cell.startswith(f"'{first}") for cell in row)
    assert read_campaign(path) == [line]


@given(st.text(alphabet="'=+-@＝\t\r\n\0茶a ", max_size=8))
def test_making_a_cell_safe_can_be_undone(cell: str) -> None:
    safe = _armed(cell)
    assert _disarmed(safe) == cell
    assert not safe or safe[0] not in "=+-@\t\r\n\0＝＋－＠"


def test_an_empty_campaign_is_a_header(tmp_path: Path) -> None:
    assert write_campaign([], tmp_path / "c.csv") == 0
    assert read_campaign(tmp_path / "c.csv") == []


def test_another_file_is_not_a_campaign(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not a campaign file: its header is a, b"):
        read_campaign(tmp_path / "c.csv")
    (tmp_path / "c.csv").write_bytes(b"")
    with pytest.raises(UserError, match="not a campaign file"):
        read_campaign(tmp_path / "c.csv")
