"""The evaluation as a page that a marketer can read: one HTML file without script, and the figures as JSON beside it."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from client.use.label import LABELS
from client.use.quality import Quality, as_dict, cells
from client.use.words import phrase
from common.charts import visible
from common.files import write_atomic


def page_of(found: Quality, lang: str) -> str:
    """Return the figures as HTML; what a table or the model said is escaped, styles are allowed by their hash."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.get_template("style.css.j2").render()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template("quality.html.j2").render(
        found=found,
        rows=[cells(one, lang) for one in found.figures],
        say=partial(phrase, lang),
        lang=lang,
        label=LABELS[lang],
        style=Markup(style),
        style_hash=f"sha256-{digest}",
    )


def write_page(found: Quality, folder: Path, lang: str) -> None:
    """Write `quality.html` and `quality.json` into `folder`; raises `UserError` where that cannot be done."""
    write_atomic(folder / "quality.json", json.dumps(as_dict(found), ensure_ascii=False, indent=1) + "\n")
    write_atomic(folder / "quality.html", page_of(found, lang))
