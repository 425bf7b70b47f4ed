"""One run of Ledgerline from start to stop: the work of the supervisor's process.

The order: own the home, start the parts, run `prepare`, start the services, watch. When asked to stop, it stops the
services in the opposite order, then the parts.
"""

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from cli.processes import PREPARE, SERVICES, Service, make_endpoint_variables
from cli.supervision.part_watch import PartWatch
from cli.supervision.service_process import ServiceProcess
from ops.embedded import EmbeddedError, EmbeddedStack, Endpoints
from ops.embedded.errors import CancelledError
from ops.embedded.ports import PortMemory
from ops.embedded.process import Command, ProcessIdentity, quote_cause, rotate_log, run_to_end
from ops.embedded.stack import ports_from_environment
from ops.run_state import Phase, RunState, write_state
from runtime.key_files import ensure_posting_key
from runtime.secret_files import get_variable
from runtime.settings import REPOSITORY_ROOT

Report = Callable[[str], None]

_TICK_SECONDS = 0.1
_PREPARE_SECONDS_MAX = 180.0
_READY_SECONDS_MAX = 120.0
_START_FAILURES_MAX = 3
_SERVICE_STOP_SECONDS = 3.0
_SERVICES_STOP_SECONDS = 8.0
_MESSAGES_MAX = 500


