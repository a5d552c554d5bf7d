"""Whether an audit holds a merchant back: after a violation nothing is trained or sent until an audit is consistent again.

What holds is an AUDIT entry of the ledger: signed, chained and anchored like a charge, so that removing a file, restoring
an old one or starting anew does not lift it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from common.errors import Refused
from common.privacy.ledger import Ledger


def held(noted: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the detail of the violation that holds, out of the details of all AUDIT entries, oldest first; or None."""
    found: Mapping[str, Any] | None = None
    for detail in noted:
        if detail.get("result") == "violation":
            found = detail
        elif detail.get("result") == "consistent":
            found = None
    return found


def check_audit(ledger: Ledger) -> None:
    """Raise `Refused` while a violation holds."""
    if not ledger.counts().get("AUDIT"):
        return
    found = held(entry.body["detail"] for entry in ledger.entries() if entry.type == "AUDIT")
    if found is not None:
        raise Refused(
            f"the audit {str(found.get('sha256', ''))[:16]} of this merchant's trainer found a violation; nothing is "
            "trained before fugou merchant audit is consistent again"
        )
