"""A merchant's node: join a federation, leave it at any time, say how it stands.

FOLDER/
  keys/node (+ .pub)          the node's key (P-384, OpenSSH): the coordinator knows the node by it
  keys/coordinator.pub        whose signature this merchant believes
  keys/coordinator-ca.crt     whose certificates it believes
  keys/invitation.json        where to, and as whom
  node/                       what runs: process ids, logs, Flower's own folder

Two processes run under a supervisor: the SuperNode, which talks to the coordinator, and the executor, which reads rows
and talks to loopback only. Each answers the other with a secret that is made anew at every start.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import ssl
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.config import OFFICER_KEY, POLICY, MerchantSettings, load_merchant
from client.train.device import on_device
from client.trust import COORDINATOR_KEY, read_chain
from common import processes
from common.errors import FugouError, Unreachable, UserError, VerificationFailed
from common.files import sha256, write_atomic
from common.model import DEFAULT_FOLDER, find_folder
from common.privacy.keys import fingerprint, load_public_key, public_from_hex, public_path
from common.privacy.policy import load_policy
from common.processes import Service

NODE_KEY, AUTHORITY, INVITATION = Path("keys/node"), Path("keys/coordinator-ca.crt"), Path("keys/invitation.json")
PLACE = Path("node")
SECRET, PORT = PLACE / "executor.secret", PLACE / "port"
FLOWER = {"supernode": "flower-node", "executor": "flower-app"}
"""Flower's own folder of each process: two that share one can trip over each other's unpacked app."""
HOST = "FUGOU_NODE_HOST"
"""In containers the two processes do not share loopback: where the one listens, and where the other finds it."""
HELLO = "SuperNode ID:"
"""What Flower's SuperNode logs once the coordinator has let it in."""
LOST, FOUND = "Connection attempt failed", "Connection successful"
PATIENCE = 120.0
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class Invitation(BaseModel):
    """What a coordinator hands a merchant after enrolment."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: str = Field(pattern=r"^fugou-invitation-v1$")
    federation: str = Field(pattern=r"^[0-9a-f]{32}$")
    name: str = Field(max_length=80)
    address: str = Field(pattern=r"^[A-Za-z0-9.-]+:\d{1,5}$")
    authority: str = Field(max_length=20_000)
    coordinator_key: str = Field(pattern=r"^[0-9a-f]{64}$")
    merchant: str = Field(pattern=r"^[a-z0-9-]{1,64}$")
    node: str = Field(pattern=r"^\d{1,20}$")
    key: str = Field(pattern=r"^[0-9a-f]{16}$")


@dataclass(frozen=True)
class NodeStatus:
    """How a merchant's node stands; `online` is what its own log last said, `place` and `link` the end of its chain."""

    joined: bool
    running: bool
    online: bool
    address: str
    merchant: str
    trouble: str
    restarts: int
    place: int
    link: str


# --- key and request ---


def request(folder: Path, *, new_key: bool = False) -> Path:
    """Return the public key to send to the coordinator, made on first use; `new_key` puts another in its place."""
    load_merchant(folder)
    private, public = folder / NODE_KEY, public_path(folder / NODE_KEY)
    if new_key and private.exists():
        stamp = sha256(public.read_bytes())[:8]
        private.replace(private.with_name(f"node.{stamp}.old"))
        public.replace(public.with_name(f"node.{stamp}.old.pub"))
    if not private.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        write_atomic(private, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), mode=0o600)
        write_atomic(public, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n")
    return public


def node_fingerprint(folder: Path) -> str:
    """Return the first 16 hex digits of the SHA-256 of the node's public key in PEM, as the coordinator shows it."""
    from cryptography.hazmat.primitives.serialization.ssh import load_ssh_public_key

    try:
        key = load_ssh_public_key(public_path(folder / NODE_KEY).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{public_path(folder / NODE_KEY)} cannot be read: {error}; `fugou merchant join` makes one"
        ) from None
    return sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))[:16]


