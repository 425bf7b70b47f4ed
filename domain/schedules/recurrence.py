"""When a schedule's occurrences are: RFC 5545 rules in a named zone, with a bound on every search.

dateutil expands one period of a rule at a time: an interval that leads past its last year makes it stop after one
period. Its own loop over empty periods has no bound.

A day of the month after the 28th stands for the last day of a shorter month. A time that daylight saving leaves out
becomes the first time after the gap. A time that comes twice is the first of the two.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Final, NamedTuple

from dateutil import rrule as dateutil_rrule
from dateutil.rrule import weekday

from domain.times import EPOCH

RULE_CHARACTERS_MAX: Final = 500
INTERVAL_MAX: Final = 1000
TIMES_A_DAY_MAX: Final = 48
YEAR_MAX: Final = 2199
_EXPANSIONS_MAX: Final = 240
_PERIODS_MAX: Final = 20_000
_YEAR_COSTS: Final = 3
_WEEKDAYS: Final = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_ALL_DAYS: Final = tuple((day, 0) for day in range(7))
_ELAPSED: Final = {"HOURLY": 3_600_000_000, "MINUTELY": 60_000_000}
_FREQUENCIES: Final = ("YEARLY", "MONTHLY", "WEEKLY", "DAILY", *_ELAPSED)
_UNTIL: Final = re.compile(r"\d{8}(T\d{6}Z?)?", re.ASCII)
_DAY: Final = re.compile(r"([+-]?\d{1,2})?(MO|TU|WE|TH|FR|SA|SU)", re.ASCII)
_MICROSECOND: Final = timedelta(microseconds=1)
_LISTS: Final = {
    "BYMONTH": (1, 12), "BYMONTHDAY": (-31, 31), "BYYEARDAY": (-366, 366), "BYWEEKNO": (-53, 53),
    "BYSETPOS": (-366, 366), "BYHOUR": (0, 23), "BYMINUTE": (0, 59), "BYSECOND": (0, 59),
}  # fmt: skip
_NAMES: Final = ("FREQ", "INTERVAL", "COUNT", "UNTIL", "WKST", "BYDAY", *_LISTS)


class RuleFault(ValueError):
    """A rule or a start that cannot be used; the message is one sentence for people."""


class Days(NamedTuple):
    """The parts of a rule that choose days inside one period. Equal days have equal expansions."""

    frequency: str
    months: tuple[int, ...]
    month_days: tuple[int, ...]
    week_days: tuple[tuple[int, int], ...]
    """(0 for Monday, n): the n-th such day of the period; 0 for each."""
    year_days: tuple[int, ...]
    weeks: tuple[int, ...]
    positions: tuple[int, ...]
    week_start: int


class Rule(NamedTuple):
    """A recurrence rule that was checked, with what its start implies written out."""

    days: Days
    interval: int
    times: tuple[time, ...]
    occurrences_max: int | None
    until: datetime | None
    """The last time that may be: in UTC if it has a zone, else local."""


class Moment(NamedTuple):
    """When an occurrence is: its local time by the rule, and the moment in microseconds since 1970."""

    local: datetime
    time: int


def parse_rule(text: str, start: datetime) -> Rule:
    """Return the rule in an RRULE's text; `start` is local. Raise RuleFault with a sentence."""
    parts = _split(text)
    frequency = parts.get("FREQ", "")
    if frequency not in _FREQUENCIES:
        raise RuleFault(f"FREQ must be one of {', '.join(_FREQUENCIES)}.")
    interval = _read_number(parts, "INTERVAL", 1, INTERVAL_MAX) or 1
    count = _read_number(parts, "COUNT", 1, 1_000_000)
    if count is not None and "UNTIL" in parts:
        raise RuleFault("A rule has COUNT or UNTIL, not both.")
    until = _read_until(parts["UNTIL"]) if "UNTIL" in parts else None
    if frequency in _ELAPSED:
        others = sorted(parts.keys() - {"FREQ", "INTERVAL", "COUNT", "UNTIL"})
        if others:
            raise RuleFault(f"A rule by {frequency} takes no {others[0]}: only INTERVAL, COUNT and UNTIL.")
        return Rule(Days(frequency, (), (), (), (), (), (), 0), interval, (), count, until)
    days = _make_days(frequency, parts, start, interval)
    times = _make_times(parts, start)
    if days.positions and len(times) > 1:
        raise RuleFault("BYSETPOS goes with one time a day.")
    return Rule(days, interval, times, count, until)


