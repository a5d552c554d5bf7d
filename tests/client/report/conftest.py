"""Merchants in every state that a report knows: small policies, real ledgers, no rows."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from client.report.data import build, inspect
from client.report.model import Audience, Report
from client.report.seal import sealed
from common.errors import Refused
from common.privacy.keys import create_key, load_key
from common.privacy.ledger import Ledger
from common.privacy.plan import plan_round
from common.privacy.policy import Policy, load_policy, sign_policy, write_policy

AT = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e{{7*7}}"
AUDIT: dict[str, Any] = {
    "design": "one-run gradient canaries",
    "method": "f-DP one-run",
    "data": "synthetic corpus",
    "m": 1000,
    "included": 503,
    "confidence": 0.95,
    "delta": 1e-5,
    "claimed_epsilon": 3.28,
    "epsilon_lower_bound": 1.14,
    "max_certifiable_epsilon": 4.2,
    "result": "consistent",
    "conformance": [{"test": "noise std", "observed": 5.51, "predicted": 5.52, "pass": True}],
    "roc": [[0.01, 0.02], [0.1, 0.17]],
}


@dataclass
class Shop:
    """A merchant's folder with keys, a signed policy and, once something happened, a ledger."""

    folder: Path

    def sign(self, **changes: Any) -> None:
        """Write and sign the policy."""
        values: dict[str, Any] = {
            "merchant": "tea-house", "epsilon": 2.0, "period": "2026Q3", "max_rounds": 6, "sigma_min": 2.0, "rate": 0.05,
            "steps": 10, "clip_norm": 0.5, "divisor": 16.0, "max_records_per_customer": 8, "max_tokens": 64,
        }  # fmt: skip
        write_policy(Policy.model_validate(values | changes), self.folder / "policy.toml")
        sign_policy(self.folder / "policy.toml", load_key(self.folder / "keys" / "officer"))

    def ledger(self) -> Ledger:
        """Return the ledger, begun with the policy when there is none."""
        file, key = self.folder / "ledger.db", load_key(self.folder / "keys" / "ledger")
        if file.exists():
            return Ledger.open(file, key)
        return Ledger.create(file, load_policy(self.folder / "policy.toml"), key)

    def spend(self, *numbers: int, burn: Sequence[int] = ()) -> None:
        """Make these rounds; those in `burn` fail after rows were read."""
        with self.ledger() as book:
            for number in numbers:
                held = book.reserve(plan_round(book.policy, "autumn", number, "adapter"))
                held.touch()
                if number in burn:
                    book.burn(held, "ended by RuntimeError")
                else:
                    book.release(held, f"update {number}".encode())

    def refuse(self, reason: str, number: int = 99) -> None:
        """Book a refusal."""
        with self.ledger() as book:
            book.refuse(reason, {"run": "autumn", "round": number})

    def report(self, audience: Audience = "confidential") -> Report:
        """Return a signed report, which the ledger does not note."""
        return sealed(build(inspect(self.folder), audience, AT), load_key(self.folder / "keys" / "ledger"))

    def export(self) -> str:
        """Return the ledger's export."""
        with self.ledger() as book:
            book.export_jsonl(self.folder / "ledger.jsonl")
        return (self.folder / "ledger.jsonl").read_text("utf-8")

    def audit(self, **changes: Any) -> None:
        """Write an audit and note its digest in the ledger."""
        raw = json.dumps(AUDIT | changes).encode()
        (self.folder / "audit.json").write_bytes(raw)
        with self.ledger() as book:
            book.note("AUDIT", {"sha256": hashlib.sha256(raw).hexdigest()})

    def settle(self) -> None:
        """Remove the side files of SQLite, so that the database file is all there is."""
        for end in ("-wal", "-shm"):
            (self.folder / f"ledger.db{end}").unlink(missing_ok=True)


def open_shop(folder: Path, name: str = "青禾茶铺", **policy: Any) -> Shop:
    """Return a new merchant with a signed policy."""
    folder.mkdir(parents=True)
    settings = (
        f'[merchant]\nid = "tea-house"\nname = {json.dumps(name)}\n[sources]\norders = "o.csv"\nproducts = "p.csv"\n'
    )
    (folder / "merchant.toml").write_text(settings, "utf-8")
    for key in ("officer", "ledger"):
        create_key(folder / "keys" / key)
    shop = Shop(folder)
    shop.sign(**policy)
    return shop


def within(folder: Path) -> Shop:
    """A shop with everything in its ledger: released, burned, refunded, refused, and a round under way."""
    shop = open_shop(folder, max_rounds=12, epsilon=4.0)
    shop.spend(1, 2, 3, burn=(2,))
    with shop.ledger() as book:
        book.refund(book.reserve(plan_round(book.policy, "autumn", 4, "adapter")))
    shop.refuse("the coordinator asks for sigma = 0.1")
    shop.spend(5)
    shop.audit()
    return shop


def near(folder: Path) -> Shop:
    shop = open_shop(folder)
    shop.spend(1, 2, 3, 4, 5)
    return shop


def exhausted(folder: Path) -> Shop:
    shop = open_shop(folder)
    shop.spend(1, 2, 3, 4, 5, 6)
    with shop.ledger() as book, pytest.raises(Refused):
        book.reserve(plan_round(book.policy, "autumn", 7, "adapter"))
    return shop


def refused(folder: Path) -> Shop:
    shop = open_shop(folder, HOSTILE)
    shop.spend(1)
    shop.refuse(f"the coordinator asks for clip_norm = {HOSTILE}")
    return shop


def unverifiable(folder: Path) -> Shop:
    shop = open_shop(folder)
    shop.spend(1)
    shop.settle()
    shutil.copy(shop.folder / "ledger.db", shop.folder / "old.db")
    shop.spend(2)
    shop.settle()
    (shop.folder / "old.db").replace(shop.folder / "ledger.db")
    return shop


def broken(folder: Path) -> Shop:
    shop = open_shop(folder)
    shop.spend(1, 2)
    with closing(sqlite3.connect(shop.folder / "ledger.db")) as base:
        base.execute("DROP TRIGGER entries_stay")
        base.execute("""UPDATE entries SET text = replace(text, '"round":"1"', '"round":"7"') WHERE seq = 2""")
        base.commit()
    return shop


def no_guarantee(folder: Path) -> Shop:
    shop = open_shop(folder, sigma_min=0.0, epsilon=math.inf)
    shop.spend(1)
    return shop


def violation(folder: Path) -> Shop:
    shop = open_shop(folder)
    shop.spend(1)
    shop.audit(epsilon_lower_bound=5.15)
    return shop


STATES: dict[str, Callable[[Path], Shop]] = {
    "within_budget": within,
    "near_limit": near,
    "exhausted": exhausted,
    "refused": refused,
    "no_guarantee": no_guarantee,
    "violation": violation,
    "unverifiable": unverifiable,
    "broken": broken,
}


@pytest.fixture(scope="session")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shop]:
    """One shop in every state; for reading only."""
    place = tmp_path_factory.mktemp("states")
    return {code: make(place / code) for code, make in STATES.items()}


@pytest.fixture(scope="session")
def reports(states: dict[str, Shop]) -> dict[tuple[str, Audience], Report]:
    """The report of every state for both audiences."""
    audiences: tuple[Audience, ...] = ("confidential", "shareable")
    return {(code, audience): shop.report(audience) for code, shop in states.items() for audience in audiences}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop that two rounds were made at, to be changed."""
    found = open_shop(tmp_path / "shop")
    found.spend(1, 2)
    return found
