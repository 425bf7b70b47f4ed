"""Webhooks: the API, capture, delivery to a real receiver, retries by moved time, disabling, replay and order."""

import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from db.access import Scope
from db.connections import connect
from domain.effects import Effects
from domain.webhooks import RETRY_SECONDS, Message, Secrets, make_headers, make_journal_message, parse_secret
from streams.webhooks import Capture, prepare, remove_old, settle, show_metrics, take_due
from tests.api_bench import ApiBench, problem
from tests.unit.test_webhooks import REFUSED_URLS, make_record
from tests.webhook_bench import Inbox, deliver_due, receiving, seconds_later, send

BODY = {"url": "https://hooks.example.com/in", "filters": ["ledger.*"]}
DAY_SECONDS = 86_400


@pytest.fixture
def client(api: ApiBench) -> Iterator[httpx.Client]:
    with api.client() as made:
        yield made


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with receiving() as made:
        yield made


def get_now() -> int:
    return time.time_ns() // 1000


def add(client: httpx.Client, inbox: Inbox | None = None, dsn: str = "", **changes: Any) -> dict[str, Any]:
    """Add a webhook; with an inbox, point it there, which the API would refuse."""
    answer = client.post("/v1/webhooks", json=BODY | changes, headers={"Idempotency-Key": str(uuid4())})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    if inbox is not None:
        with psycopg.connect(dsn) as connection:
            connection.execute(
                "UPDATE webhooks.endpoint SET url = %s WHERE endpoint_id = %s", (inbox.url, made["webhook_id"])
            )
    return made


def make_messages(*seqs: int, lane: int = 0, **changes: Any) -> list[Message]:
    found = [
        make_journal_message(make_record(seq=seq, lane=lane, hash=bytes([lane]) + seq.to_bytes(31), **changes))
        for seq in seqs
    ]
    return [message for message in found if message is not None]


def capture(dsn: str, messages: list[Message], now: int | None = None, by: Capture | None = None) -> Effects:
    with connect(dsn, "ledgerline_worker") as connection:
        return (by or Capture(0))(connection, messages, now or get_now())


def list_deliveries(client: httpx.Client, made: dict[str, Any], **filters: Any) -> list[dict[str, Any]]:
    answer = client.get(f"/v1/webhooks/{made['webhook_id']}/deliveries", params=filters)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


def test_a_webhook_is_added_read_changed_and_deleted(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "one"}
    first = client.post("/v1/webhooks", json=BODY, headers=headers)
    made = first.json()
    assert (first.status_code, first.headers["etag"]) == (201, '"1"')
    assert len(parse_secret(made["secret"])) == 32
    path = first.headers["location"]
    again = client.post("/v1/webhooks", json=BODY, headers=headers)
    assert (again.json(), again.headers["idempotent-replayed"]) == (made, "true")
    other = client.post("/v1/webhooks", json=BODY | {"ordered": True}, headers=headers)
    assert problem(other) == "idempotency-conflict"
    assert "secret" not in client.get(path).json()
    assert problem(client.patch(path, json={"ordered": True})) == "precondition-required"
    changed = client.patch(path, json={"ordered": True}, headers={"If-Match": '"1"'})
    assert (changed.json()["ordered"], changed.headers["etag"]) == (True, '"2"')
    stale = client.patch(path, json={"ordered": False}, headers={"If-Match": '"1"'})
    assert (problem(stale), stale.headers["etag"]) == ("precondition-failed", '"2"')
    assert problem(client.delete(path, headers={"If-Match": '"1"'})) == "precondition-failed"
    assert client.delete(path, headers={"If-Match": '"2"'}).status_code == 204
    assert problem(client.get(path)) == "webhook-not-found"


