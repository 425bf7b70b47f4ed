"""A ledger for the bench: a database and topics with a new name, and the services as real processes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg
from confluent_kafka import KafkaError, KafkaException, Producer
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.books import add_tenant
from db.connections import connect
from db.migrate import migrate
from domain.errors import LedgerlineError
from domain.intents import compute_intent_id
from domain.topics import Topics
from ops.embedded.process import wait_until
from ops.embedded.stack import Endpoints
from producers.deploy import Replication, make_topic_configs, make_topics, register_schemas
from producers.encoding import make_encoder
from runtime.kafka_positions import REQUEST_SECONDS_MAX, make_admin_client, read_topic_state
from runtime.key_files import make_key
from runtime.key_names import POSTING_KEY_FILE, get_public_file
from runtime.schemas import find_registered_id, make_registry_client
from tools.bench.loads import Load
from tools.bench.processor_time import ProcessorTime

TENANT: Final = "bench"
LANES: Final = 4
WAIT_SECONDS_MAX: Final = 300.0
STOP_SECONDS_MAX: Final = 30.0
# The standard output of a service must not mix with the table that the bench writes to its own standard output.
STANDARD_ERROR: Final = 2
# Errors of a broker that has no worker in the group yet, or that is still starting or too busy to answer.
NO_GROUP_YET: Final = (
    KafkaError.GROUP_ID_NOT_FOUND,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError._TIMED_OUT,
)
ACCEPTED_TIME: Final = 1_790_000_000_000_000


class BenchFault(LedgerlineError):
    """The run did not do the work to be measured, or not in time, so there is no figure."""


@dataclass
class BenchLedger:
    """One ledger, empty at first. `send` fills the topic, `wait_posted` waits for the journal."""

    endpoints: Endpoints
    lanes: int = LANES
    name: str = field(default_factory=lambda: f"bench_{uuid.uuid4().hex[:8]}")
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables of its services, in addition to those that name the ledger."""

    def __post_init__(self) -> None:
        self.dsn = make_conninfo(self.endpoints.postgres_dsn, dbname=self.name)
        self.topics = Topics(f"{self.name}.")
        migrate(self.dsn)
        with connect(self.dsn, "ledgerline_operator") as connection:
            add_tenant(connection, TENANT)
        make_topics(self.endpoints.kafka, self.topics, self.lanes, Replication())
        register_schemas(self.endpoints.registry)
        with make_registry_client(self.endpoints.registry) as client:
            schema_id = find_registered_id(client, "payments.intents-value")
        self._encode = make_encoder("payments.intents-value", schema_id)
        self._producer = Producer(
            {
                **self.endpoints.kafka.make_client_options(),
                "enable.idempotence": True,
                "linger.ms": 20,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        self._admin = make_admin_client(self.endpoints.kafka)
        self.processor_time = ProcessorTime(self.endpoints, self.dsn)
        self.sent = 0

    def send(self, load: Load, count: int) -> None:
        """Send `count` transfers to the topic, and wait until Kafka has them. Raise BenchFault if it takes too long."""
        for _ in range(count):
            debited, credited = next(load.pairs)
            idempotency_key = f"bench-{self.sent}"
            record: dict[str, Any] = {
                "intent_id": str(compute_intent_id(TENANT, idempotency_key)),
                "tenant": TENANT,
                "idempotency_key": idempotency_key,
                "type": "transfer",
                "legs": [
                    {"account": debited, "direction": "debit", "amount_minor": load.amount_minor, "currency": "EUR"},
                    {"account": credited, "direction": "credit", "amount_minor": load.amount_minor, "currency": "EUR"},
                ],
                "reverses": None,
                "value_time": None,
                "reference": None,
                "metadata": {},
                "accepted_time": ACCEPTED_TIME,
            }
            value = self._encode(record)
            if load.is_keyed:
                self._producer.produce(self.topics.intents, value, f"{TENANT}/{debited}")
            else:
                self._producer.produce(self.topics.intents, value, partition=self.sent % self.lanes)
            self.sent += 1
            if self.sent % 1000 == 0:
                self._producer.poll(0)
        if self._producer.flush(WAIT_SECONDS_MAX):
            raise BenchFault("Kafka did not take the bench's intents in time: see its log.")

    def next_seqs(self) -> dict[int, int]:
        """Return the number of journal rows of each lane."""
        with psycopg.connect(self.dsn) as connection:
            return dict(connection.execute("SELECT lane, next_seq FROM ledger.lane").fetchall())

    def outcomes(self, since: Mapping[int, int]) -> dict[str, int]:
        """Return the number of journal rows of each outcome, from these sequence numbers of the lanes on."""
        rows: dict[str, int] = {}
        with psycopg.connect(self.dsn) as connection:
            for lane in self.next_seqs():
                found = connection.execute(
                    "SELECT outcome, count(*) FROM ledger.journal WHERE lane = %s AND seq >= %s GROUP BY outcome",
                    (lane, since.get(lane, 0)),
                )
                for outcome, count in found:
                    rows[outcome] = rows.get(outcome, 0) + count
        return rows

    def on_topic(self) -> int:
        """Return the number of intents in Kafka."""
        return sum(read_topic_state(self._admin, self.topics.intents).high.values())

    def posted(self, connection: psycopg.Connection[Any]) -> int:
        """Return how many offsets have a journal row."""
        row = connection.execute("SELECT coalesce(sum(next_seq), 0)::bigint FROM ledger.lane").fetchone()
        return int(row[0]) if row else 0

    def wait_posted(self, watch: Callable[[], None] = lambda: None) -> float:
        """Wait until all sent intents are posted. Return the seconds, or raise BenchFault if it takes too long."""
        started = time.monotonic()
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while self.posted(connection) < self.sent:
                if time.monotonic() > started + WAIT_SECONDS_MAX:
                    raise BenchFault("The bench's intents were not posted in time: see the worker's log above.")
                watch()
                time.sleep(0.01)  # so that polling takes little processor time from the worker
        return time.monotonic() - started

    @contextmanager
    def service(self, name: str, *, called: str | None = None, **variables: str) -> Iterator[psutil.Process]:
        """Run a service of this ledger as a process, and stop it at the end. Its log goes to our standard error.

        Its processor time counts under the name `called`, or under the service's name if `called` is not given.
        """
        environment = os.environ | {
            "LEDGERLINE_KAFKA_BOOTSTRAP": self.endpoints.kafka_bootstrap,
            "LEDGERLINE_POSTGRES_DSN": self.dsn,
            "LEDGERLINE_REGISTRY_URL": self.endpoints.registry_url,
            "LEDGERLINE_TOPIC_PREFIX": self.topics.prefix,
            "LEDGERLINE_LANES": str(self.lanes),
            "LEDGERLINE_LOG_LEVEL": "WARNING",
            **self.variables,
            **variables,
        }
        command = [sys.executable, "-m", "cli", "service", name]
        with subprocess.Popen(command, env=environment, stdout=STANDARD_ERROR) as process:
            started = psutil.Process(process.pid)
            self.processor_time.watch(called or name, started)
            try:
                yield started
            finally:
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGCONT)  # a suspended process does not handle SIGTERM
                process.wait(STOP_SECONDS_MAX)

    @contextmanager
    def workers(self, count: int = 1, **variables: str) -> Iterator[list[psutil.Process]]:
        """Run so many posting workers, each with its share of the lanes."""
        with ExitStack() as running:
            started = [
                running.enter_context(self.service("posting", called=f"worker {number}", **variables))
                for number in range(1, count + 1)
            ]
            if not wait_until(lambda: self._members() == count, timeout_seconds=WAIT_SECONDS_MAX):
                raise BenchFault(f"Not all of {count} workers took lanes in time: see their logs above.")
            yield started

    def _members(self) -> int:
        """Return how many workers have lanes."""
        group = self.topics.group("posting")
        asked = self._admin.describe_consumer_groups([group], request_timeout=REQUEST_SECONDS_MAX)
        try:
            members = asked[group].result(REQUEST_SECONDS_MAX).members
        except KafkaException as error:
            if error.args[0].code() in NO_GROUP_YET:
                return 0
            raise
        return sum(bool(member.assignment and member.assignment.topic_partitions) for member in members)

    def drop(self) -> None:
        """Remove the database and the topics."""
        drop_database(self.dsn)
        for deletion in self._admin.delete_topics(list(make_topic_configs(self.topics))).values():
            deletion.result(WAIT_SECONDS_MAX)


@contextmanager
def bench_ledger(endpoints: Endpoints, lanes: int = LANES) -> Iterator[BenchLedger]:
    """Create a ledger, and always remove it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        key_file = Path(folder) / POSTING_KEY_FILE
        make_key(key_file)
        ledger = BenchLedger(endpoints, lanes)
        ledger.variables |= {
            "LEDGERLINE_POSTING_KEY_FILE": str(key_file),
            "LEDGERLINE_POSTING_PUBLIC_KEYS_FILE": str(get_public_file(key_file)),
        }
        try:
            yield ledger
        finally:
            ledger.drop()


def drop_database(dsn: str) -> None:
    """Remove a database if it exists."""
    name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
    with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
