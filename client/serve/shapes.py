"""What the API takes and gives: the only place where its fields are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

VISIBLE = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=VISIBLE)]
Short = Annotated[str, StringConstraints(max_length=60, pattern=VISIBLE)]
Long = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Seed = Annotated[
    int, Field(ge=0, le=2**32, description="another seed draws other drafts; the same gives the same texts")
]
Count = Annotated[int, Field(ge=1, le=10, description="how many texts")]


class Shape(BaseModel):
    """A message; unknown fields are refused and numbers are not read out of texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RecommendIn(Shape):
    """Which customer, how many items."""

    customer: Name
    k: Annotated[int, Field(ge=1, le=50)] = 10


class OfferOut(Shape):
    """One item: `times` how often it was bought; `score` orders known items among themselves, and new ones."""

    item_id: str
    name: str
    score: float
    times: int


class RecommendOut(Shape):
    """Items, best first."""

    customer: str
    offers: list[OfferOut]


class CopyIn(Shape):
    """For whom, about what; without a product the first recommendation is taken."""

    customer: Name
    product: Annotated[str, StringConstraints(max_length=64, pattern=VISIBLE)] = ""
    n: Count = 3
    channel: Short = ""
    offer: Annotated[Short, Field(description="the offer to name; nothing else is promised")] = ""
    seed: Seed = 0


class TextOut(Shape):
    """One text: whether the model or a plain wording wrote it, the share of facts in it, what a person should prove."""

    text: str
    source: str
    score: float
    coverage: float
    evidence: list[str]


class TextsOut(Shape):
    """Texts with the explicit label (`label`) and the implicit one (`aigc`, fields of GB 45438-2025)."""

    product: str
    texts: list[TextOut]
    label: str
    aigc: Mapping[str, str]


class DescribeIn(Shape):
    """Which product, how many descriptions."""

    product: Name
    n: Count = 3
    seed: Seed = 0


class ReviewsIn(Shape):
    """Reviews to read, together."""

    texts: Annotated[list[Long], Field(min_length=1, max_length=16)]


class AspectOut(Shape):
    """One thing a review speaks of."""

    key: str
    name: str
    sentiment: str
    clause: str


class ReviewOut(Shape):
    """One review read."""

    sentiment: str
    probabilities: Mapping[str, float]
    stars: int
    sure: bool
    aspects: list[AspectOut]


class ReviewsOut(Shape):
    """Reviews read, in the order asked."""

    reviews: list[ReviewOut]


class ProfileIn(Shape):
    """Which customer."""

    customer: Name


class TagOut(Shape):
    """One tag and the rows it rests on."""

    kind: str
    name: str
    value: str
    evidence: str


class ProfileOut(Shape):
    """What is known of a customer."""

    customer: str
    tags: list[TagOut]


class ReplyIn(Shape):
    """A question to customer service, perhaps with the order's status and what it is about."""

    question: Long
    status: Short = ""
    intent: Short = ""


class ReplyOut(Shape):
    """A draft, or the sentence that hands the question to a person (`hand_over`) with the reason."""

    text: str
    hand_over: bool
    reason: str
    confidence: float
    sources: list[str]
    label: str


class CampaignIn(Shape):
    """Whom a campaign is for: customers due within so many days, at most so many of them."""

    due_within: Annotated[int, Field(ge=0, le=365)] = 7
    limit: Annotated[int, Field(ge=1, le=20)] = 10
    channel: Short = ""
    offer: Short = ""
    mark_text: bool = False
    seed: Seed = 0


class LineOut(Shape):
    """One message to one customer about one item."""

    customer_id: str
    item_id: str
    item_name: str
    channel: str
    text: str
    reason: str
    label: str


class CampaignOut(Shape):
    """The lines; nobody who opted out is among them, and `left_out` says how many that are."""

    lines: list[LineOut]
    left_out: int
    aigc: Mapping[str, str]


class HealthOut(Shape):
    """Whether the service answers, with which adapter, since when; `trouble` says why newer files were not taken up."""

    status: str
    adapter: str
    since: str
    swaps: int
    trouble: str


class Problem(Shape):
    """What was wrong, in one line."""

    detail: str
