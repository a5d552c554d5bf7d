"""Checks a fugou privacy report against the ledger that it was made from, without fugou: one file to hand on.

    python verify.py report.json ledger.jsonl [--key ledger.pub] [--anchor SEQ:HASH] [--html report.html] [--quick]
    python verify.py --pack evidence.zip

Needs Python 3.11 and the package `cryptography`. Nothing is written and nothing is fetched. Every hash, signature,
charge and count is checked, and every epsilon is computed anew: by Renyi DP, and by a privacy loss distribution of its
own (Fourier transform, in plain Python; about half a minute, `--quick` leaves it out). Exit code 0: all holds.
4: something does not, and every line that begins with WRONG says what. 2: a file cannot be read.
"""

from __future__ import annotations

import argparse
import base64
import cmath
import hashlib
import json
import math
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

Setting = tuple[float, float, int]
"""Noise multiplier, sampling rate, steps."""

TOP = {
    "schema_version", "report_id", "generated_at", "generator", "audience", "merchant", "period", "status", "claim",
    "guarantee", "privacy_loss", "budget", "mechanism", "events", "ledger", "audit", "limitations", "signature",
}  # fmt: skip
ORDERS = (2, 3, 4, 6, 10, 16, 32, 64)
ALL_ORDERS = (*range(2, 65), *range(68, 129, 4), *range(144, 257, 16), 320, 384, 448, 512)
SLACK = 0.01
"""How far an epsilon may lie from the one computed here, beside the rounding to two decimals."""

MOST = 200_000_000
"""The most bytes of an evidence pack that are unpacked."""


class Wrong(Exception):
    """Something that does not hold; the message says what."""


# --- canonical forms and signatures ---