def _split(text: str) -> dict[str, str]:
    text = text.strip().removeprefix("RRULE:")
    if not text or len(text) > RULE_CHARACTERS_MAX:
        raise RuleFault(f"A rule has 1 to {RULE_CHARACTERS_MAX} characters, such as FREQ=MONTHLY;BYMONTHDAY=31.")
    parts: dict[str, str] = {}
    for piece in text.upper().split(";"):
        name, equals, value = piece.partition("=")
        if not equals or not value or name not in _NAMES:
            raise RuleFault(f"{piece[:40]!r} is no part of a rule: write NAME=VALUE, with a name of RFC 5545.")
        if name in parts:
            raise RuleFault(f"{name} stands twice in the rule.")
        parts[name] = value
    return parts


def _read_number(parts: dict[str, str], name: str, least: int, most: int) -> int | None:
    value = parts.get(name)
    if value is None:
        return None
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII) or not least <= int(value) <= most:
        raise RuleFault(f"{name} must be a whole number from {least} to {most}.")
    return int(value)


def _read_list(parts: dict[str, str], name: str) -> tuple[int, ...]:
    least, most = _LISTS[name]
    found = set()
    for value in parts[name].split(",") if name in parts else ():
        if not re.fullmatch(r"[+-]?\d{1,3}", value, re.ASCII) or not least <= int(value) <= most:
            raise RuleFault(f"{name} must have whole numbers from {least} to {most}.")
        if int(value) == 0 and least < 0:
            raise RuleFault(f"{name} cannot be 0.")
        found.add(int(value))
    return tuple(sorted(found))


def _read_until(value: str) -> datetime:
    if not _UNTIL.fullmatch(value):
        raise RuleFault("UNTIL must be a date or a time, such as 20271231 or 20271231T235959Z.")
    try:
        found = datetime.fromisoformat(value.removesuffix("Z"))
    except ValueError as error:
        raise RuleFault("UNTIL must be a day and a time that there are.") from error
    if value.endswith("Z"):
        return found.replace(tzinfo=UTC)
    return found if "T" in value else datetime.combine(found.date(), time(23, 59, 59))


def _read_week_days(parts: dict[str, str], frequency: str) -> tuple[tuple[int, int], ...]:
    found = set()
    for value in parts["BYDAY"].split(",") if "BYDAY" in parts else ():
        match = _DAY.fullmatch(value)
        number = int(match[1] or 0) if match else 0
        if match is None or abs(number) > 53 or (match[1] and not number):
            raise RuleFault("BYDAY must have days such as MO, or 1MO and -1FR in a monthly or yearly rule.")
        if number and frequency not in ("MONTHLY", "YEARLY"):
            raise RuleFault("BYDAY has numbers only in a monthly or yearly rule.")
        found.add((_WEEKDAYS.index(match[2]), number))
    return tuple(sorted(found))


def _check_days(
    frequency: str,
    month_days: tuple[int, ...],
    week_days: tuple[tuple[int, int], ...],
    has_yearly: bool,
    has_weeks: bool,
    has_positions: bool,
) -> None:
    if frequency != "YEARLY" and has_yearly:
        raise RuleFault("BYYEARDAY and BYWEEKNO are for yearly rules.")
    if frequency in ("WEEKLY", "DAILY") and has_positions:
        raise RuleFault("BYSETPOS is for monthly and yearly rules.")
    if has_weeks and any(number for _, number in week_days):
        raise RuleFault("BYDAY has no numbers beside BYWEEKNO.")
    if frequency == "WEEKLY" and month_days:
        raise RuleFault("BYMONTHDAY is not for weekly rules.")


