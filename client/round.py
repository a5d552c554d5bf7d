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
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args

import torch
from safetensors.torch import load as from_safetensors

import client
import common
from client.audit.hold import check_audit
from client.books import ledger_of
from client.config import LEDGER, LEDGER_KEY, OFFICER_KEY, POLICY, MerchantSettings, load_merchant
from client.train.device import on_device
from client.train.head import HeadSteps
from client.train.sampling import Randomness, randomness_for
from client.train.state import dataset, head_data
from client.train.steps import LocalStep, fault_of
from client.train.trainer import LocalSettings, train_round
from common.codes import encode
from common.config import LEAST_SHARE, MOST_SHARE, LoraSettings, Wire
from common.errors import FugouError, Refused, UserError
from common.factors import Closed, at_rank, axis, close, cut, opened
from common.files import sha256, write_atomic
from common.lora import (
    A_END,
    B_END,
    Adapter,
    Bench,
    bench,
    check_manifest,
    initial,
    residual_in,
    shapes,
    to_bytes,
)
from common.methods import METHODS
from common.model import check_length
from common.privacy.keys import load_key, load_public_key, public_path
from common.privacy.ledger import Ledger, has_entries
from common.privacy.plan import RoundPlan, plan_round
from common.privacy.policy import PRIVATE_KEYS, Policy, SignedPolicy, check_ask, load_policy
from common.ranking import PARTS
from common.wire import TrainAsk, TrainReply, prefixed, unpack_ask

log = logging.getLogger("fugou.client")

NORM_LIMIT = 1e4
MOST_DIRECTIONS = 4096
"""A residual of more would be larger than the layers it belongs into."""
OWN = "models/own"
LOCAL = {field.name for field in fields(LocalSettings)}
"""The settings of [train] that say how a merchant computes."""
PRIVATE_KEYS_OF_AN_ASK = frozenset(PRIVATE_KEYS) - {"app_digest"}
"""What a message may name only as the policy has it; `check_ask` compares them, everything else beside an ask is refused."""


def take_part(content: object, folder: Path) -> TrainReply:
    """Return the merchant's reply to one round's ask: done, refused (with the public reason) or failed (with none)."""
    merchant, number = folder.name, 0
    try:
        settings = on_device(load_merchant(folder))
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
        with ledger_of(folder, lambda: open_ledger(folder, policy)) as ledger:
            take_policy(ledger, policy)
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
        plan = plan_round(policy, ask.run, ask.round, ask.digest)
        with ledger.reserve(plan) as reservation:
            if reservation.stored:
                update = reservation.stored.read()
            else:
                reservation.touch()
                closed, head = _trained(ask, plan, policy.policy, settings, work)
                keep_own(settings.folder, ask, closed.kept)
                update = to_bytes(travelling({**closed.update, **prefixed(head)}, ask, plan))
                ledger.release(reservation, update)
        charge = {**asdict(plan.charge), "divisor": plan.divisor, "delta": plan.delta, "unit": policy.policy.unit}
        charge["period"] = policy.policy.period
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
    if not (path.exists() and (path.with_suffix(".anchor").exists() or has_entries(path))):
        return Ledger.create(path, policy, key)
    ledger = Ledger.open(path, key)
    try:
        take_policy(ledger, policy)
    except BaseException:
        ledger.close()
        raise
    return ledger


def take_policy(ledger: Ledger, policy: SignedPolicy) -> None:
    """Let a newly signed policy take effect; raises `Refused` for one that the ledger does not take."""
    if ledger.policy.digest != policy.digest:
        ledger.adopt(policy)


