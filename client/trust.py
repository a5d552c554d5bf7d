"""What a merchant believes of a coordinator: nothing that the coordinator's key has not signed, and no second story.

A merchant that joined keeps the coordinator's public key. From then on every ask needs a seal (`common.seal`) that names
this very ask, is signed by that key, and continues the one history this merchant has been shown. What does not is
refused before anything is charged, and kept as evidence.

A model that is handed out after a run has such a seal too (`check_model`).

models/chain.json       the last seal that was accepted; it carries the digest of everything before it
models/alarms.jsonl     every seal that was refused, with the reason
"""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from flwr.app import RecordDict

from client.config import load_merchant
from common.errors import FugouError, UserError, VerificationFailed
from common.files import write_atomic
from common.lora import load
from common.model import digest_of, find_folder
from common.privacy.keys import fingerprint, load_public_key
from common.ranking import HEAD_FILE, read_head
from common.seal import SEAL, SEAL_FILE, Seal, body_of, links, model_digest, read_record, read_text, verify
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


def check_model(folder: Path, model: Path) -> Seal:
    """Return the seal of the model in `model`, a folder of its own or a run's, which this merchant has to believe.

    From then on it is part of the history that this merchant was shown. Raises `VerificationFailed` for a model that the
    coordinator did not sign, that was changed, that stands on another base, or in another history; `UserError` where there
    is nothing to check or nobody to believe.
    """
    model = model / "model" if (model / "model").is_dir() else model
    seal = _seal_in(model)
    if not (folder / COORDINATOR_KEY).exists():
        raise UserError(
            f"{folder / COORDINATOR_KEY} is missing: nobody is believed yet; `fugou merchant join` comes first"
        )
    verify(seal, load_public_key(folder / COORDINATOR_KEY))
    _check_model(seal, model, digest_of(find_folder(load_merchant(folder).model.base)))
    last = read_chain(folder)
    try:
        if last:
            _check_past(seal, last)
    except VerificationFailed as error:
        _alarm(folder, str(error), seal.record())
        raise
    if last is None or seal.body.seq > last.body.seq:
        write_atomic(folder / CHAIN, seal.text() + "\n")
    return seal


def _seal_in(model: Path) -> Seal:
    path = model / SEAL_FILE
    try:
        return read_text(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: {error}; ask the coordinator for an export made after the run has ended"
        ) from None


def _check_model(seal: Seal, model: Path, base_digest: str) -> None:
    if not seal.body.closes:
        raise VerificationFailed(f"{model / SEAL_FILE} is the seal of an ask, and of no model")
    there = read_head(model / HEAD_FILE) if (model / HEAD_FILE).exists() else {}
    head = {name: torch.from_numpy(one) for name, one in there.items()}
    for what, said, found in (
        ("model", seal.body.adapter_digest, model_digest(load(model), head)),
        ("base", seal.body.base_digest, base_digest),
    ):
        if said != found:
            raise VerificationFailed(
                f"the seal in {model} is of {what} {said[:16]}…, here is {found[:16]}…; use neither"
            )


def _check_named(seal: Seal, ask: TrainAsk) -> None:
    own = asdict(body_of(ask, seal.body.federation, seal.body.seq))
    for name, value in asdict(seal.body).items():
        if own[name] != value:
            raise VerificationFailed(f"the seal names {name} = {value!r}, the ask {own[name]!r}: not what was signed")


def _check_history(seal: Seal, last: Seal) -> None:
    """Raise unless `seal` is the `last` one again or goes on from it."""
    _check_past(seal, last)
    if seal.body.seq < last.body.seq:
        raise VerificationFailed(
            f"round {seal.body.round} is replayed: the chain stands at {last.body.seq}, this is place {seal.body.seq}"
        )


def _check_past(seal: Seal, last: Seal) -> None:
    """Raise unless `seal` and the `last` one tell one history as far as both go."""
    place = min(seal.body.seq, last.body.seq)
    shown, now = (links(one.body.federation, one.digests)[place] for one in (last, seal))
    if shown != now:
        raise VerificationFailed(
            f"two histories: place {place} of the chain was shown as {shown[:16]}… and is now {now[:16]}…; "
            f"{CHAIN} and {ALARMS} prove it"
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
