"""Rules of the API that need no ledger: problems, cursors, times, preferences, traces, bodies, pages."""

import base64
import re
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from api.addresses import find_client_address, parse_trusted_proxies
from api.authentication import get_address_group
from api.cursors import Cursors
from api.intent_bodies import parse_batch, parse_intent
from api.lists import Page
from api.metrics import Metrics
from api.problems import TYPE_BASE, Kind, Problem, get_problem_kind
from api.request_headers import wait_seconds
from api.responses import make_json_response
from api.times import from_rfc3339
from api.tracing import read_trace
from domain.chart import DEFAULT_CHART, Chart
from domain.intents import CREDIT, DEBIT, Leg
from domain.outcomes import Reason
from domain.times import format_rfc3339
from producers.intents import find_drained_account, make_kafka_key
from runtime.settings import REPOSITORY_ROOT

ERRORS = (REPOSITORY_ROOT / "docs" / "ERRORS.md").read_text()
METRICS = (REPOSITORY_ROOT / "docs" / "METRICS.md").read_text()
SHAPE_REASONS = list(Reason)[: list(Reason).index(Reason.UNKNOWN_CURRENCY)]


def test_each_kind_of_problem_is_documented_once_with_its_status() -> None:
    documented = re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \|", ERRORS, re.MULTILINE)
    assert sorted(documented) == sorted((kind.slug, str(kind.status)) for kind in Kind)
    assert TYPE_BASE in ERRORS


def test_each_metric_is_documented() -> None:
    exposed = set(re.findall(r"^# TYPE (\w+)", Metrics().make_exposition().decode(), re.MULTILINE))
    documented = set(re.findall(r"^\| `(ledgerline_api_\w+)`", METRICS, re.MULTILINE))
    assert {name for name in exposed if name.startswith("ledgerline_api_")} == documented


@pytest.mark.parametrize("reason", SHAPE_REASONS)
def test_each_reason_of_shape_has_its_kind(reason: Reason) -> None:
    assert get_problem_kind(reason).status == 422
    assert get_problem_kind(reason).slug == reason.value.replace("_", "-")


CURSORS = Cursors(b"\x07" * 32)


@given(place=st.tuples(st.text(max_size=200), st.integers(0, 2**63 - 1)), prefix=st.text(max_size=50))
def test_a_cursor_comes_back_as_it_went_and_only_to_its_own_list(place: tuple[Any, ...], prefix: str) -> None:
    scope = ("accounts", "default", prefix)
    cursor = CURSORS.encode(place, scope)
    assert CURSORS.decode(cursor, scope, (str, int)) == place
    for other in (
        ("accounts", "other", prefix),
        ("balances", "default", prefix),
        ("accounts", "default", prefix + "x"),
    ):
        with pytest.raises(Problem):
            CURSORS.decode(cursor, other, (str, int))
    with pytest.raises(Problem):
        Cursors(b"\x08" * 32).decode(cursor, scope, (str, int))  # the key of another ledger


@given(st.text(max_size=100))
def test_what_is_no_cursor_is_a_problem_and_no_crash(cursor: str) -> None:
    with pytest.raises(Problem):
        CURSORS.decode(cursor, ("accounts",), (str,))


def forged(place: Any, scope: tuple[Any, ...]) -> str:
    """Return a cursor made as in release 0.1.0, whose check anybody can compute from the source."""
    body = orjson.dumps(place)
    check = sha256(b"\x01" + orjson.dumps(scope) + b"\x00" + body).digest()[:8]
    return base64.urlsafe_b64encode(b"\x01" + check + body).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("place", "shape"),
    [
        ((1,), (str,)),
        (("a",), (int,)),
        ((True,), (int,)),
        ((None,), (str,)),
        ((1.0,), (int,)),
        (([1],), (int,)),
        ((2**63,), (int,)),
        ((1, 2), (int,)),
        ((), (int,)),
    ],
)
def test_a_cursor_of_another_shape_is_a_problem(place: tuple[Any, ...], shape: tuple[Any, ...]) -> None:
    """A cursor can come from a release in which the list had another order."""
    scope = ("accounts", "default")
    with pytest.raises(Problem):
        CURSORS.decode(CURSORS.encode(place, scope), scope, shape)
    with pytest.raises(Problem):
        CURSORS.decode(forged(place, scope), scope, shape)


