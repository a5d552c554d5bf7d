"""The training process connects to nothing but what it needs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest

from client.config import MerchantSettings, Source
from client.confine import can_confine, confine, database_ports

EXAMPLE = {"merchant": {"id": "tea"}, "sources": {"orders": "orders.csv", "products": "products.csv"}}


def in_child(work: Callable[[], None]) -> int:
    """Return the exit code of a child that does `work`: 0, 13 where the kernel forbids it, 1 for anything else."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except PermissionError as error:
            code = error.errno or 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def ports() -> tuple[socket.socket, socket.socket]:
    """Two sockets of loopback that listen."""
    pair = socket.socket(), socket.socket()
    for one in pair:
        one.bind(("127.0.0.1", 0))
        one.listen()
    return pair


def test_a_confined_process_reaches_the_named_port_alone(ports: tuple[socket.socket, socket.socket]) -> None:
    if not can_confine():
        pytest.skip("this kernel has no Landlock for TCP (6.7 and later)")
    allowed, other = (one.getsockname()[1] for one in ports)

    def connect(port: int) -> None:
        assert confine([allowed])
        socket.create_connection(("127.0.0.1", port), 5).close()

    def listen() -> None:
        assert confine([allowed])
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))

    assert in_child(lambda: connect(allowed)) == 0
    assert in_child(lambda: connect(other)) == 13
    assert in_child(listen) == 13
    socket.create_connection(("127.0.0.1", other), 5).close()
    for one in ports:
        one.close()


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("postgresql://u:p@db.example/shop?table=orders", [5432]),
        ("postgresql+psycopg://u:p@db.example:6000/shop?table=orders", [6000]),
        ("mysql+pymysql://u@db/shop?table=orders", [3306]),
        ("sqlite:///orders.db?table=orders", []),
    ],
)
def test_the_shops_own_databases_stay_reachable(url: str, port: list[int]) -> None:
    settings = MerchantSettings.model_validate(EXAMPLE)
    source = Source.model_validate({"path": url})
    sources = settings.sources.model_copy(update={"orders": source})
    assert list(database_ports(settings.model_copy(update={"sources": sources}))) == port
