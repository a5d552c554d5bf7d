"""The rules that turn merchants' updates into the next shared adapter: pure functions, one registry at the foot.

    W x + s B A x      s = alpha / r, one number for all      K merchants      A: r x d_in      B: d_out x r

Every rule is held against the same target: where a round begins with the product P = B A and merchant k, of rank r_k <= r,
turns its first r_k directions P^k into P_k, the next product should be

    P + rate * sum_k w_k (P_k - P^k)                      (with equal ranks and rate 1: sum_k w_k B_k A_k)

An exact rule reaches it to rounding error. A round in which nobody moves leaves everything as it is, at any mix of ranks.
All of it is post-processing of updates that are already private, so no rule costs any budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from common.errors import UserError
from common.factors import layers, padded
from common.lora import A_END, B_END, Adapter
from common.methods import METHODS, Travel, sent, trained
from server.lowrank import (
    Matrix,
    Product,
    basis,
    compressed,
    consensus,
    gram,
    matrix,
    norm,
    tensor,
    total,
    truncated,
)
from server.optimizers import State, Step, carried, sgd
from server.robust import ACCEPTED, PLAIN, Centre, Judgement, Robust, judged

RESIDUAL = "residual."
"""How the names of the factors begin, in the server's state, that belong into the frozen weight."""


@dataclass(frozen=True)
class Round:
    """What a rule works on: where the round began, what came back, and the settings of the server."""

    shared: Adapter = field(repr=False)
    updates: Sequence[Mapping[str, torch.Tensor]] = field(repr=False)
    """One change per accepted reply: trained minus asked, of the names `Rule.shared` gives, at the merchant's own rank."""
    weights: Sequence[float]
    """Public numbers above zero, in any scale (`server.weights`)."""
    number: int
    """Counted from 1."""
    factors: Sequence[float] = ()
    """What a screen multiplied each change by; nothing stands for ones."""
    state: State = field(default_factory=dict, repr=False)
    """What the last round's `Outcome` left."""
    step: Step = sgd
    rate: float = 1.0
    robust: Robust = PLAIN
    seed: int = 0
    """The public seed of the run."""
    energy: float = 0.99
    """For `florist`: the share of the squared singular values that stays."""
    residual_rank: int | None = None
    """For `fedex` and `flora`: the most directions the residual may have; a limit makes them inexact."""

    @property
    def shares(self) -> list[float]:
        """The weights, scaled to sum to one."""
        return scaled(self.weights)

    @property
    def kept_share(self) -> Sequence[float]:
        """How much of every change counts, from 0 to 1."""
        return self.factors or [1.0] * len(self.updates)


@dataclass(frozen=True)
class Outcome:
    """The next shared adapter, what the server keeps for the round after, and a verdict per reply in the order given."""

    adapter: Adapter = field(repr=False)
    state: State = field(repr=False)
    judgements: tuple[Judgement, ...] = ()

    @property
    def residual(self) -> Adapter:
        """Factors whose product, times s, belongs into every node's frozen weight: all of it since the run began."""
        return residual_of(self.state)


# --- adding up ---


def weighted_mean(updates: Sequence[Mapping[str, torch.Tensor]], weights: Sequence[float]) -> Adapter:
    """Return sum_k w_k u_k with the weights scaled to sum to one, added up in the order given, in float64.

    Weights are public numbers (McMahan et al. 2017, arXiv:1602.05629, with n_k replaced by a public weight).
    """
    shares = scaled(weights)
    return {name: _sum([one[name] for one in updates], shares) for name in sorted(updates[0])}


def scaled(weights: Sequence[float]) -> list[float]:
    """Return the weights scaled to sum to one; raise `UserError` unless all are above zero."""
    if not weights or not all(0 < weight < float("inf") for weight in weights):
        raise UserError(f"weights = {list(weights)}: every merchant's weight must be a number above 0")
    return [float(share) for share in np.asarray(weights, dtype=np.float64) / np.sum(weights)]


