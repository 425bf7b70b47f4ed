"""Metrics with logic behind them: latencies by batch, lag in seconds, symmetry, and lanes that move away."""

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from api.metrics import PoolCollector
from db.breaks import OpenBreaks
from domain.breaks import BreakKind
from producers.kafka_statistics import QUEUE, RTT, make_statistics_options
from runtime.metrics import LATENCY_SECONDS_BUCKETS, LatencyHistogram, show_age
from streams.batches import Place
from streams.lag import STEPS_MAX, Lag, LagWatch, PartitionEnd
from streams.metrics import AgentMetrics
from streams.proof.metrics import show_breaks
from streams.proof.reconciliation.metrics import OTHER_UNITS, show_symmetry

NOW_MS = 1_700_000_000_000


def samples(registry: Any) -> dict[str, float]:
    """Return every exposed series of a registry as name and labels -> value."""
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


# ---------------------------------------------------------------------------------------------------- latencies


@given(st.lists(st.integers(min_value=0, max_value=400_000), max_size=60), st.integers(min_value=1, max_value=4))
def test_a_batch_counts_as_its_observations_would_one_by_one(latencies_ms: list[int], batches: int) -> None:
    registry = CollectorRegistry()
    ours = LatencyHistogram("ours_seconds", "For this test.", registry)
    theirs = Histogram("theirs_seconds", "For this test.", buckets=LATENCY_SECONDS_BUCKETS, registry=registry)
    for number in range(batches):
        batch = latencies_ms[number::batches]
        ours.observe_since([NOW_MS - latency for latency in batch], NOW_MS)
        for latency in batch:
            theirs.observe(latency / 1000)
    found = samples(registry)
    assert len(found) == 2 * (len(LATENCY_SECONDS_BUCKETS) + 3)
    for name, value in found.items():
        assert value == pytest.approx(found[name.replace("ours", "theirs")]), name


def test_a_clock_ahead_counts_as_now_and_no_timestamp_as_nothing() -> None:
    registry = CollectorRegistry()
    histogram = LatencyHistogram("ours_seconds", "For this test.", registry)
    histogram.observe_since([NOW_MS + 5000, NOW_MS, NOW_MS - 400_000, 0, -1], NOW_MS)
    found = samples(registry)
    assert found["ours_seconds_bucket le=0.01"] == 2
    assert found["ours_seconds_bucket le=300.0"] == 2
    assert found["ours_seconds_bucket le=+Inf"] == found["ours_seconds_count"] == 3
    assert found["ours_seconds_sum"] == 400
    histogram.observe_since([])
    assert samples(registry) == found


# ---------------------------------------------------------------------------------------------------- lag


def looked(*ends: int, start: float = 1000.0) -> PartitionEnd:
    """Return a partition whose end was looked up each second. The last look is at start + len(ends) - 1."""
    made = PartitionEnd()
    for second, end in enumerate(ends):
        made.look(end, start + second)
    return made


def test_nothing_waits_where_all_is_processed() -> None:
    assert PartitionEnd().lag(0, None) == Lag(0, None)
    assert looked(5, 5).lag(5, None) == Lag(0, None)
    assert looked(5, 5).lag(6, None) == Lag(0, None), "it was processed before the next look"


def test_a_record_came_between_two_looks() -> None:
    end = looked(5, 5, 8, 8)
    assert end.lag(5, None) == Lag(3, 1002), "it was not there at 1001"
    assert end.lag(5, 1001.5) == Lag(3, 1001.5), "its own timestamp says where between the two"
    assert end.lag(5, 12.0) == Lag(3, 1001), "which a clock that is wrong cannot leave"
    assert end.lag(5, 9000.0) == Lag(3, 1002)


def test_the_first_record_after_an_idle_hour_has_not_waited_for_an_hour() -> None:
    end = looked(*[5] * 3600, 6)
    assert end.lag(5, None) == Lag(1, 4600)