def _make_days(frequency: str, parts: dict[str, str], start: datetime, interval: int) -> Days:
    """Return the days, with those that the start implies, and with the clamp for days after the 28th."""
    months, month_days = _read_list(parts, "BYMONTH"), _read_list(parts, "BYMONTHDAY")
    year_days, weeks, positions = (_read_list(parts, name) for name in ("BYYEARDAY", "BYWEEKNO", "BYSETPOS"))
    week_days = _read_week_days(parts, frequency)
    week_start = parts.get("WKST", "MO")
    if week_start not in _WEEKDAYS:
        raise RuleFault("WKST must be a day such as MO.")
    _check_days(frequency, month_days, week_days, bool(year_days or weeks), bool(weeks), bool(positions))
    if not (month_days or week_days or year_days or weeks):
        if frequency == "YEARLY":
            months = months or (start.month,)
        if frequency in ("YEARLY", "MONTHLY"):
            month_days = (start.day,)
        else:
            week_days = ((start.weekday(), 0),) if frequency == "WEEKLY" else _ALL_DAYS
    elif frequency == "DAILY" and not week_days:
        week_days = _ALL_DAYS
    may_clamp = len(month_days) == 1 and month_days[0] > 28 and not (week_days or year_days or weeks or positions)
    if frequency in ("YEARLY", "MONTHLY") and may_clamp:
        if frequency == "YEARLY" and len(months) != 1:
            if interval > 1:
                raise RuleFault("A yearly rule with a day after the 28th in several months needs INTERVAL=1.")
            frequency = "MONTHLY"
        month_days, positions = (-1, month_days[0]), (1,)
    return Days(frequency, months, month_days, week_days, year_days, weeks, positions, _WEEKDAYS.index(week_start))


def _make_times(parts: dict[str, str], start: datetime) -> tuple[time, ...]:
    hours = _read_list(parts, "BYHOUR") or (start.hour,)
    minutes = _read_list(parts, "BYMINUTE") or (start.minute,)
    seconds = _read_list(parts, "BYSECOND") or (start.second,)
    if len(seconds) > 1 or len(hours) * len(minutes) > TIMES_A_DAY_MAX:
        raise RuleFault(f"A rule has at most {TIMES_A_DAY_MAX} times a day, and one BYSECOND.")
    return tuple(time(hour, minute, seconds[0]) for hour in hours for minute in minutes)


@lru_cache(maxsize=16_384)
def _expand(days: Days, year: int, month: int) -> tuple[date, ...]:
    """Return the days of one period: a year if `month` is 0, else a month."""
    found = dateutil_rrule.rrule(
        dateutil_rrule.MONTHLY if month else dateutil_rrule.YEARLY,
        dtstart=datetime(year, month or 1, 1),
        # Past the last year that datetime knows, so dateutil ends after this period even if it is empty.
        interval=120_000 if month else 10_000,
        wkst=days.week_start,
        bymonth=days.months or None,
        bymonthday=days.month_days or None,
        byweekday=[weekday(day)(number) if number else weekday(day) for day, number in days.week_days] or None,
        byyearday=days.year_days or None,
        byweekno=days.weeks or None,
        bysetpos=days.positions or None,
        byhour=0,
        byminute=0,
        bysecond=0,
    )
    return tuple(moment.date() for moment in found)


class _Budget:
    """Bounds one search, so that no rule holds up a request or the clock."""

    def __init__(self) -> None:
        self.periods = _PERIODS_MAX
        self.expansions = _EXPANSIONS_MAX
        self._last: tuple[int, int] | None = None

    def expand(self, days: Days, year: int, month: int) -> tuple[date, ...] | None:
        """Return the days of a period; None if the budget is used up."""
        if self._last != (year, month):
            self._last = (year, month)
            self.expansions -= 1 if month else _YEAR_COSTS
        return None if self.expansions < 0 else _expand(days, year, month)


