"""The pages that are written by the code itself: `python docs/pages.py` writes `cli.md` and `settings.md`; a test compares."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from client.config import MerchantSettings
from common.cli import fugou
from common.config import FederationSettings
from common.privacy.policy import Policy
from server.config import CoordinatorSettings
from simulations.scenario import Scenario

HERE = Path(__file__).resolve().parent


def cli_page() -> str:
    """Return `cli.md`: the help of every command, as the program prints it."""
    parts = ["# The command line\n\nWritten by `make docs` from the program's own help.\n"]
    for name, command in commands(fugou, "fugou"):
        parts.append(f"## {name}\n\n```\n{help_of(command, name)}\n```\n")
    return "\n".join(parts)


def help_of(command: click.Command, name: str) -> str:
    """Return the help as the program prints it, whatever was asked of the command before: click keeps its help option."""
    fresh = copy.copy(command)
    vars(fresh)["_help_option"] = None
    names = ["-h", "--help"]
    return fresh.get_help(
        click.Context(fresh, info_name=name, max_content_width=100, terminal_width=100, help_option_names=names)
    )


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its full name, groups before what is in them."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for part in command.list_commands(context):
            inner = command.get_command(context, part)
            if inner is not None:
                yield from commands(inner, f"{name} {part}")


def settings_page() -> str:
    """Return `settings.md`: every key of every file, with default and meaning."""
    parts = ["# Settings\n\nWritten by `make docs` from the code.\n"]
    kinds: list[tuple[str, type[BaseModel], str]] = [
        ("Scenario (`simulations/scenarios/*.toml`)", Scenario, "One simulation; any key can be changed with `--set key=value`."),
        ("Federation (travels to merchants)", FederationSettings, "What all sides agree on; nothing of a merchant's privacy."),
        ("Merchant (`merchant.toml`)", MerchantSettings, "The merchant's own; never leaves the shop."),
        ("Coordinator (`coordinator.toml`)", CoordinatorSettings, "The coordinator's own; merchants get the federation's part."),
        ("Policy (`policy.toml`)", Policy, "Signed by the merchant's privacy officer."),
    ]  # fmt: skip
    for title, kind, words in kinds:
        rows = "\n".join(f"| `{key}` | {default} | {meaning} |" for key, default, meaning in keys(kind))
        parts.append(f"## {title}\n\n{words}\n\n| key | default | meaning |\n| --- | --- | --- |\n{rows}\n")
    return "\n".join(parts)


def keys(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield dotted key, default and meaning of every field."""
    for name, field in kind.model_fields.items():
        inner = table(field.annotation)
        if inner is not None:
            yield from keys(inner, f"{prefix}{name}.")
        elif name != "folder":
            yield f"{prefix}{name}", shown(field.get_default(call_default_factory=True)), field.description or ""


def table(annotation: Any) -> type[BaseModel] | None:
    """Return the settings class that a field holds, also inside `X | None`."""
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def _plain(value: object) -> object:
    """Return what JSON has no word for as what it has: a path as text, a set as a list."""
    return str(value) if isinstance(value, Path) else list(value)  # type: ignore[call-overload]


def shown(default: Any) -> str:
    """Return a default as it would stand in TOML."""
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "none"
    return f"`{json.dumps(default, ensure_ascii=False, default=_plain)}`"


PAGES = {"cli.md": cli_page, "settings.md": settings_page}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (HERE / file).write_text(page(), "utf-8")
