"""What every request passes before it is answered: host, size, key, allowance; and the headers on every answer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from client.serve.counters import Counters
from client.serve.keys import Keys, Sessions
from client.serve.limits import Limits
from common.errors import UserError

LARGEST = 65_536
"""Bytes of a request's body."""

COOKIE = "fugou_session"
OPEN = ("/health", "/login", "/style.css", "/favicon.ico")
"""Paths that need no key."""

PAGES = ("/", "/login", "/logout", "/customer", "/docs", "/style.css")
"""Paths for a person's browser, opened by a session."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
"""The pages hold no script, so none is allowed; styles come from here."""

Answer = Callable[[Scope, Receive, Send], Awaitable[None]]


class Doors:
    """Lets a request in or answers it with a reason; counts it either way."""

    def __init__(
        self, app: ASGIApp, keys: Callable[[], Keys], sessions: Sessions, limits: Limits, counters: Counters,
        hosts: Collection[str], paths: Collection[str],
    ) -> None:  # fmt: skip
        self._app, self._keys, self._sessions = app, keys, sessions
        self._limits, self._counters = limits, counters
        self._hosts, self._paths = frozenset(hosts), frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, path = time.perf_counter(), scope["path"] if scope["path"] in self._paths else "other"
        with self._counters.busy.track_inprogress():
            await self._counted(scope, receive, send, path)
        self._counters.seconds.labels(path).observe(time.perf_counter() - start)

    async def _counted(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        body = _Measured(receive)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["status"] = 413 if body.too_large else message["status"]
                self._counters.requests.labels(path, str(message["status"])).inc()
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        headers = Headers(scope=scope)
        refused = self._refuse(scope, headers)
        if refused is not None:
            await refused(scope, receive, told)
        else:
            await self._app(scope, body, told)

    def _refuse(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        host = (
            headers.get("host", "").rsplit(":", 1)[0] if not headers.get("host", "").endswith("]") else headers["host"]
        )
        if host not in self._hosts:
            return problem(400, "this host name is not served here; start with --name HOST to allow it")
        size = headers.get("content-length", "0")
        if not size.isascii() or not size.isdecimal() or int(size[:12]) > LARGEST:
            return problem(413, f"the body is larger than {LARGEST} bytes; ask in smaller parts")
        if scope["path"] in OPEN:
            return self._slow("open", 1)
        who = self._who(scope, headers)
        if who is None:
            return self._unknown(scope)
        scope.setdefault("state", {})["who"] = who
        return self._slow(who, 1)

    def _who(self, scope: Scope, headers: Headers) -> str | None:
        """Return who asks: by key for the API, by session for the pages."""
        if scope["path"] in PAGES:
            return self._sessions.who(cookie_of(headers))
        scheme, _, key = headers.get("authorization", "").partition(" ")
        try:
            return self._keys().who(key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", ""))
        except UserError:
            return None  # a key file that cannot be read opens nothing

    def _unknown(self, scope: Scope) -> JSONResponse:
        if scope["path"] in PAGES:
            return JSONResponse({"detail": "log in first"}, 303, {"Location": "/login"})
        why = "no valid API key; send it as `Authorization: Bearer KEY`, make one with `fugou merchant serve --new-key NAME`"
        return problem(401, why, {"WWW-Authenticate": "Bearer"})

    def _slow(self, who: str, cost: int) -> JSONResponse | None:
        seconds = self._limits.wait(who, time.monotonic())
        if not seconds:
            return None
        after = str(max(1, round(seconds)))
        return problem(429, f"too many requests; ask again in {after} s", {"Retry-After": after})


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an answer that says in one line what was wrong."""
    return JSONResponse({"detail": detail}, status, headers)


def cookie_of(headers: Headers) -> str:
    """Return the session in a request's cookies, or nothing."""
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


class _Measured:
    """A body as it comes in; what is beyond `LARGEST` is cut off and noted, also where nobody said how long it is."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._seen = 0

    @property
    def too_large(self) -> bool:
        """Whether the body was longer than it may be."""
        return self._seen > LARGEST

    async def __call__(self) -> Message:
        """Return the next part of the body."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            if self.too_large:
                return {"type": "http.request", "body": b"", "more_body": False}
        return message
