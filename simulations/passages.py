"""Prose about goods, written for this project: `simulations/prose/*.txt`, read into sections and categories.

A file has headings `# key=value …` and one text a line below each. In `goods.txt` a heading is a category, and lines
begin with what they are: `nouns:`, `attributes:`, `points:`, `good:`, `bad:`, `scenes:` or `text:`.

One line in `RESERVED` is never used for training. What a model makes of those lines tells whether it has learnt to
write or only to repeat.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simulations.lexicon import Category

FOLDER = Path(__file__).parent / "prose"
RESERVED = 20


@dataclass(frozen=True)
class Passage:
    """One text with slots in braces, and what its heading says about it."""

    tags: Mapping[str, str]
    text: str

    @property
    def reserved(self) -> bool:
        """Whether the text is kept from training."""
        return zlib.crc32(self.text.encode()) % RESERVED == 0


def read_passages(path: Path) -> Iterator[Passage]:
    """Yield every line below a heading, in order."""
    tags: dict[str, str] = {}
    for line in filter(None, map(str.strip, path.read_text("utf-8").splitlines())):
        if line.startswith("#"):
            tags = dict(pair.split("=", 1) for pair in line.lstrip("# ").split() if "=" in pair)
        else:
            yield Passage(tags, line)


@functools.cache
def passages(kind: str, lang: str = "zh") -> Sequence[Passage]:
    """Return the passages of one kind (copy, service, review, story, description) and language."""
    paths = sorted(path for path in FOLDER.glob("*.txt") if path.name != "goods.txt")
    every = (one for path in paths for one in read_passages(path))
    return tuple(one for one in every if one.tags.get("kind") == kind and one.tags.get("lang", "zh") == lang)


@functools.cache
def goods_lines() -> Mapping[str, Sequence[Passage]]:
    """Return the lines of `goods.txt` by category."""
    lines: dict[str, list[Passage]] = {}
    for one in read_passages(FOLDER / "goods.txt"):
        lines.setdefault(one.tags["category"], []).append(one)
    return lines


@functools.cache
def descriptions(category: str) -> Sequence[Passage]:
    """Return the sentences that describe goods of a category; none for one that has no prose."""
    lines = (one for one in goods_lines().get(category, ()) if one.text.startswith("text:"))
    return tuple(Passage(one.tags, one.text.removeprefix("text:").strip()) for one in lines)


@functools.cache
def categories() -> Sequence[Category]:
    """Return the categories of `goods.txt`."""
    return tuple(_category(name, lines) for name, lines in goods_lines().items())


def _category(name: str, lines: Sequence[Passage]) -> Category:
    parts = {key: value.strip() for key, value in (one.text.split(":", 1) for one in lines) if key != "text"}
    attributes = dict(pair.split("=", 1) for pair in parts["attributes"].split(";"))
    return Category(
        name=name,
        nouns=parts["nouns"].split(),
        attributes={key.strip(): values.strip().split(",") for key, values in attributes.items()},
        points=parts["points"].split(),
        good=parts["good"].split(),
        bad=parts["bad"].split(),
        scenes=parts["scenes"].split(),
        days=int(lines[0].tags["days"]),
    )