def compact(value: Any) -> str:
    """Return the ledger's canonical text of `value`: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: Any) -> str:
    """Return `value` as RFC 8785 writes it, numbers as in ECMAScript."""
    if isinstance(value, dict):
        pairs = sorted(value.items(), key=lambda pair: pair[0].encode("utf-16-be"))
        return "{" + ",".join(f"{json.dumps(key, ensure_ascii=False)}:{canonical(one)}" for key, one in pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return number(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def number(value: float) -> str:
    """Return a double as ECMAScript writes it."""
    if not math.isfinite(value):
        raise Wrong(f"{value} is no number of JSON")
    if value == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    text, point = "".join(map(str, digits)), len(digits) + int(exponent)
    minus = "-" if sign else ""
    if len(text) <= point <= 21:
        return minus + text + "0" * (point - len(text))
    if 0 < point <= 21:
        return f"{minus}{text[:point]}.{text[point:]}"
    if -6 < point <= 0:
        return f"{minus}0.{'0' * -point}{text}"
    tail = f".{text[1:]}" if len(text) > 1 else ""
    return f"{minus}{text[0]}{tail}e{point - 1:+d}"


def sha256(data: bytes) -> str:
    """Return the hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def signed(key: str, signature: bytes, message: bytes) -> bool:
    """Return whether `signature` over `message` is of the Ed25519 key in hex."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, message)
    except InvalidSignature:
        return False
    return True


# --- the ledger ---


@dataclass
class Ledger:
    """What an export says, entry by entry."""

    merchant: str = ""
    keys: list[str] = field(default_factory=list)
    officer: str = ""
    policy: dict[str, Any] = field(default_factory=dict)
    policy_digest: str = ""
    periods: list[str] = field(default_factory=list)
    seq: int = -1
    head: str = "0" * 64
    hashes: dict[int, str] = field(default_factory=dict)
    spans: list[dict[str, Any]] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    spent: list[Setting] = field(default_factory=list)
    former: list[Setting] = field(default_factory=list)
    held: dict[int, tuple[str, Setting]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """How often what happened in the period in force."""
    refused: list[int] = field(default_factory=list)


def read_ledger(text: str, until: int | None = None) -> Ledger:
    """Return the ledger of an export, to entry `until`; raises `Wrong` at the first entry that does not hold."""
    ledger = Ledger()
    for place, line in enumerate(text.splitlines()):
        try:
            row = json.loads(line)
            if until is not None and ledger.seq >= until:
                break
            _take(ledger, row["entry"], row["hash"], row["sig"])
        except Wrong as error:
            raise Wrong(f"the ledger's line {place + 1} (entry {ledger.seq + 1}): {error}") from error
        except Exception as error:
            raise Wrong(f"the ledger's line {place + 1}: {type(error).__name__}: {error}") from error
    if ledger.seq < 0:
        raise Wrong("the ledger's export has no entries")
    return ledger


def _take(ledger: Ledger, body: dict[str, Any], digest: str, sig: str) -> None:
    if sha256(b"fugou-ledger-v1\0" + compact(body).encode()) != digest:
        raise Wrong("its text is not what was hashed: edited")
    key = ledger.keys[-1] if ledger.keys else str(body["detail"]["key"])
    if not signed(key, bytes.fromhex(sig), bytes.fromhex(digest)):
        raise Wrong("its signature is not the ledger key's")
    if body["prev"] != ledger.head:
        raise Wrong("it does not follow the entry before: reordered, deleted or inserted")
    if body["type"] != "RECOVER" and body["seq"] != ledger.seq + 1:
        raise Wrong(f"number {body['seq']} follows {ledger.seq}")
    if (ledger.seq == -1) != (body["type"] == "GENESIS"):
        raise Wrong("a ledger begins with GENESIS and has one only")
    rule = RULES.get(str(body["type"]))
    if rule:
        rule(ledger, body)
    ledger.counts[body["type"]] = ledger.counts.get(body["type"], 0) + 1
    ledger.seq, ledger.head = int(body["seq"]), digest
    ledger.hashes[ledger.seq] = digest
    ledger.entries.append(body)


def _genesis(ledger: Ledger, body: dict[str, Any]) -> None:
    ledger.merchant = str(body["merchant"])
    ledger.keys = [str(body["detail"]["key"])]


def _policy(ledger: Ledger, body: dict[str, Any]) -> None:
    detail = body["detail"]
    raw, signer = str(detail["policy"]).encode(), str(detail["signer"])
    if not signed(signer, bytes.fromhex(detail["signature"]), b"fugou-policy-v1\0" + raw):
        raise Wrong("the policy's signature does not hold")
    if ledger.officer and signer != ledger.officer:
        raise Wrong("the policy is signed by another key than the officer's")
    policy = filled(tomllib.loads(raw.decode()))
    if ledger.policy:
        _follows(ledger, policy, renewal=body["type"] == "RENEW")
    if body["type"] == "RENEW":
        ledger.former += ledger.spent
        ledger.spent, ledger.counts, ledger.refused = [], {}, []
    ledger.officer, ledger.policy, ledger.policy_digest = signer, policy, digest_of_policy(policy)
    if policy["period"] not in ledger.periods:
        ledger.periods.append(str(policy["period"]))


def _follows(ledger: Ledger, new: dict[str, Any], *, renewal: bool) -> None:
    if renewal and (ledger.held or new["period"] in ledger.periods):
        raise Wrong("a new period needs ended rounds and a name of its own")
    if not renewal and new["period"] != ledger.policy["period"]:
        raise Wrong("the period changed without renewal")
    if not renewal and any(new[one] > ledger.policy[one] for one in ("epsilon", "delta", "max_rounds")):
        raise Wrong("a policy within the period allows more than the one before")


FLOATS = ("epsilon", "delta", "sigma_min", "rate", "clip_norm", "divisor")


def filled(policy: dict[str, Any]) -> dict[str, Any]:
    """Return a policy with the keys that its file may leave out, numbers as the ledger writes them."""
    usual: dict[str, Any] = {"unit": "customer", "delta": 1e-6, "mode": "schedule", "apps": [], "base": ""}
    lora = {"targets": ["c_attn"], "rank": 8, "alpha": 16} | policy.get("lora", {})
    whole = usual | policy | {"lora": lora}
    return whole | {name: float(whole[name]) for name in FLOATS}


def digest_of_policy(policy: dict[str, Any]) -> str:
    """Return the SHA-256 of the policy's canonical form."""
    return sha256(compact(_as_text(policy)).encode())


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_text(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_as_text(one) for one in value]
    return value if isinstance(value, str) else repr(value)


def planned(policy: Mapping[str, Any]) -> Setting:
    """Return what a round costs under `policy`."""
    return float(policy["sigma_min"]), float(policy["rate"]), int(policy["steps"])


def _reserve(ledger: Ledger, body: dict[str, Any]) -> None:
    params = body["params"]
    charge = float(params["sigma"]), float(params["rate"]), int(params["steps"])
    if charge != planned(ledger.policy) or body["policy_hash"] != ledger.policy_digest:
        raise Wrong("the reservation is not what the policy in force charges")
    if len(ledger.spent) + len(ledger.held) >= ledger.policy["max_rounds"]:
        raise Wrong("there are more rounds than the policy allows")
    ledger.held[int(body["seq"])] = str(body["idem"]), charge


