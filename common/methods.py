"""What a merchant trains, sends and keeps under every method: the half of a method that both sides must agree on.

    W x + s B A x      A: r x d_in      B: d_out x r      s = alpha / r, one number for the whole federation

What the server makes of the replies is the other half (`server.aggregation`). Everything a merchant trains goes through the
same private steps, also what it keeps: a part trained without noise and carried into the next round would let one customer
move every other customer's gradient, and the clip norm bounds one customer's gradient only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ENDS: Mapping[str, str] = {"A": ".lora_A.weight", "B": ".lora_B.weight"}
"""How PEFT's names of the two factors end."""


@dataclass(frozen=True)
class Travel:
    """Which factors are trained, sent and kept; each a text of the letters A and B."""

    cycle: tuple[str, ...]
    """What trains in round 1, 2, …; after the last the first comes again."""
    stays: str = ""
    """What of it never leaves the merchant; the merchant goes on from its own in the next round."""
    own: bool = False
    """Whether the merchant carries a private adapter beside the shared one; it trains the same factors and never leaves."""
    residual: bool = False
    """Whether the ask carries factors that belong into the frozen weight."""

    def trains(self, number: int) -> str:
        """Return the factors that train in round `number`, counted from 1."""
        return self.cycle[(number - 1) % len(self.cycle)]

    def sends(self, number: int) -> str:
        """Return the factors whose change travels to the server in round `number`."""
        return "".join(letter for letter in self.trains(number) if letter not in self.stays)


METHODS: Mapping[str, Travel] = {
    "fedavg": Travel(("AB",)),
    "ffa": Travel(("B",)),
    "fedsvd": Travel(("B",)),
    "fedgsa": Travel(("B",)),
    "rolora": Travel(("B", "A")),
    "fedex": Travel(("AB",), residual=True),
    "flora": Travel(("AB",), residual=True),
    "flexlora": Travel(("AB",)),
    "florist": Travel(("AB",)),
    "fedsa": Travel(("AB",), stays="B"),
    "sdflora": Travel(("B",), own=True),
}


def trained(names: Iterable[str], method: str, number: int) -> list[str]:
    """Return the names that a merchant trains in round `number` under `method`, sorted.

    >>> trained(["q.lora_A.weight", "q.lora_B.weight"], "rolora", 2)
    ['q.lora_A.weight']
    """
    return chosen(names, METHODS[method].trains(number))


def sent(names: Iterable[str], method: str, number: int) -> list[str]:
    """Return the names of the shared adapter whose change a merchant sends in round `number` under `method`, sorted.

    >>> sent(["q.lora_A.weight", "q.lora_B.weight"], "fedsa", 1)
    ['q.lora_A.weight']
    """
    return chosen(names, METHODS[method].sends(number))


def chosen(names: Iterable[str], letters: str) -> list[str]:
    """Return the names of the factors in `letters`, sorted."""
    ends = tuple(ENDS[letter] for letter in letters)
    return sorted(name for name in names if name.endswith(ends))
