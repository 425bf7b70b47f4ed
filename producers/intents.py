"""Publish intents to Kafka, idempotent but never transactional, so that the offsets of payments.intents have no gaps.

An intent that is published twice, or whose publication timed out, does no harm: its id follows from its tenant and
idempotency key, and the posting worker settles an id once.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from domain.chart import Chart
from domain.errors import LedgerlineError
from domain.intents import DIRECTION_NAMES, Intent, Leg
from domain.times import format_rfc3339
from producers.encoding import Encoder, make_encoder
from producers.kafka_statistics import make_statistics_options
from runtime import tracing
from runtime.faults import Fault, cause_no_fault
from runtime.kafka import Kafka
from runtime.tracing import Attribute, Kind, Span, SpanName, Trace

SUBJECT: Final = "payments.intents-value"
CLOUD_EVENT_TYPE: Final = "ledgerline.payments.PaymentIntent"
_POLL_SECONDS: Final = 0.002
"""Between two polls while delivery reports are missing."""
_IDLE_SECONDS: Final = 0.1
_CLOSE_SECONDS_MAX: Final = 1.0

logger: Final = structlog.get_logger(__name__)
_library_log = logging.getLogger("confluent_kafka")


class PublishError(LedgerlineError):
    """Kafka did not confirm an intent. It may be published again with the same idempotency key."""


class QueueFullError(PublishError):
    """The producer's queue is full; the intent was not sent."""


class DeliveryError(PublishError):
    """Kafka is unreachable, refused, or did not confirm in time. The intent may or may not be on the topic."""


class Delivered(NamedTuple):
    """The position of an intent on the topic. All in-sync replicas have acknowledged it."""

    topic: str
    partition: int
    offset: int


class Addressed(NamedTuple):
    """An intent and the account that it draws down, by which its lane is chosen."""

    intent: Intent
    drained: str | None
    """None if no account of the intent can run dry."""


class _Flight:
    """Intents that were published together. Only the event loop's thread may use it."""

    __slots__ = ("future", "remaining", "replace_producer", "results", "topic")

    def __init__(
        self, topic: str, count: int, future: "asyncio.Future[None]", replace_producer: Callable[[], None]
    ) -> None:
        self.topic = topic
        self.replace_producer = replace_producer
        self.results: list[Delivered | PublishError | None] = [None] * count
        self.remaining = count
        self.future = future

    def report(self, index: int, error: KafkaError | None, message: Message) -> None:
        """Take one delivery report."""
        if error is None:
            self.land(index, Delivered(self.topic, message.partition(), message.offset()))
        else:
            self.land(index, _make_failure(error))
            if error.code() == KafkaError._MSG_TIMED_OUT:
                self.replace_producer()

    def land(self, index: int, result: Delivered | PublishError) -> None:
        """Store the result of one intent, and wake the waiting coroutine after the last one."""
        self.results[index] = result
        self.remaining -= 1
        if self.remaining == 0 and not self.future.done():
            self.future.set_result(None)


def find_drained_account(legs: Iterable[Leg], chart: Chart) -> str | None:
    """Return the first account with a floor whose balance the legs lower, or None if there is none."""
    for leg in legs:
        line = chart.match(leg.account)
        if line is not None and line.floor_minor is not None and leg.direction != line.normal_direction:
            return leg.account
    return None


def make_kafka_key(tenant: str, intent_id: str, drained: str | None) -> bytes:
    """Return the drained account as the key, so that its draw-downs share a lane; else the id, to spread the load."""
    return (intent_id if drained is None else f"{tenant}/{drained}").encode()


def make_record(intent: Intent) -> dict[str, Any]:
    """Return the intent as the Avro record PaymentIntent."""
    intent_id, tenant, key, intent_type, legs, reverses, value_time, reference, metadata, accepted_time = intent
    return {
        "intent_id": str(intent_id),
        "tenant": tenant,
        "idempotency_key": key,
        "type": intent_type,
        "legs": [
            {
                "account": account,
                "direction": DIRECTION_NAMES[direction],
                "amount_minor": amount_minor,
                "currency": currency,
            }
            for account, direction, amount_minor, currency in legs
        ],
        "reverses": None if reverses is None else str(reverses),
        "value_time": value_time,
        "reference": reference,
        "metadata": metadata,
        "accepted_time": accepted_time,
    }


