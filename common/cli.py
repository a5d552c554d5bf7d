"""The command `fugou`: gathers every room's sub-commands by entry point, and turns errors into one line and an exit code."""

from __future__ import annotations

import json
import locale
import os
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

import click

from common.errors import FugouError, UserError

GROUP = "fugou.commands"
INTERRUPTED = 130

Lang = Literal["zh", "en"]


class Rooms(click.Group):
    """A group whose commands are loaded when they are asked for, so that a merchant's install never loads the server."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of all commands, in the order of the alphabet."""
        return sorted(_commands())

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return one command, loading its room."""
        entry = _commands().get(name)
        command = entry.load() if entry else None
        return command if isinstance(command, click.Command) else None


def _commands() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


@click.group(cls=Rooms, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--lang", type=click.Choice(["zh", "en"]), help="Language of messages; default follows the locale.")
@click.version_option(package_name="fugou", prog_name="fugou")
def fugou(lang: str | None) -> None:
    """复购: a shared model that knows what a customer will buy again, trained without a row leaving a shop."""
    if lang:
        os.environ["FUGOU_LANG"] = lang


def main() -> None:
    """Run the command line and exit with the code that `interface` promises."""
    try:
        fugou.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted; go on with --resume", INTERRUPTED)
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx:
            click.echo(error.ctx.get_usage(), err=True)
        fail(error.format_message(), UserError.exit_code)
    except FugouError as error:
        fail(str(error), error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(
            f"{where}{error.strerror or error}; check the path, its permissions and the free space", UserError.exit_code
        )
    except Exception as error:
        if os.environ.get("FUGOU_DEBUG"):
            raise
        fail(
            f"internal error: {type(error).__name__}: {error}; run again with FUGOU_DEBUG=1 and report the traceback", 1
        )


def fail(message: str, code: int) -> None:
    """Print one error on standard error and leave with `code`."""
    click.echo(f"fugou: {message}", err=True)
    sys.exit(code)


def language() -> Lang:
    """Return `zh` or `en`: what `--lang` or the locale says."""
    chosen = os.environ.get("FUGOU_LANG")
    if chosen in ("zh", "en"):
        return "zh" if chosen == "zh" else "en"
    return "zh" if (locale.getlocale()[0] or "").lower().startswith(("zh", "chinese")) else "en"


def announce(line: str) -> None:
    """Print one line of progress on standard error, at once."""
    click.echo(line, err=True)


def as_json(value: Any) -> None:
    """Print `value` as JSON on standard output; a text is taken to be JSON already."""
    click.echo(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1))
