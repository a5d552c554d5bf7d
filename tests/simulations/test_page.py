"""Run folders of plausible shape, read back and drawn: the pages are complete, true to the files and harmless."""

from __future__ import annotations

import base64
import doctest
import hashlib
import importlib
import json
import math
import re
import string
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from common.errors import UserError
from common.privacy.accountant import up
from simulations.page import report_data, write_comparison, write_report
from simulations.phrases import PHRASES, Lang
from simulations.results import RunResult, load_run, perplexity_fall, time_parts

SHOPS = ("半日闲茶铺", "阿拾母婴", "北岸咖啡豆", "一禾粮油", "毛球宠物用品", "素问护肤")
TASKS = {"复购": 0.62, "文案": 1.0, "描述": 1.25, "评价": 1.4, "情感": 0.8, "客服": 1.1}
VOID = {"meta", "link", "br", "img", "hr", "input", "base"}
LANGS: tuple[Lang, ...] = ("zh", "en")


def make_run_folder(folder: Path, *, rounds: int = 10, sigma: float = 1.1, names: Sequence[str] = SHOPS) -> Path:
    """Write a run folder with every file that a run leaves and return it."""
    ids = [f"shop-{i + 1:02d}" for i in range(len(names))]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scenario.toml").write_text(tomli_w.dumps(make_scenario(rounds, sigma, len(names))), encoding="utf-8")
    lines = [json.dumps(make_metrics(at, rounds, ids), ensure_ascii=False) for at in range(rounds + 1)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for at in range(1, rounds + 1):
        write_json(folder / f"rounds/{at:04d}/round.json", make_record(at, ids))
    for place, (merchant, name) in enumerate(zip(ids, names, strict=True)):
        write_json(folder / f"merchants/{merchant}/summary.json", make_summary(merchant, name, place, rounds, sigma))
    write_json(folder / "samples.json", make_samples(ids))
    return folder


def make_scenario(rounds: int, sigma: float, merchants: int) -> dict[str, Any]:
    return {
        "scenario": {"name": "neighbourhood", "title": "街坊六店", "lang": "zh", "seed": 7, "merchants": merchants},
        "model": {"base": "default", "base_digest": "9f2c" * 16},
        "lora": {"targets": ["c_attn"], "rank": 8, "alpha": 16.0},
        "training": {"method": "fedsvd", "rounds": rounds, "local_rate": 1.0, "quorum": 0.5},
        "privacy": {"unit": "customer", "epsilon": 8.0, "delta": 1e-6, "sigma": sigma, "rate": 0.1, "steps": 12},
        "engine": {"name": "inline"},
        "versions": {"fugou": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "flwr": "1.41.0", "opacus": "1.6.0"},
    }


def make_metrics(at: int, rounds: int, ids: Sequence[str]) -> dict[str, Any]:
    overall = 41.5 + 61.0 * math.exp(-at / 3.2) + 0.6 * math.sin(at)
    parts = (
        {"train": 19.0 + math.sin(at), "aggregate": 0.8, "messages": 1.4, "evaluate": 5.2} if at else {"evaluate": 5.1}
    )
    metrics: dict[str, Any] = {
        "round": at,
        "seconds": sum(parts.values()) + 0.35,
        "parts": parts,
        "bytes_up": 1_182_720 * (len(ids) - (at in (3, 7))) if at else 0,
        "bytes_down": 1_182_720 * len(ids) if at else 0,
        "replies": {"done": len(ids) - (at in (3, 7)), "refused": int(at == 7), "failed": int(at == 3), "late": 0},
        "perplexity": overall,
        "perplexity_by_task": {task: 1 + overall * part for task, part in TASKS.items()},
        "tokens": 48_210,
        "by_merchant": {
            merchant: {"perplexity": overall * (0.9 + 0.05 * place), "tokens": 8035}
            for place, merchant in enumerate(ids)
        },
    }
    if at in (0, rounds):
        metrics["recommend"] = make_recommend(trained=at > 0)
    return metrics


def make_recommend(*, trained: bool) -> dict[str, Any]:
    recall = {
        "popularity": 0.118,
        "frequency": 0.402,
        "model": 0.337 if trained else 0.141,
        "blend": 0.428 if trained else 0.398,
    }
    return {"customers": 720, "recall@10": recall, "ndcg@10": {key: value * 0.81 for key, value in recall.items()}}


def make_record(at: int, ids: Sequence[str]) -> dict[str, Any]:
    bad = {(3, 1): ("failed", "连接中断"), (7, 4): ("refused", "下一笔扣费将越过上限"), (5, 2): ("late", "")}
    merchants = []
    for place, merchant in enumerate(ids):
        status, reason = bad.get((at, place), ("done", ""))
        charge = {"sigma": 1.1, "rate": 0.1, "steps": 12, "clip_norm": 1.0, "delta": 1e-6}
        merchants.append({"merchant": merchant, "status": status, "reason": reason, "charge": charge, "weight": 1.0})
    return {
        "round": at,
        "method": "fedsvd",
        "merchants": merchants,
        "adapter_digest": f"{at:02x}" * 32,
        "seconds": 26.0,
    }


def make_summary(merchant: str, name: str, place: int, rounds: int, sigma: float) -> dict[str, Any]:
    return {
        "merchant": merchant,
        "name": name,
        "customers": 180 + 37 * place,
        "epsilon": 5.812 + 0.3601 * place if sigma > 0 else None,
        "private": sigma > 0,
        "delta": 1e-6,
        "unit": "customer",
        "period": "2026Q4",
        "epsilon_limit": 8.0,
        "charges": {
            "released": max(rounds - (place == 1), 0),
            "burned": int(place == 1),
            "refused": int(place == 4),
            "refunded": 0,
        },
        "rounds_left": 6 - place,
        "sigma": sigma,
        "rate": 0.1,
        "steps": 12,
    }


def make_samples(ids: Sequence[str]) -> list[dict[str, str]]:
    return [
        {
            "merchant": merchant,
            "prompt": "【文案】渠道:短信｜商品:茉莉花茶｜属性:规格:250g｜优惠:满50减5｜客户:高频·上次9天前｜文案:",
            "before": "茶茶茶的的的满减,,上次上次",
            "after": "上次的茉莉花茶快喝完了吧?新一季已到店,满50减5,随时来添一罐。",
            "reference": "茉莉花茶到新货啦,老朋友满50减5,想喝随时下单。",
        }
        for merchant in ids[:2]
    ]


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def change_json(path: Path, **changes: object) -> None:
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})


