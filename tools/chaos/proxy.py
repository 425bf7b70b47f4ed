"""A TCP proxy on loopback that cuts, delays and withholds traffic, on order or when a pattern passes."""

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum
from types import TracebackType
from typing import Any, Final

from ops.embedded.ports import LOOPBACK, pick_free
from tools.chaos.links import LINGER_ZERO, Link, Traffic, Trap, cut_after, cut_before

_BACKLOG: Final = 512


class _Mode(Enum):
    OPEN = "open"
    REFUSE = "refuse"
    BLACK_HOLE = "black hole"


class Proxy:
    """A proxy that forwards connections to `target`, (host, port), until an order changes that; a context manager.

    One thread forwards for all connections. Every method may be called from any thread, and returns after its order
    was carried out. `target` may be changed: each new connection reads it.
    """

    def __init__(self, target: tuple[str, int], *, port: int | None = None) -> None:
        self.target = target
        self.port = pick_free() if port is None else port
        self._mode = _Mode.OPEN
        self._traffic = Traffic()
        self._held: list[socket.socket] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._listener: socket.socket | None = None

    @property
    def connections(self) -> int:
        """How many clients hold a connection now, including those in a black hole."""
        return len(self._traffic.links) + len(self._held)

    @property
    def bytes_up(self) -> int:
        """Bytes forwarded to the target so far, over all connections."""
        return self._traffic.bytes_up

    @property
    def bytes_down(self) -> int:
        """Bytes forwarded to clients so far, over all connections."""
        return self._traffic.bytes_down

    def start(self) -> None:
        """Listen and forward. Raise OSError if the port is taken."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        try:
            listener.bind((LOOPBACK, self.port))
        except OSError:
            listener.close()
            raise
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(self._note_error)
        self._listener, self._loop = listener, loop
        self._thread = threading.Thread(target=loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        if self._mode is not _Mode.REFUSE:
            self._listen()
        self._thread.start()

    def close(self) -> None:
        """Reset all connections and stop. Raise the first error that an action of `on_pattern` or the loop raised."""
        if self._loop is None or self._thread is None or self._listener is None:
            return
        loop, self._loop = self._loop, None
        asyncio.run_coroutine_threadsafe(self._shut_down(loop), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        self._listener.close()
        loop.close()
        if self._errors:
            raise self._errors[0]

    async def _shut_down(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._listener is not None  # noqa: S101 - close() has checked
        loop.remove_reader(self._listener)
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        self._reset_all()
        closed = loop.create_future()
        loop.call_soon(closed.set_result, None)  # after the resets, which wait in the same queue
        await closed

    def __enter__(self) -> "Proxy":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------ orders

    def pass_through(self) -> None:
        """Heal: forward everything at once and disarm all patterns.

        Connections in a black hole are reset, so that clients connect again; other connections stay open.
        """

        def heal() -> None:
            self._traffic.traps.clear()
            self._traffic.delay_seconds = 0.0
            was, self._mode = self._mode, _Mode.OPEN
            if was is _Mode.BLACK_HOLE:
                self._reset_all()
            elif was is _Mode.REFUSE:
                self._listen()

        self._order(heal)

    def cut(self) -> None:
        """Reset all connections now; new ones are treated as before."""
        self._order(self._reset_all)

    def refuse(self) -> None:
        """Reset all connections, and refuse new ones until `pass_through`."""

        def refuse() -> None:
            if self._mode is not _Mode.REFUSE:
                self._stop_listening()
            self._mode = _Mode.REFUSE
            self._reset_all()

        self._order(refuse)

    def delay(self, seconds: float) -> None:
        """Delay each chunk by so many seconds, in order, in both directions; 0 ends the delay for later chunks."""

        def set_delay() -> None:
            self._traffic.delay_seconds = seconds

        self._order(set_delay)

    def black_hole(self) -> None:
        """Keep connections open and accept new ones, but forward nothing, either way, until `pass_through`."""

        def swallow() -> None:
            if self._mode is _Mode.REFUSE:
                self._listen()
            self._mode = _Mode.BLACK_HOLE
            for link in self._traffic.links:
                link.freeze()

        self._order(swallow)

    def cut_at(self, pattern: bytes, *, before: bool, times: int = 1) -> threading.Event:
        """Reset the connection on which a client next sends a pattern. The event is set after `times` resets.

        `before`: the target never gets the chunk that completes the pattern. Otherwise the chunk is forwarded. The
        reset comes when the target answers, and the client does not get the answer; or after a second without one.
        """
        return self._arm(Trap(pattern, cut_before if before else cut_after, times))

    def on_pattern(self, pattern: bytes, action: Callable[[], None]) -> threading.Event:
        """Call `action` as soon as the target has the next chunk that completes a pattern.

        `action` runs in the proxy's thread: nothing is forwarded before it returns. The event is set afterwards.
        """

        def spring(link: Link, chunk: bytes, trap: Trap) -> None:
            def act() -> None:
                try:
                    action()
                except Exception as error:  # noqa: BLE001 - raised by close, in the owner's thread
                    self._errors.append(error)
                trap.fired.set()

            link.send(link.server, chunk)
            link.server.when_drained(act)

        return self._arm(Trap(pattern, spring))

    def _arm(self, trap: Trap) -> threading.Event:
        if not trap.pattern:
            raise ValueError("An empty pattern is in every chunk: name some bytes.")
        self._order(lambda: self._traffic.traps.append(trap))
        return trap.fired

    def _order(self, action: Callable[[], None]) -> None:
        """Run `action` in the proxy's thread. Return when it is done and the connections that it resets are closed."""
        loop = self._loop
        if loop is None or threading.current_thread() is self._thread:
            action()
            return
        done: Future[None] = Future()

        def run() -> None:
            try:
                action()
            except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it
                done.set_exception(error)
            else:
                loop.call_soon(done.set_result, None)

        loop.call_soon_threadsafe(run)
        done.result()

    # ------------------------------------------------------------------------------------------ in the thread

    def _note_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._errors.append(context.get("exception") or RuntimeError(str(context["message"])))

    def _listen(self) -> None:
        if self._listener is not None and self._loop is not None:
            self._listener.listen(_BACKLOG)
            self._loop.add_reader(self._listener, self._accept)

    def _stop_listening(self) -> None:
        """Refuse connections but keep the port, so that nobody else can take it meanwhile (Linux)."""
        if self._listener is not None and self._loop is not None:
            self._loop.remove_reader(self._listener)
            self._listener.shutdown(socket.SHUT_RD)

    def _accept(self) -> None:
        assert self._listener is not None  # noqa: S101 - the listener became readable
        assert self._loop is not None  # noqa: S101
        while self._mode is not _Mode.REFUSE:
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            client.setblocking(False)
            self._held.append(client)  # orders reset the clients in this list
            if self._mode is _Mode.OPEN:
                task = self._loop.create_task(self._open(client))
                self._opening.add(task)
                task.add_done_callback(self._opening.discard)

    async def _open(self, client: socket.socket) -> None:
        """Connect a client with the target; reset the client if nothing listens at the target."""
        loop = asyncio.get_running_loop()
        link = Link(self._traffic)
        try:
            await loop.create_connection(lambda: link.server, *self.target)
        except OSError:
            if client in self._held:
                self._held.remove(client)
                _reset(client)
            return
        if client not in self._held or self._mode is not _Mode.OPEN:
            link.reset()
            return
        self._held.remove(client)
        if link.is_reset:
            _reset(client)
            return
        self._traffic.links.add(link)
        await loop.connect_accepted_socket(lambda: link.client, client)

    def _reset_all(self) -> None:
        for link in list(self._traffic.links):
            link.reset()
        for client in self._held:
            _reset(client)
        self._held.clear()


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    connection.close()
