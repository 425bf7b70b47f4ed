"""Child processes that cannot outlive their owner.

Every child asks the kernel for a signal at the death of its parent (prctl(2), PR_SET_PDEATHSIG), so that even
`kill -9` of the owner leaves nothing behind. Every child also leads a session of its own, so that Ctrl-C in a
terminal reaches the owner alone, which then stops its children in order.
"""

import ctypes
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from ops.embedded.errors import EmbeddedError
from runtime.private_files import PRIVATE_UMASK

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.05
_KEEP_GOING_SECONDS = 0.5
_QUOTE_CHARACTERS_MAX = 240
_TAIL_BYTES = 16_384
LOG_BYTES_MAX = 20_000_000
# Servers write the reason of their end in lines such as these; the last line alone is often a stack frame.
_CAUSE_MARKERS = ("FATAL", "PANIC", "ERROR", "Error:", "Exception", "Caused by", "error:", '"error"')
_STACK_FRAME_MARKERS = ("at ", "... ", "File ")


@dataclass(frozen=True)
class SystemUser:
    """The system user that a child runs as, if the owner is root and the child refuses to run as root."""

    name: str
    user_id: int
    group_id: int


@dataclass(frozen=True)
class Command:
    """A program to run. At its owner's death it gets `death_signal`; None means that it outlives its owner."""

    argv: Sequence[str]
    log: Path
    """The program's stdout and stderr are appended to this file."""
    environment: Mapping[str, str] | None = None
    directory: Path | None = None
    death_signal: signal.Signals | None = signal.SIGKILL
    user: SystemUser | None = None


class _Spawner:
    """The one thread that forks every child; it lives as long as the process.

    PR_SET_PDEATHSIG fires when the *thread* that forked the child ends, not when the process does. A child that
    a pool's worker forked would be killed as soon as the pool ends that worker.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[tuple[Command, Future[subprocess.Popen[bytes]]]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="child-spawner", daemon=True).start()

    def spawn(self, command: Command) -> subprocess.Popen[bytes]:
        answer: Future[subprocess.Popen[bytes]] = Future()
        self._requests.put((command, answer))
        return answer.result()

    def _serve(self) -> None:
        while True:
            command, answer = self._requests.get()
            try:
                answer.set_result(_fork(command))
            except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it
                answer.set_exception(error)


_spawners: dict[int, _Spawner] = {}
_spawners_lock = threading.Lock()


def _current_spawner() -> _Spawner:
    """Return this process's spawner: a forked copy of a process inherits the object but not its thread."""
    with _spawners_lock:
        if os.getpid() not in _spawners:
            _spawners[os.getpid()] = _Spawner()
        return _spawners[os.getpid()]


def _death_signal_setter(death_signal: signal.Signals | None) -> Callable[[], None] | None:
    """Return the function that a child runs between fork and exec to ask for a signal at its owner's death."""
    if death_signal is None:
        return None
    if sys.platform != "linux":
        raise EmbeddedError("The embedded parts need Linux: start them with `docker compose up` instead.")
    owner_id = os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def set_death_signal() -> None:
        if prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != owner_id:  # the owner died between fork and prctl: no signal will ever come
            os._exit(1)

    return set_death_signal


