"""The look at the ends of the partitions: what it shows, and what counts as no answer."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition

from streams.batches import Place
from streams.lag import Lag, LagWatch


def watch(expected: dict[Place, int], in_hand: dict[Place, tuple[int, int]], shown: list[Any]) -> LagWatch:
    """Return a watch without a client or a broker."""
    made: LagWatch = object.__new__(LagWatch)
    made._expected, made._in_hand = lambda: expected, lambda: in_hand
    made._show = shown.append
    made._ends, made.last, made.member_id, made._client = {}, None, None, None
    made._options = SimpleNamespace(name="tests")
    return made


def test_partitions_come_and_go_with_the_assignment(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Place("a", 1), Place("b", 1)
    expected, in_hand = {first: 5, second: 0}, {first: (5, 400_000), second: (7, 1)}
    shown: list[Any] = []
    made = watch(expected, in_hand, shown)
    ends = {first: 9, second: 4}
    monkeypatch.setattr(
        LagWatch, "_ask", lambda _, asked, __: ({partition: ends[partition] for partition in asked}, None, True)
    )
    made.look()
    assert shown[-1][first] == Lag(4, 400), "the record at 5 is in hand, so its timestamp is known"
    assert shown[-1][second] == (4, pytest.approx(time.time(), abs=5)), "that at 0 is not"
    assert made.last is not None
    assert made.last.ends == {first: 9, second: 4}
    del expected[first]
    made.look()
    assert set(shown[-1]) == {second}
    ends.clear()
    monkeypatch.setattr(LagWatch, "_ask", lambda _, __, ___: ({}, None, False))
    made.look()
    assert shown[-1][second].records == 4, "what a broker that is away does not tell stays as it was"
    assert made.last.is_away, "a client made for this look had no answer"
    expected.clear()
    made.look()
    assert shown[-1] == {}


def test_an_end_that_no_partition_can_have_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """librdkafka gave OFFSET_INVALID without an error while the broker stood still, which hid the outage."""
    told = SimpleNamespace(result=lambda _: SimpleNamespace(offset=OFFSET_INVALID))
    client = SimpleNamespace(list_offsets=lambda asked, **_: dict.fromkeys(asked, told))
    monkeypatch.setattr("streams.lag.AdminClient", lambda _: client)
    made = watch({Place("a", 0): 5}, {}, [])
    made._options.kafka = SimpleNamespace(make_client_options=dict)
    made._isolation = None
    made.look()
    assert made.last is not None
    assert made.last.ends == {}
    assert made.last.is_away
    assert made._client is None, "the next look makes a new client"


def test_a_topic_without_an_answer_hides_the_ends_of_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic that was just deleted is asked for until the next assignment."""

    def answer(asked: list[TopicPartition], **_: Any) -> dict[TopicPartition, Any]:
        def tell(topic: str) -> Any:
            if topic == "deleted":
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
            return SimpleNamespace(offset=9)

        return {each: SimpleNamespace(result=lambda _, topic=each.topic: tell(topic)) for each in asked}

    monkeypatch.setattr("streams.lag.AdminClient", lambda _: SimpleNamespace(list_offsets=answer))
    here = Place("here", 0)
    made = watch({Place("deleted", 0): 5, here: 5}, {}, [])
    made._options.kafka = SimpleNamespace(make_client_options=dict)
    made._isolation = None
    made.look()
    assert made.last is not None
    assert made.last.ends == {here: 9}
    assert made._client is None, "the next look makes a new client"
