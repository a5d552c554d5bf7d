"""Supervised processes: started, restarted, found again and stopped, whatever dies first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import processes
from common.errors import UserError
from common.processes import Service, Standing, standing

SLEEPER = (sys.executable, "-S", "-c", "import time; time.sleep(600)")
CHILD = "subprocess.run([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])"
PARENT = (sys.executable, "-S", "-c", f"import subprocess, sys; {CHILD}")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    processes.stop(tmp_path)


def until(true: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def only(folder: Path) -> Standing:
    (one,) = standing(folder)
    return one


def test_a_service_that_dies_is_started_again_and_the_count_is_told(folder: Path) -> None:
    processes.start(folder, [Service("sleeper", SLEEPER)])
    until(lambda: only(folder).alive)
    first = only(folder).pid
    os.kill(first, signal.SIGKILL)
    until(lambda: only(folder).alive and only(folder).pid != first)
    assert only(folder).restarts == 1


def test_stop_ends_services_and_their_children(folder: Path) -> None:
    processes.start(folder, [Service("parent", PARENT)])
    until(lambda: len(processes.marked(folder)) == 3)
    assert processes.stop(folder) >= 1
    assert processes.marked(folder) == []
    assert standing(folder) == [Standing("parent", 0)]


def test_what_a_killed_service_leaves_behind_is_ended_before_it_starts_again(folder: Path) -> None:
    processes.start(folder, [Service("parent", PARENT)])
    until(lambda: len(processes.marked(folder)) == 3)
    before = set(processes.marked(folder))
    os.kill(only(folder).pid, signal.SIGKILL)
    until(lambda: only(folder).restarts == 1 and len(processes.marked(folder)) == 3)
    assert len(before & set(processes.marked(folder))) == 1  # the supervisor


def test_stop_finds_what_a_killed_supervisor_left_behind(folder: Path) -> None:
    processes.start(folder, [Service("sleeper", SLEEPER)])
    until(lambda: only(folder).alive)
    supervisor = json.loads((folder / "pids" / "supervisor.json").read_text())["pid"]
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: not processes.running(folder))
    assert only(folder).alive
    assert processes.stop(folder) == 1
    assert processes.marked(folder) == []


def test_a_number_that_another_process_has_now_is_never_taken_for_ours(folder: Path) -> None:
    processes.start(folder, [Service("sleeper", SLEEPER)])
    until(lambda: only(folder).alive)
    processes.stop(folder)
    (folder / "pids" / "sleeper.json").write_text(json.dumps({"pid": os.getpid(), "started": "12345"}))
    assert not only(folder).alive
    assert processes.stop(folder) == 0


def test_a_folder_whose_services_run_is_not_started_twice(folder: Path) -> None:
    processes.start(folder, [Service("sleeper", SLEEPER)])
    with pytest.raises(UserError, match="run already; stop them first"):
        processes.start(folder, [Service("sleeper", SLEEPER)])


def test_services_get_their_own_environment_and_their_log(folder: Path) -> None:
    command = (sys.executable, "-S", "-c", "import os, time; print(os.environ['TEA'], flush=True); time.sleep(600)")
    processes.start(folder, [Service("one", command, {"TEA": "冻顶"})])
    log = folder / "logs" / "one.log"
    until(lambda: log.exists() and "冻顶" in log.read_text("utf-8"))


def test_the_health_check_is_0_while_everything_runs(folder: Path) -> None:
    check = [sys.executable, "-m", "common.processes", str(folder), "--check"]
    assert subprocess.run(check, check=False).returncode == 1
    processes.start(folder, [Service("sleeper", SLEEPER)])
    until(lambda: only(folder).alive)
    assert subprocess.run(check, check=False).returncode == 0
    processes.stop(folder)
    assert subprocess.run(check, check=False).returncode == 1


def test_a_damaged_list_of_services_is_one_line(folder: Path) -> None:
    (folder / "services.json").write_text("[{")
    with pytest.raises(UserError, match="cannot be read"):
        standing(folder)
