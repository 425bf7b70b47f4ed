"""A thread that ends its process where the work stands still, and where it does not end when it was told to.

What it watches cannot watch itself: a timer in an event loop stops with the loop, and a signal's handler in Python
waits for the main thread to come back from a call. To be ended is the cure for both: whatever was under way is either
whole or not there, and the next process goes on from what Postgres and Kafka hold.
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
"""From the order to stop to the end; whoever gave it waits for 10 seconds before he kills."""
_LOOK_SECONDS: Final = 0.5


class Watchdog:
    """Ends the process by SIGKILL after a stall, and with exit code 0 after STOP_SECONDS_MAX of an ordered stop.

    It watches to the very end, as Python waits there for threads that may wait for something that is away.
    """

    def __init__(
        self,
        name: str,
        progressed_at: Callable[[], float],
        *,
        stall_seconds_max: float = float("inf"),
        explain: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """`progressed_at`: when, by time.monotonic(), the work last moved, or had nothing to do, or waited for
        something that is away. It may lie in the future, for a call with a bound of its own. `explain`: what the log
        tells of a stall, beside the stacks of all threads."""
        self._name = name
        self._progressed_at = progressed_at
        self._stall_seconds_max = stall_seconds_max
        self._explain = explain
        self._watches_for_stalls = False
        self._told_at: float | None = None
        self._never = threading.Event()

    def start(self) -> None:
        """Watch from now on for an ordered stop that takes too long; for stalls once `watch_for_stalls` is called."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def watch_for_stalls(self) -> None:
        """There is work from now on."""
        self._watches_for_stalls = True
        self._arm(self._stall_seconds_max)  # now, as the very first call may hold the interpreter's lock

    def told_to_stop(self) -> None:
        """The process is to end: from now on only the time for that is watched."""
        if self._told_at is None:
            self._told_at = time.monotonic()

    def _watch(self) -> None:
        while not self._never.wait(_LOOK_SECONDS):
            now = time.monotonic()
            if self._told_at is not None:
                self._arm(STOP_SECONDS_MAX)
                if now - self._told_at > STOP_SECONDS_MAX:
                    logger.warning("ended with work under way", service=self._name, stacks=_stacks())
                    os._exit(0)
            elif self._watches_for_stalls:
                self._arm(self._stall_seconds_max)
                stalled_seconds = now - self._progressed_at()
                if stalled_seconds > self._stall_seconds_max:
                    try:
                        told = {name: repr(value) for name, value in self._explain().items()}
                        logger.error("stalled", service=self._name, seconds=stalled_seconds, **told, stacks=_stacks())
                    finally:
                        os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def _arm(seconds: float) -> None:
        """Have C's own watchdog end the process where a call holds the interpreter's lock, which stops this thread."""
        faulthandler.dump_traceback_later(seconds + 2 * _LOOK_SECONDS, exit=True)


def _stacks() -> dict[str, list[str]]:
    """Where each thread is, innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        names.get(ident, str(ident)): [f"{call.filename}:{call.lineno} {call.name}" for call in calls[-12:]]
        for ident, calls in ((ident, traceback.extract_stack(frame)) for ident, frame in sys._current_frames().items())
    }
