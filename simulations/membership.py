"""An attack on what a small federation releases: who was among the customers? What `fugou bench membership` runs.

Every candidate is a canary: a customer whose row is random ids and ends in an id of its own, the only one that counts; a
target that nobody else has is what a model remembers best (Panda et al. 2025, arXiv:2503.06808). A fair coin lets it
into its shop or not; the shops train together by the merchants' own private rounds; then the attacker, who has every
candidate's row but not its coin, scores each by how much likelier it became:

    member      from the shared adapter alone: loss under the first adapter minus loss under the last
    coordinator from every update as well: over all rounds, loss after the other shops' updates minus loss after its own
                shop's

Both are loss thresholds (Yeom et al. 2018, arXiv:1709.01604) calibrated by models that never saw the candidate (Watson et
al. 2022, arXiv:2111.08440): the first adapter, and the updates of shops where it cannot be. No shadow models are needed.
The second arm has the same rounds without noise: an attack that finds nobody there would prove nothing where noise is.

    N candidates of a shop   T tokens
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from scipy import stats

from client.audit.bounds import Bits, Floats, area, hits_at, proportion
from client.train.loss import customer_loss
from client.train.sampling import Randomness, SecureRandom
from client.train.trainer import LocalSettings, train_round
from common.config import LoraSettings, Settings
from common.errors import UserError
from common.files import write_atomic
from common.lora import Adapter, Bench, bench, initial, put
from common.privacy import accountant
from common.privacy.accountant import Setting, up
from common.privacy.plan import RoundPlan, calibrate
from common.tokens import Rows
from server.aggregation import weighted_mean

FALSE_ALARMS = (0.01, 0.05)
OBSERVERS = ("member", "coordinator")
MARK = re.compile(r"(?<=<!-- membership -->\n).*?(?=<!-- /membership -->)", re.DOTALL)
BATCH = 64

Arm = Literal["private", "open"]
ARMS: tuple[Arm, ...] = ("private", "open")


class Membership(Settings):
    """The federation and its candidates."""

    base: str = Field("default", description="the base model")
    merchants: Annotated[int, Field(ge=1, le=100)] = Field(3, description="shops")
    candidates: Annotated[int, Field(ge=20, le=100_000)] = Field(200, description="canaries of a shop, half of them in")
    tokens: Annotated[int, Field(ge=2, le=1024)] = Field(4, description="length of a canary's row")
    rounds: Annotated[int, Field(ge=1)] = Field(8, description="rounds")
    steps: Annotated[int, Field(ge=1)] = Field(4, description="private steps a round")
    rate: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="chance of a customer to be drawn into a step")
    epsilon: Annotated[float, Field(gt=0)] = Field(8.0, description="cap of the private arm over all rounds")
    delta: Annotated[float, Field(gt=0, lt=1)] = Field(1e-6, description="delta of the cap")
    clip_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="clip norm")
    local_rate: Annotated[float, Field(gt=0)] = Field(2.0, description="learning rate of the shops")
    threads: Annotated[int, Field(ge=1)] = Field(1, description="threads of torch")
    page: str = Field("", description="a page with the marks <!-- membership --> whose table is written anew")


@dataclass(frozen=True)
class Candidates:
    """A shop's canaries (N, T) with their coins; as customers it has those whose coin says in."""

    ids_NT: Any = field(repr=False)
    coins_N: Bits = field(repr=False)

    def __len__(self) -> int:
        return int(self.coins_N.sum())

    def rows(self, drawn: Sequence[int], randomness: Randomness) -> Rows:
        """Return the rows of the `drawn` customers among those that are in."""
        ids_BT = self.ids_NT[np.flatnonzero(self.coins_N)[list(drawn)]]
        return Rows(ids_BT, counted(ids_BT))


def counted(ids_BT: Any) -> Any:
    """Return (B, T) which ids count: the last of every row."""
    return np.broadcast_to(np.arange(ids_BT.shape[1]) == ids_BT.shape[1] - 1, ids_BT.shape).copy()


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


