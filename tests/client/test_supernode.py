"""A message whose run ends while it is fetched leaves nothing behind at the node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supernode.nodestate import NodeState, NodeStateFactory

from client.supernode import fetched, node

RUN = 77


def fetch(ended_at: str) -> tuple[int | None, NodeState, Any]:
    """Let Flower fetch a message of a known run which ends at that call; return what it says and what it keeps."""
    objects = ObjectStoreFactory()
    state, store = NodeStateFactory(objects).state(), objects.store()
    state.set_node_id(5)
    state.store_run(Run.create_empty(RUN))
    content = RecordDict({"arrays": ArrayRecord({"a": Array(np.ones(3, dtype=np.float32))})})
    message = make_message(Metadata(RUN, "", 1, 5, "", "1", 0.0, 3600.0, "train"), content)
    message.metadata.__dict__["_message_id"] = message.object_id
    parts = {name: one.deflate() for name, one in get_all_nested_objects(message).items()}

    def over(name: str, result: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            if name == ended_at:
                raise RunNotRunningException
            return result(*given)

        return call

    said = fetched(
        node._pull_and_store_message,
        state=state,
        object_store=store,
        node_config={},
        receive=lambda: (message, get_object_tree(message)),
        get_run=None,
        get_fab=None,
        pull_object=over("pull_object", lambda _, name: parts[name]),
        confirm_message_received=over("confirm_message_received", lambda *_: None),
        trusted_entities=None,
    )
    return said, state, store


def waiting(state: NodeState) -> list[str]:
    """Return the tasks that an executor would still begin."""
    return [task.type for task in state.get_tasks() if not task.finished_at]


def test_a_message_that_arrives_whole_waits_for_the_executor() -> None:
    said, state, _ = fetch("")
    assert said == RUN
    assert waiting(state) == [TaskType.CLIENT_APP]
    assert len(state.get_messages_legacy(is_reply=False)) == 1


@pytest.mark.parametrize("ended_at", ["pull_object", "confirm_message_received"])
def test_a_message_whose_run_ends_under_way_leaves_no_task_and_no_message(ended_at: str) -> None:
    said, state, store = fetch(ended_at)
    assert said is None
    assert waiting(state) == []
    assert list(state.get_messages_legacy(is_reply=False)) == []
    assert len(store) == 0
