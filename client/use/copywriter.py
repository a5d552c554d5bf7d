"""In which words: repurchase copy from a customer's profile and an item, several candidates, best first.

`write` is the model alone. `compose` is what goes out: drafts that take no token which would invent a fact, ranked by
likelihood and by how much of the item they carry, and plain wordings for whatever is still missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor

from client.use.drafts import Draft, Request, drafts
from client.use.facts import Facts, carries, coverage, invented
from client.use.guard import MARKERS, NUMBER, PROMISED, Finding, check
from common.lora import Bench
from common.text import clean

LONGEST = 72
REPEAT = 5
TOKENS = 40
"""Tokens of a draft, about as many as a short message has words."""

FREE, NAMED = 2, 3
"""Drafts that begin as the model likes, and drafts that begin with the item's name."""

FLUENT = -1.5
"""Mean log-probability in nats a token under which a draft is none: what is left when better tokens were forbidden."""

CARRY = 1.5
"""What carrying all of the item's facts counts beside the mean log-probability of a token."""

ALIKE = 0.7
"""Share of letter pairs above which two texts are one."""

STUTTER = re.compile(r"(.{3,})\1|(.{4,}).*\2")
Source = Literal["model", "template"]
Writer = Callable[[Sequence[Request]], list[list[Draft]]]
"""What turns requests into drafts: the model here, or a queue that gathers the requests of several callers."""


class OwnRepeats(NoRepeatNGramLogitsProcessor):
    """Forbids a run of `REPEAT` tokens to come twice in the text itself; names from the prompt may be said."""

    def __init__(self, prompt: int) -> None:
        super().__init__(REPEAT)
        self.prompt = prompt

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Return `scores` with every token at minus infinity that would repeat a run."""
        allowed: torch.FloatTensor = super().__call__(input_ids[:, self.prompt :], scores)
        return allowed


def write(bench: Bench, prompt: str, count: int = 3, longest: int = LONGEST) -> list[str]:
    """Return `count` texts that continue `prompt`, the likeliest first; the same prompt gives the same texts.

    Beam search in which no text repeats a run of `REPEAT` tokens of its own; a text ends at the end token or after
    `longest` tokens.
    """
    base = bench.base
    context = [base.end, *base.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    context = context[-(base.model.config.n_positions - longest) :]
    ids_1T = torch.tensor([context], device=bench.model.device)
    with torch.inference_mode():
        found_NT = bench.model.generate(
            input_ids=ids_1T,
            attention_mask=torch.ones_like(ids_1T),
            max_new_tokens=longest,
            do_sample=False,
            num_beams=max(4, count),
            num_return_sequences=count,
            logits_processor=LogitsProcessorList([OwnRepeats(len(context))]),
            pad_token_id=base.end,
            eos_token_id=base.end,
            use_cache=True,
        )
    texts = [clean(str(base.tokenizer.decode(row, skip_special_tokens=True))) for row in found_NT[:, len(context) :]]
    return [text for text in dict.fromkeys(texts) if text]


@dataclass(frozen=True)
class Copy:
    """One text that may go out; `coverage` is the share of the item's facts in it, `evidence` what a person should prove."""

    text: str
    source: Source
    score: float
    coverage: float
    evidence: tuple[str, ...] = ()


def writer_of(bench: Bench) -> Writer:
    """Return the writer that asks `bench` directly."""
    return lambda requests: drafts(bench, requests)


def compose(
    writer: Writer, prompt: str, facts: Facts, plain: Iterable[str], count: int, seed: int = 0, must_name: bool = True
) -> list[Copy]:
    """Return up to `count` texts for the item of `facts`, best first; the same seed gives the same texts.

    A model's draft must pass the guard, name the item (unless `must_name` is off), carry the offer where one is made,
    and name nothing that was not given. `plain` are the wordings to fall back on, which pass the guard too.
    """
    found = writer([copy_request(prompt, facts, seed)])[0]
    own = [copy for draft in found if (copy := _from_model(draft, facts, must_name))]
    best = _apart(sorted(own, key=lambda one: (-one.score, one.text)), count)
    fill = (_judged(text, "template", 0.0, facts) for text in plain)
    return _apart([*best, *(one for one in fill if one)], count)


def copy_request(prompt: str, facts: Facts, seed: int) -> Request:
    """Return what the model is asked for: drafts that begin freely and drafts that begin with the item's name."""
    name, offer = facts.name, facts.offer
    named = (f"{offer}，{name}", f"{name}，{offer}，", name) if offer else (name,) * NAMED
    longest = TOKENS + 2 * max(map(len, named))
    return Request(prompt, ("",) * FREE + named, longest, grounded(facts.given), seed)


def grounded(given: str) -> Callable[[str], bool]:
    """Return the question whether a text that is being written has said nothing so far that was not given.

    The last word may still grow and is not judged; the finished text is judged once more by the guard.
    """
    numbers = {match[0] for match in NUMBER.finditer(given)}
    judged: dict[str, bool] = {}

    def allow(text: str) -> bool:
        whole = text[: _last_word(text)]
        if MARKERS.search(text) or STUTTER.search(text) or not _counts(text, numbers):
            return False
        if whole not in judged:
            judged[whole] = not _promises(text, given) and not invented(whole, given)
        return judged[whole]

    return allow


def _last_word(text: str) -> int:
    """Return where the last word begins, two letters of Chinese or a run of English."""
    return len(text) - max(2, len(text) - len(re.sub(r"[A-Za-z'’-]+$", "", text)))


def _counts(text: str, numbers: set[str]) -> bool:
    found = [match[0] for match in NUMBER.finditer(text)]
    unfinished = found.pop() if found and text.endswith(found[-1]) else ""
    return set(found) <= numbers and any(one.startswith(unfinished) for one in numbers or {""})


def _promises(text: str, given: str) -> bool:
    return any(match[0].casefold() not in given.casefold() for match in PROMISED.finditer(text))


def _from_model(draft: Draft, facts: Facts, must_name: bool) -> Copy | None:
    if draft.score < FLUENT:
        return None
    copy = _judged(draft.text, "model", draft.score + CARRY * coverage(draft.text, facts), facts)
    if copy is None or (must_name and not carries(copy.text, facts.name)):
        return None
    if facts.offer and not carries(copy.text, facts.offer):
        return None
    return copy


def _judged(text: str, source: Source, score: float, facts: Facts) -> Copy | None:
    findings = check(text, facts.given)
    if any(one.level == "block" for one in findings) or (source == "model" and invented(text, facts.given)):
        return None
    return Copy(text, source, round(score, 4), round(coverage(text, facts), 4), _reasons(findings))


def _reasons(findings: Sequence[Finding]) -> tuple[str, ...]:
    return tuple(f"{one.text}：{one.reason}" for one in findings)


def _apart(copies: Iterable[Copy], count: int) -> list[Copy]:
    """Return the first `count` of `copies` of which no two are nearly the same."""
    kept: list[Copy] = []
    for one in copies:
        if len(kept) < count and all(likeness_of(one.text, other.text) <= ALIKE for other in kept):
            kept.append(one)
    return kept


def likeness_of(one: str, other: str) -> float:
    """Return the share of letter pairs that two texts have in common (Jaccard), from 0 to 1."""
    first, second = ({text[place : place + 2] for place in range(len(text) - 1)} or {text} for text in (one, other))
    return len(first & second) / len(first | second)
