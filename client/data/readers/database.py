"""SQL over SQLAlchemy: SQLite, PostgreSQL, MySQL and MariaDB, read-only and streamed.

Only the wanted columns are selected, by one statement, so that all rows are of one moment. Nothing can be written: the
session says so to the server, and a SQLite file is opened without the right to write. The password comes with the URL
or, better, from the environment (`${NAME}`), and appears in no message.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from client.data.readers.files import check_file
from client.data.readers.records import PIECE, Piece, Records, column_of
from common.errors import Unreachable, UserError

CONNECT_SECONDS, LOCK_SECONDS, SILENT_SECONDS = 10, 30, 600
"""How long to wait for an answer to a connection, for a lock that another holds, and for the next rows."""

AT_ONCE, PIECE_CHARACTERS = 4096, 1 << 24
"""Rows that are fetched together, and the characters at which a piece is handed on."""

DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
VARIABLE = re.compile(r"\$\{(\w+)\}")
A_SELECT = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:select|with)\b", re.I | re.S)
NO_PARAMETER = re.compile(r"(?<![:\w\\]):(?=\w+(?!:))")

BEFORE = {
    "sqlite": ("PRAGMA query_only = ON",),
    **dict.fromkeys(("mysql", "mariadb"), ("SET SESSION TRANSACTION READ ONLY", "SET SESSION time_zone = '+00:00'")),
}
"""What a session begins with; PostgreSQL is told when it is connected to."""

BACKSLASH_COLON = r"\\:"
MYSQL_TIMESTAMP = 7

AWAY = ("08", "28", "53", "55", "57", "58")
"""Classes of SQLSTATE that speak of the server and not of the question: connection, access, resources, shutdown."""

MYSQL_AWAY = frozenset((1040, 1044, 1045, 1053, 1129, 1130, 1203, 1205, 1226, 1698, 1927, 3024))
SQLITE_AWAY = frozenset((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN))


def open_database(address: str, query: str = "") -> Records:
    """Return the records of a table (`?table=orders` in the address) or of a `select`.

    Raises `UserError` for an address, table or query that makes no sense, `Unreachable` for a server that does not answer.
    """
    url, name, table = _understand(address, query)
    secret = str(url.password or "")
    with _told(name, "cannot be read", secret):
        session = _Session(url)
    try:
        with _told(name, "cannot be read", secret):
            header = session.header(table, query)
    except BaseException:
        session.close()
        raise
    return Records(name, "row", header, partial(_pieces, name, session, secret), session.close)


def _pieces(name: str, session: _Session, secret: str, wanted: Sequence[int]) -> Iterator[Piece]:
    """Yield the wanted columns piece by piece."""
    start = 1
    parts = session.rows(wanted)
    while True:
        with _told(name, f"broke off after row {start - 1}, and nothing of it was kept", secret):
            columns = _gather(parts, len(wanted))
        height = len(columns[0])
        if not height:
            return
        cells = pl.DataFrame([session.column(n, place, columns[n]) for n, place in enumerate(wanted)])
        yield Piece(cells, pl.int_range(start, start + height, dtype=pl.Int64, eager=True))
        start += height


def _gather(parts: Iterator[Sequence[Sequence[object]]], width: int) -> list[list[object]]:
    """Return the cells of the next piece by column, as many parts as it may hold."""
    columns: list[list[object]] = [[] for _ in range(width)]
    size = 0
    for part in parts:
        for column, cells in zip(columns, zip(*part, strict=True), strict=True):
            column.extend(cells)
            size += _characters(cells)
        if len(columns[0]) > PIECE - AT_ONCE or size > PIECE_CHARACTERS:
            break
    return columns


def _characters(cells: Sequence[object]) -> int:
    """Return how long the texts among the cells are together."""
    kinds = set(map(type, cells))
    if kinds & {str, bytes}:
        return sum(len(cell) for cell in cells if isinstance(cell, (str, bytes)))
    return 0


def _understand(address: str, query: str) -> tuple[URL, str, str]:
    """Return the address with driver and secrets, its name in messages, and the table's, if it is one."""
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise UserError(
            "[sources]: an address that is no URL; write it as postgresql://user:${PASSWORD}@host/name?table=orders"
        ) from None
    name = shown(url)
    backend = url.drivername
    if backend not in DRIVERS and backend not in DRIVERS.values():
        raise UserError(f"{name}: no way to read {backend!r}; known: {', '.join(DRIVERS)}")
    table = url.query.get("table", "")
    if not isinstance(table, str) or bool(table) == bool(query):
        raise UserError(
            f'{name}: say what to read, with ?table=… in the address or with query = "select …", one of them'
        )
    if query and not A_SELECT.match(query):
        raise UserError(f"{name}: query = {query[:60]!r} is no select; a source is only ever read")
    url = url.difference_update_query(["table"]).set(drivername=DRIVERS.get(backend, backend))
    return _with_secrets(url, name), name, table


