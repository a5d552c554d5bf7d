"""Bits a character that bases and an n-gram model need for the same text, by kind of text.

Whatever a model's vocabulary, its negative log-likelihood of a document, in bits and over the document's characters, can
be laid beside any other's. The end of a document counts as something to predict, in every model. Documents of several
pieces (a prompt and its target) also give a figure for the last piece alone: that is what adapters are trained on.

The n-gram model is KenLM's: modified Kneser-Ney without pruning (Heafield et al. 2013), over single characters.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn import functional

from common.errors import UserError
from common.model import Base, load_base
from simulations.corpus import PROMPTS
from simulations.pretrain import Document, is_held_out, read_documents, sample_lines, write_samples

BEGIN, FINISH = "\x02", "\x03"  # one character for KenLM's <s> and </s>
SPACE = "␣"
MARKS = {"<s>": BEGIN, "</s>": FINISH, "<unk>": ""}


class Model(Protocol):
    """Anything that can say how surprising a document is."""

    @property
    def name(self) -> str:
        """What the model is called in tables."""

    def bits(self, document: Document) -> tuple[float, float]:
        """Return the bits of the whole document and of its last piece, the end of the document in both."""


@dataclass(frozen=True)
class Figure:
    """Bits a character over all pieces and over the last alone (None where documents have one), and what they rest on."""

    whole: float
    answer: float | None
    characters: int
    documents: int


def measure(model: Model, documents: Mapping[str, Sequence[Document]]) -> dict[str, Figure]:
    """Return a model's figure for every kind of text."""
    return {kind: _figure(model, group) for kind, group in documents.items()}


def _figure(model: Model, documents: Sequence[Document]) -> Figure:
    bits = [model.bits(one) for one in documents]
    pairs = [(last, len(one.pieces[-1])) for (_, last), one in zip(bits, documents, strict=True) if len(one.pieces) > 1]
    characters = sum(len(piece) for one in documents for piece in one.pieces)
    answer = sum(last for last, _ in pairs) / max(1, sum(length for _, length in pairs)) if pairs else None
    return Figure(sum(whole for whole, _ in bits) / max(1, characters), answer, characters, len(documents))


def held_out(texts: Sequence[Path], unseen: Sequence[Path], most: int) -> dict[str, list[Document]]:
    """Return by kind at most `most` documents: of `texts` those held out from training, of `unseen` all.

    Raises `UserError` where nothing is left to measure.
    """
    chosen: dict[str, dict[Document, None]] = {}
    for path, everything in [*((path, False) for path in texts), *((path, True) for path in unseen)]:
        for one in read_documents(path):
            group = chosen.setdefault(one.kind, {})
            if len(group) < most and (everything or is_held_out(one)):
                group[one] = None
    found = {kind: list(group) for kind, group in chosen.items() if group}
    if not found:
        names = ", ".join(str(path) for path in (*texts, *unseen))
        raise UserError(f"no document of {names} is held out; name more text, or all of it as --unseen FILE")
    return found


def evaluate(
    base: str,
    texts: Sequence[Path],
    unseen: Sequence[Path] = (),
    against: Sequence[str] = (),
    ngram: int | None = None,
    documents: int = 200,
) -> dict[str, dict[str, Figure]]:
    """Return from model to kind of text to figure: `base`, the bases `against` it, the n-gram model of order `ngram`.

    Raises `UserError` for text, bases or a program that cannot be used.
    """
    if ngram and not texts:
        raise UserError("--ngram has no text to learn from; name the base's training text, or leave --ngram out")
    asked = held_out(texts, unseen, documents)
    models: list[Model] = [Neural(name, load_base(name)) for name in dict.fromkeys((base, *against))]
    if ngram:
        models.append(learn_ngram(training_documents(texts), ngram, (one for group in asked.values() for one in group)))
    return {model.name: measure(model, asked) for model in models}


def samples(name: str) -> list[str]:
    """Return one Markdown line for each fixed prompt, with what the base writes after it."""
    base = load_base(name)
    return sample_lines(write_samples(base.model, base.tokenizer, base.end, PROMPTS))


# A base


@dataclass(frozen=True)
class Neural:
    """A base as a `Model`."""

    name: str
    base: Base

    @torch.no_grad()
    def bits(self, document: Document) -> tuple[float, float]:
        """Return the bits of the whole document and of its last piece; long ones are read in windows."""
        pieces = [self.base.tokenizer(one, add_special_tokens=False)["input_ids"] for one in document.pieces]
        pieces[-1] = [*pieces[-1], self.base.end]
        ids = [self.base.end, *(number for piece in pieces for number in piece)]
        room = self.base.model.config.n_positions
        bits = [bit for start in range(0, len(ids) - 1, room - 1) for bit in self._window(ids[start : start + room])]
        return sum(bits), sum(bits[-len(pieces[-1]) :])

    def _window(self, ids: list[int]) -> list[float]:
        """Return the bits of each id but the first, given those before it."""
        ids_T = torch.tensor(ids)
        logits_TV = self.base.model(input_ids=ids_T[None, :-1], use_cache=False).logits[0].float()
        nats_T = functional.cross_entropy(logits_TV, ids_T[1:], reduction="none")
        bits: list[float] = (nats_T / math.log(2)).tolist()
        return bits


