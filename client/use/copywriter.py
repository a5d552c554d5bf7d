"""In which words: repurchase copy from a customer's profile and an item, several candidates, best first."""

from __future__ import annotations

import torch
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor

from common.lora import Bench
from common.text import clean

LONGEST = 72
REPEAT = 5


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
