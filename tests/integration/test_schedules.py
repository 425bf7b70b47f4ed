"""Schedules over the real API and Postgres; the clock's and the outcomes' handlers are called as plain functions."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest

from db.connections import Transaction, connect
from db.outbox import append
from domain.effects import Effects, Settled, split_own_key
from domain.intents import Intent
from domain.outcomes import Outcome
from producers.event_encoding import EventEncoders
from runtime.settings import Settings
from streams.schedules import DUE, note_outcome
from tests.api_bench import ApiBench, post, problem, top_up
from tests.schedules_bench import add_due_schedules, count_sent, measure_acts

DAY = 86_400_000_000
CLAIMED_MAX = 1000


def now() -> int:
    return time.time_ns() // 1000


def tomorrow(days: int = 1) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT09:00:00")


def body(**changes: Any) -> dict[str, Any]:
    return {"name": "Rent", "start": tomorrow(), "rrule": "FREQ=DAILY", "intent": top_up(1, 500), **changes}


def make(client: httpx.Client, key: str = "k", **changes: Any) -> httpx.Response:
    return client.post("/v1/schedules", json=body(**changes), headers={"Idempotency-Key": key})


def act_on(client: httpx.Client, schedule: dict[str, Any], action: str, tag: str | None = None) -> httpx.Response:
    headers = {"If-Match": tag or f'"{schedule["version"]}"'}
    return client.post(f"/v1/schedules/{schedule['schedule_id']}/{action}", headers=headers)


def read(client: httpx.Client, schedule: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/schedules/{schedule['schedule_id']}").json()
    return found


def list_states(client: httpx.Client, schedule: dict[str, Any]) -> list[tuple[int, str]]:
    items = client.get(f"/v1/schedules/{schedule['schedule_id']}/occurrences").json()["items"]
    return [(item["number"], item["state"]) for item in reversed(items)]


class Worker:
    """The worker's side: each call commits a transaction with its events, and keeps the intents."""

    def __init__(self, dsn: str, encoders: EventEncoders) -> None:
        self.dsn = dsn
        self.encoders = encoders
        self.intents: list[Intent] = []

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with connect(self.dsn, "ledgerline_worker") as connection:
            yield connection

    def keep(self, transaction: Transaction, effects: Effects) -> int:
        self.intents += effects.intents
        append(transaction, [self.encoders.encode(event) for event in effects.events])
        return len(effects.intents)

    def tick(self, moment: int) -> int:
        """Claim and act once; return the number of intents."""
        with self.transaction() as transaction:
            items = DUE.claim(transaction, moment, CLAIMED_MAX)
            assert all(DUE.get_due_time(item) <= moment for item in items)
            return self.keep(transaction, DUE.act_all(transaction, items, moment)) if items else 0

    def tell(self, intent: Intent, outcome: Outcome = Outcome.POSTED, reason: str = "", moment: int = 0) -> None:
        found = split_own_key(intent.idempotency_key)
        assert found is not None
        settled = Settled(
            intent.tenant, intent.intent_id, found[1], outcome, reason, "", intent.legs, {}, moment or now()
        )
        with self.transaction() as transaction:
            effects = note_outcome(transaction, settled)
            if effects.events:
                self.keep(transaction, effects)


@pytest.fixture
def worker(api: ApiBench, settings: Settings) -> Worker:
    return Worker(api.dsn, EventEncoders.find_registered(settings.make_registry(str(settings.registry_url))))


def read_events(api: ApiBench) -> list[tuple[int, str]]:
    with psycopg.connect(api.dsn) as admin:
        return admin.execute("SELECT version, type FROM outbox.event ORDER BY aggregate, version").fetchall()


def test_a_schedule_is_made_once_and_shown(api: ApiBench) -> None:
    with api.client() as client:
        first = make(client, zone="Europe/Berlin")
        assert first.status_code == 201, first.text
        again = make(client, zone="Europe/Berlin")
        assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
        assert again.json() == first.json()
        assert problem(make(client, name="Other", zone="Europe/Berlin")) == "idempotency-conflict"
        found = client.get(first.headers["location"])
        assert found.json() == first.json()
        assert found.headers["etag"] == first.headers["etag"] == '"1"'
        assert found.json()["current"]["number"] == 1
    assert read_events(api) == [(1, "ScheduleCreated")]