def examine(ask: TrainAsk, extra: frozenset[str], policy: Policy, settings: MerchantSettings, ledger: Ledger) -> Bench:
    """Return the merchant's base, ready for the ask; raise `Refused`, booked, when it wants what the policy does not allow."""
    try:
        check_audit(ledger)
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
    for name, value, known in (("method", ask.method, METHODS), ("wire", ask.wire, get_args(Wire))):
        if value not in known:
            raise Refused(f"{name} = {value!r} is none of {', '.join(known)}")
    work = bench(settings.model.base, lora_of(policy, ask.method))
    check_length(work.base, policy.max_tokens)
    if ask.base_digest != work.base.digest:
        raise Refused(f"base_digest = {ask.base_digest[:16]}…; this merchant holds {work.base.digest[:16]}…")
    check_tensors(ask, policy, shapes(work.model))
    check_head(ask)
    if fault := fault_of(step_of(ask), ask.local_rate):
        raise Refused(fault)
    return work


def step_of(ask: TrainAsk) -> LocalStep:
    """Return how the ask wants weights to be moved."""
    return LocalStep(ask.local_optimizer, ask.adam_floor, ask.proximal)  # type: ignore[arg-type]


def lora_of(policy: Policy, method: str) -> LoraSettings:
    """Return the shape of what the merchant's model carries: the policy's, twice as wide with a private half beside it."""
    wide = 2 if METHODS[method].own else 1
    return LoraSettings(targets=policy.lora.targets, rank=wide * policy.lora.rank, alpha=wide * policy.lora.alpha)


