from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from common.config import FederationSettings, LoraSettings, Method, ModelSettings, ServerOptimizer, TrainingSettings
from common.errors import Unreachable, UserError
from common.lora import Adapter, digest, to_bytes
from common.methods import sent
from common.wire import REPLY, TrainAsk, TrainReply, declared_shapes, parted, prefixed, unpack_ask, unpack_reply
from server.app import serve
from server.ranking import rate, state_digest
from server.rounds import SavedRound, load_round, read_record
from simulations.grid import InlineGrid

Shopkeeper = Callable[[TrainAsk], RecordDict]


# --- shopkeepers ---


def update_of(ask: TrainAsk, seed: int) -> Adapter:
    numbers = np.random.default_rng([seed, ask.round])
    return {
        name: torch.from_numpy(numbers.standard_normal(tuple(ask.adapter[name].shape)).astype(np.float32) * 0.01)
        for name in sent(ask.adapter, ask.method, ask.round)
    }


def done(ask: TrainAsk, merchant: str, seed: int) -> TrainReply:
    update = update_of(ask, seed)
    return TrainReply(
        "done",
        merchant,
        ask.round,
        charge={"sigma": 1.5, "rate": 0.1, "steps": 4, "clip_norm": 1.0, "delta": 1e-6, "unit": "customer"},
        policy_digest="ab" * 32,
        base_digest=ask.base_digest,
        ledger_seq=ask.round,
        ledger_head="cd" * 32,
        update_digest=digest(update),
        update=update,
    )


def good(merchant: str, seed: int) -> Shopkeeper:
    return lambda ask: done(ask, merchant, seed).pack()


