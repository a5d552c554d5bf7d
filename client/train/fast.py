"""The fast engine: one gradient a customer for a GPT-2's adapters, from one forward and one backward pass.

The frozen network is run over its own weights, matrix by matrix. Where an adapter sits, the forward pass keeps what the
adapter's two factors need and the backward pass meets it with the gradient of the output, customer by customer:

    y = x W + b + s (x A') B'          A: r x d_in    B: d_out x r    s = alpha / r        (' is the transpose)
    gradient of B for customer u    =  s (sum over u's tokens of dy h')     with h = A x
    gradient of A for customer u    =  s (sum over u's tokens of B' dy x')

so each gradient is the customer's own by construction, in float32, exactly what a loop over customers gives (one pass
with what each layer saw is the book-keeping of Bu et al. 2023, arXiv:2210.00038; for factors of rank r the gradient
itself, r (d_in + d_out) numbers, is smaller than what its norm alone would take). Clipping, noise and divisor are the
trainer's, the same code whichever engine ran.

Why it is faster than hooks: nothing is computed that nobody asked for, the activation function is one kernel, logits are
never kept, every core has customers of its own and waits for no other, and on request there is no work on padding, nor behind
the last attention on what is not scored.

    B customers   U customers whose rows are cut to one length   T tokens   N positions of all   S positions that are scored
    D width   V vocabulary   W a part of it   I inputs   O outputs   R rank
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from transformers.pytorch_utils import Conv1D

from client.train.products import (
    EightBits,
    EightBitWords,
    Floating,
    FloatingWords,
    Frozen,
    Words,
    check_eight_bits,
    eight_bits,
    once,
    restored,
)
from common.cores import one_core_each
from common.errors import UserError
from common.lora import named_in

Precision: TypeAlias = Literal["float32", "bfloat16", "int8"]
Padding: TypeAlias = Literal["full", "buckets"]

BUCKETS = tuple(part / 16 for part in range(1, 17))
"""Under `buckets` rows are cut to the first of these parts of the row's bound that holds all that counts."""

SHARE = 512
"""Positions that a core runs at once."""

WORDS = 2048
"""Ids of the vocabulary whose logits are in memory at once."""

TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
"""GPT-2's names of 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), which torch has in one kernel."""

Function: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Pair:
    """The two factors of an adapter at one matrix, and their scale s."""

    A_RI: torch.nn.Parameter
    B_OR: torch.nn.Parameter
    scale: float


@dataclass(frozen=True)
class Matrix:
    """A frozen weight with the adapters it carries."""

    frozen: Frozen
    pairs: tuple[Pair, ...]

    @property
    def trained(self) -> bool:
        """Whether one of its adapters is trained now."""
        return any(pair.A_RI.requires_grad or pair.B_OR.requires_grad for pair in self.pairs)


@dataclass(frozen=True)
class Layer:
    """One block of the network; scaling is what attention scores are multiplied with."""

    first_norm: Function
    attend: Matrix
    leave: Matrix
    heads: int
    scaling: float
    second_norm: Function
    widen: Matrix
    narrow: Matrix
    activation: Function

    @property
    def adapted_after(self) -> bool:
        """Whether an adapter sits behind attention."""
        return any(matrix.pairs for matrix in (self.leave, self.widen, self.narrow))


@dataclass(frozen=True)
class Head:
    """The matrix behind the last layer: products with `WORDS` ids of the vocabulary each, and the rows (N, D) of ids (N,)."""

    parts: tuple[Words, ...]
    rows: Function