def test_webhooks_are_listed_by_pages(client: httpx.Client) -> None:
    made = {add(client)["webhook_id"] for _ in range(3)}
    first = client.get("/v1/webhooks", params={"limit": 2}).json()
    second = client.get(first["next"]).json()
    assert {item["webhook_id"] for item in first["items"] + second["items"]} == made
    assert second["next"] is None
    assert all("secret" not in item for item in first["items"])


@pytest.mark.parametrize("by", ["post", "patch"])
def test_odd_urls_are_refused_at_creation_and_at_each_change(client: httpx.Client, by: str) -> None:
    made = add(client)
    for url in REFUSED_URLS:
        if by == "post":
            answer = client.post("/v1/webhooks", json=BODY | {"url": url}, headers={"Idempotency-Key": str(uuid4())})
        else:
            path = f"/v1/webhooks/{made['webhook_id']}"
            answer = client.patch(path, json={"url": url}, headers={"If-Match": '"1"'})
        assert (answer.status_code, problem(answer)) == (422, "invalid-request"), url
        assert answer.json()["errors"][0]["pointer"] == "/url"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"filters": []}, "/filters"),
        ({"filters": ["ledger.p*"]}, "/filters"),
        ({"accounts": ["a b"]}, "/filters"),
        ({"ordered": "yes"}, "/ordered"),
        ({"secret": "whsec_x"}, "/secret"),
    ],
)
def test_other_bodies_are_refused(client: httpx.Client, body: dict[str, Any], pointer: str) -> None:
    answer = client.post("/v1/webhooks", json=BODY | body, headers={"Idempotency-Key": "x"})
    assert problem(answer) == "invalid-request"
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_scopes_and_tenants_are_kept_apart(api: ApiBench, client: httpx.Client) -> None:
    made = add(client)
    path = f"/v1/webhooks/{made['webhook_id']}"
    with api.client(api.new_key("other")) as other:
        assert other.get("/v1/webhooks").json()["items"] == []
        assert problem(other.get(path)) == "webhook-not-found"
        assert problem(other.delete(path, headers={"If-Match": '"1"'})) == "webhook-not-found"
    with api.client(api.new_key(scopes=(Scope.WEBHOOKS_READ,))) as reader:
        assert reader.get(path).status_code == 200
        for method, where in (("POST", ""), ("PATCH", path), ("DELETE", path), ("POST", f"{path}/secret")):
            answer = reader.request(method, where or "/v1/webhooks", headers={"If-Match": '"1"'})
            assert problem(answer) == "scope-missing"


def test_the_database_itself_keeps_tenants_apart(database: str, client: httpx.Client) -> None:
    add(client)
    with connect(database, "ledgerline_api") as connection:
        assert connection.execute("SELECT count(*) FROM webhooks.endpoint").fetchone() == (0,)
        connection.execute("SELECT set_config('ledgerline.tenant', 'other', TRUE)")
        assert connection.execute("SELECT count(*) FROM webhooks.endpoint").fetchone() == (0,)
        connection.execute("SELECT set_config('ledgerline.tenant', 'default', TRUE)")
        assert connection.execute("SELECT count(*) FROM webhooks.endpoint").fetchone() == (1,)


def test_what_is_wanted_is_delivered_once_and_signed(database: str, client: httpx.Client, inbox: Inbox) -> None:
    made = add(client, inbox, database, filters=["ledger.posted"], accounts=["users:42:*"])
    messages = make_messages(1) + make_messages(2, outcome="rejected") + make_messages(3, tenant="other")
    by, now = Capture(0), get_now()
    effects = capture(database, messages, now, by)
    (call,) = effects.calls
    assert (call.tenant, call.kind, call.destination) == ("default", "webhook", made["webhook_id"])
    assert capture(database, messages, now, by).calls == ()
    assert deliver_due(database, now) == (1, Effects())
    assert deliver_due(database, seconds_later(now, DAY_SECONDS)) == (0, Effects())
    (received,) = inbox.received
    assert received.body == messages[0].body
    wanted = make_headers(Secrets(parse_secret(made["secret"])), messages[0].message_id, received.body, now)
    assert {name: received.headers[name] for name in wanted} == wanted
    (delivery,) = list_deliveries(client, made)
    assert (delivery["state"], delivery["attempts"], delivery["last_status"]) == ("delivered", 1, 204)
    shown = client.get(f"/v1/webhooks/{made['webhook_id']}/deliveries/{delivery['delivery_id']}").json()
    assert json.loads(shown["body"])["type"] == "ledgerline.ledger.posted"
    assert [attempt["status"] for attempt in shown["made"]] == [204]


