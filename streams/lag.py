"""How far behind an agent is, lane by lane: in records, and in seconds that the oldest of them has waited.

The seconds come from a look at the end of each partition, once a second. A client apart from the engine's takes the
looks, because the engine's client may be what is stuck. A record came after the last look that did not find it, and
before the first look that found it. So the seconds are exact to a second, or to a thousandth of their value if nothing
was processed for hours.
There are no looks before a start, or while the process or the broker is away. A record from such a time counts from its
own timestamp as soon as the record is fetched, and from the first look until then.
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

from streams.batches import AgentOptions, Place
from streams.idleness import Look, Member, Membership, judge_membership

logger: Final = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0
ANSWER_SECONDS_MAX: Final = 5.0
STEPS_MAX: Final = 4000


class Lag(NamedTuple):
    """The records of a partition that are not processed."""

    records: int
    since_seconds: float | None
    """When the oldest of them came, in seconds since 1970; None if there are none."""


class _Step(NamedTuple):
    """A look that found a higher end of the partition than the look before. Times are seconds since 1970."""

    end: int
    looked_before: float
    """When the look before was taken, which did not find these records; 0 if there was none."""
    looked: float


class PartitionEnd:
    """The ends that the looks found of one partition, as far as the records below them are not processed yet."""

    def __init__(self) -> None:
        self._steps: deque[_Step] = deque()
        self._looked = 0.0
        self._known_from = 0
        """It is not known when records below this offset came."""
        self._pace_seconds = 0.0
        """A look closer to the last step than this extends that step, so that steps stay few."""

    def look(self, end: int, now: float) -> None:
        """Record that the partition ends at `end` at the time `now`."""
        if self._steps and end < self._steps[-1].end:  # the topic was made again, or this broker lags
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
                self._merge_steps()
        self._looked = now

    def lag(self, offset: int, came_seconds: float | None) -> Lag:
        """Return the lag from `offset` on. `came_seconds` is the timestamp of the record there, if it is known."""
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

    def _merge_steps(self) -> None:
        """Merge each two steps into one, now and from now on, which is half as exact; keep the newest step as it is."""
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
        expected: Callable[[], Mapping[Place, int]],
        in_hand: Callable[[], Mapping[Place, tuple[int, int]]],
        show: Callable[[Mapping[Place, Lag]], None],
    ) -> None:
        """`expected` returns the next offset to process of each partition that the agent has. `in_hand` returns offset
        and timestamp in milliseconds of the first record of each partition in the batch under way."""
        self._options = options
        self._expected = expected
        self._in_hand = in_hand
        self._show = show
        self.member_id: str | None = None
        """The member id of an agent without partitions, empty if it has no id yet; None if the agent has partitions."""
        self._client: AdminClient | None = None
        self._isolation = IsolationLevel.READ_COMMITTED if options.read_committed else IsolationLevel.READ_UNCOMMITTED
        self._ends: dict[Place, PartitionEnd] = {}
        self.last: Look | None = None
        """What Kafka said at the last look; None before the first one."""
        self._never = threading.Event()

    def start(self) -> None:
        """Start the thread, which takes a look every LOOK_SECONDS."""
        threading.Thread(target=self._run, name="lag", daemon=True).start()

    def _run(self) -> None:
        while not self._never.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Ask Kafka where the partitions end, and show the lags; an end that Kafka does not tell stays as it was."""
        expected = self._expected()
        self._ends = {place: self._ends.get(place) or PartitionEnd() for place in expected}
        is_new_client = self._client is None
        ends, membership, is_answered = self._ask(list(expected), self.member_id)
        for place, end in ends.items():
            self._ends[place].look(end, time.time())
        in_hand = self._in_hand()
        lags = {}
        for place, offset in self._expected().items():
            if place in self._ends:
                at, came_ms = in_hand.get(place, (-1, 0))
                came_seconds = came_ms / 1000 if at == offset and came_ms > 0 else None
                lags[place] = self._ends[place].lag(offset, came_seconds)
        self.last = Look(time.monotonic(), ends, is_new_client and not is_answered, membership)
        self._show(lags)

    def _ask(self, places: list[Place], member_id: str | None) -> tuple[dict[Place, int], Membership | None, bool]:
        """Return the ends, the membership in the group, and whether Kafka answered everything.

        A client without an answer is dropped, and the next look makes a new one: a stuck client must not count as a
        broker that is away.
        """
        ends: dict[Place, int] = {}
        membership = None
        if self._client is None:
            self._client = AdminClient({**self._options.kafka.make_client_options(), "log_level": 0})
        try:
            if places:
                self._ask_ends(self._client, places, ends)
            if member_id is not None:
                membership = self._ask_membership(self._client, member_id)
        except (KafkaException, NoAnswer) as error:
            logger.debug("Kafka did not answer a look", agent=self._options.name, cause=str(error))
            self._client = None
            return ends, membership, False
        return ends, membership, True

    def _ask_ends(self, client: AdminClient, places: list[Place], ends: dict[Place, int]) -> None:
        """Put the end of each partition into `ends`, as far as Kafka tells it.

        Raise NoAnswer or KafkaException if Kafka does not tell all: after the others, because one topic may be missing.
        """
        answers = client.list_offsets(
            {TopicPartition(*place): OffsetSpec.latest() for place in places},
            isolation_level=self._isolation,
            request_timeout=ANSWER_SECONDS_MAX,
        )
        fault: KafkaException | NoAnswer | None = None
        wait_until = time.monotonic() + 2 * ANSWER_SECONDS_MAX
        for asked, answer in answers.items():
            place = Place(asked.topic, asked.partition)
            try:
                end = int(answer.result(max(0.0, wait_until - time.monotonic())).offset)
            except (KafkaException, NoAnswer) as error:
                fault = error
                continue
            if end >= 0:
                ends[place] = end
            else:
                # librdkafka gave OFFSET_INVALID without an error while the broker was frozen.
                fault = NoAnswer(f"Kafka reported no end of partition {place}")
        if fault is not None:
            raise fault

    def _ask_membership(self, client: AdminClient, member_id: str) -> Membership:
        asked = client.describe_consumer_groups([self._options.group], request_timeout=ANSWER_SECONDS_MAX)
        group: Any = asked[self._options.group].result(2 * ANSWER_SECONDS_MAX)
        members = [
            Member(
                member.member_id,
                frozenset(Place(tp.topic, tp.partition) for tp in member.assignment.topic_partitions),
            )
            for member in group.members
        ]
        return judge_membership(member_id, group.state == ConsumerGroupState.STABLE, members)
