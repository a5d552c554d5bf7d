"""A budget that ends in the middle of a run, asks that want too much, and failures that must all look alike."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto

import client.round as rounds
from client.app import MERCHANT_DIR, reply_of
from client.app import app as client_app
from client.config import LEDGER, POLICY, MerchantSettings, load_merchant
from client.round import take_part
from client.train.state import dataset
from common.config import from_run_config
from common.errors import UserError
from common.lora import A_END, Adapter, bench, initial
from common.privacy import accountant
from common.privacy.chain import Book
from common.privacy.keys import holds, load_key, load_public_key
from common.privacy.ledger import read, verify
from common.privacy.plan import planned_charge
from common.privacy.policy import Policy, read_policy, sign_policy, write_policy
from common.wire import ASK, REPLY, TrainAsk, TrainReply
from server.rounds import read_record
from simulations.folder import Run
from simulations.run import SUMMARY, simulate
from simulations.scenario import Scenario, load_scenario
from tests.simulations.conftest import opened

ROUNDS, ALLOWED, POOR = 5, 2, 1
"""The run's rounds, the rounds of the merchant with the small budget, and which merchant that is."""


def small(base: str, **changes: Any) -> Scenario:
    """Three shops of ten customers and five private rounds, on one thread."""
    return load_scenario(
        "shops-zh",
        {
            "scenario.merchants": 3,
            "world.customers": 10,
            "world.weeks": 20,
            "model.base": base,
            "lora.rank": 4,
            "training.rounds": ROUNDS,
            "training.reference": False,
            "privacy.rate": 0.1,
            "privacy.steps": 2,
            "privacy.divisor": 2.0,
            "privacy.max_tokens": 64,
            "engine.threads": 1,
            "evaluation.per_task": 2,
            "evaluation.questions": 2,
            **changes,
        },
    )


def change_policy(folder: Path, **changes: Any) -> None:
    """Change a merchant's policy and have its officer sign it."""
    write_policy(read_policy(folder / POLICY).model_copy(update=changes), folder / POLICY)
    sign_policy(folder / POLICY, load_key(folder / "keys" / "officer"))


def spoil(folder: Path) -> None:
    """Put folders in the place of every table, so that reading one fails for anybody."""
    for table in folder.glob("*.csv"):
        table.unlink()
        table.mkdir()


# --- a run in which one merchant's budget ends ---


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> Run:
    """A finished run; one merchant's policy allows two rounds, and its tables are gone once these are over."""
    folder = tmp_path_factory.mktemp("runs") / "run"

    def meddle(line: str) -> None:
        if line.startswith(f"round 0/{ROUNDS}"):
            change_policy(poor(folder), max_rounds=ALLOWED)
        elif line.startswith(f"round {ALLOWED}/{ROUNDS}"):
            spoil(poor(folder))

    return simulate(small(tiny_base), folder, resume=False, report=meddle)


def poor(folder: Path) -> Path:
    """Return the folder of the merchant with the small budget, in the folder of the run."""
    return sorted((folder / "merchants").iterdir())[POOR]


def statuses(run: Run, merchant: str) -> list[str]:
    """Return what became of one merchant's part, round by round."""
    records = [read_record(run.folder, number)["merchants"] for number in range(1, ROUNDS + 1)]
    return [one["status"] for record in records for one in record if one["merchant"] == merchant]


def test_a_spent_budget_is_refused_without_a_row_read_and_the_run_goes_on(run: Run) -> None:
    names = [folder.name for folder in run.merchants]
    assert [statuses(run, name) for name in names if name != names[POOR]] == [["done"] * ROUNDS] * 2
    assert statuses(run, names[POOR]) == ["done", "done", "refused", "refused", "refused"]


def spent(policy: Policy, number: int) -> float:
    """Return the epsilon of so many rounds, from the accountant."""
    return accountant.epsilon([planned_charge(policy)] * number, policy.delta)


