"""The privacy budget report as strict values: what `report.json` may hold, and nothing else.

An unknown field, a missing one or a value of another kind is refused, on writing as on reading. `schema/` holds the
same as JSON Schema (draft 2020-12) for readers in other languages, written by `python -m client.report.model`.
A number of privacy loss never stands alone: every object that holds an epsilon holds delta, unit and period as well.
Texts for people are in Chinese and English side by side.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from common.errors import VerificationFailed
from common.files import write_atomic

SCHEMA = Path(__file__).parent / "schema" / "privacy-report-1.json"
SCHEMA_ID = "fugou/privacy-report/1"

Audience = Literal["confidential", "shareable"]
Code = Literal[
    "within_budget", "near_limit", "exhausted", "refused", "no_guarantee", "violation", "unverifiable", "broken"
]
SILENT: tuple[Code, ...] = ("unverifiable", "broken")
"""States in which no number of privacy loss is told."""

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Epsilon = Annotated[float, Field(ge=0, description="rounded up to two decimals")]
NoBound = Annotated[Epsilon | None, Field(description="rounded up to two decimals; null where nothing bounds it")]
Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """A part of a report: frozen, and closed to fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Text(Part):
    """One sentence in two languages."""

    zh: str
    en: str

    def said(self, lang: str) -> str:
        """Return the sentence in `zh` or `en`."""
        return self.en if lang == "en" else self.zh


class Generator(Part):
    """What made the report."""

    name: Literal["fugou"] = "fugou"
    version: str
    code_sha256: Hash
    python: str
    libraries: dict[str, str]


class Merchant(Part):
    """Whose report it is; the name only where the merchant reads it herself."""

    merchant_id: str = Field(pattern=r"^[a-z0-9-]{1,64}$")
    name: str | None
    ledger_key: Hash
    ledger_key_fingerprint: str = Field(pattern=r"^[0-9a-f]{16}$")


class Period(Part):
    """The budget's period, the policy in force in it and the periods before."""

    name: str
    policy_digest: Hash
    policy_signer: Hash
    data_blocks: tuple[str, ...]
    lifetime: tuple[str, ...] = Field(description="every period that this ledger has had a budget for, oldest first")


class Status(Part):
    """Where the merchant stands, and why."""

    code: Code
    reasons: tuple[Text, ...]


class Claim(Part):
    """What may be said of the updates, in words and as a formula, and what it does not mean."""

    zh: str
    en: str
    formal: str
    what_it_does_not_mean: tuple[Text, ...]


class Assumption(Part):
    """Something the claim rests on, and how it is known."""

    id: str
    text: Text
    status: Literal["enforced", "tested", "assumed", "violated"]
    evidence: tuple[str, ...] = Field(description="tests (file::name), digests or ledger entries; empty where assumed")


class Guarantee(Part):
    """Who is protected from whom, under which definition and assumptions."""

    deployment_model: Literal["Federated"] = "Federated"
    protected_from: tuple[Text, ...]
    trusted: tuple[Text, ...]
    dp_variant: Literal["Approximate DP"] = "Approximate DP"
    privacy_unit: Literal["customer"]
    unit_definition: Text
    max_records_per_customer: int
    adjacency: Literal["add-or-remove-one"] = "add-or-remove-one"
    outputs_covered: tuple[Text, ...]
    post_processing: tuple[Text, ...]
    data_accesses_not_covered: tuple[Text, ...]
    unprotected_quantities: tuple[Text, ...]
    credits_not_taken: tuple[Text, ...]
    assumptions: tuple[Assumption, ...]


class Loss(Part):
    """One epsilon with everything that gives it a meaning."""

    epsilon: NoBound
    delta: float
    unit: Literal["customer", "record"]
    adjacency: Literal["add-or-remove-one"] = "add-or-remove-one"
    period: str
    merchants: int = Field(default=1, ge=1, description="at how many merchants with these charges the customer shops")
    records: int | None = Field(default=None, description="how many records the customer has, where the unit is one")
    rounding: Literal["up, 2 decimals"] = "up, 2 decimals"


