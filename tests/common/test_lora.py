from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import LoraSettings
from common.errors import UserError
from common.lora import (
    A_END,
    B_END,
    WEIGHTS,
    Adapter,
    Bench,
    attach,
    bench,
    difference,
    digest,
    initial,
    lift,
    load,
    manifest,
    put,
    save,
    to_bytes,
)
from common.model import load_base

LORA = LoraSettings(rank=4, alpha=8.0)


def made_up(like: Adapter, seed: int = 3) -> Adapter:
    """Return an adapter of the same shapes with small random numbers in it."""
    random = np.random.default_rng(seed)
    return {
        name: torch.from_numpy(random.standard_normal(tuple(tensor.shape)).astype(np.float32) * 0.1)
        for name, tensor in like.items()
    }


@pytest.fixture
def clean(work: Bench) -> Iterator[Bench]:
    """Give the tiny base with the adapter of seed 7 and put the same adapter back afterwards."""
    put(work.model, initial(work.model, 7))
    yield work
    put(work.model, initial(work.model, 7))


def test_names_and_values_are_those_of_peft(clean: Bench) -> None:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    other = made_up(lift(clean.model))
    put(clean.model, other)
    theirs = get_peft_model_state_dict(clean.model)
    assert sorted(theirs) == list(lift(clean.model))
    assert all(torch.equal(theirs[name], tensor) for name, tensor in other.items())
    set_peft_model_state_dict(clean.model, made_up(other, seed=4))
    assert digest(lift(clean.model)) == digest(made_up(other, seed=4))


def test_what_is_lifted_is_a_copy(clean: Bench) -> None:
    before = lift(clean.model)
    kept = digest(before)
    put(clean.model, made_up(before))
    assert digest(before) == kept


def test_only_the_adapter_can_be_trained(tiny_base: str) -> None:
    model = attach(load_base(tiny_base), LORA)
    free = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(free) == 4  # two layers, A and B each
    assert all("c_attn.lora_" in name for name in free)


def test_the_initial_adapter_has_orthonormal_rows_in_a_and_nothing_in_b(clean: Bench) -> None:
    adapter = initial(clean.model, 7)
    assert list(adapter) == sorted(adapter)
    for name, tensor in adapter.items():
        assert tensor.dtype == torch.float32
        if name.endswith(A_END):
            assert tensor.shape == (4, 32)
            torch.testing.assert_close(tensor @ tensor.T, torch.eye(4), rtol=0, atol=1e-6)
        else:
            assert name.endswith(B_END)
            assert tensor.shape == (96, 4)
            assert not tensor.any()


def test_the_initial_adapter_changes_no_logit(clean: Bench, tiny_base: str) -> None:
    ids = torch.tensor([[0, 5, 9, 300]])
    with torch.inference_mode():
        bare, carried = load_base(tiny_base).model(ids).logits, clean.model(ids).logits
    torch.testing.assert_close(carried, bare, rtol=0, atol=0)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(clean: Bench) -> None:
    assert to_bytes(initial(clean.model, 7)) == to_bytes(initial(clean.model, 7))
    assert digest(initial(clean.model, 7)) != digest(initial(clean.model, 8))


def test_a_rank_above_the_layers_width_is_one_line(tiny_base: str) -> None:
    with pytest.raises(UserError, match=r"lora\.rank = 33.*32"):
        initial(attach(load_base(tiny_base), LoraSettings(rank=33)), 7)


def test_an_unknown_target_is_one_line_with_its_name(tiny_base: str) -> None:
    with pytest.raises(UserError, match=r"lora\.targets = \['q_proj'\]") as caught:
        attach(load_base(tiny_base), LoraSettings(targets=("q_proj",)))
    assert "\n" not in str(caught.value)


def test_what_is_put_in_is_what_is_lifted_out(clean: Bench) -> None:
    adapter = made_up(initial(clean.model, 7))
    put(clean.model, adapter)
    lifted = lift(clean.model)
    assert to_bytes(lifted) == to_bytes(adapter)
    next(iter(lifted.values())).zero_()  # a copy: the model keeps what it carries
    assert to_bytes(lift(clean.model)) == to_bytes(adapter)


