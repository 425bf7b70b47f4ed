"""POST /v1/intents, POST /v1/intents/batch, GET /v1/intents/{intent_id}."""

from typing import Annotated, Any, Final, NamedTuple
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, Path, Query, Request, Response

from api.callers import Needs
from api.direct_routes import answer_directly
from api.intent_bodies import BATCH_ITEMS_MAX, parse_batch, parse_intent
from api.intent_models import BatchItem, IntentBody
from api.intent_views import (
    BatchView,
    IntentView,
    make_location,
    make_pending_view,
    make_problem_item,
    make_settled_view,
)
from api.known_books import KnownBooks
from api.outcomes import Outcomes
from api.parts import Parts
from api.problems import Kind, Problem
from api.request_headers import IDEMPOTENCY_KEY, PREFER_WAIT, get_idempotency_key, get_media_type, get_preferred_wait
from api.responses import make_json_response, make_problem_responses
from api.submission import Result, Submission, compute_intent_fingerprint, make_conflict_problem
from api.tracing import get_trace
from db.access import ApiKey, Scope
from db.connections import DatabaseError
from db.reads import IntentQuestion, Settled
from domain.intents import Intent
from domain.outcomes import Outcome
from producers.intents import Delivered

router = APIRouter(tags=["intents"])
logger: Final = structlog.get_logger(__name__)

_REPLAYED: Final = "Idempotent-Replayed"
_BATCH_TYPES: Final = {"application/json": False, "application/x-ndjson": True, "application/ndjson": True}


def _make_body_schema(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


BODY_MODELS: Final = (IntentBody, BatchItem)
_POST_EXTRA: Final[dict[str, Any]] = {
    "parameters": [IDEMPOTENCY_KEY, PREFER_WAIT],
    "requestBody": {"required": True, "content": {"application/json": {"schema": _make_body_schema("IntentBody")}}},
}
_BATCH_EXTRA: Final[dict[str, Any]] = {
    "parameters": [PREFER_WAIT],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "array", "maxItems": BATCH_ITEMS_MAX, "items": _make_body_schema("BatchItem")}
            },
            "application/x-ndjson": {
                "schema": {"type": "string", "description": "One batch item on each line."},
                "example": '{"idempotency_key":"order-17","type":"transfer","legs":[]}\n',
            },
        },
    },
}


class Writer(NamedTuple):
    """The caller of a route that takes intents."""

    tenant: str
    submission: Submission
    outcomes: Outcomes
    books: KnownBooks
    wait_seconds_max: float


class Asker(NamedTuple):
    """The caller of a route that asks what became of an intent."""

    tenant: str
    outcomes: Outcomes
    books: KnownBooks
    topic: str


def _make_writer(key: ApiKey, parts: Parts) -> Writer:
    return Writer(key.tenant, parts.submission, parts.outcomes, parts.books, parts.configuration.wait_seconds_max)


def _make_asker(key: ApiKey, parts: Parts) -> Asker:
    return Asker(key.tenant, parts.outcomes, parts.books, parts.configuration.topics.intents)


IntentsWriter = Annotated[Writer, Depends(Needs(Scope.INTENTS_WRITE, _make_writer))]
IntentsAsker = Annotated[Asker, Depends(Needs(Scope.INTENTS_READ, _make_asker))]


