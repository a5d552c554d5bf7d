"""Ledgers that stay open between rounds: the same guarantees as opening them anew, in fewer files and fewer seconds."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from client.books import FILES_EACH, Books, kept_open, ledger_of, room, stamp_of
from client.config import LEDGER, LEDGER_KEY
from common.errors import Refused, VerificationFailed
from common.privacy.keys import create_key, load_key
from common.privacy.ledger import Ledger, verify
from common.privacy.plan import plan_round
from common.privacy.policy import Policy, seal


class Opener:
    """A merchant's folder whose ledger is opened on request, counted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.opened = folder, 0
        (folder / "keys").mkdir(parents=True)
        key = create_key(folder / LEDGER_KEY)
        policy = Policy(
            merchant="tea-house", epsilon=8.0, period="2026Q4", max_rounds=50, sigma_min=4.0, rate=0.02, steps=10,
            clip_norm=0.5, divisor=16.0, max_records_per_customer=8, max_tokens=64,
        )  # fmt: skip
        Ledger.create(folder / LEDGER, seal(policy, create_key(folder / "officer")), key).close()

    def __call__(self) -> Ledger:
        self.opened += 1
        return Ledger.open(self.folder / LEDGER, load_key(self.folder / LEDGER_KEY))

    def spend(self, number: int) -> Ledger:
        """Let one round be charged and released; return the ledger that did it."""
        with ledger_of(self.folder, self) as ledger:
            reservation = ledger.reserve(plan_round(ledger.policy, "autumn", number, "adapter"))
            reservation.touch()
            ledger.release(reservation, f"update {number}".encode())
        return ledger

    def break_off(self, number: int) -> None:
        """Let one round be charged and fail after rows were read."""
        with ledger_of(self.folder, self) as ledger:
            ledger.reserve(plan_round(ledger.policy, "autumn", number, "adapter")).touch()
            raise ValueError("broke")

    def verdict(self) -> bool:
        key = load_key(self.folder / LEDGER_KEY).public_key()
        return verify(self.folder / LEDGER, key, outbox=self.folder / "outbox").ok


@pytest.fixture
def shop(tmp_path: Path) -> Opener:
    return Opener(tmp_path / "shop")


def closed(ledger: Ledger) -> bool:
    """Whether the ledger has let go of its database."""
    try:
        ledger.counts()
    except ValueError:  # its lock is let go
        return True
    return False


def test_a_ledger_is_opened_once_for_many_rounds_and_closed_at_the_end(shop: Opener) -> None:
    with kept_open():
        first = shop.spend(1)
        assert all(shop.spend(number) is first for number in (2, 3, 4))
        assert shop.opened == 1
        assert not closed(first)
    assert closed(first)
    assert not (shop.folder / "ledger.db-wal").exists()
    assert shop.verdict()
    with shop() as ledger:
        assert len(ledger.charges()) == 4


def test_elsewhere_a_ledger_is_closed_as_soon_as_it_is_done_with(shop: Opener) -> None:
    first = shop.spend(1)
    assert closed(first)
    assert shop.spend(2) is not first
    assert shop.opened == 2


def test_what_another_process_charged_meanwhile_is_counted(shop: Opener) -> None:
    with kept_open():
        mine = shop.spend(1)
        with shop() as other:
            other.release(other.reserve(plan_round(other.policy, "spring", 1, "adapter")), b"theirs")
        assert shop.spend(2) is mine
        assert len(mine.charges()) == 3


def test_a_database_put_back_from_an_old_copy_is_noticed(shop: Opener, tmp_path: Path) -> None:
    shop.spend(1)
    shutil.copy(shop.folder / LEDGER, tmp_path / "old.db")
    with kept_open():
        shop.spend(2)
        (tmp_path / "old.db").replace(shop.folder / LEDGER)
        for beside in ("ledger.db-wal", "ledger.db-shm"):
            (shop.folder / beside).unlink()
        with pytest.raises(VerificationFailed, match="has seen entry"):
            shop.spend(3)


def test_a_database_put_back_beside_its_newer_log_lacks_nothing(shop: Opener, tmp_path: Path) -> None:
    shop.spend(1)
    shutil.copy(shop.folder / LEDGER, tmp_path / "old.db")
    with kept_open():
        shop.spend(2)
        (tmp_path / "old.db").replace(shop.folder / LEDGER)
        assert len(shop.spend(3).charges()) == 3
    assert shop.verdict()


