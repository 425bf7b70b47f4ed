"""The journal: one immutable row for each offset of each lane, and the hash chain over a lane's rows."""

from typing import Final, NamedTuple
from uuid import UUID

from domain.intents import Leg
from domain.outcomes import Outcome

GENESIS_HASH: Final = bytes(32)
"""The previous hash of the first record of a lane."""


class JournalRow(NamedTuple):
    """One row, as Postgres stores it and as ledger.journal gets it. Times are microseconds since 1970-01-01 UTC."""

    lane: int
    seq: int
    source_topic: str
    source_offset: int
    outcome: Outcome
    reason: str
    detail: str
    tenant: str | None
    intent_id: UUID | None
    idempotency_key: str | None
    fingerprint: bytes
    type: str | None
    reverses: UUID | None
    legs: tuple[Leg, ...]
    reference: str | None
    metadata: dict[str, str]
    value_time: int | None
    booked_time: int
    previous_hash: bytes
    hash: bytes
