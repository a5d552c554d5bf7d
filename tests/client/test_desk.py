from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from client.data.customers import Basket, Customer
from client.use.campaign import LABEL, read_campaign, write_campaign
from client.use.desk import Desk, campaign, due, load_model, open_desk
from client.use.guard import clean_copy
from common.config import LoraSettings
from common.errors import UserError
from common.lora import Adapter, attach, bench, initial, lift, put, save, to_bytes
from common.model import load_base

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "merchant"
LORA = LoraSettings(rank=2, alpha=4.0)


@pytest.fixture
def folder(tiny_base: str, tmp_path: Path) -> Path:
    """Return a copy of the example merchant that works on the tiny base."""
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "merchant"))
    change(folder, 'base = "default"', f'base = "{tiny_base}"')
    return folder


@pytest.fixture
def desk(folder: Path) -> Desk:
    return open_desk(folder)


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "merchant.toml"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def shared_adapter(base: str, folder: Path) -> Adapter:
    """Write the folder of an adapter that does something and return it."""
    random = np.random.default_rng(4)
    adapter = {
        name: torch.from_numpy(random.standard_normal(tuple(tensor.shape)).astype(np.float32))
        for name, tensor in initial(attach(load_base(base), LORA), 1).items()
    }
    save(adapter, folder, LORA, base)
    return adapter


# --- opening ---


def test_the_example_merchant_opens_the_day_after_its_last_order(desk: Desk) -> None:
    last = max(basket.time for one in desk.customers.values() for basket in one.baskets)
    assert desk.time == last + timedelta(days=1)
    assert "c01" in desk.customers
    assert desk.products["SKU7"].name == "茉莉花茶"
    assert desk.shop.names["SKU7"] == "茉莉花茶"


def test_the_shops_own_terms_and_stop_words_are_used(folder: Path, desk: Desk) -> None:
    assert desk.shop.words["SKU5"] == {"糯米", "普洱"}
    (folder / "terms.txt").write_text("糯米普洱\n", "utf-8")
    (folder / "stop.txt").write_text("茉莉花茶\n", "utf-8")
    with (folder / "merchant.toml").open("a", encoding="utf-8") as file:
        file.write('\n[text]\ndictionary = "terms.txt"\nstop_words = "stop.txt"\n')
    own = open_desk(folder).shop.words
    assert own["SKU5"] == {"糯米普洱"}
    assert own["SKU7"] == set() != desk.shop.words["SKU7"]


def test_an_unknown_customer_is_one_line(desk: Desk) -> None:
    assert desk.customer("c01").id == "c01"
    with pytest.raises(UserError, match=r"customer 'c99' is not in this shop's files; there are \d+ customers"):
        desk.customer("c99")


@pytest.mark.parametrize(("table", "says"), [("orders", "has no orders"), ("products", "has no products")])
def test_a_shop_without_rows_is_one_line(folder: Path, table: str, says: str) -> None:
    path = folder / f"{table}.csv"
    path.write_text(path.read_text("utf-8").splitlines()[0] + "\n", "utf-8")
    with pytest.raises(UserError, match=says):
        open_desk(folder)


def test_without_an_adapter_the_bare_base_answers(folder: Path, tiny_base: str) -> None:
    work = bench(tiny_base, LoraSettings())
    put(
        work.model, {name: tensor + 1 for name, tensor in initial(work.model, 1).items()}
    )  # whoever used the bench last left something in it
    found = open_desk(folder).bench
    ids = torch.tensor([[0, 5, 9, 300]])
    with torch.inference_mode():
        torch.testing.assert_close(found.model(ids).logits, load_base(tiny_base).model(ids).logits, rtol=0, atol=0)


