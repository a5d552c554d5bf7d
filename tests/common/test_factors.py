from __future__ import annotations

import numpy as np
import pytest
import torch

from common.config import LoraSettings
from common.errors import UserError
from common.factors import beside, close, cut, layers, opened, padded
from common.lora import A_END, B_END, Adapter, attach, initial, lift, put, residual_in, to_bytes
from common.methods import METHODS, sent, trained
from common.model import load_base

LAYERS = ("h.0.c_attn", "h.1.c_attn")


def tensor(random: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(random.standard_normal(shape).astype(np.float32))


def adapter(seed: int, rank: int = 4) -> Adapter:
    random = np.random.default_rng(seed)
    return {
        name + end: tensor(random, *shape)
        for name in LAYERS
        for end, shape in ((A_END, (rank, 24)), (B_END, (72, rank)))
    }


def product(one: Adapter, layer: str) -> torch.Tensor:
    return one[layer + B_END].double() @ one[layer + A_END].double()


def test_layers_are_named_by_both_factors_in_order() -> None:
    assert list(layers(adapter(1))) == [(name + A_END, name + B_END) for name in LAYERS]


def test_an_adapter_cut_in_two_and_put_beside_itself_is_whole_again() -> None:
    whole = adapter(1, rank=5)
    assert to_bytes(beside(cut(whole, 0, 2), cut(whole, 2, 5))) == to_bytes(whole)


def test_a_cut_is_a_copy_and_ends_where_the_adapter_ends() -> None:
    whole = adapter(1)
    part = cut(whole, 2, 99)
    assert part["h.0.c_attn" + A_END].shape == (2, 24)
    part["h.0.c_attn" + A_END].zero_()
    assert to_bytes(whole) == to_bytes(adapter(1))


def test_padding_leaves_the_product_and_takes_the_larger_shape() -> None:
    small, large = adapter(1, rank=2), adapter(2, rank=4)
    wide = padded(small, large)
    for layer in LAYERS:
        torch.testing.assert_close(product(wide, layer), product(small, layer))
    assert {name: value.shape for name, value in wide.items()} == {name: value.shape for name, value in large.items()}


def test_two_adapters_beside_each_other_add_their_products() -> None:
    first, second = adapter(1), adapter(2, rank=3)
    second = {name: value for name, value in second.items() if name.startswith("h.0")} | {
        name: value for name, value in cut(second, 0, 1).items() if name.startswith("h.1")
    }
    whole = beside(first, second)
    for layer in LAYERS:
        torch.testing.assert_close(product(whole, layer), product(first, layer) + product(second, layer))
        assert whole[layer + A_END].shape == (7, 24)
    alone = beside(first, {name: value for name, value in second.items() if name.startswith("h.0")})
    torch.testing.assert_close(product(alone, "h.1.c_attn"), product(first, "h.1.c_attn"))


def test_a_residual_in_the_weight_and_one_beside_the_adapter_give_the_same_logits(tiny_base: str) -> None:
    """A published FedEx-LoRA transposes always and leaves the scale out: both miss."""
    ids = torch.tensor([[5, 6, 7, 8]])
    lora = LoraSettings(rank=2, alpha=4.0)
    model = attach(load_base(tiny_base), lora)
    small = {name: value + 0.1 for name, value in initial(model, 1).items()}
    random = np.random.default_rng(4)
    residual = {
        name: 0.1 * tensor(random, *(3 if size == 2 else size for size in value.shape)) for name, value in small.items()
    }
    put(model, small)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with residual_in(model, residual, lora.alpha / lora.rank):
            in_the_weight = model(input_ids=ids).logits
        with residual_in(model, residual, 1.0):
            unscaled = model(input_ids=ids).logits
        assert torch.equal(model(input_ids=ids).logits, before)
    wide = attach(load_base(tiny_base), LoraSettings(rank=5, alpha=10.0))
    put(wide, beside(small, residual))
    with torch.no_grad():
        logits = wide(input_ids=ids).logits
    torch.testing.assert_close(logits, in_the_weight, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits, unscaled, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(logits, before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(3, 7), (2,)])
def test_a_residual_that_does_not_fit_is_named_and_changes_nothing(tiny_base: str, shape: tuple[int, ...]) -> None:
    model = attach(load_base(tiny_base), LoraSettings(rank=2, alpha=4.0))
    before = {name: value.clone() for name, value in model.named_parameters()}
    name = next(name for name in initial(model, 1) if name.endswith(A_END))
    residual = {name: torch.ones(shape), name.removesuffix(A_END) + B_END: torch.ones(5, 3)}
    with pytest.raises(UserError, match="does not fit the model"), residual_in(model, residual, 1.0):
        pass
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


# --- a merchant's round ---


def trained_by(method: str, carried: Adapter, number: int, seed: int) -> Adapter:
    """Return `carried` after a round that changes every factor the method trains."""
    random = np.random.default_rng(seed)
    names = trained(carried, method, number)
    return {name: value + tensor(random, *value.shape) if name in names else value for name, value in carried.items()}


@pytest.mark.parametrize("method", METHODS)
def test_what_travels_and_what_stays_together_hold_everything_a_merchant_trained(method: str) -> None:
    asked = adapter(1)
    kept = adapter(2, rank=2) if METHODS[method].own else {}
    for number in (1, 2, 3):
        carried = opened(asked, kept, method)
        after = trained_by(method, carried, number, seed=number)
        done = close(after, asked, method, number)
        assert sorted(done.update) == sent(asked, method, number)
        again = opened({**asked, **{name: asked[name] + done.update[name] for name in done.update}}, done.kept, method)
        for name in after:
            torch.testing.assert_close(again[name], after[name], rtol=1e-5, atol=1e-5)
        kept = done.kept


def test_fedsa_sends_no_b_and_goes_on_from_its_own() -> None:
    asked = adapter(1)
    after = trained_by("fedsa", opened(asked, {}, "fedsa"), 1, seed=9)
    done = close(after, asked, "fedsa", 1)
    assert all(name.endswith(A_END) for name in done.update)
    assert all(name.endswith(B_END) and torch.equal(value, after[name]) for name, value in done.kept.items())
    later = opened(adapter(5), done.kept, "fedsa")
    assert all(torch.equal(later[name], (done.kept if name.endswith(B_END) else adapter(5))[name]) for name in later)


def test_a_private_half_never_travels_and_the_shared_half_is_the_asked_one() -> None:
    asked, own = adapter(1), adapter(2, rank=2)
    after = trained_by("sdflora", opened(asked, own, "sdflora"), 1, seed=9)
    done = close(after, asked, "sdflora", 1)
    assert {name: value.shape for name, value in done.update.items()} == {
        name: value.shape for name, value in asked.items() if name.endswith(B_END)
    }
    assert to_bytes(done.kept) == to_bytes(cut(after, 4, 6))
    for layer in LAYERS:
        assert torch.equal(done.kept[layer + A_END], own[layer + A_END])
        torch.testing.assert_close(
            product(opened(asked, own, "sdflora"), layer), product(asked, layer) + product(own, layer)
        )


def test_one_peft_module_carries_shared_and_private_half_at_one_scale(tiny_base: str) -> None:
    whole = initial(attach(load_base(tiny_base), LoraSettings(rank=6, alpha=12.0)), 1)
    asked, own = cut(whole, 0, 4), cut(whole, 4, 6)
    model = attach(load_base(tiny_base), LoraSettings(rank=6, alpha=12.0))
    put(model, opened(asked, own, "sdflora"))
    assert to_bytes(lift(model)) == to_bytes(whole)