def _close(ledger: Ledger, body: dict[str, Any]) -> None:
    held = ledger.held.pop(int(body["closes"]), None)
    if held is None or held[0] != body["idem"]:
        raise Wrong(f"it ends entry {body['closes']}, which is no open reservation of this round")
    if body["type"] != "REFUND":
        ledger.spent.append(held[1])


def _refuse(ledger: Ledger, body: dict[str, Any]) -> None:
    ledger.refused.append(int(body["seq"]))


def _recover(ledger: Ledger, body: dict[str, Any]) -> None:
    span, charges = body["span"], int(body["charges"])
    known = int(span["after_seq"]) if span["lost_seq"] > span["after_seq"] else -1
    if (span["after_seq"], span["after_hash"]) != (ledger.seq, ledger.head):
        raise Wrong("it recovers from another place than the end")
    if charges != int(span["lost_seq"]) - known + 1:
        raise Wrong("the lost span is not charged whole")
    message = b"fugou-recovery-v1\0" + compact({**span, "charges": charges}).encode()
    if not signed(ledger.officer, bytes.fromhex(body["officer_sig"]), message):
        raise Wrong("the officer's signature on the recovery does not hold")
    ledger.spans.append(span)
    ledger.spent += [planned(ledger.policy)] * charges


def _rotate(ledger: Ledger, body: dict[str, Any]) -> None:
    whose, new = str(body["whose"]), str(body["new_key"])
    old = ledger.officer if whose == "officer" else ledger.keys[-1]
    said = {"merchant": ledger.merchant, "whose": whose, "old": old, "new": new}
    message = b"fugou-key-rotate-v1\0" + compact(said).encode()
    for key, proof in ((old, body["old_proof"]), (new, body["new_proof"])):
        if not signed(key, bytes.fromhex(proof), message):
            raise Wrong(f"the {whose} key was changed without both keys' signatures")
    if whose == "officer":
        ledger.officer = new
    else:
        ledger.keys.append(new)


RULES: Mapping[str, Callable[[Ledger, dict[str, Any]], None]] = {
    "GENESIS": _genesis,
    "POLICY": _policy,
    "RENEW": _policy,
    "RESERVE": _reserve,
    "RELEASE": _close,
    "BURN": _close,
    "REFUND": _close,
    "REFUSE": _refuse,
    "RECOVER": _recover,
    "KEY_ROTATE": _rotate,
}


def check_anchors(ledger: Ledger, anchors: Sequence[tuple[int, str]]) -> Iterator[str]:
    """Yield what is wrong with the ledger according to entries that others have seen."""
    for seq, digest in anchors:
        lost = any(span["after_seq"] < seq <= span["lost_seq"] for span in ledger.spans)
        if ledger.hashes.get(seq) != digest and not lost:
            what = "is missing: cut or rolled back" if seq > ledger.seq else "is another one: rewritten"
            yield f"the ledger: entry {seq}, which an anchor has seen, {what}"


# --- the report and its ledger ---


