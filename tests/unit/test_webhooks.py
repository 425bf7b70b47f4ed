"""The rules of webhooks: signatures, filters, bodies, the retry plan, disabling; and which URLs may be called."""

import base64
import json
from typing import Any
from uuid import UUID

import pytest

from domain.addresses import find_url_fault, is_public
from domain.events import Event
from domain.webhook_wishes import Wish, WishIndex, find_wish_fault
from domain.webhooks import (
    ATTEMPTS_MAX,
    BODY_BYTES_MAX,
    RETRY_SECONDS,
    ROTATION_SECONDS,
    SECOND,
    Message,
    SecretError,
    Secrets,
    compute_next_time,
    find_disabling_reason,
    format_secret,
    is_success,
    make_event_message,
    make_headers,
    make_journal_message,
    parse_secret,
    sign,
)

NOW = 1_760_000_000 * SECOND
DAY = 24 * 3600 * SECOND

REFUSED_URLS = [
    "http://hooks.example.com/",
    "ftp://hooks.example.com/",
    "hooks.example.com",
    "//hooks.example.com/",
    "",
    "https://",
    "https:///path",
    "https://hooks.example.com:80/",
    "https://hooks.example.com:22/",
    "https://hooks.example.com:0/",
    "https://hooks.example.com:99999/",
    "https://user@hooks.example.com/",
    "https://user:word@hooks.example.com/",
    "https://hooks.example.com/#part",
    "https://hooks.example.com/#",
    "https://localhost/",
    "https://LOCALHOST/",
    "https://a.localhost/",
    "https://db.internal/",
    "https://printer.local/",
    "https://intranet/",
    "https://127.0.0.1/",
    "https://127.1/",
    "https://0x7f.1/",
    "https://0x7f000001/",
    "https://2130706433/",
    "https://017700000001/",
    "https://0177.0.0.1/",
    "https://127.0.0.1./",
    "https://0/",
    "https://10.0.0.1/",
    "https://172.16.0.1/",
    "https://172.31.255.255/",
    "https://192.168.1.1/",
    "https://169.254.169.254/latest/meta-data",
    "https://100.64.0.1/",
    "https://192.0.0.1/",
    "https://192.0.2.1/",
    "https://198.18.0.1/",
    "https://198.51.100.1/",
    "https://203.0.113.1/",
    "https://224.0.0.1/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    "https://0.0.0.0/",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:8.8.8.8]/",
    "https://[fe80::1]/",
    "https://[fd00::1]/",
    "https://[ff02::1]/",
    "https://[2002:7f00:1::]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2001:db8::1]/",
    "https://[2001::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[::1",
    "https://exa mple.com/",
    "https://example.com\\@127.0.0.1/",
    "https://ex\tample.com/",
    "https://münchen.example/",
    "https://-bad.example.com/",
    "https://a..example.com/",
    "https://example.com/" + "a" * 2000,
    "https://1.0.0.127.in-addr.arpa/",
    "https://0x7f.0.0.0x1/",
]
TAKEN_URLS = [
    "https://hooks.example.com/ledgerline",
    "https://hooks.example.com:8443/?a=b",
    "https://xn--mnchen-3ya.example/",
    "https://8.8.8.8/",
    "https://[2606:4700:4700::1111]/",
    "https://HOOKS.example.com:443",
    "https://example.com./x",
]


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_odd_urls_are_refused_with_a_sentence(url: str) -> None:
    fault = find_url_fault(url)
    assert fault is not None
    assert fault.endswith(".")


@pytest.mark.parametrize("url", TAKEN_URLS)
def test_public_urls_are_taken(url: str) -> None:
    assert find_url_fault(url) is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("172.32.0.1", True),
        ("172.31.0.1", False),
        ("100.63.255.255", True),
        ("100.64.0.0", False),
        ("100.128.0.0", True),
        ("198.17.0.1", True),
        ("198.19.0.1", False),
        ("2606:4700::1", True),
        ("::ffff:8.8.8.8", False),
        ("2001:0:1::", False),
        ("2a00::1", True),
        ("4000::1", False),
        ("example.com", False),
        ("fe80::1%eth0", False),
    ],
)
def test_addresses_of_the_public_internet(address: str, expected: bool) -> None:
    assert is_public(address) is expected