def _make_shared_headers(trace: Trace, source: bytes) -> dict[str, bytes]:
    """Return the headers that all messages of a request share: W3C trace context, correlation id, CloudEvents 1.0."""
    return {
        # First, because posting looks for it in each message if tracing is on.
        tracing.TRACEPARENT: trace.traceparent.encode(),
        tracing.CORRELATION_ID: trace.correlation_id.encode(),
        "ce_specversion": b"1.0",
        "ce_source": source,
        "ce_type": CLOUD_EVENT_TYPE.encode(),
        "content-type": b"application/avro",
    }


def _make_sending_attributes(topic: str, addressed: Sequence[Addressed]) -> dict[Attribute, tracing.Value]:
    return {
        Attribute.MESSAGING_SYSTEM: "kafka",
        Attribute.MESSAGING_OPERATION: "send",
        Attribute.MESSAGING_OPERATION_TYPE: "send",
        Attribute.DESTINATION: topic,
        Attribute.BATCH_MESSAGES: len(addressed),
        Attribute.TENANT: addressed[0].intent.tenant,
    }


def _tell(span: Span, results: Sequence[Delivered | PublishError]) -> None:
    """Put the offsets and failures of a request's intents on its span.

    For a single intent also put the partition and offset attributes of OpenTelemetry's semantic conventions.
    """
    delivered = [result for result in results if isinstance(result, Delivered)]
    failed = [result for result in results if isinstance(result, PublishError)]
    span.put({Attribute.OFFSETS: tracing.format_ranges((result.partition, result.offset) for result in delivered)})
    if len(results) == len(delivered) == 1:
        only = delivered[0]
        span.put({Attribute.DESTINATION_PARTITION: str(only.partition), Attribute.OFFSET: only.offset})
    if failed:
        span.put({Attribute.INTENTS_FAILED: len(failed)})
        span.fail(type(failed[0]).__qualname__)


def _make_failure(error: KafkaError) -> DeliveryError:
    return DeliveryError(f"Kafka did not confirm the intent: {error.str()}.")


