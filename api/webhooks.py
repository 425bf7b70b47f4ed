"""Webhooks: endpoints, their secrets, and their deliveries."""

import hmac
import re
import secrets
import time
from typing import Annotated, Any, Final
from uuid import UUID, uuid4, uuid5

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from api.callers import Needs, Reader, get_parts
from api.lists import Cursor, Limit
from api.parts import Parts
from api.problems import Kind, Problem
from api.request_headers import IDEMPOTENCY_KEY, get_idempotency_key
from api.responses import make_json_response, make_problem_responses
from api.times import explain, from_rfc3339
from api.webhook_models import (
    DeliveriesPage,
    DeliveryState,
    DeliveryView,
    ReplayBody,
    ReplayView,
    WebhookBody,
    WebhookChange,
    WebhooksPage,
    WebhookView,
    check_endpoint,
    make_delivery_view,
    make_fault,
    make_webhook_view,
    read_body,
)
from db import webhooks_api as db
from db.access import ApiKey, Scope
from domain.screening import find_key_fault
from domain.webhooks import ENDPOINTS_MAX, REPLAYED_MAX, ROTATION_SECONDS, SECOND, format_secret, make_test_message

router = APIRouter(tags=["webhooks"])

_SECRET_BYTES: Final = 32
_NAMESPACE: Final = UUID("5a37a5a4-5d2b-5d3c-9f0a-3f8f0f2f6f11")
"""Namespace of the ids that follow from an idempotency key, fixed for ever."""
_ETAG: Final = re.compile(r'"(\d{1,18})"', re.ASCII)
_REPLAYED: Final = {"Idempotent-Replayed": "true"}
_IF_MATCH: Final[dict[str, Any]] = {
    "name": "If-Match", "in": "header", "required": True, "schema": {"type": "string"}, "example": '"3"',
    "description": "The ETag that the change is based on.",
}  # fmt: skip


def _make_reader(key: ApiKey, parts: Parts) -> Reader:
    return Reader(key, parts.shares, parts.database, parts.books)


WebhooksReader = Annotated[Reader, Depends(Needs(Scope.WEBHOOKS_READ, _make_reader))]
WebhooksWriter = Annotated[Reader, Depends(Needs(Scope.WEBHOOKS_WRITE, _make_reader))]
WebhookId = Annotated[UUID, Path(description="The endpoint's id.")]
DeliveryId = Annotated[UUID, Path(description="The delivery's id.")]
_WRITE_KINDS: Final = (Kind.IDEMPOTENCY_KEY_REQUIRED, Kind.IDEMPOTENCY_KEY_INVALID)
_CHANGE_KINDS: Final = (Kind.WEBHOOK_NOT_FOUND, Kind.PRECONDITION_REQUIRED, Kind.PRECONDITION_FAILED)
_BODY_KINDS: Final = (Kind.INVALID_JSON, Kind.UNSUPPORTED_MEDIA_TYPE)


def _describe(*parameters: dict[str, Any], body: str | None = None) -> dict[str, Any]:
    extra: dict[str, Any] = {"parameters": list(parameters)} if parameters else {}
    if body is not None:
        schema = {"$ref": f"#/components/schemas/{body}"}
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return extra


def _get_key(request: Request) -> str:
    key = get_idempotency_key(request)
    fault = find_key_fault(key)
    if fault is not None:
        raise Problem(Kind.IDEMPOTENCY_KEY_INVALID, fault)
    return key


def _get_version(request: Request) -> int:
    sent = request.headers.get("if-match")
    if sent is None:
        raise Problem(Kind.PRECONDITION_REQUIRED, "Send If-Match with the ETag of the endpoint that you read.")
    match = _ETAG.fullmatch(sent.strip())
    if match is None:
        raise Problem(Kind.PRECONDITION_FAILED, "If-Match is no ETag of an endpoint: read the endpoint again.")
    return int(match[1])


def _get_now() -> int:
    return time.time_ns() // 1000


