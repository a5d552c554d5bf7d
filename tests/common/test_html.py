"""Pages from templates: nothing a table says becomes markup or hides, and a style is allowed by its own hash alone."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from common.html import styled

PAGE = '<style>{{ style }}</style><meta content="{{ style_hash }}"><p>{{ name }}</p>'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "page.j2").write_text(PAGE, "utf-8")
    (tmp_path / "style.css.j2").write_text("p > b { color: red }", "utf-8")
    return tmp_path


def test_what_a_table_says_is_neither_markup_nor_hidden(folder: Path) -> None:
    page = styled(folder, "page.j2", name="<script>1</script>" + chr(0x202E))
    assert "<p>&lt;script&gt;1&lt;/script&gt;\ufffd</p>" in page


def test_the_style_stands_as_it_is_and_is_allowed_by_its_hash(folder: Path) -> None:
    page = styled(folder, "page.j2", name="x")
    digest = base64.b64encode(hashlib.sha256(b"p > b { color: red }").digest()).decode()
    assert "<style>p > b { color: red }</style>" in page
    assert f'content="sha256-{digest}"' in page


def test_a_name_that_a_page_lacks_is_an_error(folder: Path) -> None:
    with pytest.raises(UndefinedError, match="name"):
        styled(folder, "page.j2")
