"""Every number of a report computed again from the ledger's export, by dp-accounting and nothing of ours."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator
from typing import Any

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld.privacy_loss_distribution import from_mixture_gaussian_mechanism
from dp_accounting.rdp import RdpAccountant

from client.report.model import Report

ORDERS = [*range(2, 65), *range(68, 129, 4), *range(144, 257, 16), 320, 384, 448, 512]
Leaf = tuple[str, float]


def leaves(value: Any, path: str = "") -> Iterator[Leaf]:
    """Yield path and value of every number."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from leaves(one, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from leaves(one, f"{path}[{place}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


class Export:
    """What an export says, read without any of our code."""

    def __init__(self, text: str) -> None:
        self.entries = [json.loads(line)["entry"] for line in text.splitlines()]
        self.policy = tomllib.loads(next(e for e in self.entries if e["type"] == "POLICY")["detail"]["policy"])
        self.sigma, self.rate, self.steps = (self.policy[key] for key in ("sigma_min", "rate", "steps"))
        self.delta = self.policy["delta"]

    def count(self, *kinds: str) -> int:
        return sum(one["type"] in kinds for one in self.entries)

    def event(self, rounds: int) -> dp_accounting.DpEvent:
        step = dp_accounting.PoissonSampledDpEvent(self.rate, dp_accounting.GaussianDpEvent(self.sigma))
        return dp_accounting.SelfComposedDpEvent(step, self.steps * rounds)

    def account(self, rounds: int) -> PLDAccountant:
        return PLDAccountant(value_discretization_interval=1e-3).compose(self.event(rounds))

    def epsilon(self, rounds: int) -> float:
        return float(self.account(rounds).get_epsilon(self.delta)) if rounds else 0.0

    def by_record(self, rounds: int, records: int) -> float:
        chances = [math.comb(records, i) * self.rate**i * (1 - self.rate) ** (records - i) for i in range(records + 1)]
        one = from_mixture_gaussian_mechanism(
            self.sigma, range(records + 1), chances, value_discretization_interval=4e-3
        )
        return float(one.self_compose(self.steps * rounds).get_epsilon_for_delta(self.delta))

    def renyi(self, rounds: int) -> float:
        return float(RdpAccountant(ORDERS).compose(self.event(rounds)).get_epsilon(self.delta))

    def left(self, used: int) -> int:
        most = self.policy["max_rounds"]
        return max(n for n in range(used, most + 1) if self.epsilon(n) <= self.policy["epsilon"]) - used


def cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def gaussian(mu: float, eps: float) -> float:
    """Delta of the Gaussian mechanism (Balle and Wang 2018, theorem 8)."""
    return cdf(-eps / mu + mu / 2) - math.exp(eps) * cdf(-eps / mu - mu / 2)


def near_mu(export: Export, spent: int) -> float:
    """The Gaussian mechanism's mu that covers the profile wherever delta is above 1e-10, by bisection on its formula."""
    accountant = export.account(spent)
    found = 0.0
    for eps in [i * 0.02 for i in range(150)]:
        delta = float(accountant.get_delta(eps))
        low, high = 1e-3, 10.0
        while delta >= 1e-10 and high - low > 1e-5:
            low, high = (
                (low, (low + high) / 2) if gaussian((low + high) / 2, eps) >= delta else ((low + high) / 2, high)
            )
        found = max(found, high if delta >= 1e-10 else 0.0)
    return found


def most_hits(export: Export, spent: int, fpr: float) -> float:
    accountant = export.account(spent)
    epsilons = [i * 0.005 for i in range(800)]
    hits = (
        min(math.exp(e) * fpr + d, 1 - math.exp(-e) * (1 - d - fpr))
        for e, d in ((e, accountant.get_delta(e)) for e in epsilons)
    )
    return float(min(hits))


def expected(export: Export, report: dict[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Yield path, value and how much larger the report may say; it may never say less."""
    policy, spent = export.policy, export.count("RELEASE", "BURN")
    reserved = export.count("RESERVE") - export.count("RELEASE", "BURN", "REFUND")
    up = 0.0101
    yield "guarantee.max_records_per_customer", policy["max_records_per_customer"], 0
    for name, rounds in (("headline", spent), ("with_reserved", spent + reserved), ("lifetime", spent)):
        yield f"privacy_loss.{name}.epsilon", export.epsilon(rounds), up
        yield f"privacy_loss.{name}.delta", export.delta, 0
        yield f"privacy_loss.{name}.merchants", 1, 0
    yield from readings(export, spent, up)
    yield "privacy_loss.accountant.cross_check.epsilon", export.renyi(spent), up
    yield "privacy_loss.staircase.delta", export.delta, 0
    for n in range(spent + 1):
        yield f"privacy_loss.staircase.spent[{n}].rounds", n, 0
        yield f"privacy_loss.staircase.spent[{n}].epsilon", export.epsilon(n), up
    used = spent + reserved
    left = export.left(used)
    for n in range(left + 1):
        yield f"privacy_loss.staircase.forecast[{n}].rounds", used + n, 0
        yield f"privacy_loss.staircase.forecast[{n}].epsilon", export.epsilon(used + n), up
    yield from curves(export, spent, report)
    yield from constants(export, spent, left, reserved)


def readings(export: Export, spent: int, up: float) -> Iterator[tuple[str, float, float]]:
    for place, m in enumerate((1, 2, 3, 4, 5)):
        yield f"privacy_loss.by_unit[{place}].epsilon", export.epsilon(spent * m), up
        yield f"privacy_loss.by_unit[{place}].merchants", m, 0
    for place, k in ((5, 3), (6, 8)):
        yield f"privacy_loss.by_unit[{place}].epsilon", export.by_record(spent, k), 0.02
        yield f"privacy_loss.by_unit[{place}].records", k, 0
        yield f"privacy_loss.by_unit[{place}].merchants", 1, 0
    for place in range(7):
        yield f"privacy_loss.by_unit[{place}].delta", export.delta, 0


def curves(export: Export, spent: int, report: dict[str, Any]) -> Iterator[tuple[str, float, float]]:
    accountant, loss = export.account(spent), report["privacy_loss"]
    for place, point in enumerate(loss["profile"]):
        yield f"privacy_loss.profile[{place}].epsilon", point["epsilon"], 0  # where it is told is its own choice
        delta = float(accountant.get_delta(point["epsilon"]))
        yield f"privacy_loss.profile[{place}].delta", delta, 0.011 * delta + 1e-12
    for place, point in enumerate(loss["tradeoff"]):
        yield f"privacy_loss.tradeoff[{place}].fpr", point["fpr"], 0
        most = most_hits(export, spent, point["fpr"])
        yield f"privacy_loss.tradeoff[{place}].tpr_max", most * 0.998, 0.013 * most
    yield "privacy_loss.gdp_mu", near_mu(export, spent) - 1e-3, 0.012
    advantage = float(accountant.get_delta(0.0))
    yield "privacy_loss.max_advantage", advantage, 0.011 * advantage


def constants(export: Export, spent: int, left: int, reserved: int) -> Iterator[tuple[str, float, float]]:
    policy, last = export.policy, export.entries[-1]["seq"]
    yield "budget.epsilon_limit", policy["epsilon"], 0
    yield "budget.delta_limit", policy["delta"], 0
    counts = {
        "released": export.count("RELEASE"), "burned": export.count("BURN"), "refunded": export.count("REFUND"),
        "recovered": 0, "reserved": reserved, "left": left, "limit": policy["max_rounds"],
    }  # fmt: skip
    for name, value in counts.items():
        yield f"budget.rounds.{name}", value, 0
    for place, one in enumerate(e for e in export.entries if e["type"] == "REFUSE"):
        yield f"budget.refusals[{place}].seq", one["seq"], 0
    yield "mechanism.noise_multiplier", export.sigma, 0
    yield "mechanism.clip_norm", policy["clip_norm"], 0
    yield "mechanism.sampling.rate", export.rate, 0
    yield "mechanism.sampling.steps_per_round", export.steps, 0
    yield "mechanism.divisor", policy["divisor"], 0
    yield "mechanism.trainable.rank", policy["lora"]["rank"], 0
    yield "mechanism.trainable.alpha", policy["lora"]["alpha"], 0
    yield "mechanism.max_tokens", policy["max_tokens"], 0
    for place, one in enumerate(export.entries):
        yield f"events[{place}].seq", one["seq"], 0
        if "closes" in one:
            yield f"events[{place}].closes", one["closes"], 0
    yield "ledger.head_seq", last, 0
    yield "ledger.anchors[0].seq", last, 0


@pytest.fixture(scope="module")
def numbers(reports: dict[tuple[str, str], Report]) -> dict[str, float]:
    tree = reports["within_budget", "confidential"].model_dump(mode="json")
    return dict(leaves({**tree, "audit": None}))


@pytest.fixture(scope="module")
def known(states: dict[str, Any], reports: dict[tuple[str, str], Report]) -> dict[str, tuple[float, float]]:
    tree = reports["within_budget", "confidential"].model_dump(mode="json")
    export = Export(states["within_budget"].export())
    return {path: (value, more) for path, value, more in expected(export, tree)}


def too_small(numbers: dict[str, float], known: dict[str, tuple[float, float]]) -> list[str]:
    return [path for path, (value, _) in known.items() if numbers[path] < value - 1e-9]


def test_every_number_is_what_dp_accounting_computes_from_the_export(
    numbers: dict[str, float], known: dict[str, tuple[float, float]]
) -> None:
    assert set(numbers) == set(known), "a number of the report has no independent computation, or the reverse"
    assert not too_small(numbers, known)
    assert not [path for path, (value, more) in known.items() if numbers[path] > value + more + 1e-9]


@pytest.mark.parametrize(
    "path", ["headline.epsilon", "lifetime.epsilon", "accountant.cross_check.epsilon", "max_advantage", "gdp_mu"]
)
def test_a_figure_that_is_a_tenth_less_is_found(
    numbers: dict[str, float], known: dict[str, tuple[float, float]], path: str
) -> None:
    name = f"privacy_loss.{path}"
    assert too_small({**numbers, name: numbers[name] * 0.9}, known) == [name]


def test_the_claims_sentence_has_the_headlines_numbers(reports: dict[tuple[str, str], Report]) -> None:
    report = reports["within_budget", "confidential"]
    assert report.privacy_loss
    for text in (report.claim.zh, report.claim.en):
        assert f"(ε = {report.privacy_loss.headline.epsilon:.2f}, δ = 10⁻⁶)" in text
