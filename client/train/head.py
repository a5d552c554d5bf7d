"""The recommendation head: a few weights that score a customer's own items, trained by the same private steps.

    score(u, i) = w . phi(u, i)       listwise softmax over the customer's own past items, zero-initialised

phi reads one customer's history and public constants only, so the head needs no item list that shops would have to
share. Repeat purchases carry most of what a next basket holds (Ariannezhad et al. 2022, ReCANet, SIGIR), and frequency
with recency most of what can be known of them (Hu et al. 2020, TIFU-KNN, arXiv:2006.00556).

    N customers   B batch   C cut dates   I items   F features
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import numpy.typing as npt
import torch
from opacus import GradSampleModule

from client.data.customers import Basket, Customer
from client.train.sampling import Randomness
from client.train.trainer import private, private_steps
from common.privacy.plan import RoundPlan

CUTS, ITEMS = 4, 24
"""Public bounds of one customer's row: the last baskets asked about, and the items scored for each."""

ABSENT = -1e9

FEATURES = (
    "times",
    "decay .9",
    "decay .6",
    "half-life 30 days",
    "half-life 90 days",
    "rate",
    "days since",
    "overdue",
    "overdue squared",
    "has gap",
    "due",
    "one",
)

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class HeadRows:
    """Rows of customers: features (B, C, I, F), which items exist and which were bought at each cut, both (B, C, I)."""

    features_BCIF: Floats
    valid_BCI: Mask
    bought_BCI: Mask


@dataclass(frozen=True)
class HeadData:
    """Every customer of a shop as one row of the head; shapes as in `HeadRows` with N in place of B."""

    rows: HeadRows = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows.features_BCIF)

    def take(self, drawn: Sequence[int]) -> HeadRows:
        """Return the rows of the `drawn` customers."""
        chosen = list(drawn)
        return HeadRows(self.rows.features_BCIF[chosen], self.rows.valid_BCI[chosen], self.rows.bought_BCI[chosen])


class Head(torch.nn.Module):
    """The scorer: one linear layer without bias, at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.score = torch.nn.Linear(len(FEATURES), 1, bias=False)
        torch.nn.init.zeros_(self.score.weight)

    def forward(self, features_BCIF: torch.Tensor) -> torch.Tensor:
        """Return scores (B, C, I)."""
        scores: torch.Tensor = self.score(features_BCIF)[..., 0]
        return scores


def make_head_data(customers: Sequence[Customer], until: datetime | None = None) -> HeadData:
    """Return the head's training rows from baskets before `until`; a customer who poses no question keeps an empty row."""
    rows = [head_row([one for one in customer.baskets if until is None or one.time < until]) for customer in customers]
    features = (
        np.stack([row.features_BCIF for row in rows]) if rows else np.zeros((0, CUTS, ITEMS, len(FEATURES)), "f4")
    )
    empty = np.zeros((0, CUTS, ITEMS), dtype=np.bool_)
    valid = np.stack([row.valid_BCI for row in rows]) if rows else empty
    bought = np.stack([row.bought_BCI for row in rows]) if rows else empty
    return HeadData(HeadRows(features, valid, bought))


def head_row(baskets: Sequence[Basket]) -> HeadRows:
    """Return one customer's row (C, I, F), (C, I), (C, I): each of the last `CUTS` baskets asked of the history before it."""
    features = np.zeros((CUTS, ITEMS, len(FEATURES)), dtype=np.float32)
    valid, bought = np.zeros((CUTS, ITEMS), dtype=np.bool_), np.zeros((CUTS, ITEMS), dtype=np.bool_)
    asked = list(range(2, len(baskets)))[-CUTS:]
    for cut, place in enumerate(asked):
        names, phi_IF = history_features(baskets[:place], baskets[place].time)
        features[cut, : len(names)] = phi_IF
        valid[cut, : len(names)] = True
        bought[cut, : len(names)] = [name in baskets[place].items for name in names]
    return HeadRows(features, valid, bought)