@dataclass
class Pass:
    """How the positions of one pass lie behind one another, and the gradients that it leaves.

    A piece is customers' places among the B of the draw and how many positions of each run. What is done position by
    position is done to all pieces at once; only attention and the customers' own sums are taken piece by piece.
    """

    pieces: tuple[tuple[torch.Tensor, int], ...]
    total: int
    together: bool = False
    """Whether all are one customer: for comparison, no privacy."""
    rows: dict[torch.nn.Parameter, torch.Tensor] = field(default_factory=dict)

    def of(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        """Return (B, *weight): one gradient a customer, zero where nothing of hers counts."""
        found = self.rows.get(parameter)
        return parameter.new_zeros(self.total, *parameter.shape) if found is None else found

    def split(self, x_NI: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return `x` piece by piece, each (U, T, I)."""
        sizes = [len(places_U) * length for places_U, length in self.pieces]
        parts: tuple[torch.Tensor, ...] = torch.split(x_NI, sizes)
        return tuple(
            one.view(len(places_U), length, -1) for one, (places_U, length) in zip(parts, self.pieces, strict=True)
        )

    def taken(self, of_BT: torch.Tensor, start: int) -> torch.Tensor:
        """Return (N,): what stands at the pass's positions, moved by `start`."""
        return torch.cat([of_BT[places_U, start : start + length].flatten() for places_U, length in self.pieces])

    def positions(self) -> torch.Tensor:
        """Return (N,): each position's place in its row."""
        device = self.pieces[0][0].device
        return torch.cat([torch.arange(length, device=device).repeat(len(one)) for one, length in self.pieces])


class FastGradients:
    """A GPT-2 with its adapters, ready to give one gradient a customer; weights are read once, factors at every pass."""

    def __init__(self, model: PeftModel, precision: Precision = "float32", padding: Padding = "full") -> None:
        base = model.get_base_model()
        check_model(base)
        network = base.transformer
        make = Making(precision, network.wte.weight.device)
        dtype = make.dtype
        self.padding: Padding = padding
        tokens_VD, self.positions_TD = _frozen(network.wte.weight, dtype), _frozen(network.wpe.weight, dtype)
        self.layers = [_layer(block, base.config.activation_function, make) for block in network.h]
        self.last_norm = _norm(network.ln_f, dtype)
        tied = base.lm_head.weight is network.wte.weight
        self.head = make.head(base.lm_head.weight, tokens_VD if tied else _frozen(base.lm_head.weight, dtype))
        self.tokens: Function = self.head.rows if tied else lambda ids_N: tokens_VD[ids_N]
        self.trained: list[Any] = [parameter for _, parameter in named_in(model) if parameter.requires_grad]
        check_reached(model, self.layers)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Yield the trained parameters."""
        yield from self.trained

    def gradients(self, ids_BT: torch.Tensor, counts_BT: torch.Tensor) -> None:
        """Leave (B, *weight) gradients of the customers' losses in every trained parameter's `grad_sample`.

        The loss is `customer_loss`: a customer's mean over its own ids that count.
        """
        done = self.passes(ids_BT, counts_BT)
        for parameter in self.trained:
            parameter.grad_sample = parameter.new_empty(len(ids_BT), *parameter.shape)
            for share_B, part in done:
                parameter.grad_sample[share_B] = part.of(parameter)

    def passes(
        self, ids_BT: torch.Tensor, counts_BT: torch.Tensor, together: bool = False
    ) -> list[tuple[torch.Tensor, Pass]]:
        """Run the customers forward and backward; return each share's places among them and its pass.

        Every core has shares of its own and waits for no other, small enough that what they leave lies in its cache.
        """
        weights_BT, threads = token_weights(counts_BT), torch.get_num_threads()

        def run(share_B: torch.Tensor) -> tuple[torch.Tensor, Pass]:
            part = Pass(tuple(pieces(counts_BT[share_B], self.padding)), len(share_B), together)
            self.run(ids_BT[share_B], weights_BT[share_B], part)
            return share_B, part

        if ids_BT.is_cuda:
            return [run(torch.arange(len(ids_BT), device=ids_BT.device))]
        cut = shares(counts_BT, self.padding, threads)
        if threads == 1 or len(cut) < threads:
            return [run(share_B) for share_B in cut]
        with one_core_each(threads) as pool:
            return list(pool.map(run, cut))

    def run(self, ids_BT: torch.Tensor, weights_BT: torch.Tensor, part: Pass) -> None:
        """Run the customers of one pass forward and backward; a row's last id is a target only."""
        if not part.pieces:
            return
        targets_N, weights_N = part.taken(ids_BT, 1), part.taken(weights_BT, 1)
        scored_S = slice(None) if self.padding == "full" else weights_N.nonzero()[:, 0]
        with torch.enable_grad():
            hidden_SD = self.hidden(part.taken(ids_BT, 0), part, scored_S)
        slope_SD = entropy_gradient(hidden_SD.detach(), self.head, targets_N[scored_S])
        hidden_SD.backward(slope_SD.mul_(weights_N[scored_S, None]).to(hidden_SD.dtype))

    def hidden(self, ids_N: torch.Tensor, part: Pass, scored_S: slice | torch.Tensor) -> torch.Tensor:
        """Return the last hidden states (S, D) of the positions that are scored."""
        x_ND = self.tokens(ids_N) + self.positions_TD[part.positions()]
        for layer in self.layers:
            mixed_ND = attention(through(layer.attend, layer.first_norm(x_ND), part), layer, part)
            if layer is self.layers[-1] and not layer.adapted_after:
                x_ND, mixed_ND = x_ND[scored_S], mixed_ND[scored_S]
            x_ND = x_ND + through(layer.leave, mixed_ND, part)
            wide_NO = layer.activation(through(layer.widen, layer.second_norm(x_ND), part))
            x_ND = x_ND + through(layer.narrow, wide_NO, part)
        if self.layers[-1].adapted_after:
            x_ND = x_ND[scored_S]
        return self.last_norm(x_ND)


def token_weights(counts_BT: torch.Tensor) -> torch.Tensor:
    """Return (B, T) weights of the ids in their customer's loss: what each counts over what all her own ids count."""
    counted = counts_BT.clone()
    counted[:, 0] = False
    return counted / counted.sum(1, keepdim=True).clamp(min=1)


def pieces(counts_BT: torch.Tensor, padding: Padding) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield places of customers whose rows run to one public number of positions, and that number.

    Under `full` all run to the row's bound. Under `buckets` a row is cut behind its last id that counts, rounded up to a
    public length; what stands behind cannot be seen by what counts, and a row where nothing counts has no gradient.
    """
    customers, bound = counts_BT.shape
    if padding == "full":
        if customers and bound > 1:
            yield torch.arange(customers, device=counts_BT.device), bound - 1
        return
    ends_B = ((counts_BT > 0) * torch.arange(1, bound + 1, device=counts_BT.device)).amax(1)
    below = 1
    for length in (math.ceil(bound * share) for share in BUCKETS):
        places = ((ends_B > below) & (ends_B <= length)).nonzero()[:, 0]
        if len(places):
            yield places, length - 1
        below = max(below, length)


def shares(counts_BT: torch.Tensor, padding: Padding, threads: int) -> list[torch.Tensor]:
    """Return places of customers in shares of about `SHARE` positions or fewer, each as long, as many for every thread."""
    if threads == 1 and counts_BT.numel() <= SHARE:
        return [torch.arange(len(counts_BT))]
    lengths = [0] * len(counts_BT)
    for places_U, length in pieces(counts_BT, padding):
        for place in places_U.tolist():
            lengths[place] = length
    found: list[list[int]] = [[] for _ in range(threads * max(1, math.ceil(sum(lengths) / (threads * SHARE))))]
    sizes = [0] * len(found)
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):  # the longest first, to the emptiest
        emptiest = sizes.index(min(sizes))
        found[emptiest].append(place)
        sizes[emptiest] += lengths[place]
    return [torch.tensor(sorted(one)) for one in found if one]


def through(matrix: Matrix, x_NI: torch.Tensor, part: Pass) -> torch.Tensor:
    """Return (N, O): `x` through the frozen weight and its adapters."""
    switch = x_NI.new_zeros((), requires_grad=matrix.trained)
    out_NO: torch.Tensor = Adapted.apply(x_NI, switch, matrix, part)  # type: ignore[no-untyped-call]
    return out_NO


class Adapted(torch.autograd.Function):
    """A frozen matrix with adapters, whose backward pass leaves one gradient a customer.

    `switch` needs a gradient where a factor is trained, so that the backward pass comes by although `x` may need none.
    """

    @staticmethod
    def forward(ctx: Any, x_NI: torch.Tensor, switch: torch.Tensor, matrix: Matrix, part: Pass) -> torch.Tensor:
        """Return (N, O); keep h = x A' of every pair, and x where an A is trained."""
        out_NO = matrix.frozen.out(x_NI)
        hidden = [narrowed(x_NI, pair.A_RI.to(x_NI.dtype).t()) for pair in matrix.pairs]
        for pair, h_NR in zip(matrix.pairs, hidden, strict=True):
            out_NO.addmm_(h_NR, pair.B_OR.to(x_NI.dtype).t(), alpha=pair.scale)
        asked = any(pair.A_RI.requires_grad for pair in matrix.pairs)
        ctx.matrix, ctx.part = matrix, part
        ctx.save_for_backward(x_NI if asked else None, *hidden)
        return out_NO

    @staticmethod
    def backward(ctx: Any, dy_NO: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        """Return the gradient of x (N, I) where it is needed; leave the customers' gradients of the factors."""
        x_NI, *hidden = ctx.saved_tensors
        dx_NI = ctx.matrix.frozen.back(dy_NO) if ctx.needs_input_grad[0] else None
        for pair, h_NR in zip(ctx.matrix.pairs, hidden, strict=True):
            dh_NR = narrowed(dy_NO, pair.B_OR.to(dy_NO.dtype)).mul_(pair.scale)
            if dx_NI is not None:
                dx_NI.addmm_(dh_NR, pair.A_RI.to(dy_NO.dtype))
            if pair.B_OR.requires_grad:
                ctx.part.rows[pair.B_OR] = by_customer(dy_NO, h_NR, ctx.part).mul_(pair.scale)
            if pair.A_RI.requires_grad:
                ctx.part.rows[pair.A_RI] = by_customer(dh_NR, x_NI, ctx.part)
        return dx_NI, None, None, None


def narrowed(x_NI: torch.Tensor, factor_IR: torch.Tensor) -> torch.Tensor:
    """Return (N, R) with every row's sum taken in one piece.

    Several threads share out the I terms of so narrow a product, another way for another N: then a row would end in other
    last digits by how many are beside it, and rounding into bytes makes one part in 10,000 of that.
    """
    threads = torch.get_num_threads()
    if threads == 1 or x_NI.is_cuda:
        return x_NI @ factor_IR
    torch.set_num_threads(1)
    try:
        return x_NI @ factor_IR
    finally:
        torch.set_num_threads(threads)


def by_customer(left_NO: torch.Tensor, right_NI: torch.Tensor, part: Pass) -> torch.Tensor:
    """Return (B, O, I) in float32: left' right, summed over each customer's own positions."""
    left, right = left_NO.float(), right_NI.float()
    if part.together:
        return (left.t() @ right)[None]
    sums = [torch.bmm(one.mT, other) for one, other in zip(part.split(left), part.split(right), strict=True)]
    if len(part.pieces[0][0]) == part.total:  # places are in order
        return sums[0]
    found = left.new_zeros(part.total, left.shape[1], right.shape[1])
    for (places_U, _), one in zip(part.pieces, sums, strict=True):
        found[places_U] = one
    return found


def attention(qkv_NO: torch.Tensor, layer: Layer, part: Pass) -> torch.Tensor:
    """Return (N, D): causal attention within each customer's row."""
    mixed = [row_attention(one, layer) for one in part.split(qkv_NO)]
    return torch.cat(mixed) if len(mixed) > 1 else mixed[0]


def row_attention(qkv_UTO: torch.Tensor, layer: Layer) -> torch.Tensor:
    """Return (U T, D): the same for rows of one length."""
    customers, length, width = qkv_UTO.shape
    split = qkv_UTO.view(customers, length, 3, layer.heads, width // (3 * layer.heads)).unbind(2)
    query, key, value = (one.transpose(1, 2) for one in split)
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=layer.scaling)
    return mixed.transpose(1, 2).reshape(customers * length, -1)


def entropy_gradient(hidden_ND: torch.Tensor, head: Head, targets_N: torch.Tensor) -> torch.Tensor:
    """Return each position's gradient of its cross entropy, softmax(h W') W - W[target], as (N, D) in float32.

    The softmax is taken over the ids of one part at a time, so that the logits of all are never in memory (online softmax:
    Milakov & Gimelshein 2018, arXiv:1805.02867).
    """
    mixed_ND = torch.zeros_like(hidden_ND, dtype=torch.float32)
    highest_N1, total_N1 = mixed_ND.new_full((len(hidden_ND), 1), -math.inf), mixed_ND.new_zeros((len(hidden_ND), 1))
    ready_ND = head.parts[0].ready(hidden_ND)
    for part in head.parts:
        odds_NW = part.odds(ready_ND)
        before_N1, highest_N1 = highest_N1, torch.maximum(highest_N1, odds_NW.amax(1, keepdim=True))
        odds_NW.sub_(highest_N1).exp_()
        still_N1 = before_N1.sub_(highest_N1).exp_()
        total_N1.mul_(still_N1).add_(odds_NW.sum(1, keepdim=True))
        mixed_ND.mul_(still_N1).add_(part.mixed(odds_NW))
    return mixed_ND.div_(total_N1).sub_(head.rows(targets_N))


def check_model(base: Any) -> None:
    """Raise `UserError` for a network that this engine does not compute as transformers does."""
    config = base.config
    dropout = [name for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop") if getattr(config, name)]
    for wrong in (*dropout, *(["add_cross_attention"] if config.add_cross_attention else [])):
        raise UserError(
            f'the base has {wrong} = {getattr(config, wrong)}; the fast engine takes none, set dp_engine = "opacus"'
        )


def check_reached(model: PeftModel, layers: list[Layer]) -> None:
    """Raise `UserError` when a parameter is to be trained that is no factor of an adapter in a layer."""
    matrices = [one for layer in layers for one in (layer.attend, layer.leave, layer.widen, layer.narrow)]
    reached = {id(factor) for one in matrices for pair in one.pairs for factor in (pair.A_RI, pair.B_OR)}
    for name, parameter in named_in(model):
        if parameter.requires_grad and id(parameter) not in reached:
            raise UserError(
                f"{name} is no adapter of c_attn, c_proj or c_fc; the fast engine cannot train it, "
                'set dp_engine = "opacus"'
            )


@dataclass(frozen=True)
class Making:
    """How frozen matrices are made of a model's weights."""

    precision: Precision
    device: torch.device

    def __post_init__(self) -> None:
        if self.precision == "int8":
            check_eight_bits(self.device.type)

    @property
    def dtype(self) -> torch.dtype:
        """What everything but the matrices is computed in."""
        return torch.float32 if self.precision == "int8" else getattr(torch, self.precision)

    def matrix(self, weight: torch.nn.Parameter, bias: torch.nn.Parameter) -> Frozen:
        """Return a layer's matrix of a weight (I, O)."""
        weight_IO, bias_O = _frozen(weight, self.dtype), _frozen(bias, self.dtype)
        if self.precision == "int8":
            return EightBits(once(weight, lambda: eight_bits(weight_IO)), bias_O)
        return Floating(weight_IO, bias_O)

    def head(self, weight: torch.nn.Parameter, weight_VD: torch.Tensor) -> Head:
        """Return the head of a weight (V, D), which is given in `dtype` besides."""
        words = weight_VD.split(WORDS)
        if self.precision == "int8":
            parts = once(weight, lambda: tuple(EightBitWords(eight_bits(words_WD.t())) for words_WD in words))
            return Head(parts, lambda ids_N: restored(weight_VD[ids_N]))
        return Head(tuple(FloatingWords(words_WD) for words_WD in words), lambda ids_N: weight_VD[ids_N])


def _layer(block: Any, activation: str, make: Making) -> Layer:
    return Layer(
        _norm(block.ln_1, make.dtype),
        _matrix(block.attn.c_attn, make),
        _matrix(block.attn.c_proj, make),
        block.attn.num_heads,
        block.attn.scaling,
        _norm(block.ln_2, make.dtype),
        _matrix(block.mlp.c_fc, make),
        _matrix(block.mlp.c_proj, make),
        gelu if activation in TANH_GELU else block.mlp.act,
    )


def gelu(x: torch.Tensor) -> torch.Tensor:
    """Return GPT-2's activation in one kernel (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return F.gelu(x, approximate="tanh")


def _matrix(module: torch.nn.Module, make: Making) -> Matrix:
    dense: Any = module.get_base_layer() if isinstance(module, LoraLinear) else module
    if not isinstance(dense, Conv1D):
        raise UserError(
            f'the base holds a {type(dense).__name__}; the fast engine takes Conv1D, set dp_engine = "opacus"'
        )
    return Matrix(make.matrix(dense.weight, dense.bias), tuple(_pairs(module)))


def _pairs(module: torch.nn.Module) -> Iterator[Pair]:
    if not isinstance(module, LoraLinear):
        return
    for name in module.active_adapters:
        if name not in module.lora_A:
            continue
        still = isinstance(module.lora_dropout[name], torch.nn.Identity)
        if module.merged or name in module.lora_variant or module.lora_bias[name] or not still:
            raise UserError(
                f"adapter {name!r} is merged, has a bias, dropout or a variant of LoRA; the fast engine takes plain factors, "
                'set dp_engine = "opacus"'
            )
        yield Pair(module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name])


def _norm(module: Any, dtype: torch.dtype) -> Function:
    weight_D, bias_D = _frozen(module.weight, dtype), _frozen(module.bias, dtype)
    return lambda x_ND: F.layer_norm(x_ND, weight_D.shape, weight_D, bias_D, module.eps)


def _frozen(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return weight.detach().to(dtype)