class Step(Part):
    """A point of the staircase: rounds spent in the period, and epsilon then."""

    rounds: Count
    epsilon: NoBound


class Staircase(Part):
    """Epsilon of the period by rounds, until now and to the last round allowed; its delta, unit and period for all."""

    delta: float
    unit: Literal["customer"]
    period: str
    spent: tuple[Step, ...]
    forecast: tuple[Step, ...]


class ProfilePoint(Part):
    """A point of the privacy profile."""

    epsilon: float
    delta: Share


class Tradeoff(Part):
    """The most hits a membership test can have at a rate of false alarms."""

    fpr: Share
    tpr_max: Share


class CrossCheck(Part):
    """The same charges by another way of accounting: an upper bound too, a looser one."""

    method: Literal["RDP"] = "RDP"
    epsilon: NoBound


class Accountant(Part):
    """Who counted, and how."""

    name: Literal["dp-accounting"] = "dp-accounting"
    version: str
    method: Literal["PLD", "RDP filter"]
    neighboring: Literal["ADD_OR_REMOVE_ONE"] = "ADD_OR_REMOVE_ONE"
    cross_check: CrossCheck


class PrivacyLoss(Part):
    """What was lost: the period's figure first, the lifetime's beside it, other readings, and what they mean."""

    headline: Loss
    with_reserved: Loss
    lifetime: Loss
    by_unit: tuple[Loss, ...]
    accountant: Accountant
    staircase: Staircase
    profile: tuple[ProfilePoint, ...]
    gdp_mu: float | None
    tradeoff: tuple[Tradeoff, ...]
    tradeoff_basis: Literal["profile", "epsilon and delta"]
    max_advantage: Share


class Rounds(Part):
    """Rounds of the period by what became of them; only whole rounds add up, epsilons do not."""

    released: Count
    burned: Count
    recovered: Count = Field(description="lost entries, charged as whole rounds at worst case")
    reserved: Count
    refunded: Count
    left: Count
    limit: Count


class Refusal(Part):
    """A request that was refused; reason and time only where the merchant reads it herself."""

    seq: Count
    round: str
    reason: str | None
    at: str | None


class Budget(Part):
    """What the policy allows and what is left of it, counted in rounds."""

    filter: Literal["predeclared-PLD", "RDP-filter"]
    epsilon_limit: float | None = Field(description="null where the policy sets none")
    delta_limit: float
    period: str
    unit: Literal["customer"]
    rounds: Rounds
    refusals: tuple[Refusal, ...]
    renewal: Text


class Sampling(Part):
    """How customers come into a step."""

    type: Literal["poisson"] = "poisson"
    rate: float
    steps_per_round: int


class Lora(Part):
    """What is trained."""

    targets: tuple[str, ...]
    rank: int
    alpha: int


class Mechanism(Part):
    """What one round does, as the policy in force has it."""

    algorithm: Literal["DP-SGD, flat clipping, LoRA"] = "DP-SGD, flat clipping, LoRA"
    noise_multiplier: float
    clip_norm: float
    sampling: Sampling
    divisor: float = Field(description="a public constant of the policy, never the number of customers")
    nonfinite: Literal["zeroed before clipping"] = "zeroed before clipping"
    rng: Literal["AES-256-CTR keyed by the operating system"] = "AES-256-CTR keyed by the operating system"
    floating_point: Literal["float64, snapped to a public grid"] = "float64, snapped to a public grid"
    trainable: Lora
    max_tokens: int
    base_digest: str
    apps: tuple[str, ...]


class Event(Part):
    """One entry of the ledger; times and notes only where the merchant reads it herself."""

    seq: Count
    type: str
    round: str
    entry_hash: Hash
    closes: Count | None
    update_sha256: Hash | None
    at: str | None
    note: str | None


