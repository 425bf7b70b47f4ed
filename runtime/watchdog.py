"""A thread that ends its process if the work stalls, or if an ordered stop takes too long.

The work cannot watch itself: a timer in an event loop stops with the loop, and a signal handler in Python waits until
the main thread returns from its call. It is safe to end the process in both cases: each transaction under way is
complete or absent, and the next process goes on from what Postgres and Kafka hold.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

import structlog

logger: Final = structlog.get_logger(__name__)

STOP_SECONDS_MAX: Final = 7.0
"""Seconds from the order to stop to the end of the process; less than 10, after which Docker kills by default."""
_LOOK_SECONDS: Final = 0.5


class Watchdog:
    """Ends the process by SIGKILL after a stall, and with exit code 0 after STOP_SECONDS_MAX of an ordered stop.

    It also watches the interpreter's exit: there Python waits for threads, which may wait for a part that is away.
    """

    def __init__(
        self,
        name: str,
        progressed_at: Callable[[], float],
        *,
        stall_seconds_max: float = float("inf"),
        explain: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """Set what the thread watches; `start` starts the thread.

        `progressed_at` returns when, by time.monotonic(), the work last progressed, was idle, or waited for a part
        that is away. This time may lie in the future during a call that has its own time limit. `explain` returns
        the fields that the log line about a stall has besides the stacks of all threads.
        """
        self._name = name
        self._progressed_at = progressed_at
        self._stall_seconds_max = stall_seconds_max
        self._explain = explain
        self._watches_for_stalls = False
        self._told_at: float | None = None
        self._never = threading.Event()

    def start(self) -> None:
        """Start to watch for an ordered stop that takes too long. `watch_for_stalls` starts the watch for stalls."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def watch_for_stalls(self) -> None:
        """Watch for stalls too, because work begins now."""
        self._watches_for_stalls = True
        self._arm(self._stall_seconds_max)  # at once: the first call may hold the interpreter's lock

    def note_stop_order(self) -> None:
        """Note the order to stop: from now on only the duration of the stop is watched."""
        if self._told_at is None:
            self._told_at = time.monotonic()

    def _watch(self) -> None:
        while not self._never.wait(_LOOK_SECONDS):
            now = time.monotonic()
            if self._told_at is not None:
                self._arm(STOP_SECONDS_MAX)
                if now - self._told_at > STOP_SECONDS_MAX:
                    logger.warning("ended with work under way", service=self._name, stacks=_format_stacks())
                    os._exit(0)
            elif self._watches_for_stalls:
                self._arm(self._stall_seconds_max)
                stalled_seconds = now - self._progressed_at()
                if stalled_seconds > self._stall_seconds_max:
                    try:
                        told = {name: repr(value) for name, value in self._explain().items()}
                        logger.error(
                            "stalled", service=self._name, seconds=stalled_seconds, **told, stacks=_format_stacks()
                        )
                    finally:
                        os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def _arm(seconds: float) -> None:
        """Let faulthandler end the process if a call holds the interpreter's lock, which stops this thread."""
        faulthandler.dump_traceback_later(seconds + 2 * _LOOK_SECONDS, exit=True)


def _format_stacks() -> dict[str, list[str]]:
    """Return the last 12 calls on the stack of each thread, innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        names.get(ident, str(ident)): [f"{call.filename}:{call.lineno} {call.name}" for call in calls[-12:]]
        for ident, calls in ((ident, traceback.extract_stack(frame)) for ident, frame in sys._current_frames().items())
    }
