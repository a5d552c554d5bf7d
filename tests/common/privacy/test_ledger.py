from __future__ import annotations

import math
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import BudgetSpent, Refused, UserError, VerificationFailed
from common.privacy import accountant, chain, ledger
from common.privacy.keys import create_key, load_key, public_hex
from common.privacy.ledger import Instant, Ledger, Reservation, verify
from common.privacy.plan import Charge, RoundPlan, plan_round
from common.privacy.policy import Policy, SignedPolicy, seal

OFFICER = Ed25519PrivateKey.generate()
ROOT = Path(__file__).parents[3]
WORKER = Path(__file__).with_name("ledger_worker.py")


def signed(officer: Ed25519PrivateKey = OFFICER, **changes: Any) -> SignedPolicy:
    values: dict[str, Any] = {
        "merchant": "tea-house",
        "epsilon": 8.0,
        "period": "2026Q4",
        "max_rounds": 50,
        "sigma_min": 4.0,
        "rate": 0.02,
        "steps": 10,
        "clip_norm": 0.5,
        "divisor": 16.0,
        "max_records_per_customer": 8,
        "max_tokens": 64,
    }
    return seal(Policy.model_validate(values | changes), officer)


@dataclass
class Shop:
    """One merchant's folder with a ledger in it."""

    folder: Path
    key: Ed25519PrivateKey

    def open(self, **options: Any) -> Ledger:
        return Ledger.open(self.folder, self.key, **options)

    def plan(self, number: int, run: str = "autumn", adapter: str = "adapter") -> RoundPlan:
        with self.open() as book:
            return plan_round(book.policy, run, number, adapter)

    def verify(self, **options: Any) -> chain.Verdict:
        return verify(self.folder / "ledger.db", self.key.public_key(), **options)


def found(folder: Path, **changes: Any) -> Shop:
    folder.mkdir(parents=True, exist_ok=True)
    key = create_key(folder / "key")
    Ledger.create(folder, signed(**changes), key).close()
    return Shop(folder, key)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return found(tmp_path / "shop")


def spend(book: Ledger, numbers: Sequence[int], run: str = "autumn") -> None:
    for number in numbers:
        reservation = book.reserve(plan_round(book.policy, run, number, "adapter"))
        reservation.touch()
        book.release(reservation, f"{run} {number}".encode())


