"""A replay from its beginning to its end: the frame of the books, the lanes, quarantined bytes and checkpoints."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from db import replay as db
from db.frame import Frame, has_frame, import_frame
from db.migrate import migrate
from db.posting import PostingStore
from domain.topics import Topics
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from streams.posting.published import Published, read_last_published
from streams.posting.source import describe_source
from streams.proof.replay.beside import restore_checkpoints, restore_quarantine
from streams.proof.replay.catch_up import CatchUp
from streams.proof.replay.frame import restore_frame
from streams.proof.replay.lane_replay import ReplayRefused, list_partitions
from streams.proof.replay.load import PROCESSES_MAX, LoadJob, load

Progress = Callable[[str, int, int], None]
"""Called with the name of the step, the amount done, and the total amount."""

STEPS: Final = ("load", "indexes", "check", "replay")


@dataclass(frozen=True)
class Report:
    """The result of a replay."""

    records: int
    """Records that were replayed in this call."""
    lanes: int
    seconds: float
    loaded: bool
    """Whether the ledger was empty or partly loaded, so that the fast load was used."""
    checkpoints: int
    """Checkpoints of audit that were restored."""
    quarantined_without_bytes: int
    """Quarantined rows whose bytes payments.quarantine no longer has."""

    @property
    def records_per_second(self) -> int:
        """Return how many records were replayed per second, from the start of the call to the last commit."""
        return int(self.records / self.seconds) if self.seconds else 0


@dataclass(frozen=True)
class Origin:
    """The sources that a replay reads."""

    kafka: Kafka
    registry: SchemaRegistry
    topics: Topics
    audit_public_key: bytes | None = None
    """The raw public key of audit in this home, if there is one."""
    processes: int = 0
    """The number of processes that decode; 0: one for each core, at most PROCESSES_MAX."""


def replay(
    origin: Origin,
    dsn: str,
    frame: Frame | None,
    progress: Progress = lambda *_: None,
    *,
    compare_heads: bool = True,
) -> Report:
    """Bring the database to the end of ledger.journal, so that every service can continue with it.

    `frame` becomes the frame of its books; None if the database or the topic has one. After a crash, a second call
    continues where the first one stopped. `compare_heads`: compare the lanes that lack nothing with the topic; not
    needed if everything is compared afterwards. Raise ReplayRefused or TargetError if a replay is impossible, and an
    Outage if Kafka or Postgres is away.
    """
    started = time.monotonic()
    migrate(dsn)
    with db.connect_owner(dsn) as connection:
        db.lock_target(connection)
        lanes = list_partitions(origin.kafka, origin.topics.journal)
        published = read_last_published(origin.kafka, origin.topics.journal, lanes)
        topic_id = _choose_topic_id(origin, frame)
        loading = db.is_loading(connection) or db.is_empty(connection)
        # Read the facts after the journal's ends: a fact is published before the records that name its account.
        is_told = restore_frame(connection, origin.kafka, origin.registry, origin.topics.frame, is_empty=loading)
        if frame is not None:
            import_frame(connection, frame, only_keys=is_told)
        if not has_frame(connection):
            raise ReplayRefused(
                f"The database has no tenant, and {origin.topics.frame} names none: give the books with --books FILE,"
                " a file of `ledgerline books export`."
            )
        if loading:
            records = _load(connection, origin, dsn, published, topic_id, progress)
        else:
            records = _catch_up(connection, origin, dsn, published, topic_id, progress, compare_heads=compare_heads)
        _, without_bytes = restore_quarantine(
            connection, origin.kafka, origin.registry, origin.topics.quarantine, lanes
        )
        checkpoints = restore_checkpoints(
            connection,
            origin.kafka,
            origin.registry,
            origin.topics.checkpoints,
            origin.topics.journal,
            origin.audit_public_key,
        )
    seconds = time.monotonic() - started
    return Report(records, len(lanes), seconds, loading, checkpoints, without_bytes)


def _choose_topic_id(origin: Origin, frame: Frame | None) -> str:
    """Return the intents topic's id from the books, so that another topic is noticed; else the id that it has now."""
    known = {row["topic"]: row["topic_id"] for row in frame["topics"]} if frame is not None else {}
    return str(known.get(origin.topics.intents) or describe_source(origin.kafka, origin.topics.intents).topic_id)


def _load(
    connection: Any,
    origin: Origin,
    dsn: str,
    published: dict[int, Published],
    topic_id: str,
    progress: Progress,
) -> int:
    lanes = [lane for lane, end in published.items() if end.next_seq]
    if not lanes and not db.is_loading(connection):
        return 0
    db.begin_load(connection, lanes)
    loaded = db.read_loaded_lanes(connection)
    before = sum(lane.next_seq for lane in loaded.values())
    groups = _deal_lanes(sorted(loaded), origin.processes or min(os.cpu_count() or 1, PROCESSES_MAX))
    jobs = [
        LoadJob(
            origin.kafka,
            origin.registry,
            dsn,
            origin.topics.journal,
            origin.topics.intents,
            group,
            os.getpid(),
        )
        for group in groups
    ]
    return load(connection, jobs, {lane: end.next_seq for lane, end in published.items()}, topic_id, progress) - before


def _deal_lanes(lanes: Iterable[int], processes: int) -> list[tuple[int, ...]]:
    """Deal the lanes out to the processes in turn."""
    dealt = list(lanes)
    return [tuple(dealt[first::processes]) for first in range(min(processes, len(dealt)))]


def _catch_up(
    connection: Any,
    origin: Origin,
    dsn: str,
    published: dict[int, Published],
    topic_id: str,
    progress: Progress,
    *,
    compare_heads: bool,
) -> int:
    store = PostingStore(dsn)
    topics = origin.topics
    try:
        work = CatchUp(connection, store, origin.kafka, origin.registry, topics.journal, topics.intents)
        return work.run(published, topic_id, progress, compare_heads=compare_heads)
    finally:
        store.close()
