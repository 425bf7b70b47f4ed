"""The types that the fenced consumer and an agent share: messages, batches, the handler, and the reading options."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from runtime.kafka import Kafka
from runtime.server_tls import ServerTls

Headers = Sequence[tuple[str, bytes | None]]


class Place(NamedTuple):
    """A partition of a topic. It equals Faust's TP and aiokafka's TopicPartition with the same contents."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Message(NamedTuple):
    """One record of a topic, unchanged."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class PartitionBatch(NamedTuple):
    """The messages fetched from one partition: offsets ascend, and none is below `expected_offset`."""

    topic: str
    partition: int
    expected_offset: int
    """The next offset that the agent expects in its store."""
    messages: list[Any]
    """Each is a Message, or what streams.engine.ReadAhead made of it."""
    end_offset: int
    """The next offset to fetch: past the last message, and past transaction markers, which have offsets too."""


class FenceLost(Exception):
    """The store is not at the offset that the batch expects: another worker has the partition, or had it meanwhile."""


class BatchHandler(Protocol):
    """The interface of an agent. Its methods are called from one thread, one at a time."""

    def positions(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return the next offset to read of each partition of one topic, from the agent's own store.

        The engine calls it once for each topic of which it has partitions.
        """

    def handle(self, batch: list[PartitionBatch]) -> None:
        """Process the batch and commit it in one transaction that also moves the positions.

        A batch may have partitions of several topics. A part without messages still moves its position.

        Raise FenceLost if the positions moved meanwhile. Raise one of `TRANSIENT` or an Outage if a part is away: the
        batch is then retried.
        """

    def idle(self) -> None:
        """Do chores between batches, about once a second, and return within a second.

        Raise FenceLost if the positions moved.
        """


@dataclass(frozen=True)
class AgentOptions:
    """How an agent reads; `records_max` is the most records in one batch."""

    name: str
    kafka: Kafka
    topics: tuple[str, ...]
    """Read together. A topic that does not exist yet is read from when it exists; the others do not wait for it."""
    group: str
    records_max: int = 2000
    fetch_wait_ms: int = 50
    """How long the broker may wait to fill its answer to a fetch. aiokafka sends a broker one fetch at a time: while
    that fetch waits for empty partitions, partitions with records wait too. Faust's own value is 1.5 seconds."""
    fetch_bytes_min: int = 1
    """This many bytes, compressed, end the wait. A higher number makes batches larger and later."""
    read_committed: bool = False
    stall_seconds_max: float = 60.0
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    metrics_tls: ServerTls | None = None
    log_level: str = "INFO"
    instance_id: str | None = None
    """A member of the group that comes back under this name gets its partitions again, without a rebalance."""
    wants: Callable[[Headers], bool] | None = None
    """Says by its headers whether the agent wants a record; None if it wants all. It runs in the consumer's thread and
    must be quick, pure and without errors. Unwanted records do not reach the handler, and the positions move past
    them."""

    def __post_init__(self) -> None:
        if not self.topics or len(set(self.topics)) < len(self.topics):
            raise ValueError(f"The agent {self.name} needs topics, each once, and was given {self.topics}.")

    def name_place(self, place: Place) -> str:
        """Name a partition for metrics and logs: by its number alone if the agent has one topic."""
        return str(place) if len(self.topics) > 1 else str(place.partition)
