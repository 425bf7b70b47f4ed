"""One ledger under test: its own database and topics on the shared parts, and the progress of every step."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from psycopg.conninfo import make_conninfo

from db.access import Scope, add_key
from db.books import add_tenant
from db.connections import connect
from db.migrate import migrate
from domain.errors import Outage
from domain.topics import Topics
from ops.embedded.stack import Endpoints
from producers.deploy import Replication, make_topics, register_schemas
from producers.relay_positions import read_relay_positions
from runtime.kafka_positions import make_admin_client, read_topic_state

TENANT: Final = "default"
LANES: Final = 4
REQUESTS_PER_MINUTE: Final = 1_000_000


Lanes = dict[int, int]
"""Lane -> the next offset or sequence number. The two are equal here, as each ledger's topics are new."""


class Progress(NamedTuple):
    """The progress of each step in each lane."""

    received: Lanes
    posted: Lanes
    reconciled: Lanes
    audited: Lanes

    @property
    def is_quiet(self) -> bool:
        """Whether every step has reached the end of the intents."""
        return self.has_posted(self.received) and self.has_proved(self.received)

    def has_posted(self, aim: Lanes) -> bool:
        """Return whether every lane is posted up to `aim`."""
        return _reach(self.posted, aim)

    def has_proved(self, aim: Lanes) -> bool:
        """Return whether every lane is reconciled and audited up to `aim`, and therefore relayed."""
        return _reach(self.reconciled, aim) and _reach(self.audited, aim)


def _reach(stands: Lanes, aim: Lanes) -> bool:
    return all(stands.get(lane, 0) >= wanted for lane, wanted in aim.items())


@dataclass(frozen=True)
class ChaosLedger:
    """The address and the API key of a ledger; `open` creates one."""

    endpoints: Endpoints
    name: str
    api_key: str

    @classmethod
    def open(cls, endpoints: Endpoints, name: str) -> "ChaosLedger":
        """Create the database, the topics, the tenant and an API key."""
        with psycopg.connect(make_conninfo(endpoints.postgres_dsn, dbname="postgres"), autocommit=True) as admin:
            admin.execute(f'CREATE DATABASE "{name}"')
        dsn = make_conninfo(endpoints.postgres_dsn, dbname=name)
        migrate(dsn)
        with connect(dsn, "ledgerline_operator") as connection:
            add_tenant(connection, TENANT)
            _, key = add_key(connection, TENANT, "chaos", list(Scope), REQUESTS_PER_MINUTE)
        make_topics(endpoints.kafka, Topics(f"{name}."), LANES, Replication())
        register_schemas(endpoints.registry)
        return cls(endpoints, name, key)

    @cached_property
    def _admin(self) -> AdminClient:
        return make_admin_client(self.endpoints.kafka)

    @property
    def dsn(self) -> str:
        """The DSN of the database owner, without a proxy in between."""
        return make_conninfo(self.endpoints.postgres_dsn, dbname=self.name)

    @property
    def topics(self) -> Topics:
        """The topics of this ledger."""
        return Topics(f"{self.name}.")

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a query as the owner of the database and return its rows."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description is not None else []

    def progress(self) -> Progress | None:
        """Return the progress of every step; None while Kafka or Postgres cannot be reached."""
        try:
            received = read_topic_state(self._admin, self.topics.intents)
            stands: dict[str, Lanes] = {"posted": {}, "reconciled": {}, "audited": {}}
            for step, lane, following in self.rows(
                """SELECT 'posted', lane, next_offset FROM ledger.lane
                UNION ALL SELECT 'reconciled', lane, next_seq FROM reconciliation.lane
                UNION ALL SELECT 'audited', lane, next_seq FROM audit.lane"""
            ):
                stands[step][lane] = following
        except (KafkaException, Outage, psycopg.OperationalError):
            return None
        return Progress(received.high, **stands)

    def next_offsets(self) -> dict[int, int]:
        """Return the next offset of each lane."""
        return dict(self.rows("SELECT lane, next_offset FROM ledger.lane"))

    def occurred(self) -> int:
        """Return how many occurrences of schedules count as posted; -1 while Postgres cannot be reached."""
        try:
            ((number,),) = self.rows("SELECT count(*) FROM schedules.occurrence WHERE state = 'posted'")
        except psycopg.OperationalError:
            return -1
        return int(number)

    def is_worker_done(self) -> bool:
        """Return whether no schedule is active, no intent waits, and each event of the outbox is published."""
        try:
            ((left,),) = self.rows(
                """SELECT (SELECT count(*) FROM schedules.schedule WHERE state = 'active')
                + (SELECT count(*) FROM worker.intent)"""
            )
            if left:
                return False
            published = read_relay_positions(self.endpoints.kafka, self.topics.outbox)
            ends = dict(self.rows("SELECT lane, next_seq FROM outbox.lane WHERE next_seq > 0"))
        except (KafkaException, Outage, psycopg.OperationalError):
            return False
        return all(lane in published and published[lane].next_seq >= end for lane, end in ends.items())
