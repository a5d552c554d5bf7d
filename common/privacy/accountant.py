"""How much privacy a list of charges costs: epsilon, the whole privacy profile, and what an attacker could win.

A charge is `steps` Poisson-sampled Gaussian steps with noise multiplier `sigma` and sampling rate `rate`. The unit is
whatever is sampled and clipped, here one customer with all of her records, and the neighbouring relation is adding or
removing one unit. Order does not matter, so equal (sigma, rate) are merged before anything is computed.

The figure of record is the privacy loss distribution (PLD: Sommer, Meiser, Mohammadi 2019, PoPETs; discretised upwards
by connect-the-dots, Doroshenko et al. 2022, arXiv:2207.04380; library `dp-accounting`) on a grid of 1e-3. It is an
upper bound for parameters fixed in advance. Renyi DP is the second opinion, and the filter for adaptive parameters.

Pure functions of numbers; nothing here reads a file or a clock. `dp_accounting` takes over a second to import, so it is
imported at the first call that needs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from common.errors import UserError

GRID = 1e-3
"""Width of a bucket of privacy loss, in nats; doubled until the distribution fits into `MOST_BUCKETS`."""

MIXTURE_GRID = 4e-3
"""The grid for mixtures of Gaussians, which are slow to discretise; at 1e-3 epsilon is smaller by less than 0.003."""

MOST_BUCKETS = 1 << 21

WIDEST_GRID = 0.1
"""A loss that does not fit at this width either is so large that the PLD says nothing and Renyi DP bounds it."""

LEAST_SIGMA = 1e-4
"""Below this noise multiplier a step is counted as having no noise at all."""

ORDERS = (2, 3, 4, 6, 10, 16, 32, 64)
"""The Renyi orders of the filter, fixed here before any data is seen; delta is shared among them (`filter_epsilon`)."""

_ALL_ORDERS = (*range(2, 65), *range(68, 129, 4), *range(144, 257, 16), 320, 384, 448, 512)


class Spending(Protocol):
    """Anything that costs privacy like `steps` Poisson-sampled Gaussian steps."""

    @property
    def sigma(self) -> float:
        """The noise multiplier: noise standard deviation over clip norm."""

    @property
    def rate(self) -> float:
        """The probability that a customer is drawn into a step."""

    @property
    def steps(self) -> int:
        """The number of steps."""


class Setting(NamedTuple):
    """All steps of a history that share one (sigma, rate)."""

    sigma: float
    rate: float
    steps: int


History = tuple[Setting, ...]


def merge(charges: Iterable[Spending]) -> History:
    """Return the charges with equal (sigma, rate) added up, sorted; charges of no steps fall away.

    Raises `UserError` for a sigma below 0, a rate outside [0, 1] or a negative number of steps.
    """
    steps: dict[tuple[float, float], int] = {}
    for charge in charges:
        _check(charge)
        key = (float(charge.sigma), float(charge.rate))
        steps[key] = steps.get(key, 0) + charge.steps
    return tuple(Setting(sigma, rate, n) for (sigma, rate), n in sorted(steps.items()) if n and rate)


def _check(charge: Spending) -> None:
    if not charge.sigma >= 0:
        raise UserError(f"sigma = {charge.sigma}: a noise multiplier is a number from 0 up")
    if not 0 <= charge.rate <= 1:
        raise UserError(f"rate = {charge.rate}: a sampling rate lies between 0 and 1")
    if charge.steps < 0:
        raise UserError(f"steps = {charge.steps}: a number of steps is 0 or more")


def epsilon(charges: Iterable[Spending], delta: float, *, grid: float = GRID) -> float:
    """Return an epsilon for which all charges together are (epsilon, delta)-DP; infinite without noise.

    The smaller of two upper bounds: the PLD's, and Renyi DP's, which is the smaller one only where epsilon itself is
    of the size of the grid. Upper bounds up to the rounding of double arithmetic, which matters below a delta of
    about 1e-12 only, and then makes the PLD's larger.
    """
    history = merge(charges)
    return min(epsilon_pld(history, delta, grid=grid), epsilon_rdp(history, delta))


def epsilon_pld(charges: Iterable[Spending], delta: float, *, grid: float = GRID) -> float:
    """Return epsilon by the privacy loss distribution alone; infinite where the loss does not fit on the widest grid."""
    _check_delta(delta)
    return _epsilon(merge(charges), delta, grid)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise UserError(f"delta = {delta}: must lie between 0 and 1; 1e-6 is usual")


@lru_cache(maxsize=65_536)
def _epsilon(history: History, delta: float, grid: float = GRID) -> float:
    if not history:
        return 0.0
    if _unbounded(history):
        return math.inf
    return float(_distribution(history, grid).get_epsilon_for_delta(delta))


def _unbounded(history: History) -> bool:
    """Return whether the PLD's bound is infinite: no noise in some step, or a loss beyond the widest grid."""
    return any(setting.sigma < LEAST_SIGMA for setting in history) or _fitting(history, GRID) > WIDEST_GRID


