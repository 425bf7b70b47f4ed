"""What the oracle is told, what it reads, and what it answers."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

FAULTS_SHOWN_MAX: Final = 50
NO_HASH: Final = bytes(32)

# Breaks of these kinds say that the tables were altered: what was published stands in for such a row. Breaks of the
# other kinds about a record say that the topic was.
TABLE_KINDS: Final = frozenset({"stored", "entries"})
RECORD_KINDS: Final = frozenset({"chain", "conservation", "faithfulness", "symmetry"})


class OracleError(Exception):
    """The oracle could not read what it must judge: no verdict, neither good nor bad."""


@dataclass(frozen=True)
class Place:
    """Where the ledger is; the role of `postgres_dsn` must be able to read every schema."""

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
    """As the answer told; None where it did not, such as a replayed outcome."""
    offset: int | None
    body_sha256: str
    """Of what the client sent: equal bodies under one key must ask the same on the topic. "" where unknown."""


class Planted(NamedTuple):
    """A break that a scenario planted on purpose; it must be found, and what it altered is no fault.

    `lane` and `seq` are those that the break has; None stands for any. An alteration that leads to several breaks is
    planted once for each.
    """

    found_by: str
    """reconciliation or audit."""
    kind: str
    """Such as stored, entries, balance, chain, conservation."""
    lane: int | None
    seq: int | None
    moment: int | None = None
    """When the row that was altered or deleted had been committed, microseconds since 1970: the tables say it no more,
    as an update gives a row the moment of its own."""


class Fault(NamedTuple):
    """One thing that does not hold."""

    check: str
    where: str
    """Such as `lane 3 seq 17` or `intent default order-17`."""
    detail: str
    """One sentence."""


@dataclass(frozen=True)
class Verdict:
    """What the oracle found."""

    faults: tuple[Fault, ...]
    """At most FAULTS_SHOWN_MAX of each check; `counts` has how many there are."""
    counts: Mapping[str, int]
    """Of what was judged: offsets, rows, posted, ..., records, acknowledged; as `faults <check>`, of what is wrong."""
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


class Findings:
    """Gathers faults and counts; keeps no more of one check than people can read."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[Fault] = []

    def add(self, check: str, where: str, detail: str) -> None:
        """One more fault."""
        self.counts[f"faults {check}"] += 1
        if self.counts[f"faults {check}"] <= FAULTS_SHOWN_MAX:
            self.faults.append(Fault(check, where, detail))


class Plants:
    """What was planted, by where it excuses faults."""

    def __init__(self, planted: Iterable[Planted]) -> None:
        self.all = tuple(planted)
        self._records = {(item.lane, item.seq) for item in self.all if item.kind in TABLE_KINDS | RECORD_KINDS}
        self._rows = {(item.lane, item.seq) for item in self.all if item.kind in TABLE_KINDS}
        self._shards = {item.lane for item in self.all if item.kind == "balance"}
        self._moments = {(item.lane, item.seq): item.moment for item in self.all if item.moment is not None}

    def at(self, lane: int, seq: int) -> bool:
        """Whether this row or record was altered on purpose."""
        return (lane, seq) in self._records

    def in_table(self, lane: int, seq: int) -> bool:
        """Whether it is the row, not the record, that was altered: the record then stands in for it."""
        return (lane, seq) in self._rows

    def moment(self, lane: int, seq: int) -> int | None:
        """When the row was committed, before it was altered; None where nobody noted it."""
        return self._moments.get((lane, seq))

    def lane_row(self, lane: int) -> bool:
        """Whether the lane's own row was altered on purpose."""
        return (lane, None) in self._records

    def shards(self, lane: int) -> bool:
        """Whether a shard of the lane was altered on purpose."""
        return lane in self._shards or None in self._shards


class Leg(NamedTuple):
    """A debit or credit; `direction` is debit or credit, the amount in minor units."""

    account: str
    direction: str
    amount_minor: int
    currency: str


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
    """As the row says."""
    leg_numbers: tuple[int, ...]
    """Of its entries, in order."""
    moment: int
    """When its transaction committed where Postgres tracks that, else booked_time; microseconds since 1970."""
    foreign: bool
    """Whether an entry is of an account of another tenant, or of none."""


class Lane(NamedTuple):
    """A row of ledger.lane."""

    lane: int
    topic: str
    first_offset: int
    next_offset: int
    next_seq: int
    head: bytes


class Account(NamedTuple):
    """What the ledger keeps with an account; normal_direction is 1 for debit, -1 for credit."""

    normal_direction: int
    floor_minor: int | None


class Asked(NamedTuple):
    """What an intent on the topic asks. Times are microseconds since 1970-01-01 UTC."""

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
    """Why the bytes at an offset are no intent: a reason of the documented list."""

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
    """How a row or record is named in a fault."""
    return f"lane {lane} seq {seq}"
