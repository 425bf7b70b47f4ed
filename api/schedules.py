"""Schedules of the key's tenant: intents for later, or repeated."""

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Annotated, Any, Final, Literal, NamedTuple
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from api.callers import Needs, Reader, make_reader
from api.intent_bodies import get_now_microseconds, refuse_own_key
from api.lists import Cursor, Limit
from api.parameters import Moment, parse_moment
from api.parts import Parts
from api.problems import Kind, Problem
from api.request_headers import IDEMPOTENCY_KEY, get_idempotency_key, get_media_type
from api.responses import make_json_response, make_problem_responses
from api.schedule_models import (
    OccurrencesPage,
    ScheduleBody,
    ScheduleChanges,
    SchedulesPage,
    ScheduleView,
    make_invalid,
    make_occurrence_view,
    make_view,
    parse_body,
    parse_fields,
)
from api.tracing import get_trace
from db.access import ApiKey, Scope
from db.fetch import Pool
from db.schedules import TenantSchedules, open_tenant
from domain.fingerprint import make_canonical_json
from domain.intents import DIRECTIONS, Leg
from domain.schedules import states
from domain.schedules.recurrence import RuleFault
from domain.schedules.states import Schedule, StateFault, Step
from domain.screening import find_currency_fault, find_key_fault
from producers.event_encoding import EventEncoders
from runtime.zones import find_zone

router = APIRouter(tags=["schedules"])
BODY_MODELS: Final = (ScheduleBody, ScheduleChanges)
_START_PAST_MICROSECONDS_MAX: Final = 86_400_000_000
_ANY: Final = "*"
_NUMBER_MAX: Final = 2**62

Id = Annotated[UUID, Path(description="The schedule's id, from the answer when it was made.")]
IF_MATCH: Final[dict[str, Any]] = {
    "name": "If-Match", "in": "header", "required": True, "schema": {"type": "string"},
    "description": "The ETag of the schedule as you know it; * for any.", "example": '"1"',
}  # fmt: skip


def _make_extra(model: str | None, *parameters: dict[str, Any]) -> dict[str, Any]:
    extra: dict[str, Any] = {"parameters": list(parameters)}
    if model is not None:
        schema = {"$ref": f"#/components/schemas/{model}"}
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return extra


class Writer(NamedTuple):
    """The caller of a route that changes schedules. A change waits for its turn among the reads of its key."""

    reader: Reader
    encoders: EventEncoders


def _make_writer(key: ApiKey, parts: Parts) -> Writer:
    return Writer(make_reader(key, parts), parts.event_schemas.get_encoders())


SchedulesReader = Annotated[Reader, Depends(Needs(Scope.SCHEDULES_READ, make_reader))]
SchedulesWriter = Annotated[Writer, Depends(Needs(Scope.SCHEDULES_WRITE, _make_writer))]

_CHANGE_PROBLEMS: Final = (
    Kind.SCHEDULE_NOT_FOUND, Kind.SCHEDULE_STATE, Kind.PRECONDITION_FAILED, Kind.PRECONDITION_REQUIRED,
)  # fmt: skip
_BODY_PROBLEMS: Final = (
    Kind.INVALID_JSON, Kind.UNSUPPORTED_MEDIA_TYPE, Kind.MALFORMED, Kind.UNSUPPORTED_TYPE, Kind.NO_LEGS,
    Kind.TOO_MANY_LEGS, Kind.INVALID_AMOUNT, Kind.UNBALANCED, Kind.UNKNOWN_CURRENCY, Kind.BODY_TOO_COMPLEX,
)  # fmt: skip


