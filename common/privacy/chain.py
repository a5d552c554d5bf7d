r"""The ledger's entries as a signed hash chain, and what they add up to: no files, no clock, no locks.

An entry is one JSON object in canonical form. `hash = SHA-256("fugou-ledger-v1\0" || text)`, and the text holds the
hash of the entry before, so a signature on one entry covers everything before it. Entries are events; epsilon is always
computed from them and never stored as truth.

`Book` replays entries and refuses what no honest ledger writes. The ledger itself keeps its state in a `Book`, and
`examine` is a `Book` fed by a stranger: writing and verifying obey the same rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import FugouError, VerificationFailed
from common.files import canonical_json, sha256
from common.privacy.accountant import History, Setting, merge
from common.privacy.keys import holds, public_from_hex, public_hex
from common.privacy.plan import Charge, planned_charge, within_cap
from common.privacy.policy import Policy, SignedPolicy, open_signed

TYPES = (
    "GENESIS",
    "POLICY",
    "RESERVE",
    "RELEASE",
    "BURN",
    "REFUND",
    "REFUSE",
    "RENEW",
    "RECOVER",
    "AUDIT",
    "REPORT",
    "KEY_ROTATE",
)

START = "0" * 64
"""What stands for the hash before the first entry."""

_ENTRY_DOMAIN = b"fugou-ledger-v1\0"
_SPAN_DOMAIN = b"fugou-recovery-v1\0"
_ROTATE_DOMAIN = b"fugou-key-rotate-v1\0"


class Broken(VerificationFailed):
    """An entry that no honest ledger would have written; the message says why."""


@dataclass(frozen=True)
class Entry:
    """One link: the canonical text, its hash and the signature over the hash (hex), and the text as an object."""

    text: str
    hash: str
    sig: str
    body: Mapping[str, Any] = field(repr=False)

    @property
    def seq(self) -> int:
        """The entry's number, from 0."""
        return int(self.body["seq"])

    @property
    def type(self) -> str:
        """One of `TYPES`."""
        return str(self.body["type"])


def write_entry(body: Mapping[str, Any], key: Ed25519PrivateKey) -> Entry:
    """Return `body` as a signed entry; the caller has put `seq` and `prev` in."""
    text = canonical_json(body)
    digest = entry_hash(text)
    return Entry(text, digest, key.sign(bytes.fromhex(digest)).hex(), dict(body))


def entry_hash(text: str) -> str:
    """Return the hash of an entry's canonical text."""
    return sha256(_ENTRY_DOMAIN + text.encode())


def read_entry(text: str, digest: str, sig: str) -> Entry:
    """Return the entry in `text`; raises `Broken` when the hash is not that of the text."""
    if entry_hash(text) != digest:
        raise Broken("the text is not what was hashed: edited")
    body = json.loads(text)
    if not isinstance(body, dict):
        raise Broken("the text is no object")
    return Entry(text, digest, sig, body)


def signed_by(entry: Entry, public_key: str) -> bool:
    """Return whether the entry's signature is of the key named in hex."""
    return holds(public_from_hex(public_key), bytes.fromhex(entry.sig), bytes.fromhex(entry.hash))


# --- the state that entries add up to ---


@dataclass(frozen=True)
class Held:
    """A reservation that is neither released, burned nor refunded."""

    seq: int
    idem: str
    charge: Charge


@dataclass(frozen=True)
class Fate:
    """What became of the latest reservation of one round."""

    seq: int
    state: str
    attempt: int
    update_sha256: str = ""


@dataclass(frozen=True)
class Span:
    """Entries that an anchor proves and the local database does not have; all strings and ints are public.

    `after` is the last local entry, `lost` the anchor. Charged at worst case when the officer signs it.
    """

    merchant: str
    after_seq: int
    after_hash: str
    lost_seq: int
    lost_hash: str

    @property
    def charges(self) -> int:
        """The most charges that can have been lost.

        Every lost entry may have been a reservation, and one more may have been committed without reaching the
        anchor. When the local chain is a fork (not shorter, yet without the anchored entry), everything since the
        beginning counts again.
        """
        known = self.after_seq if self.lost_seq > self.after_seq else -1
        return self.lost_seq - known + 1

    @property
    def message(self) -> bytes:
        """The bytes that the officer signs."""
        return _SPAN_DOMAIN + canonical_json({**vars(self), "charges": self.charges}).encode()


