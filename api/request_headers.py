"""Request headers that routes read themselves, and their documentation: FastAPI reads no headers of a direct route."""

import re
from typing import Any, Final

from fastapi import Request

from api.problems import Kind, Problem
from domain.intents import KEY_CHARACTERS_MAX

_WAIT: Final = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;.*)?', re.IGNORECASE | re.ASCII)

PREFER_WAIT: Final[dict[str, Any]] = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "`wait=N` (RFC 7240): answer with the outcome if it is known within N seconds.",
    "example": "wait=5",
}
IDEMPOTENCY_KEY: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": KEY_CHARACTERS_MAX},
    "description": "Names this intent for good within the tenant; a retry sends the same.",
    "example": "order-17",
}


def get_media_type(request: Request) -> str:
    """Return the media type of the body, without parameters and in small letters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def get_idempotency_key(request: Request) -> str:
    """Return the idempotency key. Raise Problem unless there is one such header with text in UTF-8."""
    sent = request.headers.getlist("idempotency-key")
    if len(sent) > 1:
        raise Problem(Kind.IDEMPOTENCY_KEY_INVALID, f"Send one Idempotency-Key header, not {len(sent)}.")
    raw = "".join(sent)
    if not raw.strip():
        raise Problem(Kind.IDEMPOTENCY_KEY_REQUIRED, "Send an Idempotency-Key header that names this intent for good.")
    try:
        # ASGI servers decode headers as Latin-1. Decode as UTF-8, so a key is the same text here as in a batch's JSON.
        return raw.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem(Kind.IDEMPOTENCY_KEY_INVALID, "The Idempotency-Key header is not UTF-8.") from error


def get_preferred_wait(request: Request, seconds_max: float) -> tuple[float | None, dict[str, str]]:
    """Return the wait that the request prefers, and the response headers that say what was applied."""
    seconds = wait_seconds(request.headers.getlist("prefer"), seconds_max)
    return seconds, {} if seconds is None else {"Preference-Applied": f"wait={seconds:g}"}


def wait_seconds(prefer: list[str], seconds_max: float) -> float | None:
    """Return the wait that Prefer headers ask for (RFC 7240, 4.3), at most `seconds_max`; None if they ask for none."""
    for preference in ",".join(prefer).split(","):
        match = _WAIT.fullmatch(preference)
        if match is not None:
            return min(float(match[1]), seconds_max)
    return None