def test_the_capture_notices_each_change_of_endpoints(database: str, client: httpx.Client) -> None:
    by = Capture(0)
    assert capture(database, make_messages(1), by=by) == Effects()
    made = add(client)
    assert len(capture(database, make_messages(2), by=by).calls) == 1
    path, headers = f"/v1/webhooks/{made['webhook_id']}", {"If-Match": '"1"'}
    assert client.patch(path, json={"enabled": False}, headers=headers).json()["enabled"] is False
    assert capture(database, make_messages(3), by=by) == Effects()


def test_after_a_rotation_both_secrets_verify_for_a_day(database: str, client: httpx.Client, inbox: Inbox) -> None:
    made = add(client, inbox, database)
    headers = {"If-Match": '"1"', "Idempotency-Key": "r"}
    rotated = client.post(f"/v1/webhooks/{made['webhook_id']}/secret", headers=headers).json()
    again = client.post(f"/v1/webhooks/{made['webhook_id']}/secret", headers=headers)
    assert (again.json()["secret"], again.headers["idempotent-replayed"]) == (rotated["secret"], "true")
    now = get_now()
    for at, secrets in ((now, 2), (seconds_later(now, DAY_SECONDS + 1), 1)):
        capture(database, make_messages(at % 1000 + secrets * 1000), at)
        deliver_due(database, at)
        signatures = inbox.received[-1].headers["webhook-signature"].split(" ")
        texts = [rotated["secret"], made["secret"]][:secrets]
        body, message_id = inbox.received[-1].body, inbox.received[-1].headers["webhook-id"]
        assert signatures == [
            make_headers(Secrets(parse_secret(text)), message_id, body, at)["webhook-signature"] for text in texts
        ]


def test_failed_attempts_follow_the_plan_and_keep_their_id(database: str, client: httpx.Client, inbox: Inbox) -> None:
    made = add(client, inbox, database)
    inbox.status, now = 500, get_now()
    capture(database, make_messages(1), now)
    assert deliver_due(database, now)[0] == 1
    for seconds in RETRY_SECONDS[:-1]:
        assert deliver_due(database, seconds_later(now, seconds - 1))[0] == 0
        now = seconds_later(now, seconds)
        assert deliver_due(database, now)[0] == 1
    (delivery,) = list_deliveries(client, made, state="waiting")
    assert (delivery["attempts"], delivery["last_status"]) == (9, 500)
    now = seconds_later(now, RETRY_SECONDS[-1])
    assert deliver_due(database, now)[0] == 1
    (delivery,) = list_deliveries(client, made)
    assert (delivery["state"], delivery["attempts"]) == ("failed", 10)
    assert len({received.headers["webhook-id"] for received in inbox.received}) == 1
    assert len({received.headers["webhook-timestamp"] for received in inbox.received}) == 10
    shown = client.get(f"/v1/webhooks/{made['webhook_id']}/deliveries/{delivery['delivery_id']}").json()
    assert len(shown["made"]) == 10
    assert len(shown["made"][0]["excerpt"]) == 256


def test_an_endpoint_may_ask_for_patience(database: str, client: httpx.Client, inbox: Inbox) -> None:
    add(client, inbox, database)
    inbox.status, inbox.headers, now = 503, {"Retry-After": "120"}, get_now()
    capture(database, make_messages(1), now)
    assert deliver_due(database, now)[0] == 1
    assert deliver_due(database, seconds_later(now, 119))[0] == 0
    assert deliver_due(database, seconds_later(now, 120))[0] == 1


