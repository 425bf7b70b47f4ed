"""Check the worker's parts by the schedules: each occurrence is posted once and in order, and each event came once."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, Final, NamedTuple

from tools.chaos.oracle.canonical import intent_id_of
from tools.chaos.oracle.model import Findings, Leg, Scheduled, Unreadable
from tools.chaos.oracle.tables import Occurrence, Schedule, SettledForSchedule, Tables
from tools.chaos.oracle.topics import Registry, TopicReader

TOPIC: Final = "schedule.events"
KEY_PREFIX: Final = "ledgerline:schedules:"
NAMESPACE: Final = "ledgerline.schedule"
# State of an occurrence -> the outcome of its last attempt. An earlier attempt was always rejected.
_OUTCOMES: Final = {"posted": "posted", "retrying": "rejected", "refused": "rejected"}

Name = tuple[str, str]
"""Tenant and id of a schedule."""
Key = tuple[str, str]
"""Tenant and idempotency key."""


class Told(NamedTuple):
    """An event of a schedule, as the topic has it."""

    version: int
    type: str
    data: dict[str, Any]
    partition: int
    may_lack_earlier: bool
    """Whether retention has deleted what came before in the partition."""


def check_schedules(
    tables: Tables,
    topics: TopicReader,
    registry: Registry,
    prefix: str,
    scheduled: Iterable[Scheduled],
    findings: Findings,
) -> None:
    """Check all schedules of a ledger at rest. `scheduled`: those whose every occurrence must be posted by now."""
    expected = {(each.tenant, each.schedule_id): each for each in scheduled}
    if not tables.has_schedules():
        for name in expected:
            findings.add("schedules", _place(name), "The ledger has no tables for it.")
        return
    schedules = {(each.tenant, each.schedule_id): each for each in tables.schedules()}
    occurrences = {
        name: list(several)
        for name, several in groupby(tables.occurrences(), lambda each: (each.tenant, each.schedule_id))
    }
    settled = tables.settled_for_schedules()
    findings.counts.update(schedules=len(schedules), occurrences=sum(map(len, occurrences.values())))
    check_settled(occurrences, settled, findings)
    for name in sorted(expected.keys() | occurrences.keys()):
        check_numbers(name, occurrences.get(name, ()), findings)
    legs = tables.originals([row.intent_id for row in settled if row.outcome == "posted"])
    for name, each in expected.items():
        check_expected(each, schedules.get(name), occurrences.get(name, ()), legs, findings)
    if topics.has(f"{prefix}{TOPIC}"):
        told = _read_events(topics, registry, prefix, tables.appended_events(), findings)
        check_events(schedules, told, expected, findings)
    elif schedules:
        findings.add("events", TOPIC, "There are schedules, and there is no such topic.")
    _check_left(tables, findings)


def _place(name: Name, number: int | None = None) -> str:
    return f"schedule {' '.join(name)}" + ("" if number is None else f" occurrence {number}")


def check_settled(
    occurrences: Mapping[Name, Sequence[Occurrence]], settled: Sequence[SettledForSchedule], findings: Findings
) -> None:
    """Check that the journal settled what the occurrences say, each attempt once, in order, and nothing else."""
    by_key: dict[Key, list[SettledForSchedule]] = {}
    for row in settled:
        by_key.setdefault((row.tenant, row.idempotency_key), []).append(row)
    for name, several in occurrences.items():
        posted = []
        for each in several:
            for attempt in range(1, each.attempts + 1):
                is_last = attempt == each.attempts
                outcome = _OUTCOMES.get(each.state, "") if is_last else "rejected"
                rows = by_key.pop((each.tenant, _make_key(each, attempt)), [])
                _check_attempt(each, attempt, outcome, rows, findings)
                if is_last and each.intent_id != intent_id_of(each.tenant, _make_key(each, attempt)):
                    findings.add("schedules", _place(name, each.number), "It has not the id of its last intent.")
                posted += [(each.number, row) for row in rows if row.outcome == "posted"]
        for (_, before), (number, row) in pairwise(posted):
            in_lane = row.seq > before.seq if row.lane == before.lane else row.moment >= before.moment
            if not in_lane:
                findings.add("schedules", _place(name, number), "It was posted before the occurrence before it.")
    for (tenant, key), rows in by_key.items():
        where = f"lane {rows[0].lane} seq {rows[0].seq}"
        findings.add("schedules", where, f"It is {rows[0].outcome}, and no occurrence of {tenant} asked for {key}.")


def _make_key(each: Occurrence, attempt: int) -> str:
    return f"{KEY_PREFIX}{each.schedule_id}:{each.number}" + (f":{attempt}" if attempt > 1 else "")


def _check_attempt(
    each: Occurrence, attempt: int, outcome: str, rows: Sequence[SettledForSchedule], findings: Findings
) -> None:
    findings.counts["occurrences posted"] += sum(row.outcome == "posted" for row in rows)
    if [row.outcome for row in rows] == [outcome]:
        return
    found = ", ".join(row.outcome for row in rows) or "nothing"
    where = _place((each.tenant, each.schedule_id), each.number)
    findings.add("schedules", where, f"It is {each.state}; of attempt {attempt} the journal has {found}.")


def check_numbers(name: Name, several: Sequence[Occurrence], findings: Findings) -> None:
    """Check that the occurrences of a schedule have the numbers 1, 2 and so on, each once."""
    numbers = [each.number for each in several]
    if numbers != list(range(1, len(numbers) + 1)):
        findings.add("schedules", _place(name), f"Its occurrences are {numbers}, not 1, 2 and so on.")


def check_expected(
    expected: Scheduled,
    schedule: Schedule | None,
    several: Sequence[Occurrence],
    legs: Mapping[tuple[str, str], tuple[str, list[Leg]]],
    findings: Findings,
) -> None:
    """Check that a schedule which a client made is over, and that each occurrence moved what the client asked."""
    where = _place((expected.tenant, expected.schedule_id))
    if schedule is None:
        findings.add("schedules", where, "It was answered, and does not exist.")
        return
    if schedule.state != "ended":
        findings.add("schedules", where, f"It is {schedule.state}, not ended.")
    states = Counter(each.state for each in several)
    if states != {"posted": expected.occurrences}:
        findings.add("schedules", where, f"Of {expected.occurrences} occurrences the table has {dict(states)}.")
    for each in several:
        _, moved = legs.get((each.tenant, each.intent_id or ""), ("", []))
        if each.state == "posted" and sorted(moved) != sorted(expected.legs):
            findings.add("schedules", f"{where} occurrence {each.number}", f"It moved {moved}.")


def _read_events(
    topics: TopicReader, registry: Registry, prefix: str, appended: set[str], findings: Findings
) -> dict[Name, list[Told]]:
    """Return the events of each schedule in the topic's order, as a read_committed reader gets them."""
    topic = f"{prefix}{TOPIC}"
    told: dict[Name, list[Told]] = {}
    seen: set[str] = set()
    for partition in topics.partitions(topic):
        low, _ = topics.bounds(topic, partition)
        for raw in topics.read(topic, partition, committed=True):
            findings.counts["events"] += 1
            where = f"{TOPIC} {partition} offset {raw.offset}"
            headers = {name: (value or b"").decode() for name, value in raw.headers}
            event_id = headers.get("ce_id", "")
            if event_id in seen:
                findings.add("events", where, "The topic has this event more than once.")
                continue
            seen.add(event_id)
            name = (headers.get("ce_tenant", ""), headers.get("ce_subject", "").removeprefix("schedules:"))
            kind = headers.get("ce_type", "")
            data = registry.decode(raw.value, kind)
            if isinstance(data, Unreadable):
                findings.add("events", where, f"The event is {data.reason}.")
                continue
            if raw.key != f"{name[0]}/schedules:{name[1]}".encode() or data.get("schedule_id") != name[1]:
                findings.add("events", where, f"Its key or its content is not of the schedule {name[1]}.")
            version = int(headers.get("ce_aggregateversion", "0"))
            event = Told(version, kind.removeprefix(f"{NAMESPACE}."), data, partition, low > 0)
            told.setdefault(name, []).append(event)
    for event_id in sorted(appended - seen):
        findings.add("events", f"event {event_id}", "The outbox has it, and the topic lacks it.")
    return told


