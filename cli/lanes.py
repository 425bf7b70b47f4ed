"""More lanes for a ledger that has money in it: drained first, so that each account's order is kept.

A lane is a partition, and an account's intents go to the lane that its key maps to. With more partitions it maps to
another one. Nothing is lost or doubled by that, whenever it happens: balances count over all lanes, and an intent is
settled once. But what a client sent first could be posted last, from the old lane. So nothing new is taken in while
the old lanes are posted to their ends; then partitions are added, payments.intents last; then the intake opens, and
every API process looks for the new partitions before it chooses one.

Whoever is killed in between leaves the intake closed; the same command goes on from there.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Connection

from api.intake import LOOK_SECONDS_MAX
from api.service import Configuration
from db.operations import (
    Intake,
    OperationKind,
    add_operation,
    change_intake,
    intake,
    lane_progress,
    operator,
    try_lane_lock,
)
from domain.errors import LedgerlineError, Outage
from domain.topics import Topics
from ops.embedded.process import wait_until
from producers.deploy import add_partitions, lane_counts, lane_topics
from runtime.kafka import Kafka
from runtime.positions import PositionReader

LANES_REASON: Final = "Lanes are being added to the ledger, which takes about a minute."
# Who looked at the intake just before it was closed may still publish, and for no longer than this.
SETTLE_SECONDS: Final = LOOK_SECONDS_MAX + Configuration.delivery_timeout_seconds

Progress = Callable[[str, float, float], None]
"""Told the step, how much of it is done, and how much it is in all."""


class LanesError(LedgerlineError):
    """Lanes cannot be added, or not now."""


@dataclass(frozen=True)
class Added:
    """What was done: lanes before and after, and whether the intake is open."""

    before: int
    after: int
    intake_is_open: bool


@dataclass(frozen=True)
class _Ledger:
    """What the steps need of the ledger."""

    kafka: Kafka
    topics: Topics
    connection: Connection[Any]
    done_by: str
    progress: Progress

    def owed(self, reader: PositionReader) -> tuple[int, int]:
        """(intents that are not posted, journal rows that are not relayed)."""
        lanes = {row.lane: row for row in lane_progress(self.connection)}
        ends = reader.read()
        unposted = sum(
            end - (lanes[lane].next_offset if lane in lanes else ends.first[lane])
            for lane, end in ends.received.items()
        )
        # What is posted meanwhile is not relayed yet: that is asked once all is posted.
        return unposted, 0 if unposted else sum(row.next_seq - ends.relayed.get(lane, 0) for lane, row in lanes.items())


def add_lanes(
    *,
    kafka: Kafka,
    dsn: str,
    topics: Topics,
    total: int,
    done_by: str,
    wait_seconds: float,
    settle_seconds: float = SETTLE_SECONDS,
    progress: Progress = lambda *_: None,
) -> Added:
    """Bring the ledger to `total` lanes; waits up to `wait_seconds` for posting and relay to come to the ends.

    LanesError where that is too short, where there are more lanes already, or where another operator is at it. An
    intake that was closed before stays so.
    """
    with operator(dsn) as connection:
        if not try_lane_lock(connection):
            raise LanesError("Another operator adds lanes at this moment: wait for the end of that.")
        counts = lane_counts(kafka, topics)
        before = counts[topics.intents]
        if total < max(counts.values()):
            raise LanesError(
                f"There are {max(counts.values())} lanes, and lanes are never removed: their rows are in the journal"
                " for ever."
            )
        was = intake(connection)
        is_ours = was.closed_because in (None, LANES_REASON)
        if set(counts.values()) == {total} and was.closed_because != LANES_REASON:
            return Added(before, total, was.closed_because is None)
        ledger = _Ledger(kafka, topics, connection, done_by, progress)
        _add(ledger, was, total, before, wait_seconds, settle_seconds)
        return Added(before, total, is_ours)


def _add(ledger: _Ledger, was: Intake, total: int, before: int, wait_seconds: float, settle_seconds: float) -> None:
    connection = ledger.connection
    if was.closed_because is None:
        change_intake(connection, LANES_REASON, ledger.done_by)
    is_ours = was.closed_because in (None, LANES_REASON)
    try:
        add_operation(connection, OperationKind.LANES_ADDING, ledger.done_by, {"from": before, "to": total})
        _settle(ledger, settle_seconds)
        _drain(ledger, wait_seconds)
    except BaseException:
        if is_ours and before < total:  # nothing has changed yet
            change_intake(connection, None, ledger.done_by)
        raise
    for topic in lane_topics(ledger.topics):
        add_partitions(ledger.kafka, topic, total)
    # Whatever producers that look at no intake sent to the old lanes meanwhile is posted first all the same.
    _drain(ledger, wait_seconds)
    with connection.transaction():
        change_intake(connection, None if is_ours else was.closed_because, ledger.done_by, lanes=total)
        add_operation(connection, OperationKind.LANES_ADDED, ledger.done_by, {"from": before, "to": total})


def _settle(ledger: _Ledger, settle_seconds: float) -> None:
    """Let those come through who looked before the intake was closed."""
    started = time.monotonic()

    def is_settled() -> bool:
        seconds = time.monotonic() - started
        ledger.progress("closing the intake", min(seconds, settle_seconds), settle_seconds)
        return seconds >= settle_seconds

    wait_until(is_settled, timeout_seconds=settle_seconds + 1)


def _drain(ledger: _Ledger, wait_seconds: float) -> None:
    """Wait until all that came is posted and relayed."""
    most = 0
    what = "nothing is known of them yet"

    def is_drained() -> bool:
        nonlocal most, what
        try:
            unposted, unrelayed = ledger.owed(reader)
        except Outage as outage:  # such as a partition just made, whose leader is not chosen yet
            what = str(outage)
            return False
        most = max(most, unposted + unrelayed)
        ledger.progress("draining the lanes", most - unposted - unrelayed, most)
        what = f"{unposted} intents are not posted, {unrelayed} records not relayed"
        return unposted + unrelayed == 0

    with closing(PositionReader(ledger.kafka, ledger.topics.intents, ledger.topics.journal)) as reader:
        drained = wait_until(is_drained, timeout_seconds=wait_seconds)
    if not drained:
        raise LanesError(
            f"The lanes are not drained after {wait_seconds:.0f} seconds ({what}): see `ledgerline status`, then run"
            " this again, or with a longer --wait."
        )