@dataclass
class Book:
    """What a chain says: who holds the keys, which policy is in force, what is spent, reserved and refused."""

    caps: bool = False
    """Whether epsilon of every past period is computed again, which takes seconds; a verifier does, a ledger did."""
    seq: int = -1
    head: str = START
    merchant: str = ""
    first_key: str = ""
    """The ledger's first public key, hex."""
    key: str = ""
    """The ledger's public key in force, hex."""
    officer: str = ""
    """The public key that signs policies, hex: pinned by the first one."""
    policy: SignedPolicy | None = None
    periods: list[str] = field(default_factory=list)
    spent: list[Charge] = field(default_factory=list)
    """Charges of the period, released, burned or recovered, in order."""
    former: list[Charge] = field(default_factory=list)
    """Charges of earlier periods."""
    held: dict[int, Held] = field(default_factory=dict)
    fates: dict[str, Fate] = field(default_factory=dict)
    hashes: dict[int, str] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    refused: dict[tuple[str, str], int] = field(default_factory=dict)
    """Which entry refused a round (its identity) for a reason first."""
    counts: dict[str, int] = field(default_factory=dict)
    wall: str = ""
    """The latest wall time ever recorded."""
    backward: int = 0
    """How often the wall clock stood before an earlier entry's."""
    last: Mapping[str, Any] = field(default_factory=dict)
    _steps: dict[tuple[float, float], int] = field(default_factory=dict)
    _peak: History = ()

    # reading

    def in_force(self) -> SignedPolicy:
        """Return the policy in force; raises `Broken` before there is one."""
        if self.policy is None:
            raise Broken("there is no policy yet")
        return self.policy

    def committed(self) -> History:
        """Return what is spent and reserved in the period, merged."""
        spent = (Setting(sigma, rate, steps) for (sigma, rate), steps in self._steps.items())
        return merge((*spent, *(held.charge for held in self.held.values())))

    def used(self) -> int:
        """Return the rounds of the period that are spent or reserved."""
        return len(self.spent) + len(self.held)

    def covers(self, seq: int, digest: str) -> bool:
        """Return whether the anchored entry is in this chain, or was lost and has been charged."""
        return self.hashes.get(seq) == digest or any(
            span.lost_hash == digest or span.after_seq < seq <= span.lost_seq for span in self.spans
        )

    # writing

    def add(self, entry: Entry) -> None:
        """Take the next entry in; raises `Broken` when it cannot follow what is here. Signatures are not checked."""
        body = entry.body
        self._check_place(body)
        rule = _RULES.get(str(body["type"]))
        if rule is not None:
            rule(self, body)
        self.seq, self.head = entry.seq, entry.hash
        self.hashes[entry.seq] = entry.hash
        self.counts[entry.type] = self.counts.get(entry.type, 0) + 1
        self._note_time(body)

    def _check_place(self, body: Mapping[str, Any]) -> None:
        if body["v"] != 1 or body["type"] not in TYPES:
            raise Broken(f"unknown version {body['v']!r} or type {body['type']!r}")
        if body["prev"] != self.head:
            raise Broken("it does not follow the entry before: reordered, deleted or edited")
        if body["type"] != "RECOVER" and body["seq"] != self.seq + 1:
            raise Broken(f"number {body['seq']} follows {self.seq}")
        if (self.seq == -1) != (body["type"] == "GENESIS"):
            raise Broken("a chain begins with GENESIS and has one only")
        if self.merchant and body["merchant"] != self.merchant:
            raise Broken(f"entry of merchant {body['merchant']!r} in the ledger of {self.merchant!r}")

    def _note_time(self, body: Mapping[str, Any]) -> None:
        wall = str(body["wall_time"])
        self.backward += wall < self.wall
        self.wall = max(self.wall, wall)
        self.last = body

    def _spend(self, charge: Charge, times: int = 1) -> None:
        self.spent.extend([charge] * times)
        key = (charge.sigma, charge.rate)
        self._steps[key] = self._steps.get(key, 0) + charge.steps * times

    def _genesis(self, body: Mapping[str, Any]) -> None:
        self.merchant = str(body["merchant"])
        self.first_key = self.key = str(body["detail"]["key"])

    def _set_policy(self, body: Mapping[str, Any]) -> None:
        signed = read_policy_entry(body)
        problem = policy_problem(self, signed, renewal=body["type"] == "RENEW")
        if problem:
            raise Broken(problem)
        self.check_cap()
        if body["type"] == "RENEW":
            self.former.extend(self.spent)
            self.spent, self._steps = [], {}
        if signed.policy.period not in self.periods:
            self.periods.append(signed.policy.period)
        self._peak = ()
        self.officer, self.policy = signed.signer, signed

    def _reserve(self, body: Mapping[str, Any]) -> None:
        signed = self.in_force()
        fate = self.fates.get(str(body["idem"]))
        attempt = int(body["attempt"])
        if fate is not None and fate.state in ("RESERVED", "RELEASED"):
            raise Broken(f"the round is {fate.state} already at entry {fate.seq}")
        if attempt != (fate.attempt + 1 if fate else 0):
            raise Broken(f"attempt {attempt} of a round that had {fate.attempt + 1 if fate else 0}")
        charge = read_charge(body["params"])
        if charge != planned_charge(signed.policy) or body["policy_hash"] != signed.digest:
            raise Broken(f"{charge} is not what the policy in force charges for a round")
        if self.used() >= signed.policy.max_rounds:
            raise Broken(f"round {self.used() + 1} of the period; the policy allows {signed.policy.max_rounds}")
        self.held[int(body["seq"])] = Held(int(body["seq"]), str(body["idem"]), charge)
        self.fates[str(body["idem"])] = Fate(int(body["seq"]), "RESERVED", attempt)
        self._peak = self.committed()

    def _close(self, body: Mapping[str, Any], state: str) -> Held:
        held = self.held.pop(int(body["closes"]), None)
        if held is None or held.idem != body["idem"]:
            raise Broken(f"it closes entry {body['closes']}, which is no open reservation of this round")
        fate = self.fates[held.idem]
        self.fates[held.idem] = Fate(held.seq, state, fate.attempt, str(body.get("update_sha256", "")))
        return held

    def _release(self, body: Mapping[str, Any]) -> None:
        self._spend(self._close(body, "RELEASED").charge)

    def _burn(self, body: Mapping[str, Any]) -> None:
        self._spend(self._close(body, "BURNED").charge)

    def _refund(self, body: Mapping[str, Any]) -> None:
        self._close(body, "REFUNDED")

    def _refuse(self, body: Mapping[str, Any]) -> None:
        self.refused.setdefault((str(body["idem"]), str(body["detail"]["reason"])), int(body["seq"]))

    def _recover(self, body: Mapping[str, Any]) -> None:
        span = Span(**body["span"])
        if (span.merchant, span.after_seq, span.after_hash) != (self.merchant, self.seq, self.head):
            raise Broken("it recovers from another place than the end of this chain")
        if body["seq"] != max(span.after_seq, span.lost_seq) + 1 or body["charges"] != span.charges:
            raise Broken("it does not charge the whole span")
        if not holds(public_from_hex(self.officer), bytes.fromhex(body["officer_sig"]), span.message):
            raise Broken("the officer's signature on the recovery does not hold")
        self.spans.append(span)
        self._spend(planned_charge(self.in_force().policy), span.charges)

    def _rotate(self, body: Mapping[str, Any]) -> None:
        whose, new = str(body["whose"]), str(body["new_key"])
        old = self.officer if whose == "officer" else self.key
        message = rotation_message(self.merchant, whose, old, new)
        for public, proof in ((old, body["old_proof"]), (new, body["new_proof"])):
            if not holds(public_from_hex(public), bytes.fromhex(proof), message):
                raise Broken(f"the {whose} key was changed without both keys' signatures")
        if whose == "officer":
            self.officer = new
        else:
            self.key = new

    def check_cap(self) -> None:
        """Raise `Broken` when the period's reservations went past the policy's epsilon.

        Looks at the state after the last reservation: losses only grow, and a recovery may push them past the cap.
        """
        if not self.caps or self.policy is None or not self._peak:
            return
        if not within_cap(self.policy.policy, self._peak):
            raise Broken(f"the period {self.policy.policy.period} was taken past epsilon {self.policy.policy.epsilon}")


