"""What marketers and shop assistants type every day: copy, describe, review, profile, reply, campaign, evaluate, serve.

Nothing heavy is imported before a verb runs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.cli import announce, as_json, language

if TYPE_CHECKING:
    from client.use.copywriter import Copy
    from client.use.desk import Desk

DEFAULT_CHANNEL = {"zh": "短信", "en": "SMS"}
json_option = click.option("--json", "json_", is_flag=True, help="Print as JSON.")
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**32), default=0, show_default=True, help="Another seed draws other drafts."
)
offer_option = click.option("--offer", default="", help="The offer to name, such as 满50减5; nothing else is promised.")


@click.command("copy")
@click.argument("customer")
@click.option("--product", help="Item id; default: the first recommendation.")
@click.option("-n", "count", type=click.IntRange(1, 10), default=3, show_default=True, help="How many texts.")
@offer_option
@click.option("--channel", default="", help="Where it goes out: 短信, 微信, App推送 …; default: text message.")
@seed_option
@json_option
@click.pass_obj
def copy_(
    folder: Path, customer: str, product: str | None, count: int, offer: str, channel: str, seed: int, json_: bool
) -> None:
    """Write repurchase copy for a customer: only what the shop itself says of the item, nothing the law forbids.

    Example: fugou merchant --dir examples/merchant copy c01 -n 2
    """
    desk = quiet_desk(folder)
    who = desk.customer(customer)
    item = desk.product(product or desk.recommend(who, 1)[0].item_id)
    channel = channel or DEFAULT_CHANNEL[desk.lang]
    _show(desk, desk.compose(who, item, count, channel, offer, seed), item.item_id, json_)


@click.command()
@click.argument("product")
@click.option("-n", "count", type=click.IntRange(1, 10), default=3, show_default=True, help="How many texts.")
@seed_option
@json_option
@click.pass_obj
def describe(folder: Path, product: str, count: int, seed: int, json_: bool) -> None:
    """Write descriptions of a product from its attributes.

    Example: fugou merchant --dir examples/merchant describe SKU4 -n 2
    """
    desk = quiet_desk(folder)
    item = desk.product(product)
    _show(desk, desk.describe(item, count, seed), item.item_id, json_)


def _show(desk: Desk, copies: Sequence[Copy], item: str, json_: bool) -> None:
    from client.use.label import LABELS, metadata
    from client.use.words import phrase

    if not copies:
        announce(f"no text for {item} passed the guard; try another product, offer or --seed")
    if json_:
        label = metadata(desk.settings.merchant.id, [one.text for one in copies])
        as_json({"texts": [asdict(one) for one in copies], "label": LABELS[desk.lang], **label})
        return
    for one in copies:
        click.echo(one.text)
        for what in one.evidence:
            announce(phrase(language(), "evidence_line", what=what))
    if copies:
        announce(LABELS[desk.lang])


@click.command()
@click.argument("text")
@json_option
@click.pass_obj
def review(folder: Path, text: str, json_: bool) -> None:
    """Say how a review feels, about how many stars, and of what it speaks.

    Example: fugou merchant --dir examples/merchant review 茶很香，就是罐子压坏了
    """
    from client.use.words import phrase

    reading = quiet_desk(folder).review(text)
    if json_:
        as_json(asdict(reading))
        return
    lang, share = language(), reading.probabilities[reading.sentiment]
    head = phrase(lang, "review_head", sentiment=reading.sentiment, share=share, stars=reading.stars)
    click.echo(head + ("" if reading.sure else phrase(lang, "review_unsure")))
    for one in reading.aspects:
        click.echo(phrase(lang, "review_aspect", name=one.name, sentiment=one.sentiment, clause=one.clause))


@click.command()
@click.argument("customer")
@json_option
@click.pass_obj
def profile(folder: Path, customer: str, json_: bool) -> None:
    """Say what is known of a customer, tag by tag, each with the rows it rests on.

    Example: fugou merchant --dir examples/merchant profile c01
    """
    from client.use.words import phrase
    from client.words import table

    desk = quiet_desk(folder)
    tags = desk.profile(desk.customer(customer))
    if json_:
        as_json([asdict(one) for one in tags])
    elif tags:
        click.echo(table([(one.name, one.value, one.evidence) for one in tags]))
    else:
        click.echo(phrase(language(), "profile_none"))


@click.command()
@click.argument("question")
@click.option("--status", default="", help="How the order stands, as in the shop's dialogs: 已发货, 待发货 …")
@click.option("--intent", default="", help="What the question is about, as in the shop's dialogs: 物流, 退换 …")
@json_option
@click.pass_obj
def reply(folder: Path, question: str, status: str, intent: str, json_: bool) -> None:
    """Draft a service reply from the shop's own dialogs and policies.md, or hand the question to a person.

    Example: fugou merchant --dir examples/merchant reply 茶包泡几分钟合适
    """
    from client.use.reply import lines

    found = quiet_desk(folder).reply(question, status, intent)
    if json_:
        as_json(asdict(found))
    else:
        click.echo("\n".join(lines(found)))


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The CSV to write."
)
@click.option(
    "--due-within", type=click.IntRange(0), default=7, show_default=True, metavar="DAYS", help="Customers due by then."
)
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="At most so many customers.")
@click.option("--channel", default="", help="Where it goes out: 短信, 微信, App推送 …; default: text message.")
@offer_option
@click.option("--mark-text", is_flag=True, help="Also put the AI label into every text, not only beside it.")
@seed_option
@click.pass_obj
def campaign(
    folder: Path, output: Path, due_within: int, limit: int, channel: str, offer: str, mark_text: bool, seed: int
) -> None:
    """Write a campaign CSV: who is due, what to offer, in which words; nobody who opted out (optout.csv, or a 退订).

    The same seed, tables and model give the same file. Text messages say how to refuse more of them.

    Example: fugou merchant --dir examples/merchant campaign -o campaign.csv --due-within 14
    """
    from client.use.campaign import beside, write_campaign, write_metadata
    from client.use.desk import campaign as lines
    from client.use.words import phrase

    desk = quiet_desk(folder)
    channel = channel or DEFAULT_CHANNEL[desk.lang]
    found = list(lines(desk, due_within, limit, channel, offer, seed, mark_text))
    write_campaign(found, output)
    write_metadata(output, desk.settings.merchant.id, [one.text for one in found])
    left_out = len(desk.silent & set(desk.customers))
    announce(
        phrase(
            language(), "campaign_done", count=len(found), file=output, left_out=left_out, beside=beside(output).name
        )
    )


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for quality.html and quality.json."
)
@click.option("--questions", type=click.IntRange(1), default=200, show_default=True, help="At most so many of a kind.")
@click.option(
    "--until",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Weeks from this day on; default: [train] until, or the last four.",
)
@seed_option
@json_option
@click.pass_obj
def evaluate(folder: Path, output: Path | None, questions: int, until: object, seed: int, json_: bool) -> None:
    """Measure copy, review reading and recommendations on this shop's later weeks, each beside a plain baseline.

    For the shop's own eyes: exact figures on private rows, nothing is sent or charged.

    Example: fugou merchant --dir examples/merchant evaluate --questions 50
    """
    from client.use.quality import as_dict, lines, measure
    from client.use.quality_page import write_page

    found = measure(quiet_desk(folder), questions, until, seed)  # type: ignore[arg-type]
    if output:
        write_page(found, output, language())
        announce(f"{output / 'quality.html'}, {output / 'quality.json'}")
    if json_:
        as_json(as_dict(found))
    else:
        for line in lines(found, language()):
            click.echo(line)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port to listen on.")
@click.option("--name", "names", multiple=True, help="Host name under which it is reached; may be repeated.")
@click.option("--new-key", metavar="NAME", help="Make an API key called NAME, print it once, and end.")
@click.option("--rate", type=click.FloatRange(0.1), default=40.0, show_default=True, help="Requests a second and key.")
@click.option(
    "--timeout", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Seconds a request may take."
)
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Threads of torch.")
@click.pass_obj
def serve(
    folder: Path,
    host: str,
    port: int,
    names: tuple[str, ...],
    new_key: str | None,
    rate: float,
    timeout: float,
    threads: int,
) -> None:
    """Serve the HTTP API and the console of this shop; a new shared adapter is taken up while it runs.

    Example: fugou merchant --dir examples/merchant serve --port 8080
    """
    from client.serve.keys import make_key
    from client.serve.run import Service, run

    if new_key:
        click.echo(make_key(folder, new_key))
        return
    _hush()
    run(folder, Service(host, port, names, rate, timeout, threads))


def quiet_desk(folder: Path) -> Desk:
    """Return the desk of the merchant in `folder`, with the libraries' notes kept quiet."""
    _hush()
    from client.use.desk import open_desk

    return open_desk(folder)


def _hush() -> None:
    if not os.environ.get("FUGOU_DEBUG"):
        warnings.simplefilter("ignore")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


VERBS = (copy_, describe, review, profile, reply, campaign, evaluate, serve)
