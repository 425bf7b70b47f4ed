"""Bounds on what one connection may cost: request heads, pipelined requests, sockets, unread answers and time.

uvicorn's protocol has none of these bounds (docs/decisions/0018). The subclass here only counts. The parser, the
requests and the answers stay uvicorn's. One sweep a second checks all deadlines, so no request sets a timer.
"""

import asyncio
from collections import Counter
from enum import Enum
from functools import partial
from heapq import nsmallest
from typing import Any, Final, cast
from uuid import uuid4

import httptools
import orjson
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.addresses import UNKNOWN, TrustedProxies, is_proxy
from api.connection_bounds import Cause, ConnectionBounds
from api.metrics import Metrics
from api.problems import MEDIA_TYPE, Kind, Problem, make_unavailable_problem
from api.security_headers import ANSWER_HEADERS
from api.sockets import keep_little_in_the_kernel

SWEEP_SECONDS: Final = 1.0
READ_BYTES_MIN: Final = 16_384
"""The least that a client must read of a waiting answer within `unread_seconds_max`; else the connection is ended."""
_EVICTED_AT_ONCE: Final = 64
_NEVER: Final = float("inf")
BODY_IS_WHOLE: Final = "ledgerline.body_is_whole"
"""The ASGI extension that tells if all of a request's body has arrived. Reading such a body needs no timer."""


class _Part(Enum):
    """The part of a request that a client is sending."""

    NOTHING = 0
    HEAD = 1
    BODY = 2


class _Stop(Exception):
    """Raised inside a callback of the parser to stop the parser."""


class Connections:
    """All connections of one process, and the sweep over them. Use it in one event loop only."""

    def __init__(self, bounds: ConnectionBounds, trusted: TrustedProxies, metrics: Metrics) -> None:
        self.bounds = bounds
        self._trusted = trusted
        self._metrics = metrics
        self._open: set[BoundedProtocol] = set()
        self._unread: set[BoundedProtocol] = set()
        self._by_address: Counter[str] = Counter()
        self._sweep: asyncio.TimerHandle | None = None

    def protocol(self) -> type[asyncio.Protocol]:
        """Return the factory that uvicorn calls to make the protocol of each connection."""
        return cast(type[asyncio.Protocol], partial(BoundedProtocol, self))

    def note(self, cause: Cause) -> None:
        """Count, under its cause, a connection that the API ends."""
        self._metrics.connections_ended.labels(cause.value).inc()

    def add(self, connection: "BoundedProtocol") -> Cause | None:
        """Add a connection; return None, or the cause if a bound refuses it.

        The bound by address does not apply to a trusted proxy.
        """
        bounds = self.bounds
        address = connection.address
        if self._by_address[address] >= bounds.address_connections_max and not is_proxy(address, self._trusted):
            return Cause.ADDRESS
        if len(self._open) >= bounds.connections_max and not self._evict():
            return Cause.CONNECTIONS
        self._open.add(connection)
        self._by_address[address] += 1
        self._metrics.connections.set(len(self._open))
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._end_overdue)
        return None

    def remove(self, connection: "BoundedProtocol") -> None:
        """Forget a connection; a second call does nothing."""
        self._unread.discard(connection)
        if connection in self._open:
            self._open.remove(connection)
            self._by_address[connection.address] -= 1
            if not self._by_address[connection.address]:
                del self._by_address[connection.address]
            self._metrics.connections.set(len(self._open))

    def add_unread(self, connection: "BoundedProtocol") -> None:
        """Add a connection whose answer waits for its client; end connections while the unread total is over the bound.

        Each time, the address with the most unread bytes loses the connection that has waited longest.
        """
        self._unread.add(connection)
        sizes = {waiting: waiting.unread_bytes for waiting in self._unread}
        total = sum(sizes.values())
        while total > self.bounds.unread_bytes_max:
            by_address: Counter[str] = Counter()
            for waiting, size in sizes.items():
                by_address[waiting.address] += size
            worst = by_address.most_common(1)[0][0]
            longest = min((one for one in sizes if one.address == worst), key=lambda one: one.unread_since)
            total -= sizes.pop(longest)
            longest.abort(Cause.UNREAD)

    def remove_unread(self, connection: "BoundedProtocol") -> None:
        """Remove a connection whose client has read most of its answer."""
        self._unread.discard(connection)

    def _evict(self) -> bool:
        """End the connections that have been without a whole request for longest; return whether there were any."""
        now = asyncio.get_running_loop().time()
        waiting = (connection for connection in self._open if connection.waits_for_head)
        longest = nsmallest(_EVICTED_AT_ONCE, waiting, key=lambda connection: connection.get_waiting_since(now))
        for connection in longest:
            connection.abort(Cause.CONNECTIONS)
        return bool(longest)

    def _end_overdue(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._open):
            connection.end_if_overdue(now)
        if self._open:
            self._sweep = loop.call_later(SWEEP_SECONDS, self._end_overdue)


