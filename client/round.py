"""One round at one merchant, in the order that privacy rests on.

policy read and its signature checked        (the merchant's own file)
ask compared with the policy                 (anything else it wants: a signed refusal)
charge reserved, on disk                     (or refused: the budget is spent)
first private row read                       (from here on the charge stays, whatever happens)
exactly `steps` private steps
update stored, charge released               (an update released before is sent again as it is)
reply
"""

from __future__ import annotations

import functools
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load as from_safetensors

import client
import common
from client.config import LEDGER, LEDGER_KEY, OFFICER_KEY, POLICY, MerchantSettings, load_merchant
from client.train.sampling import randomness_for
from client.train.state import dataset
from client.train.trainer import LocalSettings, train_round
from common.config import LoraSettings
from common.errors import FugouError, Refused, UserError
from common.files import sha256
from common.lora import Adapter, Bench, bench, check_manifest, digest, lift, manifest, to_bytes
from common.model import check_length
from common.privacy.keys import load_key, load_public_key, public_path
from common.privacy.ledger import Ledger, has_entries
from common.privacy.plan import RoundPlan, plan_round
from common.privacy.policy import PRIVATE_KEYS, Policy, SignedPolicy, check_ask, load_policy
from common.wire import TrainAsk, TrainReply, unpack_ask

log = logging.getLogger("fugou.client")

NORM_LIMIT = 1e4
PRIVATE_KEYS_OF_AN_ASK = frozenset(PRIVATE_KEYS) - {"app_digest"}
"""What a message may name only as the policy has it; `check_ask` compares them, everything else beside an ask is refused."""
METHODS = ("fedavg", "ffa", "fedsvd")


def take_part(content: object, folder: Path) -> TrainReply:
    """Return the merchant's reply to one round's ask: done, refused (with the public reason) or failed (with none)."""
    merchant, number = folder.name, 0
    try:
        settings = load_merchant(folder)
        merchant = settings.merchant.id
        ask, extra = unpack_ask(content)  # type: ignore[arg-type]
        number = ask.round
        return _train(ask, extra, settings)
    except Exception as error:
        foreseen = isinstance(error, (FugouError, OSError))
        log.error("%s failed in round %d: %s", merchant, number, error, exc_info=not foreseen)
        return TrainReply("failed", merchant, number)


def _train(ask: TrainAsk, extra: frozenset[str], settings: MerchantSettings) -> TrainReply:
    folder = settings.folder
    policy = load_policy(folder / POLICY, public_key=load_public_key(public_path(folder / OFFICER_KEY)))
    try:
        with open_ledger(folder, policy) as ledger:
            return _answer(ask, extra, settings, policy, ledger)
    except Refused as refusal:  # a changed policy that the ledger does not take
        return TrainReply("refused", settings.merchant.id, ask.round, reason=str(refusal), policy_digest=policy.digest)


def _answer(
    ask: TrainAsk, extra: frozenset[str], settings: MerchantSettings, policy: SignedPolicy, ledger: Ledger
) -> TrainReply:
    """Return the reply, done or refused; either way the ledger's last entry signs for it."""
    charge: dict[str, float | int | str] = {}
    update, reason = b"", ""
    try:
        work = examine(ask, extra, policy.policy, settings, ledger)
        plan = plan_round(policy, ask.run, ask.round, digest(ask.adapter))
        with ledger.reserve(plan) as reservation:
            if reservation.stored:
                update = reservation.stored.read()
            else:
                reservation.touch()
                update = to_bytes(_updated(ask, plan, policy.policy, settings, work))
                ledger.release(reservation, update)
        charge = {**asdict(plan.charge), "delta": plan.delta, "unit": policy.policy.unit}
    except Refused as refusal:
        log.warning("%s refuses round %d: %s", settings.merchant.id, ask.round, refusal)
        reason = str(refusal)
    entry = ledger.last()
    return TrainReply(
        "refused" if reason else "done",
        settings.merchant.id,
        ask.round,
        reason=reason,
        charge=charge,
        policy_digest=policy.digest,
        base_digest=ask.base_digest,
        ledger_seq=entry.seq,
        ledger_head=entry.hash,
        ledger_sig=entry.sig,
        update_digest=sha256(update) if update else "",
        update=dict(sorted(from_safetensors(update).items())) if update else {},
    )


