"""Where the training process may connect to: the node beside it, the shop's own databases, and nowhere else by TCP.

Linux can take the right to open TCP connections away from a process for good, without any privilege (Landlock, kernel
6.7 and later; Salaün, "Landlock: unprivileged access control", docs.kernel.org/userspace-api/landlock.html). It knows
ports and no addresses, and says nothing of UDP: a second wall behind that of systemd or of a container's network, which
know both, and the only one where a node is started by hand.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable, Iterator

from client.config import MerchantSettings

CREATE, ADD, RESTRICT = 444, 445, 446
"""System calls landlock_create_ruleset, landlock_add_rule and landlock_restrict_self: the same on every architecture."""
BIND_TCP, CONNECT_TCP, NET_PORT, VERSION, NO_NEW_PRIVILEGES = 1, 2, 2, 1, 38
FIRST_WITH_TCP = 4
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "mssql": 1433, "oracle": 1521}
PORT = re.compile(r"^(?P<scheme>[a-z0-9]+)(\+[a-z0-9]+)?://[^/?]*?(:(?P<port>\d+))?(/|\?|$)")


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64))


class _Port(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


def can_confine() -> bool:
    """Return whether this system can limit the TCP connections of a process."""
    try:
        return bool(ctypes.CDLL(None).syscall(CREATE, None, 0, VERSION) >= FIRST_WITH_TCP)
    except (OSError, AttributeError):
        return False


def confine(ports: Iterable[int]) -> bool:
    """Take away this thread's right, and that of every thread and child to come, to connect by TCP but to `ports`.

    Also to listen on any. Returns whether it was done; raises OSError when the kernel refuses half-way.
    """
    if not can_confine():
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    rules = _Ruleset(0, BIND_TCP | CONNECT_TCP)
    handle = _called(libc.syscall(CREATE, ctypes.byref(rules), ctypes.sizeof(rules), 0))
    try:
        for port in ports:
            _called(libc.syscall(ADD, handle, NET_PORT, ctypes.byref(_Port(CONNECT_TCP, port)), 0))
        _called(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _called(libc.syscall(RESTRICT, handle, 0))
    finally:
        os.close(handle)
    return True


def _called(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result


def database_ports(settings: MerchantSettings) -> Iterator[int]:
    """Yield the port of every database that the shop's tables come from."""
    for _, source in settings.sources:
        found = PORT.match(source.url) if source and source.url else None
        if found and (port := int(found["port"] or DATABASE_PORTS.get(found["scheme"], 0))):
            yield port
