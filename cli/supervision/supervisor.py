"""The daemon behind `ledgerline up`, and the functions that start it, stop it and read its state.

`python -m cli.supervision.supervisor --home DIR` runs in the foreground until SIGTERM or SIGINT; `start_run` runs it
detached. Its work is in cli/supervision/run.py. It writes its state to HOME/data/run.json, which `read_state` reads,
and its log to HOME/data/logs/supervisor.log.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cli.processes import PREPARE, SERVICES, Service, count_instances
from cli.supervision.run import Supervisor
from ops.embedded import EmbeddedError, EmbeddedStack
from ops.embedded.process import Child, Command, describe_exit, quote_cause, rotate_log, wait_until
from ops.run_state import RunState, load_state, read_state
from runtime.private_files import PRIVATE_UMASK
from runtime.secret_files import SettingsError, get_file_variable, get_variable, read_secret
from runtime.settings import REPOSITORY_ROOT

__all__ = ["RunState", "main", "read_state", "start_run", "stop_run"]

Report = Callable[[str], None]

DAEMON: tuple[str, ...] = (sys.executable, "-m", "cli.supervision.supervisor")
"""The program that `up` runs; tests put a program here that calls `main` with other services."""

_DOWN_SECONDS_MAX = 30.0
_STOPPING_SECONDS_MAX = 30.0

# The daemons that this process started: a child that has ended stays a zombie until its parent reads its exit code.
_daemons: dict[int, Child] = {}


def start_run(
    home: Path,
    report: Report,
    *,
    tied: bool = False,
    cache: Path | None = None,
    instances: Mapping[str, int] | None = None,
) -> RunState:
    """Start all of Ledgerline, or join the current run, and return its state when every service is ready.

    If `tied` is true, the run stops when the calling process ends in any way; otherwise it goes on until `down`.
    `cache` is the folder of the jars if that is not HOME/cache. `instances` is the number of instances by service,
    such as {"posting": 2}. Raises EmbeddedError if the start fails, and then leaves nothing running.
    """
    home = home.resolve()
    counts = count_instances(instances or {})
    running = read_state(home)
    if running is not None and running.phase in ("stopping", "failed"):
        report(f"waiting for process {running.pid} to stop")
        wait_until(lambda: read_state(home) is None, timeout_seconds=_STOPPING_SECONDS_MAX)
        running = read_state(home)
    if running is not None:
        report(f"Ledgerline runs already, as process {running.pid}")
        if running.phase == "running":
            return running
        return _follow(home, None, report)
    daemon = _spawn_daemon(home, tied=tied, cache=cache, counts=counts)
    try:
        return _follow(home, daemon, report)
    except BaseException:  # Ctrl-C as well: a start that was given up leaves nothing running
        daemon.stop(((signal.SIGTERM, _DOWN_SECONDS_MAX),))
        _daemons.pop(daemon.pid, None)
        raise


def stop_run(home: Path, report: Report) -> bool:
    """Stop the run of this home and return when all of it is gone; returns False when nothing ran."""
    home = home.resolve()
    state = read_state(home)
    if state is None:
        report("Ledgerline is not running")
        return False
    report(f"stopping process {state.pid} with its services and parts")
    os.kill(state.pid, signal.SIGTERM)
    if not _is_gone(state, timeout_seconds=_DOWN_SECONDS_MAX):
        report("it did not stop in time and is killed")
        os.kill(state.pid, signal.SIGKILL)  # the kernel ends its children with it
        if not _is_gone(state, timeout_seconds=_DOWN_SECONDS_MAX):
            raise EmbeddedError(f"Process {state.pid} cannot be killed: end it by hand.")
    daemon = _daemons.pop(state.pid, None)
    if daemon is not None:
        daemon.kill()
    report("stopped")
    return True


def main(
    arguments: Sequence[str] | None = None, *, services: Sequence[Service] = SERVICES, prepare: Sequence[str] = PREPARE
) -> int:
    """Run the daemon until it is told to stop; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cli.supervision.supervisor", description="Run all of Ledgerline.")
    parser.add_argument("--home", type=Path, required=True, help="folder of the data and the logs")
    parser.add_argument("--cache", type=Path, help="folder of the jars; HOME/cache if left out")
    parser.add_argument("--instances", action="append", default=[], metavar="NAME=COUNT", help="such as posting=2")
    options = parser.parse_args(arguments)
    home = options.home.resolve()
    os.umask(PRIVATE_UMASK)
    try:
        environment = make_services_environment()
        supervisor = Supervisor(
            home,
            lambda report: EmbeddedStack.from_environment(
                home, environment, report=report, cache=options.cache, kafka_metrics=True
            ),
            environment=environment,
            services=services,
            prepare=prepare,
            instances=count_instances(_parse_instances(options.instances)),
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: supervisor.request_stop())
        supervisor.run()
    except (EmbeddedError, SettingsError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def make_services_environment() -> dict[str, str]:
    """Return this process's environment, with the Postgres DSN itself in place of the file that holds it.

    Every service gets the DSN in its variable, and a variable and a file for the same secret are an error.
    """
    environment = dict(os.environ)
    dsn = read_secret("postgres_dsn", environment)
    if dsn is not None:
        environment |= {get_variable("postgres_dsn"): dsn}
        del environment[get_file_variable("postgres_dsn")]
    return environment


def _parse_instances(texts: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for text in texts:
        name, _, count = text.partition("=")
        if not count.isdigit():
            raise EmbeddedError(f"{text!r} is no number of instances: write it as posting=2.")
        counts[name] = int(count)
    return counts


def _spawn_daemon(home: Path, *, tied: bool, cache: Path | None, counts: Mapping[str, int]) -> Child:
    log = home / "data" / "logs" / "supervisor.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    rotate_log(log)
    argv = [*DAEMON, "--home", str(home)]
    argv += ["--cache", str(cache.resolve())] if cache is not None else []
    for name, count in counts.items():
        argv += ["--instances", f"{name}={count}"]
    daemon = Child.spawn(
        "The supervisor",
        Command(argv=argv, log=log, directory=REPOSITORY_ROOT, death_signal=signal.SIGTERM if tied else None),
    )
    _daemons[daemon.pid] = daemon
    return daemon


def _follow(home: Path, daemon: Child | None, report: Report) -> RunState:
    """Report a run's progress until it is ready; raises EmbeddedError when it fails or ends."""
    reported = 0
    while True:
        state = load_state(home)
        going_on = state is not None and state.identity.is_running()
        if state is not None and (going_on or (daemon is not None and state.pid == daemon.pid)):
            for message in state.messages[reported:]:
                report(message)
            reported = len(state.messages)
            if state.phase == "running" and going_on:
                return state
            if state.error is not None:
                raise EmbeddedError(state.error)
        if daemon is not None and daemon.exit_code() is not None and not going_on:
            code = daemon.exit_code() or 0
            raise EmbeddedError(
                f"The supervisor ended with {describe_exit(code)} ({quote_cause(daemon.log)}): read {daemon.log}."
            )
        if daemon is None and not going_on:
            raise EmbeddedError("Ledgerline was stopped while it was waited for: start it again.")
        _wait_for_news(home, state, daemon)


def _wait_for_news(home: Path, seen: RunState | None, daemon: Child | None) -> None:
    wait_until(
        lambda: load_state(home) != seen or (daemon is not None and daemon.exit_code() is not None),
        timeout_seconds=1.0,
    )


def _is_gone(state: RunState, *, timeout_seconds: float) -> bool:
    return wait_until(lambda: not state.identity.is_running(), timeout_seconds=timeout_seconds)


if __name__ == "__main__":
    sys.exit(main())
