"""The merchant's signed policy: floors and ceilings that no message can change.

`policy.toml` is read on the merchant's own disk only and signed by the merchant's privacy officer. A coordinator's
message may repeat what the policy says; it can change nothing (`check_ask`). The signature covers the bytes of the
file, so comments are signed with it.

Why a file of its own: a signed app does not cover the run's configuration, which the coordinator merges in afterwards.
"""

from __future__ import annotations

import base64
import binascii
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from common.errors import Refused, UserError, VerificationFailed
from common.files import canonical_json, sha256, write_atomic
from common.privacy.keys import fingerprint, holds, public_from_hex, public_hex

_DOMAIN = b"fugou-policy-v1\0"

Digest = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9:_.+/=-]{1,128}$")]
Target = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]{1,64}$")]


class LoraManifest(BaseModel):
    """Which matrices are adapted, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    targets: tuple[Target, ...] = Field(default=("c_attn",), strict=False, min_length=1, max_length=16)
    rank: int = Field(default=8, ge=1, le=256)
    alpha: int = Field(default=16, ge=1, le=1024)


class Policy(BaseModel):
    """What one merchant's customers may be spent on, and how much of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    merchant: str = Field(pattern=r"^[a-z0-9-]{1,64}$", description="the shop's name in the federation")
    unit: Literal["customer"] = Field(
        default="customer", description="one customer with all records: what is protected"
    )
    epsilon: float = Field(gt=0, description="the cap on the privacy loss of the period; inf for none")
    delta: float = Field(default=1e-6, gt=0, le=1e-4, description="a fixed constant, never 1 / customers")
    period: str = Field(pattern=r"^[A-Za-z0-9-]{1,32}$", description="the budget's period, such as 2026Q4")
    max_rounds: int = Field(ge=1, le=1_000_000, description="every charge uses one, released or burned")
    sigma_min: float = Field(ge=0, le=1e6, description="noise multiplier of every step; nothing may lower it")
    rate: float = Field(gt=0, le=1, description="the chance that a customer is drawn into a step")
    steps: int = Field(ge=1, le=1_000_000, description="noisy steps a round")
    clip_norm: float = Field(gt=0, le=1e6, description="the most one customer's gradient may weigh")
    divisor: float = Field(gt=0, le=1e9, description="public constant that the noisy sum is divided by")
    max_records_per_customer: int = Field(ge=1, le=100_000, description="records of one customer that may be used")
    max_tokens: int = Field(ge=8, le=65_536, description="length of a customer's row")
    mode: Literal["schedule", "adaptive"] = Field(
        default="schedule", description="schedule: rounds fixed in advance (PLD); adaptive: Renyi filter, costs more"
    )
    lora: LoraManifest = Field(default=LoraManifest(), strict=False, description="the adapter, exactly")
    apps: tuple[Digest, ...] = Field(
        default=(), strict=False, description="digests of apps that may run; empty: ANY app"
    )
    base: Digest | Literal[""] = Field(default="", description="digest of the base model; empty: ANY base model")

    @model_validator(mode="after")
    def _finite_and_noisy(self) -> Policy:
        for name in ("delta", "sigma_min", "rate", "clip_norm", "divisor"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number")
        if math.isnan(self.epsilon):
            raise ValueError("epsilon must be a number above 0, or inf")
        if self.sigma_min == 0 and math.isfinite(self.epsilon):
            raise ValueError("sigma_min = 0 gives no privacy and is allowed only together with epsilon = inf")
        return self


@dataclass(frozen=True)
class SignedPolicy:
    """A policy whose signature has been checked, with everything needed to check it again."""

    policy: Policy
    digest: str
    raw: bytes
    signature: bytes
    signer: str
    """The signing public key, 32 bytes in hex."""


# --- files ---


def policy_digest(policy: Policy) -> str:
    """Return the SHA-256 of the policy's canonical JSON, numbers as decimal strings: the same for any formatting."""
    return sha256(canonical_json(_as_text(policy.model_dump())).encode())


def _as_text(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_text(item) for item in value]
    return value if isinstance(value, str) else repr(value)


def write_policy(policy: Policy, path: Path) -> None:
    """Write `policy_text(policy)`; a signature beside it no longer fits."""
    write_atomic(path, policy_text(policy))


def policy_text(policy: Policy) -> str:
    """Return `policy` as TOML with a comment above every key."""
    values = policy.model_dump()
    lora = values.pop("lora")
    parts = ["# What may be spent on this shop's customers. Sign it after every change.\n"]
    for name, value in values.items():
        parts.append(f"\n# {Policy.model_fields[name].description}\n{tomli_w.dumps({name: value})}")
    parts.append(f"\n# {Policy.model_fields['lora'].description}\n{tomli_w.dumps({'lora': lora})}")
    return "".join(parts)


def read_policy(path: Path) -> Policy:
    """Return the policy at `path` without looking at its signature: for drafts. Raises `UserError`, one line."""
    return parse_policy(_read(path), str(path))


def parse_policy(raw: bytes, name: str = "policy.toml") -> Policy:
    """Return the policy in `raw`; raises `UserError` naming the key, its value and the allowed range."""
    try:
        return Policy.model_validate(tomllib.loads(raw.decode()))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{name} is not TOML: {error}; correct it and sign it again") from error
    except ValidationError as error:
        raise UserError(f"{name}: {_complaint(error)}; correct it and sign it again") from error


def _complaint(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    said = first["msg"].removeprefix("Value error, ")
    if not key:
        return said
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "extra_forbidden":
        return f"{key} is no key of a policy"
    return f"{key} = {first['input']!r}: {said[0].lower()}{said[1:]}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; `fugou merchant init` writes one") from error


# --- signatures ---


def signature_path(path: Path) -> Path:
    """Return where the signature of the policy at `path` lies: `policy.toml.sig`."""
    return path.with_name(path.name + ".sig")


def sign_policy(path: Path, key: Ed25519PrivateKey) -> SignedPolicy:
    """Check the policy at `path`, sign its bytes, write `path` + `.sig`, and return it as `load_policy` would."""
    signed = seal(_read(path), key, str(path))
    lines = [
        "fugou-policy-v1",
        f"kid {fingerprint(key.public_key())}",
        f"key {signed.signer}",
        f"sig {base64.b64encode(signed.signature).decode()}",
    ]
    write_atomic(signature_path(path), "\n".join(lines) + "\n")
    return signed


def seal(raw: bytes | Policy, key: Ed25519PrivateKey, name: str = "policy.toml") -> SignedPolicy:
    """Return the policy in the bytes of a file, or a policy as `write_policy` writes it, signed by `key`; no files."""
    raw = policy_text(raw).encode() if isinstance(raw, Policy) else raw
    policy = parse_policy(raw, name)
    return SignedPolicy(policy, policy_digest(policy), raw, key.sign(_DOMAIN + raw), public_hex(key.public_key()))


def load_policy(path: Path, *, public_key: Ed25519PublicKey | None = None) -> SignedPolicy:
    """Return the policy at `path` after checking the signature beside it.

    With `public_key`, only that officer's signature will do. Without, the signature must hold for the key that it
    names: that the file is whole is then known, and who `signer` is remains for the caller, or the ledger, to know.

    Raises `VerificationFailed` for a missing or wrong signature and `UserError` for a policy that cannot be read.
    """
    raw = _read(path)
    signer, signature = _read_signature(signature_path(path))
    if public_key is not None and public_hex(public_key) != signer:
        named = fingerprint(public_from_hex(signer))
        raise VerificationFailed(
            f"{path} was signed by key {named}, not by the officer's {fingerprint(public_key)}; have it signed again"
        )
    return open_signed(raw, signature, signer, str(path))


@lru_cache(maxsize=128)
def open_signed(raw: bytes, signature: bytes, signer: str, name: str = "the policy") -> SignedPolicy:
    """Return the policy in `raw` when `signature` over it is of the key `signer` (hex); the same bytes are read once.

    Raises `VerificationFailed` otherwise.
    """
    try:
        good = holds(public_from_hex(signer), signature, _DOMAIN + raw)
    except ValueError:
        good = False
    if not good:
        raise VerificationFailed(
            f"{name} differs from what was signed; if the change is meant, sign it: fugou merchant policy sign"
        )
    policy = parse_policy(raw, name)
    return SignedPolicy(policy, policy_digest(policy), raw, signature, signer)


def _read_signature(path: Path) -> tuple[str, bytes]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise VerificationFailed(f"{path} is missing: the policy is not signed; fugou merchant policy sign") from error
    except (OSError, UnicodeDecodeError) as error:
        raise VerificationFailed(f"{path} cannot be read; sign again: fugou merchant policy sign") from error
    try:
        fields = dict(line.split(" ", 1) for line in lines[1:] if line.strip())
        public = public_from_hex(fields["key"])
        signature = _signature_bytes(fields["sig"])
        if lines[0] != "fugou-policy-v1" or fields["kid"] != fingerprint(public):
            raise ValueError(path)
    except (ValueError, KeyError, IndexError) as error:
        raise VerificationFailed(f"{path} is no policy signature; sign again: fugou merchant policy sign") from error
    return public_hex(public), signature


def _signature_bytes(text: str) -> bytes:
    text = text.strip()
    if len(text) == 128:
        return bytes.fromhex(text)
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(text) from error


# --- what a coordinator may say ---

_SAME_AS: Mapping[str, str] = {
    "merchant": "merchant",
    "unit": "unit",
    "epsilon": "epsilon",
    "delta": "delta",
    "period": "period",
    "max_rounds": "max_rounds",
    "sigma": "sigma_min",
    "sigma_min": "sigma_min",
    "noise_multiplier": "sigma_min",
    "rate": "rate",
    "sample_rate": "rate",
    "steps": "steps",
    "clip_norm": "clip_norm",
    "max_grad_norm": "clip_norm",
    "divisor": "divisor",
    "max_records_per_customer": "max_records_per_customer",
    "max_tokens": "max_tokens",
    "mode": "mode",
    "targets": "lora.targets",
    "rank": "lora.rank",
    "alpha": "lora.alpha",
}

PRIVATE_KEYS = (*_SAME_AS, "app_digest", "base_digest")
"""What an ask may repeat from the policy and may not change."""

FREE_KEYS = ("run", "round", "adapter_digest", "learning_rate", "method", "task")
"""What an ask may choose: none of it changes the guarantee. The learning rate must lie in (0, 10]."""

ASK_KEYS = (*PRIVATE_KEYS, *FREE_KEYS)
"""The whole vocabulary of an ask."""


def check_ask(policy: Policy, ask: Mapping[str, object]) -> None:
    """Return when everything in `ask` is what the policy says, or none of its business.

    `ask` is what the coordinator's message and run configuration say, flat, in the words of `ASK_KEYS`; a key that is
    missing is the policy's to fill in, except `app_digest` when the policy names apps. Numbers must be equal, not
    close; a text is no number. `targets` is a list, or one text with commas.

    Raises `Refused` with the reason: an unknown key, or a value that differs.
    """
    for key, value in ask.items():
        if key in _SAME_AS:
            _check_same(policy, key, value)
        elif key == "learning_rate":
            _check_learning_rate(value)
        elif key not in ASK_KEYS:
            raise Refused(f"the coordinator says {_shown(key)}, which is no key of an ask; known are {list(ASK_KEYS)}")
    _check_app(policy, ask)
    _check_base(policy, ask)


def _check_same(policy: Policy, key: str, value: object) -> None:
    mine: Any = policy
    for part in _SAME_AS[key].split("."):
        mine = getattr(mine, part)
    if key == "targets":
        same = sorted(_names(value)) == sorted(mine)
    elif isinstance(mine, str):
        same = isinstance(value, str) and value == mine
    else:
        same = _is_number(value) and value == mine
    if not same:
        raise Refused(
            f"the coordinator asks for {key} = {_shown(value)}; this merchant's policy says {mine!r} and only a "
            f"newly signed policy can change it"
        )


def _names(value: object) -> list[str]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_learning_rate(value: object) -> None:
    if not (isinstance(value, int | float) and _is_number(value) and 0 < value <= 10):
        raise Refused(f"the coordinator asks for learning_rate = {_shown(value)}; a number in (0, 10] is allowed")


def _check_app(policy: Policy, ask: Mapping[str, object]) -> None:
    if policy.apps and ask.get("app_digest") not in policy.apps:
        raise Refused(
            f"app_digest = {_shown(ask.get('app_digest'))} is none of the {len(policy.apps)} apps that the policy "
            f"allows; add it to `apps` and sign, if this app may run here"
        )


def _check_base(policy: Policy, ask: Mapping[str, object]) -> None:
    if policy.base and "base_digest" in ask and ask["base_digest"] != policy.base:
        raise Refused(
            f"base_digest = {_shown(ask['base_digest'])}; the policy accepts {policy.base} only: change `base` and sign"
        )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
