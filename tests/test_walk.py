"""One row of `orders.csv` walks through the house and comes back as a line of a campaign: the architecture's table as code."""

from __future__ import annotations

import csv
from datetime import datetime
from pathlib import Path

import torch

from client.config import load_merchant
from client.data.customers import gather, pose
from client.data.dataset import make_dataset
from client.data.sources import read_shop
from client.train.sampling import SecureRandom, poisson
from client.train.trainer import per_customer_gradients, private, private_step
from client.use.campaign import write_campaign
from client.use.desk import campaign, open_desk
from common.config import LoraSettings
from common.lora import bench, difference, initial, lift, manifest, put, save
from common.methods import trained
from common.privacy.plan import RoundPlan
from common.wire import TrainReply, unpack_reply
from server.aggregation import RULES, weighted_mean
from server.optimizers import sgd
from server.rounds import SavedRound, latest_round, save_round

PLAN = RoundPlan("tea", "walk", 1, 1.0, 1.0, 1, 0.5, 3.0, 1e-6, 2, "policy", "adapter")

ORDERS = """customer_id,order_time,item_id,item_name,quantity,price,note,order_id
c01,2026-01-03,SKU7,茉莉花茶,2,58.00,备注：请打13800138000,o1
c01,2026-01-13,SKU7,茉莉花茶,1,58.00,,o2
c01,2026-01-24,SKU7,茉莉花茶,1,58.00,,o3
c02,2026-01-05,SKU8,乌龙茶,1,66.00,,o4
c02,2026-01-15,SKU8,乌龙茶,1,66.00,,o5
c02,2026-01-25,SKU7,茉莉花茶,1,58.00,,o6
"""
PRODUCTS = """item_id,name,category,brand,price,attributes
SKU7,茉莉花茶,茶,山叶,58.00,类型#花茶*规格#100g
SKU8,乌龙茶,茶,山叶,66.00,类型#乌龙*规格#100g
"""


def merchant(folder: Path, base: str, adapter: str = "") -> Path:
    """Write a merchant's folder with six rows."""
    folder.mkdir(exist_ok=True)
    (folder / "orders.csv").write_text(ORDERS, "utf-8")
    (folder / "products.csv").write_text(PRODUCTS, "utf-8")
    (folder / "merchant.toml").write_text(
        f'[merchant]\nid = "tea"\nname = "山叶茶铺"\nlang = "zh"\n[sources]\norders = "orders.csv"\nproducts = "products.csv"\n'
        f'[model]\nbase = "{base}"\nadapter = "{adapter}"\n',
        "utf-8",
    )
    return folder


def test_a_row_walks_from_csv_to_campaign(tmp_path: Path, tiny_base: str) -> None:
    lora = LoraSettings(rank=4, alpha=8.0)
    work = bench(tiny_base, lora)

    # 1, 2: read, and scrubbed before it is a row
    shop = read_shop(load_merchant(merchant(tmp_path / "tea", tiny_base)))
    first = next(row for row in shop.orders if row.order_id == "o1")
    assert first.order_time == datetime(2026, 1, 3)
    assert "13800138000" not in first.note
    assert "<手机>" in first.note

    # 3, 4: gathered to a customer, posed as text
    customer = next(one for one in gather(shop) if one.id == "c01")
    assert [basket.items for basket in customer.baskets] == [{"SKU7": "茉莉花茶"}] * 3
    task = pose(customer, {product.item_id: product for product in shop.products}, "zh")[-1].example
    assert task.prompt == "【复购】客户:中频·周期1周｜近购:茉莉花茶×2·2周｜会买:"
    assert task.target == "茉莉花茶"

    # 5: encoded, one row a customer
    data = make_dataset(shop, work.base, 64, 2, None)
    rows = data.rows([0, 1], SecureRandom())
    assert rows.ids_BT.shape == rows.counts_BT.shape == (2, 64)
    assert "茉莉花茶" in work.base.tokenizer.decode(rows.ids_BT[0][rows.counts_BT[0]])

    # 6, 7, 8: drawn, one gradient a customer, a noisy update
    adapter = initial(work.model, 7)
    names = trained(adapter, "fedsvd", 1)
    put(work.model, adapter)
    with private(work.model, names, PLAN, 1.0, SecureRandom()) as (hooks, optimizer):
        drawn = poisson(len(data), PLAN.rate, SecureRandom())
        assert drawn.tolist() == [0, 1]
        per_customer_gradients(hooks, rows, "cpu")
        assert all(p.grad_sample.shape == (2, *p.shape) for p in optimizer.params)
        private_step(
            optimizer, drawn, 16, lambda part: per_customer_gradients(hooks, data.rows(part, SecureRandom()), "cpu")
        )
    update = difference(lift(work.model), adapter, names)
    assert all(float(tensor.abs().max()) > 0 for tensor in update.values())

    # 9: across the wire, whole
    reply = TrainReply("done", "tea", 1, base_digest=work.base.digest, update=update)
    expected = {name: manifest(adapter)[name] for name in names}
    arrived = unpack_reply(reply.pack(), expected)
    assert all(torch.equal(arrived.update[name], update[name]) for name in names)

    # 10, 11: the next shared adapter, on disk
    shared, state = sgd(adapter, weighted_mean([arrived.update], [1.0]), {}, 1.0)
    saved = SavedRound(1, RULES["fedsvd"].settle(shared), state)
    save_round(tmp_path / "run", saved, {"round": 1}, lora, tiny_base)
    latest = latest_round(tmp_path / "run")
    assert latest is not None
    save(latest.adapter, tmp_path / "model", lora, tiny_base)

    # 12, 13: back at the shop, what to offer and in which words, as a file
    desk = open_desk(merchant(tmp_path / "tea", tiny_base, str(tmp_path / "model")))
    offers = desk.recommend(desk.customer("c01"), 2)
    assert {offer.item_id for offer in offers} == {"SKU7", "SKU8"}
    lines = list(campaign(desk, within=30, limit=10))
    write_campaign(lines, tmp_path / "campaign.csv")
    with (tmp_path / "campaign.csv").open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.reader(file))
    assert len(table) == 1 + len(lines)
    assert {line.customer_id for line in lines} <= {"c01", "c02"}
