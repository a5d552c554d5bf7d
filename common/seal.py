"""The coordinator's word on every shared adapter: signed, and chained so that no two merchants can be told two stories.

body_n   what round n starts from: federation, place in the chain, run, round, digests of adapter, whole ask, base, settings
link_0 = H(domain, federation)
link_n = H(domain, link_{n-1}, H(canonical JSON of body_n))
seal_n = body_n, H(body_1) … H(body_n), signature over link_n

A seal carries the digests of all bodies before it (32 bytes each), so that a merchant that missed rounds can still follow
the chain from its start, and sees at once when the past is not the one it was shown. Nothing is asked after a run's last
round, so that the model it ends with has a body of its own, without an ask's digest. Two merchants that compare the
link of one place know whether they were shown the same history; two signed seals of one place that differ are proof
against the coordinator. (Hash-chained logs: Haber and Stornetta 1991, "How to time-stamp a digital document".)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import UserError, VerificationFailed
from common.files import canonical_json
from common.lora import Adapter
from common.lora import digest as digest_of
from common.privacy.keys import holds
from common.wire import TENSORS, TrainAsk, prefixed

SEAL = "seal"
"""The name of the Flower record that carries a seal beside the ask."""
SEAL_FILE = "seal.json"
"""The seal of a model, in its folder."""
_CHAIN, _SIGN = b"fugou-chain-v1\0", b"fugou-seal-v1\0"
SIZE = 32


@dataclass(frozen=True)
class Body:
    """What is said about one round before it begins; `seq` counts from 1 over all runs of the federation."""

    federation: str
    seq: int
    run: str
    round: int
    method: str
    adapter_digest: str
    ask_digest: str
    base_digest: str
    settings_digest: str

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the canonical JSON."""
        return hashlib.sha256(canonical_json(asdict(self)).encode()).digest()

    @property
    def closes(self) -> bool:
        """Whether it is said of what a run ended with, and of no ask."""
        return not self.ask_digest


@dataclass(frozen=True)
class Seal:
    """A body, the digests of all bodies up to and with it, and the coordinator's signature."""

    body: Body
    digests: tuple[bytes, ...]
    signature: bytes

    @property
    def link(self) -> str:
        """The last link of the chain, in hex: what merchants compare."""
        return links(self.body.federation, self.digests)[-1]

    def record(self) -> dict[str, str | bytes]:
        """Return the seal as the values of a Flower record."""
        return {
            "body": canonical_json(asdict(self.body)),
            "digests": b"".join(self.digests),
            "signature": self.signature.hex(),
        }

    def text(self) -> str:
        """Return the seal as one line of JSON, for files and for other merchants."""
        record = self.record()
        return canonical_json({**record, "digests": b"".join(self.digests).hex()})


def body_of(ask: TrainAsk, federation: str, seq: int) -> Body:
    """Return what is to be signed about an ask at place `seq`; `ask_digest` covers everything in it, settings too."""
    words = {key: value for key, value in vars(ask).items() if key not in TENSORS}
    whole = hashlib.sha256(canonical_json({**words, "tensors": ask.digest}).encode()).hexdigest()
    return Body(
        federation=federation,
        seq=seq,
        run=ask.run,
        round=ask.round,
        method=ask.method,
        adapter_digest=ask.digest,
        ask_digest=whole,
        base_digest=ask.base_digest,
        settings_digest=ask.settings_digest,
    )


def closing(last: Body, number: int, adapter: Adapter, head: Adapter, seq: int) -> Body:
    """Return what is to be signed about the model after round `number` of the run whose last ask `last` is of."""
    return replace(last, seq=seq, round=number, adapter_digest=model_digest(adapter, head), ask_digest="")


def model_digest(adapter: Adapter, head: Adapter) -> str:
    """Return the hex SHA-256 of what lies in a model's folder: the adapter, and the head where there is one."""
    return digest_of({**adapter, **prefixed(head)})


def links(federation: str, digests: Sequence[bytes]) -> list[str]:
    """Return link 0 to n of the chain, in hex.

    >>> len(links("f", [bytes(32)])), links("f", [])[0] == links("f", [bytes(32)])[0]
    (2, True)
    """
    last = hashlib.sha256(_CHAIN + federation.encode()).digest()
    found = [last.hex()]
    for digest in digests:
        last = hashlib.sha256(_CHAIN + last + digest).digest()
        found.append(last.hex())
    return found


def sign(body: Body, earlier: Sequence[bytes], key: Ed25519PrivateKey) -> Seal:
    """Return the seal of `body` after the `earlier` digests; `body.seq` must be the next place."""
    if body.seq != len(earlier) + 1:
        raise UserError(f"the chain holds {len(earlier)} seals; the next is {len(earlier) + 1}, not {body.seq}")
    digests = (*earlier, body.digest)
    return Seal(body, digests, key.sign(_SIGN + bytes.fromhex(links(body.federation, digests)[-1])))


def verify(seal: Seal, key: Ed25519PublicKey) -> None:
    """Raise `VerificationFailed` unless the seal is whole and signed by the owner of `key`."""
    if len(seal.digests) != seal.body.seq or seal.digests[-1] != seal.body.digest:
        raise VerificationFailed(f"the seal of round {seal.body.round} does not end its own chain; refuse the round")
    if not holds(key, seal.signature, _SIGN + bytes.fromhex(seal.link)):
        raise VerificationFailed(f"the seal of round {seal.body.round} is not signed by this federation's coordinator")


def read_record(values: object) -> Seal:
    """Return the seal in a Flower record, or in the mapping of a text; raise `UserError` for anything else."""
    try:
        record = dict(values)  # type: ignore[call-overload]
        digests = record["digests"]
        raw = bytes.fromhex(digests) if isinstance(digests, str) else bytes(digests)
        if len(raw) % SIZE or not raw:
            raise ValueError(f"{len(raw)} bytes of digests")
        body = Body(**json.loads(record["body"]))
        _check_kinds(body)
        return Seal(
            body, tuple(raw[at : at + SIZE] for at in range(0, len(raw), SIZE)), bytes.fromhex(record["signature"])
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the seal cannot be read: {str(error)[:80]}; is the coordinator's version the same?") from None


def _check_kinds(body: Body) -> None:
    for name, value in asdict(body).items():
        kind = int if name in ("seq", "round") else str
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{name} = {value!r} is no {kind.__name__}")


def read_text(text: str) -> Seal:
    """Return the seal written by `Seal.text`; raise `UserError` for anything else."""
    try:
        return read_record(json.loads(text))
    except ValueError as error:
        raise UserError(f"the seal cannot be read: {error}") from None