@router.post(
    "/v1/intents",
    status_code=202,
    response_model=IntentView,
    openapi_extra=_POST_EXTRA,
    responses=make_problem_responses(
        Kind.INVALID_JSON,
        Kind.IDEMPOTENCY_KEY_REQUIRED,
        Kind.IDEMPOTENCY_KEY_INVALID,
        Kind.ORIGINAL_NOT_POSTED,
        Kind.UNSUPPORTED_MEDIA_TYPE,
        Kind.IDEMPOTENCY_CONFLICT,
        Kind.KAFKA_UNAVAILABLE,
        Kind.INTAKE_CLOSED,
        Kind.MALFORMED,
        Kind.UNSUPPORTED_TYPE,
        Kind.NO_LEGS,
        Kind.TOO_MANY_LEGS,
        Kind.INVALID_AMOUNT,
        Kind.UNBALANCED,
        Kind.UNKNOWN_CURRENCY,
        Kind.VALUE_TIME_OUT_OF_RANGE,
    )
    | {
        200: {"model": IntentView, "description": "Settled: posted or rejected. Known before, or waited for."},
        202: {"model": IntentView, "description": "Kafka has it, on all in-sync replicas; the outcome is pending."},
    },
)
@answer_directly
async def post_intent(request: Request, writer: IntentsWriter) -> Response:
    """Post one intent."""
    if get_media_type(request) != "application/json":
        raise Problem(Kind.UNSUPPORTED_MEDIA_TYPE, "Send the intent as Content-Type: application/json.")
    key = get_idempotency_key(request)
    wait, applied = get_preferred_wait(request, writer.wait_seconds_max)
    try:
        intent = parse_intent(await request.body(), writer.tenant, key)
    except Problem:
        writer.submission.count_refused(1)
        raise
    result = (await writer.submission.submit(writer.tenant, [intent], get_trace(request)))[0]
    if isinstance(result, Problem):
        raise result
    units = writer.books.units(writer.tenant)
    if isinstance(result, Settled):
        state = await writer.outcomes.find_state(writer.tenant, IntentQuestion(intent.intent_id))
        return make_json_response(make_settled_view(state.settled or result, units), 200, applied | {_REPLAYED: "true"})
    if wait is not None and await writer.outcomes.wait({result.partition: result.offset}, wait):
        answer = await _find_outcome(writer, intent.intent_id, result, applied)
        if answer is not None:
            return answer
    headers = applied | {"Location": make_location(intent.intent_id, result)}
    return make_json_response(make_pending_view(intent.intent_id, result), 202, headers)


async def _find_outcome(
    writer: Writer, intent_id: UUID, delivered: Delivered, applied: dict[str, str]
) -> Response | None:
    """Return the answer for a delivery whose lane was posted past its offset. Raise Problem for a conflict of keys.

    Return None if the delivery was quarantined, or if Postgres is away or busy. Then the caller answers "pending", as
    Kafka has the intent.
    """
    try:
        question = IntentQuestion(intent_id, delivered.partition, delivered.offset)
        state = await writer.outcomes.find_state(writer.tenant, question)
    except DatabaseError as error:
        logger.warning("outcome not read", error=str(error))
        return None
    if state.settled is None:
        return None
    if state.delivery is not None and state.delivery.outcome is Outcome.IDEMPOTENCY_CONFLICT:
        raise make_conflict_problem(intent_id)
    headers = applied | {"Location": make_location(intent_id, delivered)}
    if state.delivery is not None and state.delivery.outcome is Outcome.DUPLICATE:
        headers[_REPLAYED] = "true"
    return make_json_response(
        make_settled_view(state.settled, writer.books.units(writer.tenant), state.delivery), 200, headers
    )


@router.post(
    "/v1/intents/batch",
    response_model=BatchView,
    openapi_extra=_BATCH_EXTRA,
    responses=make_problem_responses(
        Kind.INVALID_JSON, Kind.TOO_MANY_ITEMS, Kind.UNSUPPORTED_MEDIA_TYPE, Kind.KAFKA_UNAVAILABLE
    ),
)
@answer_directly
async def post_batch(request: Request, writer: IntentsWriter) -> Response:
    """Post up to 1,000 intents. Each item has its own answer, in order, with the status that it would have alone."""
    is_ndjson = _BATCH_TYPES.get(get_media_type(request))
    if is_ndjson is None:
        raise Problem(Kind.UNSUPPORTED_MEDIA_TYPE, f"Send a batch as one of {', '.join(_BATCH_TYPES)}.")
    wait, applied = get_preferred_wait(request, writer.wait_seconds_max)
    items = parse_batch(await request.body(), is_ndjson=is_ndjson, tenant=writer.tenant)
    intents = [item for item in items if isinstance(item, Intent)]
    writer.submission.count_refused(len(items) - len(intents))
    results = await writer.submission.submit(writer.tenant, intents, get_trace(request)) if intents else []
    outcomes = await _find_batch_outcomes(writer, intents, results, wait)
    answers = iter(zip(intents, results, strict=True))
    units = writer.books.units(writer.tenant)
    views = [
        make_problem_item(item) if isinstance(item, Problem) else _make_batch_item(*next(answers), outcomes, units)
        for item in items
    ]
    return make_json_response({"items": views}, 200, applied)


