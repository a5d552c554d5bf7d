from __future__ import annotations

import marshal
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from common.text import PLAIN, STOP_WORDS, Lexicon, keywords, read_lexicon, words

TEXT = "小方糕很香，小方糕下次再买"
TERMS = Lexicon((("小方糕", 0),))


def write(folder: Path, text: str | bytes, name: str = "words.txt") -> Path:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def refused(folder: Path, text: str | bytes) -> str:
    with pytest.raises(UserError) as caught:
        read_lexicon(write(folder, text), None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- a shop's own terms ---


def test_a_term_of_the_shop_is_kept_in_one_piece() -> None:
    assert "小方糕" not in words(TEXT)
    assert words(TEXT, TERMS).count("小方糕") == 2
    assert keywords([TEXT], 1, TERMS) == ["小方糕"]


def test_the_terms_of_one_shop_are_unknown_to_every_other_in_the_same_process() -> None:
    before = words(TEXT)
    other = Lexicon((("方糕很", 9_999_999),))
    assert words(TEXT, TERMS) != before
    assert "方糕很" in words(TEXT, other)
    assert words(TEXT) == before
    assert words(TEXT, TERMS).count("小方糕") == 2
    assert "方糕很" not in words(TEXT, TERMS)


def test_a_weight_decides_between_terms_that_overlap() -> None:
    both = (("小方", 1), ("小", 1_000_000), ("方糕", 1_000_000))
    assert words("小方糕", Lexicon(both)) == ["小", "方糕"]


def test_terms_are_found_in_traditional_and_full_width_texts_too(tmp_path: Path) -> None:
    lexicon = read_lexicon(write(tmp_path, "凍頂茶Ａ１號\n"), None)
    assert lexicon.terms == (("冻顶茶a1号", 0),)
    assert words("买了冻顶茶A1号", lexicon) == words("買了凍頂茶Ａ１號", lexicon) == ["买", "冻顶茶a1号"]


def test_a_cache_that_somebody_left_in_the_temporary_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "jieba.cache").write_bytes(marshal.dumps(({"买小": 10**9, "买": 0}, 10**9)))
    code = "from common.text import words; print(' '.join(words('再买小方糕')))"
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUTF8": "1"}
    shown = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == words("再买小方糕")
    assert "买小" not in shown.stdout


# --- the two files ---


def test_without_files_the_lexicon_is_the_built_in_one() -> None:
    assert read_lexicon(None, None) == PLAIN == Lexicon((), STOP_WORDS)


def test_a_dictionary_has_a_term_a_line_with_or_without_a_weight(tmp_path: Path) -> None:
    file = write(tmp_path, "\ufeff# 茶\n冻顶乌龙 20\n\n小方糕\r\nA4+ 3 n\n冻顶乌龙 30\n")
    assert read_lexicon(file, None).terms == (("冻顶乌龙", 30), ("小方糕", 0), ("a4+", 3))


def test_stop_words_are_added_and_with_a_hyphen_taken_out(tmp_path: Path) -> None:
    file = write(tmp_path, "# 本店\n亲\n寶貝\nThis\n-很\n-没有\n")
    lexicon = read_lexicon(None, file)
    assert {"亲", "宝贝", "this"} <= lexicon.stop_words
    assert STOP_WORDS - lexicon.stop_words == {"很", "没有"}
    assert words("亲，宝贝没有茶", lexicon) == ["没有", "茶"]
    assert words("亲，宝贝没有茶") == ["亲", "宝贝", "茶"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("好茶\n新·茶\n", "line 2: '新·茶' is not one word"),
        ("茶" * 65, "is not one word of at most 64 letters"),
        ("好茶 0\n", "line 1: the weight '0' of '好茶' is not a whole number above 0; leave it out"),
        ("好茶 -3\n", "the weight '-3'"),
        ("好茶 很多\n", "the weight '很多'"),
        ("好茶\n".encode() + "新茶".encode("gb18030"), "line 2 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_dictionary_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in refused(tmp_path, text)
    assert "words.txt" in refused(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt cannot be read: No such file.*check \[text\] in merchant\.toml"):
        read_lexicon(None, tmp_path / "none.txt")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_lexicon(tmp_path, None)