def within(charges: Iterable[Spending], delta: float, cap: float, growing: Spending | None = None) -> bool:
    """Return whether epsilon(charges, delta) <= cap, without composing anything when that can be helped.

    Renyi DP bounds epsilon from above in microseconds: when it is within the cap, so is the PLD. Otherwise the number
    of steps of the setting of `growing` that the cap allows beside the others is searched once and remembered, so a
    ledger that adds equal rounds pays for one search.
    """
    _check_delta(delta)
    history = merge(charges)
    if math.isinf(cap) or not history:
        return cap >= 0
    if _renyi_epsilon(history, delta) <= cap:
        return True
    if growing is None:
        return _epsilon(history, delta) <= cap
    here = [s for s in history if (s.sigma, s.rate) == (growing.sigma, growing.rate)]
    others = tuple(s for s in history if s not in here)
    return sum(s.steps for s in here) <= steps_allowed(others, growing.sigma, growing.rate, delta, cap)


@lru_cache(maxsize=1024)
def steps_allowed(others: History, sigma: float, rate: float, delta: float, cap: float) -> int:
    """Return the largest number of steps at (sigma, rate) that fits under the cap beside `others`; -1 if none does.

    At most 2**40, which is what an infinite cap gets.
    """

    def fits(steps: int) -> bool:
        history = merge((*others, Setting(sigma, rate, steps)))
        return _renyi_epsilon(history, delta) <= cap or _epsilon(history, delta) <= cap

    return -1 if not fits(0) else largest(fits, 1 << 40)


def largest(fits: Callable[[int], bool], limit: int) -> int:
    """Return the largest n in [0, limit] that fits, for a property that holds at 0 and, once lost, stays lost."""
    low, high = 0, 1
    while high < limit and fits(high):
        low, high = high, 2 * high
    if high >= limit:
        high = limit
        if fits(limit):
            return limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def up(epsilon: float) -> str:
    """Return epsilon as it may be shown, rounded up to two decimals; `∞` where nothing bounds it.

    >>> up(3.2101), up(3.21), up(0.0), up(math.inf)
    ('3.22', '3.21', '0.00', '∞')
    """
    return "∞" if math.isinf(epsilon) else str(Decimal(repr(float(epsilon))).quantize(Decimal("0.01"), ROUND_CEILING))


# --- privacy loss distributions ---


def _library() -> Any:
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution


def _distribution(history: History, grid: float) -> Any:
    """Return the composed distribution of a history that is not empty and has noise in every step."""
    return _composed(history, _fitting(history, grid))


@lru_cache(maxsize=16)
def _composed(history: History, width: float) -> Any:
    parts = [_repeated(setting, width) for setting in history]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.compose(part)
    return whole


@lru_cache(maxsize=32)
def _repeated(setting: Setting, width: float) -> Any:
    return _one_step(setting.sigma, setting.rate, width).self_compose(setting.steps)


@lru_cache(maxsize=64)
def _one_step(sigma: float, rate: float, width: float) -> Any:
    return _library().from_gaussian_mechanism(sigma, sampling_prob=rate, value_discretization_interval=width)


def _fitting(history: History, grid: float) -> float:
    """Return the grid, doubled until the losses that matter fit into `MOST_BUCKETS`; a coarser grid only adds loss."""
    span = _span(history)
    while span > grid * MOST_BUCKETS:
        grid *= 2
    return grid


def _span(history: History) -> float:
    """Return about how far the composed losses reach, in nats: one whole step, and the sum's mean and spread."""
    reach = max(0.5 / s.sigma**2 + 10 / s.sigma for s in history)
    total = sum(s.steps * min(0.5 / s.sigma**2, s.rate**2 * math.expm1(min(s.sigma**-2, 700.0))) for s in history)
    return 2 * reach + total + 12 * math.sqrt(2 * total)


# --- what the distribution says ---


