"""The connections that a proxy forwards between a client and its target: links of two sides, and traps at patterns."""

import asyncio
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

_ANSWER_SECONDS_MAX: Final = 1.0
# SO_LINGER on, with 0 seconds: closing sends RST and discards unsent bytes.
LINGER_ZERO: Final = struct.pack("ii", 1, 0)


@dataclass
class Trap:
    """The action for a chunk that completes a pattern, and how many more times to do it."""

    pattern: bytes
    spring: "Callable[[Link, bytes, Trap], None]"
    times: int = 1
    fired: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class Traffic:
    """The state that all links of a proxy share. Only the proxy's thread may use it, except for the counts."""

    links: "set[Link]" = field(default_factory=set)
    traps: list[Trap] = field(default_factory=list)
    delay_seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0


class Link:
    """A client's connection and the proxy's connection to the target."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.client = Side(self)
        self.server = Side(self)
        self.answer_doomed: Trap | None = None
        self.is_frozen = False
        self.is_reset = False
        self._tail = b""

    def peer(self, side: "Side") -> "Side":
        """Return the other side."""
        return self.server if side is self.client else self.client

    def freeze(self) -> None:
        """Stop reading from both sides, and discard the chunks that are not delivered yet."""
        self.is_frozen = True
        for side in (self.client, self.server):
            side.waiting.clear()
            side.hold_reading()

    def reset(self) -> None:
        """Send RST to both sides."""
        self.traffic.links.discard(self)
        self.is_frozen = self.is_reset = True
        self.client.reset()
        self.server.reset()

    def deliver(self, source: "Side", chunk: bytes) -> None:
        """Forward a chunk that is due, unless the link is frozen, the answer is doomed or the chunk springs a trap."""
        if self.is_frozen:
            return
        if source is self.server:
            if self.answer_doomed is not None:
                self.spring_answer()
            else:
                self.send(self.client, chunk)
            return
        trap = self._trap_in(chunk)
        if trap is None:
            self.send(self.server, chunk)
            return
        trap.times -= 1
        if trap.times == 0:
            self.traffic.traps.remove(trap)
        trap.spring(self, chunk, trap)

    def send(self, side: "Side", chunk: bytes) -> None:
        """Write a chunk to one side, and count its bytes."""
        if side is self.server:
            self.traffic.bytes_up += len(chunk)
        else:
            self.traffic.bytes_down += len(chunk)
        side.write(chunk)

    def spring_answer(self) -> None:
        """Reset the link instead of forwarding the answer, or because no answer came in time."""
        trap, self.answer_doomed = self.answer_doomed, None
        if trap is not None:
            self.reset()
            _finish(trap)

    def _trap_in(self, chunk: bytes) -> Trap | None:
        """Return the first trap whose pattern ends in this chunk, even if the pattern began in an earlier chunk."""
        traps = self.traffic.traps
        if not traps:
            self._tail = b""
            return None
        before, window = len(self._tail), self._tail + chunk
        self._tail = window[-max(len(trap.pattern) for trap in traps) :]
        for trap in traps:
            if window.find(trap.pattern, max(0, before - len(trap.pattern) + 1)) >= 0:
                return trap
        return None


class Side(asyncio.Protocol):
    """One of the two connections of a link. It passes the bytes that it reads to its peer."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.waiting: deque[tuple[float, bytes | None]] = deque()
        """Pairs of due time at the peer (seconds of the loop's clock) and chunk read; the chunk None is the end."""
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes | None] = []
        self._drained: list[Callable[[], None]] = []
        self._has_ended = False
        self._is_full = False

    # ------------------------------------------------------------------------------------------ called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the chunks that waited for the connection. The limit 0 makes asyncio report each unsent byte."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - the protocol is only given to TCP
        self._transport = transport
        transport.set_write_buffer_limits(high=0)
        if self.link.is_reset:
            self.reset()
        elif self.link.is_frozen:
            self.hold_reading()
        for chunk in self._unsent:
            self.write(chunk)
        self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        """Pass the bytes on when they are due."""
        self._pass_on(data)

    def eof_received(self) -> bool:
        """Pass the end on when it is due; the other direction stays open."""
        self._pass_on(None)
        return True

    def connection_lost(self, _error: Exception | None) -> None:
        """Reset the peer, unless both directions ended before."""
        if not (self._has_ended and self.link.peer(self)._has_ended):
            self.link.reset()
        self.link.traffic.links.discard(self.link)

    def pause_writing(self) -> None:
        """Stop reading from the peer while the kernel takes no more bytes."""
        self._is_full = True
        self.link.peer(self).hold_reading()

    def resume_writing(self) -> None:
        """Read from the peer again, and run the waiting actions, as the kernel has taken all bytes."""
        self._is_full = False
        if not self.link.is_frozen:
            self.link.peer(self)._go_on_reading()
        drained, self._drained = self._drained, []
        for action in drained:
            action()

    # ------------------------------------------------------------------------------------------ called by the link

    def write(self, chunk: bytes | None) -> None:
        """Hand bytes, or their end (None), to the kernel; keep them until there is a connection."""
        if self._transport is None:
            self._unsent.append(chunk)
        elif chunk is not None:
            self._transport.write(chunk)
        elif not self._transport.is_closing():
            try:
                self._transport.write_eof()
            except OSError:  # the connection was reset, and asyncio has not noticed yet
                self.link.reset()

    def when_drained(self, action: Callable[[], None]) -> None:
        """Call `action` when the kernel has all written bytes; at once if it has them already."""
        if self._is_full:
            self._drained.append(action)
        else:
            action()

    def hold_reading(self) -> None:
        """Stop reading until `_go_on_reading`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def reset(self) -> None:
        """Send RST."""
        self.waiting.clear()
        self._drained.clear()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
            self._transport.abort()

    def _go_on_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # ------------------------------------------------------------------------------------------ its own

    def _pass_on(self, chunk: bytes | None) -> None:
        delay_seconds = self.link.traffic.delay_seconds
        if not self.waiting and not delay_seconds:
            self._deliver(chunk)
            return
        loop = asyncio.get_running_loop()
        self.waiting.append((loop.time() + delay_seconds, chunk))
        if len(self.waiting) == 1:  # earlier chunks have scheduled the call already, which keeps the order
            loop.call_at(self.waiting[0][0], self._deliver_due)

    def _deliver_due(self) -> None:
        loop = asyncio.get_running_loop()
        while self.waiting and self.waiting[0][0] <= loop.time():
            self._deliver(self.waiting.popleft()[1])
        if self.waiting:
            loop.call_at(self.waiting[0][0], self._deliver_due)

    def _deliver(self, chunk: bytes | None) -> None:
        if chunk is not None:
            self.link.deliver(self, chunk)
            return
        self._has_ended = True
        peer = self.link.peer(self)
        peer.write(None)
        if peer._has_ended:
            for side in (self, peer):
                if side._transport is not None:
                    side._transport.close()


def cut_before(link: Link, _chunk: bytes, trap: Trap) -> None:
    """Reset both sides; the target never sees the chunk."""
    link.reset()
    _finish(trap)


def cut_after(link: Link, chunk: bytes, trap: Trap) -> None:
    """Forward the chunk, and reset both sides instead of returning the answer."""
    link.answer_doomed = trap
    link.send(link.server, chunk)
    asyncio.get_running_loop().call_later(_ANSWER_SECONDS_MAX, link.spring_answer)


def _finish(trap: Trap) -> None:
    if trap.times == 0:
        # Set the event after the loop has closed the reset connections, so that a waiter finds them closed.
        asyncio.get_running_loop().call_soon(trap.fired.set)
