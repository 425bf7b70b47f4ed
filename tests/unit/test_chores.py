"""A sweep takes all of an agent's time while no batch comes, and one page per call while batches take all of it.

Open breaks are checked again page by page, and those that are gone are resolved.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry, Gauge

from domain.breaks import Break, BreakKind, Finding
from streams.proof import chores
from streams.proof.chores import Chores, PagedSweep, SpareTime


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
    assert spare.compute_share() == 1.0
    for seconds in (0.25, 0.5):
        with spare.batch():
            clock.now += seconds
    clock.now += 0.25
    assert spare.compute_share() == 0.25
    with spare.batch():
        clock.now += 1
    assert spare.compute_share() == 0.0
    assert spare.compute_share() == 0.0, "no time at all leaves none"
    clock.now += 1
    assert spare.compute_share() == 1.0


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


class Breaks:
    """A prover's breaks in memory, by their number."""

    found_by = "audit"

    def __init__(self, count: int) -> None:
        self.open = {UUID(int=number): BreakKind.STORED for number in range(1, count + 1)}
        self.recorded: list[Finding] = []
        self.resolved: list[tuple[Any, str]] = []

    def unresolved(self, _: Any, limit: int, after: UUID, kinds: Sequence[BreakKind]) -> list[Break]:
        assert kinds == (BreakKind.STORED,)
        numbers = [break_id for break_id in sorted(self.open) if break_id > after]
        return [Break(number, "audit", "stored", "s", "open", 0, 0, "", {}, 0, 0) for number in numbers[:limit]]

    def record(self, _: Any, findings: list[Finding]) -> None:
        self.recorded += findings

    def resolve(self, _: Any, break_ids: Sequence[UUID], detail: str) -> None:
        for break_id in break_ids:
            del self.open[break_id]
            self.resolved.append((break_id.int, detail))

    def resolve_about(self, _: Any, about: Iterable[tuple[BreakKind, str]], detail: str) -> None:
        self.resolved += [(place, detail) for place in sorted(about)]

    def counts(self, _: Any) -> dict[tuple[str, str], int]:
        return {("stored", "open"): len(self.open)}

    def open_breaks(self, _: Any) -> dict[str, Any]:
        return {}


class TestedChores(Chores):
    """Chores that look at odd breaks only: even ones are gone."""

    __test__ = False
    budget_seconds = 0.0
    resolved_detail = "It is gone."
    rechecked_kinds = (BreakKind.STORED,)

    def __init__(self, breaks: int) -> None:
        self.done: list[str] = []
        super().__init__(self, 3600.0, Gauge("s", "For this test.", registry=CollectorRegistry()))  # type: ignore[arg-type]
        self.table = Breaks(breaks)
        self.breaks = self.table  # type: ignore[assignment]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        yield

    def check_progress(self) -> None:
        self.done.append("progress")

    def _pages(self) -> Iterator[None]:
        for number in range(3):
            self.done.append(f"page {number}")
            yield

    def _is_gone(self, connection: Any, item: Break) -> bool:  # noqa: ARG002
        return item.break_id.int % 2 == 0


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> TestedChores:
    monkeypatch.setattr(chores, "RECHECKED_MAX", 4)
    monkeypatch.setattr(chores, "show_breaks", lambda *_: None)
    return TestedChores(9)


def test_breaks_are_rechecked_page_by_page_and_then_from_the_first_again(made: TestedChores) -> None:
    gone = [(number, "It is gone.") for number in (2, 4, 6, 8)]
    assert made.recheck()
    assert made.table.resolved == gone[:2]
    assert made.recheck()
    assert made.table.resolved == gone
    assert not made.recheck(), "the last page is not full"
    assert [break_id.int for break_id in made.table.open] == [1, 3, 5, 7, 9]
    made.table.open[UUID(int=2)] = BreakKind.STORED
    assert made.recheck()
    assert made.table.resolved == [*gone, gone[0]], "this page is the first one again"


def test_each_call_rechecks_and_turns_a_page_and_gauges_wait_until_they_are_due(made: TestedChores) -> None:
    made.run()
    made.run()
    assert made.done == ["progress", "page 0", "page 1"]
    assert [number for number, _ in made.table.resolved] == [2, 4, 6, 8]
    made.done.clear()
    made.sweep_all()
    assert made.done == ["progress", "page 0", "page 1", "page 2"]


def test_a_subject_without_a_finding_is_resolved(made: TestedChores) -> None:
    wrong = Finding(BreakKind.STORED, "lane 1 head", "It differs.", 1)
    checked = [(kind, f"lane {lane} head") for kind in (BreakKind.CHAIN, BreakKind.STORED) for lane in (0, 1)]
    made._settle(None, [wrong], checked, "It is right.")
    assert made.table.recorded == [wrong]
    right = [(BreakKind.CHAIN, "lane 0 head"), (BreakKind.CHAIN, "lane 1 head"), (BreakKind.STORED, "lane 0 head")]
    assert made.table.resolved == [(place, "It is right.") for place in right]
