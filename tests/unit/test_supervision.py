"""The supervisor starts services in order, restarts dead ones, writes run.json, and leaves no process behind.

The services are tiny web servers, and a stand-in replaces the stack. tests/integration starts the real stack.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.processes import API_PORT, METRICS_PORT, SERVICES, Service, count_instances
from cli.supervision.back_off import BackOff
from cli.supervision.run import Supervisor
from cli.supervision.supervisor import make_services_environment
from ops.embedded import EmbeddedError, EmbeddedStack, Endpoints
from ops.embedded.process import ProcessIdentity, wait_until
from ops.run_state import RunState, load_state, read_state, state_file, write_state

PATIENCE_SECONDS = 30.0

SERVE = """
import os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_arguments):
        pass
signal.signal(signal.SIGTERM, lambda *_: (print("asked to stop", flush=True), sys.exit(0)))
print(os.environ["LEDGERLINE_KAFKA_BOOTSTRAP"], os.environ.get("LEDGERLINE_RELAY_INSTANCE"), flush=True)
port = int(os.environ.get("LEDGERLINE_API_PORT") or os.environ["LEDGERLINE_METRICS_PORT"])
HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""
IGNORE_SIGTERM = "import signal; signal.signal = lambda *_: None; signal.pthread_sigmask(0, {15})" + SERVE
FAIL = "raise SystemExit('error: no such topic')"
SUCCEED = "print('prepared')"


class StandInStack:
    """Stands in for an EmbeddedStack without servers: the methods that the supervisor calls."""

    def __init__(self, error: EmbeddedError | None = None) -> None:
        self.parts: dict[str, object] = {}
        self.calls: list[str] = []
        self._error = error

    def own(self) -> None:
        self.calls.append("own")

    def start(self) -> Endpoints:
        self.calls.append("start")
        if self._error is not None:
            raise self._error
        return Endpoints("127.0.0.1:1", "postgresql://127.0.0.1:2/ledgerline", "http://127.0.0.1:3")

    def cancel(self) -> None:
        self.calls.append("cancel")

    def stop(self) -> None:
        self.calls.append("stop")


def service(name: str, code: str = SERVE, *, port_variable: str = METRICS_PORT, **more: object) -> Service:
    return Service(name, (sys.executable, "-c", code), port_variable, **more)  # type: ignore[arg-type]


POSTING = service("posting")
API = service("api", port_variable=API_PORT)


def make_supervisor(
    home: Path,
    services: tuple[Service, ...],
    *,
    prepare: str = SUCCEED,
    stack: StandInStack | None = None,
    instances: Mapping[str, int] | None = None,
) -> Supervisor:
    home.joinpath("data", "logs").mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEDGERLINE_")}
    return Supervisor(
        home,
        lambda _report: stack or StandInStack(),  # type: ignore[arg-type, return-value]
        environment=environment,
        services=services,
        prepare=(sys.executable, "-c", prepare),
        instances=instances,
    )


@contextmanager
def running(supervisor: Supervisor) -> Iterator[Callable[[], RunState]]:
    """Run a supervisor in a thread until the block ends, and yield a function that reads its state."""
    thread = threading.Thread(target=supervisor.run)
    thread.start()

    def state() -> RunState:
        found = read_state(supervisor.home)
        assert found is not None
        return found

    try:
        assert wait_until(lambda: phase(supervisor.home) == "running", timeout_seconds=PATIENCE_SECONDS)
        yield state
    finally:
        supervisor.request_stop()
        thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def phase(home: Path) -> str | None:
    state = load_state(home)
    return None if state is None else state.phase


def pids(state: RunState) -> list[int]:
    return [service.pid for service in state.services if service.pid is not None]


