"""Faust, changed for streams/fenced.py: events are whole fetches, seeks go to the store's offsets, no own commits.

This module overrides internals of faust-streaming 0.15.3, mode-streaming 0.7.0 and aiokafka 0.14.0.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import faust
import structlog
from aiokafka.errors import IllegalStateError, KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage
from mode import CrashingSupervisor
from mode.utils.objects import cached_property

from domain.errors import LedgerlineError
from runtime.kafka import Kafka
from streams.batches import AgentOptions, Message, Place
from streams.unwanted import drop_unwanted

logger: Final = structlog.get_logger(__name__)

METADATA_AGE_MS_MAX: Final = 10_000
# The group takes the lanes of a dead worker away after this time. A slow worker keeps its lanes, because Faust's
# consumer thread sends heartbeats while the handler works.
SESSION_SECONDS: Final = 10.0
# The group waits longer for a worker with an instance id: as long as its container needs to come back.
NAMED_SESSION_SECONDS: Final = 30.0


class TopicBegunAnew(LedgerlineError):
    """A partition gave an offset below those already read: its offsets no longer mean what the store means by them."""


def _make_begun_anew(place: Place, start: int, offset: int) -> TopicBegunAnew:
    return TopicBegunAnew(
        f"The topic {place.topic} was read up to {start} in partition {place.partition} and now gives offset {offset}:"
        " it was deleted and made again; restore the old one."
    )


class FetchedPart(NamedTuple):
    """What one fetch has of a partition."""

    start: int
    """The offset from which it was fetched."""
    end: int
    """The next offset to fetch."""
    messages: list[Any]
    """Each is a Message, or what ReadAhead made of it."""


class Fetch(NamedTuple):
    """The result of one fetch from Kafka, with the messages of several partitions."""

    partitions: dict[TP, FetchedPart]


class ReadAhead:
    """Reads waiting fetches ahead while the handler only waits for its store.

    It reads in the handler's own thread. Two threads would hand over the interpreter lock some hundred times a batch,
    and at each hand-over no thread has the lock for a moment.
    """

    def __init__(self, prepare: Callable[[Message], Any]) -> None:
        """`prepare` is pure and cannot fail. Its result has the `offset` and `timestamp_ms` of the message."""
        self._prepare = prepare
        self._waiting: deque[Fetch] = deque()

    def add(self, fetch: Fetch) -> None:
        """Add a fetch that will come to the handler; called in the consumer's thread."""
        self._waiting.append(fetch)

    def take(self, fetch: Fetch) -> None:
        """Stop reading this fetch ahead: the handler has it now, and reads the rest of it itself."""
        # tuple() copies in one step: the consumer's thread may add a fetch. A seek dropped the fetches before this one.
        if any(waiting is fetch for waiting in tuple(self._waiting)):
            while self._waiting.popleft() is not fetch:
                pass

    def read(self) -> None:
        """Read all waiting fetches, in place; called in the handler's thread."""
        while self._waiting:
            for part in self._waiting.popleft().partitions.values():
                part.messages[:] = map(self._prepare, part.messages)


