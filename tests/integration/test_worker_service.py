"""The worker as a real process, with posting, relay and API beside it: killed, stopped, and split into its parts."""

import importlib.util
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import psycopg
import pytest

from runtime.settings import REPOSITORY_ROOT, Settings
from tests.api_bench import NO_AUTHORITIES, ApiBench, top_up
from tests.posting_bench import eventually
from tests.service_process import ServiceProcess

STOP_SECONDS_MAX = 7.5
"""The watchdog's bound, and its look twice a second."""
PRIVATE = {"LEDGERLINE_CALLS_PRIVATE_ADDRESSES": "true"}
RECEIVER = REPOSITORY_ROOT / "examples" / "receive-webhooks" / "receiver.py"


def load_verify() -> Any:
    """Return `verify` of the example receiver."""
    spec = importlib.util.spec_from_file_location("example_receiver", RECEIVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.verify


class Delivery(NamedTuple):
    """One request that came with a good signature."""

    message_id: str
    type: str
    body: dict[str, Any]


class Receiver:
    """Keeps what came, and answers 204; while it holds, an answer waits."""

    def __init__(self) -> None:
        self.url = ""
        self.secret = ""
        self.came: list[Delivery] = []
        self.refused = 0
        self.is_open = threading.Event()
        self.is_open.set()

    def list_types(self) -> Counter[str]:
        """Return how many different messages of each type came."""
        return Counter(kind for _, kind in {(one.message_id, one.type) for one in self.came})


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Yield a running receiver, which verifies as the example does."""
    made, verify = Receiver(), load_verify()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if verify([made.secret], headers, body, time.time()):
                event = json.loads(body)
                made.came.append(Delivery(headers["webhook-id"], event["type"], event))
            else:
                made.refused += 1
            made.is_open.wait()
            self.send_response(204)
            self.end_headers()

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (BrokenPipeError, ConnectionResetError):  # the worker was killed while the answer was held
                self.close_connection = True

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.is_open.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Ledger:
    """A ledger of real processes, asked over HTTP."""

    def __init__(self, settings: Settings, folder: Path, api: ServiceProcess) -> None:
        self.settings = settings
        self.folder = folder
        self.dsn = settings.postgres_dsn.get_secret_value()  # type: ignore[union-attr]
        url = f"http://127.0.0.1:{api.port}"
        key = ApiBench(url, self.dsn).new_key()
        self.client = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=40, verify=NO_AUTHORITIES
        )

    def start_worker(self, **changes: str) -> ServiceProcess:
        """Start a worker that may call the receiver."""
        return ServiceProcess("worker", self.settings, self.folder, **PRIVATE, **changes)

    def add_webhook(self, receiver: Receiver) -> str:
        """Add a webhook at the receiver; return its id. The API refuses a private URL, so it is set afterwards."""
        body = {"url": "https://hooks.example.com/in", "filters": ["ledger.posted", "schedule.*"]}
        answer = self.client.post("/v1/webhooks", json=body, headers={"Idempotency-Key": str(uuid4())})
        assert answer.status_code == 201, answer.text
        webhook_id: str = answer.json()["webhook_id"]
        receiver.secret = answer.json()["secret"]
        self.execute("UPDATE webhooks.endpoint SET url = %s WHERE endpoint_id = %s", receiver.url, webhook_id)
        return webhook_id

    def add_schedule(self, user: int, seconds: float = 0.0, amount_minor: int = 500) -> str:
        """Make a schedule of one occurrence, due in so many seconds; return its id."""
        start = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
        body = {"name": "Rent", "start": start, "zone": "UTC", "intent": top_up(user, amount_minor)}
        answer = self.client.post("/v1/schedules", json=body, headers={"Idempotency-Key": str(uuid4())})
        assert answer.status_code == 201, answer.text
        schedule_id: str = answer.json()["schedule_id"]
        return schedule_id

    def list_states(self, schedule_id: str) -> list[str]:
        """Return the states of a schedule's occurrences."""
        answer = self.client.get(f"/v1/schedules/{schedule_id}/occurrences")
        assert answer.status_code == 200, answer.text
        return [item["state"] for item in answer.json()["items"]]

    def read_balance(self, user: int) -> int | None:
        """Return the balance of a user's wallet; None if there is no such account."""
        answer = self.client.get(f"/v1/accounts/users:{user}:wallet/balances")
        if answer.status_code == 404:
            return None
        (item,) = answer.json()["items"]
        return int(item["balance_minor"])

    def count_postings(self) -> int:
        """Return how many intents are posted."""
        with psycopg.connect(self.dsn) as connection:
            row = connection.execute("SELECT count(*) FROM ledger.journal WHERE outcome = 'posted'").fetchone()
        assert row is not None
        return int(row[0])

    def execute(self, statement: str, *parameters: Any) -> int:
        """Run a statement as the owner; return the number of rows."""
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(statement, parameters).rowcount  # type: ignore[arg-type]

    def end_leases(self) -> int:
        """Let the time pass that a crashed worker's calls wait: four minutes."""
        return self.execute("UPDATE calls.call SET due_time = 0 WHERE state = 'under_way'")

    def await_posted(self, *schedules: str, seconds: float = 60.0) -> None:
        """Wait until each schedule shows its one occurrence as posted."""
        for schedule_id in schedules:
            eventually(
                lambda each=schedule_id: self.list_states(each) == ["posted"], "the occurrence is posted", seconds
            )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def ledger(settings: Settings, tmp_path: Path) -> Iterator[Ledger]:
    """Yield a ledger whose worker does not run yet."""
    with ExitStack() as running:
        services = [
            running.enter_context(ServiceProcess(name, settings, tmp_path)) for name in ("posting", "relay", "api")
        ]
        for service in services:
            service.wait_until_ready()
        made = Ledger(settings, tmp_path, services[-1])
        running.callback(made.client.close)
        yield made


def test_a_schedule_is_posted_once_and_its_webhooks_come_though_the_worker_is_killed(
    ledger: Ledger, receiver: Receiver
) -> None:
    """The worker is killed before the occurrence is due, and while the receiver holds its answer back."""
    webhook_id = ledger.add_webhook(receiver)
    with ledger.start_worker() as worker:
        worker.wait_until_ready()
        schedule_id = ledger.add_schedule(1, seconds=3)
        worker.kill()
    assert ledger.list_states(schedule_id) == []
    receiver.is_open.clear()
    with ledger.start_worker() as worker:
        eventually(lambda: receiver.list_types()["ledgerline.ledger.posted"], "the receiver holds the posting", 60)
        worker.kill()
    receiver.is_open.set()
    assert ledger.end_leases() > 0, "calls were under way"
    with ledger.start_worker() as worker:
        worker.wait_until_ready()
        ledger.await_posted(schedule_id)
        eventually(lambda: list_delivered(ledger, webhook_id) == EXPECTED, "all webhooks are delivered", 60)
        assert worker.stop(STOP_SECONDS_MAX) == 0
    assert receiver.list_types() == EXPECTED
    assert receiver.refused == 0
    (posted,) = {one.message_id for one in receiver.came if one.type == "ledgerline.ledger.posted"}
    assert max(Counter(one.message_id for one in receiver.came).values()) <= 2, f"{posted} comes at most twice"
    assert (ledger.count_postings(), ledger.read_balance(1)) == (1, 500)


EXPECTED = Counter(
    {
        "ledgerline.schedule.ScheduleCreated": 1,
        "ledgerline.ledger.posted": 1,
        "ledgerline.schedule.ScheduleEnded": 1,
    }
)


def list_delivered(ledger: Ledger, webhook_id: str) -> Counter[str]:
    """Return how many messages of each type count as delivered."""
    answer = ledger.client.get(f"/v1/webhooks/{webhook_id}/deliveries", params={"state": "delivered"})
    assert answer.status_code == 200, answer.text
    return Counter(item["type"] for item in answer.json()["items"])