REFUSED = [
    ({"rrule": "FREQ=SECONDLY"}, "/rrule"),
    ({"rrule": "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=31"}, "/rrule"),
    ({"zone": "Mars/Olympus"}, "/zone"),
    ({"zone": "../etc/passwd"}, "/zone"),
    ({"start": "2027-02-30T09:00"}, "/start"),
    ({"start": "2020-01-01T09:00"}, "/start"),
    ({"start": "2027-01-01T09:00Z"}, "/start"),
    ({"missed": "often"}, "/missed"),
    ({"retry": {"times": 11}}, "/retry/times"),
    ({"intent": {"type": "reversal", "reverses": "6b1f3f1e-5f0b-5d0e-8a51-0d1a53c3a1b2"}}, "/intent/type"),
    ({"intent": top_up(1, 5, value_time="2027-01-01T00:00:00Z")}, "/intent/value_time"),
    ({"intent": top_up(1, "5")}, "/intent/legs/0/amount_minor"),
    ({"colour": "red"}, "/colour"),
]


@pytest.mark.parametrize(("changes", "pointer"), REFUSED)
def test_what_cannot_be_scheduled_is_refused_with_its_place(
    api: ApiBench, changes: dict[str, Any], pointer: str
) -> None:
    with api.client() as client:
        answer = make(client, **changes)
        assert problem(answer) == "invalid-request"
        assert answer.json()["errors"][0]["pointer"] == pointer
        empty = client.post("/v1/schedules", json={}, headers={"Idempotency-Key": "empty"})
        assert {fault["pointer"] for fault in empty.json()["errors"]} == {"/intent", "/start"}
        assert problem(make(client, intent={**top_up(1, 5), "legs": top_up(1, 5)["legs"][:1]})) == "no-legs"


def test_own_keys_are_refused_from_clients(api: ApiBench) -> None:
    with api.client() as client:
        key = "ledgerline:schedules:1:1"
        assert problem(post(client, key, top_up(1, 5))) == "idempotency-key-invalid"
        items = client.post("/v1/intents/batch", json=[{"idempotency_key": key, **top_up(1, 5)}]).json()["items"]
        assert items[0]["status"] == 400
        assert problem(make(client, key)) == "idempotency-key-invalid"


def test_changes_need_the_version_that_was_read(api: ApiBench) -> None:
    with api.client() as client:
        made = make(client).json()
        url = f"/v1/schedules/{made['schedule_id']}"
        assert problem(client.post(f"{url}/pause")) == "precondition-required"
        assert problem(client.patch(url, json={"name": "x"})) == "precondition-required"
        assert act_on(client, made, "pause").json()["state"] == "paused"
        assert problem(act_on(client, made, "end")) == "precondition-failed"
        assert problem(act_on(client, made, "pause", "*")) == "schedule-state"
        changed = client.patch(url, json={"name": "New", "rrule": "FREQ=MONTHLY"}, headers={"If-Match": '"2"'})
        assert (changed.json()["name"], changed.json()["version"]) == ("New", 3)
        assert act_on(client, changed.json(), "resume").json()["state"] == "active"
        assert act_on(client, made, "end", "*").json()["state"] == "ended"
    kinds = ["ScheduleCreated", "SchedulePaused", "ScheduleChanged", "ScheduleResumed", "ScheduleEnded"]
    assert read_events(api) == list(enumerate(kinds, start=1))


def test_no_tenant_sees_the_schedules_of_another(api: ApiBench) -> None:
    with api.client() as mine, api.client(api.new_key("other")) as theirs:
        made = make(mine).json()
        assert theirs.get("/v1/schedules").json()["items"] == []
        assert problem(theirs.get(f"/v1/schedules/{made['schedule_id']}")) == "schedule-not-found"
        assert problem(theirs.get(f"/v1/schedules/{made['schedule_id']}/occurrences")) == "schedule-not-found"
        assert problem(act_on(theirs, made, "end")) == "schedule-not-found"
    with connect(api.dsn, "ledgerline_api") as connection:  # without a tenant, and with a wrong one
        for tenant in ("", "other"):
            connection.execute("SELECT set_config('ledgerline.tenant', %s, true)", [tenant])
            assert connection.execute("SELECT count(*) FROM schedules.schedule").fetchone() == (0,)


def test_lists_go_on_by_cursor_and_are_filtered(api: ApiBench) -> None:
    with api.client() as client:
        made = [make(client, f"k{number}", start=tomorrow(number + 1)).json() for number in range(5)]
        act_on(client, made[0], "end")
        page = client.get("/v1/schedules", params={"state": "active", "limit": 3}).json()
        rest = client.get(page["next"]).json()
        ids = [item["schedule_id"] for item in page["items"] + rest["items"]]
        assert ids == [item["schedule_id"] for item in reversed(made[1:])]
        assert rest["next"] is None
        soon = client.get("/v1/schedules", params={"due_before": f"{tomorrow(2)[:10]}T10:00:00Z"}).json()["items"]
        assert [item["schedule_id"] for item in soon] == [made[1]["schedule_id"]]


