"""How a shop describes an item in its catalogue: its attributes as a few plain sentences."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from simulations.words.grammar import Voice

RULES: Mapping[str, Sequence[str]] = {
    "begin": (
        "<brand><kind>，",
        "(这款|一款|本款)<kind>(来自|出自)<brand>，",
        "<brand>(家|出品)的<kind>，",
        "<kind>(里|中)(常被回购|常被问起|卖得久)的一款，",
        "(认识|说起)<brand>，(多半|往往)从这款<kind>(开始|说起)，",
    ),
    "d_flavour": (
        "<flavour_name>为<value>",
        "(做成|选用)<value>",
        "<value>，(入门|常客)都(合适|爱选)",
        "<flavour_name>：<value>",
    ),
    "d_规格": ("每份<value>", "规格<value>", "(一份|一件)(为|是)<value>", "<value>装"),
    "d_other": ("<key>(为|是)<value>", "<key>：<value>", "<value>", "(看重|讲究)<key>，<value>"),
    "close": (
        "。<place>(都|正)(合适|用得上)",
        "。(使用|打开)时：<use>",
        "。<place>，(备一份|留一份)",
        "",
        "。(怎么<verb>|小提示)：<use>",
        "。(适合|留给)<place>",
    ),
}


def description_text(
    rng: random.Random, voice: Voice, facts: Mapping[str, str], attributes: Mapping[str, str], flavour_name: str
) -> str:
    """Return a description that names every one of the `attributes`."""
    clauses = []
    for key, value in rng.sample(list(attributes.items()), k=len(attributes)):
        if key == "类型":
            continue
        rule = "<d_flavour>" if key == flavour_name else "<d_规格>" if key == "规格" else "<d_other>"
        clauses.append(voice.say(rng, rule, {**facts, "key": key, "value": value}))
    return voice.say(rng, "<begin>" + "，".join(clauses) + "<close>", facts) + "。"
