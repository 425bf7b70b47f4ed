"""A sweep takes all of an agent's time while no batch comes, and one page per call while batches take all of it."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Gauge

from streams.proof.proving import PagedSweep, SpareTime


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_batches_leave() -> None:
    clock = Clock()
    spare = SpareTime(clock)
    clock.now += 1
    assert spare.share() == 1.0
    for seconds in (0.25, 0.5):
        with spare.batch():
            clock.now += seconds
    clock.now += 0.25
    assert spare.share() == 0.25
    with spare.batch():
        clock.now += 1
    assert spare.share() == 0.0
    assert spare.share() == 0.0, "no time at all leaves none"
    clock.now += 1
    assert spare.share() == 1.0


def sweep(pages: int, pause_seconds: float) -> tuple[PagedSweep, list[int]]:
    turned: list[int] = []

    def walk() -> Iterator[None]:
        for number in range(pages):
            turned.append(number)
            yield

    gauge = Gauge("swept_seconds", "For this test.", registry=CollectorRegistry())
    return PagedSweep(walk, pause_seconds, gauge), turned


def test_a_sweep_that_has_no_time_turns_a_page_at_each_call() -> None:
    made, turned = sweep(3, 0.0)
    for count in (1, 2, 3):
        made.turn_pages(0.0)
        assert len(turned) == count
    made.turn_pages(0.0)  # this call ends the sweep, and the next call starts a new one
    made.turn_pages(0.0)
    assert turned == [0, 1, 2, 0]


def test_a_sweep_that_has_time_goes_through_and_then_waits_for_its_pause() -> None:
    made, turned = sweep(3, 3600.0)
    made.turn_pages(60.0)
    assert turned == [0, 1, 2]
    made.turn_pages(60.0)
    assert turned == [0, 1, 2]
