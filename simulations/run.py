"""A whole federation on one machine: make the shops, lead the rounds, measure, write the run folder.

Every step can be done again: a run that was killed at any moment goes on with `resume`, and what is already on disk
(shops, ledgers, whole rounds, measured rounds) is kept.
"""

from __future__ import annotations

import functools
import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client.config import LEDGER, POLICY
from client.report.write import write_reports
from client.round import open_ledger
from common.errors import UserError
from common.factors import with_residual
from common.files import write_atomic
from common.lora import save
from common.methods import METHODS
from common.privacy.keys import load_public_key
from common.privacy.plan import rounds_left
from common.privacy.policy import load_policy
from common.ranking import HEAD_FILE, head_bytes
from server.aggregation import residual_of
from server.report import write_federation_report
from server.rounds import latest_round, roll_back
from simulations.arms import run_arms
from simulations.engines import check_engine, lead, set_threads
from simulations.folder import SCENARIO, Run, begin, resumed
from simulations.measure import Held, copy_samples, hold_out, measure, read_metrics
from simulations.merchants import make_world, prepare
from simulations.page import report_data, write_report
from simulations.results import load_run
from simulations.scenario import Scenario

SUMMARY = "summary.json"
MOST_REPORTS = 40
"""A merchant's report takes about half a second, most of it for the accountant."""

Report = Callable[[str], None]


def simulate(
    scenario: Scenario | None, folder: Path, *, resume: bool, report: Report, from_round: int | None = None
) -> Run:
    """Return the finished run; every round, ledger and figure is in `folder`. A resumed one may go on `from_round`.

    Raises `UserError` when `folder` holds something else, or when there is nothing to resume.
    """
    if scenario is not None:
        check_engine(scenario)
    run = resumed(folder, scenario) if resume else begin(folder, scenario)
    set_threads(run.scenario)
    if resume and from_round is not None:
        go_back(run, from_round, report)
    shops = make_world(run.scenario)
    prepare(run, shops, report)
    held = hold_out(run, shops)
    lead(run, functools.partial(measure, run, held, report=report))
    if len(run.scenario.scenario.arms) > 1:
        run_arms(run, shops, held, report)
    finish(run, held, report)
    return run


def train(scenario: Scenario, folder: Path) -> Run:
    """Return a run that only trains and is measured at its end, with all its arms: what a study compares."""
    check_engine(scenario)
    run = resumed(folder, scenario) if (folder / SCENARIO).exists() else begin(folder, scenario)
    set_threads(run.scenario)
    shops = make_world(run.scenario)
    prepare(run, shops, lambda _: None)
    held = hold_out(run, shops)
    lead(run, lambda _: None)
    run_arms(run, shops, held, lambda _: None)
    return run


def go_back(run: Run, number: int, report: Report) -> None:
    """Let the run go on from round `number`, under a new round number; nothing is deleted and nothing uncharged.

    Raises `UserError` under a method whose merchants keep parts of their own, as nobody can take those back.
    """
    training = run.scenario.training
    if METHODS[training.method].own or METHODS[training.method].stays:
        raise UserError(
            f"--from-round {number}: under {training.method} merchants keep a part that no coordinator can take back; "
            "start a new run"
        )
    again = roll_back(run.folder, number, run.scenario.lora, run.scenario.model.base)
    left = max(training.rounds - again.number, 0)
    report(f"round {again.number} is round {number} again; rounds since then stay on disk and charged, {left} to go")


def finish(run: Run, held: Held, report: Report) -> None:
    """Write the shared model, each merchant's summary, samples of copy and the report."""
    last = latest_round(run.folder)
    if last is None:
        raise UserError(f"{run.folder} has no round; start it without --resume")
    adapter, shape = with_residual(last.adapter, residual_of(last.state), run.scenario.lora)
    save(adapter, run.folder / "model", shape, run.scenario.model.base)
    if last.head:
        write_atomic(run.folder / "model" / HEAD_FILE, head_bytes(last.head.head))
    write_atomic(run.folder / "model" / "README.md", model_card(run, last.number))
    samples = copy_samples(run, held, last.number)
    write_atomic(run.folder / "samples.json", json.dumps(samples, ensure_ascii=False, indent=1) + "\n")
    for folder in run.merchants:
        told = summary(folder, held.customers(folder.name))
        write_atomic(folder / SUMMARY, json.dumps(told, ensure_ascii=False, indent=1) + "\n")
    merchant_reports(run, report)
    result = load_run(run.folder)
    write_atomic(run.folder / "report.json", json.dumps(report_data(result), ensure_ascii=False, indent=1) + "\n")
    write_report(result, run.folder / "report.html", run.scenario.scenario.lang)
    write_federation_report(run.folder, run.folder, run.scenario.scenario.lang)
    report(f"report: {run.folder / 'report.html'}")


