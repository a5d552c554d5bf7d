"""The engines: the same ServerApp and ClientApp, in this process or on Ray."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp

from client.app import answer
from client.books import kept_open
from common.errors import UserError
from server.app import serve
from simulations.attacks import ATTACKS, hostile
from simulations.folder import Run
from simulations.grid import InlineGrid
from simulations.mixed import dealt, is_away
from simulations.scenario import Scenario

SECONDS = "seconds.jsonl"
AWAY = "the merchant is away"


def check_engine(scenario: Scenario) -> None:
    """Raise unless the scenario's engine is one that can run it: attackers and absences are made up in one process only."""
    made_up = bool(scenario.attack.kind) or any(scenario.mixed.away)
    if scenario.engine.name == "deployment" and made_up:
        raise UserError("--engine deployment runs honest merchants that stay; attacks and absences need inline or ray")


def set_threads(scenario: Scenario) -> None:
    """Use the scenario's number of threads, or all cores."""
    torch.set_num_threads(scenario.engine.threads or os.cpu_count() or 1)


def lead(run: Run, watch: Callable[[int], None]) -> None:
    """Lead all rounds that are still to do on the scenario's engine."""
    logging.getLogger("flwr").setLevel(logging.ERROR)  # its own import sets INFO
    if run.scenario.engine.name == "deployment":
        from simulations.deployment import lead_deployed

        lead_deployed(run.folder, run.scenario.federation(), run.id, run.merchants, watch)
    else:
        lead_simulated(run, watch)


def lead_simulated(run: Run, watch: Callable[[int], None]) -> None:
    """Lead all rounds that are still to do in this process or on Ray."""
    server = ServerApp()
    settings = run.scenario.federation()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        serve(grid, settings, run.folder, run.id, watch)

    merchants = run.merchants
    node = client_app([str(path) for path in merchants], run.scenario)
    if run.scenario.engine.name == "ray":
        lead_on_ray(server, node, len(merchants), run.scenario)
    else:
        grid = InlineGrid(node, len(merchants))
        with kept_open():
            server(grid, Context(grid.run.run_id, 0, {}, RecordDict(), {}))


def client_app(folders: list[str], scenario: Scenario) -> ClientApp:
    """Return a ClientApp whose node i answers for the merchant in `folders[i]`, through the merchant's own code.

    A merchant that is away is not reached, and what attackers answer is spoiled on its way.
    """
    app = ClientApp()
    attack, seed = scenario.attack, scenario.training.seed
    attackers = hostile([Path(folder).name for folder in folders], attack.kind, attack.merchants)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        place, number = int(context.node_config["partition-id"]), int(message.metadata.group_id)
        if is_away(dealt(scenario.mixed.away, place, 0.0), place, number, seed):
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, AWAY), reply_to=message)
        folder = Path(folders[place])
        began = time.monotonic()
        reply = answer(message, folder)
        if folder.name in attackers:
            reply = Message(ATTACKS[attack.kind](reply.content), reply_to=message)
        note_seconds(folder, number, time.monotonic() - began)
        return reply

    return app


def note_seconds(folder: Path, number: int, seconds: float) -> None:
    """Keep how long a merchant took, for the simulator's eyes."""
    with (folder / SECONDS).open("a") as file:
        file.write(json.dumps({"round": number, "seconds": round(seconds, 4)}) + "\n")


def lead_on_ray(server: ServerApp, node: ClientApp, merchants: int, scenario: Scenario) -> None:
    """Run both apps on Flower's simulation engine, on this machine or on the Ray cluster at `engine.address`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: F401
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'fugou[ray]'") from None
    from flwr.simulation import run_simulation

    if " " in sys.prefix:
        raise UserError(
            f"Ray cannot start its workers below {sys.prefix}, whose path holds a space; use --engine inline"
        )
    threads = scenario.engine.threads or os.cpu_count() or 1
    init = {"address": scenario.engine.address} if scenario.engine.address else {"include_dashboard": False}
    run_simulation(
        server,
        node,
        merchants,
        backend_config={"client_resources": {"num_cpus": threads, "num_gpus": 0.0}, "init_args": init},  # type: ignore[dict-item]
    )