def check_events(
    schedules: Mapping[Name, Schedule],
    told: Mapping[Name, Sequence[Told]],
    expected: Mapping[Name, Scheduled],
    findings: Findings,
) -> None:
    """Check that the events of each schedule are its versions 1 to n, in order and in one partition."""
    for name in sorted(schedules.keys() | told.keys()):
        schedule, events = schedules.get(name), told.get(name, ())
        if schedule is None:
            findings.add("events", _place(name), "There are events of it, and it does not exist.")
            continue
        versions = [event.version for event in events]
        first = versions[0] if events and events[0].may_lack_earlier else 1
        if versions != list(range(first, schedule.version + 1)):
            findings.add("events", _place(name), f"It has version {schedule.version}; its events are {versions}.")
        if len({event.partition for event in events}) > 1:
            findings.add("events", _place(name), "Its events are in several partitions.")
        if name in expected:
            _check_story(expected[name], events, findings)


def _check_story(expected: Scheduled, events: Sequence[Told], findings: Findings) -> None:
    """Check that a schedule of the load was made, posted its occurrences one after the other, and ended."""
    story: list[tuple[str, int | None]] = [("ScheduleCreated", 1)]
    for number in range(1, expected.occurrences + 1):
        story += [("OccurrenceSent", number), ("OccurrencePosted", number)]
    story.append(("ScheduleEnded", None))
    found = [(event.type, event.data.get("number")) for event in events]
    if found != story:
        at = next((at for at, pair in enumerate(zip(found, story, strict=False)) if pair[0] != pair[1]), len(found))
        detail = f"Its event {at + 1} is {found[at : at + 1]}, not {story[at : at + 1]}."
        findings.add("events", _place((expected.tenant, expected.schedule_id)), detail)


def _check_left(tables: Tables, findings: Findings) -> None:
    waiting, parked, reason = tables.left_by_worker()
    if waiting:
        findings.add("worker", "worker.intent", f"{waiting} intents still wait to be sent.")
    if parked:
        findings.add("worker", "worker.parked", f"{parked} pieces of work are parked: {reason}")
