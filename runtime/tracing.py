"""Traces: which spans there are and what they tell; off, unless `start` is given an endpoint.

Nothing of OpenTelemetry is imported here: runtime/otlp.py does that, and is imported where tracing is on. A trace is
sampled where it begins, by the caller or by the API; who comes later follows the flag in the traceparent that the
message has, so an intent is followed the whole way or not at all. docs/LOGS_AND_TRACES.md documents what is here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

LINKS_MAX: Final = 32
"""Most links of a batch's span; a batch has thousands of intents."""
RANGES_MAX: Final = 32
"""Most partitions or lanes that an attribute lists."""
TRACEPARENT: Final = "traceparent"
CORRELATION_ID: Final = "correlation_id"
"""Names of headers of Kafka's messages."""

# https://www.w3.org/TR/trace-context/#traceparent-header; later versions may append fields, ff is never valid.
_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})", re.ASCII
)
_CORRELATION_ID: Final = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}", re.ASCII)
_TRACE_ID: Final = slice(3, 35)
_SPAN_ID: Final = slice(36, 52)


class SpanName(StrEnum):
    """Every span; the server's is completed by method and route, the others' by their topic."""

    REQUEST = "HTTP"
    SEND = "send"
    PROCESS = "process"
    TRANSACTION = "ledger transaction"


class Attribute(StrEnum):
    """Every attribute. Those without `ledgerline.` are of OpenTelemetry's semantic conventions.

    None ever holds a secret, an idempotency key, an account, an amount, or a path or query, in which those may stand.
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
    """What a span is to the others, by OpenTelemetry's names."""

    SERVER = "SERVER"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"
    CLIENT = "CLIENT"


Value = str | int | list[str]


class Trace(NamedTuple):
    """What goes with an intent so that it can be followed: our correlation id and a W3C traceparent."""

    correlation_id: str
    """Empty where there is none, as of a batch."""
    traceparent: str
    has_span: bool = False
    """Whether the traceparent names a span of this process, rather than one of who called it."""


def ranges(numbers: Iterable[tuple[int, int]]) -> list[str]:
    """Each partition or lane with its first and last number among these, as `3:100-250`; at most RANGES_MAX."""
    bounds: dict[int, tuple[int, int]] = {}
    for partition, number in numbers:
        low, high = bounds.get(partition, (number, number))
        bounds[partition] = min(low, number), max(high, number)
    return [f"{partition}:{low}-{high}" for partition, (low, high) in sorted(bounds.items())[:RANGES_MAX]]


class Span(Protocol):
    """Something that takes time, on its way to the collector."""

    @property
    def traceparent(self) -> str:
        """What those that come of it are told."""

    def rename(self, name: str) -> None:
        """Complete the name by what is known only later."""

    def put(self, attributes: Mapping[Attribute, Value]) -> None:
        """Tell more of it."""

    def mark(self, event: str) -> None:
        """Note that a step is through, now."""

    def link(self, traceparents: Iterable[str]) -> None:
        """Tell what else led to it."""

    def fail(self, error_type: str) -> None:
        """It did not come to its end; `error_type` is the name of a class or a status code."""

    def end(self) -> None:
        """It is over, now."""


class Tracer(Protocol):
    """Makes spans. Each one that it is asked for is recorded: who asks has looked at the flag before."""

    def begins_sampled(self) -> bool:
        """Whether a trace that begins here is to be recorded."""

    def span(
        self,
        name: str,
        kind: Kind,
        attributes: Mapping[Attribute, Value],
        *,
        parent: str | None = None,
        links: Iterable[str] = (),
    ) -> Span:
        """A span from now on; `parent` and `links` are traceparents that are valid."""

    def stop(self, seconds_max: float) -> None:
        """Send what there is, within so many seconds."""


current: Final[ContextVar[Trace | None]] = ContextVar("ledgerline_trace", default=None)
"""What is being worked on, for log lines."""
_current_span: Final[ContextVar[Span | None]] = ContextVar("ledgerline_span", default=None)
_tracer: Tracer | None = None


def start(endpoint: str | None, *, sample_ratio: float, service: str, instance: str) -> None:
    """Trace from now on, to the OTLP collector at this base URL; None leaves all as it is, and imports nothing."""
    global _tracer  # noqa: PLW0603 - like logs and metrics, there is one for a process
    if endpoint is None:
        return
    from runtime.otlp import OtlpTracer  # noqa: PLC0415 - OpenTelemetry's SDK takes 90 ms and 25 MB

    _tracer = OtlpTracer(endpoint, sample_ratio=sample_ratio, service=service, instance=instance)


def stop(seconds_max: float = 1.0) -> None:
    """Send what there is, within so many seconds, and trace no more."""
    global _tracer  # noqa: PLW0603
    if _tracer is not None:
        _tracer.stop(seconds_max)
        _tracer = None


def tracer() -> Tracer | None:
    """Where spans are to be made; None where tracing is off."""
    return _tracer


def current_span() -> Span | None:
    """The span around what runs now; None where there is none."""
    return _current_span.get()


def is_sampled(traceparent: str) -> bool:
    """Whether this is a traceparent of something that is recorded."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match is not None and bool(int(match[1], 16) & 1)


def is_traceparent(text: str) -> bool:
    """Whether the text is a valid traceparent (W3C trace context)."""
    return _TRACEPARENT.fullmatch(text) is not None


def is_correlation_id(text: str) -> bool:
    """Whether the text may be taken over as a correlation id."""
    return _CORRELATION_ID.fullmatch(text) is not None


def correlation_id_of(headers: Iterable[tuple[str, bytes | None]]) -> str | None:
    """The correlation id that a message's headers have; None where none is usable."""
    for name, value in headers:
        if name == CORRELATION_ID and value is not None:
            text = value.decode("ascii", errors="replace")
            return text if is_correlation_id(text) else None
    return None


def log_fields() -> dict[str, str]:
    """What a log line is given of what is being worked on."""
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
def inside(span: Span) -> Iterator[Span]:
    """While it lasts the span is the current one, and log lines have its ids; at the end it is over, failed or not."""
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
