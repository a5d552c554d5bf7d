"""Flower's verbs for adapters: ask, check every reply, add up, save. The arithmetic is in `aggregation` and `optimizers`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from common.config import FederationSettings
from common.errors import Unreachable, UserError
from common.factors import at_rank, axis
from common.lora import Adapter, digest, manifest
from common.ranking import PARTS
from common.wire import HEAD, TrainAsk, TrainReply, declared_shapes, parted, unpack_reply
from server.aggregation import RULES, Outcome, Round, combine, residual_of
from server.optimizers import OPTIMIZERS
from server.ranking import HeadState, begin, middle_update, state_digest, step
from server.reference import agreement, objections
from server.robust import robust
from server.rounds import SavedRound, read_record, save_round
from server.weights import by_band, by_noise, capped, equal, noise_variance, read_bands

log = logging.getLogger("fugou.server")

POLL = 0.5
NORM_LIMIT = 1e4
"""No honest update comes near; above it sums and factorisations stop being numbers."""
AGREEMENT = "agreement"
STATUSES = ("done", "refused", "failed", "set aside", "late")


Direction = Callable[[SavedRound, Sequence[str]], Adapter]
"""Where the coordinator's own texts lead: an update of the tensors named, from where the round began."""


@dataclass(frozen=True)
class Verdict:
    """What became of one merchant's part in a round; `weight` is public, `status` one word, `reason` one line."""

    merchant: str
    status: str
    reason: str = ""
    weight: float = 0.0
    reply: TrainReply | None = field(default=None, repr=False)
    agreement: float | None = None
    """z of `server.reference`, where the coordinator has one."""

    def record(self) -> dict[str, Any]:
        """Return the verdict as it stands in `round.json`."""
        reply = self.reply
        agreement = {} if self.agreement is None else {AGREEMENT: round(self.agreement, 3)}
        return {
            **agreement,
            "merchant": self.merchant,
            "status": self.status,
            "reason": self.reason,
            "weight": self.weight,
            "charge": dict(reply.charge) if reply else {},
            "policy_digest": reply.policy_digest if reply else "",
            "ledger_seq": reply.ledger_seq if reply else 0,
            "ledger_head": reply.ledger_head if reply else "",
            "ledger_sig": reply.ledger_sig if reply else "",
            "update_digest": reply.update_digest if reply else "",
        }


