"""The oracle's checks of the worker's parts: an honest ledger passes, and each damage is named."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from domain.topics import Topics
from runtime.settings import Settings
from streams.capabilities import CAPABILITIES
from tests.api_bench import ApiBench, running_api, top_up
from tests.worker_bench import WorkerBench
from tools.chaos.oracle import Leg, Place, Scheduled, judge
from tools.chaos.oracle.canonical import intent_id_of
from tools.chaos.oracle.model import Findings, Verdict
from tools.chaos.oracle.schedules import Told, check_events, check_expected, check_numbers, check_settled
from tools.chaos.oracle.tables import Occurrence, Schedule, SettledForSchedule

NAME = ("default", "s")
LEGS = (Leg("external:bank", "debit", 5, "EUR"), Leg("users:1:wallet", "credit", 5, "EUR"))
EXPECTED = Scheduled(*NAME, 2, LEGS)


def key(number: int, attempt: int = 1) -> str:
    return f"ledgerline:schedules:s:{number}" + (f":{attempt}" if attempt > 1 else "")


def occurrence(number: int, state: str = "posted", attempts: int = 1) -> Occurrence:
    intent_id = intent_id_of("default", key(number, attempts)) if attempts else None
    return Occurrence(*NAME, number, state, attempts, intent_id)


def settled(number: int, outcome: str = "posted", attempt: int = 1, **changes: Any) -> SettledForSchedule:
    idempotency_key = key(number, attempt)
    row = SettledForSchedule(
        "default", idempotency_key, intent_id_of("default", idempotency_key), outcome, 0, number * 10 + attempt, number
    )
    return row._replace(**changes)


def story(*skipped: int) -> list[Told]:
    told = [("ScheduleCreated", 1), ("OccurrenceSent", 1), ("OccurrencePosted", 1), ("OccurrenceSent", 2)]
    told += [("OccurrencePosted", 2), ("ScheduleEnded", 0)]
    events = [Told(at, kind, {"number": number or None}, 3, False) for at, (kind, number) in enumerate(told, 1)]
    return [event for event in events if event.version not in skipped]


@pytest.mark.parametrize(
    ("occurrences", "rows", "told"),
    [
        ([occurrence(1), occurrence(2)], [settled(1), settled(2)], ""),
        ([occurrence(1, "skipped", 0), occurrence(2)], [settled(2)], ""),
        ([occurrence(1, "posted", 2)], [settled(1, "rejected"), settled(1, attempt=2)], ""),
        ([occurrence(1, "refused", 2)], [settled(1, "rejected"), settled(1, "rejected", 2)], ""),
        ([occurrence(1), occurrence(2)], [settled(1)], "2 It is posted; of attempt 1 the journal has nothing."),
        ([occurrence(1)], [settled(1), settled(1, seq=99)], "of attempt 1 the journal has posted, posted."),
        ([occurrence(1)], [settled(1, "rejected")], "of attempt 1 the journal has rejected."),
        ([occurrence(1, "posted", 2)], [settled(1), settled(1, attempt=2)], "of attempt 1 the journal has posted."),
        ([occurrence(1, "refused")], [settled(1)], "It is refused; of attempt 1 the journal has posted."),
        ([occurrence(1, "sent")], [settled(1)], "It is sent; of attempt 1 the journal has posted."),
        ([occurrence(1)], [settled(1), settled(2)], "It is posted, and no occurrence of default asked for"),
        ([occurrence(1, "skipped", 0)], [settled(1)], "no occurrence of default asked for"),
        ([occurrence(1)], [settled(1, attempt=2), settled(1)], "no occurrence of default asked for"),
        ([occurrence(1), occurrence(2)], [settled(1, seq=50), settled(2)], "before the occurrence before it."),
        ([occurrence(1), occurrence(2)], [settled(1, lane=1, moment=9), settled(2)], "It was posted before the"),
        ([occurrence(1)._replace(intent_id="other")], [settled(1)], "It has not the id of its last intent."),
    ],
)  # fmt: skip
def test_the_journal_must_have_what_the_occurrences_say(
    occurrences: list[Occurrence], rows: list[SettledForSchedule], told: str
) -> None:
    findings = Findings()
    check_settled({NAME: occurrences}, rows, findings)
    assert found(findings, "schedules") == bool(told)
    assert told in shown(findings)


@pytest.mark.parametrize("numbers", [(2,), (1, 3), (1, 1, 2)])
def test_numbers_that_are_missing_or_doubled_are_named(numbers: tuple[int, ...]) -> None:
    findings = Findings()
    check_numbers(NAME, [occurrence(number) for number in numbers], findings)
    assert found(findings, "schedules") == 1


@pytest.mark.parametrize(
    ("schedule", "occurrences", "told"),
    [
        (Schedule(*NAME, 6, "ended"), [occurrence(1), occurrence(2)], ""),
        (None, [], "It was answered, and does not exist."),
        (Schedule(*NAME, 6, "active"), [occurrence(1), occurrence(2)], "It is active, not ended."),
        (Schedule(*NAME, 6, "ended"), [occurrence(1)], "Of 2 occurrences the table has {'posted': 1}."),
        (Schedule(*NAME, 6, "ended"), [occurrence(1), occurrence(2, "refused")], "Of 2 occurrences the table has"),
        (Schedule(*NAME, 6, "ended"), [occurrence(1), occurrence(2)._replace(intent_id="x")], "It moved []."),
    ],
)
def test_a_schedule_of_the_load_must_be_over(
    schedule: Schedule | None, occurrences: list[Occurrence], told: str
) -> None:
    findings = Findings()
    moved = {("default", intent_id_of("default", key(number))): ("transfer", list(LEGS)) for number in (1, 2)}
    check_expected(EXPECTED, schedule, occurrences, moved, findings)
    assert found(findings, "schedules") == bool(told)
    assert told in shown(findings)


@pytest.mark.parametrize(
    ("events", "told"),
    [
        (story(), ""),
        (story(6), "It has version 6; its events are [1, 2, 3, 4, 5]."),
        (story(3), "its events are [1, 2, 4, 5, 6]."),
        ([*story()[1:], story()[0]], "its events are [2, 3, 4, 5, 6, 1]."),
        ([*story(), story()[-1]], "its events are [1, 2, 3, 4, 5, 6, 6]."),
        ([], "its events are []."),
        ([event._replace(partition=event.version % 2) for event in story()], "Its events are in several partitions."),
        (
            [event._replace(data={"number": 1}) if event.version == 4 else event for event in story()],
            "Its event 4 is [('OccurrenceSent', 1)], not [('OccurrenceSent', 2)].",
        ),
    ],
)
def test_the_events_of_a_schedule_must_be_its_versions(events: list[Told], told: str) -> None:
    findings = Findings()
    check_events({NAME: Schedule(*NAME, 6, "ended")}, {NAME: events}, {NAME: EXPECTED}, findings)
    assert bool(found(findings, "events")) == bool(told)
    assert told in shown(findings)


def test_events_that_retention_deleted_are_not_missed_and_strangers_are_named() -> None:
    findings = Findings()
    kept = [event._replace(may_lack_earlier=True) for event in story(1, 2, 3)]
    check_events({NAME: Schedule(*NAME, 6, "ended")}, {NAME: kept}, {}, findings)
    assert not findings.faults
    check_events({}, {NAME: kept}, {}, findings)
    assert "There are events of it, and it does not exist." in shown(findings)


def found(findings: Findings, check: str) -> int:
    assert findings.counts.keys() <= {f"faults {check}", "occurrences posted"}
    return findings.counts[f"faults {check}"]


def shown(findings: Findings) -> str:
    return "\n".join(f"{fault.where} {fault.detail}" for fault in findings.faults)


# ------------------------------------------------------------------------------------------------- on real parts


class Scheduling:
    """A ledger whose two schedules are over: their occurrences are posted and told, and each event is published."""

    def __init__(self, api: ApiBench, bench: WorkerBench) -> None:
        self.api = api
        self.bench = bench
        self.scheduled = [self._make(f"s-{number}") for number in range(2)]
        reactor, clock = bench.make_reactor(), bench.make_clock()
        bench.publish()
        while self.bench.ask("SELECT 1 FROM schedules.schedule WHERE state = 'active'"):
            clock.round()
            bench.send()
            bench.books.post()
            bench.books.relay_all()
            bench.publish()
            bench.react(reactor)
        bench.publish()

    def _make(self, name: str) -> Scheduled:
        start = (datetime.now(UTC) - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%S")
        body = {"name": name, "start": start, "rrule": "FREQ=MINUTELY;COUNT=3", "intent": top_up(1, 5)}
        with self.api.client() as client:
            answer = client.post("/v1/schedules", json=body, headers={"Idempotency-Key": name})
        assert answer.status_code == 201, answer.text
        return Scheduled("default", answer.json()["schedule_id"], 3, LEGS)

    def judge(self) -> Verdict:
        """Return what the oracle says."""
        books = self.bench.books
        place = Place(books.kafka.bootstrap, books.dsn, books.registry.url, self.bench.topics.prefix)
        return judge(place, (), (), self.scheduled)

    def list_faults(self) -> set[tuple[str, str]]:
        """Return check and detail of each fault that the oracle finds."""
        return {(fault.check, fault.detail) for fault in self.judge().faults}

    def execute(self, statement: str, *parameters: Any) -> None:
        """Run a statement as the owner, without triggers."""
        with psycopg.connect(self.bench.dsn) as admin:
            admin.execute("SET session_replication_role = replica")
            admin.execute(statement, parameters)  # type: ignore[arg-type]

    def copy_event(self) -> None:
        """Send the first event of the topic once more, as a relay without transactions might."""
        topic = self.bench.topics.name_events("schedule")
        producer = Producer(self.bench.books.kafka.make_client_options())
        for partition in range(2):
            for message in self.bench.read(topic, partition, 0)[0][:1]:
                headers = [(name, value) for name, value in message.headers]
                producer.produce(topic, message.value, message.key, partition, headers=headers)
        assert producer.flush(30) == 0


@pytest.fixture
def scheduling(settings: Settings, topics: Topics) -> Iterator[Scheduling]:
    bench = WorkerBench(settings, topics, CAPABILITIES)
    bench.now = int(datetime.now(UTC).timestamp() * 1_000_000)
    with running_api(settings) as api:
        made = Scheduling(api, bench)
    yield made
    bench.close()


def test_what_the_worker_did_holds(scheduling: Scheduling) -> None:
    verdict = scheduling.judge()
    assert verdict.faults == ()
    assert verdict.counts["schedules"] == 2


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE schedules.occurrence SET state = 'refused' WHERE number = 2", "It is refused; of attempt 1"),
        ("DELETE FROM schedules.occurrence WHERE number = 2", "Its occurrences are [1, 3], not 1, 2 and so on."),
        ("DELETE FROM schedules.schedule", "It was answered, and does not exist."),
        ("UPDATE schedules.schedule SET version = version + 1", "It has version 9; its events are [1, 2, 3"),
        (
            "INSERT INTO outbox.event SELECT lane, seq + 99, gen_random_uuid(), family, type, tenant, aggregate,"
            " version + 99, value, NULL, NULL, 0, 0 FROM outbox.event WHERE type = 'ScheduleEnded'",
            "The outbox has it, and the topic lacks it.",
        ),
        (
            "INSERT INTO worker.intent (intent_id, tenant, capability, record, handed_over_time)"
            " VALUES (gen_random_uuid(), 'default', 'schedules', '{}', 0)",
            "1 intents still wait to be sent.",
        ),
        (
            "INSERT INTO worker.parked (part, topic, partition, message_offset, capability, task, tenant, subject,"
            " message_value, message_headers, reason, attempts, parked_time, due_time)"
            " VALUES ('outcomes', 't', 0, 0, 'schedules', 'posted', 'default', 's', '', '[]', 'Why', 1, 0, 0)",
            "1 pieces of work are parked: Why",
        ),
    ],
)
def test_damage_of_what_the_worker_keeps_is_named(scheduling: Scheduling, damage: str, told: str) -> None:
    scheduling.execute(damage)
    faults = scheduling.list_faults()
    assert any(told in detail for _, detail in faults), faults
    assert {check for check, _ in faults} <= {"schedules", "events", "worker"}


def test_an_event_that_came_twice_is_named(scheduling: Scheduling) -> None:
    scheduling.copy_event()
    assert ("events", "The topic has this event more than once.") in scheduling.list_faults()
