"""A merchant's own settings, from `merchant.toml`: where its tables lie, on what it trains.

They never leave the shop. What the federation decides is in `common.config`, what may be spent in the merchant's
signed policy.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NaiveDatetime, model_validator

from common.config import Settings, parse_settings
from common.errors import UserError
from common.schema import TABLES

FILE = "merchant.toml"
POLICY, LEDGER = "policy.toml", "ledger.db"
OFFICER_KEY, LEDGER_KEY = Path("keys/officer"), Path("keys/ledger")
"""Private keys; the public half of each lies beside it with `.pub` added."""


def _as_table(value: object) -> object:
    """Return `"orders.csv"` as `{path = "orders.csv"}`, `""` as no table; everything else as it is."""
    return ({"path": value} if value else None) if isinstance(value, str) else value


def _is_day(value: object) -> object:
    """Return `value` unless it is a bare number, which pydantic would read as seconds since 1970."""
    if isinstance(value, (date, str)):
        return value
    raise ValueError("expected a day or a time, as in until = 2026-05-01")


class Source(Settings):
    """Where one table lies; `columns` says which of its headers stands for which field of the schema."""

    path: Path = Field(description="a CSV file, relative to the merchant's folder or absolute")
    columns: Mapping[str, str] = Field(default_factory=dict, description="schema field = header in the file")


OptionalSource = Annotated[Source | None, BeforeValidator(_as_table)]
RequiredSource = Annotated[Source, BeforeValidator(_as_table)]


class MerchantIdentity(Settings):
    """Who the shop is."""

    id: str = Field(pattern=r"^[a-z0-9-]{1,64}$", description="the shop's id in the federation")
    name: str = Field(default="", description="the shop's name in pages and copy")
    lang: Literal["zh", "en"] = Field(default="zh", description="language of the shop's texts: zh or en")


class Sources(Settings):
    """The shop's five tables; orders and products are needed, the others add tasks."""

    orders: RequiredSource
    products: RequiredSource
    reviews: OptionalSource = None
    dialogs: OptionalSource = None
    campaigns: OptionalSource = None

    @model_validator(mode="after")
    def _know_columns(self) -> Sources:
        for table, source in self:
            unknown = sorted(set(source.columns) - set(TABLES[table].model_fields)) if source else []
            if unknown:
                known = ", ".join(TABLES[table].model_fields)
                raise ValueError(f"{table}.columns names {', '.join(unknown)}; the fields of {table} are {known}")
        return self


class ModelChoice(Settings):
    """The base model and the shared adapter that this shop works with."""

    base: str = Field(default="default", description="`default`, a folder or a hub id of the base model")
    adapter: Path | None = Field(default=None, description="folder of the shared adapter; empty for none")


class TrainChoice(Settings):
    """How this shop trains; nothing here changes what is charged."""

    until: Annotated[NaiveDatetime, BeforeValidator(_is_day)] | None = Field(
        default=None, description="rows at or after this day or time (shop-local) are never trained on"
    )
    device: str = Field(default="cpu", pattern=r"^(cpu|auto|cuda(:\d+)?)$", description="cpu, auto or cuda:N")
    threads: int = Field(default=0, ge=0, le=1024, description="threads of torch; 0 leaves torch's own choice")
    microbatch: int = Field(default=16, ge=1, description="customers whose gradients are held in memory at once")


class ServerChoice(Settings):
    """The coordinator this shop talks to."""

    address: str = Field(default="", description="host:port of the coordinator's Fleet API; empty before joining")
    ca: str = Field(default="", description="file with the coordinator's certificate authority")


class MerchantSettings(Settings):
    """Everything in `merchant.toml`; every path in it is absolute, `folder` is where the file lies."""

    merchant: MerchantIdentity
    sources: Sources
    model: ModelChoice = ModelChoice()
    train: TrainChoice = TrainChoice()
    server: ServerChoice = ServerChoice()
    folder: Path = Path()


def load_merchant(folder: Path) -> MerchantSettings:
    """Return the settings of the merchant whose `merchant.toml` lies in `folder`.

    Raises `UserError` for a file that is missing or not TOML, for unknown keys and wrong values, and for a relative
    path that leads out of the folder, by `..` or by a link.
    """
    file = folder / FILE
    tree = _read(file)
    if "folder" in tree:
        raise UserError(f"{file}: unknown key 'folder'; the folder is the one the file lies in")
    if (model := tree.get("model")) and isinstance(model, dict) and model.get("adapter") == "":
        del model["adapter"]
    return _resolve(parse_settings(MerchantSettings, tree, str(file)), folder)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise UserError(
            f"{file}: no such file; `fugou merchant init DIR` makes one, --dir names another folder"
        ) from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}; check its permissions") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{file}: line {line} is not UTF-8; save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file}: not TOML: {str(error)[:1].lower()}{str(error)[1:]}") from None


def _resolve(settings: MerchantSettings, folder: Path) -> MerchantSettings:
    """Return the settings with every path made absolute, relative ones against `folder`."""
    folder = folder.resolve()
    sources = {
        table: source and source.model_copy(update={"path": _inside(folder, source.path, f"sources.{table}")})
        for table, source in settings.sources
    }
    base, adapter, ca = settings.model.base, settings.model.adapter, settings.server.ca
    model = {
        "base": str(_inside(folder, Path(base), "model.base")) if (folder / base).is_dir() else base,
        "adapter": adapter and _inside(folder, adapter, "model.adapter"),
    }
    return settings.model_copy(
        update={
            "folder": folder,
            "sources": settings.sources.model_copy(update=sources),
            "model": settings.model.model_copy(update=model),
            "server": settings.server.model_copy(update={"ca": ca and str(_inside(folder, Path(ca), "server.ca"))}),
        }
    )


def _inside(folder: Path, path: Path, key: str) -> Path:
    """Return `path` made absolute; a relative one must stay inside `folder`, links followed."""
    if path.is_absolute():
        return path
    whole = (folder / path).resolve()
    if not whole.is_relative_to(folder):
        raise UserError(
            f"{folder / FILE}: {key} = {str(path)!r} leads out of the merchant's folder; name it by its absolute path"
        )
    return whole
