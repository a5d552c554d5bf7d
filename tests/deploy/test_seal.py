"""Seals and chains: what a merchant believes, without any process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, RecordDict

from client.trust import ALARMS, CHAIN, COORDINATOR_KEY, compare, distrusts, read_chain
from common.errors import UserError, VerificationFailed
from common.privacy.keys import create_key
from common.seal import SEAL, Seal, body_of, links, read_text, sign, verify
from common.wire import TrainAsk
from server.deploy.layout import Layout, make_coordinator
from server.deploy.signing import read_chain as read_bodies
from server.deploy.signing import seal_of

FEDERATION = "f" * 32


def ask(number: int, value: float = 1.0, run: str = "0001-aa") -> TrainAsk:
    name = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
    return TrainAsk(run, number, "fedavg", 1.0, 7, "b" * 64, "s" * 64, 2.0, {name: torch.full((2, 3), value)})


def sealed(one: TrainAsk, earlier: Sequence[TrainAsk], key: Ed25519PrivateKey) -> tuple[RecordDict, Seal]:
    """Return the message of `one` after the rounds of `earlier`, with its seal."""
    digests = [body_of(other, FEDERATION, place).digest for place, other in enumerate(earlier, 1)]
    seal = sign(body_of(one, FEDERATION, len(digests) + 1), digests, key)
    content = one.pack()
    content[SEAL] = ConfigRecord(dict(seal.record()))
    return content, seal


@pytest.fixture
def key(tmp_path: Path) -> Ed25519PrivateKey:
    return create_key(tmp_path / "coordinator")


@pytest.fixture
def merchant(tmp_path: Path, key: Ed25519PrivateKey) -> Path:
    return joined(tmp_path, "tea")


def joined(place: Path, name: str) -> Path:
    """Return a merchant's folder that trusts the coordinator whose key lies in `place`."""
    folder = place / name
    (folder / "keys").mkdir(parents=True)
    (folder / COORDINATOR_KEY).write_bytes((place / "coordinator.pub").read_bytes())
    for table in ("orders", "products"):
        (folder / f"{table}.csv").write_text("")
    (folder / "merchant.toml").write_text(
        f'[merchant]\nid = "{name}"\n[sources]\norders = "orders.csv"\nproducts = "products.csv"\n'
    )
    return folder


def test_a_link_is_the_hash_of_the_link_before_and_the_body() -> None:
    first = hashlib.sha256(b"fugou-chain-v1\0" + FEDERATION.encode()).digest()
    second = hashlib.sha256(b"fugou-chain-v1\0" + first + bytes(32)).hexdigest()
    assert links(FEDERATION, [bytes(32)]) == [first.hex(), second]


def test_a_seal_survives_its_text_and_a_changed_byte_does_not(key: Ed25519PrivateKey) -> None:
    _, seal = sealed(ask(2), [ask(1)], key)
    verify(read_text(seal.text()), key.public_key())
    for spoiled in (
        replace(seal, body=replace(seal.body, round=3)),
        replace(seal, digests=(bytes(32), seal.digests[1])),
        replace(seal, digests=seal.digests[1:]),
        replace(seal, signature=bytes(64)),
    ):
        with pytest.raises(VerificationFailed):
            verify(spoiled, key.public_key())
    with pytest.raises(VerificationFailed, match="not signed by this federation's coordinator"):
        verify(seal, Ed25519PrivateKey.generate().public_key())


def test_a_merchant_follows_the_chain_also_over_rounds_it_missed(merchant: Path, key: Ed25519PrivateKey) -> None:
    rounds = [ask(number, float(number)) for number in range(1, 6)]
    for number in (1, 2, 5):
        content, seal = sealed(rounds[number - 1], rounds[: number - 1], key)
        assert distrusts(content, merchant) is None
        assert SEAL not in content
    last = read_chain(merchant)
    assert last is not None
    assert (last.body.seq, last.link) == (5, seal.link)


def test_the_same_round_again_is_believed_and_an_earlier_one_is_a_replay(
    merchant: Path, key: Ed25519PrivateKey
) -> None:
    rounds = [ask(1), ask(2)]
    for number in (1, 2, 2):
        assert distrusts(sealed(rounds[number - 1], rounds[: number - 1], key)[0], merchant) is None
    refusal = distrusts(sealed(rounds[0], [], key)[0], merchant)
    assert refusal is not None
    assert refusal.status == "refused"
    assert "is replayed" in refusal.reason