def _make_answer(row: dict[str, Any], status: int = 200, secret: str | None = None, **headers: str) -> Response:
    return make_json_response(make_webhook_view(row, secret), status, {"ETag": f'"{row["version"]}"', **headers})


def _make_not_found() -> Problem:
    return Problem(Kind.WEBHOOK_NOT_FOUND, "No webhook of this tenant has this id: list them with GET /v1/webhooks.")


async def _require(caller: Reader, webhook_id: UUID) -> dict[str, Any]:
    found = await caller.read(lambda pool: db.find_one(pool, caller.tenant, "endpoint", endpoint_id=webhook_id))
    if found is None:
        raise _make_not_found()
    return found


async def _explain_unchanged(caller: Reader, webhook_id: UUID) -> Problem:
    """Return why a change found no row: another version, or no endpoint."""
    found = await _require(caller, webhook_id)
    return Problem(
        Kind.PRECONDITION_FAILED,
        "The endpoint has changed since: read it again.",
        headers={"ETag": f'"{found["version"]}"'},
    )


@router.post(
    "/v1/webhooks",
    status_code=201,
    response_model=WebhookView,
    openapi_extra=_describe(IDEMPOTENCY_KEY, body="WebhookBody"),
    responses=make_problem_responses(*_WRITE_KINDS, *_BODY_KINDS, Kind.IDEMPOTENCY_CONFLICT, Kind.LIMIT_REACHED),
)
async def add_webhook(request: Request, writer: WebhooksWriter) -> Response:
    """Add an endpoint. The answer has its secret, which is not shown again."""
    key = _get_key(request)
    body, digest = await read_body(request, WebhookBody)
    check_endpoint(body, get_parts(request).configuration.private_addresses)
    values = body.model_dump() | {
        "endpoint_id": uuid4(),
        "secret": secrets.token_bytes(_SECRET_BYTES), "created_key": key, "created_digest": digest, "now": _get_now(),
    }  # fmt: skip
    row, is_new = await writer.read(lambda pool: db.add_endpoint(pool, writer.tenant, values))
    if row is None:
        raise Problem(Kind.LIMIT_REACHED, f"A tenant has at most {ENDPOINTS_MAX} webhooks: delete one first.")
    if not hmac.compare_digest(bytes(row["created_digest"]), digest):
        raise Problem(Kind.IDEMPOTENCY_CONFLICT, "This Idempotency-Key has made another webhook.")
    # A repeat is the same creation: whoever lost the first answer gets the secret, until the endpoint changes.
    secret = format_secret(bytes(row["secret"])) if row["version"] == 1 else None
    headers = {"Location": f"/v1/webhooks/{row['endpoint_id']}"} | ({} if is_new else _REPLAYED)
    return _make_answer(row, 201, secret, **headers)


