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
    """Return `shop` with every character of its texts exchanged for another by a cipher of the shop's own.

    Lengths, counts, repetitions and the shape of the frequencies stay; which characters and words a shop uses is gone, and
    two shops share no cipher. Merely dealing the characters out anew would keep how often each one comes, and a model
    learns that first.
    """
    alphabet = sorted(
        {letter for table in TEXTS for text in _texts(shop, table) for letter in text if not letter.isspace()}
    )
    others = list(alphabet)
    random.Random(f"{seed}/{shop.id}").shuffle(others)
    cipher = str.maketrans(dict(zip(alphabet, others, strict=True)))

    def encode(rows: Sequence[R], fields: Sequence[str]) -> tuple[R, ...]:
        return tuple(
            row.model_copy(update={name: getattr(row, name).translate(cipher) for name in fields}) for row in rows
        )

    return Shop(
        shop.id,
        shop.name,
        shop.lang,
        encode(shop.orders, TEXTS["orders"]),
        encode(shop.products, TEXTS["products"]),
        encode(shop.reviews, TEXTS["reviews"]),
        encode(shop.dialogs, TEXTS["dialogs"]),
        encode(shop.campaigns, TEXTS["campaigns"]),
    )


def _texts(shop: Shop, table: str) -> list[str]:
    return [getattr(row, name) for row in getattr(shop, table) for name in TEXTS[table]]
