"""The fast load of an empty ledger: processes decode, check and COPY, each for its own lanes, without indexes.

All rules of the tables are in force again before the last transaction moves the ledger's own lanes. Until then a
posting worker finds an empty ledger although the topic has records, and refuses it (streams/posting/published.py).
"""

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from typing import Any, Final, NamedTuple, cast

from confluent_kafka import Message

from db import replay as db
from db.posting import PostingStore
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from streams.proof.records.decoding import JournalRecord, RecordReader
from streams.proof.replay.accounts import AccountIds
from streams.proof.replay.lane_replay import LaneReplay, read_record, read_to_ends

CHUNK_ROWS: Final = 10_000
PROCESSES_MAX: Final = 4
LOOK_SECONDS: Final = 0.5

Progress = Callable[[str, int, int], None]
"""Called with the name of the step, the amount done, and the total amount."""


class LoadJob(NamedTuple):
    """The work of one process."""

    kafka: Kafka
    registry: SchemaRegistry
    dsn: str
    journal_topic: str
    source_topic: str
    lanes: tuple[int, ...]
    parent: int
    """The id of the process that waits for this one. If that process has ended, this one ends too."""


class ParentGone(Exception):
    """The parent process has ended, so this one ends; the next replay continues from its last commit."""


def load_lanes(job: LoadJob) -> None:
    """Load these lanes from where they stand to their ends; runs in a process of its own."""
    gc.set_threshold(1_000_000, 20, 100)  # a chunk makes a million objects and no reference cycles
    store = PostingStore(job.dsn)
    try:
        with db.connect_owner(job.dsn, synchronous=False) as connection:
            while True:
                try:
                    _Loading(job, connection, AccountIds(store)).run()
                except db.LaneMoved:
                    continue  # a process that an earlier replay left behind has moved the lane
                else:
                    return
    finally:
        store.close()


class _Loading:
    def __init__(self, job: LoadJob, connection: Any, accounts: AccountIds) -> None:
        self._job = job
        self._connection = connection
        self._accounts = accounts
        self._reader = RecordReader(job.registry, "ledger.journal-value")
        stand = db.read_loaded_lanes(connection)
        self._committed = {lane: stand[lane] for lane in job.lanes}
        self._lanes = {lane: LaneReplay(place, job.source_topic) for lane, place in self._committed.items()}
        self._chunk = db.Chunk()

    def run(self) -> None:
        starts = {lane: place.journal_offset for lane, place in self._committed.items()}
        for messages in read_to_ends(self._job.kafka, self._job.journal_topic, starts):
            self._take(messages)
            if len(self._chunk) >= CHUNK_ROWS:
                self._flush()
        self._flush()

    def _take(self, messages: Sequence[Message]) -> None:
        reader, lanes = self._reader, self._lanes
        records: list[JournalRecord] = []
        for message in messages:
            record = read_record(reader, message)
            if lanes[message.partition()].take(record, message.offset()):
                records.append(record)
        ids = self._accounts.learn(records)
        add = self._chunk.add
        for record in records:
            add(cast("db.Record", record), ids)

    def _flush(self) -> None:
        if os.getppid() != self._job.parent:
            raise ParentGone
        after = {lane: replay.place() for lane, replay in self._lanes.items()}
        moved = [lane for lane, place in after.items() if place != self._committed[lane]]
        before = {lane: self._committed[lane].next_seq for lane in moved}
        if moved:
            db.load_chunk(self._connection, self._chunk, before, [after[lane] for lane in moved])
        self._committed = after
        self._chunk = db.Chunk()


def load(connection: Any, jobs: Sequence[LoadJob], ends: dict[int, int], topic_id: str, progress: Progress) -> int:
    """Load all lanes, make keys and indexes again, and move the ledger's lanes to their ends.

    Call `db.begin_load` first. `ends`: about how many records each lane has, for the progress. If a call was killed,
    the next call continues. Return how many records are loaded, by this call or before.
    """
    total = sum(ends.values())
    with ProcessPoolExecutor(len(jobs), mp_context=multiprocessing.get_context("spawn")) as pool:
        pending = {pool.submit(load_lanes, job) for job in jobs}
        while pending:
            done, pending = wait(pending, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            loaded = sum(lane.next_seq for lane in db.read_loaded_lanes(connection).values())
            progress("load", loaded, max(total, loaded))
    loaded = sum(lane.next_seq for lane in db.read_loaded_lanes(connection).values())
    restoring = db.list_dropped(connection)
    triggers = restoring.pop("triggers", [])
    _restore(jobs[0].dsn, restoring, progress)
    walked = 0
    for rows in db.end_load(connection, triggers, topic_id):
        walked = min(walked + rows, loaded)
        progress("check", walked, loaded)
    progress("check", loaded, loaded)
    return loaded


def _restore(dsn: str, restoring: dict[str, list[tuple[int, str]]], progress: Progress) -> None:
    """Make keys and indexes again, with one thread for each table; then ANALYZE the tables."""
    total = sum(map(len, restoring.values()))
    done: list[int] = []

    def restore_all(steps: Iterable[tuple[int, str]]) -> None:
        with db.connect_owner(dsn) as own:
            for step, statement in steps:
                db.restore(own, step, statement)
                done.append(step)
                progress("indexes", len(done), total)

    with ThreadPoolExecutor(max(len(restoring), 1)) as threads:
        for future in [threads.submit(restore_all, steps) for steps in restoring.values()]:
            future.result()
    with db.connect_owner(dsn) as own:
        db.analyze(own)
