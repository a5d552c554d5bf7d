"""Pages from templates, the same way in every room: everything escaped, nothing hidden, styles allowed by their hash alone."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.charts import visible


def templates(folder: Path) -> Environment:
    """Return the templates in `folder`; a name a page lacks is an error, a character that could reorder text is shown."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def styled(folder: Path, template: str, style: str = "style.css.j2", **page: Any) -> str:
    """Return `template` of `folder` with its style inside, as `style`, and what a policy allows it by, as `style_hash`."""
    found = templates(folder)
    text = found.get_template(style).render()
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return found.get_template(template).render(style=Markup(text), style_hash=f"sha256-{digest}", **page)


def _shown(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
