"""Bodies of intents: parsed, read and judged, until each is an intent or the problem with it."""

import time
from collections.abc import Callable
from typing import Any, Final

from pydantic_core import from_json

from api.body_bounds import (
    BATCH_FAULTS_SHOWN_MAX,
    BATCH_PARTS_MAX,
    INTENT_PARTS_MAX,
    require_few_lines,
    require_few_parts,
)
from api.intent_models import INTENT_FORM, ITEM_FORM, Form, read_by_model
from api.plain_bodies import Asked, read_plain_transfer
from api.problems import Kind, Problem, get_problem_kind
from api.times import from_rfc3339
from api.unique_members import require_unique_members
from domain.effects import OWN_KEY_START
from domain.intents import Intent, compute_intent_id
from domain.screening import find_key_fault, refuse_shape

BATCH_ITEMS_MAX: Final = 1000
_FAULTS_SHOWN_MAX: Final = 20


def get_now_microseconds() -> int:
    """Return the time now, in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def parse_json(raw: bytes) -> Any:
    """Parse strict JSON (RFC 8259) in UTF-8; integers of any size stay exact.

    Raise Problem for anything else, for NaN, for a lone surrogate, and for a member that stands twice in an object.
    """
    try:
        value = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(Kind.INVALID_JSON, f"The body is not valid JSON: {error}.") from error
    require_unique_members(raw, value)
    return value


def _read(value: Any, form: Form, faults_max: int) -> Asked:
    asked = read_plain_transfer(value, form.members)
    return read_by_model(value, form, faults_max) if asked is None else asked


def _judge(asked: Asked, tenant: str, idempotency_key: str, accepted_time: int) -> Intent:
    """Return the intent. Raise Problem if the ledger would refuse it for its shape, or its key cannot be used."""
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
    fault = find_key_fault(idempotency_key)
    if fault is not None:
        raise Problem(Kind.IDEMPOTENCY_KEY_INVALID, fault)
    try:
        intent_id = compute_intent_id(tenant, idempotency_key)
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
    refusal = refuse_shape(intent)
    if refusal is not None:
        raise Problem(get_problem_kind(refusal.reason), refusal.detail, reason=refusal.reason.value)
    return intent


def parse_intent(raw: bytes, tenant: str, idempotency_key: str) -> Intent:
    """Return the intent in a body. Raise Problem if the body is too large, or is not an intent in form or shape."""
    require_few_parts(raw, INTENT_PARTS_MAX)
    asked = _read(parse_json(raw), INTENT_FORM, _FAULTS_SHOWN_MAX)
    refuse_own_key(idempotency_key)
    return _judge(asked, tenant, idempotency_key, get_now_microseconds())


def read_intent(value: Any, tenant: str, idempotency_key: str) -> Intent:
    """Return the intent in a parsed value, for a capability that posts it later. Raise Problem."""
    asked = _read(value, INTENT_FORM, _FAULTS_SHOWN_MAX)
    return _judge(asked, tenant, idempotency_key, get_now_microseconds())


def refuse_own_key(idempotency_key: str) -> None:
    """Raise Problem if a key begins as those of Ledgerline's own intents do."""
    if idempotency_key.startswith(OWN_KEY_START):
        raise Problem(
            Kind.IDEMPOTENCY_KEY_INVALID,
            f"Keys that begin with {OWN_KEY_START} are Ledgerline's own: choose another beginning.",
        )


def _parse_item(value: Any, tenant: str, accepted_time: int, faults_max: int) -> Intent:
    asked = _read(value, ITEM_FORM, faults_max)
    refuse_own_key(value["idempotency_key"])
    return _judge(asked, tenant, value["idempotency_key"], accepted_time)


def _parse_line_item(line: bytes, tenant: str, accepted_time: int, faults_max: int) -> Intent:
    require_few_parts(line, INTENT_PARTS_MAX)
    return _parse_item(parse_json(line), tenant, accepted_time, faults_max)


def parse_batch(raw: bytes, *, is_ndjson: bool, tenant: str) -> list[Intent | Problem]:
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
        read = _parse_line_item
    else:
        values = parse_json(raw)
        read = _parse_item
        if not isinstance(values, list):
            raise Problem(Kind.INVALID_REQUEST, "A batch is a JSON array, or NDJSON with its media type.")
    if len(values) > BATCH_ITEMS_MAX:
        raise Problem(Kind.TOO_MANY_ITEMS, f"A batch has at most {BATCH_ITEMS_MAX} items.", items_max=BATCH_ITEMS_MAX)
    accepted_time = get_now_microseconds()
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
