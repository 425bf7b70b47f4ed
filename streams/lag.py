"""How far behind an agent is, lane by lane: in records, and in seconds that the oldest of them has waited.

Seconds are known by looking at where each partition ends, once a second, with a client apart from the engine's, which
may be what is stuck: a record came between two looks of which the later one found it. So they are exact to a second, or
to a thousandth of themselves where nothing was processed for hours.
Where no looks were taken (before a start, or while the process or the broker was away), the record's own timestamp
decides as soon as it is fetched, and until then it counts from the first look.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as NoAnswer
from typing import Any, Final, NamedTuple

import structlog
from confluent_kafka import ConsumerGroupState, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from streams.batches import AgentOptions
from streams.idleness import Look, Member, Membership, judge_membership

logger: Final = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0
ANSWER_SECONDS_MAX: Final = 5.0
STEPS_MAX: Final = 4000


class Lag(NamedTuple):
    """What of a partition is not processed."""

    records: int
    since_seconds: float | None
    """When the oldest of them came, in seconds since 1970; None where there is none."""


class _Step(NamedTuple):
    """A look that found the partition longer than the one before did. Times are seconds since 1970."""

    end: int
    looked_before: float
    """When the look before was taken, at which these records were not there; 0 where there was none."""
    looked: float


class PartitionEnd:
    """Where one partition ended at each look, as far as that is not processed yet."""

    def __init__(self) -> None:
        self._steps: deque[_Step] = deque()
        self._looked = 0.0
        self._known_from = 0
        """Of what lies below, it is not known when it came."""
        self._pace_seconds = 0.0
        """Looks that are closer to the last step than this make it longer, so that steps stay few."""

    def look(self, end: int, now: float) -> None:
        """The partition ends here now."""
        if self._steps and end < self._steps[-1].end:  # another topic under the name, or a broker that trails
            self._steps.clear()
            self._looked = 0.0
        if not self._steps or end > self._steps[-1].end:
            if not self._looked:
                self._known_from = end
            if self._steps and now - self._steps[-1].looked_before < self._pace_seconds:
                self._steps[-1] = self._steps[-1]._replace(end=end, looked=now)
            else:
                self._steps.append(_Step(end, self._looked, now))
            if len(self._steps) > STEPS_MAX:  # after more than an hour in which nothing was processed
                self._thin_out()
        self._looked = now

    def lag(self, offset: int, came_seconds: float | None) -> Lag:
        """What waits from `offset` on. `came_seconds`: the timestamp of the record there, where it is known."""
        while len(self._steps) > 1 and self._steps[0].end <= offset:
            self._known_from = max(self._known_from, self._steps.popleft().end)
        if len(self._steps) <= 1:
            self._pace_seconds = 0.0
        if not self._steps or self._steps[-1].end <= offset:
            return Lag(0, None)
        step = self._steps[0]
        looked_before = step.looked_before if offset >= self._known_from else 0.0
        came = step.looked if came_seconds is None else came_seconds
        return Lag(self._steps[-1].end - offset, min(max(came, looked_before), step.looked))

    def _thin_out(self) -> None:
        """Make one of each two steps, now and from now on, which is half as exact; the newest stays as it is."""
        steps = list(self._steps)
        newest = steps.pop()
        self._pace_seconds = 2 * max(self._pace_seconds, LOOK_SECONDS)
        self._steps = deque(
            later._replace(looked_before=earlier.looked_before)
            for earlier, later in zip(steps[::2], steps[1::2], strict=True)  # STEPS_MAX is even
        )
        self._steps.append(newest)


class LagWatch:
    """Looks at the ends of the partitions that an agent has, and shows its lag, in a daemon thread of its own."""

    def __init__(
        self,
        options: AgentOptions,
        expected: Callable[[], Mapping[int, int]],
        in_hand: Callable[[], Mapping[int, tuple[int, int]]],
        show: Callable[[Mapping[int, Lag]], None],
    ) -> None:
        """`expected`: the next offset to process of each partition that the agent has. `in_hand`: offset and timestamp
        in milliseconds of the first record of each that is being processed."""
        self._options = options
        self._expected = expected
        self._in_hand = in_hand
        self._show = show
        self.member_id: str | None = None
        """The group's id of an agent that has no partitions, empty if it has none; None if the agent has partitions."""
        self._client: AdminClient | None = None
        self._isolation = IsolationLevel.READ_COMMITTED if options.read_committed else IsolationLevel.READ_UNCOMMITTED
        self._ends: dict[int, PartitionEnd] = {}
        self.last: Look | None = None
        """What Kafka said at the last look; None before the first one."""
        self._never = threading.Event()

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._run, name="lag", daemon=True).start()

    def _run(self) -> None:
        while not self._never.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Ask Kafka where the partitions end, and show what is behind; what it does not tell stays as it was."""
        expected = self._expected()
        self._ends = {partition: self._ends.get(partition) or PartitionEnd() for partition in expected}
        is_new_client = self._client is None
        ends, membership, is_answered = self._ask(list(expected), self.member_id)
        for partition, end in ends.items():
            self._ends[partition].look(end, time.time())
        in_hand = self._in_hand()
        lags = {}
        for partition, offset in self._expected().items():
            if partition in self._ends:
                at, came_ms = in_hand.get(partition, (-1, 0))
                came_seconds = came_ms / 1000 if at == offset and came_ms > 0 else None
                lags[partition] = self._ends[partition].lag(offset, came_seconds)
        self.last = Look(time.monotonic(), ends, is_new_client and not is_answered, membership)
        self._show(lags)

    def _ask(self, partitions: list[int], member_id: str | None) -> tuple[dict[int, int], Membership | None, bool]:
        """The ends, the standing in the group, and whether all was answered.

        A client that had no answer is dropped, and the next look makes a new one: a client that is stuck must not pass
        for a broker that is away.
        """
        ends: dict[int, int] = {}
        membership = None
        if self._client is None:
            self._client = AdminClient({**self._options.kafka.client_options(), "log_level": 0})
        try:
            if partitions:
                self._ask_ends(self._client, partitions, ends)
            if member_id is not None:
                membership = self._ask_membership(self._client, member_id)
        except (KafkaException, NoAnswer) as error:
            logger.debug("Kafka did not answer a look", agent=self._options.name, cause=str(error))
            self._client = None
            return ends, membership, False
        return ends, membership, True

    def _ask_ends(self, client: AdminClient, partitions: list[int], ends: dict[int, int]) -> None:
        """Put the end of each partition into `ends`, as far as they are told."""
        answers = client.list_offsets(
            {TopicPartition(self._options.topic, partition): OffsetSpec.latest() for partition in partitions},
            isolation_level=self._isolation,
            request_timeout=ANSWER_SECONDS_MAX,
        )
        for asked, answer in answers.items():
            end = int(answer.result(2 * ANSWER_SECONDS_MAX).offset)
            if end < 0:
                # librdkafka's OFFSET_INVALID, without an error: seen while the broker stood still.
                raise NoAnswer(f"Kafka told no end of partition {asked.partition}")
            ends[asked.partition] = end

    def _ask_membership(self, client: AdminClient, member_id: str) -> Membership:
        asked = client.describe_consumer_groups([self._options.group], request_timeout=ANSWER_SECONDS_MAX)
        group: Any = asked[self._options.group].result(2 * ANSWER_SECONDS_MAX)
        members = [
            Member(member.member_id, frozenset(tp.partition for tp in member.assignment.topic_partitions))
            for member in group.members
        ]
        return judge_membership(member_id, group.state == ConsumerGroupState.STABLE, members)
