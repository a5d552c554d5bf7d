"""Many small shops in one process: what `fugou bench merchants` runs, one federation after the other.

What is asked: does memory follow from the number of merchants that are asked in a round, or from how many there are? The
base is a two-layer GPT-2 with random weights and a tokenizer of single bytes, small enough to hide nothing that grows with
the merchants; time and memory do not depend on what the weights are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from common.config import Settings
from common.errors import UserError

END = "<|endoftext|>"


class Crowd(Settings):
    """The federations that are measured, one for each number of merchants."""

    merchants: tuple[Annotated[int, Field(ge=1, le=10_000)], ...] = Field(
        (100, 1000), min_length=1, description="numbers of merchants, each a run of its own"
    )
    per_round: Annotated[int, Field(ge=0)] = Field(4, description="merchants asked in a round; 0 asks all")
    rounds: Annotated[int, Field(ge=1)] = Field(10, description="rounds of each run")
    customers: Annotated[int, Field(ge=2)] = Field(10, description="customers a shop")
    weeks: Annotated[int, Field(ge=12)] = Field(12, description="weeks of history")
    measured: Annotated[int, Field(ge=1)] = Field(8, description="shops whose held-out weeks are measured")
    base: str = Field("", description="base to stand on; empty: two layers with random weights")


def write_base(folder: Path) -> Path:
    """Write a two-layer GPT-2 with random weights and a tokenizer of single bytes, and return its folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    letters = [END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END).save_pretrained(folder)
    shape: dict[str, Any] = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 256}
    config = GPT2Config(vocab_size=len(letters), bos_token_id=0, eos_token_id=0, **shape)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def arguments(settings: Crowd, merchants: int, base: str, folder: Path) -> list[str]:
    """Return the words after `fugou` that run a private federation of so many small shops into `folder`."""
    changes: dict[str, Any] = {
        "world.customers": settings.customers,
        "world.weeks": settings.weeks,
        "lora.rank": 4,
        "training.per_round": settings.per_round,
        "privacy.max_tokens": 64,
        "privacy.steps": 2,
        "engine.threads": 1,
        "evaluation.per_task": 2,
        "evaluation.questions": 2,
        "evaluation.shops": settings.measured,
    }
    words = ["simulate", "shops-zh", "-o", str(folder), "--base", base]
    words += ["--merchants", str(merchants), "--rounds", str(settings.rounds)]
    return words + [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]


def facts(folder: Path, merchants: int) -> dict[str, float | int]:
    """Return how much work the run in `folder` did, and what one merchant's part in a round took of it.

    Raises `UserError` when a merchant that was asked did not do its part.
    """
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()][1:]
    asked = sum(sum(line["replies"].values()) for line in lines)
    done = sum(line["replies"].get("done", 0) for line in lines)
    if done != asked or not done:
        raise UserError(f"{done} of {asked} replies of {merchants} merchants were done; nothing of this can be used")
    parts = {part: sum(line["parts"][part] for line in lines) for part in ("train", "messages", "aggregate")}
    seconds = {f"{part} ms a merchant-round": 1000 * spent / done for part, spent in parts.items()}
    return {"merchants": merchants, "rounds": len(lines), "merchant-rounds": done, **seconds}


def growth(peaks: Sequence[float]) -> float:
    """Return the last peak over the first.

    >>> growth([200.0, 210.0])
    1.05
    """
    return peaks[-1] / peaks[0]
