"""What the whole federation agrees on: the settings that travel with every run.

Nothing here can touch a merchant's privacy: noise, rate, steps, clip norm and divisor live in the merchant's own
signed policy (`common.privacy.policy`), and a run that names them is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from common.errors import UserError
from common.files import canonical_json, sha256
from common.methods import METHODS

ServerOptimizer = Literal["sgd", "adam", "yogi"]
LocalOptimizer = Literal["sgd", "adam"]
RobustRule = Literal["none", "norm", "krum", "trimmed", "median"]
Voices = Literal["equal", "band", "noise"]
Wire = Literal["fp32", "int8"]
S = TypeVar("S", bound=BaseModel)

LEAST_SHARE, MOST_SHARE = 0.01, 0.9
"""Bounds of the head's part of a step's privacy: beyond them the noise on the head, or on the adapter, drowns everything."""


def _known_method(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"none of {', '.join(METHODS)}")
    return name


Method = Annotated[str, AfterValidator(_known_method)]


class Settings(BaseModel):
    """Frozen settings; an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSettings(Settings):
    """The base that every node must hold: `default`, a folder, or a hub id."""

    base: str = Field("default", description="`default`, a folder or a hub id of a GPT-2")
    base_digest: str = Field("", description="the base's digest; filled in by the coordinator, checked by every node")


class LoraSettings(Settings):
    """The shape of the shared adapter."""

    targets: tuple[str, ...] = Field(("c_attn",), description="names of the layers that carry an adapter", min_length=1)
    rank: Annotated[int, Field(ge=1, le=4096)] = Field(8, description="rank r of B·A")
    alpha: Annotated[float, Field(gt=0)] = Field(16.0, description="B·A is scaled by alpha / rank")


class TrainingSettings(Settings):
    """How rounds run and how replies become the next shared adapter."""

    method: Method = Field("fedsvd", description=f"aggregation rule: {', '.join(METHODS)}")
    rounds: Annotated[int, Field(ge=1, le=100_000)] = Field(10, description="rounds of the run")
    local_rate: Annotated[float, Field(gt=0, le=10)] = Field(1.0, description="learning rate of a merchant's steps")
    local_optimizer: LocalOptimizer = Field(
        "sgd", description="what a merchant does with a step's noisy gradient: sgd, or adam less the noise's variance"
    )
    adam_floor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        1e-4, description="least value of adam's corrected second moment (local_optimizer adam)"
    )
    proximal: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="pull of every step back to the shared adapter (FedProx's mu); 0: none; costs no privacy"
    )
    head_share: Annotated[float, Field(ge=0, le=MOST_SHARE)] = Field(
        0.0,
        description="the recommendation head's part of a step's privacy, the adapter's noise grows by 1/sqrt(1 - part): "
        "0.1 for ten merchants or more; 0: no head is trained",
    )
    server_optimizer: ServerOptimizer = Field("sgd", description="what the server does with the mean update")
    server_rate: Annotated[float, Field(gt=0, le=100)] = Field(1.0, description="learning rate of the server")
    robust: RobustRule = Field("none", description="guard against harmful replies: none, norm, krum, trimmed, median")
    liars: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.2, description="share of merchants that may lie (krum, trimmed)"
    )
    limit: Annotated[float, Field(ge=0)] = Field(
        0.0, description="largest norm of an update (norm); 0: a tenth above the median of the round"
    )
    reference: bool = Field(
        False,
        description="set aside updates that lead away from where the coordinator's own examples, reference.jsonl, lead",
    )
    weights: Voices = Field("equal", description="voices: equal, by declared size band, or by declared noise")
    bands: str = Field("", description="declared size bands, `shop-01:large,shop-02:medium`; the others are small")
    weight_cap: Annotated[float, Field(gt=0, le=1)] = Field(0.5, description="the largest share of one voice")
    energy: Annotated[float, Field(gt=0, le=1)] = Field(0.99, description="squared singular values kept (florist)")
    residual_rank: Annotated[int, Field(ge=0, le=4096)] = Field(
        0, description="directions of the residual (fedex, flora); 0: as many as there are"
    )
    per_round: Annotated[int, Field(ge=0)] = Field(
        0, description="merchants asked in a round, drawn from `seed`; 0 asks all. Plans count every round all the same"
    )
    wire: Wire = Field(
        "fp32", description="how an update's numbers travel: fp32, or int8, a fourth of the bytes, rounded at random"
    )
    quorum: Annotated[float, Field(gt=0, le=1)] = Field(0.5, description="share of asked merchants a round needs")
    merchants: Annotated[int, Field(ge=0)] = Field(0, description="merchants to wait for; 0 takes whoever is online")
    timeout: Annotated[float, Field(gt=0)] = Field(3600.0, description="seconds to wait for replies in a round")
    wait: Annotated[float, Field(gt=0)] = Field(600.0, description="seconds to wait for merchants to be online")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        7, description="seed of the initial adapter; never of noise or of sampling under privacy"
    )

    @field_validator("proximal")
    @classmethod
    def _not_past_the_start(cls, proximal: float, info: ValidationInfo) -> float:
        rate = info.data.get("local_rate", 0.0)
        if proximal * rate > 1:
            raise ValueError(f"with local_rate = {rate:g} a step would jump past its start; take at most {1 / rate:g}")
        return proximal

    @field_validator("head_share")
    @classmethod
    def _enough_for_a_head(cls, share: float) -> float:
        if 0 < share < LEAST_SHARE:
            raise ValueError(f"take at least {LEAST_SHARE:g}, or 0 for no head")
        return share

    @field_validator("weights")
    @classmethod
    def _known_noise(cls, weights: str, info: ValidationInfo) -> str:
        if weights == "noise" and info.data.get("local_optimizer") == "adam":
            raise ValueError("adam scales every number's noise its own way; take equal or band, or local_optimizer sgd")
        return weights


