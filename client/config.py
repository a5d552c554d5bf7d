"""A merchant's own settings, from `merchant.toml`: where its tables lie, on what it trains.

They never leave the shop. What the federation decides is in `common.config`, what may be spent in the merchant's
signed policy.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, NaiveDatetime, PrivateAttr, model_validator

from common.config import Settings, parse_settings
from common.errors import UserError
from common.schema import TABLES
from common.text import TASKS, Lexicon, read_lexicon

FILE = "merchant.toml"
POLICY, LEDGER = "policy.toml", "ledger.db"
SQLITE_FILE = re.compile(r"(?P<scheme>sqlite(?:\+pysqlite)?://)/(?P<file>[^?]+)")
PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@\s]+(?=@)|(password=)[^&\s'\"]+")
"""A password within an address, which no message may show."""

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


def _is_zone(name: str) -> str:
    """Return the name of a time zone; the empty name stands for the shop's own."""
    try:
        if name:
            ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError):
        raise ValueError("no time zone of this name; write it as in Asia/Shanghai or UTC") from None
    return name


Zone = Annotated[str, AfterValidator(_is_zone)]
SHANGHAI = "Asia/Shanghai"
Reason = Literal["cancelled", "refunded", "unpaid", "kept"]
STATUS = "status"
"""The column of an order table that says what became of an order; it is read and never kept."""


class Source(Settings):
    """Where one table lies and how to read it; `columns` says which of its headers stands for which field of the schema."""

    path: Path = Field(
        default=Path(),
        description="a CSV, XLSX or Parquet file, relative to the merchant's folder or absolute; `*` for several files; "
        "or a database, `postgresql://user:${PASSWORD}@host/name?table=orders`",
    )
    url: str = Field(default="", repr=False, description="filled in from `path` where that is a database")
    query: str = Field(default="", description="a `select` to read in place of a table, for a database")
    sheet: str = Field(default="", description="the sheet of an XLSX file; empty takes the only one")
    encoding: Literal["auto", "utf-8", "gb18030"] = Field(
        default="auto", description="encoding of a CSV file: auto, utf-8 or gb18030"
    )
    columns: Mapping[str, str] = Field(default_factory=dict, description="schema field = header in the file")
    formats: Mapping[str, str] = Field(
        default_factory=dict, description='how a time column is written, as in order_time = "%d/%m/%Y"'
    )
    timezone: Zone = Field(default="", description="time zone of times that carry none; empty: the shop's")
    statuses: Mapping[Reason, tuple[str, ...]] = Field(
        default_factory=dict,
        description='more words of the status column: cancelled = ["作废"]; also refunded, unpaid, kept',
    )
    max_bad: float = Field(
        default=0.05, ge=0, le=1, description="share of rows with an unreadable cell above which the table is refused"
    )
    _local: str = PrivateAttr(default=SHANGHAI)

    @property
    def local(self) -> str:
        """The shop's own time zone, in which every time of a row is said."""
        return self._local

    def at(self, zone: str) -> Source:
        """Return this source as one of a shop in the time zone `zone`."""
        moved = self.model_copy()
        moved._local = zone
        return moved

    @model_validator(mode="before")
    @classmethod
    def _know_urls(cls, value: object) -> object:
        if (
            isinstance(value, dict)
            and isinstance(value.get("path"), str)
            and "://" in value["path"]
            and "url" not in value
        ):
            return {**{key: one for key, one in value.items() if key != "path"}, "url": value["path"]}
        return value

    @model_validator(mode="after")
    def _is_one_place(self) -> Source:
        if (self.path == Path()) == (not self.url):
            raise ValueError("path must name a file or a database")
        if self.query and not self.url:
            raise ValueError("query is for a database; a file is read as it is")
        return self


OptionalSource = Annotated[Source | None, BeforeValidator(_as_table)]
RequiredSource = Annotated[Source, BeforeValidator(_as_table)]


