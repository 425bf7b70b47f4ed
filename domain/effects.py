"""What handlers of capabilities get, and what they ask for. See docs/decisions/0030-shared-parts.md.

A handler changes its capability's state and returns effects. State, effects and the position of the cause commit in
one transaction. So each cause has its effects once, whatever ends the process between two steps.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID

from domain.events import Event
from domain.intents import KEY_CHARACTERS_MAX, Intent, Leg
from domain.outcomes import Outcome

OWN_KEY_START: Final = "ledgerline:"
"""The idempotency keys of capabilities begin with this. The API refuses such keys from clients."""


ORIGIN_HEADER: Final = "ledgerline-origin"
"""The header of a journal record that names the capability whose intent it is about."""


class Call(NamedTuple):
    """A call to the world outside that a handler asks for (docs/decisions/0032-outside-calls.md)."""

    tenant: str
    kind: str
    """Names the handler in streams.capabilities that makes the request and takes the answer."""
    key: str
    """Unique for ever within its kind: a call with a key that exists is not stored again. It is sent to the other side
    as the idempotency key."""
    destination: str
    """What shares a rate limit and a circuit breaker, such as an endpoint's id or `stripe`."""
    data: Mapping[str, Any]
    """What the handler needs to make the request; JSON."""


class Effects(NamedTuple):
    """What a handler asks for. Everything commits with the handler's own changes, or nothing does."""

    events: tuple[Event, ...] = ()
    intents: tuple[Intent, ...] = ()
    """Sent to payments.intents at least once. Each has a key by `make_own_key`, so a repeat moves nothing."""
    calls: tuple[Call, ...] = ()


NOTHING: Final = Effects()


class Happened(NamedTuple):
    """An event of a capability, as a reaction gets it. The pair of aggregate and version comes once."""

    event: Event
    event_id: UUID
    correlation_id: str | None
    traceparent: str | None


class Settled(NamedTuple):
    """What became of an intent that a capability asked for. Each intent is told once."""

    tenant: str
    intent_id: UUID
    key_parts: tuple[str, ...]
    """What `make_own_key` got after the capability."""
    outcome: Outcome
    """POSTED or REJECTED."""
    reason: str
    """Of a rejection: a member of domain.outcomes.Reason. Empty if the intent was posted."""
    detail: str
    legs: tuple[Leg, ...]
    """As posted; as asked for if the intent was rejected."""
    metadata: Mapping[str, str]
    booked_time: int
    """Microseconds since 1970."""


def make_own_key(capability: str, *parts: str) -> str:
    """Return the idempotency key of an intent that follows from what caused it, such as a schedule and its occurrence.

    Raise ValueError if a part is empty or has a colon, or the key is longer than KEY_CHARACTERS_MAX.
    """
    for part in (capability, *parts):
        if not part or ":" in part:
            raise ValueError(f"a part of an own key is empty or has a colon: {part!r}")
    key = OWN_KEY_START + ":".join((capability, *parts))
    if not parts or len(key) > KEY_CHARACTERS_MAX:
        raise ValueError(f"an own key has no parts, or more than {KEY_CHARACTERS_MAX} characters")
    return key


def split_own_key(key: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the capability and the parts of an own key; None if a client chose the key."""
    if not key.startswith(OWN_KEY_START):
        return None
    capability, *parts = key.removeprefix(OWN_KEY_START).split(":")
    return capability, tuple(parts)


def find_origin(key: str) -> bytes:
    """Return the capability of an own key as a header's value; it is empty if the key names none."""
    return key.removeprefix(OWN_KEY_START).partition(":")[0].encode()
