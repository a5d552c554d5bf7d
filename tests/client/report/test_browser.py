"""What a real browser does with the pages: no script of a hostile name runs, nothing is fetched, whatever a file says.

Chromium is headless and offline by itself; a server of this test counts every request it makes to it.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from client.report.model import Report
from client.report.page import page_of
from client.use.quality import Figure, Quality
from client.use.quality_page import page_of as quality_page
from server.report import page_of as federation_page
from server.report import read_federation

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium is installed; the pages' markup is tested without it"
)


@pytest.fixture
def requests() -> Iterator[tuple[str, list[str]]]:
    """The address of a server that answers everything, and the paths it was asked for."""
    seen: list[str] = []

    class Counting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    thread.join()
    server.server_close()


def hostile(address: str) -> str:
    """A name that marks the page where its script runs, and that would fetch from `address`."""
    run = "document.documentElement.setAttribute('data-ran','1')"
    return (
        f"\"><script>{run}</script><script src='{address}/script'></script><img src='{address}/img' onerror=\"{run}\">"
        f"<link rel=stylesheet href='{address}/css'><svg onload=\"{run}\"><iframe src='{address}/frame'></iframe>"
        f"<style>body{{background:url({address}/style)}}</style><meta http-equiv=refresh content='0;url={address}/refresh'>"
    )


def shown(page: str, folder: Path) -> str:
    """The page as a browser has it after everything has loaded."""
    file = folder / "page.html"
    file.write_text(page, "utf-8")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_the_test_sees_a_script_that_runs_and_a_request_that_is_made(
    tmp_path: Path, requests: tuple[str, list[str]]
) -> None:
    address, seen = requests
    stays = hostile(address).partition("<meta")[0]
    found = shown(f"<!DOCTYPE html><html><body><p>{stays}</p></body></html>", tmp_path)
    assert 'data-ran="1"' in found
    assert "/img" in seen


def test_a_hostile_name_runs_nothing_and_fetches_nothing(
    tmp_path: Path, requests: tuple[str, list[str]], reports: dict[tuple[str, str], Report]
) -> None:
    address, seen = requests
    name = hostile(address)
    report = reports["refused", "confidential"]
    merchant = report.merchant.model_copy(update={"name": name})
    reason = report.status.reasons[0].model_copy(update={"zh": name, "en": name})
    status = report.status.model_copy(update={"reasons": (reason,)})
    audit = report.audit.model_copy(update={"state": "consistent", "design": name, "method": name, "data": name})
    events = tuple(one.model_copy(update={"note": name}) for one in report.events)
    changed = report.model_copy(update={"merchant": merchant, "status": status, "audit": audit, "events": events})
    found = shown(page_of(changed, "en"), tmp_path)
    assert "data-ran=" not in found
    assert "&lt;script&gt;" in found
    assert seen == []


def test_a_hostile_merchant_runs_nothing_on_the_federations_page(
    tmp_path: Path, requests: tuple[str, list[str]]
) -> None:
    address, seen = requests
    name = hostile(address)
    charge = {"sigma": 1.0, "rate": 0.1, "steps": 4, "delta": 1e-6, "unit": name, "period": name}
    part = {
        "merchant": name, "status": "set aside", "reason": name, "charge": charge, "policy_digest": name,
        "ledger_seq": 1, "ledger_head": name, "update_digest": name,
    }  # fmt: skip
    place = tmp_path / "run" / "rounds" / "0001"
    place.mkdir(parents=True)
    (place / "round.json").write_text(json.dumps({"round": 1, "run": name, "merchants": [part]}), "utf-8")
    found = shown(federation_page(read_federation(tmp_path / "run"), "zh"), tmp_path)
    assert "data-ran=" not in found
    assert "&lt;script" in found
    assert seen == []


# --- a phone ---

WATCH = """
frame.onload = () => {
  const d = frame.contentDocument, found = [];
  const kept = (e) => e && (getComputedStyle(e).overflowX !== "visible" ? e : kept(e.parentElement));
  for (const e of d.querySelectorAll("body *")) {
    const box = e.getBoundingClientRect(), scroll = kept(e.parentElement);
    if (box.width && box.right > 391 && !(scroll && scroll.getBoundingClientRect().right <= 391)) found.push(e.tagName);
  }
  for (const e of d.querySelectorAll(".wide")) if (e.scrollWidth > e.clientWidth + 1) found.push(e.ariaLabel);
  for (const e of d.querySelectorAll(".wide [data-head]"))
    if (!getComputedStyle(e, "::before").content.includes(e.dataset.head)) found.push(e.dataset.head);
  told.textContent = "told:" + JSON.stringify([d.querySelectorAll(".wide").length, found]);
};
"""


def off_the_phone(page: str, folder: Path) -> tuple[int, list[str]]:
    """Return how many tables are written row by row at 390 pixels, and what lies outside of the page or has no heading."""
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    frame = f'<iframe id="frame" width="390" height="5000" style="border:0" srcdoc="{html.escape(free)}"></iframe>'
    found = shown(f'<!DOCTYPE html><body>{frame}<pre id="told"></pre><script>{WATCH}</script></body>', folder)
    told = re.search(r"told:(\[.*\])</pre>", found)
    assert told, found[-300:]
    tables, outside = json.loads(html.unescape(told[1]))
    return int(tables), list(outside)


def federation(folder: Path) -> str:
    """Return the page of a federation with a merchant of a long name."""
    charge = {"sigma": 1.5, "rate": 0.1, "steps": 4, "delta": 1e-6, "unit": "customer", "period": "2026Q4"}
    part = {
        "merchant": "a-merchant-with-a-long-name-in-the-north-east", "status": "done", "reason": "", "charge": charge,
        "policy_digest": "a" * 64, "ledger_seq": 1, "ledger_head": "b" * 64, "update_digest": "c" * 64,
    }  # fmt: skip
    place = folder / "run" / "rounds" / "0001"
    place.mkdir(parents=True)
    (place / "round.json").write_text(json.dumps({"round": 1, "run": "autumn", "merchants": [part]}), "utf-8")
    return federation_page(read_federation(folder / "run"), "en")


def test_on_a_phone_nothing_is_cut_off_and_every_cell_of_a_wide_table_has_its_heading(
    tmp_path: Path, reports: dict[tuple[str, str], Report]
) -> None:
    figure = Figure("coverage", 0.5, 0.25, 0.75, 8, "share", 0.4)
    pages = [
        page_of(reports["within_budget", "confidential"], "en"),
        page_of(reports["refused", "confidential"], "zh"),
        federation(tmp_path),
        quality_page(Quality("Tea", "2026-11-22", "2026-02-01", (figure,), ()), "en"),
    ]
    for page in pages:
        tables, outside = off_the_phone(page, tmp_path)
        assert tables
        assert outside == []
