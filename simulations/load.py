"""The bench `serve`: a real `fugou merchant serve` in a process of its own, asked over HTTP as a busy shop would ask.

Requests leave at fixed times whether or not earlier ones have been answered (an open loop): a service that falls behind
is seen to fall behind.
"""

from __future__ import annotations

import csv
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
from pydantic import Field

from client.serve.keys import make_key
from common.config import Settings
from common.errors import Unreachable

START = 300.0
"""Seconds that a service may take to answer first."""

CLIENTS = 32
TENTHS = 10
COMMAND = (sys.executable, "-c", "from common.cli import main; main()")
MIX = ("recommend", "recommend", "recommend", "profile", "profile", "reply", "reviews", "copy", "describe", "recommend")
"""Ten requests of a mixed minute, in turn."""

KINDS = ("乌龙", "红茶", "绿茶", "白茶", "普洱", "花茶", "酥饼", "坚果", "蜜饯", "肉松")
ORIGINS = ("福建", "浙江", "云南", "安徽", "广西", "湖南", "四川", "贵州", "江西", "台湾")
STYLES = ("清香", "浓香", "桂花", "茉莉", "陈皮", "玫瑰", "糯香", "蜜香", "原味", "礼盒")


class Serve(Settings):
    """How large the shop is, how long and how hard it is asked."""

    base: str = Field("default", description="base model of the service")
    items: Annotated[int, Field(ge=1, le=1000)] = Field(
        500, description="items in the catalogue, all of them candidates"
    )
    customers: Annotated[int, Field(ge=1)] = Field(300, description="customers of the shop")
    alone: Annotated[int, Field(ge=1)] = Field(200, description="requests for recommendations, one after another")
    copies: Annotated[int, Field(ge=1)] = Field(50, description="requests for copy, one after another")
    seconds: Annotated[float, Field(gt=0)] = Field(600.0, description="length of the mixed load")
    rate: Annotated[float, Field(gt=0, le=500)] = Field(20.0, description="mixed requests a second")
    threads: Annotated[int, Field(ge=1)] = Field(2, description="threads of torch in the service")


@dataclass(frozen=True)
class Part:
    """One part of the load: its wall and processor seconds, peak memory in MiB, and what was measured."""

    name: str
    wall: float
    cpu: float
    peak: float
    facts: Mapping[str, float | int | str]


@dataclass(frozen=True)
class Told:
    """One request: which verb, when it should have left, seconds from then to the answer, and the status."""

    verb: str
    at: float
    seconds: float
    status: int


def parts(settings: Serve, folder: Path, tell: Callable[[str], None]) -> Iterator[Part]:
    """Yield the parts of the load: recommendations alone, copy alone, and the mixed load, on one service."""
    shop = write_shop(folder / "shop", settings)
    key = make_key(shop, "load")
    names = [f"c{number:05d}" for number in range(settings.customers)]
    with running(shop, settings.threads) as (port, service):
        tell(f"serve: {settings.items} items, {settings.customers} customers, {settings.rate:g} requests a second")
        asker = Asker(port, key, names, settings.items)
        yield _part("recommend alone", service, lambda: one_by_one(asker, "recommend", settings.alone))
        yield _part("copy alone", service, lambda: one_by_one(asker, "copy", settings.copies))
        yield _part(
            f"mixed, {settings.seconds:g} s",
            service,
            lambda: mixed(asker, settings.seconds, settings.rate),
            steady=settings.seconds,
        )


