from __future__ import annotations

import json
import math
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from client.config import lexicon
from client.use.campaign import LABEL, read_campaign, write_campaign
from client.use.desk import Desk, campaign, load_model, open_desk
from client.use.guard import clean_copy
from client.use.ranking.book import day_of
from client.use.ranking.guard import judge
from client.use.ranking.rankers import Choice, ranked
from client.use.ranking.timing import due as chances
from client.use.ranking.timing import rhythm, timing
from client.use.recommend import LIKELY
from common.config import LoraSettings
from common.errors import UserError
from common.lora import Adapter, attach, bench, initial, lift, put, save, to_bytes
from common.model import load_base
from common.ranking import FEATURES, HEAD_FILE, PARTS, head_bytes
from common.text import words

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
    assert desk.names["SKU7"] == "茉莉花茶"


def test_the_shops_own_terms_and_stop_words_are_used(folder: Path) -> None:
    (folder / "terms.txt").write_text("糯米普洱\n", "utf-8")
    (folder / "stop.txt").write_text("茉莉花茶\n", "utf-8")
    with (folder / "merchant.toml").open("a", encoding="utf-8") as file:
        file.write('\n[text]\ndictionary = "terms.txt"\nstop_words = "stop.txt"\n')
    own = lexicon(open_desk(folder).settings)
    assert words("糯米普洱", own) == ["糯米普洱"] != words("糯米普洱")
    assert words("茉莉花茶", own) == [] != words("茉莉花茶")


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


def test_recommendations_are_items_of_the_shop_known_ones_first(desk: Desk) -> None:
    offers = desk.recommend(desk.customer("c01"), 8)
    assert len({offer.item_id for offer in offers}) == 8
    assert {offer.item_id for offer in offers} <= set(desk.products)
    bought = [offer.times > 0 for offer in offers]
    assert bought == sorted(bought, reverse=True)
    for kind in (True, False):
        scores = [offer.score for offer in offers if (offer.times > 0) == kind]
        assert scores == sorted(scores, reverse=True)
    baskets = desk.customer("c01").baskets
    assert all(one.times == sum(one.item_id in basket.items for basket in baskets) for one in offers)
    assert offers == desk.recommend(desk.customer("c01"), 8)


def test_fewer_slots_make_room_for_new_items(folder: Path) -> None:
    with (folder / "merchant.toml").open("a", encoding="utf-8") as file:
        file.write("\n[offer]\nslots = 5\n")
    desk = open_desk(folder)
    who = next(one for one in desk.customers.values() if len({item for b in one.baskets for item in b.items}) >= 2)
    assert [one.times > 0 for one in desk.recommend(who, 2)] == [True, False]


@pytest.mark.parametrize("setting", ["slots = 11", "slots = -1", "debias = 1.5", "places = 3"])
def test_settings_of_offers_that_cannot_be_are_one_line(folder: Path, setting: str) -> None:
    with (folder / "merchant.toml").open("a", encoding="utf-8") as file:
        file.write(f"\n[offer]\n{setting}\n")
    with pytest.raises(UserError, match=rf"offer\.{setting.split()[0]}"):
        open_desk(folder)


def test_without_a_head_the_most_frequent_item_stands_first(desk: Desk) -> None:
    for who in list(desk.customers.values())[:20]:
        found = desk.recommend(who, len(desk.products))
        times = [one.times for one in found]
        assert times == sorted(times, reverse=True)


def test_the_head_beside_the_shared_adapter_is_the_one_that_ranks(folder: Path, tiny_base: str, tmp_path: Path) -> None:
    before = open_desk(folder)
    shared_adapter(tiny_base, tmp_path / "model")
    head = {name: np.zeros(part.shape, np.float32) for name, part in PARTS.items()}
    head["rank"][FEATURES.index("decay .9")] = 2.0
    (tmp_path / "model" / HEAD_FILE).write_bytes(head_bytes(head))
    change(folder, 'adapter = ""', f'adapter = "{tmp_path / "model"}"')
    after = open_desk(folder)
    seen = after.window.seen
    assert judge(seen.book, seen.day, head).use_head
    expected = ranked(seen, head, Choice(k=5))
    for place, customer in enumerate(seen.book.customers):
        items = [seen.book.shelf.items[at] for at in expected[place].tolist()]
        assert [one.item_id for one in after.recommend(after.customers[customer], 5)] == items
    assert any(after.recommend(who, 5) != before.recommend(who, 5) for who in after.customers.values())
    (tmp_path / "model" / HEAD_FILE).write_bytes(b"no head")
    with pytest.raises(UserError, match=r"head .* cannot be read"):
        open_desk(folder)


def test_an_item_that_left_the_catalogue_is_not_offered(folder: Path) -> None:
    who = open_desk(folder).customer("c01")
    gone = open_desk(folder).recommend(who, 1)[0].item_id
    path = folder / "products.csv"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(f"{gone},")), "utf-8")
    desk = open_desk(folder)
    assert gone not in desk.products
    assert gone in desk.purchases.shelf.items
    found = desk.recommend(desk.customer("c01"), 100)
    assert gone not in {one.item_id for one in found}
    assert len(found) == len(desk.products)


def test_copy_has_passed_the_guard(desk: Desk) -> None:
    product = desk.products["SKU7"]
    texts = desk.copy(desk.customer("c01"), product, 2, offer="满50减5")
    assert len(texts) <= 2
    given = f"{product.name} 满50减5 " + " ".join(f"{k}#{v}" for k, v in product.attributes.items())
    assert all(clean_copy([text], given) == text for text in texts)


# --- campaigns ---


def test_who_is_due_is_likely_to_order_and_takes_messages(folder: Path, desk: Desk) -> None:
    ready = [one.id for one in desk.due(60)]
    seen = timing(desk.purchases, day_of(desk.time))
    chance = dict(zip(desk.purchases.customers, chances(seen, 60).tolist(), strict=True))
    assert ready == sorted(ready, key=lambda one: -chance[one])
    came_back = {one for one, again in zip(desk.purchases.customers, seen.again_U, strict=True) if again}
    assert set(ready) == {one for one in came_back - desk.silent if chance[one] >= LIKELY}
    assert ready
    (folder / "optout.csv").write_text(f"customer_id\n{ready[0]}\n", "utf-8")
    assert ready[0] not in [one.id for one in open_desk(folder).due(60)]


def test_in_a_few_days_those_are_due_who_are_likelier_than_the_shops_rhythm_has_it(desk: Desk) -> None:
    seen = timing(desk.purchases, day_of(desk.time))
    usual = 1 - math.exp(-3 / rhythm(seen))
    chance = dict(zip(desk.purchases.customers, chances(seen, 3).tolist(), strict=True))
    assert usual < LIKELY
    assert {one.id for one in desk.due(3)} == {one for one in chance if chance[one] >= usual} - desk.silent
    assert any(one < usual for one in chance.values())


def test_nobody_is_due_at_once(desk: Desk) -> None:
    assert desk.due(0) == []


def test_a_campaign_is_one_labelled_line_for_each_customer_that_is_due(desk: Desk, tmp_path: Path) -> None:
    lines = list(campaign(desk, 30, 3))
    ready = [one.id for one in desk.due(30)]
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
