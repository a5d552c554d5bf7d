"""A campaign as a file that a spreadsheet, a mail tool or a person opens: one line a customer and item.

Every line says that its text was generated (标识办法 and GB 45438-2025, in force since 2025-09-01: the label stays on
exported copies), and no cell can start a formula (CWE-1236).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from client.use.label import LABEL, beside, write_metadata
from client.use.words import phrase
from common.errors import UserError
from common.files import write_atomic
from common.schema import Dialog

__all__ = ["LABEL", "CampaignLine", "beside", "opted_out", "read_campaign", "sent", "write_campaign", "write_metadata"]

LABEL_HEADER = "AI生成"
OPT_OUT = ("optout.csv", "optout.txt")
"""Files in a merchant's folder that name, one a line and first, the customers who want no messages."""

STOP = re.compile(
    "退订|拒收|不要再?(?:发|推)|别再?(?:发|推)|不想(?:再)?收|取消(?:订阅|推送)|^\\s*(?:TD|T|R|N)\\s*$"
    "|unsubscribe|\\bopt.?out\\b|stop (?:send|messag|text)|^\\s*stop\\s*$",
    re.I,
)
START = re.compile(r"重新订阅|恢复订阅|可以再?发|resubscribe|opt.?in", re.I)
SMS = ("短信", "sms", "SMS")
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


def opted_out(folder: Path, dialogs: Sequence[Dialog]) -> frozenset[str]:
    """Return the customers who want no messages: those in an opt-out file, and those who wrote so and never took it back.

    Raises `UserError` for a file that cannot be read.
    """
    listed = {name for file in OPT_OUT for name in _listed(folder / file)}
    stopped: set[str] = set()
    for one in sorted(dialogs, key=lambda row: row.time):
        if STOP.search(one.question):
            stopped.add(one.customer_id)
        elif START.search(one.question):
            stopped.discard(one.customer_id)
    return frozenset(listed | stopped)


def _listed(file: Path) -> list[str]:
    try:
        text = file.read_bytes().decode("utf-8-sig") if file.exists() else ""
        return [row[0].strip() for row in csv.reader(io.StringIO(text)) if row and row[0].strip()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read: {error}; save it as UTF-8, a customer id a line") from None


def sent(text: str, channel: str, lang: str, mark: bool = False) -> str:
    """Return `text` as it goes out by `channel`.

    A text message says how to refuse more of them (通信短信息服务管理规定, Article 19). `mark` also puts the explicit
    label into the text itself.
    """
    parts = [text, phrase(lang, "mark_text") if mark else ""]
    if channel in SMS:
        parts.append("" if text.endswith(tuple("。！？!?.")) else {"zh": "。", "en": "."}[lang])
        parts.append(" " if lang == "en" else "")
        parts.append(phrase(lang, "stop_sms"))
    return "".join(parts)


def _armed(cell: str) -> str:
    """Return `cell` such that no spreadsheet takes it for a formula: with `'` in front where it could be one."""
    return f"'{cell}" if FORMULA.match(cell) else cell


def _disarmed(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
