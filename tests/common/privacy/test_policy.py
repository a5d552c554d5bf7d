from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import FugouError, Refused, UserError, VerificationFailed
from common.privacy import policy as policies
from common.privacy.keys import public_hex
from common.privacy.policy import ASK_KEYS, FREE_KEYS, PRIVATE_KEYS, Policy, check_ask

OFFICER = Ed25519PrivateKey.generate()


def make_policy(**changes: Any) -> Policy:
    values: dict[str, Any] = {
        "merchant": "tea-house",
        "epsilon": 4.0,
        "period": "2026Q4",
        "max_rounds": 20,
        "sigma_min": 1.0,
        "rate": 0.02,
        "steps": 50,
        "clip_norm": 0.5,
        "divisor": 16.0,
        "max_records_per_customer": 8,
        "max_tokens": 64,
        "lora": {"targets": ["c_attn", "c_proj"], "rank": 4, "alpha": 8},
    }
    return Policy.model_validate(values | changes)


ACT: dict[str, object] = {
    "merchant": "tea-house",
    "unit": "customer",
    "epsilon": 4.0,
    "delta": 1e-6,
    "period": "2026Q4",
    "max_rounds": 20,
    "sigma": 1.0,
    "sigma_min": 1.0,
    "noise_multiplier": 1.0,
    "rate": 0.02,
    "sample_rate": 0.02,
    "steps": 50,
    "clip_norm": 0.5,
    "max_grad_norm": 0.5,
    "divisor": 16.0,
    "max_records_per_customer": 8,
    "max_tokens": 64,
    "mode": "schedule",
    "targets": ["c_attn", "c_proj"],
    "rank": 4,
    "alpha": 8,
    "app_digest": "sha256:app",
    "base_digest": "sha256:base",
}
"""What `strict_policy` says, in the words of an ask."""


def strict_policy() -> Policy:
    return make_policy(apps=["sha256:app", "sha256:other"], base="sha256:base")


# --- files and signatures ---


def test_a_signed_policy_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    for policy in (make_policy(), strict_policy(), make_policy(epsilon=math.inf, sigma_min=0)):
        policies.write_policy(policy, path)
        signed = policies.sign_policy(path, OFFICER)
        loaded = policies.load_policy(path, public_key=OFFICER.public_key())
        assert loaded == signed == policies.load_policy(path)
        assert loaded.policy == policy
        assert loaded.digest == policies.policy_digest(policy)
        assert loaded.raw == path.read_bytes()


def test_every_key_of_a_written_policy_has_a_comment(tmp_path: Path) -> None:
    text = policies.policy_text(make_policy())
    for name, field in Policy.model_fields.items():
        assert f"# {field.description}\n" in text, name
    assert "ANY app" in text


def test_the_digest_is_of_what_the_policy_says_not_of_how_it_is_written() -> None:
    policy = make_policy()
    shuffled = tomli_w.dumps(dict(reversed(policy.model_dump().items())))
    assert policies.policy_digest(policies.parse_policy(shuffled.encode())) == policies.policy_digest(policy)
    whole = policies.parse_policy(tomli_w.dumps({**policy.model_dump(), "epsilon": 4}).encode())
    assert policies.policy_digest(whole) == policies.policy_digest(policy)


@pytest.mark.parametrize("key", list(Policy.model_fields))
def test_every_key_of_a_policy_is_in_its_digest(key: str) -> None:
    other: dict[str, Any] = {
        "merchant": "coffee",
        "unit": "customer",
        "epsilon": 5.0,
        "delta": 1e-5,
        "period": "2027Q1",
        "max_rounds": 21,
        "sigma_min": 1.1,
        "rate": 0.03,
        "steps": 51,
        "clip_norm": 0.6,
        "divisor": 17.0,
        "max_records_per_customer": 9,
        "max_tokens": 65,
        "mode": "adaptive",
        "lora": {"targets": ["c_attn"], "rank": 4, "alpha": 8},
        "apps": ["x"],
        "base": "y",
    }
    same = policies.policy_digest(make_policy(**{key: other[key]})) == policies.policy_digest(make_policy())
    assert same == (key == "unit")


