"""Real parts for every test: one Kafka, Postgres and registry for the session; a database and topics for each test.

LEDGERLINE_KAFKA_BOOTSTRAP, LEDGERLINE_POSTGRES_DSN and LEDGERLINE_REGISTRY_URL name running parts; what is not
named is started, embedded, and stopped at the end.
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

import psycopg
import pytest
import structlog
from confluent_kafka.admin import AdminClient
from psycopg import sql
from psycopg.conninfo import make_conninfo
from xdist.scheduler.loadfile import LoadFileScheduling

from db.books import add_tenant
from db.connections import connect
from db.migrate import migrate
from domain.topics import Topics
from ops.embedded.stack import EmbeddedStack, Endpoints
from producers.deploy import Replication, make_topics, register_schemas
from runtime.settings import REPOSITORY_ROOT, Settings

LANES = 2

# Plain lines: structlog's default draws each traceback with all its locals, which takes longer than most tests.
structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
TEMPLATE = "ledgerline_template"


# Whose tests share a running ledger: one process has them all.
ONE_PROCESS = ("tests/console/", "tests/observability/")
# What takes minutes for a few tests: first, so that no process is left alone with it at the end.
LONG = ("tests/observability/", "tests/upgrade/", "tests/console/", "tests/documentation/", "tests/acceptance/")


class _ByStack(LoadFileScheduling):  # type: ignore[misc]
    """A file's tests go to one process, and so do all those of a folder that share what is long in starting."""

    def _split_scope(self, nodeid: str) -> str:
        folder = next((folder for folder in ONE_PROCESS if nodeid.startswith(folder)), None)
        return folder or str(super()._split_scope(nodeid))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long; what is of one file stays together."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByStack:
    """Where tests run in several processes, by pytest-xdist."""
    return _ByStack(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C through to child processes, and keep this session's files apart from other sessions'.

    pytest's shared folder is closed to other users by each session that begins, Postgres' own user among them.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell starts what it puts in the background; the processes under test must be open to Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.basetemp is None:
        config.option.basetemp = tempfile.mkdtemp(prefix="ledgerline-tests-")
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    """The three parts, with the schemas registered."""
    cache = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
    parts = EmbeddedStack(
        tmp_path_factory.mktemp("stack"),
        cache=cache,
        kafka=os.environ.get("LEDGERLINE_KAFKA_BOOTSTRAP"),
        postgres=os.environ.get("LEDGERLINE_POSTGRES_DSN"),
        registry=os.environ.get("LEDGERLINE_REGISTRY_URL"),
    )
    with parts:
        endpoints = parts.start()
        register_schemas(endpoints.registry)
        yield endpoints
        gc.collect()  # clients that lie about in cycles would complain of the broker's end behind pytest's summary


@pytest.fixture(scope="session")
def template(stack: Endpoints) -> Iterator[str]:
    """The name of a migrated database, with tenant `default` and the default chart, that tests clone."""
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
    """The DSN of a fresh database; dropped at the end, whoever is still connected."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(make_conninfo(stack.postgres_dsn, dbname="postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        yield make_conninfo(stack.postgres_dsn, dbname=name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def fresh_topics(stack: Endpoints) -> Iterator[Topics]:
    """Fresh topics under a prefix of their own; deleted at the end."""
    fresh = Topics(f"t{uuid.uuid4().hex[:10]}.")
    made = make_topics(stack.kafka, fresh, LANES, Replication())
    yield fresh
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    for deletion in admin.delete_topics(made).values():
        deletion.result(30)


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
    """Settings wired to the test's own database and topics."""
    return settings_for(stack, database, topics, tmp_path)


def settings_for(stack: Endpoints, database: str, topics: Topics, home: Path) -> Settings:
    """Settings wired to this database and these topics."""
    return Settings(
        home=home,
        kafka_bootstrap=stack.kafka_bootstrap,
        postgres_dsn=database,
        registry_url=stack.registry_url,
        topic_prefix=topics.prefix,
        lanes=LANES,
        api_port=0,
    )
