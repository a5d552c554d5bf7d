"""Files at the door: that there is one, that it may be read, and that it is what its ending says."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError

GLOB = re.compile(r"[*?\[]")

MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a ZIP archive or an XLSX file"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\xd0\xcf\x11\xe0", "an old XLS file or a password-protected workbook"),
    (b"SQLite format 3\0", "a SQLite database"),
    (b"%PDF", "a PDF file"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\xff\xfe", "UTF-16 text ('Unicode text' in a spreadsheet)"),
    (b"\xfe\xff", "UTF-16 text ('Unicode text' in a spreadsheet)"),
)


def check_file(path: Path) -> None:
    """Raise `UserError` unless `path` is a file; a pipe or a device would never end, a folder never begin."""
    with readable(path):
        mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: a folder, not a file; name the files in it, as in {path.name}/*.csv")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: not a regular file but a pipe or a device; copy its contents into a file")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the system says while `path` is read into one `UserError` line."""
    try:
        yield
    except FileNotFoundError:
        broken = "a link to nothing" if path.is_symlink() else "no such file"
        raise UserError(f"{path}: {broken}; correct [sources] in merchant.toml") from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror or error}; check the file and its permissions"
        ) from None


def kind_of(head: bytes) -> str:
    """Return what a file that begins with `head` is known to be, or nothing.

    >>> kind_of(b"PAR1....")
    'a Parquet file'
    """
    return next((name for magic, name in MAGIC if head.startswith(magic)), "")


def ending(path: Path) -> str:
    """Return what a file's name says it holds, in lower case; a packed file says both.

    >>> ending(Path("a/Orders.CSV.gz"))
    '.csv.gz'
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])


def expand(path: Path) -> list[Path]:
    """Return the files that `path`, which may hold `*`, `?` or `[…]`, names, in order of their names."""
    if not GLOB.search(str(path)) or path.exists():
        return [path]
    found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if not found:
        raise UserError(f"{path}: no file matches; correct [sources] in merchant.toml")
    return found
