"""What a proxy passes between a client and its target: the two sides of a connection, and traps at patterns."""

import asyncio
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

_ANSWER_SECONDS_MAX: Final = 1.0
# On, and no seconds to linger: closing sends RST and throws away what was not sent yet.
LINGER_ZERO: Final = struct.pack("ii", 1, 0)


@dataclass
class Trap:
    """What to do with a chunk that completes a pattern, and how many times more."""

    pattern: bytes
    spring: "Callable[[Link, bytes, Trap], None]"
    times: int = 1
    fired: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class Traffic:
    """What all links of a proxy share; used in the proxy's thread only, but for the counts."""

    links: "set[Link]" = field(default_factory=set)
    traps: list[Trap] = field(default_factory=list)
    delay_seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0


class Link:
    """A client's connection and ours to the target."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.client = Side(self)
        self.server = Side(self)
        self.answer_doomed: Trap | None = None
        self.is_frozen = False
        self.is_reset = False
        self._tail = b""

    def peer(self, side: "Side") -> "Side":
        """The other side."""
        return self.server if side is self.client else self.client

    def freeze(self) -> None:
        """Read no more from either side, and forget what is on its way."""
        self.is_frozen = True
        for side in (self.client, self.server):
            side.waiting.clear()
            side.hold_reading()

    def reset(self) -> None:
        """RST to both sides."""
        self.traffic.links.discard(self)
        self.is_frozen = self.is_reset = True
        self.client.reset()
        self.server.reset()

    def deliver(self, source: "Side", chunk: bytes) -> None:
        """Hand a chunk on whose time has come, unless something is to happen at it."""
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
        """Hand a chunk to one side, and count it."""
        if side is self.server:
            self.traffic.bytes_up += len(chunk)
        else:
            self.traffic.bytes_down += len(chunk)
        side.write(chunk)

    def spring_answer(self) -> None:
        """Reset instead of handing on the answer, or because there is none."""
        trap, self.answer_doomed = self.answer_doomed, None
        if trap is not None:
            self.reset()
            _finish(trap)

    def _trap_in(self, chunk: bytes) -> Trap | None:
        """The first trap whose pattern ends in this chunk, wherever it began."""
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
    """One of the two connections of a link: what it reads goes to its peer."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.waiting: deque[tuple[float, bytes | None]] = deque()
        """What it read and when that is due at the peer, in seconds of the loop's clock; None is the end."""
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes | None] = []
        self._drained: list[Callable[[], None]] = []
        self._has_ended = False
        self._is_full = False

    # ------------------------------------------------------------------------------------------ called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what came before it could be, and report every byte that the kernel does not take at once."""
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
        """Hand it on when it is due."""
        self._pass_on(data)

    def eof_received(self) -> bool:
        """Hand the end on when it is due; the other direction stays open."""
        self._pass_on(None)
        return True

    def connection_lost(self, _error: Exception | None) -> None:
        """Reset the peer, unless both directions came to their end before."""
        if not (self._has_ended and self.link.peer(self)._has_ended):
            self.link.reset()
        self.link.traffic.links.discard(self.link)

    def pause_writing(self) -> None:
        """The kernel takes no more: read no more from the peer meanwhile."""
        self._is_full = True
        self.link.peer(self).hold_reading()

    def resume_writing(self) -> None:
        """The kernel has taken all."""
        self._is_full = False
        if not self.link.is_frozen:
            self.link.peer(self)._go_on_reading()
        drained, self._drained = self._drained, []
        for action in drained:
            action()

    # ------------------------------------------------------------------------------------------ called by the link

    def write(self, chunk: bytes | None) -> None:
        """Hand bytes, or their end, to the kernel; before there is a connection they wait for it."""
        if self._transport is None:
            self._unsent.append(chunk)
        elif chunk is not None:
            self._transport.write(chunk)
        elif not self._transport.is_closing():
            try:
                self._transport.write_eof()
            except OSError:  # it was reset, which asyncio has yet to notice
                self.link.reset()

    def when_drained(self, action: Callable[[], None]) -> None:
        """Call it when the kernel has all that was written; now, if it has."""
        if self._is_full:
            self._drained.append(action)
        else:
            action()

    def hold_reading(self) -> None:
        """Read no more until told to."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def reset(self) -> None:
        """RST."""
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
        if len(self.waiting) == 1:  # others have a call to come, and nothing overtakes what came before
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
    """Hand the chunk on, and reset both sides instead of handing back the answer."""
    link.answer_doomed = trap
    link.send(link.server, chunk)
    asyncio.get_running_loop().call_later(_ANSWER_SECONDS_MAX, link.spring_answer)


def _finish(trap: Trap) -> None:
    if trap.times == 0:
        # Once the loop has closed what was reset, so that who waits for the event finds it closed.
        asyncio.get_running_loop().call_soon(trap.fired.set)