def _fork(command: Command) -> subprocess.Popen[bytes]:
    user = command.user
    with command.log.open("ab") as log:
        return subprocess.Popen(
            list(command.argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=None if command.environment is None else dict(command.environment),
            cwd=command.directory,
            start_new_session=True,
            umask=PRIVATE_UMASK,
            user=None if user is None else user.user_id,
            group=None if user is None else user.group_id,
            extra_groups=None if user is None else [],
            # Python runs this after it has changed the user, which would have cleared the death signal.
            # It calls one function of libc that was looked up before the fork, so it cannot block on a lock.
            preexec_fn=_death_signal_setter(command.death_signal),  # noqa: PLW1509
        )


@dataclass
class Child:
    """A running child process and the log it writes."""

    name: str
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    @classmethod
    def spawn(cls, name: str, command: Command) -> "Child":
        """Start the command; raises EmbeddedError when its program cannot be run."""
        command.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            process = _current_spawner().spawn(command)
        except (OSError, subprocess.SubprocessError) as error:
            raise EmbeddedError(
                f"{name} cannot be started ({error}): check that {command.argv[0]} exists and can be run."
            ) from error
        return cls(name, command.log, process)

    @property
    def pid(self) -> int:
        """The process id; it stays the same after the end of the process."""
        return self.process.pid

    def exit_code(self) -> int | None:
        """Return the exit code (negative: the signal that ended it), or None while it runs."""
        return self.process.poll()

    def require_running(self) -> None:
        """Raise EmbeddedError, quoting the cause from the log, when the child has ended."""
        code = self.exit_code()
        if code is not None:
            raise EmbeddedError(
                f"{self.name} ended with {describe_exit(code)} ({quote_cause(self.log)}): "
                f"read {self.log} and start again."
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal; a child that has ended already is left alone (Popen checks before it sends)."""
        self.process.send_signal(number)

    def stop(self, steps: Sequence[tuple[signal.Signals, float]]) -> None:
        """Send each signal in turn and wait its seconds for the end; send SIGKILL if the child still runs."""
        for number, seconds in steps:
            self.send(number)
            if self._ended_within(seconds):
                return
        self.kill()

    def kill(self) -> None:
        """End the child at once, as a crash would, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def _ended_within(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


def wait_until(condition: Callable[[], bool], *, timeout_seconds: float) -> bool:
    """Poll a condition until it holds (True) or the time is up (False)."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def run_to_end(
    name: str, command: Command, *, timeout_seconds: float, keep_going: Callable[[float], None] = lambda _elapsed: None
) -> None:
    """Run a command that ends by itself; raises EmbeddedError, quoting its log, when it fails or takes too long.

    `keep_going` is called about every 0.5 s with the elapsed seconds; an exception from it ends the command.
    """
    started = time.monotonic()
    child = Child.spawn(name, command)
    try:
        while not wait_until(lambda: child.exit_code() is not None, timeout_seconds=_KEEP_GOING_SECONDS):
            elapsed_seconds = time.monotonic() - started
            if elapsed_seconds > timeout_seconds:
                raise EmbeddedError(f"{name} takes longer than {timeout_seconds:.0f} s: read {child.log}.")
            keep_going(elapsed_seconds)
    finally:
        child.kill()
    code = child.exit_code()
    if code is not None and code != 0:
        raise EmbeddedError(
            f"{name} failed with {describe_exit(code)} ({quote_cause(child.log)}): read {child.log} and try again."
        )


def describe_exit(code: int) -> str:
    """Say an exit code in words: `exit code 1`, `signal SIGKILL`."""
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def quote_cause(log: Path) -> str:
    """Return the line near the end of the log that most likely says why the process ended."""
    if not log.exists():
        return "it wrote no log"
    with log.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - _TAIL_BYTES))
        text = stream.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "its log is empty"
    causes = [
        line
        for line in lines
        if any(marker in line for marker in _CAUSE_MARKERS) and not line.startswith(_STACK_FRAME_MARKERS)
    ]
    return _words_of((causes or lines)[-1])[:_QUOTE_CHARACTERS_MAX]


def _words_of(line: str) -> str:
    """Return the message of a line of Ledgerline's JSON logs; return any other line unchanged."""
    try:
        told = json.loads(line)
    except ValueError:
        return line
    if not isinstance(told, dict) or "event" not in told:
        return line
    return str(told.get("error") or told.get("cause") or told["event"])


def rotate_log(log: Path) -> None:
    """Keep the log of the run before this one as NAME.log.1, so that logs stay bounded by two runs."""
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))


def bound_log(log: Path, *, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Move the content of a log to NAME.log.1 if it is larger than `bytes_max`, while its process goes on writing.

    The process appends (O_APPEND), so after the cut it goes on at the new end. What it writes between the copy and
    the cut is lost; in return, the process needs no support for log rotation.
    """
    if log.exists() and log.stat().st_size > bytes_max:
        shutil.copyfile(log, log.with_name(log.name + ".1"))
        os.truncate(log, 0)


@dataclass(frozen=True)
class ProcessIdentity:
    """A process id together with its start time, because the kernel reuses ids (proc(5), field 22 of stat)."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity | None":
        """Return the identity of a running process, None when there is none or only its zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat.rpartition(")")[2].split()  # the program's name before it may hold spaces and brackets
        state, threads, start_ticks = fields[0], int(fields[17]), int(fields[19])
        # A killed process with many threads, such as a JVM, is a zombie with open ports until its last thread ends.
        is_over = state == "X" or (state == "Z" and threads <= 1)
        return None if is_over else cls(pid, start_ticks)

    @classmethod
    def of_this_process(cls) -> "ProcessIdentity":
        """Return the identity of the calling process."""
        identity = cls.of(os.getpid())
        if identity is None:
            raise EmbeddedError("/proc does not show this process: mount it, as every Linux system does.")
        return identity

    def is_running(self) -> bool:
        """Tell whether this very process still runs."""
        return ProcessIdentity.of(self.pid) == self


def descendants(pid: int) -> list[ProcessIdentity]:
    """Return the running processes below a process, parents before children."""
    children_by_parent: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        parent = int(stat.rpartition(")")[2].split()[1])
        children_by_parent.setdefault(parent, []).append(int(entry.name))
    found: list[ProcessIdentity] = []
    pending = list(children_by_parent.get(pid, []))
    while pending:
        child = pending.pop(0)
        identity = ProcessIdentity.of(child)
        if identity is not None:
            found.append(identity)
        pending.extend(children_by_parent.get(child, []))
    return found
