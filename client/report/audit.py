"""What `audit.json` in a merchant's folder says: a lower bound on epsilon that canaries measured, or that there is none.

The file may be somebody else's: a field that a report has no place for is passed over, one of the wrong kind makes the
audit unreadable, and nothing in it can raise. A bound above the claim is a violation whatever the file calls it, and one
that the ledger tells of stays one whatever became of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.audit.hold import held
from client.report.model import Audit, Check, RocPoint
from common.files import sha256

FILE = "audit.json"
TEXT = 300
MOST = 200


class Conformance(BaseModel):
    """One conformance test as the file has it."""

    test: str
    observed: float = Field(allow_inf_nan=False)
    predicted: float = Field(allow_inf_nan=False)
    passed: bool = Field(alias="pass")


class AuditFile(BaseModel):
    """What is read of the file."""

    model_config = ConfigDict(extra="ignore")

    design: str = ""
    method: str = ""
    data: str = ""
    m: int | None = Field(default=None, ge=0)
    confidence: float = Field(ge=0, le=1)
    delta: float = Field(ge=0, le=1)
    claimed_epsilon: float = Field(ge=0, allow_inf_nan=False)
    epsilon_lower_bound: float = Field(ge=0, allow_inf_nan=False)
    max_certifiable_epsilon: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    result: Literal["consistent", "violation", "inconclusive"]
    conformance: tuple[Conformance, ...] = ()
    roc: tuple[tuple[float, float], ...] = ()


def read_audit(folder: Path, noted: Iterable[Mapping[str, Any]]) -> Audit:
    """Return what the audit in `folder` found; `noted` are the details of the ledger's AUDIT entries, oldest first."""
    details = list(noted)
    found, standing = _from_file(folder, details), held(details)
    if standing is None or found.state == "violation":
        return found
    return Audit(state="violation", reason=f"ledger: audit {str(standing.get('sha256', ''))[:16]}")


def _from_file(folder: Path, noted: Iterable[Mapping[str, Any]]) -> Audit:
    path = folder / FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Audit(state="not_audited")
    except OSError as error:
        return Audit(state="unreadable", reason=error.strerror or "")
    digest = sha256(data)
    named = any(digest in map(str, detail.values()) for detail in noted)
    try:
        found = AuditFile.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        return Audit(state="unreadable", reason=f"{place}: {first['msg']}"[:TEXT], file_sha256=digest, in_ledger=named)
    return _told(found, digest, named)


def _told(found: AuditFile, digest: str, named: bool) -> Audit:
    failed = found.epsilon_lower_bound > found.claimed_epsilon or not all(one.passed for one in found.conformance)
    points = [RocPoint(fpr=x, tpr=y) for x, y in found.roc[:MOST] if 0 <= x <= 1 and 0 <= y <= 1]
    checks = [
        Check(test=one.test[:TEXT], observed=one.observed, predicted=one.predicted, passed=one.passed)
        for one in found.conformance[:MOST]
    ]
    return Audit(
        state="violation" if failed else found.result,
        design=found.design[:TEXT],
        method=found.method[:TEXT],
        data=found.data[:TEXT],
        canaries=found.m,
        confidence=found.confidence,
        delta=found.delta,
        claimed_epsilon=found.claimed_epsilon,
        epsilon_lower_bound=found.epsilon_lower_bound,
        max_certifiable_epsilon=found.max_certifiable_epsilon,
        roc=tuple(points),
        conformance=tuple(checks),
        file_sha256=digest,
        in_ledger=named,
    )