class MerchantIdentity(Settings):
    """Who the shop is."""

    id: str = Field(pattern=r"^[a-z0-9-]{1,64}$", description="the shop's id in the federation")
    name: str = Field(default="", description="the shop's name in pages and copy")
    lang: Literal["zh", "en"] = Field(default="zh", description="language of the shop's texts: zh or en")
    timezone: Annotated[Zone, Field(min_length=1)] = Field(
        default=SHANGHAI, description="the shop's time zone; times with an offset and epoch seconds are said in it"
    )


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
            known = [*TABLES[table].model_fields, *([STATUS] if table == "orders" else [])]
            for key, named in (("columns", source.columns), ("formats", source.formats)) if source else ():
                if unknown := sorted(set(named) - set(known)):
                    fields = ", ".join(known)
                    raise ValueError(f"{table}.{key} names {', '.join(unknown)}; the fields of {table} are {fields}")
        return self


class ModelChoice(Settings):
    """The base model and the shared adapter that this shop works with."""

    base: str = Field(default="default", description="`default`, a folder or a hub id of the base model")
    adapter: Path | None = Field(default=None, description="folder of the shared adapter; empty for none")


def _usual_weights() -> str:
    return ", ".join(f"{key} {task.weight:g}" for key, task in TASKS.items())


class Shares(Settings):
    """How reviews are spread over the classes in the trade at large: public figures, never counts of this shop's reviews."""

    negative: float = Field(default=0.1, gt=0, le=1, description="declared share of reviews with 1 or 2 stars")
    neutral: float = Field(default=0.1, gt=0, le=1, description="declared share of reviews with 3 stars")
    positive: float = Field(default=0.8, gt=0, le=1, description="declared share of reviews with 4 or 5 stars")


class TrainChoice(Settings):
    """How this shop trains; nothing here changes what is charged."""

    until: Annotated[NaiveDatetime, BeforeValidator(_is_day)] | None = Field(
        default=None, description="rows at or after this day or time (shop-local) are never trained on"
    )
    device: str = Field(default="cpu", pattern=r"^(cpu|auto|cuda(:\d+)?)$", description="cpu, auto or cuda:N")
    threads: int = Field(default=0, ge=0, le=1024, description="threads of torch; 0 leaves torch's own choice")
    microbatch: int = Field(default=16, ge=1, description="customers whose gradients are held in memory at once")
    dp_engine: Literal["fast", "opacus"] = Field(
        default="fast", description="what computes each customer's gradient: fast or opacus (the reference)"
    )
    precision: Literal["float32", "bfloat16", "int8"] = Field(
        default="float32",
        description="of the frozen base in the fast engine; int8 (weights in eight bits, what runs through them in sixteen) "
        "pays for a base 768 wide on a processor with VNNI, bfloat16 where there is AMX, a GPU or an AMD processor since Zen 4",
    )
    padding: Literal["full", "buckets"] = Field(
        default="full",
        description="full runs every row at its bound; buckets cuts rows to public lengths: faster, and the time a step "
        "takes then says how long the drawn rows were",
    )
    records: Literal["sampled", "recent"] = Field(
        default="sampled", description="which of a customer's records of a task are taken in a step: sampled or recent"
    )
    mixture: Mapping[str, Annotated[float, Field(ge=0, le=100)]] = Field(
        default_factory=dict,
        description=f"weights of the tasks in a customer's row, 0 leaves one out; unless named: {_usual_weights()}",
    )
    balance: Literal["off", "customer", "declared"] = Field(
        default="off",
        description="against too many positive reviews: off, customer (classes in turn within a customer's own reviews) "
        "or declared (a common class is thinned to the rarest of `shares`)",
    )
    shares: Shares = Shares()

    @model_validator(mode="after")
    def _know_tasks(self) -> TrainChoice:
        if unknown := sorted(set(self.mixture) - set(TASKS)):
            raise ValueError(f"mixture names {', '.join(unknown)}; the tasks are {', '.join(TASKS)}")
        if self.dp_engine == "opacus" and (self.precision, self.padding) != ("float32", "full"):
            raise ValueError('precision and padding are the fast engine\'s; set dp_engine = "fast" or leave them out')
        if not any(self.weights.values()):
            raise ValueError("mixture leaves every task out; give one of them a weight above 0")
        return self

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of every task, whether named in the settings or not."""
        return {key: self.mixture.get(key, task.weight) for key, task in TASKS.items()}


def _nothing(value: object) -> object:
    """Return the empty text as no file."""
    return None if value == "" else value


OptionalFile = Annotated[Path | None, BeforeValidator(_nothing)]


class TextChoice(Settings):
    """The shop's own words, for keywords, likeness of items and evaluation; training text is never cut by them."""

    dictionary: OptionalFile = Field(
        default=None, description="file of terms that are never cut, one a line, perhaps with a weight: `冻顶乌龙 20`"
    )
    stop_words: OptionalFile = Field(
        default=None,
        description="file of words that count for nothing, one a line, added to the built-in; `-word` takes one out",
    )