class IntentProducer:
    """One Kafka producer for the coroutines of one event loop. The event loop's thread polls it.

    Each delivery report takes the interpreter's lock. A separate polling thread would wait for the lock, up to 5 ms for
    each report.
    """

    def __init__(
        self,
        kafka: Kafka,
        topic: str,
        *,
        source: str = "/ledgerline/api",
        delivery_timeout_seconds: float = 10.0,
        queue_intents_max: int = 50_000,
        fault: Fault = cause_no_fault,
    ) -> None:
        self.topic = topic
        self._fault = fault
        self._source = source.encode()
        self._configuration: dict[str, Any] = {
            **kafka.make_client_options(),
            "client.id": "ledgerline-intents",
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 5,
            "compression.type": "lz4",
            # The same as Java's default, so that clients in any language choose the same lane for an account.
            "partitioner": "murmur2_random",
            "delivery.timeout.ms": int(delivery_timeout_seconds * 1000),
            "queue.buffering.max.messages": queue_intents_max,
            "queue.buffering.max.kbytes": 256 * 1024,
            # The longest time that a request without an answer holds its connection to a broker.
            "socket.timeout.ms": max(1000, int(delivery_timeout_seconds * 1000)),
            "socket.keepalive.enable": True,
            "reconnect.backoff.max.ms": 1000,
            "error_cb": self._note_error,
            **make_statistics_options("intents"),
        }
        self._delivery_timeout_seconds = delivery_timeout_seconds
        self._producer = Producer(self._configuration)
        self._replaced: list[Producer] = []
        self._encode: Encoder | None = None
        self._flights: set[_Flight] = set()
        self._loop = asyncio.get_running_loop()
        self._poll_after(_IDLE_SECONDS)

    @property
    def has_schema(self) -> bool:
        """Whether `use_schema` was called. Publishing fails before that."""
        return self._encode is not None

    def use_schema(self, schema_id: int) -> None:
        """Encode under this id of the registry from now on."""
        self._encode = make_encoder(SUBJECT, schema_id)

    def count_partitions(self, timeout_seconds: float) -> int:
        """Ask Kafka for the topic's number of partitions. The call blocks. Raise DeliveryError if Kafka cannot tell."""
        producer = self._producer
        try:
            found = producer.list_topics(self.topic, timeout_seconds).topics.get(self.topic)
        except KafkaException as error:
            self._loop.call_soon_threadsafe(self._replace_if_present, producer)
            raise _make_failure(error.args[0]) from error
        if found is None or found.error is not None or not found.partitions:
            raise DeliveryError(f"Kafka has no topic {self.topic}: run `ledgerline prepare`.")
        return len(found.partitions)

    async def publish_many(self, addressed: Sequence[Addressed], trace: Trace) -> list[Delivered | PublishError]:
        """Publish intents and wait for all. Return one result for each, in order. A failure does not stop the others.

        If their request is traced, one span covers all of them.
        """
        if not addressed:
            return []
        tracer = tracing.get_tracer() if trace.has_span else None
        if tracer is None:
            return await self._publish(addressed, trace)
        attributes = _make_sending_attributes(self.topic, addressed)
        name = f"{SpanName.SEND} {self.topic}"
        with tracing.enter_span(tracer.span(name, Kind.PRODUCER, attributes, parent=trace.traceparent)) as span:
            results = await self._publish(addressed, trace._replace(traceparent=span.traceparent))
            _tell(span, results)
        return results

    async def _publish(self, addressed: Sequence[Addressed], trace: Trace) -> list[Delivered | PublishError]:
        if self._encode is None:
            raise DeliveryError("The schema of intents is not known yet: is the schema registry up?")
        # Encode all records first: messages that are produced close together need fewer requests to the brokers.
        records = [make_record(intent) for intent, _ in addressed]
        values = [self._encode(record) for record in records]
        replace_producer = partial(self._replace_if_present, self._producer)
        flight = _Flight(self.topic, len(addressed), self._loop.create_future(), replace_producer)
        if not self._flights:
            self._next_poll.cancel()
            self._poll_after(_POLL_SECONDS)
        self._flights.add(flight)
        try:
            headers = _make_shared_headers(trace, self._source)
            for index, ((intent, drained), record, value) in enumerate(zip(addressed, records, values, strict=True)):
                intent_id = record["intent_id"]
                own = {"ce_id": intent_id.encode(), "ce_time": format_rfc3339(intent.accepted_time).encode()}
                self._produce(flight, index, value, make_kafka_key(intent.tenant, intent_id, drained), headers | own)
            await flight.future
        finally:
            self._flights.remove(flight)
        self._fault("acknowledged")
        return [result for result in flight.results if result is not None]

    def _produce(self, flight: _Flight, index: int, value: bytes, key: bytes, headers: dict[str, bytes]) -> None:
        try:
            self._producer.produce(self.topic, value, key, headers=headers, on_delivery=partial(flight.report, index))
        except BufferError:
            flight.land(index, QueueFullError("Too many intents wait for Kafka: try again in a moment."))
        except KafkaException as error:
            flight.land(index, _make_failure(error.args[0]))
            if error.args[0].code() == KafkaError._FATAL:
                flight.replace_producer()

    def _replace_if_present(self, producer: Producer) -> None:
        """Replace a producer that no longer works, unless another of its intents has already replaced it.

        After a fatal error (a lost sequence, a fenced id) librdkafka's idempotent producer refuses all work for good.
        After a standstill of Kafka, a librdkafka client may stay unresponsive while Kafka answers everyone else
        (decision 26). The client cannot distinguish that state from an outage, and in an outage a new client is as good
        as the old one. The old producer is still polled, so that its remaining intents are reported as failed.
        """
        if producer is not self._producer:
            return
        logger.warning("Kafka producer replaced", topic=self.topic)
        self._replaced.append(self._producer)
        self._producer = Producer(self._configuration)

    def _note_error(self, error: KafkaError) -> None:
        # Use the library's logger: it suppresses repeated lines.
        _library_log.warning(f"{error.name()}: %s", error.str())

    def _take_reports(self) -> None:
        self._producer.poll(0)
        for old in list(self._replaced):
            old.poll(0)
            if not len(old):
                self._replaced.remove(old)

    def _poll(self) -> None:
        """Take the reports that have arrived, and schedule the next poll."""
        try:
            self._take_reports()
        finally:
            self._poll_after(_POLL_SECONDS if self._flights else _IDLE_SECONDS)

    def _poll_after(self, seconds: float) -> None:
        self._next_poll = self._loop.call_later(seconds, self._poll)

    def give_up(self) -> None:
        """Report all unconfirmed intents as failed, so that the requests that wait for them get an answer."""
        for producer in (self._producer, *self._replaced):
            producer.purge(in_queue=True, in_flight=True, blocking=False)

    async def close(self) -> None:
        """Stop, and wait at most _CLOSE_SECONDS_MAX for open reports. Call `give_up` first if requests still wait."""
        self._next_poll.cancel()
        deadline = self._loop.time() + _CLOSE_SECONDS_MAX
        while left := sum(len(producer) for producer in (self._producer, *self._replaced)):
            if self._loop.time() > deadline:
                logger.error("intents unconfirmed at close", count=left)
                return
            await asyncio.sleep(_POLL_SECONDS)  # between two polls
            self._take_reports()
