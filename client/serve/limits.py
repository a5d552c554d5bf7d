"""How much one may ask: so many requests a second for each key, with a little room for bursts."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

BURST = 2.0
MOST = 4096
"""Callers remembered at once; the one not seen longest is forgotten first, and a forgotten one starts with a full bucket."""


@dataclass
class Bucket:
    """What is left of a caller's allowance, and when that was."""

    left: float
    at: float


class Limits:
    """A token bucket for each caller: `rate` requests a second, bursts of `BURST` seconds' worth."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._room = max(1.0, rate * BURST)
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def wait(self, caller: str, now: float) -> float:
        """Return 0 and count a request, or the seconds until the caller may ask again.

        >>> limits = Limits(1.0)
        >>> [limits.wait("a", 0.0) for _ in range(3)], limits.wait("b", 0.0), limits.wait("a", 1.0)
        ([0.0, 0.0, 1.0], 0.0, 0.0)
        """
        bucket = self._buckets.pop(caller, None) or Bucket(self._room, now)
        bucket.left = min(self._room, bucket.left + max(0.0, now - bucket.at) * self._rate)
        bucket.at = now
        self._buckets[caller] = bucket
        if len(self._buckets) > MOST:
            self._buckets.popitem(last=False)
        if bucket.left < 1:
            return (1 - bucket.left) / self._rate
        bucket.left -= 1
        return 0.0