class FederationSettings(Settings):
    """All of the above: frozen, from TOML or from Flower's flat run-config."""

    model: ModelSettings = ModelSettings()
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()

    def to_run_config(self) -> dict[str, str | int | float | bool]:
        """Return the settings as Flower's flat run-config, `lora.rank = 8`; lists become comma-separated strings."""
        return {key: _flat(value) for key, value in flatten(self.model_dump(mode="json")).items()}

    def digest(self) -> str:
        """Return the hex SHA-256 of the canonical settings, but for `training.rounds`.

        A run can be lengthened: how many rounds are to come shapes none of them.
        """
        return sha256(canonical_json(self.model_dump(mode="json", exclude={"training": {"rounds"}})).encode())


def _flat(value: object) -> str | int | float | bool:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    assert isinstance(value, (str, int, float, bool))
    return value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as dotted keys.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys as a nested mapping; the inverse of `flatten`. Raises `UserError` for a value with keys below it.

    >>> nest({"a.b": 1, "c": 2})
    {'a': {'b': 1}, 'c': 2}
    """
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UserError(f"{key} = {value!r}: {part!r} is one value here, no table; write one or the other")
        place[last] = value
    return tree


def from_run_config(run_config: Mapping[str, Any]) -> FederationSettings:
    """Return settings from Flower's run-config; keys outside the three tables are not ours and are refused."""
    flat = dict(run_config)
    if isinstance(targets := flat.get("lora.targets"), str):
        flat["lora.targets"] = tuple(part.strip() for part in targets.split(","))
    return parse_settings(FederationSettings, nest(flat), "run-config")


def parse_settings(kind: type[S], tree: Mapping[str, Any], where: str) -> S:
    """Return `kind` built from `tree`; raise one `UserError` line that names every bad key, its value and why."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, kind)}") from None


def explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """Return a validation error as one line a person can act on."""
    lines = []
    for one in error.errors():
        key = ".".join(map(str, one["loc"])) or kind.__name__
        if one["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r}; known here: {', '.join(_siblings(kind, one['loc'][:-1]))}")
        elif one["type"] == "missing":
            lines.append(f"{key} is missing")
        else:
            lines.append(f"{key} = {one['input']!r}: {one['msg'][:1].lower()}{one['msg'][1:]}")
    return "; ".join(lines)


def _siblings(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = kind.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        kind = field.annotation
    return list(kind.model_fields)