@pytest.mark.parametrize("why", ["gone", "days"])
def test_a_dead_endpoint_is_disabled_with_a_notice(database: str, client: httpx.Client, inbox: Inbox, why: str) -> None:
    made = add(client, inbox, database)
    inbox.status, now = 410 if why == "gone" else 500, get_now()
    capture(database, make_messages(1, 2), now)
    effects = deliver_due(database, now)[1]
    if why == "days":
        assert effects.events == ()
        now = seconds_later(now, 5 * DAY_SECONDS)
        effects = deliver_due(database, now)[1]
    (event,) = effects.events
    assert (event.family, event.type, event.version) == ("notification", "WebhookDisabled", 1)
    assert event.data["endpoint_id"] == made["webhook_id"]
    shown = client.get(f"/v1/webhooks/{made['webhook_id']}")
    assert (shown.json()["enabled"], shown.json()["disabled_because"]) == (False, event.data["reason"])
    assert deliver_due(database, seconds_later(now, DAY_SECONDS))[0] == 0
    with connect(database, "ledgerline_worker") as connection:
        assert show_metrics(connection).disabled == 1
    inbox.status = 204
    headers = {"If-Match": shown.headers["etag"]}
    client.patch(f"/v1/webhooks/{made['webhook_id']}", json={"enabled": True}, headers=headers)
    assert deliver_due(database, seconds_later(now, DAY_SECONDS))[0] == 2
    assert {delivery["state"] for delivery in list_deliveries(client, made)} == {"delivered"}


def test_an_ordered_endpoint_gets_each_lane_in_order(database: str, client: httpx.Client, inbox: Inbox) -> None:
    made = add(client, inbox, database, ordered=True)
    now = get_now()
    effects = capture(database, [*make_messages(1, 2, 3), *make_messages(1, lane=1)], now)
    assert len(effects.calls) == 2
    inbox.status = 500
    assert deliver_due(database, now) == (2, Effects())
    assert len(list_deliveries(client, made, state="held")) == 2
    assert capture(database, make_messages(4), now).calls == ()
    inbox.status, now = 204, seconds_later(now, 5)
    attempts = []
    for _ in range(5):
        number, effects = deliver_due(database, now)
        attempts.append((number, len(effects.calls)))
    assert attempts == [(2, 1), (1, 1), (1, 1), (1, 0), (0, 0)]
    order = [(event["lane"], event["sequence"]) for event in (json.loads(one.body) for one in inbox.received[2:])]
    assert [seq for lane, seq in order if lane == "0"] == ["1", "2", "3", "4"]


def test_a_dead_endpoint_takes_nobody_elses_turn(database: str, client: httpx.Client, inbox: Inbox) -> None:
    dead, alive = add(client), add(client, inbox, database)
    with psycopg.connect(database) as connection:
        connection.execute(
            "UPDATE webhooks.endpoint SET url = 'http://127.0.0.1:1/' WHERE endpoint_id = %s", (dead["webhook_id"],)
        )
    now = get_now()
    capture(database, make_messages(*range(30)), now)
    for at in range(3):
        deliver_due(database, seconds_later(now, at))
    assert len(inbox.received) == 30
    assert {one["state"] for one in list_deliveries(client, alive)} == {"delivered"}
    assert {one["last_error"] for one in list_deliveries(client, dead)} == {"ConnectError"}