def history_features(history: Sequence[Basket], time: datetime) -> tuple[list[str], Floats]:
    """Return the customer's `ITEMS` most frequent item ids and their features (I, F) as seen at `time`."""
    places: dict[str, list[int]] = {}
    for place, basket in enumerate(history):
        for item in basket.items:
            places.setdefault(item, []).append(place)
    items = sorted(places, key=lambda item: (-len(places[item]), -places[item][-1], item))[:ITEMS]
    phi = [
        item_features([history[place].time for place in places[item]], places[item], history, time) for item in items
    ]
    return items, np.asarray(phi, dtype=np.float32).reshape(len(items), len(FEATURES))


def item_features(
    times: Sequence[datetime], places: Sequence[int], history: Sequence[Basket], time: datetime
) -> list[float]:
    """Return phi of one item, every entry within [-4, 4]: a fixed public transform of when the customer bought it."""
    count, orders = len(times), len(history)
    since = days(times[-1], time)
    gap = days(times[0], times[-1]) / (count - 1) if count > 1 else 0.0
    overdue = min(max(math.log((since + 1) / max(gap, 0.5)), -3.0), 3.0) if count > 1 else 0.0
    observed = days(history[0].time, time)
    phi = [
        math.log1p(count),
        math.log(sum(0.9 ** (orders - 1 - place) for place in places) + 0.05),
        math.log(sum(0.6 ** (orders - 1 - place) for place in places) + 0.01) / 2,
        math.log(sum(0.5 ** (days(one, time) / 30) for one in times) + 0.01) / 2,
        math.log(sum(0.5 ** (days(one, time) / 90) for one in times) + 0.05),
        math.log(count / orders + 0.01),
        math.log1p(since) / 3,
        overdue,
        overdue**2 / 3,
        float(count > 1),
        math.log(-math.expm1(-7 * count / (observed + 30))) / 2,
        1.0,
    ]
    return [min(max(value, -4.0), 4.0) for value in phi]


def days(start: datetime, end: datetime) -> float:
    """Return the days from `start` to `end`, not below zero."""
    return max((end - start).total_seconds() / 86_400, 0.0)


def head_loss(scores_BCI: torch.Tensor, valid_BCI: torch.Tensor, bought_BCI: torch.Tensor) -> torch.Tensor:
    """Return (B,) listwise softmax losses in nats, each the mean over the customer's own cuts in which something repeats."""
    logged = scores_BCI.masked_fill(~valid_BCI, ABSENT).log_softmax(
        -1
    )  # finite: a cut without items has a gradient too
    wanted = (bought_BCI & valid_BCI).to(scores_BCI.dtype)
    asked_BC = wanted.sum(-1).clamp(max=1)
    losses_BC = -(logged * wanted).sum(-1) / wanted.sum(-1).clamp(min=1)
    return losses_BC.sum(1) / asked_BC.sum(1).clamp(min=1)


def head_gradients(hooks: GradSampleModule, rows: HeadRows) -> None:
    """Leave (B, 1, F) gradients in the head's `grad_sample`, one a customer."""
    scores_BCI = hooks(torch.from_numpy(rows.features_BCIF))
    head_loss(scores_BCI, torch.from_numpy(rows.valid_BCI), torch.from_numpy(rows.bought_BCI)).sum().backward()


def train_head(
    weights_F: torch.Tensor,
    customers: HeadData,
    plan: RoundPlan,
    randomness: Randomness,
    *,
    local_rate: float,
    microbatch: int = 256,
) -> torch.Tensor:
    """Return the noisy update (F,) of the head's weights after `plan.steps` private steps from `weights_F`."""
    head = Head()
    with torch.no_grad():
        head.score.weight.copy_(weights_F[None, :])
    with private(head, ["score.weight"], plan, local_rate, randomness) as (hooks, optimizer):
        private_steps(
            optimizer,
            len(customers),
            plan,
            randomness,
            microbatch,
            lambda drawn: head_gradients(hooks, customers.take(drawn)),
        )
    return head.score.weight.detach()[0] - weights_F
