"""What happens to a schedule: pure changes of its state, each with the events that tell of it.

A schedule is active, paused or ended. It has one current occurrence: due later, in flight (its intent was handed over
and is not settled), or refused and waiting for its next attempt. The next occurrence follows when the current one is
posted, skipped or refused for good. So occurrences are posted in order, whatever was down.
"""

from collections.abc import Mapping
from datetime import datetime, tzinfo
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

from domain.effects import make_own_key
from domain.events import Event
from domain.intents import DIRECTIONS, Intent, Leg, compute_intent_id
from domain.outcomes import Outcome, Reason
from domain.schedules.recurrence import Moment, Rule, find_next, find_next_after_time, parse_rule

CAPABILITY: Final = "schedules"
FAMILY: Final = "schedule"
LATE_MICROSECONDS_MAX: Final = 3_600_000_000
"""An occurrence that is later than this is missed. It is missed too if the next one is due as well."""
SKIPS_MAX: Final = 500
"""The most occurrences that one step skips."""
RETRIES_MAX: Final = 10
RETRY_PAUSE_SECONDS_MIN: Final = 60
RETRY_PAUSE_SECONDS_MAX: Final = 31 * 86_400
NAME_CHARACTERS_MAX: Final = 100
RETRIED: Final = frozenset(
    {Reason.INSUFFICIENT_FUNDS, Reason.UNKNOWN_ACCOUNT, Reason.UNKNOWN_CURRENCY, Reason.CURRENCY_NOT_ALLOWED}
)
"""Refusals that may pass with time: for want of funds, or for what an operator can add to the books."""
# Namespace of schedule ids: uuid5(DNS namespace, "ledgerline.schedules"), fixed for ever.
SCHEDULE_NAMESPACE: Final = UUID("b7a3c1b9-5f5e-5d53-9a57-0d1d2a0f6c11")


class Schedule(NamedTuple):
    """A schedule. Times are microseconds since 1970; `start` and `local` are local times in the zone."""

    tenant: str
    schedule_id: UUID
    version: int
    state: str
    name: str
    intent: Mapping[str, Any]
    """Body of the intent, as POST /v1/intents takes it, without a value time."""
    start: datetime
    zone: str
    rrule: str | None
    missed: str
    retries: int
    retry_pause_seconds: int
    rule_time: int
    """The current rule holds for occurrences after this time."""
    base: int
    """The number of the last occurrence before the current rule; COUNT counts from there."""
    number: int
    """The number of the current occurrence."""
    local: datetime | None
    occurrence_time: int | None
    """None if no occurrence is left."""
    attempt: int
    """The attempts that were made at the current occurrence."""
    is_in_flight: bool
    not_before: int
    """The current occurrence waits until then: for its next attempt, or because the clock failed on it."""
    skip_before: int
    """Occurrences before this time fell into a pause."""
    created_time: int
    changed_time: int
    end_reason: str | None
    trouble: str | None
    """Why the clock could not send the current occurrence; for people."""

    @property
    def due_time(self) -> int | None:
        """When the clock must act; None if it must not."""
        if self.state != "active" or self.is_in_flight or self.occurrence_time is None:
            return None
        return max(self.occurrence_time, self.not_before)


class Occurrence(NamedTuple):
    """An occurrence that was sent, settled or skipped."""

    number: int
    local: datetime
    occurrence_time: int
    state: str
    """sent, posted, retrying, refused or skipped."""
    attempts: int
    intent_id: UUID | None
    """Of the last attempt."""
    reason: str | None
    detail: str | None
    next_attempt_time: int | None
    changed_time: int


class Step(NamedTuple):
    """A schedule after a change, and what follows from the change."""

    schedule: Schedule
    events: tuple[Event, ...] = ()
    occurrences: tuple[Occurrence, ...] = ()
    intents: tuple[Intent, ...] = ()


class StateFault(ValueError):
    """A change that the schedule's state does not permit; the message is one sentence for people."""


def compute_schedule_id(tenant: str, idempotency_key: str) -> UUID:
    """Return the id of the schedule that a request with this key makes."""
    return uuid5(SCHEDULE_NAMESPACE, f"{tenant}\x00{idempotency_key}")


@lru_cache(maxsize=16_384)
def get_rule(rrule: str | None, start: datetime) -> Rule | None:
    """Return the parsed rule; raise RuleFault. The cache serves schedules that share a rule."""
    return None if rrule is None else parse_rule(rrule, start)


def _has(schedule: Schedule, rule: Rule | None, number: int) -> bool:
    return rule is None or rule.occurrences_max is None or number - schedule.base <= rule.occurrences_max


def _tell(schedule: Schedule, type: str, now: int, **data: Any) -> tuple[Schedule, Event]:
    """Return the schedule with its next version, and the event of that version."""
    told = schedule._replace(version=schedule.version + 1, changed_time=now)
    members = {"schedule_id": str(schedule.schedule_id), **data}
    aggregate = f"schedules:{schedule.schedule_id}"
    return told, Event(FAMILY, type, schedule.tenant, aggregate, told.version, members, now)


