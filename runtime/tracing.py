"""Traces: the spans and their attributes. Tracing is off unless `start` gets an endpoint.

This module imports nothing of OpenTelemetry: runtime/otlp.py does, and is imported only if tracing is on. The caller
or the API, whichever begins a trace, decides whether it is sampled. Later services follow the flag in the message's
traceparent, so an intent is traced the whole way or not at all. docs/LOGS_AND_TRACES.md documents spans and attributes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, TypeVar

Partition = TypeVar("Partition", int, str)

LINKS_MAX: Final = 32
"""Most links of a batch's span; a batch may have thousands of intents."""
RANGES_MAX: Final = 32
"""Most partitions or lanes that an attribute lists."""
TRACEPARENT: Final = "traceparent"
CORRELATION_ID: Final = "correlation_id"
"""TRACEPARENT and CORRELATION_ID are names of Kafka message headers."""

# https://www.w3.org/TR/trace-context/#traceparent-header; later versions may append fields, ff is never valid.
_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})", re.ASCII
)
_CORRELATION_ID: Final = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}", re.ASCII)
_TRACE_ID: Final = slice(3, 35)
_SPAN_ID: Final = slice(36, 52)


class SpanName(StrEnum):
    """The names of all spans. Method and route complete the name of REQUEST; the topic completes SEND and PROCESS."""

    REQUEST = "HTTP"
    SEND = "send"
    PROCESS = "process"
    TRANSACTION = "ledger transaction"


class Attribute(StrEnum):
    """The names of all attributes. Those without `ledgerline.` come from OpenTelemetry's semantic conventions.

    No attribute holds a secret, an idempotency key, an account or an amount. None holds a path or a query either, as
    these may contain them.
    """

    BATCH_MESSAGES = "messaging.batch.message_count"
    CONSUMER_GROUP = "messaging.consumer.group.name"
    DATABASE_OPERATION = "db.operation.name"
    DATABASE_SIZE = "db.operation.batch.size"
    DATABASE_SYSTEM = "db.system.name"
    DESTINATION = "messaging.destination.name"
    DESTINATION_PARTITION = "messaging.destination.partition.id"
    ERROR_TYPE = "error.type"
    HTTP_METHOD = "http.request.method"
    HTTP_ROUTE = "http.route"
    HTTP_STATUS = "http.response.status_code"
    INTENTS_FAILED = "ledgerline.intents.failed"
    MESSAGING_OPERATION = "messaging.operation.name"
    MESSAGING_OPERATION_TYPE = "messaging.operation.type"
    MESSAGING_SYSTEM = "messaging.system"
    OFFSET = "messaging.kafka.offset"
    OFFSETS = "ledgerline.offsets"
    OUTCOME_CONFLICT = "ledgerline.outcomes.idempotency_conflict"
    OUTCOME_DUPLICATE = "ledgerline.outcomes.duplicate"
    OUTCOME_POSTED = "ledgerline.outcomes.posted"
    OUTCOME_QUARANTINED = "ledgerline.outcomes.quarantined"
    OUTCOME_REJECTED = "ledgerline.outcomes.rejected"
    SEQUENCES = "ledgerline.sequences"
    TENANT = "ledgerline.tenant"
    URL_SCHEME = "url.scheme"


class Kind(StrEnum):
    """The role of a span, by OpenTelemetry's names."""

    SERVER = "SERVER"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"
    CLIENT = "CLIENT"


Value = str | int | list[str]


class Trace(NamedTuple):
    """What an intent carries so that it can be traced: our correlation id and a W3C traceparent."""

    correlation_id: str
    """Empty if there is none, as for a batch."""
    traceparent: str
    has_span: bool = False
    """Whether the traceparent names a span of this process rather than a span of its caller."""


def format_ranges(numbers: Iterable[tuple[Partition, int]]) -> list[str]:
    """Return the first and the last number of each partition or lane, as `3:100-250`; at most RANGES_MAX of them."""
    bounds: dict[Partition, tuple[int, int]] = {}
    for partition, number in numbers:
        low, high = bounds.get(partition, (number, number))
        bounds[partition] = min(low, number), max(high, number)
    return [f"{partition}:{low}-{high}" for partition, (low, high) in sorted(bounds.items())[:RANGES_MAX]]


