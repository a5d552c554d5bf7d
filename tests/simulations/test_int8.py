"""Updates that travel in int8: codes of the noised release, the same charge, every method, hostile shops."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import RecordDict

from client import round as rounds
from client.config import LEDGER, POLICY
from client.round import take_part
from client.train.sampling import Rehearsal
from common.codes import LEVELS, SCALES, decode, encode
from common.errors import UserError
from common.lora import Adapter, bench, initial
from common.privacy.ledger import read
from common.privacy.policy import read_policy
from common.wire import ARRAYS, TrainAsk, TrainReply, unpack_reply
from server.rounds import latest_round, read_record
from simulations.attacks import ATTACKS
from simulations.run import train
from simulations.scenario import Scenario
from tests.simulations.conftest import opened, two_rounds


def small(base: str, **changes: Any) -> Scenario:
    """Two shops of eight customers, two private rounds, updates in int8."""
    told = {
        "scenario.merchants": 2,
        "world.customers": 8,
        "training.wire": "int8",
        "privacy.divisor": 4.0,
        "evaluation.questions": 0,
    }
    return two_rounds(base, **told | changes)


@pytest.fixture(scope="module")
def model_shop(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> Path:
    return opened(small(tiny_base), tmp_path_factory.mktemp("shop") / "tea-1")


@pytest.fixture
def ask(tiny_base: str) -> TrainAsk:
    lora = small(tiny_base).lora
    work = bench(tiny_base, lora)
    scale = lora.alpha / lora.rank
    return TrainAsk("autumn", 1, "fedavg", 0.5, 7, work.base.digest, "", scale, initial(work.model, 7), wire="int8")


def deviation(updates: list[Adapter]) -> float:
    numbers = torch.cat([tensor.flatten() for one in updates for tensor in one.values()])
    return float(numbers.double().square().mean().sqrt())


def released(empty: Path, ask: TrainAsk) -> tuple[float, float]:
    """Return the deviation of four releases of pure noise, decoded, and the one the policy's noise has."""
    replies = [take_part(replace(ask, round=number).pack(), empty) for number in range(1, 5)]
    assert {one.status for one in replies} == {"done"}
    policy = read_policy(empty / POLICY)
    steps = policy.sigma_min * policy.clip_norm * math.sqrt(policy.steps) / policy.divisor
    return deviation([decode(one.update) for one in replies]), ask.local_rate * steps


def test_codes_and_scales_are_made_of_the_noised_release(empty: Path, ask: TrainAsk) -> None:
    found, expected = released(empty, ask)
    assert found == pytest.approx(expected, rel=0.05)


def test_codes_made_before_the_noise_would_be_seen(empty: Path, ask: TrainAsk, monkeypatch: pytest.MonkeyPatch) -> None:
    def before_noise(update: Mapping[str, torch.Tensor], words: Any) -> Adapter:
        return encode({name: torch.zeros_like(one) for name, one in update.items()}, words)  # nobody: the sum is 0

    monkeypatch.setattr(rounds, "encode", before_noise)
    found, expected = released(empty, ask)
    assert found < 0.01 * expected


def test_every_number_sent_is_a_byte_and_the_largest_takes_the_last_level(shop_folder: Path, ask: TrainAsk) -> None:
    content = take_part(ask.pack(), shop_folder).pack()
    arrays = {name: array.numpy() for name, array in content.array_records[ARRAYS].items()}
    scales = arrays.pop(SCALES)
    assert (scales > 0).all()
    for codes in arrays.values():
        assert codes.dtype == "int8"
        assert abs(codes.astype(int)).max() == LEVELS


def test_the_charge_is_the_same_in_both_forms(shop_folder: Path, ask: TrainAsk, tmp_path: Path) -> None:
    other = Path(shutil.copytree(shop_folder, tmp_path / "other" / "tea-1"))
    one, two = take_part(ask.pack(), shop_folder), take_part(replace(ask, wire="fp32").pack(), other)
    assert (one.status, two.status) == ("done", "done")
    assert one.charge == two.charge


def test_a_round_asked_again_is_answered_with_the_same_codes_and_charged_once(shop_folder: Path, ask: TrainAsk) -> None:
    one, two = take_part(ask.pack(), shop_folder), take_part(ask.pack(), shop_folder)
    assert one.update_digest == two.update_digest != ""
    assert all(torch.equal(one.update[name], two.update[name]) for name in one.update)
    assert read(shop_folder / LEDGER).counts["RESERVE"] == 1


