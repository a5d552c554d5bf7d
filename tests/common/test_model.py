from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.bert import BertTokenizer

from common.errors import UserError
from common.model import DEFAULT, Base, digest_of, find_folder, load_base

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_base: str, tmp_path: Path) -> Path:
    """Return a copy of the tiny base that a test may damage."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


@pytest.fixture(scope="module")
def bert_style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a GPT-2 with a character vocabulary, as the Chinese GPT-2s of UER have."""
    folder = tmp_path_factory.mktemp("bert")
    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"茶香龙井好喝，。", "tea", "##s"]
    (folder / "vocab.txt").write_text("\n".join(letters) + "\n", "utf-8")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = GPT2Config(vocab_size=len(letters), n_layer=1, n_embd=16, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def one_line(name: str | Path) -> str:
    """Return the one line that loading the base ends with."""
    with pytest.raises(UserError) as caught:
        load_base(str(name))
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 500
    return line


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Write the base's weights with some tensors put in place of others, or taken out."""
    state = load_file(folder / WEIGHTS) | {name: tensor for name, tensor in tensors.items() if tensor is not None}
    kept = {name: tensor for name, tensor in state.items() if tensors.get(name, tensor) is not None}
    save_file(kept, folder / WEIGHTS, {"format": "pt"})


# --- bases that load ---


def test_a_folder_is_a_frozen_model_in_fp32_with_its_tokenizer(tiny_base: str) -> None:
    base = load_base(tiny_base)
    assert base.name == tiny_base
    assert base.end == 0
    assert base.tokenizer.decode(base.tokenizer("铁观音 tea")["input_ids"]) == "铁观音 tea"
    assert not base.model.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in base.model.parameters())
    dropouts = [module.p for module in base.model.modules() if isinstance(module, torch.nn.Dropout)]
    assert dropouts
    assert not any(dropouts)


def test_the_weights_are_those_in_the_file(tiny_base: str) -> None:
    state = load_file(Path(tiny_base) / WEIGHTS)
    loaded = load_base(tiny_base).model.state_dict()
    for name, tensor in state.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)


def test_a_bert_style_folder_ends_texts_with_its_sep_token(bert_style: Path) -> None:
    base = load_base(str(bert_style))
    assert base.end == base.tokenizer.convert_tokens_to_ids("[SEP]") == 3
    ids = base.tokenizer("龙井好喝，teas", add_special_tokens=False)["input_ids"]
    assert base.tokenizer.convert_ids_to_tokens(ids) == ["龙", "井", "好", "喝", "，", "tea", "##s"]


def test_a_folder_with_vocab_txt_alone_is_enough(bert_style: Path, tmp_path: Path) -> None:
    for part in ("config.json", WEIGHTS, "vocab.txt"):
        shutil.copy(bert_style / part, tmp_path / part)
    assert load_base(str(tmp_path)).end == 3


def test_the_default_base_is_the_folder_named_by_the_environment(
    tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUGOU_BASE", tiny_base)
    assert find_folder(DEFAULT) == Path(tiny_base)
    monkeypatch.setenv("FUGOU_BASE", str(tmp_path / "nowhere"))
    line = one_line(DEFAULT)
    assert str(tmp_path / "nowhere") in line
    assert "--base FOLDER" in line


# --- the digest ---


@pytest.mark.parametrize("part", ["config.json", WEIGHTS, "tokenizer.json"])
def test_one_other_byte_in_any_part_gives_another_digest(folder: Path, tiny_base: str, part: str) -> None:
    assert digest_of(folder) == digest_of(Path(tiny_base)) == load_base(str(folder)).digest
    data = bytearray((folder / part).read_bytes())
    data[-2] ^= 1
    (folder / part).write_bytes(data)
    assert digest_of(folder) != digest_of(Path(tiny_base))


def test_files_that_are_no_part_of_the_base_do_not_change_the_digest(folder: Path, tiny_base: str) -> None:
    (folder / "README.md").write_text("notes")
    assert digest_of(folder) == digest_of(Path(tiny_base))


# --- bases that do not ---


def test_damaged_weights_are_one_line(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    for cut in (0, 4, 100, len(data) // 2, len(data) - 1):
        (folder / WEIGHTS).write_bytes(data[:cut])
        line = one_line(folder)
        assert str(folder) in line
        assert "damaged" in line


def test_a_missing_tensor_is_not_filled_with_random_numbers(folder: Path) -> None:
    change(folder, **{"transformer.h.1.attn.c_attn.weight": None})
    assert "1 tensors missing" in one_line(folder)


def test_a_tensor_of_another_shape_is_not_taken(folder: Path) -> None:
    change(folder, **{"transformer.h.1.ln_1.weight": torch.ones(31)})
    assert "damaged" in one_line(folder)


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_taken(folder: Path, odd: float) -> None:
    weight = load_file(folder / WEIGHTS)["transformer.wte.weight"]
    weight[5, 3] = odd
    change(folder, **{"transformer.wte.weight": weight})
    assert "not finite" in one_line(folder)


def test_another_kind_of_model_is_not_taken(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    assert "'llama'" in one_line(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '"gpt2"'])
def test_a_config_that_is_none_is_one_line(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert str(folder) in one_line(folder)


def test_a_damaged_tokenizer_is_one_line(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text[: len(text) // 2])
    assert "damaged" in one_line(folder)


def test_a_tokenizer_without_an_end_token_says_which_file_to_change(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if key != "eos_token"}))
    with pytest.raises(UserError, match=r"neither an eos nor a sep token.*tokenizer_config\.json"):
        _ = load_base(str(folder)).end


@pytest.mark.parametrize("part", ["config.json", WEIGHTS])
def test_a_missing_part_is_named(folder: Path, part: str) -> None:
    (folder / part).unlink()
    assert f"has no {part}" in one_line(folder)


def test_pickled_weights_are_not_taken(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    assert "only safetensors" in one_line(folder)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c"])
def test_a_missing_folder_is_one_line(name: str) -> None:
    assert f"{name!r} does not exist" in one_line(name)


def test_a_hub_id_that_is_not_in_the_cache_says_what_to_do_without_a_net() -> None:
    line = one_line("fugou-tests/no-such-base")
    assert "'fugou-tests/no-such-base'" in line
    assert "--base FOLDER" in line


def test_a_base_does_not_print_its_weights(tiny_base: str) -> None:
    base: Base = load_base(tiny_base)
    assert repr(base) == f"Base(name={tiny_base!r}, digest={base.digest!r})"
