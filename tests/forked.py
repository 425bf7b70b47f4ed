"""`python -m MODULE` from a fork of a process that has imported everything: 0.1 s of processor time in place of 1.3 s.

It is a process like any other: with its own id, signals, exit code, environment, working folder and output. Only its
imports were made before. The documents' tests, the demo and `ledgerline up` start the same programs from nothing.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Final

import pytest

from runtime.settings import REPOSITORY_ROOT

# The width of the commands' tables is read when their console is imported.
COLUMNS: Final = "160"
# Python and some libraries read these variables before or while they are imported.
READ_AT_IMPORT: Final = ("PYTHON", "OTEL_", "LC_", "LANG")

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preloaded"])


def can_fork(variables: Mapping[str, str]) -> bool:
    """Return whether a process with these variables may be a fork: whether it would import everything in the same way.

    `COLUMNS` is left out, because only commands need it.
    """
    return all(
        variables.get(name) == os.environ.get(name)
        for name in {*variables, *os.environ}
        if name.startswith(READ_AT_IMPORT)
    )


@cache
def _start_server() -> None:
    """Start the process that forks. It dies with this one."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("COLUMNS", COLUMNS)
        ensure_running()


class Forked:
    """One process, with the methods of subprocess.Popen that tests use."""

    def __init__(
        self, module: Sequence[str], variables: Mapping[str, str], out: Path, errors: Path, given: Path | None = None
    ) -> None:
        self.args = [sys.executable, "-m", *module]
        files = tuple(str(path) for path in (given or Path(os.devnull), out, errors))
        self._process = _CONTEXT.Process(target=_run, args=(tuple(module), dict(variables), files))
        _start_server()
        for path in (out, errors):
            path.touch()
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of the signal that ended the process; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return `returncode`."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code when the process has ended; raise TimeoutExpired if it does not end in time."""
        self._process.join(timeout)
        code = self.returncode
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process still runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _run(module: tuple[str, ...], variables: dict[str, str], files: tuple[str, str, str]) -> None:
    """Become `python -m MODULE`: the rest of what a new process would have."""
    given, out, errors = files
    write = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, (path, flags) in enumerate(((given, os.O_RDONLY), (out, write), (errors, write))):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    # The server that forks had other streams, and its own buffers.
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, buffering=1, closefd=False)  # noqa: SIM115 - a process has them until its end
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(REPOSITORY_ROOT)
    sys.argv = [module[0], *module[1:]]
    try:
        runpy.run_module(module[0], run_name="__main__", alter_sys=True)
    finally:
        # A process of multiprocessing ends without what is registered for the end.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
