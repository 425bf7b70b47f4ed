"""The console's figures without a database: measurements, sums, and pulses for each viewer."""

import asyncio
from typing import Any

import pytest

from api.console.feed import PULSES_WAITING_MAX, Feed, Pulse, Viewer, describe_feed
from api.console.latency import PENDING_MAX, AcceptTimes
from db.connections import DatabaseError
from db.operations import LaneProgress
from db.overview import Overview
from runtime.positions import Positions
from tests.posting_bench import eventually


def lane(number: int, **changes: Any) -> LaneProgress:
    """Return a lane with ten rows, all reconciled and audited."""
    figures = {
        "lane": number, "topic": "payments.intents", "topic_id": "a", "first_offset": 5, "next_offset": 15,
        "next_seq": 10, "head": bytes(32), "booked_time": 3_000_000, "reconciled_seq": 10, "audited_seq": 10,
        "posted": 6, "duplicate": 1, "idempotency_conflict": 1, "rejected": 1, "quarantined": 1, "missing": 0,
    }  # fmt: skip
    return LaneProgress(**{**figures, **changes})


def seen(lanes: list[LaneProgress], ends: Positions | None) -> dict[str, Any]:
    return describe_feed(Overview(lanes, [], [], None), ends, None, [])


def test_each_lane_is_as_far_behind_as_its_stages_are_apart() -> None:
    rows = [lane(0, reconciled_seq=8, posted=4, audited_seq=None)]
    shown = seen(rows, Positions({0: 5, 1: 3}, {0: 18, 1: 4}, {0: 9}))
    first, second = shown["lanes"]
    stages = ("received", "journalled", "unposted", "unrelayed", "unreconciled", "unaudited")
    assert [first[name] for name in stages] == [13, 10, 3, 1, 2, 10]
    assert (second["received"], second["journalled"], second["unposted"], second["booked_time"]) == (1, 0, 1, None)
    assert first["booked_time"] == 3_000
    assert (shown["totals"]["received"], shown["totals"]["unposted"]) == (14, 4)
    assert (shown["fates"]["posted"], shown["conservation_gap"]) == (4, 0)


@pytest.mark.parametrize(
    ("changes", "gap"),
    [({"posted": 5}, 1), ({"posted": 7}, 1), ({"posted": 5, "missing": 1}, 0), ({"reconciled_seq": None}, 10)],
)
def test_a_lane_that_does_not_add_up_is_told(changes: dict[str, Any], gap: int) -> None:
    assert seen([lane(0), lane(1, **changes)], None)["conservation_gap"] == gap


def test_one_lane_does_not_make_up_for_another() -> None:
    assert seen([lane(0, posted=5), lane(1, posted=7)], None)["conservation_gap"] == 2


def test_what_could_not_be_learned_is_none_and_not_nought() -> None:
    without_kafka = seen([lane(0)], None)
    assert (without_kafka["totals"]["received"], without_kafka["lanes"][0]["unposted"]) == (None, None)
    assert without_kafka["lanes"][0]["unaudited"] == 0
    without_postgres = describe_feed(None, Positions({0: 0}, {0: 7}, {0: 7}), None, ["away"])
    assert (without_postgres["lanes"][0]["received"], without_postgres["lanes"][0]["journalled"]) == (7, None)
    assert (without_postgres["fates"], without_postgres["breaks"], without_postgres["faults"]) == (None, None, ["away"])


def test_a_viewer_that_is_slow_loses_the_oldest() -> None:
    viewer = Viewer("default")
    pulses = [Pulse({"number": number}, []) for number in range(10)]
    for pulse in pulses:
        viewer.hand(pulse)
    left = [viewer.pulses.get_nowait() for _ in range(viewer.pulses.qsize())]
    assert left == pulses[-PULSES_WAITING_MAX:]


class Clock:
    """A clock that returns the microseconds set by the test."""

    now = 0

    def __call__(self) -> int:
        return self.now


def test_latency_is_from_accepted_to_announced() -> None:
    clock = Clock()
    times = AcceptTimes(clock)
    times.watch(is_watched=True)
    for offset in range(100):
        times.note(0, offset, offset * 10_000)
    times.note(1, 7, 0)
    clock.now = 1_000_000
    times.announce({0: 100})
    found = times.take()
    assert found is not None
    assert (found.intents, found.p50, found.p95, found.p99) == (100, 0.51, 0.96, 1.0)
    assert times.take() is None
    clock.now = 2_000_000
    times.announce({1: 8})
    assert times.take() == (1, 2.0, 2.0, 2.0)
    times.note(1, 3, 1_500_000)  # posting announced offset 3 before Kafka acknowledged it to the API
    assert times.take() == (1, 0.5, 0.5, 0.5)


def test_nothing_is_kept_while_nobody_watches() -> None:
    times = AcceptTimes()
    times.announce({0: 5})
    assert times.take() is None
    times.watch(is_watched=True)
    for offset in range(2 * PENDING_MAX):
        times.note(0, 10 + offset, 0)
    assert len(times._pending[0]) == PENDING_MAX
    times.watch(is_watched=False)
    assert times._pending == {}


class Ends:
    """Stands in for Kafka and counts the reads."""

    def __init__(self) -> None:
        self.reads = 0
        self.is_closed = False

    def read(self) -> Positions:
        self.reads += 1
        return Positions({0: 0}, {0: self.reads}, {0: 0})

    def close(self) -> None:
        self.is_closed = True


class Away:
    """Stands in for a Postgres that does not answer."""

    async def ask(self, _question: Any) -> Any:
        raise DatabaseError("Postgres does not answer.")


async def test_one_look_serves_all_and_none_is_made_for_nobody() -> None:
    made: list[Ends] = []

    def ends() -> Ends:
        made.append(Ends())
        return made[-1]

    feed = Feed(Away(), AcceptTimes(), ends)  # type: ignore[arg-type]
    viewers = [feed.join("default") for _ in range(3)]
    for _ in range(2):
        pulses = [await viewer.pulses.get() for viewer in viewers]
        assert pulses[0] is pulses[1] is pulses[2]
        assert pulses[0] is not None
        assert pulses[0].shared["faults"] == ["Postgres does not answer."]
    assert feed.looks == made[0].reads <= 3
    for viewer in viewers:
        feed.leave(viewer)
    await asyncio.to_thread(eventually, lambda: made[0].is_closed, "the reader is let go of")
    looks = feed.looks
    again = feed.join("default")
    assert (await again.pulses.get()) is not None
    assert len(made) == 2
    assert feed.looks == looks + 1
    await feed.close()
    assert made[1].is_closed
    assert feed.is_closed
    ended = [again.pulses.get_nowait() for _ in range(again.pulses.qsize())]
    assert ended[-1] is None
    late = feed.join("default")
    assert late.pulses.get_nowait() is None


async def test_a_bug_in_a_look_ends_the_streams_and_the_next_viewer_begins_anew(caplog: Any) -> None:
    class Broken(Ends):
        def read(self) -> Positions:
            raise ZeroDivisionError

    makes = iter([Broken(), Ends()])
    feed = Feed(Away(), AcceptTimes(), lambda: next(makes))  # type: ignore[arg-type]
    viewer = feed.join("default")
    assert (await viewer.pulses.get()) is None
    feed.leave(viewer)
    again = feed.join("default")
    assert (await again.pulses.get()) is not None
    feed.leave(again)
    await feed.close()
