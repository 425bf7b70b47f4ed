"""Read the tables in one snapshot, lane by lane."""

from collections.abc import Iterator
from typing import Any, Final, LiteralString, NamedTuple, Self

import psycopg

from tools.chaos.oracle.model import Account, Kept, Lane, Leg, OracleError, Record, Row

ROWS_AT_ONCE: Final = 5000
DIRECTIONS: Final = {1: "debit", -1: "credit"}

_LANES: Final = "SELECT lane, topic, first_offset, next_offset, next_seq, head FROM ledger.lane"
_LANE_NUMBERS: Final = """
    SELECT lane FROM ledger.lane UNION SELECT lane FROM ledger.journal UNION SELECT lane FROM ledger.entry
    UNION SELECT lane FROM ledger.balance UNION SELECT lane FROM ledger.quarantine
"""
_ACCOUNTS: Final = "SELECT tenant, address, normal_direction, floor_minor FROM ledger.account"
_TENANTS: Final = "SELECT tenant, (extract(epoch FROM created_time) * 1000000)::bigint FROM ledger.tenant"
_TRACKING: Final = "SELECT current_setting('track_commit_timestamp') = 'on'"
# The row has no topic, offset or previous hash: topic and offset follow from its lane, the hash is the row before's.
_ROWS: Final = """
    SELECT lane, seq, coalesce(l.topic, ''), coalesce(l.first_offset, 0) + seq, outcome, reason, detail, tenant,
           intent_id::text, idempotency_key, fingerprint, type, reverses::text, reference, metadata, value_time,
           j.booked_time,
           coalesce(lag(hash) OVER (ORDER BY seq), decode(repeat('00', 32), 'hex')), hash,
           leg_count, j.booked_time
    FROM ledger.journal AS j LEFT JOIN ledger.lane AS l USING (lane) WHERE lane = %s ORDER BY seq
"""
# A row from before commit tracking began has no commit time, so it takes booked_time: it committed before all others.
_ROWS_BY_COMMIT: Final = """
    SELECT lane, seq, coalesce(l.topic, ''), coalesce(l.first_offset, 0) + seq, outcome, reason, detail, tenant,
           intent_id::text, idempotency_key, fingerprint, type, reverses::text, reference, metadata, value_time,
           j.booked_time,
           coalesce(lag(hash) OVER (ORDER BY seq), decode(repeat('00', 32), 'hex')), hash,
           leg_count,
           coalesce((extract(epoch FROM pg_xact_commit_timestamp(j.xmin)) * 1000000)::bigint, j.booked_time)
    FROM ledger.journal AS j LEFT JOIN ledger.lane AS l USING (lane) WHERE lane = %s ORDER BY seq
"""
_ENTRIES: Final = """
    SELECT e.seq, e.leg, e.direction, e.amount_minor, e.currency, coalesce(a.address, '#' || e.account_id), a.tenant
    FROM ledger.entry AS e LEFT JOIN ledger.account AS a ON a.account_id = e.account_id
    WHERE e.lane = %s ORDER BY ledger.leg_place(e.seq, e.leg)
"""
_SHARDS: Final = """
    SELECT a.tenant, coalesce(a.address, '#' || b.account_id), b.currency, b.lane,
           b.debits_minor, b.credits_minor, b.seq
    FROM ledger.balance AS b LEFT JOIN ledger.account AS a ON a.account_id = b.account_id
"""
_KEPT: Final = "SELECT seq, key, value, headers FROM ledger.quarantine WHERE lane = %s ORDER BY seq"
_ORIGINALS: Final = """
    SELECT j.tenant, j.intent_id::text, j.type, a.address, e.direction, e.amount_minor, e.currency
    FROM ledger.journal AS j
    CROSS JOIN LATERAL (
        SELECT account_id, direction, amount_minor, currency FROM ledger.entry
        WHERE lane = j.lane AND seq = j.seq AND ledger.leg_place(seq, leg) >= ledger.leg_place(j.seq, 0)
        AND ledger.leg_place(seq, leg) < ledger.leg_place(j.seq + 1, 0) OFFSET 0
    ) AS e
    JOIN ledger.account AS a ON a.account_id = e.account_id
    WHERE j.intent_id = ANY(%s::uuid[]) AND j.outcome = 'posted'
"""
_BREAKS: Final = """
    SELECT 'reconciliation', kind, subject, state, lane, seq, detail FROM reconciliation.break
    UNION ALL SELECT 'audit', kind, subject, state, lane, seq, detail FROM audit.break
"""
# A ledger of a release without capabilities lacks their tables.
_HAS_SCHEDULES: Final = "SELECT to_regclass('schedules.schedule') IS NOT NULL"
_SCHEDULES: Final = "SELECT tenant, schedule_id::text, version, state FROM schedules.schedule"
_OCCURRENCES: Final = """
    SELECT tenant, schedule_id::text, number, state, attempts, intent_id::text
    FROM schedules.occurrence ORDER BY tenant, schedule_id, number
"""
_ASKED_BY_SCHEDULES: Final = """
    SELECT tenant, idempotency_key, intent_id::text, outcome, lane, seq, {moment}
    FROM ledger.journal WHERE idempotency_key LIKE 'ledgerline:schedules:%%' AND outcome IN ('posted', 'rejected')
"""
_MOMENT: Final = "booked_time"
_MOMENT_OF_COMMIT: Final = (
    "coalesce((extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint, booked_time)"
)
_APPENDED: Final = "SELECT event_id::text FROM outbox.event WHERE family = 'schedule'"
_LEFT: Final = """
    SELECT (SELECT count(*) FROM worker.intent), (SELECT count(*) FROM worker.parked),
           (SELECT coalesce(min(reason), '') FROM worker.parked WHERE reason <> '')
"""


