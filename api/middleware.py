"""The outermost layer: trace, correlation id, limits on bodies and requests in flight, metrics, log, last handler."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.connections import BODY_IS_WHOLE
from api.direct_routes import DirectRoutes
from api.head_requests import turn_into_get
from api.metrics import Metrics
from api.problems import Kind, Problem, make_database_problem, make_unavailable_problem
from api.security_headers import add_security_headers
from api.shares import Holder
from api.tracing import begin_span, end_span, read_trace
from db.connections import DatabaseError
from runtime import tracing
from runtime.tracing import Span

logger: Final = structlog.get_logger(__name__)
_library_log = logging.getLogger(__name__)

# A body that is too large is read and dropped up to this multiple of the limit: a client does not see the answer while
# it still sends.
_DRAIN_FACTOR: Final = 4
_UNMATCHED: Final = "(none)"
# No limit on requests in flight holds for these, as a busy process must not be restarted. They are never traced.
_ALWAYS_ANSWERED: Final = frozenset({"/livez", "/readyz", "/metrics"})
# Answers that last as long as a client watches; their time says nothing about the speed of the API.
_ENDLESS: Final = frozenset({"/v1/console/events"})
_BATCH_PATH: Final = "/v1/intents/batch"
_NO_CODING: Final = frozenset({b"", b"identity"})
_CODING_CHARACTERS_SHOWN_MAX: Final = 40
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _is_never_whole() -> bool:
    """Return False: stand in for a server that does not tell if a body has arrived."""
    return False


class _BodyLimit:
    """Receives the body of one request. Raises Problem as soon as the body is known to be too large or too slow."""

    def __init__(
        self,
        receive: Receive,
        has_come: Callable[[], bool],
        headers: Headers,
        holder: Holder,
        bytes_max: int,
        ends_time: float,
        seconds_max: float,
    ) -> None:
        """`has_come` tells if all of the body has arrived."""
        self._receive = receive
        self._has_come = has_come
        self._holder = holder
        self._ends_time = ends_time
        self._seconds_max = seconds_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._is_whole = False
        announced = headers.get("content-length", "")
        self._announced = int(announced) if announced.isascii() and announced.isdigit() else 0

    async def __call__(self) -> Message:
        if self._is_whole:
            return await self._receive()
        message = await self._next()
        if message["type"] != "http.request":
            return message
        self._is_whole = not message.get("more_body")
        count = len(message.get("body", b""))
        self._bytes += count
        self._holder.take_body(count)
        if max(self._bytes, self._announced) > self._bytes_max:
            await self._drain(message)
            raise Problem(
                Kind.BODY_TOO_LARGE,
                f"The body must have at most {self._bytes_max} bytes.",
                headers={"Connection": "close"},
                bytes_max=self._bytes_max,
            )
        return message

    async def _next(self) -> Message:
        if self._has_come():  # Without a timer, which would cost more than the rest of this function.
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._ends_time):
                return await self._receive()
        except TimeoutError as error:
            raise Problem(
                Kind.BODY_TOO_SLOW,
                f"The body must arrive in full within {self._seconds_max:g} seconds.",
                headers={"Connection": "close"},
            ) from error

    async def _drain(self, message: Message) -> None:
        while message.get("more_body") and self._bytes <= _DRAIN_FACTOR * self._bytes_max:
            message = await self._next()
            if message["type"] != "http.request":
                return
            self._bytes += len(message.get("body", b""))


def _find_content_coding(scope: Scope) -> bytes | None:
    """Return the body's content coding, such as gzip; None if it has none."""
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.strip().lower() not in _NO_CODING:
            coding: bytes = value
            return coding
    return None


def _make_unsupported_coding_problem(coding: bytes) -> Problem:
    shown = coding[:_CODING_CHARACTERS_SHOWN_MAX].decode("latin-1")
    return Problem(
        Kind.UNSUPPORTED_MEDIA_TYPE,
        f"The body is packed ({shown}), and packed bodies are not taken: send it without Content-Encoding.",
        headers={"Accept-Encoding": "identity"},
    )