def work(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(WORKER), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


# --- one round ---


def test_a_released_round_is_spent_and_its_bytes_are_kept(shop: Shop) -> None:
    with shop.open() as book:
        reservation = book.reserve(shop.plan(1))
        assert (book.charges(), book.reserved()) == ((), (reservation.charge,))
        receipt = book.release(reservation, b"update")
        assert (book.charges(), book.reserved()) == ((Charge(4.0, 0.02, 10, 0.5),), ())
        assert receipt.path.read_bytes() == b"update"
        assert (receipt.seq, receipt.hash) == book.head()
        assert book.epsilon_spent() == accountant.epsilon([reservation.charge], 1e-6)
        assert book.rounds_left() == 49
    assert shop.verify(outbox=shop.folder / "outbox").ok


def test_everything_private_is_readable_by_its_owner_only(shop: Shop) -> None:
    with shop.open() as book:
        spend(book, [1])
        files = [path for path in shop.folder.rglob("*") if path.is_file() and path.name != "key.pub"]
        assert {path.suffix for path in files} >= {".db", ".bin", ".anchor", ".lock"}
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_the_same_round_again_gives_the_same_bytes_and_costs_nothing(shop: Shop) -> None:
    with shop.open() as book:
        spend(book, [1])
        again = book.reserve(shop.plan(1))
        assert again.stored_bytes() == b"autumn 1"
        assert len(book.charges()) == 1
        assert book.rounds_left() == 49
        with pytest.raises(Refused, match="not held"):
            book.release(again, b"fresh noise")
    with shop.open() as later:
        assert later.reserve(shop.plan(1)).stored_bytes() == b"autumn 1"


def test_a_new_reservation_has_no_stored_bytes(shop: Shop) -> None:
    with shop.open() as book, book.reserve(shop.plan(1)) as reservation:
        assert reservation.stored_bytes() is None


def test_the_same_round_from_another_adapter_is_a_new_charge(shop: Shop) -> None:
    with shop.open() as book:
        spend(book, [1])
        other = book.reserve(shop.plan(1, adapter="another"))
        assert other.stored is None
        book.release(other, b"other")
        assert len(book.charges()) == 2


def test_a_stored_update_that_is_gone_or_changed_is_not_trained_again(shop: Shop) -> None:
    with shop.open() as book:
        spend(book, [1])
        stored = book.reserve(shop.plan(1)).stored
        assert stored is not None
        stored.path.write_bytes(b"something else")
        with pytest.raises(VerificationFailed, match="changed"):
            stored.read()
        assert not shop.verify(outbox=book.outbox).ok
        stored.path.unlink()
        with pytest.raises(VerificationFailed, match="gone"):
            stored.read()
        assert shop.verify(outbox=book.outbox).anomalies == ("1 released updates are not in the outbox",)


def test_old_updates_can_be_deleted_and_their_rounds_are_then_not_sent_again(shop: Shop) -> None:
    with shop.open() as book:
        spend(book, range(5))
        assert (book.prune(2), book.prune(2)) == (3, 0)
        assert book.reserve(shop.plan(4)).stored_bytes() == b"autumn 4"
        with pytest.raises(VerificationFailed, match="gone"):
            book.reserve(shop.plan(0)).stored_bytes()
        assert len(book.charges()) == 5
    assert shop.verify(outbox=shop.folder / "outbox").anomalies == ("3 released updates are not in the outbox",)


def test_a_burned_round_stays_spent_and_is_charged_again_when_retried(shop: Shop) -> None:
    with shop.open() as book:
        reservation = book.reserve(shop.plan(1))
        reservation.touch()
        book.burn(reservation, "out of memory")
        assert len(book.charges()) == 1
        again = book.reserve(shop.plan(1))
        assert again.stored is None
        book.release(again, b"update")
        assert len(book.charges()) == 2
    assert shop.verify().ok


def test_a_refund_needs_that_no_private_row_was_read(shop: Shop) -> None:
    with shop.open() as book:
        book.refund(book.reserve(shop.plan(1)))
        assert (book.charges(), book.reserved(), book.rounds_left()) == ((), (), 50)
        second = book.reserve(shop.plan(1))
        second.touch()
        with pytest.raises(Refused, match="no refund"):
            book.refund(second)
        assert book.reserved() == (second.charge,)
    assert shop.verify().ok


def train_on_nothing(reservation: Reservation) -> None:
    reservation.touch()
    raise ZeroDivisionError


def test_leaving_the_block_without_an_update_burns(shop: Shop) -> None:
    with shop.open() as book:
        with pytest.raises(ZeroDivisionError), book.reserve(shop.plan(1)) as reservation:
            train_on_nothing(reservation)
        with book.reserve(shop.plan(2)):
            pass
        with book.reserve(shop.plan(3)) as third:
            book.release(third, b"update")
        assert book.counts()["BURN"] == 2
        assert len(book.charges()) == 3


def test_a_reservation_ends_once(shop: Shop) -> None:
    with shop.open() as book:
        reservation = book.reserve(shop.plan(1))
        book.release(reservation, b"update")
        for end in (
            lambda: book.release(reservation, b"other"),
            lambda: book.burn(reservation, "late"),
            lambda: book.refund(reservation),
        ):
            with pytest.raises(Refused):
                end()
        forged = Reservation(book, reservation.plan, reservation.seq)
        with pytest.raises(Refused):
            book.release(forged, b"other")
        assert len(book.charges()) == 1


def test_a_round_that_is_being_trained_is_not_started_twice(shop: Shop) -> None:
    with shop.open() as book, shop.open() as other:
        with book.reserve(shop.plan(1)) as reservation:
            for asker in (book, other):
                with pytest.raises(Refused, match="at this moment"):
                    asker.reserve(shop.plan(1))
            book.release(reservation, b"update")
        assert other.reserve(shop.plan(1)).stored_bytes() == b"update"


# --- the budget ---


def test_rounds_end_where_the_policy_says(tmp_path: Path) -> None:
    shop = found(tmp_path / "shop", max_rounds=3)
    with shop.open() as book:
        spend(book, [1])
        book.burn(book.reserve(shop.plan(2)), "failed")
        held = book.reserve(shop.plan(3))
        with pytest.raises(BudgetSpent, match=r"all 3 rounds are used: 2 spent and 1 reserved.*delta 1e-06"):
            book.reserve(shop.plan(4))
        book.refund(held)
        spend(book, [4])
        with pytest.raises(BudgetSpent):
            book.reserve(shop.plan(5))
        assert book.rounds_left() == 0
        assert book.counts()["REFUSE"] == 2


@pytest.mark.parametrize("mode", ["schedule", "adaptive"])
def test_epsilon_ends_where_the_policy_says(tmp_path: Path, mode: str) -> None:
    shop = found(tmp_path / "shop", epsilon=4.0, sigma_min=1.2, steps=50, mode=mode)
    with shop.open() as book:
        with pytest.raises(BudgetSpent, match=r"cap of epsilon 4.*one customer of tea-house"):
            spend(book, range(50))
        number = len(book.charges())
        policy = book.policy.policy
        charge = Charge(1.2, 0.02, 50, 0.5)
        known = accountant.epsilon if mode == "schedule" else accountant.filter_epsilon
        assert 0 < number < 50
        assert known([charge] * number, 1e-6) <= policy.epsilon < known([charge] * (number + 1), 1e-6)
        assert book.epsilon_spent() == pytest.approx(known([charge] * number, 1e-6))
        assert book.rounds_left() == 0
    assert shop.verify().ok


def test_without_noise_rounds_are_counted_and_epsilon_is_infinite(tmp_path: Path) -> None:
    shop = found(tmp_path / "shop", epsilon=math.inf, sigma_min=0, max_rounds=2)
    with shop.open() as book:
        spend(book, [1, 2])
        assert book.epsilon_spent() == math.inf
        with pytest.raises(BudgetSpent):
            spend(book, [3])
    assert shop.verify().ok


def test_a_plan_that_is_not_the_policys_is_refused_and_the_refusal_signed(shop: Shop) -> None:
    good = shop.plan(1)
    with shop.open() as book:
        for bad in (
            replace(good, sigma=0.1),
            replace(good, rate=0.5),
            replace(good, steps=1),
            replace(good, clip_norm=9.0),
            replace(good, divisor=1.0),
            replace(good, delta=1e-9),
            replace(good, max_records=99),
            replace(good, policy_digest="0" * 64),
            replace(good, merchant="coffee"),
        ):
            with pytest.raises(Refused, match="plan"):
                book.reserve(bad)
        assert (book.charges(), book.reserved()) == ((), ())
        refusals = [entry for entry in book.entries() if entry.type == "REFUSE"]
        assert len(refusals) == 9
        assert refusals[0].body["detail"]["asked"]["sigma"] == "0.1"
    assert shop.verify().ok


def test_insisting_does_not_fill_the_ledger(tmp_path: Path) -> None:
    shop = found(tmp_path / "shop", max_rounds=1)
    with shop.open() as book:
        spend(book, [1])
        for _ in range(20):
            with pytest.raises(BudgetSpent):
                book.reserve(shop.plan(2))
        assert book.counts()["REFUSE"] == 1


def test_refusals_and_notes_are_entries(shop: Shop) -> None:
    with shop.open() as book:
        entry = book.refuse("rank = 512 is not the policy's", {"rank": 512, "rate": 0.5, "x": [1, {"y": None}]})
        assert entry.body["detail"]["asked"] == {"rank": "512", "rate": "0.5", "x": ["1", {"y": None}]}
        assert book.note("AUDIT", {"epsilon_lower_bound": 1.14}).body["detail"] == {"epsilon_lower_bound": "1.14"}
        book.note("REPORT", {"sha256": "a" * 64})
        again = book.refuse("rank = 512 is not the policy's", {"rank": 512, "rate": 0.5, "x": [1, {"y": None}]})
        assert again.hash == entry.hash
        assert book.refuse("rank = 512 is not the policy's", {"rank": 513}).hash != entry.hash
        with pytest.raises(UserError, match="AUDIT or a REPORT"):
            book.note("RELEASE", {})
    assert shop.verify().ok


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["reserve", "release", "burn", "refund", "reopen"]), st.integers(0, 5)), max_size=40
    )
)
def test_under_any_interleaving_no_more_is_granted_than_allowed(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, int]]
) -> None:
    shop = found(tmp_path_factory.mktemp("any") / "shop", max_rounds=4)
    book, held, reads, number = shop.open(), list[Reservation](), 0, 0
    for move, which in moves:
        if move == "reopen":
            book.close()
            book, held = shop.open(), []
        elif move == "reserve":
            number += 1
            try:
                held.append(book.reserve(plan_round(book.policy, "r", number, "a")))
            except BudgetSpent:
                assert len(book.charges()) + len(book.reserved()) == 4
        elif held:
            reservation = held.pop(which % len(held))
            if move == "refund":
                book.refund(reservation)
                continue
            reservation.touch()
            reads += 1
            if move == "release":
                book.release(reservation, b"update")
            else:
                book.burn(reservation, "failed")
        assert reads <= len(book.charges()) <= 4
    book.close()
    assert shop.verify().ok


