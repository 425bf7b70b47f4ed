"""What ties a request to all that follows from it: W3C trace context, our correlation id, and the request's span."""

import os
from typing import Final
from uuid import UUID

from starlette.datastructures import Headers
from starlette.types import Scope

from producers import tracing
from producers.tracing import Attribute, Kind, Span, SpanName, Trace, Tracer

_ERROR_STATUS_MIN: Final = 500
_DRAWN_BYTES: Final = 40
"""Of a trace id, a span id and a UUID."""


def trace_of(headers: Headers) -> Trace:
    """The request's own trace and correlation id where they are valid, else new ones; a new trace is not sampled."""
    traceparent = headers.get("traceparent", "")
    correlation_id = headers.get("x-correlation-id", "")
    drawn = os.urandom(_DRAWN_BYTES)  # One draw for all ids: each draw is a system call.
    if not traceparent or not tracing.is_traceparent(traceparent):
        traceparent = f"00-{drawn[:16].hex()}-{drawn[16:24].hex()}-00"
    if not correlation_id or not tracing.is_correlation_id(correlation_id):
        correlation_id = str(UUID(bytes=drawn[24:], version=4))
    return Trace(correlation_id, traceparent)


def begin_span(tracer: Tracer, headers: Headers, scope: Scope) -> Span | None:
    """The span of a request from now on; None where neither its caller nor chance samples it."""
    caller = headers.get("traceparent", "")
    parent = caller if tracing.is_traceparent(caller) else None
    if not (tracer.begins_sampled() if parent is None else tracing.is_sampled(parent)):
        return None
    attributes = {Attribute.URL_SCHEME: scope["scheme"]}
    return tracer.span(SpanName.REQUEST, Kind.SERVER, attributes, parent=parent)


def end_span(span: Span, method: str, route: str, status: int) -> None:
    """The answer is through, or broke off with the status that it had; 0 where there was none."""
    span.rename(f"{method} {route}")
    span.put({Attribute.HTTP_METHOD: method, Attribute.HTTP_ROUTE: route})
    if status:
        span.put({Attribute.HTTP_STATUS: status})
    if status >= _ERROR_STATUS_MIN:
        span.fail(str(status))
    span.end()
