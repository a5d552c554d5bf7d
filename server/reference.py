"""What the coordinator itself knows of where the model should go: a gradient on texts that are its own or public.

FLTrust (Cao et al. 2021, arXiv:2012.13995) trusts an update by its cosine with that of a small data set of the server's. Private
updates are noise for the most part, so their cosine is near 0 whoever sends them; but noise alone is no more often against
the reference than with it. In n dimensions sqrt(n) times its cosine is standard normal, so that

    z = sqrt(n) cos(update, reference)          S = (z of all the merchant's rounds, added up) / sqrt(rounds)

tell a turned update from an honest one: of 30,000 updates that are nothing but noise one has z below -4. Where most updates
clearly lead towards the reference, their median is 2 or more, leading away from it is enough.
Where there is little noise every difference is significant, and shops do differ. So an update must also lie far below the
other merchants': two and a half deviations below the median, as robust statistics count them (Huber & Ronchetti 2009, chapter 5),
where a deviation is at least the 1 that noise alone has. What is set aside is tried again in the next round.
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
CLEAR = 2.0
"""Where the merchants' median is as high, 0 takes the place of `LEAST`."""
REACH = 2.5
"""How many deviations below the merchants' median it must also lie."""
NORMAL = 1.4826
"""The deviation of a normal distribution over its median absolute deviation."""


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


def lowest(values: Sequence[float]) -> float:
    """Return what no honest value is expected below, given those of all merchants.

    >>> lowest([4.0, 4.5, 5.0, 4.5, -5.0]), lowest([1.0, 0.5, -1.0, 1.5, -5.0])
    (0.0, -4.0)
    >>> round(lowest([0.0, 9.0, 4.0, 15.0, 12.0]), 1)
    -9.5
    """
    middle = median(values)
    deviation = max(1.0, NORMAL * median(abs(value - middle) for value in values))
    return min(0.0 if middle >= CLEAR else LEAST, middle - REACH * deviation)


def objections(found: Mapping[str, float], before: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """Return by merchant why its update of this round, with agreement z in `found`, is set aside; "" for one that stays.

    `before` holds the agreements of earlier rounds, of every merchant that has any.

    >>> honest = {"a": 2.0, "b": 3.0, "c": 2.5}
    >>> objections({**honest, "d": -2.1}, {})["d"]
    "against the coordinator's reference: z = -2.1, below -0.25"
    >>> objections({**honest, "d": -0.1}, {one: [3.0] for one in "abcd"} | {"d": [-2.8]})["d"]
    "against the coordinator's reference: -2.1 over 2 rounds, below 0"
    >>> objections({"a": 12.0, "b": 3.0, "c": 8.0, "d": -4.4}, {})["d"]
    ''
    """
    rounds = {merchant: [*before.get(merchant, ()), z] for merchant, z in found.items()}
    means = {merchant: fmean(one) for merchant, one in {**before, **rounds}.items() if one}
    now = lowest(list(found.values()))
    return {merchant: _reason(one, now, list(means.values())) for merchant, one in rounds.items()}


def _reason(agreements: Sequence[float], now: float, means: Sequence[float]) -> str:
    """Return why the last of a merchant's agreements is set aside; `now` bounds it alone, `means` are all merchants'."""
    z, root = agreements[-1], math.sqrt(len(agreements))
    if z < now:
        return f"against the coordinator's reference: z = {z:.1f}, below {now:.3g}"
    score, limit = fmean(agreements) * root, lowest([mean * root for mean in means])
    over = f"{score:.1f} over {len(agreements)} rounds, below {limit:.3g}"
    return f"against the coordinator's reference: {over}" if score < limit else ""
