"""Federations whose merchants are not alike: lists of ranks, caps, sizes and absences, dealt out to the shops in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias, TypeVar

import numpy as np
from pydantic import Field

from common.config import Settings
from common.files import sha256

T = TypeVar("T")
Share: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Rounds: TypeAlias = tuple[Annotated[int, Field(ge=1)], ...]


class MixedSettings(Settings):
    """What differs from shop to shop: the first entry is the first shop's, after the last the first comes again."""

    ranks: tuple[Annotated[int, Field(ge=1, le=256)], ...] = Field(
        (), description="rank of each shop's policy, at most lora.rank; empty: lora.rank for all"
    )
    epsilons: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (), description="cap of each shop's policy, its noise follows; empty: privacy.epsilon for all"
    )
    customers: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        (), description="customers of each shop (shops-zh); empty: world.customers for all"
    )
    away: tuple[Share | Rounds, ...] = Field(
        (),
        description="when each shop is away: the rounds, `[2, 3]`, or a share of all, `0.3`, drawn from training.seed",
    )


def dealt(entries: Sequence[T], place: int, usual: T) -> T:
    """Return what the shop at `place` gets: the entries in turn, or `usual` where there are none.

    >>> [dealt((2, 4), place, 8) for place in range(3)], dealt((), 5, 8)
    ([2, 4, 2], 8)
    """
    return entries[place % len(entries)] if entries else usual


def is_away(away: Share | Rounds, place: int, number: int, seed: int) -> bool:
    """Return whether the shop at `place` is away in round `number`: named, or drawn from the public seed.

    >>> is_away((2, 3), 0, 2, seed=7), is_away((2, 3), 0, 4, seed=7), is_away(0.0, 0, 2, seed=7)
    (True, False, False)
    """
    if isinstance(away, tuple):
        return number in away
    drawn = np.random.Generator(np.random.Philox(int(sha256(f"away/{seed}/{place}/{number}".encode())[:16], 16)))
    return float(drawn.random()) < away


def in_order(merchants: Sequence[str]) -> list[str]:
    """Return merchants' ids in the order in which lists are dealt out: `shop-100` after `shop-99`.

    >>> in_order(["shop-100", "shop-02", "shop-11"])
    ['shop-02', 'shop-11', 'shop-100']
    """
    return sorted(merchants, key=lambda one: (len(one), one))