def test_the_shared_adapter_is_the_one_that_is_named(folder: Path, tiny_base: str, tmp_path: Path) -> None:
    adapter = shared_adapter(tiny_base, tmp_path / "model")
    change(folder, 'adapter = ""', f'adapter = "{tmp_path / "model"}"')
    opened = open_desk(folder)
    assert to_bytes(lift(opened.bench.model)) == to_bytes(adapter)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"r": "many", "target_modules": ["c_attn"], "lora_alpha": 1}', '{"r": 2}']
)
def test_an_adapter_folder_that_is_none_is_one_line(folder: Path, tiny_base: str, tmp_path: Path, text: str) -> None:
    shared_adapter(tiny_base, tmp_path / "model")
    (tmp_path / "model" / "adapter_config.json").write_text(text)
    change(folder, 'adapter = ""', f'adapter = "{tmp_path / "model"}"')
    with pytest.raises(UserError, match="model") as caught:
        open_desk(folder)
    assert "\n" not in str(caught.value)


def test_an_adapter_whose_shapes_differ_from_its_config_is_one_line(
    folder: Path, tiny_base: str, tmp_path: Path
) -> None:
    shared_adapter(tiny_base, tmp_path / "model")
    path = tmp_path / "model" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 3}))
    change(folder, 'adapter = ""', f'adapter = "{tmp_path / "model"}"')
    with pytest.raises(UserError, match=r"adapter tensor .* expected"):
        open_desk(folder)


# --- answering ---


def test_recommendations_are_items_of_the_shop_best_first(desk: Desk) -> None:
    offers = desk.recommend(desk.customer("c01"), 5)
    assert len(offers) == 5
    assert {offer.item_id for offer in offers} <= set(desk.products)
    assert [offer.score for offer in offers] == sorted((offer.score for offer in offers), reverse=True)
    assert offers == desk.recommend(desk.customer("c01"), 5)


def test_copy_has_passed_the_guard(desk: Desk) -> None:
    product = desk.products["SKU7"]
    texts = desk.copy(desk.customer("c01"), product, 2, offer="满50减5")
    assert len(texts) <= 2
    given = f"{product.name} 满50减5 " + " ".join(f"{k}#{v}" for k, v in product.attributes.items())
    assert all(clean_copy([text], given) == text for text in texts)


# --- campaigns ---

DAY = datetime(2026, 6, 1)


def buyer(*days_ago: int) -> Customer:
    return Customer("c", [Basket(DAY - timedelta(days=days), {"A": "茶"}) for days in days_ago])


@pytest.mark.parametrize(
    ("customer", "within", "expected"),
    [
        (buyer(), 7, False),
        (buyer(5), 500, False),  # one order tells no rhythm
        (buyer(20, 10), 0, True),  # every ten days, and ten have passed
        (buyer(15, 5), 4, False),
        (buyer(15, 5), 5, True),
        (buyer(40, 30), 0, True),
        (buyer(41, 31), 0, False),  # three gaps without an order: gone
        (buyer(240, 120), 0, False),  # a gap as long as the longest bucket is no rhythm
    ],
)
def test_a_customer_is_due_when_the_rhythm_says_so(customer: Customer, within: int, expected: bool) -> None:
    assert due(customer, DAY, within) == expected


def test_a_campaign_is_one_labelled_line_for_each_customer_that_is_due(desk: Desk, tmp_path: Path) -> None:
    lines = list(campaign(desk, 30, 3))
    ready = [one.id for one in desk.customers.values() if due(one, desk.time, 30)]
    assert ready
    assert [line.customer_id for line in lines] == [one for one in ready[:3] if one in {x.customer_id for x in lines}]
    for line in lines:
        assert line.label == LABEL
        assert line.item_name == desk.products[line.item_id].name
        assert line.text
        assert line.reason.startswith("买过")
    assert write_campaign(lines, tmp_path / "campaign.csv") == len(lines)
    assert read_campaign(tmp_path / "campaign.csv") == lines


def test_a_campaign_for_nobody_is_empty(desk: Desk) -> None:
    assert list(campaign(desk, 30, 0)) == []


def test_load_model_keeps_one_bench_for_one_base(desk: Desk) -> None:
    assert load_model(desk.settings) is desk.bench
