"""The worker's queries: positions of its parts, intents that wait for Kafka, and parked work."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import set_json_dumps, set_json_loads

from db.binary import register
from db.books import Books, load_books, read_books_version
from db.connections import Transaction
from db.kept_connection import KeptConnection
from db.listening import ListeningConnection
from db.queries import load
from domain.chart import Chart
from domain.intents import Intent

SQL: Final = load("worker")
ROLE: Final = "ledgerline_worker"
TURN_IDLE_SECONDS_MAX: Final = 20.0
"""Postgres ends a session that asked for a turn and then says nothing for so long: its worker is frozen. The worker's
host would keep the connection open for ever, and no other worker would get the turn."""


class Position(NamedTuple):
    """Where a part stands in a partition."""

    part: str
    topic: str
    partition: int
    next_offset: int


class HandedOver(NamedTuple):
    """An intent that a capability hands over."""

    intent: Intent
    capability: str
    record: Mapping[str, Any]
    """The Avro record PaymentIntent."""
    correlation_id: str | None = None
    traceparent: str | None = None


class WaitingIntent(NamedTuple):
    """An intent that Kafka has not acknowledged yet."""

    place: int
    record: dict[str, Any]
    correlation_id: str
    """Empty if there is none."""
    traceparent: str | None


class Subject(NamedTuple):
    """Work of one subject is done in order."""

    part: str
    capability: str
    tenant: str
    subject: str


class Parked(NamedTuple):
    """Work to park. Times are microseconds since 1970."""

    of: Subject
    task: str
    topic: str
    partition: int
    message_offset: int
    message_value: bytes
    message_headers: Sequence[Sequence[str]]
    """Name, and value in hexadecimal digits, of each header."""
    reason: str
    """Empty if the work only waits for earlier work of its subject."""
    attempts: int
    parked_time: int
    due_time: int


class DueParked(NamedTuple):
    """Parked work that is to be tried again."""

    place: int
    part: str
    topic: str
    partition: int
    message_offset: int
    capability: str
    message_value: bytes
    message_headers: list[list[str]]
    attempts: int


class ParkedCount(NamedTuple):
    """How much work of a capability is parked."""

    part: str
    capability: str
    number: int


class Waiting(NamedTuple):
    """How many intents wait, and since when the oldest one does, in microseconds since 1970; None if none waits."""

    number: int
    since: int | None


def _take_turn(connection: Connection[Any], part: str) -> bool:
    asked = {"part": part, "idle": f"{TURN_IDLE_SECONDS_MAX * 1000:.0f}ms"}
    row = connection.execute(SQL["take_turn"], asked).fetchone()
    return row is not None and row[0] is True


def _prepare_worker(connection: Connection[Any]) -> None:
    set_json_dumps(orjson.dumps, connection)
    set_json_loads(orjson.loads, connection)
    register(connection)


class WorkerConnection(KeptConnection):
    """A kept connection as ledgerline_worker, for handlers and the clock. Not thread-safe."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, ROLE)

    def _prepare(self, connection: Connection[Any]) -> None:
        _prepare_worker(connection)

    def take_turn(self, part: str) -> bool:
        """Return whether this connection has the lock of a part that one worker runs at a time, or got it now.

        Postgres counts repeated locks of a session, and ends all of them with the session. Ask again within
        TURN_IDLE_SECONDS_MAX to keep the lock.
        """
        with self.statements() as connection:
            return _take_turn(connection, part)


class IntentStore(ListeningConnection):
    """The sender's queries, over one kept connection that hears each hand-over. Not thread-safe."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, ROLE)
        self._books: Books | None = None

    def _prepare(self, connection: Connection[Any]) -> None:
        _prepare_worker(connection)
        connection.execute(SQL["listen_intents"])

    def read_charts(self) -> dict[str, Chart]:
        """Return the chart of accounts of each tenant; they are loaded again if the books have changed."""
        with self.statements() as connection:
            if self._books is None or self._books.version != read_books_version(connection):
                self._books = load_books(connection)
            return self._books.charts

    def take_turn(self) -> bool:
        """Return whether this connection is the one that sends; a pause of TURN_IDLE_SECONDS_MAX gives the turn up."""
        with self.statements() as connection:
            return _take_turn(connection, "intents")

    def read_waiting(self, intents_max: int) -> list[WaitingIntent]:
        """Return the first intents that wait, in the order of their hand-over."""
        with self.statements() as connection:
            cursor = connection.cursor(row_factory=class_row(WaitingIntent))
            return cursor.execute(SQL["waiting_intents"], {"intents_max": intents_max}).fetchall()

    def count_waiting(self) -> Waiting:
        """Return how many intents wait."""
        with self.statements() as connection:
            found = connection.cursor(row_factory=class_row(Waiting)).execute(SQL["count_waiting"]).fetchone()
            assert found is not None  # noqa: S101 - an aggregate without GROUP BY has one row
            return found

    def forget(self, places: Sequence[int]) -> None:
        """Delete the intents that Kafka has acknowledged."""
        with self.statements() as connection:
            connection.execute(SQL["forget_intents"], {"places": list(places)})

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for the next hand-over to commit; return whether one did."""
        with self.statements() as connection:
            return self._hear_all(connection, seconds)