class OfferChoice(Settings):
    """What the shop's lists are made of."""

    slots: int = Field(
        default=10,
        ge=0,
        le=10,
        description="of ten offered items, how many the customer bought before, if there are as many; the rest are new",
    )
    debias: float = Field(
        default=0.0, ge=0, le=1, description="how far popularity is left out of the order: 0 not at all, 1 wholly"
    )


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
    text: TextChoice = TextChoice()
    offer: OfferChoice = OfferChoice()
    server: ServerChoice = ServerChoice()
    folder: Path = Path()


def load_merchant(folder: Path) -> MerchantSettings:
    """Return the settings of the merchant whose `merchant.toml` lies in `folder`.

    Raises `UserError` for a file that is missing or not TOML, for unknown keys and wrong values, and for a relative
    path that leads out of the folder, by `..` or by a link.
    """
    file = folder / FILE
    return _resolve(_parsed(_read(file), file), folder)


def lexicon(settings: MerchantSettings) -> Lexicon:
    """Return the shop's own terms and stop words; raise `UserError` with file and line where one cannot be used."""
    return read_lexicon(settings.text.dictionary, settings.text.stop_words)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{file}: no such file; `fugou merchant init DIR` makes one, --dir names another folder"
        ) from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}; check its permissions") from None


@lru_cache(maxsize=128)
def _parsed(raw: bytes, file: Path) -> MerchantSettings:
    """Return the settings in the bytes of `file`, paths as written; the same bytes are read once."""
    tree = _tree(raw, file)
    if "folder" in tree:
        raise UserError(f"{file}: unknown key 'folder'; the folder is the one the file lies in")
    if (model := tree.get("model")) and isinstance(model, dict) and model.get("adapter") == "":
        del model["adapter"]
    try:
        return parse_settings(MerchantSettings, tree, str(file))
    except UserError as error:
        raise UserError(PASSWORD.sub(r"\1\2***", str(error))) from None


def _tree(raw: bytes, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{file}: line {line} is not UTF-8; save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file}: not TOML: {str(error)[:1].lower()}{str(error)[1:]}") from None


def _resolve(settings: MerchantSettings, folder: Path) -> MerchantSettings:
    """Return the settings with every path made absolute, relative ones against `folder`."""
    folder = folder.resolve()
    sources = {
        table: source and _settle(source, folder, f"sources.{table}", settings.merchant.timezone)
        for table, source in settings.sources
    }
    base, adapter, ca = settings.model.base, settings.model.adapter, settings.server.ca
    model = {
        "base": str(_inside(folder, Path(base), "model.base")) if (folder / base).is_dir() else base,
        "adapter": adapter and _inside(folder, adapter, "model.adapter"),
    }
    text = {key: path and _inside(folder, path, f"text.{key}") for key, path in settings.text}
    return settings.model_copy(
        update={
            "folder": folder,
            "text": settings.text.model_copy(update=text),
            "sources": settings.sources.model_copy(update=sources),
            "model": settings.model.model_copy(update=model),
            "server": settings.server.model_copy(update={"ca": ca and str(_inside(folder, Path(ca), "server.ca"))}),
        }
    )


def _settle(source: Source, folder: Path, key: str, zone: str) -> Source:
    """Return a source with its file, or the file of its SQLite database, made absolute."""
    if not source.url:
        return source.model_copy(update={"path": _inside(folder, source.path, key)}).at(zone)
    match = SQLITE_FILE.match(source.url)
    if match:
        whole = _inside(folder, Path(match["file"]), key)
        return source.model_copy(update={"url": f"{match['scheme']}/{whole}{source.url[match.end() :]}"}).at(zone)
    return source.at(zone)


def _inside(folder: Path, path: Path, key: str) -> Path:
    """Return `path` made absolute; a relative one must stay inside `folder`, links followed."""
    if path.is_absolute():
        return path
    whole = Path(os.path.realpath(folder / path))
    if not whole.is_relative_to(folder):
        raise UserError(
            f"{folder / FILE}: {key} = {str(path)!r} leads out of the merchant's folder; name it by its absolute path"
        )
    return whole