def test_an_unsigned_policy_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    policies.write_policy(make_policy(), path)
    with pytest.raises(VerificationFailed, match="not signed"):
        policies.load_policy(path)
    assert policies.read_policy(path) == make_policy()


@pytest.mark.parametrize("where", [0, 100, 400, -1])
def test_one_changed_byte_of_the_file_voids_the_signature(tmp_path: Path, where: int) -> None:
    path = tmp_path / "policy.toml"
    policies.write_policy(make_policy(), path)
    policies.sign_policy(path, OFFICER)
    raw = bytearray(path.read_bytes())
    raw[where] ^= 1
    path.write_bytes(raw)
    with pytest.raises(VerificationFailed, match="differs from what was signed"):
        policies.load_policy(path)


def test_a_loosened_policy_needs_a_new_signature(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    policies.write_policy(make_policy(), path)
    policies.sign_policy(path, OFFICER)
    policies.write_policy(make_policy(epsilon=40.0), path)
    with pytest.raises(VerificationFailed, match="fugou merchant policy sign"):
        policies.load_policy(path)


def test_another_key_than_the_officers_is_not_accepted(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    policies.write_policy(make_policy(), path)
    policies.sign_policy(path, Ed25519PrivateKey.generate())
    with pytest.raises(VerificationFailed, match="not by the officer"):
        policies.load_policy(path, public_key=OFFICER.public_key())


def test_a_signature_in_hex_is_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    policies.write_policy(make_policy(), path)
    signed = policies.sign_policy(path, OFFICER)
    sig = policies.signature_path(path)
    sig.write_text(sig.read_text().replace(base64.b64encode(signed.signature).decode(), signed.signature.hex()))
    assert policies.load_policy(path) == signed


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "hello",
        lambda text: text.replace("kid ", "kid 0"),
        lambda text: text.replace("sig ", "sig !"),
        lambda text: text.replace("fugou-policy-v1", "fugou-policy-v2"),
        lambda text: text.replace("key ", "key zz"),
        lambda text: "\n".join(text.splitlines()[:-1]),
    ],
)
def test_a_damaged_signature_file_fails_verification(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "policy.toml"
    policies.write_policy(make_policy(), path)
    policies.sign_policy(path, OFFICER)
    sig = policies.signature_path(path)
    sig.write_text(damage(sig.read_text()))
    with pytest.raises(VerificationFailed):
        policies.load_policy(path)


def test_a_signature_for_another_purpose_is_no_policy_signature() -> None:
    raw = policies.policy_text(make_policy()).encode()
    public = public_hex(OFFICER.public_key())
    with pytest.raises(VerificationFailed):
        policies.open_signed(raw, OFFICER.sign(raw), public)
    assert policies.open_signed(raw, OFFICER.sign(b"fugou-policy-v1\0" + raw), public).policy == make_policy()


# --- values ---


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("merchant", "Tea House"),
        ("merchant", "../etc"),
        ("merchant", "a" * 65),
        ("unit", "record"),
        ("epsilon", 0),
        ("epsilon", -3.0),
        ("epsilon", math.nan),
        ("epsilon", True),
        ("epsilon", "4"),
        ("delta", 0.0),
        ("delta", 1e-3),
        ("delta", math.nan),
        ("period", ""),
        ("max_rounds", 0),
        ("max_rounds", 2.5),
        ("sigma_min", -1.0),
        ("sigma_min", 0),
        ("sigma_min", math.inf),
        ("sigma_min", math.nan),
        ("rate", 0.0),
        ("rate", 1.5),
        ("rate", math.nan),
        ("steps", 0),
        ("clip_norm", 0.0),
        ("clip_norm", math.inf),
        ("divisor", 0),
        ("divisor", math.nan),
        ("max_records_per_customer", 0),
        ("max_tokens", 7),
        ("mode", "loose"),
        ("lora", {"targets": [], "rank": 4, "alpha": 8}),
        ("lora", {"targets": ["c_attn"], "rank": 0, "alpha": 8}),
        ("lora", {"targets": ["c_attn"], "rank": 4, "alpha": 8, "bias": "all"}),
        ("apps", ["two words"]),
        ("sigma", 1.0),
    ],
)
def test_an_impossible_value_is_one_line_that_names_it(key: str, value: object) -> None:
    raw = tomli_w.dumps(make_policy().model_dump() | {key: value}).encode()
    with pytest.raises(UserError, match=r"^policy\.toml: .*" + key) as caught:
        policies.parse_policy(raw)
    assert "\n" not in str(caught.value)


