"""The coordinator's side of trust: every ask leaves with a seal, every reply counts only under its sender's own name."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from common.errors import UserError, VerificationFailed
from common.lora import Adapter
from common.privacy.keys import load_key
from common.seal import SEAL, Body, Seal, body_of, closing, read_text, sign
from common.wire import REPLY, TrainAsk, unpack_ask
from server.deploy.enrolment import names_of_nodes
from server.deploy.layout import Layout

WRONG_NAME = 100
"""Our own code of an error reply: a node answered in another merchant's name."""
POLL = 0.5
"""Seconds between two looks for replies."""


class SealedGrid(Grid):
    """Another grid with two rules: asks are sealed before they leave, and only enrolled merchants' own replies come in."""

    def __init__(self, inner: Grid, layout: Layout) -> None:
        self.inner, self.layout = inner, layout

    def set_run(self, run: Run) -> None:
        """Take over another run's identity."""
        self.inner.set_run(run)

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self.inner.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a new message of this run."""
        return self.inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> list[int]:
        """Return the nodes that are online and enrolled."""
        return sorted(set(self.inner.get_node_ids()) & set(names_of_nodes(self.layout)))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Seal the messages, send them and return their ids."""
        return self.inner.push_messages(self._sealed(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to `message_ids`, each checked against the name its node is enrolled under."""
        names = names_of_nodes(self.layout)
        return [in_own_name(one, names) for one in self.inner.pull_messages(message_ids)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Seal and send the messages and return the checked replies, all of them or those of `timeout` seconds.

        Flower's own grids look for replies every three seconds, which a round of small shops would mostly wait for.
        """
        waiting = set(self.push_messages(messages))
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and time.monotonic() < deadline:
            replies += (found := self.pull_messages(waiting))
            waiting -= {one.metadata.reply_to_message_id for one in found}
            time.sleep(POLL if waiting else 0)
        return replies

    def _sealed(self, messages: Iterable[Message]) -> list[Message]:
        asked = list(messages)
        done: set[int] = set()
        for message in asked:
            if id(message.content) not in done:
                done.add(id(message.content))
                message.content.pop(SEAL, None)
                ask, _ = unpack_ask(message.content)
                message.content[SEAL] = ConfigRecord(dict(seal_of(self.layout, ask).record()))
        return asked


def in_own_name(reply: Message, names: dict[int, str]) -> Message:
    """Return the reply, or an error in its place where a node answers in another merchant's name."""
    if reply.has_error():
        return reply
    said = reply.content.config_records.get(REPLY, ConfigRecord()).get("merchant")
    name = names.get(reply.metadata.src_node_id)
    if said == name and name is not None:
        return reply
    node = reply.metadata.src_node_id
    reason = f"node {node} is enrolled as {name!r} and answers as {str(said)[:64]!r}"
    spoiled = copy.copy(reply)
    vars(spoiled).update(_content=None, _error=Error(WRONG_NAME, reason))
    return spoiled


def seal_of(layout: Layout, ask: TrainAsk) -> Seal:
    """Return the seal of an ask, on disk before anybody sees it; the same ask gets the same seal again.

    Raises `VerificationFailed` for a second adapter of one round: this coordinator tells one story only.
    """
    chain = read_chain(layout.chain)
    body = body_of(ask, layout.federation, len(chain) + 1)
    for one in reversed(chain):
        if (one.run, one.round, one.closes) == (ask.run, ask.round, False):
            if one.ask_digest != body.ask_digest:
                raise VerificationFailed(
                    f"round {ask.round} of run {ask.run} was sealed with adapter {one.adapter_digest[:16]}… and ask "
                    f"{one.ask_digest[:16]}…, not {body.ask_digest[:16]}…; `fugou coordinator rollback` begins a new run"
                )
            return _again(layout, chain, one)
    return _added(layout, chain, body)


def close(layout: Layout, run: str, number: int, adapter: Adapter, head: Adapter) -> Seal | None:
    """Return the seal of the model that `run` ended with, its round `number`; None for a run that nobody was asked in.

    It is on disk before anybody sees it, and the same model gets the same seal again. Raises `VerificationFailed` for a second
    model of one round.
    """
    chain = read_chain(layout.chain)
    last = next((one for one in reversed(chain) if one.run == run and not one.closes), None)
    if last is None:
        return None
    body = closing(last, number, adapter, head, len(chain) + 1)
    for one in reversed(chain):
        if (one.run, one.round, one.closes) == (run, number, True):
            if one.adapter_digest != body.adapter_digest:
                raise VerificationFailed(
                    f"run {run} was closed at round {number} with model {one.adapter_digest[:16]}…, not "
                    f"{body.adapter_digest[:16]}…; restore rounds/ from a backup"
                )
            return _again(layout, chain, one)
    return _added(layout, chain, body)


def _again(layout: Layout, chain: Sequence[Body], body: Body) -> Seal:
    """Return the seal of a body that stands in the chain."""
    return sign(body, [one.digest for one in chain[: body.seq - 1]], load_key(layout.key))


def _added(layout: Layout, chain: Sequence[Body], body: Body) -> Seal:
    """Return the seal of a new body, the chain's last on disk."""
    seal = sign(body, [one.digest for one in chain], load_key(layout.key))
    _append(layout.chain, seal)
    return seal


def read_chain(path: Path) -> list[Body]:
    """Return the bodies of every seal ever given, oldest first; raise `UserError` for a damaged file."""
    if not path.exists():
        return []
    bodies = [read_text(line).body for line in path.read_text("utf-8").splitlines() if line.strip()]
    if [one.seq for one in bodies] != list(range(1, len(bodies) + 1)):
        raise UserError(f"{path} has a gap; restore it from a backup: merchants refuse a chain that does not go on")
    return bodies


def _append(path: Path, seal: Seal) -> None:
    """Add a line durably; it carries the last digest only, as the lines before it hold the others."""
    line = Seal(seal.body, seal.digests[-1:], seal.signature).text()
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
