"""The yardstick: figures that can be checked by hand, the same documents for every model, and one line for what is missing."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from common.cli import fugou
from common.errors import UserError
from common.model import load_base
from simulations.corpus import write_corpus
from simulations.pretrain import Document, is_held_out, read_documents
from simulations.yardstick import (
    BEGIN,
    FINISH,
    Figure,
    Neural,
    Ngram,
    evaluate,
    held_out,
    learn_ngram,
    measure,
    spelled,
    table,
    training_documents,
)

HALF = math.log10(0.5)
ARPA = f"""\
\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-2\t<unk>\t0
0\t<s>\t-0.5
-1\t</s>\t0
{HALF}\t茶\t{HALF}

\\2-grams:
-0.25\t<s> 茶
-0.125\t茶 </s>

\\end\\
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "trade.jsonl"
    write_corpus(path, 700, 1)
    return path


def write_program(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell program called lmplz first on the PATH."""
    program = folder / "lmplz"
    program.write_text(f"#!/bin/sh\n{body}\n", "utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def ngram(**entries: float) -> Ngram:
    """Return a bigram model over 茶 and 香 with the given back-off of 茶."""
    return Ngram(
        2,
        {
            "": (-3.0, 0.0),
            BEGIN: (0.0, -0.5),
            FINISH: (-1.0, 0.0),
            "茶": (HALF, entries.get("backoff", 0.0)),
            BEGIN + "茶": (-0.25, 0.0),
            "茶" + FINISH: (-0.125, 0.0),
        },
    )


def test_an_ngram_models_bits_are_those_of_its_entries() -> None:
    whole, last = ngram().bits(Document("a", ("茶",)))
    assert whole == last == pytest.approx((0.25 + 0.125) / math.log10(2))


def test_an_ngram_model_backs_off_to_shorter_contexts_and_to_the_unknown() -> None:
    whole, last = ngram(backoff=-0.75).bits(Document("a", ("茶", "茶香")))
    logs = (0.25, 0.75 - HALF, 0.75 + 3.0, 1.0)  # <s> 茶 · 茶 by back-off · 香 unknown · </s> after an unknown
    assert whole == pytest.approx(sum(logs) / math.log10(2))
    assert last == pytest.approx(sum(logs[1:]) / math.log10(2))


def test_a_document_is_spelled_in_single_characters_with_visible_blanks() -> None:
    assert spelled(Document("a", ("a b\u3000", "\n\0茶\x02"))) == f"{BEGIN}a␣b␣␣␣茶␣{FINISH}"


def test_a_bases_bits_are_its_losses_and_long_documents_are_read_in_windows(tiny_base: str) -> None:
    base = load_base(tiny_base)
    model = Neural("tiny", base)
    document = Document("a", ("您好，", "茶香 tea"))
    ids = [0, *(number for one in document.pieces for number in base.tokenizer(one)["input_ids"]), 0]
    rows = torch.tensor([ids])
    loss = float(base.model(input_ids=rows, labels=rows).loss)
    answer = len(base.tokenizer(document.pieces[1])["input_ids"]) + 1
    whole, last = model.bits(document)
    assert whole == pytest.approx(loss * (len(ids) - 1) / math.log(2), rel=1e-5)
    assert 0 < last < whole
    assert last == pytest.approx(model.bits(Document("a", ("您好，茶香 tea",)))[0] * answer / (len(ids) - 1), rel=0.3)
    long = Document("a", ("茶" * 600,))
    assert model.bits(long)[0] > 2 * model.bits(Document("a", ("茶" * 200,)))[0]


def test_figures_are_bits_over_characters() -> None:
    documents = [Document("a", ("茶",)), Document("a", ("茶茶", "茶"))]
    bits = [ngram().bits(one) for one in documents]
    figure = measure(ngram(), {"a": documents})["a"]
    assert (figure.documents, figure.characters) == (2, 4)
    assert figure.whole == pytest.approx((bits[0][0] + bits[1][0]) / 4)
    assert figure.answer == pytest.approx(bits[1][1])
    assert measure(ngram(), {"a": documents[:1]})["a"].answer is None


def test_what_is_measured_was_held_out_or_is_unseen(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("\n\n".join(f"第{number}篇" for number in range(30)), "utf-8")
    found = held_out([corpus, corpus], [tmp_path / "new.txt"], 20)
    assert len(found.pop("new")) == 20
    assert all(is_held_out(one) for group in found.values() for one in group)
    assert sum(map(len, found.values())) == len({one for one in read_documents(corpus) if is_held_out(one)})
    trained = set(training_documents([corpus]))
    assert trained
    assert not trained & {one for group in found.values() for one in group}


def test_nothing_to_measure_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("茶", "utf-8")
    with pytest.raises(UserError, match=r"no document of .*one.txt is held out; .*--unseen FILE$"):
        held_out([tmp_path / "one.txt"], [], 20)
    with pytest.raises(UserError, match="--ngram has no text to learn from"):
        evaluate("default", [], [tmp_path / "one.txt"], ngram=5)


def test_kenlms_file_is_read_as_far_as_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").write_text(ARPA, "utf-8")
    write_program(
        tmp_path,
        f'while [ $# -gt 0 ]; do [ "$1" = --arpa ] && out="$2"; [ "$1" = --text ] && text="$2"; shift; done\n'
        f'cp "$text" {tmp_path}/given; cp {tmp_path}/model "$out"',
        monkeypatch,
    )
    asked = Document("a", ("茶",))
    model = learn_ngram([Document("a", ("茶 香", "好\n"))], 2, [asked])
    assert (tmp_path / "given").read_text("utf-8") == "茶 ␣ 香 好 ␣\n"
    assert model.name == "2-gram Kneser-Ney"
    assert model.bits(asked)[0] == pytest.approx((0.25 + 0.125) / math.log10(2))
    assert model.bits(Document("a", ("香",)))[0] == pytest.approx((0.5 + 2 + 1) / math.log10(2))


def test_a_missing_or_failing_lmplz_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path, "echo 'bad discount' >&2; exit 3", monkeypatch)
    with pytest.raises(UserError, match="lmplz failed with code 3: bad discount; give it more text"):
        learn_ngram([], 5, [])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="lmplz is not on the PATH"):
        learn_ngram([], 5, [])


def test_the_table_has_a_column_a_model_and_answers_after_a_slash() -> None:
    figures = {"one": {"a": Figure(1.234, 0.5, 1200, 7)}, "two": {"a": Figure(2.0, None, 1200, 7)}}
    assert table(figures).splitlines() == [
        "| text | documents | characters | one | two |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| a | 7 | 1,200 | 1.23 / 0.50 | 2.00 |",
    ]


def test_the_command_prints_the_same_figures_as_a_table_and_as_json(corpus: Path, tiny_base: str) -> None:
    asked = ["evaluate-base", tiny_base, str(corpus), "--documents", "3"]
    shown = CliRunner().invoke(fugou, [*asked, "--samples"])
    data = json.loads(CliRunner().invoke(fugou, [*asked, "--json"]).stdout)
    assert shown.exit_code == 0
    assert shown.stdout.count("\n* `") == 10
    kind, figure = next(iter(data["figures"][tiny_base].items()))
    assert f"| {kind} | {figure['documents']} | {figure['characters']} | {figure['whole']:.2f}" in shown.stdout
    assert data["samples"] == []
