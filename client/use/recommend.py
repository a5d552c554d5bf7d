"""What to offer: frequency, popularity and the shared model's own opinion, each alone and blended.

All of it runs inside the shop, on the shop's rows; nothing here leaves it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import torch

from client.data.customers import Basket, Customer, next_prompt
from common.lora import Bench
from common.text import PLAIN, Lexicon, clean, words

POPULAR_DAYS = 90
CANDIDATES = 40
PRIOR_ORDERS = 1.0
MODEL_WEIGHT = 0.05
"""The model's say beside the customer's own frequency: with the first base it may settle near ties, and no more."""

LONGEST_NAME = 48
"""Tokens of a name that are scored."""


@dataclass(frozen=True)
class Offer:
    """One item for one customer; `score` is a log-probability up to a constant, `times` how often it was bought."""

    item_id: str
    name: str
    score: float
    times: int


@dataclass(frozen=True)
class Catalogue:
    """A shop's items as seen at one time: id -> name, the share of recent baskets that held each, and the name's words."""

    names: Mapping[str, str]
    popularity: Mapping[str, float]
    words: Mapping[str, frozenset[str]]


def catalogue(
    customers: Sequence[Customer], names: Mapping[str, str], time: datetime, lexicon: Lexicon = PLAIN
) -> Catalogue:
    """Return the catalogue with popularity over the `POPULAR_DAYS` before `time`; an unsold item keeps a small share.

    `lexicon` holds the shop's own terms and stop words, which the words of names are cut by.
    """
    since = time - timedelta(days=POPULAR_DAYS)
    held: Counter[str] = Counter()
    baskets = 0
    for customer in customers:
        for basket in customer.baskets:
            if since <= basket.time < time:
                baskets += 1
                held.update(basket.items.keys())
    share = {item: (held[item] + 0.1) / (baskets + 1) for item in names}
    known = {item: clean(name) or item for item, name in names.items()}
    return Catalogue(known, share, {item: frozenset(words(name, lexicon)) for item, name in known.items()})


def bought(history: Sequence[Basket]) -> Counter[str]:
    """Return how many of the customer's baskets held each item."""
    return Counter(item for basket in history for item in basket.items)


def by_popularity(shop: Catalogue) -> list[str]:
    """Return item ids, the most popular first, ties by id."""
    return sorted(shop.names, key=lambda item: (-shop.popularity[item], item))


def by_frequency(history: Sequence[Basket], shop: Catalogue) -> list[str]:
    """Return item ids by personal frequency, ties and the rest by popularity (GP-TopFreq of the literature)."""
    times = bought(history)
    return sorted(shop.names, key=lambda item: (-times[item], -shop.popularity[item], item))


def likeness(item: str, familiar: frozenset[str], shop: Catalogue) -> float:
    """Return the share of the words in the item's name that names of items bought before have too."""
    mine = shop.words[item]
    return len(mine & familiar) / len(mine) if mine else 0.0


def familiar_words(times: Counter[str], shop: Catalogue) -> frozenset[str]:
    """Return the words of everything bought before."""
    return frozenset(word for item in times for word in shop.words.get(item, ()))


def frequency_score(item: str, history: Sequence[Basket], times: Counter[str], shop: Catalogue) -> float:
    """Return log of the share of baskets that will hold `item`: the customer's own, shrunk to the shop's by one basket.

    A new item that is named like what was bought before counts up to twice its popularity.
    """
    alike = 0.0 if times[item] else likeness(item, familiar_words(times, shop), shop)
    prior = shop.popularity[item] * (1 + alike)
    return math.log((times[item] + PRIOR_ORDERS * prior) / (len(history) + PRIOR_ORDERS))


def candidates(history: Sequence[Basket], shop: Catalogue, limit: int = CANDIDATES) -> list[str]:
    """Return the first `limit` items: everything bought before, then the popular, those named alike first."""
    times = bought(history)
    familiar = familiar_words(times, shop)
    pull = {item: shop.popularity[item] * (1 + likeness(item, familiar, shop)) for item in shop.names}
    return sorted(shop.names, key=lambda item: (-times[item], -pull[item], item))[:limit]


def model_scores(bench: Bench, prompt: str, names: Sequence[str]) -> list[float]:
    """Return the mean log-probability in nats per token with which the model begins its answer to `prompt` by each name.

    The mean, so that a long name is no handicap. The prompt runs once; its keys and values are shared by all names.
    """
    tokenizer, end = bench.base.tokenizer, bench.base.end
    context = [end, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    answers = [ids[:LONGEST_NAME] for ids in tokenizer(list(names), add_special_tokens=False)["input_ids"]]
    limit = bench.base.model.config.n_positions - max(map(len, answers))
    with torch.inference_mode():
        return _continue(bench, context[-limit:], answers, end)


def _continue(bench: Bench, context: list[int], answers: list[list[int]], end: int) -> list[float]:
    ids_1T = torch.tensor([context], device=bench.model.device)
    first = bench.model(input_ids=ids_1T, use_cache=True)
    longest = max(map(len, answers))
    padded_NT = torch.tensor([[*one, *[end] * (longest - len(one))] for one in answers], device=ids_1T.device)
    cache = first.past_key_values
    cache.batch_repeat_interleave(len(answers))
    later_NTV = bench.model(input_ids=padded_NT, past_key_values=cache, use_cache=True).logits
    logits_NTV = torch.cat([first.logits[:, -1:].expand(len(answers), -1, -1), later_NTV[:, :-1]], dim=1)
    picked_NT = logits_NTV.log_softmax(-1).gather(2, padded_NT[:, :, None])[:, :, 0]
    return [float(picked_NT[row, : len(one)].mean()) for row, one in enumerate(answers)]


def rank(bench: Bench, customer: Customer, shop: Catalogue, time: datetime, lang: str, k: int = 10) -> list[Offer]:
    """Return the `k` best items for `customer` at `time`: frequency and the shared model, pooled in log space."""
    items = candidates(customer.baskets, shop)
    opinion = model_scores(bench, next_prompt(customer.baskets, time, lang), [shop.names[item] for item in items])
    times = bought(customer.baskets)
    offers = [
        Offer(item, shop.names[item], blend(frequency_score(item, customer.baskets, times, shop), score), times[item])
        for item, score in zip(items, opinion, strict=True)
    ]
    return sorted(offers, key=lambda offer: (-offer.score, offer.item_id))[:k]


def blend(frequency: float, model: float) -> float:
    """Return the log-linear pool of both opinions."""
    return (1 - MODEL_WEIGHT) * frequency + MODEL_WEIGHT * model
