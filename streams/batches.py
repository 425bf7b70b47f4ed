"""What the fenced consumer and an agent say to each other: messages, batches, and how to read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from runtime.kafka import Kafka
from runtime.server_tls import ServerTls


class Message(NamedTuple):
    """One record of a topic, as it came."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class PartitionBatch(NamedTuple):
    """What was fetched of one partition: offsets ascending, none below `expected_offset`."""

    topic: str
    partition: int
    expected_offset: int
    """Where the agent believes its store to stand."""
    messages: list[Any]
    """Message, or what was made of it ahead (streams.engine.ReadAhead)."""
    end_offset: int
    """The next offset to fetch; past the last message's, as transaction markers occupy offsets too."""


class FenceLost(Exception):
    """The store stands elsewhere than the batch expects: another worker has the partition, or had it meanwhile."""


class BatchHandler(Protocol):
    """What an agent is; its methods are called from one thread, one at a time."""

    def positions(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """The next offset to read of each partition, from the agent's own store."""

    def handle(self, batch: list[PartitionBatch]) -> None:
        """Process and commit in one transaction that also moves the positions; FenceLost where they moved meanwhile.

        Raises one of `TRANSIENT` or an Outage where something is away: the batch is then tried again.
        """

    def idle(self) -> None:
        """Called about once a second between batches; returns within a second. FenceLost where the positions moved."""


@dataclass(frozen=True)
class AgentOptions:
    """How an agent reads; `records_max` is the most records in one batch."""

    name: str
    kafka: Kafka
    topic: str
    group: str
    records_max: int = 2000
    fetch_wait_ms: int = 50
    """How long the broker may gather what it answers. aiokafka has one request to it at a time: while that waits for
    partitions that have nothing, those that have something wait too. Faust lets it wait for 1.5 seconds."""
    fetch_bytes_min: int = 1
    """As many bytes, as they are compressed, end the wait. More of them make batches larger and later."""
    read_committed: bool = False
    stall_seconds_max: float = 60.0
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    metrics_tls: ServerTls | None = None
    log_level: str = "INFO"
    instance_id: str | None = None
    """A member of the group that comes back under this name has its partitions again, without a rebalance."""
