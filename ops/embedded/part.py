"""What the three embedded parts share: one child process that is started, waited for, stopped or killed."""

import json
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ops.embedded.errors import CancelledError, EmbeddedError
from ops.embedded.ports import is_free
from ops.embedded.process import (
    Child,
    Command,
    ProcessIdentity,
    SystemUser,
    descendants,
    rotate_log,
    run_to_end,
    wait_until,
)

Report = Callable[[str], None]

_TOOL_SECONDS_MAX = 120
_PREDECESSOR_SECONDS_MAX = 20
_DESCENDANTS_SECONDS_MAX = 20


@dataclass(frozen=True)
class PartContext:
    """The folder, the log, the port and the progress callback of one part."""

    folder: Path
    """The part's data, below the home's `data`. Its other files lie beside that folder, as FOLDER.something."""
    log: Path
    port: int
    report: Report
    cancelled: threading.Event
    """Set when the start of the whole stack is cancelled: every wait must then end."""


class Part(ABC):
    """One server: its folder below the home's data, its port, its log, and the child process while it runs.

    `start`, `stop` and `kill` may be called repeatedly and in any order, as chaos tests do: the folder and the port
    stay the same.
    """

    name: str
    """The name of the part in messages: Kafka, Postgres, Schema Registry."""

    ready_seconds_max = 90.0
    """Seconds that the part may take to become ready: enough on a busy machine, and a limit for a hung server."""

    stop_steps: Sequence[tuple[signal.Signals, float]] = ((signal.SIGTERM, 8.0),)
    """The signals of a graceful stop, each with the seconds to wait for the server's end; SIGKILL follows the last."""

    def __init__(self, context: PartContext) -> None:
        self.folder = context.folder
        self.log = context.log
        self.port = context.port
        self.report = context.report
        self.metrics_port: int | None = None
        self._cancelled = context.cancelled
        self._child: Child | None = None
        self._lock = threading.RLock()

    @property
    def pid(self) -> int | None:
        """The id of the running server, None while it is not running."""
        return self._child.pid if self._child is not None and self.is_running() else None

    def is_running(self) -> bool:
        """Tell whether the server's process runs (not whether it is ready)."""
        return self._child is not None and self._child.exit_code() is None

    def start(self) -> None:
        """Start the server and return when it is ready; raises EmbeddedError, quoting its log, when it is not."""
        with self._lock:
            if self.is_running():
                return
            self._wait_for_predecessor()
            self.folder.mkdir(parents=True, exist_ok=True)
            rotate_log(self.log)
            self.prepare()
            self._wait_for_port()
            self._child = Child.spawn(self.name, self.command())
            self._remember(self._child.pid)
            try:
                self._wait_until_ready(self._child)
            except BaseException:
                self.stop()
                raise

    def run_tool(self, argv: Sequence[str], *, user: SystemUser | None = None) -> None:
        """Run a program that prepares the server's data; raises EmbeddedError when it fails."""
        tool = Path(argv[0]).name
        run_to_end(
            f"The preparation of {self.name} ({tool})",
            Command(argv=argv, log=self.log, directory=self.folder, user=user),
            timeout_seconds=_TOOL_SECONDS_MAX,
        )

    def stop(self) -> None:
        """Stop the server gracefully and wait until it is gone; does nothing when it is not running."""
        self._end(lambda child: child.stop(self.stop_steps))

    def kill(self) -> None:
        """End the server at once, as a crash would (SIGKILL), and wait until all of it is gone."""
        self._end(lambda child: child.kill())

    @abstractmethod
    def prepare(self) -> None:
        """Write what the server needs before it starts: its settings, and its data folder the first time."""

    @abstractmethod
    def command(self) -> Command:
        """Return the command that runs the server."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Tell whether the server answers a real request."""

    def _end(self, end: Callable[[Child], None]) -> None:
        with self._lock:
            if self._child is None:
                return
            below = descendants(self._child.pid)
            end(self._child)
            # Postgres' backends outlive a killed postmaster for a moment and hold its shared memory until then.
            if not wait_until(
                lambda: not any(process.is_running() for process in below), timeout_seconds=_DESCENDANTS_SECONDS_MAX
            ):
                raise EmbeddedError(f"Processes of {self.name} are still running: read {self.log} and end them by id.")
            self._child = None
            self._identity_file.unlink(missing_ok=True)

    def _wait_until_ready(self, child: Child) -> None:
        def ready() -> bool:
            child.require_running()
            if self._cancelled.is_set():
                raise CancelledError(f"The start of {self.name} was given up: start again.")
            return self.is_ready()

        if not wait_until(ready, timeout_seconds=self.ready_seconds_max):
            raise EmbeddedError(f"{self.name} was not ready within {self.ready_seconds_max:.0f} s: read {self.log}.")

    def _wait_for_port(self) -> None:
        """Raise EmbeddedError if another program has the port; a server that has just ended gets 1 s to release it."""
        if not wait_until(lambda: is_free(self.port), timeout_seconds=1.0):
            raise EmbeddedError(
                f"Port {self.port} of {self.name} is taken by another program: stop that program, or stop and start "
                "the whole stack to get another port."
            )

    @property
    def _identity_file(self) -> Path:
        return self.folder.with_name(self.folder.name + ".pid.json")

    def _remember(self, pid: int) -> None:
        identity = ProcessIdentity.of(pid)
        if identity is not None:
            self._identity_file.write_text(json.dumps(asdict(identity)))

    def _wait_for_predecessor(self) -> None:
        """Wait for the server of a killed owner: the kernel has sent it a signal, but it may still be shutting down."""
        if not self._identity_file.exists():
            return
        predecessor = ProcessIdentity(**json.loads(self._identity_file.read_text()))
        if not wait_until(lambda: not predecessor.is_running(), timeout_seconds=_PREDECESSOR_SECONDS_MAX):
            raise EmbeddedError(
                f"{self.name} of an earlier run still runs as process {predecessor.pid}: end it with "
                f"`kill {predecessor.pid}` and start again."
            )