class Break(NamedTuple):
    """A row of reconciliation.break or audit.break."""

    found_by: str
    kind: str
    subject: str
    state: str
    lane: int | None
    seq: int | None
    detail: str


class Shard(NamedTuple):
    """A row of ledger.balance."""

    tenant: str | None
    account: str
    currency: str
    lane: int
    debits_minor: int
    credits_minor: int
    seq: int


class Schedule(NamedTuple):
    """A row of schedules.schedule."""

    tenant: str
    schedule_id: str
    version: int
    state: str


class Occurrence(NamedTuple):
    """A row of schedules.occurrence; `intent_id` is of the last attempt."""

    tenant: str
    schedule_id: str
    number: int
    state: str
    attempts: int
    intent_id: str | None


class SettledForSchedule(NamedTuple):
    """A journal row that posted or rejected an intent whose key only the schedules may use."""

    tenant: str
    idempotency_key: str
    intent_id: str
    outcome: str
    lane: int
    seq: int
    moment: int
    """As in Row."""


class Tables:
    """A read-only snapshot of the database."""

    def __init__(self, dsn: str) -> None:
        try:
            self._connection = psycopg.connect(dsn, connect_timeout=30)
            self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            self._connection.read_only = True
            self.tracks_commits = bool(self._all(_TRACKING)[0][0])
        except psycopg.Error as error:
            raise OracleError(f"Postgres cannot be read: {error}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _all(self, query: LiteralString, *parameters: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, parameters).fetchall()

    def _stream(self, name: str, query: LiteralString, lane: int) -> Iterator[tuple[Any, ...]]:
        with self._connection.cursor(name) as cursor:
            cursor.itersize = ROWS_AT_ONCE
            yield from cursor.execute(query, [lane])

    def lanes(self) -> dict[int, Lane]:
        """Return the rows of ledger.lane by lane."""
        return {row[0]: Lane(*row) for row in self._all(_LANES)}

    def lane_numbers(self) -> set[int]:
        """Return every lane that any table of the ledger names."""
        return {row[0] for row in self._all(_LANE_NUMBERS)}

    def accounts(self) -> dict[tuple[str, str], Account]:
        """Return all accounts by tenant and address."""
        return {(row[0], row[1]): Account(row[2], row[3]) for row in self._all(_ACCOUNTS)}

    def tenants(self) -> dict[str, int]:
        """Return the creation time of each tenant, in microseconds since 1970."""
        return {row[0]: row[1] for row in self._all(_TENANTS)}

    def rows(self, lane: int) -> tuple[list[Row], set[int]]:
        """Return the lane's rows in order with their legs, and the sequence numbers of entries without a row."""
        legs: dict[int, list[Leg]] = {}
        numbers: dict[int, list[int]] = {}
        tenants: dict[int, set[str | None]] = {}
        for seq, number, direction, amount_minor, currency, address, tenant in self._stream("entries", _ENTRIES, lane):
            legs.setdefault(seq, []).append(Leg(address, DIRECTIONS.get(direction, "unknown"), amount_minor, currency))
            numbers.setdefault(seq, []).append(number)
            tenants.setdefault(seq, set()).add(tenant)
        found = []
        for row in self._stream("rows", _ROWS_BY_COMMIT if self.tracks_commits else _ROWS, lane):
            *members, reference, metadata, value_time, booked_time, previous_hash, row_hash, leg_count, moment = row
            seq, tenant = row[1], row[7]
            members += [tuple(legs.get(seq, ())), reference, metadata or {}, value_time, booked_time]
            record = Record._make([*members, previous_hash, row_hash])
            foreign = bool(tenants.get(seq, set()) - {tenant})
            found.append(Row(record, leg_count, tuple(numbers.get(seq, ())), moment, foreign))
        return found, legs.keys() - {row.record.seq for row in found}

    def shards(self) -> Iterator[Shard]:
        """Yield all balances."""
        for tenant, account, currency, lane, debits, credits, seq in self._all(_SHARDS):
            yield Shard(tenant, account, currency, lane, int(debits), int(credits), seq)

    def kept(self, lane: int) -> dict[int, Kept]:
        """Return the quarantined messages of a lane by sequence number."""
        return {row[0]: Kept(*row[1:]) for row in self._all(_KEPT, lane)}

    def originals(self, intent_ids: list[str]) -> dict[tuple[str, str], tuple[str, list[Leg]]]:
        """Return type and legs of the posted ones of these intents, by tenant and id."""
        found: dict[tuple[str, str], tuple[str, list[Leg]]] = {}
        for tenant, intent_id, kind, address, direction, amount_minor, currency in self._all(_ORIGINALS, intent_ids):
            legs = found.setdefault((tenant, intent_id), (kind, []))[1]
            legs.append(Leg(address, DIRECTIONS.get(direction, "unknown"), amount_minor, currency))
        return found

    def breaks(self) -> list[Break]:
        """Return every break that reconciliation or audit ever found."""
        return [Break(*row) for row in self._all(_BREAKS)]

    def has_schedules(self) -> bool:
        """Return whether the ledger's release knows schedules."""
        return bool(self._all(_HAS_SCHEDULES)[0][0])

    def schedules(self) -> list[Schedule]:
        """Return all schedules."""
        return [Schedule(*row) for row in self._all(_SCHEDULES)]

    def occurrences(self) -> list[Occurrence]:
        """Return all occurrences that were sent or skipped, by schedule and number."""
        return [Occurrence(*row) for row in self._all(_OCCURRENCES)]

    def settled_for_schedules(self) -> list[SettledForSchedule]:
        """Return the rows that settled an intent of a schedule."""
        moment = _MOMENT_OF_COMMIT if self.tracks_commits else _MOMENT
        return [SettledForSchedule(*row) for row in self._all(_ASKED_BY_SCHEDULES.replace("{moment}", moment))]

    def appended_events(self) -> set[str]:
        """Return the ids of the schedules' events that the outbox still has."""
        return {row[0] for row in self._all(_APPENDED)}

    def left_by_worker(self) -> tuple[int, int, str]:
        """Return how many intents wait to be sent, how much work is parked, and why one piece of it is."""
        ((waiting, parked, reason),) = self._all(_LEFT)
        return waiting, parked, reason
