"""Plain wordings for when the model has nothing that may go out: every word outside the slots is ours and claims nothing.

A slot is filled with what the shop itself wrote, or with a bucket word of `common.text` for the customer's rhythm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from client.use.facts import Facts

COPY: Mapping[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    "zh": (
        (("name", "pairs", "offer"), "{name}（{pairs}）又到该添的时候了。{offer}，方便的话顺手带上。"),
        (("name", "offer"), "您常买的{name}在等您回来，{offer}，想起来就看看。"),
        (("name", "offer"), "{offer}：您买过的{name}还在老地方，需要时来补上。"),
        (("name", "pairs", "ago"), "上次买{name}（{pairs}）差不多是{ago}前了，需要时来补上。"),
        (("name", "pairs"), "{name}给您留好了，还是熟悉的那份：{pairs}。快用完的话就补一份。"),
        (("name", "ago"), "离上次买{name}有{ago}了，家里快用完的话，回来看看。"),
        (("name",), "{name}还在老地方，快用完的话，就来添一份。"),
    ),
    "en": (
        (("name", "pairs", "offer"), "Time for more {name} ({pairs})? {offer}, whenever you are ready."),
        (("name", "offer"), "Your usual {name} is waiting for you: {offer}. Have a look when it suits you."),
        (("name", "offer"), "{offer}: the {name} you bought is still in its place. Come back when you need it."),
        (("name", "pairs", "ago"), "You last bought {name} ({pairs}) {ago} ago: come back when you need more."),
        (("name", "pairs"), "{name} is here, the same you know: {pairs}. Running low? Reorder when you are ready."),
        (("name", "ago"), "You last bought {name} {ago} ago. If you are running low, we are here."),
        (("name",), "{name} is still in its place. If you are running low, come back for more."),
    ),
}
"""Repurchase copy by language: the slots a wording needs, and the wording."""

DESCRIPTION: Mapping[str, tuple[tuple[str, str], ...]] = {
    "zh": (("{name}，{pairs}。", "，"), ("{name}：{pairs}。", "；"), ("{pairs}，这就是{name}。", "，")),
    "en": (
        ("{name}: {pairs}.", ", "),
        ("{name}. {pairs}.", "; "),
        ("{name}, at a glance: {pairs}.", ", "),
    ),
}
"""Descriptions by language: the wording, and what stands between two attributes."""


def copy_of(facts: Facts, ago: str, lang: str) -> Iterator[str]:
    """Yield the wordings for which every slot can be filled, the fullest first; `ago` is empty where never bought.

    >>> next(copy_of(Facts("茉莉花茶", {}, "", "茉莉花茶"), "", "zh"))
    '茉莉花茶还在老地方，快用完的话，就来添一份。'
    """
    slots = {"name": facts.name, "pairs": pairs_of(facts.attributes, lang), "offer": facts.offer, "ago": ago}
    for needs, wording in COPY[lang]:
        if all(slots[one] for one in needs) and (not facts.offer or "offer" in needs):
            yield wording.format(**slots)


def pairs_of(attributes: Mapping[str, str], lang: str, joint: str = "") -> str:
    """Return attributes as a clause: `产地广西，规格150g`, `origin Guangxi, size 150g`."""
    between = " " if lang == "en" else ""
    joint = joint or ("，" if lang == "zh" else ", ")
    return joint.join(f"{key}{between}{value}" for key, value in attributes.items() if value)


def description_of(name: str, attributes: Mapping[str, str], lang: str) -> Iterator[str]:
    """Yield descriptions that list the attributes and nothing else.

    >>> next(description_of("桂花乌龙", {"产地": "福建", "规格": "120g"}, "zh"))
    '桂花乌龙，产地福建，规格120g。'
    """
    for wording, joint in DESCRIPTION[lang] if pairs_of(attributes, lang) else ():
        yield wording.format(name=name, pairs=pairs_of(attributes, lang, joint))
    if not pairs_of(attributes, lang):
        yield name + ("。" if lang == "zh" else ".")