def test_what_waits_is_as_old_as_its_oldest_while_newer_ones_come() -> None:
    end = looked(*range(100, 160))
    assert end.lag(100, None) == Lag(59, 1001)
    assert end.lag(130, None) == Lag(29, 1031), "and as it is worked off, it is as old as what is left"
    assert end.lag(159, None) == Lag(0, None)


def test_what_was_there_before_the_first_look_has_its_own_timestamp() -> None:
    end = looked(50, 50)
    assert end.lag(20, None) == Lag(30, 1000), "until that is known it counts from the first look"
    assert end.lag(20, 400.0) == Lag(30, 400)
    end.look(60, 1002)
    assert end.lag(50, 400.0) == Lag(10, 1001), "and what came since is known better"


def test_a_lane_that_is_read_again_from_its_beginning_is_as_late_as_its_records() -> None:
    end = looked(50, 60, 70)
    assert end.lag(70, None) == Lag(0, None)
    assert end.lag(0, 300.0) == Lag(70, 300)
    end.look(80, 1003)
    assert end.lag(10, 310.0) == Lag(70, 310)


def test_after_a_sleep_the_timestamp_decides() -> None:
    """The process slept from 1001 to 8000, so the looks do not show when the record arrived in between."""
    end = looked(5, 5)
    end.look(9, 8000)
    assert end.lag(5, 7990.0) == Lag(4, 7990)
    assert end.lag(5, None) == Lag(4, 8000)


def test_a_topic_that_became_shorter_is_begun_anew() -> None:
    end = looked(50, 60)
    end.look(3, 1002)
    assert end.lag(60, None) == Lag(0, None)
    assert end.lag(0, 900.0) == Lag(3, 900)


def test_a_lane_that_stands_for_days_costs_little_and_keeps_its_age() -> None:
    seconds = 40 * STEPS_MAX
    end = looked(*range(10, 10 + seconds))
    assert len(end._steps) <= STEPS_MAX
    for offset in (5, 11, 1000, seconds // 2, seconds - 1000, seconds + 8):
        records, since = end.lag(offset, None)
        assert records == 9 + seconds - offset
        assert since == pytest.approx(1000 + max(offset - 9, 0), abs=seconds / 1000)
    end.look(10 + seconds, 1000.0 + seconds)
    end.lag(9 + seconds, None)
    end.look(11 + seconds, 1001.0 + seconds)
    assert end.lag(10 + seconds, None) == Lag(1, 1001 + seconds), "and is exact again behind it"


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=60))
def test_the_age_is_exact_to_the_pace_of_looks(steps: list[tuple[int, int]]) -> None:
    """The reported age is that of the oldest record, with an error of one look at most, for any arrivals and pace."""
    arrivals: list[int] = []
    end, done = PartitionEnd(), 0
    end.look(0, 1.0)
    for now, (came, processed) in enumerate(steps, 2):
        arrivals += [now] * came  # just before this look
        end.look(len(arrivals), float(now))
        done = min(done + processed, len(arrivals))
        expected = Lag(len(arrivals) - done, arrivals[done]) if done < len(arrivals) else Lag(0, None)
        assert end.lag(done, None) == expected


def lag_of(agent: str) -> dict[str, float]:
    """Return what this process reports of an agent's lag."""
    from prometheus_client import REGISTRY

    return {
        name.removeprefix("ledgerline_agent_lag_"): value
        for name, value in samples(REGISTRY).items()
        if name.startswith("ledgerline_agent_lag_") and f"agent={agent} " in name
    }


