"""The evaluation as a page that a marketer can read: one HTML file without script, and the figures as JSON beside it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from client.use.label import LABELS
from client.use.quality import Quality, as_dict, cells
from client.use.words import phrase
from common.files import write_atomic
from common.html import styled


def page_of(found: Quality, lang: str) -> str:
    """Return the figures as HTML; what a table or the model said is escaped, styles are allowed by their hash."""
    return styled(
        Path(__file__).parent / "pages",
        "quality.html.j2",
        found=found,
        rows=[cells(one, lang) for one in found.figures],
        say=partial(phrase, lang),
        lang=lang,
        label=LABELS[lang],
    )


def write_page(found: Quality, folder: Path, lang: str) -> None:
    """Write `quality.html` and `quality.json` into `folder`; raises `UserError` where that cannot be done."""
    write_atomic(folder / "quality.json", json.dumps(as_dict(found), ensure_ascii=False, indent=1) + "\n")
    write_atomic(folder / "quality.html", page_of(found, lang))
