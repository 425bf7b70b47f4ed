"""Garbage of a bounded size, sent to every route: never a 500, each error problem+json, bounded time and memory."""

import http.client
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import orjson
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from starlette.routing import Mount, Route

from api.app import create_app
from api.console import routes as console
from api.problems import MEDIA_TYPE
from api.server import make_configuration
from domain.topics import Topics
from runtime.settings import Settings
from tests.api_bench import ApiBench

EXAMPLES: Final = 100
PROCESSOR_SECONDS_MAX: Final = 2.0
ANSWER_SECONDS_MAX: Final = 20.0
GROWTH_BYTES_MAX: Final = 64_000_000
BODY_BYTES_MAX: Final = 300_000
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW")
LEG: Final = {"account": "users:1:wallet", "direction": "debit", "amount_minor": 1, "currency": "EUR"}


POST_HEADERS: Final = [(b"Content-Type", b"application/json"), (b"Idempotency-Key", b"k")]


class Garbage(NamedTuple):
    """One request, as bytes."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


def _scalars() -> st.SearchStrategy[Any]:
    numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    return st.none() | st.booleans() | numbers | st.text(max_size=30) | st.just("x" * 10_000)


def _json() -> st.SearchStrategy[Any]:
    return st.recursive(
        _scalars(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
        max_leaves=12,
    )


def _almost_intents() -> st.SearchStrategy[Any]:
    """Generate intents in which any member may have any value."""
    wrong_leg = st.fixed_dictionaries({name: st.just(value) | _json() for name, value in LEG.items()})
    legs = st.lists(wrong_leg | _json(), max_size=4) | st.just([{}] * 50_000) | st.just([LEG] * 2_000) | _json()
    members = {"type": st.just("transfer") | _json(), "legs": legs}
    more = {name: _json() for name in ("value_time", "reference", "metadata", "reverses", "idempotency_key", "odd")}
    return st.fixed_dictionaries(members, optional=more)


def _dumps(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # a lone surrogate or a number beyond 64 bits; repr keeps both
        return repr(value).encode("utf-8", "surrogatepass")


def _bodies() -> st.SearchStrategy[bytes]:
    documents = (_almost_intents() | st.lists(_almost_intents(), max_size=3) | _json()).map(_dumps)
    shapes = [
        b"[" * 200_000,
        b'{"a":' * 40_000,
        b"{}\n" * 90_000,
        b"1" * 200_000,
        b'"' + b"\\u0000" * 40_000 + b'"',
        b"",
    ]
    return (documents | st.sampled_from(shapes) | st.binary(max_size=300)).filter(
        lambda body: len(body) <= BODY_BYTES_MAX
    )


_TEXTS: Final = st.sampled_from(
    ["0", "-1", "9" * 40, "1e9", "nan", "00000000-0000-0000-0000-000000000000", "a:b", "..", "%", "\x00", "x" * 4_000]
) | st.text(max_size=20).filter(lambda text: text.isprintable() or not text)
_NAMES: Final = st.sampled_from(
    ["limit", "cursor", "currency", "since", "until", "by", "state", "kind", "lane", "seq", "prefix", "partition",
     "offset", "account_class", "wait", "odd"]
)  # fmt: skip
_HEADERS: Final = st.sampled_from(
    [b"Idempotency-Key", b"Content-Type", b"Prefer", b"X-Correlation-Id", b"traceparent", b"If-Match", b"Accept",
     b"X-Forwarded-For", b"Range", b"Content-Encoding", b"Cookie"]
)  # fmt: skip
_VALUES: Final = st.sampled_from(
    [b"k", b"k" * 300, b"application/json", b"application/x-ndjson", b"wait=-1", b"wait=nan", b"\xff\xfe", b"", b"*",
     b"00-" + b"f" * 32 + b"-" + b"f" * 16 + b"-01", b"bytes=0-0,9-", b"gzip"]
)  # fmt: skip


def _garbage(routes: list[tuple[str, str]]) -> st.SearchStrategy[Garbage]:
    @st.composite
    def make(draw: st.DrawFn) -> Garbage:
        method, template = draw(st.sampled_from(routes))
        if draw(st.integers(0, 9)) == 0:
            method = draw(st.sampled_from(METHODS))
        path = re.sub(r"\{[^}]*\}", lambda _: quote(draw(_TEXTS), safe=draw(st.sampled_from(["", "/:"]))), template)
        query = draw(st.lists(st.tuples(_NAMES, _TEXTS), max_size=4))
        target = path + ("?" if query else "") + "&".join(f"{name}={quote(text)}" for name, text in query)
        headers = draw(st.lists(st.tuples(_HEADERS, _VALUES), max_size=4))
        if draw(st.booleans()):
            headers += [(b"Content-Type", b"application/json"), (b"Idempotency-Key", draw(st.uuids()).hex.encode())]
        body = draw(_bodies()) if method in ("POST", "PUT", "PATCH") or draw(st.integers(0, 9)) == 0 else b""
        return Garbage(method, target.encode(), headers, body)

    return make()


def _routes(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield each method and path of the application."""
    configuration = make_configuration(
        settings,
        kafka=settings.make_kafka(str(settings.kafka_bootstrap)),
        dsn="",
        registry=settings.make_registry(str(settings.registry_url)),
        topics=Topics(settings.topic_prefix),
    )
    app = create_app(configuration)
    for path, methods in app.openapi()["paths"].items():
        yield from ((method.upper(), path) for method in methods)
    for route in (*app.routes, *console.router.routes):
        if isinstance(route, Route):
            yield from ((method, route.path) for method in sorted(route.methods or ()))
        elif isinstance(route, Mount):
            yield "GET", f"{route.path}/{{path}}"


