"""Customers ready for the model: one bounded row each, and nothing of them in any other row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from client.data.customers import Customer, gather, pose
from client.train.sampling import Randomness, uniform
from common.model import Base
from common.schema import Shop
from common.tokens import Encoded, Rows, encode_examples, pack, stack


@dataclass(frozen=True)
class Dataset:
    """What a merchant trains on: each customer's encoded records, the public row length and the public record bound."""

    records: Sequence[Sequence[Encoded]] = field(repr=False)
    end: int
    max_tokens: int
    max_records: int

    def __len__(self) -> int:
        return len(self.records)

    def rows(self, drawn: Sequence[int], randomness: Randomness) -> Rows:
        """Return one row for every drawn customer: at most `max_records` of the customer's own records, freshly chosen."""
        rows = [pack(self._choose(self.records[one], randomness), self.end, self.max_tokens) for one in drawn]
        return stack(rows, self.end, self.max_tokens)

    def _choose(self, records: Sequence[Encoded], randomness: Randomness) -> list[Encoded]:
        """Return the customer's records in a fresh order that takes tasks in turn, so that no task crowds out another."""
        order = uniform(len(records), randomness).argsort(kind="stable")
        met: Counter[str] = Counter()
        turns: list[tuple[int, int, int]] = []
        for place in order:
            met[records[place].task] += 1
            turns.append((met[records[place].task], len(turns), int(place)))
        return [records[place] for _, _, place in sorted(turns)[: self.max_records]]


def make_dataset(shop: Shop, base: Base, max_tokens: int, max_records: int, until: datetime | None) -> Dataset:
    """Return the training set of `shop`: the tasks of every customer whose event lies before `until`.

    A customer without a task keeps an empty row: whether a customer can be drawn depends on no one else.
    """
    products = {product.item_id: product for product in shop.products}
    records = []
    for customer in gather(shop):
        posed = [one.example for one in pose(customer, products, shop.lang, until=until)]
        records.append(encode_examples(base, posed, max_tokens))
    return Dataset(records, base.end, max_tokens, max_records)


def known_before(customer: Customer, time: datetime) -> Customer:
    """Return the customer's book as it was at `time`."""
    return Customer(
        customer.id,
        [one for one in customer.baskets if one.time < time],
        [one for one in customer.reviews if one.time < time],
        [one for one in customer.dialogs if one.time < time],
        [one for one in customer.campaigns if one.time < time],
    )
