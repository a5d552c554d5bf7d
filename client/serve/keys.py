"""Who may ask: API keys by name, kept as digests in `keys/api.json`, and the console's sessions, kept nowhere.

A key is 256 random bits, so its SHA-256 is as good as a slow hash of it. A session is a name and an end, signed with a
secret that this process drew and forgets with its end.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from common.files import write_atomic

FILE = Path("keys/api.json")
PREFIX = "fk_"
NAME = re.compile(r"[\w-]{1,40}")
HOURS = 8


@dataclass(frozen=True)
class Keys:
    """The keys that may ask: name -> hex SHA-256."""

    digests: Mapping[str, str] = field(repr=False)

    def who(self, key: str) -> str | None:
        """Return the name of whoever holds `key`, or None; every digest is compared, in constant time."""
        mine, found = digest_of(key), None
        for name, digest in self.digests.items():
            if hmac.compare_digest(mine, digest):
                found = name
        return found


def digest_of(key: str) -> str:
    """Return what is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def make_key(folder: Path, name: str) -> str:
    """Return a new key called `name`, whose digest now stands in the folder; a name in use is refused."""
    if not NAME.fullmatch(name):
        raise UserError(f"key name {name!r}: 1 to 40 letters, digits, hyphens or underscores")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; `fugou merchant init DIR` makes one, --dir names another")
    known = dict(read_keys(folder).digests)
    if name in known:
        raise UserError(f"there is a key called {name!r} already; take its line out of {folder / FILE} to revoke it")
    key = PREFIX + secrets.token_urlsafe(32)
    text = json.dumps(known | {name: digest_of(key)}, ensure_ascii=False, indent=1) + "\n"
    write_atomic(folder / FILE, text, mode=0o600)
    return key


def read_keys(folder: Path) -> Keys:
    """Return the keys in the folder, none where there is no file; raise `UserError` for a file that is none."""
    file = folder / FILE
    try:
        found = json.loads(file.read_text("utf-8")) if file.exists() else {}
        if not all(isinstance(one, str) and len(one) == 64 for pair in found.items() for one in pair[1:]):
            raise ValueError("expected names with digests")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{file} cannot be read: {error}; take it away and make keys with serve --new-key") from None
    return Keys(found)


@dataclass(frozen=True)
class Sessions:
    """The console's sessions of one process."""

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def open(self, name: str) -> str:
        """Return a session for `name` that ends after `HOURS`."""
        told = f"{name}.{int(time.time()) + HOURS * 3600}"
        return f"{told}.{self._sign(told)}"

    def who(self, session: str) -> str | None:
        """Return whose session it is, or None where it is none or has ended."""
        told, _, sign = session.rpartition(".")
        name, _, end = told.rpartition(".")
        if not name or not hmac.compare_digest(sign.encode(), self._sign(told).encode()):
            return None
        return name if int(end) > time.time() else None

    def _sign(self, told: str) -> str:
        return hmac.new(self.secret, told.encode(), hashlib.sha256).hexdigest()