def _highest_bytes(*, reset: bool = False) -> int:
    """Return the peak memory in bytes of this process since the last reset; the API is a thread of this process."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def _send(api: ApiBench, key: str, garbage: Garbage) -> tuple[int, str, bytes]:
    address = urlsplit(api.url)
    lines = [b"%s %s HTTP/1.1" % (garbage.method.encode(), garbage.target), b"Host: a", b"Connection: close"]
    lines += [b"Authorization: Bearer " + key.encode(), b"Content-Length: %d" % len(garbage.body)]
    lines += [b"%s: %s" % header for header in garbage.headers]
    with socket.create_connection((str(address.hostname), address.port or 80), timeout=ANSWER_SECONDS_MAX) as client:
        client.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + garbage.body)
        answer = http.client.HTTPResponse(client, method=garbage.method)
        answer.begin()
        return answer.status, answer.headers.get("content-type", ""), answer.read()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel does not tell the highest memory")
def test_garbage_costs_little_and_is_told_what_is_wrong(api: ApiBench, settings: Settings) -> None:
    # An event stream ends only when its viewer leaves, so it is tried only with a key that is refused.
    routes = sorted({route for route in _routes(settings) if route[1] != "/v1/console/events"})
    assert len(routes) > 20
    routes += [("GET", "/v1/console/events"), ("GET", "/{path}"), ("POST", "/v1/{path}")]
    key, wrong_key = api.new_key(), "llk_wrong"
    statuses: set[int] = set()

    @bounded(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(_garbage(routes))
    @example(Garbage("POST", b"/v1/intents", POST_HEADERS, orjson.dumps({"type": "transfer", "legs": [{}] * 90_000})))
    @example(Garbage("POST", b"/v1/intents", POST_HEADERS, b"[" * 200_000))
    @example(Garbage("GET", b"/v1/accounts?cursor=x", [], b""))
    def hold(garbage: Garbage) -> None:
        is_stream = b"/v1/console/events" in garbage.target
        before = _highest_bytes(reset=True)
        began = time.process_time()
        status, media_type, body = _send(api, wrong_key if is_stream else key, garbage)
        assert time.process_time() - began < PROCESSOR_SECONDS_MAX
        assert _highest_bytes() - before < GROWTH_BYTES_MAX
        statuses.add(status)
        assert status < 500, body
        if status >= 400:
            assert media_type == MEDIA_TYPE
            if garbage.method != "HEAD":
                document = orjson.loads(body)
                assert document["status"] == status
                assert document["detail"]

    hold()
    assert {200, 400, 404, 405, 413, 422} <= statuses