@router.get("/v1/webhooks", response_model=WebhooksPage, responses=make_problem_responses(Kind.INVALID_CURSOR))
async def list_webhooks(reader: WebhooksReader, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """Endpoints in the order of their ids."""
    page = reader.page(("webhooks", reader.tenant), "/v1/webhooks", limit, cursor)
    (after,) = page.begin(str(UUID(int=0)))
    rows = await reader.read(
        lambda pool: db.find_all(pool, reader.tenant, "endpoints", after=UUID(after), rows_max=page.rows_max)
    )
    return page.make_response(rows, make_webhook_view, lambda row: (str(row["endpoint_id"]),))


@router.get(
    "/v1/webhooks/{webhook_id}", response_model=WebhookView, responses=make_problem_responses(Kind.WEBHOOK_NOT_FOUND)
)
async def get_webhook(reader: WebhooksReader, webhook_id: WebhookId) -> Response:
    """One endpoint, without its secrets."""
    return _make_answer(await _require(reader, webhook_id))


@router.patch(
    "/v1/webhooks/{webhook_id}",
    response_model=WebhookView,
    openapi_extra=_describe(_IF_MATCH, body="WebhookChange"),
    responses=make_problem_responses(*_CHANGE_KINDS, *_BODY_KINDS),
)
async def change_webhook(request: Request, writer: WebhooksWriter, webhook_id: WebhookId) -> Response:
    """Change an endpoint, or enable or disable it."""
    version = _get_version(request)
    body, _ = await read_body(request, WebhookChange)
    check_endpoint(body, get_parts(request).configuration.private_addresses)
    values = body.model_dump() | {"endpoint_id": webhook_id, "version": version, "now": _get_now()}
    row = await writer.read(lambda pool: db.find_one(pool, writer.tenant, "change_endpoint", **values))
    if row is None:
        raise await _explain_unchanged(writer, webhook_id)
    return _make_answer(row)


@router.delete(
    "/v1/webhooks/{webhook_id}",
    status_code=204,
    response_class=Response,
    openapi_extra=_describe(_IF_MATCH),
    responses=make_problem_responses(*_CHANGE_KINDS),
)
async def remove_webhook(request: Request, writer: WebhooksWriter, webhook_id: WebhookId) -> Response:
    """Delete an endpoint with its deliveries."""
    values = {"endpoint_id": webhook_id, "version": _get_version(request)}
    row = await writer.read(lambda pool: db.find_one(pool, writer.tenant, "delete_endpoint", **values))
    if row is None:
        raise await _explain_unchanged(writer, webhook_id)
    return Response(status_code=204)


@router.post(
    "/v1/webhooks/{webhook_id}/secret",
    response_model=WebhookView,
    openapi_extra=_describe(IDEMPOTENCY_KEY, _IF_MATCH),
    responses=make_problem_responses(*_CHANGE_KINDS, *_WRITE_KINDS),
)
async def rotate_secret(request: Request, writer: WebhooksWriter, webhook_id: WebhookId) -> Response:
    """Make a new secret. For a day the one before signs too. The answer has the new secret."""
    key, version, now = _get_key(request), _get_version(request), _get_now()
    found = await _require(writer, webhook_id)
    if found["rotated_key"] == key:
        return _make_answer(found, 200, format_secret(bytes(found["secret"])), **_REPLAYED)
    values = {
        "endpoint_id": webhook_id, "version": version, "now": now, "rotated_key": key,
        "secret": secrets.token_bytes(_SECRET_BYTES), "previous_until": now + ROTATION_SECONDS * SECOND,
    }  # fmt: skip
    row = await writer.read(lambda pool: db.find_one(pool, writer.tenant, "rotate_secret", **values))
    if row is None:
        raise await _explain_unchanged(writer, webhook_id)
    return _make_answer(row, 200, format_secret(bytes(row["secret"])))


@router.post(
    "/v1/webhooks/{webhook_id}/test",
    status_code=202,
    response_model=DeliveryView,
    openapi_extra=_describe(IDEMPOTENCY_KEY),
    responses=make_problem_responses(Kind.WEBHOOK_NOT_FOUND, *_WRITE_KINDS),
)
async def send_test(request: Request, writer: WebhooksWriter, webhook_id: WebhookId) -> Response:
    """Send a test event to an endpoint, whatever its filters."""
    key, now = _get_key(request), _get_now()
    await _require(writer, webhook_id)
    delivery_id = uuid5(_NAMESPACE, f"test\x00{webhook_id}\x00{key}")
    message = make_test_message(writer.tenant, str(delivery_id), str(webhook_id), now)
    await writer.read(lambda pool: db.send_test(pool, webhook_id, delivery_id, message, now))
    return await _show_delivery(writer, webhook_id, delivery_id, 202)


async def _show_delivery(caller: Reader, webhook_id: UUID, delivery_id: UUID, status: int = 200) -> Response:
    row = await caller.read(lambda pool: db.find_delivery(pool, caller.tenant, webhook_id, delivery_id))
    if row is None:
        raise Problem(Kind.DELIVERY_NOT_FOUND, "The webhook has no delivery with this id, or it was pruned.")
    return make_json_response(make_delivery_view(row), status)


@router.get(
    "/v1/webhooks/{webhook_id}/deliveries",
    response_model=DeliveriesPage,
    responses=make_problem_responses(Kind.WEBHOOK_NOT_FOUND, Kind.INVALID_CURSOR),
)
async def list_deliveries(
    reader: WebhooksReader,
    webhook_id: WebhookId,
    state: Annotated[DeliveryState | None, Query(description="Only deliveries in this state.")] = None,
    type: Annotated[
        str | None, Query(max_length=200, description="Only this type, such as ledgerline.ledger.posted.")
    ] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """Deliveries of an endpoint, the latest first."""
    await _require(reader, webhook_id)
    path, name = f"/v1/webhooks/{webhook_id}/deliveries", ("deliveries", reader.tenant, str(webhook_id))
    filters = {"state": state, "type": type}
    page = reader.page(name, path, limit, cursor, **filters)
    (before,) = page.begin(db.PLACE_MAX)
    asked = {**filters, "endpoint_id": webhook_id, "before": before, "rows_max": page.rows_max}
    rows = await reader.read(lambda pool: db.find_all(pool, reader.tenant, "deliveries", **asked))
    return page.make_response(rows, make_delivery_view, lambda row: (row["place"],))


@router.get(
    "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}",
    response_model=DeliveryView,
    responses=make_problem_responses(Kind.DELIVERY_NOT_FOUND),
)
async def get_delivery(reader: WebhooksReader, webhook_id: WebhookId, delivery_id: DeliveryId) -> Response:
    """One delivery with its body and its attempts."""
    return await _show_delivery(reader, webhook_id, delivery_id)


@router.post(
    "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/replay",
    status_code=202,
    response_model=DeliveryView,
    openapi_extra=_describe(IDEMPOTENCY_KEY),
    responses=make_problem_responses(Kind.DELIVERY_NOT_FOUND, *_WRITE_KINDS),
)
async def replay_delivery(
    request: Request, writer: WebhooksWriter, webhook_id: WebhookId, delivery_id: DeliveryId
) -> Response:
    """Send one delivery again, with the same `webhook-id`."""
    key = _get_key(request)
    asked = db.Asked(delivery_id=delivery_id)
    made = await writer.read(lambda pool: db.replay(pool, writer.tenant, webhook_id, asked, key, _get_now(), 1))
    return await _show_delivery(writer, webhook_id, made["delivery_id"] or delivery_id, 202)


@router.post(
    "/v1/webhooks/{webhook_id}/replay",
    status_code=202,
    response_model=ReplayView,
    openapi_extra=_describe(IDEMPOTENCY_KEY, body="ReplayBody"),
    responses=make_problem_responses(Kind.WEBHOOK_NOT_FOUND, *_WRITE_KINDS, *_BODY_KINDS, Kind.LIMIT_REACHED),
)
async def replay_period(request: Request, writer: WebhooksWriter, webhook_id: WebhookId) -> Response:
    """Send the deliveries of a period again, each message once, with the same `webhook-id` as before."""
    key = _get_key(request)
    body, _ = await read_body(request, ReplayBody)
    await _require(writer, webhook_id)
    times = {}
    for name, text in (("since", body.since), ("until", body.until)):
        try:
            times[name] = from_rfc3339(text)
        except ValueError as error:
            raise make_fault(f"/{name}", f"It {explain(text)}.") from error
    asked = db.Asked(None, times["since"], times["until"], body.state)
    made = await writer.read(
        lambda pool: db.replay(pool, writer.tenant, webhook_id, asked, key, _get_now(), REPLAYED_MAX)
    )
    if made["number"] > REPLAYED_MAX:
        raise Problem(Kind.LIMIT_REACHED, f"The period has more than {REPLAYED_MAX} messages: ask for shorter periods.")
    return make_json_response({"deliveries": made["number"]}, 202)
