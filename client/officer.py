"""`fugou merchant plan | policy | ledger`: what may be spent, who signed for it, and what was.

Everything here follows from public numbers: the policy and the ledger. No command opens a table of the shop.
Only `sign`, `adopt`, `renew`, `export` and `recover` write; the others leave the ledger as it is, dead reservations too.
"""

from __future__ import annotations

import math
import sqlite3
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from client.config import LEDGER, LEDGER_KEY, OFFICER_KEY, POLICY
from client.words import promise, say, table
from common.cli import announce, as_json
from common.errors import BudgetSpent, Refused, UserError, VerificationFailed
from common.files import write_atomic
from common.privacy import plan as planning
from common.privacy.accountant import up
from common.privacy.chain import Book, Broken, Entry, Span, read_entry
from common.privacy.keys import create_key, fingerprint, load_key, load_public_key, public_from_hex, public_hex
from common.privacy.ledger import Ledger, rows_of
from common.privacy.ledger import verify as verify_ledger
from common.privacy.plan import Charge, WhatIf, planned_charge
from common.privacy.policy import (
    Policy,
    SignedPolicy,
    load_policy,
    policy_digest,
    read_policy,
    sign_policy,
    signature_path,
)

STAIRS = 12

json_option = click.option("--json", "json_", is_flag=True, help="Print as JSON.")
key_option = click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    default=OFFICER_KEY,
    show_default=True,
    help="The officer's private key, relative to the merchant's folder.",
)


# --- what a ledger says ---


@dataclass(frozen=True)
class Standing:
    """Where a ledger stands: charges of the period in force, and how many were burned or requests refused in it."""

    signed: SignedPolicy | None = None
    officer: str = ""
    spent: tuple[Charge, ...] = ()
    reserved: tuple[Charge, ...] = ()
    former: tuple[Charge, ...] = ()
    burned: int = 0
    refused: int = 0


def replay(file: Path) -> Iterator[tuple[Entry, Book]]:
    """Yield every entry of a ledger with the book after it (one object, growing), without its key and without writing.

    Raises `VerificationFailed` where an entry does not follow those before.
    """
    book = Book()
    try:
        for row in rows_of(file):
            entry = read_entry(*row)
            book.add(entry)
            yield entry, book
    except (Broken, sqlite3.Error, ValueError, KeyError, TypeError) as error:
        raise VerificationFailed(say("ledger_broken", file=file, seq=book.seq + 1, reason=error)) from error


def standing(folder: Path) -> Standing:
    """Return where the merchant's ledger stands; an empty standing where there is no ledger yet."""
    if not (folder / LEDGER).exists():
        return Standing()
    book, counts = Book(), dict.fromkeys(("BURN", "REFUSE"), 0)
    for entry, book in replay(folder / LEDGER):  # noqa: B007
        if entry.type == "RENEW":
            counts = dict.fromkeys(counts, 0)
        elif entry.type in counts:
            counts[entry.type] += 1
    held = tuple(one.charge for one in book.held.values())
    return Standing(
        book.policy, book.officer, tuple(book.spent), held, tuple(book.former), counts["BURN"], counts["REFUSE"]
    )


# --- plan ---


@dataclass(frozen=True)
class Forecast:
    """What a policy's rounds cost, those before and those to come; epsilons at the policy's delta for its unit."""

    policy: Policy
    now: Standing
    spent: float
    left: int
    stairs: tuple[tuple[int, float], ...]
    """(round of the period, epsilon after it); spent and reserved rounds come first, as one step."""
    allowed: int
    """Rounds that the policy allows from the beginning of its period."""
    readings: tuple[WhatIf, ...]
    modes: Mapping[str, tuple[int, float]]
    """mode -> rounds it would allow from the beginning, and the epsilon of `allowed` rounds by its accounting."""