def privacy_profile(charges: Iterable[Spending], epsilons: Sequence[float]) -> tuple[float, ...]:
    """Return delta(epsilon) for every epsilon >= 0: the largest chance gap beyond the factor e**epsilon.

    delta(0) is the total variation distance: the largest advantage of any membership test.
    """
    return _deltas(merge(charges), tuple(float(e) for e in epsilons))


@lru_cache(maxsize=64)
def _deltas(history: History, epsilons: tuple[float, ...]) -> tuple[float, ...]:
    if not history:
        return tuple(0.0 for _ in epsilons)
    if _unbounded(history):
        return tuple(1.0 for _ in epsilons)
    deltas = _distribution(history, GRID).get_delta_for_epsilon(list(epsilons))
    return tuple(min(1.0, max(0.0, float(delta))) for delta in deltas)


def tpr_at_fpr(charges: Iterable[Spending], fpr: float) -> float:
    """Return the most true positives any membership test can reach at this rate of false alarms, both in [0, 1].

    For every epsilon, TPR <= e**epsilon FPR + delta(epsilon) and 1 - TPR >= e**-epsilon (1 - delta(epsilon) - FPR)
    (Wasserman and Zhou 2010; Dong, Roth, Su 2022, arXiv:1905.02383, proposition 2.5): the tightest of a fine list.
    """
    if not 0 <= fpr <= 1:
        raise UserError(f"fpr = {fpr}: a rate of false alarms lies between 0 and 1")
    history = merge(charges)
    top = _epsilon(history, 1e-12)
    if math.isinf(top):
        return 1.0
    epsilons = [top * i / 2000 for i in range(2001)]
    deltas = privacy_profile(history, epsilons)
    bounds = (_most_hits(fpr, e, delta) for e, delta in zip(epsilons, deltas, strict=True))
    return min(1.0, *bounds)


def _most_hits(fpr: float, eps: float, delta: float) -> float:
    above = math.exp(min(eps, 700.0)) * fpr + delta
    below = 1 - math.exp(-eps) * (1 - delta - fpr)
    return max(fpr, min(above, below))


def gdp_mu(charges: Iterable[Spending], floor: float = 1e-10) -> float:
    """Return the smallest mu, to 1e-4, whose Gaussian mechanism is at least as leaky wherever delta >= `floor`.

    One number for the whole curve (Gaussian DP, Dong, Roth, Su 2022, corollary 2.13). Below `floor` no finite mu of
    use covers subsampling, so it is a description; the guarantee is epsilon at delta.
    """
    history = merge(charges)
    top = _epsilon(history, floor)
    if math.isinf(top):
        return math.inf
    epsilons = [top * i / 200 for i in range(201)]
    deltas = privacy_profile(history, epsilons)
    pairs = [(e, d) for e, d in zip(epsilons, deltas, strict=True) if d >= floor]
    return max((_mu_through(e, d) for e, d in pairs), default=0.0)


def _mu_through(eps: float, delta: float) -> float:
    low, high = 0.0, 1.0
    while gaussian_delta(high, eps) < delta and high < 1e6:
        high *= 2
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if gaussian_delta(middle, eps) >= delta else (middle, high)
    return high


def gaussian_delta(mu: float, eps: float) -> float:
    """Return delta(epsilon) of one Gaussian mechanism with sensitivity over noise = mu (Balle and Wang 2018)."""
    if mu == 0:
        return 0.0
    below = math.exp(eps + math.log(max(_normal_cdf(-eps / mu - mu / 2), 1e-323))) if eps < 700 else 0.0
    return max(0.0, _normal_cdf(-eps / mu + mu / 2) - below)


def _normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


# --- whose epsilon ---


def epsilon_customers_at(m: int, charges: Iterable[Spending], delta: float) -> float:
    """Return the epsilon of a customer who shops at `m` merchants that all spend these charges, against all of them."""
    if m < 1:
        raise UserError(f"m = {m}: a customer shops at 1 merchant or more")
    return epsilon((Setting(s.sigma, s.rate, s.steps * m) for s in merge(charges)), delta)


def epsilon_records(k: int, charge: Spending, delta: float) -> float:
    """Return the epsilon of a customer with `k` records if single records were sampled and clipped instead.

    Each of the k is drawn on its own, so the customer moves a step's sum by Binomial(k, rate) clip norms: a mixture of
    Gaussians (Charles et al. 2024, arXiv:2407.07737). For k = 1 it is `epsilon`.
    """
    if k < 1:
        raise UserError(f"k = {k}: a customer has 1 record or more")
    history = merge((charge,))
    if not history:
        return 0.0
    if _unbounded((Setting(charge.sigma / k, charge.rate, charge.steps),)):
        return math.inf
    _check_delta(delta)
    return float(_mixture(k, charge.sigma, charge.rate).self_compose(charge.steps).get_epsilon_for_delta(delta))


