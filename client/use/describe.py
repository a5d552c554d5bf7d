"""A product in a few sentences: what its attributes say, in words, and nothing that they do not."""

from __future__ import annotations

from client.use.copywriter import Copy, Writer, compose
from client.use.facts import facts_of
from client.use.templates import description_of
from common.schema import Product
from common.text import description_prompt


def describe(writer: Writer, product: Product, count: int, lang: str, seed: int = 0) -> list[Copy]:
    """Return up to `count` descriptions of `product`, best first; the same seed gives the same texts."""
    facts = facts_of(product)
    prompt = description_prompt(facts.name, facts.attributes, lang)
    plain = description_of(facts.name, facts.attributes, lang)
    return compose(writer, prompt, facts, plain, count, seed)