def forecast(policy: Policy, now: Standing) -> Forecast:
    """Return what `policy` costs after what `now` has spent; nothing but these two is read."""
    charges = (*now.spent, *now.reserved)
    stairs = planning.staircase(policy, charges, STAIRS)
    allowed = planning.rounds_left(policy, ())
    return Forecast(
        policy,
        now,
        planning.spent_epsilon(policy, now.spent),
        planning.rounds_left(policy, charges),
        tuple((len(charges) + further, epsilon) for further, epsilon in stairs),
        allowed,
        planning.what_if(policy, records=(2, 3, 5), merchants=(2, 3, 5)),
        {mode: in_mode(policy, mode, allowed) for mode in ("schedule", "adaptive")},
    )


def in_mode(policy: Policy, mode: str, rounds: int) -> tuple[int, float]:
    """Return how many rounds `policy` would allow in that mode, and what `rounds` of them cost by its accounting."""
    other = policy.model_copy(update={"mode": mode})
    return planning.rounds_left(other, ()), planning.spent_epsilon(other, (planned_charge(policy),) * rounds)


def of_period(now: Standing, policy: Policy) -> Standing:
    """Return the standing as `policy` meets it: in a period of its own, nothing is spent yet."""
    if now.signed is None or now.signed.policy.period == policy.period:
        return now
    return Standing(now.signed, now.officer, former=(*now.former, *now.spent))


@click.command()
@click.option("--epsilon", type=click.FloatRange(0, min_open=True), help="Which noise would this epsilon need?")
@click.option("--rounds", type=click.IntRange(1), help="Over how many rounds; default: the policy's.")
@json_option
@click.pass_obj
def plan(folder: Path, epsilon: float | None, rounds: int | None, json_: bool) -> None:
    """Say what the policy's rounds do and cost, before anything runs: noise, steps, epsilon by round, rounds left.

    Reads the policy (a draft will do) and the ledger; never a row of the shop. Exits with 3 when no round is left.

    Example: fugou merchant plan --epsilon 4 --rounds 20
    """
    policy = read_policy(folder / POLICY)
    if epsilon is not None or rounds is not None:
        _answer(policy, policy.epsilon if epsilon is None else epsilon, rounds or policy.max_rounds, json_)
        return
    state, detail = signature_state(folder)
    now = standing(folder)
    found = forecast(policy, of_period(now, policy))
    if json_:
        as_json(_plan_json(found, state))
    else:
        for line in (say(state, detail=detail), *_plan_lines(found), *_other_policy(now, policy)):
            click.echo(line)
    if not found.left:
        raise BudgetSpent(exhausted(found))


def _answer(policy: Policy, epsilon: float, rounds: int, json_: bool) -> None:
    sigma = planning.calibrate(epsilon, policy.delta, policy.rate, policy.steps, rounds)
    if json_:
        as_json({"sigma": sigma, "rounds": rounds, "mode": "schedule", **_bound(epsilon, policy)})
    else:
        click.echo(say("needed", rounds=rounds, promise=promise(epsilon, policy), sigma=sigma))


def exhausted(found: Forecast) -> str:
    """Return in words that no round is left: what was spent, under which delta, unit and period, and the way out."""
    policy, now = found.policy, found.now
    if not found.allowed:
        one = planning.spent_epsilon(policy, (planned_charge(policy),))
        return say("no_round", promise=promise(one, policy))
    full = len(now.spent) + len(now.reserved) >= policy.max_rounds
    return say(
        "spent_out",
        merchant=policy.merchant,
        spent=len(now.spent),
        reserved=len(now.reserved),
        promise=promise(found.spent, policy),
        cap=up(policy.epsilon),
        rounds=policy.max_rounds,
        why=say("why_rounds" if full else "why_epsilon"),
    )


def _plan_lines(found: Forecast) -> Iterator[str]:
    policy, now = found.policy, found.now
    yield from mechanism(policy)
    yield say(
        "standing",
        spent=len(now.spent),
        burned=now.burned,
        promise=promise(found.spent, policy),
        reserved=len(now.reserved),
        refused=now.refused,
        left=found.left,
    )
    head = [say("round"), say("epsilon", delta=policy.delta, period=policy.period)]
    yield table([head, *([str(number), up(epsilon)] for number, epsilon in found.stairs)])
    yield say("what_if", rounds=found.allowed)
    yield table([[f"  {say(one.unit, count=one.count)}", promise(one.epsilon, policy)] for one in found.readings])
    for mode, (rounds, epsilon) in found.modes.items():
        words = say(f"mode_{mode}", rounds=found.allowed, promise=promise(epsilon, policy))
        yield say("mode_mine" if mode == policy.mode else "mode_other", mode=words, rounds=rounds)


