"""CSV, streamed: UTF-8 (with or without BOM) or GB18030, commas or tabs, quoted line breaks; `.gz` is unpacked.

The encoding is settled before the first record, by reading all bytes once: a file that changes its encoding half-way
would otherwise give words that nobody wrote. Python's `csv` takes records apart, strictly, so that the line of every
record is known and a broken quote is an error and not a shifted column.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import IO, cast

import polars as pl

from client.data.readers.files import check_file, kind_of, readable
from client.data.readers.records import PIECE, Damaged, Piece, Records
from common.errors import UserError

CHUNK = 1 << 20
"""Bytes that are looked at together."""

PIECE_CHARACTERS = 1 << 24
LINE_BYTES = 1 << 26
"""A piece is handed on at the first limit; a line or a cell that passes the second belongs to no table."""

UTF8, GB18030 = "utf-8-sig", "gb18030"
THREE_BYTES = re.compile(rb"[\xe2-\xef][\x80-\xbf]{2}")
"""What Chinese characters and their punctuation are in UTF-8; GB18030 text has few such places, and hardly two a line."""


def open_text(path: Path, encoding: str = "auto") -> Records:
    """Return the records of the CSV file at `path`.

    Raises `UserError` for bytes that fit no encoding, naming the line, and for what is no text.
    """
    check_file(path)
    zipped = path.suffix.lower() == ".gz"
    with readable(path), _unpacked(path):
        file = cast(IO[bytes], gzip.open(path) if zipped else path.open("rb"))  # noqa: SIM115  (closed by the records)
        try:
            text = io.TextIOWrapper(file, _settle(path, file, encoding), newline="")
            first = next((line for line in text if line.strip("\ufeff \t\r\n")), "")
            text.seek(0)
            separator = "\t" if first.count("\t") > first.count(",") else ","
            records = _records(path, text, separator)
            _, header = next(records, (1, []))
        except BaseException:
            file.close()
            raise
    names = [name.strip() for name in header]
    return Records(str(path), "line", names, lambda wanted: _pieces(path, text, records, names, wanted), text.close)


@contextmanager
def _unpacked(path: Path) -> Iterator[None]:
    """Turn what unpacking says into one `UserError` line."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}); pack or copy it again") from None


# The encoding of all bytes.


def _settle(path: Path, file: IO[bytes], encoding: str) -> str:
    """Return the codec that every byte of `file` fits, and rewind it; raise `UserError` with the line of the damage."""
    head = file.read(CHUNK)
    if kind := kind_of(head):
        raise UserError(f"{path}: {kind}, not CSV; give it its true ending, or save it as CSV in UTF-8")
    if head.count(0) > len(head) // 8:
        raise UserError(
            f"{path}: not text: {head.count(0)} of its first {len(head)} bytes are 0; save it as CSV in UTF-8"
        )
    codecs_ = {"utf-8": (UTF8,), "gb18030": (GB18030,)}.get(encoding, (UTF8, GB18030))
    damage = {}
    for codec in codecs_:
        place = _damage(path, file, codec)
        if place is None:
            if codec == GB18030 and len(codecs_) > 1:
                _refuse_mixture(path, file)
            file.seek(0)
            return codec
        damage[codec] = place
        if codec == UTF8 and _holds_utf8(file, place):
            break
    line = _line_at(file, max(damage.values()))
    fits = " nor ".join("UTF-8" if codec == UTF8 else "GB18030" for codec in damage)
    raise UserError(f"{path}: line {line} is not {fits}; save the file as CSV in UTF-8, every line of it")


def _damage(path: Path, file: IO[bytes], codec: str) -> int | None:
    """Return the place of the first byte that does not fit `codec`; None if all fit."""
    decoder = codecs.getincrementaldecoder(codec)()
    file.seek(0)
    place = unbroken = 0
    while True:
        chunk = file.read(CHUNK)
        before = len(decoder.getstate()[0])
        try:
            decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            return place - before + error.start
        if not chunk:
            return None
        place += len(chunk)
        unbroken = 0 if b"\n" in chunk or b"\r" in chunk else unbroken + len(chunk)
        if unbroken > LINE_BYTES:
            raise UserError(f"{path}: no line ends within {LINE_BYTES >> 20} MB; this is no CSV file; export it again")


