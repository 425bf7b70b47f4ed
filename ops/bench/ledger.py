"""A ledger of the bench's own: a database and topics under a fresh name, and the services as real processes."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psutil
import psycopg
from confluent_kafka import Producer
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.books import add_tenant
from db.connections import connect
from db.migrate import migrate
from domain.intents import intent_id_of
from domain.topics import Topics
from ops.embedded.stack import Endpoints
from producers.deploy import Replication, make_topics, register_schemas
from producers.encoding import encoder, registered_id, registry_client

TENANT: Final = "bench"
LANES: Final = 4
WAIT_SECONDS_MAX: Final = 300.0
ACCEPTED_TIME: Final = 1_790_000_000_000_000

Pair = tuple[str, str]
"""The debited and the credited account of one transfer."""


@dataclass
class BenchLedger:
    """One ledger, empty at first. `send` fills the topic, `wait_posted` waits for the journal."""

    endpoints: Endpoints
    name: str = field(default_factory=lambda: f"bench_{uuid.uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        self.dsn = make_conninfo(self.endpoints.postgres_dsn, dbname=self.name)
        self.topics = Topics(f"{self.name}.")
        migrate(self.dsn)
        with connect(self.dsn, "ledgerline_operator") as connection:
            add_tenant(connection, TENANT)
        make_topics(self.endpoints.kafka_bootstrap, self.topics, LANES, Replication())
        register_schemas(self.endpoints.registry_url)
        with registry_client(self.endpoints.registry_url) as registry:
            schema_id = registered_id(registry, "payments.intents-value")
        self._encode = encoder("payments.intents-value", schema_id)
        self._producer = Producer(
            {
                "bootstrap.servers": self.endpoints.kafka_bootstrap,
                "enable.idempotence": True,
                "linger.ms": 20,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        self.sent = 0

    def send(self, pairs: Iterator[Pair], count: int) -> None:
        """Put `count` transfers of 1 EUR on the topic, evenly over the lanes, and wait until Kafka has them."""
        for _ in range(count):
            debited, credited = next(pairs)
            key = f"bench-{self.sent}"
            record: dict[str, Any] = {
                "intent_id": str(intent_id_of(TENANT, key)),
                "tenant": TENANT,
                "idempotency_key": key,
                "type": "transfer",
                "legs": [
                    {"account": debited, "direction": "debit", "amount_minor": 100, "currency": "EUR"},
                    {"account": credited, "direction": "credit", "amount_minor": 100, "currency": "EUR"},
                ],
                "reverses": None,
                "value_time": None,
                "reference": None,
                "metadata": {},
                "accepted_time": ACCEPTED_TIME,
            }
            self._producer.produce(self.topics.intents, self._encode(record), partition=self.sent % LANES)
            self.sent += 1
            if self.sent % 1000 == 0:
                self._producer.poll(0)
        if self._producer.flush(WAIT_SECONDS_MAX):
            raise TimeoutError("Kafka did not take the bench's intents in time")

    def posted(self, connection: psycopg.Connection[Any]) -> int:
        """How many offsets have their journal row."""
        row = connection.execute("SELECT coalesce(sum(next_seq), 0)::bigint FROM ledger.lane").fetchone()
        return int(row[0]) if row else 0

    def wait_posted(self, watch: Callable[[], None] = lambda: None) -> float:
        """Wait until all that was sent is posted; returns the seconds that it took."""
        started = time.monotonic()
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while self.posted(connection) < self.sent:
                if time.monotonic() > started + WAIT_SECONDS_MAX:
                    raise TimeoutError("the bench's intents were not posted in time: see the worker's log above")
                watch()
                time.sleep(0.01)  # between two looks at a condition, so that the looking costs the worker little
        return time.monotonic() - started

    @contextmanager
    def service(self, name: str, **variables: str) -> Iterator[psutil.Process]:
        """A service of this ledger as a process of its own, stopped at the end; its log goes to our standard error."""
        environment = os.environ | {
            "LEDGERLINE_KAFKA_BOOTSTRAP": self.endpoints.kafka_bootstrap,
            "LEDGERLINE_POSTGRES_DSN": self.dsn,
            "LEDGERLINE_REGISTRY_URL": self.endpoints.registry_url,
            "LEDGERLINE_TOPIC_PREFIX": self.topics.prefix,
            "LEDGERLINE_LANES": str(LANES),
            "LEDGERLINE_LOG_LEVEL": "WARNING",
            **variables,
        }
        with subprocess.Popen([sys.executable, "-m", "ops.cli", "service", name], env=environment) as process:
            try:
                yield psutil.Process(process.pid)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(30)

    def drop(self) -> None:
        """Remove the database."""
        drop_database(self.dsn)


def drop_database(dsn: str) -> None:
    """Remove a database, where there is one."""
    name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
    with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
