"""The console: pages for the merchant without a line of script. Whatever a customer or a table says is escaped.

What is looked up travels in the body of a form, so that no customer's id stands in an address or a log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI, Request, Response
from jinja2 import Environment
from starlette.responses import HTMLResponse, RedirectResponse

from client.serve.doors import COOKIE
from client.serve.keys import HOURS, Keys, Sessions
from client.serve.live import Live
from client.serve.standing import Budget, budget_of, quality_of
from client.serve.words import phrase
from client.use.desk import Desk
from client.use.facts import said
from client.use.label import LABELS
from client.use.verbs import DEFAULT_CHANNEL
from common.errors import UserError
from common.html import templates

HERE = Path(__file__).parent
OFFERS = 6
DUE_DAYS, DUE_SHOWN = 7, 12
LONGEST = 64

Page = dict[str, Any]


def add_console(
    app: FastAPI, live: Live, keys: Callable[[], Keys], sessions: Sessions, work: Callable[..., Any]
) -> None:
    """Add the pages of the console to `app`."""
    render = partial(_render, templates(HERE / "templates"))
    _add_sessions(app, live, keys, sessions, render)
    _add_pages(app, live, work, render)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)

    @app.get("/style.css", include_in_schema=False)
    async def style() -> Response:
        return Response((HERE / "assets" / "style.css").read_bytes(), media_type="text/css; charset=utf-8")


def _add_sessions(
    app: FastAPI, live: Live, keys: Callable[[], Keys], sessions: Sessions, render: Callable[..., Response]
) -> None:
    @app.get("/login", include_in_schema=False)
    async def login_page(request: Request) -> Response:
        return render("login.html.j2", _lang(request, live), {"wrong": False})

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        form = await _form(request)
        lang, who = _lang(request, live, form), keys().who(form.get("key", ""))
        if who is None:
            return render("login.html.j2", lang, {"wrong": True}, 401)
        answer = RedirectResponse(f"/?lang={lang}", 303)
        answer.set_cookie(COOKIE, sessions.open(who), HOURS * 3600, httponly=True, samesite="strict")
        return answer

    @app.post("/logout", include_in_schema=False)
    async def logout() -> Response:
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer


def _add_pages(app: FastAPI, live: Live, work: Callable[..., Any], render: Callable[..., Response]) -> None:
    @app.get("/", include_in_schema=False)
    async def overview(request: Request) -> Response:
        lang = _lang(request, live)
        return render("overview.html.j2", lang, await work(lambda desk: _overview(live, desk, lang)))

    @app.post("/customer", include_in_schema=False)
    async def customer(request: Request) -> Response:
        form = await _form(request)
        lang = _lang(request, live, form)
        try:
            page = await work(lambda desk: _customer(live, desk, form, lang))
        except UserError as error:
            page = await work(lambda desk: _overview(live, desk, lang))
            wrong = phrase(lang, "not_found", why=str(error)[:200])
            return render("overview.html.j2", lang, page | {"wrong": wrong}, 404)
        return render("customer.html.j2", lang, page)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return render("docs.html.j2", _lang(request, live), {"paths": list(_paths(app.openapi()))})


def _render(environment: Environment, template: str, lang: str, page: Page, status: int = 200) -> Response:
    text = environment.get_template(template).render(
        say=partial(phrase, lang), lang=lang, other="zh" if lang == "en" else "en", **page
    )
    return HTMLResponse(text, status)


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form, each once; what is no form has none."""
    text = (await request.body()).decode("utf-8", "replace")
    return {name: values[0].strip() for name, values in parse_qs(text, max_num_fields=20).items()}


def _lang(request: Request, live: Live, form: Mapping[str, str] | None = None) -> str:
    """Return the page's language: what was asked for, else what the browser prefers, else the shop's."""
    asked = (form or {}).get("lang") or request.query_params.get("lang", "")
    if asked in ("zh", "en"):
        return asked
    preferred = request.headers.get("accept-language", "")[:2].lower()
    return preferred if preferred in ("zh", "en") else live.desk.lang


def _head(live: Live, desk: Desk, lang: str) -> Page:
    since = f"{live.opened.since:%Y-%m-%d %H:%M} UTC"
    known = phrase(lang, "model_shared", adapter=live.opened.adapter, since=since)
    return {
        "name": desk.settings.merchant.name or desk.settings.merchant.id,
        "facts": phrase(
            lang, "facts", customers=len(desk.customers), items=len(desk.products), day=f"{desk.time:%Y-%m-%d}"
        ),
        "model": known if live.opened.adapter else phrase(lang, "model_base"),
        "stale": phrase(lang, "stale", why=live.trouble[:200]) if live.trouble else "",
        "wrong": "",
    }


def _overview(live: Live, desk: Desk, lang: str) -> Page:
    found = budget_of(live.folder)
    return _head(live, desk, lang) | {
        "due": [one.id for one in desk.due(DUE_DAYS)[:DUE_SHOWN]],
        "budget": found if isinstance(found, Budget) else None,
        "trouble": phrase(lang, "budget_trouble", why=found) if isinstance(found, str) else "",
        "quality": quality_of(live.folder),
        "place": int(lang == "en"),
    }


def _customer(live: Live, desk: Desk, form: Mapping[str, str], lang: str) -> Page:
    who = desk.customer(form.get("customer", "")[:LONGEST])
    offer = said(form.get("offer", ""))[:60]
    offers = desk.recommend(who, OFFERS)
    item = desk.product(form.get("product", "")[:LONGEST] or offers[0].item_id)
    return _head(live, desk, lang) | {
        "customer": who.id,
        "tags": desk.profile(who, lang),
        "offers": offers,
        "offer": offer,
        "item": item,
        "copies": desk.compose(who, item, 3, DEFAULT_CHANNEL[desk.lang], offer),
        "label": LABELS[lang],
        "silent": who.id in desk.silent,
    }


def _paths(schema: Mapping[str, Any]) -> Any:
    """Yield every path with its method, summary and the fields it takes, as the OpenAPI document has them."""
    shapes = schema["components"]["schemas"]
    for path, methods in schema["paths"].items():
        for method, told in methods.items():
            body = told.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            shape = shapes.get(body.get("$ref", "").rpartition("/")[2], {})
            needed = shape.get("required", ())
            fields = [
                (name, _kind(one), name in needed, one.get("default", ""), one.get("description", ""))
                for name, one in shape.get("properties", {}).items()
            ]
            yield {"path": path, "method": method.upper(), "summary": told.get("summary", ""), "fields": fields}


def _kind(field: Mapping[str, Any]) -> str:
    """Return a field's type and bounds in a few words."""
    bounds = {"minimum": "≥ {}", "maximum": "≤ {}", "minLength": "{}+", "maxLength": "≤ {}", "maxItems": "≤ {}"}
    told = [words.format(int(field[name])) for name, words in bounds.items() if name in field]
    return " ".join([str(field.get("type", "")), *told])