class Span(Protocol):
    """A timed operation that is reported to the collector."""

    @property
    def traceparent(self) -> str:
        """The traceparent that its child spans and its messages get."""

    def rename(self, name: str) -> None:
        """Set the complete name, parts of which are known only after the start."""

    def put(self, attributes: Mapping[Attribute, Value]) -> None:
        """Set attributes."""

    def mark(self, event: str) -> None:
        """Record that a step is complete at this moment."""

    def link(self, traceparents: Iterable[str]) -> None:
        """Link the span to other spans that led to it."""

    def fail(self, error_type: str) -> None:
        """Mark the span as failed; `error_type` is the name of a class or a status code."""

    def end(self) -> None:
        """End the span at this moment."""


class Tracer(Protocol):
    """Makes spans. It records every span that it makes: the caller must check the sampled flag first."""

    def begins_sampled(self) -> bool:
        """Return whether to record a trace that begins here."""

    def span(
        self,
        name: str,
        kind: Kind,
        attributes: Mapping[Attribute, Value],
        *,
        parent: str | None = None,
        links: Iterable[str] = (),
    ) -> Span:
        """Start a span; `parent` and `links` must be valid traceparents."""

    def stop(self, seconds_max: float) -> None:
        """Send the remaining spans; return after at most `seconds_max` seconds."""


current: Final[ContextVar[Trace | None]] = ContextVar("ledgerline_trace", default=None)
"""The trace of the work in progress, for log lines."""
_current_span: Final[ContextVar[Span | None]] = ContextVar("ledgerline_span", default=None)
_tracer: Tracer | None = None


def start(endpoint: str | None, *, sample_ratio: float, service: str, instance: str) -> None:
    """Start tracing to the OTLP collector at this base URL. None changes nothing and imports nothing."""
    global _tracer  # noqa: PLW0603 - like logs and metrics, there is one for a process
    if endpoint is None:
        return
    from runtime.otlp import OtlpTracer  # noqa: PLC0415 - OpenTelemetry's SDK takes 90 ms and 25 MB

    _tracer = OtlpTracer(endpoint, sample_ratio=sample_ratio, service=service, instance=instance)


def stop(seconds_max: float = 1.0) -> None:
    """Stop tracing; spend at most `seconds_max` seconds on sending the remaining spans."""
    global _tracer  # noqa: PLW0603
    if _tracer is not None:
        _tracer.stop(seconds_max)
        _tracer = None


def get_tracer() -> Tracer | None:
    """Return the tracer; None if tracing is off."""
    return _tracer


def get_current_span() -> Span | None:
    """Return the span around the running code; None if there is none."""
    return _current_span.get()


def is_sampled(traceparent: str) -> bool:
    """Return whether the text is a valid traceparent whose sampled flag is set."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match is not None and bool(int(match[1], 16) & 1)


def is_traceparent(text: str) -> bool:
    """Return whether the text is a valid traceparent (W3C trace context)."""
    return _TRACEPARENT.fullmatch(text) is not None


def is_correlation_id(text: str) -> bool:
    """Return whether the text is acceptable as a correlation id."""
    return _CORRELATION_ID.fullmatch(text) is not None


def find_correlation_id(headers: Iterable[tuple[str, bytes | None]]) -> str | None:
    """Return the correlation id in a message's headers; None if it is absent or not acceptable."""
    for name, value in headers:
        if name == CORRELATION_ID and value is not None:
            text = value.decode("ascii", errors="replace")
            return text if is_correlation_id(text) else None
    return None


def get_log_fields() -> dict[str, str]:
    """Return the ids that a log line gets from the current trace; empty if there is none."""
    trace = current.get()
    if trace is None:
        return {}
    fields = {"trace_id": trace.traceparent[_TRACE_ID]}
    if trace.correlation_id:
        fields["correlation_id"] = trace.correlation_id
    if trace.has_span:
        fields["span_id"] = trace.traceparent[_SPAN_ID]
    return fields


@contextmanager
def enter_span(span: Span) -> Iterator[Span]:
    """Make the span current, so that log lines have its ids, and end it on exit. An exception marks it as failed."""
    around = current.get()
    correlation_id = "" if around is None else around.correlation_id
    tokens = current.set(Trace(correlation_id, span.traceparent, has_span=True)), _current_span.set(span)
    try:
        yield span
    except BaseException as error:
        span.fail(type(error).__qualname__)
        raise
    finally:
        current.reset(tokens[0])
        _current_span.reset(tokens[1])
        span.end()
