"""Small real things that many tests share: a two-layer GPT-2 with its own tokenizer, and a small shop."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import LoraSettings
from common.lora import Bench, bench
from common.schema import Shop
from simulations.world import make_shops

needs_vnni = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="the processor multiplies no bytes")


def make_base(folder: Path, texts: list[str], seed: int = 1) -> Path:
    """Write a two-layer GPT-2 with random weights and a byte-level BPE of 1,024 ids learned on `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|pad|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[0], pad_token=special[1]
    )
    fast.save_pretrained(folder)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=1024, n_layer=2, n_embd=32, n_head=2, n_positions=256, bos_token_id=0, eos_token_id=0)
    )
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                values = random.standard_normal(parameter.shape) * 0.08
                parameter.copy_(torch.from_numpy(values))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shops() -> tuple[Shop, ...]:
    """Two small Chinese shops of twelve customers."""
    return make_shops(2, 12, 7, weeks=20)


@pytest.fixture(scope="session")
def shop(shops: tuple[Shop, ...]) -> Shop:
    """One small Chinese shop."""
    return shops[0]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory, shops: tuple[Shop, ...]) -> str:
    """The folder of a two-layer GPT-2."""
    texts = [row.text for shop in shops for row in shop.reviews]
    texts += [row.text for shop in shops for row in shop.campaigns]
    texts += [product.name for shop in shops for product in shop.products]
    return str(make_base(tmp_path_factory.mktemp("base"), texts))


@pytest.fixture
def work(tiny_base: str) -> Bench:
    """The tiny base with a rank-4 adapter."""
    return bench(tiny_base, LoraSettings(rank=4, alpha=8.0))