_RULES: Mapping[str, Callable[[Book, Mapping[str, Any]], None]] = {
    "GENESIS": Book._genesis,
    "POLICY": Book._set_policy,
    "RENEW": Book._set_policy,
    "RESERVE": Book._reserve,
    "RELEASE": Book._release,
    "BURN": Book._burn,
    "REFUND": Book._refund,
    "REFUSE": Book._refuse,
    "RECOVER": Book._recover,
    "KEY_ROTATE": Book._rotate,
}


def read_charge(params: Mapping[str, str]) -> Charge:
    """Return the charge written as decimal strings in an entry."""
    return Charge(float(params["sigma"]), float(params["rate"]), int(params["steps"]), float(params["clip_norm"]))


def rotation_message(merchant: str, whose: str, old: str, new: str) -> bytes:
    """Return the bytes that the old and the new key both sign when one follows the other."""
    return _ROTATE_DOMAIN + canonical_json({"merchant": merchant, "whose": whose, "old": old, "new": new}).encode()


# --- policies in the chain ---


def policy_fields(signed: SignedPolicy) -> dict[str, str]:
    """Return the whole signed policy as an entry carries it."""
    return {"policy": signed.raw.decode(), "signature": signed.signature.hex(), "signer": signed.signer}


def read_policy_entry(body: Mapping[str, Any]) -> SignedPolicy:
    """Return the policy in an entry after checking its signature; raises `Broken`."""
    detail = body["detail"]
    raw, signature = str(detail["policy"]).encode(), bytes.fromhex(detail["signature"])
    try:
        return open_signed(raw, signature, str(detail["signer"]))
    except FugouError as error:
        raise Broken(str(error)) from error


