"""An agent of several topics as a real process: every wanted record once, whatever moves, ends or is missing."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from domain.topics import Topics
from runtime.settings import Settings
from tests.posting_bench import eventually
from tests.service_process import ServiceProcess
from tests.several_topics_agent import FAMILIES, NAME, TABLES


class Bench:
    """The topics of an agent, and what it kept of them."""

    def __init__(self, settings: Settings, topics: Topics, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self.first, self.second = (topics.name_events(family) for family in FAMILIES)
        self.missing = f"{topics.prefix}missing"
        options = settings.make_kafka(str(settings.kafka_bootstrap)).make_client_options()
        self.admin = AdminClient(options)
        self._made: list[str] = []
        # Without idempotence a retry on a topic that was just made would change the order of the records.
        self._producer = Producer({**options, "enable.idempotence": True})
        self._connection = psycopg.connect(settings.postgres_dsn.get_secret_value(), autocommit=True)  # type: ignore[union-attr]
        self._connection.execute(TABLES)
        self.places = [(self.first, 0), (self.first, 1), (self.first, 2), (self.second, 0), (self.second, 1)]
        self.make(self.first, 3)
        self.make(self.second, 2)
        self.sent: dict[tuple[str, int], list[bytes]] = {}
        """The wanted values of each partition."""
        self.ends: dict[tuple[str, int], int] = {}

    def close(self) -> None:
        """Delete the topics and close the connections."""
        self._connection.close()
        for deletion in self.admin.delete_topics(self._made).values():
            deletion.result(20)

    def make(self, topic: str, partitions: int) -> None:
        """Make a topic."""
        self.admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(20)
        self._made.append(topic)

    def start(self) -> ServiceProcess:
        """Start the agent."""
        return ServiceProcess(NAME, self._settings, self._folder, module=("tests.several_topics_agent", self.missing))

    def send(self, count: int, *places: tuple[str, int]) -> None:
        """Send records to each of the places, all places if none is given. Each third record is wanted."""
        for topic, place in places or self.places:
            for _ in range(count):
                number = self.ends.get((topic, place), 0)
                value = f"{topic} {place} {number}".encode()
                headers: list[Any] = [("other", b"x")]
                if number % 3 == 0:
                    headers.append(("wanted", b"yes"))
                    self.sent.setdefault((topic, place), []).append(value)
                self._producer.produce(topic, value, partition=place, headers=headers)
                self.ends[topic, place] = number + 1
        assert self._producer.flush(20) == 0

    def stands(self) -> dict[tuple[str, int], int]:
        """Return the positions that are not 0."""
        rows = self._connection.execute("SELECT topic, place, next_offset FROM stand WHERE next_offset > 0").fetchall()
        return {(topic, place): next_offset for topic, place, next_offset in rows}

    def seen(self) -> dict[tuple[str, int], list[bytes]]:
        """Return the values that the agent kept, in the order of their offsets."""
        found: dict[tuple[str, int], list[bytes]] = {}
        for topic, place, value in self._connection.execute(
            "SELECT topic, place, value FROM seen ORDER BY topic, place, message_offset"
        ):
            found.setdefault((topic, place), []).append(value)
        return found

    def move(self, topic: str, place: int, offset: int) -> None:
        """Move a position, as another worker does."""
        self._connection.execute(
            "UPDATE stand SET next_offset = %s WHERE topic = %s AND place = %s", (offset, topic, place)
        )

    def wait_until_done(self) -> None:
        """Wait until the positions are past all records, and check that the wanted ones were kept, each once."""
        eventually(lambda: self.stands() == self.ends, "the positions are past all records", 60.0)
        assert self.seen() == self.sent


@pytest.fixture
def several(settings: Settings, topics: Topics, tmp_path: Path) -> Iterator[Bench]:
    """Yield two topics with several partitions, and no third one."""
    made = Bench(settings, topics, tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_a_killed_agent_goes_on_from_its_positions_and_finds_a_topic_that_is_made_late(several: Bench) -> None:
    several.send(500)
    with several.start() as agent:
        eventually(lambda: sum(map(len, several.seen().values())) > 0, "it has begun", 60.0)
        agent.kill()
    several.send(100)
    with several.start() as agent:
        several.wait_until_done()
        eventually(lambda: agent.events("topics are missing"), "it says what is missing")
        assert agent.events("topics are missing")[-1]["topics"] == [several.missing]
        labels = {f"{topic}/{place}" for topic, place in several.places}
        eventually(
            lambda: (
                set(re.findall(r'^ledgerline_agent_lag_records\{.*partition="([^"]+)"', agent.metrics(), re.M))
                == labels
            ),
            "it tells of each partition by topic and number",
        )
        eventually(lambda: agent.metric("ledgerline_agent_lag_records") == 0, "it lags by nothing")
        assert agent.metric("ledgerline_agent_partitions") == len(several.places)
        several.make(several.missing, 2)
        late = [(several.missing, 0), (several.missing, 1)]
        several.send(30, *late)
        several.send(30)
        several.wait_until_done()
        eventually(lambda: agent.events("all topics exist"), "it says that nothing is missing", 20.0)
        assert agent.metric("ledgerline_agent_fences_lost_total") == 0
        assert agent.stop(10.0) == 0


def test_a_fence_lost_in_one_topic_drops_the_batch_and_the_agent_goes_on_where_the_store_stands(several: Bench) -> None:
    several.send(60)
    moved = (several.second, 0)
    with several.start() as agent:
        several.wait_until_done()
        several.move(*moved, 75)
        several.send(30)
        several.sent[moved] = [value for value in several.sent[moved] if not 60 <= int(value.split()[-1]) < 75]
        several.wait_until_done()
        assert agent.metric("ledgerline_agent_fences_lost_total") >= 1
        assert agent.events("fence lost")
        assert agent.stop(10.0) == 0