def _describe(schedule: Schedule) -> dict[str, Any]:
    return {
        "start_local": schedule.start.isoformat(), "zone": schedule.zone, "rrule": schedule.rrule,
        "missed": schedule.missed, "retries": schedule.retries, "retry_pause_seconds": schedule.retry_pause_seconds,
        "number": schedule.number, "occurrence_time": schedule.occurrence_time,
    }  # fmt: skip


def create(schedule: Schedule, zone: tzinfo, now: int) -> Step:
    """Return a new schedule with its first occurrence. Raise RuleFault or StateFault if it has none."""
    first = find_next(get_rule(schedule.rrule, schedule.start), schedule.start, zone, None)
    if first is None:
        raise StateFault("The rule has no occurrence after its start, or none that a bounded search finds.")
    placed = schedule._replace(local=first.local, occurrence_time=first.time, number=1)
    made, event = _tell(placed, "ScheduleCreated", now, **_describe(placed))
    return Step(made, (event,))


def change(schedule: Schedule, changes: Mapping[str, Any], zone: tzinfo, now: int) -> Step:
    """Return the schedule with other fields. A new rule, start or zone holds from the next occurrence after now.

    Raise RuleFault or StateFault.
    """
    _require(schedule, "active", "paused")
    changed = schedule._replace(**changes)
    if not changes.keys().isdisjoint({"start", "zone", "rrule"}):
        rule = get_rule(changed.rrule, changed.start)
        changed = changed._replace(rule_time=now)
        under_way = schedule.occurrence_time or 0 if schedule.attempt else 0
        found = find_next_after_time(rule, changed.start, zone, max(now, under_way))
        if found is None:
            raise StateFault("The changed rule has no occurrence in the time to come: end the schedule instead.")
        if schedule.attempt:  # the current occurrence is under way, and stays; `_move_to` goes on by the new rule
            changed = changed._replace(base=schedule.number)
        else:
            changed = changed._replace(base=schedule.number - 1, local=found.local, occurrence_time=found.time)
    told, event = _tell(changed, "ScheduleChanged", now, changed=sorted(changes), **_describe(changed))
    return Step(told, (event,))


def pause(schedule: Schedule, now: int) -> Step:
    """Return the paused schedule; an intent that was handed over is still posted."""
    _require(schedule, "active")
    told, event = _tell(schedule._replace(state="paused"), "SchedulePaused", now)
    return Step(told, (event,))


def resume(schedule: Schedule, now: int) -> Step:
    """Return the schedule, active again. It keeps its phase: occurrences that fell into the pause are skipped."""
    _require(schedule, "paused")
    told, event = _tell(schedule._replace(state="active", skip_before=now), "ScheduleResumed", now)
    return Step(told, (event,))


def end(schedule: Schedule, now: int) -> Step:
    """Return the schedule, ended for good."""
    _require(schedule, "active", "paused")
    return Step(*_end(schedule, "requested", now))


def _end(schedule: Schedule, reason: str, now: int) -> tuple[Schedule, tuple[Event, ...]]:
    told, event = _tell(schedule._replace(state="ended", end_reason=reason), "ScheduleEnded", now, reason=reason)
    return told, (event,)


def _require(schedule: Schedule, *states: str) -> None:
    if schedule.state not in states:
        raise StateFault(f"The schedule is {schedule.state}: this needs one that is {' or '.join(states)}.")


def _find_following(schedule: Schedule, zone: tzinfo) -> Moment | None:
    """Return the occurrence after the current one; None if that is the last."""
    rule = get_rule(schedule.rrule, schedule.start)
    if schedule.local is None or schedule.occurrence_time is None or not _has(schedule, rule, schedule.number + 1):
        return None
    if schedule.number == schedule.base:  # the rule was changed while this occurrence was under way
        return find_next_after_time(rule, schedule.start, zone, max(schedule.occurrence_time, schedule.rule_time))
    return find_next(rule, schedule.start, zone, Moment(schedule.local, schedule.occurrence_time))


def _move_to(schedule: Schedule, following: Moment | None) -> Schedule:
    local, moment_time = (None, None) if following is None else following
    return schedule._replace(
        number=schedule.number + (following is not None), local=local, occurrence_time=moment_time, attempt=0,
        is_in_flight=False, not_before=0, trouble=None,
    )  # fmt: skip


