"""The console's feed over HTTP: who gets it, what it costs, and how it ends."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx

from db.access import Scope
from runtime.settings import Settings
from runtime.shares import Bounds, ShareBounds
from tests.api_bench import ApiBench, problem, running_api
from tests.posting_bench import PostingBench, eventually
from tests.proving_bench import ProvingBench

STOP_SECONDS_MAX = 5.0


def events(answer: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Yield (name, content) of each event, without the comments."""
    name = ""
    for line in answer.iter_lines():
        kind, _, rest = line.partition(":")
        if kind == "event":
            name = rest.strip()
        elif kind == "data":
            yield name, json.loads(rest)


def test_hello_comes_once_and_then_pulses(api: ApiBench, bench: PostingBench) -> None:
    bench.send(bench.transfer("k", "external:bank", "users:1:wallet", 5), 1)
    with api.client() as client, client.stream("GET", "/v1/console/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        found = events(answer)
        name, hello = next(found)
        assert (name, hello["tenant"], hello["is_operator"]) == ("hello", "default", True)
        name, pulse = next(found)
        assert (name, pulse["totals"]["received"], pulse["totals"]["unposted"]) == ("pulse", 1, 1)
        assert pulse["latency"] is None
        assert bench.post() == ["posted"]
        later = next(pulse for name, pulse in found if pulse["totals"]["unposted"] == 0)
        assert later["totals"]["unreconciled"] == 1
    metrics = httpx.get(f"{api.url}/metrics").text
    timed = [line for line in metrics.splitlines() if line.startswith("ledgerline_api_request_seconds")]
    assert [line for line in timed if "/v1/console/events" in line] == []


def test_sums_of_money_are_of_the_tenant_or_for_operators(api: ApiBench, proving: ProvingBench) -> None:
    for tenant in ("default", "other"):
        api.new_key(tenant)
        row = (0, tenant, "EUR", "asset", 500, 500)
        proving.tamper("INSERT INTO reconciliation.total VALUES (%s, %s, %s, %s, %s, %s)", *row)

    def sums(scopes: tuple[Scope, ...]) -> list[str]:
        key = api.new_key("other", scopes)
        with api.client(key) as client, client.stream("GET", "/v1/console/events") as answer:
            pulse = next(content for name, content in events(answer) if name == "pulse")
            return [item["debits"] for item in pulse["symmetry"]]

    assert sums((Scope.JOURNAL_READ,)) == ["5.00"]
    assert sums((Scope.JOURNAL_READ, Scope.OPERATIONS_READ)) == ["10.00"]
    with api.client(api.new_key("other", (Scope.OPERATIONS_READ,))) as client:
        assert problem(client.get("/v1/console/events")) == "scope-missing"


def test_many_viewers_cost_what_one_costs_and_nobody_costs_nothing(settings: Settings) -> None:
    shares = ShareBounds(event_streams=Bounds(8, 6, 5))
    with running_api(settings, shares=shares) as api:
        watch_together(api)


def bound_of_refusal(api: ApiBench, tenant: str) -> tuple[int, str]:
    """Return the status and the bound with which one more viewer, with a new key of the tenant, is refused."""
    with api.client(api.new_key(tenant)) as client:
        answer = client.get("/v1/console/events")
        assert problem(answer) == "share-used-up"
        return answer.status_code, answer.json()["bound"]


def watch_together(api: ApiBench) -> None:
    """Watch with five viewers of one key, which is its share; another key and another tenant have places left."""
    key = api.new_key()
    assert api.parts is not None
    watched = api.parts.feed
    pulses = 0

    def watch() -> None:
        nonlocal pulses
        with api.client(key) as client, client.stream("GET", "/v1/console/events") as answer:
            for name, _ in events(answer):
                pulses += name == "pulse"
                if enough.is_set():
                    return

    enough = threading.Event()
    viewers = [threading.Thread(target=watch) for _ in range(5)]
    for viewer in viewers:
        viewer.start()
    eventually(lambda: watched.viewers == 5, "all watch")
    with api.client(key) as client:
        refused = client.get("/v1/console/events")
        assert problem(refused) == "share-used-up"
        assert (refused.status_code, refused.json()["bound"]) == (429, "key")
        assert int(refused.headers["retry-after"]) >= 1
    with api.client() as client, client.stream("GET", "/v1/console/events") as one_more:
        kept = events(one_more)  # the name keeps the generator: if it were dropped, it would close its stream
        assert next(kept)[0] == "hello"
        assert bound_of_refusal(api, "default") == (429, "tenant")
        with api.client(api.new_key("other")) as theirs, theirs.stream("GET", "/v1/console/events") as answer:
            assert next(events(answer))[0] == "hello"
    eventually(lambda: pulses >= 15, "they get pulses")
    assert watched.looks <= pulses / 5 + 5
    enough.set()
    for viewer in viewers:
        viewer.join(30)
    eventually(lambda: watched.viewers == 0 and watched._task is None, "nobody watches")
    looks = watched.looks
    assert not threading.Event().wait(2.5)  # long enough for two looks
    assert watched.looks == looks


def test_open_streams_do_not_hold_up_the_end(settings: Settings) -> None:
    ended: list[str] = []
    with running_api(settings) as api:
        key = api.new_key()

        def watch() -> None:
            with api.client(key) as client, client.stream("GET", "/v1/console/events") as answer:
                ended.extend(name for name, _ in events(answer))

        viewers = [threading.Thread(target=watch) for _ in range(3)]
        for viewer in viewers:
            viewer.start()
        eventually(lambda: api.parts.feed.viewers == 3, "they watch")  # type: ignore[union-attr]
        told = time.monotonic()
    assert time.monotonic() - told < STOP_SECONDS_MAX
    for viewer in viewers:
        viewer.join(10)
        assert not viewer.is_alive()
    assert ended.count("hello") == 3
