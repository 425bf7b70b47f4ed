"""Add lanes to a ledger that has money in it: drain the old lanes first, so that each account's order is kept.

A lane is a partition, and an account's intents go to the lane that its key maps to. With more partitions the key may
map to another lane. At no time does this lose or double money: balances are sums over all lanes, and an intent is
settled once. But an intent that a client sent first could be posted last, from the old lane. So the API accepts no new
intents while the old lanes are posted to their ends. Then partitions are added, those of payments.intents last. Then
the intake opens, and every API process looks for the new partitions before it chooses one.

If the process is killed in between, the intake stays closed; the same command, run again, finishes the work.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Connection

from api.configuration import Configuration
from api.intake import LOOK_SECONDS_MAX
from db.operations import (
    Intake,
    OperationKind,
    add_operation,
    change_intake,
    list_lane_progress,
    open_operator,
    read_intake,
    try_lane_lock,
)
from domain.errors import LedgerlineError, Outage
from domain.topics import Topics
from ops.embedded.process import wait_until
from producers.deploy import add_partitions, count_lanes, list_lane_topics
from runtime.kafka import Kafka
from runtime.positions import PositionReader

LANES_REASON: Final = "Lanes are being added to the ledger, which takes about a minute."
# A process that read the intake just before it was closed may still publish, for at most this many seconds.
SETTLE_SECONDS: Final = LOOK_SECONDS_MAX + Configuration.delivery_timeout_seconds

Progress = Callable[[str, float, float], None]
"""Called with the step, the amount of it that is done, and its total amount."""


class LanesError(LedgerlineError):
    """Lanes cannot be added, or cannot be added now."""


@dataclass(frozen=True)
class Added:
    """The result: the number of lanes before and after, and whether the intake is open."""

    before: int
    after: int
    intake_is_open: bool


@dataclass(frozen=True)
class _Ledger:
    """The parameters that the steps share."""

    kafka: Kafka
    topics: Topics
    connection: Connection[Any]
    done_by: str
    progress: Progress

    def count_owed(self, reader: PositionReader) -> tuple[int, int]:
        """Return (number of intents that are not posted, number of journal rows that are not relayed)."""
        lanes = {row.lane: row for row in list_lane_progress(self.connection)}
        ends = reader.read()
        unposted = sum(
            end - (lanes[lane].next_offset if lane in lanes else ends.first[lane])
            for lane, end in ends.received.items()
        )
        # Count unrelayed rows only once all intents are posted: posting adds rows that are not relayed yet.
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
    """Bring the ledger to `total` lanes; wait up to `wait_seconds` for posting and relay to reach the lanes' ends.

    Raise LanesError if that time is too short, if there are more lanes already, or if another operator is adding lanes.
    An intake that an operator had closed before stays closed.
    """
    with open_operator(dsn) as connection:
        if not try_lane_lock(connection):
            raise LanesError("Another operator adds lanes at this moment: wait for the end of that.")
        counts = count_lanes(kafka, topics)
        before = counts[topics.intents]
        if total < max(counts.values()):
            raise LanesError(
                f"There are {max(counts.values())} lanes, and lanes are never removed: their rows are in the journal"
                " for ever."
            )
        was = read_intake(connection)
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
    for topic in list_lane_topics(ledger.topics):
        add_partitions(ledger.kafka, topic, total)
    # Producers that do not check the intake may have sent intents to the old lanes meanwhile: drain these first, too.
    _drain(ledger, wait_seconds)
    with connection.transaction():
        change_intake(connection, None if is_ours else was.closed_because, ledger.done_by, lanes=total)
        add_operation(connection, OperationKind.LANES_ADDED, ledger.done_by, {"from": before, "to": total})


def _settle(ledger: _Ledger, settle_seconds: float) -> None:
    """Wait until every process that read the intake before it was closed can no longer publish."""
    started = time.monotonic()

    def is_settled() -> bool:
        seconds = time.monotonic() - started
        ledger.progress("closing the intake", min(seconds, settle_seconds), settle_seconds)
        return seconds >= settle_seconds

    wait_until(is_settled, timeout_seconds=settle_seconds + 1)


def _drain(ledger: _Ledger, wait_seconds: float) -> None:
    """Wait until all received intents are posted and relayed; raise LanesError after `wait_seconds`."""
    most = 0
    what = "nothing is known of them yet"

    def is_drained() -> bool:
        nonlocal most, what
        try:
            unposted, unrelayed = ledger.count_owed(reader)
        except Outage as outage:  # such as a new partition that has no leader yet
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
