"""A merchant's desk: the shop's own rows beside the shared model, ready for questions. Nothing leaves it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from client.config import MerchantSettings, lexicon, load_merchant
from client.data.customers import LONG_GAP, Customer, gather, habit, offer_prompt
from client.data.sources import read_shop
from client.use.campaign import CampaignLine
from client.use.copywriter import write
from client.use.guard import clean_copy
from client.use.recommend import Catalogue, Offer, catalogue, rank
from common.config import LoraSettings, parse_settings
from common.errors import UserError
from common.lora import Bench, bench, initial, load, put
from common.schema import Product
from common.text import PLAIN, Lexicon, attributes_text, keywords


@dataclass(frozen=True)
class Desk:
    """One shop at one time: its customers, its catalogue and the shared model."""

    settings: MerchantSettings
    bench: Bench = field(repr=False)
    customers: dict[str, Customer] = field(repr=False)
    products: dict[str, Product] = field(repr=False)
    shop: Catalogue = field(repr=False)
    time: datetime

    def customer(self, name: str) -> Customer:
        """Return the customer called `name`."""
        if name not in self.customers:
            raise UserError(f"customer {name!r} is not in this shop's files; there are {len(self.customers)} customers")
        return self.customers[name]

    def recommend(self, customer: Customer, k: int) -> list[Offer]:
        """Return the `k` best items for `customer`."""
        return rank(self.bench, customer, self.shop, self.time, self.settings.merchant.lang, k)

    def copy(
        self, customer: Customer, product: Product, count: int, channel: str = "短信", offer: str = ""
    ) -> list[str]:
        """Return up to `count` texts that passed the guard, for `customer` and `product`."""
        prompt = offer_prompt(customer, product, self.time, channel, offer, self.settings.merchant.lang)
        given = f"{product.name} {attributes_text(product.attributes)} {offer}"
        texts = write(self.bench, prompt, max(count, 3))
        return [text for text in texts if clean_copy([text], given)][:count]


def open_desk(folder: Path) -> Desk:
    """Return the desk of the merchant in `folder`, as of the day after its last order."""
    settings = load_merchant(folder)
    shop = read_shop(settings)
    for table in ("orders", "products"):
        if not getattr(shop, table):
            raise UserError(f"{folder} has no {table}; check [sources] in merchant.toml")
    customers = gather(shop)
    time = max(order.order_time for order in shop.orders) + timedelta(days=1)
    names = {product.item_id: product.name for product in shop.products}
    products = {product.item_id: product for product in shop.products}
    by_id = {customer.id: customer for customer in customers}
    known = catalogue(customers, names, time, lexicon(settings))
    return Desk(settings, load_model(settings), by_id, products, known, time)


def load_model(settings: MerchantSettings) -> Bench:
    """Return the merchant's base carrying the shared adapter, or the bare base where no adapter is named."""
    if not settings.model.adapter:
        work = bench(settings.model.base, LoraSettings())
        put(work.model, initial(work.model, 0))  # B is zero, so the base answers, whatever the bench carried before
        return work
    folder = settings.model.adapter
    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        shape = {"targets": config["target_modules"], "rank": config["r"], "alpha": config["lora_alpha"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"adapter folder {folder} cannot be read: {error}; point [model] adapter at a run's model folder"
        ) from None
    lora = parse_settings(LoraSettings, shape, f"adapter folder {folder}")
    work = bench(settings.model.base, lora)
    put(work.model, load(folder))
    return work


def interests(customer: Customer, known: Lexicon = PLAIN) -> str:
    """Return what the customer's own reviews talk about most, as a clause; nothing where there are none."""
    found = keywords([review.text for review in customer.reviews], 3, known)
    return f"，评价常提{'、'.join(found)}" if found else ""


def due(customer: Customer, time: datetime, days: int) -> bool:
    """Return whether the customer's rhythm says that the next order falls due by `days` after `time`."""
    if not customer.baskets:
        return False
    gap = habit(customer.baskets, time).gap_days
    last = customer.baskets[-1].time
    return (
        gap < LONG_GAP and last + timedelta(days=gap) <= time + timedelta(days=days) and (time - last).days <= 3 * gap
    )


def campaign(desk: Desk, within: int, limit: int, channel: str = "短信") -> Iterator[CampaignLine]:
    """Yield one line for each of the first `limit` customers that are due within `within` days: item, words and why."""
    ready = [customer for customer in desk.customers.values() if due(customer, desk.time, within)]
    for customer in ready[:limit]:
        offer = desk.recommend(customer, 1)[0]
        texts = desk.copy(customer, desk.products[offer.item_id], 1, channel)
        if texts:
            gap = habit(customer.baskets, desk.time).gap_days
            reason = f"买过{offer.times}次，平均{gap}天一单，上次{customer.baskets[-1].time:%Y-%m-%d}"
            reason += interests(customer, lexicon(desk.settings))
            yield CampaignLine(customer.id, offer.item_id, offer.name, channel, texts[0], reason)
