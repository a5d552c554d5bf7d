"""How good it is: pure functions of lists and arrays.

Ranking metrics follow the field's definitions (Järvelin & Kekäläinen 2002; recall over the whole truth, the ideal gain
cut at k), the same as `ir-measures` and `ranx`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence


def recall_at(ranked: Sequence[str], truth: Collection[str], k: int) -> float:
    """Return the share of `truth` among the first `k` of `ranked`.

    >>> recall_at(["a", "b", "c"], {"b", "x"}, 2)
    0.5
    """
    return len(set(ranked[:k]) & set(truth)) / len(set(truth))


def ndcg_at(ranked: Sequence[str], truth: Collection[str], k: int) -> float:
    """Return the normalised discounted cumulative gain of the first `k`, ideal cut at `min(k, |truth|)`.

    >>> round(ndcg_at(["x", "a"], {"a"}, 10), 4)
    0.6309
    """
    wanted = set(truth)
    gain = sum(1 / math.log2(place + 2) for place, item in enumerate(ranked[:k]) if item in wanted)
    return gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))


def hit_at(ranked: Sequence[str], truth: Collection[str], k: int) -> float:
    """Return 1.0 when any of the first `k` is in `truth`, else 0.0; its mean over customers is PHR@k."""
    return float(bool(set(ranked[:k]) & set(truth)))


def perplexity(total_nats: float, tokens: int) -> float:
    """Return exp of the mean negative log-likelihood per token."""
    return math.exp(total_nats / max(tokens, 1))


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Return the share of different n-grams among all n-grams of `texts` (Li et al. 2016, arXiv:1510.03055).

    >>> distinct([["a", "b", "a", "b"]], 2)
    0.6666666666666666
    """
    grams = [tuple(words[at : at + n]) for words in texts for at in range(len(words) - n + 1)]
    return len(set(grams)) / max(len(grams), 1)


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean; 0.0 of nothing."""
    return math.fsum(values) / len(values) if values else 0.0
