"""Outgoing webhooks: signatures (Standard Webhooks), filters, CloudEvents bodies, the retry plan, and disabling.

Times are microseconds since 1970, if a name does not say seconds.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from domain.events import Event
from domain.times import format_rfc3339

SECOND: Final = 1_000_000
SECRET_START: Final = "whsec_"  # noqa: S105 - how each begins
SECRET_BYTES: Final = range(24, 65)
ROTATION_SECONDS: Final = 24 * 3600
"""How long the secret before the newest one signs too."""
RETRY_SECONDS: Final = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""The pause after each failed attempt. After the attempt that follows the last pause, a delivery has failed."""
ATTEMPTS_MAX: Final = len(RETRY_SECONDS) + 1
JITTER_PERCENT: Final = 10
RETRY_AFTER_SECONDS_MAX: Final = 86_400
FAILING_SECONDS_MAX: Final = 5 * 24 * 3600
"""An endpoint whose deliveries have all failed for this long is disabled."""
GONE: Final = 410
TIMEOUT_SECONDS: Final = 15.0
BODY_BYTES_MAX: Final = 65_536
EXCERPT_BYTES_MAX: Final = 256
ENDPOINTS_MAX: Final = 50
REPLAYED_MAX: Final = 10_000
DESCRIPTION_CHARACTERS_MAX: Final = 200
TYPE_START: Final = "ledgerline."
TEST_TYPE: Final = "ledgerline.webhook.test"
CONTENT_TYPE: Final = "application/cloudevents+json"
LEDGER_OUTCOMES: Final = frozenset({"posted", "rejected"})


class SecretError(ValueError):
    """A text is no secret of a webhook."""


class Secrets(NamedTuple):
    """The secrets of an endpoint, each of 24 to 64 bytes."""

    newest: bytes
    previous: bytes | None = None
    previous_until: int | None = None
    """The secret before the newest signs until then."""

    def list_valid(self, now: int) -> list[bytes]:
        """Return the secrets that sign at `now`, the newest first."""
        if self.previous is None or self.previous_until is None or now >= self.previous_until:
            return [self.newest]
        return [self.newest, self.previous]

    def rotate(self, secret: bytes, now: int) -> "Secrets":
        """Return the secrets with a new one. The present one signs for a day more, and an older one no more."""
        return Secrets(secret, self.newest, now + ROTATION_SECONDS * SECOND)


class Message(NamedTuple):
    """What a delivery carries. It is the same for all endpoints and all attempts."""

    tenant: str
    message_id: str
    """The CloudEvents id, sent as `webhook-id`."""
    type: str
    """Such as ledgerline.ledger.posted."""
    ordering: str
    """Deliveries of one ordering to an ordered endpoint wait for each other: a lane, or an aggregate."""
    accounts: frozenset[str]
    body: bytes
    occurred_time: int


def format_secret(secret: bytes) -> str:
    """Return a secret as its receiver gets it: `whsec_` and Base64."""
    return SECRET_START + base64.b64encode(secret).decode()


def parse_secret(text: str) -> bytes:
    """Return the bytes of a secret. Raise SecretError for anything else than `whsec_` and Base64 of 24 to 64 bytes."""
    try:
        secret = base64.b64decode(text.removeprefix(SECRET_START), validate=True)
    except (ValueError, binascii.Error) as error:
        raise SecretError("The secret is not Base64.") from error
    if not text.startswith(SECRET_START) or len(secret) not in SECRET_BYTES:
        raise SecretError(f"A secret is {SECRET_START} and the Base64 of 24 to 64 bytes.")
    return secret


def sign(secret: bytes, message_id: str, seconds: int, body: bytes) -> str:
    """Return the signature of an attempt: `v1,` and Base64 of HMAC-SHA-256 over `id.timestamp.body`."""
    signed = b"%s.%d.%s" % (message_id.encode(), seconds, body)
    return "v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()


def make_headers(secrets: Secrets, message_id: str, body: bytes, now: int) -> dict[str, str]:
    """Return the headers of an attempt at `now`. After a rotation they have the signatures of both secrets."""
    seconds = now // SECOND
    return {
        "content-type": CONTENT_TYPE,
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(sign(secret, message_id, seconds, body) for secret in secrets.list_valid(now)),
    }


