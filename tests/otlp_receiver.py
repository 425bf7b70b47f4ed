"""An OpenTelemetry collector for a test: takes OTLP over HTTP, decodes it with OpenTelemetry's own package."""

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.posting_bench import eventually

KINDS = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}


class ReceivedSpan(NamedTuple):
    """A span as it was received. Ids are in hex, and empty if missing."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: list[tuple[str, str]]
    """(trace id, span id)."""
    attributes: dict[str, Any]
    events: list[str]
    is_error: bool

    @property
    def context(self) -> tuple[str, str]:
        """The pair by which links name the span."""
        return self.trace_id, self.span_id


class OtlpReceiver:
    """All spans and bytes received so far."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.paths: set[str] = set()
        self.raw: list[bytes] = []
        self._spans: list[ReceivedSpan] = []
        self._lock = Lock()

    def take(self, path: str, body: bytes) -> None:
        """Store one request of an exporter."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            self.paths.add(path)
            self.raw.append(body)
            for resource in request.resource_spans:
                service = attributes_of(resource.resource.attributes)["service.name"]
                for scope in resource.scope_spans:
                    self._spans += [received(str(service), span) for span in scope.spans]

    def spans(self) -> list[ReceivedSpan]:
        """Return all spans received so far."""
        with self._lock:
            return list(self._spans)

    def wait_for(self, wanted: Callable[[ReceivedSpan], bool], what: str, seconds: float = 90.0) -> ReceivedSpan:
        """Return the first wanted span, as soon as it arrives."""
        found: list[ReceivedSpan] = []

        def came() -> bool:
            found[:] = [span for span in self.spans() if wanted(span)]
            return bool(found)

        eventually(came, f"a span of {what} comes", seconds)
        return found[0]


def attributes_of(given: Any) -> dict[str, Any]:
    """Return OTLP's list of keys and values as a mapping."""
    return {attribute.key: value_of(attribute.value) for attribute in given}


def value_of(value: Any) -> Any:
    """Return an OTLP value as a Python value."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(inner) for inner in value.array_value.values]
    return getattr(value, kind)


def received(service: str, span: Any) -> ReceivedSpan:
    """Return a span of the protocol in the form that tests use."""
    return ReceivedSpan(
        service,
        span.name,
        KINDS[span.kind],
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        attributes_of(span.attributes),
        [event.name for event in span.events],
        span.status.code == 2,
    )


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """Run a collector on its own port until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.take(self.path, body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Write no log lines."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = OtlpReceiver(server.server_port)
    thread = Thread(target=server.serve_forever, name="collector", daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
