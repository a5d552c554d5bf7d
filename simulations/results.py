"""What a run left on disk: every file of a run folder as frozen values, and the arithmetic on them.

A run folder holds `scenario.toml`, `metrics.jsonl` (a line a round, round 0 is the base model), and, where there are
any, `rounds/<n>/round.json`, `merchants/<id>/summary.json` and `samples.json`. Unknown keys are passed over, so that a
newer run still opens; a key that is missing or of the wrong kind is a `UserError` that names the file and the line.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from common.errors import UserError

T = TypeVar("T")
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Perplexity = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Epsilon = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PARTS = ("train", "aggregate", "messages", "evaluate")
Status = Literal["done", "refused", "failed", "late", "set aside"]


@dataclass(frozen=True)
class Replies:
    """How many merchants answered a round, and how."""

    done: Count = 0
    refused: Count = 0
    failed: Count = 0
    late: Count = 0


@dataclass(frozen=True)
class Score:
    """Held-out perplexity of one merchant and the number of target tokens behind it."""

    perplexity: Perplexity
    tokens: Count


@dataclass(frozen=True)
class Recommend:
    """Mean recall@10 and NDCG@10 over `customers` held-out customers, by recommender."""

    customers: Count
    recall: Annotated[Mapping[str, Share], Field(alias="recall@10")]
    ndcg: Annotated[Mapping[str, Share], Field(alias="ndcg@10")]


@dataclass(frozen=True)
class RoundMetrics:
    """One line of `metrics.jsonl`: `seconds` is the wall clock of the round, `parts` what it was spent on."""

    round: Count
    seconds: Seconds
    perplexity: Perplexity
    tokens: Count
    parts: Mapping[str, Seconds] = field(default_factory=dict)
    bytes_up: Count = 0
    bytes_down: Count = 0
    replies: Replies = Replies()
    perplexity_by_task: Mapping[str, Perplexity] = field(default_factory=dict)
    by_merchant: Mapping[str, Score] = field(default_factory=dict)
    recommend: Recommend | None = None


@dataclass(frozen=True)
class RoundMerchant:
    """What one merchant did in one round; `reason` is empty where there is nothing to explain."""

    merchant: str
    status: Status
    reason: str = ""


@dataclass(frozen=True)
class RoundRecord:
    """One `round.json`: who took part and the digest of the shared adapter that came out."""

    round: Count
    method: str
    merchants: tuple[RoundMerchant, ...]
    adapter_digest: str = ""


@dataclass(frozen=True)
class Charges:
    """How many charges a merchant's ledger holds in each state; released and burned ones count into its loss."""

    released: Count = 0
    burned: Count = 0
    refused: Count = 0
    refunded: Count = 0


@dataclass(frozen=True)
class Guarantee:
    """What a privacy loss is worth nothing without: two losses compare only under the same three."""

    delta: float
    unit: str
    period: str


@dataclass(frozen=True)
class MerchantSummary:
    """One `summary.json`. `epsilon` is None exactly when the merchant added no noise (`private` is false)."""

    merchant: str
    epsilon: Epsilon | None
    delta: Annotated[float, Field(gt=0, lt=1)]
    unit: str
    period: str
    epsilon_limit: Epsilon | None
    name: str = ""
    customers: Count | None = None
    charges: Charges = Charges()
    rounds_left: int | None = None
    sigma: float | None = None
    rate: float | None = None
    steps: int | None = None
    private: bool = True

    def __post_init__(self) -> None:
        if self.private != (self.epsilon is not None):
            raise ValueError("epsilon must be a number, or null together with private = false")

    @property
    def guarantee(self) -> Guarantee:
        """The three values that this merchant's epsilon is stated under."""
        return Guarantee(self.delta, self.unit, self.period)

    @property
    def limit(self) -> float:
        """The cap on epsilon; infinite where the merchant set none."""
        return math.inf if self.epsilon_limit is None else self.epsilon_limit

    @property
    def label(self) -> str:
        """The merchant's name, or its id where it has none."""
        return self.name or self.merchant


@dataclass(frozen=True)
class Sample:
    """Copy for one prompt: by the base model, by the final shared model, and what the shop itself wrote."""

    merchant: str
    prompt: str
    before: str
    after: str
    reference: str = ""