def test_a_missing_key_and_a_broken_file_are_named(tmp_path: Path) -> None:
    values = make_policy().model_dump()
    del values["epsilon"]
    with pytest.raises(UserError, match="epsilon is missing"):
        policies.parse_policy(tomli_w.dumps(values).encode())
    with pytest.raises(UserError, match="not TOML"):
        policies.parse_policy(b"epsilon = = 4")
    with pytest.raises(UserError, match="not TOML"):
        policies.parse_policy(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot read"):
        policies.read_policy(tmp_path / "none.toml")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_no_bytes_make_the_reader_fail_in_its_own_way(raw: bytes) -> None:
    with pytest.raises(UserError):
        policies.parse_policy(raw)


# --- asks ---


def test_an_ask_that_repeats_the_policy_is_allowed() -> None:
    check_ask(strict_policy(), ACT)
    check_ask(strict_policy(), ACT | {"targets": "c_proj, c_attn", "rank": 4.0, "app_digest": "sha256:other"})
    free = {"run": "r", "round": 3, "adapter_digest": "d", "learning_rate": 0.5, "method": "ffa", "task": "copy"}
    check_ask(make_policy(), free)
    check_ask(make_policy(), {"app_digest": "whatever", "base_digest": "whatever"})
    assert set(ACT) == set(PRIVATE_KEYS)
    assert set(free) == set(FREE_KEYS)


@pytest.mark.parametrize("key", PRIVATE_KEYS)
@pytest.mark.parametrize(
    "lie", [0, 0.0, -1, 1e9, math.nan, math.inf, True, None, "", "1.0", "x", [], ["wte"], {}, b"4"]
)
def test_no_key_of_an_ask_can_differ_from_the_policy(key: str, lie: object) -> None:
    with pytest.raises(Refused, match=key):
        check_ask(strict_policy(), ACT | {key: lie})


def refusal_of(ask: dict[str, object]) -> str:
    try:
        check_ask(strict_policy(), ask)
    except Refused as refusal:
        return str(refusal)
    return ""


@settings(max_examples=400, deadline=None)
@given(
    key=st.sampled_from(PRIVATE_KEYS),
    value=st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.binary(max_size=6)
    | st.lists(st.text(max_size=6) | st.integers(), max_size=3)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
def test_whatever_an_ask_says_it_is_equal_to_the_policy_or_refused(key: str, value: object) -> None:
    ask = ACT | {key: value}
    if refusal := refusal_of(ask):
        assert "\n" not in refusal
        return
    allowed = {"app_digest": ["sha256:app", "sha256:other"]}.get(key, [ACT[key]])
    assert value in allowed
    assert not isinstance(value, bool)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_a_word_that_is_not_in_the_vocabulary_is_refused(key: str) -> None:
    if key in ASK_KEYS:
        return
    with pytest.raises(Refused, match="no key of an ask"):
        check_ask(make_policy(), {key: 1})


@pytest.mark.parametrize("rate", [0, -1.0, 11, 1e9, math.nan, math.inf, True, "0.1", None])
def test_a_learning_rate_has_bounds(rate: object) -> None:
    with pytest.raises(Refused, match="learning_rate"):
        check_ask(make_policy(), {"learning_rate": rate})


def test_an_ask_without_an_app_is_refused_where_the_policy_names_apps() -> None:
    ask = {key: value for key, value in ACT.items() if key != "app_digest"}
    with pytest.raises(Refused, match="app_digest"):
        check_ask(strict_policy(), ask)


def test_a_long_lie_is_shortened_in_the_refusal() -> None:
    with pytest.raises(FugouError) as caught:
        check_ask(make_policy(), {"period": "9" * 100_000})
    assert len(str(caught.value)) < 400
