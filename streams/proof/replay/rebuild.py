"""A replay from its beginning to its end: the frame of the books, the lanes, and what stands beside them."""

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
from streams.posting.published import Published, last_published
from streams.posting.source import describe_source
from streams.proof.replay.beside import restore_checkpoints, restore_quarantine
from streams.proof.replay.catch_up import CatchUp
from streams.proof.replay.frame import restore_frame
from streams.proof.replay.journal import ReplayRefused, partitions_of
from streams.proof.replay.load import PROCESSES_MAX, LoadJob, load

Progress = Callable[[str, int, int], None]
"""Told the step, how much of it is done, and how much it is in all."""

STEPS: Final = ("load", "indexes", "check", "replay")


@dataclass(frozen=True)
class Report:
    """What a replay did."""

    records: int
    """Records that were replayed in this call."""
    lanes: int
    seconds: float
    loaded: bool
    """Whether the ledger was empty, or half loaded, and so went the fast way."""
    checkpoints: int
    """Checkpoints of audit that were restored."""
    quarantined_without_bytes: int
    """Quarantined rows whose bytes payments.quarantine has no longer."""

    @property
    def records_per_second(self) -> int:
        """How fast it was, from the first look to the last commit."""
        return int(self.records / self.seconds) if self.seconds else 0


@dataclass(frozen=True)
class Origin:
    """Where a replay reads from."""

    kafka: Kafka
    registry: SchemaRegistry
    topics: Topics
    audit_public_key: bytes | None = None
    """The raw public key of audit in this home, if there is one."""
    processes: int = 0
    """How many decode; 0: one for each core, at most PROCESSES_MAX."""


def replay(
    origin: Origin,
    dsn: str,
    frame: Frame | None,
    progress: Progress = lambda *_: None,
    *,
    compare_heads: bool = True,
) -> Report:
    """Bring the database to where ledger.journal ends, and make it one that every service can go on with.

    `frame` becomes the frame of its books; None where it has its own. Begun again after a crash it goes on where it
    was. ReplayRefused or TargetError where that cannot be; Outages as they come. Where all is compared afterwards, a
    ledger that lacks nothing need not be held against the topic here (`compare_heads`).
    """
    started = time.monotonic()
    migrate(dsn)
    with db.connect_owner(dsn) as connection:
        db.lock_target(connection)
        lanes = partitions_of(origin.kafka, origin.topics.journal)
        published = last_published(origin.kafka, origin.topics.journal, lanes)
        topic_id = _topic_id(origin, frame)
        loading = db.is_loading(connection) or db.is_empty(connection)
        # Read behind the journal's ends: a fact is published before the records that name its account.
        is_told = restore_frame(connection, origin.kafka, origin.registry, origin.topics.frame, is_empty=loading)
        if frame is not None:
            import_frame(connection, frame, only_keys=is_told)
        if not has_frame(connection):
            raise ReplayRefused(
                f"The database has no tenant, and {origin.topics.frame} tells of none: give the books by --books FILE,"
                " made by `ledgerline books export`."
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


def _topic_id(origin: Origin, frame: Frame | None) -> str:
    """The id of the topic of intents: as the books know it, so that another topic is noticed, or as it is now."""
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
    loaded = db.loaded_lanes(connection)
    before = sum(lane.next_seq for lane in loaded.values())
    groups = _groups(sorted(loaded), origin.processes or min(os.cpu_count() or 1, PROCESSES_MAX))
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


def _groups(lanes: Iterable[int], processes: int) -> list[tuple[int, ...]]:
    """The lanes dealt out in turn."""
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