def test_a_second_adapter_for_one_round_is_refused_and_the_evidence_kept(
    merchant: Path, key: Ed25519PrivateKey
) -> None:
    assert distrusts(sealed(ask(1, 1.0), [], key)[0], merchant) is None
    other, seal = sealed(ask(1, 2.0), [], key)
    refusal = distrusts(other, merchant)
    assert refusal is not None
    assert refusal.reason.startswith("two histories: place 1 ")
    alarm = json.loads((merchant / ALARMS).read_text("utf-8"))
    verify(read_text(alarm["seal"]), key.public_key())
    verify(read_text((merchant / CHAIN).read_text("utf-8")), key.public_key())
    assert read_text(alarm["seal"]).link == seal.link != read_text((merchant / CHAIN).read_text("utf-8")).link


def test_a_fork_that_is_hidden_behind_later_rounds_is_found(merchant: Path, key: Ed25519PrivateKey) -> None:
    assert distrusts(sealed(ask(1, 1.0), [], key)[0], merchant) is None
    refusal = distrusts(sealed(ask(3), [ask(1, 2.0), ask(2)], key)[0], merchant)
    assert refusal is not None
    assert "two histories" in refusal.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.pop(SEAL), "carries no seal"),
        (lambda content: content.update({SEAL: ConfigRecord({"body": "{}"})}), "the seal cannot be read"),
        (lambda content: content.update({"arrays": ask(1, 1e30).pack()["arrays"]}), "names adapter_digest"),
        (lambda content: content["ask"].update({"local_rate": 9.0}), "names ask_digest"),
        (lambda content: content["ask"].update({"round": 2}), "names round = 1, the ask 2"),
        (lambda content: content["ask"].update({"method": "fedsvd"}), "names method = 'fedavg', the ask 'fedsvd'"),
        (lambda content: content["ask"].update({"run": "other"}), "names run"),
    ],
)
def test_an_ask_that_is_not_the_one_that_was_signed_is_refused(
    change: object, words: str, merchant: Path, key: Ed25519PrivateKey
) -> None:
    content, _ = sealed(ask(1), [], key)
    change(content)  # type: ignore[operator]
    refusal = distrusts(content, merchant)
    assert refusal is not None
    assert words in refusal.reason
    assert refusal.charge == {}
    assert read_chain(merchant) is None


def test_a_strangers_signature_is_refused(merchant: Path) -> None:
    refusal = distrusts(sealed(ask(1), [], Ed25519PrivateKey.generate())[0], merchant)
    assert refusal is not None
    assert "not signed by this federation's coordinator" in refusal.reason


def test_two_merchants_find_out_a_coordinator_that_shows_them_different_models(
    tmp_path: Path, key: Ed25519PrivateKey
) -> None:
    one, two = joined(tmp_path, "one"), joined(tmp_path, "two")
    first = ask(1)
    for folder in (one, two):
        assert distrusts(sealed(first, [], key)[0], folder) is None
    assert distrusts(sealed(ask(2, 1.0), [first], key)[0], one) is None
    assert distrusts(sealed(ask(2, 2.0), [first], key)[0], two) is None
    theirs = read_chain(two)
    assert theirs is not None
    assert compare(one, 1, links(FEDERATION, theirs.digests)[1]) == "place 1: the same history"
    with pytest.raises(VerificationFailed, match="tells two stories"):
        compare(one, 2, theirs.link)
    with pytest.raises(UserError, match="ends at 2"):
        compare(one, 3, theirs.link)


def test_a_shop_without_a_coordinators_key_believes_every_ask(tmp_path: Path) -> None:
    assert distrusts(ask(1).pack(), tmp_path) is None


def test_a_disk_that_is_full_is_a_failure_that_says_nothing(merchant: Path, key: Ed25519PrivateKey) -> None:
    (merchant / "models").write_text("a file where the folder should be")
    refusal = distrusts(sealed(ask(1), [], key)[0], merchant)
    assert refusal is not None
    assert (refusal.status, refusal.reason) == ("failed", "")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return make_coordinator(tmp_path / "c", "茶商联盟", "localhost:9443")


def test_the_coordinator_seals_a_round_once_and_never_a_second_adapter_for_it(layout: Layout) -> None:
    seals = [seal_of(layout, one) for one in (ask(1), ask(2), ask(1, run="0002-bb"))]
    assert [one.body.seq for one in seals] == [1, 2, 3]
    assert seal_of(layout, ask(2)) == seals[1]
    with pytest.raises(VerificationFailed, match="was sealed with adapter"):
        seal_of(layout, ask(2, 5.0))
    assert [one.round for one in read_bodies(layout.chain)] == [1, 2, 1]


def test_a_gap_in_the_coordinators_chain_is_told(layout: Layout) -> None:
    for number in (1, 2, 3):
        seal_of(layout, ask(number))
    lines = layout.chain.read_text("utf-8").splitlines()
    layout.chain.write_text("\n".join([lines[0], lines[2]]) + "\n")
    with pytest.raises(UserError, match="has a gap"):
        read_bodies(layout.chain)