def test_after_a_week_of_downtime_each_occurrence_is_sent_once_in_order(api: ApiBench, worker: Worker) -> None:
    with api.client() as client:
        made = make(client, rrule="FREQ=DAILY;COUNT=7").json()
        later = now() + 9 * DAY
        assert worker.tick(now()) == 0
        for number in range(7):
            assert worker.tick(later) == 1
            assert worker.tick(later) == 0  # the next waits for the outcome
            worker.tell(worker.intents[number])
            worker.tell(worker.intents[number])  # a second time changes nothing
        assert worker.tick(later) == 0
        assert [intent.idempotency_key for intent in worker.intents] == [
            f"ledgerline:schedules:{made['schedule_id']}:{number}" for number in range(1, 8)
        ]
        times = [intent.value_time or 0 for intent in worker.intents]
        assert [after - before for before, after in pairwise(times)] == [DAY] * 6
        assert list_states(client, made) == [(number, "posted") for number in range(1, 8)]
        assert (read(client, made)["state"], read(client, made)["end_reason"]) == ("ended", "completed")
    assert [version for version, _ in read_events(api)] == list(range(1, 17))


def test_two_clocks_at_once_send_each_once(api: ApiBench, worker: Worker) -> None:
    with api.client() as client:
        for number in range(40):
            make(client, f"k{number}", rrule=None)
    later = now() + 3 * DAY
    with ThreadPoolExecutor(2) as clocks:
        done = list(clocks.map(lambda _: worker.tick(later), range(6)))
    assert sum(done) == 40
    assert len({intent.intent_id for intent in worker.intents}) == 40


def test_a_refused_occurrence_is_seen_and_tried_again_by_rule(api: ApiBench, worker: Worker) -> None:
    with api.client() as client:
        made = make(client, rrule="FREQ=MONTHLY", retry={"times": 1, "pause_seconds": 60}).json()
        moment = now() + 2 * DAY
        assert worker.tick(moment) == 1
        worker.tell(worker.intents[0], Outcome.REJECTED, "insufficient_funds", moment)
        shown = client.get(f"/v1/schedules/{made['schedule_id']}/occurrences").json()["items"][0]
        assert (shown["state"], shown["reason"], shown["attempts"]) == ("retrying", "insufficient_funds", 1)
        assert shown["next_attempt_time"] is not None
        assert worker.tick(moment + 59_000_000) == 0
        assert worker.tick(moment + 60_000_000) == 1
        assert worker.intents[1].idempotency_key == f"{worker.intents[0].idempotency_key}:2"
        assert UUID(str(worker.intents[1].intent_id)) != worker.intents[0].intent_id
        worker.tell(worker.intents[1], Outcome.REJECTED, "insufficient_funds", moment)
        assert list_states(client, made) == [(1, "refused")]
        assert read(client, made)["current"]["number"] == 2


def test_what_fell_into_a_pause_is_skipped(api: ApiBench, worker: Worker) -> None:
    with api.client() as client:
        made = make(client, missed="last", rrule="FREQ=DAILY;COUNT=5").json()
        paused = act_on(client, made, "pause").json()
        assert worker.tick(now() + 9 * DAY) == 0
        act_on(client, paused, "resume")
        assert worker.tick(now() + 3 * DAY) == 1
        assert list_states(client, made)[-1][1] == "sent"
        assert {state for _, state in list_states(client, made)[:-1]} == {"skipped"}


def test_a_schedule_that_fails_is_deferred_with_its_reason(api: ApiBench, worker: Worker) -> None:
    with api.client() as client:
        made = make(client).json()
        moment = now() + 2 * DAY
        with worker.transaction() as transaction:
            (item,) = DUE.claim(transaction, moment, 10)
            DUE.defer(transaction, item, moment + DAY, "a bug")
        assert worker.tick(moment) == 0
        assert read(client, made)["trouble"] == "a bug"
        assert worker.tick(moment + DAY) == 1
        assert read(client, made)["trouble"] is None


@pytest.mark.parametrize("number", [2_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_many_schedules_that_are_due_in_one_minute_are_each_handed_over_once(api: ApiBench, number: int) -> None:
    begin = now()
    add_due_schedules(api.dsn, number, begin)
    count, seconds = measure_acts(api.dsn, begin + 60_000_000)
    assert (count, count_sent(api.dsn)) == (number, number)
    assert seconds < 60
