"""The fast engine against the reference and against one customer at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from client.config import TrainChoice
from client.train import fast
from client.train.fast import FastGradients, Head, entropy_gradient, pieces, shares
from client.train.loss import customer_loss
from client.train.products import FloatingWords, on_grid
from client.train.sampling import Rehearsal
from client.train.trainer import LocalSettings, per_customer_gradients, private, train_round
from common.config import parse_settings
from common.errors import UserError
from common.lora import Bench, lift, put
from common.privacy.plan import RoundPlan
from common.tokens import Rows
from tests.conftest import needs_vnni

PLAN = RoundPlan("shop", "run", 1, 0.5, 1.0, 3, 0.5, 4.0, 1e-6, 4, "p", "a")
FAST, REFERENCE = LocalSettings(), LocalSettings(dp_engine="opacus")
V, T = 101, 20
LENGTHS = (T, 6, 17, 2, 1, 0, 9)


def carrier(
    targets: Sequence[str] = ("c_attn",), rank: int = 4, seed: int = 3, use_dora: bool = False, **config: Any
) -> PeftModel:
    """A three-layer GPT-2 with random weights everywhere and an adapter in the middle of a run."""
    usual = {"n_layer": 3, "n_embd": 32, "n_head": 2, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=V, **{**usual, **still, **config})).requires_grad_(False)
    lora = LoraConfig(
        r=rank,
        lora_alpha=8,
        target_modules=list(targets),
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
        use_dora=use_dora,
    )
    carried = get_peft_model(model, lora)
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in carried.named_parameters():
            centre = float("ln_" in name and name.endswith("weight"))
            scale = 0.3 / np.sqrt(rank) if "lora_" in name else 0.15
            parameter.copy_(torch.from_numpy(centre + scale * random.standard_normal(parameter.shape)))
    return carried


def rows_of(lengths: Sequence[int] = LENGTHS, seed: int = 4) -> Rows:
    """One customer a length; a third of what stands in a row does not count."""
    random = np.random.default_rng(seed)
    ids_BT = random.integers(1, V, (len(lengths), T))
    counts_BT = np.arange(T)[None, :] < np.asarray(lengths)[:, None]
    return Rows(ids_BT, counts_BT & (random.random((len(lengths), T)) < 0.67))


def names_of(model: PeftModel, trained: str) -> list[str]:
    return [name for name in lift(model) if any(f"lora_{letter}" in name for letter in trained)]


def gradients(model: PeftModel, rows: Rows, settings: LocalSettings, trained: str = "AB") -> torch.Tensor:
    """Gradients (B, d) as one engine leaves them."""
    with private(model, names_of(model, trained), PLAN, 1.0, Rehearsal(1), settings) as (engine, optimizer):
        per_customer_gradients(engine, rows, "cpu")
        return torch.cat([parameter.grad_sample.flatten(1) for parameter in optimizer.params], 1).detach()


def one_by_one(model: PeftModel, rows: Rows, trained: str = "AB") -> torch.Tensor:
    """Gradients (B, d) by plain autograd, a customer at a time."""
    parameters = [p for n, p in model.named_parameters() if any(f"lora_{letter}" in n for letter in trained)]
    found = []
    for parameter in parameters:
        parameter.requires_grad_(True)
    for ids, counts in zip(torch.from_numpy(rows.ids_BT), torch.from_numpy(rows.weights), strict=True):
        loss = customer_loss(model(input_ids=ids[None]).logits, ids[None], counts[None]).sum()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return torch.stack(found)


def kept(engine: FastGradients) -> list[torch.Tensor]:
    """What the engine has left in its parameters."""
    return [parameter.grad_sample for parameter in engine.parameters()]  # type: ignore[attr-defined]


@contextmanager
def computing_on(threads: int) -> Iterator[None]:
    """Let torch have so many threads, which the block must leave it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest distance of a customer's gradient from what it should be, relative to the largest gradient."""
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1).max()).max())


@pytest.mark.parametrize("padding", ["full", "buckets"])
@pytest.mark.parametrize("trained", ["B", "A", "AB"])
@pytest.mark.parametrize(
    ("targets", "rank"),
    [(("c_attn",), 1), (("c_attn",), 256), (("c_proj",), 8), (("c_fc",), 3), (("c_attn", "c_proj", "c_fc"), 8)],
)
def test_gradients_are_those_of_the_reference_and_of_a_loop_over_customers(
    targets: tuple[str, ...], rank: int, trained: str, padding: fast.Padding
) -> None:
    model, rows = carrier(targets, rank), rows_of()
    found = gradients(model, rows, replace(FAST, padding=padding), trained)
    assert apart(found, gradients(model, rows, REFERENCE, trained)) < 1e-5
    assert apart(found, one_by_one(model, rows, trained)) < 1e-5