def test_a_lane_that_moved_to_another_worker_is_told_of_no_more() -> None:
    metrics = AgentMetrics("moving")
    metrics.show_lags({0: Lag(7, time.time() - 30), 3: Lag(0, None)})
    found = lag_of("moving")
    assert found.pop("seconds agent=moving partition=0") == pytest.approx(30, abs=5)
    assert found == {
        "records agent=moving partition=0": 7,
        "records agent=moving partition=3": 0,
        "seconds agent=moving partition=3": 0,
    }
    metrics.show_lags({3: Lag(0, None)})
    assert set(lag_of("moving")) == {"records agent=moving partition=3", "seconds agent=moving partition=3"}
    metrics.show_lags({})
    assert lag_of("moving") == {}
    metrics.show_lags({0: Lag(1, None)})
    assert set(lag_of("moving")) == {"records agent=moving partition=0", "seconds agent=moving partition=0"}


def test_an_age_grows_by_itself_and_never_falls_below_nothing() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("age_seconds", "For this test.", registry=registry)
    show_age(gauge, time.time() - 100)
    first = samples(registry)["age_seconds"]
    assert first == pytest.approx(100, abs=5)
    assert samples(registry)["age_seconds"] > first, "though nobody has set it"
    show_age(gauge, time.time() + 100)
    assert samples(registry)["age_seconds"] == 0
    show_age(gauge, None)
    assert samples(registry)["age_seconds"] == 0


# ---------------------------------------------------------------------------------------------------- symmetry, breaks


@pytest.fixture
def symmetry() -> Iterator[Any]:
    """Yield a function that shows totals and returns the gauges as currency -> debits, credits, difference."""
    from prometheus_client import REGISTRY

    from streams.proof.reconciliation.metrics import SYMMETRY_CREDITS, SYMMETRY_DEBITS, SYMMETRY_DIFFERENCE

    gauges = (SYMMETRY_DEBITS, SYMMETRY_CREDITS, SYMMETRY_DIFFERENCE)

    def shown(totals: dict[tuple[str, str, str], tuple[int, int]]) -> dict[str, tuple[float, ...]]:
        for gauge in gauges:
            gauge.clear()
        show_symmetry(totals)
        found = samples(REGISTRY)
        names = [f"ledgerline_symmetry_{side}_minor currency=" for side in ("debits", "credits", "difference")]
        currencies = {name.removeprefix(names[0]) for name in found if name.startswith(names[0])}
        return {currency: tuple(found[name + currency] for name in names) for currency in currencies}

    yield shown
    for gauge in gauges:
        gauge.clear()


def test_debits_less_credits_by_currency(symmetry: Any) -> None:
    assert symmetry({}) == {}
    assert symmetry(
        {
            ("a", "EUR", "asset"): (700, 0),
            ("a", "EUR", "liability"): (100, 800),
            ("b", "EUR", "asset"): (5, 5),
            ("a", "USD", "asset"): (3, 0),
            ("a", "MILES", "asset"): (9, 9),
            ("b", "STARS", "asset"): (1, 1),
        }
    ) == {"EUR": (805, 805, 0), "USD": (3, 0, 3), OTHER_UNITS: (10, 10, 0)}


def test_one_minor_unit_shows_where_a_float_has_lost_it(symmetry: Any) -> None:
    vast = 10**30
    assert float(vast + 1) == float(vast)
    assert symmetry({("a", "EUR", "asset"): (vast + 1, vast)})["EUR"][2] == 1
    assert symmetry({("a", "EUR", "asset"): (vast, vast + 1)})["EUR"][2] == -1


def test_what_one_has_too_much_hides_nothing_that_another_lacks(symmetry: Any) -> None:
    assert symmetry({("a", "EUR", "asset"): (7, 0), ("b", "EUR", "asset"): (0, 7)})["EUR"] == (7, 7, 7)
    assert symmetry({("a", "MILES", "asset"): (7, 0), ("a", "STARS", "asset"): (0, 9)})[OTHER_UNITS] == (7, 9, -9)


def test_every_kind_of_break_has_a_term() -> None:
    assert {kind.term_seconds for kind in BreakKind} == {10, 300}
    assert [kind.value for kind in BreakKind if kind.term_seconds == 300] == ["conservation", "balance", "chain"]


