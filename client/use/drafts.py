"""Several texts at once from the model: one batch, keys and values kept, and no token that would say what must not be said.

Requests of several callers share a batch. What a request draws depends on its own seed alone, so a text is the same
whoever else asks at that moment, but for rounding: a batch of another width may turn a tie.

R requests   N rows, one a draft   T tokens   V ids   K ids looked at a step
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from common.lora import Bench
from common.text import clean

Allow = Callable[[str], bool]

TOP = 16
TEMPERATURE = 0.7
LEAST = -6.0
"""A token less likely than this, in nats, is none: a draft that has nothing better to say ends there."""

BROKEN = "\ufffd"
SENTENCE_END = re.compile(r"[。！？!?～~.](?=[^。！？!?～~.]*$)")


def anything(text: str) -> bool:
    """Return that every text may stand."""
    return True


@dataclass(frozen=True)
class Request:
    """What is to be continued: a draft for each of `begins`, at most `longest` tokens each.

    `allow` is asked before a token is taken, with the text that would then stand; the first draft takes the likeliest
    token allowed, the others draw among the likeliest `TOP`, each by a stream of its own from `seed`.
    """

    prompt: str
    begins: tuple[str, ...] = ("",)
    longest: int = 40
    allow: Allow = anything
    seed: int = 0


@dataclass(frozen=True)
class Draft:
    """One text with its mean log-probability in nats a token; `ended` says that the model itself came to an end."""

    text: str
    score: float
    ended: bool


@dataclass
class _Row:
    request: Request
    forced: list[int]
    noise: np.random.Generator | None
    ids: list[int] = field(default_factory=list)
    total: float = 0.0
    counted: int = 0
    done: bool = False
    ended: bool = False


def drafts(bench: Bench, requests: Sequence[Request]) -> list[list[Draft]]:
    """Return for every request its drafts in the order of `begins`; one that came to nothing is left out."""
    if not requests:
        return []
    rows = [_row(bench, one, number) for one in requests for number in range(len(one.begins))]
    with torch.inference_mode():
        _write(bench, requests, rows)
    found: dict[int, list[Draft]] = {id(one): [] for one in requests}
    for row in rows:
        draft = _draft(bench, row)
        if draft:
            found[id(row.request)].append(draft)
    return [found[id(one)] for one in requests]


def _row(bench: Bench, request: Request, number: int) -> _Row:
    forced = list(bench.base.tokenizer(request.begins[number], add_special_tokens=False)["input_ids"])
    noise = np.random.Generator(np.random.Philox(key=[request.seed, number])) if number else None
    return _Row(request, forced, noise)


def _write(bench: Bench, requests: Sequence[Request], rows: Sequence[_Row]) -> None:
    """Fill `rows`, all of them a token further at each step, until all are done."""
    most = max(one.longest for one in requests)
    ids_RT, mask_RT = _contexts(bench, requests, most)
    place_RT = (mask_RT.cumsum(1) - 1).clamp(min=0)
    read = bench.model(
        input_ids=ids_RT, attention_mask=mask_RT, position_ids=place_RT, use_cache=True, logits_to_keep=1
    )
    cache: Any = read.past_key_values
    owners = torch.tensor([place for place, one in enumerate(requests) for _ in one.begins])
    cache.batch_select_indices(owners)
    mask_NT, place_N, logits_NV = mask_RT[owners], place_RT[owners, -1], read.logits[owners, -1]
    while True:
        next_N = _take(bench, rows, logits_NV)
        if all(row.done for row in rows):
            return
        mask_NT = torch.cat([mask_NT, mask_NT.new_ones(len(rows), 1)], 1)
        place_N = place_N + 1
        logits_NV = bench.model(
            input_ids=torch.tensor(next_N)[:, None],
            attention_mask=mask_NT,
            position_ids=place_N[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]


def _contexts(bench: Bench, requests: Sequence[Request], most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask, both (R, T), padded on the left; a prompt too long for the model loses its front."""
    base = bench.base
    room = base.model.config.n_positions - most - 1
    encoded = base.tokenizer([one.prompt for one in requests], add_special_tokens=False)["input_ids"]
    contexts = [[base.end, *ids[-room:]] for ids in encoded]
    longest = max(map(len, contexts))
    ids_RT = torch.tensor([[base.end] * (longest - len(one)) + one for one in contexts])
    mask_RT = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in contexts])
    return ids_RT, mask_RT


def _take(bench: Bench, rows: Sequence[_Row], logits_NV: torch.Tensor) -> list[int]:
    """Return the next id of every row, and note it there; a row that is done goes on with the end."""
    log_NV = logits_NV.float().log_softmax(-1)
    value_NK, id_NK = log_NV.topk(min(TOP, log_NV.shape[1]), dim=-1)
    values, ids, end = value_NK.numpy(), id_NK.numpy(), bench.base.end
    for place, row in enumerate(rows):
        if row.done:
            continue
        if row.forced:
            row.ids.append(row.forced.pop(0))
        else:
            _choose(bench, row, values[place], ids[place])
        row.done = row.done or len(row.ids) >= row.request.longest
    return [end if row.done or not row.ids else row.ids[-1] for row in rows]


def _choose(bench: Bench, row: _Row, value_K: npt.NDArray[np.float32], id_K: npt.NDArray[np.int64]) -> None:
    """Take the best id that is allowed, by probability or by a draw (Gumbel-max); none allowed ends the row."""
    order = range(len(id_K))
    if row.noise is not None:
        order = np.argsort(-(value_K / TEMPERATURE + row.noise.gumbel(size=len(id_K)))).tolist()
    for place in order:
        token = int(id_K[place])
        if value_K[place] < LEAST:
            continue
        if token == bench.base.end:
            row.done = row.ended = True
        elif _fits(bench, row, token):
            row.ids.append(token)
        else:
            continue
        row.total += float(value_K[place])
        row.counted += 1
        return
    row.done = True


def _fits(bench: Bench, row: _Row, token: int) -> bool:
    text = str(bench.base.tokenizer.decode([*row.ids, token], skip_special_tokens=False)).rstrip(BROKEN)
    return BROKEN not in text and row.request.allow(text)


def _draft(bench: Bench, row: _Row) -> Draft | None:
    """Return a row's text; one that the model did not end goes back to its last whole sentence."""
    text = clean(str(bench.base.tokenizer.decode(row.ids, skip_special_tokens=True)).rstrip(BROKEN))
    if not row.ended:
        last = SENTENCE_END.search(text)
        text = text[: last.end()] if last else ""
    if not text or not row.counted or not row.request.allow(text):
        return None
    return Draft(text, row.total / row.counted, row.ended)


def answer_scores(bench: Bench, prompts: Sequence[str], answers: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return the log-probability in nats of every answer after every prompt, shape (prompts, answers), in one batch."""
    base = bench.base
    told = base.tokenizer(list(answers), add_special_tokens=False)["input_ids"]
    asked = base.tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    room = base.model.config.n_positions - max(map(len, told)) - 1
    rows = [([base.end, *ask[-room:]], list(say)) for ask in asked for say in told]
    longest = max(len(ask) + len(say) for ask, say in rows)
    ids_NT = torch.tensor([[*ask, *say, *[base.end] * (longest - len(ask) - len(say))] for ask, say in rows])
    with torch.inference_mode():
        log_NTV = bench.model(input_ids=ids_NT).logits.float().log_softmax(-1)
    scores = [
        sum(float(log_NTV[place, len(ask) + step - 1, token]) for step, token in enumerate(say))
        for place, (ask, say) in enumerate(rows)
    ]
    return np.array(scores).reshape(len(asked), len(told))
