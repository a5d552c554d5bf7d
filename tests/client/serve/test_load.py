"""The load tool against a real service."""

from __future__ import annotations

from pathlib import Path

from client.config import load_merchant
from client.data.sources import read_shop
from simulations.load import Asker, Serve, answers, facts_of, mixed, one_by_one, write_shop
from tests.client.serve.conftest import Running


def test_a_mixed_load_is_answered_without_an_error(service: Running) -> None:
    asker = Asker(service.port, service.key, ["c01", "c02", "c03"], 1)
    service.live.desk.products.setdefault("S0000", service.live.desk.products["SKU7"])
    assert answers(service.port)
    facts = facts_of([*one_by_one(asker, "recommend", 5), *mixed(asker, 1.0, 10.0)])
    assert facts["requests"] == 15
    assert facts["errors"] == 0
    assert {f"{verb} p99 ms" for verb in ("recommend", "copy", "profile", "reply", "reviews", "describe")} <= set(facts)


def test_what_fails_is_counted(service: Running) -> None:
    wrong = Asker(service.port, "fk_wrong", ["c01"], 1)
    assert facts_of(one_by_one(wrong, "recommend", 2))["errors"] == 2


def test_the_made_up_shop_is_one_and_the_same_every_time(tmp_path: Path) -> None:
    one, other = (write_shop(tmp_path / name, Serve(items=150, customers=5)) for name in "ab")
    assert (one / "orders.csv").read_bytes() == (other / "orders.csv").read_bytes()
    shop = read_shop(load_merchant(one))
    assert (len(shop.products), len(shop.orders), len(shop.dialogs)) == (150, 40, 3)
    assert len({product.name for product in shop.products}) == 150
