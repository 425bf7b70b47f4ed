"""For each alert, a test causes its fault in a running ledger, sees it fire in a real Prometheus, and sees it end.

Faults that do not hide one another are caused at the same time. The rules are those of ops/prometheus with shorter
times.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from typing import Any, Final

import httpx
import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from db.access import Scope, add_key
from db.books import add_tenant
from db.connections import connect
from ops.embedded.process import wait_until
from ops.observing.ledger_targets import targets_of
from tests.observability.conftest import Observed
from tests.observability.watched import PATIENCE_SECONDS, Load, Watched, frozen
from tests.unit.test_alerts import ALERTS

pytestmark = pytest.mark.timeout(600)

BOOKS: Final = (
    "LedgerlineBreakOpen",
    "LedgerlineBooksNotSymmetric",
    "LedgerlineChainBroken",
    "LedgerlineConservationGap",
    "LedgerlineQuarantineRising",
)
OVERDUE: Final = ("LedgerlineBreakOverdue",)
FROZEN_WORKER: Final = (
    "LedgerlineIntentsLateBurn1h",
    "LedgerlineIntentsLateBurn6h",
    "LedgerlineIntentsLateBurn1d",
    "LedgerlineIntentsLateBurn3d",
    "LedgerlineLaneStuck",
    "LedgerlineServiceDown",
)
BLIND: Final = (
    "LedgerlineExporterAbsent",
    "LedgerlineExporterDown",
    "LedgerlineMetricsAbsent",
    "LedgerlineRulesFail",
)
HELD_UP: Final = (
    "LedgerlineApiSlow",
    "LedgerlinePoolExhausted",
    "LedgerlinePostgresConnectionsNearLimit",
    "LedgerlineRelayStuck",
)
PROVERS: Final = ("LedgerlineCheckpointLate", "LedgerlineProverBehind")
RESTARTING: Final = ("LedgerlineServiceRestarting",)
CAPABILITIES: Final = (
    "LedgerlineClearingOverdue",
    "LedgerlineWebhooksDisabled",
    "LedgerlineWebhooksWaiting",
    "LedgerlineWorkParked",
)
WORKER: Final = (
    "LedgerlineClockLate",
    "LedgerlineHandedOverStuck",
    "LedgerlineOutboxStuck",
    "LedgerlineWorkerBehind",
)
PARTS: Final = ("LedgerlineApiErrors", "LedgerlineKafkaDown", "LedgerlinePostgresDown")
NOT_PROVOKED: Final = {
    "LedgerlineDiskFillsSoon": "It takes a disk of its own, which only root can mount, and hours: promtool tests it.",
    "LedgerlineDiskNearlyFull": "It takes a disk of its own, which only root can mount: promtool tests it.",
    "LedgerlineKafkaBelowMinIsr": "One broker cannot lack another's copy: promtool tests it.",
    "LedgerlineKafkaPartitionsOffline": "One broker has a leader for each partition, or is down: promtool tests it.",
    "LedgerlineKafkaUnderReplicated": "One broker cannot lack another's copy: promtool tests it.",
}


def test_each_alert_is_provoked_or_it_is_said_why_not() -> None:
    provoked = {
        *BOOKS,
        *OVERDUE,
        *FROZEN_WORKER,
        *BLIND,
        *HELD_UP,
        *PROVERS,
        *RESTARTING,
        *PARTS,
        *CAPABILITIES,
        *WORKER,
    }
    assert provoked | NOT_PROVOKED.keys() == ALERTS.keys()
    assert not provoked & NOT_PROVOKED.keys()


@pytest.fixture(scope="module")
def watched(observed: Observed) -> Iterator[Watched]:
    """The ledger of this folder under load."""
    assert observed.state.endpoints is not None
    assert observed.state.api_url is not None
    with connect(observed.state.endpoints.postgres_dsn, "ledgerline_operator", autocommit=True) as connection:
        _, key = add_key(connection, "default", "load", list(Scope))
    load = Load(observed.state.api_url, key)
    thread = threading.Thread(target=load.run, name="load")
    thread.start()
    try:
        yield Watched(observed.state, observed.observatory, load)
    finally:
        load.stop()
        thread.join()


@pytest.mark.long
def test_nothing_fires_while_all_is_well(watched: Watched) -> None:
    watched.until_green()
    watched.until_posting()
    watched.observatory.wait_until_watching()
    assert httpx.get(watched.prometheus.alerts_page).status_code == 200
    on_time = "ledgerline_intents_late:ratio5m < 0.001"
    assert wait_until(lambda: bool(watched.prometheus.query(on_time)), timeout_seconds=PATIENCE_SECONDS)


# ------------------------------------------------------------------------------------------------------- the books

# Each statement is undone by itself with the opposite sign, so amounts that are posted in between stay.
RECORD: Final = "UPDATE ledger.entry SET amount_minor = amount_minor + ({0}) WHERE lane = {1} AND seq = {2}"
BALANCE: Final = "UPDATE ledger.balance SET credits_minor = credits_minor + ({0}) WHERE lane = {1} AND account_id = {2}"
TOTAL: Final = (
    "UPDATE reconciliation.total SET debits_minor = debits_minor + ({0})"
    " WHERE lane = {1} AND account_class = (SELECT min(account_class) FROM reconciliation.total)"
)
FATE: Final = "UPDATE reconciliation.lane SET posted = posted + ({0}) WHERE lane = {1}"
OLDER: Final = "UPDATE reconciliation.break SET opened_time = opened_time - 3600000000 WHERE state = 'open'"


@pytest.mark.long
def test_books_that_were_altered(watched: Watched) -> None:
    watched.until_green()
    with psycopg.connect(watched.dsn) as connection:
        found = connection.execute("SELECT lane, min(seq) FROM ledger.entry GROUP BY lane ORDER BY lane").fetchone()
        assert found is not None
        lane, seq = found
        accounts = connection.execute("SELECT min(account_id) FROM ledger.balance WHERE lane = %s", [lane]).fetchone()
        assert accounts is not None
    places = ((RECORD, seq), (BALANCE, accounts[0]), (TOTAL, None), (FATE, None))
    watched.execute(*(change.format(5, lane, where) for change, where in places), past_triggers=True)
    producer = Producer({"bootstrap.servers": watched.bootstrap})
    producer.produce("payments.intents", b"this is no intent")
    assert producer.flush(30) == 0
    watched.until_firing(*BOOKS)
    watched.execute(OLDER)
    watched.until_firing(*OVERDUE)
    watched.execute(*(change.format(-5, lane, where) for change, where in places), past_triggers=True)
    watched.until_green()


# ------------------------------------------------------------------------------- a frozen worker, a blind Prometheus

# Several series of one job on both sides: Prometheus cannot tell which belong together, so the rule fails.
BAD_RULE: Final = """
groups:
  - name: bad
    rules:
      - record: bad
        expr: up{job="ledgerline"} * on (job) up{job="ledgerline"}