class Supervisor:
    """One run: the parts, the services, and the loop that keeps them up."""

    def __init__(
        self,
        home: Path,
        make_stack: Callable[[Report], EmbeddedStack],
        *,
        environment: Mapping[str, str],
        services: Sequence[Service] = SERVICES,
        prepare: Sequence[str] = PREPARE,
        instances: Mapping[str, int] | None = None,
    ) -> None:
        self.home = home
        self._stack = make_stack(self.report)
        self._environment = dict(environment)
        self._services = services
        self._prepare = prepare
        self._instances = dict(instances or {})
        self._identity = ProcessIdentity.of_this_process()
        self._stop = threading.Event()
        self._phase: Phase = "starting"
        self._error: str | None = None
        self._endpoints: Endpoints | None = None
        self._processes: list[ServiceProcess] = []
        self._part_watches: dict[str, PartWatch] = {}
        self._messages: list[str] = []
        self._started_time = datetime.now(UTC).isoformat()
        self._written: RunState | None = None
        self._write_lock = threading.Lock()
        self._logs = home / "data" / "logs"

    def request_stop(self) -> None:
        """Make `run` stop everything and return; for signal handlers and other threads."""
        self._stop.set()
        self._stack.cancel()

    def report(self, message: str) -> None:
        """Write a line of progress to run.json, which `up` follows, and to the supervisor's log."""
        sys.stderr.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {message}\n")
        sys.stderr.flush()
        with self._write_lock:
            self._messages = [*self._messages[1 - _MESSAGES_MAX :], message]
        self._write()

    def run(self) -> None:
        """Start everything, watch until asked to stop, stop everything; raises EmbeddedError when the start fails."""
        self._stack.own()
        try:
            self._start()
            self._watch()
        except CancelledError:
            self.report("the start was given up")
        except EmbeddedError as error:
            self._phase, self._error = "failed", str(error)
            self.report(str(error))
            raise
        finally:
            self._stop_all()

    def _start(self) -> None:
        self._write()
        self._endpoints = self._stack.start()
        self._part_watches = {name: PartWatch(part) for name, part in self._stack.parts.items()}
        shared = self._environment | make_endpoint_variables(self._endpoints)
        shared |= {"LEDGERLINE_HOME": str(self.home), "PYTHONUNBUFFERED": "1"}
        if not self._environment.get(get_variable("posting_key_file")):
            # Make the key before the services start: posting and audit start together and must find the same key.
            ensure_posting_key(self.home)
        self._run_prepare(shared)
        self._processes = self._make_processes(shared)
        for process in self._processes:
            self.report(f"{process.label}: starting on port {process.port}")
            process.start()
        self._wait_until_ready()
        self._phase = "running"
        self.report("all services are ready")

    def _run_prepare(self, environment: Mapping[str, str]) -> None:
        self.report("preparing: migrations, topics, schemas")
        log = self._logs / "prepare.log"
        rotate_log(log)
        run_to_end(
            "The preparation of the ledger",
            Command(argv=self._prepare, log=log, environment=environment, directory=REPOSITORY_ROOT),
            timeout_seconds=_PREPARE_SECONDS_MAX,
            keep_going=lambda _elapsed_seconds: self._give_up_if_asked(),
        )

    def _make_processes(self, environment: Mapping[str, str]) -> list[ServiceProcess]:
        counts = {service.name: self._instances.get(service.name, service.instances) for service in self._services}
        slots = [(service, number) for service in self._services for number in range(counts[service.name])]
        ports = PortMemory(self.home / "data" / "ports.json").claim(
            tuple(service.make_port_name(number) for service, number in slots),
            ports_from_environment(("api",), self._environment),
        )
        processes = []
        for service, number in slots:
            port = ports[service.make_port_name(number)]
            own = service.environment(instance=number, instances=counts[service.name], port=port)
            processes.append(
                ServiceProcess(
                    service,
                    number,
                    port=port,
                    logs=self._logs,
                    environment=dict(environment) | own,
                    directory=REPOSITORY_ROOT,
                )
            )
        return processes

    def _wait_until_ready(self) -> None:
        """Tick until every service was ready once; raises EmbeddedError if a service keeps dying or hangs."""
        deadline = time.monotonic() + _READY_SECONDS_MAX
        while not all(process.was_ready for process in self._processes):
            self._give_up_if_asked()
            self._tick()
            for process in self._processes:
                if process.was_ready:
                    continue
                failed_often = process.condition == "waiting" and process.restarts + 1 >= _START_FAILURES_MAX
                if failed_often or time.monotonic() > deadline:
                    self._raise_unready(process)
            self._stop.wait(_TICK_SECONDS)

    def _raise_unready(self, process: ServiceProcess) -> NoReturn:
        last_exit = f", last ended with {process.last_exit}" if process.last_exit else ""
        raise EmbeddedError(
            f"The service {process.label} does not become ready{last_exit} ({quote_cause(process.log)}): "
            f"read {process.log}."
        )

    def _give_up_if_asked(self) -> None:
        if self._stop.is_set():
            raise CancelledError("The start was given up: start again.")

    def _watch(self) -> None:
        while not self._stop.wait(_TICK_SECONDS):
            self._tick()

    def _tick(self) -> None:
        for watch in self._part_watches.values():
            for message in watch.tick():
                self.report(message)
        for process in self._processes:
            news = process.tick()
            if news is not None:
                self.report(news)
        self._write()

    def _stop_all(self) -> None:
        """Stop the services, last started first, then the parts, all within 20 seconds."""
        if self._phase != "failed":
            self._phase = "stopping"
        self._write()
        deadline = time.monotonic() + _SERVICES_STOP_SECONDS
        for process in reversed(self._processes):  # the next is asked after this end, or after 3 s
            process.ask_to_stop(min(_SERVICE_STOP_SECONDS, max(0.0, deadline - time.monotonic())))
        for process in reversed(self._processes):
            process.finish(max(0.0, deadline - time.monotonic()))
        self._write()
        self._stack.stop()

    def _write(self) -> None:
        """Write run.json if something in it has changed; the lock is for the parts, which report from other threads."""
        with self._write_lock:
            state = self._make_state()
            if state != self._written:
                write_state(self.home, state)
                self._written = state

    def _make_state(self) -> RunState:
        return RunState(
            pid=self._identity.pid,
            start_ticks=self._identity.start_ticks,
            started_time=self._started_time,
            phase=self._phase,
            endpoints=self._endpoints,
            parts=tuple(watch.state(name) for name, watch in self._part_watches.items()),
            services=tuple(process.state() for process in self._processes),
            messages=tuple(self._messages),
            error=self._error,
        )
