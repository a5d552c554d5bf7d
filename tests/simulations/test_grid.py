from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from simulations.grid import InlineGrid

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Count this node's messages, and end as the message says."""
    how = message.content.config_records["ask"]["how"]
    if how == "raise":
        raise ValueError("customer c01")
    if how == "interrupt":
        raise KeyboardInterrupt
    seen = int(context.state.config_records.get("seen", ConfigRecord({"n": 0}))["n"]) + 1  # type: ignore[arg-type]
    context.state["seen"] = ConfigRecord({"n": seen})
    node = {"node": context.node_id, "seen": seen, "place": int(context.node_config["partition-id"])}
    return Message(RecordDict({"node": MetricRecord(dict(node))}), reply_to=message)


def ask(grid: InlineGrid, node: int, how: str = "well") -> Message:
    return grid.create_message(RecordDict({"ask": ConfigRecord({"how": how})}), MessageType.TRAIN, node, "1")


def said(reply: Message) -> dict[str, object]:
    return dict(reply.content.metric_records["node"])


def test_nodes_are_numbered_from_one_in_the_order_of_merchants() -> None:
    grid = InlineGrid(app, 3)
    assert grid.get_node_ids() == [1, 2, 3]
    replies = list(grid.send_and_receive([ask(grid, node) for node in (3, 1, 2)]))
    assert [(said(one)["node"], said(one)["place"]) for one in replies] == [(3, 2), (1, 0), (2, 1)]


def test_replies_name_the_message_they_answer_and_the_node_they_come_from() -> None:
    grid = InlineGrid(app, 2)
    asked = [ask(grid, 1), ask(grid, 2)]
    replies = list(grid.send_and_receive(asked))
    assert [one.metadata.reply_to_message_id for one in replies] == [one.metadata.message_id for one in asked]
    assert [one.metadata.src_node_id for one in replies] == [1, 2]
    assert {one.metadata.run_id for one in replies} == {grid.run.run_id}
    assert len({one.metadata.message_id for one in (*asked, *replies)}) == 4


def test_a_nodes_state_lasts_from_message_to_message_and_is_its_own() -> None:
    grid = InlineGrid(app, 2)
    for expected in (1, 2, 3):
        (reply,) = grid.send_and_receive([ask(grid, 1)])
        assert said(reply)["seen"] == expected
    (reply,) = grid.send_and_receive([ask(grid, 2)])
    assert said(reply)["seen"] == 1


def test_an_exception_becomes_an_error_reply_that_says_no_more_than_its_kind() -> None:
    grid = InlineGrid(app, 2)
    bad, good = grid.send_and_receive([ask(grid, 1, "raise"), ask(grid, 2)])
    assert bad.has_error()
    assert bad.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert bad.error.reason == "ValueError in the ClientApp"
    assert said(good)["node"] == 2


def test_a_message_that_no_function_takes_is_an_error_reply() -> None:
    grid = InlineGrid(app, 1)
    message = grid.create_message(RecordDict(), MessageType.QUERY, 1, "1")
    (reply,) = grid.send_and_receive([message])
    assert reply.has_error()


def test_an_interrupt_goes_through() -> None:
    grid = InlineGrid(app, 1)
    with pytest.raises(KeyboardInterrupt):
        list(grid.send_and_receive([ask(grid, 1, "interrupt")]))


def test_a_reply_can_be_pulled_once() -> None:
    grid = InlineGrid(app, 1)
    ids = grid.push_messages([ask(grid, 1)])
    assert len(list(grid.pull_messages([*ids, "unknown"]))) == 1
    assert list(grid.pull_messages(ids)) == []
