"""Child processes end with their owner, stop in order, and report why they ended."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ops.embedded import EmbeddedError
from ops.embedded.errors import CancelledError
from ops.embedded.process import (
    Child,
    Command,
    ProcessIdentity,
    bound_log,
    descendants,
    quote_cause,
    rotate_log,
    run_to_end,
    wait_until,
)
from runtime.settings import REPOSITORY_ROOT

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER


def spawn(folder: Path, code: str) -> Child:
    """Start a child that runs Python code. Wait until it writes to its log or ends."""
    child = Child.spawn("The child", Command(argv=(sys.executable, "-c", code), log=folder / "child.log"))
    assert wait_until(lambda: child.exit_code() is not None or child.log.stat().st_size > 0, timeout_seconds=20)
    return child


def test_a_child_stops_at_the_first_signal_it_obeys(tmp_path: Path) -> None:
    child = spawn(tmp_path, SLEEPER)
    child.stop(((signal.SIGTERM, 20.0),))
    assert child.exit_code() == -signal.SIGTERM


def test_a_child_that_ignores_its_signals_is_killed(tmp_path: Path) -> None:
    child = spawn(tmp_path, STUBBORN)
    child.stop(((signal.SIGTERM, 0.1),))
    assert child.exit_code() == -signal.SIGKILL


def test_a_child_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    """The kernel ties the death signal to the forking thread: a pool's worker must not kill a server when it ends."""
    children: list[Child] = []
    thread = threading.Thread(target=lambda: children.append(spawn(tmp_path, SLEEPER)))
    thread.start()
    thread.join()
    pause = threading.Event()
    pause.wait(0.2)  # a death signal would arrive at once
    assert children[0].exit_code() is None
    children[0].kill()


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_with_its_owner(tmp_path: Path, death: signal.Signals) -> None:
    owner_code = f"""
import sys, time
from pathlib import Path
from ops.embedded.process import Child, Command
command = Command(argv=(sys.executable, "-c", {STUBBORN!r}), log=Path({str(tmp_path / "child.log")!r}))
child = Child.spawn("child", command)
print(child.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", owner_code], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY_ROOT
    ) as owner:
        assert owner.stdout is not None
        child = ProcessIdentity.of(int(owner.stdout.readline()))
        assert child is not None
        assert descendants(owner.pid) == [child]
        owner.send_signal(death)
        owner.wait(20)
    assert wait_until(lambda: not child.is_running(), timeout_seconds=20)


def test_a_program_that_is_missing_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"^The server cannot be started .* check that /no/such/program exists"):
        Child.spawn("The server", Command(argv=("/no/such/program",), log=tmp_path / "log"))


def test_a_child_that_has_ended_is_quoted(tmp_path: Path) -> None:
    child = spawn(tmp_path, "raise SystemExit('FATAL: the disk is full')")
    child.process.wait(20)
    with pytest.raises(EmbeddedError) as caught:
        child.require_running()
    assert str(caught.value) == (
        f"The child ended with exit code 1 (FATAL: the disk is full): read {child.log} and start again."
    )


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (None, "it wrote no log"),
        ("", "its log is empty"),
        ("one\ntwo\n\n", "two"),
        ("ERROR the port is taken\n  at Main.run(Main.java:3)\nbye\n", "ERROR the port is taken"),
        ("ERROR first\nERROR second\n", "ERROR second"),
        ("x" * 400, "x" * 240),
        ('{"event": "ended", "level": "critical", "error": "No topic."}\n', "No topic."),
        ('{"event": "waiting", "level": "error", "cause": "No broker."}\n{"event": "x"}\n', "No broker."),
        ('{"error": "by another program"}\n', '{"error": "by another program"}'),
    ],
)
def test_the_cause_is_found_in_the_end_of_a_log(tmp_path: Path, log: str | None, cause: str) -> None:
    path = tmp_path / "some.log"
    if log is not None:
        path.write_text(log)
    assert quote_cause(path) == cause


def test_a_command_that_fails_names_its_log(tmp_path: Path) -> None:
    command = Command(argv=(sys.executable, "-c", "raise SystemExit('error: no topic')"), log=tmp_path / "log")
    with pytest.raises(EmbeddedError, match=r"^The step failed with exit code 1 \(error: no topic\): read .*log and"):
        run_to_end("The step", command, timeout_seconds=20)


def test_a_command_is_ended_when_it_must_not_go_on(tmp_path: Path) -> None:
    def give_up(_elapsed_seconds: float) -> None:
        raise CancelledError("Given up.")

    log = tmp_path / "log"
    code = f"import os; print(os.getpid(), flush=True); {SLEEPER}"
    with pytest.raises(CancelledError):
        run_to_end(
            "The step", Command(argv=(sys.executable, "-c", code), log=log), timeout_seconds=20, keep_going=give_up
        )
    pid = log.read_text().split()[0] if log.read_text() else None
    assert pid is None or ProcessIdentity.of(int(pid)) is None


def test_an_identity_tells_a_process_from_a_later_one_with_its_id() -> None:
    this = ProcessIdentity.of_this_process()
    assert this.pid == os.getpid()
    assert this.is_running()
    assert not ProcessIdentity(this.pid, this.start_ticks - 1).is_running()


def test_logs_are_bounded_by_two_files(tmp_path: Path) -> None:
    log, previous = tmp_path / "a.log", tmp_path / "a.log.1"
    log.write_text("first run")
    rotate_log(log)
    assert not log.exists()
    assert previous.read_text() == "first run"
    log.write_text("x" * 100)
    bound_log(log, bytes_max=100)
    assert log.stat().st_size == 100
    bound_log(log, bytes_max=99)
    assert log.stat().st_size == 0
    assert previous.read_text() == "x" * 100