class Anchor(Part):
    """An entry that somebody outside the database has seen."""

    where: str
    seq: Count
    hash: Hash


class LedgerState(Part):
    """The ledger that the report is about, and whether it holds."""

    head_seq: int = Field(ge=-1)
    head_hash: Hash
    verified: bool
    broken_at: int | None
    reason: str
    anchors: tuple[Anchor, ...]
    anomalies: tuple[str, ...]


class RocPoint(Part):
    """One measured point of an audit's attack."""

    fpr: Share
    tpr: Share


class Check(Part):
    """One conformance test of an audit: what was seen and what theory says."""

    test: str
    observed: float
    predicted: float
    passed: bool


class Audit(Part):
    """What an empirical audit found: a lower bound, never the loss itself."""

    state: Literal["not_audited", "unreadable", "consistent", "violation", "inconclusive"]
    reason: str = ""
    design: str = ""
    method: str = ""
    data: str = ""
    canaries: Count | None = None
    confidence: Share | None = None
    delta: Share | None = None
    claimed_epsilon: float | None = None
    epsilon_lower_bound: float | None = None
    max_certifiable_epsilon: float | None = None
    roc: tuple[RocPoint, ...] = ()
    conformance: tuple[Check, ...] = ()
    file_sha256: Hash | None = None
    in_ledger: bool = Field(default=False, description="whether an AUDIT entry of the ledger names this file's digest")


class Signature(Part):
    """Ed25519 by the ledger's key over `fugou-report-v1`, a zero byte and the canonical report without `value`."""

    alg: Literal["Ed25519"] = "Ed25519"
    kid: str = Field(pattern=r"^[0-9a-f]{16}$")
    canonicalisation: Literal["RFC 8785"] = "RFC 8785"
    value: str = Field(pattern=r"^([0-9a-f]{128})?$")


class Report(Part):
    """The whole report."""

    schema_version: Literal["1.0"] = "1.0"
    report_id: str = Field(pattern=r"^[0-9a-f-]{36}$")
    generated_at: str
    generator: Generator
    audience: Audience
    merchant: Merchant
    period: Period | None
    status: Status
    claim: Claim
    guarantee: Guarantee | None
    privacy_loss: PrivacyLoss | None
    budget: Budget | None
    mechanism: Mechanism | None
    events: tuple[Event, ...]
    ledger: LedgerState
    audit: Audit
    limitations: tuple[Text, ...]
    signature: Signature

    @model_validator(mode="after")
    def _says_nothing_it_cannot_prove(self) -> Report:
        told = [self.period, self.guarantee, self.privacy_loss, self.budget, self.mechanism]
        silent = self.status.code in SILENT
        if silent == self.ledger.verified:
            raise ValueError(f"status {self.status.code!r} does not go with ledger.verified = {self.ledger.verified}")
        if any((part is None) != silent for part in told):
            raise ValueError("a loss is told exactly where the ledger holds")
        return self


def read_report(data: bytes) -> Report:
    """Return the report in the bytes of a `report.json`; raises `VerificationFailed` naming the field that is wrong."""
    try:
        return Report.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise VerificationFailed(f"no privacy report: {place}: {first['msg']}; make it again") from error


def json_schema() -> dict[str, Any]:
    """Return the schema that `schema/` holds, for validators in any language."""
    schema = Report.model_json_schema(mode="serialization")
    told = ("period", "guarantee", "privacy_loss", "budget", "mechanism")
    silent = {"properties": {"status": {"properties": {"code": {"enum": list(SILENT)}}}}}
    nothing = {"properties": {key: {"type": "null"} for key in told}}
    something = {"properties": {key: {"type": "object"} for key in told}}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID}
    return {**head, **schema, "if": silent, "then": nothing, "else": something}


def schema_text() -> str:
    """Return the schema as it stands on disk."""
    return json.dumps(json_schema(), ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    write_atomic(SCHEMA, schema_text())
