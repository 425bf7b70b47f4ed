"""POST and GET of intents over HTTP, on real Kafka, Postgres and registry."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from domain.intents import AMOUNT_MINOR_MAX, compute_intent_id
from tests.api_bench import JSON, NDJSON, ApiBench, leg, post, problem, top_up, transfer
from tests.posting_bench import PostingBench

FETCHES_MAX = 100
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def post_when_published(bench: PostingBench, count: int) -> None:
    """Post as a worker would, as soon as Kafka holds `count` intents that are not posted yet."""
    pause = threading.Event()
    for _ in range(FETCHES_MAX):
        batches = bench.fetch()
        if sum(len(batch.messages) for batch in batches) >= count:
            bench.poster.handle(batches)
            return
        pause.wait(0.1)
    raise AssertionError(f"{count} intents did not reach Kafka")


def test_an_intent_reaches_kafka_with_its_key_and_headers(api: ApiBench, bench: PostingBench) -> None:
    body = transfer("users:1:wallet", "merchants:7", 1250, reference="coffee ☕", metadata={"shop": "7"})
    with api.client() as client:
        answer = post(client, "order-1", body, traceparent=TRACEPARENT, X_Correlation_Id="caller-1")
    assert answer.status_code == 202
    accepted = answer.json()
    assert accepted["intent_id"] == str(compute_intent_id("default", "order-1"))
    assert accepted["status"] == "pending"
    receipt = accepted["receipt"]
    assert answer.headers["location"] == (
        f"/v1/intents/{accepted['intent_id']}?partition={receipt['partition']}&offset={receipt['offset']}"
    )
    assert answer.headers["x-correlation-id"] == "caller-1"

    (batch,) = bench.fetch()
    (message,) = batch.messages
    assert (message.partition, message.offset) == (receipt["partition"], receipt["offset"])
    assert message.key == b"default/users:1:wallet"  # the constrained account that is drawn down
    headers = {name: bytes(value or b"").decode() for name, value in message.headers}
    assert headers["traceparent"] == TRACEPARENT
    assert headers["correlation_id"] == "caller-1"
    assert headers["ce_id"] == accepted["intent_id"]
    assert headers["ce_specversion"] == "1.0"
    assert headers["ce_type"] == "ledgerline.payments.PaymentIntent"
    assert headers["ce_time"].endswith("Z")

    bench.poster.handle([batch])
    (row,) = bench.rows("SELECT * FROM ledger.journal")
    assert row["reason"] == "insufficient_funds"
    assert row["reference"] == "coffee ☕"
    assert row["metadata"] == {"shop": "7"}


def test_an_account_that_cannot_run_dry_is_spread_by_intent_id(api: ApiBench, bench: PostingBench) -> None:
    with api.client() as client:
        intent_id = post(client, "in-1", top_up(1, 500)).json()["intent_id"]
    (batch,) = bench.fetch()
    assert batch.messages[0].key == intent_id.encode()


def test_an_intent_is_pending_then_posted_and_its_repeat_is_answered_from_the_journal(
    api: ApiBench, bench: PostingBench
) -> None:
    body = top_up(1, 700, value_time="2026-01-31T12:00:00+01:00")
    with api.client() as client:
        first = post(client, "k", body)
        pending = client.get(first.headers["location"])
        assert (pending.status_code, pending.json()["status"]) == (200, "pending")
        assert bench.post() == ["posted"]
        posted = client.get(first.headers["location"])
        again = post(client, "k", body)
        other = post(client, "k", top_up(1, 701))
    view = posted.json()
    assert view["status"] == "posted"
    assert view["value_time"] == "2026-01-31T11:00:00.000000Z"
    assert [(found["account"], found["direction"], found["amount"]) for found in view["legs"]] == [
        ("external:bank", "debit", "7.00"),
        ("users:1:wallet", "credit", "7.00"),
    ]
    (row,) = bench.rows("SELECT * FROM ledger.journal")
    assert view["receipt"] == first.json()["receipt"] | {
        "lane": row["lane"],
        "seq": row["seq"],
        "hash": row["hash"].hex(),
    }
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert again.json() == view
    assert problem(other) == "idempotency-conflict"
    assert bench.fetch() == []  # neither repeat was sent to Kafka


def test_a_waiting_request_is_woken_by_the_posting(api: ApiBench, bench: PostingBench) -> None:
    with api.client() as client, ThreadPoolExecutor() as threads:
        waiting = threads.submit(post, client, "k", top_up(1, 700), Prefer="wait=20")
        post_when_published(bench, 1)
        answer = waiting.result(30)
        rejected = threads.submit(post, client, "r", transfer("users:2:wallet", "merchants:7", 1), Prefer="wait=20")
        post_when_published(bench, 1)
        refusal = rejected.result(30)
    assert (answer.status_code, answer.json()["status"]) == (200, "posted")
    assert answer.headers["preference-applied"] == "wait=20"
    assert (refusal.status_code, refusal.json()["status"]) == (200, "rejected")
    assert refusal.json()["reason"] == "insufficient_funds"
    assert refusal.json()["detail"]


def test_a_wait_that_ends_without_an_outcome_is_answered_202(api: ApiBench) -> None:
    with api.client() as client:
        answer = post(client, "k", top_up(1, 700), Prefer="wait=1")
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")


def test_a_conflict_in_flight_is_told_to_the_one_who_waits(api: ApiBench, bench: PostingBench) -> None:
    with api.client() as client, ThreadPoolExecutor() as threads:
        post(client, "k", top_up(1, 700))
        waiting = threads.submit(post, client, "k", top_up(1, 701), Prefer="wait=20")
        post_when_published(bench, 2)
        late = waiting.result(30)
        again = post(client, "k", top_up(1, 700))
    # Neither draws down a constrained account, so both went to the lane of their common intent id, in order.
    outcomes = [row["outcome"] for row in bench.rows("SELECT outcome FROM ledger.journal ORDER BY lane, seq")]
    assert outcomes == ["posted", "idempotency_conflict"]
    assert problem(late) == "idempotency-conflict"
    assert (again.status_code, again.json()["status"]) == (200, "posted")


def test_an_intent_that_is_unknown_is_told_from_one_that_is_pending(api: ApiBench, bench: PostingBench) -> None:
    with api.client() as client, api.client(api.new_key("other")) as foreign:
        location = post(client, "k", top_up(1, 700)).headers["location"]
        bench.send_bytes(b"\x07 not an intent", 0)
        bench.post()
        stranger = UUID(int=7)
        assert problem(client.get(f"/v1/intents/{stranger}")) == "intent-not-found"
        assert problem(client.get(f"/v1/intents/{stranger}?partition=0&offset=0")) == "intent-not-found"
        assert client.get(f"/v1/intents/{stranger}?partition=0&offset=99").json()["status"] == "pending"
        assert problem(client.get(f"/v1/intents/{stranger}?partition=0")) == "bad-request"
        assert problem(foreign.get(location)) == "intent-not-found"
        assert client.get(location).json()["status"] == "posted"


def test_a_later_delivery_is_shown_beside_the_first(api: ApiBench, bench: PostingBench) -> None:
    with api.client() as client:
        first, second = (post(client, "k", top_up(1, 700)) for _ in range(2))
        assert sorted(bench.post()) == ["duplicate", "posted"]
        views = [client.get(answer.headers["location"]).json() for answer in (first, second)]
    assert [view["status"] for view in views] == ["posted", "posted"]
    deliveries = [view["delivery"]["outcome"] for view in views if "delivery" in view]
    assert deliveries == ["duplicate"]


def test_a_reversal_waits_for_its_original_and_follows_the_account_that_it_drains(
    api: ApiBench, bench: PostingBench
) -> None:
    with api.client() as client:
        original = post(client, "k", top_up(1, 700)).json()["intent_id"]
        reversal = {"type": "reversal", "reverses": original}
        early = post(client, "undo", reversal)
        assert problem(early) == "original-not-posted"
        assert early.headers["retry-after"]
        assert bench.post() == ["posted"]
        assert post(client, "undo", reversal).status_code == 202
        assert problem(post(client, "undo-2", {"type": "reversal", "reverses": str(UUID(int=3))})) == (
            "original-not-posted"
        )
    (batch,) = bench.fetch()
    assert batch.messages[0].key == b"default/users:1:wallet"
    bench.poster.handle([batch])
    assert bench.balance("users:1:wallet") == 0


def many_legs(count: int) -> dict[str, Any]:
    """Return a balanced intent with `count` legs."""
    legs = [leg(f"users:{number}:wallet", ("debit", "credit")[number % 2], 1) for number in range(count)]
    return {"type": "transfer", "legs": legs}


BAD_BODIES: list[tuple[str, Any, int, str]] = [
    ("unbalanced", {"type": "transfer", "legs": [leg("a:b", "debit", 1), leg("a:c", "credit", 2)]}, 422, "unbalanced"),
    ("per currency", {"type": "transfer", "legs": [leg("a:b", "debit", 1), leg("a:c", "credit", 1, "USD")]}, 422,
     "unbalanced"),
    ("no legs", {"type": "transfer", "legs": []}, 422, "no-legs"),
    ("legs left out", {"type": "transfer"}, 422, "no-legs"),
    ("one leg", {"type": "transfer", "legs": [leg("a:b", "debit", 1)]}, 422, "no-legs"),
    ("10,000 legs", many_legs(10_000), 422, "too-many-legs"),
    ("zero", transfer("a:b", "a:c", 0), 422, "invalid-amount"),
    ("negative", transfer("a:b", "a:c", -5), 422, "invalid-amount"),
    ("overflowing", transfer("a:b", "a:c", AMOUNT_MINOR_MAX + 1), 422, "invalid-amount"),
    ("overflowing far", transfer("a:b", "a:c", 10**30), 422, "invalid-amount"),
    ("fraction", transfer("a:b", "a:c", 1.5), 422, "invalid-request"),
    ("amount as text", transfer("a:b", "a:c", "5"), 422, "invalid-request"),
    ("amount as truth", transfer("a:b", "a:c", True), 422, "invalid-request"),
    ("NUL in the reference", transfer("a:b", "a:c", 1, reference="a\x00b"), 422, "malformed"),
    ("NUL in metadata", transfer("a:b", "a:c", 1, metadata={"k": "\x00"}), 422, "malformed"),
    ("long reference", transfer("a:b", "a:c", 1, reference="x" * 1001), 422, "malformed"),
    ("odd metadata key", transfer("a:b", "a:c", 1, metadata={"a b": "c"}), 422, "malformed"),
    ("metadata no text", transfer("a:b", "a:c", 1, metadata={"a": 1}), 422, "invalid-request"),
    ("space in an account", transfer("users:l k:wallet", "a:c", 1), 422, "malformed"),
    ("accent in an account", transfer("a:b", "users:zoé:wallet", 1), 422, "malformed"),
    ("NUL in an account", transfer("a:b", "a:c\x00", 1), 422, "malformed"),
    ("gold", {"type": "transfer", "legs": [leg("a:b", "debit", 1, "XAU"), leg("a:c", "credit", 1, "XAU")]}, 422,
     "unknown-currency"),
    ("a member twice", b'{"type":"transfer","type":"transfer","legs":[]}', 400, "invalid-json"),
    ("unknown type", transfer("a:b", "a:c", 1, type="gift"), 422, "unsupported-type"),
    ("reversal of nothing", {"type": "reversal"}, 422, "malformed"),
    ("transfer that reverses", transfer("a:b", "a:c", 1, reverses=str(UUID(int=1))), 422, "malformed"),
    ("reverses no id", {"type": "reversal", "reverses": "x"}, 422, "invalid-request"),
    ("unknown member", transfer("a:b", "a:c", 1, value_tme="2026-01-01T00:00:00Z"), 422, "invalid-request"),
    ("value time no time", transfer("a:b", "a:c", 1, value_time="yesterday"), 422, "invalid-request"),
    ("value time without offset", transfer("a:b", "a:c", 1, value_time="2026-01-01T00:00:00"), 422, "invalid-request"),
    ("value time far off", transfer("a:b", "a:c", 1, value_time="2200-01-01T00:00:00Z"), 422,
     "value-time-out-of-range"),
    ("direction unknown", {"type": "transfer", "legs": [leg("a:b", "up", 1)]}, 422, "invalid-request"),
    ("long account", transfer("a" * 257, "a:c", 1), 422, "invalid-request"),
    ("empty", b"", 400, "invalid-json"),
    ("no JSON", b"{", 400, "invalid-json"),
    ("raw NUL", b'{"type":"tra\x00nsfer"}', 400, "invalid-json"),
    ("no UTF-8", b'{"type":"\xff"}', 400, "invalid-json"),
    ("lone surrogate", b'{"type":"\\ud800"}', 400, "invalid-json"),
    ("NaN", b'{"type":NaN}', 400, "invalid-json"),
    ("nested deep", b"[" * 10_000, 400, "invalid-json"),
    ("nested deeper", b"[" * 100_000, 413, "body-too-complex"),
    ("300,000 empty legs", b'{"legs":[' + b"{}," * 300_000 + b"{}]}", 413, "body-too-complex"),
    ("1,333,000 empty legs", b'{"legs":[' + b"{}," * 1_333_000 + b"{}]}", 413, "body-too-large"),
    ("an array", [], 422, "invalid-request"),
    ("null", None, 422, "invalid-request"),
    ("10 MB", b"x" * 10_000_000, 413, "body-too-large"),
]  # fmt: skip

BAD_KEYS: list[tuple[str, dict[str, str], str]] = [
    ("missing", {}, "idempotency-key-required"),
    ("blank", {"Idempotency-Key": ""}, "idempotency-key-required"),
    ("overlong", {"Idempotency-Key": "k" * 256}, "idempotency-key-invalid"),
]


def test_bad_input_is_told_what_is_wrong_and_uses_up_no_key(api: ApiBench, bench: PostingBench) -> None:
    with api.client() as client:
        for name, body, status, kind in BAD_BODIES:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            answer = client.post("/v1/intents", content=content, headers=JSON | {"Idempotency-Key": "bad"})
            assert (name, answer.status_code, problem(answer)) == (name, status, kind)
        for name, headers, kind in BAD_KEYS:
            answer = client.post("/v1/intents", json=top_up(1, 1), headers=headers)
            assert (name, answer.status_code, problem(answer)) == (name, 400, kind)
        latin = client.post("/v1/intents", json=top_up(1, 1), headers={"Idempotency-Key": b"\xff"})  # type: ignore[dict-item]
        assert problem(latin) == "idempotency-key-invalid"
        twice = client.post(
            "/v1/intents", json=top_up(1, 1), headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        )
        assert (twice.status_code, problem(twice)) == (400, "idempotency-key-invalid")
        gold = [{**transfer("a:b", "a:c", 1), "idempotency_key": "bad"}]
        gold[0]["legs"] = [entry | {"currency": "XAU"} for entry in gold[0]["legs"]]
        (item,) = client.post("/v1/intents/batch", json=gold).json()["items"]
        assert (item["status"], item["problem"]["reason"]) == (422, "unknown_currency")
        assert item["problem"]["detail"].startswith('XAU stands for "Gold" in ISO 4217, which gives it no minor unit')
        form = client.post("/v1/intents", content=b"{}", headers={"Content-Type": "text/plain"})
        assert problem(form) == "unsupported-media-type"
        assert bench.fetch() == []
        assert post(client, "bad", top_up(1, 1, reference="emoji 😀 are fine")).status_code == 202
    assert bench.post() == ["posted"]


def test_a_body_without_a_length_is_cut_off_at_the_limit(api: ApiBench) -> None:
    def chunks() -> Any:
        for _ in range(100):
            yield b" " * 100_000

    with api.client() as client:
        answer = client.post("/v1/intents", content=chunks(), headers=JSON | {"Idempotency-Key": "k"})
    assert problem(answer) == "body-too-large"


def test_what_only_the_books_know_is_decided_by_the_worker(api: ApiBench, bench: PostingBench) -> None:
    with api.client() as client:
        for number, body in enumerate(
            [transfer("nowhere:1", "users:1:wallet", 1), transfer("nowhere:2", "users:1:wallet", 1)]
        ):
            assert post(client, f"k{number}", body).status_code == 202
        unknown = top_up(1, 1)
        unknown["legs"] = [entry | {"currency": "XQX"} for entry in unknown["legs"]]
        assert post(client, "k9", unknown).status_code == 202
    assert sorted(bench.post()) == ["unknown_account", "unknown_account", "unknown_currency"]


def batch_lines(*items: Any) -> bytes:
    """Return the items as NDJSON."""
    return b"\n".join(item if isinstance(item, bytes) else json.dumps(item).encode() for item in items)


@pytest.mark.parametrize("form", ["ndjson", "array"])
def test_in_a_batch_a_bad_item_harms_no_other(api: ApiBench, bench: PostingBench, form: str) -> None:
    good = top_up(1, 100)
    items: list[Any] = [
        good | {"idempotency_key": "a"},
        good,
        transfer("a:b", "a:c", 0) | {"idempotency_key": "b"},
        7,
        good | {"idempotency_key": "k" * 256},
        {"idempotency_key": "r", "type": "reversal", "reverses": str(UUID(int=3))},
        good | {"idempotency_key": "c"},
    ]
    kinds = [None, "invalid-request", "invalid-amount", "invalid-request", "idempotency-key-invalid",
             "original-not-posted", None]  # fmt: skip
    with api.client() as client:
        if form == "ndjson":
            items.append(b"{not json")
            kinds.append("invalid-json")
            answer = client.post("/v1/intents/batch", content=batch_lines(*items), headers=NDJSON)
        else:
            answer = client.post("/v1/intents/batch", json=items)
        assert answer.status_code == 200
        found = answer.json()["items"]
        shown = [item["problem"]["type"].rpartition("/")[2] if "problem" in item else None for item in found]
        assert shown == kinds
        assert [item["status"] for item in found if "problem" not in item] == [202, 202]
        assert found[0]["intent_id"] == str(compute_intent_id("default", "a"))
        assert bench.post() == ["posted", "posted"]
        again = client.post("/v1/intents/batch", json=[items[0], top_up(1, 101) | {"idempotency_key": "c"}]).json()
    assert [item["status"] for item in again["items"]] == [200, 422]
    assert again["items"][0]["replayed"] is True
    assert again["items"][0]["intent"]["status"] == "posted"


def test_a_whole_batch_can_be_waited_for(api: ApiBench, bench: PostingBench) -> None:
    items = [top_up(number, 100) | {"idempotency_key": f"k{number}"} for number in range(50)]
    items.append(transfer("users:900:wallet", "merchants:1", 5) | {"idempotency_key": "poor"})
    with api.client() as client, ThreadPoolExecutor() as threads:
        waiting = threads.submit(client.post, "/v1/intents/batch", json=items, headers={"Prefer": "wait=20"})
        post_when_published(bench, 51)
        found = waiting.result(30).json()["items"]
    assert [item["status"] for item in found] == [200] * 51
    assert [item["intent"]["status"] for item in found] == ["posted"] * 50 + ["rejected"]


def test_a_batch_has_bounds(api: ApiBench) -> None:
    item = json.dumps(top_up(1, 1) | {"idempotency_key": "k"}).encode()
    with api.client() as client:
        many = client.post("/v1/intents/batch", content=b"\n".join([item] * 1001), headers=NDJSON)
        assert problem(many) == "too-many-items"
        assert problem(client.post("/v1/intents/batch", json={"items": []})) == "invalid-request"
        assert problem(client.post("/v1/intents/batch", content=b"[", headers=JSON)) == "invalid-json"
        assert problem(client.post("/v1/intents/batch", content=item)) == "unsupported-media-type"
        assert client.post("/v1/intents/batch", content=b"\n \n", headers=NDJSON).json() == {"items": []}
        full = batch_lines(*(top_up(1, 1) | {"idempotency_key": f"k{number}"} for number in range(1000)))
        accepted = client.post("/v1/intents/batch", content=full, headers=NDJSON).json()["items"]
    assert [item["status"] for item in accepted] == [202] * 1000
    assert (
        len({(item["intent"]["receipt"]["partition"], item["intent"]["receipt"]["offset"]) for item in accepted})
        == 1000
    )
