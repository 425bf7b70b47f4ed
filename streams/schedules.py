"""Schedules on the clock, and what became of their intents."""

from collections.abc import Sequence
from datetime import tzinfo
from typing import Final
from uuid import UUID

from db import schedules as store
from db.connections import Transaction
from domain.effects import NOTHING, Effects, Settled
from domain.schedules.states import Schedule, StateFault, Step, act, settle
from runtime.zones import find_zone


class DueSchedules:
    """Schedules whose current occurrence is due, or whose next attempt is."""

    name = "schedules"

    def claim(self, transaction: Transaction, now: int, items_max: int) -> Sequence[Schedule]:
        """Return due schedules, the oldest first, locked until the commit."""
        return store.claim(transaction, now, items_max)

    def get_due_time(self, item: Schedule) -> int:
        """Return when the clock should have come to the schedule, in microseconds since 1970."""
        return item.due_time or item.not_before

    def act_all(self, transaction: Transaction, items: Sequence[Schedule], now: int) -> Effects:
        """Hand over the intent of each schedule's current occurrence, or skip occurrences as its policy says."""
        steps = [act(item, _get_zone(item), now) for item in items]
        store.write_steps(transaction, steps)
        return _collect(steps)

    def defer(self, transaction: Transaction, item: Schedule, until: int, reason: str) -> None:
        """Keep a schedule that failed from being due before `until`."""
        store.defer(transaction, item, until, reason)


DUE: Final = DueSchedules()


def note_outcome(transaction: Transaction, settled: Settled) -> Effects:
    """Note what became of an occurrence's intent, and move the schedule on. Raise StateFault if it cannot be ours."""
    schedule_id, number, *attempts = settled.key_parts
    schedule = store.lock(transaction, settled.tenant, UUID(schedule_id))
    if schedule is None:
        raise StateFault(f"There is no schedule {schedule_id} of tenant {settled.tenant}.")
    attempt = int(attempts[0]) if attempts else 1
    step = settle(
        schedule, int(number), attempt, settled.intent_id, settled.outcome, settled.reason, settled.detail,
        _get_zone(schedule), settled.booked_time,
    )  # fmt: skip
    if step.schedule is schedule:
        return NOTHING
    store.write_steps(transaction, [step])
    return _collect([step])


def _get_zone(schedule: Schedule) -> tzinfo:
    zone = find_zone(schedule.zone)
    if zone is None:
        raise StateFault(f"The time zone {schedule.zone} of schedule {schedule.schedule_id} is not known here.")
    return zone


def _collect(steps: Sequence[Step]) -> Effects:
    return Effects(
        tuple(event for step in steps for event in step.events),
        tuple(intent for step in steps for intent in step.intents),
    )
