"""The adapter: a frozen GPT-2 carries it, merchants change it, the server adds it up.

W x + (alpha / r) B A x        A: r x d_in, B: d_out x r       (Hu et al. 2021, arXiv:2106.09685)
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch

from common.config import LoraSettings
from common.errors import UserError
from common.files import sha256, write_atomic
from common.model import Base, load_base

if TYPE_CHECKING:
    from peft import PeftModel

Adapter: TypeAlias = dict[str, torch.Tensor]
"""PEFT's names of the adapter's tensors -> fp32 tensors on the CPU, sorted by name."""

Named: TypeAlias = tuple[tuple[str, torch.nn.Parameter], ...]

A_END, B_END = ".lora_A.weight", ".lora_B.weight"
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Bench:
    """One base in memory that carries one adapter at a time."""

    base: Base
    model: PeftModel = field(repr=False)


@functools.lru_cache(maxsize=2)
def bench(base: str, lora: LoraSettings) -> Bench:
    """Return the base called `base` with an adapter shaped as `lora`, kept in memory for whoever asks next."""
    loaded = load_base(base)
    return Bench(loaded, attach(loaded, lora))


def attach(base: Base, lora: LoraSettings) -> PeftModel:
    """Return the base with an adapter on every target layer; nothing else can be trained."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=list(lora.targets),
        fan_in_fan_out=True,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base.name,
    )
    try:
        return get_peft_model(base.model, config)
    except ValueError as error:
        raise UserError(f"lora.targets = {list(lora.targets)}: {str(error).splitlines()[0]}") from None


def initial(model: PeftModel, seed: int) -> Adapter:
    """Return the public start of a run: every A has orthonormal rows drawn from `seed`, every B is zero."""
    random = np.random.Generator(np.random.Philox(seed))
    return {name: _orthonormal(tensor, random) if name.endswith(A_END) else torch.zeros_like(tensor)
            for name, tensor in lift(model).items()}  # fmt: skip


def _orthonormal(like: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    rows, columns = like.shape
    if rows > columns:
        raise UserError(
            f"lora.rank = {rows} is more than the {columns} inputs of a target layer; take {columns} or less"
        )
    basis, _ = np.linalg.qr(random.standard_normal((columns, rows)))
    return torch.from_numpy(np.ascontiguousarray(basis.T)).to(like.dtype)


_named: WeakKeyDictionary[torch.nn.Module, Named] = WeakKeyDictionary()


def named_in(model: torch.nn.Module) -> Named:
    """Return every parameter of `model` with its name, adapters' names as in PEFT's files.

    Walking through all modules takes a millisecond, a dozen times a merchant-round, so what was found is remembered for
    as long as the model lives: parameters change their values and never their place.
    """
    if model not in _named:
        _named[model] = tuple((name.replace(".default.", "."), one) for name, one in model.named_parameters())
    return _named[model]


def factors_in(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the adapter's own parameters in `model` by the names PEFT gives them in a file, sorted.

    PEFT's own reader takes a copy of the whole model's state and rebuilds its configuration, 10 ms each time.
    """
    return dict(sorted((name, one) for name, one in named_in(model) if name.endswith((A_END, B_END))))


def lift(model: PeftModel) -> Adapter:
    """Return a copy of the adapter that `model` carries now."""
    return {name: parameter.detach().cpu().float().clone() for name, parameter in factors_in(model).items()}


def shapes(model: PeftModel) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every tensor of the adapter that `model` carries."""
    return manifest(factors_in(model))


def put(model: PeftModel, adapter: Mapping[str, torch.Tensor]) -> None:
    """Write `adapter` into `model`; raise `UserError` unless names and shapes are exactly the model's."""
    mine = factors_in(model)
    check_manifest(adapter, manifest(mine))
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.copy_(adapter[name])


@contextlib.contextmanager
def residual_in(model: PeftModel, residual: Mapping[str, torch.Tensor], scale: float) -> Iterator[None]:
    """Let the frozen weights carry `scale * B A` of `residual` for as long as the block lasts.

    Raises `UserError` for a residual that does not fit the model.
    """
    frozen = {}
    for a_name in sorted(name for name in residual if name.endswith(A_END)):
        layer = a_name.removesuffix(A_END)
        try:
            weight = model.get_submodule(layer).get_submodule("base_layer").get_parameter("weight")
            left, right = residual[layer + B_END].mT, residual[a_name].mT
            frozen[layer] = weight, weight.data, torch.addmm(weight.data, right, left, alpha=scale)
        except (AttributeError, KeyError, RuntimeError) as error:
            raise UserError(f"residual of {layer!r} does not fit the model: {str(error).splitlines()[0]}") from None
    try:
        for weight, _, whole in frozen.values():
            weight.data = whole
        yield
    finally:
        for weight, before, _ in frozen.values():
            weight.data = before


def manifest(adapter: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every tensor."""
    return {name: tuple(tensor.shape) for name, tensor in adapter.items()}


def check_manifest(adapter: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `UserError` unless `adapter` has exactly the expected names and shapes, in finite fp32."""
    if set(adapter) != set(expected):
        odd = sorted(set(adapter) ^ set(expected))
        raise UserError(f"adapter names differ from the model's: {odd[0]!r} and {len(odd) - 1} more")
    for name, shape in expected.items():
        tensor = adapter[name]
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise UserError(
                f"adapter tensor {name!r} is {tuple(tensor.shape)} {tensor.dtype}, expected {shape} float32"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"adapter tensor {name!r} holds values that are not finite")


def difference(new: Mapping[str, torch.Tensor], old: Mapping[str, torch.Tensor], names: list[str]) -> Adapter:
    """Return `new - old` for `names`."""
    return {name: new[name] - old[name] for name in names}


def digest(adapter: Mapping[str, torch.Tensor]) -> str:
    """Return the hex SHA-256 of names, shapes and bytes."""
    parts = [
        f"{name}{tuple(adapter[name].shape)}".encode() + adapter[name].numpy().tobytes() for name in sorted(adapter)
    ]
    return sha256(b"\0".join(parts))


def to_bytes(adapter: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the adapter as one safetensors file."""
    from safetensors.torch import save as to_safetensors

    data: bytes = to_safetensors({name: tensor.contiguous() for name, tensor in adapter.items()}, dict(metadata or {}))
    return data


def save(adapter: Mapping[str, torch.Tensor], folder: Path, lora: LoraSettings, base: str) -> None:
    """Write a folder that `PeftModel.from_pretrained` loads; the weights file comes last."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(lora.targets),
        "fan_in_fan_out": True,
        "bias": "none",
        "inference_mode": True,
    }
    write_atomic(folder / "adapter_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    write_atomic(folder / WEIGHTS, to_bytes(adapter, {"format": "pt"}))


def load(folder: Path) -> Adapter:
    """Return the adapter in `folder`; raise `UserError` when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"adapter folder {folder} cannot be read: {error}; copy it again") from None
    return {name: state[name] for name in sorted(state)}