def test_services_become_ready_and_are_stopped_in_the_opposite_order(tmp_path: Path) -> None:
    stack = StandInStack()
    with running(make_supervisor(tmp_path, (POSTING, API), stack=stack)) as state:
        started = state()
        assert [(s.name, s.condition, s.restarts) for s in started.services] == [
            ("posting", "ready", 0),
            ("api", "ready", 0),
        ]
        assert started.api_url == f"http://127.0.0.1:{started.instances('api')[0].port}"
        assert started.endpoints is not None
        assert started.endpoints.kafka_bootstrap == "127.0.0.1:1"
        assert started.messages[-1] == "all services are ready"
        identities = [ProcessIdentity.of(pid) for pid in pids(started)]
    assert not any(identity is not None and identity.is_running() for identity in identities)
    assert stack.calls == ["own", "start", "cancel", "stop"]
    assert phase(tmp_path) == "stopping"
    logs = tmp_path / "data" / "logs"
    assert (logs / "posting.log").read_text().splitlines() == ["127.0.0.1:1 None", "asked to stop"]
    assert (logs / "prepare.log").read_text() == "prepared\n"
    assert (logs / "api.log").stat().st_mtime_ns <= (logs / "posting.log").stat().st_mtime_ns


def test_ports_are_remembered_from_run_to_run(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        with running(make_supervisor(tmp_path, (POSTING, API))) as state:
            seen.append([service.port for service in state().services])
    assert seen[0] == seen[1]


def test_a_service_that_dies_is_started_again_and_counted(tmp_path: Path) -> None:
    with running(make_supervisor(tmp_path, (POSTING,))) as state:
        before = state().services[0]
        assert before.pid is not None
        os.kill(before.pid, signal.SIGKILL)
        assert wait_until(
            lambda: state().services[0].condition == "ready" and state().services[0].restarts == 1,
            timeout_seconds=PATIENCE_SECONDS,
        )
        after = state().services[0]
        assert after.pid not in (before.pid, None)
        assert after.port == before.port
        assert after.last_exit == "signal SIGKILL"
        assert any("ended with signal SIGKILL" in message for message in state().messages)


def test_instances_share_the_work_by_number(tmp_path: Path) -> None:
    relay = service("relay", number_variables=("LEDGERLINE_RELAY_INSTANCE", "LEDGERLINE_RELAY_INSTANCES"))
    with running(make_supervisor(tmp_path, (relay,), instances={"relay": 2})) as state:
        assert [instance.instance for instance in state().instances("relay")] == [0, 1]
        assert len({instance.port for instance in state().services}) == 2
    logs = tmp_path / "data" / "logs"
    assert (logs / "relay.log").read_text().split()[1] == "0"
    assert (logs / "relay-1.log").read_text().split()[1] == "1"


@pytest.mark.parametrize(
    ("services", "prepare", "stack_error", "message"),
    [
        ((POSTING,), SUCCEED, "Kafka is not there: start it.", r"^Kafka is not there: start it\.$"),
        (
            (POSTING,),
            FAIL,
            None,
            r"^The preparation of the ledger failed with exit code 1 \(error: no such topic\): read .*prepare\.log",
        ),
        (
            (POSTING, service("api", FAIL, port_variable=API_PORT)),
            SUCCEED,
            None,
            r"^The service api does not become ready, last ended with exit code 1 \(error: no such topic\): read .*\.$",
        ),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path, services: tuple[Service, ...], prepare: str, stack_error: str | None, message: str
) -> None:
    stack = StandInStack(EmbeddedError(stack_error) if stack_error else None)
    supervisor = make_supervisor(tmp_path, services, prepare=prepare, stack=stack)
    with pytest.raises(EmbeddedError, match=message):
        supervisor.run()
    state = load_state(tmp_path)
    assert state is not None
    assert state.phase == "failed"
    assert pids(state) == []
    assert stack.calls[-1] == "stop"


def test_a_start_can_be_given_up(tmp_path: Path) -> None:
    supervisor = make_supervisor(tmp_path, (POSTING,), prepare="import time; time.sleep(600)")
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    log = tmp_path / "data" / "logs" / "prepare.log"
    assert wait_until(log.exists, timeout_seconds=PATIENCE_SECONDS)
    supervisor.request_stop()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert phase(tmp_path) == "stopping"


def test_a_service_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.supervision.run._SERVICE_STOP_SECONDS", 0.1)
    monkeypatch.setattr("cli.supervision.run._SERVICES_STOP_SECONDS", 0.2)
    with running(make_supervisor(tmp_path, (service("posting", IGNORE_SIGTERM),))) as state:
        identity = ProcessIdentity.of(pids(state())[0])
        assert identity is not None
    assert not identity.is_running()


def test_the_pause_doubles_is_bounded_and_is_forgiven() -> None:
    back_off = BackOff(first_seconds=0.5, most_seconds=3.0, forgiven_after_seconds=60.0)
    assert [back_off.compute_next_seconds(1.0) for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert back_off.compute_next_seconds(60.0) == 0.5
    assert BackOff(most_seconds=30.0).compute_next_seconds(0.0) == 0.5


def test_the_state_survives_the_file_and_only_its_user_reads_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    this = ProcessIdentity.of_this_process()
    state = RunState(this.pid, this.start_ticks, "2026-01-02T03:04:05+00:00", "running", messages=("up",))
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    assert state_file(tmp_path).stat().st_mode & 0o777 == 0o600


def test_the_state_of_a_run_that_is_over_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    this = ProcessIdentity.of_this_process()
    write_state(tmp_path, RunState(this.pid, this.start_ticks - 1, "2026-01-02T03:04:05+00:00", "running"))
    assert read_state(tmp_path) is None
    assert load_state(tmp_path) is not None


@pytest.mark.parametrize("text", ["{", "[]", '{"pid": 1}', '{"endpoints": null, "parts": [], "surprise": 1}'])
def test_a_file_of_another_version_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "data").mkdir()
    state_file(tmp_path).write_text(text)
    with pytest.raises(EmbeddedError, match=r"run\.json is not what this version writes .*: remove that file\.$"):
        read_state(tmp_path)


def test_the_table_of_services_is_whole() -> None:
    assert [service.name for service in SERVICES] == ["posting", "relay", "worker", "reconciliation", "audit", "api"]
    for entry in SERVICES:
        assert entry.argv[1:] == ("-m", "cli", "service", entry.name)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"poster": 1},
            "There is no service 'poster': choose from posting, relay, worker, reconciliation, audit, api.",
        ),
        ({"posting": 17}, "17 instances of posting cannot run here: choose 0 to 16, one api."),
        ({"api": 2}, "2 instances of api cannot run here: choose 0 to 16, one api."),
    ],
)
def test_silly_numbers_of_instances_are_refused(wanted: dict[str, int], message: str) -> None:
    with pytest.raises(EmbeddedError) as caught:
        count_instances(wanted)
    assert str(caught.value) == message


