"""The rows a merchant has, one class a table: the only place where column names are written.

Times are naive local shop time, prices are in the shop's currency per piece, ids are the shop's own opaque strings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_serializer, field_validator

Id = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=20_000)]


class Row(BaseModel):
    """One row of a table; unknown columns are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Order(Row):
    """One line of an order: a customer bought `quantity` pieces of one item."""

    customer_id: Id
    order_time: datetime
    item_id: Id
    item_name: Text = ""
    quantity: Annotated[float, Field(gt=0)] = 1.0
    price: Annotated[float, Field(ge=0)] = 0.0
    note: Text = ""
    order_id: Text = ""


class Product(Row):
    """One item of the catalogue; in a file, attributes are written `材质#棉*风格#简约`."""

    item_id: Id
    name: Text
    category: Text = ""
    brand: Text = ""
    price: Annotated[float, Field(ge=0)] = 0.0
    attributes: Mapping[str, str] = Field(default_factory=dict)
    description: Text = ""

    @field_validator("attributes", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = (part.partition("#") for part in value.split("*") if part.strip())
        return {name.strip(): what.strip() for name, _, what in pairs}

    @field_serializer("attributes", when_used="json")
    def _join(self, value: Mapping[str, str]) -> str:
        return "*".join(f"{name}#{what}" for name, what in value.items())


class Review(Row):
    """One customer's words about one item; `rating` is 1 to 5 stars."""

    review_id: Id
    customer_id: Id
    item_id: Id
    time: datetime
    rating: Annotated[int, Field(ge=1, le=5)]
    text: Text


class Dialog(Row):
    """One question to customer service and the shop's answer."""

    dialog_id: Id
    customer_id: Id
    time: datetime
    intent: Text = ""
    status: Text = ""
    question: Text
    answer: Text


class Campaign(Row):
    """One message that the shop once sent to one customer about one item."""

    campaign_id: Id
    customer_id: Id
    item_id: Id
    time: datetime
    channel: Text = ""
    offer: Text = ""
    text: Text


TABLES: Mapping[str, type[Row]] = {
    "orders": Order,
    "products": Product,
    "reviews": Review,
    "dialogs": Dialog,
    "campaigns": Campaign,
}


@dataclass(frozen=True)
class Shop:
    """One merchant's whole book; `lang` is `zh` or `en`."""

    id: str
    name: str
    lang: str
    orders: Sequence[Order] = field(repr=False)
    products: Sequence[Product] = field(repr=False)
    reviews: Sequence[Review] = field(default=(), repr=False)
    dialogs: Sequence[Dialog] = field(default=(), repr=False)
    campaigns: Sequence[Campaign] = field(default=(), repr=False)