def mechanism(policy: Policy) -> Iterator[str]:
    """Yield what a round does and what all rounds may cost, in words."""
    yield say(
        "mechanism",
        steps=policy.steps,
        rate=policy.rate,
        clip=policy.clip_norm,
        sigma=policy.sigma_min,
        divisor=policy.divisor,
        records=policy.max_records_per_customer,
        tokens=policy.max_tokens,
    )
    if policy.sigma_min == 0:
        yield say("no_noise")
    yield say("limit", promise=promise(policy.epsilon, policy), rounds=policy.max_rounds)


def _other_policy(now: Standing, policy: Policy) -> Iterator[str]:
    if now.signed is not None and now.signed.digest != policy_digest(policy):
        yield say("another_policy", digest=now.signed.digest[:12], period=now.signed.policy.period)


def _plan_json(found: Forecast, state: str) -> dict[str, Any]:
    policy, now = found.policy, found.now
    return {
        "merchant": policy.merchant,
        "policy": {"state": state, "digest": policy_digest(policy)},
        "delta": policy.delta,
        "unit": policy.unit,
        "period": policy.period,
        "mode": policy.mode,
        "mechanism": {
            "sigma": policy.sigma_min,
            "rate": policy.rate,
            "steps": policy.steps,
            "clip_norm": policy.clip_norm,
            "divisor": policy.divisor,
            "max_records_per_customer": policy.max_records_per_customer,
            "max_tokens": policy.max_tokens,
        },
        "limit": {"epsilon": figure(policy.epsilon), "rounds": policy.max_rounds},
        "spent": {"rounds": len(now.spent), "epsilon": figure(found.spent), "burned": now.burned},
        "reserved": {"rounds": len(now.reserved)},
        "refused": now.refused,
        "rounds_left": found.left,
        "staircase": [{"round": number, "epsilon": figure(epsilon)} for number, epsilon in found.stairs],
        "what_if": [{**asdict(one), "epsilon": figure(one.epsilon)} for one in found.readings],
        "modes": {
            mode: {"rounds": rounds, "epsilon": figure(epsilon)} for mode, (rounds, epsilon) in found.modes.items()
        },
    }


def figure(epsilon: float) -> float | None:
    """Return epsilon for JSON: rounded up to two decimals, null where nothing bounds it."""
    return None if math.isinf(epsilon) else float(up(epsilon))


def _bound(epsilon: float, policy: Policy) -> dict[str, Any]:
    return {"epsilon": figure(epsilon), "delta": policy.delta, "unit": policy.unit, "period": policy.period}


# --- policy ---


@click.group()
def policy() -> None:
    """Sign what may be spent, see it, check it, and put it into force.

    Example: fugou merchant policy sign --key keys/officer
    """


@policy.command()
@key_option
@click.option("--new-key", is_flag=True, help="Make that key first; never done otherwise.")
@click.pass_obj
def sign(folder: Path, key: Path, new_key: bool) -> None:
    """Sign policy.toml as it stands, with the privacy officer's key.

    Example: fugou merchant policy sign --key keys/officer --new-key
    """
    read_policy(folder / POLICY)
    officer = officers_key(folder, key, new_key)
    signed = sign_policy(folder / POLICY, officer)
    kid = fingerprint(officer.public_key())
    click.echo(say("signed_by", file=folder / POLICY, kid=kid, digest=signed.digest[:16]))
    for line in (*mechanism(signed.policy), *_other_policy(standing(folder), signed.policy)):
        click.echo(line)


