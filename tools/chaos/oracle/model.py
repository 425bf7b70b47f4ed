"""The oracle's inputs, the records that it reads, and its verdict."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

FAULTS_SHOWN_MAX: Final = 50
NO_HASH: Final = bytes(32)

# A break of TABLE_KINDS says that the tables were altered: the published record then replaces the row. A break of
# RECORD_KINDS says that the topic was altered.
TABLE_KINDS: Final = frozenset({"stored", "entries"})
RECORD_KINDS: Final = frozenset({"chain", "conservation", "faithfulness", "symmetry"})


class OracleError(Exception):
    """The oracle could not read what it must judge, so it gives no verdict."""


@dataclass(frozen=True)
class Place:
    """The addresses of a ledger. The role of `postgres_dsn` must be able to read every schema."""

    kafka_bootstrap: str
    postgres_dsn: str
    registry_url: str
    topic_prefix: str = ""


class Acknowledged(NamedTuple):
    """An answer 202 (or a replayed outcome) that a client got."""

    tenant: str
    idempotency_key: str
    intent_id: str
    partition: int | None
    """The partition in the answer; None if the answer has none, as with a replayed outcome."""
    offset: int | None
    body_sha256: str
    """Digest of the client's request: equal bodies under one key must give equal intents. "" if unknown."""


class Leg(NamedTuple):
    """A debit or credit; `direction` is debit or credit, the amount in minor units."""

    account: str
    direction: str
    amount_minor: int
    currency: str


class Scheduled(NamedTuple):
    """An answer 201 to a client that made a schedule of `occurrences`, each of which moves these legs once."""

    tenant: str
    schedule_id: str
    occurrences: int
    legs: tuple[Leg, ...]


class Planted(NamedTuple):
    """A break that a scenario planted on purpose. It must be found, and the altered row or record is no fault.

    `lane` and `seq` are those of the break; None matches any. If one alteration leads to several breaks, there is one
    Planted for each.
    """

    found_by: str
    """reconciliation or audit."""
    kind: str
    """Such as stored, entries, balance, chain, conservation."""
    lane: int | None
    seq: int | None
    moment: int | None = None
    """Commit time of the altered or deleted row before the change, microseconds since 1970. The tables no longer have
    it: an update gives a row the commit time of the update."""


class Fault(NamedTuple):
    """One failure of a check."""

    check: str
    where: str
    """Such as `lane 3 seq 17` or `intent default order-17`."""
    detail: str
    """One sentence."""


@dataclass(frozen=True)
class Verdict:
    """The oracle's result."""

    faults: tuple[Fault, ...]
    """At most FAULTS_SHOWN_MAX of each check; `counts` has the full number."""
    counts: Mapping[str, int]
    """Counts of what was judged (offsets, rows, posted, ..., records, acknowledged), and `faults <check>` by check."""
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether there is no fault."""
        return not self.faults


class Findings:
    """The faults and counts found so far. It keeps at most FAULTS_SHOWN_MAX faults of one check."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[Fault] = []

    def add(self, check: str, where: str, detail: str) -> None:
        """Add a fault."""
        self.counts[f"faults {check}"] += 1
        if self.counts[f"faults {check}"] <= FAULTS_SHOWN_MAX:
            self.faults.append(Fault(check, where, detail))


class Plants:
    """The planted breaks, looked up by the place at which they excuse faults."""

    def __init__(self, planted: Iterable[Planted]) -> None:
        self.all = tuple(planted)
        self._records = {(item.lane, item.seq) for item in self.all if item.kind in TABLE_KINDS | RECORD_KINDS}
        self._rows = {(item.lane, item.seq) for item in self.all if item.kind in TABLE_KINDS}
        self._shards = {item.lane for item in self.all if item.kind == "balance"}
        self._moments = {(item.lane, item.seq): item.moment for item in self.all if item.moment is not None}

    def at(self, lane: int, seq: int) -> bool:
        """Return whether this row or record was altered on purpose."""
        return (lane, seq) in self._records

    def in_table(self, lane: int, seq: int) -> bool:
        """Return whether the row was altered, not the record: the record then replaces the row."""
        return (lane, seq) in self._rows

    def moment(self, lane: int, seq: int) -> int | None:
        """Return the commit time of the row before it was altered; None if the scenario did not note it."""
        return self._moments.get((lane, seq))

    def lane_row(self, lane: int) -> bool:
        """Return whether the lane's own row in ledger.lane was altered on purpose."""
        return (lane, None) in self._records

    def shards(self, lane: int) -> bool:
        """Return whether a shard of the lane was altered on purpose."""
        return lane in self._shards or None in self._shards


class Record(NamedTuple):
    """A journal record: the 18 members that are hashed, and the two hashes. Times are microseconds since 1970."""

    lane: int
    seq: int
    source_topic: str
    source_offset: int
    outcome: str
    reason: str
    detail: str
    tenant: str | None
    intent_id: str | None
    idempotency_key: str | None
    fingerprint: bytes
    type: str | None
    reverses: str | None
    legs: tuple[Leg, ...]
    reference: str | None
    metadata: dict[str, str]
    value_time: int | None
    booked_time: int
    previous_hash: bytes
    hash: bytes


class Row(NamedTuple):
    """A journal row as the tables have it, with its entries as legs."""

    record: Record
    leg_count: int
    """The number of legs that the row states."""
    leg_numbers: tuple[int, ...]
    """The leg numbers of the row's entries, in order."""
    moment: int
    """Commit time of the row's transaction if Postgres tracks it, else booked_time; microseconds since 1970."""
    foreign: bool
    """Whether an entry's account belongs to another tenant, or does not exist."""


class Lane(NamedTuple):
    """A row of ledger.lane."""

    lane: int
    topic: str
    first_offset: int
    next_offset: int
    next_seq: int
    head: bytes


class Account(NamedTuple):
    """The normal direction and the floor of an account; normal_direction is 1 for debit, -1 for credit."""

    normal_direction: int
    floor_minor: int | None


class Asked(NamedTuple):
    """The content of an intent on the topic. Times are microseconds since 1970-01-01 UTC."""

    intent_id: str
    tenant: str
    idempotency_key: str
    type: str
    legs: tuple[Leg, ...]
    reverses: str | None
    value_time: int | None
    reference: str | None
    metadata: dict[str, str]
    accepted_time: int


class Unreadable(NamedTuple):
    """The reason why the bytes at an offset are no intent, from the documented list."""

    reason: str


class Raw(NamedTuple):
    """A message as the topic has it."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Kept(NamedTuple):
    """A row of ledger.quarantine; headers are pairs of a name and hex or None."""

    key: bytes | None
    value: bytes | None
    headers: Any


def place_of(lane: int, seq: int) -> str:
    """Return the name of a row or record for a fault."""
    return f"lane {lane} seq {seq}"
