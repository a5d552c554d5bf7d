"""Parquet, streamed: some rows of the wanted columns at a time, whatever the size of a row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa
from pyarrow import parquet

from client.data.readers.files import check_file, readable
from client.data.readers.records import PIECE, Piece, Records
from common.errors import UserError


def open_parquet(path: Path) -> Records:
    """Return the records of the Parquet file at `path`; raise `UserError` where it is none, or not a whole one."""
    check_file(path)
    with _whole(path):
        file = parquet.ParquetFile(path, memory_map=False)
    names = [str(name) for name in file.schema_arrow.names]
    return Records(str(path), "row", names, lambda wanted: _pieces(path, file, wanted), file.close)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turn what pyarrow says of a damaged file into one `UserError` line."""
    with readable(path):
        try:
            yield
        except (FileNotFoundError, PermissionError):
            raise
        except (pa.ArrowException, OSError) as error:
            what = " ".join(str(error).split())[:160]
            raise UserError(f"{path}: not a whole Parquet file ({what}); export or copy it again") from None


def _pieces(path: Path, file: parquet.ParquetFile, wanted: Sequence[int]) -> Iterator[Piece]:
    """Yield the wanted columns piece by piece."""
    fields = [file.schema_arrow.field(place) for place in wanted]
    for field in fields:
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            raise UserError(
                f"{path}: column {field.name!r} holds {field.type}, not one value a row; write it as text or as a number"
            )
    names = list(dict.fromkeys(field.name for field in fields))
    start = 1
    with _whole(path):
        for batch in file.iter_batches(PIECE, columns=names, use_threads=False):
            cells = pl.DataFrame([pl.Series(str(n), batch.column(field.name)) for n, field in enumerate(fields)])
            yield Piece(cells, pl.int_range(start, start + batch.num_rows, dtype=pl.Int64, eager=True))
            start += batch.num_rows