class Page(HTMLParser):
    """An HTML page taken apart: elements with their attributes, visible text, and whether every element was closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.elements)


def draw(run: RunResult, lang: Lang = "en") -> Page:
    path = run.folder / f"report-{lang}.html"
    write_report(run, path, lang)
    return checked(path)


def checked(path: Path) -> Page:
    """Return the page at `path` after the checks that every page must pass."""
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "img", "iframe", "object", "embed", "form", "link", "a", "base", "foreignobject"}
    attributes = [(key, value) for _, attrs in page.elements for key, value in attrs.items()]
    assert not [key for key, _ in attributes if key.startswith("on") or key in {"style", "src", "href", "xlink:href"}]
    assert set(re.findall(r"\w+://[^\s\"'<]+", page.html)) <= {"http://www.w3.org/2000/svg"}
    assert page.count("svg") == len(
        re.findall(r"<svg [^>]*><title [^>]*>[^<]+</title><desc [^>]*>[^<]+</desc>", page.html)
    )
    ids = [value for key, value in attributes if key == "id"]
    assert len(ids) == len(set(ids))
    assert not set(re.findall(r"url\(#([^)]*)\)", page.html)) - set(ids)
    for found in re.finditer("ε", page.text):
        assert "δ" in page.text[found.end() : found.end() + 20], page.text[found.start() - 60 : found.end() + 60]
    return page


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run_folder(tmp_path / "run")


@pytest.mark.parametrize("lang", LANGS)
def test_a_report_is_whole_self_contained_and_runs_no_script(folder: Path, lang: Lang) -> None:
    page = draw(load_run(folder), lang)
    assert page.count("svg") == 5 + len(TASKS)
    assert page.count("h1") == 1
    policy = next(
        attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    style = re.findall("<style>(.*?)</style>", page.html, re.DOTALL)[0]
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"
    assert all(name in page.text for name in SHOPS)


def test_the_outcome_says_what_fell_by_how_much_and_at_which_bound(folder: Path) -> None:
    page = draw(load_run(folder))
    outcome = "fell from 102 to 43.9 (−57.2%) in 10 rounds over 6 merchants; for every merchant ε ≤ 7.62"
    assert f"{outcome} (δ = 10⁻⁶, unit: customer, period: 2026Q4)." in page.text
    assert "blend of both 0.398 → 0.428" in page.text


def test_epsilon_is_rounded_up_and_never_down() -> None:
    assert [up(value) for value in (7.9201, 7.93, 1.1, 8.0, 1e-9)] == ["7.93", "7.93", "1.10", "8.00", "0.01"]


def test_burned_and_refused_charges_are_said_in_words(folder: Path) -> None:
    page = draw(load_run(folder))
    assert "9 released, 1 burned" in page.text
    assert "10 released, 1 refused" in page.text
    assert "下一笔扣费将越过上限" in page.text


def test_losses_under_other_terms_get_a_chart_of_their_own_and_no_common_number(folder: Path) -> None:
    change_json(folder / "merchants/shop-03/summary.json", delta=1e-5, epsilon=3.0)
    page = draw(load_run(folder))
    assert "no single number holds" in page.text
    assert page.text.count("Each merchant's ε (δ = 10⁻⁵, unit: customer, period: 2026Q4), as an upper bound") >= 2
    assert page.count("svg") == 6 + len(TASKS)


def test_a_run_without_noise_says_that_there_is_no_guarantee(tmp_path: Path) -> None:
    page = draw(load_run(make_run_folder(tmp_path / "open", sigma=0.0)))
    assert "no privacy guarantee" in page.text
    assert "ε ≤" not in page.text


def test_one_merchant_without_noise_is_named_beside_the_bound_of_the_others(folder: Path) -> None:
    change_json(folder / "merchants/shop-06/summary.json", epsilon=None, private=False, sigma=0.0)
    page = draw(load_run(folder))
    assert "for each of the 5 merchants that added noise ε ≤ 7.26 (δ = 10⁻⁶" in page.text
    assert f"added no noise (σ = 0) and have no privacy guarantee: {SHOPS[5]}" in page.text


@pytest.mark.parametrize("rounds", [0, 1])
@pytest.mark.parametrize("lang", LANGS)
def test_the_shortest_runs_are_drawn(tmp_path: Path, rounds: int, lang: Lang) -> None:
    page = draw(load_run(make_run_folder(tmp_path / "short", rounds=rounds)), lang)
    assert page.count("svg") >= 3


def test_a_long_run_of_many_merchants_is_drawn(tmp_path: Path) -> None:
    names = [f"shop {i}" for i in range(60)]
    page = draw(load_run(make_run_folder(tmp_path / "long", rounds=120, names=names)))
    assert "The chart shows the 24 of 60 merchants nearest to their limit" in page.text


@pytest.mark.parametrize("lang", LANGS)
def test_a_run_with_nothing_but_its_settings_and_rounds_is_drawn(tmp_path: Path, lang: Lang) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "scenario.toml").write_text('[scenario]\nname = "bare"\n', encoding="utf-8")
    line = {"round": 0, "seconds": 1.5, "perplexity": 90.0, "tokens": 12}
    (folder / "metrics.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(line | {'round': 1})}\n", encoding="utf-8")
    page = draw(load_run(folder), lang)
    assert page.count("svg") == 3
    assert "90.0" in page.text


def test_a_fall_over_a_wide_range_is_drawn_on_an_axis_that_says_it_is_logarithmic(folder: Path) -> None:
    run = load_run(folder)
    page = draw(replace(run, rounds=(replace(run.first, perplexity=5200.0), *run.rounds[1:])))
    assert "log axis" in page.text
    assert "fell from 5,200 to 43.9 (−99.2%)" in page.text


@pytest.mark.parametrize(
    "name",
    [
        "<img src=x onerror=alert(1)>",
        "</title><script>alert(1)</script>",
        '"><svg onload=alert(1)>',
        "</style><style>*{display:none}</style>",
        "{{ 7 * 7 }}{% raw %}",
        "\u202eevil\u2066 shop\u0000\ud800",
        "]]><!--",
        "名" * 400,
    ],
)
@pytest.mark.parametrize("lang", LANGS)
def test_hostile_words_are_shown_and_do_nothing(tmp_path: Path, name: str, lang: Lang) -> None:
    folder = make_run_folder(tmp_path / "run", rounds=2)
    write_ascii(folder / "merchants/shop-01/summary.json", name=name, unit=name, period=name)
    record = json.loads((folder / "rounds/0001/round.json").read_text(encoding="utf-8"))
    record["merchants"][0] |= {"status": "failed", "reason": name}
    write_ascii(folder / "rounds/0001/round.json", **record)
    samples = [{"merchant": name, "prompt": name, "before": name, "after": name, "reference": name}]
    (folder / "samples.json").write_text(json.dumps(samples), encoding="utf-8")
    run = load_run(folder)
    metrics = replace(run.last, perplexity_by_task={name: 12.0})
    run = replace(run, scenario=replace(run.scenario, title=name, name=name), rounds=(run.first, metrics, run.last))
    page = draw(run, lang)
    assert not any(char in page.html for char in "\u202e\u2066\u0000")
    assert page.count("style") == 1
    assert "7 * 7" in page.text or "7 * 7" not in name
    write_comparison([run, run], folder / "compare.html", lang)
    checked(folder / "compare.html")


def write_ascii(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


@pytest.mark.parametrize("lang", LANGS)
def test_a_comparison_holds_runs_side_by_side(tmp_path: Path, lang: Lang) -> None:
    runs = [
        load_run(make_run_folder(tmp_path / "private")),
        load_run(make_run_folder(tmp_path / "open", sigma=0.0)),
        load_run(make_run_folder(tmp_path / "short", rounds=4)),
    ]
    write_comparison(runs, tmp_path / "compare.html", lang)
    page = checked(tmp_path / "compare.html")
    assert page.count("svg") == 3
    assert "privacy.sigma" in page.text
    assert ("Beware" in page.text or "注意" in page.text) is False


def test_a_comparison_warns_when_the_held_out_texts_differ(tmp_path: Path) -> None:
    run = load_run(make_run_folder(tmp_path / "run"))
    other = replace(run, rounds=tuple(replace(one, tokens=7) for one in run.rounds))
    write_comparison([run, other], tmp_path / "compare.html", "en")
    assert "perplexities do not compare directly" in checked(tmp_path / "compare.html").text


def test_nothing_to_compare_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run to compare"):
        write_comparison([], tmp_path / "compare.html", "en")


def test_report_data_is_json_and_states_every_loss_with_its_terms(folder: Path) -> None:
    data = json.loads(json.dumps(report_data(load_run(folder)), allow_nan=False))
    assert data["privacy"][0] == {
        "merchant": "shop-01",
        "private": True,
        "epsilon": 5.82,
        "delta": 1e-6,
        "unit": "customer",
        "period": "2026Q4",
        "epsilon_limit": 8.0,
        "rounds_left": 6,
        "charges": {"released": 10, "burned": 0, "refused": 0, "refunded": 0},
    }
    assert data["perplexity"]["fall_percent"] == pytest.approx(57.2, abs=0.1)
    assert len(data["perplexity"]["by_round"]) == 11
    assert data["cost"]["bytes_up"] == 1_182_720 * 58


def test_damaged_lines_are_user_errors_that_name_file_and_line(folder: Path) -> None:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    damaged = {
        "{": r"metrics\.jsonl, line 3: not JSON",
        '{"round": 2}': r"line 3: seconds: field required",
        lines[2].replace('"tokens": 48210', '"tokens": -1'): r"line 3: tokens: input should be greater",
        lines[2].replace('"tokens": 48210', '"tokens": NaN'): r"line 3: not JSON: NaN",
        lines[1]: r"line 3: holds round 1 where round 2 is due",
        "[" * 100_000: r"line 3: not JSON",
    }
    for line, message in damaged.items():
        (folder / "metrics.jsonl").write_text("\n".join([*lines[:2], line, *lines[3:]]), encoding="utf-8")
        with pytest.raises(UserError, match=message) as caught:
            load_run(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scenario.toml", b"[scenario", "not TOML"),
        ("scenario.toml", b"[lora]\nrank = 8\n", "name: field required"),
        ("metrics.jsonl", b"\n", "holds no round"),
        ("metrics.jsonl", b"\xff\xfe", "not UTF-8 at byte 0"),
        ("rounds/0002/round.json", b'{"round": 2, "method": "x", "merchants": [{}]}', "merchants.0.merchant"),
        ("merchants/shop-02/summary.json", b"{}", "merchant: field required"),
        ("samples.json", b"{}", "samples.json"),
    ],
)
def test_damaged_files_are_user_errors_that_name_the_file(
    folder: Path, name: str, content: bytes, message: str
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        load_run(folder)
    assert name in str(caught.value)


def test_a_private_merchant_without_a_number_is_a_user_error(folder: Path) -> None:
    change_json(folder / "merchants/shop-02/summary.json", epsilon=None)
    with pytest.raises(UserError, match="epsilon must be a number"):
        load_run(folder)


@pytest.mark.parametrize("name", ["scenario.toml", "metrics.jsonl"])
def test_a_missing_file_is_a_user_error(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"cannot read .*{re.escape(name)}"):
        load_run(folder)


def test_a_missing_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder at"):
        load_run(tmp_path / "nowhere")


def test_time_that_no_part_claims_is_other(folder: Path) -> None:
    one = load_run(folder).rounds[1]
    assert time_parts(one)["other"] == pytest.approx(0.35)
    assert sum(time_parts(one).values()) == pytest.approx(one.seconds)
    assert perplexity_fall(80.0, 100.0) == -25.0


@pytest.mark.parametrize("module", ["common.charts", "simulations.page", "simulations.phrases", "simulations.results"])
def test_the_examples_in_docstrings_run(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(module))
    assert outcome.failed == 0
    assert outcome.attempted > 0


def test_every_phrase_has_the_same_places_in_both_languages() -> None:
    for key, (chinese, english) in PHRASES.items():
        assert places(chinese) == places(english), key


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}
