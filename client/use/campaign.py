"""A campaign as a file that a spreadsheet, a mail tool or a person opens: one line a customer and item.

Every line says that its text was generated (标识办法 and GB 45438-2025, in force since 2025-09-01: the label stays on
exported copies), and no cell can start a formula (CWE-1236).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from common.errors import UserError
from common.files import write_atomic

LABEL = "本文案由人工智能（AI）生成"
LABEL_HEADER = "AI生成"
FORMULA = re.compile("'*[=+\\-@\t\r\n\0＝＋－＠]")
"""How a cell begins that a spreadsheet could take for a formula, or that `_armed` has made safe before."""


@dataclass(frozen=True)
class CampaignLine:
    """One message to one customer about one item, why it goes out, and the label that says who wrote it."""

    customer_id: str
    item_id: str
    item_name: str
    channel: str
    text: str
    reason: str
    label: str = LABEL


HEADER = (*(field.name for field in fields(CampaignLine) if field.name != "label"), LABEL_HEADER)


def write_campaign(lines: Iterable[CampaignLine], path: Path) -> int:
    """Write `lines` to `path` as CSV (UTF-8 with BOM, RFC 4180), whole or not at all; return how many there are.

    Raises `UserError` for a line without a label, and where the file cannot be written.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(HEADER)
    count = 0
    for count, line in enumerate(lines, 1):
        if not line.label.strip():
            raise UserError(f"{path}: line {count} has no {LABEL_HEADER} label; generated copy must carry one")
        writer.writerow([_armed(cell) for cell in astuple(line)])
    write_atomic(path, "\ufeff" + file.getvalue())
    return count


def read_campaign(path: Path) -> list[CampaignLine]:
    """Return the lines that `write_campaign` wrote to `path`; raise `UserError` for any other file."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        if tuple(header) != HEADER:
            raise ValueError(f"its header is {', '.join(header)}")
        return [CampaignLine(*(_disarmed(cell) for cell in row)) for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: not a campaign file: {error}; write one with `fugou merchant campaign`") from None


def _armed(cell: str) -> str:
    """Return `cell` such that no spreadsheet takes it for a formula: with `'` in front where it could be one."""
    return f"'{cell}" if FORMULA.match(cell) else cell


def _disarmed(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