def check_seal(report: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the report's form and signature."""
    if set(report) != TOP:
        yield f"the report has other fields than a report: {sorted(set(report) ^ TOP)}"
        return
    unsigned = {**report, "signature": {k: v for k, v in report["signature"].items() if k != "value"}}
    message = b"fugou-report-v1\0" + canonical(unsigned).encode()
    key = str(report["merchant"]["ledger_key"])
    if sha256(bytes.fromhex(key))[:16] != report["signature"]["kid"]:
        yield "the report's signature names another key than the report"
    if not signed(key, bytes.fromhex(report["signature"]["value"]), message):
        yield "the report's signature does not hold: it was changed after it was signed"


def check_place(report: dict[str, Any], whole: Ledger) -> Iterator[str]:
    """Yield where the report is not about this ledger, or about an earlier state of it."""
    told = report["ledger"]
    if report["merchant"]["merchant_id"] != whole.merchant or report["merchant"]["ledger_key"] not in whole.keys:
        yield "the report is of another merchant or ledger key than the export"
    if whole.hashes.get(told["head_seq"]) != told["head_hash"]:
        yield f"the export has no entry {told['head_seq']} with the hash that the report names: another or a shorter ledger"
        return
    later = [one for one in whole.entries if one["seq"] > told["head_seq"] and one["type"] not in ("REPORT", "AUDIT")]
    if later:
        yield (
            f"the report is old: it ends at entry {told['head_seq']}, and the ledger goes on to entry {whole.seq} "
            f"({', '.join(sorted({str(one['type']) for one in later}))}); ask for a new one"
        )
    yield from _noted(report, whole)


def _noted(report: dict[str, Any], whole: Ledger) -> Iterator[str]:
    """Yield where the ledger has noted this report with another content, or has gone on without noting it."""
    notes = [one["detail"] for one in whole.entries if one["type"] == "REPORT"]
    mine = [one for one in notes if one.get("report") == report["report_id"]]
    digest = sha256(canonical(report).encode())
    if mine and all(one.get("sha256") != digest for one in mine):
        yield f"the ledger notes report {report['report_id']} with another digest than this file's {digest[:16]}"
    if not mine and whole.seq > report["ledger"]["head_seq"]:
        yield f"the ledger does not note report {report['report_id']}: it was not made by the merchant's program"


def check_counts(report: dict[str, Any], ledger: Ledger) -> Iterator[str]:
    """Yield every count, constant and digest of the report that the ledger's entries do not give."""
    rounds, mechanism, policy = report["budget"]["rounds"], report["mechanism"], ledger.policy
    recovered = sum(int(one["charges"]) for one in _of_period(ledger) if one["type"] == "RECOVER")
    expected = {
        "period.name": (report["period"]["name"], policy["period"]),
        "period.policy_digest": (report["period"]["policy_digest"], ledger.policy_digest),
        "period.policy_signer": (report["period"]["policy_signer"], _signer(ledger)),
        "period.lifetime": (report["period"]["lifetime"], ledger.periods),
        "budget.rounds.released": (rounds["released"], ledger.counts.get("RELEASE", 0)),
        "budget.rounds.burned": (rounds["burned"], ledger.counts.get("BURN", 0)),
        "budget.rounds.refunded": (rounds["refunded"], ledger.counts.get("REFUND", 0)),
        "budget.rounds.recovered": (rounds["recovered"], recovered),
        "budget.rounds.reserved": (rounds["reserved"], len(ledger.held)),
        "budget.rounds.limit": (rounds["limit"], policy["max_rounds"]),
        "budget.refusals": ([one["seq"] for one in report["budget"]["refusals"]], ledger.refused),
        "budget.epsilon_limit": (report["budget"]["epsilon_limit"], _finite(policy["epsilon"])),
        "budget.delta_limit": (report["budget"]["delta_limit"], policy["delta"]),
        "mechanism.noise_multiplier": (mechanism["noise_multiplier"], policy["sigma_min"]),
        "mechanism.clip_norm": (mechanism["clip_norm"], policy["clip_norm"]),
        "mechanism.sampling.rate": (mechanism["sampling"]["rate"], policy["rate"]),
        "mechanism.sampling.steps_per_round": (mechanism["sampling"]["steps_per_round"], policy["steps"]),
        "mechanism.divisor": (mechanism["divisor"], policy["divisor"]),
        "events": (
            [(one["seq"], one["type"], one["entry_hash"]) for one in report["events"]],
            [(one["seq"], one["type"], ledger.hashes[one["seq"]]) for one in ledger.entries],
        ),
    }
    for name, (told, true) in expected.items():
        if told != true:
            yield f"{name} is {_short(told)} in the report and {_short(true)} by the ledger"


def _of_period(ledger: Ledger) -> list[dict[str, Any]]:
    start = max((int(one["seq"]) for one in ledger.entries if one["type"] == "RENEW"), default=0)
    return [one for one in ledger.entries if one["seq"] >= start]


def _signer(ledger: Ledger) -> str:
    """Return who signed the policy in force; the officer's key may have been changed since."""
    signers = [str(one["detail"]["signer"]) for one in ledger.entries if one["type"] in ("POLICY", "RENEW")]
    return signers[-1]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:80]}…"


# --- epsilon by Renyi DP ---


def merge(charges: Sequence[Setting], times: int = 1) -> list[Setting]:
    """Return the charges with equal noise and rate added up, `times` times."""
    steps: dict[tuple[float, float], int] = {}
    for sigma, rate, count in charges:
        steps[sigma, rate] = steps.get((sigma, rate), 0) + count * times
    return [(sigma, rate, count) for (sigma, rate), count in sorted(steps.items()) if count]


def renyi_step(sigma: float, rate: float, order: int) -> float:
    """Return the Renyi DP of one Poisson-sampled Gaussian step (Mironov, Talwar, Zhang 2019, arXiv:1908.10530)."""
    if sigma < 1e-4:
        return math.inf
    if rate == 1:
        return order / (2 * sigma**2)
    terms = [
        math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        + (order - k) * math.log1p(-rate) + k * math.log(rate) + (k * k - k) / (2 * sigma**2)
        for k in range(order + 1)
    ]  # fmt: skip
    top = max(terms)
    return max(0.0, top + math.log(math.fsum(math.exp(one - top) for one in terms))) / (order - 1)


