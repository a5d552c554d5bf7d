from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from common.config import LoraSettings
from common.errors import UserError, VerificationFailed
from common.lora import A_END, B_END, WEIGHTS, digest, to_bytes
from server.optimizers import State
from server.rounds import SavedRound, latest_round, load_round, read_record, roll_back, round_folder, save_round

LORA = LoraSettings(rank=2)
STATE: State = {"t": torch.tensor(3.0), "m.x": torch.tensor([0.1, -0.2])}


def names(folder: Path) -> list[str]:
    """Return what lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def a_round(number: int, state: State = STATE) -> SavedRound:
    value = torch.arange(6, dtype=torch.float32).reshape(2, 3) / 7 + number
    return SavedRound(number, {f"h.0{A_END}": value, f"h.0{B_END}": value.T.contiguous()}, state)


def save(run: Path, number: int, state: State = STATE) -> Path:
    save_round(run, a_round(number, state), {"round": number, "merchants": ["青禾茶铺"]}, LORA, "default")
    return round_folder(run, number)


def test_a_round_comes_back_bit_for_bit(tmp_path: Path) -> None:
    folder = save(tmp_path, 3)
    loaded = load_round(tmp_path, 3)
    assert loaded.number == 3
    assert to_bytes(loaded.adapter) == to_bytes(a_round(3).adapter)
    assert to_bytes(loaded.state) == to_bytes(STATE)
    assert read_record(tmp_path, 3) == {"round": 3, "merchants": ["青禾茶铺"]}
    assert folder == tmp_path / "rounds" / "0003"
    assert names(folder) == ["adapter", "optimizer.safetensors", "round.json"]


def test_a_round_without_optimizer_state_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 0, {})
    assert load_round(tmp_path, 0).state == {}


def test_the_latest_round_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    assert latest_round(tmp_path) is None
    for number in (2, 10, 9, 10_000):
        save(tmp_path, number)
    latest = latest_round(tmp_path)
    assert latest is not None
    assert latest.number == 10_000


def test_a_draft_that_a_crash_left_behind_is_passed_over_and_then_replaced(tmp_path: Path) -> None:
    save(tmp_path, 1)
    draft = tmp_path / "rounds" / ".0002.draft"
    (draft / "adapter").mkdir(parents=True)
    (draft / "round.json").write_text("{")
    latest = latest_round(tmp_path)
    assert latest is not None
    assert latest.number == 1
    save(tmp_path, 2)
    assert names(tmp_path / "rounds") == ["0001", "0002"]
    assert read_record(tmp_path, 2)["round"] == 2


def test_a_round_whose_record_cannot_be_written_is_not_there(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(TypeError):
        save_round(tmp_path, a_round(2), {"odd": object()}, LORA, "default")
    latest = latest_round(tmp_path)
    assert latest is not None
    assert latest.number == 1


def test_a_round_can_be_saved_again(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save_round(tmp_path, a_round(1), {"round": 1, "again": True}, LORA, "default")
    assert read_record(tmp_path, 1)["again"] is True
    assert names(tmp_path / "rounds") == ["0001"]


@pytest.mark.parametrize("part", [f"adapter/{WEIGHTS}", "optimizer.safetensors"])
@pytest.mark.parametrize("left", [0, 20])
def test_a_damaged_round_is_one_line(tmp_path: Path, part: str, left: int) -> None:
    path = save(tmp_path, 1) / part
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match="cannot be read") as caught:
        latest_round(tmp_path)
    assert "0001" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("what", "key"), [("adapter", "adapter_digest"), ("server's state", "state_digest")])
def test_tensors_that_are_not_those_of_the_record_are_refused(tmp_path: Path, what: str, key: str) -> None:
    saved = a_round(1)
    digests = {"adapter_digest": digest(saved.adapter), "state_digest": digest(saved.state)}
    save_round(tmp_path, saved, digests, LORA, "default")
    assert load_round(tmp_path, 1).number == 1
    save_round(tmp_path, saved, {**digests, key: "0" * 64}, LORA, "default")
    with pytest.raises(VerificationFailed, match=f"the {what} in .*0001 is not the one"):
        load_round(tmp_path, 1)


def test_a_missing_or_damaged_record_is_one_line(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    (folder / "round.json").write_text('{"round": ')
    for number in (1, 7):
        with pytest.raises(UserError, match=f"000{number}/round.json cannot be read"):
            read_record(tmp_path, number)
    with pytest.raises(UserError, match=r"0007.*cannot be read"):
        load_round(tmp_path, 7)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "rounds").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot write .*rounds/0001"):
        save(tmp_path, 1)


def test_a_record_is_plain_utf_8_that_people_can_read(tmp_path: Path) -> None:
    text = (save(tmp_path, 1) / "round.json").read_text("utf-8")
    assert "青禾茶铺" in text
    assert json.loads(text)["round"] == 1


# --- going back ---


def test_going_back_adds_a_round_that_is_the_earlier_one_and_touches_no_other(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path, number, {"t": torch.tensor(float(number))})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = roll_back(tmp_path, 1, LORA, "default")
    assert (again.number, to_bytes(again.adapter)) == (4, to_bytes(a_round(1).adapter))
    assert float(again.state["t"]) == 1.0
    assert {path: path.read_bytes() for path in before} == before
    latest = latest_round(tmp_path)
    assert latest is not None
    assert (latest.number, to_bytes(latest.adapter)) == (4, to_bytes(a_round(1).adapter))
    record = read_record(tmp_path, 4)
    assert (record["back_to"], record["set_aside"], record["merchants"]) == (1, [2, 3], [])


def test_going_back_twice_to_one_round_is_going_back_once_until_a_round_has_followed(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path, number)
    assert [roll_back(tmp_path, 1, LORA, "default").number for _ in range(2)] == [4, 4]
    save(tmp_path, 5)
    assert roll_back(tmp_path, 1, LORA, "default").number == 6
    assert read_record(tmp_path, 6)["set_aside"] == [2, 3, 4, 5]


@pytest.mark.parametrize("number", [-1, 3, 4])
def test_a_round_that_is_not_there_before_the_last_is_not_gone_back_to(tmp_path: Path, number: int) -> None:
    for one in range(4):
        save(tmp_path, one)
    with pytest.raises(
        UserError, match=f"round {number} cannot be gone back to: .* has rounds 0 to 3; name one before"
    ):
        roll_back(tmp_path, number, LORA, "default")
    assert names(tmp_path / "rounds") == ["0000", "0001", "0002", "0003"]


def test_a_run_without_a_round_has_none_to_go_back_to(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no round yet"):
        roll_back(tmp_path, 0, LORA, "default")


def test_a_damaged_round_is_not_gone_back_to(tmp_path: Path) -> None:
    for one in range(3):
        save(tmp_path, one)
    weights = round_folder(tmp_path, 1) / "adapter" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:40])
    with pytest.raises(UserError, match="cannot be read"):
        roll_back(tmp_path, 1, LORA, "default")
    assert names(tmp_path / "rounds") == ["0000", "0001", "0002"]
