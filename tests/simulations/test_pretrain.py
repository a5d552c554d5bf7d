"""Pre-training: text in, a loadable base out; interrupted and resumed runs; and every way it refuses."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2LMHeadModel

from common.cli import fugou
from common.errors import UserError
from simulations.corpus import make_documents, write_corpus
from simulations.pretrain import Document as Text
from simulations.pretrain import (
    PretrainResult,
    Size,
    batch_at,
    characters_of_tokens,
    learn_tokenizer,
    new_model,
    pretrain,
    read_documents,
    schedule,
)

NANO = Size(layers=2, width=32, heads=2, vocabulary=600, block=32, batch=4, rate=1e-2)
TOKENS = 20 * NANO.batch * NANO.block


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("texts")
    write_corpus(folder / "trade.jsonl", 400, 1)
    prose = (
        "山里的茶园在清明前采第一批芽。",
        "今天下了一场小雨，店里来了三位老客。",
        "Fresh milk and brown bread, every week.",
    )
    (folder / "prose.txt").write_text("\n\n".join(f"{number}：{prose[number % 3]}" for number in range(300)), "utf-8")
    return [folder / "prose.txt", folder / "trade.jsonl"]


def train(texts: list[Path], out: Path, **changes: object) -> PretrainResult:
    """Run the nano size on `texts`, exactly: fp32, one thread, a fixed number of tokens."""
    lines: list[str] = []
    given: dict[str, object] = {
        "size": NANO,
        "minutes": None,
        "tokens": TOKENS,
        "seed": 3,
        "resume": False,
        "threads": 1,
        "report": lines.append,
        "precision": "fp32",
    }
    return pretrain(texts, out, **{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def result(texts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> PretrainResult:
    return train(texts, tmp_path_factory.mktemp("base") / "nano")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    documents = [Text(one.kind, one.pieces) for one in make_documents(300, seed=1)]
    return learn_tokenizer(documents, 800)


def interrupt_after(lines: int) -> Callable[[str], None]:
    """Return a report that behaves like a person pressing Ctrl-C after `lines` lines."""
    seen: list[str] = []

    def report(line: str) -> None:
        seen.append(line)
        if len(seen) == lines:
            raise KeyboardInterrupt

    return report


def test_the_folder_holds_a_base_and_nothing_else(result: PretrainResult) -> None:
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_base_loads_by_the_usual_loaders(result: PretrainResult) -> None:
    tokenizer = AutoTokenizer.from_pretrained(result.folder, local_files_only=True)
    model = GPT2LMHeadModel.from_pretrained(result.folder, local_files_only=True, dtype=torch.float32)
    text = "【复购】客户:高频｜近购:牛奶×12｜会买:"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0, 1)
    assert model(torch.tensor([ids])).logits.shape == (1, len(ids), NANO.vocabulary)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert (model.config.eos_token_id, model.generation_config.eos_token_id) == (0, 0)
    assert sum(path.stat().st_size for path in result.folder.glob("*.safetensors")) < 2.2 * result.parameters + 9000


def test_training_lowers_the_loss_and_counts_what_it_saw(result: PretrainResult) -> None:
    assert len(result.losses) == 20
    assert result.tokens == TOKENS
    assert result.losses[-1] < result.losses[0] - 0.5
    assert result.parameters == new_model(NANO, 0).num_parameters()
    assert all(1 < score.perplexity < NANO.vocabulary * 2 for score in result.scores.values())


def test_the_card_tells_data_figures_samples_and_command(result: PretrainResult) -> None:
    card = (result.folder / "README.md").read_text("utf-8")
    assert "fugou pretrain prose.txt trade.jsonl -o nano --size custom --tokens 2560 --seed 3" in card
    assert all(f"| {kind} | {share.documents:,} |" in card for kind, share in result.shares.items())
    assert all(f"| {kind} | {score.perplexity:.1f} |" in card for kind, score in result.scores.items())
    assert card.count("\n* `") == 10


@pytest.mark.parametrize("stop", [2, 5])
def test_an_interrupted_and_resumed_run_ends_like_one_that_was_not(
    texts: list[Path], result: PretrainResult, tmp_path: Path, stop: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(texts, tmp_path / "nano", report=interrupt_after(stop), checkpoint_seconds=0.0)
    again = train(texts, tmp_path / "nano", resume=True)
    assert again.losses == result.losses
    assert (tmp_path / "nano" / "model.safetensors").read_bytes() == (result.folder / "model.safetensors").read_bytes()


def test_a_run_may_end_by_the_clock(texts: list[Path], tmp_path: Path) -> None:
    result = train(texts, tmp_path / "nano", tokens=None, minutes=0.01)
    assert 0.6 <= result.seconds < 30
    assert result.tokens == len(result.losses) * NANO.batch * NANO.block


def test_a_damaged_checkpoint_is_said_in_one_line(texts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(texts, tmp_path / "nano", report=interrupt_after(4), checkpoint_seconds=0.0)
    (tmp_path / "nano" / ".work" / "checkpoint.pt").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match=r"checkpoint .* is damaged .*start again without --resume$"):
        train(texts, tmp_path / "nano", resume=True)


def test_a_resumed_run_must_be_the_one_that_was_interrupted(texts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(texts, tmp_path / "nano", report=interrupt_after(1))
    with pytest.raises(UserError, match="other texts or settings"):
        train(texts, tmp_path / "nano", resume=True, seed=4)
    with pytest.raises(UserError, match="add --resume"):
        train(texts, tmp_path / "nano")


def test_another_folder_is_left_alone(texts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("keep", "utf-8")
    with pytest.raises(UserError, match="is not empty; empty it or choose another"):
        train(texts, tmp_path)
    with pytest.raises(UserError, match="holds no interrupted run"):
        train(texts, tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "does not exist"),
        ("latin.txt", "价格".encode("gb18030") * 9, "cannot be read"),
        ("cut.txt.gz", gzip.compress("一二三四五六七八九十".encode() * 99, mtime=0)[:-20], "cannot be read"),
        ("no.txt.gz", b"plain after all", "cannot be read"),
        ("rows.jsonl", '{"text": "茶"}\n{"words": 1}\n'.encode(), 'line 2 of .* no JSON object with a field "text"'),
        ("empty.txt", b"\n \n", "there is no text in empty.txt"),
        ("short.txt", "茶".encode(), "add text"),
    ],
)
def test_unusable_text_is_said_in_one_line(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        train([tmp_path / name], tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "huge"}, "size 'huge' is not known; choose one of tiny, small, gpt2"),
        ({"tokens": None}, "give --minutes or --tokens"),
        ({"precision": "fp8"}, "precision 'fp8' is not known"),
    ],
)
def test_unusable_settings_are_refused(
    texts: list[Path], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(texts, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_plain_text_is_cut_at_blank_lines_and_json_keeps_pieces(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("一\n 二 \n\n\n三\n", "utf-8")
    rows = [{"text": "四"}, {"text": ["五:", "六"], "kind": "pair"}]
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n\n".join(json.dumps(row) for row in rows))
    read = [(one.kind, one.pieces) for name in ("a.txt", "b.jsonl.gz") for one in read_documents(tmp_path / name)]
    assert read == [("a", ("一\n二",)), ("a", ("三",)), ("b", ("四",)), ("pair", ("五:", "六"))]


def test_the_vocabulary_keeps_punctuation_digits_and_every_byte(tokenizer: Tokenizer) -> None:
    for text in ("价格：１２９元，好！", "émigré ☕ 🛒", "a  b\n c", "【情感】评价:不错｜情感:"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode("2026").ids) == 4
    prompt, target = "【情感】评价:不错｜情感:", "正面"
    assert tokenizer.encode(prompt).ids + tokenizer.encode(target).ids == tokenizer.encode(prompt + target).ids


def test_characters_are_counted_whichever_bytes_a_token_is_cut_at(tokenizer: Tokenizer) -> None:
    counts = characters_of_tokens(tokenizer)
    for text in ("茶叶很香，回购。", "㐀𠀀🛒é", "plain words 12"):
        assert counts[tokenizer.encode(text).ids].sum() == len(text)


def test_every_block_comes_once_an_epoch_in_a_new_order() -> None:
    train = np.arange(12 * NANO.block, dtype=np.uint16)
    epochs = [
        np.concatenate([batch_at(train, step, NANO, seed=5)[:, 0] for step in range(3 * epoch, 3 * epoch + 3)])
        for epoch in range(2)
    ]
    assert [sorted(epoch) for epoch in epochs] == [list(range(0, 12 * NANO.block, NANO.block))] * 2
    assert list(epochs[0]) != list(epochs[1])


def test_the_rate_warms_up_and_falls_to_a_fiftieth_unless_it_is_held() -> None:
    rates = [schedule(step / 1000) for step in range(1001)]
    assert 0 < rates[0] < 0.02
    assert max(rates) == pytest.approx(1.0)
    assert rates[1000] == pytest.approx(0.02)
    assert all(a >= b for a, b in itertools.pairwise(rates[30:]))
    held = [schedule(step / 1000, hold=True) for step in range(1001)]
    assert held[:30] == rates[:30]
    assert set(held[30:]) == {1.0}


@pytest.mark.parametrize("threads", [2, 3])
def test_more_cores_change_neither_losses_nor_weights(
    texts: list[Path], result: PretrainResult, tmp_path: Path, threads: int
) -> None:
    again = train(texts, tmp_path / "nano", threads=threads)
    assert again.losses == result.losses
    assert (tmp_path / "nano" / "model.safetensors").read_bytes() == (result.folder / "model.safetensors").read_bytes()


def test_a_further_sitting_starts_where_the_base_it_goes_on_from_ended(
    texts: list[Path], result: PretrainResult, tmp_path: Path
) -> None:
    more = train(texts, tmp_path / "more", start=result.folder, size="tiny", tokens=TOKENS)
    assert more.parameters == result.parameters
    assert more.losses[0] < sum(result.losses[-5:]) / 5 + 0.3 < result.losses[0]
    assert (tmp_path / "more" / "tokenizer.json").read_bytes() == (result.folder / "tokenizer.json").read_bytes()
    assert " --from BASE" in (tmp_path / "more" / "README.md").read_text("utf-8")


def test_a_further_sitting_is_resumed_on_the_same_base_only(
    texts: list[Path], result: PretrainResult, tmp_path: Path, tiny_base: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(texts, tmp_path / "more", start=result.folder, report=interrupt_after(1))
    with pytest.raises(UserError, match="other texts or settings"):
        train(texts, tmp_path / "more", start=Path(tiny_base), resume=True)
    with pytest.raises(UserError, match=r"has no config\.json"):
        train(texts, tmp_path / "other", start=tmp_path)


def test_the_command_goes_on_from_a_base(texts: list[Path], result: PretrainResult, tmp_path: Path) -> None:
    asked = ["pretrain", *map(str, texts), "-o", str(tmp_path / "more"), "--from", str(result.folder), "--tokens", "1"]
    done = CliRunner().invoke(fugou, [*asked, "--hold", "--precision", "fp32", "--threads", "1"])
    assert done.exit_code == 0, done.output
    card = (tmp_path / "more" / "README.md").read_text("utf-8")
    assert "-o more --size custom --tokens 1 --seed 7 --from BASE --hold" in card
    assert GPT2LMHeadModel.from_pretrained(tmp_path / "more").num_parameters() == result.parameters