class Positions(Protocol):
    """The part of the agent's runner that the consumer uses."""

    ahead: ReadAhead | None
    """Gets each fetch; None if the handler does not read ahead."""

    async def positions(self, assigned: Iterable[TP]) -> dict[TP, int]:
        """Take the assigned partitions over, and return their next offsets in the agent's store."""


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """A consumer thread that knows where each fetch began, to tell fetches before a seek from those after it."""

    app: "FencedApp"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._assignment: Any = None
        self._next: dict[TP, int] = {}

    async def on_start(self) -> None:
        """Start the consumer, which fetches nothing before its first assignment."""
        await super().on_start()
        if self.app.options.wants is not None:
            drop_unwanted(self._ensure_consumer()._fetcher, self.app.options.wants)

    def _find_next(self, consumer: Any) -> dict[TP, int]:
        """Return where the next fetch of each partition begins; a new assignment clears the earlier offsets."""
        subscription = consumer._subscription.subscription
        assignment = subscription and subscription.assignment
        if assignment is not self._assignment:
            self._assignment, self._next = assignment, {}
        return self._next

    def highwater(self, tp: TP) -> int:
        """Return the partition's end for this agent; 0 if it is not known.

        An agent that reads committed records cannot read past the start of an open transaction.
        """
        consumer = self._ensure_consumer()
        end = consumer.last_stable_offset(tp) if self.app.options.read_committed else consumer.highwater(tp)
        return end or 0

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = self.app.options.fetch_wait_ms
        consumer._fetch_min_bytes = self.app.options.fetch_bytes_min
        if self.app.options.read_committed:
            # Faust sets it only in its own exactly-once mode, which loses and duplicates records (faust#323, #517).
            consumer._isolation_level = "read_committed"
        return consumer

    async def _commit(self, offsets: dict[TP, int]) -> bool:
        """Commit the store's offsets to Kafka, and return whether that worked.

        The offsets are for lag tools only. So no failure may end the worker, as a failure does in Faust: neither a
        broker that is away nor a rebalance that has just taken all partitions.
        """
        assigned = self.assignment()
        theirs = {
            driver.ensure_aiokafka_TP(tp): driver.OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
            if tp in assigned
        }
        consumer = self._ensure_consumer()
        if not theirs or consumer._subscription.reassignment_in_progress:
            # The broker would answer this commit after our request to join, which waits for the other members, and
            # would refuse the old generation. aiokafka would then leave the group and join again, and so would all
            # members, again and again.
            return False
        try:
            await consumer.commit(theirs)
        except KafkaError as error:
            logger.debug("offsets were not committed to Kafka", agent=self.app.options.name, cause=repr(error))
            return False
        return True

    async def _seek_wait(self, consumer: Any, partitions: dict[TP, int]) -> None:
        # A rebalance may have taken a partition while the store was read; a seek to that partition raises in aiokafka.
        assigned = consumer.assignment()
        partitions = {tp: offset for tp, offset in partitions.items() if tp in assigned}
        # Note the offsets before the seeks, which begin without yielding to the event loop. If a fetch came between a
        # seek and this note, the fetch would seem to leave records out.
        self._find_next(consumer).update({TP(*tp): offset for tp, offset in partitions.items()})
        try:
            await super()._seek_wait(consumer, partitions)
        except IllegalStateError:
            if partitions.keys() <= consumer.assignment():
                raise
            logger.info("a rebalance took a partition that was sought", agent=self.app.options.name)

    async def _fetch_records(self, consumer: Any, *args: Any, **options: Any) -> dict[Any, list[Any]]:
        fetched = await super()._fetch_records(consumer, *args, **options)
        next_of = self._find_next(consumer)
        assignment = self._assignment
        partitions = {}
        for tp, records in (fetched or {}).items():
            state = assignment and assignment.state_value(tp)
            if not records or state is None or not state.has_valid_position:
                continue  # revoked meanwhile
            start = next_of.get(TP(*tp), records[0].offset)
            if records[0].offset < start:
                raise _make_begun_anew(Place(*tp), start, records[0].offset)
            next_of[TP(*tp)] = state.position
            messages = [
                Message(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, r.headers) for r in records
            ]
            partitions[TP(*tp)] = FetchedPart(start, state.position, messages)
        for tp in assignment.tps if assignment else ():
            # A fetch with only transaction markers brings no records, but it moves the position. If the agent did not
            # get the new position, it would seem to lag by the markers for ever, and its watchdog would end it.
            state, start = assignment.state_value(tp), next_of.get(TP(*tp))
            if start is not None and TP(*tp) not in partitions and state is not None and state.has_valid_position:
                if self.app.options.wants is not None and state.position < start:
                    # The new topic's records may all be unwanted, so the position is what tells.
                    raise _make_begun_anew(Place(*tp), start, state.position)
                next_of[TP(*tp)] = state.position
                if state.position > start:
                    partitions[TP(*tp)] = FetchedPart(start, state.position, [])
        if not partitions:
            return {}
        fetch = Fetch(partitions)
        if self.app.runner.ahead is not None:
            self.app.runner.ahead.add(fetch)
        return {next(iter(partitions)): [fetch]}


