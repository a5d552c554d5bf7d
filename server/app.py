"""The ServerApp: settings -> strategy -> rounds. The same code leads a simulation and a federation of real nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from common.config import FederationSettings, from_run_config
from common.errors import UserError, VerificationFailed
from common.lora import Bench, bench, check_manifest, digest, initial, shapes
from server.aggregation import residual_of
from server.reference import REFERENCE, direction, read_reference
from server.rounds import SavedRound, latest_round, save_round
from server.strategy import AdapterStrategy, Direction

OUTPUT = "output"

Watch = Callable[[int], None]

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Lead the run that the run-config describes, into the folder it names as `output`."""
    settings, folder = read_run_config(context.run_config)
    serve(grid, settings, folder, run=str(context.run_id))


def read_run_config(run_config: Mapping[str, object]) -> tuple[FederationSettings, Path]:
    """Return the settings and the coordinator's output folder."""
    config = dict(run_config)
    output = config.pop(OUTPUT, "")
    if not output:
        raise UserError(f"run-config has no {OUTPUT!r}; name the folder where rounds are saved")
    return from_run_config(config), Path(str(output))


def serve(grid: Grid, settings: FederationSettings, folder: Path, run: str, watch: Watch | None = None) -> SavedRound:
    """Lead all rounds that are still to do and return the last; every whole round in `folder` counts as done.

    `watch(round)` is called for the start and after every round, once the round is on disk.
    """
    work = bench(settings.model.base, settings.lora)
    if settings.model.base_digest not in ("", work.base.digest):
        raise VerificationFailed(
            f"base {settings.model.base!r} has digest {work.base.digest}, the run was started on {settings.model.base_digest}"
        )
    settings = settings.model_copy(
        update={"model": settings.model.model_copy(update={"base_digest": work.base.digest})}
    )
    start = latest_round(folder) or _first(
        settings, folder, SavedRound(0, initial(work.model, settings.training.seed), {})
    )
    check_manifest(start.adapter, shapes(work.model))
    strategy = AdapterStrategy(
        settings, run, folder, start, settings.model.base, _direction(settings, folder, work, start.number)
    )
    strategy.start(
        grid,
        ArrayRecord(start.adapter),
        num_rounds=settings.training.rounds - start.number,
        timeout=settings.training.timeout,
        evaluate_fn=_watcher(watch, start.number) if watch else None,
    )
    return strategy.current


def _direction(settings: FederationSettings, folder: Path, work: Bench, done: int) -> Direction | None:
    """Return where the run's `reference.jsonl` leads from a round on, or None for a run without one."""
    if not settings.training.reference or done >= settings.training.rounds:
        return None
    examples = read_reference(folder / REFERENCE)
    scale = settings.lora.alpha / settings.lora.rank
    return lambda saved, names: direction(work, examples, saved.adapter, residual_of(saved.state), scale, names)


def _first(settings: FederationSettings, folder: Path, start: SavedRound) -> SavedRound:
    record: dict[str, object] = {
        "round": 0,
        "method": settings.training.method,
        "merchants": [],
        "adapter_digest": digest(start.adapter),
    }
    save_round(
        folder,
        start,
        {**record, "bytes_up": 0, "bytes_down": 0, "parts": {}, "seconds": 0.0},
        settings.lora,
        settings.model.base,
    )
    return start


def _watcher(watch: Watch, offset: int) -> Callable[[int, ArrayRecord], MetricRecord | None]:
    def evaluate(server_round: int, _: ArrayRecord) -> None:
        watch(offset + server_round)

    return evaluate
