"""How a phrase becomes a sentence: rules with alternatives, and a voice that has its favourites among them.

In a template `<name>` stands for a fact or a rule and `(a|b|)` for one of the alternatives in it. Two voices know the
same rules and weigh the alternatives differently, so that shops share a grammar and still sound unlike each other.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping, Sequence

Rules = Mapping[str, Sequence[str]]
OPEN = re.compile(r"<([^<>]+)>|\(([^()]*)\)")


def words(text: str) -> tuple[str, ...]:
    """Return the words of `text`, split at white space."""
    return tuple(text.split())


class Voice:
    """One speaker: `sharpness` 0 likes all alternatives the same, 2 has a few strong favourites."""

    def __init__(self, name: str, rules: Rules, sharpness: float = 1.0) -> None:
        self.name = name
        self.rules = rules
        self.sharpness = sharpness
        self._weights: dict[str, list[float]] = {}

    def say(self, rng: random.Random, template: str, facts: Mapping[str, str]) -> str:
        """Return `template` with every rule and alternative chosen; raises `KeyError` for an unknown `<name>`."""

        def choose(match: re.Match[str]) -> str:
            name, inline = match.groups()
            if name is None:
                return self.pick(rng, inline, inline.split("|"))
            return facts[name] if name in facts else self.pick(rng, name, self.rules[name])

        while (text := OPEN.sub(choose, template)) != template:
            template = text
        return text

    def pick(self, rng: random.Random, key: str, options: Sequence[str]) -> str:
        """Return one of `options`; the same `key` always has the same favourites."""
        return rng.choices(options, cum_weights=self._cumulative(key, len(options)))[0]

    def _cumulative(self, key: str, count: int) -> list[float]:
        if key not in self._weights:
            likes = random.Random(f"{self.name}/{key}")
            self._weights[key] = list(
                itertools.accumulate(likes.expovariate(1) ** self.sharpness + 0.02 for _ in range(count))
            )
        return self._weights[key]