def test_the_coordinator_is_told_what_was_spent_under_which_delta_unit_and_period(run: Run) -> None:
    mine = poor(run.folder)
    policy = read_policy(mine / POLICY)
    for number in range(ALLOWED + 1, ROUNDS + 1):
        (told,) = (one for one in read_record(run.folder, number)["merchants"] if one["merchant"] == mine.name)
        assert f"all {ALLOWED} rounds are used: {ALLOWED} spent and 0 reserved in period 2026Q4" in told["reason"]
        assert f"at delta 1e-06 for one customer of {mine.name}" in told["reason"]
        assert "newly signed policy for a new period and its new data" in told["reason"]
        said = float(told["reason"].split("epsilon ")[1].split()[0])
        assert spent(policy, ALLOWED) <= said <= spent(policy, ALLOWED) + 0.01
        assert (told["charge"], told["update_digest"], told["weight"]) == ({}, "", 0.0)


def test_every_reply_is_signed_by_the_merchants_ledger_key_the_refusals_too(run: Run) -> None:
    for number in range(1, ROUNDS + 1):
        for told in read_record(run.folder, number)["merchants"]:
            key = load_public_key(run.folder / "merchants" / told["merchant"] / "keys" / "ledger.pub")
            head, signature = bytes.fromhex(told["ledger_head"]), bytes.fromhex(told["ledger_sig"])
            assert holds(key, signature, head)
            assert not holds(key, signature, bytes(32))


def test_its_ledger_keeps_a_signed_refusal_of_every_such_round(run: Run) -> None:
    mine = poor(run.folder)
    book = read(mine / LEDGER)
    assert (book.counts["RESERVE"], book.counts["RELEASE"], book.counts["REFUSE"]) == (ALLOWED, ALLOWED, 3)
    assert "BURN" not in book.counts
    assert all(f"{ALLOWED} spent" in reason for _, reason in book.refused)
    assert verify(mine / LEDGER, load_public_key(mine / "keys" / "ledger.pub"), outbox=mine / "outbox").ok


def test_its_summary_and_the_report_show_the_refusals(run: Run) -> None:
    mine = poor(run.folder)
    told = json.loads((mine / SUMMARY).read_text("utf-8"))
    assert told["charges"] == {"released": ALLOWED, "burned": 0, "refused": 3, "refunded": 0}
    assert told["rounds_left"] == 0
    assert told["epsilon"] == pytest.approx(spent(read_policy(mine / POLICY), ALLOWED))
    page = (run.folder / "report.html").read_text("utf-8")
    assert "拒绝 3" in page
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [line["replies"].get("refused", 0) for line in lines] == [0, 0, 0, 1, 1, 1]


# --- asks that want too much ---


