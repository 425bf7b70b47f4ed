"""The models of the bodies of intents: they document the bodies, read odd ones, and say what is wrong with the rest.

`api.plain_bodies` reads most bodies, at a fifth of the cost.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.body_bounds import ODD_LEGS_SHOWN_MAX, require_small
from api.form_sentences import make_form_sentence
from api.plain_bodies import CURRENCY_CHARACTERS_MAX, TIME_CHARACTERS_MAX, Asked, read_plain_legs
from api.problems import Kind, Problem
from api.times import PATTERN
from domain.intents import (
    ADDRESS_CHARACTERS_MAX,
    ADDRESS_PATTERN,
    AMOUNT_MINOR_MAX,
    DIRECTIONS,
    KEY_CHARACTERS_MAX,
    METADATA_ENTRIES_MAX,
    METADATA_VALUE_CHARACTERS_MAX,
    REFERENCE_CHARACTERS_MAX,
    Leg,
)

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
            description="ISO 4217 code or registered unit.",
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
        Field(description="From 2 to 1,000. If a reversal has none, it reverses all that is left of its original."),
    ] = []
    reverses: Annotated[
        str | None, Field(pattern=_UUID_PATTERN, description="For a reversal: the id of the intent that it reverses.")
    ] = None
    value_time: Annotated[
        str | None,
        Field(
            max_length=TIME_CHARACTERS_MAX,
            description="When the movement takes effect: RFC 3339, from 1900 to 2199; by default when accepted.",
            json_schema_extra={"format": "date-time", "pattern": PATTERN},
        ),
    ] = None
    reference: Annotated[
        str | None, Field(description="A text for people.", json_schema_extra={"maxLength": REFERENCE_CHARACTERS_MAX})
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


class Form(NamedTuple):
    """A form that a body may have: the members of its object, and the model's check of a parsed value."""

    members: frozenset[str]
    validate: Callable[[Any], Any]


def _make_form(model: type[IntentBody]) -> Form:
    return Form(frozenset(model.model_fields), model.__pydantic_validator__.validate_python)


INTENT_FORM: Final = _make_form(IntentBody)
ITEM_FORM: Final = _make_form(BatchItem)


def _make_pointer(location: tuple[int | str, ...]) -> str:
    # The sender chooses the names of members, so a long name is cut.
    parts = (str(part)[:_POINTER_CHARACTERS_MAX].replace("~", "~0").replace("/", "~1") for part in location)
    return "".join(f"/{part}" for part in parts)


def _make_form_problem(error: ValidationError, form: Form, faults_max: int) -> Problem:
    """Return the problem that lists pydantic's first `faults_max` errors, each with a JSON pointer (RFC 6901)."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    faults = [
        {
            "pointer": _make_pointer(fault["loc"]),
            "detail": make_form_sentence(fault, _list_members_around(fault["loc"], form)),
        }
        for fault in found[:faults_max]
    ]
    first = f"{faults[0]['pointer']}: {faults[0]['detail']}"
    more = f" And {len(found) - 1} more: see `errors`." if len(found) > 1 else ""
    return Problem(Kind.INVALID_REQUEST, f"{first}{more}", errors=faults)


def _list_members_around(location: tuple[int | str, ...], form: Form) -> list[str]:
    """Return, in alphabetical order, the members that the object around the part at `location` may have."""
    is_of_leg = len(location) > 2 and location[0] == "legs"
    return sorted(LegBody.model_fields if is_of_leg else form.members)


def _cut(value: Any) -> Any:
    """Return the value with its legs cut after the first few that are not valid, so a model makes few errors of it."""
    if type(value) is not dict or type(value.get("legs")) is not list:
        return value
    legs = value["legs"]
    odd = 0
    for place, leg in enumerate(legs):
        if read_plain_legs([leg]) is None:
            odd += 1
            if odd == ODD_LEGS_SHOWN_MAX:
                return value | {"legs": legs[: place + 1]}
    return value


def read_by_model(value: Any, form: Form, faults_max: int) -> Asked:
    """Return what a JSON value asks. Raise Problem if it is too large for a model, or has not the form."""
    require_small(value)
    cut = _cut(value)
    try:
        body = form.validate(cut)
        if cut is not value:
            body = form.validate(value)
    except ValidationError as error:
        raise _make_form_problem(error, form, faults_max) from error
    legs = tuple([Leg(leg.account, DIRECTIONS[leg.direction], leg.amount_minor, leg.currency) for leg in body.legs])
    reverses = None if body.reverses is None else UUID(body.reverses)
    return body.type, legs, reverses, body.value_time, body.reference, body.metadata
