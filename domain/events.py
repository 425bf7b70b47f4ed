"""Events of the capabilities: what happened to an aggregate, named in the past tense (`UserJoinedGroup`).

A capability's change of state and its events commit in one transaction (db.outbox). The relay then publishes each event
once to its family's topic, in the order of the aggregate's versions. See docs/decisions/0029-outbox.md.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5
from zlib import crc32

LANES: Final = 8
"""The lanes of the outbox. All events of an aggregate are in one lane."""


class Family(NamedTuple):
    """How the topic of a family is made."""

    partitions: int = 4
    kept_days: int = 90


FAMILIES: Final[Mapping[str, Family]] = {
    "notification": Family(), "schedule": Family(), "transaction": Family(),
}  # fmt: skip
"""The families of events, by name. A capability that begins one adds it here; the deploy step makes its topic."""

# Namespace of event ids: uuid5(DNS namespace, "ledgerline.events"), fixed for ever.
EVENT_NAMESPACE: Final = UUID("a1507262-97d1-5ffb-8159-9caef87c66f0")


class Event(NamedTuple):
    """What happened to an aggregate."""

    family: str
    """`group` is published to the topic group.events."""
    type: str
    """The name of the event's Avro record, such as UserJoinedGroup."""
    tenant: str
    aggregate: str
    """What changed, such as groups:7."""
    version: int
    """The version that the change gave to the aggregate: 1, 2, 3, without gaps. So a change has one event."""
    data: Mapping[str, Any]
    """The members of the Avro record."""
    occurred_time: int
    """Microseconds since 1970."""


def make_event_id(event: Event) -> UUID:
    """Return the id of an event. It follows from tenant, aggregate and version, so a repeated event has the same id."""
    return uuid5(EVENT_NAMESPACE, f"{event.tenant}\x00{event.aggregate}\x00{event.version}")


def choose_lane(event: Event) -> int:
    """Return the outbox's lane of the event's aggregate."""
    return crc32(f"{event.tenant}\x00{event.aggregate}".encode()) % LANES


def name_subject(family: str, type: str) -> str:
    """Return the subject of an event's schema: the topic and the record's full name (TopicRecordNameStrategy)."""
    return f"{family}.events-ledgerline.{family}.{type}"
