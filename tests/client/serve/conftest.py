"""A real service on a real socket: the example merchant on the tiny base, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import uvicorn
from fastapi import FastAPI

from client.serve.app import Parts, make_app
from client.serve.counters import Counters
from client.serve.keys import Sessions, make_key, read_keys
from client.serve.live import Live

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "merchant"


@dataclass(frozen=True)
class Answer:
    """One answer: status, headers in lower case, body."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.text)


@dataclass(frozen=True)
class Running:
    """A service that answers, and the key that opens it."""

    folder: Path
    port: int
    key: str
    live: Live
    parts: Parts
    app: FastAPI

    def ask(
        self, path: str, body: Any = None, method: str = "", headers: Mapping[str, str] | None = None, raw: bytes = b""
    ) -> Answer:
        """Return the answer to one request with the key; `headers` add to or replace what is sent."""
        data = raw or (json.dumps(body).encode() if body is not None else b"")
        sent = {"Authorization": f"Bearer {self.key}"}
        if data:
            sent["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method or ("POST" if data else "GET"), path, data or None, {**sent, **(headers or {})})
            found = connection.getresponse()
            return Answer(
                found.status, {name.lower(): value for name, value in found.getheaders()}, found.read().decode()
            )
        finally:
            connection.close()

    def form(self, path: str, fields: Mapping[str, str], cookie: str = "") -> Answer:
        """Return the answer to a browser's form."""
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookie, "Authorization": ""}
        return self.ask(path, headers=headers, raw=urlencode(fields).encode())

    def log_in(self) -> str:
        """Return the cookie of a new session."""
        answer = self.form("/login", {"key": self.key})
        assert answer.status == 303, answer.text
        return answer.headers["set-cookie"].split(";")[0]


def copy_of_example(place: Path, base: str) -> Path:
    """Return a copy of the example merchant that works on `base`."""
    folder = Path(shutil.copytree(EXAMPLE, place))
    toml = folder / "merchant.toml"
    toml.write_text(toml.read_text("utf-8").replace('base = "default"', f'base = "{base}"'), "utf-8")
    return folder


def serve(folder: Path, **changes: Any) -> Iterator[Running]:
    """Yield the service of `folder`, and end it."""
    key = make_key(folder, "tests")
    counters = Counters()
    live = Live(folder, counters.width.observe, counters.swaps.inc)
    parts = Parts(live, lambda: read_keys(folder), counters, Sessions(), **{"rate": 5000.0, "timeout": 60.0, **changes})
    app = make_app(parts)
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the service did not start"
            time.sleep(0.01)
        yield Running(folder, place.getsockname()[1], key, live, parts, app)
        server.should_exit = True
        thread.join()
    live.close()


@pytest.fixture(scope="package")
def service(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The example merchant's service."""
    yield from serve(copy_of_example(tmp_path_factory.mktemp("serve") / "merchant", tiny_base))