def officers_key(folder: Path, key: Path, new: bool) -> Ed25519PrivateKey:
    """Return the officer's private key, made only when `new` says so; the shop's folder then knows its public half.

    Raises `UserError` for a key that is missing or would replace another, `VerificationFailed` for somebody else's.
    """
    place, public = folder / key, public_file(folder)
    if new and public.exists():
        raise UserError(say("has_officer", file=public))
    if not new and not place.exists():
        raise UserError(say("no_key", file=place))
    officer = create_key(place) if new else load_key(place)
    check_officer(folder, officer.public_key())
    if not public.exists():
        pem = officer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        write_atomic(public, pem)
    return officer


def public_file(folder: Path, key: Path = OFFICER_KEY) -> Path:
    """Return where the public half of one of the merchant's own keys lies."""
    return folder / key.with_name(f"{key.name}.pub")


def check_officer(folder: Path, key: Ed25519PublicKey) -> None:
    """Raise `VerificationFailed` unless `key` is the officer that the folder and the ledger know, where they know one."""
    known = {}
    if public_file(folder).exists():
        known[public_file(folder)] = public_hex(load_public_key(public_file(folder)))
    if pinned := standing(folder).officer:
        known[folder / LEDGER] = pinned
    for where, officer in known.items():
        if officer != public_hex(key):
            theirs = fingerprint(public_from_hex(officer))
            raise VerificationFailed(say("other_officer", kid=fingerprint(key), where=where, officer=theirs))


@policy.command("show")
@json_option
@click.pass_obj
def show_policy(folder: Path, json_: bool) -> None:
    """Print the policy and say whether its signature holds.

    Example: fugou merchant policy show --json
    """
    mine = read_policy(folder / POLICY)
    state, detail = signature_state(folder)
    if json_:
        values = mine.model_dump(mode="json") | {"epsilon": figure(mine.epsilon)}
        as_json({"state": state, "detail": detail, "digest": policy_digest(mine), "policy": values})
        return
    for line in (say(state, detail=detail), *mechanism(mine), *_other_policy(standing(folder), mine)):
        click.echo(line)


@policy.command("verify")
@click.pass_obj
def verify_policy(folder: Path) -> None:
    """Check the policy's signature; exits with 4 when the file was edited or somebody else signed it.

    Example: fugou merchant policy verify
    """
    click.echo(say("signed", detail=_signer(verified(folder))))


@policy.command()
@click.pass_obj
def adopt(folder: Path) -> None:
    """Put a newly signed policy into force within its period; exits with 3 when it would allow more than before.

    Example: fugou merchant policy adopt
    """
    _enforce(folder, renewal=False)


@policy.command()
@click.pass_obj
def renew(folder: Path) -> None:
    """Open the budget of a new period, for new data, under a newly signed policy; exits with 3 when it may not begin.

    Example: fugou merchant policy renew
    """
    _enforce(folder, renewal=True)


def _enforce(folder: Path, *, renewal: bool) -> None:
    signed = verified(folder)
    if not (folder / LEDGER).exists():
        click.echo(say("first_round"))
        return
    with Ledger.open(folder / LEDGER, load_key(folder / LEDGER_KEY)) as book:
        if renewal or book.policy.digest != signed.digest:
            _put_in_force(book, signed, renewal)
        mine = book.policy.policy
        spent = promise(book.epsilon_spent(), mine)
        click.echo(say("in_force", digest=signed.digest[:16], promise=spent, left=book.rounds_left()))
        if renewal:
            click.echo(say("renewed", lifetime=promise(book.epsilon_lifetime(), mine)))


def _put_in_force(book: Ledger, signed: SignedPolicy, renewal: bool) -> None:
    try:
        (book.renew if renewal else book.adopt)(signed)
    except Refused as refusal:
        spent = promise(book.epsilon_spent(), book.policy.policy)
        raise Refused(say("not_adopted", reason=refusal, spent=spent)) from refusal


def verified(folder: Path) -> SignedPolicy:
    """Return the policy after checking that the shop's officer signed these bytes; raises `VerificationFailed`."""
    signed = load_policy(folder / POLICY, public_key=load_public_key(public_file(folder)))
    check_officer(folder, public_from_hex(signed.signer))
    return signed


