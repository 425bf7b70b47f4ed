"""The bodies and views of webhooks."""

from hashlib import sha256
from typing import Annotated, Any, Final, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.body_bounds import INTENT_PARTS_MAX, require_few_parts
from api.form_sentences import make_form_sentence
from api.intent_bodies import parse_json
from api.lists import NextLink
from api.problems import Kind, Problem
from api.request_headers import get_media_type
from api.times import to_optional_rfc3339
from domain.addresses import URL_CHARACTERS_MAX, find_url_fault
from domain.webhook_wishes import find_wish_fault
from domain.webhooks import DESCRIPTION_CHARACTERS_MAX

Url = Annotated[str, Field(max_length=URL_CHARACTERS_MAX, examples=["https://hooks.example.com/ledgerline"])]
Description = Annotated[str, Field(max_length=DESCRIPTION_CHARACTERS_MAX)]
Filters = Annotated[
    list[str], Field(description="Types such as ledger.posted, schedule.* or *.", examples=[["ledger.*"]])
]
Accounts = Annotated[
    list[str], Field(description="Only ledger records with a leg at one of these accounts, such as users:42:*.")
]
Ordered = Annotated[bool, Field(description="Deliveries of one lane or aggregate wait for earlier ones.")]
DeliveryState = Literal["held", "waiting", "delivered", "failed"]


class WebhookBody(BaseModel):
    """A new endpoint."""

    model_config = ConfigDict(strict=True, extra="forbid", title="Webhook request")

    url: Url
    filters: Filters
    accounts: Accounts = []
    description: Description = ""
    ordered: Ordered = False


class WebhookChange(BaseModel):
    """What to change of an endpoint. A member that is left out stays."""

    model_config = ConfigDict(strict=True, extra="forbid", title="Webhook change")

    url: Url | None = None
    filters: Filters | None = None
    accounts: Accounts | None = None
    description: Description | None = None
    ordered: Ordered | None = None
    enabled: Annotated[bool | None, Field(description="False stops deliveries; true begins them again.")] = None


class ReplayBody(BaseModel):
    """Which deliveries to send again: those captured from `since` to before `until`."""

    model_config = ConfigDict(strict=True, extra="forbid", title="Replay request")

    since: Annotated[str, Field(description="RFC 3339.", examples=["2026-01-31T12:00:00Z"])]
    until: Annotated[str, Field(description="RFC 3339.", examples=["2026-01-31T13:00:00Z"])]
    state: Annotated[DeliveryState | None, Field(description="Only deliveries in this state.")] = None


class WebhookView(BaseModel):
    """An endpoint."""

    webhook_id: str
    url: str
    description: str
    filters: list[str]
    accounts: list[str]
    ordered: bool
    enabled: bool
    disabled_because: str
    failing_since: str | None = None
    previous_secret_until: str | None = Field(default=None, description="Until then the secret before signs too.")
    version: int
    created_time: str
    changed_time: str
    secret: str | None = Field(default=None, description="Only in the answers to a creation and a rotation.")


class WebhooksPage(BaseModel):
    """Endpoints in the order of their ids."""

    items: list[WebhookView]
    next: NextLink


class AttemptView(BaseModel):
    """One attempt at a delivery."""

    attempt: int
    attempted_time: str
    status: int | None
    error: str
    latency_microseconds: int
    excerpt: str = Field(description="At most 256 bytes of the endpoint's own answer.")


class DeliveryView(BaseModel):
    """A delivery of a message to an endpoint."""

    delivery_id: str
    message_id: str
    type: str
    state: DeliveryState
    attempts: int
    next_time: str | None
    last_status: int | None
    last_error: str
    latency_microseconds: int | None
    created_time: str
    settled_time: str | None
    replay: str | None = Field(default=None, description="The idempotency key of the replay that made it.")
    made: list[AttemptView] | None = Field(default=None, description="The attempts; only for one delivery.")
    body: str | None = Field(default=None, description="What is sent; only for one delivery.")


class DeliveriesPage(BaseModel):
    """Deliveries, the latest first."""

    items: list[DeliveryView]
    next: NextLink


class ReplayView(BaseModel):
    """What a replay began."""

    deliveries: int


BODY_MODELS: Final = (WebhookBody, WebhookChange, ReplayBody)
Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, model: type[Body]) -> tuple[Body, bytes]:
    """Return the body of a request, and the SHA-256 of its bytes. Raise Problem if it has not the form."""
    if get_media_type(request) != "application/json":
        raise Problem(Kind.UNSUPPORTED_MEDIA_TYPE, "Send the body as Content-Type: application/json.")
    raw = await request.body()
    require_few_parts(raw, INTENT_PARTS_MAX)
    try:
        return model.model_validate(parse_json(raw)), sha256(raw).digest()
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        pointer = "".join(f"/{str(part)[:100]}" for part in fault["loc"])
        raise make_fault(pointer, make_form_sentence(fault, sorted(model.model_fields))) from error


def make_fault(pointer: str, detail: str) -> Problem:
    """Return the problem with one part of a body."""
    return Problem(Kind.INVALID_REQUEST, f"{pointer}: {detail}", errors=[{"pointer": pointer, "detail": detail}])


def check_endpoint(body: WebhookBody | WebhookChange, private_allowed: bool) -> None:
    """Raise Problem if the URL may not be called, or if filters or accounts have not the form. None is not checked."""
    fault = None if body.url is None else find_url_fault(body.url, private_allowed)
    if fault is not None:
        raise make_fault("/url", fault)
    fault = find_wish_fault(["*"] if body.filters is None else body.filters, body.accounts or ())
    if fault is not None:
        raise make_fault("/filters", fault)


def make_webhook_view(row: dict[str, Any], secret: str | None = None) -> dict[str, Any]:
    """Return an endpoint as JSON, without its secrets except the one that is given."""
    names = ("url", "description", "filters", "accounts", "ordered", "enabled", "disabled_because", "version")
    view = {"webhook_id": str(row["endpoint_id"]), **{name: row[name] for name in names}}
    view |= {
        "failing_since": to_optional_rfc3339(row["failing_since"]),
        "previous_secret_until": to_optional_rfc3339(row["previous_until"]),
        "created_time": to_optional_rfc3339(row["created_time"]),
        "changed_time": to_optional_rfc3339(row["changed_time"]),
    }
    return view if secret is None else view | {"secret": secret}


def make_delivery_view(row: dict[str, Any]) -> dict[str, Any]:
    """Return a delivery as JSON; with its body and attempts if the row has them."""
    names = ("message_id", "type", "state", "attempts", "last_status", "last_error", "latency_microseconds")
    view = {"delivery_id": str(row["delivery_id"]), **{name: row[name] for name in names}}
    view |= {name: to_optional_rfc3339(row[name]) for name in ("next_time", "created_time", "settled_time")}
    view["replay"] = row["series"] or None
    if "made" in row:
        view["made"] = [
            attempt | {"attempted_time": to_optional_rfc3339(attempt["attempted_time"])} for attempt in row["made"]
        ]
        view["body"] = bytes(row["body"]).decode()
    return view
