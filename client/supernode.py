"""The node that talks to the coordinator: Flower's SuperNode, which here runs no app but the one installed.

`python -m client.supernode …` takes what `flower-supernode` takes. Before the app bundle of a run is stored, it is
compared file by file with this installation (`common.bundle`); where anything differs, Flower's own error reply goes back
and nothing is unpacked. Flower's allow-list (`--trusted-entities`) needs signatures that the open SuperLink does not
hand on, so its check is given another body; the names patched are those of flwr 1.41.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from flwr.supercore.fab import Fab
from flwr.supercore.run import RunNotRunningException

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

        return fetched(store, **{**values, "get_fab": get_marked})

    vars(node)["_verify_fab"] = is_own
    vars(node)["_pull_and_store_message"] = store_after_check
    vars(command)["start_client_internal"] = start_with_check
    command.flower_supernode()


def fetched(store: Callable[..., int | None], **values: Any) -> int | None:
    """Return what Flower's `store` does, and leave nothing of a message whose run ends while it is fetched.

    Flower takes back what it began for a message wherever an Exception stops it; that a run has ended is a BaseException,
    which passes that by. The message would stay, a child would wait for its contents for ever, and once that child died the
    error reply to the old message would go out in place of the next one's: each reply one message late until the node ends.
    """
    ends = {name: _with_an_exception(values[name]) for name in ("pull_object", "confirm_message_received")}
    return store(**{**values, **ends})


def _with_an_exception(call: Callable[..., Any]) -> Callable[..., Any]:
    def told(*given: Any) -> Any:
        try:
            return call(*given)
        except RunNotRunningException:
            raise RuntimeError("its run has ended") from None

    return told


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
