"""The control of every learning claim: a shop of the same size and shape with nothing in it to learn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from common.schema import Row, Shop

R = TypeVar("R", bound=Row)

TEXTS = {
    "orders": ("item_name",),
    "products": ("name", "description"),
    "reviews": ("text",),
    "dialogs": ("question", "answer"),
    "campaigns": ("text",),
}


def scramble(shop: Shop, seed: int) -> Shop:
    """Return `shop` with all characters of all its texts dealt out anew: every length and every count stays, no text does."""
    deck = [letter for table in TEXTS for text in _texts(shop, table) for letter in text]
    random.Random(f"{seed}/{shop.id}").shuffle(deck)
    cards = iter(deck)

    def deal(rows: Sequence[R], fields: Sequence[str]) -> tuple[R, ...]:
        return tuple(
            row.model_copy(update={name: "".join(next(cards) for _ in getattr(row, name)) for name in fields})
            for row in rows
        )

    return Shop(
        shop.id,
        shop.name,
        shop.lang,
        deal(shop.orders, TEXTS["orders"]),
        deal(shop.products, TEXTS["products"]),
        deal(shop.reviews, TEXTS["reviews"]),
        deal(shop.dialogs, TEXTS["dialogs"]),
        deal(shop.campaigns, TEXTS["campaigns"]),
    )


def _texts(shop: Shop, table: str) -> list[str]:
    return [getattr(row, name) for row in getattr(shop, table) for name in TEXTS[table]]