@dataclass(frozen=True)
class ArmFigures:
    """One arm of `arms.json`: figures of its last model on the held-out weeks of all shops."""

    perplexity: Perplexity
    tokens: Count
    by_task: Mapping[str, Score] = field(default_factory=dict)
    by_merchant: Mapping[str, Score] = field(default_factory=dict)
    recommend: Recommend | None = None


@dataclass(frozen=True)
class ArmDifference:
    """How far the perplexity of `arm` lies above (+) or below (-) that of `than`: per cent with a 95 % interval."""

    arm: str
    than: str
    percent: float
    low: float
    high: float
    customers: Count


@dataclass(frozen=True)
class Arms:
    """`arms.json`: the same work done by each shop alone, or on all rows in one place."""

    arms: Mapping[str, ArmFigures]
    differences: tuple[ArmDifference, ...] = ()


@dataclass(frozen=True)
class Scenario:
    """The `[scenario]` table; `settings` keeps every table of the file as it was written."""

    name: str
    title: str = ""
    lang: str = "zh"
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class RunResult:
    """A run folder, read and checked; `rounds[0]` is the base model before any training."""

    folder: Path
    scenario: Scenario
    rounds: tuple[RoundMetrics, ...] = field(repr=False)
    records: tuple[RoundRecord, ...] = field(default=(), repr=False)
    merchants: tuple[MerchantSummary, ...] = field(default=(), repr=False)
    samples: tuple[Sample, ...] = field(default=(), repr=False)
    arms: Arms | None = field(default=None, repr=False)

    @property
    def first(self) -> RoundMetrics:
        """The base model's figures."""
        return self.rounds[0]

    @property
    def last(self) -> RoundMetrics:
        """The figures after the last round."""
        return self.rounds[-1]


def load_run(folder: Path) -> RunResult:
    """Return everything that the run in `folder` left; raise one `UserError` line naming the file that is not right."""
    if not folder.is_dir():
        raise UserError(f"no run folder at {folder}; name the folder that `fugou simulate -o` wrote")
    return RunResult(
        folder=folder,
        scenario=_read_scenario(folder / "scenario.toml"),
        rounds=_read_metrics(folder / "metrics.jsonl"),
        records=tuple(_read_json(path, RoundRecord) for path in sorted(folder.glob("rounds/*/round.json"))),
        merchants=tuple(_read_json(path, MerchantSummary) for path in sorted(folder.glob("merchants/*/summary.json"))),
        samples=_read_json(samples, tuple[Sample, ...]) if (samples := folder / "samples.json").exists() else (),
        arms=_read_json(arms, Arms) if (arms := folder / "arms.json").exists() else None,
    )


