"""Spans by OpenTelemetry's SDK, sent to a collector by OTLP over HTTP; imported only where tracing is on.

The standard variables hold for what a collector may want besides: OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_
CERTIFICATE, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_*.
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
    """What the SDK has to say, at most once in WARNING_SECONDS: a collector that is away is no reason for more."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(logging.WARNING)
        self._endpoint = endpoint
        self._said_at = float("-inf")
        self._unsaid = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Called with the handler's lock held, in whichever thread has something to say."""
        now = time.monotonic()
        if now - self._said_at < WARNING_SECONDS:
            self._unsaid += 1
            return
        logger.warning(
            "spans were not exported", endpoint=self._endpoint, cause=record.getMessage(), unsaid=self._unsaid
        )
        self._said_at, self._unsaid = now, 0


def _context_of(traceparent: str) -> SpanContext:
    _, trace_id, span_id, flags = traceparent.split("-")[:4]
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


class OtlpSpan:
    """A span; see runtime.tracing.Span."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: SdkSpan) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    def rename(self, name: str) -> None:
        """Complete the name."""
        self._span.update_name(name)

    def put(self, attributes: Mapping[Attribute, Value]) -> None:
        """Tell more."""
        for attribute, value in attributes.items():
            self._span.set_attribute(attribute.value, value)

    def mark(self, event: str) -> None:
        """Note a step."""
        self._span.add_event(event)

    def link(self, traceparents: Iterable[str]) -> None:
        """Tell what else led to it."""
        for traceparent in traceparents:
            self._span.add_link(_context_of(traceparent))

    def fail(self, error_type: str) -> None:
        """Not with the error's text, which may hold what no span may."""
        self._span.set_attribute(Attribute.ERROR_TYPE.value, error_type)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        """Hand it to the exporter's queue; a full one drops it."""
        self._span.end()


class OtlpTracer:
    """Makes spans and has a thread of the SDK send them; see runtime.tracing.Tracer."""

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
        # Its thread inherits the mask: a signal must come to those who wait for it, as the relay does by sigwait.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        self._processor = BatchSpanProcessor(exporter)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # Who asks for a span has sampled it. It is not made the process' global provider: libraries such as FastAPI
        # would add spans of their own, with paths in them.
        provider = TracerProvider(resource=resource, sampler=ALWAYS_ON, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("ledgerline", VERSION)
        self._sdk_log = logging.getLogger("opentelemetry")
        self._sdk_log.handlers[:] = [_OneWarning(base)]
        self._sdk_log.propagate = False

    def begins_sampled(self) -> bool:
        """By chance, as the ratio says."""
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
        """A span from now on."""
        context = _NOTHING if parent is None else set_span_in_context(NonRecordingSpan(_context_of(parent)), _NOTHING)
        return OtlpSpan(
            self._tracer.start_span(
                name,
                context,
                _KINDS[kind],
                {attribute.value: value for attribute, value in attributes.items()},
                [Link(_context_of(link)) for link in links],
            )
        )

    def stop(self, seconds_max: float) -> None:
        """In a thread, as the SDK's own shutdown waits for a collector that is away for half a minute."""
        sender = threading.Thread(target=self._processor.shutdown, name="last spans", daemon=True)
        sender.start()
        sender.join(seconds_max)
