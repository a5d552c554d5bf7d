"""An in-process Flower `Grid`: the very same ServerApp and ClientApp, one merchant after the other, one base in memory."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity


class InlineGrid(Grid):
    """Runs every message where it is sent from; a node's state lives as long as the grid.

    Node ids are 1 to K in the order of merchants. An exception in a ClientApp becomes the error reply that Flower's own
    engine would send. `KeyboardInterrupt` goes through.
    """

    def __init__(self, client_app: ClientApp, nodes: int) -> None:
        self._app = client_app
        self._run = Run.create_empty(secrets.randbits(62))
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = self._run.run_id, 0, 0
        self._contexts = {node: self._context(node, nodes) for node in range(1, nodes + 1)}
        self._replies: dict[str, Message] = {}

    def _context(self, node: int, nodes: int) -> Context:
        config: dict[str, bool | float | int | str] = {"partition-id": node - 1, "num-partitions": nodes}
        return Context(self._run.run_id, node, config, RecordDict(), {})

    def set_run(self, run: Run) -> None:
        """Take over another run's identity."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a new message of this run."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Sequence[int]:
        """Return all node ids."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Let each node answer its message at once and return the messages' ids."""
        asked = named(messages)
        for message in asked:
            self._replies[message.metadata.message_id] = self._answer(message)
        return [message.metadata.message_id for message in asked]

    def _answer(self, message: Message) -> Message:
        try:
            reply = self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            reply = Message(Error(code, f"{type(error).__name__} in the ClientApp"), reply_to=message)
        return named([reply])[0]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to `message_ids` that were not pulled before."""
        return [self._replies.pop(one) for one in message_ids if one in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield every reply; a node is asked once the reply before its own has been taken, so one is held at a time."""
        for message in named(messages):
            yield self._answer(message)


def named(messages: Iterable[Message]) -> list[Message]:
    """Return the messages, each under an id of its own, as a real grid names what it sends."""
    asked = list(messages)
    for message in asked:
        message.metadata.__dict__["_message_id"] = secrets.token_hex(16)
    return asked