def renyi_epsilon(history: Sequence[Setting], delta: float, orders: Sequence[int]) -> float:
    """Return the smallest epsilon over `orders` (conversion of Canonne, Kamath, Steinke 2020, proposition 12)."""
    if not history:
        return 0.0
    found = []
    for order in orders:
        rho = math.fsum(count * renyi_step(sigma, rate, order) for sigma, rate, count in history)
        found.append(max(0.0, rho + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)))
    return min(found)


# --- epsilon by the privacy loss distribution ---

SIZE = 1 << 14


class Losses:
    """Privacy loss distributions of Poisson-sampled Gaussian steps on one grid, composed by Fourier transform.

    Each step's loss is put on the grid so that mass and the mass of the other measure are kept in every bucket, which
    connects the dots of the privacy profile from above (Doroshenko et al. 2022, arXiv:2207.04380).
    """

    def __init__(self, longest: Sequence[Setting]) -> None:
        reach = max(0.5 / sigma**2 + 10 / sigma for sigma, _, _ in longest)
        total = sum(n * min(0.5 / s**2, q * q * math.expm1(min(s**-2, 700.0))) for s, q, n in longest)
        self.width = (2 * reach + total + 12 * math.sqrt(2 * total)) / SIZE
        self._steps: dict[tuple[float, float, bool], tuple[list[complex], float, float]] = {}

    def curve(self, history: Sequence[Setting], add: bool) -> tuple[list[tuple[float, float]], float]:
        """Return (loss, mass) upwards for one direction of neighbours, and the mass of infinite loss."""
        product, kept, mean = [1 + 0j] * SIZE, 1.0, 0.0
        for sigma, rate, count in history:
            spectrum, infinite, average = self._step(sigma, rate, add)
            product = [a * b**count for a, b in zip(product, spectrum, strict=True)]
            kept *= (1 - infinite) ** count
            mean += count * average
        masses = [value.real / SIZE for value in transform([one.conjugate() for one in product])]
        first = round(mean / self.width) - SIZE // 2
        return [(i * self.width, max(0.0, masses[i % SIZE])) for i in range(first, first + SIZE)], 1 - kept

    def _step(self, sigma: float, rate: float, add: bool) -> tuple[list[complex], float, float]:
        if (sigma, rate, add) not in self._steps:
            masses, infinite = one_step(sigma, rate, add, self.width)
            placed = [0j] * SIZE
            for place, mass in masses.items():
                placed[place % SIZE] += mass
            mean = math.fsum(place * self.width * mass for place, mass in masses.items())
            self._steps[sigma, rate, add] = transform(placed), infinite, mean
        return self._steps[sigma, rate, add]

    def epsilon(self, history: Sequence[Setting], delta: float) -> float:
        """Return the epsilon at `delta` for adding or removing a customer, the worse of the two."""
        return max((_epsilon(*self.curve(history, add), delta) for add in (False, True)), default=0.0)


def one_step(sigma: float, rate: float, add: bool, width: float) -> tuple[dict[int, float], float]:
    """Return bucket -> mass of one step's privacy loss, and the mass that is counted as infinite."""
    high = loss_at(1 + 10 * sigma, sigma, rate)
    low = loss_at(-10 * sigma, sigma, rate)
    edges = [i * width for i in range(math.floor(low / width), math.ceil(high / width) + 1)]
    points = [place_of(edge, sigma, rate) for edge in edges]
    masses: dict[int, float] = {}
    for i in range(1, len(edges)):
        base, mixed = _between(points[i - 1], points[i], sigma, rate)
        upper, lower = (base, mixed) if add else (mixed, base)
        lo, hi = (-edges[i], -edges[i - 1]) if add else (edges[i - 1], edges[i])
        at_high = (upper * math.exp(-lo) - lower) / (math.exp(-lo) - math.exp(-hi))
        at_high = min(upper, max(0.0, at_high))
        for edge, mass in ((lo, upper - at_high), (hi, at_high)):
            masses[round(edge / width)] = masses.get(round(edge / width), 0.0) + mass
    return masses, max(0.0, 1 - math.fsum(masses.values()))


def loss_at(x: float, sigma: float, rate: float) -> float:
    """Return log((1 - q) + q exp((2x - 1) / 2 sigma**2)): the loss where the noisy sum is x."""
    return math.log1p(rate * math.expm1(min((2 * x - 1) / (2 * sigma**2), 700.0))) if rate < 1 else (2 * x - 1) / (
        2 * sigma**2
    )  # fmt: skip


