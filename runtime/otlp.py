"""Makes spans with OpenTelemetry's SDK and sends them to a collector by OTLP over HTTP; imported only if tracing is on.

OpenTelemetry's standard variables set whatever else a collector needs: OTEL_EXPORTER_OTLP_HEADERS,
OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_*.
"""

import logging
import random
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Final

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan

from runtime.release import VERSION
from runtime.tracing import Attribute, Kind, Value

logger: Final = structlog.get_logger(__name__)

EXPORT_SECONDS_MAX: Final = 10.0
WARNING_SECONDS: Final = 60.0
_PATH: Final = "/v1/traces"
_NOTHING: Final = Context()
_KINDS: Final = {kind: SpanKind[kind.value] for kind in Kind}


class _OneWarning(logging.Handler):
    """Logs a warning of the SDK at most once in WARNING_SECONDS, as the SDK repeats it while a collector is away."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(logging.WARNING)
        self._endpoint = endpoint
        self._said_at = float("-inf")
        self._unsaid = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record, or count it if the last line is recent. The caller, any thread, holds the handler's lock."""
        now = time.monotonic()
        if now - self._said_at < WARNING_SECONDS:
            self._unsaid += 1
            return
        logger.warning(
            "spans were not exported", endpoint=self._endpoint, cause=record.getMessage(), unsaid=self._unsaid
        )
        self._said_at, self._unsaid = now, 0


def _make_context(traceparent: str) -> SpanContext:
    _, trace_id, span_id, flags = traceparent.split("-")[:4]
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


class OtlpSpan:
    """A span of the SDK; see runtime.tracing.Span."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: SdkSpan) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    def rename(self, name: str) -> None:
        """Set the complete name."""
        self._span.update_name(name)

    def put(self, attributes: Mapping[Attribute, Value]) -> None:
        """Set attributes."""
        for attribute, value in attributes.items():
            self._span.set_attribute(attribute.value, value)

    def mark(self, event: str) -> None:
        """Record that a step is complete at this moment."""
        self._span.add_event(event)

    def link(self, traceparents: Iterable[str]) -> None:
        """Link the span to other spans that led to it."""
        for traceparent in traceparents:
            self._span.add_link(_make_context(traceparent))

    def fail(self, error_type: str) -> None:
        """Mark the span as failed, without the error's text: it may hold data that no span may have."""
        self._span.set_attribute(Attribute.ERROR_TYPE.value, error_type)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        """End the span and put it into the exporter's queue; a full queue drops it."""
        self._span.end()


class OtlpTracer:
    """Makes spans that a thread of the SDK sends; see runtime.tracing.Tracer."""

    def __init__(self, endpoint: str, *, sample_ratio: float, service: str, instance: str) -> None:
        self._sample_ratio = sample_ratio
        resource = Resource.create(
            {
                "service.namespace": "ledgerline",
                "service.name": f"ledgerline-{service}",
                "service.version": VERSION,
                "service.instance.id": instance,
            }
        )
        base = endpoint.rstrip("/")
        exporter = OTLPSpanExporter(base if base.endswith(_PATH) else base + _PATH, timeout=EXPORT_SECONDS_MAX)
        # The processor's thread inherits this mask, so that a signal reaches the thread that waits for it,
        # as the relay's does by sigwait.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        self._processor = BatchSpanProcessor(exporter)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # The caller asks only for sampled spans, so all are recorded. This is not the process's global provider,
        # because libraries such as FastAPI would add spans of their own, with paths in them.
        provider = TracerProvider(resource=resource, sampler=ALWAYS_ON, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("ledgerline", VERSION)
        self._sdk_log = logging.getLogger("opentelemetry")
        self._sdk_log.handlers[:] = [_OneWarning(base)]
        self._sdk_log.propagate = False

    def begins_sampled(self) -> bool:
        """Return whether to record a trace that begins here: True at random, as often as the ratio says."""
        return random.random() < self._sample_ratio  # noqa: S311 - no secret

    def span(
        self,
        name: str,
        kind: Kind,
        attributes: Mapping[Attribute, Value],
        *,
        parent: str | None = None,
        links: Iterable[str] = (),
    ) -> OtlpSpan:
        """Start a span."""
        context = _NOTHING if parent is None else set_span_in_context(NonRecordingSpan(_make_context(parent)), _NOTHING)
        return OtlpSpan(
            self._tracer.start_span(
                name,
                context,
                _KINDS[kind],
                {attribute.value: value for attribute, value in attributes.items()},
                [Link(_make_context(link)) for link in links],
            )
        )

    def stop(self, seconds_max: float) -> None:
        """Send the remaining spans; return after at most `seconds_max` seconds.

        A thread does this, because the SDK's own shutdown waits half a minute for a collector that is away.
        """
        sender = threading.Thread(target=self._processor.shutdown, name="last spans", daemon=True)
        sender.start()
        sender.join(seconds_max)
