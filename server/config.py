"""The coordinator's own settings, from `coordinator.toml`: where it listens, and what the federation trains."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from common.config import FederationSettings, LoraSettings, ModelSettings, Settings, TrainingSettings, parse_settings
from common.errors import UserError

FILE = "coordinator.toml"


class CoordinatorIdentity(Settings):
    """Who the coordinator is and where merchants find it."""

    name: str = Field(min_length=1, max_length=80, description="the federation's name on pages")
    address: str = Field(
        pattern=r"^[A-Za-z0-9.-]+:\d{1,5}$",
        description="host:port that merchants connect to; the certificate names the host",
    )
    listen: str = Field(
        default="127.0.0.1", description="the interface the proxy listens on; 0.0.0.0 for all, behind a firewall"
    )
    names: tuple[str, ...] = Field(default=(), description="further host names and addresses for the certificate")
    nginx: str = Field(default="nginx", description="the proxy's program, by name or path")
    body_limit: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=16, description="MiB of the largest message the proxy takes; Flower sends pieces of 5 MiB"
    )

    @property
    def host(self) -> str:
        """The host that merchants connect to."""
        return self.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        """The port that merchants connect to."""
        return int(self.address.rpartition(":")[2])


class CoordinatorSettings(Settings):
    """Everything in `coordinator.toml`."""

    coordinator: CoordinatorIdentity
    model: ModelSettings = ModelSettings()
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()

    def federation(self) -> FederationSettings:
        """Return the part that travels to merchants."""
        return FederationSettings(model=self.model, lora=self.lora, training=self.training)


def load_coordinator(folder: Path) -> CoordinatorSettings:
    """Return the settings of the coordinator in `folder`; raise `UserError` for a file that is missing or wrong."""
    path = folder / FILE
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; `fugou coordinator init DIR` makes one, --dir names another folder"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return parse_settings(CoordinatorSettings, tree, str(path))
