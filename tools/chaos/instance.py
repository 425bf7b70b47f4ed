"""The processes of one ledger under test, kept alive as a supervisor would, and hurt on purpose."""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cli.processes import API_PORT, METRICS_PORT, Service, base_url
from cli.supervision.back_off import BackOff
from cli.supervision.service_process import ServiceProcess
from ops.embedded.ports import pick_free
from ops.embedded.process import ProcessIdentity, wait_until
from runtime.settings import REPOSITORY_ROOT

READY_SECONDS_MAX: Final = 90.0
END_SECONDS_MAX: Final = 20.0
FIRED_SECONDS_MAX: Final = 60.0
_TICK_SECONDS: Final = 0.1
# Who was killed did not write why; the last line of its log says nothing.
_CAUSE_OF_KILL: Final = re.compile(r"(SIGKILL) \(.*\)", re.DOTALL)


class ChaosError(Exception):
    """The harness could not do what a scenario asked; it says nothing about the ledger."""


class Instance:
    """One process of a service: posting, relay, reconciliation, audit or api. It is restarted when it dies.

    Safe for the keeper's thread and the scenario's.
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
        """`folder` is for its log and orders.

        `sources` has the code that it runs, such as that of another release; `module` is its module of services there.
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
        """How reports call it: posting 0, posting 1."""
        return f"{self.name} {self.number}"

    @property
    def url(self) -> str:
        """Where it serves /readyz and /metrics, and the API its API."""
        return base_url(self.port)

    @property
    def pid(self) -> int | None:
        """Of the process that runs now, if one does."""
        with self._lock:
            return self._process.state().pid

    @property
    def restarts(self) -> int:
        """How often it was started again by itself."""
        return self._process.restarts

    @property
    def log(self) -> Path:
        """What its processes wrote."""
        return self._process.log

    @property
    def is_ready(self) -> bool:
        """Whether it said so when it was asked last."""
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
        """Start it, with these variables beside its own."""
        with self._lock:
            self._process = self._new_process(variables)
            self._process.start()
            self._held = False

    def tick(self) -> str | None:
        """What a supervisor does now and then: probe, and start again what died."""
        with self._lock:
            return None if self._held else self._process.tick()

    def send(self, number: signal.Signals) -> ProcessIdentity | None:
        """Send a signal to the process that runs now; returns which that was, None where none runs."""
        with self._lock:
            pid = self.pid
            identity = None if pid is None else ProcessIdentity.of(pid)
            if identity is not None:
                os.kill(identity.pid, number)
            return identity

    def kill(self) -> None:
        """SIGKILL, as a crash would; the keeper starts it again."""
        identity = self.send(signal.SIGKILL)
        if identity is not None and not wait_until(lambda: not identity.is_running(), timeout_seconds=END_SECONDS_MAX):
            raise ChaosError(f"{self.label} does not end by SIGKILL.")

    def stop(self) -> None:
        """SIGTERM, and wait; it stays down until `start`."""
        self.ask_to_stop()
        with self._lock:
            self._process.finish(END_SECONDS_MAX)

    def ask_to_stop(self) -> None:
        """SIGTERM without waiting; `stop` must follow."""
        with self._lock:
            self._held = True
            self.send(signal.SIGCONT)
            self._process.ask_to_stop(0.0)

    def arm(self, point: str, action: str = "kill") -> None:
        """Order its process to do this when it next comes to that fault point."""
        draft = self.orders / f".{point}"
        draft.write_text(action)
        draft.replace(self.orders / point)

    def disarm(self) -> None:
        """Take back the orders that were not carried out."""
        for order in self.orders.iterdir():
            order.unlink(missing_ok=True)

    def is_armed(self, point: str) -> bool:
        """Whether the order still waits."""
        return (self.orders / point).exists()

    def text_of_logs(self) -> str:
        """All that its processes wrote, where it was not cut."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Fleet:
    """All instances of one ledger, and the thread that keeps them alive."""

    def __init__(self, instances: Iterable[Instance], report: Callable[[str], None]) -> None:
        self.instances = list(instances)
        self._report = report
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="chaos-keeper", daemon=True)

    def __getitem__(self, name: str) -> list[Instance]:
        """The instances of a service."""
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
        """Until every instance says that it is ready; ChaosError names those that do not."""
        if not wait_until(lambda: all(each.is_ready for each in self.instances), timeout_seconds=seconds):
            late = ", ".join(f"{each.label} ({each.log})" for each in self.instances if not each.is_ready)
            raise ChaosError(f"Not ready within {seconds:.0f} s: {late}.")

    def wait_fired(self, armed: Iterable[Instance], point: str) -> Instance:
        """The instance that carried out its order; the others' orders are taken back."""
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
        """The instance's process stands still (SIGSTOP) within, and goes on behind."""
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