@router.post(
    "/v1/schedules",
    status_code=201,
    response_model=ScheduleView,
    openapi_extra=_make_extra("ScheduleBody", IDEMPOTENCY_KEY),
    responses=make_problem_responses(
        Kind.IDEMPOTENCY_KEY_REQUIRED, Kind.IDEMPOTENCY_KEY_INVALID, Kind.IDEMPOTENCY_CONFLICT, *_BODY_PROBLEMS
    )
    | {200: {"model": ScheduleView, "description": "The same request made it before."}},
)
async def post_schedule(request: Request, writer: SchedulesWriter) -> Response:
    """Make a schedule."""
    key = get_idempotency_key(request)
    fault = find_key_fault(key)
    if fault is not None:
        raise Problem(Kind.IDEMPOTENCY_KEY_INVALID, fault)
    refuse_own_key(key)
    reader = writer.reader
    schedule_id = states.compute_schedule_id(reader.tenant, key)
    body = parse_body(await _read_json(request), ScheduleBody)
    fields = parse_fields(body, reader.tenant, schedule_id)
    _require_currencies(fields, reader)
    now = get_now_microseconds()
    fresh = Schedule(
        reader.tenant, schedule_id, 0, "active",
        **{
            "name": "", "zone": "UTC", "rrule": None, "missed": "post", "retries": body.retry.times,
            "retry_pause_seconds": body.retry.pause_seconds, **fields,
        },
        rule_time=0, base=0, number=1, local=None, occurrence_time=None, attempt=0, is_in_flight=False, not_before=0,
        skip_before=0, created_time=now, changed_time=now, end_reason=None, trouble=None,
    )  # fmt: skip
    asked = [fresh.name, fresh.intent, fresh.start, fresh.zone, fresh.rrule, fresh.missed, body.retry.model_dump()]
    request_hash = sha256(make_canonical_json({"asked": asked})).digest()
    step = _decide(lambda schedule: states.create(schedule, _find_zone(schedule), now), fresh)
    encoded = [writer.encoders.encode(event, get_trace(request)) for event in step.events]

    async def add(pool: Pool) -> tuple[Schedule, bool]:
        async with open_tenant(pool, reader.tenant) as store:
            known = await store.find(schedule_id)
            if known is None:
                _require_future(step.schedule, now)
                if await store.add(step.schedule, request_hash):
                    await store.append(encoded)
                    return step.schedule, True
                known = await store.find(schedule_id)
            if known is None or known[1] != request_hash:
                raise Problem(
                    Kind.IDEMPOTENCY_CONFLICT,
                    "This idempotency key was used for a request with another body: choose a new key.",
                    schedule_id=str(schedule_id),
                )
            return known[0], False

    schedule, is_new = await reader.read(add)
    headers = {"Location": f"/v1/schedules/{schedule_id}"} | ({} if is_new else {"Idempotent-Replayed": "true"})
    return _answer(schedule, 201 if is_new else 200, headers)