def begin_positions(transaction: Transaction, parts: Sequence[str], topic: str, partitions: Sequence[int]) -> None:
    """Add position 0 for parts that have never read these partitions."""
    asked = {"parts": list(parts), "topic": topic, "partitions": list(partitions)}
    transaction.execute(SQL["begin_positions"], asked)


def read_positions(
    transaction: Transaction, parts: Sequence[str], topic: str, partitions: Sequence[int]
) -> list[Position]:
    """Return the positions of parts in partitions of one topic."""
    asked = {"parts": list(parts), "topic": topic, "partitions": list(partitions)}
    return transaction.cursor(row_factory=class_row(Position)).execute(SQL["positions"], asked).fetchall()


def lock_positions(transaction: Transaction, parts: Sequence[str], places: Sequence[tuple[str, int]]) -> list[Position]:
    """Lock the positions of parts in (topic, partition) pairs until the commit, and return them."""
    asked = {"parts": list(parts), "topics": [topic for topic, _ in places], "partitions": [at for _, at in places]}
    return transaction.cursor(row_factory=class_row(Position)).execute(SQL["lock_positions"], asked).fetchall()


def move_positions(transaction: Transaction, parts: Sequence[str], ends: Mapping[tuple[str, int], int]) -> None:
    """Move the positions of all parts to the ends of (topic, partition) pairs. A part that is further stays."""
    transaction.execute(
        SQL["move_positions"],
        {
            "parts": list(parts),
            "topics": [topic for topic, _ in ends],
            "partitions": [partition for _, partition in ends],
            "next_offsets": list(ends.values()),
        },
    )


def read_all_positions(connection: Connection[Any]) -> list[Position]:
    """Return all positions, for people."""
    return connection.cursor(row_factory=class_row(Position)).execute(SQL["all_positions"]).fetchall()


def hand_over(transaction: Transaction, handed: Sequence[HandedOver]) -> None:
    """Store intents. The sender sends them after the commit, at least once, in order."""
    transaction.execute(
        SQL["hand_over"],
        {
            "intent_ids": [item.intent.intent_id for item in handed],
            "tenants": [item.intent.tenant for item in handed],
            "capabilities": [item.capability for item in handed],
            "records": [orjson.dumps(item.record).decode() for item in handed],
            "correlation_ids": [item.correlation_id for item in handed],
            "traceparents": [item.traceparent for item in handed],
        },
    )
    transaction.execute(SQL["notify_intents"])


def find_parked_subjects(transaction: Transaction, subjects: Iterable[Subject]) -> set[Subject]:
    """Return those of the subjects that have parked work."""
    asked = list(dict.fromkeys(subjects))
    columns = {
        "parts": [of.part for of in asked],
        "capabilities": [of.capability for of in asked],
        "tenants": [of.tenant for of in asked],
        "subjects": [of.subject for of in asked],
    }
    return set(transaction.cursor(row_factory=class_row(Subject)).execute(SQL["parked_subjects"], columns).fetchall())


def park(transaction: Transaction, work: Parked) -> None:
    """Park work. Work of the same message, part and capability that is parked already stays as it is."""
    values = work._asdict() | work.of._asdict() | {"message_headers": orjson.dumps(work.message_headers).decode()}
    transaction.execute(SQL["park"], values)


def claim_due_parked(transaction: Transaction, parts: Sequence[str], now: int) -> DueParked | None:
    """Lock and return parked work that is due at `now`, if there is some. Times are microseconds since 1970."""
    asked = {"parts": list(parts), "now": now}
    return transaction.cursor(row_factory=class_row(DueParked)).execute(SQL["due_parked"], asked).fetchone()


def forget_parked(transaction: Transaction, place: int) -> None:
    """Delete parked work that is done."""
    transaction.execute(SQL["forget_parked"], {"place": place})


def postpone_parked(transaction: Transaction, place: int, due_time: int, reason: str) -> None:
    """Set when parked work is tried again, and count the attempt."""
    transaction.execute(SQL["postpone_parked"], {"place": place, "due_time": due_time, "reason": reason})


def count_parked(transaction: Transaction) -> list[ParkedCount]:
    """Return how much work is parked, by part and capability."""
    return transaction.cursor(row_factory=class_row(ParkedCount)).execute(SQL["count_parked"]).fetchall()