# An n-gram model


@dataclass(frozen=True)
class Ngram:
    """Log probabilities (base 10) and back-off weights of the n-grams that the text to measure can ask for."""

    order: int
    entries: Mapping[str, tuple[float, float]]

    @property
    def name(self) -> str:
        """What the model is called in tables."""
        return f"{self.order}-gram Kneser-Ney"

    def bits(self, document: Document) -> tuple[float, float]:
        """Return the bits of the whole document and of its last piece."""
        text = spelled(document)
        bits = [self._bits(text[max(0, at + 1 - self.order) : at + 1]) for at in range(1, len(text))]
        return sum(bits), sum(bits[-len(document.pieces[-1]) - 1 :])

    def _bits(self, gram: str) -> float:
        """Return the bits of the last character of `gram` after the others, backing off from the left."""
        penalty = 0.0
        while len(gram) > 1 and gram not in self.entries:
            penalty += self.entries.get(gram[:-1], (0.0, 0.0))[1]
            gram = gram[1:]
        log, _ = self.entries.get(gram) or self.entries[""]
        return -(log + penalty) / math.log10(2)


def spelled(document: Document) -> str:
    """Return a document as a row of single characters, blanks made visible, between the marks of begin and end."""
    text = "".join(document.pieces).replace(BEGIN, SPACE).replace(FINISH, SPACE)
    return BEGIN + "".join(SPACE if one.isspace() or one == "\0" else one for one in text) + FINISH


def learn_ngram(documents: Iterable[Document], order: int, asked: Iterable[Document]) -> Ngram:
    """Return KenLM's model of `documents`, as much of it as `asked` needs.

    Raises `UserError` where its program `lmplz` is not to be found or fails.
    """
    program = shutil.which("lmplz")
    if program is None:
        raise UserError("KenLM's program lmplz is not on the PATH; build it from KenLM's source, or leave out --ngram")
    wanted = {
        text[at : at + size] for text in map(spelled, asked) for size in range(1, order + 1) for at in range(len(text))
    }
    with tempfile.TemporaryDirectory() as folder:
        text, arpa = Path(folder) / "text", Path(folder) / "arpa"
        with text.open("w", encoding="utf-8") as file:
            file.writelines(" ".join(spelled(one)[1:-1]) + "\n" for one in documents)
        command = [program, "-o", str(order), "--discount_fallback", "-S", "20%", "-T", folder]
        done = subprocess.run([*command, "--text", text, "--arpa", arpa], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = " ".join(done.stderr.split())[-200:]
            raise UserError(
                f"lmplz failed with code {done.returncode}: {reason}; give it more text or leave out --ngram"
            )
        return Ngram(order, dict(_entries(arpa, wanted)))


def _entries(arpa: Path, wanted: set[str]) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield the n-grams of an ARPA file that are wanted, and the unknown character under ''."""
    with arpa.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            log, *rest = line.rstrip("\n").split("\t")
            if rest:
                gram = "".join(MARKS.get(one, one) for one in rest[0].split(" "))
                if not gram or gram in wanted:
                    yield gram, (float(log), float(rest[1]) if len(rest) > 1 else 0.0)


def training_documents(texts: Sequence[Path]) -> Iterator[Document]:
    """Yield the documents that a base may be trained on."""
    return (one for path in dict.fromkeys(texts) for one in read_documents(path) if not is_held_out(one))


# Tables


def table(figures: Mapping[str, Mapping[str, Figure]]) -> str:
    """Return a Markdown table from model to kind to figure: whole text, and answers alone after a slash."""
    names = list(figures)
    kinds = figures[names[0]]
    lines = [
        f"| text | documents | characters | {' | '.join(names)} |",
        f"| --- | ---: | ---: |{' ---: |' * len(names)}",
    ]
    for kind, first in kinds.items():
        cells = " | ".join(_cell(figures[name][kind]) for name in names)
        lines.append(f"| {kind} | {first.documents:,} | {first.characters:,} | {cells} |")
    return "\n".join(lines)


def plain(figures: Mapping[str, Mapping[str, Figure]], lines: Sequence[str]) -> dict[str, Any]:
    """Return figures and samples as they stand in JSON."""
    return {
        "figures": {name: {kind: asdict(one) for kind, one in group.items()} for name, group in figures.items()},
        "samples": list(lines),
    }


def _cell(figure: Figure) -> str:
    return f"{figure.whole:.2f}" if figure.answer is None else f"{figure.whole:.2f} / {figure.answer:.2f}"
