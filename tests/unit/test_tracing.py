"""Which traces are followed: headers of a batch, batches that the relay knows, and the flag of a request."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from api.tracing import begin_span, end_span, read_trace
from db.relay import TracedBatch
from producers.relay_traces import TracedBatches
from runtime import tracing
from runtime.tracing import Attribute, Kind
from streams.batches import Message, PartitionBatch
from streams.tracing import list_sampled


def traceparent(number: int, *, sampled: bool = True) -> str:
    """Return a valid traceparent, with another trace for each number."""
    return f"00-{number + 1:032x}-{number + 1:016x}-{'01' if sampled else '00'}"


def batch(*headers: list[tuple[str, bytes | None]]) -> PartitionBatch:
    """Return one message for each list of headers, as a batch of one partition."""
    messages = [Message("topic", 0, offset, 0, None, None, given) for offset, given in enumerate(headers)]
    return PartitionBatch("topic", 0, 0, messages, len(messages))


def header(value: str) -> tuple[str, bytes]:
    """Return the header that carries a trace."""
    return "traceparent", value.encode()


def test_sampled_messages_are_linked_once_each_and_no_more_than_the_bound() -> None:
    first, second, unsampled = traceparent(1), traceparent(2), traceparent(3, sampled=False)
    of_one = [("other", b"x"), header(first)]
    found = list_sampled([batch(of_one, of_one, [header(unsampled)], [], [header(second)]), batch([header(first)])])
    assert found == [first, second]
    many = batch(*([header(traceparent(number))] for number in range(tracing.LINKS_MAX + 5)))
    assert list_sampled([many]) == [traceparent(number) for number in range(tracing.LINKS_MAX)]


@given(value=st.none() | st.binary(max_size=60))
def test_hostile_headers_are_no_trace(value: bytes | None) -> None:
    assert list_sampled([batch([("traceparent", value), header(traceparent(1))])]) == []


def test_a_batch_is_linked_to_where_it_ends() -> None:
    waiting = TracedBatches(instance=0, instances=2)
    waiting.add([TracedBatch("a", {0: 10, 1: 7, 2: 5}), TracedBatch("b", {0: 20}), TracedBatch("others", {1: 9, 3: 1})])
    assert waiting.take({0: (0, 9)}) == []
    assert waiting.take({0: (9, 15)}) == ["a"]
    assert waiting.take({0: (15, 20), 2: (0, 5)}) == ["a", "b"], "a ends in another lane too"
    assert waiting.take({0: (20, 30), 2: (5, 9)}) == []


def test_what_is_told_late_is_linked_to_nothing() -> None:
    waiting = TracedBatches(instance=0, instances=1)
    waiting.add([TracedBatch("late", {0: 10})])
    assert waiting.take({0: (10, 12)}) == []
    assert waiting.take({0: (12, 13)}) == []


class _Tracer:
    """A tracer that keeps the spans it is asked for. `chance` decides whether traces that begin here are sampled."""

    def __init__(self, *, chance: bool) -> None:
        self.chance = chance
        self.asked: list[tuple[str | None, dict[Attribute, Any]]] = []
        self.said: dict[Attribute, Any] = {}
        self.name = ""
        self.failed: list[str] = []
        self.ended = 0
        self.traceparent = traceparent(9)

    def begins_sampled(self) -> bool:
        return self.chance

    def span(self, _name: str, kind: Kind, attributes: Any, *, parent: str | None = None, links: Any = ()) -> "_Tracer":
        assert (kind, links) == (Kind.SERVER, ())
        self.asked.append((parent, attributes))
        return self

    def stop(self, seconds_max: float) -> None: ...

    def rename(self, name: str) -> None:
        self.name = name

    def put(self, attributes: Any) -> None:
        self.said |= attributes

    def mark(self, event: str) -> None: ...

    def link(self, traceparents: Any) -> None: ...

    def fail(self, error_type: str) -> None:
        self.failed.append(error_type)

    def end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize(
    ("caller", "chance", "parent"),
    [
        ("", True, None),
        ("", False, "no span"),
        ("rubbish", True, None),
        (traceparent(1), False, traceparent(1)),
        (traceparent(1, sampled=False), True, "no span"),
    ],
)
def test_the_caller_decides_and_else_chance(caller: str, chance: bool, parent: str | None) -> None:
    tracer = _Tracer(chance=chance)
    span = begin_span(tracer, Headers({"traceparent": caller}), {"scheme": "http"})
    assert [asked for asked, _ in tracer.asked] == ([] if parent == "no span" else [parent])
    assert (span is None) == (parent == "no span")


@pytest.mark.parametrize(("status", "failed"), [(202, []), (422, []), (503, ["503"]), (0, [])])
def test_what_a_server_fails_at_is_an_error(status: int, failed: list[str]) -> None:
    span = _Tracer(chance=True)
    end_span(span, "GET", "/v1/accounts/{address}/balances", status)
    assert (span.name, span.failed, span.ended) == ("GET /v1/accounts/{address}/balances", failed, 1)
    assert span.said.get(Attribute.HTTP_STATUS) == (status or None)


def test_a_trace_that_begins_here_is_not_said_to_be_sampled() -> None:
    """Nobody recorded the span that this traceparent names."""
    assert not tracing.is_sampled(read_trace(Headers({})).traceparent)
    assert tracing.is_traceparent(read_trace(Headers({})).traceparent)


@given(numbers=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 10**12)), max_size=30))
def test_ranges_name_the_bounds_of_each_partition(numbers: list[tuple[int, int]]) -> None:
    for text in tracing.format_ranges(numbers):
        partition, bounds = text.split(":")
        of_it = [number for place, number in numbers if place == int(partition)]
        assert bounds == f"{min(of_it)}-{max(of_it)}"
    assert len(tracing.format_ranges(numbers)) == len({partition for partition, _ in numbers})
