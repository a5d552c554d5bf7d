"""The app that Flower carries to the nodes: exactly the code installed here, so that a node can tell one byte's change.

A merchant's node runs nothing that it did not have already: what arrives is compared file by file with its own
installation, and a difference is named and refused before anything of it is imported.
"""

from __future__ import annotations

import io
import tomllib
import warnings
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import tomli_w

from common.config import FederationSettings, nest
from common.errors import UserError
from common.files import canonical_json, sha256

ROOMS = ("client", "common", "server")
PROJECT, LISTING = "pyproject.toml", ".info/CONTENT"
RUN_KEYS = ("output", "coordinator", "run")
"""What a run-config names besides the federation's settings. Flower refuses every key that the app does not name itself."""
LARGEST = 64 << 20
"""Unpacked bytes above which a bundle is no app of ours; Flower itself takes 10 MB packed."""


def app_files(root: Path | None = None) -> dict[str, bytes]:
    """Return path -> bytes of everything in the app: the sources of three rooms and the table that Flower reads."""
    root = root or Path(__file__).resolve().parent.parent
    sources = {
        path.relative_to(root).as_posix(): path.read_bytes() for room in ROOMS for path in (root / room).rglob("*.py")
    }
    return {PROJECT: tomli_w.dumps(project()).encode(), **dict(sorted(sources.items()))}


def project() -> dict[str, object]:
    """Return the app's `pyproject.toml`; its dependencies are installed by people, never by Flower at run time."""
    components = {"serverapp": "server.deploy.app:app", "clientapp": "client.app:app"}
    config = nest({**FederationSettings().to_run_config(), **dict.fromkeys(RUN_KEYS, "")})
    include = [f"/{room}/**/*.py" for room in ROOMS]
    app = {"publisher": "fugou", "fab-include": include, "components": components, "config": config}
    return {
        "project": {
            "name": "fugou",
            "version": version("fugou"),
            "description": "Federated fine-tuning",
            "license": "Apache-2.0",
            "dependencies": [],
        },
        "tool": {"flwr": {"app": app}},
    }


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return the files as a Flower app bundle."""
    from flwr.cli.build import build_fab_from_files

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # flwr 1.41 asks pathspec for patterns by an old name
        bundle, _ = build_fab_from_files(dict(files))
    return bundle


def unpack(bundle: bytes) -> dict[str, bytes]:
    """Return path -> bytes of a bundle; raise `UserError` for what is none, holds a name twice or is too large."""
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            names = [one.filename for one in archive.infolist()]
            if len(set(names)) < len(names) or sum(one.file_size for one in archive.infolist()) > LARGEST:
                raise UserError("the app bundle holds a file twice or unpacks to more than 64 MiB")
            return {name: archive.read(name) for name in names}
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise UserError(f"the app bundle cannot be read: {error}") from None


def difference(bundle: bytes, own: Mapping[str, bytes]) -> str:
    """Return the first thing in which `bundle` is not the app of `own`, as one line; empty when it is that very app."""
    try:
        files = unpack(bundle)
    except UserError as error:
        return str(error)
    files.pop(LISTING, None)
    for name in sorted(set(files) | set(own)):
        if name not in own:
            return f"{name} is not part of the app installed here"
        if name not in files:
            return f"{name} is missing"
        if files[name] != own[name] and not _same_project(name, files[name], own[name]):
            return f"{name} differs from the one installed here"
    return ""


def _same_project(name: str, one: bytes, other: bytes) -> bool:
    """Return whether both are the same table: Flower writes `pyproject.toml` anew."""
    try:
        return name == PROJECT and tomllib.loads(one.decode()) == tomllib.loads(other.decode())
    except (ValueError, UnicodeDecodeError):
        return False


def files_digest(files: Mapping[str, bytes]) -> str:
    """Return the hex SHA-256 over all names and contents: what two people compare."""
    return sha256(canonical_json({name: sha256(data) for name, data in files.items() if name != LISTING}).encode())
