"""What a merchant's process keeps warm between messages: each shop's encoded customers."""

from __future__ import annotations

from collections import OrderedDict

from client.config import MerchantSettings
from client.data.dataset import Dataset, make_dataset
from client.data.sources import read_shop
from common.model import Base
from common.privacy.policy import Policy

KEPT = 64

_warm: OrderedDict[tuple[object, ...], Dataset] = OrderedDict()


def dataset(settings: MerchantSettings, base: Base, policy: Policy) -> Dataset:
    """Return the merchant's training set; read again only when a source file or the row bounds have changed."""
    key = (settings.folder, base.digest, policy.max_tokens, policy.max_records_per_customer, stamp(settings))
    if key not in _warm:
        shop = read_shop(settings)
        until = settings.train.until
        _warm[key] = make_dataset(shop, base, policy.max_tokens, policy.max_records_per_customer, until)
    _warm.move_to_end(key)
    while len(_warm) > KEPT:
        _warm.popitem(last=False)
    return _warm[key]


def stamp(settings: MerchantSettings) -> tuple[tuple[str, int, int], ...]:
    """Return name, time of change and size of every source file."""
    paths = [source.path for _, source in settings.sources if source is not None]
    return tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in paths)