# --- several processes ---


def race(shop: Shop, verb: str) -> int:
    workers = [work(verb, shop.folder, f"merchant{i}", 20) for i in range(4)]
    granted = sum(int(worker.communicate(timeout=120)[0]) for worker in workers)
    assert all(worker.returncode == 0 for worker in workers)
    return granted


def test_four_processes_that_race_for_fifty_charges_get_fifty(shop: Shop) -> None:
    assert race(shop, "charge") == 50
    verdict = shop.verify(outbox=shop.folder / "outbox")
    assert verdict.ok, verdict.reason
    with shop.open() as book:
        assert len(book.charges()) == 50
        assert book.counts()["REFUSE"] == 30


def test_a_ledger_that_forgets_to_count_is_found_out(shop: Shop) -> None:
    assert race(shop, "forget") == 80
    verdict = shop.verify()
    assert not verdict.ok
    assert verdict.reason == "round 51 of the period; the policy allows 50"


def test_threads_share_one_ledger(shop: Shop) -> None:
    granted: list[int] = []

    def take(book: Ledger, name: str) -> None:
        for number in range(20):
            try:
                reservation = book.reserve(plan_round(book.policy, name, number, "a"))
            except BudgetSpent:
                continue
            book.release(reservation, b"update")
            granted.append(number)

    with shop.open() as book:
        threads = [threading.Thread(target=take, args=(book, f"t{i}")) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(granted) == len(book.charges()) == 50
    assert shop.verify().ok


def test_a_living_process_keeps_its_reservation_and_a_killed_one_loses_it(shop: Shop) -> None:
    holder = work("hold", shop.folder, "autumn")
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with shop.open() as book:
            assert book.recover() == ()
            assert len(book.reserved()) == 1
            with pytest.raises(Refused, match="at this moment"):
                book.reserve(shop.plan(0))
            holder.send_signal(signal.SIGKILL)
            holder.wait(timeout=30)
            assert len(book.recover()) == 1
            assert (len(book.charges()), book.reserved()) == (1, ())
            assert book.reserve(shop.plan(0)).stored is None
    finally:
        holder.kill()
        holder.communicate(timeout=30)


# --- power cuts ---

POINTS = [
    "reserve:held",
    "reserve:written",
    "reserve:committed",
    "reserve:anchored",
    "release:stored",
    "release:written",
    "release:committed",
    "release:anchored",
    "burn:written",
    "burn:committed",
    "burn:anchored",
    "refund:written",
    "refund:committed",
    "refund:anchored",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_write_never_loses_a_charge(shop: Shop, point: str) -> None:
    worker = work("die", shop.folder, "autumn", point)
    worker.communicate(timeout=60)
    assert worker.returncode == -signal.SIGKILL
    rows_were_read = (shop.folder / "rows-were-read").exists()
    with shop.open() as book:
        assert len(book.charges()) >= rows_were_read
        assert book.reserved() == ()
        spent = len(book.charges())
        again = book.reserve(shop.plan(0))
        if again.stored is None:
            book.release(again, b"second noise")
            assert len(book.charges()) == spent + 1
        else:
            assert point in ("release:committed", "release:anchored")
            assert again.stored_bytes() == b"update"
        assert not list((shop.folder / "ledger.live").iterdir())
    verdict = shop.verify(outbox=shop.folder / "outbox")
    assert verdict.ok, verdict.reason


def test_what_lies_on_disk_at_every_write_can_be_opened_and_counts_enough(shop: Shop, tmp_path: Path) -> None:
    copies: list[tuple[str, int, Path]] = []
    reads = 0

    def copy(point: str) -> None:
        place = tmp_path / f"copy{len(copies)}"
        shutil.copytree(shop.folder, place)
        copies.append((point, reads, place))

    with shop.open(on_write=copy) as book:
        for number in range(3):
            reservation = book.reserve(shop.plan(number))
            reservation.touch()
            reads += 1
            if number == 1:
                book.burn(reservation, "failed")
            else:
                book.release(reservation, b"update")
    assert {point for point, _, _ in copies} == {point for point in POINTS if not point.startswith("refund")}
    for point, read_by_then, place in copies:
        with Ledger.open(place, shop.key) as copied:
            assert len(copied.charges()) >= read_by_then, point
        assert verify(place / "ledger.db", shop.key.public_key()).ok, point


def test_reading_rows_before_the_charge_is_on_disk_would_lose_it(shop: Shop) -> None:
    """The planted fault: the check of the tests above sees it."""
    work("hasty", shop.folder, "autumn", "reserve:written").communicate(timeout=60)
    with shop.open() as book:
        assert not len(book.charges()) >= (shop.folder / "rows-were-read").exists()


def test_creation_cut_short_can_be_repeated(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()

    class CutError(Exception):
        pass

    def cut(point: str) -> None:
        raise CutError(point)

    with pytest.raises(CutError):
        Ledger.create(tmp_path / "shop", signed(), key, on_write=cut)
    with pytest.raises(VerificationFailed, match="no entries"):
        Ledger.open(tmp_path / "shop", key)
    Ledger.create(tmp_path / "shop", signed(), key).close()
    with pytest.raises(UserError, match="exists"):
        Ledger.create(tmp_path / "shop", signed(), key)


def fill(book: Ledger) -> None:
    for _ in range(200):
        book.note("REPORT", {"filler": "x" * 2000})


def test_a_full_disk_leaves_the_reservation_as_it_was(shop: Shop) -> None:
    with shop.open() as book:
        reservation = book.reserve(shop.plan(1))
        reservation.touch()
        pages = book._base.execute("PRAGMA page_count").fetchone()[0]
        book._base.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(UserError, match="cannot write"):
            fill(book)
        with pytest.raises(UserError, match="free space"):
            book.release(reservation, b"update")
        assert len(book.reserved()) == 1
        book._base.execute("PRAGMA max_page_count = 100000")
        book.release(reservation, b"update")
        assert len(book.charges()) == 1
    assert shop.verify().ok


def test_a_disk_that_is_full_before_the_ledger_is_made_is_one_line_and_it_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, honest = create_key(tmp_path / "key"), ledger._connect

    def in_one_page(path: Path) -> sqlite3.Connection:
        base = honest(path)
        base.execute("PRAGMA max_page_count = 1")
        return base

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_connect", in_one_page)
        with pytest.raises(UserError, match=r"cannot write .*full; free space"):
            Ledger.create(tmp_path / "shop", signed(), key)
    Ledger.create(tmp_path / "shop", signed(), key).close()


# --- tampering ---


@pytest.fixture
def spent(shop: Shop) -> Shop:
    with shop.open() as book:
        spend(book, range(5))
        book.burn(book.reserve(shop.plan(9)), "failed")
        book.note("REPORT", {"sha256": "0" * 64})
    return shop


def tamper(shop: Shop, *statements: tuple[str, tuple[object, ...]]) -> None:
    with closing(sqlite3.connect(shop.folder / "ledger.db")) as base, base:
        base.execute("DROP TRIGGER entries_stay")
        base.execute("DROP TRIGGER entries_remain")
        for statement, values in statements:
            base.execute(statement, values)


def rows(shop: Shop) -> list[chain.Row]:
    with closing(sqlite3.connect(shop.folder / "ledger.db")) as base:
        return [tuple(row) for row in base.execute("SELECT text, hash, sig FROM entries ORDER BY seq")]


def test_the_database_itself_refuses_to_change_or_delete_entries(spent: Shop) -> None:
    with closing(sqlite3.connect(spent.folder / "ledger.db")) as base:
        for statement in ("DELETE FROM entries WHERE seq = 3", "UPDATE entries SET text = '' WHERE seq = 3"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                base.execute(statement)


def test_an_edited_entry_is_found(spent: Shop) -> None:
    tamper(spent, ("UPDATE entries SET text = replace(text, '\"4.0\"', '\"9.0\"') WHERE seq = 4", ()))
    verdict = spent.verify()
    assert (verdict.ok, verdict.broken_at) == (False, 4)
    with pytest.raises(VerificationFailed, match="entry 4"):
        spent.open()


def test_an_edited_entry_with_a_recomputed_chain_is_found(spent: Shop) -> None:
    """Without the key, the hashes can be made to fit and the signatures cannot."""
    stranger = Ed25519PrivateKey.generate()
    for forger, place in ((stranger, 4), (None, 4)):
        changed, head = list[tuple[str, tuple[object, ...]]](), ""
        for number, (text, digest, sig) in enumerate(rows(spent)):
            entry = chain.read_entry(text, digest, sig)
            body = dict(entry.body)
            if number == place:
                body["wall_time"] = "2020-01-01T00:00:00.000000Z"
            if number >= place:
                body["prev"] = head if number > place else body["prev"]
                forged = chain.write_entry(body, forger or stranger)
                text, digest, sig = forged.text, forged.hash, forged.sig if forger else sig
                changed.append(
                    ("UPDATE entries SET text = ?, hash = ?, sig = ? WHERE seq = ?", (text, digest, sig, number))
                )
            head = digest
        copy = Shop(spent.folder.with_name(f"copy{forger is None}"), spent.key)
        shutil.copytree(spent.folder, copy.folder)
        (copy.folder / "ledger.anchor").unlink()
        tamper(copy, *changed)
        assert copy.verify().broken_at == 4
        with pytest.raises(VerificationFailed, match="not signed"):
            copy.open()


def test_a_deleted_entry_is_found(spent: Shop) -> None:
    tamper(spent, ("DELETE FROM entries WHERE seq = 5", ()))
    verdict = spent.verify()
    assert (verdict.ok, verdict.broken_at) == (False, 5)
    with pytest.raises(VerificationFailed):
        spent.open()


def test_swapped_entries_are_found(spent: Shop) -> None:
    tamper(
        spent,
        ("UPDATE entries SET seq = 999 WHERE seq = 4", ()),
        ("UPDATE entries SET seq = 4 WHERE seq = 6", ()),
        ("UPDATE entries SET seq = 6 WHERE seq = 999", ()),
    )
    assert not spent.verify().ok
    with pytest.raises(VerificationFailed):
        spent.open()


def test_a_cut_tail_is_seen_by_the_anchor_and_by_nothing_else(spent: Shop) -> None:
    with spent.open() as book:
        head = book.head()
    tamper(spent, ("DELETE FROM entries WHERE seq >= 10", ()))
    verdict = spent.verify()
    assert not verdict.ok
    assert "rolled back" in verdict.reason
    with pytest.raises(VerificationFailed, match="unverifiable"):
        spent.open()
    (spent.folder / "ledger.anchor").unlink()
    assert spent.verify().ok
    assert "rolled back" in spent.verify(anchors=[head]).reason
    with spent.open() as book, pytest.raises(VerificationFailed, match="unverifiable"):
        book.check_anchor(*head)


def test_a_database_put_back_while_in_use_is_noticed(spent: Shop) -> None:
    with spent.open() as book:
        tamper(spent, ("DELETE FROM entries WHERE seq >= 10", ()))
        with pytest.raises(VerificationFailed, match="rolled back while in use"):
            book.reserve(plan_round(signed(), "r", 50, "a"))


def test_two_ledgers_grown_from_one_copy_are_told_apart_by_an_anchor(spent: Shop) -> None:
    clone = Shop(spent.folder.with_name("clone"), spent.key)
    shutil.copytree(spent.folder, clone.folder)
    heads = []
    for one in (spent, clone):
        with one.open() as book:
            reservation = book.reserve(one.plan(77))
            book.release(reservation, os.urandom(8))
            heads.append(book.head())
        assert one.verify().ok
    assert heads[0][0] == heads[1][0]
    assert "cloned" in clone.verify(anchors=[heads[0]]).reason
    with clone.open() as book, pytest.raises(VerificationFailed, match="another entry"):
        book.check_anchor(*heads[0])
    with spent.open() as book:
        book.check_anchor(*heads[0])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET type = 'NOTE' WHERE seq = 3",
        "UPDATE entries SET sig = 'zz' WHERE seq = 3",
        "UPDATE entries SET sig = '' WHERE seq = 3",
        "UPDATE entries SET hash = 'x' WHERE seq = 3",
        "UPDATE entries SET text = 'null' WHERE seq = 3",
        "UPDATE entries SET text = '{}' WHERE seq = 3",
        "UPDATE entries SET text = '' WHERE seq = 3",
        "DELETE FROM entries",
        "DROP TABLE entries",
    ],
)
def test_whatever_is_done_to_the_database_the_verdict_is_broken_and_no_exception(spent: Shop, statement: str) -> None:
    tamper(spent, (statement, ()))
    assert not spent.verify().ok


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0 and then not", b"hello" * 1000])
def test_a_file_that_is_no_ledger_is_broken(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(content)
    key = Ed25519PrivateKey.generate()
    assert not verify(path, key.public_key()).ok
    assert not verify(tmp_path / "none.db", key.public_key()).ok
    with pytest.raises(VerificationFailed):
        Ledger.open(path, key)


def test_another_key_opens_nothing(spent: Shop) -> None:
    stranger = Ed25519PrivateKey.generate()
    with pytest.raises(VerificationFailed, match="use the key that belongs to it"):
        Ledger.open(spent.folder, stranger)
    assert not verify(spent.folder / "ledger.db", stranger.public_key()).ok


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_flipped_character_of_any_entry_breaks_the_chain(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines, key = _five_rounds(tmp_path_factory)
    number = data.draw(st.integers(0, len(lines) - 1))
    part = data.draw(st.integers(0, 2))
    where = data.draw(st.integers(0, len(lines[number][part]) - 1))
    other = data.draw(st.characters(codec="utf-8"))
    text = lines[number][part]
    changed = text[:where] + other + text[where + 1 :]
    row = [*lines[number]]
    row[part] = changed
    verdict = chain.examine([*lines[:number], (row[0], row[1], row[2]), *lines[number + 1 :]], key.public_key())
    same = changed == text or (part == 2 and changed.lower() == text)
    assert verdict.ok == same


_made: list[tuple[list[chain.Row], Ed25519PrivateKey]] = []


def _five_rounds(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[chain.Row], Ed25519PrivateKey]:
    if not _made:
        shop = found(tmp_path_factory.mktemp("five") / "shop")
        with shop.open() as book:
            spend(book, range(5))
        _made.append((rows(shop), shop.key))
    return _made[0]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_dropped_doubled_or_moved_entry_breaks_the_chain(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines, key = _five_rounds(tmp_path_factory)
    order = data.draw(st.lists(st.integers(0, len(lines) - 1), max_size=len(lines) + 2))
    verdict = chain.examine([lines[i] for i in order], key.public_key())
    assert verdict.ok == (bool(order) and order == list(range(len(order))))


# --- an insider with the key ---


def forge(shop: Shop, type_: str, **fields: object) -> chain.Verdict:
    """Return the verdict on the chain with one more entry, signed by the ledger's own key."""
    book = ledger.read(shop.folder)
    base: dict[str, object] = {
        "v": 1,
        "merchant": book.merchant,
        "seq": book.seq + 1,
        "prev": book.head,
        "type": type_,
        "policy_hash": book.in_force().digest,
        "wall_time": book.wall,
        "mono_time": "0.000",
        "boot_id": "",
        "detail": {},
    }
    entry = chain.write_entry(base | fields, shop.key)
    return chain.examine([*rows(shop), (entry.text, entry.hash, entry.sig)], shop.key.public_key())


def test_the_key_alone_cannot_write_what_an_honest_ledger_would_not(spent: Shop) -> None:
    plan = spent.plan(60)
    reserve: dict[str, Any] = {"idem": plan.idem, "attempt": 0, "params": plan.params}
    assert forge(spent, "RESERVE", **reserve).ok
    assert (
        "not what the policy" in forge(spent, "RESERVE", **reserve | {"params": plan.params | {"sigma": "0.1"}}).reason
    )
    assert "attempt" in forge(spent, "RESERVE", **reserve | {"attempt": 3}).reason
    assert "RELEASED already" in forge(spent, "RESERVE", **reserve | {"idem": spent.plan(1).idem}).reason
    assert "no open reservation" in forge(spent, "RELEASE", idem=spent.plan(1).idem, closes=2).reason
    assert "no open reservation" in forge(spent, "REFUND", idem=spent.plan(1).idem, closes=2).reason
    assert "one only" in forge(spent, "GENESIS").reason
    assert "unknown" in forge(spent, "GIFT").reason
    assert "merchant" in forge(spent, "REPORT", merchant="coffee").reason
    assert "follows" in forge(spent, "REPORT", seq=99).reason
    assert (
        "both keys"
        in forge(
            spent,
            "KEY_ROTATE",
            whose="ledger",
            new_key=public_hex(OFFICER.public_key()),
            old_proof="00",
            new_proof="00",
        ).reason
    )
    own = signed(spent.key, period="2027Q1")
    assert "another key" in forge(spent, "RENEW", detail=chain.policy_fields(own)).reason
    looser = signed(epsilon=99.0)
    assert "not raise" in forge(spent, "POLICY", detail=chain.policy_fields(looser)).reason
    broken = chain.policy_fields(signed(period="2027Q1")) | {"signature": "00" * 64}
    assert "differs from what was signed" in forge(spent, "RENEW", detail=broken).reason


def test_a_period_taken_past_its_epsilon_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = found(tmp_path / "shop", epsilon=2.0, sigma_min=1.0, steps=50)
    with monkeypatch.context() as fault, shop.open() as book:
        fault.setattr("common.privacy.plan.fits", lambda *_: True)
        spend(book, range(10))
    verdict = shop.verify()
    assert not verdict.ok
    assert verdict.reason == "the period 2026Q4 was taken past epsilon 2.0"


# --- losses ---


def test_a_lost_tail_is_charged_at_worst_case_once_the_officer_signs(spent: Shop) -> None:
    before = len(ledger.read(spent.folder).spent)
    tamper(spent, ("DELETE FROM entries WHERE seq >= 8", ()))
    span = Ledger.lost_span(spent.folder, spent.key)
    assert span is not None
    assert (span.after_seq, span.lost_seq, span.charges) == (7, 14, 8)
    with pytest.raises(VerificationFailed):
        Ledger.accept_loss(spent.folder, spent.key, span, spent.key.sign(span.message))
    with pytest.raises(VerificationFailed, match="unverifiable"):
        spent.open()
    with Ledger.accept_loss(spent.folder, spent.key, span, OFFICER.sign(span.message)) as book:
        assert len(book.charges()) == 3 + 8 >= before
        assert book.head()[0] == 15
        book.check_anchor(span.lost_seq, span.lost_hash)
        spend(book, [70])
    verdict = spent.verify(anchors=[(span.lost_seq, span.lost_hash)])
    assert verdict.ok, verdict.reason
    assert "charged as 8 rounds" in verdict.anomalies[0]
    assert Ledger.lost_span(spent.folder, spent.key) is None


def test_an_officer_who_signs_for_less_than_the_anchor_knows_changes_nothing(spent: Shop) -> None:
    tamper(spent, ("DELETE FROM entries WHERE seq >= 8", ()))
    span = Ledger.lost_span(spent.folder, spent.key)
    assert span is not None
    less = replace(span, lost_seq=9, lost_hash="0" * 64)
    with pytest.raises(VerificationFailed, match="unverifiable"):
        Ledger.accept_loss(spent.folder, spent.key, less, OFFICER.sign(less.message))
    assert Ledger.lost_span(spent.folder, spent.key) == span


def test_a_loss_can_use_the_whole_period_up(tmp_path: Path) -> None:
    shop = found(tmp_path / "shop", max_rounds=6)
    with shop.open() as book:
        spend(book, range(5))
    tamper(shop, ("DELETE FROM entries WHERE seq >= 4", ()))
    span = Ledger.lost_span(shop.folder, shop.key)
    assert span is not None
    with Ledger.accept_loss(shop.folder, shop.key, span, OFFICER.sign(span.message)) as book:
        with pytest.raises(BudgetSpent):
            spend(book, [50])
        assert book.rounds_left() == 0
    assert shop.verify().ok


def test_a_cloned_ledger_goes_on_after_everything_is_charged_again(spent: Shop) -> None:
    clone = Shop(spent.folder.with_name("clone"), spent.key)
    shutil.copytree(spent.folder, clone.folder)
    with spent.open() as book:
        spend(book, [80])
        seen = book.head()
    with clone.open() as book:
        spend(book, [81, 82])
    span = Ledger.lost_span(clone.folder, clone.key, anchor=seen)
    assert span is not None
    assert span.charges == seen[0] + 2
    with Ledger.accept_loss(clone.folder, clone.key, span, OFFICER.sign(span.message)) as book:
        book.check_anchor(*seen)
        assert len(book.charges()) == 8 + span.charges


def test_a_database_that_is_gone_is_not_silently_begun_anew(spent: Shop) -> None:
    (spent.folder / "ledger.db").unlink()
    with pytest.raises(VerificationFailed, match="restore"):
        Ledger.create(spent.folder, signed(), spent.key)
    with pytest.raises(UserError, match="no ledger"):
        spent.open()


def test_a_torn_anchor_line_leaves_the_other_one(spent: Shop) -> None:
    anchor = spent.folder / "ledger.anchor"
    whole = anchor.read_bytes()
    newer, older = (0, 256) if b'"seq":14' in whole[:256] else (256, 0)
    anchor.write_bytes(whole[:newer] + b"torn" * 64 + whole[newer + 256 :])
    spent.open().close()
    tamper(spent, ("DELETE FROM entries WHERE seq >= 10", ()))
    with pytest.raises(VerificationFailed, match="unverifiable"):
        spent.open()
    torn = anchor.read_bytes()
    anchor.write_bytes(torn[:older] + b" " * 256 + torn[older + 256 :])
    with pytest.raises(VerificationFailed, match="damaged"):
        spent.open()


def test_an_anchor_can_lie_elsewhere(tmp_path: Path) -> None:
    key, elsewhere = Ed25519PrivateKey.generate(), tmp_path / "other-disk" / "anchor"
    with Ledger.create(tmp_path / "shop", signed(), key, anchor_path=elsewhere) as book:
        spend(book, [1])
    assert elsewhere.exists()
    elsewhere.write_text("{")
    with pytest.raises(VerificationFailed, match="anchor"):
        Ledger.open(tmp_path / "shop", key, anchor_path=elsewhere)


# --- periods, policies, keys, clocks ---


class Watch:
    """A clock that says what it is told."""

    def __init__(self, day: str) -> None:
        self.wall = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
        self.mono = 1000.0
        self.boot = "one"

    def __call__(self) -> Instant:
        return Instant(self.wall, self.mono, self.boot)

    def wait(self, days: float) -> None:
        self.wall += days * 86_400
        self.mono += days * 86_400


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Ledger, Watch]]:
    watch = Watch("2026-11-22")
    with Ledger.create(tmp_path / "shop", signed(), Ed25519PrivateKey.generate(), clock=watch) as book:
        spend(book, range(3))
        yield book, watch


def test_a_new_period_has_a_new_budget_and_the_old_loss_stays_for_life(watched: tuple[Ledger, Watch]) -> None:
    book, watch = watched
    before = book.epsilon_spent()
    watch.wait(60)
    book.renew(signed(period="2027Q1", max_rounds=20))
    assert (book.charges(), book.epsilon_spent(), book.rounds_left()) == ((), 0.0, 20)
    assert book.epsilon_lifetime() == before
    spend(book, [1], run="winter")
    assert len(book.lifetime()) == 4
    assert book.epsilon_lifetime() > before
    assert verify(book.path, book.public_key()).ok


def test_a_round_of_the_old_period_is_still_resent_and_not_charged_again(watched: tuple[Ledger, Watch]) -> None:
    book, watch = watched
    old = plan_round(book.policy, "autumn", 1, "adapter")
    watch.wait(60)
    book.renew(signed(period="2027Q1"))
    assert book.reserve(old).stored_bytes() == b"autumn 1"
    with pytest.raises(Refused, match="not of the policy in force"):
        book.reserve(plan_round(signed(), "autumn", 99, "adapter"))


@pytest.mark.parametrize("period", ["2026Q4", "2026-11", "2026", "2026-Q4"])
def test_the_same_data_cannot_be_given_a_second_budget(watched: tuple[Ledger, Watch], period: str) -> None:
    book, watch = watched
    watch.wait(60)
    with pytest.raises(Refused, match="overlaps"):
        book.renew(signed(period=period))
    assert len(book.charges()) == 3


def test_a_renewal_needs_the_officer_the_merchant_and_ended_rounds(watched: tuple[Ledger, Watch]) -> None:
    book, watch = watched
    watch.wait(60)
    with pytest.raises(Refused, match="another key"):
        book.renew(signed(Ed25519PrivateKey.generate(), period="2027Q1"))
    with pytest.raises(Refused, match="merchant 'coffee'"):
        book.renew(signed(period="2027Q1", merchant="coffee"))
    with pytest.raises(VerificationFailed):
        book.renew(replace(signed(period="2027Q1"), raw=signed(period="2027Q2").raw))
    held = book.reserve(plan_round(book.policy, "autumn", 7, "adapter"))
    with pytest.raises(Refused, match="still open"):
        book.renew(signed(period="2027Q1"))
    book.burn(held, "failed")
    book.renew(signed(period="2027Q1"))


def test_a_period_that_has_not_begun_is_not_opened(watched: tuple[Ledger, Watch]) -> None:
    book, watch = watched
    with pytest.raises(Refused, match="begins on 2027-01-01"):
        book.renew(signed(period="2027Q1"))
    watch.wait(41)
    book.renew(signed(period="2027Q1"))


def test_a_clock_that_went_back_renews_nothing_and_rounds_go_on(watched: tuple[Ledger, Watch]) -> None:
    book, watch = watched
    watch.wall -= 86_400
    spend(book, [10])
    watch.wait(0.5)
    with pytest.raises(Refused, match="before the last entry"):
        book.renew(signed(period="2026-09"))
    verdict = verify(book.path, book.public_key())
    assert verdict.ok
    assert verdict.anomalies == ("the clock went back 2 times",)
    spend(book, [11])


def test_a_clock_that_jumped_ahead_renews_nothing_and_rounds_go_on(watched: tuple[Ledger, Watch]) -> None:
    book, watch = watched
    watch.wall += 60 * 86_400
    with pytest.raises(Refused, match="jumped by 5184000 s"):
        book.renew(signed(period="2027Q1"))
    watch.boot = "two"
    book.renew(signed(period="2027Q1"))


def test_within_a_period_a_policy_may_only_be_tightened(watched: tuple[Ledger, Watch]) -> None:
    book, _ = watched
    for looser in ({"epsilon": 9.0}, {"max_rounds": 51}, {"delta": 1e-5}):
        with pytest.raises(Refused, match="not raise"):
            book.adopt(signed(**looser))
    with pytest.raises(Refused, match="renew instead"):
        book.adopt(signed(period="2027Q1"))
    with pytest.raises(Refused, match="adaptive"):
        book.adopt(signed(sigma_min=5.0))
    book.adopt(signed(max_rounds=5))
    assert (len(book.charges()), book.rounds_left()) == (3, 2)
    book.adopt(signed(max_rounds=5, sigma_min=5.0, mode="adaptive"))
    spend(book, [20])
    assert [charge.sigma for charge in book.charges()] == [4.0, 4.0, 4.0, 5.0]
    assert verify(book.path, book.public_key()).ok


def test_the_ledger_key_can_be_changed_and_the_chain_still_holds(spent: Shop) -> None:
    new = Ed25519PrivateKey.generate()
    with spent.open() as book:
        book.rotate_key(new)
        spend(book, [40])
    assert spent.verify().ok
    assert verify(spent.folder / "ledger.db", new.public_key()).ok
    assert not verify(spent.folder / "ledger.db", OFFICER.public_key()).ok
    with pytest.raises(VerificationFailed, match="use the key"):
        spent.open()
    with Ledger.open(spent.folder, new) as book:
        assert len(book.charges()) == 7


def test_the_officers_key_is_changed_by_both_officers(watched: tuple[Ledger, Watch]) -> None:
    book, watch = watched
    successor = Ed25519PrivateKey.generate()
    with pytest.raises(Refused, match="not the officer's key"):
        book.rotate_officer(successor, successor)
    book.rotate_officer(OFFICER, successor)
    watch.wait(60)
    with pytest.raises(Refused, match="another key"):
        book.renew(signed(period="2027Q1"))
    book.renew(signed(successor, period="2027Q1"))
    assert verify(book.path, book.public_key()).ok


def test_a_past_period_taken_past_its_epsilon_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch("2026-11-22")
    key = Ed25519PrivateKey.generate()
    first = signed(epsilon=2.0, sigma_min=1.0, steps=50)
    with Ledger.create(tmp_path / "shop", first, key, clock=watch) as book:
        with monkeypatch.context() as fault:
            fault.setattr("common.privacy.plan.fits", lambda *_: True)
            spend(book, range(10))
        watch.wait(60)
        book.renew(signed(period="2027Q1"))
        spend(book, range(10, 12))
        verdict = verify(book.path, key.public_key())
    assert verdict.reason == "the period 2026Q4 was taken past epsilon 2.0"


# --- reading and exporting ---


def test_an_export_is_verified_elsewhere(spent: Shop, tmp_path: Path) -> None:
    with spent.open() as book:
        assert book.export_jsonl(tmp_path / "out.jsonl") == 15
        head = book.head()
    key = load_key(spent.folder / "key").public_key()
    assert verify(tmp_path / "out.jsonl", key, anchors=[head]).ok
    text = (tmp_path / "out.jsonl").read_text()
    (tmp_path / "out.jsonl").write_text(text.replace('"4.0"', '"9.0"', 1))
    assert not verify(tmp_path / "out.jsonl", key).ok
    (tmp_path / "out.jsonl").write_text("\n".join(text.splitlines()[:-1]))
    assert "rolled back" in verify(tmp_path / "out.jsonl", key, anchors=[head]).reason


def test_a_ledger_is_read_without_its_key(spent: Shop) -> None:
    book = ledger.read(spent.folder / "ledger.db")
    assert (len(book.spent), book.merchant, book.counts["RELEASE"]) == (6, "tea-house", 5)


def test_entries_hold_numbers_as_text_and_nothing_of_the_customers(spent: Shop) -> None:
    with spent.open() as book:
        entry = next(entry for entry in book.entries() if entry.type == "RESERVE")
    assert entry.body["params"]["sigma"] == "4.0"
    assert all(isinstance(value, str) for value in entry.body["params"].values())
    assert not any(isinstance(value, float) for value in entry.body.values())
    assert set(entry.body) == {
        "v", "merchant", "seq", "prev", "type", "idem", "attempt", "run", "round", "policy_hash", "adapter",
        "blocks", "params", "wall_time", "mono_time", "boot_id", "detail",
    }  # fmt: skip
