"""Long-lived processes of one folder: started together, restarted when they end, all stopped by one call.

    FOLDER/services.json      what runs: name, command, environment
    FOLDER/pids/NAME.json     process id with its start time, so that a reused id is never taken for ours
    FOLDER/logs/NAME.log      what it said

`python -m common.processes FOLDER` is the supervisor, with `--check` the health check. It imports nothing but the
standard library and this room, so it is small and outlives what it watches. A service that ends is started again after
a pause that doubles up to `LONGEST_PAUSE` seconds: Flower's SuperNode gives up (exit 305) for as long as the coordinator
takes a crashed one to be online, about a minute, and must be tried again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import write_atomic

SERVICES, PIDS, LOGS, SUPERVISOR = "services.json", "pids", "logs", "supervisor"
MARK = "FUGOU_SERVICES"
"""The environment variable by which every process of a folder, and every child of one, can be told."""
LOG = "FUGOU_LOG"
"""Names the file to which a service whose output goes to systemd or a container writes what `status` reads."""

FIRST_PAUSE, LONGEST_PAUSE, STEADY = 1.0, 15.0, 60.0
"""Seconds before a restart, at first and at most; a service that ran for `STEADY` seconds begins anew."""
PATIENCE = 15.0
"""Seconds between asking a process to end and ending it."""
STARTED = "== supervisor starts"
"""How the line begins that a log gets before each start of its service: what stands above it is of an earlier life."""
LARGEST_LOG = 16 << 20
TICK = 0.1


@dataclass(frozen=True)
class Service:
    """One command that is to run for as long as the folder's services run."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """How a service stands: its process id (0 when it does not run), how often it was restarted, its last exit code."""

    name: str
    pid: int
    restarts: int = 0
    last_exit: int | None = None

    @property
    def alive(self) -> bool:
        """Whether the service runs now."""
        return self.pid != 0


# --- what a person's command calls ---


def start(folder: Path, services: Sequence[Service]) -> None:
    """Start the supervisor of `services` in `folder`, on its own; leftovers of an earlier one are stopped first.

    Raises `UserError` when the folder's services run already.
    """
    prepare(folder, services)
    log = str(folder / LOGS / f"{SUPERVISOR}.log")
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "common.processes", str(folder.resolve())],
        environment(folder, {}),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    deadline = time.monotonic() + PATIENCE
    while not running(folder):
        if time.monotonic() > deadline:
            raise UserError(f"the supervisor of {folder} did not start; {folder / LOGS / SUPERVISOR}.log says why")
        time.sleep(TICK)


def prepare(folder: Path, services: Sequence[Service]) -> None:
    """Write down what is to run in `folder`; raise `UserError` when the folder's services run already."""
    if running(folder):
        raise UserError(f"the services of {folder} run already; stop them first")
    folder.mkdir(parents=True, exist_ok=True)
    stop(folder)
    for part in (PIDS, LOGS):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_atomic(folder / SERVICES, json.dumps([asdict(one) for one in services], indent=1) + "\n", mode=0o600)


def running(folder: Path) -> bool:
    """Return whether the folder's supervisor runs."""
    return _pid_of(folder, SUPERVISOR) != 0


def standing(folder: Path) -> list[Standing]:
    """Return how every service of the folder stands, in the order they were named."""
    return [_standing(folder, one.name) for one in read_services(folder)]


def stop(folder: Path) -> int:
    """Stop everything that was started in `folder`, the supervisor first, and return how many processes there were.

    It does not matter whether the supervisor is alive: what it left behind is found by pid file and by mark.
    """
    first = _pid_of(folder, SUPERVISOR)
    stopped = _end([first]) if first else 0
    leaders = [pid for path in (folder / PIDS).glob("*.json") if (pid := _pid_of(folder, path.stem))]
    stopped += _end([*leaders, *(one for pid in leaders for one in grouped(pid)), *marked(folder)])
    for path in (folder / PIDS).glob("*.json"):
        path.unlink(missing_ok=True)
    return stopped


def read_services(folder: Path) -> list[Service]:
    """Return what was to run in `folder`; nothing where nothing was ever started."""
    path = folder / SERVICES
    if not path.exists():
        return []
    try:
        return [
            Service(one["name"], tuple(one["command"]), one["environment"])
            for one in json.loads(path.read_text("utf-8"))
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}; remove it and start again") from None


