"""`fugou merchant …`: what a merchant's engineers, privacy officer and marketers type."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from client.officer import ledger, plan, policy
from common.cli import announce, as_json
from common.errors import NotBuiltYet, UserError


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


@merchant.command("copy")
@click.argument("customer")
@click.option("--product", help="Item id; default: the first recommendation.")
@click.option("-n", "count", type=click.IntRange(1, 10), default=3, show_default=True, help="How many texts.")
@click.option("--offer", default="", help="The offer to name, such as 满50减5; nothing else is promised.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
@click.pass_obj
def copy_(folder: Path, customer: str, product: str | None, count: int, offer: str, json_: bool) -> None:
    """Write repurchase copy for a customer.

    Example: fugou merchant --dir examples/merchant copy c01 -n 2
    """
    desk = open_desk(folder)
    who = desk.customer(customer)
    item = product or desk.recommend(who, 1)[0].item_id
    if item not in desk.products:
        raise UserError(f"product {item!r} is not in this shop's catalogue of {len(desk.products)} items")
    texts = desk.copy(who, desk.products[item], count, offer=offer)
    if not texts:
        announce(f"no text for {item} passed the guard; try another product or more candidates with -n")
    if json_:
        as_json(texts)
    else:
        click.echo("\n".join(texts))


@merchant.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The CSV to write."
)
@click.option(
    "--due-within", type=click.IntRange(0), default=7, show_default=True, metavar="DAYS", help="Customers due by then."
)
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="At most so many customers.")
@click.pass_obj
def campaign(folder: Path, output: Path, due_within: int, limit: int) -> None:
    """Write a campaign CSV: who is due, what to offer, in which words.

    Example: fugou merchant --dir examples/merchant campaign -o campaign.csv --due-within 14
    """
    from client.use.campaign import write_campaign
    from client.use.desk import campaign as lines

    found = list(lines(open_desk(folder), due_within, limit))
    write_campaign(found, output)
    announce(f"{len(found)} customers in {output}")


for _command in (plan, policy, ledger):
    merchant.add_command(_command)


def open_desk(folder: Path) -> Any:
    """Return the desk of the merchant in `folder`."""
    import os
    import warnings

    if not os.environ.get("FUGOU_DEBUG"):
        warnings.simplefilter("ignore")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from client.use.desk import open_desk as open_

    return open_(folder)


def _later(name: str, what: str) -> None:
    @merchant.command(name, context_settings={"ignore_unknown_options": True}, help=f"{what} (not built yet)")
    @click.argument("rest", nargs=-1)
    def command(rest: tuple[str, ...]) -> None:
        raise NotBuiltYet(f"fugou merchant {name} is not built yet")


for _name, _what in {
    "init": "Make a merchant's folder.",
    "check": "Read every source and say what is wrong.",
    "join": "Run the node for this merchant.",
    "leave": "Leave the federation.",
    "status": "Say how this merchant's node stands.",
    "report": "Write the privacy budget report.",
    "audit": "Measure a lower bound on epsilon with canaries.",
    "describe": "Write a product description.",
    "review": "Say how a review feels.",
    "profile": "Say what is known of a customer.",
    "reply": "Draft a service reply.",
    "metrics": "Repurchase rate, frequency, cohorts.",
    "evaluate": "Measure the shared model on this shop's later weeks.",
    "serve": "HTTP API and console.",
}.items():
    _later(_name, _what)
