"""SQLite in this process; PostgreSQL and MariaDB as real servers on loopback where Debian's packages are installed."""

from __future__ import annotations

import contextlib
import gc
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from client.config import Source, load_merchant
from client.data.readers import database
from client.data.sources import Reading, read_table, scan
from common.errors import FugouError, Unreachable, UserError
from common.schema import Order

PASSWORD = "geh@im/茶 1"
ADMIN = "Admin-pass-1"
MANY = 200_000


@dataclass(frozen=True)
class Server:
    """A running server: kind, port and process; `admin` may write, `reader` is the address a merchant would give."""

    kind: str
    database: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def admin(self) -> str:
        driver = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}[self.kind]
        return f"{driver}://boss:{ADMIN}@127.0.0.1:{self.port}/{self.database}"

    def reader(self, query: str = "?table=orders", password: str = "${SHOP_PASSWORD}") -> str:
        return f"{self.kind}://reader:{password}@127.0.0.1:{self.port}/{self.database}{query}"

    def run(self, *statements: str) -> list[tuple[object, ...]]:
        """Return the rows of the last statement, run by the admin."""
        engine = sa.create_engine(self.admin, poolclass=NullPool)
        with engine.begin() as connection:
            for one in statements:
                result = connection.exec_driver_sql(one)
            return [tuple(row) for row in result] if result.returns_rows else []

    def count(self) -> int:
        return int(str(self.run("select count(*) from orders")[0][0]))

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def find(*names: str) -> dict[str, str]:
    """Return the paths of a server's programs, or skip the test where they are not installed."""
    folders = [
        *os.environ["PATH"].split(":"),
        "/usr/sbin",
        *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))),
    ]
    found = {name: shutil.which(name, path=":".join(folders)) for name in names}
    if missing := [name for name, path in found.items() if path is None]:
        pytest.skip(f"no {', '.join(missing)} here; Debian has them in the packages postgresql and mariadb-server")
    return {name: str(path) for name, path in found.items()}


def user_for(name: str) -> str | None:
    """Return the user to run a server as: it refuses root, so the package's own user stands in for root."""
    if os.geteuid():
        return None
    try:
        return pwd.getpwnam(name).pw_name
    except KeyError:
        pytest.skip(f"no user {name} to run a server as, and it will not run as root")


@contextmanager
def folder_for(user: str | None) -> Iterator[Path]:
    """Yield a folder that `user` owns and can reach; pytest's own can only be entered by who runs the tests."""
    folder = Path(tempfile.mkdtemp(prefix="fugou-"))
    if user:
        shutil.chown(folder, user)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def started(command: Sequence[str], folder: Path, user: str | None) -> subprocess.Popen[bytes]:
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, user=user, stdout=log, stderr=log, start_new_session=True)


def ready(server: Server, folder: Path) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            server.run("select 1")
            return
        except sa.exc.DBAPIError:
            assert server.process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.1)


@contextmanager
def postgresql() -> Iterator[Server]:
    programs = find("initdb", "postgres")
    user = user_for("postgres")
    with folder_for(user) as folder:
        secret, data, port = folder / "password", folder / "data", free_port()
        secret.write_text(ADMIN)
        make = [programs["initdb"], "-D", str(data), "-U", "boss", f"--pwfile={secret}", "-A", "scram-sha-256"]
        subprocess.run(
            [*make, "-N", "-E", "UTF8", "--locale=C"], check=True, capture_output=True, user=user, cwd=folder
        )
        options = (
            f"port={port} listen_addresses=127.0.0.1 unix_socket_directories={folder} fsync=off TimeZone=Etc/GMT+5"
        )
        command = [programs["postgres"], "-D", str(data), *(part for one in options.split() for part in ("-c", one))]
        with serving(Server("postgresql", "postgres", port, started(command, folder, user)), folder) as server:
            server.run(f"create user reader password '{PASSWORD}'", "grant all on schema public to reader")
            server.run("alter default privileges grant all on tables to reader")
            yield server


