"""The audit as a merchant runs it, on right code and on every bug it is there to find."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from opacus.optimizers import DPOptimizer
from pydantic import ValidationError

from client.audit import command, verdict
from client.audit.bounds import guess
from client.audit.canaries import Coins, canary_scores, directions, schedule, toss, width_of
from client.audit.command import Subject, audit, engines, examined
from client.audit.conformance import Check
from client.audit.hold import held
from client.audit.verdict import AuditFile, read_audit_file
from client.config import FILE, LEDGER, OFFICER_KEY, POLICY, load_merchant
from client.report.data import inspect
from client.report.write import write_reports
from client.round import app_digest, open_ledger, take_part
from client.setup import make_merchant
from client.train import fast, head, trainer
from client.train.sampling import Rehearsal, SecureRandom, noisy, poisson
from client.train.trainer import CustomerDPOptimizer, LocalSettings
from common.errors import UserError, VerificationFailed
from common.files import sha256
from common.lora import Bench, digest, initial
from common.model import load_base
from common.privacy.keys import load_key
from common.privacy.ledger import Ledger
from common.privacy.plan import RoundPlan
from common.privacy.policy import load_policy, read_policy, sign_policy, write_policy
from common.ranking import PARTS, Part
from common.wire import TrainAsk

PLAN = RoundPlan("shop", "audit", 0, 0.1, 1.0, 3, 0.5, 16.0, 1e-6, 4, "p", "a")
NOBODY = "0" * 64


def run(work: Bench, plan: RoundPlan = PLAN) -> AuditFile:
    """An audit without a folder."""
    about = Subject(work, plan, engines(work, LocalSettings()))
    planned = schedule(plan, 1000, width_of(work))
    return examined(about, planned, toss(planned.canaries, SecureRandom()), NOBODY, lambda _: None)


def test_right_code_is_consistent_twenty_times_out_of_twenty(work: Bench) -> None:
    found = [run(work) for _ in range(20)]
    assert [one.result for one in found] == ["consistent"] * 20, [one.reasons for one in found]
    assert all(0 < one.epsilon_lower_bound < one.claimed_epsilon < one.max_certifiable_epsilon for one in found)


# --- planted bugs: each is a violation, whichever way it is seen ---


def quarter_of_the_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trainer, "noisy", lambda total, deviation, random: noisy(total, deviation / 4, random))


def no_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trainer, "noisy", lambda total, deviation, random: noisy(total, 0.0, random))


def loose_clipping(patch: pytest.MonkeyPatch) -> None:
    honest = CustomerDPOptimizer.clip_and_accumulate

    def loose(self: CustomerDPOptimizer) -> None:
        self.max_grad_norm *= 4
        honest(self)
        self.max_grad_norm /= 4

    patch.setattr(CustomerDPOptimizer, "clip_and_accumulate", loose)


def clipping_the_batch(patch: pytest.MonkeyPatch) -> None:
    def clip_the_sum(self: CustomerDPOptimizer) -> None:
        total = float(torch.stack([g.sum(0).norm() for g in self.grad_samples]).norm())
        for parameter in self.params:
            part = parameter.grad_sample.sum(0) * min(1.0, self.max_grad_norm / (total + 1e-6))
            parameter.summed_grad = part if parameter.summed_grad is None else parameter.summed_grad + part

    patch.setattr(CustomerDPOptimizer, "clip_and_accumulate", clip_the_sum)


def nan_leak(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CustomerDPOptimizer, "clip_and_accumulate", DPOptimizer.clip_and_accumulate)


def coupled_customers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fast, "token_weights", lambda counts_BT: counts_BT / counts_BT[:, 1:].sum())


def one_tensor_without_noise(patch: pytest.MonkeyPatch) -> None:
    honest = CustomerDPOptimizer.add_noise

    def partly(self: CustomerDPOptimizer) -> None:
        honest(self)
        self.params[0].grad = self.params[0].summed_grad.clone().view_as(self.params[0])

    patch.setattr(CustomerDPOptimizer, "add_noise", partly)


def seeded_noise(patch: pytest.MonkeyPatch) -> None:
    from client.audit import conformance

    patch.setattr(conformance, "randomness_for", lambda plan, seed: Rehearsal(seed))


def batches_of_one_size(patch: pytest.MonkeyPatch) -> None:
    def fixed(customers: int, rate: float, randomness: Any) -> Any:
        return np.sort(np.random.default_rng().permutation(customers)[: round(customers * rate)])

    patch.setattr(trainer, "poisson", fixed)


def twice_the_rate(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trainer, "poisson", lambda n, rate, random: poisson(n, min(1.0, 2 * rate), random))


def divisor_from_the_data(patch: pytest.MonkeyPatch) -> None:
    honest = trainer.private_steps

    def counting(optimizer: CustomerDPOptimizer, customers: int, *rest: Any) -> None:
        optimizer.expected_batch_size = max(customers, 1)
        honest(optimizer, customers, *rest)

    patch.setattr(trainer, "private_steps", counting)


def loose_head(patch: pytest.MonkeyPatch) -> None:
    honest = head.clipped_sum
    patch.setattr(head, "clipped_sum", lambda rows, part: honest(rows, replace(part, clip_norm=4 * part.clip_norm)))


def adapter_that_shares_nothing_with_the_head(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trainer, "replace", lambda plan, **_: plan)


def head_that_shares_nothing_with_the_adapter(patch: pytest.MonkeyPatch) -> None:
    honest = Part.deviation
    patch.setattr(Part, "deviation", lambda part, sigma, head_share=1.0: honest(part, sigma))


def head_without_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(head, "noisy", lambda total, deviation, randomness: total)


def one_part_of_the_head_with_half_its_noise(patch: pytest.MonkeyPatch) -> None:
    honest, small = noisy, PARTS["rank"].shape[0]
    patch.setattr(head, "noisy", lambda v, deviation, source: honest(v, deviation / (1 + (len(v) != small)), source))


BUGS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    one.__name__: one
    for one in (
        quarter_of_the_noise,
        no_noise,
        loose_clipping,
        clipping_the_batch,
        nan_leak,
        coupled_customers,
        one_tensor_without_noise,
        seeded_noise,
        batches_of_one_size,
        twice_the_rate,
        divisor_from_the_data,
        loose_head,
        adapter_that_shares_nothing_with_the_head,
        head_that_shares_nothing_with_the_adapter,
        head_without_noise,
        one_part_of_the_head_with_half_its_noise,
    )
}


@pytest.mark.parametrize("bug", list(BUGS))
def test_a_planted_bug_is_a_violation(work: Bench, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    BUGS[bug](monkeypatch)
    found = run(work)
    assert found.result == "violation", bug
    assert found.reasons


@pytest.mark.parametrize("bug", ["quarter_of_the_noise", "no_noise", "loose_clipping"])
def test_the_canaries_alone_disprove_the_claim_of_a_leaky_trainer(
    work: Bench, monkeypatch: pytest.MonkeyPatch, bug: str
) -> None:
    BUGS[bug](monkeypatch)
    found = run(work)
    assert all(one.epsilon_fdp > found.claimed_epsilon for one in found.runs), [one.epsilon_fdp for one in found.runs]


# --- canaries ---


def test_no_two_canaries_share_a_coordinate_and_each_is_a_unit_vector() -> None:
    found = directions(50, 1037)
    rows_Bd = found.rows(list(range(50)), 1.0)
    torch.testing.assert_close(rows_Bd @ rows_Bd.T, torch.eye(50))
    assert found.scores(rows_Bd[7].double().numpy()).round(6).tolist() == [0.0] * 7 + [1.0] + [0.0] * 42


def test_coins_are_fair_and_the_commitment_binds_them() -> None:
    coins = toss(20_000, SecureRandom())
    assert abs(int(coins.bits_m.sum()) - 10_000) < 5 * math.sqrt(5000)
    other = Coins(coins.bits_m.copy(), coins.nonce)
    assert other.commitment == coins.commitment
    other.bits_m[0] = not other.bits_m[0]
    assert other.commitment != coins.commitment
    assert toss(20_000, SecureRandom()).commitment != coins.commitment


def test_without_noise_the_scores_tell_every_coin(work: Bench) -> None:
    planned = schedule(PLAN, 300, width_of(work))
    silent = replace(planned, plan=replace(planned.plan, sigma=0.0))
    for settings in engines(work, LocalSettings()):
        coins = toss(planned.canaries, SecureRandom())
        scores_m = canary_scores(work, silent, coins, settings)
        assert guess(scores_m, coins.bits_m).right == guess(scores_m, coins.bits_m).made


# --- verdict ---


def test_too_few_canaries_are_inconclusive_and_a_failed_check_outweighs_that() -> None:
    checks = [Check("noise", 1.0, 1.0, True)]
    assert verdict.verdict([], checks, 3.39, 2.0)[0] == "inconclusive"
    assert verdict.verdict([], checks, 3.39, 5.0)[0] == "consistent"
    failed = [*checks, Check("noise", 0.25, 1.0, False)]
    assert verdict.verdict([], failed, 3.39, 2.0) == ("violation", ["noise: 0.25 where 1 is predicted"])


def test_the_file_is_strict_and_its_bounds_can_be_computed_again(work: Bench) -> None:
    found = run(work)
    again = read_audit_file(found.text().encode())
    assert again == found
    coins = Coins(np.array([one == "1" for one in again.coins]), bytes.fromhex(again.nonce))
    assert coins.commitment == again.coin_commitment
    planned = schedule(PLAN, again.m, width_of(work))
    for one in again.runs:
        assert verdict.judged(one.engine, np.asarray(one.scores), coins, planned, len(again.runs)) == one
    content = json.loads(found.text())
    for broken in (content | {"extra": 1}, {**content, "m": "1000"}, {**content, "claimed_epsilon": None}):
        with pytest.raises(ValidationError):
            read_audit_file(json.dumps(broken).encode())


# --- the merchant's folder ---


@pytest.fixture
def folder(tmp_path: Path, tiny_base: str) -> Path:
    """A merchant with a signed policy and a base of its own size; its tables are gone, so that nothing can read them."""
    place = make_merchant(tmp_path / "shop", "Tea", "en", date(2026, 11, 1), merchant="tea")
    text = (place / FILE).read_text("utf-8").replace('base = "default"', f'base = "{tiny_base}"')
    (place / FILE).write_text(text, "utf-8")
    draft = read_policy(place / POLICY)
    write_policy(
        draft.model_copy(update={"lora": draft.lora.model_copy(update={"rank": 4, "alpha": 8})}), place / POLICY
    )
    sign_policy(place / POLICY, load_key(place / OFFICER_KEY))
    for table in place.glob("*.csv"):
        table.unlink()
    return place


def book(folder: Path) -> Ledger:
    return open_ledger(folder, load_policy(folder / POLICY))


def asked(folder: Path) -> str:
    """How the merchant answers a round: `failed` is what a round without tables comes to."""
    settings = load_merchant(folder)
    base = load_base(settings.model.base)
    from client.round import lora_of
    from common.lora import bench

    work = bench(settings.model.base, lora_of(read_policy(folder / POLICY), "fedavg"))
    start = initial(work.model, 1)
    ask = TrainAsk("run", 1, "fedavg", 0.1, 1, base.digest, "s", 2.0, start)
    assert digest(start)
    reply = take_part(ask.pack(), folder)
    return f"{reply.status} {reply.reason}".strip()


def test_an_audit_is_noted_before_and_after_and_charges_nothing(folder: Path) -> None:
    found = audit(folder, 300, lambda _: None)
    with book(folder) as ledger:
        details = [one.body["detail"] for one in ledger.entries() if one.type == "AUDIT"]
        assert (ledger.charges(), ledger.reserved()) == ((), ())
    assert details[0] == {"coin_commitment": found.coin_commitment, "canaries": "300"}
    assert details[1]["result"] == "consistent"
    assert details[1]["sha256"] == sha256((folder / "audit.json").read_bytes())
    assert found.app_digest == app_digest()
    told = inspect(folder).audit
    assert (told.state, told.in_ledger, told.canaries) == ("consistent", True, 300)
    assert len(told.conformance) == len(found.conformance)


def test_a_violation_exits_with_4_blocks_training_and_only_a_consistent_audit_lifts_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(folder) == "failed"
    with monkeypatch.context() as patch:
        quarter_of_the_noise(patch)
        with pytest.raises(VerificationFailed, match="violation") as error:
            audit(folder, 300, lambda _: None)
        assert error.value.exit_code == 4
    assert asked(folder).startswith("refused the audit")
    (folder / "audit.json").unlink()
    assert asked(folder).startswith("refused the audit")
    assert write_reports(folder, folder).report.status.code == "violation"
    audit(folder, 300, lambda _: None)
    assert asked(folder) == "failed"
    assert write_reports(folder, folder).report.status.code != "violation"


def test_an_audit_that_breaks_off_lifts_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with book(folder) as ledger:
        ledger.note("AUDIT", {"result": "violation", "sha256": "ab" * 32})

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "examined", stop)
    with pytest.raises(KeyboardInterrupt):
        audit(folder, 300, lambda _: None)
    assert asked(folder).startswith("refused the audit abababababababab")


def test_what_holds_is_the_last_result_that_is_one() -> None:
    bad, good, none = {"result": "violation"}, {"result": "consistent"}, {"result": "inconclusive"}
    assert held([good, bad, none, {"coin_commitment": "x"}]) is bad
    assert held([bad, good, none]) is None
    assert held([]) is None


@pytest.mark.parametrize("canaries", [0, 99, 20_001])
def test_a_number_of_canaries_out_of_range_is_refused_before_anything_is_noted(folder: Path, canaries: int) -> None:
    with pytest.raises(UserError, match=str(canaries)):
        audit(folder, canaries, lambda _: None)
    assert not (folder / LEDGER).exists()


def test_an_unsigned_policy_is_not_audited(folder: Path) -> None:
    (folder / "policy.toml.sig").unlink()
    with pytest.raises((UserError, VerificationFailed)):
        audit(folder, 300, lambda _: None)
    assert not (folder / LEDGER).exists()


def test_lines_are_told_in_both_languages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, list[str]] = {}
    for lang in ("zh", "en"):
        monkeypatch.setenv("FUGOU_LANG", lang)
        told[lang] = []
        audit(folder, 100, told[lang].append)
    assert any("金丝雀" in line for line in told["zh"])
    assert any("canaries" in line for line in told["en"])
    assert len(told["zh"]) == len(told["en"])