"""


@contextmanager
def less_watched(watched: Watched) -> Iterator[None]:
    """Remove the targets of Kafka and the relay, stop the node exporter, and add a rule that cannot be evaluated."""
    server, folder = watched.prometheus, watched.prometheus.configuration_folder
    exporters = watched.observatory.exporters
    targets = {job: (exporter.target,) for job, exporter in exporters.items()}
    fewer = replace(watched.state, parts=(), services=tuple(s for s in watched.state.services if s.name != "relay"))
    (folder / "rules" / "bad.yml").write_text(BAD_RULE)
    server.reload()
    server.scrape({**targets_of(fewer), **targets})
    exporters["node"].stop()
    try:
        yield
    finally:
        (folder / "rules" / "bad.yml").unlink()
        server.reload()
        exporters["node"].start()
        watched.observatory.follow(watched.state)


@pytest.mark.long
def test_a_worker_that_is_frozen_and_a_prometheus_that_is_blind(watched: Watched) -> None:
    watched.until_green()
    with frozen(watched.process("posting")), less_watched(watched):
        watched.until_firing(*FROZEN_WORKER, *BLIND)
    watched.until_posting()
    watched.until_green()


# -------------------------------------------------------------------------------- a relay that is refused, slow reads

# Smaller than any batch with a record in it, and larger than the marker that ends a transaction.
REFUSED_BYTES: Final = "150"
CONNECTIONS: Final = 150
READERS: Final = 60
SLOW_SECONDS: Final = 10.0
READING_TENANTS: Final = ("readers-1", "readers-2", "readers-3")
KEYS_OF_A_READING_TENANT: Final = 2


@contextmanager
def refusing(watched: Watched, topic: str) -> Iterator[None]:
    """Make a topic refuse every message."""
    admin = AdminClient({"bootstrap.servers": watched.bootstrap})

    def alter(operation: AlterConfigOpType) -> None:
        entry = ConfigEntry("max.message.bytes", REFUSED_BYTES, incremental_operation=operation)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        for done in admin.incremental_alter_configs([resource]).values():
            done.result(30)

    alter(AlterConfigOpType.SET)
    try:
        yield
    finally:
        alter(AlterConfigOpType.DELETE)


@contextmanager
def flooded_reads(watched: Watched) -> Iterator[None]:
    """Run many more readers than the API has connections, on a table that is locked for seconds at a time.

    The readers are of several tenants: one alone would only use up its own share.
    """
    over = threading.Event()
    with connect(watched.dsn, "ledgerline_operator", autocommit=True) as connection:
        for tenant in READING_TENANTS:
            add_tenant(connection, tenant)
        keys = [
            add_key(connection, tenant, "reader", list(Scope))[1]
            for tenant in READING_TENANTS
            for _ in range(KEYS_OF_A_READING_TENANT)
        ]

    def read(key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=watched.load.url, headers=headers, timeout=60.0) as client:
            while not over.is_set():
                client.get("/v1/accounts/external:bank/entries")

    def hold() -> None:
        while not over.is_set():
            with watched.locked("LOCK TABLE ledger.entry IN ACCESS EXCLUSIVE MODE"):
                over.wait(3.0)

    with ThreadPoolExecutor(READERS + 1) as pool:
        work = [
            pool.submit(hold),
            *(pool.submit(read, key) for _, key in zip(range(READERS), cycle(keys), strict=False)),
        ]
        try:
            yield
        finally:
            over.set()
            for one in work:
                one.result()


@pytest.mark.long
def test_a_relay_that_is_refused_and_reads_that_wait(watched: Watched) -> None:
    watched.until_green()
    with ExitStack() as stack:
        stack.enter_context(refusing(watched, "ledger.journal"))
        stack.enter_context(flooded_reads(watched))
        for _ in range(CONNECTIONS):
            stack.enter_context(psycopg.connect(watched.dsn, autocommit=True))
        watched.until_firing(*HELD_UP)
    watched.until_green()


# ------------------------------------------------------------------------------------- -------- provers, restarts


@pytest.mark.long
def test_provers_that_are_held_up_and_a_service_that_ends_twice(watched: Watched) -> None:
    watched.until_green()

    def ended_again() -> set[str]:
        watched.kill("relay")
        return watched.firing()

    with (
        watched.locked("LOCK TABLE reconciliation.lane IN SHARE MODE"),
        watched.locked("LOCK TABLE audit.checkpoint IN SHARE MODE"),
    ):
        assert wait_until(lambda: ended_again().issuperset(RESTARTING), timeout_seconds=PATIENCE_SECONDS)
        watched.until_firing(*PROVERS)
    watched.until_green()


# ------------------------------------------------------------------------------------------------- the capabilities

# It breaks the handler that notes the outcome of a schedule's intent.
UNPOSTED: Final = "ALTER TABLE schedules.occurrence ADD CONSTRAINT unposted CHECK (state <> 'posted') NOT VALID"
POSTED: Final = "ALTER TABLE schedules.occurrence DROP CONSTRAINT unposted"
HANDED_OVER: Final = "ledgerline_worker_intents_waiting > 0"


@contextmanager
def endpoints(watched: Watched) -> Iterator[None]:
    """Have two webhooks: one that is gone, and one that answers so slowly that deliveries pile up."""
    is_over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/slow":
                is_over.wait(SLOW_SECONDS)
            self.send_response(410 if self.path == "/gone" else 204)
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with watched.client() as client:
            made = [
                client.post("/v1/webhooks", json={"url": f"https://{name}.example.com/", "filters": ["*"]}).json()
                for name in ("gone", "slow")
            ]
            # The API takes no address of this machine.
            places = [
                (f"http://127.0.0.1:{server.server_port}/{name}", webhook["webhook_id"])
                for name, webhook in zip(("gone", "slow"), made, strict=True)
            ]
            with psycopg.connect(watched.dsn) as connection:
                connection.cursor().executemany(
                    "UPDATE webhooks.endpoint SET url = %s WHERE endpoint_id = %s::uuid", places
                )
            yield
            for webhook in made:
                path = f"/v1/webhooks/{webhook['webhook_id']}"
                if_match = {"If-Match": client.get(path).headers["ETag"]}
                assert client.delete(path, headers=if_match).status_code == 204
    finally:
        is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.long
def test_work_of_capabilities_that_fails(watched: Watched) -> None:
    watched.until_green()
    watched.execute(UNPOSTED)
    try:
        with endpoints(watched):
            watched.schedule()
            watched.move("external:bank", "clearing:courier")
            watched.until_firing(*CAPABILITIES)
    finally:
        watched.execute(POSTED)
    watched.move("clearing:courier", "external:bank")
    watched.until_green()


@pytest.mark.long
def test_a_worker_that_is_held_up(watched: Watched) -> None:
    watched.until_green()
    with refusing(watched, "payments.intents"), refusing(watched, "schedule.events"):
        watched.schedule()
        assert wait_until(lambda: bool(watched.prometheus.query(HANDED_OVER)), timeout_seconds=PATIENCE_SECONDS)
        with (
            watched.locked("LOCK TABLE worker.position IN SHARE MODE"),
            watched.locked("LOCK TABLE schedules.schedule IN EXCLUSIVE MODE"),
        ):
            watched.until_firing(*WORKER)
    watched.until_posting()
    watched.until_green()


# -------------------------------------------------------------------------------------------------------- outages


@pytest.mark.long
def test_parts_that_do_not_answer(watched: Watched) -> None:
    watched.until_green()
    with frozen(watched.part("kafka"), watched.part("postgres")):
        watched.until_firing(*PARTS)
    watched.until_posting()
    watched.until_green()