@contextmanager
def mariadb() -> Iterator[Server]:
    programs = find("mariadb-install-db", "mariadbd")
    user = user_for("mysql")
    with folder_for(user) as folder:
        data, port = folder / "data", free_port()
        make = [programs["mariadb-install-db"], "--no-defaults", f"--datadir={data}", "--skip-test-db"]
        subprocess.run(make, check=True, capture_output=True, user=user, cwd=folder)
        (folder / "init.sql").write_text(
            "create database shop character set utf8mb4;\n"
            f"create user boss@'127.0.0.1' identified by '{ADMIN}';\ngrant all on *.* to boss@'127.0.0.1';\n"
            f"create user reader@'127.0.0.1' identified by '{PASSWORD}';\ngrant all on shop.* to reader@'127.0.0.1';\n"
        )
        options: tuple[str, ...] = (
            "bind-address=127.0.0.1",
            f"socket={folder / 'socket'}",
            "skip-name-resolve",
            f"datadir={data}",
        )
        options += (
            f"port={port}",
            "default-time-zone=-05:00",
            f"init-file={folder / 'init.sql'}",
            f"pid-file={folder / 'pid'}",
        )
        command = [programs["mariadbd"], "--no-defaults", *(f"--{one}" for one in options)]
        with serving(Server("mysql", "shop", port, started(command, folder, user)), folder) as server:
            yield server


@contextmanager
def serving(server: Server, folder: Path) -> Iterator[Server]:
    """Yield the server once it answers, and end it afterwards."""
    try:
        end = time.monotonic() + 60
        while True:
            try:
                server.run("select 1")
                break
            except sa.exc.DBAPIError:
                assert server.process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.1)
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


SERVERS: dict[str, Callable[[], contextlib.AbstractContextManager[Server]]] = {
    "postgresql": postgresql,
    "mariadb": mariadb,
}


