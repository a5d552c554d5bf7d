"""What a merchant's process keeps warm between messages: each shop's encoded customers."""

from __future__ import annotations

from collections import OrderedDict

from client.config import MerchantSettings
from client.data.dataset import Dataset, make_dataset
from client.data.sources import fingerprint, read_shop
from common.model import Base
from common.privacy.policy import Policy

KEPT = 64

_warm: OrderedDict[tuple[object, ...], Dataset] = OrderedDict()


def dataset(settings: MerchantSettings, base: Base, policy: Policy) -> Dataset:
    """Return the merchant's training set; read again when a source file, the row bounds or [train] have changed."""
    train, bounds = settings.train, (policy.max_tokens, policy.max_records_per_customer)
    stamps = [fingerprint(source) for _, source in settings.sources if source is not None]
    key = (settings.folder, base.digest, *bounds, train.model_dump_json(), *stamps)
    if key not in _warm:
        _warm[key] = make_dataset(read_shop(settings), base, *bounds, train.until, train)
    _warm.move_to_end(key)
    while len(_warm) > KEPT:
        _warm.popitem(last=False)
    return _warm[key]
