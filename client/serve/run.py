"""`fugou merchant serve`: keys and desk from the folder, then the application on a socket until somebody ends it."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from client.serve.keys import FILE, Sessions, read_keys
from client.use.words import phrase
from common.cli import announce, language
from common.errors import UserError


@dataclass(frozen=True)
class Service:
    """Where to listen and how much to allow."""

    host: str = "127.0.0.1"
    port: int = 8080
    names: tuple[str, ...] = ()
    rate: float = 40.0
    timeout: float = 10.0
    threads: int = 1


def run(folder: Path, service: Service) -> None:
    """Serve the merchant in `folder` until interrupted; raises `UserError` where it must not or cannot begin."""
    if not read_keys(folder).digests:
        raise UserError(f"{folder / FILE} holds no key; make one with `fugou merchant serve --new-key NAME`")
    if not service.names and not is_loopback(service.host):
        raise UserError(
            f"--host {service.host} can be reached from outside; say under which name with --name HOST, and put TLS in front"
        )
    os.environ.setdefault("OMP_NUM_THREADS", str(service.threads))
    import torch
    import uvicorn

    from client.serve.app import Parts, make_app
    from client.serve.counters import Counters
    from client.serve.live import Live

    torch.set_num_threads(service.threads)
    counters = Counters()
    live = Live(folder, counters.width.observe, counters.swaps.inc)
    hosts = tuple(dict.fromkeys(("127.0.0.1", "localhost", "[::1]", service.host, *service.names)))
    app = make_app(Parts(live, lambda: read_keys(folder), counters, Sessions(), hosts, service.rate, service.timeout))
    live.watch()
    announce(phrase(language(), "serving", host=service.host, port=service.port))
    try:
        uvicorn.run(
            app, host=service.host, port=service.port, log_level="warning", access_log=False, server_header=False, ws="none",
            timeout_keep_alive=30, limit_concurrency=512,
        )  # fmt: skip
    finally:
        live.close()


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
