"""What a merchant's process keeps warm between messages: each shop's encoded customers, and their rows for the head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from client.config import MerchantSettings
from client.data.customers import Customer, Customers
from client.data.dataset import Dataset, make_dataset
from client.data.sources import fingerprint, read_shop
from client.train.head import HeadData, make_head_data
from client.use.ranking.book import catalogue_book, day_of
from common.model import Base
from common.privacy.policy import Policy
from common.schema import Product

KEPT = 64
CUTS = (90, 60, 30)
"""Days before the last one at which the head is asked what the next 30 days held: public, the same in every shop."""


@dataclass
class Warm:
    """A shop's training set, with the same customers in the same order for the head."""

    dataset: Dataset
    customers: Sequence[Customer] = field(repr=False)
    products: dict[str, Product] = field(repr=False)
    heads: dict[int, HeadData] = field(default_factory=dict, repr=False)

    def head(self, day: int) -> HeadData:
        """Return the customers' rows for the head, of what they bought before `day`; the last day asked for is kept."""
        if day not in self.heads:
            book = catalogue_book(self.customers, self.products)
            self.heads = {day: make_head_data(book, [day - ago for ago in CUTS], day)}
        return self.heads[day]


_warm: OrderedDict[tuple[object, ...], Warm] = OrderedDict()


def dataset(settings: MerchantSettings, base: Base, policy: Policy) -> Dataset:
    """Return the merchant's training set; read again when a source file, the row bounds or [train] have changed."""
    return _opened(settings, base, policy).dataset


def head_data(settings: MerchantSettings, base: Base, policy: Policy) -> HeadData:
    """Return the rows of the same customers, in the same order, for the head.

    The last day is that of `train.until`, else today by the clock, and never one that a row tells: a cut that follows from
    the shop's last order would move all customers' rows with one customer's.
    """
    return _opened(settings, base, policy).head(day_of(settings.train.until or datetime.now()))


def _opened(settings: MerchantSettings, base: Base, policy: Policy) -> Warm:
    train, bounds = settings.train, (policy.max_tokens, policy.max_records_per_customer)
    stamps = [fingerprint(source) for _, source in settings.sources if source is not None]
    key = (settings.folder, base.digest, *bounds, train.model_dump_json(), *stamps)
    if key not in _warm:
        shop = read_shop(settings)
        products = {product.item_id: product for product in shop.products}
        made = make_dataset(shop, base, *bounds, train.until, train)
        _warm[key] = Warm(made, Customers(shop, train.until), products)
    _warm.move_to_end(key)
    while len(_warm) > KEPT:
        _warm.popitem(last=False)
    return _warm[key]
