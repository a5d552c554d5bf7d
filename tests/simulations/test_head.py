"""The recommendation head beside the adapter: one draw, one release, one charge, and a federation that leads both."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.config import LEDGER, POLICY, load_merchant
from client.data.customers import gather, pose
from client.data.dataset import Dataset
from client.data.sources import read_shop
from client.round import take_part
from client.train.head import gradients, make_head_data, zero_head
from client.train.sampling import Randomness, SecureRandom
from client.train.state import dataset, head_data
from client.train.trainer import train_round
from client.use.ranking.book import catalogue_book, day_of, open_book
from common.errors import VerificationFailed
from common.lora import Bench, bench, initial, put
from common.privacy.ledger import read
from common.privacy.plan import RoundPlan
from common.privacy.policy import Policy, read_policy
from common.ranking import HEAD_FILE, PARTS, read_head
from common.tokens import Rows
from common.wire import TrainAsk, TrainReply, parted, prefixed, unpack_ask, unpack_reply
from server.rounds import load_round, read_record
from simulations.run import simulate
from simulations.scenario import Scenario
from tests.simulations.conftest import opened, two_rounds

SHARE = 0.4


def small(base: str, **changes: Any) -> Scenario:
    """Three shops of ten customers and two private rounds that train a head beside the adapter."""
    told = {
        "scenario.merchants": 3,
        "world.customers": 10,
        "training.head_share": SHARE,
        "privacy.divisor": 5.0,
        "evaluation.questions": 4,
    }
    return two_rounds(base, **told | changes)


@pytest.fixture(scope="module")
def model_shop(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> Path:
    return opened(small(tiny_base), tmp_path_factory.mktemp("shop") / "tea-1")


@pytest.fixture
def ask(tiny_base: str) -> TrainAsk:
    lora = small(tiny_base).lora
    work = bench(tiny_base, lora)
    head = {name: torch.from_numpy(one) for name, one in zero_head().items()}
    return TrainAsk(
        "autumn", 1, "fedavg", 0.5, 7, work.base.digest, "", lora.alpha / lora.rank, initial(work.model, 7),
        head_share=SHARE, head=head,
    )  # fmt: skip


# --- one step's privacy for both ---


def multiplier(updates: Sequence[TrainReply], policy: Policy, local_rate: float) -> float:
    """Return the noise multiplier that releases of pure noise show for adapter and head together.

    Each tensor's clip norm over its noise is what one customer moves there, in deviations; in L2 over all of them it is
    the inverse of the multiplier.
    """
    halves = [parted(one.update) for one in updates]
    adapters = torch.cat([tensor.flatten() for adapter, _ in halves for tensor in adapter.values()])
    steps = math.sqrt(policy.steps) / policy.divisor

    def moved(values: torch.Tensor, clip_norm: float, rate: float) -> float:
        return clip_norm / (float(values.double().square().mean().sqrt()) / (rate * steps))

    heads = {name: torch.cat([head[name] for _, head in halves]) for name in PARTS}
    parts = [moved(heads[name], part.clip_norm, 1.0) for name, part in PARTS.items()]
    return 1 / math.hypot(moved(adapters, policy.clip_norm, local_rate), *parts)


def test_head_and_adapter_together_carry_the_noise_that_the_ledger_books(empty: Path, ask: TrainAsk) -> None:
    replies = [take_part(replace(ask, round=number).pack(), empty) for number in range(1, 9)]
    assert {one.status for one in replies} == {"done"}
    policy = read_policy(empty / POLICY)
    assert {one.charge["sigma"] for one in replies} == {policy.sigma_min}
    # without the adapter's factor it would show 0.85 of it, without the head's 0.79
    assert multiplier(replies, policy, ask.local_rate) == pytest.approx(policy.sigma_min, rel=0.06)


def test_the_charge_is_the_same_with_and_without_a_head(shop_folder: Path, ask: TrainAsk, tmp_path: Path) -> None:
    other = Path(shutil.copytree(shop_folder, tmp_path / "other" / "tea-1"))
    with_head = take_part(ask.pack(), shop_folder)
    without = take_part(replace(ask, head={}, head_share=0.0).pack(), other)
    assert (with_head.status, without.status) == ("done", "done")
    assert with_head.charge == without.charge
    assert set(with_head.update) == set(without.update) | set(prefixed(ask.head))


class Fixed:
    """Customers of eight ids each that remember who was drawn."""

    def __init__(self, count: int) -> None:
        self.ids_NT = np.random.default_rng(3).integers(2, 1000, (count, 8))
        self.drawn: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.ids_NT)

    def rows(self, drawn: Sequence[int], randomness: Randomness) -> Rows:
        self.drawn.append(list(drawn))
        return Rows(self.ids_NT[list(drawn)].astype(np.int64), np.ones((len(drawn), 8), dtype=np.bool_))


def test_the_head_sees_the_very_customers_that_the_adapter_sees(work: Bench) -> None:
    plan = RoundPlan("shop", "run", 1, 0.5, 1.0, 6, 0.5, 4.0, 1e-6, 4, "p", "a")
    customers, seen = Fixed(12), list[list[int]]()
    train_round(
        work.model, initial(work.model, 1), customers, plan, SecureRandom(), method="fedavg", local_rate=1.0,
        share=0.5, beside=lambda drawn_B: seen.append(drawn_B.tolist()),
    )  # fmt: skip
    assert len(seen) == plan.steps
    assert [one for one in seen if one] == customers.drawn
    put(work.model, initial(work.model, 7))


def test_the_heads_rows_are_of_the_same_customers_in_the_same_order(shop_folder: Path, tiny_base: str) -> None:
    settings, policy = load_merchant(shop_folder), read_policy(shop_folder / POLICY)
    base = bench(tiny_base, small(tiny_base).lora).base
    tasks, rows = dataset(settings, base, policy), head_data(settings, base, policy)
    assert len(rows) == len(tasks) == 10
    assert head_data(settings, base, policy) is rows
    until = settings.train.until
    assert until is not None
    first_day = datetime(until.year, until.month, until.day)
    kinds = [
        {item for b in who.baskets if b.time < first_day for item in b.items} for who in gather(read_shop(settings))
    ]
    assert np.bincount(rows.customer_M, minlength=10).tolist() == [len(one) for one in kinds]
    assert len(set(map(len, kinds))) > 3
    shop_read = read_shop(settings)
    products = {one.item_id: one for one in shop_read.products}
    posed = [len(pose(who, products, shop_read.lang)) for who in gather(shop_read, until)]
    assert isinstance(tasks, Dataset)
    assert [len(one) for one in tasks.tasks] == posed
    assert len(set(posed)) > 3


def test_an_order_of_something_that_nobody_lists_moves_no_other_customers_gradient(shop_folder: Path) -> None:
    found = read_shop(load_merchant(shop_folder))
    products = {one.item_id: one for one in found.products}
    first = gather(found)
    last = max(row.order_time for row in found.orders)
    strange = found.orders[0].model_copy(
        update={"customer_id": "zz", "order_id": "zz", "item_id": "zz", "item_name": "奶粉", "order_time": last}
    )
    second = gather(replace(found, orders=[*found.orders, strange]))
    day = day_of(datetime(last.year, last.month, last.day)) + 1
    weights = {name: np.full(part.shape, 0.1, np.float32) for name, part in PARTS.items()}
    before, after = (
        gradients(weights, make_head_data(catalogue_book(who, products), [day - 30], day)) for who in (first, second)
    )
    for name in PARTS:
        np.testing.assert_array_equal(before[name], after[name][: len(first)])
    loose = gradients(weights, make_head_data(open_book(second, products), [day - 30], day))
    assert not np.array_equal(before["popularity"], loose["popularity"][: len(first)])


# --- what is asked for and what is released ---


def test_a_reply_with_a_head_comes_back_and_is_resent_as_it_was_released(shop_folder: Path, ask: TrainAsk) -> None:
    first, again = take_part(ask.pack(), shop_folder), take_part(ask.pack(), shop_folder)
    assert first.update_digest == again.update_digest
    shapes = {name: tuple(tensor.shape) for name, tensor in first.update.items()}
    reply = unpack_reply(first.pack(), shapes)
    adapter, head = parted(reply.update)
    assert set(adapter) == set(ask.adapter)
    assert {name: tuple(one.shape) for name, one in head.items()} == {name: part.shape for name, part in PARTS.items()}
    assert all(bool(one.any()) for one in head.values())
    assert read(shop_folder / LEDGER).counts["RELEASE"] == 1


def test_the_head_is_in_the_asks_digest_and_survives_the_wire(ask: TrainAsk) -> None:
    back, extra = unpack_ask(ask.pack())
    assert extra == frozenset()
    assert (back.digest, back.head_share) == (ask.digest, SHARE)
    changed = {**ask.head, "rank": ask.head["rank"] + 1}
    assert replace(ask, head=changed).digest != ask.digest


WRONG: dict[str, Callable[[TrainAsk], TrainAsk]] = {
    "a share without a head": lambda ask: replace(ask, head={}),
    "a head without a share": lambda ask: replace(ask, head_share=0.0),
    "a share of all": lambda ask: replace(ask, head_share=1.0),
    "a share below nothing": lambda ask: replace(ask, head_share=-0.1),
    "a share too small": lambda ask: replace(ask, head_share=1e-9),
    "a share that is no number": lambda ask: replace(ask, head_share=math.nan),
    "another shape": lambda ask: replace(ask, head={**ask.head, "rank": torch.zeros(3)}),
    "one tensor more": lambda ask: replace(ask, head={**ask.head, "more": torch.zeros(3)}),
    "a mad head": lambda ask: replace(ask, head={**ask.head, "gap": torch.full((2048,), 1e30)}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_head_that_is_not_as_agreed_is_refused_and_nothing_charged(
    shop_folder: Path, ask: TrainAsk, name: str
) -> None:
    reply = take_part(WRONG[name](ask).pack(), shop_folder)
    assert reply.status == "refused"
    assert "head" in reply.reason or "norm" in reply.reason
    assert "\n" not in reply.reason
    assert read(shop_folder / LEDGER).counts == {"GENESIS": 1, "POLICY": 1, "REFUSE": 1}


# --- a federation ---


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    simulate(small(tiny_base), folder, resume=False, report=lambda _: None)
    return folder


def test_a_run_leads_the_head_with_the_adapter_and_leaves_both_in_the_model_folder(finished: Path) -> None:
    for number in (1, 2):
        head, record = load_round(finished, number).head, read_record(finished, number)
        assert head is not None
        assert head.rounds == number
        assert all(np.any(one) for one in head.head.values())
        assert {one["status"] for one in record["merchants"]} == {"done"}
    last = read_head(finished / "model" / HEAD_FILE)
    state = load_round(finished, 2).head
    assert state is not None
    for name in PARTS:
        np.testing.assert_array_equal(last[name], state.head[name])
    assert load_round(finished, 0).head is None


def test_the_runs_figures_are_of_the_desks_list(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert set(lines[-1]["recommend"]["recall@10"]) == {"popularity", "frequency", "desk"}


def test_a_round_whose_head_was_exchanged_is_not_gone_on_from(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "rounds" / "0002" / HEAD_FILE).write_bytes((run / "rounds" / "0001" / HEAD_FILE).read_bytes())
    with pytest.raises(VerificationFailed, match="recommendation head"):
        load_round(run, 2)
