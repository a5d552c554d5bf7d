"""Who is drawn, and with which noise: the only randomness privacy rests on.

Under privacy (sigma > 0) it is AES-256 in counter mode under a key from the operating system: never seeded, never
saved, not the generator of torch. `Rehearsal` is the same interface from a public seed, for runs without noise only, so
that engines can be compared bit for bit.

    N customers   d numbers
"""

from __future__ import annotations

import secrets
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from common.privacy.plan import RoundPlan

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]


class Randomness(Protocol):
    """64-bit words, independent and uniform."""

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return `count` fresh words."""
        ...


class SecureRandom:
    """AES-256-CTR keyed by the operating system (NIST SP 800-38A); holds no state that could be saved or restored."""

    def __init__(self) -> None:
        cipher = Cipher(algorithms.AES(secrets.token_bytes(32)), modes.CTR(secrets.token_bytes(16)))
        self._stream = cipher.encryptor()

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return `count` fresh words."""
        return np.frombuffer(self._stream.update(bytes(8 * count)), dtype=np.uint64)

    def __getstate__(self) -> object:
        raise TypeError("randomness of a private run is never saved: a second use of the same noise would cancel it")


class Rehearsal:
    """Reproducible words from a public seed; only a run without noise may use it."""

    def __init__(self, *key: int | str) -> None:
        entropy = [part if isinstance(part, int) else int.from_bytes(part.encode(), "big") for part in key]
        self._generator = np.random.Philox(np.random.SeedSequence(entropy))

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return the next `count` words."""
        return np.asarray(self._generator.random_raw(count), dtype=np.uint64)


def randomness_for(plan: RoundPlan, seed: int, *purpose: str) -> Randomness:
    """Return the operating system's randomness, or the rehearsal of `seed` where the policy asks for no noise at all.

    A rehearsal gives every `purpose` words of its own.
    """
    return SecureRandom() if plan.sigma > 0 else Rehearsal(seed, plan.merchant, plan.round, *purpose)


def poisson(customers: int, rate: float, randomness: Randomness) -> Whole:
    """Return the positions drawn out of N `customers`, each on its own with probability `rate`.

    One 64-bit word a customer is compared with rate * 2^64, so the draw costs the same whoever is drawn.
    """
    words_N = randomness.words(customers)
    if rate >= 1:
        return np.arange(customers)
    return np.flatnonzero(words_N < np.uint64(int(rate * 2.0**64)))


def uniform(count: int, randomness: Randomness) -> Floats:
    """Return `count` numbers in [0, 1) with 53 random bits each."""
    return (randomness.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(count: int, randomness: Randomness) -> Floats:
    """Return `count` standard normal numbers in float64 (Box & Muller 1958) from 53-bit uniforms; |z| reaches 8.5."""
    pairs = (count + 1) // 2
    radius = np.sqrt(-2 * np.log1p(-uniform(pairs, randomness)))
    angle = 2 * np.pi * uniform(pairs, randomness)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def noisy(total_d: npt.NDArray[Any], deviation: float, randomness: Randomness) -> Floats:
    """Return `total_d` plus normal noise of standard deviation `deviation`, snapped to the public grid deviation / 2^12.

    The grid takes away what the low-order bits of floating-point numbers say about the sum (Mironov 2012,
    doi:10.1145/2382196.2382264); rounding after the noise is post-processing.
    """
    exact = total_d.astype(np.float64)
    if deviation == 0:
        return exact
    grid = deviation / 2**12
    return np.asarray(np.rint((exact + deviation * normal(exact.size, randomness)) / grid) * grid)
