"""`fugou coordinator …`: what the platform's engineers type."""

from __future__ import annotations

import click

from common.errors import NotBuiltYet


@click.group()
def coordinator() -> None:
    """Lead a federation of real merchants.

    Example: fugou coordinator init coordinator
    """


def _later(name: str, what: str) -> None:
    @coordinator.command(name, context_settings={"ignore_unknown_options": True}, help=f"{what} (not built yet)")
    @click.argument("rest", nargs=-1)
    def command(rest: tuple[str, ...]) -> None:
        raise NotBuiltYet(f"fugou coordinator {name} is not built yet")


for _name, _what in {
    "init": "Make certificates, secrets and a folder.",
    "up": "Start the coordinator.",
    "down": "Stop the coordinator.",
    "status": "Say who is online and what runs.",
    "enroll": "Register a merchant's public key.",
    "revoke": "Revoke a merchant.",
    "merchants": "List the merchants.",
    "run": "Start a run.",
    "stop": "Stop the run.",
    "rounds": "List the rounds.",
    "rollback": "Go back to an earlier round.",
    "export": "Write a run folder.",
    "report": "Write the federation's report.",
}.items():
    _later(_name, _what)