def signature_state(folder: Path) -> tuple[str, str]:
    """Return `signed`, `unsigned`, `broken` or `unknown` (no public key here to compare with), and what is behind it."""
    try:
        return "signed", _signer(verified(folder))
    except VerificationFailed as problem:
        return ("broken" if signature_path(folder / POLICY).exists() else "unsigned"), str(problem)
    except UserError as problem:
        return ("unknown" if signature_path(folder / POLICY).exists() else "unsigned"), str(problem)


def _signer(signed: SignedPolicy) -> str:
    return f"{fingerprint(public_from_hex(signed.signer))}, {signed.digest[:16]}"


# --- ledger ---


@click.group()
def ledger() -> None:
    """See what was spent, check that nothing was changed, hand it to an auditor, recover after a loss.

    Example: fugou merchant ledger show --limit 20
    """


@dataclass(frozen=True)
class Line:
    """One entry as people read it: `epsilon` is what the period has lost after it."""

    seq: int
    time: str
    type: str
    round: str
    epsilon: float
    policy: Policy | None
    note: str


def lines_of(file: Path, limit: int) -> tuple[list[Line], tuple[int, str]]:
    """Return the last `limit` entries, oldest first, and (number, hash) of the very last."""
    rounds: dict[int, str] = {}
    last: deque[tuple[Entry, list[Charge], int, SignedPolicy | None]] = deque(maxlen=limit)
    head = (-1, "")
    for entry, book in replay(file):
        rounds[entry.seq] = _round(entry.body, rounds)
        last.append((entry, book.spent, len(book.spent), book.policy))
        head = book.seq, book.head
    return [_line(entry, rounds[entry.seq], spent[:count], signed) for entry, spent, count, signed in last], head


def _round(body: Mapping[str, Any], rounds: Mapping[int, str]) -> str:
    if "closes" in body:
        return rounds.get(int(body["closes"]), "")
    return str(body.get("round", body["detail"].get("asked", {}).get("round", "")))


def _line(entry: Entry, number: str, spent: Sequence[Charge], signed: SignedPolicy | None) -> Line:
    mine = signed.policy if signed else None
    epsilon = planning.spent_epsilon(mine, spent) if mine else 0.0
    return Line(entry.seq, str(entry.body["wall_time"]), entry.type, number, epsilon, mine, _note(entry.body))


def _note(body: Mapping[str, Any]) -> str:
    if "update_sha256" in body:
        return f"update {body['update_sha256'][:16]}"
    if "charges" in body:
        return f"{body['charges']} rounds"
    if "policy" in body["detail"]:
        return f"signer {fingerprint(public_from_hex(body['detail']['signer']))}"
    return str(body["detail"].get("reason", ""))


@ledger.command("show")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="The last so many entries.")
@json_option
@click.pass_obj
def show_ledger(folder: Path, limit: int, json_: bool) -> None:
    """Print the last entries, what the period had lost after each, and the head's hash; writes nothing.

    Example: fugou merchant ledger show --limit 50
    """
    lines, (seq, digest) = lines_of(existing(folder), limit)
    if json_:
        as_json({"head": {"seq": seq, "hash": digest}, "entries": [_line_json(one) for one in lines]})
        return
    head = [say(key) for key in ("entry", "time", "kind", "round", "after", "note")]
    click.echo(table([head, *map(_cells, lines)]))
    click.echo(say("head", seq=seq, hash=digest))


def _cells(one: Line) -> list[str]:
    after = promise(one.epsilon, one.policy) if one.policy else ""
    return [str(one.seq), one.time[:19], one.type, one.round, after, one.note]


def _line_json(one: Line) -> dict[str, Any]:
    after = _bound(one.epsilon, one.policy) if one.policy else None
    return {
        "seq": one.seq, "time": one.time, "type": one.type, "round": one.round, "after": after, "note": one.note
    }  # fmt: skip


def existing(folder: Path) -> Path:
    """Return the merchant's ledger file; raises `UserError` when there is none yet."""
    file = folder / LEDGER
    if not file.exists():
        raise UserError(f"{file}: {say('first_round')}")
    return file


