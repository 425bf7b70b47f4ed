"""Schedules: when occurrences are, and what happens to them."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from dateutil.rrule import rrulestr
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.outcomes import Outcome
from domain.schedules import states
from domain.schedules.recurrence import Moment, Rule, RuleFault, find_next, find_next_after_time, parse_rule
from domain.schedules.states import Schedule, StateFault, Step, act, change, create, end, pause, resume, settle
from domain.times import EPOCH

ID = UUID("00000000-0000-0000-0000-000000000001")
ZONE = ZoneInfo("UTC")
DAY = 86_400_000_000
BODY = {
    "type": "transfer",
    "legs": [
        {"account": "users:1:wallet", "direction": "debit", "amount_minor": 5, "currency": "EUR"},
        {"account": "users:2:wallet", "direction": "credit", "amount_minor": 5, "currency": "EUR"},
    ],
}
SEARCH_SECONDS_MAX = 0.5  # of processor time; 0.05 alone on the machine, and tests share it


def at(text: str) -> int:
    return (datetime.fromisoformat(text).replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


def occurrences(text: str | None, start: str, zone: str = "UTC", most: int = 5) -> list[Moment]:
    begin = datetime.fromisoformat(start)
    rule = None if text is None else parse_rule(text, begin)
    found: list[Moment] = []
    while len(found) < most:
        following = find_next(rule, begin, ZoneInfo(zone), found[-1] if found else None)
        if following is None:
            break
        found.append(following)
    return found


DAYS = [
    ("FREQ=MONTHLY", "2027-01-31", "01-31 02-28 03-31 04-30 05-31"),
    ("FREQ=MONTHLY;BYMONTHDAY=30", "2028-01-01", "01-30 02-29 03-30 04-30 05-30"),
    ("FREQ=MONTHLY;BYMONTHDAY=29", "2027-01-01", "01-29 02-28 03-29 04-29 05-29"),
    ("FREQ=MONTHLY;INTERVAL=2", "2027-12-31", "12-31 02-29 04-30 06-30 08-31"),
    ("FREQ=MONTHLY;BYMONTHDAY=-1", "2027-01-01", "01-31 02-28 03-31 04-30 05-31"),
    ("FREQ=MONTHLY;BYDAY=-1FR", "2027-01-01", "01-29 02-26 03-26 04-30 05-28"),
    ("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1", "2027-01-01", "01-29 02-26 03-31 04-30 05-31"),
    ("FREQ=YEARLY", "2028-02-29", "02-29 02-28 02-28 02-28 02-29"),
    ("FREQ=YEARLY;BYMONTH=2,4;BYMONTHDAY=31", "2027-01-01", "02-28 04-30 02-29 04-30 02-28"),
    ("FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,FR", "2027-01-01", "01-01 01-11 01-15 01-25 01-29"),
    ("FREQ=DAILY;BYDAY=MO,TU,WE,TH,FR", "2027-01-01", "01-01 01-04 01-05 01-06 01-07"),
    ("FREQ=DAILY;COUNT=2", "2027-01-01", "01-01 01-02 01-03 01-04 01-05"),  # COUNT is the schedule's to count
    ("FREQ=DAILY;UNTIL=20270103", "2027-01-01", "01-01 01-02 01-03"),
    (None, "2027-01-01", "01-01"),
]


@pytest.mark.parametrize(("rule", "start", "wanted"), DAYS)
def test_the_days_of_a_rule(rule: str | None, start: str, wanted: str) -> None:
    assert " ".join(f"{found.local:%m-%d}" for found in occurrences(rule, f"{start}T09:00")) == wanted


CHANGES = [
    # rule, start, zone, moments in UTC
    ("FREQ=DAILY", "2027-03-27T02:30", "Europe/Berlin", "27T01:30 28T01:00 29T00:30"),  # gap: the first time after it
    ("FREQ=DAILY", "2027-10-30T02:30", "Europe/Berlin", "30T00:30 31T00:30 01T01:30"),  # overlap: the first of two
    ("FREQ=DAILY", "2027-03-27T09:00", "Europe/Berlin", "27T08:00 28T07:00 29T07:00"),
    ("FREQ=HOURLY", "2027-10-31T02:00", "Europe/Berlin", "31T00:00 31T01:00 31T02:00"),  # by elapsed time
    ("FREQ=DAILY;BYHOUR=2,3;BYMINUTE=0", "2027-03-28T00:00", "Europe/Berlin", "28T01:00 28T01:00 29T00:00"),
    ("FREQ=DAILY", "2011-12-29T09:00", "Pacific/Apia", "29T19:00 30T10:00 30T19:00"),  # a day that was left out
    ("FREQ=DAILY", "2027-10-02T02:15", "Australia/Lord_Howe", "01T15:45 02T15:30 03T15:15"),  # half an hour
]


@pytest.mark.parametrize(("rule", "start", "zone", "wanted"), CHANGES)
def test_daylight_saving(rule: str, start: str, zone: str, wanted: str) -> None:
    found = [(EPOCH + timedelta(microseconds=moment.time)) for moment in occurrences(rule, start, zone, 3)]
    assert " ".join(f"{moment:%dT%H:%M}" for moment in found) == wanted


FAULTS = [
    ("FREQ=SECONDLY", "FREQ must be one of"),
    ("INTERVAL=1", "FREQ must be one of"),
    ("FREQ=DAILY;FREQ=DAILY", "stands twice"),
    ("FREQ=DAILY;COUNT=3;UNTIL=20270101", "COUNT or UNTIL"),
    ("FREQ=DAILY;INTERVAL=0", "INTERVAL must be"),
    ("FREQ=DAILY;COUNT=99999999999999999999", "COUNT must be"),
    ("FREQ=DAILY;BYHOUR=" + ",".join(map(str, range(24))) + ";BYMINUTE=0,1,2", "at most 48 times a day"),
    ("FREQ=DAILY;BYSECOND=1,2", "at most 48 times a day"),
    ("FREQ=MINUTELY;BYDAY=MO", "takes no BYDAY"),
    ("FREQ=WEEKLY;BYDAY=1MO", "only in a monthly"),
    ("FREQ=MONTHLY;BYMONTHDAY=0", "cannot be 0"),
    ("FREQ=MONTHLY;BYMONTHDAY=32", "whole numbers from -31 to 31"),
    ("FREQ=YEARLY;INTERVAL=2;BYMONTH=2,4;BYMONTHDAY=31", "needs INTERVAL=1"),
    ("FREQ=DAILY;UNTIL=20271332", "a day and a time"),
    ("FREQ=DAILY;BYEASTER=1", "is no part of a rule"),
    ("FREQ=DAILY;" + "X" * 600, "1 to 500 characters"),
    ("", "1 to 500 characters"),
]


@pytest.mark.parametrize(("text", "sentence"), FAULTS)
def test_a_rule_that_cannot_be_used_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(RuleFault, match=sentence):
        parse_rule(text, datetime(2027, 1, 1))


EMPTY = [
    "FREQ=DAILY;BYMONTHDAY=31;BYMONTH=2",
    "FREQ=DAILY;INTERVAL=7;BYDAY=TU",
    "FREQ=DAILY;INTERVAL=999;BYMONTH=2;BYMONTHDAY=30",
    "FREQ=WEEKLY;BYMONTH=2;INTERVAL=1000;UNTIL=20270101",
    "FREQ=MONTHLY;BYMONTHDAY=30;BYMONTH=2;BYDAY=MO",
    "FREQ=MONTHLY;BYDAY=5MO;BYMONTHDAY=1",
    "FREQ=YEARLY;BYWEEKNO=53;BYMONTH=6",
    "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30;BYDAY=MO",
    "FREQ=YEARLY;BYYEARDAY=366,-366;BYMONTH=7;BYSETPOS=366",
]


@pytest.mark.parametrize("text", EMPTY)
def test_a_search_for_what_never_comes_is_bounded(text: str) -> None:
    begun = time.process_time()
    assert occurrences(text, "2027-01-04T09:00") == []
    assert time.process_time() - begun < SEARCH_SECONDS_MAX


@settings(max_examples=150)
@given(
    st.sampled_from(["YEARLY", "MONTHLY", "WEEKLY", "DAILY"]),
    st.integers(1, 5),
    st.dates(datetime(2026, 1, 1).date(), datetime(2029, 12, 28).date()).filter(lambda day: day.day <= 28),
    st.lists(st.sampled_from(["MO", "TU", "WE", "TH", "FR", "SA", "SU"]), unique=True, max_size=3),
    st.lists(st.integers(1, 12), unique=True, max_size=3),
    st.sampled_from(["", ";WKST=SU", ";BYHOUR=7,19"]),
)
def test_an_increment_is_what_dateutil_counts_from_the_start(
    frequency: str, interval: int, day: Any, week_days: list[str], months: list[int], more: str
) -> None:
    text = f"FREQ={frequency};INTERVAL={interval}{more}"
    text += f";BYDAY={','.join(week_days)}" if week_days else ""
    text += f";BYMONTH={','.join(map(str, months))}" if months else ""
    start = datetime(day.year, day.month, day.day, 9)
    wanted = []
    for moment in rrulestr(text, dtstart=start):
        if len(wanted) == 12 or moment.year > 2045:
            break
        wanted.append(moment)
    found = [moment.local for moment in occurrences(text, start.isoformat(), most=12)]
    assert found[: len(wanted)] == wanted


@given(st.integers(0, 400 * 24 * 60), st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]))
def test_what_follows_a_moment_is_the_first_after_it(minutes: int, name: str) -> None:
    zone, start = ZoneInfo(name), datetime(2027, 1, 31, 2, 15)
    rule = parse_rule("FREQ=DAILY;BYHOUR=2,3", start)
    moment = at("2027-01-01") + minutes * 60_000_000
    found = find_next_after_time(rule, start, zone, moment)
    every = occurrences("FREQ=DAILY;BYHOUR=2,3", start.isoformat(), name, 900)
    assert found == next(item for item in every if item.time > moment)


# ----------------------------------------------------------------------------------------------------------- states


def make(rrule: str | None = "FREQ=DAILY", start: str = "2027-01-01T09:00", **changes: Any) -> Schedule:
    fresh = Schedule(
        "default", ID, 0, "active", "", BODY, datetime.fromisoformat(start), "UTC", rrule, "post", 3, 86_400,
        0, 0, 1, None, None, 0, False, 0, 0, 0, 0, None, None,
    )  # fmt: skip
    return create(fresh._replace(**changes), ZONE, 0).schedule


def settled(schedule: Schedule, outcome: Outcome, reason: str = "", now: int | None = None) -> Step:
    moment = schedule.changed_time if now is None else now
    return settle(schedule, schedule.number, schedule.attempt, ID, outcome, reason, "", ZONE, moment)


def run(schedule: Schedule, now: int) -> tuple[Schedule, list[tuple[str, int]]]:
    """Let the clock act and each intent be posted, until nothing is due at `now`; return what happened to each."""
    happened: list[tuple[str, int]] = []
    while schedule.due_time is not None and schedule.due_time <= now:
        step = act(schedule, ZONE, now)
        check_versions(schedule, step)
        happened += [(item.state, item.number) for item in step.occurrences]
        schedule = step.schedule
        if schedule.is_in_flight:
            step = settled(schedule, Outcome.POSTED)
            check_versions(schedule, step)
            schedule = step.schedule
    return schedule, happened


def check_versions(before: Schedule, step: Step) -> None:
    assert [event.version for event in step.events] == list(range(before.version + 1, step.schedule.version + 1))


MISSED = [
    # policy, the clock comes at, what happens to the days 1, 2, 3, ...
    ("post", "2027-01-04T10:00", "sent1 sent2 sent3 sent4"),
    ("skip", "2027-01-04T09:30", "skipped1 skipped2 skipped3 sent4"),
    ("skip", "2027-01-04T10:30", "skipped1 skipped2 skipped3 skipped4"),
    ("last", "2027-01-04T10:30", "skipped1 skipped2 skipped3 sent4"),
    ("last", "2027-01-01T09:00", "sent1"),
    ("post", "2027-01-01T08:59", ""),
]


@pytest.mark.parametrize(("policy", "now", "wanted"), MISSED)
def test_what_downtime_missed(policy: str, now: str, wanted: str) -> None:
    _, happened = run(make(missed=policy), at(now))
    assert " ".join(f"{state}{number}" for state, number in happened) == wanted


def test_a_week_of_downtime_posts_each_once_in_order_with_its_own_time_and_key() -> None:
    schedule, now, intents = make(), at("2027-01-08T08:00"), []
    while schedule.due_time is not None and schedule.due_time <= now:
        step = act(schedule, ZONE, now)
        intents += step.intents
        assert act(step.schedule, ZONE, now).intents == ()  # one in flight at most
        schedule = settled(step.schedule, Outcome.POSTED).schedule
    assert [intent.value_time for intent in intents] == [at(f"2027-01-0{day}T09:00") for day in range(1, 8)]
    assert [intent.idempotency_key for intent in intents] == [f"ledgerline:schedules:{ID}:{n}" for n in range(1, 8)]


def test_a_refused_occurrence_is_tried_again_by_rule_and_then_given_up() -> None:
    schedule, keys = make("FREQ=MONTHLY;COUNT=2"), []
    now = at("2027-01-01T09:00")
    for attempt in range(1, 5):
        assert act(schedule, ZONE, now - 1).intents == ()
        step = act(schedule, ZONE, now)
        keys.append(step.intents[0].idempotency_key)
        step = settled(step.schedule, Outcome.REJECTED, "insufficient_funds", now)
        schedule = step.schedule
        assert step.occurrences[0].state == ("retrying" if attempt < 4 else "refused")
        now += DAY
    start = f"ledgerline:schedules:{ID}:1"
    assert keys == [start, f"{start}:2", f"{start}:3", f"{start}:4"]
    assert (schedule.number, schedule.attempt, schedule.due_time) == (2, 0, at("2027-02-01T09:00"))


def test_what_cannot_pass_with_time_is_not_tried_again() -> None:
    step = settled(act(make(), ZONE, at("2027-01-01T09:00")).schedule, Outcome.REJECTED, "amount_overflow")
    assert (step.occurrences[0].state, step.schedule.number) == ("refused", 2)


def test_count_ends_a_schedule_after_its_last_outcome() -> None:
    schedule, happened = run(make("FREQ=DAILY;COUNT=2"), at("2028-01-01"))
    assert happened == [("sent", 1), ("sent", 2)]
    assert (schedule.state, schedule.end_reason, schedule.due_time) == ("ended", "completed", None)
    with pytest.raises(StateFault, match="is ended"):
        pause(schedule, 0)


def test_a_pause_keeps_the_phase_and_skips_what_falls_into_it() -> None:
    schedule = pause(make("FREQ=WEEKLY;COUNT=5"), at("2027-01-02")).schedule
    assert schedule.due_time is None
    schedule, happened = run(resume(schedule, at("2027-01-20")).schedule, at("2027-12-01"))
    assert happened == [("skipped", 1), ("skipped", 2), ("skipped", 3), ("sent", 4), ("sent", 5)]


def test_a_change_holds_from_the_next_occurrence_and_numbers_go_on() -> None:
    schedule, _ = run(make(), at("2027-01-03T10:00"))
    step = change(schedule, {"rrule": "FREQ=MONTHLY;BYMONTHDAY=31;COUNT=2"}, ZONE, at("2027-01-03T11:00"))
    schedule, happened = run(step.schedule, at("2028-01-01"))
    assert happened == [("sent", 4), ("sent", 5)]
    assert schedule.state == "ended"


def test_a_change_while_an_intent_is_in_flight_leaves_that_occurrence() -> None:
    schedule = act(make(), ZONE, at("2027-01-01T09:00")).schedule
    schedule = change(schedule, {"rrule": "FREQ=WEEKLY;COUNT=1"}, ZONE, at("2027-01-01T09:01")).schedule
    assert (schedule.number, schedule.is_in_flight) == (1, True)
    schedule = settled(schedule, Outcome.POSTED).schedule
    assert (schedule.number, schedule.due_time) == (2, at("2027-01-08T09:00"))
    assert settled(act(schedule, ZONE, at("2027-01-08T09:00")).schedule, Outcome.POSTED).schedule.state == "ended"


def test_an_end_in_flight_notes_the_outcome_and_tries_no_more() -> None:
    schedule = end(act(make(), ZONE, at("2027-01-01T09:00")).schedule, 1).schedule
    step = settled(schedule, Outcome.REJECTED, "insufficient_funds")
    assert (step.occurrences[0].state, step.schedule.due_time, step.schedule.state) == ("refused", None, "ended")


def test_an_outcome_that_was_told_before_changes_nothing() -> None:
    schedule = act(make(), ZONE, at("2027-01-01T09:00")).schedule
    after = settled(schedule, Outcome.POSTED).schedule
    assert settle(after, 1, 1, ID, Outcome.POSTED, "", "", ZONE, 0) == Step(after)
    with pytest.raises(StateFault, match="never sent"):
        settle(schedule, 7, 1, ID, Outcome.POSTED, "", "", ZONE, 0)


def test_skips_are_bounded_in_one_step() -> None:
    step = act(make("FREQ=MINUTELY", missed="last"), ZONE, at("2027-01-02T09:00"))
    assert [item.number for item in step.occurrences] == list(range(1, states.SKIPS_MAX + 1))
    assert step.intents == ()


def test_a_rule_is_kept_parsed() -> None:
    assert isinstance(states.get_rule("FREQ=DAILY", datetime(2027, 1, 1)), Rule)
