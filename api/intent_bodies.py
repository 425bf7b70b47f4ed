"""Request bodies of intents, and their conversion into domain intents."""

import time
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from api.body_bounds import (
    BATCH_FAULTS_SHOWN_MAX,
    BATCH_PARTS_MAX,
    INTENT_PARTS_MAX,
    ODD_LEGS_SHOWN_MAX,
    require_few_lines,
    require_few_parts,
    require_small,
)
from api.form_sentences import form_sentence
from api.plain_bodies import CURRENCY_CHARACTERS_MAX, TIME_CHARACTERS_MAX, Asked, plain_legs, plain_transfer
from api.problems import Kind, Problem, kind_of
from api.times import PATTERN, from_rfc3339
from api.unique_members import require_unique_members
from domain.intents import (
    ADDRESS_CHARACTERS_MAX,
    ADDRESS_PATTERN,
    AMOUNT_MINOR_MAX,
    DIRECTIONS,
    KEY_CHARACTERS_MAX,
    METADATA_ENTRIES_MAX,
    METADATA_VALUE_CHARACTERS_MAX,
    REFERENCE_CHARACTERS_MAX,
    Intent,
    Leg,
    intent_id_of,
)
from domain.screening import key_fault, shape_refusal

BATCH_ITEMS_MAX: Final = 1000
_FAULTS_SHOWN_MAX: Final = 20
_POINTER_CHARACTERS_MAX: Final = 200
_UUID_PATTERN: Final = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"

_TRANSFER: Final[dict[str, Any]] = {
    "type": "transfer",
    "legs": [
        {"account": "external:stripe", "direction": "debit", "amount_minor": 1250, "currency": "EUR"},
        {"account": "users:42:wallet", "direction": "credit", "amount_minor": 1250, "currency": "EUR"},
    ],
    "reference": "top-up",
}
_REVERSAL: Final[dict[str, Any]] = {"type": "reversal", "reverses": "6b1f3f1e-5f0b-5d0e-8a51-0d1a53c3a1b2"}


class LegBody(BaseModel):
    """One debit or credit."""

    model_config = ConfigDict(strict=True, extra="forbid")

    # The schema only documents the pattern. The ledger's own rule checks it, and answers `malformed`.
    account: Annotated[
        str,
        Field(
            min_length=1,
            max_length=ADDRESS_CHARACTERS_MAX,
            examples=["users:42:wallet"],
            json_schema_extra={"pattern": f"^{ADDRESS_PATTERN.pattern}$"},
        ),
    ]
    direction: Literal["debit", "credit"]
    # The schema only documents the range. The ledger's own rule checks it, and answers `invalid-amount`.
    amount_minor: Annotated[
        int,
        Field(
            description="Positive count of the currency's minor units.",
            json_schema_extra={"minimum": 1, "maximum": AMOUNT_MINOR_MAX},
        ),
    ]
    currency: Annotated[
        str,
        Field(
            min_length=1,
            max_length=CURRENCY_CHARACTERS_MAX,
            description="ISO 4217 or registered unit.",
            examples=["EUR"],
        ),
    ]


class IntentBody(BaseModel):
    """What the ledger is asked to do. A transfer's debits equal its credits in each currency."""

    model_config = ConfigDict(
        strict=True, extra="forbid", title="Intent request", json_schema_extra={"examples": [_TRANSFER, _REVERSAL]}
    )

    type: Annotated[str, Field(max_length=64, json_schema_extra={"enum": ["transfer", "reversal"]})]
    legs: Annotated[
        list[LegBody],
        Field(description="From 2 to 1,000. A reversal may leave them out: then all that is unreversed is reversed."),
    ] = []
    reverses: Annotated[
        str | None, Field(pattern=_UUID_PATTERN, description="For a reversal: the id of the intent that it reverses.")
    ] = None
    value_time: Annotated[
        str | None,
        Field(
            max_length=TIME_CHARACTERS_MAX,
            description="When the movement takes effect: RFC 3339, from 1900 to 2199; default: on acceptance.",
            json_schema_extra={"format": "date-time", "pattern": PATTERN},
        ),
    ] = None
    reference: Annotated[
        str | None, Field(description="For people.", json_schema_extra={"maxLength": REFERENCE_CHARACTERS_MAX})
    ] = None
    metadata: Annotated[
        dict[str, str],
        Field(
            description=f"At most {METADATA_ENTRIES_MAX} entries of {METADATA_VALUE_CHARACTERS_MAX} characters.",
        ),
    ] = {}


