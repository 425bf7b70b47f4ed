"""Parts of a process that run in threads of their own, beside its agent or without one."""

import os
import threading
import time
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from domain.errors import LedgerlineError

logger: Final = structlog.get_logger(__name__)


class RunningPart(Protocol):
    """A part that works until it is told to stop. It waits by itself while Kafka or Postgres is away."""

    name: str

    @property
    def progressed_at(self) -> float:
        """Monotonic time of the last progress. A blocking call may set it ahead by its time limit."""

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""

    def missing(self) -> str | None:
        """Return a sentence that says what the part waits for before it can work; None if it can."""


class Beside:
    """Runs parts, each in a thread."""

    def __init__(self, parts: Sequence[RunningPart]) -> None:
        self.stop = threading.Event()
        self._parts = parts
        self._failures: dict[str, str] = {}
        self._threads = [threading.Thread(target=self._run, args=(part,), name=part.name) for part in parts]

    @property
    def progressed_at(self) -> float:
        """When the part that stands still longest last progressed; now if there is no part to wait for."""
        running = [part.progressed_at for part in self._parts if part.name not in self._failures]
        return min(running, default=time.monotonic())

    def start(self) -> None:
        """Start all threads."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Tell all parts to stop, and wait until they have."""
        self.stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def missing(self) -> str | None:
        """Return the first failure, or what the first part waits for that cannot work yet; None if all can."""
        for part in self._parts:
            told = self._failures.get(part.name) or part.missing()
            if told is not None:
                return told
        return None

    def _run(self, part: RunningPart) -> None:
        try:
            part.run(self.stop)
        except LedgerlineError as error:
            # A restart would not help, and must not stop the other parts. /readyz tells of it until somebody acts.
            self._failures[part.name] = str(error)
            logger.error("part ended", part=part.name, error=str(error))  # noqa: TRY400 - the sentence says what to do
        except BaseException:
            # A bug. The process ends, so that its supervisor starts it again. Each transaction is complete or absent.
            logger.exception("part failed", part=part.name)
            os._exit(1)
