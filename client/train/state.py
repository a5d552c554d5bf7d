"""What a merchant's process keeps warm between messages: each shop's encoded customers, and their rows for the head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from client.config import MerchantSettings
from client.data.customers import Customer, Customers
from client.data.dataset import Condensed, Dataset, make_dataset
from client.data.sources import fingerprint, read_shop
from client.train.head import HeadData, make_head_data
from client.use.ranking.book import catalogue_book, day_of
from common.model import Base
from common.privacy.policy import Policy
from common.schema import Product

KEPT = 64
IDS_EACH, IDS = 400_000, 16_000_000
"""A shop that makes room for another is kept as ids alone, where those are few; all of them take 64 MB at most."""
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
_condensed: OrderedDict[tuple[object, ...], Condensed] = OrderedDict()


def dataset(settings: MerchantSettings, base: Base, policy: Policy) -> Dataset | Condensed:
    """Return the merchant's training set; read again when a source file, the row bounds or [train] have changed."""
    key = _key(settings, base, policy)
    if key in _condensed and key not in _warm:
        _condensed.move_to_end(key)
        return _condensed[key]
    return _opened(settings, base, policy, key).dataset


def head_data(settings: MerchantSettings, base: Base, policy: Policy) -> HeadData:
    """Return the rows of the same customers, in the same order, for the head.

    The last day is that of `train.until`, else today by the clock, and never one that a row tells: a cut that follows from
    the shop's last order would move all customers' rows with one customer's.
    """
    warm = _opened(settings, base, policy, _key(settings, base, policy))
    return warm.head(day_of(settings.train.until or datetime.now()))


def _bounds(policy: Policy) -> tuple[int, int]:
    return policy.max_tokens, policy.max_records_per_customer


def _key(settings: MerchantSettings, base: Base, policy: Policy) -> tuple[object, ...]:
    stamps = [fingerprint(source) for _, source in settings.sources if source is not None]
    return (settings.folder, base.digest, *_bounds(policy), settings.train.model_dump_json(), *stamps)


def _opened(settings: MerchantSettings, base: Base, policy: Policy, key: tuple[object, ...]) -> Warm:
    train = settings.train
    if key not in _warm:
        shop = read_shop(settings)
        products = {product.item_id: product for product in shop.products}
        made = make_dataset(shop, base, *_bounds(policy), train.until, train)
        _warm[key] = Warm(made, Customers(shop, train.until), products)
    _warm.move_to_end(key)
    while len(_warm) > KEPT:
        _condense(*_warm.popitem(last=False))
    return _warm[key]


def _condense(key: tuple[object, ...], warm: Warm) -> None:
    """Keep the training set of a shop that goes as ids, where it is small; those used last stay."""
    small = warm.dataset.condensed(IDS_EACH) if len(warm.dataset) < IDS_EACH // warm.dataset.max_tokens else None
    if small is None:
        return
    _condensed[key] = small
    while sum(len(one.ids) for one in _condensed.values()) > IDS:
        _condensed.popitem(last=False)