def _holds_utf8(file: IO[bytes], end: int) -> bool:
    """Return whether the bytes before `end`, which are UTF-8, hold Chinese: then the file is UTF-8, and damaged at `end`."""
    file.seek(0)
    found = 0
    for start in range(0, end, CHUNK):
        found += len(THREE_BYTES.findall(file.read(min(CHUNK, end - start))))
        if found > 1:
            return True
    return False


def _refuse_mixture(path: Path, file: IO[bytes]) -> None:
    """Raise `UserError` for a line that is Chinese in UTF-8 within a file that otherwise is GB18030."""
    file.seek(0)
    for number, line in enumerate(file, start=1):
        if not line.isascii() and len(THREE_BYTES.findall(line)) > 1 and _fits_utf8(line):
            raise UserError(
                f"{path}: line {number} is UTF-8 while the file is not; save every line as UTF-8, "
                'or, if it is GB18030 after all, say so: encoding = "gb18030" in [sources]'
            )


def _fits_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _line_at(file: IO[bytes], place: int) -> int:
    """Return the number of the line that byte `place` is in."""
    file.seek(0)
    text = (file.read(min(CHUNK, place - start)) for start in range(0, place, CHUNK))
    line, last = 1, b""
    for chunk in text:
        line += chunk.count(b"\n") + chunk.count(b"\r") - chunk.count(b"\r\n") - (last == b"\r" and chunk[:1] == b"\n")
        last = chunk[-1:]
    return line


# Records.


def _records(path: Path, text: io.TextIOWrapper, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield every record, blank ones too, with the line it starts at; the first that is not blank is the header."""
    csv.field_size_limit(max(csv.field_size_limit(), LINE_BYTES))  # the module's own is meant against unclosed quotes
    reader = csv.reader(text, delimiter=separator, strict=True)
    start = 1
    headed = False
    try:
        for record in reader:
            headed = headed or not _is_blank(record)
            if headed:
                yield start, record
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}: line {start}: broken CSV: {error}; check the quotes of this record") from None


def _is_blank(record: Sequence[str]) -> bool:
    return not any(cell.strip() for cell in record)


def _pieces(
    path: Path,
    text: io.TextIOWrapper,
    records: Iterator[tuple[int, list[str]]],
    header: Sequence[str],
    wanted: Sequence[int],
) -> Iterator[Piece]:
    """Yield the wanted columns piece by piece."""
    with readable(path), _unpacked(path):
        while (piece := _piece(records, header, wanted)) is not None:
            yield piece


def _piece(records: Iterator[tuple[int, list[str]]], header: Sequence[str], wanted: Sequence[int]) -> Piece | None:
    """Return the next piece; None at the end."""
    pick = itemgetter(*wanted, wanted[0])  # one place twice, so that it always gives a tuple
    width, blank, size = len(header), 0, 0
    rows: list[tuple[str, ...]] = []
    places: list[int] = []
    damaged: list[Damaged] = []
    for place, record in records:
        if len(record) != width or not record[0]:
            if _is_blank(record):
                blank += 1
                continue
            if len(record) < width or any(record[width:]):
                damaged.append(Damaged(place, "ragged", f"{len(record)} cells where the header has {width}"))
                continue
        row = pick(record)
        rows.append(row)
        places.append(place)
        size += sum(map(len, row))
        if len(rows) + len(damaged) + blank >= PIECE or size >= PIECE_CHARACTERS:
            break
    if not (rows or damaged or blank):
        return None
    columns = [pl.Series(str(n), column, dtype=pl.String) for n, column in enumerate(zip(*rows, strict=True))][:-1]
    if not rows:
        columns = [pl.Series(str(n), [], dtype=pl.String) for n in range(len(wanted))]
    return Piece(pl.DataFrame(columns), pl.Series(places, dtype=pl.Int64), damaged, blank)
