"""Shrink a failing run to the smallest plan that fails the same way: delta debugging (Zeller, Hildebrandt, 2002)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from tests.simulation.world import Parts, Plan, Result, run

RUNS_MAX: Final = 1500


class Shrinker:
    """Drops choices, then intents, then spare relays, as long as the same invariant is violated."""

    def __init__(self, failed: Result, parts: Parts) -> None:
        assert failed.violation is not None
        self._invariant = failed.violation.invariant
        self._parts = parts
        self._runs = 0
        self.plan = failed.plan

    def shrink(self) -> Result:
        """Return the shortest failing run that was found, with its story."""
        self._try(replace(self.plan, calm_step=0))
        size = None
        while size != (size := self._size()) and self._runs < RUNS_MAX:
            self._drop(self.plan.choices, lambda kept: replace(self.plan, choices=tuple(kept)))
            for lane in range(len(self.plan.lanes)):
                self._drop(self.plan.lanes[lane], lambda kept, lane=lane: self._with_lane(lane, kept))
            if len(set(self.plan.relays)) < len(self.plan.relays):  # without any relay, nothing would be relayed
                self._try(replace(self.plan, relays=self.plan.relays[:1]))
        return run(self.plan, parts=self._parts, telling=True)

    def _size(self) -> tuple[int, int]:
        return len(self.plan.choices), sum(map(len, self.plan.lanes))

    def _with_lane(self, lane: int, kept: Sequence[str]) -> Plan:
        lanes = [tuple(kept) if number == lane else texts for number, texts in enumerate(self.plan.lanes)]
        return replace(self.plan, lanes=tuple(lanes))

    def _try(self, plan: Plan) -> bool:
        """Take the plan if it fails the same way; return whether it was taken."""
        self._runs += 1
        found = run(plan, parts=self._parts)
        if found.violation is None or found.violation.invariant != self._invariant:
            return False
        # Choices that the run skipped had no part in the failure.
        self.plan = replace(plan, choices=found.plan.choices)
        return True

    def _drop(self, items: Sequence[Any], plan_of: Callable[[Sequence[Any]], Plan]) -> None:
        """Drop chunks of the items, from half of them down to one at a time."""
        kept = list(items)
        length = max(len(kept) // 2, 1)
        while kept and self._runs < RUNS_MAX:
            for shorter in _without_chunks(kept, length):
                if self._try(plan_of(shorter)):
                    kept = shorter
                    break
            else:
                if length == 1:
                    return
                length //= 2


def _without_chunks(items: list[Any], length: int) -> Iterator[list[Any]]:
    for start in reversed(range(0, len(items), length)):
        yield items[:start] + items[start + length :]