def candidates(settings: Membership, vocabulary: int) -> list[Candidates]:
    """Return every shop's canaries, drawn anew; raises `UserError` where there are more of them than ids."""
    count = settings.merchants * settings.candidates
    if count > vocabulary - 2:
        raise UserError(f"{count} candidates need as many ids, the base has {vocabulary - 2}; take fewer candidates")
    random = np.random.default_rng()
    ids_MNT = random.integers(2, vocabulary, (settings.merchants, settings.candidates, settings.tokens))
    ids_MNT[:, :, -1] = random.permutation(np.arange(2, vocabulary))[:count].reshape(ids_MNT.shape[:2])
    return [Candidates(ids_NT, random.random(settings.candidates) < 0.5) for ids_NT in ids_MNT]


def plan_of(settings: Membership, arm: Arm, merchant: int, number: int) -> RoundPlan:
    """Return the plan of one round; the divisor is the number of customers that is expected, a constant of the settings."""
    return RoundPlan(
        merchant=f"shop-{merchant}",
        run="membership",
        round=number,
        rate=settings.rate,
        sigma=sigma_of(settings) if arm == "private" else 0.0,
        steps=settings.steps,
        clip_norm=settings.clip_norm,
        divisor=max(1.0, settings.rate * settings.candidates / 2),
        delta=settings.delta,
        max_records=1,
        policy_digest="membership",
        adapter_digest="membership",
    )


def sigma_of(settings: Membership) -> float:
    """Return the noise multiplier under which all rounds together cost `epsilon` at most."""
    return calibrate(settings.epsilon, settings.delta, settings.rate, settings.steps, settings.rounds)


def losses(work: Bench, adapter: Adapter, ids_NT: Any) -> Floats:
    """Return (N,) losses in nats of every row under `adapter`."""
    put(work.model, adapter)
    found = []
    with torch.no_grad():
        for start in range(0, len(ids_NT), BATCH):
            ids_BT = torch.from_numpy(ids_NT[start : start + BATCH])
            counts_BT = torch.from_numpy(counted(ids_NT[start : start + BATCH]))
            logits_B2V = work.model(input_ids=ids_BT, logits_to_keep=2).logits
            found.append(customer_loss(logits_B2V, ids_BT[:, -2:], counts_BT[:, -2:]))
    return np.asarray(torch.cat(found).double().numpy())


def plus(adapter: Adapter, update: Adapter) -> Adapter:
    """Return the adapter after the update."""
    return {name: tensor + update[name] if name in update else tensor for name, tensor in adapter.items()}


def observed(work: Bench, settings: Membership, arm: Arm, shops: Sequence[Candidates]) -> dict[str, Floats]:
    """Return observer -> (shops * N,) scores after all rounds of one arm."""
    adapter = initial(work.model, int(np.random.default_rng().integers(2**31)))
    first = [losses(work, adapter, shop.ids_NT) for shop in shops]
    by_update = [np.zeros(settings.candidates) for _ in shops]
    for number in range(1, settings.rounds + 1):
        updates = [
            train_round(
                work.model, adapter, shop, plan_of(settings, arm, place, number), SecureRandom(),
                method="fedavg", local_rate=settings.local_rate, settings=LocalSettings(microbatch=BATCH),
            )
            for place, shop in enumerate(shops)
        ]  # fmt: skip
        for place, gained in enumerate(gains(work, adapter, updates, shops)):
            by_update[place] += gained
        adapter = plus(adapter, weighted_mean(updates, [1.0] * len(updates)))
    member = [start - losses(work, adapter, shop.ids_NT) for start, shop in zip(first, shops, strict=True)]
    return {"member": np.concatenate(member), "coordinator": np.concatenate(by_update)}


def gains(work: Bench, adapter: Adapter, updates: Sequence[Adapter], shops: Sequence[Candidates]) -> Iterator[Floats]:
    """Yield each shop's (N,) losses after other shops' updates, on average, minus those after its own.

    A shop alone is held against the adapter that the round began with.
    """
    ids_AT = np.concatenate([shop.ids_NT for shop in shops])
    after_MMN = np.stack([losses(work, plus(adapter, one), ids_AT) for one in updates]).reshape(
        len(shops), len(shops), -1
    )
    for place, shop in enumerate(shops):
        others = np.delete(after_MMN[:, place], place, axis=0)
        reference_N = others.mean(0) if len(others) else losses(work, adapter, shop.ids_NT)
        yield reference_N - after_MMN[place, place]


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


