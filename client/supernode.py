"""The node that talks to the coordinator: Flower's SuperNode, which here runs no app but the one installed.

`python -m client.supernode …` takes what `flower-supernode` takes. Before the app bundle of a run is stored, it is
compared file by file with this installation (`common.bundle`); where anything differs, Flower's own error reply goes back
and nothing is unpacked. Flower's allow-list (`--trusted-entities`) needs signatures that the open SuperLink does not
hand on, so its check is given another body; the names patched are those of flwr 1.41.
"""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import Any

from flwr.supercore.fab import Fab

from common.bundle import app_files, difference, files_digest
from common.processes import LOG

log = logging.getLogger("flwr")
command = import_module("flwr.supernode.cli.flower_supernode")
node = import_module("flwr.supernode.start_client_internal")
"""By name, as each package also has a function of its module's name."""


def main() -> None:
    """Run the SuperNode until it is told to end."""
    if path := os.environ.get(LOG):
        keep_log(path)
    own = app_files()
    log.info("this node runs app %s only", files_digest(own)[:16])

    def is_own(fab: Fab, _: dict[str, str]) -> bool:
        found = difference(fab.content, own)
        if found:
            log.error("the app is refused: %s; install the coordinator's version, or ask what it changed", found)
        return not found

    start, store = node.start_client_internal, node._pull_and_store_message

    def start_with_check(**values: Any) -> None:
        start(**{**values, "trusted_entities": {"this installation": ""}})

    def store_after_check(**values: Any) -> int | None:
        get = values["get_fab"]

        def get_marked(digest: str, run: int) -> Fab:
            fab: Fab = get(digest, run)
            return Fab(fab.hash_str, fab.content, {"valid_license": "checked here"})

        run: int | None = store(**{**values, "get_fab": get_marked})
        return run

    vars(node)["_verify_fab"] = is_own
    vars(node)["_pull_and_store_message"] = store_after_check
    vars(command)["start_client_internal"] = start_with_check
    command.flower_supernode()


def keep_log(path: str) -> None:
    """Write what Flower logs to the end of a file too, beside what a container or systemd keeps of it.

    Below INFO it says five times a second that it was asked for work.
    """
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
    log.addHandler(handler)


if __name__ == "__main__":
    main()