PROXY, OTHER = "10.1.1.1", "10.1.1.2"


@pytest.mark.parametrize(
    ("setting", "peer", "headers", "address"),
    [
        ("", PROXY, [], PROXY),
        ("", "127.0.0.1", ["9.9.9.9"], "127.0.0.1"),
        ("", None, ["9.9.9.9"], "unknown"),
        ("0", "127.0.0.1", ["9.9.9.9"], "127.0.0.1"),
        ("1", PROXY, ["9.9.9.9"], "9.9.9.9"),
        ("1", PROXY, ["8.8.8.8, 9.9.9.9"], "9.9.9.9"),
        ("1", PROXY, ["8.8.8.8", "9.9.9.9"], "9.9.9.9"),
        ("1", PROXY, [], PROXY),
        ("1", PROXY, ["9.9.9.9, junk"], PROXY),
        ("2", PROXY, ["8.8.8.8, 9.9.9.9, 10.1.1.2"], "9.9.9.9"),
        ("2", PROXY, ["9.9.9.9"], "9.9.9.9"),
        ("10.0.0.0/8", PROXY, ["9.9.9.9"], "9.9.9.9"),
        ("10.0.0.0/8", PROXY, ["8.8.8.8, 9.9.9.9, 10.1.1.2"], "9.9.9.9"),
        ("10.0.0.0/8", "11.1.1.1", ["9.9.9.9"], "11.1.1.1"),
        ("fd00::/8, 10.1.1.1", "fd00::5", ["2001:db8::7"], "2001:db8::7"),
        ("127.0.0.1", "127.0.0.1", ["127.0.0.1, 9.9.9.9"], "9.9.9.9"),
    ],
)
def test_only_what_a_trusted_proxy_added_is_believed(
    setting: str, peer: str | None, headers: list[str], address: str
) -> None:
    assert find_client_address(peer, headers, parse_trusted_proxies(setting)) == address


@pytest.mark.parametrize("setting", ["33", "-1", "10.0.0.1/8", "proxy.example", "10.0.0.0/8;", "1,2.5"])
def test_a_setting_that_names_no_proxies_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="prox"):
        parse_trusted_proxies(setting)


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("9.9.9.9", "9.9.9.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:9.9.9.9", "9.9.9.9"),
        ("unknown", "unknown"),
    ],
)
def test_wrong_keys_are_counted_for_whom_an_address_is_given_to(address: str, group: str) -> None:
    assert get_address_group(address) == group


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01.5z", 1_500_000),
        ("1970-01-01T01:00:00.000001+01:00", 1),
        ("1969-12-31T23:59:59Z", -1_000_000),
        ("2026-02-29T00:00:00Z", None),
        ("2026-01-01", None),
        ("2026-01-01T00:00:00", None),
        ("2026-01-01 00:00:00Z", None),
        ("2026-01-01T00:00:60Z", None),
        ("2026-01-01T00:00:00.1234567Z", None),
        ("2026-01-01T00:00:00Z\n", None),
        ("２026-01-01T00:00:00Z", None),
        ("", None),
    ],
)
def test_times(text: str, microseconds: int | None) -> None:
    if microseconds is None:
        with pytest.raises(ValueError, match=r".+"):
            from_rfc3339(text)
    else:
        assert from_rfc3339(text) == microseconds
        assert from_rfc3339(format_rfc3339(microseconds)) == microseconds


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ([], None),
        (["wait=5"], 5.0),
        (["respond-async, wait=5"], 5.0),
        (["respond-async", "WAIT = 7"], 7.0),
        (['wait="3"; strict'], 3.0),
        (["wait=99999"], 30.0),
        (["wait=0"], 0.0),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["await=5"], None),
    ],
)
def test_preferences(prefer: list[str], seconds: float | None) -> None:
    assert wait_seconds(prefer, 30.0) == seconds


