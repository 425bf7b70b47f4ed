"""Helpers for tests of bounds: all services of a ledger, load over HTTP, stopped servers, memory."""

import os
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import httpx
import psutil

from ops.embedded.part import Part
from ops.embedded.ports import pick_free
from ops.embedded.process import descendants
from tests.api_bench import ApiBench, problem, top_up
from tests.posting_bench import PostingBench, eventually
from tests.service_process import ServiceProcess

SERVICES = ("posting", "relay", "reconciliation", "audit", "api")
MEGABYTE = 1024 * 1024
RETRY_SECONDS = 0.2
USERS = 100


class Answer(NamedTuple):
    """One answer of the API; status 0 if there was none."""

    began: float
    """The time of the request, by time.monotonic()."""
    seconds: float
    status: int
    kind: str
    """The kind of problem, or empty if the answer is no problem."""


class Load:
    """Clients that each post one intent after another. An intent is sent with the same key until it is accepted."""

    def __init__(self, url: str, key: str, clients: int = 4) -> None:
        self.url = url
        self.answers: list[Answer] = []
        self.sent: set[str] = set()
        self.accepted: set[str] = set()
        self.name = uuid.uuid4().hex[:8]
        """The prefix of the load's idempotency keys."""
        self._key = key
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more intents; return when all clients have their answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def since(self, moment: float) -> list[Answer]:
        """Return the answers that came at this moment or later."""
        return [answer for answer in self.answers if answer.began + answer.seconds >= moment]

    def _run(self, client_number: int) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        with httpx.Client(headers=headers, timeout=60) as client:
            for number in count():
                key = f"{self.name}-{client_number}-{number}"
                self.sent.add(key)
                while not self._stop.is_set() and not self._post(client, key, number):
                    self._stop.wait(RETRY_SECONDS)
                if self._stop.is_set():
                    return

    def _post(self, client: httpx.Client, key: str, number: int) -> bool:
        began = time.monotonic()
        try:
            answer = client.post(
                f"{self.url}/v1/intents", json=top_up(number % USERS, 1), headers={"Idempotency-Key": key}
            )
        except httpx.TransportError as error:
            self.answers.append(Answer(began, time.monotonic() - began, 0, type(error).__name__))
            return False
        kind = ""
        if answer.status_code >= 400:
            kind = problem(answer)
            assert answer.status_code != 503 or int(answer.headers["retry-after"]) > 0
        self.answers.append(Answer(began, time.monotonic() - began, answer.status_code, kind))
        if answer.status_code in (200, 202):
            self.accepted.add(key)
        return key in self.accepted


class Memory:
    """Resident memory of some processes, sampled four times a second."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._samples: list[tuple[float, dict[str, float]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory")

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            now = {name: process.memory_info().rss / MEGABYTE for name, process in self._processes.items()}
            self._samples.append((time.monotonic(), now))

    def highest(self, begin: float, end: float) -> dict[str, float]:
        """Return the highest memory of each process between two moments of time.monotonic(), in megabytes."""
        found = [sample for moment, sample in self._samples if begin <= moment <= end]
        assert found, "no sample lies between"
        return {name: max(sample[name] for sample in found) for name in self._processes}


@contextmanager
def standing_still(part: Part) -> Iterator[None]:
    """Stop all processes of a server. Its kernel still takes connections and bytes, but nobody answers."""
    assert part.pid is not None
    # Stop the first process first, so that it starts no more processes.
    os.kill(part.pid, signal.SIGSTOP)
    stopped = [part.pid, *(process.pid for process in descendants(part.pid))]
    for pid in stopped[1:]:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(stopped):
            os.kill(pid, signal.SIGCONT)


class Services:
    """All services of one ledger as processes, and an API key."""

    def __init__(self, ledger: PostingBench, folder: Path) -> None:
        self.ledger = ledger
        self._folder = folder
        self._stack = ExitStack()
        self.running: dict[str, ServiceProcess] = {}
        self.api_port = pick_free()
        self.url = f"http://127.0.0.1:{self.api_port}"
        self.key = ApiBench(self.url, ledger.dsn).new_key()

    def __enter__(self) -> "Services":
        self._stack.__enter__()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def start(self) -> None:
        """Start the services that do not run; return when all are ready."""
        for name in SERVICES:
            if name in self.running and self.running[name].runs():
                continue
            process = ServiceProcess(
                name, self.ledger.settings, self._folder, LEDGERLINE_API_PORT=str(self.api_port)
            )  # fmt: skip
            if name == "api":
                process.port = self.api_port
            self.running[name] = self._stack.enter_context(process)
        for process in self.running.values():
            process.wait_until_ready(120)

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each service."""
        return {name: process.process.pid for name, process in self.running.items()}

    def stop(self) -> dict[str, tuple[int, float]]:
        """Send SIGTERM to all services at once. Return each exit code and the seconds until the exit."""
        began = time.monotonic()
        for process in self.running.values():
            process.process.terminate()
        ended: dict[str, tuple[int, float]] = {}

        def all_ended() -> bool:
            for name, process in self.running.items():
                if name not in ended and not process.runs():
                    ended[name] = process.process.returncode, time.monotonic() - began
            return len(ended) == len(self.running)

        eventually(all_ended, "all have ended", 60)
        return ended

    @contextmanager
    def load(self) -> Iterator[Load]:
        """Run clients that post to the API. If the block fails, print the last log lines of each service."""
        try:
            with Load(self.url, self.key) as load:
                yield load
        except BaseException:
            for process in self.running.values():
                print(f"--- {process.name}, {'runs' if process.runs() else 'ended'}:\n{process.log()[-3000:]}")  # noqa: T201
            raise


def fates(ledger: PostingBench, load: Load) -> Counter[str]:
    """Return the number of journal rows of each outcome for the load's intents."""
    query = (
        "SELECT outcome, count(*) AS rows FROM ledger.journal WHERE starts_with(idempotency_key, %s) GROUP BY outcome"
    )
    return Counter({row["outcome"]: row["rows"] for row in ledger.rows(query, load.name)})


def assert_posted_once(ledger: PostingBench, load: Load) -> None:
    """Check that each accepted intent is posted once, that only sent intents are posted, and that the books hold."""
    keys = [
        row["idempotency_key"]
        for row in ledger.rows("SELECT idempotency_key FROM ledger.journal WHERE outcome = 'posted'")
        if row["idempotency_key"].startswith(load.name)
    ]
    assert len(keys) == len(set(keys))
    assert load.accepted <= set(keys) <= load.sent
    assert set(fates(ledger, load)) <= {"posted", "duplicate"}
    ledger.verify()