async def _find_batch_outcomes(
    writer: Writer, intents: list[Intent], results: list[Result], wait: float | None
) -> dict[UUID, Settled]:
    """Return the outcomes of a batch's delivered intents that are settled within the wait; none without a wait."""
    delivered = [
        (intent.intent_id, result)
        for intent, result in zip(intents, results, strict=True)
        if isinstance(result, Delivered)
    ]
    if wait is None or not delivered:
        return {}
    last: dict[int, int] = {}
    for _, (_, partition, offset) in delivered:
        last[partition] = max(offset, last.get(partition, -1))
    await writer.outcomes.wait(last, wait)
    try:
        return await writer.outcomes.find_settled(writer.tenant, [intent_id for intent_id, _ in delivered])
    except DatabaseError as error:  # Kafka has the intents, so they are answered as pending
        logger.warning("outcome not read", error=str(error))
        return {}


def _make_batch_item(
    intent: Intent, result: Result, outcomes: dict[UUID, Settled], units: dict[str, int]
) -> dict[str, Any]:
    intent_id = intent.intent_id
    if isinstance(result, Problem):
        return make_problem_item(result) | {"intent_id": intent_id}
    if isinstance(result, Settled):
        return {"status": 200, "intent_id": intent_id, "replayed": True, "intent": make_settled_view(result, units)}
    settled = outcomes.get(intent_id)
    if settled is None:
        return {"status": 202, "intent_id": intent_id, "intent": make_pending_view(intent_id, result)}
    if settled.fingerprint != compute_intent_fingerprint(intent):
        return make_problem_item(make_conflict_problem(intent_id)) | {"intent_id": intent_id}
    return {"status": 200, "intent_id": intent_id, "intent": make_settled_view(settled, units)}


@router.get(
    "/v1/intents/{intent_id}", response_model=IntentView, responses=make_problem_responses(Kind.INTENT_NOT_FOUND)
)
async def get_intent(
    asker: IntentsAsker,
    intent_id: Annotated[UUID, Path(description="The intent's id, from the answer when it was posted.")],
    partition: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="Partition of the receipt.")] = None,
    offset: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="Offset of the receipt.")] = None,
) -> Response:
    """The state of an intent. The receipt's partition and offset tell pending from unknown."""
    if (partition is None) != (offset is None):
        raise Problem(Kind.BAD_REQUEST, "Give both partition and offset of the receipt, or neither.")
    state = await asker.outcomes.find_state(asker.tenant, IntentQuestion(intent_id, partition, offset))
    if state.settled is not None:
        return make_json_response(make_settled_view(state.settled, asker.books.units(asker.tenant), state.delivery))
    if partition is None or offset is None:
        raise Problem(
            Kind.INTENT_NOT_FOUND,
            "No intent with this id is settled; send the receipt's partition and offset to tell pending from unknown.",
        )
    if state.next_offset is None or offset >= state.next_offset:
        return make_json_response(make_pending_view(intent_id, Delivered(asker.topic, partition, offset)))
    raise Problem(
        Kind.INTENT_NOT_FOUND,
        "The lane is posted past this offset and did not settle this intent: the receipt is of another intent, or the "
        "message at this offset was quarantined.",
    )