class BatchItem(IntentBody):
    """One intent of a batch."""

    model_config = ConfigDict(
        title="Batch item", json_schema_extra={"examples": [{"idempotency_key": "order-17"} | _TRANSFER]}
    )

    idempotency_key: Annotated[str, Field(json_schema_extra={"minLength": 1, "maxLength": KEY_CHARACTERS_MAX})]


_validate_intent = IntentBody.__pydantic_validator__.validate_python
_validate_item = BatchItem.__pydantic_validator__.validate_python

_INTENT_MEMBERS: Final = frozenset(IntentBody.model_fields)
_ITEM_MEMBERS: Final = frozenset(BatchItem.model_fields)


def now_microseconds() -> int:
    """Return the time now, in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def json_value(raw: bytes) -> Any:
    """Parse strict JSON (RFC 8259) in UTF-8; integers of any size stay exact.

    Raise Problem for anything else, for NaN, for a lone surrogate, and for a member that stands twice in an object.
    """
    try:
        value = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(Kind.INVALID_JSON, f"The body is not valid JSON: {error}.") from error
    require_unique_members(raw, value)
    return value


def _pointer(location: tuple[int | str, ...]) -> str:
    # The sender chooses the names of members, so a long name is cut.
    parts = (str(part)[:_POINTER_CHARACTERS_MAX].replace("~", "~0").replace("/", "~1") for part in location)
    return "".join(f"/{part}" for part in parts)


def form_problem(error: ValidationError, members: frozenset[str], faults_max: int = _FAULTS_SHOWN_MAX) -> Problem:
    """Return the problem that lists pydantic's first `faults_max` errors, each with a JSON pointer (RFC 6901)."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    faults = [
        {"pointer": _pointer(fault["loc"]), "detail": form_sentence(fault, _members_around(fault["loc"], members))}
        for fault in found[:faults_max]
    ]
    first = f"{faults[0]['pointer']}: {faults[0]['detail']}"
    more = f" And {len(found) - 1} more: see `errors`." if len(found) > 1 else ""
    return Problem(Kind.INVALID_REQUEST, f"{first}{more}", errors=faults)


def _members_around(location: tuple[int | str, ...], members: frozenset[str]) -> list[str]:
    """Return, in alphabetical order, the members that the object around the part at `location` may have."""
    is_of_leg = len(location) > 2 and location[0] == "legs"
    return sorted(LegBody.model_fields if is_of_leg else members)


def _cut(value: Any) -> Any:
    """Return the value with its legs cut after the first few that are not valid, so a model makes few errors of it."""
    if type(value) is not dict or type(value.get("legs")) is not list:
        return value
    legs = value["legs"]
    odd = 0
    for place, leg in enumerate(legs):
        if plain_legs([leg]) is None:
            odd += 1
            if odd == ODD_LEGS_SHOWN_MAX:
                return value | {"legs": legs[: place + 1]}
    return value


def _validated(
    validate: Callable[[Any], Any], value: Any, members: frozenset[str], faults_max: int = _FAULTS_SHOWN_MAX
) -> Any:
    """Return the value as the model reads it. Raise Problem if it is too large for a model, or has not its form."""
    require_small(value)
    cut = _cut(value)
    try:
        validated = validate(cut)
        return validated if cut is value else validate(value)
    except ValidationError as error:
        raise form_problem(error, members, faults_max) from error


def _modelled(body: IntentBody) -> Asked:
    legs = tuple([Leg(leg.account, DIRECTIONS[leg.direction], leg.amount_minor, leg.currency) for leg in body.legs])
    reverses = None if body.reverses is None else UUID(body.reverses)
    return body.type, legs, reverses, body.value_time, body.reference, body.metadata


