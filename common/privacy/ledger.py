"""The privacy budget on disk: reserve, then release, burn or refund; in SQLite, hash-chained and signed.

    reserve ── release    the update was stored, then the charge made final, then it may be sent
        ├───── burn       the round failed after private rows were read, or its process died: the charge stays
        └───── refund     the round stopped before the first private read
    refused               past the policy or the budget: an entry, no charge, nothing may be read

A reservation is on disk before `reserve` returns, so a crash can only count a round that did not happen and never miss
one that did. Which reservations belong to living processes is decided by operating system locks, which a killed process
loses; everything that writes holds the ledger's own lock. The sequence of entries decides order, never the clock.

A database cannot see that its own tail was cut or that it was restored from a copy. So (number, hash) of the last entry
is kept a second time outside it, and coordinators send theirs back (`check_anchor`).
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import BudgetSpent, Refused, UserError, VerificationFailed
from common.files import cannot_write, canonical_json, sha256, sync_folder, write_atomic
from common.privacy import accountant, chain, plan
from common.privacy.chain import Book, Broken, Entry, Row, Span, Verdict
from common.privacy.keys import fingerprint, public_from_hex, public_hex
from common.privacy.plan import Charge, RoundPlan
from common.privacy.policy import Policy, SignedPolicy, open_signed

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
  seq INTEGER PRIMARY KEY,
  type TEXT NOT NULL,
  once TEXT UNIQUE,
  text TEXT NOT NULL,
  hash TEXT NOT NULL UNIQUE,
  sig TEXT NOT NULL
) STRICT;
CREATE TRIGGER IF NOT EXISTS entries_stay BEFORE UPDATE ON entries
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS entries_remain BEFORE DELETE ON entries
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""

CLOCK_SLACK = 3600.0
"""Seconds that the wall clock may run from the machine's own while a renewal is still believed."""


class Instant(NamedTuple):
    """A moment: seconds since 1970, seconds since this boot, and which boot."""

    wall: float
    mono: float
    boot: str


def now() -> Instant:
    """Return this moment by the machine's clocks; the boot is "" where the system does not name it."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return Instant(time.time(), time.clock_gettime(clock), _boot())


@cache
def _boot() -> str:
    """Return which boot this is; no process outlives one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class Stored:
    """An update that was released before: resend these bytes, whose charge is paid."""

    path: Path
    sha256: str

    def read(self) -> bytes:
        """Return the bytes; raises `VerificationFailed` when they are gone or changed."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise VerificationFailed(
                f"the released update {self.path} is gone, and training it again would need a new round; "
                f"restore the outbox from a backup"
            ) from error
        if sha256(data) != self.sha256:
            raise VerificationFailed(f"the released update {self.path} was changed; restore the outbox from a backup")
        return data


@dataclass(frozen=True)
class Receipt:
    """A released round: the ledger's last word on it, to be sent along with the update."""

    seq: int
    hash: str
    update_sha256: str
    path: Path


@dataclass
class Reservation:
    """A charge that is held for one round, or, with `stored`, the bytes of a round that was released before.

    As a context manager: what is not released or refunded when the block ends is burned.
    """

    ledger: Ledger = field(repr=False)
    plan: RoundPlan
    seq: int
    stored: Stored | None = None
    touched: bool = False
    """Whether private rows were read; set by `touch` before the first of them is."""
    ended: bool = False

    @property
    def charge(self) -> Charge:
        """What is held."""
        return self.plan.charge

    def touch(self) -> None:
        """Say that the next thing is reading private rows: from here on there is no refund."""
        self.touched = True

    def stored_bytes(self) -> bytes | None:
        """Return the update that this round released before, to be sent again, or None for a round still to be trained.

        Raises `VerificationFailed` when the outbox no longer has it.
        """
        return self.stored.read() if self.stored else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.stored is None and not self.ended:
            self.ledger.burn(self, f"ended by {kind.__name__}" if kind else "ended without an update")


