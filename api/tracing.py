"""What ties a request to all that follows from it: W3C trace context and our correlation id."""

import re
import secrets
from typing import Final
from uuid import uuid4

from starlette.datastructures import Headers

from producers.intents import Trace

# https://www.w3.org/TR/trace-context/#traceparent-header; later versions may append fields, ff is never valid.
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_CORRELATION_ID: Final = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}", re.ASCII)


def trace_of(headers: Headers) -> Trace:
    """The request's own trace and correlation id where they are valid, else new ones."""
    traceparent = headers.get("traceparent", "")
    if not _TRACEPARENT.fullmatch(traceparent):
        traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    correlation_id = headers.get("x-correlation-id", "")
    if not _CORRELATION_ID.fullmatch(correlation_id):
        correlation_id = str(uuid4())
    return Trace(correlation_id, traceparent)