def open_ledger(folder: Path, policy: SignedPolicy) -> Ledger:
    """Return the merchant's ledger, begun on first use; a newly signed policy takes effect here or is refused."""
    key = load_key(folder / LEDGER_KEY)
    path = folder / LEDGER
    if not (path.exists() and has_entries(path)):
        return Ledger.create(path, policy, key)
    ledger = Ledger.open(path, key)
    try:
        if ledger.policy.digest != policy.digest:
            ledger.adopt(policy)
    except BaseException:
        ledger.close()
        raise
    return ledger


def examine(ask: TrainAsk, extra: frozenset[str], policy: Policy, settings: MerchantSettings, ledger: Ledger) -> Bench:
    """Return the merchant's base, ready for the ask; raise `Refused`, booked, when it wants what the policy does not allow."""
    try:
        return compare(ask, extra, policy, settings)
    except Refused as refusal:
        ledger.refuse(str(refusal), {"run": ask.run, "round": ask.round, "extra": sorted(extra)})
        raise


def compare(ask: TrainAsk, extra: frozenset[str], policy: Policy, settings: MerchantSettings) -> Bench:
    """Return the merchant's base with an adapter of the policy's shape; raise `Refused` for an ask that differs."""
    unknown = extra - PRIVATE_KEYS_OF_AN_ASK
    if unknown:
        raise Refused(f"the message carries {', '.join(sorted(unknown))} besides the ask; nothing more is taken")
    check_ask(policy, words_of(ask, extra))
    if ask.method not in METHODS:
        raise Refused(f"method = {ask.method!r} is none of {', '.join(METHODS)}")
    lora = LoraSettings(targets=policy.lora.targets, rank=policy.lora.rank, alpha=policy.lora.alpha)
    work = bench(settings.model.base, lora)
    check_length(work.base, policy.max_tokens)
    if ask.base_digest != work.base.digest:
        raise Refused(f"base_digest = {ask.base_digest[:16]}…; this merchant holds {work.base.digest[:16]}…")
    try:
        check_manifest(ask.adapter, manifest(lift(work.model)))
    except UserError as error:
        raise Refused(f"{error}; the policy allows exactly rank {lora.rank} on {', '.join(lora.targets)}") from None
    norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(one) for one in ask.adapter.values()])))
    if not norm <= NORM_LIMIT:
        raise Refused(f"the adapter's norm is {norm:.3g}, above {NORM_LIMIT:g}: no sane run gets there")
    return work


def words_of(ask: TrainAsk, extra: frozenset[str]) -> dict[str, object]:
    """Return the ask in the vocabulary of `check_ask`; whatever the message carried besides is in it too."""
    said: dict[str, object] = dict.fromkeys(extra)
    return said | {
        "run": ask.run,
        "round": ask.round,
        "method": ask.method,
        "learning_rate": ask.local_rate,
        "adapter_digest": digest(ask.adapter),
        "base_digest": ask.base_digest,
        "app_digest": app_digest(),
    }


@functools.cache
def app_digest() -> str:
    """Return the hex SHA-256 of the code that answers: every source file of `client` and `common`, by name and bytes.

    It is taken from what this process has imported, whatever a message claims; `apps` in the policy lists what may run.
    """
    rooms = [Path(str(room.__file__)).parent for room in (client, common)]
    files = sorted(
        (room.name, path.relative_to(room).as_posix(), path) for room in rooms for path in room.rglob("*.py")
    )
    return sha256(b"".join(f"{room}/{name}\0".encode() + path.read_bytes() + b"\0" for room, name, path in files))


def _updated(ask: TrainAsk, plan: RoundPlan, policy: Policy, settings: MerchantSettings, work: Bench) -> Adapter:
    if settings.train.threads:
        torch.set_num_threads(settings.train.threads)
    return train_round(
        work.model,
        ask.adapter,
        dataset(settings, work.base, policy),
        plan,
        randomness_for(plan, ask.seed),
        method=ask.method,
        local_rate=ask.local_rate,
        settings=LocalSettings(settings.train.microbatch, settings.train.device),
    )
