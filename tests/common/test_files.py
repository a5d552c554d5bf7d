from __future__ import annotations

import doctest
import hashlib
import math
import stat
from pathlib import Path

import pytest

import common.files
from common.errors import UserError
from common.files import canonical_json, sha256, write_atomic


def names(folder: Path) -> list[str]:
    """Return what lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(common.files) == doctest.TestResults(0, 1)


def test_a_written_file_holds_exactly_the_content(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "note.txt"
    write_atomic(path, "茶\r\n")
    assert path.read_bytes() == "茶\r\n".encode()
    write_atomic(path, b"\0\xff")
    assert path.read_bytes() == b"\0\xff"
    assert names(path.parent) == ["note.txt"]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_file_has_the_mode_that_was_asked_for(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    write_atomic(path, "x", mode)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_atomic(path, "old")
    with pytest.raises(TypeError):
        write_atomic(path, 7)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert names(tmp_path) == ["note.txt"]


def test_what_cannot_be_written_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "file" / "note.txt", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=r"cannot write .*choose another folder") as caught:
            write_atomic(path, "x")
        assert "\n" not in str(caught.value)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_atomic(tmp_path / "folder", "x")
    assert names(tmp_path) == ["file", "folder"]


def test_canonical_json_is_one_text_for_equal_values() -> None:
    assert canonical_json({"b": [1, 2.5], "a": {"d": None, "c": True}}) == '{"a":{"c":true,"d":null},"b":[1,2.5]}'
    assert canonical_json({"a": 1, "b": 2}) == canonical_json({"b": 2, "a": 1})
    for odd in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical_json({"x": odd})


def test_sha256_is_the_hex_digest() -> None:
    assert sha256("茶".encode()) == hashlib.sha256("茶".encode()).hexdigest()