def compute_next_time(attempts: int, now: int, jitter: float, retry_after_seconds: int | None = None) -> int | None:
    """Return when to try again after this many failed attempts; None if the plan has ended.

    `jitter`: at random from 0 to 1; it lengthens the pause by up to a tenth. `retry_after_seconds`: what the endpoint
    asked for. The pause is never shorter than that, up to a day.
    """
    if attempts >= ATTEMPTS_MAX:
        return None
    seconds = RETRY_SECONDS[attempts - 1] * (1 + jitter * JITTER_PERCENT / 100)
    if retry_after_seconds is not None:
        seconds = max(seconds, min(retry_after_seconds, RETRY_AFTER_SECONDS_MAX))
    return now + int(seconds * SECOND)


def is_success(status: int | None) -> bool:
    """Return whether a status of HTTP means that the delivery arrived: 2xx only, as redirects are not followed."""
    return status is not None and 200 <= status < 300


def find_disabling_reason(status: int | None, failing_since: int | None, now: int) -> str | None:
    """Return why an endpoint is disabled after a failed attempt; None if it is not.

    `failing_since`: the first failed attempt since the last success.
    """
    if status == GONE:
        return "The endpoint answered 410 (Gone)."
    if failing_since is not None and now - failing_since >= FAILING_SECONDS_MAX * SECOND:
        return "All deliveries have failed for five days."
    return None


def make_journal_message(record: Mapping[str, Any]) -> Message | None:
    """Return the message of a journal record (the Avro record as a dict); None for duplicates and the like."""
    if record["outcome"] not in LEDGER_OUTCOMES or record["tenant"] is None:
        return None
    booked_time = _get_microseconds(record["booked_time"])
    data = {
        name: record[name]
        for name in (
            "intent_id", "idempotency_key", "outcome", "reason", "detail", "type", "reverses", "legs", "reference",
            "metadata", "lane", "seq",
        )
    }  # fmt: skip
    data["value_time"] = (
        None if record["value_time"] is None else format_rfc3339(_get_microseconds(record["value_time"]))
    )
    data["hash"] = record["hash"].hex()
    event = _make_event(
        record["hash"].hex(), f"ledgerline.ledger.{record['outcome']}", record["intent_id"], booked_time
    )
    event |= {"source": "/ledgerline/ledger", "sequence": str(record["seq"]), "lane": str(record["lane"])}
    return Message(
        record["tenant"], event["id"], event["type"], f"lane:{record['lane']}",
        frozenset(leg["account"] for leg in record["legs"]), _encode(event, data), booked_time,
    )  # fmt: skip


def make_event_message(event: Event, event_id: UUID) -> Message:
    """Return the message of a capability's event."""
    made = _make_event(str(event_id), f"ledgerline.{event.family}.{event.type}", event.aggregate, event.occurred_time)
    made |= {"source": f"/ledgerline/{event.family}", "sequence": str(event.version)}
    return Message(
        event.tenant, made["id"], made["type"], event.aggregate, frozenset(), _encode(made, event.data),
        event.occurred_time,
    )  # fmt: skip


def make_test_message(tenant: str, message_id: str, endpoint_id: str, now: int) -> Message:
    """Return a message by which people try an endpoint."""
    event = _make_event(message_id, TEST_TYPE, endpoint_id, now) | {"source": "/ledgerline/webhooks", "sequence": "0"}
    body = _encode(event, {"endpoint_id": endpoint_id})
    return Message(tenant, message_id, TEST_TYPE, f"test:{message_id}", frozenset(), body, now)


def _make_event(event_id: str, event_type: str, subject: str, time: int) -> dict[str, Any]:
    return {
        "specversion": "1.0", "id": event_id, "type": event_type, "subject": subject, "time": format_rfc3339(time),
        "datacontenttype": "application/json",
    }  # fmt: skip


def _encode(event: Mapping[str, Any], data: Mapping[str, Any]) -> bytes:
    """Return the JSON. Of data too large for a delivery only the short members stay, and `truncated` says so."""
    body = orjson.dumps({**event, "data": data}, default=_make_json)
    if len(body) <= BODY_BYTES_MAX:
        return body
    short = {
        name: value for name, value in data.items() if not isinstance(value, Mapping | Sequence) or _is_short(value)
    }
    return orjson.dumps({**event, "data": {**short, "truncated": True}}, default=_make_json)


def _is_short(value: Any) -> bool:
    return isinstance(value, str | bytes) and len(value) <= 1000


def _make_json(value: Any) -> Any:
    """Return a value of Avro that JSON does not have."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def _get_microseconds(value: Any) -> int:
    """Return a time that the codec gave as a number, or fastavro as a datetime."""
    if isinstance(value, datetime):
        return int(value.timestamp()) * SECOND + value.microsecond
    assert not isinstance(value, date)  # noqa: S101 - the schema has no dates
    return int(value)
