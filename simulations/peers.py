"""The bare step of `fugou bench round-overhead`, and others' frameworks led around it.

    bare      a Python loop: PEFT, autograd, SGD, the mean of B, on rows that are ready
    flower    Flower's own FedAvg on its Ray engine
    pfl       Apple's pfl, SimulatedBackend
    nvflare   NVIDIA FLARE's FedAvg on its simulator, every merchant a process

pfl and FLARE are in no release's requirements: `fugou bench` installs them into an environment of its own.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch

from client.train.loss import customer_loss
from common.errors import UserError
from common.lora import Adapter, bench, initial, put
from common.methods import trained
from simulations.folder import Run, resumed

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "pfl": ("--no-deps", "pfl==0.6.0", "prv-accountant==0.2.0", "multiprocess", "dill"),
    "nvflare": ("nvflare==2.9.0",),
}
"""What pip is asked for by way; pfl works with what we have, although it asks for other versions."""
PATIENCE = 1800.0
"""Seconds until FLARE's simulator is given up: where a merchant's process does not start, it waits for ever."""


@dataclass
class Course:
    """How a way went: seconds of every round after the first, on the clock and of processor, and the adapter at its end."""

    seconds: list[float]
    cpu: list[float]
    final: Adapter = field(repr=False)


class Ready:
    """Rows as tensors, by round and merchant, and the model that trains on them: what a bare loop or a peer begins with."""

    def __init__(self, run: Run, file: Path) -> None:
        scenario = run.scenario
        self.model = bench(scenario.model.base, scenario.lora).model
        self.shared = initial(self.model, scenario.training.seed)
        self.names = trained(self.shared, scenario.training.method, 1)
        self.rate, self.divisor = scenario.training.local_rate, scenario.privacy.divisor
        with np.load(file) as kept:
            self.ids, self.counts = (torch.from_numpy(kept[name]) for name in ("ids", "counts"))
        put(self.model, self.shared)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.replace(".default.", ".") in self.names)
        self.weights = {
            name.replace(".default.", "."): one for name, one in self.model.named_parameters() if one.requires_grad
        }

    def loss(self, ids_BT: torch.Tensor, counts_BT: torch.Tensor) -> torch.Tensor:
        """Return what a step goes down on: the customers' losses over the public divisor, padded to the longest of them."""
        ids_BT, counts_BT = ids_BT[:, : (longest := longest_of(counts_BT))], counts_BT[:, :longest]
        return customer_loss(self.model(input_ids=ids_BT).logits, ids_BT, counts_BT).sum() / self.divisor

    def train(self, start: Mapping[str, torch.Tensor], number: int, merchant: int) -> Adapter:
        """Return the weights after one merchant's round, counted from 0, that began at `start`."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(start[name])
        optimizer = torch.optim.SGD(self.weights.values(), lr=self.rate)
        for ids_BT, counts_BT in zip(self.ids[number, merchant], self.counts[number, merchant], strict=True):
            optimizer.zero_grad(set_to_none=True)
            self.loss(ids_BT, counts_BT).backward()
            optimizer.step()
        return {name: weight.detach().clone() for name, weight in self.weights.items()}

    def start(self) -> Adapter:
        """Return the weights that train, as the run begins."""
        return {name: self.shared[name] for name in self.names}


def longest_of(counts_BT: torch.Tensor) -> int:
    """Return the number of ids to the last that counts in any row, and one at least.

    >>> longest_of(torch.tensor([[False, True, False, False], [False, False, True, False]]))
    3
    """
    return int(counts_BT.any(0).nonzero().max().item()) + 1 if bool(counts_BT.any()) else 1


class Stopwatch:
    """Seconds between its strokes, without the first round's."""

    def __init__(self) -> None:
        self.strokes: list[tuple[float, float]] = []

    def stroke(self, *_: object) -> None:
        """Note that a round has ended (or that the first begins)."""
        self.strokes.append((time.perf_counter(), time.process_time()))

    def course(self, final: Adapter) -> Course:
        """Return the length of every round but the first, with what it ended with."""
        pairs = list(zip(self.strokes[1:], self.strokes[2:], strict=False))
        seconds, cpu = ([after[clock] - before[clock] for before, after in pairs] for clock in (0, 1))
        return Course(seconds, cpu, final)


def bare(run: Run, file: Path) -> Course:
    """Lead the rounds as a loop over ready rows."""
    ready, watch = Ready(run, file), Stopwatch()
    now = ready.start()
    watch.stroke()
    for number in range(run.scenario.training.rounds):
        each = [ready.train(now, number, merchant) for merchant in range(run.scenario.scenario.merchants)]
        now = {name: torch.stack([one[name] for one in each]).mean(0) for name in now}
        watch.stroke()
    return watch.course(now)


@functools.lru_cache(maxsize=1)
def ready_for(folder: str, file: str, threads: int) -> Ready:
    """Return rows and model, kept in the process that answers for Flower's clients."""
    torch.set_num_threads(threads)
    return Ready(resumed(Path(folder), None), Path(file))