class RequestLayer:
    """The outermost ASGI layer. It uses no framework class, as it is on the path of every request."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        direct: DirectRoutes,
        body_bytes_max: int,
        batch_bytes_max: int,
        requests_in_flight_max: int,
        body_seconds_max: float,
    ) -> None:
        self._app = app
        self._direct = direct
        self._metrics = metrics
        self._body_bytes_max = body_bytes_max
        self._batch_bytes_max = batch_bytes_max
        self._requests_in_flight_max = requests_in_flight_max
        self._body_seconds_max = body_seconds_max
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; pass other scopes (lifespan) through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        if method == "HEAD":
            scope, receive, send = turn_into_get(scope, receive, send)
        await self._serve(scope, receive, send, method)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, method: str) -> None:
        started = time.perf_counter()
        headers = Headers(scope=scope)
        trace = read_trace(headers)
        tracer = tracing.get_tracer()
        span = None
        if tracer is not None and scope["path"] not in _ALWAYS_ANSWERED:
            span = begin_span(tracer, headers, scope)
            if span is not None:
                trace = trace._replace(traceparent=span.traceparent, has_span=True)
        state = scope.setdefault("state", {})
        state["trace"] = trace
        holder = state["holder"] = Holder()
        token = tracing.current.set(trace)
        status = 0

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                add_security_headers(message, trace.correlation_id)
            await send(message)

        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        try:
            if self._in_flight > self._requests_in_flight_max and scope["path"] not in _ALWAYS_ANSWERED:
                self._metrics.share_refusals.labels("requests", "all").inc()
                problem = make_unavailable_problem(
                    Kind.OVERLOADED, "Too many requests are being answered: try again in a moment."
                )
                await problem.make_response()(scope, receive, send_noted)
            else:
                await self._answer(scope, self._bound(scope, receive, headers, holder), send_noted)
        except ClientDisconnect:
            logger.debug("client left")
        except Exception as error:
            logger.exception("request failed", method=method)
            if status:  # the answer has begun, so the only way to tell the client is to end the connection
                raise
            detail = "The request failed for a reason of ours; the log has it under the correlation id."
            problem = Problem(Kind.INTERNAL, detail, correlation_id=trace.correlation_id)
            problem.__cause__ = error
            await problem.make_response()(scope, receive, send_noted)
        finally:
            holder.give_back()
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)
            self._note(scope, method, status, time.perf_counter() - started, span)
            tracing.current.reset(token)

    def _bound(self, scope: Scope, receive: Receive, headers: Headers, holder: Holder) -> Receive:
        bytes_max = self._batch_bytes_max if scope["path"] == _BATCH_PATH else self._body_bytes_max
        ends_time = asyncio.get_running_loop().time() + self._body_seconds_max
        has_come = scope.get("extensions", {}).get(BODY_IS_WHOLE, _is_never_whole)
        return _BodyLimit(receive, has_come, headers, holder, bytes_max, ends_time, self._body_seconds_max)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        coding = _find_content_coding(scope)
        if coding is not None:
            await _make_unsupported_coding_problem(coding).make_response()(scope, receive, send)
            return
        endpoint = self._direct.get((scope["method"], scope["path"]))
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        try:
            response = await endpoint(Request(scope, receive))
        except Problem as problem:
            response = problem.make_response()
        except DatabaseError as error:
            response = make_database_problem(error).make_response()
        await response(scope, receive, send)

    def _note(self, scope: Scope, asked: str, status: int, seconds: float, span: Span | None) -> None:
        is_direct = (scope["method"], scope["path"]) in self._direct
        route = scope["path"] if is_direct else getattr(scope.get("route"), "path", _UNMATCHED)
        method = asked if asked in _METHODS else "other"
        self._metrics.requests(method, route, status).inc()
        if route not in _ENDLESS:
            self._metrics.request_seconds(method, route).observe(seconds)
        if span is not None:
            end_span(span, method, route, status)
        if _library_log.isEnabledFor(logging.DEBUG):  # else structlog's processors run for a line that is dropped
            logger.debug("request", method=method, route=route, status=status, milliseconds=round(seconds * 1000, 2))