def act(schedule: Schedule, zone: tzinfo, now: int) -> Step:
    """Return the schedule after the clock came to it: occurrences skipped by policy, then one intent at most."""
    events: list[Event] = []
    skipped: list[Occurrence] = []
    why = ""
    may_send = False
    while (due := schedule.due_time) is not None and due <= now and len(skipped) < SKIPS_MAX:
        following = _find_following(schedule, zone) if schedule.missed != "post" or schedule.skip_before else None
        reason = _find_skip_reason(schedule, following, now)
        may_send = reason is None
        if reason is None or (skipped and why != reason):
            break
        why = reason
        skipped.append(_make_occurrence(schedule, "skipped", None, now, reason=reason))
        schedule = _move_to(schedule, following)
    if skipped:
        schedule, event = _tell(
            schedule, "OccurrenceSkipped", now, first_number=skipped[0].number, last_number=skipped[-1].number,
            reason=why,
        )  # fmt: skip
        events.append(event)
    if schedule.occurrence_time is None and schedule.state == "active":
        schedule, ended = _end(schedule, "completed", now)
        events += ended
    if not may_send:
        return Step(schedule, tuple(events), tuple(skipped))
    intent = _make_intent(schedule, now)
    schedule = schedule._replace(attempt=schedule.attempt + 1, is_in_flight=True, not_before=0, trouble=None)
    schedule, event = _tell(
        schedule, "OccurrenceSent", now, number=schedule.number, attempt=schedule.attempt,
        occurrence_time=schedule.occurrence_time, intent_id=str(intent.intent_id),
    )  # fmt: skip
    sent = _make_occurrence(schedule, "sent", intent.intent_id, now)
    return Step(schedule, (*events, event), (*skipped, sent), (intent,))


def _find_skip_reason(schedule: Schedule, following: Moment | None, now: int) -> str | None:
    moment_time = schedule.occurrence_time or 0
    if schedule.attempt:
        return None
    if moment_time < schedule.skip_before:
        return "paused"
    is_followed = following is not None and following.time <= now
    if schedule.missed != "post" and is_followed:
        return "missed"
    if schedule.missed == "skip" and now - moment_time > LATE_MICROSECONDS_MAX:
        return "missed"
    return None


def make_key(schedule_id: UUID, number: int, attempt: int) -> str:
    """Return the idempotency key of an attempt at an occurrence; attempts count from 1."""
    return make_own_key(CAPABILITY, str(schedule_id), str(number), *([str(attempt)] if attempt > 1 else []))


def _make_intent(schedule: Schedule, now: int) -> Intent:
    key = make_key(schedule.schedule_id, schedule.number, schedule.attempt + 1)
    body = schedule.intent
    legs = tuple(
        Leg(leg["account"], DIRECTIONS[leg["direction"]], leg["amount_minor"], leg["currency"]) for leg in body["legs"]
    )
    return Intent(
        compute_intent_id(schedule.tenant, key), schedule.tenant, key, body["type"], legs, None,
        schedule.occurrence_time, body.get("reference"), dict(body.get("metadata") or {}), now,
    )  # fmt: skip


def _make_occurrence(
    schedule: Schedule, state: str, intent_id: UUID | None, now: int, *, reason: str | None = None,
    detail: str | None = None, next_attempt_time: int | None = None,
) -> Occurrence:  # fmt: skip
    return Occurrence(
        schedule.number, schedule.local or schedule.start, schedule.occurrence_time or 0, state, schedule.attempt,
        intent_id, reason, detail, next_attempt_time, now,
    )  # fmt: skip


def settle(
    schedule: Schedule, number: int, attempt: int, intent_id: UUID, outcome: Outcome, reason: str, detail: str,
    zone: tzinfo, now: int,
) -> Step:  # fmt: skip
    """Return the schedule after the outcome of an attempt. An outcome that was told before changes nothing."""
    if (number, attempt) < (schedule.number, schedule.attempt) or not schedule.is_in_flight:
        return Step(schedule)
    if (number, attempt) != (schedule.number, schedule.attempt):
        raise StateFault(f"Occurrence {number}, attempt {attempt}, was never sent.")
    told = {"number": number, "attempt": attempt, "intent_id": str(intent_id)}
    if outcome is Outcome.POSTED:
        occurrence = _make_occurrence(schedule, "posted", intent_id, now)
        schedule, event = _tell(schedule, "OccurrencePosted", now, **told)
        return _move_on(schedule, event, occurrence, zone, now)
    will_retry = attempt <= schedule.retries and reason in RETRIED and schedule.state != "ended"
    next_time = now + schedule.retry_pause_seconds * 1_000_000 if will_retry else None
    occurrence = _make_occurrence(
        schedule, "retrying" if will_retry else "refused", intent_id, now, reason=reason, detail=detail,
        next_attempt_time=next_time,
    )  # fmt: skip
    schedule, event = _tell(schedule, "OccurrenceRefused", now, reason=reason, next_attempt_time=next_time, **told)
    if next_time is None:
        return _move_on(schedule, event, occurrence, zone, now)
    return Step(schedule._replace(is_in_flight=False, not_before=next_time), (event,), (occurrence,))


def _move_on(schedule: Schedule, event: Event, occurrence: Occurrence, zone: tzinfo, now: int) -> Step:
    """Return the step to the next occurrence, or to the end after the last one."""
    events: tuple[Event, ...] = (event,)
    schedule = _move_to(schedule, _find_following(schedule, zone))
    if schedule.occurrence_time is None and schedule.state != "ended":
        schedule, ended = _end(schedule, "completed", now)
        events += ended
    return Step(schedule, events, (occurrence,))
