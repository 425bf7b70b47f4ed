"""The worker as a real process, with posting, relay and API beside it: killed, stopped, and split into its parts."""

import importlib.util
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import psycopg
import pytest

from runtime.faults import FAULT_POINTS
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

    def start_worker_to_die(self, point: str) -> ServiceProcess:
        """Start a worker that kills itself as soon as it comes to a fault point."""
        orders = self.folder / f"orders-{point}"
        orders.mkdir()
        (orders / point).write_text("kill")
        module = ("tools.chaos.service", "worker", "--orders", str(orders))
        return ServiceProcess("worker", self.settings, self.folder, module=module, **PRIVATE)

    def add_webhook(self, receiver: Receiver) -> str:
        """Add a webhook at the receiver; return its id."""
        body = {"url": receiver.url, "filters": ["ledger.posted", "schedule.*"]}
        answer = self.client.post("/v1/webhooks", json=body, headers={"Idempotency-Key": str(uuid4())})
        assert answer.status_code == 201, answer.text
        webhook_id: str = answer.json()["webhook_id"]
        receiver.secret = answer.json()["secret"]
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
        for each in schedules:
            eventually(partial(self._is_posted, each), "the occurrence is posted", seconds)

    def _is_posted(self, schedule_id: str) -> bool:
        return self.list_states(schedule_id) == ["posted"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def ledger(settings: Settings, tmp_path: Path) -> Iterator[Ledger]:
    """Yield a ledger whose worker does not run yet."""
    with ExitStack() as running:
        services = [
            running.enter_context(ServiceProcess(name, settings, tmp_path, **PRIVATE))
            for name in ("posting", "relay", "api")
        ]
        for service in services:
            service.wait_until_ready()
        made = Ledger(settings, tmp_path, services[-1])
        running.callback(made.client.close)
        yield made


EXPECTED = Counter(
    {
        "ledgerline.ledger.posted": 1,
        "ledgerline.schedule.OccurrencePosted": 1,
        "ledgerline.schedule.OccurrenceSent": 1,
        "ledgerline.schedule.ScheduleCreated": 1,
        "ledgerline.schedule.ScheduleEnded": 1,
    }
)
"""What one schedule with one occurrence sends."""


def await_delivered(ledger: Ledger, webhook_id: str, expected: Counter[str]) -> None:
    """Wait until so many messages of each type count as delivered, and no others."""

    def list_delivered() -> Counter[str]:
        page: str | None = f"/v1/webhooks/{webhook_id}/deliveries?state=delivered"
        found: Counter[str] = Counter()
        while page is not None:
            answer = ledger.client.get(page)
            assert answer.status_code == 200, answer.text
            found += Counter(item["type"] for item in answer.json()["items"])
            page = answer.json()["next"]
        return found

    eventually(lambda: list_delivered() == expected, "all webhooks are delivered", 60)


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
        await_delivered(ledger, webhook_id, EXPECTED)
        assert worker.stop(STOP_SECONDS_MAX) == 0
    assert receiver.list_types() == EXPECTED
    assert receiver.refused == 0
    (posted,) = {one.message_id for one in receiver.came if one.type == "ledgerline.ledger.posted"}
    assert max(Counter(one.message_id for one in receiver.came).values()) <= 2, f"{posted} comes at most twice"
    assert (ledger.count_postings(), ledger.read_balance(1)) == (1, 500)


def test_an_ordered_stop_stores_what_came_and_tells_nobody_twice(ledger: Ledger, receiver: Receiver) -> None:
    """The receiver holds an answer back during the stop: the attempt counts as failed, and is made again."""
    webhook_id = ledger.add_webhook(receiver)
    receiver.is_open.clear()
    with ledger.start_worker() as worker:
        worker.wait_until_ready()
        schedule_id = ledger.add_schedule(2)
        ledger.await_posted(schedule_id)
        eventually(lambda: receiver.list_types() == EXPECTED, "the receiver holds all of them")
        assert worker.stop(STOP_SECONDS_MAX) == 0
        assert not worker.events("ended with work under way"), worker.log()
    receiver.is_open.set()
    with ledger.start_worker() as worker:
        await_delivered(ledger, webhook_id, EXPECTED)
        assert worker.stop(STOP_SECONDS_MAX) == 0
    assert set(Counter(one.message_id for one in receiver.came).values()) == {2}
    assert (ledger.count_postings(), ledger.read_balance(2)) == (1, 500)


def test_two_workers_with_other_parts_do_the_same_work(ledger: Ledger, receiver: Receiver) -> None:
    webhook_id = ledger.add_webhook(receiver)
    with (
        ledger.start_worker(LEDGERLINE_WORKER_PARTS="clock, intents") as first,
        ledger.start_worker(LEDGERLINE_WORKER_PARTS="outbox,calls,reactions,outcomes,webhooks") as second,
    ):
        first.wait_until_ready()
        second.wait_until_ready()
        schedule_id = ledger.add_schedule(3)
        ledger.await_posted(schedule_id)
        await_delivered(ledger, webhook_id, EXPECTED)
        done = ("ledgerline_clock_done_total", "ledgerline_worker_intents_sent_total", "ledgerline_outside_calls_total")
        assert [first.metric(name) for name in done] == [1, 1, 0]
        assert [second.metric(name) for name in done] == [0, 0, EXPECTED.total()]
        assert (first.stop(STOP_SECONDS_MAX), second.stop(STOP_SECONDS_MAX)) == (0, 0)
    assert (ledger.count_postings(), ledger.read_balance(3)) == (1, 500)


def test_two_whole_workers_share_the_work(ledger: Ledger, receiver: Receiver) -> None:
    """Parts that one worker runs at a time move to the second one as soon as the first is killed."""
    webhook_id = ledger.add_webhook(receiver)
    with ledger.start_worker() as first, ledger.start_worker() as second:
        first.wait_until_ready()
        second.wait_until_ready()
        assert first.metric("ledgerline_worker_standby") + second.metric("ledgerline_worker_standby") == 1
        schedules = [ledger.add_schedule(4) for _ in range(3)]
        ledger.await_posted(*schedules)
        first.kill()
        schedules += [ledger.add_schedule(4) for _ in range(3)]
        ledger.await_posted(*schedules)
        ledger.end_leases()
        await_delivered(ledger, webhook_id, Counter({name: 6 * number for name, number in EXPECTED.items()}))
        assert second.stop(STOP_SECONDS_MAX) == 0
    assert (ledger.count_postings(), ledger.read_balance(4)) == (6, 3000)


def test_a_worker_takes_over_from_a_frozen_one(ledger: Ledger) -> None:
    """The frozen worker sends, relays events and has its partitions. Its host keeps its connections open."""
    with ledger.start_worker() as first:
        first.wait_until_ready()
        ledger.await_posted(ledger.add_schedule(5))
        with ledger.start_worker() as second:
            second.wait_until_ready()
            first.process.send_signal(signal.SIGSTOP)
            schedules = [ledger.add_schedule(5) for _ in range(3)]
            ledger.await_posted(*schedules)
            first.process.send_signal(signal.SIGCONT)
            schedules += [ledger.add_schedule(5) for _ in range(3)]
            ledger.await_posted(*schedules)
            assert second.stop(STOP_SECONDS_MAX) == 0
            assert first.stop(STOP_SECONDS_MAX) == 0
    assert (ledger.count_postings(), ledger.read_balance(5)) == (7, 3500)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_killed_at_random_under_a_flow_of_schedules_each_is_posted_once(
    ledger: Ledger, receiver: Receiver, kills: int
) -> None:
    """Each schedule has its own wallet, so that a second posting would show in its balance too."""
    random = Random(kills)
    webhook_id = ledger.add_webhook(receiver)
    total = 10 * kills
    schedules = [ledger.add_schedule(100 + n, seconds=random.uniform(0, 4 * kills)) for n in range(total)]
    for _ in range(kills):
        with ledger.start_worker() as worker:
            # Not a condition: the moment of the kill is what the test draws.
            threading.Event().wait(random.uniform(1, 7))
            worker.kill()
    with ledger.start_worker() as worker:
        worker.wait_until_ready()
        ledger.end_leases()
        ledger.await_posted(*schedules)
        await_delivered(ledger, webhook_id, Counter({name: total * number for name, number in EXPECTED.items()}))
        assert worker.stop(STOP_SECONDS_MAX) == 0
    assert ledger.count_postings() == total
    assert {ledger.read_balance(100 + n) for n in range(total)} == {500}
    posted = {one.body["data"]["intent_id"] for one in receiver.came if one.type == "ledgerline.ledger.posted"}
    assert len(posted) == total
    assert receiver.refused == 0


@pytest.mark.timeout(400)
def test_killed_at_each_fault_point_each_occurrence_is_posted_once(ledger: Ledger, receiver: Receiver) -> None:
    webhook_id = ledger.add_webhook(receiver)
    schedules = []
    for user, point in enumerate(FAULT_POINTS["worker"], 10):
        schedules.append(ledger.add_schedule(user))
        with ledger.start_worker_to_die(point) as worker:
            assert worker.ended() == -signal.SIGKILL, (point, worker.log())
    with ledger.start_worker() as worker:
        worker.wait_until_ready()
        ledger.end_leases()
        ledger.await_posted(*schedules)
        total = len(schedules)
        await_delivered(ledger, webhook_id, Counter({name: total * number for name, number in EXPECTED.items()}))
        assert worker.stop(STOP_SECONDS_MAX) == 0
    assert ledger.count_postings() == total
    assert {ledger.read_balance(10 + n) for n in range(total)} == {500}


def test_an_unknown_part_is_refused_in_one_sentence(settings: Settings, tmp_path: Path) -> None:
    with ServiceProcess("worker", settings, tmp_path, LEDGERLINE_WORKER_PARTS="clock,clocks") as worker:
        assert worker.ended() == 1
    last = worker.log().strip().splitlines()[-1]
    assert "LEDGERLINE_WORKER_PARTS names clocks: choose from outbox, intents, clock, calls" in last
    assert "Traceback" not in worker.log()
