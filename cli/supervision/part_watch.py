"""An embedded server under supervision."""

import time

from cli.supervision.back_off import BackOff
from ops.embedded import EmbeddedError
from ops.embedded.errors import CancelledError
from ops.embedded.part import Part
from ops.embedded.process import bound_log
from ops.run_state import PartState


class PartWatch:
    """The supervision of one embedded server: it restarts a dead server on the same port and data."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._restarts = 0
        self._back_off = BackOff()
        self._started_at = time.monotonic()
        self._due_at: float | None = None

    def tick(self) -> list[str]:
        """Do what is due, and return messages for the operator."""
        now = time.monotonic()
        bound_log(self._part.log)
        if self._part.is_running():
            return []
        if self._due_at is None:
            pause_seconds = self._back_off.compute_next_seconds(now - self._started_at)
            self._due_at = now + pause_seconds
            return [f"{self._part.name}: ended, starting again in {pause_seconds:.1f} s"]
        if now < self._due_at:
            return []
        self._due_at = None
        self._restarts += 1
        self._started_at = now
        try:
            self._part.start()
        except CancelledError:
            return []  # the run is being stopped
        except EmbeddedError as error:
            return [str(error)]
        return [f"{self._part.name}: ready again"]

    def state(self, name: str) -> PartState:
        """Return this part's entry of run.json."""
        running = self._part.is_running()
        return PartState(
            name=name,
            pid=self._part.pid,
            port=self._part.port,
            condition="ready" if running else "waiting",
            restarts=self._restarts,
            log=str(self._part.log),
            metrics_port=self._part.metrics_port,
        )
