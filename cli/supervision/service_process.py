"""One instance of a service under supervision: started, probed, restarted with a growing pause when it dies."""

import http.client
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from cli.processes import Service, make_base_url
from cli.supervision.back_off import BackOff
from ops.embedded.ports import LOOPBACK
from ops.embedded.process import Child, Command, bound_log, describe_exit, quote_cause, rotate_log, wait_until
from ops.run_state import ProcessCondition, ServiceState

_READY_PATH = "/readyz"
_PROBE_SECONDS = 1.0
_PROBE_PAUSE_STARTING_SECONDS = 0.1
_PROBE_PAUSE_READY_SECONDS = 3.0


class ServiceProcess:
    """The process of one instance; the supervisor calls `tick` repeatedly, and `tick` does what is due."""

    def __init__(
        self,
        service: Service,
        instance: int,
        *,
        port: int,
        logs: Path,
        environment: Mapping[str, str],
        directory: Path,
        back_off: BackOff | None = None,
    ) -> None:
        self.service = service
        self.instance = instance
        self.port = port
        self.log = logs / (f"{service.name}.log" if instance == 0 else f"{service.name}-{instance}.log")
        self.restarts = 0
        self.last_exit: str | None = None
        self.was_ready = False
        self.condition: ProcessCondition = "stopped"
        self._environment = environment
        self._directory = directory
        self._back_off = back_off or BackOff()
        self._child: Child | None = None
        self._started_at = 0.0
        self._due_at = 0.0

    @property
    def label(self) -> str:
        """The name of this instance in messages."""
        return self.service.name if self.instance == 0 else f"{self.service.name} {self.instance}"

    def start(self) -> None:
        """Start the process for the first time; raises EmbeddedError when it cannot be run at all."""
        rotate_log(self.log)
        self._spawn()

    def tick(self) -> str | None:
        """Do what is due; return a message for the operator if something happened, else None."""
        now = time.monotonic()
        if self._child is None:
            if self.condition == "waiting" and now >= self._due_at:
                self.restarts += 1
                self._spawn()
            return None
        code = self._child.exit_code()
        if code is not None:
            return self._record_end(code, now)
        if now >= self._due_at:
            return self._probe()
        return None

    def ask_to_stop(self, timeout_seconds: float) -> None:
        """Send SIGTERM and give the process so many seconds to end; `finish` must follow."""
        child = self._child
        if child is not None:
            child.send(signal.SIGTERM)
            wait_until(lambda: child.exit_code() is not None, timeout_seconds=timeout_seconds)

    def finish(self, timeout_seconds: float) -> None:
        """Wait for the end of a process that was asked to stop, and kill it when the time is up."""
        if self._child is not None:
            child = self._child
            wait_until(lambda: child.exit_code() is not None, timeout_seconds=timeout_seconds)
            child.kill()
            self._child = None
        self.condition = "stopped"

    def state(self) -> ServiceState:
        """Return this instance's entry of run.json."""
        return ServiceState(
            name=self.service.name,
            instance=self.instance,
            pid=None if self._child is None else self._child.pid,
            port=self.port,
            url=make_base_url(self.port),
            condition=self.condition,
            restarts=self.restarts,
            last_exit=self.last_exit,
            log=str(self.log),
        )

    def _spawn(self) -> None:
        self._child = Child.spawn(
            self.label,
            Command(argv=self.service.argv, log=self.log, environment=self._environment, directory=self._directory),
        )
        self.condition = "starting"
        self._started_at = time.monotonic()
        self._due_at = self._started_at

    def _record_end(self, code: int, now: float) -> str:
        pause_seconds = self._back_off.compute_next_seconds(now - self._started_at)
        self._child = None
        self._due_at = now + pause_seconds
        self.condition = "waiting"
        self.last_exit = describe_exit(code)
        return (
            f"{self.label}: ended with {self.last_exit} ({quote_cause(self.log)}), "
            f"starting again in {pause_seconds:.1f} s"
        )

    def _probe(self) -> str | None:
        ready = _is_ready(self.port)
        bound_log(self.log)
        before = self.condition
        if ready:
            self.condition = "ready"
            self.was_ready = True
        elif before == "ready":
            self.condition = "unready"
        starting = self.condition == "starting"
        pause_seconds = _PROBE_PAUSE_STARTING_SECONDS if starting else _PROBE_PAUSE_READY_SECONDS
        self._due_at = time.monotonic() + pause_seconds
        return None if self.condition == before else f"{self.label}: {self.condition}"


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_PROBE_SECONDS)
    try:
        connection.request("GET", _READY_PATH)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False  # not listening, or too busy to answer: not ready
    finally:
        connection.close()