def environment(folder: Path, own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a service: the caller's, this very code first on the path, the mark, the service's own."""
    code = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(one for one in (code, os.environ.get("PYTHONPATH", "")) if one)
    return {**os.environ, "PYTHONPATH": path, MARK: str(folder.resolve()), **own}


# --- the supervisor ---


class Supervisor:
    """Keeps the services of one folder running until it is told to end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services = read_services(folder)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.since: dict[str, float] = {}
        self.due: dict[str, float] = {one.name: 0.0 for one in self.services}
        self.pause: dict[str, float] = {}
        self.restarts: dict[str, int] = {}
        self.asked_to_end = False

    def run(self) -> None:
        """Keep everything running until SIGTERM or SIGINT, then stop it in reverse order."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_end)
        _write_pid(self.folder, SUPERVISOR, os.getpid())
        try:
            while not self.asked_to_end:
                self.step(time.monotonic())
                time.sleep(TICK)
        finally:
            for name in reversed(list(self.running)):
                _end_group(self.running[name])
            for path in (self.folder / PIDS).glob("*.json"):
                path.unlink(missing_ok=True)

    def _ask_to_end(self, *_: object) -> None:
        self.asked_to_end = True

    def step(self, now: float) -> None:
        """Take note of what has ended and start what is due."""
        for service in self.services:
            name = service.name
            process = self.running.get(name)
            if process is None and now >= self.due[name]:
                self._launch(service, now)
            elif process is not None and (code := process.poll()) is not None:
                self._note_end(name, code, now)

    def _launch(self, service: Service, now: float) -> None:
        log_path = self.folder / LOGS / f"{service.name}.log"
        if log_path.exists() and log_path.stat().st_size > LARGEST_LOG:
            log_path.replace(log_path.with_suffix(".log.1"))
        with log_path.open("ab") as log:
            log.write(f"{STARTED} {service.name}\n".encode())
            log.flush()
            process = subprocess.Popen(
                service.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment(self.folder, service.environment),
                cwd=self.folder,
            )
        self.running[service.name], self.since[service.name] = process, now
        _write_pid(self.folder, service.name, process.pid, restarts=self.restarts.get(service.name, 0))

    def _note_end(self, name: str, code: int, now: float) -> None:
        """Set the time of a restart. What a killed service leaves in its group may hold its port, and is ended first."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.running.pop(name).pid, signal.SIGKILL)
        steady = now - self.since[name] >= STEADY
        self.pause[name] = FIRST_PAUSE if steady else min(2 * self.pause.get(name, FIRST_PAUSE / 2), LONGEST_PAUSE)
        self.due[name] = now + self.pause[name]
        self.restarts[name] = self.restarts.get(name, 0) + 1
        print(f"{name} ended with {code}; started again in {self.pause[name]:g} s", flush=True)
        record = {"pid": 0, "started": "", "restarts": self.restarts[name], "last_exit": code}
        write_atomic(self.folder / PIDS / f"{name}.json", json.dumps(record))


# --- processes and their start times ---


def started(pid: int) -> str:
    """Return when process `pid` began, in a form that only compares with itself; empty when there is none.

    On Linux it is field 22 of /proc/PID/stat, in ticks since the machine started (proc(5)); elsewhere what `ps` says.
    """
    stat = Path(f"/proc/{pid}/stat")
    try:
        state, *rest = stat.read_text().rsplit(")", 1)[1].split()
        return "" if state == "Z" else rest[18]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return ""
    said = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return said.stdout.strip()


def marked(folder: Path) -> list[int]:
    """Return every process that carries the folder's mark, but this one; empty where the system has no /proc."""
    wanted = f"{MARK}={folder.resolve()}".encode()
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(place.name) != os.getpid() and wanted in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
    return found


def grouped(leader: int) -> list[int]:
    """Return every process in the group of `leader`; empty where the system has no /proc."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if int((place / "stat").read_text().rsplit(")", 1)[1].split()[2]) == leader:
                found.append(int(place.name))
    return found


def _standing(folder: Path, name: str) -> Standing:
    record = _read_pid(folder, name)
    return Standing(name, _pid_of(folder, name), int(record.get("restarts", 0)), record.get("last_exit"))


def _pid_of(folder: Path, name: str) -> int:
    """Return the id of the folder's process `name`, or 0 when it does not run any more."""
    record = _read_pid(folder, name)
    pid = int(record.get("pid", 0))
    return pid if pid and record.get("started") == started(pid) != "" else 0


def _read_pid(folder: Path, name: str) -> dict[str, Any]:
    try:
        record = json.loads((folder / PIDS / f"{name}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write_pid(folder: Path, name: str, pid: int, restarts: int = 0) -> None:
    record = {"pid": pid, "started": started(pid), "restarts": restarts}
    write_atomic(folder / PIDS / f"{name}.json", json.dumps(record))


def _end(pids: Iterable[int]) -> int:
    """Ask processes to end, end those that do not, and return how many there were."""
    there = {pid: began for pid in pids if pid and (began := started(pid))}
    deadline = time.monotonic() + PATIENCE
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _still(there):
            with contextlib.suppress(OSError):
                os.kill(pid, number)
        while list(_still(there)) and (number == signal.SIGKILL or time.monotonic() < deadline):
            time.sleep(TICK)
    return len(there)


def _still(there: Mapping[int, str]) -> Iterator[int]:
    return (pid for pid, began in there.items() if started(pid) == began)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a service and whatever it has started in its group."""
    for number, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, PATIENCE)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    process.poll()


def healthy(folder: Path) -> bool:
    """Return whether every service of the folder runs; False where nothing was ever started."""
    found = standing(folder)
    return bool(found) and all(one.alive for one in found)


if __name__ == "__main__":
    if sys.argv[2:] == ["--check"]:
        sys.exit(not healthy(Path(sys.argv[1])))
    Supervisor(Path(sys.argv[1])).run()
