"""A report's signature: Ed25519 by the ledger's key over canonical JSON (RFC 8785).

Numbers follow ECMAScript, as the RFC asks, so that a verifier in any language gets the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from client.report.model import Report
from common.errors import VerificationFailed
from common.files import sha256
from common.privacy.keys import holds, public_from_hex

DOMAIN = b"fugou-report-v1\0"


def canonical(value: Any) -> str:
    """Return `value` as RFC 8785 writes it: sorted keys, no spaces, numbers as in ECMAScript.

    >>> canonical({"b": 1e-06, "a": [1.0, 1e21, "茶", None, True]})
    '{"a":[1,1e+21,"茶",null,true],"b":0.000001}'
    """
    if isinstance(value, Mapping):
        pairs = sorted(value.items(), key=lambda pair: pair[0].encode("utf-16-be"))
        return "{" + ",".join(f"{json.dumps(key, ensure_ascii=False)}:{canonical(one)}" for key, one in pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float):
        return number(value)
    return json.dumps(value, ensure_ascii=False)


def number(value: float) -> str:
    """Return a double as ECMAScript's Number::toString writes it; raises ValueError for NaN and infinities.

    >>> [number(x) for x in (3.0, 0.1, 1e-7, 1.5e300, -0.0)]
    ['3', '0.1', '1e-7', '1.5e+300', '0']
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} has no place in JSON")
    if value == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    mantissa, point = "".join(map(str, digits)), len(digits) + int(exponent)
    return ("-" if sign else "") + _placed(mantissa, point)


def _placed(digits: str, point: int) -> str:
    """Return digits with the decimal point after the first `point` of them, or in exponent form when far away."""
    if len(digits) <= point <= 21:
        return digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{tail}e{point - 1:+d}"


def message(report: Report) -> bytes:
    """Return the bytes that the signature is over."""
    tree = report.model_dump(mode="json")
    del tree["signature"]["value"]
    return DOMAIN + canonical(tree).encode()


def sealed(report: Report, key: Ed25519PrivateKey) -> Report:
    """Return the report signed by `key`."""
    value = key.sign(message(report)).hex()
    return report.model_copy(update={"signature": report.signature.model_copy(update={"value": value})})


def check_seal(report: Report, key: Ed25519PublicKey | None = None) -> None:
    """Return when the report is signed by `key`, or by the one it names; raises `VerificationFailed` otherwise."""
    signer = key or public_from_hex(report.merchant.ledger_key)
    if not report.signature.value or not holds(signer, bytes.fromhex(report.signature.value), message(report)):
        raise VerificationFailed(
            f"the report {report.report_id} is not what was signed; make it again: fugou merchant report"
        )


def text_of(report: Report) -> str:
    """Return `report.json`: the signed values, indented for reading."""
    return json.dumps(report.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n"


def digest_of(report: Report) -> str:
    """Return the SHA-256 of the canonical signed report: what the ledger notes and the pages name."""
    return sha256(canonical(report.model_dump(mode="json")).encode())