def policy_problem(book: Book, signed: SignedPolicy, *, renewal: bool) -> str:
    """Return why `signed` cannot follow the policy in force, or nothing.

    A renewal opens a new budget and needs a period that overlaps none before it: new data, not old data again.
    Within a period a policy may be replaced by one that allows no more; and where the numbers of a round change after
    rounds were seen, only mode "adaptive" accounts for that.
    """
    new = signed.policy
    if new.merchant != book.merchant:
        return f"the policy is of merchant {new.merchant!r}; this ledger is of {book.merchant!r}"
    if book.policy is None:
        return "a first policy cannot be a renewal" if renewal else ""
    if signed.signer != book.officer:
        return "the policy is signed by another key than the officer's; the officer's key must be rotated first"
    if renewal:
        return _renewal_problem(book, new)
    return _replacement_problem(book, book.policy.policy, new)


def _renewal_problem(book: Book, new: Policy) -> str:
    if book.held:
        return f"{len(book.held)} reserved rounds are still open; let them end before a new period begins"
    for period in book.periods:
        if overlap(period, new.period):
            return f"period {new.period} overlaps {period}, whose budget is spent on the same data; name a new period"
    return ""


def _replacement_problem(book: Book, old: Policy, new: Policy) -> str:
    if new.period != old.period:
        return f"period {new.period} is not {old.period}: renew instead"
    if new.epsilon > old.epsilon or new.delta > old.delta or new.max_rounds > old.max_rounds:
        return "a policy for the same period may lower epsilon, delta and max_rounds, not raise them"
    changed = planned_charge(new) != planned_charge(old)
    if changed and book.used() and new.mode != "adaptive":
        return 'other rounds than those declared before the first one need mode = "adaptive"'
    return ""