@router.get("/v1/schedules", response_model=SchedulesPage, responses=make_problem_responses(Kind.INVALID_CURSOR))
async def list_schedules(
    reader: SchedulesReader,
    state: Annotated[Literal["active", "paused", "ended"] | None, Query(description="Only these.")] = None,
    due_before: Moment = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """The schedules, the newest first."""
    page = reader.page(("schedules", reader.tenant), "/v1/schedules", limit, cursor, state=state, due_before=due_before)
    after = page.begin(2**62, "")
    until = parse_moment(due_before, "due_before")

    async def ask(pool: Pool) -> list[Schedule]:
        async with open_tenant(pool, reader.tenant) as store:
            return await store.list_page(state, until, after, page.rows_max)

    return page.make_response(await reader.read(ask), make_view, lambda row: (row.created_time, str(row.schedule_id)))


@router.get(
    "/v1/schedules/{schedule_id}",
    response_model=ScheduleView,
    responses=make_problem_responses(Kind.SCHEDULE_NOT_FOUND),
)
async def get_schedule(reader: SchedulesReader, schedule_id: Id) -> Response:
    """One schedule; its ETag is for If-Match."""

    async def ask(pool: Pool) -> Schedule:
        async with open_tenant(pool, reader.tenant) as store:
            return await _find(store, schedule_id)

    return _answer(await reader.read(ask))


@router.get(
    "/v1/schedules/{schedule_id}/occurrences",
    response_model=OccurrencesPage,
    responses=make_problem_responses(Kind.SCHEDULE_NOT_FOUND, Kind.INVALID_CURSOR),
)
async def list_occurrences(
    reader: SchedulesReader, schedule_id: Id, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """The occurrences of a schedule that were sent, settled or skipped, the newest first."""
    path = f"/v1/schedules/{schedule_id}/occurrences"
    page = reader.page(("occurrences", reader.tenant, str(schedule_id)), path, limit, cursor)
    (before,) = page.begin(_NUMBER_MAX)

    async def ask(pool: Pool) -> list[states.Occurrence]:
        async with open_tenant(pool, reader.tenant) as store:
            await _find(store, schedule_id)
            return await store.list_occurrences(schedule_id, before, page.rows_max)

    rows = await reader.read(ask)
    return page.make_response(rows, partial(make_occurrence_view, schedule_id), lambda row: (row.number,))


@router.patch(
    "/v1/schedules/{schedule_id}",
    response_model=ScheduleView,
    openapi_extra=_make_extra("ScheduleChanges", IF_MATCH),
    responses=make_problem_responses(*_CHANGE_PROBLEMS, *_BODY_PROBLEMS),
)
async def change_schedule(request: Request, writer: SchedulesWriter, schedule_id: Id) -> Response:
    """Change a schedule. A new rule, start or zone holds from the next occurrence on."""
    body = parse_body(await _read_json(request), ScheduleChanges)
    fields = parse_fields(body, writer.reader.tenant, schedule_id)
    if not fields:
        raise make_invalid("", "Give at least one field to change.")
    _require_currencies(fields, writer.reader)
    now = get_now_microseconds()

    def decide(schedule: Schedule) -> Step:
        return states.change(schedule, fields, _find_zone(schedule._replace(**fields)), now)

    return await _apply(request, writer, schedule_id, decide)


_ACTION: Final[dict[str, Any]] = {
    "response_model": ScheduleView,
    "openapi_extra": _make_extra(None, IF_MATCH),
    "responses": make_problem_responses(*_CHANGE_PROBLEMS),
}


@router.post("/v1/schedules/{schedule_id}/pause", **_ACTION)
async def pause_schedule(request: Request, writer: SchedulesWriter, schedule_id: Id) -> Response:
    """Pause a schedule. What falls into the pause is skipped when it resumes."""
    now = get_now_microseconds()
    return await _apply(request, writer, schedule_id, lambda schedule: states.pause(schedule, now))


@router.post("/v1/schedules/{schedule_id}/resume", **_ACTION)
async def resume_schedule(request: Request, writer: SchedulesWriter, schedule_id: Id) -> Response:
    """Resume a paused schedule, in its old phase."""
    now = get_now_microseconds()
    return await _apply(request, writer, schedule_id, lambda schedule: states.resume(schedule, now))


@router.post("/v1/schedules/{schedule_id}/end", **_ACTION)
async def end_schedule(request: Request, writer: SchedulesWriter, schedule_id: Id) -> Response:
    """End a schedule for good."""
    now = get_now_microseconds()
    return await _apply(request, writer, schedule_id, lambda schedule: states.end(schedule, now))


async def _apply(request: Request, writer: Writer, schedule_id: UUID, decide: Callable[[Schedule], Step]) -> Response:
    """Change a locked schedule and append its events, in one transaction."""
    wanted = _read_if_match(request)
    tenant = writer.reader.tenant

    async def change(pool: Pool) -> Schedule:
        async with open_tenant(pool, tenant) as store:
            schedule = await _find(store, schedule_id, lock=True)
            if _ANY not in wanted and _make_tag(schedule) not in wanted:
                raise Problem(
                    Kind.PRECONDITION_FAILED,
                    f"The schedule is at version {schedule.version} now: read it again, then decide.",
                    version=schedule.version,
                )
            step = _decide(decide, schedule)
            encoded = [writer.encoders.encode(event, get_trace(request)) for event in step.events]
            await store.write(step.schedule, encoded)
            return step.schedule

    return _answer(await writer.reader.read(change))


def _decide(decide: Callable[[Schedule], Step], schedule: Schedule) -> Step:
    try:
        return decide(schedule)
    except RuleFault as error:
        raise make_invalid("/rrule", str(error)) from error
    except StateFault as error:
        if schedule.version == 0:
            raise make_invalid("/rrule", str(error)) from error
        raise Problem(Kind.SCHEDULE_STATE, str(error), state=schedule.state) from error


async def _find(store: TenantSchedules, schedule_id: UUID, *, lock: bool = False) -> Schedule:
    found = await store.find(schedule_id, lock=lock)
    if found is None:
        raise Problem(Kind.SCHEDULE_NOT_FOUND, "There is no schedule with this id.")
    return found[0]


async def _read_json(request: Request) -> bytes:
    if get_media_type(request) != "application/json":
        raise Problem(Kind.UNSUPPORTED_MEDIA_TYPE, "Send the schedule as Content-Type: application/json.")
    return await request.body()


def _require_currencies(fields: dict[str, Any], reader: Reader) -> None:
    if "intent" in fields:
        legs = [
            Leg(leg["account"], DIRECTIONS[leg["direction"]], leg["amount_minor"], leg["currency"])
            for leg in fields["intent"]["legs"]
        ]
        fault = find_currency_fault(legs, reader.units)
        if fault is not None:
            raise Problem(Kind.UNKNOWN_CURRENCY, fault)


def _require_future(schedule: Schedule, now: int) -> None:
    first = schedule.occurrence_time or 0
    if first < now - _START_PAST_MICROSECONDS_MAX:
        raise make_invalid("/start", "The first occurrence is more than a day in the past: begin in the future.")


def _find_zone(schedule: Schedule) -> Any:
    zone = find_zone(schedule.zone)
    if zone is None:
        raise StateFault(f"The time zone {schedule.zone} is not known here.")
    return zone


def _read_if_match(request: Request) -> frozenset[str]:
    """Return the entity tags of If-Match. Raise Problem if there are none."""
    sent = ",".join(request.headers.getlist("if-match"))
    tags = frozenset(tag.strip() for tag in sent.split(",") if tag.strip())
    if not tags:
        raise Problem(Kind.PRECONDITION_REQUIRED, 'Send If-Match with the ETag that you read, such as "1", or *.')
    return tags


def _make_tag(schedule: Schedule) -> str:
    return f'"{schedule.version}"'


def _answer(schedule: Schedule, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return make_json_response(make_view(schedule), status, {**(headers or {}), "ETag": _make_tag(schedule)})
