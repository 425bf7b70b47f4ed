"""The state of one ledger at a glance, from every part that can be reached; a part that is down becomes one sentence.

The sources are run.json of the supervisor, the lanes and totals in Postgres, and the ends of the topics in Kafka.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cli.addresses import find_addresses
from db.connections import TRANSIENT
from db.operations import (
    BreakCount,
    Checkpoint,
    LaneProgress,
    Which,
    count_breaks,
    count_outcomes,
    count_quarantined,
    find_last_checkpoint,
    list_lane_progress,
    open_glance,
)
from domain.errors import LedgerlineError
from domain.outcomes import Outcome
from domain.topics import Topics
from ops.embedded.open_parts import open_parts
from ops.run_state import RunState
from runtime.kafka import Kafka
from runtime.kafka_positions import make_admin_client, read_topic_state
from runtime.positions import PositionReader, Positions, compute_lag
from runtime.settings import Settings

READY_CONDITIONS: Final = frozenset({"ready"})


@dataclass(frozen=True)
class ProcessStatus:
    """A part or a service that the supervisor runs."""

    name: str
    kind: str
    """`part` or `service`."""
    condition: str
    restarts: int
    pid: int | None
    where: str
    """Its URL or port."""
    last_exit: str | None


@dataclass(frozen=True)
class LaneStatus:
    """The progress of one lane; a value that could not be read is None, and so is a lag that depends on it."""

    lane: int
    received: int | None
    """The next offset of payments.intents in Kafka."""
    next_offset: int | None
    """The next offset to post, by Postgres."""
    posting_lag: int | None
    journalled: int | None
    relayed: int | None
    relay_lag: int | None
    reconciled: int | None
    reconciliation_lag: int | None
    audited: int | None
    audit_lag: int | None
    booked_time: int | None
    """The time of the last row, in microseconds since 1970; None before the first row."""


@dataclass
class StatusReport:
    """All that `ledgerline status` shows; `attention` is empty if all is well."""

    phase: str
    started_time: str | None
    api_url: str | None
    processes: list[ProcessStatus] = field(default_factory=list)
    lanes: list[LaneStatus] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    dead_letters_untried: int | None = None
    breaks: list[BreakCount] = field(default_factory=list)
    checkpoint: Checkpoint | None = None
    open: str | None = None
    """A sentence that names the parts of this run that require no login; by itself this needs no attention."""
    attention: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Books:
    """The data from Postgres."""

    lanes: list[LaneProgress]
    totals: dict[str, int]
    untried: int
    breaks: list[BreakCount]
    checkpoint: Checkpoint | None


@dataclass(frozen=True)
class _Streams:
    """The data from Kafka."""

    intents_topic_id: str
    positions: Positions


def look(settings: Settings, state: RunState | None) -> StatusReport:
    """Read every part once; a part that is down raises no error but becomes a sentence in `attention`."""
    addresses = find_addresses(settings, state)
    phase = state.phase if state is not None else "not run from here"
    report = StatusReport(phase, state.started_time if state else None, addresses.api_url)
    report.processes = _list_processes(state)
    report.open = open_parts(state)
    report.attention += _process_troubles(report.processes)
    books: _Books | None = None
    streams: _Streams | None = None
    if addresses.postgres_dsn is not None:
        with _note_trouble(report.attention):
            books = _read_books(addresses.postgres_dsn)
    if addresses.kafka is not None:
        with _note_trouble(report.attention):
            streams = _read_streams(addresses.kafka, Topics(settings.topic_prefix))
    if addresses.postgres_dsn is None or addresses.kafka is None:
        report.attention.append("The parts are not up yet: look again in a moment.")
    report.lanes = _list_lanes(books, streams)
    if books is not None:
        report.totals = books.totals
        report.dead_letters_untried = books.untried
        report.breaks = books.breaks
        report.checkpoint = books.checkpoint
        report.attention += _list_ledger_troubles(books, streams)
    return report


@contextmanager
def _note_trouble(attention: list[str]) -> Iterator[None]:
    """Turn an error of a part that is down into a sentence in `attention`, and go on."""
    try:
        yield
    except LedgerlineError as error:
        attention.append(str(error))
    except TRANSIENT as error:
        attention.append(f"Postgres does not answer ({str(error).strip().splitlines()[0]}).")


def _read_books(dsn: str) -> _Books:
    with open_glance(dsn) as connection:
        counts = count_outcomes(connection)
        return _Books(
            list_lane_progress(connection),
            {outcome.value: counts.get(outcome.value, 0) for outcome in reversed(Outcome)},
            count_quarantined(connection, which=Which.UNTRIED),
            count_breaks(connection),
            find_last_checkpoint(connection),
        )


def _read_streams(kafka: Kafka, topics: Topics) -> _Streams:
    topic_id = read_topic_state(make_admin_client(kafka), topics.intents).topic_id
    with closing(PositionReader(kafka, topics.intents, topics.journal)) as reader:
        return _Streams(topic_id, reader.read())


def _list_processes(state: RunState | None) -> list[ProcessStatus]:
    if state is None:
        return []
    parts = [
        ProcessStatus(part.name, "part", part.condition, part.restarts, part.pid, f"port {part.port}", None)
        for part in state.parts
    ]
    services = [
        ProcessStatus(
            service.name if service.instance == 0 else f"{service.name} {service.instance}",
            "service",
            service.condition,
            service.restarts,
            service.pid,
            service.url,
            service.last_exit,
        )
        for service in state.services
    ]
    return parts + services


def _process_troubles(processes: Sequence[ProcessStatus]) -> list[str]:
    return [
        f"The {process.kind} {process.name} is {process.condition}"
        + (f"; it last ended with {process.last_exit}." if process.last_exit else ".")
        for process in processes
        if process.condition not in READY_CONDITIONS
    ]


def _list_lanes(books: _Books | None, streams: _Streams | None) -> list[LaneStatus]:
    """Return the lanes of Postgres and Kafka, in order; a lane without rows stands at the topic's first offset."""
    posted = {row.lane: row for row in books.lanes} if books else {}
    low, high = (streams.positions.first, streams.positions.received) if streams else ({}, {})
    found = []
    for lane in sorted(posted.keys() | high.keys()):
        row = posted.get(lane)
        next_offset, journalled, reconciled, audited = (
            (None, None, None, None) if books is None else (low.get(lane, 0), 0, 0, 0)
        )
        if row is not None:
            next_offset, journalled = row.next_offset, row.next_seq
            reconciled, audited = row.reconciled_seq or 0, row.audited_seq or 0
        received = high.get(lane)
        relayed = streams.positions.relayed.get(lane, 0) if streams else None
        found.append(
            LaneStatus(
                lane,
                received,
                next_offset,
                compute_lag(received, next_offset),
                journalled,
                relayed,
                compute_lag(journalled, relayed),
                reconciled,
                compute_lag(journalled, reconciled),
                audited,
                compute_lag(journalled, audited),
                row.booked_time if row is not None and row.next_seq else None,
            )
        )
    return found


def _list_ledger_troubles(books: _Books, streams: _Streams | None) -> list[str]:
    troubles = []
    unresolved = sum(found.breaks for found in books.breaks)
    if unresolved:
        told = "1 break is" if unresolved == 1 else f"{unresolved} breaks are"
        troubles.append(f"{told} not resolved: run `ledgerline reconcile` and `ledgerline audit verify`.")
    for row in books.lanes:
        if streams is not None and row.topic_id != streams.intents_topic_id:
            troubles.append(
                f"Lane {row.lane} was posted from another topic {row.topic} than the one that Kafka has now:"
                " restore the old topic, or start a new ledger on the new one."
            )
            break
    return troubles


def format_age(microseconds: int, now: datetime | None = None) -> str:
    """Return for people how long ago a time was: `3 s ago`, `5 min ago`, else the date."""
    moment = datetime.fromtimestamp(microseconds / 1e6, UTC)
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s ago"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min ago"
    return f"{moment:%Y-%m-%d %H:%M} UTC"