class _Consumer(driver.Consumer):  # type: ignore[misc]
    """A consumer that seeks to the offsets of the agent's store, never to the offsets committed in Kafka."""

    app: "FencedApp"

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        # Faust's own method first seeks to the offsets committed in Kafka, which trail the store. Without a
        # reassignment, a fetch from there would look like a topic that was deleted and made again.
        positions = await self.app.runner.positions(self.assignment())
        if positions:
            await self.seek_wait(positions)
            self._committed_offset.update(positions)
            # One event is a whole fetch here, so Faust must not use offsets to tell which events it has seen.
            self._read_offset.update(dict.fromkeys(positions))

    def on_buffer_full(self, tp: TP) -> None:
        """Do nothing: a full queue is back-pressure enough. Faust would pause the partition that carries the fetch."""

    def on_buffer_drop(self, tp: TP) -> None:
        """Do nothing: `on_buffer_full` paused no partition."""

    def _to_message(self, tp: TP, fetch: Fetch) -> ConsumerMessage:
        start = next(iter(fetch.partitions.values())).start
        return ConsumerMessage(
            tp.topic, tp.partition, start, 0.0, 0, [], None, fetch, None, 0, 0, TP(*tp),
            generation_id=self.app.consumer_generation_id,
        )  # fmt: skip


class _Transport(driver.Transport):  # type: ignore[misc]
    Consumer = _Consumer


def _make_credentials(kafka: Kafka) -> Any:
    """Return the credentials for aiokafka, None if there are none; raise OSError if a TLS file cannot be used."""
    context = kafka.make_ssl_context()
    if kafka.has_sasl:
        return faust.SASLCredentials(
            username=kafka.sasl_username,
            password=kafka.sasl_password,
            ssl_context=context,
            mechanism=kafka.sasl_mechanism,
        )
    return faust.SSLCredentials(context) if context is not None else None


class FencedApp(faust.App):  # type: ignore[misc]
    """A Faust app whose consumer is fenced; `runner` stands between it and the agent's handler."""

    def __init__(self, options: AgentOptions, runner: Positions) -> None:
        self.options = options
        self.runner = runner
        super().__init__(
            options.group,
            broker=f"kafka://{options.kafka}",
            broker_credentials=_make_credentials(options.kafka),
            loop=None,
            autodiscover=False,
            agent_supervisor=CrashingSupervisor,
            broker_max_poll_records=options.records_max,
            consumer_auto_offset_reset="earliest",
            key_serializer="raw",
            value_serializer="raw",
            stream_buffer_maxsize=1,
            stream_wait_empty=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            # Faust makes a folder for tables in its working directory. We use no tables, so the folder goes elsewhere.
            datadir=str(Path(tempfile.gettempdir()) / f"{options.group}-faust"),
            broker_session_timeout=NAMED_SESSION_SECONDS if options.instance_id else SESSION_SECONDS,
            consumer_group_instance_id=options.instance_id,
            # aiokafka finds a topic that was briefly away after this time, not after 5 minutes.
            consumer_metadata_max_age_ms=METADATA_AGE_MS_MAX,
            broker_heartbeat_interval=2.0,
        )

    @property
    def member_id(self) -> str | None:
        """The id that the group gave to this member; None before it has joined."""
        thread = getattr(self.consumer, "_thread", None)
        consumer = getattr(thread, "_consumer", None)
        coordinator = getattr(consumer, "_coordinator", None)
        return getattr(coordinator, "member_id", None) or None

    def find_missing(self) -> list[str]:
        """Return the topics that do not exist, as far as is known; the agent reads the others meanwhile."""
        thread: Any = getattr(self.consumer, "_thread", None)
        client = getattr(getattr(thread, "_consumer", None), "_client", None)
        if client is None:
            return []
        return [topic for topic in self.options.topics if not client.cluster.partitions_for_topic(topic)]

    def end_of(self, tp: TP) -> int:
        """Return the partition's next offset, as far as it is known; 0 if a rebalance has just taken the partition."""
        try:
            return self.consumer.highwater(tp) or 0
        except (AssertionError, AttributeError):  # aiokafka raises them for a partition that is not assigned
            return 0

    def _new_transport(self) -> _Transport:
        return _Transport(self.conf.broker_consumer, self)

    @cached_property  # type: ignore[untyped-decorator]
    def fetches(self) -> Any:
        """The channel of whole fetches; nothing on it is ever acknowledged."""
        return self.topic(
            *self.options.topics,
            key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", acks=False,
        )  # fmt: skip
