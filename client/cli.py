"""`fugou merchant …`: what a merchant's engineers, privacy officer and marketers type."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from client.joining import join, leave, status, verify_model
from client.officer import anchor_option, ledger, plan, policy
from client.use.verbs import VERBS
from client.words import say
from common.cli import announce, as_json, language


@click.group()
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="The merchant's folder; default: here.",
)
@click.pass_context
def merchant(context: click.Context, folder: Path) -> None:
    """Work in one merchant's folder: what to offer and in which words.

    Example: fugou merchant --dir examples/merchant recommend c01
    """
    context.obj = folder


@merchant.command()
@click.argument("customer")
@click.option("-k", "count", type=click.IntRange(1), default=10, show_default=True, help="How many items.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
@click.pass_obj
def recommend(folder: Path, customer: str, count: int, json_: bool) -> None:
    """Say what a customer is likely to buy next.

    Example: fugou merchant --dir examples/merchant recommend c01 -k 5
    """
    desk = open_desk(folder)
    offers = desk.recommend(desk.customer(customer), count)
    if json_:
        as_json([asdict(offer) for offer in offers])
    else:
        for offer in offers:
            click.echo(f"{offer.item_id}\t{offer.name}\t{offer.score:.2f}\t{offer.times}")


@merchant.command()
@click.argument("place", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", required=True, help="The shop's name, as in pages and copy.")
@click.option("--id", "identity", default="", help="The shop's id in the federation; default: made from the name.")
def init(place: Path, name: str, identity: str) -> None:
    """Make a merchant's folder: settings, a draft policy, keys, and the tables of an invented shop to start from.

    Example: fugou --lang zh merchant init my-shop --name 青禾茶铺
    """
    from client.setup import make_id, make_merchant

    make_merchant(place, name, language(), datetime.now().date(), merchant=identity)
    for key in ("done", "tables", "check", "metrics", "plan", "keys"):
        click.echo(say(f"init_{key}", folder=place, name=name.strip(), id=identity or make_id(name)))


@merchant.command()
@click.option("--today", type=click.DateTime(["%Y-%m-%d"]), help="The day by which dates are in the future.")
@click.option("--all", "everything", is_flag=True, help="Print every finding that was kept, not the first of a kind.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON, every finding in it.")
@click.pass_obj
def check(folder: Path, today: datetime | None, everything: bool, json_: bool) -> None:
    """Read every table, say what is wrong row by row and what a model would see; writes nothing, charges nothing.

    Exits with 0 when everything found was dealt with, with 2 when a table had to be refused.

    Example: fugou merchant --dir examples/merchant check
    """
    from client.check import check as read
    from client.check_page import as_dict, lines
    from client.findings import MANY, SHOWN

    report = read(folder, (today or datetime.now()).date(), MANY if everything or json_ else SHOWN)
    if json_:
        as_json(json.dumps(as_dict(report), ensure_ascii=False, indent=1, default=str))
    else:
        for one in lines(report, everything):
            click.echo(one)
    report.raise_if_refused()


@merchant.command()
@click.option(
    "--window",
    "windows",
    type=click.IntRange(1, 3660),
    multiple=True,
    metavar="DAYS",
    help="A window of the repurchase rate; may be repeated. Default: 7, 30, 60, 90, 180 and 365.",
)
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
@click.pass_obj
def metrics(folder: Path, windows: tuple[int, ...], json_: bool) -> None:
    """Print repurchase rates, purchase frequency, cohorts, RFM segments and days to the next purchase, each defined.

    Example: fugou merchant --dir examples/merchant metrics --window 30
    """
    from client.config import load_merchant
    from client.metrics import WINDOWS, as_dict, lines, measure, read_purchases

    settings = load_merchant(folder)
    found = measure(read_purchases(settings), sorted(set(windows)) or WINDOWS)
    if json_:
        as_json(as_dict(found))
    else:
        for one in lines(found, settings.merchant.name or settings.merchant.id):
            click.echo(one)


@merchant.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to; default: the merchant's.",
)
@click.option(
    "--audience",
    type=click.Choice(["confidential", "shareable"]),
    default="confidential",
    show_default=True,
    help="Shareable leaves out the shop's name, times and reasons.",
)
@click.option(
    "--format",
    "formats",
    default="html,json",
    show_default=True,
    help="Which of html, json, yaml and pdf, with commas.",
)
@click.option("--evidence", type=click.Path(path_type=Path, dir_okay=False), help="Also a .zip with all evidence.")
@anchor_option
@click.pass_obj
def report(
    folder: Path,
    output: Path | None,
    audience: str,
    formats: str,
    evidence: Path | None,
    anchors: tuple[tuple[int, str], ...],
) -> None:
    """Write the privacy budget report, from the ledger and the policy alone: what may be said, and what is not protected.

    Exits with 4 when the ledger does not verify; the page then says so and states no privacy loss.

    Example: fugou merchant report -o reports --format html,json,yaml --evidence evidence.zip
    """
    from client.report.command import make

    for line in make(folder, output or folder, audience, formats, evidence, anchors):
        announce(line)


@merchant.command("audit")
@click.option("--canaries", type=int, default=1000, show_default=True, help="How many canaries, from 100 to 20000.")
@click.option("--json", "json_", is_flag=True, help="Print audit.json.")
@click.pass_obj
def audit_(folder: Path, canaries: int, json_: bool) -> None:
    """Check this install's trainer and measure a lower bound on epsilon with canaries; reads no row, charges nothing.

    Writes audit.json and notes it in the ledger. Exits with 4 on a violation; the merchant then trains nothing until an
    audit is consistent again.

    Example: fugou merchant audit
    """
    quieten()
    from client.audit.command import audit

    found = audit(folder, canaries, announce)
    if json_:
        as_json(found.text())


for _command in (plan, policy, ledger, join, leave, status, verify_model, *VERBS):
    merchant.add_command(_command)


def open_desk(folder: Path) -> Any:
    """Return the desk of the merchant in `folder`."""
    quieten()
    from client.use.desk import open_desk as open_

    return open_(folder)


def quieten() -> None:
    """Keep what libraries have to say to programmers off the terminal."""
    import os
    import warnings

    if not os.environ.get("FUGOU_DEBUG"):
        warnings.simplefilter("ignore")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
