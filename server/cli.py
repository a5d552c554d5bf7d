"""`fugou coordinator …`: what the platform's engineers type."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click

from common import processes
from common.cli import announce, as_json
from common.errors import Unreachable, UserError
from common.privacy.keys import fingerprint, load_public_key, public_path
from server.config import FILE, load_coordinator
from server.words import say

STATES = {"stopped": "is_stopped"}
"""States of a run whose word is another's too."""
json_option = click.option("--json", "json_", is_flag=True, help="Print as JSON.")


@click.group()
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="The coordinator's folder; default: here.",
)
@click.pass_context
def coordinator(context: click.Context, folder: Path) -> None:
    """Lead a federation of real merchants.

    Example: fugou coordinator init coordinator
    """
    context.obj = folder


@coordinator.command()
@click.argument("place", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", default="fugou", show_default=True, help="The federation's name on pages.")
@click.option("--address", default="localhost:9443", show_default=True, help="host:port that merchants connect to.")
@click.option("--listen", default="127.0.0.1", show_default=True, help="Interface of the proxy; 0.0.0.0 for all.")
@click.option("--base", default="default", show_default=True, help="The base model: default, a folder or a hub id.")
def init(place: Path, name: str, address: str, listen: str, base: str) -> None:
    """Make a coordinator's folder: settings, a certificate authority, the server's certificate, the signing key, secrets.

    Example: fugou coordinator init coordinator --name 茶商联盟 --address fl.example.com:9443 --listen 0.0.0.0
    """
    from server.deploy.layout import make_coordinator

    layout = make_coordinator(place, name, address, listen=listen, base=base)
    click.echo(say("made", folder=place))
    click.echo(say("made_key", fingerprint=fingerprint(load_public_key(public_path(layout.key)))))
    click.echo(say("made_next", folder=place, file=place / FILE))
    click.echo(say("made_backup"))


@coordinator.command()
@click.option("--foreground", is_flag=True, help="Stay and watch over the services, for systemd or a container.")
@click.pass_obj
def up(folder: Path, foreground: bool) -> None:
    """Start SuperLink, executor and proxy under a supervisor, and return when merchants can connect.

    Example: fugou coordinator up
    """
    from server.deploy import services

    layout = _open(folder)
    if foreground:
        processes.prepare(layout.services, services.plan(layout))
        processes.Supervisor(layout.services).run()
        return
    services.up(layout)
    click.echo(say("is_up", address=load_coordinator(folder).coordinator.address))
    click.echo(say("quiet"))


@coordinator.command()
@click.pass_obj
def down(folder: Path) -> None:
    """Stop everything that was started here, also after a crash.

    Example: fugou coordinator down
    """
    from server.deploy import services

    click.echo(say("is_down", count=services.down(_open(folder))))


@coordinator.command()
@json_option
@click.pass_obj
def status(folder: Path, json_: bool) -> None:
    """Say which services run, who is online and how the newest run stands; exits with 5 when a service does not run.

    Example: fugou coordinator status
    """
    from server.deploy.certificates import SERVER, expiry

    layout = _open(folder)
    found = processes.standing(layout.services)
    ends = expiry(layout.tls / SERVER).date()
    run = _latest_or_none(layout)
    if json_:
        services = [{**vars(one), "alive": one.alive} for one in found]
        as_json({"services": services, "certificate_ends": str(ends), "run": _run_dict(run) if run else None})
    else:
        for one in found:
            click.echo(
                say("service", name=one.name, state=say("runs" if one.alive else "stands"), restarts=one.restarts)
            )
        click.echo(say("certificate", day=ends))
        for line in _run_lines(run) if run else [say("no_run")]:
            click.echo(line)
    if not found or not all(one.alive for one in found):
        raise Unreachable(f"not every service of {folder} runs; `fugou coordinator up` starts them")


@coordinator.command()
@click.argument("public_key", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", required=True, help="The merchant's id, as in its merchant.toml.")
@click.option("--licence", required=True, help="Number of its business licence: one licence, one key, one vote.")
@click.pass_obj
def enroll(folder: Path, public_key: Path, name: str, licence: str) -> None:
    """Register a merchant's public key (keys/node.pub) and write its invitation.

    Example: fugou coordinator enroll node.pub --name qing-he-tea --licence 91440101MA5XXXXX0X
    """
    from server.deploy.control import register
    from server.deploy.enrolment import enroll as enroll_

    layout = _open(folder)
    entry = enroll_(layout, public_key, name, licence, functools.partial(register, layout))
    file = layout.invitations / f"{entry.name}.json"
    click.echo(say("enrolled", name=entry.name, fingerprint=entry.fingerprint, file=file, base=file.name))


@coordinator.command()
@click.argument("name")
@click.pass_obj
def revoke(folder: Path, name: str) -> None:
    """Take a merchant out; its key is never accepted again.

    Example: fugou coordinator revoke qing-he-tea
    """
    from server.deploy.control import unregister
    from server.deploy.enrolment import revoke as revoke_

    layout = _open(folder)
    entry = revoke_(layout, name, functools.partial(unregister, layout))
    click.echo(say("revoked", name=entry.name, fingerprint=entry.fingerprint))


@coordinator.command()
@json_option
@click.pass_obj
def merchants(folder: Path, json_: bool) -> None:
    """List everybody who was ever enrolled, and who is online.

    Example: fugou coordinator merchants
    """
    from server.deploy.control import nodes
    from server.deploy.enrolment import read_merchants

    layout = _open(folder)
    known = read_merchants(layout)
    seen = nodes(layout) if known else {}
    rows: list[dict[str, Any]] = [
        {
            "name": one.name,
            "licence": one.licence,
            "key": one.fingerprint,
            "node": str(one.node),
            "state": "revoked" if one.revoked else seen[one.node].status if one.node in seen else "unknown",
        }
        for one in known
    ]
    if json_:
        as_json(rows)
        return
    for row in rows:
        click.echo("\t".join(row.values()))
    if not rows:
        click.echo(say("nobody"))


@coordinator.command()
@click.option("--rounds", type=click.IntRange(1), help="Rounds in all; default: training.rounds of coordinator.toml.")
@click.option("--resume", is_flag=True, help="Go on with the newest run; merchants are charged for no round twice.")
@click.option("--detach", is_flag=True, help="Return at once; `fugou coordinator status` shows how it stands.")
@click.pass_obj
def run(folder: Path, rounds: int | None, resume: bool, detach: bool) -> None:
    """Start a run, or go on with one, and follow it to its end.

    Example: fugou coordinator run --rounds 3
    """
    from server.deploy import runs
    from server.rounds import read_record

    layout = _open(folder)
    led = runs.resume(layout, rounds) if resume else runs.begin(layout, rounds)
    attempt = runs.submit(layout, led)
    click.echo(say("started", id=led.id, rounds=led.settings.training.rounds, folder=led.folder))
    if detach:
        return
    for number in runs.follow(layout, led, attempt):
        announce(_round_line(read_record(led.folder, number)))
    click.echo(say("ended", folder=led.folder))


@coordinator.command()
@click.pass_obj
def stop(folder: Path) -> None:
    """Stop the run that is going on; what merchants have been charged stays charged.

    Example: fugou coordinator stop
    """
    from server.deploy import runs

    layout = _open(folder)
    led = runs.latest(layout)
    click.echo(say("stopped", id=led.id) if runs.stop(layout, led) else say("nothing_to_stop"))


@coordinator.command()
@click.argument("number", metavar="[N]", type=click.IntRange(0), required=False)
@json_option
@click.pass_obj
def rounds(folder: Path, number: int | None, json_: bool) -> None:
    """List the newest run's rounds, or show one: who took part, verdicts, charges as declared, digests.

    Example: fugou coordinator rounds 1
    """
    from server.deploy import runs
    from server.deploy.export import named_records

    layout = _open(folder)
    led = runs.latest(layout)
    found = [one for one in named_records(layout, led) if number in (None, one["round"])]
    if number is not None and not found:
        raise UserError(f"run {led.id} has no round {number}; `fugou coordinator rounds` lists them")
    if json_:
        as_json(found if number is None else found[0])
        return
    for record in found:
        click.echo(_round_line(record))
        for one in record["merchants"] if number is not None else ():
            click.echo(f"{one['merchant']}\t{one['status']}\t{one['weight']:g}\t{one['reason']}")


@coordinator.command()
@click.argument("number", metavar="N", type=click.IntRange(0))
@click.pass_obj
def rollback(folder: Path, number: int) -> None:
    """Go back to the newest run's round N, as a new round; `run --resume --rounds M` goes on from there.

    Example: fugou coordinator rollback 2
    """
    from server.deploy import runs

    again = runs.roll_back(_open(folder), number)
    click.echo(say("taken_back", round=number, again=again.number))


@coordinator.command()
@click.argument("place", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.pass_obj
def export(folder: Path, place: Path) -> None:
    """Write the newest run as a run folder: rounds, the model, the chain of seals, the report.

    Example: fugou coordinator export run-1
    """
    from server.deploy import runs
    from server.deploy.export import export as export_

    layout = _open(folder)
    export_(layout, runs.latest(layout), place)
    click.echo(say("exported", folder=place))


@coordinator.command()
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder; default: the run's.")
@click.pass_obj
def report(folder: Path, output: Path | None) -> None:
    """Write the federation's report: rounds, who took part, verdicts, charges as declared, digests.

    Example: fugou coordinator report -o reports
    """
    from server.deploy import runs
    from server.deploy.export import write_report

    layout = _open(folder)
    led = runs.latest(layout)
    click.echo(say("reported", file=write_report(layout, led, output or led.folder)))


def _open(folder: Path) -> Any:
    """Return the coordinator's layout; heavier modules are loaded by the verbs that need them."""
    from server.deploy.layout import open_layout

    return open_layout(folder)


def _latest_or_none(layout: Any) -> Any:
    from server.deploy import runs

    return runs.latest(layout) if any(layout.runs.glob("*/settings.json")) else None


def _run_dict(led: Any) -> dict[str, Any]:
    from server.deploy import runs

    done = max(runs.finished_rounds(led.folder), default=0)
    return {
        "id": led.id,
        "state": led.state,
        "reason": led.reason,
        "done": done,
        "rounds": led.settings.training.rounds,
        "folder": str(led.folder),
    }


def _run_lines(led: Any) -> list[str]:
    told = _run_dict(led)
    line = say(
        "run",
        id=told["id"],
        state=say(STATES.get(told["state"], told["state"])),
        done=told["done"],
        rounds=told["rounds"],
    )
    return [line, say("why", reason=told["reason"])] if told["reason"] else [line]


def _round_line(record: dict[str, Any]) -> str:
    """Return one line about a round: how many merchants of each verdict, and the digest that came out."""
    digest = record["adapter_digest"][:16]
    if record["round"] == 0:
        return say("start_point", digest=digest)
    states = [one["status"] for one in record["merchants"]]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return say("round", round=record["round"], counts=counts, digest=digest)
