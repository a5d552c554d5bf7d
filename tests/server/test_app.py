from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from common.config import FederationSettings, LoraSettings, Method, ModelSettings, TrainingSettings
from common.errors import UserError, VerificationFailed
from common.lora import bench, initial, to_bytes
from common.methods import sent
from common.wire import TrainReply, unpack_ask
from server.app import app as server_app
from server.app import read_run_config, serve
from server.rounds import latest_round, load_round, read_record
from simulations.grid import InlineGrid

LORA = LoraSettings(rank=4, alpha=8.0)


def shops(asked: list[int] | None = None, stop_at: int = 0) -> InlineGrid:
    """Return two shops whose updates depend on the round only; `asked` gets the rounds, `stop_at` interrupts one."""
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        ask, _ = unpack_ask(message.content)
        if ask.round == stop_at:
            raise KeyboardInterrupt
        if asked is not None:
            asked.append(ask.round)
        numbers = np.random.default_rng([ask.round, context.node_id])
        update = {
            name: torch.from_numpy(numbers.standard_normal(tuple(ask.adapter[name].shape)).astype(np.float32))
            for name in sent(ask.adapter, ask.method, ask.round)
        }
        reply = TrainReply("done", f"m{context.node_id}", ask.round, base_digest=ask.base_digest, update=update)
        return Message(reply.pack(), reply_to=message)

    return InlineGrid(client, 2)


def settings(base: str, rounds: int, method: Method = "fedsvd", digest: str = "") -> FederationSettings:
    return FederationSettings(
        model=ModelSettings(base=base, base_digest=digest),
        lora=LORA,
        training=TrainingSettings(method=method, rounds=rounds, server_optimizer="adam", server_rate=0.1),
    )


def test_a_run_starts_from_the_public_adapter_of_its_seed(tiny_base: str, tmp_path: Path) -> None:
    serve(shops(), settings(tiny_base, 1), tmp_path, "run")
    start = load_round(tmp_path, 0)
    assert to_bytes(start.adapter) == to_bytes(initial(bench(tiny_base, LORA).model, 7))
    assert read_record(tmp_path, 0)["merchants"] == []


def test_a_resumed_run_goes_on_after_the_latest_round_and_ends_bit_for_bit_the_same(
    tiny_base: str, tmp_path: Path
) -> None:
    whole = serve(shops(), settings(tiny_base, 3), tmp_path / "whole", "run")
    with pytest.raises(KeyboardInterrupt):
        serve(shops(stop_at=2), settings(tiny_base, 3), tmp_path / "parts", "run")
    latest = latest_round(tmp_path / "parts")
    assert latest is not None
    assert latest.number == 1
    asked: list[int] = []
    resumed = serve(shops(asked), settings(tiny_base, 3), tmp_path / "parts", "run")
    assert asked == [2, 2, 3, 3]
    assert resumed.number == 3
    assert to_bytes(resumed.adapter) == to_bytes(whole.adapter)
    assert to_bytes(resumed.state) == to_bytes(whole.state)


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_run_that_is_done_asks_nobody(tiny_base: str, tmp_path: Path, rounds: int) -> None:
    first = serve(shops(), settings(tiny_base, 2), tmp_path, "run")
    asked: list[int] = []
    again = serve(shops(asked), settings(tiny_base, rounds), tmp_path, "run")
    assert asked == []
    assert to_bytes(again.adapter) == to_bytes(first.adapter)


def test_the_watcher_sees_the_start_and_every_round_once_it_is_on_disk(tiny_base: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def watch(number: int) -> None:
        seen.append((number, read_record(tmp_path, number)["round"]))

    serve(shops(), settings(tiny_base, 2), tmp_path, "run", watch)
    serve(shops(), settings(tiny_base, 3), tmp_path, "run", watch)
    assert seen == [(0, 0), (1, 1), (2, 2), (2, 2), (3, 3)]


def test_another_base_than_the_run_was_started_on_is_not_trained(tiny_base: str, tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed, match=f"{'ab' * 32}") as caught:
        serve(shops(), settings(tiny_base, 1, digest="ab" * 32), tmp_path, "run")
    assert "\n" not in str(caught.value)
    assert latest_round(tmp_path) is None


def test_the_right_digest_is_accepted(tiny_base: str, tmp_path: Path) -> None:
    digest = bench(tiny_base, LORA).base.digest
    assert serve(shops(), settings(tiny_base, 1, digest=digest), tmp_path, "run").number == 1


def test_a_damaged_latest_round_stops_the_run_with_one_line(tiny_base: str, tmp_path: Path) -> None:
    serve(shops(), settings(tiny_base, 1), tmp_path, "run")
    path = tmp_path / "rounds" / "0001" / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="cannot be read"):
        serve(shops(), settings(tiny_base, 2), tmp_path, "run")


def test_the_server_app_reads_everything_from_the_run_config(tiny_base: str, tmp_path: Path) -> None:
    grid = shops()
    config = {**settings(tiny_base, 1).to_run_config(), "output": str(tmp_path / "run")}
    server_app(grid, Context(grid.run.run_id, 0, {}, RecordDict(), config))
    assert read_record(tmp_path / "run", 1)["run"] == str(grid.run.run_id)


def test_a_run_config_without_an_output_folder_is_one_line() -> None:
    with pytest.raises(UserError, match="run-config has no 'output'"):
        read_run_config({"lora.rank": 4})
    given, folder = read_run_config({"lora.rank": 4, "output": "runs/a"})
    assert (given.lora.rank, folder) == (4, Path("runs/a"))
