"""What ties a request to all that follows from it: W3C trace context, our correlation id, and the request's span."""

import secrets
from typing import Final
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.types import Scope

from runtime import tracing
from runtime.tracing import Attribute, Kind, Span, SpanName, Trace, Tracer

_ERROR_STATUS_MIN: Final = 500


def trace_of(headers: Headers) -> Trace:
    """The request's own trace and correlation id where they are valid, else new ones; a new trace is not sampled."""
    traceparent = headers.get("traceparent", "")
    if not tracing.is_traceparent(traceparent):
        traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
    correlation_id = headers.get("x-correlation-id", "")
    if not tracing.is_correlation_id(correlation_id):
        correlation_id = str(uuid4())
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
