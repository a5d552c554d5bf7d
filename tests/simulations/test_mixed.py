"""Merchants that are not alike: ranks, caps, sizes and absences in one federation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from client.config import LEDGER, POLICY
from common.errors import UserError
from common.methods import METHODS
from common.privacy import accountant
from common.privacy.ledger import read
from common.privacy.plan import planned_charge
from common.privacy.policy import Policy, read_policy
from server.rounds import read_record
from server.weights import by_noise, capped, noise_variance
from simulations.engines import AWAY
from simulations.folder import Run, check_mixed, mixes_ranks
from simulations.mixed import is_away
from simulations.results import load_run, merchant_ids
from simulations.run import claim, simulate
from simulations.scenario import Scenario, load_scenario
from simulations.world import LazyShops, make_shops

ROUNDS = 3
RANKS, EPSILONS, CUSTOMERS = (4, 2, 4, 2), (8.0, 3.0, 1.0, 8.0), (12, 60, 12, 12)
AWAY_IN: tuple[Any, ...] = (0.0, (2,), (1, 2, 3), 0.0)


def mixed(base: str = "default", **changes: Any) -> Scenario:
    """Four shops of which no two are alike, on one thread."""
    return load_scenario(
        "shops-zh",
        {
            "scenario.merchants": 4,
            "world.weeks": 20,
            "model.base": base,
            "lora.rank": 4,
            "training.rounds": ROUNDS,
            "training.weights": "noise",
            "training.robust": "none",
            "training.reference": False,
            "training.quorum": 0.25,
            "privacy.rate": 0.3,
            "privacy.steps": 2,
            "privacy.divisor": 4.0,
            "privacy.max_tokens": 64,
            "engine.threads": 1,
            "evaluation.per_task": 2,
            "evaluation.questions": 2,
            "mixed.ranks": RANKS,
            "mixed.epsilons": EPSILONS,
            "mixed.customers": CUSTOMERS,
            "mixed.away": AWAY_IN,
            **changes,
        },
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> Run:
    """A finished run of the four."""
    return simulate(mixed(tiny_base), tmp_path_factory.mktemp("runs") / "run", resume=False, report=lambda _: None)


def policies(run: Run) -> list[Policy]:
    """Return the merchants' policies in the order of merchants."""
    return [read_policy(folder / POLICY) for folder in run.merchants]


def test_every_merchant_signs_a_policy_of_its_own_and_all_adapters_have_one_scale(run: Run) -> None:
    mine = policies(run)
    assert tuple(one.lora.rank for one in mine) == RANKS
    assert tuple(one.epsilon for one in mine) == EPSILONS
    assert {one.lora.alpha / one.lora.rank for one in mine} == {run.scenario.lora.alpha / run.scenario.lora.rank}
    assert mine[2].sigma_min > mine[1].sigma_min > mine[0].sigma_min == mine[3].sigma_min
    for one in mine:
        worst = [planned_charge(one)] * one.max_rounds
        assert accountant.epsilon(worst, one.delta) <= one.epsilon


def test_shops_have_the_customers_they_were_dealt(run: Run) -> None:
    told = [json.loads((folder / "summary.json").read_text("utf-8")) for folder in run.merchants]
    assert [one["customers"] for one in told] == [12, 60, 12, 12]


def took_part(run: Run, number: int) -> dict[str, str]:
    """Return who did what in a round."""
    return {one["merchant"]: one["status"] for one in read_record(run.folder, number)["merchants"]}


def test_who_is_away_is_late_and_pays_nothing_and_comes_back(run: Run) -> None:
    names = [folder.name for folder in run.merchants]
    assert took_part(run, 1) == {names[0]: "done", names[1]: "done", names[3]: "done", "node 3": "late"}
    assert took_part(run, 2) == {names[0]: "done", names[3]: "done", "node 2": "late", "node 3": "late"}
    assert took_part(run, 3) == {names[0]: "done", names[1]: "done", names[3]: "done", "node 3": "late"}
    reasons = {one["reason"] for one in read_record(run.folder, 2)["merchants"] if one["status"] == "late"}
    assert reasons == {AWAY}
    charged = [read(folder / LEDGER).counts["RELEASE"] if (folder / LEDGER).exists() else 0 for folder in run.merchants]
    assert charged == [3, 2, 0, 3]
    told = json.loads((run.merchants[2] / "summary.json").read_text("utf-8"))
    assert (told["epsilon"], told["charges"]["released"]) == (0.0, 0)
    assert told["rounds_left"] == read_policy(run.merchants[2] / POLICY).max_rounds


