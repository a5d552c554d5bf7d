"""A scenario: merchants, privacy, method and engine of one simulation, from a TOML file that ships or a person wrote."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from common.config import (
    FederationSettings,
    LoraSettings,
    ModelSettings,
    Settings,
    TrainingSettings,
    nest,
    parse_settings,
)
from common.errors import UserError
from common.privacy.plan import calibrate
from common.privacy.policy import Policy
from simulations.mixed import MixedSettings, dealt

Engine = Literal["inline", "ray", "deployment"]
Arm = Literal["federated", "local", "central"]
KNOWN_ARMS: tuple[Arm, ...] = get_args(Arm)
World = Literal["shops-zh", "complete-journey"]


class About(Settings):
    """What the scenario is."""

    name: str = Field(description="the scenario's name")
    title: str = Field("", description="one line about it")
    world: World = Field("shops-zh", description="where the shops come from: shops-zh or complete-journey")
    lang: Literal["zh", "en"] = Field("zh", description="language of the shops' texts")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(7, description="seed of the world")
    merchants: Annotated[int, Field(ge=1, le=10_000)] = Field(8, description="how many shops take part")
    arms: tuple[Arm, ...] = Field(
        ("federated",), description="also train `local` (every shop alone) and `central` (all rows in one place)"
    )
    arm: str = Field(
        "", pattern=r"^(central|local:[a-z0-9-]{1,64})?$", description="which further arm this run is; set by `arms`"
    )
    control: Literal["", "cipher", "noise"] = Field(
        "", description="nothing to learn: `cipher` trains on enciphered texts, `noise` on rows without a target"
    )


class WorldSettings(Settings):
    """How large and how uneven the world is."""

    customers: Annotated[int, Field(ge=2)] = Field(240, description="customers a shop (shops-zh)")
    weeks: Annotated[int, Field(ge=12)] = Field(40, description="weeks of history (shops-zh)")
    skew: Annotated[float, Field(ge=0, le=1)] = Field(
        0.6, description="0: all shops sell everything alike, 1: each keeps to its own theme (shops-zh)"
    )
    households: Annotated[int, Field(ge=0)] = Field(
        0, description="take at most so many households; 0 takes all (complete-journey)"
    )


class PrivacySettings(Settings):
    """The policy every simulated merchant signs; sigma follows from epsilon and the worst-case number of rounds."""

    epsilon: Annotated[float, Field(gt=0)] = Field(8.0, description="cap of every merchant; inf trains without noise")
    delta: Annotated[float, Field(gt=0, le=1e-4)] = Field(1e-6, description="a fixed constant, never 1/N")
    period: str = Field("2026Q4", description="what the cap is for")
    spare_rounds: Annotated[int, Field(ge=0)] = Field(
        3, description="rounds the cap also covers, for charges burned by crashes"
    )
    rate: Annotated[float, Field(gt=0, le=1)] = Field(0.15, description="Poisson rate of a step")
    steps: Annotated[int, Field(ge=1)] = Field(4, description="private steps a round")
    clip_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="clip norm C of a customer's gradient")
    divisor: Annotated[float, Field(gt=0)] = Field(36.0, description="public constant the noisy sum is divided by")
    max_records_per_customer: Annotated[int, Field(ge=1)] = Field(4, description="records of a customer in one step")
    max_tokens: Annotated[int, Field(ge=16)] = Field(128, description="tokens of a customer's row")


Attack = Literal["", "scale", "flip", "nan", "shape", "huge", "header", "backdoor"]


class AttackSettings(Settings):
    """Merchants that mean harm."""

    kind: Attack = Field(
        "", description="what the last merchants send: scale, flip, nan, shape, huge, header, backdoor"
    )
    merchants: Annotated[int, Field(ge=0)] = Field(2, description="how many of the last merchants attack")


class EngineSettings(Settings):
    """How the federation is run on this machine."""

    name: Engine = Field("inline", description="inline, ray or deployment")
    threads: Annotated[int, Field(ge=0)] = Field(0, description="threads of one merchant's training; 0 takes all cores")
    microbatch: Annotated[int, Field(ge=1)] = Field(16, description="customers in memory at once; changes memory only")
    precision: Literal["float32", "bfloat16", "int8"] = Field(
        "float32", description="as `train.precision` of every merchant"
    )
    padding: Literal["full", "buckets"] = Field(
        "buckets", description="as `train.padding` of every merchant; nobody times a simulation"
    )
    address: str = Field("", description="address of a Ray cluster that is already there")


class EvaluationSettings(Settings):
    """How much of the held-out weeks is measured after each round."""

    per_task: Annotated[int, Field(ge=0)] = Field(24, description="held-out tasks of a kind, a shop")
    shops: Annotated[int, Field(ge=0)] = Field(0, description="measure on the first so many shops; 0 takes all")
    questions: Annotated[int, Field(ge=0)] = Field(30, description="next-basket questions a shop, first and last round")


class Scenario(Settings):
    """Everything a run needs to be run again."""

    scenario: About
    world: WorldSettings = WorldSettings()
    model: ModelSettings = ModelSettings()
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    privacy: PrivacySettings = PrivacySettings()
    engine: EngineSettings = EngineSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    attack: AttackSettings = AttackSettings()
    mixed: MixedSettings = MixedSettings()

    def federation(self) -> FederationSettings:
        """Return the part that travels to merchants."""
        merchants = 1 if self.scenario.arm else self.scenario.merchants
        reference = self.training.reference and not self.scenario.arm
        training = self.training.model_copy(update={"merchants": merchants, "reference": reference})
        return FederationSettings(model=self.model, lora=self.lora, training=training)

    def policy(self, merchant: str, base_digest: str, place: int = 0) -> Policy:
        """Return the policy of the simulated merchant at `place`; raise `UserError` for settings that no policy allows.

        Every merchant's adapter has the federation's alpha / rank, whatever its rank.
        """
        privacy, rank = self.privacy, dealt(self.mixed.ranks, place, self.lora.rank)
        alpha = self.lora.alpha * rank / self.lora.rank
        tree = {
            "merchant": merchant,
            "epsilon": self.epsilon(place),
            "delta": privacy.delta,
            "period": privacy.period,
            "max_rounds": self.training.rounds + privacy.spare_rounds,
            "sigma_min": self.sigma(place),
            "rate": privacy.rate,
            "steps": privacy.steps,
            "clip_norm": privacy.clip_norm,
            "divisor": privacy.divisor * (self.scenario.merchants if self.scenario.arm == "central" else 1),
            "max_records_per_customer": privacy.max_records_per_customer,
            "max_tokens": privacy.max_tokens,
            "lora": {
                **self.lora.model_dump(),
                "rank": rank,
                "alpha": int(alpha) if alpha.is_integer() else alpha,
            },
            "base": base_digest,
        }
        return parse_settings(Policy, tree, f"scenario {self.scenario.name}, policy of {merchant}")

    def epsilon(self, place: int = 0) -> float:
        """Return the cap of the merchant at `place`."""
        return dealt(self.mixed.epsilons, place, self.privacy.epsilon)

    def sigma(self, place: int = 0) -> float:
        """Return the smallest noise multiplier whose worst case, all rounds and all spare ones, stays within the cap.

        The worst case is a merchant that is asked in every round, however few are drawn for one.
        """
        privacy, epsilon = self.privacy, self.epsilon(place)
        if math.isinf(epsilon):
            return 0.0
        rounds = self.training.rounds + privacy.spare_rounds
        return calibrate(epsilon, privacy.delta, privacy.rate, privacy.steps, rounds)

    def caps(self) -> dict[float, float]:
        """Return epsilon -> sigma for every cap that some merchant has, in the order of merchants."""
        places = range(min(self.scenario.merchants, max(len(self.mixed.epsilons), 1)))
        return {self.epsilon(place): self.sigma(place) for place in places}


def shipped() -> dict[str, Path]:
    """Return name -> file of every scenario that ships."""
    folder = Path(str(resources.files("simulations"))) / "scenarios"
    return {path.stem: path for path in sorted(folder.glob("*.toml")) if not path.stem.startswith("study-")}


def load_scenario(name: str, changes: Mapping[str, Any] | None = None) -> Scenario:
    """Return the shipped scenario `name`, or the one in the file `name`, with dotted `changes` applied."""
    known = shipped()
    path = known.get(name) or Path(name)
    if name not in known and path.suffix != ".toml":
        raise UserError(f"unknown scenario {name!r}; there are {', '.join(known)}, or name a .toml file")
    return read_scenario(path, changes)


def read_scenario(path: Path, changes: Mapping[str, Any] | None = None) -> Scenario:
    """Return the scenario in file `path` with dotted `changes` applied; `[run]` and `[versions]` are passed over."""
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"scenario {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"scenario {path} is not TOML: {error}") from None
    tree = {key: value for key, value in tree.items() if key not in ("run", "versions")}
    for key, value in nest(changes or {}).items():
        tree[key] = {**tree.get(key, {}), **value} if isinstance(value, dict) else value
    return parse_settings(Scenario, tree, f"scenario {path.stem}")


def parse_arms(text: str) -> tuple[str, ...]:
    """Return the arms named in a comma-separated text, the federated one first.

    >>> parse_arms("central,federated")
    ('federated', 'central')
    """
    asked = [part.strip() for part in text.split(",") if part.strip()]
    if unknown := [one for one in asked if one not in KNOWN_ARMS]:
        raise UserError(f"--arms {text!r}: {', '.join(unknown)} is none of {', '.join(KNOWN_ARMS)}")
    if "federated" not in asked:
        raise UserError(f"--arms {text!r}: the other arms are compared with the federated one; name it too")
    return tuple(one for one in KNOWN_ARMS if one in asked)


def parse_changes(pairs: Sequence[str]) -> dict[str, Any]:
    """Return `key=value` texts as dotted changes; values are read as TOML, a bare word as text.

    >>> parse_changes(["training.rounds=3", "model.base=default"])
    {'training.rounds': 3, 'model.base': 'default'}
    """
    changes = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or "." not in key:
            raise UserError(f"--set {pair!r}: write table.key=value, such as training.rounds=3")
        changes[key.strip()] = _value(value.strip())
    return changes


def _value(text: str) -> Any:
    if text == "nan":  # a kind of attack; as a number it is nothing that a setting could be
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