def test_a_tail_cut_off_under_an_open_ledger_is_noticed(shop: Opener) -> None:
    with kept_open():
        ledger = shop.spend(1)
        with closing(sqlite3.connect(shop.folder / LEDGER)) as base, base:
            base.execute("DROP TRIGGER entries_remain")
            base.execute("DELETE FROM entries WHERE seq = (SELECT max(seq) FROM entries)")
        with pytest.raises(VerificationFailed, match="rolled back while in use"):
            shop.spend(2)
        assert closed(ledger)
        with pytest.raises(VerificationFailed, match="has seen entry"):
            shop.spend(2)


def test_another_key_in_the_folder_is_not_overlooked(shop: Opener) -> None:
    with kept_open():
        shop.spend(1)
        for half in (LEDGER_KEY, Path(f"{LEDGER_KEY}.pub")):
            (shop.folder / half).unlink()
        create_key(shop.folder / LEDGER_KEY)
        with pytest.raises(VerificationFailed, match="use the key that belongs to it"):
            shop.spend(2)


def test_a_refusal_keeps_the_ledger_and_a_failure_closes_it(shop: Opener) -> None:
    with kept_open():
        first = shop.spend(1)
        with pytest.raises(Refused), ledger_of(shop.folder, shop):
            raise Refused("no")
        assert shop.spend(2) is first
        with pytest.raises(ValueError, match="broke"):
            shop.break_off(3)
        assert closed(first)
        again = shop.spend(3)
        assert again is not first
        assert len(again.charges()) == 4  # the round that broke is burned, and paid again


def test_more_merchants_than_there_is_room_for_are_opened_and_closed(tmp_path: Path) -> None:
    shops = [Opener(tmp_path / str(number)) for number in range(5)]
    with kept_open(2):
        for number in range(1, 4):
            used = [shop.spend(number) for shop in shops]
            assert [closed(one) for one in used] == [False, False, True, True, True]
    assert [shop.opened for shop in shops] == [1, 1, 3, 3, 3]
    assert all(shop.verdict() for shop in shops)


def test_open_ledgers_take_a_small_part_of_the_files_a_process_may_open() -> None:
    assert 1 <= room() * FILES_EACH <= 1024


def test_a_ledger_that_is_gone_is_not_kept(shop: Opener) -> None:
    books = Books(1)
    with books.lend(shop.folder, shop) as ledger:
        (shop.folder / LEDGER).unlink()
    assert stamp_of(shop.folder) == ()
    assert closed(ledger)


# --- what reaches the disk ---


def anchors_on_disk(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list to which every content of the anchor is added from now on, once it is on the disk."""
    synced: list[bytes] = []
    honest = os.fdatasync

    def watched(handle: int) -> None:
        honest(handle)
        synced.append(os.pread(handle, 512, 0))

    monkeypatch.setattr(os, "fdatasync", watched)
    return synced


def test_a_kept_ledger_waits_for_the_disk_less_often(shop: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = anchors_on_disk(monkeypatch)
    with kept_open():
        shop.spend(1)
        before = len(synced)
        shop.spend(2)
        assert len(synced) - before == 1  # the line of the release; the reservation's waits for it


def test_a_power_cut_that_takes_the_last_line_of_the_anchor_loses_no_charge(
    shop: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = anchors_on_disk(monkeypatch)
    with kept_open():
        shop.spend(1)
        with ledger_of(shop.folder, shop) as ledger:
            ledger.reserve(plan_round(ledger.policy, "autumn", 2, "adapter")).touch()
            assert (shop.folder / "ledger.anchor").read_bytes() != synced[-1]
            shutil.copytree(shop.folder, tmp_path / "after")
    (tmp_path / "after" / "ledger.anchor").write_bytes(synced[-1])
    with Ledger.open(tmp_path / "after" / LEDGER, load_key(shop.folder / LEDGER_KEY)) as again:
        assert len(again.charges()) == 2


def test_an_older_database_is_found_out_by_the_line_that_did_reach_the_disk(
    shop: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.spend(1)
    shutil.copy(shop.folder / LEDGER, tmp_path / "old.db")
    synced = anchors_on_disk(monkeypatch)
    with kept_open():
        shop.spend(2)
        with ledger_of(shop.folder, shop) as ledger:
            ledger.reserve(plan_round(ledger.policy, "autumn", 3, "adapter")).touch()
    (tmp_path / "cut").mkdir()
    shutil.copy(tmp_path / "old.db", tmp_path / "cut" / LEDGER)
    (tmp_path / "cut" / "ledger.anchor").write_bytes(synced[-1])
    key = load_key(shop.folder / LEDGER_KEY)
    span = Ledger.lost_span(tmp_path / "cut" / LEDGER, key)
    assert span is not None
    assert span.charges >= 2  # rounds 2 and 3, the latter never seen by the anchor that survived