def write_shop(folder: Path, settings: Serve) -> Path:
    """Write a shop of made-up goods and customers, the same every time, and return its folder."""
    folder.mkdir(parents=True)
    items = [
        (f"S{number:04d}", f"{STYLES[number % 10]}{ORIGINS[number // 10 % 10]}{KINDS[number // 100]}", number)
        for number in range(settings.items)
    ]
    _write(folder / "products.csv", ("item_id", "name", "category", "price", "attributes"), [
        (item, name, KINDS[number // 100], 20 + number % 80, f"产地#{ORIGINS[number // 10 % 10]}*规格#{100 + number % 5 * 50}g")
        for item, name, number in items
    ])  # fmt: skip
    random = np.random.Generator(np.random.Philox(1))
    day = datetime(2026, 1, 1, 10)
    orders = []
    for customer in range(settings.customers):
        liked = random.integers(0, settings.items, 6)
        for number in range(8):
            item, name, price = items[int(liked[int(random.integers(0, 6))])]
            when = day + timedelta(days=int(customer % 14 + number * 14 + random.integers(0, 5)))
            orders.append((f"c{customer:05d}", when.isoformat(" "), item, name, 1, 20 + price % 80))
    _write(folder / "orders.csv", ("customer_id", "order_time", "item_id", "item_name", "quantity", "price"), orders)
    asked = [
        ("茶怎么泡", "开水冲下去等三分钟就好。"),
        ("能开发票吗", "可以，下单时备注抬头就行。"),
        ("礼盒怎么选", "备注礼盒，我们会放手提袋。"),
    ]
    _write(folder / "dialogs.csv", ("dialog_id", "customer_id", "time", "question", "answer"), [
        (f"D{place}", "c00000", "2026-01-05 10:00", question, answer) for place, (question, answer) in enumerate(asked)
    ])  # fmt: skip
    (folder / "merchant.toml").write_text(
        f'[merchant]\nid = "load"\nname = "试茶铺"\nlang = "zh"\n[sources]\norders = "orders.csv"\nproducts = "products.csv"\n'
        f'dialogs = "dialogs.csv"\n[model]\nbase = "{settings.base}"\n',
        "utf-8",
    )
    return folder


def _write(file: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([header, *rows])


@contextmanager
def running(folder: Path, threads: int) -> Iterator[tuple[int, Any]]:
    """Yield the port and the process of a service of `folder`, and end it; raise `Unreachable` if it never answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--threads", str(threads), "--rate", "1000", "--timeout", "60"]
    log = folder / "serve.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*COMMAND, "merchant", "--dir", str(folder), "serve", *options], stdout=out, stderr=out, env=os.environ
        )
    try:
        until = time.monotonic() + START
        while not answers(port):
            if process.poll() is not None or time.monotonic() > until:
                said = log.read_text("utf-8", "replace").strip().splitlines() or ["nothing"]
                raise Unreachable(f"the service on port {port} does not answer; it said: {said[-1]}")
            time.sleep(0.2)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def answers(port: int) -> bool:
    """Return whether a service answers on `port`."""
    try:
        return Asker(port, "", (), 0).get("/health") == 200
    except OSError:
        return False


class Asker:
    """Asks a service; the n-th request of a verb is always the same."""

    def __init__(self, port: int, key: str, customers: Sequence[str], items: int) -> None:
        self.port, self._key, self._customers, self._items = port, key, customers, items

    def get(self, path: str) -> int:
        """Return the status of a plain request."""
        return self._send("GET", path, None)

    def ask(self, verb: str, number: int) -> int:
        """Return the status of the `number`-th request of `verb`."""
        return self._send("POST", f"/{verb}", self.body(verb, number))

    def body(self, verb: str, number: int) -> dict[str, Any]:
        """Return what the `number`-th request of `verb` says."""
        customer, item = self._customers[number % len(self._customers)], f"S{number * 7 % self._items:04d}"
        bodies: dict[str, dict[str, Any]] = {
            "recommend": {"customer": customer, "k": 10},
            "copy": {"customer": customer, "n": 3, "seed": number},
            "describe": {"product": item, "n": 2, "seed": number},
            "profile": {"customer": customer},
            "reviews": {"texts": ["茶很香，就是罐子压坏了，客服回复也快"]},
            "reply": {"question": "请问茶怎么泡比较好"},
        }
        return bodies[verb]

    def _send(self, method: str, path: str, body: Any) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        try:
            data = None if body is None else json.dumps(body).encode()
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()


def one_by_one(asker: Asker, verb: str, count: int) -> list[Told]:
    """Return `count` requests of one verb, each sent when the one before is answered; one more before warms up."""
    asker.ask(verb, count)
    found = []
    for number in range(count):
        start = time.perf_counter()
        status = asker.ask(verb, number)
        found.append(Told(verb, start, time.perf_counter() - start, status))
    return found


def mixed(asker: Asker, seconds: float, rate: float) -> list[Told]:
    """Return the requests of `MIX` in turn, `rate` of them a second for so many seconds, each timed from when it was due."""
    start = time.perf_counter()

    def send(number: int) -> Told:
        due = start + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        verb = MIX[number % len(MIX)]
        try:
            status = asker.ask(verb, number)
        except OSError:
            status = 0
        return Told(verb, due, time.perf_counter() - due, status)

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(send, range(max(1, round(seconds * rate)))))


def facts_of(found: Sequence[Told]) -> dict[str, float | int | str]:
    """Return how many requests there were, how many failed, and p50 and p99 in ms by verb.

    >>> facts_of([Told("copy", 0.0, 0.1, 200), Told("copy", 1.0, 0.3, 503)])
    {'requests': 2, 'errors': 1, 'copy p50 ms': 200.0, 'copy p99 ms': 298.0}
    """
    by_verb: dict[str, list[float]] = defaultdict(list)
    for one in found:
        by_verb[one.verb].append(1000 * one.seconds)
    statuses = Counter(one.status for one in found)
    facts: dict[str, float | int | str] = {"requests": len(found), "errors": len(found) - statuses[200]}
    for verb, millis in sorted(by_verb.items()):
        p50, p99 = np.quantile(millis, [0.5, 0.99])
        facts |= {f"{verb} p50 ms": round(float(p50), 1), f"{verb} p99 ms": round(float(p99), 1)}
    return facts


def _part(name: str, service: psutil.Process, work: Callable[[], list[Told]], steady: float = 0.0) -> Part:
    """Return one part; where it is to be steady for so many seconds, with the service's memory at every tenth of them."""
    before, cpu, start = service.memory_info().rss, sum(service.cpu_times()[:2]), time.perf_counter()
    with _watched(service, steady / TENTHS) as seen:
        found = work()
    seen = [before, *seen, service.memory_info().rss]
    facts = facts_of(found)
    if steady:
        facts |= {"MiB at every tenth": " ".join(f"{one / 2**20:.0f}" for one in seen)}
    wall = time.perf_counter() - start
    return Part(name, wall, sum(service.cpu_times()[:2]) - cpu, max(seen) / 2**20, facts)


@contextmanager
def _watched(service: psutil.Process, pause: float) -> Iterator[list[int]]:
    """Yield a list that grows by the service's resident bytes after every `pause` seconds, nine times; never where it is 0."""
    seen: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while len(seen) < TENTHS - 1 and not over.wait(pause):
            seen.append(service.memory_info().rss)

    watcher = threading.Thread(target=watch)
    if pause:
        watcher.start()
    try:
        yield seen
    finally:
        over.set()
        if pause:
            watcher.join()
