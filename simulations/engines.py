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
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from client.app import answer
from common.errors import NotBuiltYet, UserError
from server.app import serve
from simulations.attacks import ATTACKS
from simulations.folder import Run
from simulations.grid import InlineGrid
from simulations.scenario import Scenario

SECONDS = "seconds.jsonl"


def check_engine(scenario: Scenario) -> None:
    """Raise unless the scenario's engine is one that can run here."""
    if scenario.engine.name == "deployment":
        raise NotBuiltYet("--engine deployment is not built yet; use inline or ray")


def set_threads(scenario: Scenario) -> None:
    """Use the scenario's number of threads, or all cores."""
    torch.set_num_threads(scenario.engine.threads or os.cpu_count() or 1)


def lead(run: Run, watch: Callable[[int], None]) -> None:
    """Lead all rounds that are still to do on the scenario's engine."""
    logging.getLogger("flwr").setLevel(logging.ERROR)  # its own import sets INFO
    server = ServerApp()
    settings = run.scenario.federation()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        serve(grid, settings, run.folder, run.id, watch)

    merchants = run.merchants
    attack = run.scenario.attack
    node = client_app([str(path) for path in merchants], attack.kind, attack.merchants)
    if run.scenario.engine.name == "ray":
        lead_on_ray(server, node, len(merchants), run.scenario)
    else:
        grid = InlineGrid(node, len(merchants))
        server(grid, Context(grid.run.run_id, 0, {}, RecordDict(), {}))


def client_app(folders: list[str], attack: str = "", hostile: int = 0) -> ClientApp:
    """Return a ClientApp whose node i answers for the merchant in `folders[i]`, through the merchant's own code.

    Where there is an `attack`, what the last `hostile` merchants answer is spoiled on its way.
    """
    app = ClientApp()
    attackers = folders[len(folders) - hostile :] if attack else []

    @app.train()
    def train(message: Message, context: Context) -> Message:
        folder = Path(folders[int(context.node_config["partition-id"])])
        began = time.monotonic()
        reply = answer(message, folder)
        if str(folder) in attackers:
            reply = Message(ATTACKS[attack](reply.content), reply_to=message)
        note_seconds(folder, message.metadata.group_id, time.monotonic() - began)
        return reply

    return app


def note_seconds(folder: Path, round_: str, seconds: float) -> None:
    """Keep how long a merchant took, for the simulator's eyes."""
    with (folder / SECONDS).open("a") as file:
        file.write(json.dumps({"round": int(round_), "seconds": round(seconds, 4)}) + "\n")


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