@pytest.mark.parametrize(
    ("traceparent", "is_kept"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", False),
        ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", False),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", False),
        ("", False),
    ],
)
def test_traces(traceparent: str, *, is_kept: bool) -> None:
    made = read_trace(Headers({"traceparent": traceparent, "x-correlation-id": "caller-1"}))
    assert (made.traceparent == traceparent) == is_kept
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", made.traceparent)
    assert made.correlation_id == "caller-1"
    assert read_trace(Headers({"x-correlation-id": "a b\n"})).correlation_id != "a b\n"


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_bytes_crash_the_reading_of_a_body(raw: bytes) -> None:
    with pytest.raises(Problem):
        parse_intent(raw, "default", "k")
    for is_ndjson in (True, False):
        try:
            items = parse_batch(raw, is_ndjson=is_ndjson, tenant="default")
        except Problem:
            continue
        assert all(isinstance(item, Problem) for item in items)


def test_an_intent_is_read_as_it_was_asked() -> None:
    body = {
        "type": "transfer",
        "legs": [
            {"account": "a:b", "direction": "debit", "amount_minor": 2**63 - 1, "currency": "EUR"},
            {"account": "a:c", "direction": "credit", "amount_minor": 2**63 - 1, "currency": "EUR"},
        ],
        "value_time": "1970-01-01T00:00:01Z",
        "reference": "😀",
        "metadata": {"k": "v"},
    }
    found = parse_intent(orjson.dumps(body), "default", "k")
    assert found.legs == (Leg("a:b", DEBIT, 2**63 - 1, "EUR"), Leg("a:c", CREDIT, 2**63 - 1, "EUR"))
    assert (found.value_time, found.reference, found.metadata) == (1_000_000, "😀", {"k": "v"})


def test_the_key_is_the_first_account_that_can_run_dry() -> None:
    chart = Chart(DEFAULT_CHART)
    legs = (
        Leg("external:bank", CREDIT, 3, "EUR"),
        Leg("users:1:wallet", CREDIT, 3, "EUR"),
        Leg("users:2:wallet", DEBIT, 3, "EUR"),
        Leg("users:3:wallet", DEBIT, 3, "EUR"),
    )
    assert find_drained_account(legs, chart) == "users:2:wallet"
    assert find_drained_account(legs[:2], chart) is None
    assert find_drained_account((Leg("nowhere", DEBIT, 3, "EUR"),), chart) is None
    assert make_kafka_key("default", "the-id", None) == b"the-id"
    assert make_kafka_key("default", "the-id", "users:2:wallet") == b"default/users:2:wallet"


def test_numbers_beyond_64_bits_are_written_exactly() -> None:
    assert make_json_response({"sum": 2**70}).body == b'{"sum":1180591620717411303424}'


LIST = ("accounts", "default")
PATH = "/v1/accounts"
BOOKS: Any = SimpleNamespace(cursors=CURSORS)


def test_a_link_keeps_the_filters_and_its_cursor_is_of_the_list_and_its_filters() -> None:
    """Links of an earlier release go on: the cursor's list is its name, the tenant, the path's values, the filters."""
    page = Page(BOOKS, LIST, PATH, 2, None, {"lane": 0, "outcome": None, "prefix": ""})
    assert page.link(None) is None
    link = str(page.link(("a", 7)))
    path, _, cursor = link.rpartition("&cursor=")
    assert path == "/v1/accounts?lane=0&limit=2"
    assert CURSORS.decode(cursor, (*LIST, 0, None, ""), (str, int)) == ("a", 7)
    assert Page(BOOKS, LIST, PATH, 2, cursor, {"lane": 0, "outcome": None, "prefix": ""}).begin("", -1) == ("a", 7)
    for other in (Page(BOOKS, LIST, PATH, 2, cursor, {}), Page(BOOKS, ("x",), PATH, 2, cursor, {"lane": 0})):
        with pytest.raises(Problem):
            other.begin("", -1)


@pytest.mark.parametrize(("rows", "shown", "last"), [([], [], None), ([1, 2], [1, 2], None), ([1, 2, 3], [1, 2], 2)])
def test_a_page_has_a_next_one_if_one_row_more_was_read(rows: list[int], shown: list[int], last: int | None) -> None:
    page = Page(BOOKS, LIST, PATH, 2, None, {})
    assert page.rows_max == 3
    assert page.begin("") == ("",)
    body = orjson.loads(page.make_response(rows, lambda row: {"row": row}, lambda row: (row,)).body)
    assert body["items"] == [{"row": row} for row in shown]
    assert (body["next"] is None) == (last is None)
    assert body["next"] == (None if last is None else page.link((last,)))