def test_instances_default_to_the_table() -> None:
    assert count_instances({"posting": 3}) == {
        "posting": 3,
        "relay": 1,
        "worker": 1,
        "reconciliation": 1,
        "audit": 1,
        "api": 1,
    }


def test_a_database_that_a_file_names_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "dsn"
    secret.write_text("postgresql://elsewhere/ledger\n")
    secret.chmod(0o600)
    monkeypatch.setenv("LEDGERLINE_POSTGRES_DSN_FILE", str(secret))
    monkeypatch.delenv("LEDGERLINE_POSTGRES_DSN", raising=False)
    environment = make_services_environment()
    assert environment["LEDGERLINE_POSTGRES_DSN"] == "postgresql://elsewhere/ledger"
    assert "LEDGERLINE_POSTGRES_DSN_FILE" not in environment  # services refuse a setting that is given twice
    stack = EmbeddedStack.from_environment(tmp_path, environment)
    with pytest.raises(EmbeddedError, match="it was given an address"):
        assert stack.postgres


LEADERLESS = """
import ctypes, platform, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print("begun", flush=True)
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)  # exit(2), of the first thread alone
"""


def test_a_zombie_runs_as_long_as_one_of_its_threads() -> None:
    with subprocess.Popen([sys.executable, "-c", LEADERLESS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        stat = Path(f"/proc/{process.pid}/stat")
        assert wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", timeout_seconds=10)
        identity = ProcessIdentity.of(process.pid)
        assert identity is not None
        process.kill()
        assert wait_until(lambda: not identity.is_running(), timeout_seconds=10)
        assert stat.exists(), "nobody has asked for its end yet"
