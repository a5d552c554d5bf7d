"""The report's page as PDF: the same HTML, set by WeasyPrint, which is an extra (`fugou[pdf]`) and needs Pango."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from client.report.words import phrase
from common.cli import language
from common.errors import UserError


def pdf_of(page: str) -> bytes:
    """Return `page` as PDF; nothing outside the page is ever fetched.

    Raises `UserError` with the way out where WeasyPrint or its system library is not installed.
    """
    try:
        import weasyprint
    except (ImportError, OSError) as error:
        raise UserError(phrase(language(), "no_pdf", reason=str(error).split("\n")[0][:120])) from error
    logging.getLogger("weasyprint").setLevel(logging.ERROR)
    document = weasyprint.HTML(string=for_print(page), url_fetcher=_nothing, base_url=None)
    return bytes(document.write_pdf())


def for_print(page: str) -> str:
    """Return the page with the styles of its charts inside each of them: WeasyPrint draws an SVG by itself."""
    template = (Path(__file__).parent / "templates" / "style.css.j2").read_text("utf-8")
    rules = [line.removeprefix("svg ") for line in template.splitlines() if line.startswith("svg .")]
    style = "text{font-size:13px;font-family:'Noto Sans CJK SC','DejaVu Sans',sans-serif}" + "".join(rules)
    return re.sub(r"(<svg [^>]*>)", rf"\1<style>{style}</style>", page)


def _nothing(url: str, *_: Any, **__: Any) -> dict[str, Any]:
    raise ValueError(f"a report fetches nothing, and this one asks for {url[:80]}")
