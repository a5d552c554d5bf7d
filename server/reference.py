"""What the coordinator itself knows of where the model should go: a gradient on texts that are its own or public.

FLTrust (Cao et al. 2021, arXiv:2012.13995) trusts an update by its cosine with that of a small data set of the server's. Private
updates are noise for the most part, so their cosine is near 0 whoever sends them; but noise alone is no more often against
the reference than with it. In n dimensions sqrt(n) times its cosine is standard normal, so that

    z = sqrt(n) cos(update, reference)          S = (z of all the merchant's rounds, added up) / sqrt(rounds)

tell a turned update from an honest one: of 30,000 updates that are nothing but noise one has z below -4.
Where there is little noise every difference is significant, and shops do differ. So an update must also lead away half as
far as the merchants on the whole lead towards: a turned one leads away as far.
Updates are private before they come here, so this is post-processing.

reference.jsonl     one example a line: {"prompt": "…", "target": "…"}, as the model is asked and what it should answer
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median

import torch
from pydantic import Field

from common.config import Settings, parse_settings
from common.errors import UserError
from common.factors import padded
from common.files import write_atomic
from common.lora import Adapter, Bench, factors_in, put, residual_in
from common.text import Example
from common.tokens import Encoded, encode_examples, stack

REFERENCE = "reference.jsonl"
MOST = 512
"""Examples that are looked at; more of them make the direction hardly better and every round slower."""
MAX_TOKENS = 128
BATCH = 16
LEAST = -4.0
"""Below it an update can be set aside: by its own z, or by its merchant's S."""
SHARE = 0.5
"""How far an update must lead away, in terms of how far the merchants on the whole lead towards the reference."""


class Line(Settings):
    """One line of the file."""

    prompt: str = Field(min_length=1)
    target: str = Field(min_length=1)


def read_reference(path: Path) -> list[Example]:
    """Return the first `MOST` examples of the file; raise `UserError` for a line that is none, or for no line at all."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(
            f'{path} is missing; training.reference needs examples of your own, one {{"prompt": "…", "target": "…"}} a line'
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    found = [_example(line, f"{path} line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise UserError(f"{path} has no example; write some, or set training.reference = false")
    return found[:MOST]


def _example(line: str, where: str) -> Example:
    try:
        tree = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f'{where} is not an object; write {{"prompt": "…", "target": "…"}}')
    one = parse_settings(Line, tree, where)
    return Example("", one.prompt, one.target)


def write_reference(examples: Iterable[Example], path: Path) -> None:
    """Write examples as `read_reference` reads them."""
    lines = [json.dumps({"prompt": one.prompt, "target": one.target}, ensure_ascii=False) for one in examples]
    write_atomic(path, "".join(f"{line}\n" for line in lines))


def direction(
    bench: Bench, examples: Sequence[Example], adapter: Adapter, residual: Adapter, scale: float, names: Sequence[str]
) -> Adapter:
    """Return minus the gradient of the target tokens' summed nats on `examples`, of the tensors `names` at `adapter`."""
    put(bench.model, adapter)
    factors = factors_in(bench.model)
    for name, parameter in factors.items():
        parameter.requires_grad_(name in names)
        parameter.grad = None
    encoded = sorted(encode_examples(bench.base, examples, MAX_TOKENS), key=lambda one: len(one.ids))
    with residual_in(bench.model, residual, scale), torch.enable_grad():
        for start in range(0, len(encoded), BATCH):
            _loss(bench, encoded[start : start + BATCH]).backward()
    slopes = {name: factors[name].grad for name in names}
    bench.model.zero_grad(set_to_none=True)
    return {name: torch.zeros_like(adapter[name]) if one is None else -one for name, one in slopes.items()}


def _loss(bench: Bench, encoded: Sequence[Encoded]) -> torch.Tensor:
    """Return the summed nats of a batch's target tokens."""
    rows = stack(
        [([bench.base.end, *one.ids], [False, *one.counts]) for one in encoded],
        bench.base.end,
        1 + max(len(one.ids) for one in encoded),
    )
    ids_BT, counts_BT = torch.from_numpy(rows.ids_BT), torch.from_numpy(rows.counts_BT)
    logits_BTV = bench.model(input_ids=ids_BT).logits
    nats = torch.nn.functional.cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none"
    )
    return (nats * counts_BT[:, 1:].flatten()).sum()


def agreement(update: Mapping[str, torch.Tensor], towards: Adapter) -> float:
    """Return z = sqrt(n) times the cosine of an update, at whatever rank, and the reference; 0 where either has no length."""
    whole = padded(update, towards)
    inner = sum(float(torch.dot(whole[name].double().flatten(), towards[name].double().flatten())) for name in whole)
    lengths = math.sqrt(_square(whole) * _square(towards))
    numbers = sum(tensor.numel() for tensor in update.values())
    return math.sqrt(numbers) * inner / lengths if lengths > 0 else 0.0


def _square(tensors: Mapping[str, torch.Tensor]) -> float:
    return math.fsum(float(one.double().square().sum()) for one in tensors.values())


def whole(agreements: Iterable[Sequence[float]]) -> float:
    """Return how far merchants on the whole lead towards the reference in a round: the median of their mean z, at least 0."""
    means = [fmean(one) for one in agreements if one]
    return max(median(means), 0.0) if means else 0.0


def against(z: float, before: Sequence[float], crowd: float) -> str:
    """Return why an update with agreement `z`, after a merchant's earlier ones, is set aside; "" for one that stays.

    `crowd` is `whole` of all merchants.

    >>> against(0.4, [], 2.0), against(-3.0, [2.0], 2.0)
    ('', '')
    >>> against(-4.4, [], 2.0)
    "against the coordinator's reference: z = -4.4, below -4"
    >>> against(-2.9, [-2.8, -2.6], 2.0)
    "against the coordinator's reference: -4.8 over 3 rounds, below -4"
    >>> against(-4.4, [], 30.0)
    ''
    >>> against(-29.0, [], 30.0)
    "against the coordinator's reference: z = -29.0, below -15"
    """
    rounds = len(before) + 1
    score = (z + math.fsum(before)) / math.sqrt(rounds)
    one, all_rounds = (min(LEAST, -SHARE * crowd * math.sqrt(number)) for number in (1, rounds))
    if z < one:
        return f"against the coordinator's reference: z = {z:.1f}, below {one:.3g}"
    return (
        f"against the coordinator's reference: {score:.1f} over {rounds} rounds, below {all_rounds:.3g}"
        if score < all_rounds
        else ""
    )
