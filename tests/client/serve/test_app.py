from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from client.use.guard import check
from client.use.label import LABEL
from tests.client.serve.conftest import Running, copy_of_example, serve


def test_every_verb_answers(service: Running) -> None:
    offers = service.ask("/recommend", {"customer": "c01", "k": 3}).json["offers"]
    assert len(offers) == 3
    copy = service.ask("/copy", {"customer": "c01", "product": "SKU7", "n": 2, "offer": "满100减10"})
    assert copy.status == 200
    assert copy.json["product"] == "SKU7"
    assert service.ask("/describe", {"product": "SKU4"}).json["texts"]
    assert len(service.ask("/reviews", {"texts": ["茶很香", "罐子破了"]}).json["reviews"]) == 2
    assert {tag["kind"] for tag in service.ask("/profile", {"customer": "c01"}).json["tags"]} >= {"rfm", "category"}
    assert service.ask("/reply", {"question": "茶包泡几分钟合适？"}).json["hand_over"] is False
    lines = service.ask("/campaign", {"due_within": 30, "limit": 2}).json
    assert len(lines["lines"]) == 2
    assert service.ask("/health").json["status"] == "ok"


def test_what_is_generated_carries_both_labels_and_passes_the_guard(service: Running) -> None:
    found = service.ask("/copy", {"customer": "c01", "product": "SKU7", "n": 3}).json
    desk = service.live.desk
    given = desk.facts(desk.customer("c01"), desk.product("SKU7"))[0].given
    assert found["label"] == LABEL
    assert found["aigc"]["Label"] == "1"
    assert found["aigc"]["ContentProducer"] == "qinghe-tea"
    assert all(one.level != "block" for text in found["texts"] for one in check(text["text"], given))


def test_the_same_seed_gives_the_same_texts(service: Running) -> None:
    asked = {"customer": "c02", "n": 3, "seed": 5}
    assert service.ask("/copy", asked).json["texts"] == service.ask("/copy", asked).json["texts"]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/recommend", {"customer": "c99"}, 404, "customer 'c99' is not in this shop's files"),
        ("/copy", {"customer": "c01", "product": "X"}, 404, "product 'X' is not in this shop's catalogue"),
        ("/recommend", {"customer": "c01", "k": 0}, 422, "k: Input should be greater than or equal to 1"),
        ("/recommend", {"customer": "c01", "k": "3"}, 422, "k: Input should be a valid integer"),
        ("/recommend", {}, 422, "customer: Field required"),
        ("/recommend", {"customer": "c01", "x": 1}, 422, "x: Extra inputs are not permitted"),
        ("/recommend", [1], 422, "body: Input should be"),
        ("/reviews", {"texts": []}, 422, "texts: List should have at least 1 item"),
        ("/reviews", {"texts": ["好"] * 17}, 422, "texts: List should have at most 16 items"),
        ("/copy", {"customer": "c01", "offer": "减" * 61}, 422, "offer: String should have at most 60 characters"),
        ("/copy", {"customer": "a\u0000b"}, 422, "customer: String should match pattern"),
        ("/nothing", {"a": 1}, 404, "Not Found"),
    ],
)
def test_a_bad_request_gets_a_reason_in_one_line(
    service: Running, path: str, body: object, status: int, says: str
) -> None:
    answer = service.ask(path, body)
    assert (answer.status, set(answer.json)) == (status, {"detail"})
    assert answer.json["detail"].startswith(says)
    assert "\n" not in answer.json["detail"]


def test_what_is_not_json_or_too_large_or_the_wrong_method_is_told_so(service: Running) -> None:
    assert service.ask("/copy", raw=b"{").json == {"detail": "the body is not JSON; send one JSON object"}
    assert service.ask("/copy", raw=b"\xff\xfe").status == 400
    large = json.dumps({"question": "茶" * 40_000}).encode()
    assert service.ask("/reply", raw=large).status == 413
    assert _chunked(service, large) == 413
    wrong = service.ask("/copy")
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")