def place_of(loss: float, sigma: float, rate: float) -> float:
    """Return the noisy sum at which the loss is `loss`; minus infinity below every loss."""
    inner = math.expm1(loss) / rate
    return sigma**2 * math.log1p(inner) + 0.5 if inner > -1 else -math.inf


def _between(a: float, b: float, sigma: float, rate: float) -> tuple[float, float]:
    """Return the mass between two places without the customer, and with her."""
    base = normal(a / sigma, b / sigma)
    return base, (1 - rate) * base + rate * normal((a - 1) / sigma, (b - 1) / sigma)


def normal(a: float, b: float) -> float:
    """Return the standard normal mass between a and b, exact in both tails."""
    if a > 0:
        a, b = -b, -a
    return 0.5 * (math.erfc(-b / math.sqrt(2)) - math.erfc(-a / math.sqrt(2)))


def transform(values: Sequence[complex]) -> list[complex]:
    """Return the discrete Fourier transform of a power of two of values (Cooley and Tukey 1965)."""
    size = len(values)
    if size == 1:
        return list(values)
    even, odd = transform(values[::2]), transform(values[1::2])
    turned = [turn * one for turn, one in zip(turns(size), odd, strict=True)]
    return [a + b for a, b in zip(even, turned, strict=True)] + [a - b for a, b in zip(even, turned, strict=True)]