def _read_scenario(path: Path) -> Scenario:
    try:
        settings = tomllib.loads(_read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise _damaged(str(path), f"not TOML: {error}") from None
    return _checked(Scenario, {**_table(settings, "scenario"), "settings": settings}, f"{path}, [scenario]")


def _table(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = settings.get(name, {})
    return table if isinstance(table, Mapping) else {}


def _read_metrics(path: Path) -> tuple[RoundMetrics, ...]:
    lines = [(number, line) for number, line in enumerate(_read_text(path).split("\n"), 1) if line.strip()]
    if not lines:
        raise _damaged(str(path), "holds no round")
    return tuple(_read_round(line, due, f"{path}, line {number}") for due, (number, line) in enumerate(lines))


def _read_round(line: str, due: int, where: str) -> RoundMetrics:
    metrics = _checked(RoundMetrics, _parsed(line, where), where)
    if metrics.round != due:
        raise _damaged(where, f"holds round {metrics.round} where round {due} is due")
    return metrics


def _read_json(path: Path, kind: type[T]) -> T:
    return _checked(kind, _parsed(_read_text(path), str(path)), str(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(str(path), f"not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}; is {path.parent} the folder of a run that has ended?"
        ) from None


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise _damaged(where, f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except (ValueError, RecursionError) as error:
        raise _damaged(where, f"not JSON: {error}") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _checked(kind: type[T], value: object, where: str) -> T:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        one = error.errors()[0]
        key = ".".join(map(str, one["loc"])) or "the whole"
        raise _damaged(where, f"{key}: {one['msg'][:1].lower()}{one['msg'][1:]}") from None


def _damaged(where: str, why: str) -> UserError:
    return UserError(f"{where}: {why}; run the scenario again, or put the file back as it was written")


def perplexity_fall(before: float, after: float) -> float:
    """Return by how many percent perplexity fell; negative when it rose.

    >>> perplexity_fall(200.0, 50.0)
    75.0
    """
    return 100.0 * (before - after) / before


def total_seconds(rounds: Iterable[RoundMetrics]) -> float:
    """Return the wall clock of all rounds together, in seconds."""
    return math.fsum(one.seconds for one in rounds)


def total_bytes(rounds: Sequence[RoundMetrics]) -> tuple[int, int]:
    """Return the bytes that went up to the coordinator and down to the merchants."""
    return sum(one.bytes_up for one in rounds), sum(one.bytes_down for one in rounds)


def time_parts(metrics: RoundMetrics) -> dict[str, float]:
    """Return seconds by part; what the wall clock holds beyond the measured parts is `other`."""
    rest = metrics.seconds - math.fsum(metrics.parts.values())
    return {**metrics.parts, "other": rest} if rest > 0 else dict(metrics.parts)


def part_names(rounds: Iterable[RoundMetrics]) -> list[str]:
    """Return every part that any round names: those of `PARTS` in their order, then the rest, `other` last."""
    names = dict.fromkeys(name for one in rounds for name in time_parts(one))
    known = [name for name in PARTS if name in names]
    rest = [name for name in names if name not in (*PARTS, "other")]
    return [*known, *rest, *(["other"] if "other" in names else [])]


def task_names(rounds: Iterable[RoundMetrics]) -> list[str]:
    """Return every task that any round scores, in order of first appearance."""
    return list(dict.fromkeys(name for one in rounds for name in one.perplexity_by_task))


def recommend_before_after(rounds: Sequence[RoundMetrics]) -> tuple[Recommend | None, Recommend | None]:
    """Return the ranking figures of the base model (round 0) and of the last round after it that has any."""
    before = rounds[0].recommend
    trained = [one.recommend for one in rounds[1:] if one.recommend is not None]
    return before, trained[-1] if trained else None


def standard_error_bound(mean: float, customers: int) -> float:
    """Return the largest standard error that a mean of `customers` independent values in [0, 1] can have.

    The variance of such a value is at most mean · (1 − mean) (Bhatia and Davis 2000, "A better bound on the variance").

    >>> standard_error_bound(0.5, 100)
    0.05
    """
    return math.sqrt(mean * (1.0 - mean) / customers) if customers else 1.0


def by_guarantee(merchants: Iterable[MerchantSummary]) -> dict[Guarantee, list[MerchantSummary]]:
    """Return the merchants that did add noise, grouped by what their epsilon may be compared under."""
    groups: dict[Guarantee, list[MerchantSummary]] = {}
    for one in merchants:
        if one.private:
            groups.setdefault(one.guarantee, []).append(one)
    return groups


def spent(merchant: MerchantSummary) -> float:
    """Return a private merchant's epsilon; raise `UserError` for one that has none."""
    if merchant.epsilon is None:
        raise UserError(f"merchant {merchant.merchant} has no epsilon: it trained with sigma = {merchant.sigma}")
    return merchant.epsilon


def statuses(records: Iterable[RoundRecord]) -> dict[str, dict[int, RoundMerchant]]:
    """Return merchant → round → what it did there."""
    table: dict[str, dict[int, RoundMerchant]] = {}
    for record in records:
        for one in record.merchants:
            table.setdefault(one.merchant, {})[record.round] = one
    return table


def merchant_ids(run: RunResult) -> list[str]:
    """Return every merchant that any file of the run names, those with a summary first.

    A node that never said whose it is stands in the records as `node 3`, which is no merchant's id.
    """
    named = [one.merchant for one in run.merchants]
    found = [*named, *statuses(run.records), *(key for one in run.rounds for key in one.by_merchant)]
    return [name for name in dict.fromkeys(found) if not name.startswith("node ")]