def flower(run: Run, file: Path) -> Course:
    """Lead the rounds with Flower's own FedAvg and its Ray engine, one actor."""
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    watch, node, server = Stopwatch(), ClientApp(), ServerApp()
    folder, threads, merchants = str(run.folder), run.scenario.engine.threads, run.scenario.scenario.merchants
    found: dict[str, Adapter] = {}

    @node.train()
    def train(message: Message, context: Context) -> Message:
        ready = ready_for(folder, str(file), threads)
        start = message.content.array_records["arrays"].to_torch_state_dict()
        number = int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]
        end = ready.train(start, number - 1, int(context.node_config["partition-id"]))
        records = {"arrays": ArrayRecord(end), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(records), reply_to=message)  # type: ignore[arg-type]

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=merchants)
        result = strategy.start(
            grid,
            ArrayRecord(Ready(run, file).start()),
            num_rounds=run.scenario.training.rounds,
            train_config=ConfigRecord(),
            evaluate_fn=watch.stroke,
        )
        found["final"] = dict(result.arrays.to_torch_state_dict())

    resources = {"client_resources": {"num_cpus": os.cpu_count() or 1, "num_gpus": 0.0}}
    run_simulation(server, node, merchants, backend_config={**resources, "init_args": {"include_dashboard": False}})  # type: ignore[dict-item]
    return watch.course(found["final"])


def pfl(run: Run, file: Path) -> Course:
    """Lead the rounds with pfl's FederatedAveraging on its SimulatedBackend."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset as UserDataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    ready, watch = Ready(run, file), Stopwatch()
    merchants, rounds = run.scenario.scenario.merchants, run.scenario.training.rounds
    asked = iter(range(merchants * rounds))

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.carried = ready.model

        def loss(self, ids_BT: torch.Tensor, counts_BT: torch.Tensor) -> torch.Tensor:
            return ready.loss(ids_BT, counts_BT)

        def metrics(self, *_: object) -> dict[str, Any]:
            return {}

    class Strokes(TrainingProcessCallback):  # type: ignore[misc]
        def after_central_iteration(self, *_: object, **__: object) -> tuple[bool, Any]:
            watch.stroke()
            return False, Metrics()

    def user(place: int) -> Any:
        number = place // merchants
        raw = [each[number, place % merchants].flatten(0, 1) for each in (ready.ids, ready.counts)]
        return UserDataset(raw_data=raw, user_id=place % merchants)

    model = PyTorchModel(
        model=Module(),
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(ready.weights.values(), lr=1.0),
    )
    watch.stroke()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds, evaluation_frequency=10**9, train_cohort_size=merchants, val_cohort_size=0
        ),
        SimulatedBackend(training_data=FederatedDataset(user, lambda: next(asked)), val_data=None),
        model,
        NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=ready.rate, local_batch_size=int(ready.ids.shape[3])
        ),
        callbacks=[Strokes()],
    )
    return watch.course({name: weight.detach().clone() for name, weight in ready.weights.items()})


def nvflare(run: Run, file: Path) -> Course:
    """Lead the rounds with FLARE's FedAvg on its simulator; a round is from the first merchant's task to the next."""
    from nvflare.app_common.np.recipes import NumpyFedAvgRecipe
    from nvflare.recipe import SimEnv

    place, merchants = run.folder.parent / "nvflare", run.scenario.scenario.merchants
    start, script, stamps = place / "start.npy", place / "merchant.py", place / "stamps"
    stamps.mkdir(parents=True)
    np.save(start, flat(Ready(run, file).start()))
    script.write_text("import sys\nfrom simulations.peers import flare_merchant\nflare_merchant(*sys.argv[1:])\n")
    recipe = NumpyFedAvgRecipe(
        name="peer",
        initial_ckpt=str(start),
        min_clients=merchants,
        num_rounds=run.scenario.training.rounds,
        train_script=str(script),
        train_args=f"{run.folder} {file} {stamps} {run.scenario.engine.threads}",
    )
    with given_up(PATIENCE):
        recipe.execute(SimEnv(num_clients=merchants, num_threads=merchants, workspace_root=str(place)))
    watch, begun = Stopwatch(), [np.loadtxt(one, ndmin=1) for one in stamps.iterdir()]
    watch.strokes = [(float(first), 0.0) for first in np.min(begun, axis=0)]
    end = np.load(place / "peer" / "server" / "simulate_job" / "models" / "server.npy")
    return watch.course(unflat(end, Ready(run, file).start()))


def flare_merchant(folder: str, file: str, stamps: str, threads: str) -> None:
    """Answer FLARE's tasks in a merchant's process; note when each came."""
    import nvflare.client as flare

    torch.set_num_threads(int(threads))
    ready = Ready(resumed(Path(folder), None), Path(file))
    flare.init()
    site = flare.get_site_name()
    while flare.is_running() and (task := flare.receive()) is not None:
        with (Path(stamps) / site).open("a") as notes:
            notes.write(f"{time.time()}\n")
        start = unflat(task.params["numpy_key"], ready.start())
        end = ready.train(start, int(task.current_round), int(site.removeprefix("site-")) - 1)
        flare.send(flare.FLModel(params={"numpy_key": flat(end)}))


def flat(adapter: Adapter) -> npt.NDArray[np.float32]:
    """Return all weights as one vector, in order of their names."""
    return torch.cat([one.flatten() for _, one in sorted(adapter.items())]).numpy()


def unflat(vector: npt.NDArray[np.float32], like: Adapter) -> Adapter:
    """Return the weights that `flat` made a vector of."""
    sizes = [one.numel() for _, one in sorted(like.items())]
    parts = torch.from_numpy(vector).float().split(sizes)
    return {name: part.view(like[name].shape) for name, part in zip(sorted(like), parts, strict=True)}


@contextmanager
def given_up(seconds: float) -> Iterator[None]:
    """Kill every process that was started in the block after so many seconds; raise `UserError` where that was needed."""
    late, own = threading.Event(), psutil.Process()
    others = set(own.children())

    def kill() -> None:
        late.set()
        for child in set(own.children()) - others:
            for one in (*child.children(recursive=True), child):
                one.kill()

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        yield
    except Exception as error:
        if not late.is_set():
            raise
        raise UserError(f"it did not end within {seconds:.0f} s; run it again, or leave it out of `ways`") from error
    finally:
        timer.cancel()
