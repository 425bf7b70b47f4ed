"""Real parts for every test: one Kafka, Postgres and registry for the session; a database and topics for each test.

LEDGERLINE_KAFKA_BOOTSTRAP, LEDGERLINE_POSTGRES_DSN and LEDGERLINE_REGISTRY_URL name running parts. The session starts
an embedded part for each variable that is not set, and stops it at the end.
"""

import gc
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest
import structlog
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from psycopg import sql
from psycopg.conninfo import make_conninfo
from xdist.scheduler.loadfile import LoadFileScheduling

from db.books import add_tenant
from db.connections import connect
from db.migrate import migrate
from domain.topics import Topics
from ops.embedded.process import wait_until
from ops.embedded.stack import EmbeddedStack, Endpoints
from producers.deploy import Replication, compute_partition_counts, make_topics, register_schemas
from runtime.settings import REPOSITORY_ROOT, Settings

LANES = 2
# The time of one example says more about the machine's other work than about our code.
hypothesis.settings.register_profile("ledgerline", deadline=None)
hypothesis.settings.load_profile("ledgerline")

# Plain log lines: structlog's default prints each traceback with all its locals, which takes longer than most tests.
structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
TEMPLATE = "ledgerline_template"


# The tests of each of these folders share a running ledger, so one process runs all tests of the folder.
ONE_PROCESS = ("tests/console/", "tests/observability/")
# A few tests that take minutes. They run first, so that no process is left alone with them at the end.
LONG = ("tests/observability/", "tests/upgrade/", "tests/console/", "tests/documentation/", "tests/acceptance/")


class _ByStack(LoadFileScheduling):  # type: ignore[misc]
    """Gives all tests of a file to one process, and all tests of a folder that shares a slow start."""

    def _split_scope(self, nodeid: str) -> str:
        folder = next((folder for folder in ONE_PROCESS if nodeid.startswith(folder)), None)
        return folder or str(super()._split_scope(nodeid))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slow folders first; the tests of one file stay together."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByStack:
    """Return the scheduler for runs in several processes with pytest-xdist."""
    return _ByStack(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C reach child processes, and keep this session's files apart from other sessions' files.

    Each new session closes pytest's shared folder to other users, and the user of Postgres is one of them.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts background jobs with SIGINT ignored. The processes under test must accept Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.basetemp is None:
        config.option.basetemp = tempfile.mkdtemp(prefix="ledgerline-tests-")
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    """The three servers, with the schemas registered."""
    cache = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
    parts = EmbeddedStack(
        tmp_path_factory.mktemp("stack"),
        cache=cache,
        kafka=os.environ.get("LEDGERLINE_KAFKA_BOOTSTRAP"),
        postgres=os.environ.get("LEDGERLINE_POSTGRES_DSN"),
        registry=os.environ.get("LEDGERLINE_REGISTRY_URL"),
        # Tests kill servers but not the machine. With these on, a database of a test waits for the disk for 0.3 s.
        postgres_settings={"fsync": "off", "full_page_writes": "off"},
    )
    with parts:
        endpoints = parts.start()
        register_schemas(endpoints.registry)
        yield endpoints
        gc.collect()  # clients in reference cycles would report the broker's end after pytest's summary


@pytest.fixture(scope="session")
def template(stack: Endpoints) -> Iterator[str]:
    """The name of a migrated database that tests clone. It has tenant `default` and the default chart."""
    name = f"{TEMPLATE}_{uuid.uuid4().hex[:8]}"
    dsn = make_conninfo(stack.postgres_dsn, dbname=name)
    migrate(dsn)
    with connect(dsn, "ledgerline_operator") as connection:
        add_tenant(connection, "default")
    yield name
    with psycopg.connect(make_conninfo(stack.postgres_dsn, dbname="postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def fresh_database(stack: Endpoints, template: str) -> Iterator[str]:
    """Yield the DSN of a fresh database; drop the database at the end, even if someone is still connected."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(make_conninfo(stack.postgres_dsn, dbname="postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        yield make_conninfo(stack.postgres_dsn, dbname=name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def fresh_topics(stack: Endpoints) -> Iterator[Topics]:
    """Yield fresh topics under their own prefix; delete them at the end."""
    fresh = Topics(f"t{uuid.uuid4().hex[:10]}.")
    made = make_topics(stack.kafka, fresh, LANES, Replication())
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    partitions = [
        TopicPartition(name, n) for name, count in compute_partition_counts(fresh, LANES).items() for n in range(count)
    ]
    assert wait_until(lambda: not find_leaderless(admin, partitions), timeout_seconds=30), find_leaderless(
        admin, partitions
    )
    yield fresh
    for deletion in admin.delete_topics(made).values():
        deletion.result(30)


def find_leaderless(admin: AdminClient, partitions: list[TopicPartition]) -> list[str]:
    """Return why partitions have no leader yet; the broker lists a new topic shortly before it leads its partitions."""
    answers = admin.list_offsets({partition: OffsetSpec.latest() for partition in partitions}, request_timeout=10)
    errors = [(partition, answer.exception(10)) for partition, answer in answers.items()]
    return [f"{partition.topic} {partition.partition}: {error}" for partition, error in errors if error is not None]


@pytest.fixture
def database(stack: Endpoints, template: str) -> Iterator[str]:
    """The test's own database."""
    with fresh_database(stack, template) as dsn:
        yield dsn


@pytest.fixture
def topics(stack: Endpoints) -> Iterator[Topics]:
    """The test's own topics."""
    with fresh_topics(stack) as fresh:
        yield fresh


@pytest.fixture
def settings(stack: Endpoints, database: str, topics: Topics, tmp_path: Path) -> Settings:
    """Settings that point to the test's own database and topics."""
    return settings_for(stack, database, topics, tmp_path)


def settings_for(stack: Endpoints, database: str, topics: Topics, home: Path) -> Settings:
    """Return settings that point to this database and these topics."""
    return Settings(
        home=home,
        kafka_bootstrap=stack.kafka_bootstrap,
        postgres_dsn=database,
        registry_url=stack.registry_url,
        topic_prefix=topics.prefix,
        lanes=LANES,
        api_port=0,
    )