@pytest.fixture(scope="module")
def model_shop(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> Path:
    """One merchant's folder with whole tables."""
    return opened(small(tiny_base), tmp_path_factory.mktemp("shop") / "tea-1")


@pytest.fixture
def closed(shop_folder: Path) -> Path:
    """A merchant whose tables nobody can read: whoever tries fails, after the charge was reserved."""
    spoil(shop_folder)
    return shop_folder


@pytest.fixture
def ask(tiny_base: str) -> TrainAsk:
    """An ask that every merchant here answers."""
    lora = small(tiny_base).lora
    work = bench(tiny_base, lora)
    return TrainAsk("autumn", 1, "fedsvd", 0.5, 7, work.base.digest, "", lora.alpha / lora.rank, initial(work.model, 7))


def counts(folder: Path) -> dict[str, int]:
    """Return how many entries of a kind the merchant's ledger holds."""
    return read(folder / LEDGER).counts if (folder / LEDGER).exists() else {}


def turned_away(content: RecordDict, folder: Path) -> TrainReply:
    """Return the reply after checking that nothing was charged, sent or, in a closed shop, read."""
    reply = take_part(content, folder)
    assert reply.status in ("refused", "failed")
    assert (dict(reply.charge), dict(reply.update), reply.update_digest) == ({}, {}, "")
    assert not {"RESERVE", "RELEASE", "BURN"} & set(counts(folder))
    return reply


def test_the_ask_itself_is_answered(shop_folder: Path, ask: TrainAsk) -> None:
    reply = take_part(ask.pack(), shop_folder)
    assert reply.status == "done"
    assert reply.charge["sigma"] == read_policy(shop_folder / POLICY).sigma_min
    assert counts(shop_folder) == {"GENESIS": 1, "POLICY": 1, "RESERVE": 1, "RELEASE": 1}


def test_a_closed_shop_fails_after_its_charge_so_reading_cannot_go_unseen(closed: Path, ask: TrainAsk) -> None:
    assert take_part(ask.pack(), closed).status == "failed"
    assert counts(closed)["BURN"] == 1


EXTRAS: dict[str, Callable[[RecordDict], None]] = {
    "sigma": lambda content: content.config_records[ASK].update({"sigma": 0.1}),
    "sigma as the policy has it": lambda content: content.config_records[ASK].update({"noise_multiplier": 0.0}),
    "more steps": lambda content: content.config_records[ASK].update({"steps": 1000}),
    "everybody in every step": lambda content: content.config_records[ASK].update({"rate": 1.0}),
    "a larger clip norm": lambda content: content.config_records[ASK].update({"max_grad_norm": 1e6}),
    "an unknown key": lambda content: content.config_records[ASK].update({"privacy.sigma": 0.1}),
    "a second config record": lambda content: content.update({"privacy": ConfigRecord({"sigma": 0.1})}),
    "a metric record": lambda content: content.update({"sigma": MetricRecord({"sigma": 0.1})}),
    "a second set of arrays": lambda content: content.update({"more": content["arrays"]}),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_an_ask_that_carries_more_is_refused_on_record_and_nothing_is_read(
    closed: Path, ask: TrainAsk, name: str
) -> None:
    content = ask.pack()
    EXTRAS[name](content)
    reply = turned_away(content, closed)
    assert reply.status == "refused"
    assert reply.reason
    assert counts(closed) == {"GENESIS": 1, "POLICY": 1, "REFUSE": 1}


def test_an_examination_that_passes_over_extras_would_be_seen(
    closed: Path, ask: TrainAsk, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = rounds.words_of
    monkeypatch.setattr(rounds, "words_of", lambda said, _: honest(said, frozenset()))
    content = ask.pack()
    EXTRAS["sigma"](content)
    with pytest.raises(AssertionError):
        turned_away(content, closed)


def test_a_run_configuration_cannot_change_what_is_charged(shop_folder: Path, ask: TrainAsk) -> None:
    override = {"sigma": 0.1, "privacy.sigma": 0.1, "steps": 1000, "rate": 1.0}
    context = Context(1, 1, {MERCHANT_DIR: str(shop_folder)}, RecordDict(), dict(override))
    answered = client_app(Message(ask.pack(), 1, MessageType.TRAIN), context).content.config_records[REPLY]
    policy = read_policy(shop_folder / POLICY)
    booked = [answered[f"charge.{key}"] for key in ("sigma", "rate", "steps")]
    assert booked == [policy.sigma_min, policy.rate, policy.steps]
    assert read(shop_folder / LEDGER).spent == [planned_charge(policy)]


@pytest.mark.parametrize("key", ["sigma", "noise", "privacy.sigma", "privacy.noise_multiplier", "training.sigma"])
def test_a_run_configuration_that_names_privacy_starts_no_run(key: str) -> None:
    with pytest.raises(UserError, match="unknown key"):
        from_run_config({key: 0.1})


def trap(ask: TrainAsk, value: float) -> TrainAsk:
    """Return the ask with `value` in one place of its first tensor."""
    name = min(ask.adapter)
    bad = ask.adapter[name].clone()
    bad[0, 0] = value
    return replace(ask, adapter={**ask.adapter, name: bad})


def reshaped(adapter: Adapter) -> Adapter:
    """Return the adapter with one tensor of rank 8 in the place of rank 4."""
    name = min(adapter)
    return {**adapter, name: torch.zeros(8, adapter[name].shape[1])}


def factors(ask: TrainAsk, rank: int) -> Adapter:
    """Return factors of another rank for every layer of the ask."""
    return {name: one[:rank] if name.endswith(A_END) else one[:, :rank] for name, one in ask.adapter.items()}


def torn(residual: Adapter) -> Adapter:
    """Return a residual whose first factor has one direction less than its partner."""
    name = min(residual)
    return {**residual, name: residual[name][:2]}


def flora(ask: TrainAsk, residual: Adapter) -> TrainAsk:
    return replace(ask, method="flora", residual=residual)


BAD_ASKS: dict[str, tuple[Callable[[TrainAsk], TrainAsk], str]] = {
    "another base": (lambda ask: replace(ask, base_digest="0" * 64), "refused"),
    "another rank": (lambda ask: replace(ask, adapter=reshaped(ask.adapter)), "refused"),
    "a tensor more": (lambda ask: replace(ask, adapter={**ask.adapter, "wte.weight": torch.zeros(4, 4)}), "refused"),
    "a tensor less": (lambda ask: replace(ask, adapter=dict(list(ask.adapter.items())[1:])), "refused"),
    "1e30 in it": (lambda ask: trap(ask, 1e30), "refused"),
    "NaN in it": (lambda ask: trap(ask, float("nan")), "failed"),
    "infinity in it": (lambda ask: trap(ask, float("inf")), "failed"),
    "an absurd rate": (lambda ask: replace(ask, local_rate=1e9), "refused"),
    "a rate of NaN": (lambda ask: replace(ask, local_rate=float("nan")), "refused"),
    "an unknown optimizer": (lambda ask: replace(ask, local_optimizer="lamb"), "refused"),
    "a pull past the start": (lambda ask: replace(ask, proximal=1e9), "refused"),
    "a pull of NaN": (lambda ask: replace(ask, proximal=float("nan")), "refused"),
    "a floor of 0": (lambda ask: replace(ask, adam_floor=0.0), "refused"),
    "an unknown method": (lambda ask: replace(ask, method="fedmagic"), "refused"),
    "another scale": (lambda ask: replace(ask, scale=2 * ask.scale), "refused"),
    "a scale of NaN": (lambda ask: replace(ask, scale=float("nan")), "refused"),
    "a residual its method has none of": (lambda ask: replace(ask, residual=factors(ask, 2)), "refused"),
    "a residual of 1e30": (lambda ask: flora(ask, {n: 1e30 * one for n, one in factors(ask, 2).items()}), "refused"),
    "half a residual": (lambda ask: flora(ask, dict(list(factors(ask, 2).items())[:1])), "refused"),
    "a residual of another layer": (lambda ask: flora(ask, {"wte.weight": torch.zeros(2, 2)}), "refused"),
    "a residual of no shape": (lambda ask: flora(ask, {min(ask.adapter): torch.zeros(())}), "refused"),
    "a residual of two ranks": (lambda ask: flora(ask, torn(factors(ask, 3))), "refused"),
    "no run": (lambda ask: replace(ask, run=""), "failed"),
    "a round below 0": (lambda ask: replace(ask, round=-1), "failed"),
}


@pytest.mark.parametrize("name", BAD_ASKS)
def test_a_bad_ask_costs_nothing_and_nothing_is_read(closed: Path, ask: TrainAsk, name: str) -> None:
    change, status = BAD_ASKS[name]
    reply = turned_away(change(ask).pack(), closed)
    assert reply.status == status
    assert bool(reply.reason) == (status == "refused")
    assert counts(closed).get("REFUSE", 0) == (status == "refused")


def ignore(*_: object) -> None:
    """A check that lets everything through."""


@pytest.mark.parametrize(
    ("name", "place", "fault"),
    [
        ("1e30 in it", "NORM_LIMIT", float("inf")),
        ("an absurd rate", "check_ask", ignore),
        ("another rank", "check_manifest", ignore),
        ("a residual of another layer", "_check_residual", ignore),
    ],
)
def test_an_examination_without_that_check_would_be_seen(
    closed: Path, ask: TrainAsk, monkeypatch: pytest.MonkeyPatch, name: str, place: str, fault: object
) -> None:
    monkeypatch.setattr(rounds, place, fault)
    with pytest.raises(AssertionError):
        turned_away(BAD_ASKS[name][0](ask).pack(), closed)


def test_a_round_that_read_before_it_reserved_would_be_seen(
    closed: Path, ask: TrainAsk, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_policy(closed, max_rounds=1)
    honest, loaded = rounds.open_ledger, load_merchant(closed)
    assert take_part(ask.pack(), closed).status == "failed"
    assert refused_unread(replace(ask, round=2), closed)

    def early(folder: Path, policy: Any) -> Any:
        dataset(loaded, bench(loaded.model.base, small(loaded.model.base).lora).base, policy.policy)
        return honest(folder, policy)

    monkeypatch.setattr(rounds, "open_ledger", early)
    assert not refused_unread(replace(ask, round=3), closed)


def refused_unread(ask: TrainAsk, closed: Path) -> bool:
    """Whether a closed shop refuses an ask past its budget instead of failing at its tables."""
    return take_part(ask.pack(), closed).status == "refused"


def test_a_budget_that_is_not_counted_would_be_seen(
    closed: Path, ask: TrainAsk, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_policy(closed, max_rounds=1)
    take_part(ask.pack(), closed)
    monkeypatch.setattr(Book, "used", lambda _: 0)
    assert not refused_unread(replace(ask, round=2), closed)


# --- failures look alike ---


def failing(how: str, shop_folder: Path, ask: TrainAsk) -> RecordDict:
    """Return the packed reply to a round that fails in one of three ways."""
    if how == "unreadable table":
        spoil(shop_folder)
    elif how == "exception in training":
        text = (shop_folder / "merchant.toml").read_text("utf-8")
        (shop_folder / "merchant.toml").write_text(text.replace("[train]", '[train]\ndevice = "cuda:99"'), "utf-8")
    else:
        ask = trap(ask, float("nan"))
    return reply_of(ask.pack(), shop_folder)


def told_by(content: RecordDict) -> dict[str, object]:
    """Return everything a reply says but the merchant and the round."""
    said = dict(content.config_records[REPLY])
    arrays = {name: array.data for record in content.array_records.values() for name, array in record.items()}
    return {**said, "merchant": "", "round": 0, "arrays": arrays, "records": sorted(content)}


HOW = ("exception in training", "unreadable table", "NaN adapter")


def failures(shop_folder: Path, ask: TrainAsk) -> list[dict[str, object]]:
    """Return what the replies to all three failures say."""
    return [
        told_by(failing(how, shutil.copytree(shop_folder, shop_folder.parent / f"shop-{place}"), ask))
        for place, how in enumerate(HOW)
    ]


def test_all_failures_look_alike(shop_folder: Path, ask: TrainAsk) -> None:
    first, *others = failures(shop_folder, ask)
    assert (first["status"], first["reason"], first["arrays"]) == ("failed", "", {})
    assert others == [first, first]


def test_a_failure_that_told_its_reason_would_be_seen(
    shop_folder: Path, ask: TrainAsk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talkative(status: Any, *words: Any, **more: Any) -> TrainReply:
        return TrainReply(status, *words, **more | ({"reason": str(sys.exc_info()[1])} if status == "failed" else {}))

    monkeypatch.setattr(rounds, "TrainReply", talkative)
    first, *others = failures(shop_folder, ask)
    assert others != [first, first]


# --- one customer more ---


def with_customers(shop_folder: Path, number: int) -> Path:
    """Return a copy of the shop with the rows of its first so many customers; they are called c0001, c0002 …"""
    folder = shutil.copytree(shop_folder, shop_folder.parent / f"{number}" / shop_folder.name)
    for table in (folder / f"{name}.csv" for name in ("orders", "reviews", "dialogs", "campaigns")):
        with table.open(encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
        place = head.index("customer_id")
        with table.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([head, *(row for row in rows if row[place] <= f"c{number:04d}")])
    return folder


def sizes(shop_folder: Path, ask: TrainAsk) -> tuple[int, int]:
    """Return the bytes of the reply of a shop with nine customers and of the same shop with a tenth."""
    replies = [reply_of(ask.pack(), with_customers(shop_folder, number)) for number in (9, 10)]
    assert [reply.config_records[REPLY]["status"] for reply in replies] == ["done", "done"]
    one, other = (len(recorddict_to_proto(reply).SerializeToString()) for reply in replies)
    return one, other


def test_a_reply_is_as_long_with_one_customer_more(shop_folder: Path, ask: TrainAsk) -> None:
    one, other = sizes(shop_folder, ask)
    assert one == other


def test_a_reply_that_counted_its_customers_would_be_seen(
    shop_folder: Path, ask: TrainAsk, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = rounds._train

    def counting(said: TrainAsk, extra: frozenset[str], settings: MerchantSettings) -> TrainReply:
        base = bench(settings.model.base, small(settings.model.base).lora).base
        count = len(dataset(settings, base, read_policy(settings.folder / POLICY)))
        return replace(honest(said, extra, settings), reason=f"{count} customers")

    monkeypatch.setattr(rounds, "_train", counting)
    one, other = sizes(shop_folder, ask)
    assert one != other
