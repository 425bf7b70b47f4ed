"""The reactor: the one fenced agent that brings events and outcomes to the capabilities' handlers.

A handler's state, its effects and the positions of the parts commit in one transaction. Work whose handler fails is
parked with its reason, and later work of the same subject waits for it; nobody else waits. Parked work is tried again
after growing pauses, or when an operator says so (`ledgerline parked retry`).

A part is a kind of work with positions of its own: `reactions` reads the topics of events, `outcomes` the journal. A
part that moves to another process goes on from its positions. See docs/decisions/0030-shared-parts.md.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import structlog

from db import worker as db
from db.connections import TRANSIENT, Transaction
from domain.effects import Effects
from domain.errors import Outage
from runtime.faults import Fault, cause_no_fault
from streams.batches import FenceLost, Message, PartitionBatch
from streams.effects import Caused, EffectStore
from streams.worker_metrics import DONE, PARKED, PARKED_NOW

logger: Final = structlog.get_logger(__name__)

PAUSE_SECONDS: Final = 5
PAUSE_FACTOR: Final = 4
PAUSE_SECONDS_MAX: Final = 3600
RETRIED_MAX: Final = 100
REASON_CHARACTERS_MAX: Final = 500
COUNT_SECONDS: Final = 5.0
MICROSECONDS: Final = 1_000_000


_Place = tuple[str, int]
"""A topic and a partition."""


class Task(NamedTuple):
    """One handler's work for one message."""

    capability: str
    name: str
    """What people call the work: the event's type, or `outcome`."""
    tenant: str
    subject: str
    run: Callable[[Transaction], Effects]
    correlation_id: str | None = None
    traceparent: str | None = None


class Part(Protocol):
    """A kind of work: which topics it reads, and which tasks it makes of a message."""

    name: str
    topics: tuple[str, ...]
    is_joint: bool
    """Whether `join_tasks` makes one task of many messages. If that fails, each message gets its own task."""

    def wants(self, headers: Sequence[tuple[str, bytes | None]]) -> bool:
        """Return whether `make_tasks` may make a task of a message with these headers."""

    def make_tasks(self, message: Message) -> list[Task]:
        """Return the tasks of a message, in the order of the table. It never fails: `run` fails instead."""

    def join_tasks(self, messages: Sequence[Message]) -> Task:
        """Return the task of many messages. Only called if the part is joint; no later work waits for its subject."""

    def chore(self, transaction: Transaction, now: int) -> None:
        """Do a chore, about once a second."""


@dataclass(frozen=True)
class _Work:
    """A task with what is needed to park it."""

    part: str
    task: Task
    message: Message

    @property
    def of(self) -> db.Subject:
        return db.Subject(self.part, self.task.capability, self.task.tenant, self.task.subject)


