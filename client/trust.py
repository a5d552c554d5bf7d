"""What a merchant believes of a coordinator: nothing that the coordinator's key has not signed, and no second story.

A merchant that joined keeps the coordinator's public key. From then on every ask needs a seal (`common.seal`) that names
this very ask, is signed by that key, and continues the one history this merchant has been shown. What does not is
refused before anything is charged, and kept as evidence.

models/chain.json       the last seal that was accepted; it carries the digest of everything before it
models/alarms.jsonl     every seal that was refused, with the reason
"""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

from flwr.app import RecordDict

from client.config import load_merchant
from common.errors import FugouError, UserError, VerificationFailed
from common.files import write_atomic
from common.privacy.keys import fingerprint, load_public_key
from common.seal import SEAL, Seal, body_of, links, read_record, read_text, verify
from common.wire import TrainAsk, TrainReply, unpack_ask

COORDINATOR_KEY = Path("keys/coordinator.pub")
CHAIN, ALARMS = Path("models/chain.json"), Path("models/alarms.jsonl")
MOST_ALARMS = 1000

log = logging.getLogger("fugou.client")


def distrusts(content: RecordDict, folder: Path) -> TrainReply | None:
    """Take the seal out of `content` and return the refusal that it deserves, or None for an ask to be believed.

    A folder without a coordinator's key (a simulated merchant) believes every ask.
    """
    record = content.pop(SEAL, None)
    if not (folder / COORDINATOR_KEY).exists():
        return None
    merchant, number = folder.name, 0
    try:
        merchant = load_merchant(folder).merchant.id
        ask, _ = unpack_ask(content)
        number = ask.round
        accept(_seal_of(record), ask, folder)
    except VerificationFailed as error:
        log.error("%s refuses round %d: %s", merchant, number, error)
        _alarm(folder, str(error), record)
        return TrainReply("refused", merchant, number, reason=str(error))
    except (FugouError, OSError) as error:
        log.error("%s failed in round %d: %s", merchant, number, error)
        return TrainReply("failed", merchant, number)
    return None


def _seal_of(record: object) -> Seal:
    if record is None:
        raise VerificationFailed("the ask carries no seal; this merchant takes signed rounds only")
    try:
        return read_record(record)
    except UserError as error:
        raise VerificationFailed(str(error)) from None


def accept(seal: Seal, ask: TrainAsk, folder: Path) -> None:
    """Make the seal of `ask` the end of the merchant's chain; raise `VerificationFailed` unless both are to be believed."""
    verify(seal, load_public_key(folder / COORDINATOR_KEY))
    _check_named(seal, ask)
    last = read_chain(folder)
    if last:
        _check_history(seal, last)
    if last is None or seal.body.seq > last.body.seq:
        write_atomic(folder / CHAIN, seal.text() + "\n")


def _check_named(seal: Seal, ask: TrainAsk) -> None:
    own = asdict(body_of(ask, seal.body.federation, seal.body.seq))
    for name, value in asdict(seal.body).items():
        if own[name] != value:
            raise VerificationFailed(f"the seal names {name} = {value!r}, the ask {own[name]!r}: not what was signed")


def _check_history(seal: Seal, last: Seal) -> None:
    """Raise unless `seal` is the `last` one again or goes on from it."""
    place = min(seal.body.seq, last.body.seq)
    shown, now = (links(one.body.federation, one.digests)[place] for one in (last, seal))
    if shown != now:
        raise VerificationFailed(
            f"two histories: place {place} of the chain was shown as {shown[:16]}… and is now {now[:16]}…; "
            f"{CHAIN} and {ALARMS} prove it"
        )
    if seal.body.seq < last.body.seq:
        raise VerificationFailed(
            f"round {seal.body.round} is replayed: the chain stands at {last.body.seq}, this is place {seal.body.seq}"
        )


def read_chain(folder: Path) -> Seal | None:
    """Return the last seal this merchant has accepted, or None before the first; raise `UserError` for a damaged file."""
    path = folder / CHAIN
    return read_text(path.read_text("utf-8")) if path.exists() else None


def coordinator_fingerprint(folder: Path) -> str:
    """Return the fingerprint of the coordinator's key that this merchant believes: what people compare."""
    return fingerprint(load_public_key(folder / COORDINATOR_KEY))


def compare(folder: Path, place: int, link: str) -> str:
    """Return one line that says that both merchants were shown one history up to `place`.

    Raises `VerificationFailed` when they were shown two, `UserError` when this merchant knows of no such place yet.
    """
    last = read_chain(folder)
    known = links(last.body.federation, last.digests) if last else []
    if not 0 <= place < len(known):
        raise UserError(f"this merchant's chain ends at {max(len(known) - 1, 0)}; compare place {place} later")
    if known[place] != link.lower():
        raise VerificationFailed(
            f"place {place}: this merchant was shown {known[place]}, the other {link}; the coordinator tells two stories"
        )
    return f"place {place}: the same history"


def _alarm(folder: Path, reason: str, record: object) -> None:
    """Keep a refused seal with the reason; on a full disk the refusal stands without it."""
    with contextlib.suppress(UserError, OSError):
        try:
            seal = read_record(record).text()
        except UserError:
            seal = ""
        path = folder / ALARMS
        before = path.read_text("utf-8").splitlines() if path.exists() else []
        line = json.dumps({"reason": reason, "seal": seal}, ensure_ascii=False)
        write_atomic(path, "\n".join([*before, line][-MOST_ALARMS:]) + "\n")
