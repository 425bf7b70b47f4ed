"""`up` and `down` with the real parts: a part that dies is restarted, and no process is left behind.

The services are tiny web servers here; the acceptance tests run Ledgerline's own services.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from cli.supervision.supervisor import read_state, start_run, stop_run
from ops.embedded import EmbeddedError
from ops.embedded.process import ProcessIdentity, descendants, wait_until
from ops.run_state import PartState, RunState
from runtime.settings import REPOSITORY_ROOT

CACHE = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
PATIENCE_SECONDS = 60.0
STOP_SECONDS_MAX = 20.0

SERVICE = """
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_arguments):
        pass
port = int(os.environ.get("LEDGERLINE_API_PORT") or os.environ["LEDGERLINE_METRICS_PORT"])
HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""

DAEMON = f"""
import dataclasses, sys
sys.path.insert(0, {str(REPOSITORY_ROOT)!r})
from cli.processes import SERVICES
from cli.supervision.supervisor import main
tiny = [dataclasses.replace(service, argv=(sys.executable, "-c", {SERVICE!r})) for service in SERVICES]
sys.exit(main(services=tiny, prepare=(sys.executable, "-c", "pass")))
"""

CALLER = """
import sys
from pathlib import Path
from cli.supervision import supervisor
supervisor.DAEMON = (sys.executable, sys.argv[1])
supervisor.start_run(Path(sys.argv[2]), lambda _message: None, tied=True, cache=Path(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one folder for all tests of this module, so that Postgres' cluster is made once."""
    made = tmp_path_factory.mktemp("supervised")
    (made / "daemon.py").write_text(DAEMON)
    return made


@pytest.fixture(scope="module")
def home(folder: Path) -> Iterator[Path]:
    """Yield the home of the run that each test joins or starts; stop the run after the last test."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("cli.supervision.supervisor.DAEMON", (sys.executable, str(folder / "daemon.py")))
        yield folder / "home"
        stop_run(folder / "home", ignore)


def ignore(_message: str) -> None:
    """Ignore a line of progress."""


def start(home: Path) -> RunState:
    return start_run(home, ignore, cache=CACHE)


def all_processes(state: RunState) -> list[ProcessIdentity]:
    return [state.identity, *descendants(state.pid)]


def gone(processes: list[ProcessIdentity]) -> bool:
    return wait_until(lambda: not any(one.is_running() for one in processes), timeout_seconds=PATIENCE_SECONDS)


def test_up_starts_everything_and_down_stops_it(home: Path) -> None:
    progress: list[str] = []
    state = start_run(home, progress.append, cache=CACHE)
    assert state == read_state(home)
    assert state.phase == "running"
    assert [one.name for one in state.parts] == ["kafka", "postgres", "registry"]
    assert {one.condition for one in (*state.parts, *state.services)} == {"ready"}
    assert progress[-1] == "all services are ready"
    assert httpx.get(f"{state.api_url}/readyz").status_code == 200
    processes = all_processes(state)
    started = time.monotonic()
    assert stop_run(home, progress.append)
    assert time.monotonic() - started < STOP_SECONDS_MAX
    assert gone(processes)
    assert progress[-1] == "stopped"
    assert read_state(home) is None
    assert not stop_run(home, progress.append)


def test_up_joins_a_run_that_goes_on(home: Path) -> None:
    first = start(home)
    progress: list[str] = []
    assert start_run(home, progress.append, cache=CACHE).pid == first.pid
    assert progress == [f"Ledgerline runs already, as process {first.pid}"]


def test_parts_that_die_come_back_under_their_addresses(home: Path) -> None:
    state = start(home)
    for before in state.parts:
        assert before.pid is not None
        os.kill(before.pid, signal.SIGKILL)
    for before in state.parts:
        assert wait_until(partial(came_back, home, before), timeout_seconds=PATIENCE_SECONDS)
    assert start(home).endpoints == state.endpoints


def came_back(home: Path, before: PartState) -> bool:
    state = read_state(home)
    assert state is not None
    after = next(one for one in state.parts if one.name == before.name)
    ready = (after.condition, after.restarts, after.port) == ("ready", before.restarts + 1, before.port)
    return ready and after.pid not in (before.pid, None)


def test_nothing_outlives_a_supervisor_that_is_killed(home: Path) -> None:
    state = start(home)
    processes = all_processes(state)
    assert len(processes) > len(state.parts) + len(state.services)
    os.kill(state.pid, signal.SIGKILL)
    assert gone(processes)
    assert read_state(home) is None
    assert start(home).endpoints == state.endpoints


def test_a_tied_run_ends_with_its_caller(home: Path, folder: Path) -> None:
    stop_run(home, ignore)
    caller = [sys.executable, "-c", CALLER, str(folder / "daemon.py"), str(home), str(CACHE)]
    subprocess.run(caller, cwd=REPOSITORY_ROOT, check=True, timeout=PATIENCE_SECONDS)
    assert wait_until(lambda: read_state(home) is None, timeout_seconds=PATIENCE_SECONDS)
    start(home)  # the home is free again


def test_a_start_that_fails_is_told_and_leaves_nothing(home: Path, folder: Path) -> None:
    stop_run(home, ignore)
    failing = DAEMON.replace('"pass"', "\"raise SystemExit('error: no topic')\"")
    (folder / "daemon.py").write_text(failing)
    try:
        with pytest.raises(EmbeddedError, match=r"^The preparation of the ledger failed .*error: no topic"):
            start(home)
    finally:
        (folder / "daemon.py").write_text(DAEMON)
    assert read_state(home) is None