def _iterate_days(rule: Rule, start: date, first: date) -> Iterator[date]:
    """Yield the rule's days from `first` on, in order, as far as the bounds of the search allow."""
    days, budget = rule.days, _Budget()
    if days.frequency in ("YEARLY", "MONTHLY"):
        months = 12 if days.frequency == "YEARLY" else 1
        origin, wanted = (start.year * 12 + start.month - 1) // months, (first.year * 12 + first.month - 1) // months
        period = origin + max(0, -(-(wanted - origin) // rule.interval)) * rule.interval
        while period * months // 12 <= YEAR_MAX:
            year, month = (period, 0) if months == 12 else (period // 12, period % 12 + 1)
            if not month or not days.months or month in days.months:
                found = budget.expand(days, year, month)
                if found is None:
                    return
                yield from (day for day in found if day >= first)
            period += rule.interval
        return
    length = 7 if days.frequency == "WEEKLY" else 1
    begin = start - timedelta(days=(start.weekday() - days.week_start) % 7 if length == 7 else 0)
    step = timedelta(days=length * rule.interval)
    current = begin + max(0, (first - begin) // step) * step
    while budget.periods and current.year <= YEAR_MAX:
        budget.periods -= 1
        for offset in range(length):
            day = current + timedelta(days=offset)
            if day < first or (days.months and day.month not in days.months):
                continue
            found = budget.expand(days, day.year, day.month)
            if found is None:
                return
            if day in found:
                yield day
        current += step


def resolve(local: datetime, zone: tzinfo) -> int:
    """Return the moment of a local time, in microseconds since 1970.

    In a gap that is the moment at which the gap ends; in an overlap the first of the two moments.
    """
    moment = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) != local:
        offset = local.replace(tzinfo=zone, fold=1).utcoffset() or timedelta(0)
        low, high = local.replace(tzinfo=UTC) - offset, moment
        before = low.astimezone(zone).utcoffset()
        while high - low > timedelta(seconds=1):  # halves at most a day of seconds
            middle = (low + (high - low) / 2).replace(microsecond=0)
            if middle <= low:
                break
            if middle.astimezone(zone).utcoffset() == before:
                low = middle
            else:
                high = middle
        moment = high
    return (moment - EPOCH) // _MICROSECOND


def to_local(moment_time: int, zone: tzinfo) -> datetime:
    """Return the local time of a moment in microseconds since 1970."""
    return (EPOCH + timedelta(microseconds=moment_time)).astimezone(zone).replace(tzinfo=None, fold=0)


def _is_past_end(rule: Rule, moment: Moment) -> bool:
    if rule.until is None:
        return False
    if rule.until.tzinfo is None:
        return moment.local > rule.until
    return moment.time > (rule.until - EPOCH) // _MICROSECOND


def find_next(rule: Rule | None, start: datetime, zone: tzinfo, after: Moment | None) -> Moment | None:
    """Return the first occurrence after one; the very first if `after` is None; None if there is none.

    Without a rule, `start` is the only occurrence. COUNT is the caller's to count.
    """
    origin = resolve(start, zone)
    if rule is None:
        return Moment(start, origin) if after is None or start > after.local else None
    step = _ELAPSED.get(rule.days.frequency)
    if step is not None:
        step *= rule.interval
        passed = 0 if after is None or after.time < origin else (after.time - origin) // step + 1
        at = origin + passed * step
        local = to_local(at, zone)
        found = Moment(local, at)
        return None if local.year > YEAR_MAX or _is_past_end(rule, found) else found
    first = start if after is None or after.local < start else after.local
    for day in _iterate_days(rule, start.date(), first.date()):
        for clock in rule.times:
            local = datetime.combine(day, clock)
            if local < first or (after is not None and local <= after.local):
                continue
            found = Moment(local, resolve(local, zone))
            return None if _is_past_end(rule, found) else found
    return None


def find_next_after_time(rule: Rule | None, start: datetime, zone: tzinfo, moment_time: int) -> Moment | None:
    """Return the first occurrence after a moment, in microseconds since 1970."""
    found = find_next(rule, start, zone, None)
    if found is None or found.time > moment_time:
        return found
    # A gap of daylight saving moves local times by a day at most.
    before = to_local(moment_time, zone) - timedelta(days=1)
    found = find_next(rule, start, zone, Moment(before, moment_time if _is_elapsed(rule) else 0))
    while found is not None and found.time <= moment_time:  # at most the occurrences of a day or two
        found = find_next(rule, start, zone, found)
    return found


def _is_elapsed(rule: Rule | None) -> bool:
    return rule is not None and rule.days.frequency in _ELAPSED