@pytest.fixture(scope="module", params=SERVERS)
def running(request: pytest.FixtureRequest) -> Iterator[Server]:
    with SERVERS[request.param]() as server:
        yield server


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server with three orders, one of them cancelled."""
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    fill(running)
    return running


def fill(server: Server) -> None:
    instant = {"postgresql": "timestamptz", "mysql": "timestamp null"}[server.kind]
    local = {"postgresql": "timestamp", "mysql": "datetime"}[server.kind]
    server.run(
        "drop table if exists orders",
        f"create table orders (customer_id varchar(64), order_time {local}, paid {instant}, item_id bigint, "
        "item_name text, quantity int, price numeric(10, 2), note text, 状态 varchar(20), phone varchar(20))",
        "insert into orders values "
        "('c1', '2026-01-03 09:05:00', '2026-01-03 01:05:00', 9007199254740993, '茉莉花茶', 2, 1234.50, "
        "'请打13800138000', '交易成功', '13900139000'), "
        "('c2', '2026-01-04 00:00:00', null, 7, '糯米糕', null, null, '100%% 好: :x', '交易成功', ''), "
        "('c3', '2026-01-05 00:00:00', null, 7, '糕', 1, 9, null, '交易关闭', '')",
    )


def fill_many(server: Server) -> None:
    digits = "(select 0 n union all select 1 union all select 2 union all select 3 union all select 4"
    digits += " union all select 5 union all select 6 union all select 7 union all select 8 union all select 9)"
    tables = ", ".join(f"{digits} d{n}" for n in range(5))
    server.run(
        "drop table if exists orders",
        "create table orders (customer_id varchar(64), order_time varchar(20), item_id varchar(20), note text)",
        f"insert into orders select 'c', '2026-01-03', 'S', '{'x' * 200}' from {tables}, (select 1 union all select 2) e",
    )


def source(address: str, **settings: object) -> Source:
    return Source.model_validate({"path": address, **settings})


def failure(where: Source) -> FugouError:
    with pytest.raises(FugouError) as caught:
        read_table(Order, where)
    message = str(caught.value)
    assert "\n" not in message
    assert PASSWORD not in message
    assert quote(PASSWORD, safe="") not in message
    return caught.value


def test_a_table_is_read_with_its_own_types_and_columns_that_are_not_wanted_are_not(server: Server) -> None:
    reading = Reading()
    rows = read_table(Order, source(server.reader()), reading)
    assert rows == [
        Order(
            customer_id="c1",
            order_time=datetime(2026, 1, 3, 9, 5),
            item_id="9007199254740993",
            item_name="茉莉花茶",
            quantity=2,
            price=1234.5,
            note="请打<手机>",
        ),
        Order(customer_id="c2", order_time=datetime(2026, 1, 4), item_id="7", item_name="糯米糕", note="100% 好: :x"),
    ]
    assert reading.excluded == {("orders", "cancelled"): 1}
    assert reading.problems == []


def test_an_instant_is_said_in_the_shops_zone_whatever_the_servers_zone_is(server: Server) -> None:
    where = source(server.reader(), columns={"order_time": "paid"}, max_bad=1)
    (row,) = read_table(Order, where)
    assert row.order_time == datetime(2026, 1, 3, 14, 5)
    assert read_table(Order, where.at("UTC"))[0].order_time == datetime(2026, 1, 3, 6, 5)


def test_a_query_stands_for_a_table(server: Server) -> None:
    query = "select customer_id as 会员号, order_time, item_id, '12:30' as note from orders where item_name like '%糕%' -- 好;"
    where = source(server.reader(""), query=f"{query}\n;", columns={"customer_id": "会员号"})
    assert [(row.customer_id, row.note) for row in read_table(Order, where)] == [("c2", "12:30"), ("c3", "12:30")]


@pytest.mark.parametrize(
    "query",
    [
        "delete from orders",
        "with gone as (delete from orders returning *) select * from gone",
        "select * from orders) as x; delete from orders; commit; --",
        "select customer_id, order_time, item_id from orders where drain() > 0",
    ],
)
def test_a_query_that_writes_is_refused_and_nothing_is_written(server: Server, query: str) -> None:
    body = {
        "postgresql": "create or replace function drain() returns int language sql as 'delete from more; select 1'",
        "mysql": "create or replace function drain() returns int begin delete from more; return 1; end",
    }
    server.run("drop table if exists more", "create table more (a int)", "insert into more values (1)")
    server.run(body[server.kind])
    error = failure(source(server.reader(""), query=query))
    assert isinstance(error, UserError)
    assert "127.0.0.1" in str(error)
    assert server.count() == 3
    assert server.run("select * from more") == [(1,)]


def test_a_session_cannot_write_even_outside_its_transaction(server: Server) -> None:
    url = database._understand(server.reader(), "")[0]
    with closing(database._Session(url)) as session:
        session._run("commit")
        with pytest.raises(sa.exc.DBAPIError, match=r"(?i)read.only"):
            session._run("delete from orders")
    assert server.count() == 3


def test_what_others_write_meanwhile_is_not_seen(server: Server) -> None:
    fill_many(server)
    batches = scan(Order, source(server.reader()))
    first = next(batches)
    server.run(
        "delete from orders where customer_id = 'c'", "insert into orders values ('late', '2026-01-03', 'S', '')"
    )
    rest = list(batches)
    assert first.rows + sum(batch.rows for batch in rest) == MANY
    assert not any((batch.frame["customer_id"] == "late").any() for batch in rest)


def test_a_reader_that_stops_half_way_hangs_up_at_once(server: Server) -> None:
    fill_many(server)
    batches = scan(Order, source(server.reader()))
    next(batches)
    started = time.monotonic()
    batches.close()  # type: ignore[attr-defined]
    gc.collect()
    assert time.monotonic() - started < 5
    server.run("drop table orders")


def test_what_does_not_answer_or_does_not_let_in_is_unreachable(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = failure(source(server.reader(password="wrong-but-secret")))
    assert isinstance(error, Unreachable)
    assert error.exit_code == 5
    assert "wrong-but-secret" not in str(error)
    assert "check address, user and password" in str(error)
    closed = source(f"{server.kind}://reader:x@127.0.0.1:{free_port()}/shop?table=orders")
    assert isinstance(failure(closed), Unreachable)
    monkeypatch.delenv("SHOP_PASSWORD")
    assert "the environment has no SHOP_PASSWORD" in str(failure(source(server.reader())))


def test_a_table_or_column_that_is_not_there_is_the_merchants_to_correct(server: Server) -> None:
    missing = failure(source(server.reader("?table=order")))
    assert isinstance(missing, UserError)
    assert "order" in str(missing)
    assert "no column for customer_id (卡)" in str(failure(source(server.reader(), columns={"customer_id": "卡"})))


def test_a_lock_that_another_holds_is_waited_for_and_then_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 1)
    statement = {"postgresql": "lock table orders in access exclusive mode", "mysql": "lock tables orders write"}
    engine = sa.create_engine(server.admin, poolclass=NullPool)
    with engine.begin() as holder:
        holder.exec_driver_sql(statement[server.kind])
        assert isinstance(failure(source(server.reader())), Unreachable)
    assert len(read_table(Order, source(server.reader()))) == 2


def test_settings_in_a_folder_name_a_database(server: Server, tmp_path: Path) -> None:
    (tmp_path / "merchant.toml").write_text(
        f'[merchant]\nid = "tea"\n[sources]\norders = "{server.reader()}"\nproducts = "p.csv"\n', "utf-8"
    )
    orders = load_merchant(tmp_path).sources.orders
    assert len(read_table(Order, orders)) == 2


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_dies_half_way_is_one_line_and_gives_no_half_table(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    with SERVERS[name]() as server:
        fill_many(server)
        batches = scan(Order, source(server.reader()))
        assert next(batches).rows == 65_536
        server.kill()
        with pytest.raises(Unreachable, match=r"broke off after row \d+, and nothing of it was kept") as caught:
            list(batches)
        assert caught.value.exit_code == 5
        assert PASSWORD not in str(caught.value)
        del batches
        gc.collect()


# SQLite, and addresses.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "shop db.sqlite")) as connection:
        connection.execute("create table orders (customer_id, order_time, item_id, 单价, note)")
        rows = (("c1", "2026-01-03", 1, 9.5, "茶"), ("c2", 1767423900, "S2", "¥1,000", b"\xe8\x8c\xb6"))
        connection.executemany("insert into orders values (?, ?, ?, ?, ?)", rows)
        connection.commit()
    return tmp_path / "shop db.sqlite"


def test_sqlite_is_read_whatever_types_its_cells_have(file: Path) -> None:
    rows = read_table(Order, source(f"sqlite:///{file}?table=orders"))
    assert [(row.customer_id, row.order_time, row.item_id, row.price, row.note) for row in rows] == [
        ("c1", datetime(2026, 1, 3), "1", 9.5, "茶"),
        ("c2", datetime(2026, 1, 3, 15, 5), "S2", 1000, "茶"),
    ]


def test_a_relative_sqlite_file_lies_in_the_merchants_folder(file: Path) -> None:
    toml = '[merchant]\nid = "tea"\n[sources]\norders = "sqlite:///shop db.sqlite?table=orders"\nproducts = "p.csv"\n'
    (file.parent / "merchant.toml").write_text(toml, "utf-8")
    assert len(read_table(Order, load_merchant(file.parent).sources.orders)) == 2
    (file.parent / "merchant.toml").write_text(toml.replace("shop db", "../shop db"), "utf-8")
    with pytest.raises(UserError, match="leads out of the merchant's folder"):
        load_merchant(file.parent)


def test_sqlite_is_opened_without_the_right_to_write(file: Path) -> None:
    before = file.read_bytes()
    error = failure(source(f"sqlite:///{file}", query="select * from orders); delete from orders; --"))
    assert isinstance(error, UserError)
    session = database._Session(sa.engine.make_url(f"sqlite:///{file}"))
    with closing(session), pytest.raises(sa.exc.OperationalError, match="readonly"):
        session._run("pragma query_only = off", "delete from orders")
    assert file.read_bytes() == before


def test_a_locked_sqlite_file_is_unreachable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.1)
    with closing(sqlite3.connect(file, isolation_level=None)) as holder:
        holder.execute("begin exclusive")
        error = failure(source(f"sqlite:///{file}?table=orders"))
    assert isinstance(error, Unreachable)
    assert "locked" in str(error)


def test_text_that_is_not_utf8_in_sqlite_is_told(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("insert into orders values ('c3', '2026-01-04', 'S', 1, cast(x'b2e8' as text))")
        connection.commit()
    reading = Reading()
    assert len(read_table(Order, source(f"sqlite:///{file}?table=orders"), reading)) == 3
    assert [one.kind for one in reading.problems] == ["encoding"]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("oracle://u:p@h/db?table=orders", "no way to read 'oracle'; known: sqlite, postgresql"),
        ("postgresql://u:p@h/db", "say what to read, with ?table="),
        ("http://u:p@h/orders.csv?table=x", "no way to read 'http'"),
        ("sqlite:///none.db?table=orders", "no such file"),
        ("postgresql://[::1/db?table=orders", "no URL"),
    ],
)
def test_an_address_that_makes_no_sense_says_what_would(address: str, words: str) -> None:
    error = failure(source(address))
    assert isinstance(error, UserError)
    assert words in str(error)
    assert ":p@" not in str(error)


def test_a_secret_among_the_options_is_not_shown_either() -> None:
    url = sa.engine.make_url("postgresql://u@h/db?password=hush&sslkey=hush&table=orders")
    assert "hush" not in database.shown(url)
    assert "table=orders" in database.shown(url)


def test_what_a_driver_says_of_a_password_is_not_passed_on() -> None:
    spellings = (PASSWORD, quote(PASSWORD), quote(PASSWORD, safe=""), repr(PASSWORD))
    for error in (ValueError(f"bad {one}\nfor u") for one in spellings):
        assert "***" in database._one_line(error, PASSWORD)
        assert not any(one in database._one_line(error, PASSWORD) for one in ("geh", "%E8%8C", "\n"))