# --- invitation ---


def read_invitation(path: Path) -> Invitation:
    """Return the invitation in a file; raise `UserError` for anything else."""
    try:
        return Invitation.model_validate(json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise UserError(f"cannot read the invitation {path}: {error.strerror}") from None
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
        raise UserError(f"{path} is no invitation ({key}); ask the coordinator for it again") from None
    except ValueError as error:
        raise UserError(f"{path} is no invitation: {error}; ask the coordinator for it again") from None


def take_invitation(folder: Path, path: Path) -> Invitation:
    """Write down whom this merchant joins, and make the folder that its node writes to, which a container has mounted.

    Raises `UserError` for an invitation that is not meant for this merchant, `VerificationFailed` when another coordinator
    is trusted already.
    """
    invitation, settings = read_invitation(path), load_merchant(folder)
    if invitation.merchant != settings.merchant.id:
        raise UserError(f"{path} invites {invitation.merchant!r}; this merchant's id is {settings.merchant.id!r}")
    if invitation.key != (own := node_fingerprint(folder)):
        raise UserError(
            f"{path} is for key {invitation.key}, this merchant's is {own}; send the coordinator keys/node.pub"
        )
    public = _public_pem(invitation.coordinator_key)
    known = folder / COORDINATOR_KEY
    if known.exists() and known.read_bytes() != public:
        raise VerificationFailed(
            f"{known} belongs to another coordinator ({fingerprint(load_public_key(known))}); leave that federation for "
            "good by removing keys/coordinator.pub and models/chain.json"
        )
    write_atomic(known, public)
    write_atomic(folder / AUTHORITY, invitation.authority)
    write_atomic(folder / INVITATION, invitation.model_dump_json(indent=1) + "\n")
    (folder / PLACE).mkdir(exist_ok=True)
    return invitation


def _public_pem(text: str) -> bytes:
    try:
        key: Ed25519PublicKey = public_from_hex(text)
    except ValueError as error:
        raise UserError(
            f"the invitation's key {text[:16]}… is none: {error}; ask the coordinator for it again"
        ) from None
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def address_of(settings: MerchantSettings, invitation: Invitation) -> str:
    """Return where the coordinator is: what merchant.toml says, or else the invitation."""
    return settings.server.address or invitation.address


def authority_of(settings: MerchantSettings) -> Path:
    """Return the file of the certificate authority: what merchant.toml says, or else what came with the invitation."""
    return Path(settings.server.ca) if settings.server.ca else settings.folder / AUTHORITY


# --- join, leave, status ---


def join(folder: Path, *, wait: float = PATIENCE) -> None:
    """Start the merchant's node and return once the coordinator has let it in.

    Raises `UserError`, `VerificationFailed` or `Unreachable` with the reason; the node is not left running then.
    """
    launch(folder)
    arrive(folder, wait)


def launch(folder: Path) -> None:
    """Start the merchant's node and return at once; raises what `plan_here` raises."""
    processes.start(folder / PLACE, plan_here(folder))


def arrive(folder: Path, wait: float = PATIENCE) -> None:
    """Return once the coordinator has let a started node in; raise with the reason and stop the node when it does not."""
    try:
        wait_until_online(folder, wait)
    except FugouError:
        processes.stop(folder / PLACE)
        raise


def plan(folder: Path) -> list[Service]:
    """Return the node's services, once everything they need is there and the coordinator shows the right certificate.

    Raises `UserError` for a policy, base or invitation that cannot be used, and when the node runs already.
    """
    settings = load_merchant(folder)
    folder = settings.folder
    invitation = read_invitation(folder / INVITATION)
    if processes.running(folder / PLACE):
        raise UserError(f"the node of {invitation.merchant} runs already; `fugou merchant status` shows it")
    load_policy(folder / POLICY, public_key=load_public_key(public_path(folder / OFFICER_KEY)))
    find_folder(settings.model.base)
    processes.stop(folder / PLACE)
    probe(address_of(settings, invitation), authority_of(settings))
    shutil.rmtree(folder / PLACE / "logs", ignore_errors=True)
    settle(folder)
    return services(settings)


def plan_here(folder: Path) -> list[Service]:
    """Return the services of a node whose two processes run on this machine, which has the device that trains.

    Raises what `plan` raises, and `UserError` for a GPU that is not there: every round would fail.
    """
    on_device(load_merchant(folder))
    return plan(folder)


def settle(folder: Path) -> None:
    """Make the node's own folders, its secret, and a port of loopback on which its two processes meet.

    What is there stays, so that one process can be restarted without the other; a port that is taken is exchanged.
    """
    for name in FLOWER.values():
        (folder / PLACE / name).mkdir(parents=True, exist_ok=True)
    if not (folder / SECRET).exists():
        write_atomic(folder / SECRET, secrets.token_hex(32), mode=0o600)
    if not is_free(folder / PORT):
        write_atomic(folder / PORT, f"{free_port()}\n")


def is_free(file: Path) -> bool:
    """Return whether `file` names a port of loopback that can be listened on now."""
    try:
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", int(file.read_text("ascii"))))
            return True
    except (OSError, ValueError, OverflowError):
        return False


def services(settings: MerchantSettings) -> list[Service]:
    """Return the SuperNode and the executor, which meet where `settle` has said."""
    folder = settings.folder
    invitation = read_invitation(folder / INVITATION)
    try:
        port = str(int((folder / PORT).read_text("ascii")))
    except (OSError, ValueError):
        raise UserError(
            f"{folder / PORT} is missing; the node (`join --foreground --only node`) is started first"
        ) from None
    host = os.environ.get(HOST, "127.0.0.1")
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    node = [sys.executable, "-m", "client.supernode", "--superlink", address_of(settings, invitation)]
    node += ["--root-certificates", str(authority_of(settings)), "--auth-supernode-private-key", str(folder / NODE_KEY)]
    node += ["--isolation", "process", "--host", host, "--port", port]
    node += ["--superexec-auth-secret-file", str(folder / SECRET), "--node-config", f'merchant-dir="{quoted}"']
    executor = [sys.executable, "-m", "client.warm", str(folder), "--insecure"]
    executor += ["--runtime-api-address", f"{host}:{port}", "--superexec-auth-secret-file", str(folder / SECRET)]
    return [
        Service("supernode", tuple(node), _environment(folder, "supernode")),
        Service("executor", tuple(executor), _environment(folder, "executor")),
    ]


def become(folder: Path, which: Literal["node", "trainer"]) -> NoReturn:
    """Become one of the node's two processes, for a supervisor that watches each by itself (systemd, containers)."""
    service = plan(folder)[0] if which == "node" else services(load_merchant(folder))[1]
    own = {processes.LOG: str(begin_log(folder, service.name))} if which == "node" else {}
    os.execve(service.command[0], service.command, {**os.environ, **service.environment, **own})


def begin_log(folder: Path, name: str) -> Path:
    """Return a new log of a service that no supervisor of ours writes, with the line that its life begins with."""
    path = (folder / PLACE / processes.LOGS / f"{name}.log").resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{processes.STARTED} {name}\n", "utf-8")
    return path


def _environment(folder: Path, name: str) -> dict[str, str]:
    own = {
        **QUIET,
        "FLWR_HOME": str(folder / PLACE / FLOWER[name]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "HF_HUB_OFFLINE": "1",
    }
    if "FUGOU_BASE" not in os.environ and DEFAULT_FOLDER.is_dir():
        own["FUGOU_BASE"] = str(DEFAULT_FOLDER)
    return own


def probe(address: str, authority: Path) -> None:
    """Raise unless a server with a valid certificate of `authority` answers at `address`; the error says what is wrong."""
    host, _, port = address.rpartition(":")
    try:
        context = ssl.create_default_context(cafile=str(authority))
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"{authority} is no certificate authority: {error}; join again with the invitation") from None
    try:
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return
    except ssl.SSLCertVerificationError as error:
        raise VerificationFailed(
            f"the certificate of {address} is refused: {error.verify_message}; the coordinator must renew it, nothing was sent"
        ) from None
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        raise VerificationFailed(f"{address} does not speak TLS ({reason}); nothing was sent") from None
    except OSError as error:
        raise Unreachable(f"the coordinator at {address} does not answer: {error.strerror or error}") from None


def wait_until_online(folder: Path, patience: float) -> None:
    """Return when the coordinator has let the node in; raise `Unreachable` with the node's own words when it has not."""
    deadline = time.monotonic() + patience
    while not online(folder):
        ended = [one for one in processes.standing(folder / PLACE) if one.last_exit is not None]
        if ended or time.monotonic() > deadline:
            name = ended[0].name if ended else "supernode"
            raise Unreachable(
                f"the node did not get in: {trouble(folder, name)}; logs are in {folder / PLACE / 'logs'}"
            )
        time.sleep(0.2)


def leave(folder: Path) -> int:
    """Stop the node and return how many processes there were; keys and chain stay, so that it can join again."""
    load_merchant(folder)
    return processes.stop(folder / PLACE)


def status(folder: Path) -> NodeStatus:
    """Return how the node stands."""
    settings = load_merchant(folder)
    joined = (folder / INVITATION).exists()
    invitation = read_invitation(folder / INVITATION) if joined else None
    supervised = processes.running(folder / PLACE)
    services = processes.standing(folder / PLACE) if supervised else []
    running = supervised or listens(folder)
    last = read_chain(folder)
    return NodeStatus(
        joined=joined,
        running=running,
        online=running and all(one.alive for one in services) and online(folder),
        address=address_of(settings, invitation) if invitation else settings.server.address,
        merchant=settings.merchant.id,
        trouble=trouble(folder, "supernode") if running and not online(folder) else "",
        restarts=sum(one.restarts for one in services),
        place=last.body.seq if last else 0,
        link=last.link if last else "",
    )


def listens(folder: Path) -> bool:
    """Return whether a node answers where this merchant's two processes meet, whoever watches over it."""
    host = {"0.0.0.0": "127.0.0.1"}.get(host := os.environ.get(HOST, "127.0.0.1"), host)
    try:
        with socket.create_connection((host, int((folder / PORT).read_text("ascii"))), timeout=5):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def online(folder: Path) -> bool:
    """Return whether the SuperNode that runs now has been let in and has not lost the coordinator since."""
    lines = _log(folder, "supernode")
    began, let_in, lost, back = (_last(lines, mark) for mark in (processes.STARTED, HELLO, LOST, FOUND))
    return let_in > began and lost <= max(let_in, back)


def _last(lines: list[str], mark: str) -> int:
    """Return the number of the last line with `mark`, or -1."""
    return max((at for at, line in enumerate(lines) if mark in line), default=-1)


TROUBLES = {
    "code: 2004": "the coordinator does not know this key, revoked it, or takes its last session to be online still (a minute)",
    "SSL": "the coordinator's certificate is refused",
    "ConnectError": "the coordinator does not answer",
    LOST: "the coordinator does not answer",
}


def trouble(folder: Path, service: str) -> str:
    """Return the last thing that went wrong with a service, in words where it is known."""
    lines = [line.strip() for line in _log(folder, service)[-60:]]
    for mark, words in TROUBLES.items():
        if any(mark in line for line in lines):
            return words
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["its log is empty"])[-1][:200]


def _log(folder: Path, name: str) -> list[str]:
    try:
        return (folder / PLACE / "logs" / f"{name}.log").read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def free_port() -> int:
    """Return a port of loopback that nothing listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def as_dict(found: NodeStatus) -> dict[str, Any]:
    """Return the status as JSON values."""
    return dict(vars(found))