def test_a_signature_is_that_of_the_specification() -> None:
    """The specification's own example of a signature (Standard Webhooks, `webhook-signature`)."""
    secret = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    assert sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_after_a_rotation_two_secrets_sign_for_a_day() -> None:
    first, second, third = (bytes([number]) * 32 for number in (1, 2, 3))
    rotated = Secrets(first).rotate(second, NOW)
    end = NOW + ROTATION_SECONDS * SECOND
    assert [rotated.list_valid(at) for at in (NOW, end - 1, end)] == [[second, first], [second, first], [second]]
    assert rotated.rotate(third, NOW + 1).list_valid(NOW + 2) == [third, second]
    headers = make_headers(rotated, "m1", b"{}", NOW)
    assert headers["webhook-timestamp"] == "1760000000"
    assert (
        headers["webhook-signature"]
        == f"{sign(second, 'm1', 1760000000, b'{}')} {sign(first, 'm1', 1760000000, b'{}')}"
    )


@pytest.mark.parametrize("size", [24, 32, 64])
def test_secrets_are_read_back(size: int) -> None:
    assert parse_secret(format_secret(b"\xff" * size)) == b"\xff" * size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        format_secret(b"x" * 23),
        format_secret(b"x" * 65),
        "whsec_***",
        base64.b64encode(b"x" * 32).decode(),
    ],
)
def test_other_texts_are_no_secrets(text: str) -> None:
    with pytest.raises(SecretError):
        parse_secret(text)


@pytest.mark.parametrize(
    ("filters", "accounts", "type", "at", "expected"),
    [
        (["*"], [], "ledger.posted", [], True),
        (["ledger.posted"], [], "ledger.posted", [], True),
        (["ledger.posted"], [], "ledger.rejected", [], False),
        (["ledger.*"], [], "ledger.rejected", [], True),
        (["ledger.*"], [], "ledgers.posted", [], False),
        (["schedule.*", "ledger.posted"], [], "schedule.ScheduleMade", [], True),
        (["*"], ["users:42:*"], "ledger.posted", ["users:42:wallet", "external:bank"], True),
        (["*"], ["users:42:*"], "ledger.posted", ["users:421:wallet"], False),
        (["*"], ["users:42"], "ledger.posted", ["users:42:wallet"], False),
        (["*"], ["external:bank"], "ledger.posted", ["external:bank"], True),
        (["*"], ["users:42:*"], "schedule.ScheduleMade", [], True),
    ],
)
def test_filters(filters: list[str], accounts: list[str], type: str, at: list[str], expected: bool) -> None:
    message = Message("default", "m", f"ledgerline.{type}", "lane:0", frozenset(at), b"{}", NOW)
    index = WishIndex([(Wish(tuple(filters), tuple(accounts)), "it")])
    assert index.find(message) == (["it"] if expected else [])


def test_of_many_endpoints_those_that_want_a_message_are_found_each_once() -> None:
    wishes = {
        "all": Wish(("*",)),
        "schedules": Wish(("schedule.*",)),
        "users 1 twice": Wish(("ledger.posted",), ("users:1:*", "users:1:wallet")),
        "users 2": Wish(("*",), ("users:2:*",)),
        "rejected": Wish(("ledger.rejected",), ("users:1:*",)),
        "all users": Wish(("ledger.*",), ("users:*",)),
    }
    index = WishIndex((wish, name) for name, wish in wishes.items())

    def find(type: str, *accounts: str) -> list[str]:
        return index.find(Message("default", "m", f"ledgerline.{type}", "lane:0", frozenset(accounts), b"{}", NOW))

    assert find("ledger.posted", "users:1:wallet", "external:bank") == ["all", "users 1 twice", "all users"]
    assert find("ledger.rejected", "users:1:wallet", "users:2:a:b") == ["all", "users 2", "rejected", "all users"]
    assert find("schedule.ScheduleMade") == ["all", "schedules", "users 2"]
    assert find("ledger.posted", "external:bank") == ["all"]


@pytest.mark.parametrize(
    ("filters", "accounts"),
    [
        ([], []),
        (["*"] * 21, []),
        (["ledger.po*"], []),
        (["*.posted"], []),
        (["a b"], []),
        (["*"], ["*"]),
        (["*"], ["a::b"]),
        (["*"], ["a"] * 21),
        (["x" * 129], []),
    ],
)
def test_other_filters_are_refused(filters: list[str], accounts: list[str]) -> None:
    assert str(find_wish_fault(filters, accounts)).endswith(".")