def _with_secrets(url: URL, name: str) -> URL:
    """Return the address with every `${NAME}` taken from the environment."""

    def secret(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise UserError(f"{name}: the environment has no {match[1]}; set it before fugou starts")
        return os.environ[match[1]]

    def filled(part: str | None) -> str | None:
        return VARIABLE.sub(secret, part) if part else part

    return url.set(
        username=filled(url.username),
        password=filled(str(url.password)) if url.password else None,
        host=filled(url.host),
        database=filled(url.database),
    )


def shown(address: str | URL) -> str:
    """Return an address as a message may show it: no password, neither at its place nor among the options."""
    url = make_url(address)
    hidden = {
        key: "***" for key in url.query if "pass" in key.lower() or "secret" in key.lower() or "key" in key.lower()
    }
    return url.update_query_dict(hidden).render_as_string(hide_password=True) if hidden else url.render_as_string()


def _engine(url: URL) -> sa.Engine:
    """Return an engine whose every session can only read."""
    name, options = url.get_backend_name(), {}
    query = dict(url.query)
    if name == "sqlite":
        file = Path(url.database or "")
        check_file(file)
        target = f"file:{quote(str(file.resolve()))}?mode=ro"

        def opened() -> sqlite3.Connection:
            connection = sqlite3.connect(target, uri=True, timeout=LOCK_SECONDS)
            connection.text_factory = partial(str, encoding="utf-8", errors="replace")
            return connection

        return sa.create_engine("sqlite+pysqlite://", creator=opened, poolclass=NullPool)
    if name == "postgresql":
        options = {
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "fugou",
            "tcp_user_timeout": SILENT_SECONDS * 1000,
        }
        options["options"] = f"-c default_transaction_read_only=on -c lock_timeout={LOCK_SECONDS}s"
    else:
        options = {"connect_timeout": CONNECT_SECONDS, "read_timeout": SILENT_SECONDS}
        options["init_command"] = f"SET SESSION lock_wait_timeout = {LOCK_SECONDS}"
        query.setdefault("charset", "utf8mb4")
        options |= {"password": str(url.password).encode()} if url.password else {}  # as text it would go as Latin-1
    return sa.create_engine(url.set(query=query), connect_args=options, poolclass=NullPool)


class _Session:
    """A connection that can only read."""

    def __init__(self, url: URL) -> None:
        self.backend = url.get_backend_name()
        self.result: sa.CursorResult[Any] | None = None
        self.unread: Any = None
        self.connection = _engine(url).connect()
        try:
            self._run(*BEFORE.get(self.backend, ()))
        except BaseException:
            self.close()
            raise

    def _run(self, *statements: str) -> None:
        for one in statements:
            self.connection.exec_driver_sql(one)

    def header(self, table: str, query: str) -> list[str]:
        """Return the names of the columns; only their names are asked for."""
        schema, _, name = table.rpartition(".")
        whole: Any = sa.table(name, schema=schema or None)
        if query:
            whole = sa.text(f"({NO_PARAMETER.sub(BACKSLASH_COLON, query.strip().rstrip(';'))}) AS fugou")
        result = self.connection.execute(sa.select(sa.text("*")).select_from(whole).where(sa.false()))
        self.whole, self.names = whole, list(result.keys())
        self.instants = _instants(result) if self.backend in ("mysql", "mariadb") else frozenset()
        result.close()
        return self.names

    def rows(self, wanted: Sequence[int]) -> Iterator[Sequence[Sequence[object]]]:
        """Yield the rows of the wanted columns, some at a time, as they come."""
        columns: list[sa.Label[Any]] = [sa.column(self.names[place]).label(f"c{n}") for n, place in enumerate(wanted)]
        select = sa.select(*columns).select_from(self.whole)
        options = {"stream_results": True, "yield_per": AT_ONCE}
        self.result = self.connection.execute(select, execution_options=options)
        self.unread = getattr(self.result.cursor, "_result", None)
        yield from self.result.partitions()

    def column(self, n: int, place: int, cells: Sequence[object]) -> pl.Series:
        """Return the cells of one column; what the server keeps as an instant says so."""
        column = column_of(str(n), cells)
        if place in self.instants and isinstance(column.dtype, pl.Datetime):
            return column.dt.replace_time_zone("UTC")
        return column

    def close(self) -> None:
        """Hang up at once; a server that is gone need not hear of it."""
        if self.unread is not None:  # pymysql would wait for every row that was asked for, also from a dead server
            self.unread.unbuffered_active = False
            self.connection.invalidate()
        for one in (self.result, self.connection):
            with suppress(SQLAlchemyError, OSError):
                if one is not None:
                    one.close()


def _instants(result: sa.CursorResult[Any]) -> frozenset[int]:
    """Return which columns are MySQL's TIMESTAMP: an instant, said in the session's zone, which is UTC here."""
    described = result.cursor.description if result.cursor else ()
    return frozenset(place for place, one in enumerate(described or ()) if one[1] == MYSQL_TIMESTAMP)


@contextmanager
def _told(name: str, what: str, secret: str) -> Iterator[None]:
    """Turn what driver or server says into one line without `secret`: `Unreachable` where it is the server that fails."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"{name}: {error}; get the drivers with: pip install 'fugou[databases]'") from None
    except DBAPIError as error:
        reason = _one_line(error.orig, secret)
        if _is_away(error.orig):
            raise Unreachable(
                f"{name}: {what}: {reason}; check address, user and password, and that the server runs"
            ) from None
        raise UserError(f"{name}: {what}: {reason}; correct [sources] in merchant.toml") from None
    except (SQLAlchemyError, ValueError) as error:
        raise UserError(f"{name}: {what}: {_one_line(error, secret)}; correct [sources] in merchant.toml") from None


def _is_away(error: object) -> bool:
    """Return whether a driver's error speaks of server, network or access, and not of the question that was asked."""
    if isinstance(error, sqlite3.Error):
        return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in SQLITE_AWAY
    args: tuple[object, ...] = getattr(error, "args", ())
    if args and isinstance(args[0], int):  # pymysql's numbers; those from 2000 to 2999 are the client's own
        return args[0] in MYSQL_AWAY or 2000 <= args[0] < 3000 or args[0] == 0
    state = getattr(error, "sqlstate", None)  # psycopg's; none where no server was there to say it
    return str(state)[:2] in AWAY if state else True


def _one_line(error: object, secret: str) -> str:
    """Return a driver's message on one line, without the password in any spelling; pymysql's come behind a number."""
    args: tuple[object, ...] = getattr(error, "args", ())
    text = str(args[1] if len(args) == 2 and isinstance(args[0], int) else error)
    for spelling in (secret, quote(secret), quote(secret, safe=""), repr(secret)[1:-1]) if secret else ():
        text = text.replace(spelling, "***")
    return " ".join(text.split())[:240]