_PERIOD = re.compile(r"(\d{4})(?:-?Q([1-4])|-(0[1-9]|1[0-2]))?")


def months(period: str) -> tuple[int, int] | None:
    """Return the half-open range of months since year 0 that a period names, or None for a name of another kind.

    >>> months("2026Q4"), months("2026-11"), months("2026"), months("spring")
    ((24321, 24324), (24322, 24323), (24312, 24324), None)
    """
    match = _PERIOD.fullmatch(period)
    if match is None:
        return None
    year, quarter, month = match.groups()
    start = int(year) * 12
    if quarter:
        return start + 3 * int(quarter) - 3, start + 3 * int(quarter)
    if month:
        return start + int(month) - 1, start + int(month)
    return start, start + 12


def overlap(one: str, other: str) -> bool:
    """Return whether two periods share a month; names that say no months overlap when they are equal."""
    a, b = months(one), months(other)
    if a is None or b is None:
        return one == other
    return a[0] < b[1] and b[0] < a[1]


def begins(period: str) -> datetime | None:
    """Return when a period begins, UTC, or None for a name that does not say."""
    span = months(period)
    return datetime(span[0] // 12, span[0] % 12 + 1, 1, tzinfo=UTC) if span and span[0] >= 12 else None


# --- verification ---


@dataclass(frozen=True)
class Verdict:
    """Whether a ledger holds. `broken_at` is the first bad entry; `anomalies` are things an officer should know."""

    ok: bool
    broken_at: int | None
    reason: str
    anomalies: tuple[str, ...]
    head: tuple[int, str]


Row = tuple[str, str, str]
"""An entry as stored: text, hash, signature."""


def examine(rows: Iterable[Row], public_key: Ed25519PublicKey, anchors: Sequence[tuple[int, str]] = ()) -> Verdict:
    """Return whether the chain holds: every hash, link, signature and state change, the caps, and the anchors.

    `public_key` is the key the ledger began with or the one it signs with now: rotations between them are signed by
    both sides, and a signature on the last entry covers all before it. An anchor is a (number, hash) once seen
    elsewhere. Anything that goes wrong while looking means broken, never an exception.
    """
    book = Book(caps=True)
    try:
        for text, digest, sig in rows:
            _examine_one(book, text, digest, sig)
        book.check_cap()
        if book.seq < 0:
            raise Broken("the ledger has no entries")
        if public_hex(public_key) not in (book.first_key, book.key):
            raise Broken("the ledger belongs to another key")
        _check_anchors(book, anchors)
    except Exception as error:
        return Verdict(False, book.seq + 1, _why(error), _anomalies(book), (book.seq, book.head))
    return Verdict(True, None, "", _anomalies(book), (book.seq, book.head))


def _examine_one(book: Book, text: str, digest: str, sig: str) -> None:
    entry = read_entry(text, digest, sig)
    if canonical_json(entry.body) != text:
        raise Broken("the text is not in canonical form")
    if not signed_by(entry, book.key or str(entry.body["detail"]["key"])):
        raise Broken("the signature is not the ledger key's")
    book.add(entry)


def _check_anchors(book: Book, anchors: Sequence[tuple[int, str]]) -> None:
    for seq, digest in anchors:
        if book.covers(seq, digest):
            continue
        if seq > book.seq:
            raise Broken(f"entries {book.seq + 1} to {seq} are missing: an anchor has seen entry {seq}; rolled back")
        raise Broken(f"entry {seq} is not the one an anchor has seen: the ledger was cloned or rewritten")


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"


def _anomalies(book: Book) -> tuple[str, ...]:
    found = []
    if book.held:
        found.append(f"{len(book.held)} reserved and not yet ended: entries {sorted(book.held)[:5]}")
    if book.backward:
        found.append(f"the clock went back {book.backward} times")
    found.extend(
        f"entries {span.after_seq + 1} to {span.lost_seq} were lost and charged as {span.charges} rounds"
        for span in book.spans
    )
    return tuple(found)