def check_tensors(ask: TrainAsk, policy: Policy, model: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `Refused` unless adapter and residual fit the policy: its layers, its scale, at least its rank, sane norms."""
    rank, scale = policy.lora.rank, policy.lora.alpha / policy.lora.rank
    if not math.isclose(ask.scale, scale):
        raise Refused(f"scale = {ask.scale:g}; the policy has alpha / rank = {scale:g}")
    try:
        check_manifest(ask.adapter, at_rank(model, max(rank, _rank(ask.adapter))))
        _check_residual(ask, model)
    except UserError as error:
        raise Refused(f"{error}; the policy allows rank {rank} on {', '.join(policy.lora.targets)}") from None
    for tensors in (ask.adapter, ask.residual, ask.head):
        norm = math.sqrt(sum(float(torch.linalg.vector_norm(one)) ** 2 for one in tensors.values()))
        if not norm <= NORM_LIMIT:
            raise Refused(f"the adapter's norm is {norm:.3g}, above {NORM_LIMIT:g}: no sane run gets there")


def check_head(ask: TrainAsk) -> None:
    """Raise `Refused` unless the ask has this version's head at a share that leaves both sides something, or none at 0."""
    if ask.head_share and not LEAST_SHARE <= ask.head_share <= MOST_SHARE:
        raise Refused(f"head_share = {ask.head_share:g}: neither 0 nor within [{LEAST_SHARE:g}, {MOST_SHARE:g}]")
    try:
        check_manifest(ask.head, {name: part.shape for name, part in PARTS.items()} if ask.head_share else {})
    except UserError as error:
        raise Refused(f"head at head_share = {ask.head_share:g}: {error}") from None


def _rank(adapter: Adapter) -> int:
    """Return the rank that the first tensor declares, at most `MOST_DIRECTIONS`; 0 where there is none."""
    name = min(adapter, default="")
    shape = adapter[name].shape if name else ()
    return min(shape[axis(name)], MOST_DIRECTIONS) if len(shape) == 2 else 0


def _check_residual(ask: TrainAsk, model: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `UserError` unless the residual has both factors of one rank for layers that the model has, and is wanted."""
    if ask.residual and not METHODS[ask.method].residual:
        raise UserError(f"the ask carries a residual, which {ask.method} has none of")
    for name, tensor in ask.residual.items():
        at = axis(name)
        end, other = (A_END, B_END) if at == 0 else (B_END, A_END)
        partner = ask.residual.get(name.removesuffix(end) + other)
        wanted = list(model.get(name, ()))
        if wanted:
            wanted[at] = min(tensor.shape[at] if tensor.dim() == 2 else 0, MOST_DIRECTIONS)
        if list(tensor.shape) != wanted or partner is None or partner.shape[1 - at] != tensor.shape[at]:
            raise UserError(f"residual {name!r} is {tuple(tensor.shape)}, expected {tuple(wanted)} and its partner")


def words_of(ask: TrainAsk, extra: frozenset[str]) -> dict[str, object]:
    """Return the ask in the vocabulary of `check_ask`; whatever the message carried besides is in it too."""
    said: dict[str, object] = dict.fromkeys(extra)
    return said | {
        "run": ask.run,
        "round": ask.round,
        "method": ask.method,
        "learning_rate": ask.local_rate,
        "adapter_digest": ask.digest,
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


def _trained(
    ask: TrainAsk, plan: RoundPlan, policy: Policy, settings: MerchantSettings, work: Bench
) -> tuple[Closed, Adapter]:
    """Return what travels and what stays after the round's private steps, at the policy's own rank, and the head's update."""
    if settings.train.threads:
        torch.set_num_threads(settings.train.threads)
    asked = cut(ask.adapter, 0, policy.lora.rank)
    own = own_parts(settings.folder, ask.run, ask.round, ask.method)
    if METHODS[ask.method].own and not own:
        own = first_own(work, ask.seed, policy.lora.rank)
    carried = opened(asked, own, ask.method)
    randomness = randomness_for(plan, ask.seed)
    head = _head_steps(ask, plan, policy, settings, work, randomness)
    with residual_in(work.model, ask.residual, ask.scale):
        change = train_round(
            work.model,
            carried,
            dataset(settings, work.base, policy),
            plan,
            randomness,
            method=ask.method,
            local_rate=ask.local_rate,
            step=step_of(ask),
            settings=LocalSettings(**settings.train.model_dump(include=LOCAL)),
            share=1 - ask.head_share,
            beside=head.step if head else lambda _: None,
        )
    after = {name: tensor + change[name] if name in change else tensor for name, tensor in carried.items()}
    moved = {name: torch.from_numpy(one) for name, one in head.update().items()} if head else {}
    return close(after, asked, ask.method, ask.round), moved


def travelling(released: Adapter, ask: TrainAsk, plan: RoundPlan) -> Adapter:
    """Return what has been clipped and noised in the form in which the ask wants it; from here on it is post-processing.

    This form is what the ledger keeps, so that a round asked again is answered with the same codes and not with new ones.
    """
    return encode(released, randomness_for(plan, ask.seed, "wire").words) if ask.wire == "int8" else released


def _head_steps(
    ask: TrainAsk, plan: RoundPlan, policy: Policy, settings: MerchantSettings, work: Bench, randomness: Randomness
) -> HeadSteps | None:
    """Return the head at the start of its round, or None where the ask has none."""
    if not ask.head_share:
        return None
    start = {name: one.numpy() for name, one in ask.head.items()}
    customers = head_data(settings, work.base, policy)
    return HeadSteps(start, customers, plan, randomness, head_share=ask.head_share)


# What a merchant keeps for itself, under methods that have such parts.


def own_folder(folder: Path, run: str) -> Path:
    """Return where the merchant in `folder` keeps its own parts of the run."""
    return folder / OWN / sha256(run.encode())[:16]


def own_parts(folder: Path, run: str, before: int, method: str) -> Adapter:
    """Return what the merchant in `folder` kept after the last round it took part in, before round `before`; or nothing."""
    travel = METHODS[method]
    if not (travel.own or travel.stays):
        return {}
    earlier = [path for path in own_folder(folder, run).glob("*.safetensors") if int(path.stem) < before]
    return dict(sorted(from_safetensors(max(earlier).read_bytes()).items())) if earlier else {}


def first_own(wide: Bench, seed: int, rank: int) -> Adapter:
    """Return the private half that a merchant begins with: A drawn from the public seed, B zero."""
    return cut(initial(wide.model, seed), rank, 2 * rank)


def keep_own(folder: Path, ask: TrainAsk, kept: Adapter) -> None:
    """Write what stays at the merchant after the ask's round, whole or not at all; older rounds but one go."""
    if not kept:
        return
    mine = own_folder(folder, ask.run)
    write_atomic(mine / f"{ask.round:06d}.safetensors", to_bytes(kept))
    for path in sorted(mine.glob("*.safetensors"))[:-2]:
        path.unlink()