def test_breaks_of_every_kind_are_told_and_those_that_are_gone_read_0() -> None:
    from prometheus_client import REGISTRY

    def told(found_by: str) -> dict[str, float]:
        found = samples(REGISTRY).items()
        return {name: value for name, value in found if f"found_by={found_by} " in name and value}

    opened = (time.time() - 500) * 1_000_000
    show_breaks("tests", {("stored", "open"): 2, ("balance", "explained"): 1}, {"stored": OpenBreaks(int(opened), 1)})
    found = told("tests")
    assert found.pop("ledgerline_breaks_oldest_age_seconds found_by=tests kind=stored") == pytest.approx(500, abs=5)
    assert found == {
        "ledgerline_breaks_open found_by=tests kind=stored state=open": 2,
        "ledgerline_breaks_open found_by=tests kind=balance state=explained": 1,
        "ledgerline_breaks_overdue found_by=tests kind=stored": 1,
    }
    show_breaks("tests", {}, {})
    assert told("tests") == {}
    ages = [
        name for name in samples(REGISTRY) if name.startswith("ledgerline_breaks_oldest_age_seconds found_by=tests")
    ]
    assert len(ages) == len(BreakKind)


# ---------------------------------------------------------------------------------------------------- pool and clients


def test_the_pool_is_asked_at_each_scrape() -> None:
    registry = CollectorRegistry()
    state = {"pool_size": 5, "pool_available": 3}
    registry.register(PoolCollector(lambda: state))
    assert samples(registry) == {
        "ledgerline_postgres_pool_connections state=idle": 3,
        "ledgerline_postgres_pool_connections state=busy": 2,
        "ledgerline_postgres_pool_requests_waiting": 0,
        "ledgerline_postgres_pool_wait_seconds_total": 0,
    }
    state.update(pool_available=0, requests_waiting=4, requests_wait_ms=2500)
    assert samples(registry) == {
        "ledgerline_postgres_pool_connections state=idle": 0,
        "ledgerline_postgres_pool_connections state=busy": 5,
        "ledgerline_postgres_pool_requests_waiting": 4,
        "ledgerline_postgres_pool_wait_seconds_total": 2.5,
    }
    queued = CollectorRegistry()
    queued.register(PoolCollector(lambda: state, lambda: 3))
    assert samples(queued)["ledgerline_postgres_pool_requests_waiting"] == 7


def test_of_several_brokers_the_slowest_counts() -> None:
    show = make_statistics_options("tests")["stats_cb"]
    broker = '{"rtt": {"avg": %d, "cnt": %d}}'
    show(
        f'{{"msg_cnt": 12, "brokers": {{"a": {broker % (1500, 3)}, "b": {broker % (9000, 1)},'
        f' "c": {broker % (99999, 0)}}}}}'
    )
    assert (QUEUE.labels("tests")._value.get(), RTT.labels("tests")._value.get()) == (12, 0.009)
    show(f'{{"msg_cnt": 0, "brokers": {{"a": {broker % (1500, 0)}}}}}')
    assert (QUEUE.labels("tests")._value.get(), RTT.labels("tests")._value.get()) == (0, 0)
    QUEUE.clear()
    RTT.clear()


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


def test_lags_of_several_topics_are_labelled_with_topic_and_number() -> None:
    metrics = AgentMetrics("labelled")
    metrics.show_lags({Place("a", 0): Lag(3, None), Place("b", 0): Lag(4, None)})

    def shown() -> dict[str, float]:
        return {
            key: value for key, value in samples(REGISTRY).items() if "agent=labelled" in key and "lag_records" in key
        }

    told = "ledgerline_agent_lag_records agent=labelled partition="
    assert shown() == {f"{told}a/0": 3, f"{told}b/0": 4}
    metrics.show_lags({Place("b", 0): Lag(1, None)})
    assert shown() == {f"{told}b/0": 1}
    metrics.show_lags({})