def test_without_noise_int8_is_the_code_of_exactly_what_fp32_sends(
    tiny_base: str, ask: TrainAsk, tmp_path: Path
) -> None:
    folder = opened(small(tiny_base, **{"privacy.epsilon": math.inf}), tmp_path / "tea-1")
    other = Path(shutil.copytree(folder, tmp_path / "other" / "tea-1"))
    coded, plain = take_part(ask.pack(), folder), take_part(replace(ask, wire="fp32").pack(), other)
    expected = encode(plain.update, Rehearsal(ask.seed, "tea-1", ask.round, "wire").words)
    assert set(coded.update) == set(expected)
    assert all(torch.equal(coded.update[name], expected[name]) for name in expected)


def test_a_form_that_nobody_knows_is_refused_and_not_charged(shop_folder: Path, ask: TrainAsk) -> None:
    reply = take_part(replace(ask, wire="int4").pack(), shop_folder)
    assert (reply.status, reply.reason) == ("refused", "wire = 'int4' is none of fp32, int8")
    assert "RESERVE" not in read(shop_folder / LEDGER).counts


# --- whole runs ---


@pytest.mark.parametrize(
    "changes",
    [
        {"training.method": "fedsvd", "training.head_share": 0.4},
        {"training.method": "flora"},
        {"training.method": "fedsa"},
        {"training.method": "sdflora"},
        {"training.method": "flexlora", "mixed.ranks": (4, 2)},
    ],
    ids=lambda changes: changes["training.method"],
)
def test_every_kind_of_method_takes_codes_and_goes_on_where_it_was_cut_short(
    changes: dict[str, Any], tiny_base: str, tmp_path: Path
) -> None:
    scenario = small(tiny_base, **{"privacy.epsilon": math.inf}, **changes)
    run = train(scenario, tmp_path / "run")
    told = [read_record(run.folder, number) for number in (1, 2)]
    assert [[one["status"] for one in record["merchants"]] for record in told] == [["done", "done"]] * 2
    whole = latest_round(run.folder)
    shutil.rmtree(run.folder / "rounds" / "0002")
    again = latest_round(train(scenario, run.folder).folder)
    assert whole is not None
    assert again is not None
    assert all(torch.equal(whole.adapter[name], again.adapter[name]) for name in whole.adapter)


def test_the_guard_measures_what_the_codes_stand_for(tiny_base: str, tmp_path: Path) -> None:
    scenario = small(
        tiny_base,
        **{
            "scenario.merchants": 3,
            "training.rounds": 1,
            "training.robust": "norm",
            "attack.kind": "scale",
            "attack.merchants": 1,
        },
    )
    (_, _, last) = read_record(train(scenario, tmp_path / "run").folder, 1)["merchants"]
    assert last["status"] == "done"
    assert "clipped to" in last["reason"]
    assert last["weight"] < 0.1


# --- hostile replies ---


def hostile(kind: str, reply: TrainReply) -> RecordDict:
    return ATTACKS[kind](reply.pack())


def test_what_a_hostile_shop_does_to_codes_is_refused_or_is_what_it_says(shop_folder: Path, ask: TrainAsk) -> None:
    reply = take_part(ask.pack(), shop_folder)
    honest = decode(reply.update)
    shapes = {name: tuple(one.shape) for name, one in honest.items()}
    for kind, factor in (("scale", 100.0), ("flip", -1.0)):
        spoiled = unpack_reply(hostile(kind, reply), shapes, "int8").update
        for name in honest:
            torch.testing.assert_close(spoiled[name], factor * honest[name])
    for kind, words in (("nan", "not finite"), ("shape", "expected int8"), ("header", "expected int8")):
        with pytest.raises(UserError, match=words):
            unpack_reply(hostile(kind, reply), shapes, "int8")


@pytest.mark.parametrize(("sent", "wanted"), [("fp32", "int8"), ("int8", "fp32")])
def test_an_update_in_the_other_form_is_refused(shop_folder: Path, ask: TrainAsk, sent: str, wanted: str) -> None:
    reply = take_part(replace(ask, wire=sent).pack(), shop_folder)
    shapes = {name: tuple(one.shape) for name, one in reply.update.items() if name != SCALES}
    with pytest.raises(UserError, match="names differ from what was asked, first 'scales'"):
        unpack_reply(reply.pack(), shapes, wanted)
