"""How much a merchant's voice counts: from public numbers only, never from a count of rows.

Equal voices unless the federation says otherwise; by declared size band; by declared noise. Whoever declares can lie, so
no weight passes a cap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from common.errors import UserError

BANDS: Mapping[str, float] = {"small": 1.0, "medium": 3.0, "large": 10.0}
"""Weights of the size bands that merchants declare: thousands, tens of thousands, more customers; far below proportional."""


def equal(merchants: int) -> list[float]:
    """Return the same weight for every merchant."""
    return [1.0] * merchants


def by_band(declared: Sequence[str], bands: Mapping[str, float] = BANDS) -> list[float]:
    """Return the weight of each declared size band; raise `UserError` for a band that is none.

    >>> by_band(["small", "large"])
    [1.0, 10.0]
    """
    for band in declared:
        if band not in bands:
            raise UserError(f"size band {band!r} is none of {', '.join(bands)}; declare one of them")
    return [bands[band] for band in declared]


def read_bands(text: str) -> dict[str, str]:
    """Return merchant -> declared band from `shop-01:large,shop-02:medium`; raise `UserError` for what is no such list.

    >>> read_bands("shop-01:large, shop-02:medium")
    {'shop-01': 'large', 'shop-02': 'medium'}
    """
    pairs = [part.strip().rpartition(":") for part in text.split(",") if part.strip()]
    for merchant, _, band in pairs:
        if not merchant or band not in BANDS:
            raise UserError(f"training.bands: {merchant}:{band} is no merchant with one of {', '.join(BANDS)}")
    return {merchant: band for merchant, _, band in pairs}


def noise_variance(charge: Mapping[str, float | int | str], local_rate: float, proximal: float = 0.0) -> float:
    """Return the variance that a merchant's noise adds to every number of its update.

    Each of `steps` steps moves by local_rate * (clipped sum + N(0, (sigma clip_norm)^2)) / divisor, and the noises add up.
    Under a proximal term every later step shrinks what is there by 1 - local_rate * proximal.
    Raises `UserError` where the charge lacks a number.
    """
    missing = [
        key for key in ("sigma", "clip_norm", "steps", "divisor") if not isinstance(charge.get(key), (int, float))
    ]
    if missing:
        raise UserError(f"charge: {', '.join(missing)} is missing; weights by noise need it, or take equal weights")
    sigma, clip_norm, steps, divisor = (float(charge[key]) for key in ("sigma", "clip_norm", "steps", "divisor"))
    shrink = (1 - local_rate * proximal) ** 2
    lasting = steps if shrink == 1 else (1 - shrink**steps) / (1 - shrink)
    return lasting * (local_rate * sigma * clip_norm / divisor) ** 2


def by_noise(variances: Sequence[float], spread: float | None = None) -> list[float]:
    """Return w_k = 1 / (spread + variance_k): less noise, more weight.

    The linear unbiased mean of least variance when merchants' noise-free updates scatter by `spread` around what they have
    in common. Unknown, it is taken as the mean of the noise variances: then the weights of the quietest and the loudest
    of K merchants differ by a factor below K + 1. Our derivation; the idea of weights that fall with the noise is that of
    WinFLoRA (2026, arXiv:2602.01126). Reads declared numbers only, so it releases nothing.

    >>> by_noise([0.0, 2.0])
    [1.0, 0.3333333333333333]
    """
    spread = math.fsum(variances) / len(variances) if spread is None else spread
    if not spread > 0:
        return equal(len(variances))
    return [1 / (spread + variance) for variance in variances]


def capped(weights: Sequence[float], cap: float) -> list[float]:
    """Return weights that sum to one, none above `cap`; what is cut off goes to the others in proportion.

    With fewer than 1 / cap merchants nothing below equal weights can be held; they come out equal.

    >>> capped([8.0, 1.0, 1.0], 0.5)
    [0.5, 0.25, 0.25]
    """
    if cap * len(weights) <= 1:
        return [1 / len(weights)] * len(weights)
    full: set[int] = set()
    while True:
        free = math.fsum(weight for place, weight in enumerate(weights) if place not in full)
        room = 1 - cap * len(full)
        shares = [cap if place in full else weight / free * room for place, weight in enumerate(weights)]
        over = {place for place, share in enumerate(shares) if share > cap} - full
        if not over:
            return shares
        full |= over
