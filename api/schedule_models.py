"""Bodies and views of schedules."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.form_sentences import make_form_sentence
from api.intent_bodies import parse_json, read_intent
from api.intent_models import IntentBody
from api.lists import NextLink
from api.problems import Kind, Problem
from api.times import to_optional_rfc3339
from domain.intents import Intent
from domain.schedules.recurrence import RULE_CHARACTERS_MAX, YEAR_MAX
from domain.schedules.states import (
    NAME_CHARACTERS_MAX,
    RETRIES_MAX,
    RETRY_PAUSE_SECONDS_MAX,
    RETRY_PAUSE_SECONDS_MIN,
    Occurrence,
    Schedule,
    make_key,
)
from runtime.zones import ZONE_CHARACTERS_MAX, find_zone

_EXAMPLE: Final[dict[str, Any]] = {
    "name": "Rent", "start": "2027-01-31T09:00:00", "zone": "Europe/Berlin", "rrule": "FREQ=MONTHLY;COUNT=12",
    "missed": "post", "retry": {"times": 3, "pause_seconds": 86400},
    "intent": {
        "type": "transfer",
        "legs": [
            {"account": "users:42:wallet", "direction": "debit", "amount_minor": 90000, "currency": "EUR"},
            {"account": "users:7:wallet", "direction": "credit", "amount_minor": 90000, "currency": "EUR"},
        ],
    },
}  # fmt: skip
_START: Final = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?$"


class RetryBody(BaseModel):
    """What happens to an occurrence that is refused for want of funds or for what the books lack."""

    model_config = ConfigDict(strict=True, extra="forbid")

    times: Annotated[int, Field(ge=0, le=RETRIES_MAX, description="Attempts after the first.")] = 3
    pause_seconds: Annotated[
        int, Field(ge=RETRY_PAUSE_SECONDS_MIN, le=RETRY_PAUSE_SECONDS_MAX, description="Between two attempts.")
    ] = 86_400


_Intent = Annotated[
    dict[str, Any],
    Field(
        description="IntentBody, a transfer without value_time: that is the occurrence's time.",
        # The schema names the form; the ledger's own rules check the intent.
        json_schema_extra={"required": ["type"]},
    ),
]
_LocalTime = Annotated[
    str, Field(pattern=_START, description="Local time in the zone; the first occurrence is not before it.")
]


class ScheduleChanges(BaseModel):
    """Fields of a schedule to change; the others stay as they are."""

    model_config = ConfigDict(strict=True, extra="forbid", title="Schedule changes")

    name: Annotated[str, Field(max_length=NAME_CHARACTERS_MAX, description="A text for people.")] = ""
    intent: _Intent = {}
    start: _LocalTime = ""
    zone: Annotated[str, Field(max_length=ZONE_CHARACTERS_MAX, description="A name of the IANA database.")] = "UTC"
    rrule: Annotated[
        str | None, Field(max_length=RULE_CHARACTERS_MAX + 6, description="A rule by RFC 5545; null: once.")
    ] = None
    missed: Annotated[
        Literal["post", "skip", "last"], Field(description="What becomes of occurrences that downtime made late.")
    ] = "post"
    retry: RetryBody = RetryBody()


class ScheduleBody(ScheduleChanges):
    """An intent for later, or repeated."""

    model_config = ConfigDict(
        strict=True, extra="forbid", title="Schedule request", json_schema_extra={"examples": [_EXAMPLE]}
    )

    # A form without them is refused: the defaults above are those of a change.
    intent: _Intent
    start: _LocalTime


class CurrentView(BaseModel):
    """The current occurrence."""

    number: int
    local: str = Field(description="Local time by the rule.")
    time: str
    state: Literal["due", "sent", "retrying"]
    attempts: int
    due_time: str | None = Field(None, description="When the clock comes to it; null if paused, ended or sent.")


class ScheduleView(BaseModel):
    """A schedule."""

    schedule_id: str
    version: int
    state: Literal["active", "paused", "ended"]
    end_reason: str | None = None
    name: str
    intent: IntentBody
    start: str
    zone: str
    rrule: str | None = None
    missed: str
    retry: RetryBody
    current: CurrentView | None = Field(None, description="Null after the last occurrence.")
    trouble: str | None = Field(None, description="Why the clock could not send the current occurrence.")
    created_time: str
    changed_time: str


class OccurrenceView(BaseModel):
    """An occurrence that was sent, settled or skipped."""

    number: int
    local: str
    time: str
    state: Literal["sent", "posted", "retrying", "refused", "skipped"]
    attempts: int
    intent_id: str | None = None
    idempotency_key: str | None = None
    reason: str | None = None
    detail: str | None = None
    next_attempt_time: str | None = None
    changed_time: str


class SchedulesPage(BaseModel):
    """Schedules, the newest first."""

    items: list[ScheduleView]
    next: NextLink


class OccurrencesPage(BaseModel):
    """Occurrences, the newest first."""

    items: list[OccurrenceView]
    next: NextLink


def make_invalid(pointer: str, detail: str) -> Problem:
    """Return the problem with one part of a body."""
    return Problem(Kind.INVALID_REQUEST, f"{pointer}: {detail}", errors=[{"pointer": pointer, "detail": detail}])


def parse_body(raw: bytes, model: type[ScheduleChanges]) -> ScheduleChanges:
    """Return a body by its model. Raise Problem that lists what is wrong."""
    value = parse_json(raw)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)[:20]
        faults = [
            {
                "pointer": "".join(f"/{part}" for part in fault["loc"])[:200],
                "detail": make_form_sentence(fault, sorted(model.model_fields)),
            }
            for fault in found
        ]
        detail = f"{faults[0]['pointer']}: {faults[0]['detail']}"
        raise Problem(Kind.INVALID_REQUEST, detail, errors=faults) from error


def parse_fields(body: ScheduleChanges, tenant: str, schedule_id: UUID) -> dict[str, Any]:
    """Return the fields of domain.schedules.states.Schedule that a body gives. Raise Problem."""
    given = body.model_fields_set
    fields: dict[str, Any] = {name: getattr(body, name) for name in given & {"name", "zone", "rrule", "missed"}}
    if "\x00" in fields.get("name", "") or "\x00" in (fields.get("rrule") or ""):
        raise make_invalid("/name", "A text has no NUL.")
    if "retry" in given:
        fields |= {"retries": body.retry.times, "retry_pause_seconds": body.retry.pause_seconds}
    if "zone" in given and find_zone(body.zone) is None:
        raise make_invalid("/zone", "This is no time zone: write a name such as Europe/Berlin or UTC.")
    if "start" in given:
        try:
            fields["start"] = datetime.fromisoformat(body.start)
        except ValueError as error:
            raise make_invalid("/start", "There is no such day or time.") from error
        if not 1970 <= fields["start"].year <= YEAR_MAX:
            raise make_invalid("/start", f"A schedule starts in the years 1970 to {YEAR_MAX}.")
    if "intent" in given:
        fields["intent"] = make_intent_body(_judge_intent(body.intent, tenant, schedule_id))
    return fields


def _judge_intent(value: Any, tenant: str, schedule_id: UUID) -> Intent:
    try:
        intent = read_intent(value, tenant, make_key(schedule_id, 1, 1))
    except Problem as problem:
        for fault in problem.members.get("errors", ()):
            fault["pointer"] = f"/intent{fault['pointer']}"
        raise
    if intent.type != "transfer":
        raise make_invalid("/intent/type", "A schedule posts transfers: a reversal is posted once, at once.")
    if intent.value_time is not None:
        raise make_invalid("/intent/value_time", "Leave it out: the value time is that of the occurrence.")
    return intent


def make_intent_body(intent: Intent) -> dict[str, Any]:
    """Return the body that is stored, in one form whatever was left out."""
    legs = [
        {
            "account": leg.account, "direction": "debit" if leg.direction > 0 else "credit",
            "amount_minor": leg.amount_minor, "currency": leg.currency,
        }
        for leg in intent.legs
    ]  # fmt: skip
    return {"type": intent.type, "legs": legs, "reference": intent.reference, "metadata": intent.metadata}


def make_view(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule as JSON."""
    return {
        "schedule_id": str(schedule.schedule_id), "version": schedule.version, "state": schedule.state,
        "end_reason": schedule.end_reason, "name": schedule.name, "intent": schedule.intent,
        "start": schedule.start.isoformat(), "zone": schedule.zone, "rrule": schedule.rrule,
        "missed": schedule.missed,
        "retry": {"times": schedule.retries, "pause_seconds": schedule.retry_pause_seconds},
        "current": _make_current(schedule), "trouble": schedule.trouble,
        "created_time": to_optional_rfc3339(schedule.created_time),
        "changed_time": to_optional_rfc3339(schedule.changed_time),
    }  # fmt: skip


def _make_current(schedule: Schedule) -> Mapping[str, Any] | None:
    if schedule.local is None:
        return None
    state = "sent" if schedule.is_in_flight else "retrying" if schedule.attempt else "due"
    return {
        "number": schedule.number, "local": schedule.local.isoformat(),
        "time": to_optional_rfc3339(schedule.occurrence_time), "state": state, "attempts": schedule.attempt,
        "due_time": to_optional_rfc3339(schedule.due_time),
    }  # fmt: skip


def make_occurrence_view(schedule_id: UUID, row: Occurrence) -> dict[str, Any]:
    """Return an occurrence as JSON."""
    key = make_key(schedule_id, row.number, row.attempts) if row.intent_id is not None else None
    return {
        "number": row.number, "local": row.local.isoformat(), "time": to_optional_rfc3339(row.occurrence_time),
        "state": row.state, "attempts": row.attempts,
        "intent_id": None if row.intent_id is None else str(row.intent_id), "idempotency_key": key,
        "reason": row.reason, "detail": row.detail,
        "next_attempt_time": to_optional_rfc3339(row.next_attempt_time),
        "changed_time": to_optional_rfc3339(row.changed_time),
    }  # fmt: skip
