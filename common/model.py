"""The base model every adapter stands on: any GPT-2 with its tokenizer, from a folder, a hub id, or our own.

An adapter fits one base only, so a base carries a digest that every node compares before it trains.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerBase

DEFAULT = "default"
DEFAULT_FOLDER = Path(__file__).resolve().parent.parent / "models" / "fugou-base-zh"
PARTS = ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class Base:
    """A frozen GPT-2 in fp32 with its tokenizer; `digest` is the SHA-256 of its files."""

    name: str
    digest: str
    model: GPT2LMHeadModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)

    @property
    def end(self) -> int:
        """The id that stands before, between and after texts."""
        for token in (self.tokenizer.eos_token_id, getattr(self.tokenizer, "sep_token_id", None)):
            if isinstance(token, int):
                return token
        raise UserError(f"base {self.name!r} has neither an eos nor a sep token; add one to its tokenizer_config.json")


def load_base(name: str = DEFAULT) -> Base:
    """Return the base called `name`: `default`, a folder, or a hub id already in the local cache or reachable.

    Weights come from safetensors only and no remote code is run. Raises `UserError` with one line when the base is not
    there or is damaged.
    """
    folder = find_folder(name)
    model, tokenizer = _load_model(folder), _load_tokenizer(folder)
    if len(tokenizer) > model.config.vocab_size:
        raise damaged(folder, f"the tokenizer knows {len(tokenizer)} ids, the model {model.config.vocab_size}")
    return Base(name, digest_of(folder), model, tokenizer)


def check_length(base: Base, max_tokens: int) -> None:
    """Raise `UserError` when rows of `max_tokens` are longer than the base can read."""
    limit = base.model.config.n_positions
    if max_tokens > limit:
        raise UserError(f"max_tokens = {max_tokens} is more than the {limit} positions of base {base.name!r}; lower it")


def find_folder(name: str) -> Path:
    """Return the local folder of base `name`, fetching a hub id where the hub can be reached."""
    if name == DEFAULT:
        folder = Path(os.environ.get("FUGOU_BASE", DEFAULT_FOLDER))
        if not (folder / "config.json").is_file():
            raise UserError(
                f"the default base is not at {folder}; run from a full checkout, set FUGOU_BASE to a folder with "
                "config.json, model.safetensors and a tokenizer, or pass --base FOLDER"
            )
        return folder
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise UserError(f"base folder {name!r} does not exist; pass a folder with config.json and model.safetensors")
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.safetensors"]))
    except Exception as error:
        raise UserError(
            f"base {name!r} is no folder here and cannot be had from the hub ({type(error).__name__}); put config.json, "
            "model.safetensors and the tokenizer files into a folder and pass --base FOLDER, or use --base default"
        ) from None


def digest_of(folder: Path) -> str:
    """Return the hex SHA-256 over the names and bytes of the base's files, in fixed order."""
    digest = hashlib.sha256()
    for part in PARTS:
        path = folder / part
        if path.is_file():
            digest.update(f"{part}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()


def _load_model(folder: Path) -> GPT2LMHeadModel:
    import torch
    from transformers import GPT2LMHeadModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for part in ("config.json", "model.safetensors"):
        if not (folder / part).is_file():
            raise UserError(f"base folder {folder} has no {part}; only safetensors weights of a GPT-2 are taken")
    _check_config(folder)
    try:
        loaded: Any = GPT2LMHeadModel.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    except Exception as error:
        raise damaged(folder, error) from None
    model: GPT2LMHeadModel
    model, report = loaded
    missing = [key for key in report["missing_keys"] if key != "lm_head.weight"]
    if missing or report["mismatched_keys"]:
        raise damaged(folder, f"{len(missing) or len(report['mismatched_keys'])} tensors missing or of another shape")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in model.parameters()):
        raise damaged(folder, "weights are not finite")
    model.config.use_cache = False
    model.requires_grad_(False)
    model.eval()
    return model


def _check_config(folder: Path) -> None:
    import json

    try:
        kind = json.loads((folder / "config.json").read_text("utf-8")).get("model_type")
    except (ValueError, AttributeError, OSError) as error:
        raise damaged(folder, error) from None
    if kind != "gpt2":
        raise UserError(f"base folder {folder} holds a {kind!r} model; fugou takes GPT-2 (model_type 'gpt2')")


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer, PreTrainedTokenizerBase
    from transformers.models.bert import BertTokenizer

    kind: Any = BertTokenizer if _is_bert(folder) else AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
        assert isinstance(tokenizer, PreTrainedTokenizerBase)
        tokenizer("茶")
    except Exception as error:
        raise damaged(folder, error) from None
    return tokenizer


def _is_bert(folder: Path) -> bool:
    """Return whether the folder has a BERT vocabulary only, as the Chinese GPT-2s of UER do."""
    return (folder / "vocab.txt").is_file() and not (folder / "merges.txt").is_file()


def damaged(folder: Path, why: object) -> UserError:
    """Return the one line for a base folder that cannot be read."""
    reason = " ".join(str(why).split())[:160]
    return UserError(f"base folder {folder} is damaged: {reason}; copy it again or pass another with --base")