@pytest.mark.parametrize("padding", ["full", "buckets"])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_core_has_a_share_of_the_customers_and_each_gradient_finds_its_place(
    threads: int, padding: fast.Padding, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows, met = carrier(("c_attn", "c_fc")), rows_of(), set()
    run = FastGradients.run

    def watched(engine: FastGradients, *given: Any) -> None:
        met.add((threading.current_thread(), torch.get_num_threads()))
        run(engine, *given)

    monkeypatch.setattr(FastGradients, "run", watched)
    monkeypatch.setattr(fast, "SHARE", 16)
    with computing_on(threads):
        found = gradients(model, rows, replace(FAST, padding=padding))
        used = {threads for _, threads in met}
    assert apart(found, one_by_one(model, rows)) < 1e-5
    assert used == ({1} if threads < 8 else {8})  # eight cores have no share of seven customers each
    assert threads == 1 or threads == 8 or threading.current_thread() not in {thread for thread, _ in met}


def test_what_goes_wrong_on_a_core_is_said_and_the_threads_are_given_back() -> None:
    model, rows = carrier(), rows_of()
    rows.ids_BT[2, 3] = V
    with computing_on(2), pytest.raises(IndexError):
        gradients(model, rows, FAST)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("padding", ["full", "buckets"])
def test_shares_are_all_customers_once_and_as_long_as_each_other(threads: int, padding: fast.Padding) -> None:
    random = np.random.default_rng(threads)
    counts = torch.from_numpy(np.arange(64)[None] < random.integers(0, 65, 50)[:, None])
    found = shares(counts, padding, threads)
    assert len(found) % threads == 0
    assert sorted(torch.cat(found).tolist()) == list(range(50))
    lengths = torch.zeros(50)
    for places, length in pieces(counts, padding):
        lengths[places] = length
    sizes = [float(lengths[places].sum()) for places in found]
    assert max(sizes) - min(sizes) <= 63
    assert max(sizes) <= fast.SHARE + 63


@pytest.mark.parametrize("lengths", [[T] * 4, [5, 5, 5, T, T, 9, 9], [3, 0, 3, T, 0]])
def test_customers_whose_rows_are_cut_to_one_length_keep_gradients_of_their_own(lengths: list[int]) -> None:
    model, whole = carrier(("c_attn", "c_fc")), np.arange(T)[None, :] < np.asarray(lengths)[:, None]
    rows = replace(rows_of(lengths), counts_BT=whole)
    together = [len(places) for places, _ in pieces(torch.from_numpy(rows.counts_BT), "buckets")]
    assert max(together) > 1
    found = gradients(model, rows, replace(FAST, padding="buckets"))
    assert apart(found, one_by_one(model, rows)) < 1e-5


@pytest.mark.parametrize("padding", ["full", "buckets"])
def test_an_id_with_a_louder_voice_moves_its_customers_gradient_in_every_engine_alike(padding: fast.Padding) -> None:
    model, plain = carrier(), rows_of()
    voice_BT = np.where(plain.counts_BT, np.where(plain.ids_BT % 3 == 0, 4, 1), 0).astype(np.float32)
    rows = replace(plain, voice_BT=voice_BT)
    found = gradients(model, rows, replace(FAST, padding=padding))
    assert apart(found, gradients(model, rows, REFERENCE)) < 1e-5
    assert apart(found, one_by_one(model, rows)) < 1e-5
    assert apart(found, one_by_one(model, plain)) > 1e-2


@pytest.mark.parametrize(
    "config",
    [
        {"activation_function": "relu"},
        {"activation_function": "gelu"},
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
        {"reorder_and_upcast_attn": True},
        {"n_inner": 40, "layer_norm_epsilon": 1e-2},
        {"tie_word_embeddings": False},
    ],
)
def test_every_gpt2_is_computed_as_transformers_computes_it(config: dict[str, Any]) -> None:
    model, rows = carrier(("c_attn", "c_fc"), **config), rows_of()
    assert apart(gradients(model, rows, FAST), one_by_one(model, rows)) < 1e-5


def test_what_a_method_has_added_to_the_frozen_weight_is_seen() -> None:
    model, rows = carrier(("c_attn", "c_proj")), rows_of()
    before = gradients(model, rows, FAST)
    random = np.random.default_rng(8)
    with torch.no_grad():
        for block in model.get_base_model().transformer.h:
            weight = block.attn.c_attn.get_base_layer().weight
            weight += torch.from_numpy(0.1 * random.standard_normal(weight.shape)).float()
    found = gradients(model, rows, FAST)
    assert apart(found, one_by_one(model, rows)) < 1e-5
    assert apart(found, before) > 1e-2


def test_adapters_in_the_upper_layers_only_and_no_graph_below_them() -> None:
    model, rows = carrier(("2.attn.c_attn", "2.mlp.c_proj")), rows_of()
    assert apart(gradients(model, rows, FAST), one_by_one(model, rows)) < 1e-5
    engine = FastGradients(model)
    whole = fast.Pass(((torch.arange(len(LENGTHS)), T),), len(LENGTHS))
    hidden = engine.hidden(torch.from_numpy(rows.ids_BT).flatten(), whole, slice(None))
    assert nodes(hidden.grad_fn).count("NativeLayerNormBackward0") == 2  # of seven: the last and the one above c_attn


def nodes(end: Any) -> list[str]:
    """The names of the graph's nodes behind `end`."""
    met, ahead = [], [end]
    seen = set()
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            met.append(type(node).__name__)
            ahead += [behind for behind, _ in node.next_functions]
    return met


def test_a_second_adapter_beside_the_first_runs_with_it() -> None:
    model, rows = carrier(), rows_of()
    model.add_adapter("own", model.peft_config["default"])
    model.base_model.set_adapter(["default", "own"])
    random = np.random.default_rng(6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "own" in name:
                parameter.copy_(torch.from_numpy(0.2 * random.standard_normal(parameter.shape)))
    expected = one_by_one(model, rows)
    engine = FastGradients(model)
    engine.gradients(torch.from_numpy(rows.ids_BT), torch.from_numpy(rows.counts_BT))
    found = torch.cat([left.flatten(1) for left in kept(engine)], 1)
    assert found.shape[1] == 2 * 3 * 4 * (32 + 96)
    assert apart(found, expected) < 1e-5


def test_a_loop_of_rounds_ends_where_the_references_ends(work: Bench) -> None:
    random, plan = np.random.default_rng(5), replace(PLAN, sigma=0.0, rate=0.6, clip_norm=0.1)
    ids_NT, ends = random.integers(2, 1000, (9, T)), random.integers(0, T, 9)

    class Fixed:
        def __len__(self) -> int:
            return len(ids_NT)

        def rows(self, drawn: Sequence[int], randomness: object) -> Rows:
            return Rows(ids_NT[list(drawn)], np.arange(T)[None] < ends[list(drawn), None])

    start = {name: tensor + 0.05 for name, tensor in lift(work.model).items()}
    updates = [
        train_round(work.model, start, Fixed(), plan, Rehearsal(3), method="fedavg", local_rate=1.0, settings=settings)
        for settings in (FAST, replace(FAST, padding="buckets", microbatch=2), REFERENCE)
    ]
    for name, expected in updates[-1].items():
        for update in updates[:-1]:
            assert float((update[name] - expected).norm()) <= 1e-5 * float(expected.norm()), name
    put(work.model, start)


# --- bfloat16 ---


def test_a_base_in_bfloat16_gives_float32_gradients_of_each_customer_alone() -> None:
    model, rows = carrier(("c_attn", "c_fc")), rows_of()
    half = replace(FAST, precision="bfloat16")
    together = gradients(model, rows, half)
    assert together.dtype == torch.float32
    assert 1e-4 < apart(together, one_by_one(model, rows)) < 5e-2
    alone = gradients(model, Rows(rows.ids_BT[2:3], rows.counts_BT[2:3]), half)
    assert apart(alone, together[2:3]) < 2e-2
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


# --- eight bits by sixteen ---

EIGHT = replace(FAST, precision="int8")


@needs_vnni
@pytest.mark.parametrize("padding", ["full", "buckets"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("targets", [("c_attn",), ("c_attn", "c_fc", "c_proj")])
def test_in_int8_each_customers_gradient_is_the_rounded_networks(
    padding: fast.Padding, tied: bool, targets: Sequence[str]
) -> None:
    model, rows = carrier(targets, tie_word_embeddings=tied), rows_of()
    settings = replace(EIGHT, padding=padding)
    together, unrounded = gradients(model, rows, settings), one_by_one(model, rows)
    on_grid(model.get_base_model())
    assert apart(together, one_by_one(model, rows)) < 5e-4
    assert apart(together, unrounded) > 2e-3
    assert apart(together, gradients(model, rows, settings)) < 1e-5  # what is on the grid stays where it is


@needs_vnni
@pytest.mark.parametrize("threads", [1, 2])
def test_in_int8_a_gradient_is_her_own_to_the_last_bit_whoever_is_beside_her(threads: int) -> None:
    model = carrier(("c_attn", "c_fc"), n_embd=768, n_head=12, n_layer=2)
    random = np.random.default_rng(5)
    rows = Rows(random.integers(1, V, (16, 64)), random.random((16, 64)) < 0.7)
    with computing_on(threads):
        together = gradients(model, rows, EIGHT)
        for few in ([0], [7], [3, 9, 12]):
            assert torch.equal(gradients(model, Rows(rows.ids_BT[few], rows.counts_BT[few]), EIGHT), together[few])


@needs_vnni
def test_in_int8_a_residual_in_the_frozen_weights_is_seen_and_gone_again() -> None:
    model, rows = carrier(), rows_of()
    before = gradients(model, rows, EIGHT)
    weight = model.get_base_model().transformer.h[0].attn.c_attn.base_layer.weight
    usual, weight.data = weight.data, weight.data + 0.1
    within = gradients(model, rows, EIGHT)
    expected = one_by_one(model, rows)
    weight.data = usual
    assert apart(within, before) > 0.05
    assert apart(within, expected) < 0.1
    assert torch.equal(gradients(model, rows, EIGHT), before)


# --- what is not finite stays with its customer ---


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize(
    "settings", [FAST, replace(FAST, padding="buckets"), pytest.param(EIGHT, marks=needs_vnni)], ids=str
)
def test_a_row_that_overflows_breaks_nobody_elses_gradient(value: float, settings: LocalSettings) -> None:
    model, rows = carrier(tie_word_embeddings=False), rows_of([T, T, 7, 18])
    honest = gradients(model, rows, settings)
    rows.ids_BT[rows.ids_BT == 77] = 78
    rows.ids_BT[1, 0] = 77
    with torch.no_grad():
        model.get_base_model().transformer.wte.weight[77] = value
    found = gradients(model, rows, settings)
    others = [0, 2, 3]
    assert apart(found[others], gradients(model, rows, settings)[others]) == 0
    assert bool(torch.isfinite(found[others]).all())
    assert not bool(torch.isfinite(found[1]).all()) or value == 1e38
    assert honest.shape == found.shape


# --- cost that others see ---


def shapes(model: PeftModel, rows: Rows, padding: fast.Padding, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What every pass of the engine ran on."""
    seen: list[Any] = []
    with monkeypatch.context() as patch:
        hidden, entropy = FastGradients.hidden, fast.entropy_gradient

        def watched(self: FastGradients, ids_N: torch.Tensor, part: fast.Pass, *given: Any) -> torch.Tensor:
            assert len(ids_N) == sum(len(places) * length for places, length in part.pieces)
            seen.extend(("network", (len(places), length)) for places, length in part.pieces)
            return hidden(self, ids_N, part, *given)

        def scored(hidden_ND: torch.Tensor, *given: Any) -> torch.Tensor:
            seen.append(("head", tuple(hidden_ND.shape)))
            return entropy(hidden_ND, *given)

        patch.setattr(FastGradients, "hidden", watched)
        patch.setattr(fast, "entropy_gradient", scored)
        gradients(model, rows, replace(FAST, padding=padding))
    return seen


def test_under_full_padding_the_work_follows_from_the_number_of_customers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = carrier()
    long, short = rows_of([T] * 5), rows_of([3, 0, 2, 5, 1])
    assert shapes(model, long, "full", monkeypatch) == shapes(model, short, "full", monkeypatch)
    assert shapes(model, long, "full", monkeypatch) == [("network", (5, T - 1)), ("head", (5 * (T - 1), 32))]


def test_under_buckets_short_rows_cost_less_in_public_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = shapes(carrier(), rows_of(LENGTHS), "buckets", monkeypatch)
    public = {int(np.ceil(T * share)) - 1 for share in fast.BUCKETS}
    lengths = [shape[1] for what, shape in seen if what == "network"]
    assert set(lengths) <= public
    assert sum(shape[0] * shape[1] for what, shape in seen if what == "network") < len(LENGTHS) * (T - 1) / 2


@pytest.mark.parametrize("bound", [1, 2, 3, 8, 64, 100])
def test_every_row_that_counts_runs_once_and_whole(bound: int) -> None:
    random = np.random.default_rng(bound)
    counts = torch.from_numpy(np.arange(bound)[None] < random.integers(0, bound + 1, 40)[:, None])
    met: list[int] = []
    for places, length in pieces(counts, "buckets"):
        assert not bool(counts[places, length + 1 :].any())
        met += places.tolist()
    assert sorted(met) == [row for row in range(40) if bool(counts[row, 1:].any())]


def test_rows_in_which_nothing_can_count_have_gradients_of_zero() -> None:
    model = carrier()
    for padding in ("full", "buckets"):
        found = gradients(model, Rows(np.ones((3, 1), dtype=np.int64), np.ones((3, 1), dtype=np.bool_)),
                          LocalSettings(padding=padding))  # fmt: skip
        assert found.shape[0] == 3
        assert float(found.abs().max()) == 0


# --- the head ---


@pytest.mark.parametrize("size", [1, 5, 1024])
def test_the_heads_gradient_is_autograds(size: int) -> None:
    random = np.random.default_rng(2)
    hidden, head = (torch.from_numpy(random.standard_normal(shape)).float() for shape in ((13, 8), (50, 8)))
    targets = torch.from_numpy(random.integers(0, 50, 13))
    hidden.requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(hidden @ head.t(), targets, reduction="sum")
    (expected,) = torch.autograd.grad(loss, hidden)
    parts = Head(tuple(FloatingWords(words) for words in head.split(size)), lambda ids: head[ids])
    torch.testing.assert_close(entropy_gradient(hidden.detach(), parts, targets), expected, rtol=1e-5, atol=1e-5)


# --- planted faults ---


def test_planted_fault_adding_up_over_the_draw_instead_of_each_customer_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = fast.by_customer

    def pooled(left: torch.Tensor, right: torch.Tensor, part: fast.Pass) -> torch.Tensor:
        found = honest(left, right, part)
        return found.mean(0, keepdim=True).repeat(len(found), 1, 1)

    monkeypatch.setattr(fast, "by_customer", pooled)
    model, rows = carrier(), rows_of()
    assert apart(gradients(model, rows, FAST), one_by_one(model, rows)) > 0.1


def test_planted_fault_a_bucket_too_short_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = pieces
    monkeypatch.setattr(
        fast, "pieces", lambda counts, padding: ((places, length - 1) for places, length in honest(counts, padding))
    )
    model, rows = carrier(), rows_of()
    assert apart(gradients(model, rows, replace(FAST, padding="buckets")), one_by_one(model, rows)) > 1e-3


# --- what the engine does not take ---


def test_a_base_with_dropout_is_refused() -> None:
    with pytest.raises(UserError, match=r'attn_pdrop = 0\.1.*dp_engine = "opacus"'):
        gradients(carrier(attn_pdrop=0.1), rows_of(), FAST)


def test_a_variant_of_lora_is_refused() -> None:
    with pytest.raises(UserError, match=r'variant of LoRA.*dp_engine = "opacus"'):
        FastGradients(carrier(use_dora=True))


def test_a_merged_adapter_is_refused() -> None:
    model = carrier()
    model.merge_adapter()
    with pytest.raises(UserError, match="is merged"):
        FastGradients(model)


def test_what_is_no_adapter_of_a_layer_is_refused() -> None:
    model = carrier()
    model.get_base_model().transformer.ln_f.weight.requires_grad_(True)
    with pytest.raises(UserError, match=r'transformer\.ln_f\.weight is no adapter.*dp_engine = "opacus"'):
        FastGradients(model)


def test_an_adapter_on_the_embedding_is_refused() -> None:
    with pytest.raises(UserError, match=r'wte.*is no adapter.*set dp_engine = "opacus"'):
        FastGradients(carrier(("wte",), tie_word_embeddings=False))


def test_the_merchants_settings_name_the_engine() -> None:
    assert TrainChoice().dp_engine == "fast"
    with pytest.raises(UserError, match="precision and padding are the fast engine's"):
        parse_settings(TrainChoice, {"dp_engine": "opacus", "precision": "bfloat16"}, "merchant.toml")