def test_the_plan_has_nine_pauses_with_jitter_and_an_end() -> None:
    for attempts, seconds in enumerate(RETRY_SECONDS, start=1):
        assert compute_next_time(attempts, NOW, 0.0) == NOW + seconds * SECOND
        assert compute_next_time(attempts, NOW, 1.0) == NOW + seconds * SECOND * 11 // 10
    assert (ATTEMPTS_MAX, compute_next_time(ATTEMPTS_MAX, NOW, 0.5)) == (10, None)


@pytest.mark.parametrize(("asked", "expected"), [(None, 5), (1, 5), (60, 60), (86_400, 86_400), (10**9, 86_400)])
def test_an_endpoint_may_ask_for_a_longer_pause(asked: int | None, expected: int) -> None:
    assert compute_next_time(1, NOW, 0.0, asked) == NOW + expected * SECOND


@pytest.mark.parametrize(
    ("status", "failing_since", "expected"),
    [
        (500, None, None),
        (500, NOW - 5 * DAY + 1, None),
        (500, NOW - 5 * DAY, "five days"),
        (None, NOW - 6 * DAY, "five days"),
        (410, None, "410"),
        (404, NOW, None),
    ],
)
def test_when_an_endpoint_is_disabled(status: int | None, failing_since: int | None, expected: str | None) -> None:
    reason = find_disabling_reason(status, failing_since, NOW)
    assert reason is None if expected is None else expected in str(reason)


@pytest.mark.parametrize(
    ("status", "expected"), [(200, True), (204, True), (299, True), (301, False), (199, False), (None, False)]
)
def test_only_2xx_is_a_success(status: int | None, expected: bool) -> None:
    assert is_success(status) is expected


def make_record(**changes: Any) -> dict[str, Any]:
    leg = {"account": "users:42:wallet", "direction": "credit", "amount_minor": 2**53 + 1, "currency": "EUR"}
    return {
        "lane": 3, "seq": 17, "outcome": "posted", "reason": "", "detail": "", "tenant": "default",
        "intent_id": "6b1f3f1e-5f0b-5d0e-8a51-0d1a53c3a1b2", "idempotency_key": "order-17", "type": "transfer",
        "reverses": None, "legs": [leg], "reference": None, "metadata": {}, "value_time": NOW, "booked_time": NOW,
        "hash": bytes(range(32)), "previous_hash": bytes(32), **changes,
    }  # fmt: skip


def test_a_journal_record_becomes_a_cloud_event() -> None:
    message = make_journal_message(make_record())
    assert message is not None
    event = json.loads(message.body)
    assert event["data"].pop("legs")[0]["amount_minor"] == 2**53 + 1
    assert {name: event[name] for name in event if name != "data"} == {
        "specversion": "1.0", "id": bytes(range(32)).hex(), "type": "ledgerline.ledger.posted", "sequence": "17",
        "source": "/ledgerline/ledger", "subject": "6b1f3f1e-5f0b-5d0e-8a51-0d1a53c3a1b2", "lane": "3",
        "time": "2025-10-09T08:53:20.000000Z", "datacontenttype": "application/json",
    }  # fmt: skip
    assert (message.ordering, message.accounts) == ("lane:3", {"users:42:wallet"})


@pytest.mark.parametrize("outcome", ["duplicate", "idempotency_conflict", "quarantined", "unknown"])
def test_other_outcomes_are_not_told(outcome: str) -> None:
    assert make_journal_message(make_record(outcome=outcome, tenant=None)) is None


def test_a_large_record_is_told_in_short() -> None:
    leg = {"account": "a" * 256, "direction": "debit", "amount_minor": 1, "currency": "EUR"}
    message = make_journal_message(make_record(legs=[leg] * 1000, metadata={"a": "b"}))
    assert message is not None
    data = json.loads(message.body)["data"]
    assert len(message.body) < BODY_BYTES_MAX
    assert (data["truncated"], data["intent_id"]) == (True, make_record()["intent_id"])
    assert "legs" not in data


def test_an_event_becomes_a_cloud_event() -> None:
    event = Event("schedule", "ScheduleMade", "default", "schedules:7", 2, {"every": "P1M", "raw": b"\x00\x01"}, NOW)
    message = make_event_message(event, UUID(int=7))
    body = json.loads(message.body)
    assert (body["type"], body["subject"], body["sequence"], body["id"]) == (
        "ledgerline.schedule.ScheduleMade",
        "schedules:7",
        "2",
        str(UUID(int=7)),
    )
    assert body["data"] == {"every": "P1M", "raw": "AAE="}
    assert message.ordering == "schedules:7"
