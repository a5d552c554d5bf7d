"""Keys, allowances, gathered drafts, and a desk that changes while it answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from client.serve.gather import WIDE, Gatherer
from client.serve.keys import FILE, make_key, read_keys
from client.serve.limits import MOST, Limits
from client.serve.live import Live, merged
from client.serve.run import Service, run
from client.use.desk import load_model
from client.use.drafts import Draft, Request
from common.config import LoraSettings
from common.errors import UserError
from common.lora import attach, initial, save
from common.model import load_base
from tests.client.serve.conftest import copy_of_example

LORA = LoraSettings(rank=2, alpha=4.0)


def adapter(base: str, folder: Path, seed: int) -> None:
    """Write an adapter that does something."""
    random = np.random.default_rng(seed)
    shape = initial(attach(load_base(base), LORA), 1)
    values = {
        name: torch.from_numpy(random.standard_normal(tuple(one.shape)).astype(np.float32))
        for name, one in shape.items()
    }
    save(values, folder, LORA, base)


def shop_with(tmp_path: Path, base: str, seed: int) -> Path:
    folder = copy_of_example(tmp_path / "m", base)
    adapter(base, folder / "models" / "shared", seed)
    toml = folder / "merchant.toml"
    toml.write_text(toml.read_text("utf-8").replace('adapter = ""', 'adapter = "models/shared"'), "utf-8")
    return folder


def test_a_key_is_kept_as_a_digest_that_only_its_owner_may_read(tmp_path: Path) -> None:
    key = make_key(tmp_path, "till")
    text = (tmp_path / FILE).read_text("utf-8")
    assert key not in text
    assert len(json.loads(text)["till"]) == 64
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
    keys = read_keys(tmp_path)
    assert keys.who(key) == "till"
    assert keys.who(key + "x") is None
    assert keys.who("") is None
    with pytest.raises(UserError, match="there is a key called 'till' already"):
        make_key(tmp_path, "till")
    with pytest.raises(UserError, match=r"key name '\.\./x'"):
        make_key(tmp_path, "../x")
    with pytest.raises(UserError, match="no such folder"):
        make_key(tmp_path / "none", "a")


@pytest.mark.parametrize("text", ["[", "[]", '{"a": 1}', '{"a": "short"}'])
def test_a_damaged_key_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match="cannot be read"):
        read_keys(tmp_path)


def test_an_allowance_fills_up_again_and_is_bounded() -> None:
    limits = Limits(10.0)
    assert [limits.wait("a", 0.0) for _ in range(20)] == [0.0] * 20
    assert limits.wait("a", 0.0) == pytest.approx(0.1)
    assert limits.wait("a", 0.2) == 0.0
    for caller in range(MOST + 10):
        limits.wait(str(caller), 1.0)
    assert len(limits._buckets) == MOST


def test_requests_that_wait_together_are_written_together() -> None:
    widths: list[int] = []
    gate = threading.Event()

    def writer(requests: Sequence[Request]) -> list[list[Draft]]:
        gate.wait(10)
        return [[Draft(one.prompt, 0.0, True)] for one in requests]

    gatherer = Gatherer(lambda: writer, widths.append)
    found: dict[int, list[list[Draft]]] = {}

    def ask(number: int) -> None:
        found[number] = gatherer.write([Request(str(number), ("",) * 5)])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    gatherer.close()
    assert {number: one[0][0].text for number, one in found.items()} == {number: str(number) for number in range(8)}
    assert sum(widths) == 40
    assert max(widths) <= WIDE
    assert len(widths) < 8


def test_what_goes_wrong_in_a_batch_is_told_to_everybody_in_it_and_the_next_is_written() -> None:
    answers = iter([None, [[Draft("茶", 0.0, True)]]])

    def writer(requests: Sequence[Request]) -> list[list[Draft]]:
        found = next(answers)
        if found is None:
            raise ValueError("broken")
        return found

    gatherer = Gatherer(lambda: writer)
    with pytest.raises(ValueError, match="broken"):
        gatherer.write([Request("a")])
    assert gatherer.write([Request("a")])[0][0].text == "茶"
    gatherer.close()
    with pytest.raises(RuntimeError):
        gatherer.write([Request("a")])


def test_a_merged_adapter_answers_as_the_adapter_does(tiny_base: str, tmp_path: Path) -> None:
    folder = shop_with(tmp_path, tiny_base, 4)
    from client.config import load_merchant

    settings = load_merchant(folder)
    ids = torch.tensor([[0, 5, 9, 300]])
    with torch.inference_mode():
        together, apart = merged(settings).model(ids).logits, load_model(settings).model(ids).logits
        bare = load_base(tiny_base).model(ids).logits
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together, bare, atol=1e-2)


def test_a_new_round_takes_the_old_ones_place_and_a_broken_one_does_not(tiny_base: str, tmp_path: Path) -> None:
    folder = shop_with(tmp_path, tiny_base, 4)
    changed: list[int] = []
    live = Live(folder, changed=lambda: changed.append(1))
    first = live.opened
    assert not live.refresh()

    adapter(tiny_base, folder / "models" / "shared", 5)
    assert live.refresh()
    assert live.opened.adapter != first.adapter
    assert live.desk is not first.desk
    ids = torch.tensor([[0, 5, 9]])
    with torch.inference_mode():
        assert not torch.allclose(live.desk.bench.model(ids).logits, first.desk.bench.model(ids).logits)

    (folder / "models" / "shared" / "adapter_model.safetensors").write_bytes(b"half")
    kept = live.opened
    assert not live.refresh()
    assert live.opened is kept
    assert "cannot be read" in live.trouble

    adapter(tiny_base, folder / "models" / "shared", 6)
    assert live.refresh()
    assert (live.trouble, live.swaps, len(changed)) == ("", 2, 2)
    live.close()


def test_new_orders_and_opt_outs_are_seen_while_it_runs(tiny_base: str, tmp_path: Path) -> None:
    folder = copy_of_example(tmp_path / "m", tiny_base)
    live = Live(folder)
    with (folder / "orders.csv").open("a", encoding="utf-8") as file:
        file.write("c77,2026-05-30 10:00,SKU7,茉莉花茶,1,58.00,,T9\n")
    (folder / "optout.txt").write_text("c01\n")
    live.watch(0.05)
    for _ in range(600):
        if live.swaps and "c77" in live.desk.customers:
            break
        threading.Event().wait(0.05)
    live.close()
    assert "c77" in live.desk.customers
    assert "c01" in live.desk.silent


def test_a_service_does_not_begin_without_a_key_or_open_to_the_world_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no key"):
        run(tmp_path, Service())
    make_key(tmp_path, "a")
    with pytest.raises(UserError, match="can be reached from outside"):
        run(tmp_path, Service(host="0.0.0.0"))