def _judged(asked: Asked, tenant: str, idempotency_key: str, accepted_time: int) -> Intent:
    intent_type, legs, reverses, value_time_text, reference, metadata = asked
    value_time = None
    if value_time_text is not None:
        try:
            value_time = from_rfc3339(value_time_text)
        except (ValueError, OverflowError) as error:
            detail = f"value_time is {error}."
            raise Problem(
                Kind.INVALID_REQUEST, detail, errors=[{"pointer": "/value_time", "detail": detail}]
            ) from error
    fault = key_fault(idempotency_key)
    if fault is not None:
        raise Problem(Kind.IDEMPOTENCY_KEY_INVALID, fault)
    try:
        intent_id = intent_id_of(tenant, idempotency_key)
    except UnicodeEncodeError as error:
        raise Problem(Kind.IDEMPOTENCY_KEY_INVALID, "The idempotency key is not Unicode text.") from error
    intent = Intent(
        intent_id,
        tenant,
        idempotency_key,
        intent_type,
        legs,
        reverses,
        value_time,
        reference,
        metadata,
        accepted_time,
    )
    refusal = shape_refusal(intent)
    if refusal is not None:
        raise Problem(kind_of(refusal.reason), refusal.detail, reason=refusal.reason.value)
    return intent


def intent_of(raw: bytes, tenant: str, idempotency_key: str) -> Intent:
    """Return the intent in a body. Raise Problem if the body is too large, or is not an intent in form or shape."""
    require_few_parts(raw, INTENT_PARTS_MAX)
    value = json_value(raw)
    asked = plain_transfer(value, _INTENT_MEMBERS)
    if asked is None:
        asked = _modelled(_validated(_validate_intent, value, _INTENT_MEMBERS))
    return _judged(asked, tenant, idempotency_key, now_microseconds())


def _item(value: Any, tenant: str, accepted_time: int, faults_max: int) -> Intent:
    asked = plain_transfer(value, _ITEM_MEMBERS)
    if asked is not None and type(value.get("idempotency_key")) is str:
        return _judged(asked, tenant, value["idempotency_key"], accepted_time)
    item: BatchItem = _validated(_validate_item, value, _ITEM_MEMBERS, faults_max)
    return _judged(_modelled(item), tenant, item.idempotency_key, accepted_time)


def _line_item(line: bytes, tenant: str, accepted_time: int, faults_max: int) -> Intent:
    require_few_parts(line, INTENT_PARTS_MAX)
    return _item(json_value(line), tenant, accepted_time, faults_max)


def batch_of(raw: bytes, *, is_ndjson: bool, tenant: str) -> list[Intent | Problem]:
    """Return the items of a batch in order, each an intent or the problem with it.

    Raise Problem for the whole batch if it is not an array, or has too many items, lines or parts. Blank lines of
    NDJSON are not items.
    """
    values: list[Any]
    read: Callable[[Any, str, int, int], Intent]
    require_few_parts(raw, BATCH_PARTS_MAX)
    if is_ndjson:
        require_few_lines(raw)
        values = [line for line in raw.split(b"\n") if line and not line.isspace()]
        read = _line_item
    else:
        values = json_value(raw)
        read = _item
        if not isinstance(values, list):
            raise Problem(Kind.INVALID_REQUEST, "A batch is a JSON array, or NDJSON with its media type.")
    if len(values) > BATCH_ITEMS_MAX:
        raise Problem(Kind.TOO_MANY_ITEMS, f"A batch has at most {BATCH_ITEMS_MAX} items.", items_max=BATCH_ITEMS_MAX)
    accepted_time = now_microseconds()
    items: list[Intent | Problem] = []
    faults_shown = 0
    for value in values:
        # Past the bound each item gets one sentence: to write 20 for each item would block the event loop.
        faults_max = _FAULTS_SHOWN_MAX if faults_shown < BATCH_FAULTS_SHOWN_MAX else 1
        try:
            items.append(read(value, tenant, accepted_time, faults_max))
        except Problem as problem:
            faults_shown += len(problem.members.get("errors", []))
            items.append(problem)
    return items
