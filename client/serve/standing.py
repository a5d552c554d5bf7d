"""What the console shows of budget, rounds and quality: read from policy, ledger and the last evaluation, nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from client.config import LEDGER, POLICY
from client.officer import lines_of, of_period, standing
from client.words import WORDS
from common.errors import FugouError
from common.privacy import plan as planning
from common.privacy.accountant import up
from common.privacy.policy import Policy, read_policy

QUALITY = "quality.json"
ENTRIES = 8


@dataclass(frozen=True)
class Entry:
    """One line of the ledger as the console shows it; `after` is epsilon rounded up."""

    time: str
    kind: str
    round: str
    after: str


@dataclass(frozen=True)
class Budget:
    """Where the budget stands; epsilons are rounded up and never stand without delta, unit and period."""

    spent: tuple[str, str]
    cap: tuple[str, str]
    """The promise in Chinese and in English."""
    share: float
    left: int
    used: int
    most: int
    entries: tuple[Entry, ...]


def budget_of(folder: Path) -> Budget | str | None:
    """Return the budget, None where there is no policy, and the reason where it cannot be read."""
    files = (folder / POLICY, folder / LEDGER)
    if not files[0].exists():
        return None
    try:
        return _budget(folder, tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files))
    except FugouError as error:
        return str(error)


@lru_cache(maxsize=4)
def _budget(folder: Path, _: tuple[int, ...]) -> Budget:
    """Return the budget of files of that time; what the rounds cost takes a second to work out."""
    policy = read_policy(folder / POLICY)
    now = of_period(standing(folder), policy)
    charges = (*now.spent, *now.reserved)
    spent = planning.spent_epsilon(policy, now.spent)
    lines = lines_of(folder / LEDGER, ENTRIES)[0] if (folder / LEDGER).exists() else []
    entries = tuple(
        Entry(one.time[:16].replace("T", " "), one.type, one.round, up(one.epsilon)) for one in reversed(lines)
    )
    return Budget(
        _promise(spent, policy), _promise(policy.epsilon, policy), min(1.0, spent / policy.epsilon),
        planning.rounds_left(policy, charges), len(now.spent), policy.max_rounds, entries,
    )  # fmt: skip


def _promise(epsilon: float, policy: Policy) -> tuple[str, str]:
    chinese, english = WORDS["promise"]
    places = {"epsilon": up(epsilon), "delta": policy.delta, "period": policy.period}
    return chinese.format(**places), english.format(**places)


def quality_of(folder: Path) -> Mapping[str, Any] | None:
    """Return what `fugou merchant evaluate -o .` wrote last, None where there is nothing or nothing that can be read."""
    try:
        found = json.loads((folder / QUALITY).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("rows"), list) else None
