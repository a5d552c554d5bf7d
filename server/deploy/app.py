"""The ServerApp of a federation of real nodes: the simulation's rounds, over a grid that seals and checks names.

Flower starts it from the app bundle, in a process of its own. What it leaves beside the rounds is `state.json`: the
process while it runs, then `finished`, `stopped`, or `failed` with the reason in one line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import FugouError, UserError
from common.files import write_atomic
from common.processes import started
from server.app import read_run_config, serve
from server.deploy.layout import Layout
from server.deploy.signing import SealedGrid

COORDINATOR, RUN, STATE = "coordinator", "run", "state.json"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Lead the run that the run-config describes; its name stays the same when it is resumed."""
    config = dict(context.run_config)
    root, run = str(config.pop(COORDINATOR, "")), str(config.pop(RUN, ""))
    if not root or not run:
        raise UserError(f"run-config needs {COORDINATOR!r} and {RUN!r}; start runs with `fugou coordinator run`")
    settings, folder = read_run_config(config)
    with told(folder):
        serve(SealedGrid(grid, Layout(Path(root))), settings, folder, run)


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Keep `state.json` in `folder` true for as long as the block runs, and after it."""
    write_state(folder, "running", pid=os.getpid())
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        write_state(folder, "stopped")
        raise
    except BaseException as error:
        reason = str(error) if isinstance(error, (FugouError, OSError)) else f"{type(error).__name__}: {error}"
        write_state(folder, "failed", reason=reason)
        raise
    write_state(folder, "finished")


def write_state(folder: Path, state: str, *, pid: int = 0, reason: str = "") -> None:
    """Write how the run in `folder` stands; a process counts as running only while its start time is the one written."""
    record = {"state": state, "pid": pid, "started": started(pid) if pid else "", "reason": " ".join(reason.split())}
    write_atomic(folder / STATE, json.dumps(record, ensure_ascii=False) + "\n")