def _chunked(service: Running, body: bytes) -> int:
    """Return the status of a request that does not say how long its body is."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    parts = (body[start : start + 4096] for start in range(0, len(body), 4096))
    headers = {"Authorization": f"Bearer {service.key}", "Content-Type": "application/json"}
    connection.request("POST", "/reply", parts, headers, encode_chunked=True)
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_key_file_that_is_damaged_while_it_runs_opens_nothing(service: Running) -> None:
    file = service.folder / "keys" / "api.json"
    kept = file.read_text("utf-8")
    try:
        file.write_text("[")
        assert service.ask("/profile", {"customer": "c01"}).status == 401
    finally:
        file.write_text(kept)
    assert service.ask("/profile", {"customer": "c01"}).status == 200


def test_nobody_without_a_key_is_answered(service: Running) -> None:
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer fk_wrong"}, {"Authorization": service.key}):
        answer = service.ask("/recommend", {"customer": "c01"}, headers=headers)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    other = service.ask("/recommend", {"customer": "c01"}, headers={"Authorization": "", "X-API-Key": service.key})
    assert other.status == 200
    for path in ("/metrics", "/openapi.json"):
        assert service.ask(path, headers={"Authorization": ""}).status == 401
        assert service.ask(path).status == 200


def test_another_host_name_is_refused(service: Running) -> None:
    assert service.ask("/health", headers={"Host": "evil.example"}).status == 400
    assert service.ask("/health", headers={"Host": f"localhost:{service.port}"}).status == 200


def test_every_answer_forbids_scripts_frames_and_caching(service: Running) -> None:
    for answer in (
        service.ask("/health"),
        service.ask("/nothing"),
        service.ask("/login"),
        service.ask("/copy", raw=b"{"),
    ):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "script-src" not in policy
        assert "unsafe" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_counters_name_paths_and_never_what_was_asked(service: Running) -> None:
    service.ask("/recommend", {"customer": "c01"})
    service.ask("/c01/secret")
    text = service.ask("/metrics").text
    assert 'fugou_requests_total{path="/recommend",status="200"}' in text
    assert 'path="other",status="404"' in text
    assert "fugou_batch_drafts_count" in text
    assert "c01" not in text
    assert "SKU" not in text


def test_requests_at_once_share_batches_and_change_nothing(service: Running) -> None:
    asked = [{"customer": f"c0{place}", "product": "SKU7", "n": 2, "seed": place} for place in range(1, 7)]
    alone = [service.ask("/copy", one).json["texts"] for one in asked]
    before = _metric(service, "fugou_batch_drafts_count")
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda one: service.ask("/copy", one).json["texts"], asked))
    assert [[text["text"] for text in texts] for texts in together] == [
        [text["text"] for text in texts] for texts in alone
    ]
    assert _metric(service, "fugou_batch_drafts_count") - before < len(asked)


def _metric(service: Running, name: str) -> float:
    lines = service.ask("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_too_many_requests_are_told_when_to_come_back(tiny_base: str, tmp_path: Path) -> None:
    for slow in serve(copy_of_example(tmp_path / "m", tiny_base), rate=2.0):
        statuses = [slow.ask("/profile", {"customer": "c01"}).status for _ in range(8)]
        assert statuses[:4] == [200] * 4
        assert 429 in statuses
        refused = slow.ask("/profile", {"customer": "c01"})
        if refused.status == 429:
            assert refused.headers["retry-after"] == "1"
            assert refused.json["detail"].startswith("too many requests")


def test_an_answer_that_takes_too_long_is_a_503_with_the_way_out(tiny_base: str, tmp_path: Path) -> None:
    for slow in serve(copy_of_example(tmp_path / "m", tiny_base), timeout=0.001):
        answer = slow.ask("/campaign", {"due_within": 60, "limit": 20})
        assert answer.status == 503
        assert "no answer within 0.001 s" in answer.json["detail"]
        assert slow.ask("/health").status == 200