def test_voices_follow_from_the_noise_that_was_declared(run: Run) -> None:
    mine = policies(run)
    for number in (1, 2, 3):
        accepted = [one for one in read_record(run.folder, number)["merchants"] if one["status"] == "done"]
        variances = [noise_variance(one["charge"], run.scenario.training.local_rate) for one in accepted]
        shares = capped(by_noise(variances), run.scenario.training.weight_cap)
        assert [one["weight"] for one in accepted] == pytest.approx(shares, abs=1e-5)
        sigmas = {one["merchant"]: one["charge"]["sigma"] for one in accepted}
        assert sigmas == {one.merchant: one.sigma_min for one in mine if one.merchant in sigmas}
    loud, quiet = accepted[1]["weight"], accepted[0]["weight"]
    assert loud < quiet


def test_the_page_counts_merchants_and_no_nodes(run: Run) -> None:
    assert merchant_ids(load_run(run.folder)) == [folder.name for folder in run.merchants]
    assert "epsilon <= 8 with sigma" in (run.folder / "model" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("method", ["florist", "flora"])
def test_methods_that_stack_lead_a_round_of_mixed_ranks(method: str, tiny_base: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "training.method": method,
        "training.rounds": 1,
        "mixed.customers": (6,),
        "mixed.away": (),
    }
    run = simulate(mixed(tiny_base, **changes), tmp_path / "run", resume=False, report=lambda _: None)
    assert set(took_part(run, 1).values()) == {"done"}


# --- what cannot be is said before anything is written ---


@pytest.mark.parametrize("method", ["fedavg", "fedsa", "sdflora"])
def test_a_method_that_cannot_mix_ranks_is_refused_before_the_run(method: str, tiny_base: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{method} cannot add up adapters of different rank; take .*florist"):
        simulate(mixed(tiny_base, **{"training.method": method}), tmp_path / "run", resume=False, report=lambda _: None)
    assert not (tmp_path / "run").exists()


def test_the_methods_that_mix_ranks_are_those_whose_sum_stays_as_exact_as_it_was() -> None:
    assert [one for one in METHODS if mixes_ranks(one)] == [
        "ffa", "fedsvd", "fedgsa", "rolora", "fedex", "flora", "flexlora", "florist"
    ]  # fmt: skip


def test_equal_ranks_are_no_mixture() -> None:
    changes: dict[str, Any] = {"training.method": "fedavg", "mixed.ranks": (4, 4)}
    check_mixed(mixed(**changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mixed.ranks": (8,)}, "at most lora.rank = 4"),
        ({"mixed.ranks": (4, 1), "lora.alpha": 6.0}, "alpha = 1.5"),
        ({"scenario.arms": ("federated", "central")}, "arms compare merchants that are alike"),
        ({"scenario.world": "complete-journey"}, "are as large as they are"),
    ],
)
def test_a_mixture_that_cannot_be_is_one_line(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        check_mixed(mixed(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mixed.ranks", (0,)),
        ("mixed.epsilons", (-1.0,)),
        ("mixed.customers", (1,)),
        ("mixed.away", (1.0,)),
        ("mixed.away", ((0,),)),
        ("mixed.away", (-0.1,)),
    ],
)
def test_an_entry_out_of_range_is_named(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=key):
        mixed(**{key: value})


# --- what is dealt out ---


def test_a_share_of_rounds_away_is_public_and_about_that_share() -> None:
    drawn = [is_away(0.3, place, number, seed=7) for place in range(40) for number in range(1, 51)]
    assert drawn == [is_away(0.3, place, number, seed=7) for place in range(40) for number in range(1, 51)]
    assert 0.27 < sum(drawn) / len(drawn) < 0.33
    assert drawn != [is_away(0.3, place, number, seed=8) for place in range(40) for number in range(1, 51)]


def test_a_shop_is_the_same_beside_others_of_another_size() -> None:
    shops = LazyShops(3, [12, 20], 7, skew=0.6, weeks=20)
    alone = make_shops(3, 12, 7, weeks=20)
    assert (shops[0], shops[2]) == (alone[0], alone[2])
    assert len({order.customer_id for order in shops[1].orders}) > 12


def test_the_card_names_every_cap_and_says_where_there_is_none() -> None:
    some: dict[str, Any] = {"mixed.epsilons": (8.0, float("inf"))}
    none: dict[str, Any] = {"mixed.epsilons": (float("inf"),)}
    text = claim(mixed(**some))
    assert "epsilon <= 8 with sigma" in text
    assert "NO BOUND, without noise" in text
    assert "protects nobody" in claim(mixed(**none))