class Reactor:
    """A BatchHandler for all topics of the parts of one process."""

    def __init__(
        self,
        store: db.WorkerConnection,
        parts: Sequence[Part],
        effects: EffectStore,
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
        fault: Fault = cause_no_fault,
    ) -> None:
        """`now` returns microseconds since 1970."""
        self._fault = fault
        self._store = store
        self._parts = {part.name: part for part in parts}
        self._wants = [part.wants for part in parts]
        self._effects = effects
        self._now = now
        self._count_due = 0.0
        self._skipped: dict[_Place, tuple[int, int]] = {}
        """The stored position, and the end of the unwanted records behind it."""

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that the parts read, each once."""
        return tuple(dict.fromkeys(topic for part in self._parts.values() for topic in part.topics))

    def wants(self, headers: Sequence[tuple[str, bytes | None]]) -> bool:
        """Return whether any part may want a message with these headers."""
        for wants in self._wants:  # noqa: SIM110 - a generator costs more (streams.outcomes)
            if wants(headers):
                return True
        return False

    def positions(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return where the part that is furthest behind stands in each partition."""
        parts, wanted = self._readers(topic), list(partitions)
        self._skipped.clear()
        with self._store.transaction() as transaction:
            db.begin_positions(transaction, parts, topic, wanted)
            found = db.read_positions(transaction, parts, topic, wanted)
        return {at: min(row.next_offset for row in found if row.partition == at) for at in wanted}

    def handle(self, batch: list[PartitionBatch]) -> None:
        """Do the work of a batch. If a handler fails, do the batch again and park what fails.

        A batch of unwanted records only moves no position: `idle` does it, as a transaction costs more than the batch.
        """
        if not any(part.messages for part in batch):
            self._skip(batch)
            return
        try:
            done = self._handle(batch, self._run_together, is_joint=True)
        except (*TRANSIENT, Outage, FenceLost):
            raise
        except Exception:  # noqa: BLE001 - whatever a handler raises: the next attempt finds out which one it was
            done = self._handle(batch, self._run_apart, is_joint=False)
        for work in done:
            DONE.labels(work.part, work.task.capability).inc()

    def idle(self) -> None:
        """Move positions past unwanted records, try parked work again that is due, and show how much is parked."""
        if self._skipped:
            self._move_skipped()
        for _ in range(RETRIED_MAX):
            if not self.retry_parked():
                break
        with self._store.transaction() as transaction:
            for part in self._parts.values():
                part.chore(transaction, self._now())
        if time.monotonic() >= self._count_due:
            self._count_due = time.monotonic() + COUNT_SECONDS
            self._show_parked()

    def retry_parked(self) -> bool:
        """Try one piece of parked work that is due; return False if none is."""
        now = self._now()
        try:
            with self._store.transaction() as transaction:
                due = db.claim_due_parked(transaction, list(self._parts), now)
                if due is None:
                    return False
                self._run_parked(transaction, due)
                db.forget_parked(transaction, due.place)
        except (*TRANSIENT, Outage):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is the reason for its next pause
            assert due is not None  # noqa: S101 - only the handler of a claimed piece gets here
            logger.warning("parked work failed again", part=due.part, capability=due.capability, place=due.place)
            with self._store.transaction() as transaction:
                due_time = now + compute_pause_seconds(due.attempts + 1) * MICROSECONDS
                db.postpone_parked(transaction, due.place, due_time, make_reason(error))
        else:
            DONE.labels(due.part, due.capability).inc()
        return True

    def _skip(self, batch: list[PartitionBatch]) -> None:
        for part in batch:
            stored, _ = self._skipped.get((part.topic, part.partition), (part.expected_offset, 0))
            self._skipped[part.topic, part.partition] = (stored, part.end_offset)

    def _move_skipped(self) -> None:
        skipped, self._skipped = self._skipped, {}
        with self._store.transaction() as transaction:
            self._lock(transaction, {place: stored for place, (stored, _) in skipped.items()})
            db.move_positions(transaction, list(self._parts), {place: end for place, (_, end) in skipped.items()})

    def _readers(self, topic: str) -> list[str]:
        return [part.name for part in self._parts.values() if topic in part.topics]

    def _handle(
        self,
        batch: list[PartitionBatch],
        run: Callable[[Transaction, list[_Work]], list[_Work]],
        *,
        is_joint: bool,
    ) -> list[_Work]:
        """Run the batch's work in one transaction, which moves the positions; return the work that is done."""
        expected = {(part.topic, part.partition): part.expected_offset for part in batch}
        stored = {place: self._skipped.get(place, (offset, 0))[0] for place, offset in expected.items()}
        with self._store.transaction() as transaction:
            stands = self._lock(transaction, stored)
            done = run(transaction, self._list_work(batch, stands, is_joint=is_joint))
            ends = {(part.topic, part.partition): part.end_offset for part in batch}
            db.move_positions(transaction, list(self._parts), ends)
            # `run` has stored its effects: positions are locked already, so moving them waits for nobody.
            self._fault("handled")
        for place in stored:
            self._skipped.pop(place, None)
        self._fault("moved")
        return done

    def _lock(self, transaction: Transaction, stored: Mapping[_Place, int]) -> dict[tuple[str, str, int], int]:
        """Lock and return the position of each part, topic and partition.

        Raise FenceLost if the part that is furthest behind does not stand at the `stored` position.
        """
        rows = db.lock_positions(transaction, list(self._parts), list(stored))
        stands = {(row.part, row.topic, row.partition): row.next_offset for row in rows}
        for (topic, partition), expected in stored.items():
            found = min(stands.get((name, topic, partition), 0) for name in self._readers(topic))
            if found != expected:
                raise FenceLost(f"partition {partition} of {topic} stands at {found}, not at {expected}")
        return stands

    def _list_work(
        self, batch: list[PartitionBatch], stands: dict[tuple[str, str, int], int], *, is_joint: bool
    ) -> list[_Work]:
        """Return the work of a batch, part by part."""
        work = []
        for part in self._parts.values():
            messages = [
                message
                for each in batch
                if each.topic in part.topics
                for message in each.messages
                if message.offset >= stands[part.name, each.topic, each.partition] and part.wants(message.headers)
            ]
            if is_joint and part.is_joint and messages:
                work.append(_Work(part.name, part.join_tasks(messages), messages[0]))
            else:
                work += [_Work(part.name, task, message) for message in messages for task in part.make_tasks(message)]
        return work

    def _run_together(self, transaction: Transaction, several: list[_Work]) -> list[_Work]:
        """Run all work, and store the effects of all at once. Any failure fails the batch."""
        waiting = db.find_parked_subjects(transaction, (work.of for work in several)) if several else set()
        caused, done = [], []
        for work in several:
            if work.of in waiting:
                self._park(transaction, work, "")
                continue
            caused.append(self._run(transaction, work))
            done.append(work)
        self._effects.store(transaction, caused)
        return done

    def _run_apart(self, transaction: Transaction, several: list[_Work]) -> list[_Work]:
        """Run each piece of work in a savepoint of its own, and park what fails."""
        waiting = db.find_parked_subjects(transaction, (work.of for work in several))
        done = []
        for work in several:
            if work.of in waiting:
                self._park(transaction, work, "")
                continue
            try:
                with transaction.transaction():
                    self._effects.store(transaction, [self._run(transaction, work)])
            except (*TRANSIENT, Outage):
                raise
            except Exception as error:  # noqa: BLE001 - whatever a handler raises is the reason for parking
                # The text may name people or amounts, so the log has only the class.
                logger.error(  # noqa: TRY400 - as above
                    "work parked", part=work.part, capability=work.task.capability, task=work.task.name,
                    topic=work.message.topic, partition=work.message.partition, offset=work.message.offset,
                    error=type(error).__name__,
                )  # fmt: skip
                self._park(transaction, work, make_reason(error))
                waiting.add(work.of)
            else:
                done.append(work)
        return done

    def _run(self, transaction: Transaction, work: _Work) -> Caused:
        task = work.task
        return Caused(task.capability, task.run(transaction), task.correlation_id, task.traceparent)

    def _run_parked(self, transaction: Transaction, due: db.DueParked) -> None:
        message = Message(
            due.topic, due.partition, due.message_offset, 0, None, due.message_value,
            [(name, bytes.fromhex(value)) for name, value in due.message_headers],
        )  # fmt: skip
        tasks = [task for task in self._parts[due.part].make_tasks(message) if task.capability == due.capability]
        # A release that has no such handler any more has nothing to do.
        works = [_Work(due.part, task, message) for task in tasks]
        self._effects.store(transaction, [self._run(transaction, work) for work in works])

    def _park(self, transaction: Transaction, work: _Work, reason: str) -> None:
        """Park work. Work that only waits is due at once: it is tried as soon as the work before it is done."""
        now, message = self._now(), work.message
        db.park(
            transaction,
            db.Parked(
                work.of, work.task.name, message.topic, message.partition, message.offset, message.value or b"",
                [[name, (value or b"").hex()] for name, value in message.headers], reason,
                attempts=1 if reason else 0, parked_time=now,
                due_time=now + compute_pause_seconds(1) * MICROSECONDS if reason else now,
            ),
        )  # fmt: skip
        PARKED.labels(work.part, work.task.capability).inc()

    def _show_parked(self) -> None:
        with self._store.transaction() as transaction:
            counts = db.count_parked(transaction)
        for part in self._parts:
            PARKED_NOW.labels(part).set(sum(row.number for row in counts if row.part == part))


def compute_pause_seconds(attempts: int) -> int:
    """Return the pause after this many failed attempts: 5 s, 20 s, 80 s, and so on up to an hour."""
    factor: int = PAUSE_FACTOR ** min(attempts - 1, 10)
    return min(PAUSE_SECONDS * factor, PAUSE_SECONDS_MAX)


def make_reason(error: Exception) -> str:
    """Return why work failed, for people."""
    return f"{type(error).__name__}: {error}"[:REASON_CHARACTERS_MAX]


def get_header(message: Message, name: str) -> str | None:
    """Return a header's text; None if the message lacks it, or its bytes are no UTF-8."""
    value: Any = next((value for given, value in message.headers if given == name), None)
    try:
        return value.decode() if value is not None else None
    except UnicodeDecodeError:
        return None