def _sum(values: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """Return the weighted sum in fp32, added up in float64."""
    whole = torch.zeros(values[0].shape, dtype=torch.float64)
    for one, share in zip(values, shares, strict=True):
        whole.add_(one.double().mul_(share))
    return whole.float()


def combine(method: str, given: Round) -> Outcome:
    """Return what `method` makes of a round: replies are screened, then added up in the method's own geometry.

    Raises `UserError` for a server optimizer that the method cannot use, and for weights that are not above zero.
    """
    rule = RULES[method]
    rule.check(given.step is sgd)
    if len(scaled(given.weights)) != len(given.updates):
        raise UserError(f"{len(given.weights)} weights for {len(given.updates)} updates; give every reply its weight")
    screen = given.robust.screen
    verdicts = screen(rule.inner(given)) if screen else [ACCEPTED] * len(given.updates)
    stay = [place for place, one in enumerate(verdicts) if one.status != "set aside"]
    kept = replace(
        given,
        updates=[given.updates[place] for place in stay],
        weights=[given.weights[place] for place in stay],
        factors=[verdicts[place].factor for place in stay],
    )
    outcome = rule.add(kept, rule)
    return replace(outcome, judgements=outcome.judgements or tuple(verdicts))


# --- geometry 1: the factors themselves ---


def by_factors(given: Round, rule: Rule) -> Outcome:
    """Return the mean of the factors' changes as the server's step, settled by the rule."""
    moved, state, verdicts = _moved(given)
    settled = rule.settle(moved)
    return Outcome(settled, carried(state, moved, settled), verdicts)


def by_consensus(given: Round, rule: Rule) -> Outcome:
    """Return B projected on the subspace that the merchants' B_k agree on, then realigned.

    FedGSA (2026, arXiv:2608.03267): U_k spans the columns of M_k = B_k A, U_g the top r eigenvectors of
    sum_k w_k U_k U_k', and U_g U_g' sum_k w_k M_k goes on. With A of full row rank the columns of B_k A and of B_k span
    the same, so nothing wider than the stacked B_k is looked at. What lies outside the consensus is dropped.
    """
    moved, state, verdicts = _moved(given)
    projected = dict(moved)
    for _, b_name in layers(given.shared):
        b = matrix(given.shared[b_name])
        changes = [change[b_name] for change in _changes(given)]
        bases = [basis(b + change) for change in changes]
        agreed = consensus(bases, given.shares, b.shape[1])
        if agreed.shape[1]:
            projected[b_name] = tensor(agreed @ (agreed.T @ matrix(moved[b_name])))
    settled = rule.settle(projected)
    return Outcome(settled, carried(state, moved, settled), verdicts)


def _moved(given: Round) -> tuple[Adapter, State, tuple[Judgement, ...]]:
    """Return the adapter after the server's step on the centre of all changes, before any settling."""
    mean, verdicts = _centred(given, given.robust.centre) if given.robust.centre else (_mean(given), ())
    moved, state = given.step(given.shared, mean, given.state, given.rate)
    return moved, state, verdicts


def _mean(given: Round) -> Adapter:
    """Return the weighted mean of the factors' changes, each shrunk where a screen said so."""
    changes = [padded(update, given.shared) for update in given.updates]
    shares = [share * kept for share, kept in zip(given.shares, given.kept_share, strict=True)]
    return {name: _sum([change[name] for change in changes], shares) for name in sorted(changes[0])}


def _centred(given: Round, centre: Centre) -> tuple[Adapter, tuple[Judgement, ...]]:
    """Return a robust centre of the factors' changes, and a verdict per reply by how much of it was left out."""
    changes = _changes(given)
    mean: Adapter = {}
    left_out = np.zeros(len(changes))
    for name in sorted(changes[0]):
        values = [change[name] for change in changes]
        middle, missed = centre(np.stack([one.ravel() for one in values]))
        mean[name] = tensor(middle.reshape(values[0].shape))
        left_out += missed
    return mean, tuple(judged(left_out, sum(value.size for value in changes[0].values())))


def _changes(given: Round) -> list[dict[str, Matrix]]:
    """Return every reply's change of the factors at full rank, shrunk where a screen said so."""
    return [
        {name: factor * matrix(value) for name, value in padded(update, given.shared).items()}
        for update, factor in zip(given.updates, given.kept_share, strict=True)
    ]


def inner_factors(given: Round) -> Matrix:
    """Return the K x K inner products of the factors' changes."""
    changes = _changes(given)
    whole = np.zeros((len(changes), len(changes)))
    for name in changes[0]:
        flat = np.stack([change[name].ravel() for change in changes])
        whole += flat @ flat.T
    return whole


# --- geometry 2: products B A, in their factors ---


def by_svd(given: Round, rule: Rule) -> Outcome:
    """Return the best adapter of the shared rank for the target product (FlexLoRA, without its dense matrix)."""
    return _by_svd(given, 1.0)


def by_threshold(given: Round, rule: Rule) -> Outcome:
    """Return the target product in as few directions as hold the share `energy` of its squared singular values (FLoRIST)."""
    return _by_svd(given, given.energy)


def _by_svd(given: Round, energy: float) -> Outcome:
    targets, verdicts = _targets(given)
    new = dict(given.shared)
    for a_name, target in targets.items():
        best = truncated(target, given.shared[a_name].shape[0], energy)
        new |= _factors(a_name, best)
    return Outcome(new, given.state, verdicts)


def by_restart(given: Round, rule: Rule) -> Outcome:
    """Return a fresh adapter, and the whole target product for the frozen weight (FLoRA's stack)."""
    targets, verdicts = _targets(given)
    fresh = restarted(given.shared, given.seed, given.number)
    return Outcome(fresh, _with_residual(given, targets), verdicts)


def by_residual(given: Round, rule: Rule) -> Outcome:
    """Return the factors' own means, and what their product misses for the frozen weight (FedEx-LoRA).

    The residual is target - B A with the B and A that really go on; it is kept in factors of rank up to (K + 1) r.
    """
    targets, verdicts = _targets(given)
    moved, _, _ = _moved(given)
    missing = {a_name: total([target, _product(moved, a_name).times(-1.0)]) for a_name, target in targets.items()}
    scales = {a_name: norm(target) for a_name, target in targets.items()}
    return Outcome(moved, _with_residual(given, missing, scales), verdicts)


def restarted(adapter: Adapter, seed: int, number: int) -> Adapter:
    """Return factors as a run begins with: every B zero, every A with orthonormal rows drawn from the public seed and round."""
    random = np.random.Generator(np.random.Philox(key=[seed, number]))
    new = {name: torch.zeros_like(value) for name, value in adapter.items()}
    for a_name, _ in layers(adapter):
        rank, inputs = adapter[a_name].shape
        new[a_name] = tensor(np.linalg.qr(random.standard_normal((inputs, rank))).Q.T)
    return new


def residual_of(state: Mapping[str, torch.Tensor]) -> Adapter:
    """Return the factors in the server's state that belong into the frozen weight; none for most methods."""
    return {name.removeprefix(RESIDUAL): value for name, value in state.items() if name.startswith(RESIDUAL)}


def _with_residual(given: Round, more: Mapping[str, Product], scales: Mapping[str, float] | None = None) -> State:
    """Return the state with `more` added to the residual, each layer in no more directions than it needs."""
    old = residual_of(given.state)
    state = {name: value for name, value in given.state.items() if not name.startswith(RESIDUAL)}
    for a_name, product in more.items():
        parts = [_product(old, a_name), product] if a_name in old else [product]
        whole = compressed(total(parts), given.residual_rank, (scales or {}).get(a_name, 0.0))
        if whole.a.shape[0]:
            state |= {RESIDUAL + name: value for name, value in _factors(a_name, whole).items()}
    return state


def _targets(given: Round) -> tuple[dict[str, Product], tuple[Judgement, ...]]:
    """Return the target product of every layer in factors, by the name of its A, and a centre's verdicts."""
    if not given.robust.centre:
        return {a_name: _target(given, a_name) for a_name, _ in layers(given.shared)}, ()
    targets, left_out, numbers = {}, np.zeros(len(given.updates)), 0
    for a_name, _ in layers(given.shared):
        targets[a_name], missed, count = _central(given, a_name)
        left_out += missed
        numbers += count
    return targets, tuple(judged(left_out, numbers))


def _target(given: Round, a_name: str) -> Product:
    """Return P + rate * sum_k w_k c_k (P_k - P^k) as one stack; P's directions take what the merchants' starts leave."""
    start = _product(given.shared, a_name)
    left = np.ones(start.a.shape[0])
    parts = []
    for one, share, factor in zip(_trained(given, a_name), given.shares, given.kept_share, strict=True):
        weight = given.rate * share * factor
        parts.append(one.times(weight))
        left[: one.a.shape[0]] -= weight
    return total([*parts, start.times(left)])


def _central(given: Round, a_name: str) -> tuple[Product, Matrix, int]:
    """Return P + rate * centre of the changes, number by number in orthonormal bases of all columns and of all rows.

    Also how often each reply was left out, and of how many numbers.
    """
    assert given.robust.centre
    start, ends = _product(given.shared, a_name), _trained(given, a_name)
    everything = total([*ends, start])
    left, right = np.linalg.qr(everything.b).Q, np.linalg.qr(everything.a.T).Q
    cores = np.stack([_core(one, left, right) - _core(start.first(one.a.shape[0]), left, right) for one in ends])
    middle, missed = given.robust.centre(cores.reshape(len(ends), -1))
    core = middle.reshape(cores.shape[1:])
    return total([start, Product(left @ core * given.rate, right.T)]), missed, core.size


def _core(product: Product, left: Matrix, right: Matrix) -> Matrix:
    return np.asarray((left.T @ product.b) @ (product.a @ right))


def inner_products(given: Round) -> Matrix:
    """Return the K x K inner products of the changes P_k - P^k, over all layers."""
    whole = np.zeros((len(given.updates), len(given.updates)))
    for a_name, _ in layers(given.shared):
        start, ends = _product(given.shared, a_name), _trained(given, a_name)
        whole += gram([*ends, start], _differences([one.a.shape[0] for one in ends], start.a.shape[0]))
    return whole


def _differences(ranks: Sequence[int], rank: int) -> Matrix:
    """Return the K x N coefficients of P_k - P^k over the stacked directions of P_1 … P_K and P."""
    rows = np.zeros((len(ranks), sum(ranks) + rank))
    place = 0
    for row, own in zip(rows, ranks, strict=True):
        row[place : place + own] = 1.0
        row[sum(ranks) : sum(ranks) + own] = -1.0
        place += own
    return rows


def _trained(given: Round, a_name: str) -> list[Product]:
    """Return every merchant's product after its training, at its own rank."""
    products = []
    for update in given.updates:
        start = _product(given.shared, a_name).first(update[a_name].shape[0])
        products.append(Product(start.b + matrix(update[_partner(a_name)]), start.a + matrix(update[a_name])))
    return products


def _product(adapter: Mapping[str, torch.Tensor], a_name: str) -> Product:
    return Product(matrix(adapter[_partner(a_name)]), matrix(adapter[a_name]))


def _factors(a_name: str, product: Product) -> Adapter:
    return {a_name: tensor(product.a), _partner(a_name): tensor(product.b)}


def _partner(a_name: str) -> str:
    return a_name.removesuffix(A_END) + B_END


# --- settling ---


def keep(adapter: Adapter) -> Adapter:
    """Return the adapter as it is."""
    return adapter


def realign(adapter: Adapter) -> Adapter:
    """Return the same product B A with orthonormal rows in every A and the singular values in B.

    FedSVD (Lee et al. 2025, arXiv:2505.12805): U S V' = svd(B A), A <- V', B <- U S. Here from the QR of both factors and
    the SVD of an r x r core, so nothing of size d_out x d_in is ever made; the product is kept to rounding error.
    """
    new = dict(adapter)
    for a_name, _ in layers(adapter):
        product = _product(adapter, a_name)
        new |= _factors(a_name, truncated(product, product.a.shape[0]))
    return new


# --- the registry ---


@dataclass(frozen=True)
class Rule:
    """One method as the server sees it; what merchants train, send and keep is `travel`."""

    name: str
    source: str
    exact: bool
    """Whether the next product is the target to rounding error."""
    keeps: str
    """What holds under this rule, in a line."""
    releases: str
    """What one round lets out of a merchant, in a line; every part of it is under the round's one charge."""
    ranks: str
    """What becomes of merchants of smaller rank, in a line."""
    add: Callable[[Round, Rule], Outcome] = by_factors
    settle: Callable[[Adapter], Adapter] = keep
    """What happens to averaged factors after the server's step."""

    @property
    def travel(self) -> Travel:
        """What merchants train, send and keep."""
        return METHODS[self.name]

    @property
    def geometry(self) -> Literal["factors", "products"]:
        """Where changes are compared and added up."""
        return "factors" if self.add in (by_factors, by_consensus) else "products"

    def trainable(self, names: Iterable[str], number: int) -> list[str]:
        """Return the names that train in round `number`."""
        return trained(names, self.name, number)

    def shared(self, names: Iterable[str], number: int) -> list[str]:
        """Return the names whose change travels in round `number`."""
        return sent(names, self.name, number)

    def inner(self, given: Round) -> Matrix:
        """Return the K x K inner products of the merchants' changes in the rule's geometry."""
        return inner_factors(given) if self.geometry == "factors" else inner_products(given)

    def check(self, plain_step: bool) -> None:
        """Raise `UserError` for a server optimizer that works on factors where the rule adds products."""
        if self.geometry == "products" and not plain_step:
            raise UserError(
                f"training.server_optimizer: {self.name} adds up products, which only sgd can step on; take sgd"
            )


ONE_FACTOR = "a noisy change of B"
BOTH = "a noisy change of A and of B, clipped together"
PADDED = "zeros up to the shared rank; exact, as the other factor is the shared one"
PADDED_BOTH = "zeros up to the shared rank (Cho et al. 2024, arXiv:2401.06432); not exact"
STACKED = "every merchant's product in its own rank; directions it does not hold stay as they were"

RULES: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "fedavg",
            "A and B averaged apart: FedIT, Zhang et al. 2023, arXiv:2305.05644",
            False,
            "the mean of either factor; the noises of A and B multiply",
            BOTH,
            PADDED_BOTH,
        ),
        Rule(
            "ffa",
            "A frozen for the run, B averaged: FFA-LoRA, Sun et al. 2024, arXiv:2403.12313",
            True,
            "the product of the mean is the mean of the products; half the bytes; noise stays linear",
            ONE_FACTOR,
            PADDED,
        ),
        Rule(
            "fedsvd",
            "B averaged, then A realigned by SVD: FedSVD, Lee et al. 2025, arXiv:2505.12805",
            True,
            "as ffa, and A follows the data with orthonormal rows, strongest direction first",
            ONE_FACTOR,
            PADDED + "; the first directions are the best adapter of a smaller rank",
            settle=realign,
        ),
        Rule(
            "fedgsa",
            "B projected on the merchants' consensus, then realigned: FedGSA 2026, arXiv:2608.03267",
            False,
            "as fedsvd inside the r directions that most merchants share; what lies outside is dropped",
            ONE_FACTOR,
            PADDED,
            add=by_consensus,
            settle=realign,
        ),
        Rule(
            "rolora",
            "B in odd rounds, A in even ones: RoLoRA, Chen et al. 2025, arXiv:2502.01755",
            True,
            "both factors learn, one at a time, so every round is exact and noise stays linear",
            "a noisy change of B in odd rounds, of A in even ones",
            PADDED,
        ),
        Rule(
            "fedex",
            "factors averaged, the rest into the frozen weight: FedEx-LoRA, Singhal et al. 2025, arXiv:2410.09432",
            True,
            "the target, at the price of a residual whose rank grows by up to (K - 1) r a round",
            BOTH,
            STACKED,
            add=by_residual,
        ),
        Rule(
            "flora",
            "factors stacked into the frozen weight, adapter restarted: FLoRA, Wang et al. 2024, arXiv:2409.05976",
            True,
            "the target, in a residual whose rank grows by up to K r a round; the adapter starts anew",
            BOTH,
            STACKED,
            add=by_restart,
        ),
        Rule(
            "flexlora",
            "mean product cut to the shared rank: FlexLoRA, Bai et al. 2024, arXiv:2402.11505",
            False,
            "the best rank-r approximation of the target; exact where the target has no more than r directions",
            BOTH,
            STACKED,
            add=by_svd,
        ),
        Rule(
            "florist",
            "mean product cut by its energy, from the stacks: FLoRIST, Ramesh and Dass 2025, arXiv:2506.09199",
            False,
            "as flexlora, with only the directions that hold the share `energy` of the squared singular values",
            BOTH,
            STACKED,
            add=by_threshold,
        ),
        Rule(
            "fedsa",
            "A averaged, B stays at the merchant: FedSA-LoRA, Guo et al. 2025, arXiv:2410.01463",
            False,
            "one A for all, a B of one's own; there is no shared product",
            "a noisy change of A; B is trained under the same noise and clip norm and stays",
            PADDED_BOTH,
        ),
        Rule(
            "sdflora",
            "a shared adapter and a private one: SDFLoRA, Shen et al. 2026, arXiv:2601.11219; the shared one as in fedsvd",
            True,
            "the shared product as in fedsvd; the private one never leaves",
            "a noisy change of the shared B; the private B is trained under the same noise and clip norm and stays",
            PADDED,
            settle=realign,
        ),
    )
}