def test_a_claim_is_for_one_worker_and_an_answer_counts_once(database: str, client: httpx.Client, inbox: Inbox) -> None:
    made = add(client, inbox, database)
    now = get_now()
    capture(database, make_messages(1), now)
    with connect(database, "ledgerline_worker") as one, connect(database, "ledgerline_worker") as two:
        claimed = take_due(one, now)
        assert (len(claimed), take_due(two, now)) == (1, [])
        one.commit()
        assert take_due(two, now) == []
        answer = send(prepare(one, [(claimed[0].tenant, claimed[0].delivery_id)], now)[0], now)
        settle(one, [answer], now)
        one.commit()
        assert settle(two, [answer], now) == Effects()
        two.commit()
    (delivery,) = list_deliveries(client, made)
    assert (delivery["state"], delivery["attempts"]) == ("delivered", 1)


def test_deliveries_are_replayed_by_id_and_by_time(database: str, client: httpx.Client, inbox: Inbox) -> None:
    made = add(client, inbox, database)
    path, now = f"/v1/webhooks/{made['webhook_id']}", get_now()
    capture(database, make_messages(1, 2, 3), now)
    deliver_due(database, now)
    old = list_deliveries(client, made)[0]
    again = client.post(f"{path}/deliveries/{old['delivery_id']}/replay", headers={"Idempotency-Key": "again"})
    assert (again.status_code, again.json()["replay"], again.json()["state"]) == (202, "again", "waiting")
    repeat = client.post(f"{path}/deliveries/{old['delivery_id']}/replay", headers={"Idempotency-Key": "again"})
    assert repeat.json()["delivery_id"] == again.json()["delivery_id"]
    assert deliver_due(database, get_now())[0] == 1
    assert inbox.received[-1].headers["webhook-id"] == old["message_id"]
    period = {"since": "2026-01-01T00:00:00Z", "until": "2099-01-01T00:00:00Z"}
    answer = client.post(f"{path}/replay", json=period, headers={"Idempotency-Key": "period"})
    assert (answer.status_code, answer.json()) == (202, {"deliveries": 3})
    assert deliver_due(database, get_now())[0] == 3
    nothing = {"since": "2020-01-01T00:00:00Z", "until": "2021-01-01T00:00:00Z"}
    assert client.post(f"{path}/replay", json=nothing, headers={"Idempotency-Key": "n"}).json() == {"deliveries": 0}
    unknown = client.post(f"{path}/deliveries/{uuid4()}/replay", headers={"Idempotency-Key": "u"})
    assert problem(unknown) == "delivery-not-found"


def test_a_test_event_comes_whatever_the_filters(database: str, client: httpx.Client, inbox: Inbox) -> None:
    made = add(client, inbox, database, filters=["nothing.*"])
    path = f"/v1/webhooks/{made['webhook_id']}/test"
    answers = [client.post(path, headers={"Idempotency-Key": "t"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert deliver_due(database, get_now())[0] == 1
    assert json.loads(inbox.received[0].body)["type"] == "ledgerline.webhook.test"


def test_deliveries_are_listed_by_pages_and_pruned(database: str, client: httpx.Client, inbox: Inbox) -> None:
    made = add(client, inbox, database)
    now = get_now()
    capture(database, make_messages(*range(5)), now)
    path = f"/v1/webhooks/{made['webhook_id']}/deliveries"
    first = client.get(path, params={"limit": 3, "state": "waiting"}).json()
    second = client.get(first["next"]).json()
    assert (len(first["items"]), len(second["items"]), second["next"]) == (3, 2, None)
    assert list_deliveries(client, made, type="ledgerline.ledger.rejected") == []
    with connect(database, "ledgerline_worker") as connection:
        assert remove_old(connection, seconds_later(now, 31 * DAY_SECONDS), 30) == 0
        connection.commit()
        deliver_due(database, now)
        assert remove_old(connection, seconds_later(now, 29 * DAY_SECONDS), 30) == 0
        assert remove_old(connection, seconds_later(now, 31 * DAY_SECONDS), 30) == 5
    assert list_deliveries(client, made) == []


def test_an_endpoint_id_is_a_uuid(client: httpx.Client) -> None:
    assert UUID(add(client)["webhook_id"]).version == 4
