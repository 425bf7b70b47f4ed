"""Every error that the API answers with, as problem details (RFC 9457).

The list of kinds is closed. docs/ERRORS.md documents each kind, and a test fails if one is missing there. A problem's
`type` is a stable URI: clients branch on it, never on the sentence in `detail`.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

import orjson
from fastapi import Response

from db.connections import DatabaseBusy, DatabaseError
from domain.outcomes import Reason

TYPE_BASE: Final = "https://ledgerline.dev/problems/"
MEDIA_TYPE: Final = "application/problem+json"


class Kind(Enum):
    """A kind of problem: its name in the type URI, HTTP status and title."""

    BAD_REQUEST = ("bad-request", 400, "The request cannot be understood")
    INVALID_JSON = ("invalid-json", 400, "The body is not JSON")
    UNKNOWN_PARAMETER = ("unknown-parameter", 400, "The query has a parameter that is not known here")
    INVALID_CURSOR = ("invalid-cursor", 400, "The cursor is not one of this list")
    IDEMPOTENCY_KEY_REQUIRED = ("idempotency-key-required", 400, "An Idempotency-Key is required")
    IDEMPOTENCY_KEY_INVALID = ("idempotency-key-invalid", 400, "The idempotency key is not valid")
    UNAUTHENTICATED = ("unauthenticated", 401, "No valid API key was given")
    SCOPE_MISSING = ("scope-missing", 403, "The API key lacks a scope")
    NOT_FOUND = ("not-found", 404, "There is nothing at this address")
    INTENT_NOT_FOUND = ("intent-not-found", 404, "The intent is not known")
    ACCOUNT_NOT_FOUND = ("account-not-found", 404, "The account is not open")
    JOURNAL_ROW_NOT_FOUND = ("journal-row-not-found", 404, "There is no such journal row")
    SCHEDULE_NOT_FOUND = ("schedule-not-found", 404, "The schedule is not known")
    PROOF_NOT_FOUND = ("proof-not-found", 404, "There is no proof yet")
    WEBHOOK_NOT_FOUND = ("webhook-not-found", 404, "The webhook is not known")
    DELIVERY_NOT_FOUND = ("delivery-not-found", 404, "The delivery is not known")
    METHOD_NOT_ALLOWED = ("method-not-allowed", 405, "The method is not allowed here")
    HEAD_TOO_SLOW = ("head-too-slow", 408, "The request's head did not come in time")
    BODY_TOO_SLOW = ("body-too-slow", 408, "The body did not come in time")
    ORIGINAL_NOT_POSTED = ("original-not-posted", 409, "The intent to reverse is not settled yet")
    PROOF_REFUSED = ("proof-refused", 409, "The record is not what was published")
    SCHEDULE_STATE = ("schedule-state", 409, "The schedule is in another state")
    PRECONDITION_FAILED = ("precondition-failed", 412, "It was changed since it was read")
    BODY_TOO_LARGE = ("body-too-large", 413, "The body is too large")
    BODY_TOO_COMPLEX = ("body-too-complex", 413, "The body has too many parts")
    TOO_MANY_ITEMS = ("too-many-items", 413, "The batch has too many items")
    UNSUPPORTED_MEDIA_TYPE = ("unsupported-media-type", 415, "The body has a media type that is not taken here")
    INVALID_REQUEST = ("invalid-request", 422, "The request does not have the documented form")
    IDEMPOTENCY_CONFLICT = ("idempotency-conflict", 422, "The idempotency key was used for another request")
    STATEMENT_TOO_LONG = ("statement-too-long", 422, "The account has too many entries to put in order")
    LIMIT_REACHED = ("limit-reached", 422, "A bound of the tenant is reached")
    PRECONDITION_REQUIRED = ("precondition-required", 428, "An If-Match header is required")
    RATE_LIMITED = ("rate-limited", 429, "Too many requests")
    SHARE_USED_UP = ("share-used-up", 429, "The share of this key or tenant is used up")
    HEAD_TOO_LARGE = ("head-too-large", 431, "The request's head is too large")
    INTERNAL = ("internal", 500, "Something went wrong here")
    KAFKA_UNAVAILABLE = ("kafka-unavailable", 503, "Kafka did not confirm")
    DATABASE_UNAVAILABLE = ("database-unavailable", 503, "The database cannot be reached")
    DATABASE_BUSY = ("database-busy", 503, "The database has too much to do")
    INTAKE_CLOSED = ("intake-closed", 503, "No new intents are taken in at present")
    NOT_READY = ("not-ready", 503, "The service is not ready")
    OVERLOADED = ("overloaded", 503, "The service has too much to do")

    # The API refuses such an intent at once, without a journal row: one kind for each reason that needs no books.
    MALFORMED = ("malformed", 422, "The intent is malformed")
    UNSUPPORTED_TYPE = ("unsupported-type", 422, "The intent's type is not supported")
    NO_LEGS = ("no-legs", 422, "The intent has too few legs")
    TOO_MANY_LEGS = ("too-many-legs", 422, "The intent has too many legs")
    INVALID_AMOUNT = ("invalid-amount", 422, "An amount is not valid")
    UNBALANCED = ("unbalanced", 422, "Debits and credits differ")
    UNKNOWN_CURRENCY = ("unknown-currency", 422, "A currency is not known")
    VALUE_TIME_OUT_OF_RANGE = ("value-time-out-of-range", 422, "The value time is out of range")

    def __init__(self, slug: str, status: int, title: str) -> None:
        self.slug = slug
        self.status = status
        self.title = title

    @property
    def type(self) -> str:
        """The stable URI of the kind."""
        return TYPE_BASE + self.slug


_BY_SLUG: Final = {kind.slug: kind for kind in Kind}


def get_problem_kind(reason: Reason) -> Kind:
    """Return the kind of problem for a reason to refuse an intent for its shape."""
    return _BY_SLUG[reason.value.replace("_", "-")]


class Problem(Exception):
    """An answer other than success. `members` are added to the standard members, `headers` to the response."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members

    def document(self) -> dict[str, Any]:
        """Return the JSON members of the problem."""
        standard = {
            "type": self.kind.type,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
        }
        return standard | self.members

    def make_response(self) -> Response:
        """Return the problem as an HTTP response."""
        return Response(
            orjson.dumps(self.document(), default=str), self.kind.status, headers=self.headers, media_type=MEDIA_TYPE
        )


def make_unavailable_problem(kind: Kind, detail: str, retry_after_seconds: int = 1) -> Problem:
    """Return a 503 that says after how many seconds to try again."""
    return Problem(kind, detail, headers={"Retry-After": str(retry_after_seconds)})


def make_database_problem(error: DatabaseError) -> Problem:
    """Return the 503 for Postgres that is away or has too much to do."""
    kind = Kind.DATABASE_BUSY if isinstance(error, DatabaseBusy) else Kind.DATABASE_UNAVAILABLE
    return make_unavailable_problem(kind, f"{error} Nothing was done: the same request may be sent again.")