class BoundedProtocol(HttpToolsProtocol):
    """One connection: uvicorn's protocol, with the bounds."""

    def __init__(
        self,
        all_connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        bounds = all_connections.bounds
        self.address = UNKNOWN
        self.unread_since = _NEVER
        self._unread_bytes_then = 0
        self._all = all_connections
        self._bounds = bounds
        self._head_bytes_max = bounds.head_bytes_max
        self._headers_max = bounds.headers_max
        self._pipelined_max = bounds.pipelined_max
        self._answering: RequestResponseCycle | None = None
        self._part = _Part.NOTHING
        self._changes = 0
        """How often a head, a request or an answer began or ended.

        The sweep compares this count with the last one that it saw, so no request reads the clock.
        """
        self._changes_seen = 0
        self._since = 0.0
        self._has_enough = False
        self._read_bytes = 0
        self._idle_bytes = 0
        """Bytes since a head began or ended, or since the last content of a body: only the parser keeps them."""

    @property
    def waits_for_head(self) -> bool:
        """Whether no whole head has come for the next request, and no request is being answered."""
        return self._part is not _Part.BODY and not self._is_answering()

    @property
    def unread_bytes(self) -> int:
        """Bytes of answers in this process that the client has not read yet."""
        return self.transport.get_write_buffer_size()

    def get_waiting_since(self, now: float) -> float:
        """Return the loop's time since which nothing has begun or ended here, exact to one sweep (a second)."""
        if self._changes != self._changes_seen:
            self._changes_seen = self._changes
            self._since = now
        return self._since

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or refuse it."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else UNKNOWN
        self._since = self.loop.time()
        keep_little_in_the_kernel(transport)
        cause = self._all.add(self)
        if cause is Cause.ADDRESS:
            most = self._bounds.address_connections_max
            self._refuse(
                cause, make_unavailable_problem(Kind.OVERLOADED, f"One address may have {most} connections at once.")
            )
        elif cause is not None:
            most = self._bounds.connections_max
            self._refuse(
                cause, make_unavailable_problem(Kind.OVERLOADED, f"All {most} connections of this process are in use.")
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, and tell the request that is being answered that its client has left."""
        self._all.remove(self)
        self._tell_answering()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        extensions: dict[str, Any] = {BODY_IS_WHOLE: lambda: not cycle.more_body}
        cycle.scope["extensions"] = extensions
        super()._start_asgi_task(cycle, app)

    def _tell_answering(self) -> None:
        """Tell the request that is being answered that its client has left.

        uvicorn tells only the newest request. With pipelined requests that is a later one, and the request under way
        would go on writing to a closed socket: one error in the log for each.
        """
        answering = self._answering
        if answering is not None and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()

    def abort(self, cause: Cause) -> None:
        """End the connection now, and drop the bytes that its client has not read."""
        self._has_enough = True
        self._all.note(cause)
        self._all.remove(self)
        self._tell_answering()
        self.transport.abort()

    def end_if_overdue(self, now: float) -> None:
        """End the connection if its client has missed a deadline."""
        if self._is_leaving_unread(now):
            self.abort(Cause.UNREAD)
        elif now - self.get_waiting_since(now) > self._get_seconds_max() and not self.transport.is_closing():
            if self._part is _Part.HEAD:
                seconds = self._bounds.head_seconds_max
                detail = f"The head of a request must come whole within {seconds:g} seconds."
                self._refuse(Cause.HEAD_TOO_SLOW, Problem(Kind.HEAD_TOO_SLOW, detail))
            else:
                self._all.note(Cause.BODY_TOO_SLOW if self._part is _Part.BODY else Cause.IDLE)
                self.transport.close()

    def _get_seconds_max(self) -> float:
        if self._is_answering():
            return _NEVER  # while a request is being answered, api/middleware.py bounds the time of its body
        if self._part is _Part.BODY:
            return self._bounds.body_seconds_max
        if self._part is _Part.HEAD or not self._changes:
            return self._bounds.head_seconds_max
        return self._bounds.idle_seconds_max

    def _is_leaving_unread(self, now: float) -> bool:
        if self.unread_since == _NEVER and not self.transport.is_closing():
            return False
        unread_bytes = self.unread_bytes
        if self.unread_since == _NEVER or unread_bytes <= self._unread_bytes_then - READ_BYTES_MIN:
            self.unread_since = now
            self._unread_bytes_then = unread_bytes
        return now - self.unread_since > self._bounds.unread_seconds_max

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and bound what the parser keeps in memory: a head, the framing of a body, trailers."""
        if self._has_enough:
            if not self.transport.is_closing():
                self.flow.pause_reading()  # a request that waits for its body has resumed reading
            return
        self._read_bytes = len(data)
        self._idle_bytes += self._read_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # we offer no other protocol, so the request is answered like any other
        except httptools.HttpParserError:
            if not self._has_enough:
                self._refuse(Cause.NO_HTTP, Problem(Kind.BAD_REQUEST, "The bytes that came are no HTTP request."))
            return
        if self._idle_bytes > self._head_bytes_max and self._part is not _Part.NOTHING:
            self._refuse_head()

    def on_message_begin(self) -> None:
        """Note that a head begins."""
        self._part = _Part.HEAD
        self._changes += 1
        self._idle_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Check a whole head against the bounds, then let uvicorn start the request."""
        if len(self.headers) > self._headers_max or self._is_head_too_large():
            self._refuse_head()
            raise _Stop
        if len(self.pipeline) >= self._pipelined_max and self._is_answering():
            # Answer the requests taken so far, then end the connection: the client must send the rest again.
            self._all.note(Cause.PIPELINE)
            self._has_enough = True
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            raise _Stop
        self._part = _Part.BODY
        self._changes += 1
        self._idle_bytes = 0
        super().on_headers_complete()

    def _is_head_too_large(self) -> bool:
        if not self._idle_bytes and self._read_bytes <= self._head_bytes_max:
            return False  # the whole head came in this read, which is within the bound
        size = len(self.url) + sum([len(name) + len(value) for name, value in self.headers])
        return size > self._head_bytes_max

    def on_body(self, body: bytes) -> None:
        """Take content of a body: the parser hands it on, so it does not count as kept by the parser."""
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request is whole: until its answer is written, its client has no deadline to send anything."""
        self._part = _Part.NOTHING
        self._changes += 1
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the next pipelined request once an answer is written, or read on if there is none.

        This replaces uvicorn's method, which sets a timer for each answer, and reads on while pipelined requests wait.
        """
        self.server_state.total_requests += 1
        self._changes += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self.flow.resume_reading()
        if self.cycle.body:
            self.cycle.body = bytearray()  # no one read this body; it would stay in memory as long as the connection

    def pause_writing(self) -> None:
        """Note that our buffer is full, as the client does not read."""
        self.unread_since = self.loop.time()
        self._unread_bytes_then = self.unread_bytes
        super().pause_writing()
        self._all.add_unread(self)

    def resume_writing(self) -> None:
        """Note that the client has read most of the buffer."""
        self.unread_since = _NEVER
        self._all.remove_unread(self)
        super().resume_writing()

    def _refuse_head(self) -> None:
        bytes_max, headers_max = self._bounds.head_bytes_max, self._bounds.headers_max
        detail = f"The head of a request must have at most {bytes_max} bytes and {headers_max} headers."
        problem = Problem(Kind.HEAD_TOO_LARGE, detail, bytes_max=bytes_max, headers_max=headers_max)
        self._refuse(Cause.HEAD_TOO_LARGE, problem)

    def _refuse(self, cause: Cause, problem: Problem) -> None:
        """Answer with the problem and close. Only abort if an answer is under way: a second one would corrupt it."""
        if self._is_answering():
            self.abort(cause)
            return
        self._has_enough = True
        self._all.note(cause)
        body = orjson.dumps(problem.document())
        headers = problem.headers | {
            "Content-Type": MEDIA_TYPE,
            "Content-Length": str(len(body)),
            "Connection": "close",
            "X-Correlation-Id": str(uuid4()),
            **ANSWER_HEADERS,
        }
        lines = [b"%s: %s\r\n" % line for line in self.server_state.default_headers]
        lines += [f"{name}: {value}\r\n".encode() for name, value in headers.items()]
        self.transport.write(b"".join([STATUS_LINE[problem.kind.status], *lines, b"\r\n", body]))
        self.transport.close()
