"""An attack on what a small federation releases: who was among the customers? What `fugou bench membership` runs.

Candidates are customers or canaries. A customer has bought, reviewed and asked as those of `shops-zh` do, and its row is
what training makes of that. A canary is the worst customer that one can make up: its row is random ids and ends in an id
of its own, the only one that counts; a target that nobody else has is what a model remembers best (Panda et al. 2025,
arXiv:2503.06808). A fair coin lets a candidate into its shop or not; the shops train together by the merchants' own
private rounds; then the attacker, who has every candidate's row but not its coin, looks at the whole trajectory of what
was released and asks of every round whether it moved the way this candidate would have moved it:

    a_r(x) = < -g_r(x), move_r > / (|g_r(x)| |move_r|)      g_r(x): x's own gradient under the shared adapter of round r
    score  = sum over rounds of (a_r(x) - mean of a_r over the reference) / deviation of a_r over the reference

    member      move: the shared adapter after the round minus the one before; reference: all candidates
    coordinator move: the candidate's own shop's update; reference: candidates of the other shops, which cannot be in it

-g_r(x) is what a clipped step adds where x was drawn, so against normal noise the inner product is the matched filter, and
to first order it is the fall of x's loss in that round, without the curvature (gradients as the attacker's evidence:
Nasr et al. 2019, arXiv:1812.00910). Being held against rows that are known to be out takes the place of shadow models
(as offline in Carlini et al. 2022, arXiv:2112.03570; by a population in Zarifzadeh et al. 2024, arXiv:2312.03262).

Every arm has the same rounds, rate and learning rate under another cap; the last has no noise: an attack that finds nobody
there would prove nothing where noise is. Shops are small, so that without noise a model remembers them.

    N candidates of a shop   A candidates of all shops   T tokens   R rounds
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, TypeAdapter
from scipy import stats

from client.audit.bounds import Bits, Floats, area, hits_at, proportion
from client.data.dataset import make_dataset
from client.train.fast import FastGradients
from client.train.sampling import Randomness, SecureRandom
from client.train.trainer import LocalSettings, choose, clear, per_customer_gradients, train_round
from common.config import LoraSettings, Settings
from common.errors import UserError
from common.files import write_atomic
from common.lora import Adapter, Bench, bench, factors_in, initial, put
from common.model import Base
from common.privacy import accountant
from common.privacy.accountant import Setting, up
from common.privacy.plan import RoundPlan, calibrate
from common.tokens import Rows
from server.aggregation import weighted_mean
from simulations.world import LazyShops

FALSE_ALARMS = (0.01, 0.05)
OBSERVERS = ("member", "coordinator")
PLURAL = {"customer": "customers", "canary": "canaries"}
SEEN = {"member": "every shared adapter", "coordinator": "every update"}
MARK = re.compile(r"(?<=<!-- membership -->\n).*?(?=<!-- /membership -->)", re.DOTALL)
BATCH = 64
WEEKS, SKEW, RECORDS = 26, 0.6, 4
"""What customers are made of: weeks of purchases, how much shops differ, and records of a row at most."""

Who = Literal["customer", "canary"]
WHO: TypeAdapter[Who] = TypeAdapter(Who)
Cap = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Membership(Settings):
    """The federation and its candidates."""

    who: tuple[Who, ...] = Field(("customer", "canary"), description="what candidates are: arms of each kind")
    base: str = Field("default", description="the base model")
    federations: Annotated[int, Field(ge=1)] = Field(20, description="federations an arm, each with shops of its own")
    merchants: Annotated[int, Field(ge=1, le=100)] = Field(3, description="shops of a federation")
    candidates: Annotated[int, Field(ge=8, le=100_000)] = Field(20, description="candidates of a shop, half of them in")
    tokens: Annotated[int, Field(ge=2, le=1024)] = Field(4, description="length of a canary's row")
    max_tokens: Annotated[int, Field(ge=8, le=1024)] = Field(64, description="length of a customer's row at most")
    rounds: Annotated[int, Field(ge=1)] = Field(13, description="rounds")
    steps: Annotated[int, Field(ge=1)] = Field(4, description="private steps a round")
    rate: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="chance of a customer to be drawn into a step")
    epsilons: tuple[Cap, ...] = Field(
        (2.0, 8.0), description="an arm each: caps over all rounds; one without noise is added"
    )
    delta: Annotated[float, Field(gt=0, lt=1)] = Field(1e-6, description="delta of the caps")
    clip_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="clip norm")
    local_rate: Annotated[float, Field(gt=0)] = Field(0.1, description="learning rate of the shops")
    threads: Annotated[int, Field(ge=1)] = Field(1, description="threads of torch")
    page: str = Field("", description="a page with the marks <!-- membership --> whose table is written anew")

    @property
    def arms(self) -> tuple[tuple[Who, float], ...]:
        """Candidates and cap of all arms, of each kind the one without noise last."""
        return tuple(product(self.who, (*self.epsilons, math.inf)))


@dataclass(frozen=True)
class Candidates:
    """A shop's N candidates, a row each, with their coins; as customers it has those whose coin says in."""

    all: Rows = field(repr=False)
    coins_N: Bits = field(repr=False)

    def __len__(self) -> int:
        return int(self.coins_N.sum())

    def rows(self, drawn: Sequence[int], randomness: Randomness) -> Rows:
        """Return the rows of the `drawn` customers among those that are in."""
        return picked(self.all, np.flatnonzero(self.coins_N)[list(drawn)])