def spoilt(merchant: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Shopkeeper:
    """Return a shopkeeper whose first tensor is changed on its way out."""

    def answer(ask: TrainAsk) -> RecordDict:
        reply = done(ask, merchant, 1)
        name = next(iter(reply.update))
        return replace(reply, update=dict(reply.update) | {name: change(reply.update[name].clone())}).pack()

    return answer


def rewritten(merchant: str, **values: Any) -> Shopkeeper:
    """Return a shopkeeper that says other things in the reply's settings."""

    def answer(ask: TrainAsk) -> RecordDict:
        content = done(ask, merchant, 1).pack()
        content.config_records[REPLY].update(values)
        return content

    return answer


def refusing(merchant: str) -> Shopkeeper:
    return lambda ask: TrainReply("refused", merchant, ask.round, reason="the cap is reached").pack()


def failing(merchant: str) -> Shopkeeper:
    return lambda ask: TrainReply("failed", merchant, ask.round).pack()


def raising(ask: TrainAsk) -> RecordDict:
    raise ValueError("customer c01 of 12 Tea Street broke the parser")


def empty(ask: TrainAsk) -> RecordDict:
    return RecordDict()


def sets_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor[0, 0] = torch.nan
    return tensor


# --- grids ---


class Shuffled(InlineGrid):
    """A grid whose replies arrive in any order."""

    seed = 0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        replies = list(super().send_and_receive(messages, timeout=timeout))
        random.Random(self.seed).shuffle(replies)
        yield from replies


class Deaf(InlineGrid):
    """A grid that loses every reply of node 2."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        yield from (one for one in super().send_and_receive(messages) if one.metadata.src_node_id != 2)


class Cut(InlineGrid):
    """A grid whose node 2 cannot be reached, as Flower reports it: an error reply."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for reply in super().send_and_receive(messages, timeout=timeout):
            if reply.metadata.src_node_id == 2:
                to = reply.metadata.reply_to_message_id
                reply = Message(Error(ErrorCode.NODE_UNAVAILABLE, "Node unavailable"), reply_to=reply)
                reply.metadata.__dict__["_reply_to_message_id"] = to
            yield reply


class Twice(InlineGrid):
    """A grid that delivers every reply twice, and one that answers a message nobody sent."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        asked = list(messages)
        replies = list(super().send_and_receive(asked))
        stray = Message(replies[0].content, reply_to=asked[0]) if replies else None
        if stray is not None:
            stray.metadata.__dict__["_reply_to_message_id"] = "nobody-sent-this"
        yield from [*replies, *replies, *([stray] if stray else [])]


# --- a federation of them ---


def open_shops(*keepers: Shopkeeper, grid: type[InlineGrid] = InlineGrid) -> InlineGrid:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        ask, _ = unpack_ask(message.content)
        return Message(keepers[int(context.node_config["partition-id"])](ask), reply_to=message)

    return grid(app, len(keepers))


def settings(
    base: str, *, method: Method = "ffa", optimizer: ServerOptimizer = "sgd", rounds: int = 1, **training: Any
) -> FederationSettings:
    return FederationSettings(
        model=ModelSettings(base=base),
        lora=LoraSettings(rank=4, alpha=8.0),
        training=TrainingSettings(method=method, server_optimizer=optimizer, rounds=rounds, **training),
    )


def lead(grid: Grid, base: str, folder: Path, **training: Any) -> SavedRound:
    return serve(grid, settings(base, **training), folder, "run-1")


def verdicts(folder: Path, number: int = 1) -> dict[str, tuple[str, float]]:
    return {one["merchant"]: (one["status"], one["weight"]) for one in read_record(folder, number)["merchants"]}


def reasons(folder: Path, number: int = 1) -> dict[str, str]:
    return {one["merchant"]: one["reason"] for one in read_record(folder, number)["merchants"]}


# --- what is averaged ---


def test_the_mean_of_all_updates_becomes_the_next_adapter(tiny_base: str, tmp_path: Path) -> None:
    asks: list[TrainAsk] = []

    def listening(ask: TrainAsk) -> RecordDict:
        asks.append(ask)
        return done(ask, "b", 2).pack()

    last = lead(open_shops(good("a", 1), listening), tiny_base, tmp_path, rounds=2)
    assert [ask.round for ask in asks] == [1, 2]
    shared = load_round(tmp_path, 0).adapter
    for number, ask in enumerate(asks, 1):
        assert to_bytes(ask.adapter) == to_bytes(shared)
        first, second = update_of(ask, 1), update_of(ask, 2)
        for name in first:
            shared[name] = shared[name] + ((first[name].double() + second[name].double()) / 2).float()
        assert to_bytes(load_round(tmp_path, number).adapter) == to_bytes(shared)
    assert last.number == 2
    assert to_bytes(last.adapter) == to_bytes(shared)


@pytest.mark.parametrize("method", ["fedavg", "ffa", "fedsvd", "fedgsa", "rolora"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "yogi"])
def test_every_rule_and_optimizer_leads_two_rounds(
    tiny_base: str, tmp_path: Path, method: Method, optimizer: ServerOptimizer
) -> None:
    grid = open_shops(good("a", 1), good("b", 2))
    last = lead(grid, tiny_base, tmp_path, method=method, optimizer=optimizer, rounds=2)
    record = read_record(tmp_path, 2)
    assert record["method"] == method
    assert record["adapter_digest"] == digest(last.adapter) != read_record(tmp_path, 1)["adapter_digest"]
    assert (last.state == {}) == (optimizer == "sgd")


def test_a_rounds_record_says_who_took_part_and_what_was_charged(tiny_base: str, tmp_path: Path) -> None:
    lead(open_shops(good("b", 2), good("a", 1)), tiny_base, tmp_path)
    record = read_record(tmp_path, 1)
    assert (record["round"], record["run"], record["exact"]) == (1, "run-1", True)
    assert [one["merchant"] for one in record["merchants"]] == ["a", "b"]
    for one in record["merchants"]:
        assert one["charge"] == {
            "sigma": 1.5, "rate": 0.1, "steps": 4, "clip_norm": 1.0, "delta": 1e-6, "unit": "customer"
        }  # fmt: skip
        assert (one["policy_digest"], one["ledger_seq"], one["ledger_head"]) == ("ab" * 32, 1, "cd" * 32)
    assert record["bytes_down"] > record["bytes_up"] > 2 * 2 * 96 * 4 * 4  # two merchants, two layers, B in fp32


# --- what is not ---

ODD: dict[str, tuple[Shopkeeper, str, str, str]] = {
    "nan": (spoilt("z", sets_nan), "node 3", "set aside", "not finite"),
    "shape": (spoilt("z", lambda tensor: tensor[:-1]), "node 3", "set aside", "expected float32"),
    "float64": (spoilt("z", lambda tensor: tensor.double()), "node 3", "set aside", "expected float32"),
    "empty": (empty, "node 3", "set aside", "status = None"),
    "round": (rewritten("z", round=9), "z", "set aside", "answers round 9"),
    "base": (rewritten("z", base_digest="ff" * 32), "z", "set aside", "on base ffffffffffff"),
    "no base": (rewritten("z", base_digest=[1]), "node 3", "set aside", "base_digest = [1]"),
    "bytes": (rewritten("z", reason=b"\xff"), "node 3", "set aside", "reason = b'\\xff'"),
    "charge": (rewritten("z", **{"charge.sigma": float("nan")}), "node 3", "set aside", "charge.sigma = nan"),
    "duplicate": (good("b", 5), "b", "set aside", "a second reply"),
    "refused": (refusing("z"), "z", "refused", "the cap is reached"),
    "failed": (failing("z"), "z", "failed", ""),
    "raising": (raising, "node 3", "failed", "ValueError in the ClientApp"),
}


@pytest.mark.parametrize("name", ODD)
def test_one_odd_merchant_is_set_aside_and_the_others_are_averaged(tiny_base: str, tmp_path: Path, name: str) -> None:
    keeper, who, status, reason = ODD[name]
    with_it, without = tmp_path / "with", tmp_path / "without"
    last = lead(open_shops(good("a", 1), good("b", 2), keeper), tiny_base, with_it)
    alone = lead(open_shops(good("a", 1), good("b", 2)), tiny_base, without)
    assert to_bytes(last.adapter) == to_bytes(alone.adapter)
    found = read_record(with_it, 1)["merchants"]
    assert len(found) == 3
    assert [one["status"] for one in found].count("done") == 2
    odd = next(one for one in found if one["status"] != "done")
    assert (odd["merchant"], odd["status"], odd["weight"]) == (who, status, 0.0)
    assert reason in odd["reason"]


def test_what_goes_wrong_in_a_shop_is_not_told_to_the_coordinator(tiny_base: str, tmp_path: Path) -> None:
    lead(open_shops(good("a", 1), raising), tiny_base, tmp_path)
    text = (tmp_path / "rounds" / "0001" / "round.json").read_text("utf-8")
    assert "customer c01" not in text
    assert "Tea Street" not in text


def test_a_node_that_never_answers_is_late(tiny_base: str, tmp_path: Path) -> None:
    lead(open_shops(good("a", 1), good("b", 2), good("c", 3), grid=Deaf), tiny_base, tmp_path)
    assert verdicts(tmp_path) == {"a": ("done", 0.5), "c": ("done", 0.5), "node 2": ("late", 0.0)}
    assert reasons(tmp_path)["node 2"] == "no reply before the deadline"


def test_a_node_that_cannot_be_reached_is_late_and_has_not_failed(tiny_base: str, tmp_path: Path) -> None:
    lead(open_shops(good("a", 1), good("b", 2), good("c", 3), grid=Cut), tiny_base, tmp_path)
    assert verdicts(tmp_path) == {"a": ("done", 0.5), "c": ("done", 0.5), "node 2": ("late", 0.0)}
    assert reasons(tmp_path)["node 2"] == "Node unavailable"


def test_replies_that_come_twice_or_to_nothing_asked_count_once(tiny_base: str, tmp_path: Path) -> None:
    keepers = good("a", 1), good("b", 2)
    twice = lead(open_shops(*keepers, grid=Twice), tiny_base, tmp_path / "twice")
    once = lead(open_shops(*keepers), tiny_base, tmp_path / "once")
    assert to_bytes(twice.adapter) == to_bytes(once.adapter)
    assert verdicts(tmp_path / "twice") == {"a": ("done", 0.5), "b": ("done", 0.5)}


@pytest.mark.parametrize("method", ["fedavg", "fedsvd"])
def test_the_order_in_which_replies_arrive_changes_no_bit(tiny_base: str, tmp_path: Path, method: Method) -> None:
    keepers = [good("b", 2), good("a", 1), good("c", 3), good("a", 4), refusing("d"), raising, good("e", 5)]
    results = set()
    for seed in range(4):
        grid = open_shops(*keepers, grid=Shuffled)
        grid.__dict__["seed"] = seed
        lead(grid, tiny_base, tmp_path / str(seed), method=method, rounds=2)
        records = [read_record(tmp_path / str(seed), number) for number in (1, 2)]
        results.add(repr([(record["merchants"], record["adapter_digest"]) for record in records]))
    assert len(results) == 1


# --- voices and guards ---


def noisy(merchant: str, seed: int, sigma: float) -> Shopkeeper:
    """Return a shopkeeper that declares a noise multiplier and a divisor."""

    def answer(ask: TrainAsk) -> RecordDict:
        reply = done(ask, merchant, seed)
        return replace(reply, charge={**reply.charge, "sigma": sigma, "divisor": 10.0}).pack()

    return answer


def test_a_merchant_with_less_noise_has_more_say_up_to_the_cap(tiny_base: str, tmp_path: Path) -> None:
    shops = (noisy("a", 1, 0.5), noisy("b", 2, 2.0), noisy("c", 3, 2.0))
    lead(open_shops(*shops), tiny_base, tmp_path / "noise", weights="noise", weight_cap=1.0)
    voices = {name: weight for name, (_, weight) in verdicts(tmp_path / "noise").items()}
    # local rate 1, 4 steps, divisor 10: variances 0.01, 0.16, 0.16; spread is their mean, 0.11
    expected = [1 / (0.11 + one) for one in (0.01, 0.16, 0.16)]
    assert [voices[name] for name in "abc"] == pytest.approx([one / sum(expected) for one in expected], abs=1e-6)
    lead(open_shops(*shops), tiny_base, tmp_path / "capped", weights="noise", weight_cap=0.4)
    assert verdicts(tmp_path / "capped")["a"][1] == pytest.approx(0.4)


def test_declared_size_bands_weigh_and_who_declared_none_is_small(tiny_base: str, tmp_path: Path) -> None:
    shops = [good(name, seed) for seed, name in enumerate("abc")]
    lead(open_shops(*shops), tiny_base, tmp_path, weights="band", bands="a:large, b:medium", weight_cap=1.0)
    voices = {name: weight for name, (_, weight) in verdicts(tmp_path).items()}
    assert voices == pytest.approx({"a": 10 / 14, "b": 3 / 14, "c": 1 / 14}, abs=1e-6)


@pytest.mark.parametrize("bands", ["a", "a:huge", ":small"])
def test_bands_that_are_none_are_named_before_the_run(tiny_base: str, tmp_path: Path, bands: str) -> None:
    with pytest.raises(UserError, match=r"training\.bands"):
        lead(open_shops(good("a", 1)), tiny_base, tmp_path, weights="band", bands=bands)


@pytest.mark.parametrize(("guard", "status"), [("norm", "done"), ("krum", "set aside"), ("trimmed", "done")])
def test_a_guard_holds_back_a_hundredfold_update_and_the_record_says_so(
    tiny_base: str, tmp_path: Path, guard: str, status: str
) -> None:
    shops = [good(name, seed) for seed, name in enumerate("abcde")]
    calm = lead(open_shops(*shops), tiny_base, tmp_path / "calm")
    hostile = spoilt("x", lambda tensor: 100 * tensor)
    moved = {}
    for name in ("none", guard):
        folder = tmp_path / name
        last = lead(open_shops(*shops, hostile), tiny_base, folder, robust=name)
        moved[name] = max(float((last.adapter[key] - calm.adapter[key]).abs().max()) for key in calm.adapter)
    assert verdicts(tmp_path / guard)["x"][0] == status
    assert reasons(tmp_path / guard)["x"]
    assert moved[guard] < 0.1 * moved["none"]


def test_products_take_no_adaptive_step(tiny_base: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only sgd can step on"):
        lead(open_shops(good("a", 1)), tiny_base, tmp_path, method="flexlora", optimizer="adam")


def test_merchants_of_smaller_rank_are_taken_at_their_own(tiny_base: str, tmp_path: Path) -> None:
    def small(ask: TrainAsk) -> RecordDict:
        reply = done(ask, "b", 2)
        return replace(reply, update={name: one[:, :2].clone() for name, one in reply.update.items()}).pack()

    def torn(ask: TrainAsk) -> RecordDict:
        reply = done(ask, "c", 3)
        cut = {name: one[:, : 1 + place].clone() for place, (name, one) in enumerate(reply.update.items())}
        return replace(reply, update=cut).pack()

    last = lead(open_shops(good("a", 1), small, torn), tiny_base, tmp_path)
    assert {name: status for name, (status, _) in verdicts(tmp_path).items()} == {
        "a": "done",
        "b": "done",
        "node 3": "set aside",
    }
    start = load_round(tmp_path, 0).adapter
    ask = TrainAsk("run-1", 1, "ffa", 1.0, 7, "", "", 2.0, start)
    for name, first in update_of(ask, 1).items():
        second = update_of(ask, 2)[name]
        expected = first / 2
        expected[:, :2] += second[:, :2] / 2
        torch.testing.assert_close(last.adapter[name] - start[name], expected, rtol=1e-4, atol=1e-6)


# --- the quorum ---


@pytest.mark.parametrize(("quorum", "moves"), [(0.5, True), (0.51, False)])
def test_below_the_quorum_the_adapter_and_the_state_stay(
    tiny_base: str, tmp_path: Path, quorum: float, moves: bool
) -> None:
    grid = open_shops(good("a", 1), good("b", 2), failing("c"), raising)
    last = lead(grid, tiny_base, tmp_path, quorum=quorum, optimizer="adam")
    assert last.number == 1
    assert (to_bytes(last.adapter) != to_bytes(load_round(tmp_path, 0).adapter)) == moves
    assert bool(last.state) == moves
    assert verdicts(tmp_path)["a"] == ("done", 0.5 if moves else 1.0)


def test_a_round_in_which_nobody_answers_well_is_still_a_round(tiny_base: str, tmp_path: Path) -> None:
    last = lead(open_shops(failing("a"), raising), tiny_base, tmp_path, quorum=0.0001, rounds=2)
    assert last.number == 2
    assert to_bytes(last.adapter) == to_bytes(load_round(tmp_path, 0).adapter)


# --- who is asked ---


def test_every_merchant_gets_the_same_ask_and_no_privacy_parameter(tiny_base: str, tmp_path: Path) -> None:
    heard: list[tuple[TrainAsk, frozenset[str], RecordDict]] = []
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        ask, extra = unpack_ask(message.content)
        heard.append((ask, extra, message.content))
        return Message(done(ask, f"m{len(heard)}", len(heard)).pack(), reply_to=message)

    lead(InlineGrid(app, 3), tiny_base, tmp_path, local_rate=0.25, seed=11)
    assert len(heard) == 3
    assert {extra for _, extra, _ in heard} == {frozenset()}
    configs = [ConfigRecord(dict(content.config_records["ask"])) for _, _, content in heard]
    assert configs[0] == configs[1] == configs[2]
    ask = heard[0][0]
    assert (ask.run, ask.round, ask.method, ask.local_rate, ask.seed) == ("run-1", 1, "ffa", 0.25, 11)


def test_too_few_merchants_is_unreachable_and_says_how_to_go_on(tiny_base: str, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"2 of 3 merchants online after 0\.01 s.*--resume"):
        lead(open_shops(good("a", 1), good("b", 2)), tiny_base, tmp_path, merchants=3, wait=0.01)


# --- the recommendation head ---


def with_head(merchant: str, value: float) -> Shopkeeper:
    """Return a shopkeeper whose head moves by `value` in every number, beside an honest adapter."""

    def answer(ask: TrainAsk) -> RecordDict:
        assert ask.head_share == 0.1
        reply = done(ask, merchant, 1)
        head = prefixed({name: torch.full_like(tensor, value) for name, tensor in ask.head.items()})
        return replace(reply, update={**reply.update, **head}).pack()

    return answer


def test_the_head_is_led_by_the_mean_of_what_the_merchants_send(tiny_base: str, tmp_path: Path) -> None:
    shops = open_shops(with_head("a", 0.01), with_head("b", 0.03))
    last = lead(shops, tiny_base, tmp_path, rounds=2, head_share=0.1)
    assert last.head is not None
    assert last.head.rounds == 2
    np.testing.assert_allclose(last.head.head["gap"], 2 * rate("gap", 2) * 0.02, rtol=1e-5)
    assert read_record(tmp_path, 2)["head_digest"] == state_digest(last.head) != ""


def test_a_resumed_run_goes_on_with_its_head(tiny_base: str, tmp_path: Path) -> None:
    for rounds in (1, 3):
        last = lead(open_shops(with_head("a", 0.01)), tiny_base, tmp_path / "twice", rounds=rounds, head_share=0.1)
    whole = lead(open_shops(with_head("a", 0.01)), tiny_base, tmp_path / "once", rounds=3, head_share=0.1)
    assert state_digest(last.head) == state_digest(whole.head) != ""


def test_a_reply_that_lacks_the_head_or_brings_one_unasked_is_set_aside(tiny_base: str, tmp_path: Path) -> None:
    lead(open_shops(with_head("a", 0.01), good("b", 2)), tiny_base, tmp_path / "lacks", head_share=0.1)
    assert verdicts(tmp_path / "lacks") == {"a": ("done", 1.0), "node 2": ("set aside", 0.0)}

    def unasked(ask: TrainAsk) -> RecordDict:
        reply = done(ask, "a", 1)
        return replace(reply, update={**reply.update, "head.rank": torch.zeros(14)}).pack()

    lead(open_shops(unasked, good("b", 2)), tiny_base, tmp_path / "unasked")
    assert {status for status, _ in verdicts(tmp_path / "unasked").values()} == {"set aside", "done"}
    assert load_round(tmp_path / "unasked", 1).head is None


def test_who_is_set_aside_for_the_adapter_has_no_part_in_the_head_and_a_mad_head_is_outvoted(
    tiny_base: str, tmp_path: Path
) -> None:
    far = with_head("far", 50.0)

    def loud(ask: TrainAsk) -> RecordDict:
        content = far(ask)
        reply = unpack_reply(content, declared_shapes(content))
        adapter, head = parted(reply.update)
        louder = {name: one * 200 for name, one in adapter.items()}
        return replace(reply, update={**louder, **prefixed(head)}).pack()

    honest = [with_head(name, 0.01) for name in "abcd"]
    last = lead(open_shops(*honest, loud), tiny_base, tmp_path / "krum", robust="krum", head_share=0.1)
    assert verdicts(tmp_path / "krum")["far"][0] == "set aside"
    assert "far from the others" in reasons(tmp_path / "krum")["far"]
    assert last.head is not None
    np.testing.assert_allclose(last.head.head["gap"], rate("gap", 1) * 0.01, rtol=1e-5)
    last = lead(open_shops(*honest, far), tiny_base, tmp_path / "mad", robust="norm", head_share=0.1)
    assert verdicts(tmp_path / "mad")["far"][0] == "done"
    assert last.head is not None
    np.testing.assert_allclose(last.head.head["gap"], rate("gap", 1) * 0.01, rtol=1e-5)


def test_below_the_quorum_the_head_stays(tiny_base: str, tmp_path: Path) -> None:
    first = lead(open_shops(with_head("a", 0.01), with_head("b", 0.01)), tiny_base, tmp_path, rounds=1, head_share=0.1)
    after = lead(open_shops(failing("a"), failing("b")), tiny_base, tmp_path, rounds=2, head_share=0.1)
    assert after.number == 2
    assert state_digest(after.head) == state_digest(first.head) != ""