@lru_cache(maxsize=32)
def turns(size: int) -> list[complex]:
    """Return the first half of the roots of unity of order `size`."""
    return [cmath.exp(-2j * math.pi * k / size) for k in range(size // 2)]


def _epsilon(curve: Sequence[tuple[float, float]], infinite: float, delta: float) -> float:
    above, weighted = infinite, 0.0
    for loss, mass in reversed(curve):
        if loss < 0:
            break
        if above - math.exp(loss) * weighted > delta:
            return math.log((above - delta) / weighted) if weighted else math.inf
        above += mass
        weighted += mass * math.exp(-loss)
    return max(0.0, math.log((above - delta) / weighted)) if weighted and above > delta else 0.0


def profile(curve: Sequence[tuple[float, float]], infinite: float) -> Iterator[tuple[float, float]]:
    """Yield (epsilon, delta) from above for the losses of a curve."""
    above, weighted = infinite, 0.0
    for loss, mass in reversed(curve):
        if loss < 0:
            return
        yield loss, max(0.0, above - math.exp(loss) * weighted)
        above += mass
        weighted += mass * math.exp(-loss)


# --- the report's numbers ---


def check_renyi(report: dict[str, Any], ledger: Ledger) -> Iterator[str]:
    """Yield where the figures by Renyi DP are not what the charges give, or the headline is above them."""
    loss, delta, history = report["privacy_loss"], float(ledger.policy["delta"]), merge(ledger.spent)
    true = up(renyi_epsilon(history, delta, ALL_ORDERS))
    told = loss["accountant"]["cross_check"]["epsilon"]
    if told != true:
        yield f"privacy_loss.accountant.cross_check.epsilon is {told} in the report and {true} by the ledger"
    if ledger.policy["mode"] == "adaptive":
        yield from _compare(report, ledger, lambda one: renyi_epsilon(one, delta / len(ORDERS), ORDERS), 0.0)
    elif not history or true is None:
        yield from _compare(report, ledger, lambda one: math.inf if one else 0.0, 0.0)


def check_losses(report: dict[str, Any], ledger: Ledger) -> Iterator[str]:
    """Yield where epsilons, or the most hits of an attacker, are not what the charges give."""
    history = merge(ledger.spent)
    if not history or ledger.policy["mode"] == "adaptive" or any(sigma < 1e-4 for sigma, _, _ in history):
        return
    delta = float(ledger.policy["delta"])
    losses = Losses(merge([*ledger.former, *ledger.spent, *(one for _, one in ledger.held.values())], 5))
    yield from _compare(report, ledger, lambda one: losses.epsilon(one, delta) if one else 0.0, SLACK)
    pairs = [pair for add in (False, True) for pair in profile(*losses.curve(history, add))]
    worst: dict[float, float] = {}
    for epsilon, one in pairs:
        worst[epsilon] = max(worst.get(epsilon, 0.0), one)
    for point in report["privacy_loss"]["tradeoff"]:
        most = min(_most_hits(point["fpr"], epsilon, one) for epsilon, one in worst.items())
        if not most * 0.98 - 1e-3 <= point["tpr_max"] <= most * 1.03 + 1e-3:
            yield f"privacy_loss.tradeoff at fpr {point['fpr']} is {point['tpr_max']} in the report, {most:.4f} computed"


def _most_hits(fpr: float, epsilon: float, delta: float) -> float:
    return max(fpr, min(1.0, math.exp(epsilon) * fpr + delta, 1 - math.exp(-epsilon) * (1 - delta - fpr)))


def _compare(
    report: dict[str, Any], ledger: Ledger, count: Callable[[list[Setting]], float], slack: float
) -> Iterator[str]:
    for name, told, history in _figures(report, ledger):
        true = count(history)
        if not _agrees(told, true, slack):
            shown = "infinite" if math.isinf(true) else f"{true:.4f}"
            yield f"{name} is {told} in the report, and {shown} was computed from the ledger's charges"


def _agrees(told: float | None, true: float, slack: float) -> bool:
    if told is None or math.isinf(true):
        return told is None and math.isinf(true)
    return true - slack - 1e-9 <= told <= true + 0.01 + slack + 1e-9


def _figures(report: dict[str, Any], ledger: Ledger) -> Iterator[tuple[str, float | None, list[Setting]]]:
    """Yield name, value and charges of every epsilon for customers; of a staircase up to nine points."""
    loss, charge = report["privacy_loss"], planned(ledger.policy)
    held = [one for _, one in ledger.held.values()]
    yield "privacy_loss.headline.epsilon", loss["headline"]["epsilon"], merge(ledger.spent)
    yield "privacy_loss.with_reserved.epsilon", loss["with_reserved"]["epsilon"], merge([*ledger.spent, *held])
    yield "privacy_loss.lifetime.epsilon", loss["lifetime"]["epsilon"], merge([*ledger.former, *ledger.spent])
    for one in loss["by_unit"]:
        if one["unit"] == "customer":
            name = f"privacy_loss.by_unit at {one['merchants']} merchants"
            yield name, one["epsilon"], merge(ledger.spent, int(one["merchants"]))
    for one in _some(loss["staircase"]["spent"]):
        yield (
            f"privacy_loss.staircase after round {one['rounds']}",
            one["epsilon"],
            merge(ledger.spent[: one["rounds"]]),
        )
    known = [*ledger.spent, *held]
    for one in _some(loss["staircase"]["forecast"], 4):
        more = [charge] * (int(one["rounds"]) - len(known))
        yield f"privacy_loss.staircase planned, round {one['rounds']}", one["epsilon"], merge([*known, *more])


def _some(points: Sequence[dict[str, Any]], most: int = 5) -> list[dict[str, Any]]:
    every = max(1, -(-len(points) // most))
    return [*points[::every], *points[-1:]]


def up(epsilon: float) -> float | None:
    """Return epsilon rounded up to two decimals, None where it is infinite."""
    return None if math.isinf(epsilon) else math.ceil(Decimal(repr(epsilon)) * 100) / 100


# --- all of it ---


def check(
    report: dict[str, Any], export: str, *, key: str = "", anchors: Sequence[tuple[int, str]] = (), quick: bool = False
) -> list[str]:
    """Return everything that is wrong with a report and the ledger's export; nothing where all holds."""
    found = list(_guarded("the report", lambda: check_seal(report)))
    try:
        whole = read_ledger(export)
    except Wrong as error:
        return [*found, *_silent(report), str(error)]
    found += check_anchors(whole, anchors)
    if key and key not in whole.keys:
        found.append(f"the ledger is signed by {whole.keys[-1][:16]}…, not by the key given, {key[:16]}…")
    if not set(TOP) <= set(report) or report["privacy_loss"] is None:
        return [*found, *_silent(report)]
    place = _guarded("the report", lambda: check_place(report, whole))
    if any("that the report names" in one or "cannot be checked" in one for one in place):
        return found + place
    then = read_ledger(export, int(report["ledger"]["head_seq"]))
    stages = [check_counts, check_renyi] + ([] if quick else [check_losses])
    for stage in stages:
        place += _guarded("the report", lambda stage=stage: stage(report, then))  # type: ignore[misc]
    return found + place


def _silent(report: dict[str, Any]) -> list[str]:
    """Return what a report says that states no privacy loss: that its ledger does not hold."""
    status = report.get("status")
    code = status.get("code") if isinstance(status, dict) else None
    silent = report.get("privacy_loss") is None
    return [f"the report itself says that its ledger is {code}, and states no privacy loss"] if silent else []


def _guarded(what: str, stage: Callable[[], Iterator[str]]) -> list[str]:
    """Return what a stage found; whatever goes wrong while looking is wrong as well."""
    found: list[str] = []
    try:
        found.extend(stage())
    except Exception as error:
        found.append(f"{what} cannot be checked: {type(error).__name__}: {error}")
    return found


def check_html(page: str, report: dict[str, Any]) -> list[str]:
    """Return what is wrong with a page that claims to show the report."""
    digest = sha256(canonical(report).encode())
    return [] if f'content="{digest}"' in page else [f"the page was not made from this report (digest {digest[:16]})"]


def check_pack(path: Path, quick: bool) -> list[str]:
    """Return everything that is wrong with an evidence pack: files, digests, signature, and the report in it."""
    with zipfile.ZipFile(path) as pack:
        if sum(one.file_size for one in pack.infolist()) > MOST:
            return [f"the pack unpacks to more than {MOST} bytes"]
        files = {one.filename: pack.read(one) for one in pack.infolist()}
    manifest = json.loads(files.pop("MANIFEST.json", b"null"))
    if not isinstance(manifest, dict):
        return ["the pack has no MANIFEST.json"]
    found = [
        f"{name} is not what the manifest names"
        for name, digest in manifest["files"].items()
        if sha256(files.get(name, b"")) != digest
    ]
    found += [f"{name} is in the pack and not in its manifest" for name in sorted(set(files) - set(manifest["files"]))]
    message = b"fugou-evidence-v1\0" + compact({k: v for k, v in manifest.items() if k != "signature"}).encode()
    if not signed(manifest["ledger_key"], bytes.fromhex(manifest["signature"]), message):
        found.append("the manifest's signature does not hold")
    report, export = json.loads(files.get("report.json", b"{}")), files.get("ledger.jsonl", b"").decode()
    found += check(report, export, key=str(manifest["ledger_key"]), quick=quick)
    return found + check_html(files.get("report.html", b"").decode(), report)


def public_key(path: Path) -> str:
    """Return the key in a PEM file, in hex."""
    key = load_pem_public_key(path.read_bytes())
    if not isinstance(key, Ed25519PublicKey):
        raise Wrong(f"{path} holds a key of another kind")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def key_of(text: str) -> str:
    """Return the hex of a key given as a PEM file, as hex or as base64."""
    path = Path(text)
    if path.is_file():
        return public_key(path)
    raw = bytes.fromhex(text) if len(text) == 64 else base64.b64decode(text)
    return raw.hex()


def anchor(text: str) -> tuple[int, str]:
    """Return SEQ:HASH as a pair."""
    seq, _, digest = text.partition(":")
    return int(seq), digest


def main(words: Sequence[str] | None = None) -> int:
    """Check what the command line names, print what is wrong, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("report", nargs="?", type=Path, help="report.json")
    parser.add_argument("ledger", nargs="?", type=Path, help="the ledger's export, ledger.jsonl")
    parser.add_argument("--key", help="the ledger's public key: a PEM file, or hex")
    parser.add_argument("--anchor", action="append", type=anchor, default=[], metavar="SEQ:HASH")
    parser.add_argument("--html", type=Path, help="the page that was made from the report")
    parser.add_argument("--pack", type=Path, help="an evidence pack (.zip) in place of report and ledger")
    parser.add_argument("--quick", action="store_true", help="without computing epsilon anew from distributions")
    given = parser.parse_args(words)
    if not given.pack and not (given.report and given.ledger):
        parser.error("name report.json and ledger.jsonl, or --pack evidence.zip")
    try:
        found = _run(given)
    except (OSError, ValueError, KeyError, TypeError, Wrong, zipfile.BadZipFile) as error:
        print(f"cannot be read: {type(error).__name__}: {error}", file=sys.stderr)
        return 4 if isinstance(error, Wrong) else 2
    for line in found:
        print(f"WRONG {line}")
    print(f"NOT VERIFIED 未通过: {len(found)} found" if found else "VERIFIED 已核对: report and ledger hold")
    return 4 if found else 0


def _run(given: argparse.Namespace) -> list[str]:
    if given.pack:
        return check_pack(given.pack, given.quick)
    report, export = json.loads(given.report.read_bytes()), given.ledger.read_text("utf-8")
    if not isinstance(report, dict):
        raise Wrong(f"{given.report} holds no report")
    key = key_of(given.key) if given.key else ""
    found = check(report, export, key=key, anchors=given.anchor, quick=given.quick)
    return found + (check_html(given.html.read_text("utf-8"), report) if given.html else [])


if __name__ == "__main__":
    sys.exit(main())