def ceiling(settings: Membership, arm: Arm) -> dict[str, float]:
    """Return the claim's own bound on any attack on one shop's updates: hits at each rate of false alarms, and epsilon."""
    if arm == "open":
        return {f"{rate:g}": 1.0 for rate in FALSE_ALARMS}
    spent = (Setting(sigma_of(settings), settings.rate, settings.steps * settings.rounds),)
    return {f"{rate:g}": accountant.tpr_at_fpr(spent, rate) for rate in FALSE_ALARMS}


def run_arm(settings: Membership, arm: Arm) -> dict[str, Any]:
    """Return one arm as JSON values: what was claimed, what the attacks found."""
    torch.set_num_threads(settings.threads)
    work = bench(settings.base, LoraSettings())
    shops = candidates(settings, work.base.model.config.vocab_size)
    coins_N = np.concatenate([shop.coins_N for shop in shops])
    scores = observed(work, settings, arm, shops)
    spent = (Setting(plan_of(settings, arm, 0, 1).sigma, settings.rate, settings.steps * settings.rounds),)
    return {
        "arm": arm,
        "sigma": spent[0].sigma,
        "epsilon": up(accountant.epsilon(spent, settings.delta)),
        "delta": settings.delta,
        "in": int(coins_N.sum()),
        "out": int((~coins_N).sum()),
        "ceiling": ceiling(settings, arm),
        "attacks": [_as_data(judge(name, scores[name], coins_N)) for name in OBSERVERS],
    }


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
        f"{settings.merchants} shops, {settings.candidates} candidates each, {settings.rounds} rounds of {settings.steps} "
        f"steps, rate {settings.rate:g}; every candidate a canary with a target of its own; 95 % intervals; "
        "`fugou bench membership`.",
        "",
        "| | ε ≤ (one customer, these rounds) | attacker has | AUC | hits at 1 % false alarms | at 5 % | claim allows at 1 % |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    names = {"member": "the shared adapter", "coordinator": "every update"}
    for arm in arms:
        bound = f"{arm['epsilon']}, δ = {arm['delta']:g}" if arm["sigma"] else "∞"
        for one in arm["attacks"]:
            low, high = one["auc interval"]
            hits = [f"{100 * a:.1f} % ({100 * b:.1f}–{100 * c:.1f})" for a, b, c in one["hits"].values()]
            lines.append(
                f"| σ = {arm['sigma']:g} | {bound} | {names[one['observer']]} | {one['auc']:.3f} ({low:.3f}–{high:.3f}) | "
                f"{' | '.join(hits)} | {100 * arm['ceiling']['0.01']:.0f} % |"
            )
    return "\n".join(lines) + "\n"


def write_table(page: Path, text: str) -> None:
    """Write the table between the marks of `page`; raises `UserError` where it has none."""
    before = page.read_text("utf-8")
    if not MARK.search(before):
        raise UserError(
            f"{page} has no place for the table; put <!-- membership --> and <!-- /membership --> on two lines"
        )
    write_atomic(page, MARK.sub(lambda _: text, before))


def facts(arm: Mapping[str, Any]) -> dict[str, float | int | str]:
    """Return one arm's figures for a line of `fugou bench`."""
    found: dict[str, float | int | str] = {"sigma": arm["sigma"], "epsilon": arm["epsilon"], "in": arm["in"]}
    for one in arm["attacks"]:
        low, high = one["auc interval"]
        found[f"{one['observer']} AUC"] = f"{one['auc']:.3f} ({low:.3f} to {high:.3f})"
        for rate, (share, least, most) in one["hits"].items():
            found[f"{one['observer']} hits at {rate}"] = f"{share:.3f} ({least:.3f} to {most:.3f})"
    return found


def main(given: Sequence[str]) -> None:
    """Print one arm as a JSON object."""
    arm: Arm = "open" if given[1] == "open" else "private"
    print(json.dumps(run_arm(Membership.model_validate_json(given[0]), arm)))
