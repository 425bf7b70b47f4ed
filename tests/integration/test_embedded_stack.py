"""The embedded parts are real servers: they answer, keep their data, restart, and end with their owner."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from psycopg import sql

from ops.embedded import EmbeddedError, EmbeddedStack, Endpoints
from ops.embedded.process import ProcessIdentity, wait_until
from runtime.settings import REPOSITORY_ROOT

CACHE = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
PATIENCE_SECONDS = 30.0
TOPIC = "kept"
SUBJECT = "kept-value"
SCHEMA = '{"type":"record","name":"Kept","fields":[{"name":"amount_minor","type":"long"}]}'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def embedded(home: Path) -> Iterator[EmbeddedStack]:
    """Yield a stack of this module's own, because tests kill its parts; its data is written here."""
    stack = EmbeddedStack(home, cache=CACHE)
    with stack as endpoints:
        put_data(endpoints)
        yield stack


def put_data(endpoints: Endpoints) -> None:
    """Write some data to each part."""
    admin = AdminClient({"bootstrap.servers": endpoints.kafka_bootstrap})
    for made in admin.create_topics([NewTopic(TOPIC, num_partitions=1, replication_factor=1)]).values():
        made.result(PATIENCE_SECONDS)
    producer = Producer({"bootstrap.servers": endpoints.kafka_bootstrap, "acks": "all", "enable.idempotence": True})
    for number in range(10):
        producer.produce(TOPIC, str(number).encode())
    assert producer.flush(PATIENCE_SECONDS) == 0
    with psycopg.connect(endpoints.postgres_dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(0, 9) AS number")
    register(endpoints, SUBJECT, SCHEMA)


def register(endpoints: Endpoints, subject: str, schema: str) -> None:
    answer = httpx.post(
        f"{endpoints.registry_url}/subjects/{subject}/versions", json={"schema": schema}, timeout=PATIENCE_SECONDS
    )
    assert answer.status_code == 200, answer.text


def subjects(endpoints: Endpoints) -> list[str]:
    found: list[str] = httpx.get(f"{endpoints.registry_url}/subjects", timeout=PATIENCE_SECONDS).json()
    return found


def messages(endpoints: Endpoints) -> list[bytes]:
    """Read the ten messages through a consumer group, which needs the internal topics as well."""
    consumer = Consumer(
        {
            "bootstrap.servers": endpoints.kafka_bootstrap,
            "group.id": f"reader-{os.urandom(4).hex()}",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([TOPIC])
    try:
        return [message.value() for message in consumer.consume(10, timeout=PATIENCE_SECONDS)]
    finally:
        consumer.close()


def require_data(endpoints: Endpoints) -> None:
    """Check that each part still has the data of `put_data`."""
    assert messages(endpoints) == [str(number).encode() for number in range(10)]
    with psycopg.connect(endpoints.postgres_dsn) as connection:
        assert connection.execute("SELECT sum(number) FROM kept").fetchone() == (45,)
    assert SUBJECT in subjects(endpoints)


def test_the_parts_answer(embedded: EmbeddedStack) -> None:
    endpoints = embedded.start()  # the parts run already, so this returns the same addresses
    assert endpoints.registry_url.endswith("/apis/ccompat/v7")
    require_data(endpoints)


def test_postgres_keeps_what_it_promised(embedded: EmbeddedStack) -> None:
    """The ledger relies on these settings."""
    wanted = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": "200",
        "TimeZone": "UTC",
        "server_encoding": "UTF8",
    }
    with psycopg.connect(embedded.start().postgres_dsn) as connection:
        for name, value in wanted.items():
            shown = connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(name))).fetchone()
            assert (name, shown) == (name, (value,))
        assert connection.info.server_version // 10_000 == 18


def test_postgres_wants_its_password(embedded: EmbeddedStack) -> None:
    endpoints = embedded.start()
    with pytest.raises(psycopg.OperationalError, match=r"no password supplied|password authentication failed"):
        psycopg.connect(f"postgresql://ledgerline@127.0.0.1:{embedded.postgres.port}/ledgerline").close()
    assert (embedded.data / "postgres.password").stat().st_mode & 0o077 == 0
    assert endpoints.postgres_dsn.startswith("postgresql://ledgerline:")


def test_a_topic_that_nobody_made_does_not_appear(embedded: EmbeddedStack) -> None:
    failures: list[str] = []
    producer = Producer({"bootstrap.servers": embedded.start().kafka_bootstrap, "message.timeout.ms": 1500})
    producer.produce("misspelt", b"", on_delivery=lambda error, _message: failures.append(error.name()))
    producer.flush(PATIENCE_SECONDS)
    assert failures
    assert set(failures) <= {"UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_MSG_TIMED_OUT"}


@pytest.mark.parametrize("name", ["kafka", "postgres", "registry"])
def test_a_part_that_is_killed_comes_back_with_its_data(embedded: EmbeddedStack, name: str) -> None:
    endpoints = embedded.start()
    part = embedded.parts[name]
    register(endpoints, f"just-before-{name}", SCHEMA)
    before = part.pid
    part.kill()
    assert not part.is_running()
    assert part.pid is None
    part.start()
    assert part.pid not in (before, None)
    require_data(endpoints)
    assert f"just-before-{name}" in subjects(endpoints)


def test_a_part_that_cannot_start_says_why(embedded: EmbeddedStack) -> None:
    """Each start replaces the settings file, so the test breaks the version file of the data folder instead."""
    embedded.start()
    part = embedded.postgres
    part.stop()
    version = part.folder / "PG_VERSION"
    right = version.read_text()
    version.write_text("17\n")
    try:
        with pytest.raises(
            EmbeddedError, match=r"^Postgres ended with exit code 1 \(.*FATAL.*\): read .*postgres\.log"
        ):
            part.start()
    finally:
        version.write_text(right)
    part.start()


def test_a_stop_and_a_start_keep_data_and_addresses(embedded: EmbeddedStack) -> None:
    before = embedded.start()
    embedded.stop()
    assert embedded.parts == {}
    after = embedded.start()
    assert after == before
    require_data(after)


def test_a_second_owner_is_refused(embedded: EmbeddedStack, home: Path) -> None:
    embedded.start()
    with pytest.raises(EmbeddedError, match=f"is in use by process {os.getpid()}"):
        EmbeddedStack(home, cache=CACHE).start()


OWNER = """
import sys, threading
from pathlib import Path
from ops.embedded import EmbeddedStack
stack = EmbeddedStack(Path(sys.argv[1]), cache=Path(sys.argv[2]))
stack.start()
print(*[part.pid for part in stack.parts.values()], flush=True)
threading.Event().wait()
"""


def test_nothing_outlives_an_owner_that_is_killed(embedded: EmbeddedStack, home: Path) -> None:
    before = embedded.start()
    embedded.stop()
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(home), str(CACHE)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY_ROOT
    ) as owner:
        assert owner.stdout is not None
        parts = [ProcessIdentity.of(int(pid)) for pid in owner.stdout.readline().split()]
        assert len(parts) == 3
        owner.send_signal(signal.SIGKILL)
        owner.wait(PATIENCE_SECONDS)
    assert wait_until(
        lambda: not any(part is not None and part.is_running() for part in parts), timeout_seconds=PATIENCE_SECONDS
    )
    assert embedded.start() == before
    require_data(before)