class Ledger:
    """One merchant's ledger. Open it with `Ledger.create` or `Ledger.open`; close it, or use it as a context manager.

    `on_write` is called with a name at every point where the disk has just changed or is about to; tests end the
    process there. `clock` says the time. Several processes may have the same ledger open.
    """

    def __init__(
        self,
        path: Path,
        key: Ed25519PrivateKey,
        *,
        anchor_path: Path | None = None,
        on_write: Callable[[str], None] | None = None,
        clock: Callable[[], Instant] = now,
    ) -> None:
        self.path = _file(path)
        self.outbox = self.path.parent / "outbox"
        self.anchor_path = anchor_path or self.path.with_suffix(".anchor")
        self._key = key
        self._on_write = on_write or (lambda point: None)
        self._clock = clock
        self._mutex = threading.RLock()
        self._book = Book()
        self._holding: dict[int, int] = {}
        self._synced = -1
        self._base = _connect(self.path)
        self._lock = _open_private(self.path.with_suffix(".lock"))

    # --- opening ---

    @classmethod
    def create(
        cls,
        path: Path,
        policy: SignedPolicy,
        key: Ed25519PrivateKey,
        *,
        anchor_path: Path | None = None,
        on_write: Callable[[str], None] | None = None,
        clock: Callable[[], Instant] = now,
    ) -> Ledger:
        """Return a new ledger at `path` (a file, or a folder for `ledger.db` in it) that begins with `policy`.

        Raises `UserError` when there is one already, `VerificationFailed` when an anchor tells of one that is gone.
        """
        file = _file(path)
        anchor = anchor_path or file.with_suffix(".anchor")
        if file.exists() and has_entries(file):
            raise UserError(f"{file} exists; open it, or choose another folder")
        if anchor.exists():
            raise VerificationFailed(f"{anchor} tells of a ledger that is gone: restore {file.name} from a backup")
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(_open_private(file))
        ledger = cls(file, key, anchor_path=anchor_path, on_write=on_write, clock=clock)
        try:
            ledger._begin(open_signed(policy.raw, policy.signature, policy.signer))
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def open(
        cls,
        path: Path,
        key: Ed25519PrivateKey,
        *,
        anchor_path: Path | None = None,
        on_write: Callable[[str], None] | None = None,
        clock: Callable[[], Instant] = now,
    ) -> Ledger:
        """Return the ledger at `path` after checking chain, last signature and anchor, and burning dead reservations.

        Raises `UserError` when there is none or the key is not its, `VerificationFailed` when it does not hold.
        """
        ledger = cls._attach(path, key, anchor_path, on_write, clock)
        try:
            ledger.recover()
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def _attach(
        cls,
        path: Path,
        key: Ed25519PrivateKey,
        anchor_path: Path | None,
        on_write: Callable[[str], None] | None,
        clock: Callable[[], Instant],
    ) -> Ledger:
        file = _file(path)
        if not file.exists():
            raise UserError(f"there is no ledger at {file}; `fugou merchant init` makes one")
        ledger = cls(file, key, anchor_path=anchor_path, on_write=on_write, clock=clock)
        try:
            with ledger._mutex, ledger._exclusive():
                ledger._catch_up()
                ledger._check_key()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        """Let go of the files; reservations still held are burned by whoever opens the ledger next."""
        for handle in self._holding.values():
            os.close(handle)
        self._holding = {}
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self._base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- rounds ---

    def reserve(self, plan: RoundPlan) -> Reservation:
        """Return a hold on the plan's whole cost, on disk; or, for a round released before, its stored bytes.

        Raises `Refused` when the plan is not the policy's or the round is being trained right now, and `BudgetSpent`
        when the charge would go past `max_rounds` or epsilon. Both leave a signed REFUSE entry.
        """
        with self._writing("reserve"):
            self._burn_dead()
            stored = self._stored(plan)
            if stored is not None:
                return stored
            problem = self._problem(plan)
            if problem is None:
                seq = self._append_reserve(plan)
            else:
                self._append_refuse(plan.idem, str(problem), {"run": plan.run, "round": plan.round, **plan.params})
        if problem is not None:
            raise problem
        return Reservation(self, plan, seq)

    def release(self, reservation: Reservation, update: bytes) -> Receipt:
        """Return the receipt of a finished round: `update` is in the outbox and the charge final; now it may be sent.

        Raises `Refused` when the reservation has ended, `UserError` when the disk does not take the bytes (the
        reservation then still holds).
        """
        self._must_hold(reservation)
        digest = sha256(update)
        path = self._blob(digest)
        write_atomic(path, update, mode=0o600)
        self._on_write("release:stored")
        fields = {"update_sha256": digest, "update_bytes": repr(len(update))}
        entry = self._end(reservation, "RELEASE", fields)
        return Receipt(entry.seq, entry.hash, digest, path)

    def burn(self, reservation: Reservation, reason: str) -> None:
        """End a round whose update will not be sent; its charge stays spent.

        What a failure says may depend on private rows, and so may its cost: it is never given back.
        """
        self._end(reservation, "BURN", {"detail": {"reason": reason}})

    def refund(self, reservation: Reservation) -> None:
        """Give the charge of an untouched round back; raises `Refused` once `reservation.touch()` was called."""
        if reservation.touched:
            raise Refused(f"round {reservation.plan.round} has read private rows: burn it, there is no refund")
        self._end(reservation, "REFUND", {})

    def recover(self) -> tuple[int, ...]:
        """Return the reservations whose processes are dead, after burning them; living ones are left alone."""
        with self._mutex, self._exclusive():
            self._catch_up()
            self._check_local_anchor()
            self._sweep()
            if not self._dead():
                return ()
        with self._writing("recover"):
            return self._burn_dead()

    def prune(self, keep: int) -> int:
        """Return how many stored updates were deleted: all but those of the last `keep` releases.

        A round whose update is gone can no longer be sent again; its charge stays.
        """
        released = [entry.body["update_sha256"] for entry in self.entries() if entry.type == "RELEASE"]
        kept = set(released[-keep:]) if keep > 0 else set()
        gone = [self._blob(digest) for digest in dict.fromkeys(released) if digest not in kept]
        gone = [path for path in gone if path.exists()]
        for path in gone:
            path.unlink()
        return len(gone)

    # --- other entries ---

    def refuse(self, reason: str, asked: Mapping[str, object]) -> Entry:
        """Return the signed entry that says a request was refused before it became a plan; no charge.

        Asking for the same and being told the same again returns the first entry and writes none.
        """
        same = sha256(canonical_json(_as_text(asked)).encode())
        with self._writing("refuse"):
            return self._append_refuse(same, reason, asked)

    def note(self, type: str, detail: Mapping[str, object]) -> Entry:  # noqa: A002
        """Return the entry that an audit or a report was made: `type` is AUDIT or REPORT."""
        if type not in ("AUDIT", "REPORT"):
            raise UserError(f"type = {type!r}: a note is an AUDIT or a REPORT")
        with self._writing("note"):
            return self._append(type, {"detail": _as_text(detail)})

    def renew(self, policy: SignedPolicy) -> Entry:
        """Return the entry that opens the budget of a new period; what was spent stays in the lifetime epsilon.

        The data of the new period must be new: which rows belong to it is the caller's to keep apart. Raises `Refused`
        for a period that overlaps an earlier one or has not begun, for open rounds, another signer, or a clock that
        went back or jumped; the old budget stays in force then.
        """
        signed = open_signed(policy.raw, policy.signature, policy.signer)
        with self._writing("renew"):
            self._burn_dead()
            moment = self._clock()
            problem = chain.policy_problem(self._book, signed, renewal=True) or self._clock_problem(signed, moment)
            if problem:
                raise Refused(problem)
            return self._append("RENEW", {"detail": chain.policy_fields(signed)})

    def adopt(self, policy: SignedPolicy) -> Entry:
        """Return the entry that replaces the policy within its period by one that allows no more.

        What is spent stays spent. Raises `Refused` for a policy that allows more, or declares other rounds after some
        were made without mode "adaptive".
        """
        signed = open_signed(policy.raw, policy.signature, policy.signer)
        with self._writing("adopt"):
            problem = chain.policy_problem(self._book, signed, renewal=False)
            if problem:
                raise Refused(problem)
            return self._append("POLICY", {"detail": chain.policy_fields(signed)})

    def rotate_key(self, new: Ed25519PrivateKey) -> Entry:
        """Return the entry by which `new` signs from now on; signed by the old key, countersigned by the new.

        Store the new key before: without it, the ledger is closed for good.
        """
        with self._writing("rotate"):
            entry = self._append_rotation("ledger", self._key, new)
        self._key = new
        return entry

    def rotate_officer(self, old: Ed25519PrivateKey, new: Ed25519PrivateKey) -> Entry:
        """Return the entry by which policies are signed by `new` from now on; both keys sign it."""
        with self._writing("rotate"):
            if public_hex(old.public_key()) != self._book.officer:
                raise Refused(f"{fingerprint(old.public_key())} is not the officer's key; it cannot name its successor")
            return self._append_rotation("officer", old, new)

    # --- reading ---

    @property
    def policy(self) -> SignedPolicy:
        """The policy in force."""
        return self._read().in_force()

    def charges(self) -> tuple[Charge, ...]:
        """Return what is spent in the period, in order: released, burned, and recovered at worst case."""
        return tuple(self._read().spent)

    def lifetime(self) -> tuple[Charge, ...]:
        """Return everything ever spent, all periods."""
        book = self._read()
        return (*book.former, *book.spent)

    def reserved(self) -> tuple[Charge, ...]:
        """Return what is held by open reservations."""
        return tuple(held.charge for held in self._read().held.values())

    def epsilon_spent(self) -> float:
        """Return the epsilon of the period's charges at the policy's delta; reservations are not in it."""
        return plan.spent_epsilon(self.policy.policy, self.charges())

    def epsilon_lifetime(self) -> float:
        """Return the epsilon of everything ever spent, for a customer who is in every period's data."""
        return plan.spent_epsilon(self.policy.policy, self.lifetime())

    def rounds_left(self) -> int:
        """Return how many more rounds the policy allows, reservations counted as spent."""
        book = self._read()
        policy = book.in_force().policy
        return plan.rounds_within(policy, book.committed(), policy.max_rounds - book.used())

    def counts(self) -> Mapping[str, int]:
        """Return how many entries of each type there are."""
        return dict(self._read().counts)

    def entries(self) -> Iterator[Entry]:
        """Yield every entry, oldest first."""
        for text, digest, sig in self._rows():
            yield chain.read_entry(text, digest, sig)

    def last(self) -> Entry:
        """Return the last entry, signed: what a reply sends along."""
        text, digest, sig = next(iter(self._rows(self.head()[0] - 1)))
        return chain.read_entry(text, digest, sig)

    def head(self) -> tuple[int, str]:
        """Return number and hash of the last entry: what an anchor remembers."""
        book = self._read()
        return book.seq, book.head

    def public_key(self) -> Ed25519PublicKey:
        """Return the key that signs new entries."""
        return self._key.public_key()

    def check_anchor(self, seq: int, hash: str) -> None:  # noqa: A002
        """Return when entry `seq` with this hash is here, or was lost and charged.

        Raises `VerificationFailed` when it is not: the database is older than what was sent from it, or another's.
        """
        self._read()
        self._check_anchor(seq, hash, "an anchor")

    def export_jsonl(self, path: Path) -> int:
        """Return how many entries were written to `path`, one a line, for verification elsewhere."""
        lines = [canonical_json({"entry": e.body, "hash": e.hash, "sig": e.sig}) for e in self.entries()]
        write_atomic(path, "".join(line + "\n" for line in lines))
        return len(lines)

    # --- after a loss ---

    @classmethod
    def lost_span(
        cls,
        path: Path,
        key: Ed25519PrivateKey,
        *,
        anchor: tuple[int, str] | None = None,
        anchor_path: Path | None = None,
    ) -> Span | None:
        """Return what the anchor (by default the one beside the ledger) proves to be missing, or None.

        The officer signs the span's `message`; `accept_loss` then charges it.
        """
        with cls._attach(path, key, anchor_path, None, now) as ledger:
            seen = anchor or _read_anchor(ledger.anchor_path)
            book = ledger._book
            if seen is None or book.covers(*seen):
                return None
            return Span(book.merchant, book.seq, book.head, *seen)

    @classmethod
    def accept_loss(
        cls,
        path: Path,
        key: Ed25519PrivateKey,
        span: Span,
        signature: bytes,
        *,
        anchor_path: Path | None = None,
        on_write: Callable[[str], None] | None = None,
        clock: Callable[[], Instant] = now,
    ) -> Ledger:
        """Return the ledger, in use again, after charging every entry of the lost span as a whole round.

        `signature` is the officer's over `span.message`. Raises `VerificationFailed` when it does not hold.
        """
        ledger = cls._attach(path, key, anchor_path, on_write, clock)
        try:
            with ledger._writing("loss", unverified=True):
                fields = {"span": vars(span), "charges": span.charges, "officer_sig": signature.hex()}
                ledger._append("RECOVER", fields, seq=max(span.after_seq, span.lost_seq) + 1)
                ledger._check_local_anchor()
            ledger.recover()
        except BaseException:
            ledger.close()
            raise
        return ledger

    # --- how an entry gets onto the disk ---

    @contextmanager
    def _writing(self, verb: str, *, unverified: bool = False) -> Iterator[None]:
        """Hold the ledger alone, commit what the block appends, and write the anchor."""
        with self._mutex, self._exclusive():
            before = self._book.seq
            try:
                self._base.execute("BEGIN IMMEDIATE")
                self._catch_up()
                if not unverified:
                    self._check_local_anchor()
                before = self._book.seq
                yield
                self._on_write(f"{verb}:written")
                self._base.execute("COMMIT")
            except BaseException as error:
                self._undo()
                if isinstance(error, sqlite3.Error):
                    raise self._disk_error(error) from error
                raise
            if self._book.seq != before:
                self._on_write(f"{verb}:committed")
                self._write_anchor(before)
                self._on_write(f"{verb}:anchored")

    def _undo(self) -> None:
        with suppress(sqlite3.Error):
            self._base.execute("ROLLBACK")
        for seq in [seq for seq in self._holding if seq not in self._on_disk()]:
            self._let_go(seq)
        self._book = Book()

    def _on_disk(self) -> set[int]:
        try:
            return {int(row[0]) for row in self._base.execute("SELECT seq FROM entries WHERE type = 'RESERVE'")}
        except sqlite3.Error:
            return set(self._holding)

    def _disk_error(self, error: sqlite3.Error) -> Exception:
        if isinstance(error, sqlite3.OperationalError):
            return cannot_write(self.path, OSError(0, str(error)))
        return VerificationFailed(f"{self.path} is damaged ({error}); restore it from a backup")

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _append(self, type: str, fields: Mapping[str, object], *, once: str | None = None, seq: int = -1) -> Entry:  # noqa: A002
        entry = chain.write_entry(self._body(type, fields, seq), self._key)
        self._book.add(entry)
        self._base.execute(
            "INSERT INTO entries (seq, type, once, text, hash, sig) VALUES (?, ?, ?, ?, ?, ?)",
            (entry.seq, type, once, entry.text, entry.hash, entry.sig),
        )
        return entry

    def _body(self, type: str, fields: Mapping[str, object], seq: int) -> dict[str, object]:  # noqa: A002
        book, moment = self._book, self._clock()
        return {
            "v": 1,
            "merchant": book.merchant,
            "seq": book.seq + 1 if seq < 0 else seq,
            "prev": book.head,
            "type": type,
            "policy_hash": book.policy.digest if book.policy else "",
            "wall_time": _utc(moment.wall),
            "mono_time": f"{moment.mono:.3f}",
            "boot_id": moment.boot,
            "detail": {},
            **fields,
        }

    def _begin(self, signed: SignedPolicy) -> None:
        detail = {"key": public_hex(self._key.public_key()), "format": "fugou-ledger-v1"}
        with self._mutex, self._exclusive():
            try:
                self._base.executescript(_SCHEMA)
            except sqlite3.Error as error:
                raise self._disk_error(error) from error
        with self._writing("create"):
            if self._book.seq >= 0:
                raise UserError(f"{self.path} exists; open it, or choose another folder")
            self._append("GENESIS", {"merchant": signed.policy.merchant, "detail": detail})
            self._append("POLICY", {"detail": chain.policy_fields(signed)})
        sync_folder(self.path.parent)

    def _append_reserve(self, round_plan: RoundPlan) -> int:
        fate = self._book.fates.get(round_plan.idem)
        attempt = fate.attempt + 1 if fate else 0
        seq = self._book.seq + 1
        self._hold(seq)
        self._on_write("reserve:held")
        fields = {
            "idem": round_plan.idem,
            "attempt": attempt,
            "run": round_plan.run,
            "round": repr(round_plan.round),
            "adapter": round_plan.adapter_digest,
            "blocks": [self._book.in_force().policy.period],
            "params": round_plan.params,
        }
        self._append("RESERVE", fields, once=f"reserve:{round_plan.idem}:{attempt}")
        return seq

    def _append_refuse(self, idem: str, reason: str, asked: Mapping[str, object]) -> Entry:
        """Append a refusal, once a round and reason: a coordinator that insists cannot fill the disk."""
        before = self._book.refused.get((idem, reason))
        if before is not None:
            return chain.read_entry(*next(self._rows(after=before - 1)))
        return self._append("REFUSE", {"idem": idem, "detail": {"reason": reason, "asked": _as_text(asked)}})

    def _append_rotation(self, whose: str, old: Ed25519PrivateKey, new: Ed25519PrivateKey) -> Entry:
        names = public_hex(old.public_key()), public_hex(new.public_key())
        message = chain.rotation_message(self._book.merchant, whose, *names)
        fields = {"whose": whose, "new_key": names[1]}
        proofs = {"old_proof": old.sign(message).hex(), "new_proof": new.sign(message).hex()}
        return self._append("KEY_ROTATE", {**fields, **proofs})

    def _end(self, reservation: Reservation, type: str, fields: Mapping[str, object]) -> Entry:  # noqa: A002
        self._must_hold(reservation)
        with self._writing(type.lower()):
            if reservation.seq not in self._book.held:
                raise Refused(f"reservation {reservation.seq} has ended already; ask for the round again")
            closes = {"idem": reservation.plan.idem, "closes": reservation.seq}
            entry = self._append(type, {**closes, **fields}, once=f"close:{reservation.seq}")
        reservation.ended = True
        self._let_go(reservation.seq)
        return entry

    def _must_hold(self, reservation: Reservation) -> None:
        if reservation.ended or reservation.stored is not None or reservation.seq not in self._holding:
            raise Refused(f"reservation {reservation.seq} is not held here any more; ask for the round again")

    # --- what a plan may be told ---

    def _problem(self, round_plan: RoundPlan) -> Refused | None:
        book = self._book
        signed = book.in_force()
        fate = book.fates.get(round_plan.idem)
        if fate is not None and fate.state == "RESERVED":
            return Refused(f"round {round_plan.round} of {round_plan.run} is being trained at this moment; wait for it")
        if round_plan.merchant != book.merchant:
            return Refused(f"the plan is for merchant {round_plan.merchant!r}; this ledger is of {book.merchant!r}")
        mine = plan.plan_round(signed, round_plan.run, round_plan.round, round_plan.adapter_digest)
        if round_plan != mine:
            return Refused(
                f"the plan of round {round_plan.round} is not of the policy in force ({signed.digest[:12]}); "
                f"if the policy was changed, adopt or renew it in the ledger"
            )
        return self._budget_problem(signed.policy, round_plan)

    def _budget_problem(self, policy: Policy, round_plan: RoundPlan) -> BudgetSpent | None:
        book = self._book
        if book.used() >= policy.max_rounds:
            what = f"all {policy.max_rounds} rounds are used"
        elif not plan.fits(policy, book.committed(), round_plan.charge):
            what = f"one more round would pass the cap of epsilon {policy.epsilon:g}"
        else:
            return None
        spent = plan.spent_epsilon(policy, book.spent)
        return BudgetSpent(
            f"{what}: {len(book.spent)} spent and {len(book.held)} reserved in period {policy.period}, epsilon "
            f"{accountant.up(spent)} at delta {policy.delta:g} for one {policy.unit} of {policy.merchant}; "
            f"train again under a newly signed policy for a new period and its new data"
        )

    def _stored(self, round_plan: RoundPlan) -> Reservation | None:
        fate = self._book.fates.get(round_plan.idem)
        if fate is None or fate.state != "RELEASED":
            return None
        stored = Stored(self._blob(fate.update_sha256), fate.update_sha256)
        return Reservation(self, round_plan, fate.seq, stored=stored, ended=True)

    def _clock_problem(self, signed: SignedPolicy, moment: Instant) -> str:
        book = self._book
        if _utc(moment.wall) < book.wall:
            return f"the clock says {_utc(moment.wall)}, before the last entry of {book.wall}; set it and renew again"
        if moment.boot and moment.boot == book.last.get("boot_id"):
            drift = moment.wall - _seconds(str(book.last["wall_time"])) - (moment.mono - float(book.last["mono_time"]))
            if abs(drift) > CLOCK_SLACK:
                return f"the clock jumped by {drift:.0f} s since the last entry; set it and renew again"
        starts = chain.begins(signed.policy.period)
        if starts is not None and moment.wall < starts.timestamp():
            return f"period {signed.policy.period} begins on {starts:%Y-%m-%d}; the clock says {_utc(moment.wall)}"
        return ""

    # --- who is alive ---

    def _live_file(self, seq: int) -> Path:
        return self.path.with_suffix(".live") / f"{seq}.lock"

    def _hold(self, seq: int) -> None:
        file = self._live_file(seq)
        file.parent.mkdir(mode=0o700, exist_ok=True)
        handle = _open_private(file)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._holding[seq] = handle

    def _let_go(self, seq: int) -> None:
        handle = self._holding.pop(seq, None)
        if handle is not None:
            self._live_file(seq).unlink(missing_ok=True)
            os.close(handle)

    def _dead(self) -> list[int]:
        return [seq for seq in self._book.held if seq not in self._holding and not self._is_locked(seq)]

    def _is_locked(self, seq: int) -> bool:
        try:
            handle = os.open(self._live_file(seq), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def _sweep(self) -> None:
        """Remove the lock files of reservations that ended, or never began, in a process that died right then."""
        for file in self.path.with_suffix(".live").glob("*.lock"):
            seq = int(file.stem)
            if seq not in self._book.held and seq not in self._holding:
                file.unlink(missing_ok=True)

    def _burn_dead(self) -> tuple[int, ...]:
        dead = self._dead()
        for seq in dead:
            held = self._book.held[seq]
            fields = {"idem": held.idem, "closes": seq, "detail": {"reason": "its process died"}}
            self._append("BURN", fields, once=f"close:{seq}")
            self._live_file(seq).unlink(missing_ok=True)
        return tuple(dead)

    # --- reading the chain ---

    def _read(self) -> Book:
        with self._mutex, self._exclusive():
            self._catch_up()
            return self._book

    def _catch_up(self) -> None:
        """Take in what other processes have written; the last signature vouches for the whole chain before it."""
        entry, signer = None, ""
        try:
            self._check_memory()
            for row in self._rows(after=self._book.seq):
                entry = chain.read_entry(*row)
                signer = self._book.key
                self._book.add(entry)
        except Broken as error:
            broken = self._book.seq + 1
            self._book = Book()
            raise VerificationFailed(f"{self.path}: entry {broken}: {error}; restore it from a backup") from error
        except (ValueError, KeyError, TypeError, sqlite3.DatabaseError) as error:
            self._book = Book()
            raise VerificationFailed(f"{self.path} cannot be read ({error}); restore it from a backup") from error
        if entry is not None and not chain.signed_by(entry, signer or self._book.key):
            self._book = Book()
            raise VerificationFailed(f"{self.path}: entry {entry.seq} is not signed by the ledger's key; restore it")

    def _check_memory(self) -> None:
        """Raise `Broken` when the database no longer has the last entry that this process has seen in it."""
        if self._book.seq < 0:
            return
        row = self._base.execute("SELECT hash FROM entries WHERE seq = ?", (self._book.seq,)).fetchone()
        if row is None or row[0] != self._book.head:
            raise Broken(f"entry {self._book.seq} was there and is gone: rolled back while in use")

    def _rows(self, after: int = -1) -> Iterator[Row]:
        query = "SELECT text, hash, sig FROM entries WHERE seq > ? ORDER BY seq"
        yield from self._base.execute(query, (after,)).fetchall()

    def _check_key(self) -> None:
        if self._book.seq < 0:
            raise VerificationFailed(f"{self.path} has no entries; restore it from a backup, or make a new one")
        mine = public_hex(self._key.public_key())
        if mine != self._book.key:
            theirs = fingerprint(public_from_hex(self._book.key))
            raise VerificationFailed(
                f"{self.path} is signed by key {theirs}, and this is {fingerprint(self._key.public_key())}; "
                f"use the key that belongs to it"
            )

    # --- anchors ---

    def _write_anchor(self, before: int) -> None:
        """Write (number, hash) of the last entry into one of the anchor's two lines, in place.

        A line torn by a power cut fails its check, and the other one, an entry or two older, still stands; so this
        costs one synchronisation and no rename. A reservation alone, right after entry `before` whose line is safe on
        disk, waits for the line of the entry that closes it: nothing of its round has left the merchant by then, and
        `Span.charges` counts one round more than the anchor has seen.
        """
        book = self._book
        waits = before == self._synced and book.seq == before + 1 and book.seq in book.held
        line, place = _anchor_line(book.merchant, book.seq, book.head), _ANCHOR_WIDTH * (book.seq % 2)
        if not self.anchor_path.exists():  # the first line comes whole or, on a full disk, not at all
            write_atomic(self.anchor_path, b" " * place + line, mode=0o600)
            self._synced = book.seq
            return
        handle = _open_private(self.anchor_path)
        try:
            os.pwrite(handle, line, place)
            if not waits:
                os.fdatasync(handle)
                self._synced = book.seq
        except OSError as error:
            raise cannot_write(self.anchor_path, error) from error
        finally:
            os.close(handle)

    def _check_local_anchor(self) -> None:
        seen = _read_anchor(self.anchor_path)
        if seen is not None:
            self._check_anchor(*seen, str(self.anchor_path))

    def _check_anchor(self, seq: int, digest: str, where: str) -> None:
        book = self._book
        if book.covers(seq, digest):
            return
        what = f"ends at entry {book.seq}" if seq > book.seq else f"has another entry {seq}"
        raise VerificationFailed(
            f"unverifiable: {where} has seen entry {seq} ({digest[:12]}) and {self.path} {what}; nothing is charged "
            f"until the officer signs for the loss: fugou merchant ledger recover"
        )

    def _blob(self, digest: str) -> Path:
        return self.outbox / f"{digest}.bin"


# --- verification, without the private key and without writing ---


def verify(
    source: Path,
    public_key: Ed25519PublicKey,
    *,
    anchors: Sequence[tuple[int, str]] = (),
    outbox: Path | None = None,
) -> Verdict:
    """Return whether the ledger at `source` (a database, or a `.jsonl` export) holds; see `chain.examine`.

    The anchor file beside a database is used as well. With `outbox`, every stored update must be what was released; a
    missing one is an anomaly. Whatever goes wrong while reading means broken.
    """
    try:
        rows = list(rows_of(source))
        beside = _read_anchor(source.with_suffix(".anchor")) if source.suffix != ".jsonl" else None
    except Exception as error:
        return Verdict(False, 0, f"cannot be read: {type(error).__name__}: {error}", (), (-1, chain.START))
    verdict = chain.examine(rows, public_key, (*anchors, beside) if beside else anchors)
    return _with_outbox(verdict, rows, outbox) if outbox is not None and verdict.ok else verdict


def read(path: Path) -> Book:
    """Return what the ledger at `path` says, for reports, without its key; `verify` tells whether to believe it.

    Raises `VerificationFailed` when the entries do not follow each other.
    """
    book = Book()
    try:
        for row in rows_of(_file(path)):
            book.add(chain.read_entry(*row))
    except (Broken, sqlite3.Error, ValueError, KeyError, TypeError) as error:
        raise VerificationFailed(f"{path}: entry {book.seq + 1}: {error}; restore it from a backup") from error
    return book


def rows_of(source: Path) -> Iterator[Row]:
    """Yield the rows of a ledger's database, or of its JSONL export, in order."""
    if source.suffix == ".jsonl":
        for line in source.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield canonical_json(row["entry"]), row["hash"], row["sig"]
        return
    with closing(_read_only(source)) as base:
        for seq, type_, text, digest, sig in base.execute(
            "SELECT seq, type, text, hash, sig FROM entries ORDER BY seq"
        ):
            body = json.loads(text)
            if (body["seq"], body["type"]) != (seq, type_):
                raise Broken(f"entry {seq} says it is {body['type']} {body['seq']}")
            yield text, digest, sig


def _with_outbox(verdict: Verdict, rows: Sequence[Row], outbox: Path) -> Verdict:
    missing = 0
    for text, _, _ in rows:
        body = json.loads(text)
        if body["type"] != "RELEASE":
            continue
        file = outbox / f"{body['update_sha256']}.bin"
        if not file.exists():
            missing += 1
        elif sha256(file.read_bytes()) != body["update_sha256"]:
            reason = f"the stored update {file.name} is not what was released"
            return Verdict(False, int(body["seq"]), reason, verdict.anomalies, verdict.head)
    told = (*verdict.anomalies, f"{missing} released updates are not in the outbox") if missing else verdict.anomalies
    return Verdict(True, None, "", told, verdict.head)


# --- small things ---


def _file(path: Path) -> Path:
    return path if path.suffix == ".db" else path / "ledger.db"


def _open_private(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise cannot_write(path, error) from error


def _connect(path: Path) -> sqlite3.Connection:
    try:
        base = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = FULL")
    except sqlite3.OperationalError as error:
        raise cannot_write(path, OSError(0, str(error))) from error
    except sqlite3.DatabaseError as error:
        raise VerificationFailed(f"{path} is no ledger ({error}); restore it from a backup") from error
    return base


def has_entries(path: Path) -> bool:
    """Return whether `path` holds anything that a new ledger would destroy; not so where its making was cut short."""
    try:
        with closing(_read_only(path)) as base:
            return base.execute("SELECT 1 FROM entries LIMIT 1").fetchone() is not None
    except sqlite3.OperationalError:
        return False
    except sqlite3.DatabaseError:
        return True


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


_ANCHOR_WIDTH = 256


def _anchor_line(merchant: str, seq: int, head: str) -> bytes:
    fields = {"merchant": merchant, "seq": seq, "hash": head}
    check = sha256(canonical_json(fields).encode())[:16]
    return canonical_json(fields | {"check": check}).ljust(_ANCHOR_WIDTH - 1).encode() + b"\n"


def _read_anchor(path: Path) -> tuple[int, str] | None:
    """Return the newer of the anchor's lines, or None when there is no anchor file.

    Raises `VerificationFailed` when neither line is whole.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise VerificationFailed(f"the anchor {path} cannot be read ({error.strerror}); allow reading it") from error
    lines = (data[:_ANCHOR_WIDTH], data[_ANCHOR_WIDTH:])
    seen = [anchor for anchor in map(_anchor_of, lines) if anchor is not None]
    if not seen:
        raise VerificationFailed(f"the anchor {path} is damaged; restore it from a backup")
    return max(seen)


@lru_cache(maxsize=1024)
def _anchor_of(line: bytes) -> tuple[int, str] | None:
    try:
        fields = json.loads(line)
        anchor = int(fields["seq"]), str(fields["hash"])
        return anchor if line == _anchor_line(str(fields["merchant"]), *anchor) else None
    except (ValueError, KeyError, TypeError):
        return None


def _utc(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _seconds(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()


def _as_text(detail: Mapping[str, object]) -> dict[str, object]:
    """Return `detail` as it may stand in an entry: short strings, whole numbers, nested objects; floats as text."""
    return {str(key)[:64]: _plain(value) for key, value in list(detail.items())[:64]}


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return _as_text(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value[:1000]]
    if isinstance(value, str):
        return value[:2000].encode("utf-8", "replace").decode()
    if value is None or isinstance(value, bool):
        return value
    return repr(value)[:200]