@lru_cache(maxsize=64)
def _mixture(k: int, sigma: float, rate: float) -> Any:
    chances = [math.comb(k, i) * rate**i * (1 - rate) ** (k - i) for i in range(k + 1)]
    kept = [(float(i), chance) for i, chance in enumerate(chances) if chance > 0]
    sizes, weights = zip(*kept, strict=True)
    width = _fitting((Setting(sigma / k, rate, 1),), MIXTURE_GRID)
    return _library().from_mixture_gaussian_mechanism(sigma, sizes, weights, value_discretization_interval=width)


# --- Renyi DP ---


def renyi_step(sigma: float, rate: float, order: int) -> float:
    """Return the Renyi DP of one Poisson-sampled Gaussian step at a whole order >= 2, add or remove, in nats.

    log(sum_k binom(a, k) (1 - q)**(a - k) q**k exp((k**2 - k) / (2 sigma**2))) / (a - 1)
    (Mironov, Talwar, Zhang 2019, arXiv:1908.10530, equation 6 and theorem 5).
    """
    if rate == 0:
        return 0.0
    if sigma < LEAST_SIGMA:
        return math.inf
    if rate == 1:
        return order / (2 * sigma**2)
    terms = [_log_term(order, k, sigma, rate) for k in range(order + 1)]
    top = max(terms)
    return max(0.0, top + math.log(math.fsum(math.exp(term - top) for term in terms))) / (order - 1)


def _log_term(order: int, k: int, sigma: float, rate: float) -> float:
    choose = math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
    return choose + (order - k) * math.log1p(-rate) + k * math.log(rate) + (k * k - k) / (2 * sigma**2)


@lru_cache(maxsize=256)
def _renyi_curve(sigma: float, rate: float, orders: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(renyi_step(sigma, rate, order) for order in orders)


def _renyi_total(history: History, orders: tuple[int, ...]) -> list[float]:
    curves = [(setting.steps, _renyi_curve(setting.sigma, setting.rate, orders)) for setting in history]
    return [math.fsum(steps * curve[i] for steps, curve in curves) for i in range(len(orders))]


def from_renyi(rho: float, order: int, delta: float) -> float:
    """Return the epsilon at `delta` of (order, rho)-Renyi DP (Canonne, Kamath, Steinke 2020, proposition 12)."""
    return max(0.0, rho + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1))


def epsilon_rdp(charges: Iterable[Spending], delta: float) -> float:
    """Return epsilon by Renyi DP at the best of many whole orders: the cross-check, never below `epsilon`."""
    _check_delta(delta)
    return _renyi_epsilon(merge(charges), delta)


def _renyi_epsilon(history: History, delta: float) -> float:
    return _best_order(history, delta, _ALL_ORDERS)


def filter_epsilon(charges: Iterable[Spending], delta: float) -> float:
    """Return the epsilon of the Renyi filter: valid even if each charge was chosen after seeing what came before.

    A single-order filter holds under full adaptivity (Feldman and Zrnic 2021, arXiv:2008.11193). Choosing among the
    fixed `ORDERS` by the run itself is paid by a union bound: each order answers for delta / len(ORDERS).
    """
    _check_delta(delta)
    return _best_order(merge(charges), delta / len(ORDERS), ORDERS)


def _best_order(history: History, delta: float, orders: tuple[int, ...]) -> float:
    if not history:
        return 0.0
    totals = _renyi_total(history, orders)
    return min(from_renyi(rho, order, delta) for order, rho in zip(orders, totals, strict=True))


# --- third opinion ---


def epsilon_prv(charges: Iterable[Spending], delta: float) -> float:
    """Return epsilon by Opacus's PRV accountant (Gopi, Lee, Wutschitz 2021): a third opinion for tests.

    It reports its own error bound on top, about 0.01 above the PLD. Loads torch; not used when rounds are decided.
    """
    from opacus.accountants import PRVAccountant

    _check_delta(delta)
    history = merge(charges)
    if _unbounded(history):
        return math.inf
    if not history:
        return 0.0
    accountant = PRVAccountant()
    accountant.history = [(setting.sigma, setting.rate, setting.steps) for setting in history]
    return float(accountant.get_epsilon(delta))