class AdapterStrategy(Strategy):
    """One shared adapter, led through rounds; what it knows between rounds is on disk."""

    def __init__(
        self,
        settings: FederationSettings,
        run_id: str,
        folder: Path,
        start: SavedRound,
        base: str,
        direction: Direction | None = None,
    ) -> None:
        self.settings, self.run_id, self.folder, self.base_name = settings, run_id, folder, base
        self.direction = direction
        self.agreements = agreements(folder, start.number) if direction else {}
        self.current = start
        self.rule = RULES[settings.training.method]
        self.rule.check(settings.training.server_optimizer == "sgd")
        self.bands = read_bands(settings.training.bands)
        self.done_before = start.number
        self._asked: list[Message] = []
        self._began = 0.0

    def summary(self) -> None:
        """Log one line about the run."""
        training = self.settings.training
        log.info("run %s: %s, %d rounds, %d done", self.run_id, training.method, training.rounds, self.current.number)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one ask for every merchant that is online, or for those drawn for the round, in the order of node ids."""
        self._began = time.monotonic()
        nodes = drawn(
            self._wait_for_merchants(grid),
            self.settings.training.per_round,
            self.settings.training.seed,
            self.done_before + server_round,
        )
        ask = TrainAsk(
            run=self.run_id,
            round=self.done_before + server_round,
            method=self.settings.training.method,
            local_rate=self.settings.training.local_rate,
            seed=self.settings.training.seed,
            base_digest=self.settings.model.base_digest,
            settings_digest=self.settings.digest(),
            scale=self.settings.lora.alpha / self.settings.lora.rank,
            adapter=self.current.adapter,
            residual=residual_of(self.current.state),
            local_optimizer=self.settings.training.local_optimizer,
            adam_floor=self.settings.training.adam_floor,
            proximal=self.settings.training.proximal,
            wire=self.settings.training.wire,
            head_share=self.settings.training.head_share,
            head=self._head(),
        )
        content = ask.pack()
        group = str(ask.round)
        self._asked = [Message(content, node, MessageType.TRAIN, group_id=group) for node in nodes]
        return self._asked

    def _head(self) -> Adapter:
        """Return the head that is asked to be trained, none at share 0."""
        if not self.settings.training.head_share:
            return {}
        return {name: torch.from_numpy(one) for name, one in self._head_state().asked.items()}

    def _head_state(self) -> HeadState:
        return self.current.head or begin({name: np.zeros(part.shape, np.float32) for name, part in PARTS.items()})

    def _wait_for_merchants(self, grid: Grid) -> list[int]:
        wanted, patience = self.settings.training.merchants, self.settings.training.wait
        give_up = time.monotonic() + patience
        while len(nodes := sorted(grid.get_node_ids())) < max(wanted, 1):
            if time.monotonic() > give_up:
                raise Unreachable(
                    f"{len(nodes)} of {wanted} merchants online after {patience:g} s; start them, then --resume"
                )
            time.sleep(POLL)
        return nodes

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next shared adapter and how many replies were of which kind; the round is on disk before this returns."""
        number = self.done_before + server_round
        verdicts, bytes_up = self._judge(replies, number)
        arrived = time.monotonic()
        verdicts = self._held_against_reference(verdicts)
        accepted = [one for one in verdicts if one.status == "done"]
        if len(accepted) >= max(1, self.settings.training.quorum * len(self._asked)):
            judged, outcome = self._next(accepted, number)
            verdicts = [judged.get(one.merchant, one) if one.status == "done" else one for one in verdicts]
            adapter, state, head = outcome.adapter, outcome.state, self._next_head(verdicts)
        else:
            log.warning(
                "round %d: %d of %d merchants, below the quorum; the adapter stays",
                number,
                len(accepted),
                len(self._asked),
            )
            adapter, state, head = self.current.adapter, self.current.state, self.current.head
        self.current = SavedRound(number, adapter, state, head)
        record = self._record(number, verdicts, bytes_up, adapter)
        record["parts"] = {"messages": arrived - self._began, "aggregate": time.monotonic() - arrived}
        record["seconds"] = time.monotonic() - self._began
        save_round(self.folder, self.current, record, self.settings.lora, self.base_name)
        counts = {status: sum(one.status == status for one in verdicts) for status in STATUSES}
        log.info("round %d: %s", number, ", ".join(f"{count} {status}" for status, count in counts.items() if count))
        return ArrayRecord(adapter), MetricRecord(dict(counts))

    def _judge(self, replies: Iterable[Message], number: int) -> tuple[list[Verdict], int]:
        """Return one verdict for every ask, and the bytes of all replies; a reply goes as soon as it has its verdict.

        Verdicts stand in the order of merchants' names, then of nodes; nodes that never answered come last.
        """
        nodes: dict[str, int] | None = None
        judged: list[tuple[int, Verdict]] = []
        bytes_up = 0
        for reply in replies:
            nodes = self._nodes() if nodes is None else nodes  # messages have ids once they are sent
            bytes_up += size_of(reply.content) if reply.has_content() else 0
            node = nodes.pop(reply.metadata.reply_to_message_id, None)
            if node is not None:
                judged.append((node, self._verdict(reply, node, number)))
        verdicts = [one for _, one in sorted(judged, key=lambda pair: (pair[1].merchant, pair[0]))]
        silent = (self._nodes() if nodes is None else nodes).values()
        late = [Verdict(f"node {node}", "late", "no reply before the deadline") for node in silent]
        return _once_each(verdicts) + late, bytes_up

    def _nodes(self) -> dict[str, int]:
        """Return which node each of the round's messages went to."""
        return {one.metadata.message_id: one.metadata.dst_node_id for one in self._asked}

    def _verdict(self, message: Message, node: int, number: int) -> Verdict:
        if message.has_error() and message.error.code == ErrorCode.NODE_UNAVAILABLE:
            return Verdict(f"node {node}", "late", message.error.reason or "the node cannot be reached")
        if message.has_error():
            return Verdict(f"node {node}", "failed", message.error.reason or "no reply could be made")
        try:
            expected = self._expected(number, declared_shapes(message.content))
            reply = unpack_reply(message.content, expected, self.settings.training.wire)
        except UserError as error:
            return Verdict(f"node {node}", "set aside", str(error))
        if reply.status != "done":
            return Verdict(reply.merchant, reply.status, reply.reason, reply=reply)
        if reply.round != number or reply.base_digest != self.settings.model.base_digest:
            return Verdict(reply.merchant, "set aside", f"answers round {reply.round} on base {reply.base_digest[:12]}")
        norm = float(torch.linalg.vector_norm(torch.cat([tensor.flatten() for tensor in reply.update.values()])))
        if norm > NORM_LIMIT:
            return Verdict(reply.merchant, "set aside", f"update of norm {norm:.3g}, above {NORM_LIMIT:g}")
        return Verdict(reply.merchant, "done", weight=1.0, reply=reply)

    def _held_against_reference(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Return the verdicts, those set aside whose updates lead away from where the coordinator's own texts lead."""
        updates = {one.merchant: parted(one.reply.update)[0] for one in verdicts if one.status == "done" and one.reply}
        if self.direction is None or not updates:
            return list(verdicts)
        towards = self.direction(self.current, sorted(next(iter(updates.values()))))
        found = {merchant: agreement(update, towards) for merchant, update in updates.items()}
        reasons = objections(found, self.agreements)
        for merchant, z in found.items():
            self.agreements.setdefault(merchant, []).append(z)
        return [
            _held(one, found[one.merchant], reasons[one.merchant]) if one.status == "done" else one for one in verdicts
        ]

    def _expected(self, number: int, declared: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return names and shapes of what a reply to round `number` carries, at the one rank that it declares."""
        shapes = manifest(self.current.adapter)
        names = self.rule.shared(shapes, number)
        rank = self.settings.lora.rank
        said = declared.get(names[0], ())
        own = min(max(said[axis(names[0])], 1), rank) if len(said) == 2 else rank
        head = {name: part.shape for name, part in PARTS.items()} if self.settings.training.head_share else {}
        return at_rank({name: shapes[name] for name in names}, own) | {f"{HEAD}.{name}": head[name] for name in head}

    def _next(self, accepted: Sequence[Verdict], number: int) -> tuple[dict[str, Verdict], Outcome]:
        """Return what becomes of every accepted reply, by merchant, and the next shared adapter."""
        training = self.settings.training
        given = Round(
            self.current.adapter,
            [parted(one.reply.update)[0] for one in accepted if one.reply],
            self._weights(accepted),
            number,
            state=self.current.state,
            step=OPTIMIZERS[training.server_optimizer],
            rate=training.server_rate,
            robust=robust(training.robust, training.liars, training.limit),
            seed=training.seed,
            energy=training.energy,
            residual_rank=training.residual_rank or None,
        )
        outcome = combine(training.method, given)
        judged = {
            one.merchant: replace(
                one,
                status="set aside" if what.status == "set aside" else "done",
                reason=what.reason,
                weight=round(share * what.factor, 6),
            )
            for one, share, what in zip(accepted, given.shares, outcome.judgements, strict=True)
        }
        return judged, outcome

    def _next_head(self, verdicts: Sequence[Verdict]) -> HeadState | None:
        """Return the next head from the replies that the round kept, each with one voice; the last one where none is trained."""
        training = self.settings.training
        kept = [parted(one.reply.update)[1] for one in verdicts if one.status == "done" and one.reply]
        if not (training.head_share and kept):
            return self.current.head
        updates = [{name: tensor.numpy() for name, tensor in one.items()} for one in kept]
        return step(self._head_state(), middle_update(updates, training.robust, training.liars), training.rounds)

    def _weights(self, accepted: Sequence[Verdict]) -> list[float]:
        """Return every accepted reply's public weight, none above the cap."""
        training = self.settings.training
        if training.weights == "equal":
            return equal(len(accepted))
        if training.weights == "band":
            weights = by_band([self.bands.get(one.merchant, "small") for one in accepted])
        else:
            charges = [one.reply.charge for one in accepted if one.reply]
            weights = by_noise([noise_variance(charge, training.local_rate, training.proximal) for charge in charges])
        return capped(weights, training.weight_cap)

    def _record(self, number: int, verdicts: Sequence[Verdict], bytes_up: int, adapter: Adapter) -> dict[str, Any]:
        return {
            "round": number,
            "run": self.run_id,
            "method": self.rule.name,
            "exact": self.rule.exact,
            "merchants": [one.record() for one in verdicts],
            "adapter_digest": digest(adapter),
            "state_digest": digest(self.current.state),
            "head_digest": state_digest(self.current.head),
            "bytes_down": sum(size_of(one.content) for one in self._asked),
            "bytes_up": bytes_up,
        }

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nobody: how good the model is on a shop's rows stays in the shop."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nothing, as nobody was asked."""
        return None


def agreements(run: Path, rounds: int) -> dict[str, list[float]]:
    """Return every merchant's agreements with the reference in the rounds of a run so far."""
    found: dict[str, list[float]] = {}
    for number in range(1, rounds + 1):
        for one in read_record(run, number)["merchants"]:
            if one.get(AGREEMENT) is not None:
                found.setdefault(one["merchant"], []).append(float(one[AGREEMENT]))
    return found


def drawn(nodes: Sequence[int], count: int, seed: int, number: int) -> list[int]:
    """Return `count` of `nodes`, or all where `count` is 0: a function of the seed, the round and the nodes alone.

    >>> drawn([1, 2, 3, 4], 2, seed=7, number=1) == drawn([1, 2, 3, 4], 2, seed=7, number=1)
    True
    """
    if not 0 < count < len(nodes):
        return list(nodes)
    random = np.random.Generator(np.random.Philox(key=[seed, number]))
    return sorted(int(node) for node in random.choice(np.asarray(nodes, dtype=np.uint64), count, replace=False))


def _held(verdict: Verdict, agreement: float, reason: str) -> Verdict:
    """Return the verdict with its agreement with the reference, set aside where there is a reason."""
    held = replace(verdict, agreement=agreement)
    return replace(held, status="set aside", reason=reason, weight=0.0) if reason else held


def _once_each(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts with every second reply in one merchant's name set aside."""
    seen: set[str] = set()
    kept = []
    for one in verdicts:
        double = one.status == "done" and one.merchant in seen
        kept.append(Verdict(one.merchant, "set aside", "a second reply in one merchant's name") if double else one)
        seen.add(one.merchant)
    return kept


def size_of(content: RecordDict) -> int:
    """Return the bytes of all arrays and settings in a message, before compression."""
    arrays = sum(len(array.data) for record in content.array_records.values() for array in record.values())
    configs = sum(
        len(str(key)) + len(str(value)) for record in content.config_records.values() for key, value in record.items()
    )
    return arrays + configs
