"""`fugou merchant join | leave | status`: taking part in a federation, for as long as the shop wants to."""

from __future__ import annotations

from pathlib import Path

import click

from client.words import say
from common import processes
from common.cli import as_json
from common.errors import Unreachable, UserError


@click.command()
@click.argument("invitation", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--new-key", is_flag=True, help="Make another node key, after the old one was lost or revoked.")
@click.option("--no-start", is_flag=True, help="Take the INVITATION only; systemd or a container starts the node.")
@click.option("--foreground", is_flag=True, help="Stay and watch over the node, for systemd or a container.")
@click.option(
    "--only", type=click.Choice(["node", "trainer"]), help="With --foreground: one of the two processes only."
)
@click.pass_obj
def join(
    folder: Path, invitation: Path | None, new_key: bool, no_start: bool, foreground: bool, only: str | None
) -> None:
    """Take part: without an INVITATION, make the node's key and say what to send; with it, start the node.

    The invitation is the file that the coordinator hands out after enrolment; it is needed once. The node runs until
    `leave`, also when this terminal is closed.

    Example: fugou merchant join shop-01.json
    """
    from client import node
    from client.trust import coordinator_fingerprint

    if no_start and (invitation is None or foreground):
        raise UserError("--no-start takes an INVITATION and starts nothing; name its file, and leave out --foreground")
    public = node.request(folder, new_key=new_key)
    if new_key or not (foreground or invitation or (folder / node.INVITATION).exists()):
        click.echo(say("join_request", file=public, fingerprint=node.node_fingerprint(folder)))
        click.echo(say("join_then"))
        return
    if invitation is not None:
        told = node.take_invitation(folder, invitation)
        key = coordinator_fingerprint(folder)
        click.echo(say("join_whom", name=told.name, address=told.address, fingerprint=key))
    if no_start:
        click.echo(say("join_taken"))
        return
    if foreground and only:
        node.become(folder, "node" if only == "node" else "trainer")
    if foreground:
        services = node.plan_here(folder)
        processes.prepare(folder / node.PLACE, services)
        processes.Supervisor(folder / node.PLACE).run()
        return
    node.join(folder)
    click.echo(say("join_done"))


@click.command()
@click.pass_obj
def leave(folder: Path) -> None:
    """Stop this merchant's node, at any time; keys, ledger and models stay, and `join` takes part again.

    Example: fugou merchant leave
    """
    from client import node

    click.echo(say("left", count=node.leave(folder)))


@click.command()
@click.option("--compare", metavar="PLACE:LINK", help="What another merchant's status shows; exit 4 when they differ.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
@click.pass_obj
def status(folder: Path, compare: str | None, json_: bool) -> None:
    """Say how this merchant's node stands, and the end of the chain of shared adapters it has been shown.

    Two merchants whose chains agree at one place were shown the same adapters up to there. Exits with 5 when the
    node has joined and is not online.

    Example: fugou merchant status
    """
    from client import node
    from client.trust import compare as compare_

    if compare is not None:
        place, colon, link = compare.partition(":")
        if not colon or not place.isdecimal():
            raise UserError(f"--compare {compare!r}: write PLACE:LINK as the other merchant's status shows it")
        click.echo(compare_(folder, int(place), link))
        return
    found = node.status(folder)
    if json_:
        as_json(node.as_dict(found))
    else:
        for line in lines(found):
            click.echo(line)
    if found.joined and not found.online:
        raise Unreachable(say("node_off", merchant=found.merchant))


@click.command("verify")
@click.argument("model", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.pass_obj
def verify_model(folder: Path, model: Path) -> None:
    """Check a model that the coordinator exported: signed, unchanged, on this shop's base, and of the one history it was shown.

    DIR is the exported folder or its model/. Exits with 4 when any of it does not hold.

    Example: fugou merchant verify run-1
    """
    from client.trust import check_model

    seal = check_model(folder, model)
    body = seal.body
    click.echo(say("model_holds", run=body.run, round=body.round, method=body.method, digest=body.adapter_digest[:16]))
    click.echo(say("node_chain", place=body.seq, link=seal.link))


def lines(found: object) -> list[str]:
    """Return the status as sentences."""
    from client.node import NodeStatus

    assert isinstance(found, NodeStatus)
    if not found.joined:
        return [say("not_joined")]
    state = "node_online" if found.online else "node_trying" if found.running else "node_stands"
    told = [say(state, merchant=found.merchant, address=found.address, restarts=found.restarts)]
    if found.trouble:
        told.append(say("node_trouble", reason=found.trouble))
    told.append(say("node_chain", place=found.place, link=found.link) if found.place else say("node_no_chain"))
    return told
