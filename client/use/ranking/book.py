"""A shop's purchases as columns: who bought which item on which day, everything that ranking reads.

P purchases   U customers   I items   X different texts
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import numpy.typing as npt

from client.data.customers import Customer
from common.ranking import Texts, vectors
from common.schema import Product

Whole = npt.NDArray[np.int64]
EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True)
class Shelf:
    """A shop's catalogue in one order: ids, names, and which kind and which category an item is of (codes)."""

    items: Sequence[str]
    names: Sequence[str]
    kind_I: Whole = field(repr=False)
    category_I: Whole = field(repr=False)
    text_I: Whole = field(repr=False)
    """Which of `texts` is an item's; items named alike share one."""
    texts: Texts = field(repr=False)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Book:
    """Purchases by customer, then day, then item, each once: codes into `customers` and `shelf`, days since 1970."""

    customers: Sequence[str]
    shelf: Shelf
    customer_P: Whole = field(repr=False)
    day_P: Whole = field(repr=False)
    item_P: Whole = field(repr=False)

    def before(self, day: int) -> Book:
        """Return the book as it stood when `day` began."""
        return self._kept(self.day_P < day)

    def between(self, start: int, end: int) -> Book:
        """Return what was bought from `start` on and before `end`."""
        return self._kept((self.day_P >= start) & (self.day_P < end))

    def of(self, customers_U: npt.NDArray[np.bool_]) -> Book:
        """Return the purchases of the chosen customers; the others stay in the list, without a purchase."""
        return self._kept(customers_U[self.customer_P])

    def _kept(self, keep_P: npt.NDArray[np.bool_]) -> Book:
        return Book(self.customers, self.shelf, self.customer_P[keep_P], self.day_P[keep_P], self.item_P[keep_P])

    def table(self) -> npt.NDArray[np.bool_]:
        """Return (U, I): who bought what."""
        bought_UI = np.zeros((len(self.customers), len(self.shelf)), dtype=np.bool_)
        bought_UI[self.customer_P, self.item_P] = True
        return bought_UI


def day_of(time: datetime) -> int:
    """Return the whole days from 1970 to `time`.

    >>> day_of(datetime(1970, 1, 3, 23))
    2
    """
    return (time - EPOCH).days


def make_shelf(products: Iterable[tuple[str, str, str, str]]) -> Shelf:
    """Return the shelf of (id, name, kind, category), in order of ids."""
    rows = sorted(products)
    items, names, kinds, categories = (list(column) for column in zip(*rows, strict=True)) if rows else ([],) * 4
    texts = list(zip(names, categories, strict=True))
    return Shelf(items, names, codes(kinds), codes(categories), codes(texts), vectors(list(dict.fromkeys(texts))))


def codes(values: Sequence[Hashable]) -> Whole:
    """Return a whole number for every value, equal ones for equal values.

    >>> codes(["b", "a", "b"]).tolist()
    [0, 1, 0]
    """
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(one, len(known)) for one in values], dtype=np.int64)


def make_book(customers: Sequence[str], shelf: Shelf, customer_P: Whole, day_P: Whole, item_P: Whole) -> Book:
    """Return the book of purchases in any order, with repeated ones of a day counted once."""
    size, days = max(len(shelf), 1), 1 << 20
    keys = np.unique((customer_P * days + day_P) * size + item_P)
    rest, item_Q = np.divmod(keys, size)
    customer_Q, day_Q = np.divmod(rest, days)
    return Book(customers, shelf, customer_Q, day_Q, item_Q)


def open_book(customers: Sequence[Customer], products: Mapping[str, Product]) -> Book:
    """Return the book of a shop's customers; an item that the catalogue does not hold is known by the name on the order."""
    named = {item: name for one in customers for basket in one.baskets for item, name in basket.items.items()}
    return _open(customers, products, named)


def catalogue_book(customers: Sequence[Customer], products: Mapping[str, Product]) -> Book:
    """Return the book of what the catalogue holds, and of nothing else: what may be trained on.

    Its shelf is the shop's and follows from no purchase, so no customer's order of an item that nobody lists can put a word
    on the shelf and move the others' gradients.
    """
    return _open(customers, products, {})


def _open(customers: Sequence[Customer], products: Mapping[str, Product], named: Mapping[str, str]) -> Book:
    rows = [product_row(item, products.get(item), named.get(item, item)) for item in sorted({*named, *products})]
    shelf = make_shelf(rows)
    place = {item: code for code, item in enumerate(shelf.items)}
    bought = [
        (who, day_of(basket.time), place[item])
        for who, one in enumerate(customers)
        for basket in one.baskets
        for item in basket.items
        if item in place
    ]
    columns = np.array(bought, dtype=np.int64).reshape(-1, 3)
    return make_book([one.id for one in customers], shelf, columns[:, 0], columns[:, 1], columns[:, 2])


def product_row(item: str, product: Product | None, name: str) -> tuple[str, str, str, str]:
    """Return (id, name, kind, category); without a catalogue entry every item is its own kind on one shelf."""
    if product is None:
        return item, name, name, ""
    kind = product.attributes.get("type") or product.attributes.get("类型") or product.name
    return item, product.name, kind, product.category or ""
