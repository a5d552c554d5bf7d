"""Where everything of a coordinator lies.

DIR/
  coordinator.toml      settings: address, model, training
  tls/                  ca.crt ca.key server.pem server.key
  keys/                 coordinator (+ .pub): signs every shared adapter; executor.secret
  merchants.json        who is enrolled: name, licence, key, node id
  invitations/          NAME.json: what a merchant needs to join
  chain.jsonl           every seal ever given, a line each
  runs/<id>/            settings.json state.json rounds/
  services/             what runs: pids, logs, nginx, SuperLink's database, Flower's own folder
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import cannot_write, write_atomic
from common.privacy.keys import create_key
from server.config import FILE, CoordinatorIdentity, load_coordinator
from server.deploy.certificates import make_authority, make_server_certificate

SETTINGS = """\
# A federation's coordinator. Merchants never read this file; what they are told is in invitations/.

[coordinator]
name = {name}
address = "{address}"        # host:port that merchants connect to
listen = "{listen}"           # the interface the proxy listens on; 0.0.0.0 for all
names = []                    # further host names of the certificate

[model]
base = "{base}"              # default, a folder or a hub id of a GPT-2 that every merchant has

[training]
rounds = 10
merchants = 0                 # wait for so many before a round; 0 takes whoever is online
timeout = 3600.0              # seconds a round waits for replies
"""


@dataclass(frozen=True)
class Layout:
    """The folder of one coordinator."""

    root: Path

    @property
    def tls(self) -> Path:
        """Certificates and their keys."""
        return self.root / "tls"

    @property
    def authority(self) -> Path:
        """The certificate that merchants trust."""
        return self.tls / "ca.crt"

    @property
    def key(self) -> Path:
        """The key that signs shared adapters; its public half has `.pub` added."""
        return self.root / "keys" / "coordinator"

    @property
    def secret(self) -> Path:
        """What the SuperLink's executor shows to be given work."""
        return self.root / "keys" / "executor.secret"

    @property
    def merchants(self) -> Path:
        """Who is enrolled."""
        return self.root / "merchants.json"

    @property
    def invitations(self) -> Path:
        """What merchants need to join."""
        return self.root / "invitations"

    @property
    def chain(self) -> Path:
        """Every seal ever given."""
        return self.root / "chain.jsonl"

    @property
    def runs(self) -> Path:
        """One folder a run."""
        return self.root / "runs"

    @property
    def services(self) -> Path:
        """What runs and what it writes."""
        return self.root / "services"

    @property
    def flower(self) -> Path:
        """Flower's own folder, so that nobody's home is touched."""
        return self.services / "flower"

    @property
    def federation(self) -> str:
        """The federation's id: random, in every seal."""
        path = self.root / "keys" / "federation"
        try:
            return path.read_text("ascii").strip()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; is {self.root} a coordinator's folder?") from None


def open_layout(root: Path) -> Layout:
    """Return the coordinator's folder at `root`; raise `UserError` when it is none."""
    load_coordinator(root)
    return Layout(root.resolve())


def make_coordinator(
    root: Path, name: str, address: str, *, listen: str = "127.0.0.1", base: str = "default"
) -> Layout:
    """Make a new coordinator's folder with settings, certificates and keys, whole or not at all.

    Raises `UserError` when the folder holds anything or a value cannot be used.
    """
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise UserError(f"{root} is not empty; name a new folder for the coordinator")
    try:
        root.absolute().parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=root.absolute().parent, prefix=f".{root.name}."))
    except OSError as error:
        raise cannot_write(root, error) from error
    try:
        _fill(Layout(draft), name, address, listen, base)
        draft.chmod(0o700)
        draft.replace(root.absolute())
    except OSError as error:
        raise cannot_write(root, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Layout(root.resolve())


def _fill(layout: Layout, name: str, address: str, listen: str, base: str) -> None:
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    write_atomic(
        layout.root / FILE,
        SETTINGS.format(name=quoted, address=address, listen=listen, base=base.replace("\\", "\\\\")),
    )
    settings = load_coordinator(layout.root)
    make_authority(layout.tls, name)
    make_server_certificate(layout.tls, hosts(settings.coordinator))
    create_key(layout.key)
    write_atomic(layout.secret, secrets.token_hex(32), mode=0o600)
    write_atomic(layout.root / "keys" / "federation", secrets.token_hex(16) + "\n")


def hosts(identity: CoordinatorIdentity) -> list[str]:
    """Return every name the server's certificate must carry: the public ones, and loopback for the proxy's own way in."""
    return list(dict.fromkeys([identity.host, *identity.names, "localhost", "127.0.0.1"]))