def picked(rows: Rows, places: Any) -> Rows:
    """Return the rows at `places`, a slice or an array of numbers."""
    voice = None if rows.voice_BT is None else rows.voice_BT[places]
    return Rows(rows.ids_BT[places], rows.counts_BT[places], voice)


@dataclass(frozen=True)
class Attack:
    """How one observer fared: area under the ROC curve with its interval, and hits at few false alarms."""

    observer: str
    auc: float
    auc_low: float
    auc_high: float
    hits: Mapping[str, tuple[float, float, float]]
    """False alarms as text -> (hits, lowest, highest), all shares."""

    @property
    def at_chance(self) -> bool:
        """Whether guessing blindly is within the interval."""
        return self.auc_low <= 0.5 <= self.auc_high


def candidates(settings: Membership, who: Who, base: Base) -> list[Candidates]:
    """Return every shop's candidates, drawn anew; raises `UserError` where there are more canaries than ids."""
    random = np.random.default_rng()
    found = customers(settings, base, random) if who == "customer" else canaries(settings, base, random)
    return [Candidates(rows, random.random(settings.candidates) < 0.5) for rows in found]


def customers(settings: Membership, base: Base, random: np.random.Generator) -> list[Rows]:
    """Return the rows of every shop's first customers, of shops that nobody has seen before.

    Not everybody on a shop's list has left a row, so that there are twice as many.
    """
    seed = int(random.integers(2**31))
    shops = LazyShops(settings.merchants, 2 * settings.candidates, seed, skew=SKEW, weeks=WEEKS)
    sets = (make_dataset(shop, base, settings.max_tokens, RECORDS, None) for shop in shops)
    return [one.rows(range(settings.candidates), SecureRandom()) for one in sets]


def canaries(settings: Membership, base: Base, random: np.random.Generator) -> list[Rows]:
    """Return the rows of every shop's canaries; raises `UserError` where there are more of them than ids."""
    count, vocabulary = settings.merchants * settings.candidates, base.model.config.vocab_size
    if count > vocabulary - 2:
        raise UserError(f"{count} candidates need as many ids, the base has {vocabulary - 2}; take fewer candidates")
    ids_MNT = random.integers(2, vocabulary, (settings.merchants, settings.candidates, settings.tokens))
    ids_MNT[:, :, -1] = random.permutation(np.arange(2, vocabulary))[:count].reshape(ids_MNT.shape[:2])
    return [Rows(ids_NT, last_alone(ids_NT)) for ids_NT in ids_MNT]


def last_alone(ids_NT: Any) -> Any:
    """Return (N, T) which ids count: the last of every row."""
    return np.broadcast_to(np.arange(ids_NT.shape[1]) == ids_NT.shape[1] - 1, ids_NT.shape).copy()


def plan_of(settings: Membership, sigma: float, merchant: int, number: int) -> RoundPlan:
    """Return the plan of one round; the divisor is the number of customers that is expected, a constant of the settings."""
    return RoundPlan(
        merchant=f"shop-{merchant}",
        run="membership",
        round=number,
        rate=settings.rate,
        sigma=sigma,
        steps=settings.steps,
        clip_norm=settings.clip_norm,
        divisor=max(1.0, settings.rate * settings.candidates / 2),
        delta=settings.delta,
        max_records=1,
        policy_digest="membership",
        adapter_digest="membership",
    )


def sigma_of(settings: Membership, cap: float) -> float:
    """Return the noise multiplier under which all rounds together cost `cap` at most; 0 for none."""
    return calibrate(cap, settings.delta, settings.rate, settings.steps, settings.rounds)