def _anchor(context: click.Context, option: click.Parameter, given: Sequence[str]) -> tuple[tuple[int, str], ...]:
    return tuple(map(_one_anchor, given))


def _one_anchor(text: str) -> tuple[int, str]:
    seq, _, digest = text.partition(":")
    if not seq.isdecimal() or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise click.BadParameter(f"{text!r}: write SEQ:HASH, an entry's number and its 64 hex digits")
    return int(seq), digest


anchor_option = click.option(
    "--anchor",
    "anchors",
    multiple=True,
    callback=_anchor,
    metavar="SEQ:HASH",
    help="An entry that somebody else has seen: ledger_seq and ledger_head of a round.json; may be repeated.",
)


@ledger.command("verify")
@anchor_option
@click.option("--file", type=click.Path(path_type=Path, exists=True), help="An exported .jsonl; default: the ledger.")
@click.option("--key", type=click.Path(path_type=Path), help="The ledger's public key; default: keys/ledger.pub.")
@click.pass_obj
def verify_entries(folder: Path, anchors: Sequence[tuple[int, str]], file: Path | None, key: Path | None) -> None:
    """Check every hash, signature, charge, cap, anchor and stored update; exits with 4 and the place that is broken.

    Example: fugou merchant ledger verify
    """
    source = file or existing(folder)
    public = load_public_key(key or public_file(folder, LEDGER_KEY))
    verdict = verify_ledger(source, public, anchors=anchors, outbox=None if file else folder / "outbox")
    for what in verdict.anomalies:
        announce(say("anomaly", what=what))
    if not verdict.ok:
        raise VerificationFailed(say("ledger_broken", file=source, seq=verdict.broken_at, reason=verdict.reason))
    seq, digest = verdict.head
    click.echo(say("ledger_holds", seq=seq, hash=digest, anchors=len(anchors)))


@ledger.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def export(folder: Path, file: Path) -> None:
    """Write every entry to FILE, one a line, for somebody else to verify; it holds nothing about any customer.

    Example: fugou merchant ledger export ledger.jsonl
    """
    if file.suffix != ".jsonl":
        raise UserError(f"{file}: name it .jsonl, which is what it holds and what verify --file reads")
    with Ledger.open(existing(folder), load_key(folder / LEDGER_KEY)) as book:
        count = book.export_jsonl(file)
    click.echo(say("exported", count=count, file=file))


@ledger.command()
@anchor_option
@click.option("--accept", is_flag=True, help="Charge what is lost, signed by the officer.")
@key_option
@click.pass_obj
def recover(folder: Path, anchors: Sequence[tuple[int, str]], accept: bool, key: Path) -> None:
    """Burn reservations of dead processes; after a rollback, say what is lost (exit 4), or charge it with --accept.

    Example: fugou merchant ledger recover --accept --key keys/officer
    """
    file, ledger_key = existing(folder), load_key(folder / LEDGER_KEY)
    span = Ledger.lost_span(file, ledger_key, anchor=max(anchors) if anchors else None)
    if span is None:
        click.echo(say("recovered", count=burn_dead(folder, ledger_key)))
    elif not accept:
        raise VerificationFailed(
            say("lost", after=span.after_seq, lost=span.lost_seq, hash=span.lost_hash[:16], charges=span.charges)
        )
    else:
        click.echo(accept_span(folder, ledger_key, span, officers_key(folder, key, new=False)))


def burn_dead(folder: Path, key: Ed25519PrivateKey) -> int:
    """Return how many reservations of dead processes were burned."""
    before = standing(folder).burned
    Ledger.open(folder / LEDGER, key).close()
    return standing(folder).burned - before


def accept_span(folder: Path, key: Ed25519PrivateKey, span: Span, officer: Ed25519PrivateKey) -> str:
    """Return in words what the ledger says after the officer has signed for the lost span."""
    with Ledger.accept_loss(folder / LEDGER, key, span, officer.sign(span.message)) as book:
        return say(
            "accepted",
            charges=span.charges,
            kid=fingerprint(officer.public_key()),
            promise=promise(book.epsilon_spent(), book.policy.policy),
            left=book.rounds_left(),
        )
