"""The processes of one ledger under test, restarted as a supervisor would, and killed or frozen on purpose."""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cli.processes import API_PORT, METRICS_PORT, Service, make_base_url
from cli.supervision.back_off import BackOff
from cli.supervision.service_process import ServiceProcess
from ops.embedded.ports import pick_free
from ops.embedded.process import ProcessIdentity, wait_until
from runtime.settings import REPOSITORY_ROOT

READY_SECONDS_MAX: Final = 90.0
END_SECONDS_MAX: Final = 20.0
FIRED_SECONDS_MAX: Final = 60.0
_TICK_SECONDS: Final = 0.1
# A killed process did not write why it ended, so the last line of its log is dropped from the news.
_CAUSE_OF_KILL: Final = re.compile(r"(SIGKILL) \(.*\)", re.DOTALL)


class ChaosError(Exception):
    """The harness could not do what a scenario asked; it says nothing about the ledger."""


class Instance:
    """One process of a service: posting, relay, worker, reconciliation, audit or api. It is restarted when it dies.

    The keeper's thread and the scenario's thread may use it at the same time.
    """

    def __init__(
        self,
        name: str,
        number: int,
        folder: Path,
        environment: Mapping[str, str],
        sources: Path = REPOSITORY_ROOT,
        module: str = "tools.chaos.service",
    ) -> None:
        """Create the instance without starting it.

        `folder` is for the log and the orders. `sources` has the code that the process runs, for example the code of
        another release; `module` is the module in that code that runs the service.
        """
        self.name = name
        self.number = number
        self.port = pick_free()
        self.orders = folder / f"{name}-{number}-orders"
        self.orders.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._sources = sources
        self._module = module
        self._environment = dict(environment)
        self._lock = threading.RLock()
        self._held = False
        self._process = self._new_process({})

    @property
    def label(self) -> str:
        """The name in reports: posting 0, posting 1."""
        return f"{self.name} {self.number}"

    @property
    def url(self) -> str:
        """The address of /readyz and /metrics, and for an API process also of the API."""
        return make_base_url(self.port)

    @property
    def pid(self) -> int | None:
        """The pid of the process that runs now; None if none runs."""
        with self._lock:
            return self._process.state().pid

    @property
    def restarts(self) -> int:
        """How often the instance was restarted after its process died."""
        return self._process.restarts

    @property
    def log(self) -> Path:
        """The log file of its processes."""
        return self._process.log

    @property
    def is_ready(self) -> bool:
        """Whether the last probe found it ready."""
        return self._process.condition == "ready"

    def _new_process(self, variables: Mapping[str, str]) -> ServiceProcess:
        argv = (sys.executable, "-m", self._module, self.name, "--orders", str(self.orders))
        port_variable = API_PORT if self.name == "api" else METRICS_PORT
        service = Service(self.name, argv, port_variable)
        return ServiceProcess(
            service,
            self.number,
            port=self.port,
            logs=self._folder,
            environment=self._environment | {port_variable: str(self.port)} | dict(variables),
            directory=self._sources,
            back_off=BackOff(first_seconds=0.1, most_seconds=2.0),
        )

    def start(self, **variables: str) -> None:
        """Start the process, with these environment variables added to its own."""
        with self._lock:
            self._process = self._new_process(variables)
            self._process.start()
            self._held = False

    def tick(self) -> str | None:
        """Probe the process and restart it if it died, as a supervisor does; return news, if any."""
        with self._lock:
            return None if self._held else self._process.tick()

    def send(self, number: signal.Signals) -> ProcessIdentity | None:
        """Send a signal to the process that runs now. Return its identity; None if no process runs."""
        with self._lock:
            pid = self.pid
            identity = None if pid is None else ProcessIdentity.of(pid)
            if identity is not None:
                os.kill(identity.pid, number)
            return identity

    def kill(self) -> None:
        """Kill the process (SIGKILL), like a crash; the keeper restarts it. Raise ChaosError if it does not end."""
        identity = self.send(signal.SIGKILL)
        if identity is not None and not wait_until(lambda: not identity.is_running(), timeout_seconds=END_SECONDS_MAX):
            raise ChaosError(f"{self.label} does not end by SIGKILL.")

    def stop(self) -> None:
        """Send SIGTERM and wait for the end. The instance stays down until `start`."""
        self.ask_to_stop()
        with self._lock:
            self._process.finish(END_SECONDS_MAX)

    def ask_to_stop(self) -> None:
        """Send SIGTERM without waiting; `stop` must follow."""
        with self._lock:
            self._held = True
            self.send(signal.SIGCONT)
            self._process.ask_to_stop(0.0)

    def arm(self, point: str, action: str = "kill") -> None:
        """Order the process to do `action` when it next comes to the fault point."""
        draft = self.orders / f".{point}"
        draft.write_text(action)
        draft.replace(self.orders / point)

    def disarm(self) -> None:
        """Take back the orders that were not carried out."""
        for order in self.orders.iterdir():
            order.unlink(missing_ok=True)

    def is_armed(self, point: str) -> bool:
        """Return whether the order has not been carried out yet."""
        return (self.orders / point).exists()

    def text_of_logs(self) -> str:
        """Return the log of its processes; a truncated part is missing."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Fleet:
    """All instances of one ledger, and the thread that keeps them alive."""

    def __init__(self, instances: Iterable[Instance], report: Callable[[str], None]) -> None:
        self.instances = list(instances)
        self._report = report
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="chaos-keeper", daemon=True)

    def __getitem__(self, name: str) -> list[Instance]:
        """Return the instances of a service."""
        return [instance for instance in self.instances if instance.name == name]

    def start(self) -> None:
        """Start all, and return when all are ready."""
        for instance in self.instances:
            instance.start()
        self._keeper.start()
        self.wait_ready()

    def stop(self) -> None:
        """Stop all, at the same time."""
        self._stop.set()
        self._keeper.join()
        self.stop_all(self.instances)

    @staticmethod
    def stop_all(instances: Iterable[Instance]) -> None:
        """Stop these at the same time; they stay down until `start`."""
        stopping = list(instances)
        for instance in stopping:
            instance.ask_to_stop()
        for instance in stopping:
            instance.stop()

    def wait_ready(self, seconds: float = READY_SECONDS_MAX) -> None:
        """Wait until every instance is ready. Raise ChaosError with the names of those that are not ready in time."""
        if not wait_until(lambda: all(each.is_ready for each in self.instances), timeout_seconds=seconds):
            late = ", ".join(f"{each.label} ({each.log})" for each in self.instances if not each.is_ready)
            raise ChaosError(f"Not ready within {seconds:.0f} s: {late}.")

    def wait_fired(self, armed: Iterable[Instance], point: str) -> Instance:
        """Wait for the first instance that carries out its order, take back the other orders, and return it.

        Raise ChaosError if no instance does within FIRED_SECONDS_MAX.
        """
        waiting = list(armed)
        fired: list[Instance] = []

        def one_fired() -> bool:
            fired.extend(each for each in waiting if not each.is_armed(point))
            return bool(fired)

        if not wait_until(one_fired, timeout_seconds=FIRED_SECONDS_MAX):
            raise ChaosError(f"No process came to the fault point {point} within {FIRED_SECONDS_MAX:.0f} s.")
        for each in waiting:
            each.disarm()
        return fired[0]

    @contextmanager
    def frozen(self, instance: Instance) -> Iterator[ProcessIdentity]:
        """Freeze the instance's process (SIGSTOP) within the block, and let it continue (SIGCONT) after the block."""
        identity = instance.send(signal.SIGSTOP)
        if identity is None:
            raise ChaosError(f"{instance.label} does not run.")
        try:
            yield identity
        finally:
            if identity.is_running():
                os.kill(identity.pid, signal.SIGCONT)

    def _keep(self) -> None:
        while not self._stop.wait(_TICK_SECONDS):
            for instance in self.instances:
                news = instance.tick()
                if news is not None and not news.endswith((": ready", ": starting")):
                    self._report(_CAUSE_OF_KILL.sub(r"\1", news))