def alignments(work: Bench, adapter: Adapter, moves: Sequence[Adapter], shops: Sequence[Candidates]) -> Floats:
    """Return (moves, A) cosines of every move with the step that every candidate's loss asks for under `adapter`.

    A row without a gradient, and a move of nothing, have a cosine of 0.
    """
    put(work.model, adapter)
    chosen: dict[str, Any] = {n: one for n, one in factors_in(work.model).items() if choose(one, n in moves[0])}
    directions = torch.stack([_unit(torch.cat([move[name].flatten() for name in chosen])) for move in moves])
    engine, found = FastGradients(work.model), []
    try:
        for rows in (shop.all for shop in shops):
            per_customer_gradients(engine, rows, "cpu")
            rows_B = torch.cat([one.grad_sample.flatten(1) for one in chosen.values()], dim=1)
            found.append(-_unit(rows_B) @ directions.T)
    finally:
        clear(work.model)
    return np.asarray(torch.cat(found).T.double().numpy())


def _unit(values: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(torch.nn.functional.normalize(values.float(), dim=-1))


def plus(adapter: Adapter, update: Adapter) -> Adapter:
    """Return the adapter after the update."""
    return {name: tensor + update[name] if name in update else tensor for name, tensor in adapter.items()}


def observed(work: Bench, settings: Membership, sigma: float, shops: Sequence[Candidates]) -> dict[str, Floats]:
    """Return observer -> (A,) scores after all rounds of one federation."""
    adapter = initial(work.model, int(np.random.default_rng().integers(2**31)))
    scores = {name: np.zeros(sum(len(shop.coins_N) for shop in shops)) for name in OBSERVERS}
    for number in range(1, settings.rounds + 1):
        updates = [
            train_round(
                work.model, adapter, shop, plan_of(settings, sigma, place, number), SecureRandom(),
                method="fedavg", local_rate=settings.local_rate, settings=LocalSettings(microbatch=BATCH),
            )
            for place, shop in enumerate(shops)
        ]  # fmt: skip
        move = weighted_mean(updates, [1.0] * len(updates))
        shared_A, *by_shop_MA = alignments(work, adapter, [move, *updates], shops)
        scores["member"] += standardised(shared_A, shared_A)
        scores["coordinator"] += own(np.stack(by_shop_MA))
        adapter = plus(adapter, move)
    return scores


def own(values_MA: Floats) -> Floats:
    """Return (A,) how every candidate stands under its own shop's update, against the other shops' candidates.

    A shop alone has its own candidates for a reference.
    """
    by_MMN = values_MA.reshape(len(values_MA), len(values_MA), -1)
    found = []
    for place, (mine_N, all_MN) in enumerate(zip(by_MMN.diagonal().T, by_MMN, strict=True)):
        others = np.delete(all_MN, place, axis=0)
        found.append(standardised(mine_N, others if len(others) else mine_N))
    return np.concatenate(found)


def standardised(values_N: Floats, reference: Floats) -> Floats:
    """Return (N,) how many deviations of the reference each value lies above its mean; 0 where it does not vary."""
    spread = float(reference.std())
    return (values_N - reference.mean()) / spread if spread else np.zeros_like(values_N)


def judge(observer: str, scores_N: Floats, coins_N: Bits) -> Attack:
    """Return how well the scores tell the coins; where a score is no number it tells nothing."""
    clean_N = np.nan_to_num(scores_N, posinf=0.0, neginf=0.0)
    auc, spread = area(clean_N, coins_N), deviation_of_area(clean_N, coins_N)
    hits = {}
    for rate in FALSE_ALARMS:
        found, total = hits_at(clean_N, coins_N, rate)
        hits[f"{rate:g}"] = (found / total, *proportion(found, total))
    reach = 1.96 * spread
    return Attack(observer, auc, max(0.0, auc - reach), min(1.0, auc + reach), hits)


def deviation_of_area(scores_N: Floats, coins_N: Bits) -> float:
    """Return the standard deviation of the area under the ROC curve (DeLong et al. 1988, doi:10.2307/2531595)."""
    inside, outside = scores_N[coins_N], scores_N[~coins_N]
    ranks = stats.rankdata(np.concatenate([inside, outside]))
    above = (ranks[: len(inside)] - stats.rankdata(inside)) / len(outside)
    below = 1 - (ranks[len(inside) :] - stats.rankdata(outside)) / len(inside)
    return math.sqrt(float(above.var(ddof=1)) / len(inside) + float(below.var(ddof=1)) / len(outside))


def ceiling(settings: Membership, sigma: float) -> dict[str, float]:
    """Return the claim's own bound on any attack on one shop's updates: hits at each rate of false alarms."""
    if not sigma:
        return {f"{rate:g}": 1.0 for rate in FALSE_ALARMS}
    spent = (Setting(sigma, settings.rate, settings.steps * settings.rounds),)
    return {f"{rate:g}": accountant.tpr_at_fpr(spent, rate) for rate in FALSE_ALARMS}


def run_arm(settings: Membership, who: Who, cap: float) -> dict[str, Any]:
    """Return one arm as JSON values: what was claimed, what the attacks found in all its federations together."""
    torch.set_num_threads(settings.threads)
    work, sigma = bench(settings.base, LoraSettings()), sigma_of(settings, cap)
    coins_N, scores = attacked(work, settings, who, sigma)
    spent = (Setting(sigma, settings.rate, settings.steps * settings.rounds),)
    return {
        "who": who,
        "sigma": sigma,
        "epsilon": up(accountant.epsilon(spent, settings.delta)),
        "delta": settings.delta,
        "in": int(coins_N.sum()),
        "out": int((~coins_N).sum()),
        "ceiling": ceiling(settings, sigma),
        "attacks": [_as_data(judge(name, scores[name], coins_N)) for name in OBSERVERS],
    }


def attacked(work: Bench, settings: Membership, who: Who, sigma: float) -> tuple[Bits, dict[str, Floats]]:
    """Return the coins and observer -> scores of all candidates of all federations of one arm."""
    coins, scores = [], []
    for _ in range(settings.federations):
        shops = candidates(settings, who, work.base)
        coins.append(np.concatenate([shop.coins_N for shop in shops]))
        scores.append(observed(work, settings, sigma, shops))
    return np.concatenate(coins), {name: np.concatenate([one[name] for one in scores]) for name in OBSERVERS}


def _as_data(attack: Attack) -> dict[str, Any]:
    return {
        "observer": attack.observer,
        "auc": attack.auc,
        "auc interval": [attack.auc_low, attack.auc_high],
        "at chance": attack.at_chance,
        "hits": {rate: list(found) for rate, found in attack.hits.items()},
    }


def table(settings: Membership, arms: Iterable[Mapping[str, Any]]) -> str:
    """Return the results as Markdown."""
    lines = [
        f"{settings.federations} federations an arm, each of {settings.merchants} shops with {settings.candidates} candidates "
        f"(half of them in), {settings.rounds} rounds of {settings.steps} steps, rate {settings.rate:g}; "
        "95 % intervals; `fugou bench membership`.",
        "",
        "| candidates | | ε ≤ (one customer, these rounds) | attacker has | AUC | hits at 1 % false alarms | at 5 % "
        "| claim allows at 1 % | at 5 % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm in arms:
        bound = f"{arm['epsilon']}, δ = {arm['delta']:g}" if arm["sigma"] else "∞"
        allowed = [f"{100 * arm['ceiling'][f'{rate:g}']:.0f} %" for rate in FALSE_ALARMS]
        for one in arm["attacks"]:
            low, high = one["auc interval"]
            hits = [f"{100 * a:.1f} % ({100 * b:.1f}–{100 * c:.1f})" for a, b, c in one["hits"].values()]
            cells = [
                PLURAL[arm["who"]],
                f"σ = {arm['sigma']:g}",
                bound,
                SEEN[one["observer"]],
                f"{one['auc']:.3f} ({low:.3f}–{high:.3f})",
            ]
            lines.append(f"| {' | '.join([*cells, *hits, *allowed])} |")
    return "\n".join(lines) + "\n"


def write_table(page: Path, text: str) -> None:
    """Write the table between the marks of `page`; raises `UserError` where it has none."""
    before = page.read_text("utf-8")
    if not MARK.search(before):
        raise UserError(
            f"{page} has no place for the table; put <!-- membership --> and <!-- /membership --> on two lines"
        )
    write_atomic(page, MARK.sub(lambda _: text, before))


def facts(settings: Membership, arm: Mapping[str, Any]) -> dict[str, float | int | str]:
    """Return one arm's figures for a line of `fugou bench`."""
    claim = f"{arm['epsilon']} (delta = {arm['delta']:g}, one customer, {settings.rounds} rounds)"
    found: dict[str, float | int | str] = {"sigma": arm["sigma"], "epsilon": claim, "in": arm["in"]}
    for one in arm["attacks"]:
        low, high = one["auc interval"]
        found[f"{one['observer']} AUC"] = f"{one['auc']:.3f} ({low:.3f} to {high:.3f})"
        for rate, (share, least, most) in one["hits"].items():
            found[f"{one['observer']} hits at {rate}"] = f"{share:.3f} ({least:.3f} to {most:.3f})"
    return found


def main(given: Sequence[str]) -> None:
    """Print the arm of one kind of candidates and one cap as a JSON object."""
    print(json.dumps(run_arm(Membership.model_validate_json(given[0]), WHO.validate_python(given[1]), float(given[2]))))
