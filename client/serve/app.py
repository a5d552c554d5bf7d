"""The HTTP API: one path a verb, each a thin door to the desk. Bad input is answered with a reason, in one line.

Every answer is worked out in a thread; one that takes longer than allowed is answered with 503, and one that arrives
when too many wait already is turned away at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from client.serve import shapes
from client.serve.console import add_console
from client.serve.counters import Counters
from client.serve.doors import Doors, problem
from client.serve.keys import Keys, Sessions
from client.serve.limits import Limits
from client.serve.live import Live
from client.use.copywriter import Copy
from client.use.desk import Desk, campaign
from client.use.label import LABELS, metadata
from client.use.verbs import DEFAULT_CHANNEL
from common.errors import UserError

T = TypeVar("T")
WORKERS = 4
WAITING = 64
"""Requests that may wait for a worker; more are turned away."""

ABOUT = "What one shop's desk answers over HTTP. Every path but /health needs a key: `Authorization: Bearer KEY`."
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": shapes.Problem, "description": "The request cannot be read."},
    401: {"model": shapes.Problem, "description": "No valid key."},
    404: {"model": shapes.Problem, "description": "No such customer or product."},
    413: {"model": shapes.Problem, "description": "The body is too large."},
    422: {"model": shapes.Problem, "description": "A field is missing, unknown or out of range."},
    429: {"model": shapes.Problem, "description": "Too many requests."},
    503: {"model": shapes.Problem, "description": "Too busy, or it took too long."},
}


@dataclass(frozen=True)
class Parts:
    """What a service is made of."""

    live: Live
    keys: Callable[[], Keys]
    counters: Counters
    sessions: Sessions
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
    rate: float = 40.0
    timeout: float = 10.0


def make_app(parts: Parts) -> FastAPI:
    """Return the service as an ASGI application."""
    app = FastAPI(
        title="fugou", version="1", description=ABOUT, docs_url=None, redoc_url=None, openapi_url="/openapi.json",
        responses=PROBLEMS, separate_input_output_schemas=False,
    )  # fmt: skip
    work = _worker(parts)
    _add_words(app, parts, work)
    _add_customers(app, parts, work)
    _add_watch(app, parts)
    add_console(app, parts.live, parts.keys, parts.sessions, work)
    _add_problems(app)
    paths = [route.path for route in app.routes if hasattr(route, "path")]
    app.add_middleware(
        Doors, keys=parts.keys, sessions=parts.sessions, limits=Limits(parts.rate), counters=parts.counters,
        hosts=parts.hosts, paths=paths,
    )  # fmt: skip
    return app


class TooLong(Exception):
    """An answer took longer than allowed, or too many wait already."""


def _worker(parts: Parts) -> Callable[..., Any]:
    """Return what runs a question in a thread, within the time allowed."""
    limiter: list[CapacityLimiter] = []

    async def work(ask: Callable[[Desk], T]) -> T:
        if not limiter:
            limiter.append(CapacityLimiter(WORKERS))
        if limiter[0].statistics().tasks_waiting >= WAITING:
            raise TooLong("too many requests wait already; ask again in a moment")
        desk = parts.live.desk
        try:
            with anyio.fail_after(parts.timeout):
                return await to_thread.run_sync(lambda: ask(desk), abandon_on_cancel=True, limiter=limiter[0])
        except TimeoutError:
            raise TooLong(
                f"no answer within {parts.timeout:g} s; ask for less, or start with a longer --timeout"
            ) from None

    return work


def _add_words(app: FastAPI, parts: Parts, work: Callable[..., Any]) -> None:
    @app.post("/copy", summary="Repurchase copy for a customer")
    async def copy(asked: shapes.CopyIn) -> shapes.TextsOut:
        def ask(desk: Desk) -> shapes.TextsOut:
            who = desk.customer(asked.customer)
            item = desk.product(asked.product or desk.recommend(who, 1)[0].item_id)
            channel = asked.channel or DEFAULT_CHANNEL[desk.lang]
            return _texts(desk, item.item_id, desk.compose(who, item, asked.n, channel, asked.offer, asked.seed))

        return await work(ask)  # type: ignore[no-any-return]

    @app.post("/describe", summary="Descriptions of a product")
    async def describe(asked: shapes.DescribeIn) -> shapes.TextsOut:
        def ask(desk: Desk) -> shapes.TextsOut:
            item = desk.product(asked.product)
            return _texts(desk, item.item_id, desk.describe(item, asked.n, asked.seed))

        return await work(ask)  # type: ignore[no-any-return]

    @app.post("/reviews", summary="How reviews feel, and of what they speak")
    async def reviews(asked: shapes.ReviewsIn) -> shapes.ReviewsOut:
        def ask(desk: Desk) -> shapes.ReviewsOut:
            return _shaped(shapes.ReviewsOut, {"reviews": [asdict(desk.review(text)) for text in asked.texts]})

        return await work(ask)  # type: ignore[no-any-return]

    @app.post("/reply", summary="A draft of a service reply, or a person")
    async def reply(asked: shapes.ReplyIn) -> shapes.ReplyOut:
        def ask(desk: Desk) -> shapes.ReplyOut:
            found = desk.reply(asked.question, asked.status, asked.intent)
            if found.hand_over:
                parts.counters.handed_over.inc()
            return _shaped(shapes.ReplyOut, asdict(found) | {"label": LABELS[desk.lang]})

        return await work(ask)  # type: ignore[no-any-return]


def _add_customers(app: FastAPI, parts: Parts, work: Callable[..., Any]) -> None:
    @app.post("/recommend", summary="What a customer is likely to buy next")
    async def recommend(asked: shapes.RecommendIn) -> shapes.RecommendOut:
        def ask(desk: Desk) -> shapes.RecommendOut:
            offers = desk.recommend(desk.customer(asked.customer), asked.k)
            found = [{name: getattr(one, name) for name in shapes.OfferOut.model_fields} for one in offers]
            return _shaped(shapes.RecommendOut, {"customer": asked.customer, "offers": found})

        return await work(ask)  # type: ignore[no-any-return]

    @app.post("/profile", summary="What is known of a customer, with the evidence")
    async def profile(asked: shapes.ProfileIn) -> shapes.ProfileOut:
        def ask(desk: Desk) -> shapes.ProfileOut:
            tags = [asdict(one) for one in desk.profile(desk.customer(asked.customer))]
            return _shaped(shapes.ProfileOut, {"customer": asked.customer, "tags": tags})

        return await work(ask)  # type: ignore[no-any-return]

    @app.post("/campaign", summary="Lines of a campaign for customers who are due")
    async def lines(asked: shapes.CampaignIn) -> shapes.CampaignOut:
        def ask(desk: Desk) -> shapes.CampaignOut:
            channel = asked.channel or DEFAULT_CHANNEL[desk.lang]
            wanted = (asked.due_within, asked.limit, channel, asked.offer, asked.seed, asked.mark_text)
            found = list(campaign(desk, *wanted))
            label = metadata(desk.settings.merchant.id, [one.text for one in found])["AIGC"]
            left_out = len(desk.silent & set(desk.customers))
            told = {"lines": [asdict(one) for one in found], "left_out": left_out, "aigc": label}
            return _shaped(shapes.CampaignOut, told)

        return await work(ask)  # type: ignore[no-any-return]


def _add_watch(app: FastAPI, parts: Parts) -> None:
    @app.get("/health", summary="Whether the service answers")
    async def health() -> shapes.HealthOut:
        live = parts.live
        since = live.opened.since.isoformat(timespec="seconds")
        state = "ok" if not live.trouble else "stale"
        trouble = "newer files could not be taken up; see the log" if live.trouble else ""
        return shapes.HealthOut(
            status=state, adapter=live.opened.adapter, since=since, swaps=live.swaps, trouble=trouble
        )

    @app.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(parts.counters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _texts(desk: Desk, item: str, copies: list[Copy]) -> shapes.TextsOut:
    label = metadata(desk.settings.merchant.id, [one.text for one in copies])["AIGC"]
    texts = [asdict(one) for one in copies]
    return _shaped(shapes.TextsOut, {"product": item, "texts": texts, "label": LABELS[desk.lang], "aigc": label})


S = TypeVar("S", bound=shapes.Shape)


def _shaped(shape: type[S], found: Mapping[str, Any]) -> S:
    """Return what was found in the shape that goes out; tuples become lists."""
    return shape.model_validate(found, strict=False)


def _add_problems(app: FastAPI) -> None:
    async def unreadable(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return problem(400, "the body is not JSON; send one JSON object")
        place = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return problem(422, f"{_told(place)}: {_told(str(first['msg']))}")

    async def unknown(_: Request, error: Exception) -> Response:
        return problem(404, _told(str(error)))

    async def busy(_: Request, error: Exception) -> Response:
        return problem(503, str(error), {"Retry-After": "1"})

    async def other(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, str(error.detail), dict(error.headers or {}))

    app.add_exception_handler(RequestValidationError, unreadable)
    app.add_exception_handler(UserError, unknown)
    app.add_exception_handler(TooLong, busy)
    app.add_exception_handler(HTTPException, other)


def _told(text: str) -> str:
    """Return a message on one line, no longer than a line."""
    return " ".join(text.split())[:200]
