"""The demo of `make deploy-demo`, on a tiny base: real processes, real TLS, and a simulation's run folder at the end."""

from __future__ import annotations

from pathlib import Path

from client.trust import read_chain
from common import processes
from simulations.results import load_run
from simulations.run import simulate
from tests.deploy.conftest import entries, needs_nginx, small

OF_THE_SIMULATOR = {"seconds.jsonl"}
OF_THE_NODE = {"node", "keys", "models", "state.json", "attempt.json", "outbox"}


def files_of(folder: Path) -> set[str]:
    """Return the files of a run folder by what they are: without what an engine keeps or names at random."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {path.as_posix() for path in paths if not {*path.parts} & (OF_THE_SIMULATOR | OF_THE_NODE)}


def test_three_merchants_on_real_nodes_leave_the_run_folder_of_a_simulation(tmp_path: Path, tiny_base: str) -> None:
    needs_nginx()
    scenario = small(tiny_base, **{"scenario.merchants": 3, "training.rounds": 2, "training.reference": True})
    deployed = scenario.model_copy(update={"engine": scenario.engine.model_copy(update={"name": "deployment"})})
    run = simulate(deployed, tmp_path / "deployed", resume=False, report=lambda _: None)
    twin = simulate(scenario, tmp_path / "inline", resume=False, report=lambda _: None)

    result = load_run(run.folder)
    assert [len(record.merchants) for record in result.records] == [0, 3, 3]
    told = {one.status for record in result.records for one in record.merchants}
    assert "done" in told <= {"done", "set aside"}  # the reference holds one honest update in a few hundred back
    assert files_of(run.folder) == files_of(twin.folder)
    for merchant in run.merchants:
        assert len(entries(merchant, "RESERVE")) == len(entries(merchant, "RELEASE")) == 2
        assert not processes.standing(merchant / "node")[0].alive
        assert processes.marked(merchant / "node") == []
        assert {path.name for path in (merchant / "node").iterdir()} == {"logs", "pids", "port", "services.json"}
    ends = {last.link if (last := read_chain(merchant)) else "" for merchant in run.merchants}
    assert len(ends) == 1
    assert ends != {""}