def merchant_reports(run: Run, report: Report) -> None:
    """Write the privacy report of every merchant that was ever asked and has none; a crowd's are left for who wants one."""
    asked = [folder for folder in run.merchants if (folder / LEDGER).exists()]
    if len(asked) > MOST_REPORTS:
        report(f"{len(asked)} merchants: reports are left out; fugou merchant --dir FOLDER report writes one")
        return
    for folder in asked:
        if not reported(folder):
            write_reports(folder, folder, lang=run.scenario.scenario.lang, records=())


def reported(folder: Path) -> bool:
    """Return whether the merchant's report is there and nothing has happened in its ledger since."""
    policy = load_policy(folder / POLICY, public_key=load_public_key(folder / "keys" / "officer.pub"))
    with open_ledger(folder, policy) as ledger:
        return ledger.last().type == "REPORT" and (folder / "report.json").exists()


def summary(folder: Path, customers: int | None) -> dict[str, Any]:
    """Return one merchant's budget, read from its ledger; the simulator may, the coordinator never sees it."""
    policy = load_policy(folder / POLICY, public_key=load_public_key(folder / "keys" / "officer.pub"))
    settings = tomllib.loads((folder / "merchant.toml").read_text("utf-8"))["merchant"]
    mine = policy.policy
    kinds: list[str] = []
    spent, left = 0.0, rounds_left(mine, ())
    if (folder / LEDGER).exists():  # a merchant that was never asked has none
        with open_ledger(folder, policy) as ledger:
            kinds = [entry.type for entry in ledger.entries()]
            spent, left = ledger.epsilon_spent(), ledger.rounds_left()
    return {
        "merchant": settings["id"],
        "name": settings["name"],
        "customers": customers,
        "private": mine.sigma_min > 0,
        "epsilon": spent if mine.sigma_min > 0 else None,
        "delta": mine.delta,
        "unit": mine.unit,
        "period": mine.period,
        "epsilon_limit": mine.epsilon if math.isfinite(mine.epsilon) else None,
        "charges": {
            name: kinds.count(kind)
            for name, kind in {
                "released": "RELEASE",
                "burned": "BURN",
                "refused": "REFUSE",
                "refunded": "REFUND",
            }.items()
        },
        "rounds_left": left,
        "sigma": mine.sigma_min,
        "rate": mine.rate,
        "steps": mine.steps,
    }


def claim(scenario: Scenario) -> str:
    """Return what the final adapter promises one customer, in a sentence; where caps differ, every one of them."""
    privacy, caps = scenario.privacy, scenario.caps()
    if not any(caps.values()):
        return "Trained WITHOUT noise: this adapter protects nobody."
    terms = f"private for one customer, period {privacy.period}, add or remove one"
    work = f"rate {privacy.rate:g}, {privacy.steps} steps a round"
    if len(caps) == 1:
        ((epsilon, sigma),) = caps.items()
        promise = (
            f"(epsilon <= {epsilon:g}, delta = {privacy.delta:g})-differentially {terms}; sigma {sigma:.3f}, {work}"
        )
        return f"Every merchant's updates are {promise}."
    each = [
        f"epsilon <= {epsilon:g} with sigma {sigma:.3f}" if sigma else "NO BOUND, without noise"
        for epsilon, sigma in caps.items()
    ]
    promise = f"(epsilon, delta = {privacy.delta:g})-differentially {terms}, under the merchant's own cap"
    return f"A merchant's updates are {promise}: {' or '.join(each)}; {work}."


def model_card(run: Run, number: int) -> str:
    """Return the README of the final adapter."""
    scenario, lines = run.scenario, read_metrics(run.folder)
    first, last = lines[0], lines[-1]
    return (
        f"# Shared adapter of {scenario.scenario.name}, round {number}\n\n"
        f"LoRA rank {scenario.lora.rank} on {', '.join(scenario.lora.targets)} of base `{scenario.model.base}` "
        f"({scenario.model.base_digest[:16]}), aggregated by `{scenario.training.method}` over {scenario.scenario.merchants} "
        f"simulated merchants.\n\n{claim(scenario)}\n\n"
        f"Held-out perplexity of the target tokens: {first['perplexity']:.2f} before round 1, "
        f"{last['perplexity']:.2f} after round {last['round']} ({last['tokens']} tokens).\n\n"
        "Load it with `peft.PeftModel.from_pretrained(base, folder)` on the base named above; on another base it means nothing.\n"
    )