def spoil(adapter: Adapter, how: str) -> Adapter:
    name, tensor = next(iter(adapter.items()))
    rest = {key: value for key, value in adapter.items() if key != name}
    return {
        "missing": rest,
        "extra": adapter | {"base_model.model.lm_head.weight": torch.zeros(2)},
        "renamed": rest | {"x" + name: tensor},
        "shape": adapter | {name: tensor[:-1]},
        "transposed": adapter | {name: tensor.T.contiguous()},
        "float64": adapter | {name: tensor.double()},
        "nan": adapter | {name: torch.full_like(tensor, torch.nan)},
        "inf": adapter | {name: tensor.index_fill(0, torch.tensor([0]), torch.inf)},
    }[how]


@pytest.mark.parametrize("how", ["missing", "extra", "renamed", "shape", "transposed", "float64", "nan", "inf"])
def test_an_adapter_that_is_not_exactly_the_models_is_refused_and_changes_nothing(clean: Bench, how: str) -> None:
    before = to_bytes(lift(clean.model))
    with pytest.raises(UserError, match="adapter") as caught:
        put(clean.model, spoil(made_up(initial(clean.model, 7)), how))
    assert "\n" not in str(caught.value)
    assert to_bytes(lift(clean.model)) == before


def test_a_saved_folder_loads_in_peft_with_the_same_logits(clean: Bench, tiny_base: str, tmp_path: Path) -> None:
    from peft import PeftModel

    adapter = made_up(initial(clean.model, 7))
    put(clean.model, adapter)
    save(adapter, tmp_path, LORA, tiny_base)
    ids = torch.tensor([[0, 5, 9, 300]])
    theirs = PeftModel.from_pretrained(load_base(tiny_base).model, tmp_path).eval()
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids).logits, clean.model(ids).logits, rtol=0, atol=0)
    assert to_bytes(load(tmp_path)) == to_bytes(adapter)


def test_a_saved_folder_says_which_base_it_stands_on(clean: Bench, tmp_path: Path) -> None:
    save(initial(clean.model, 7), tmp_path, LORA, "茶/base")
    config = json.loads((tmp_path / "adapter_config.json").read_text("utf-8"))
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("茶/base", 4, 8.0)
    assert config["target_modules"] == ["c_attn"]


def test_a_damaged_or_missing_folder_is_one_line(clean: Bench, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path)
    save(initial(clean.model, 7), tmp_path, LORA, "x")
    data = (tmp_path / WEIGHTS).read_bytes()
    for cut in (0, 7, 90, len(data) - 1):
        (tmp_path / WEIGHTS).write_bytes(data[:cut])
        with pytest.raises(UserError, match="cannot be read"):
            load(tmp_path)


def test_the_difference_holds_the_named_tensors_only(clean: Bench) -> None:
    old = initial(clean.model, 7)
    new = made_up(old)
    names = [name for name in old if name.endswith(B_END)]
    update = difference(new, old, names)
    assert list(update) == names
    for name in names:
        torch.testing.assert_close(old[name] + update[name], new[name])


def test_the_digest_sees_names_shapes_and_every_bit(clean: Bench) -> None:
    adapter = made_up(initial(clean.model, 7))
    name, tensor = next(iter(adapter.items()))
    other = tensor.clone()
    other[0, 0] = torch.nextafter(other[0, 0], torch.tensor(9.0))
    renamed = {f"x{key}": value for key, value in adapter.items()}
    reshaped = adapter | {name: tensor.reshape(tensor.shape[1], tensor.shape[0])}
    digests = {digest(one) for one in (adapter, adapter | {name: other}, renamed, reshaped)}
    assert len(digests) == 4
    assert digest(dict(reversed(adapter.items()))) == digest(adapter)


def test_one_bench_is_kept_for_whoever_asks_next(tiny_base: str) -> None:
    one = bench(tiny_base, LORA)
    assert bench(tiny_base, LoraSettings(rank=4, alpha=8.0)) is one
    assert manifest(lift(one.model)) == manifest(initial(one.model, 1))
