"""Trace context of a request: W3C traceparent, our correlation id, and the request's span."""

import os
from typing import Final
from uuid import UUID

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from runtime import tracing
from runtime.tracing import Attribute, Kind, Span, SpanName, Trace, Tracer

_ERROR_STATUS_MIN: Final = 500
_DRAWN_BYTES: Final = 40
"""Of a trace id, a span id and a UUID."""


def read_trace(headers: Headers) -> Trace:
    """Return the request's trace and correlation id; make a new one for each that is missing or not valid.

    A new trace is not sampled.
    """
    traceparent = headers.get("traceparent", "")
    correlation_id = headers.get("x-correlation-id", "")
    drawn = os.urandom(_DRAWN_BYTES)  # One draw for all ids: each draw is a system call.
    if not traceparent or not tracing.is_traceparent(traceparent):
        traceparent = f"00-{drawn[:16].hex()}-{drawn[16:24].hex()}-00"
    if not correlation_id or not tracing.is_correlation_id(correlation_id):
        correlation_id = str(UUID(bytes=drawn[24:], version=4))
    return Trace(correlation_id, traceparent)


def get_trace(request: Request) -> Trace:
    """Return the request's trace, which api/middleware.py has put into its scope."""
    trace: Trace = request.scope["state"]["trace"]
    return trace


def begin_span(tracer: Tracer, headers: Headers, scope: Scope) -> Span | None:
    """Begin the span of a request. Return None if the trace is not sampled.

    The caller's traceparent decides; without a valid one the tracer decides at random.
    """
    caller = headers.get("traceparent", "")
    parent = caller if tracing.is_traceparent(caller) else None
    if not (tracer.begins_sampled() if parent is None else tracing.is_sampled(parent)):
        return None
    attributes = {Attribute.URL_SCHEME: scope["scheme"]}
    return tracer.span(SpanName.REQUEST, Kind.SERVER, attributes, parent=parent)


def end_span(span: Span, method: str, route: str, status: int) -> None:
    """End the span once the answer is written or has broken off; `status` is 0 if no answer began."""
    span.rename(f"{method} {route}")
    span.put({Attribute.HTTP_METHOD: method, Attribute.HTTP_ROUTE: route})
    if status:
        span.put({Attribute.HTTP_STATUS: status})
    if status >= _ERROR_STATUS_MIN:
        span.fail(str(status))
    span.end()
