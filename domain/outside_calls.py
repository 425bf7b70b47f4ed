"""Rules of outside calls: what an answer means, when to try again, circuit breakers, rate limits. No I/O, no clock.

See docs/decisions/0032-outside-calls.md. Times of calls are microseconds since 1970; breakers and buckets take
monotonic seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

RETRY_AFTER_SECONDS_MAX: Final = 86_400.0
BREAKER_FAILURES: Final = 5
BREAKER_SECONDS_MIN: Final = 5.0
BREAKER_SECONDS_MAX: Final = 60.0
_SUCCESSES: Final = range(200, 300)
_SERVER_ERRORS: Final = range(500, 600)
_NOT_DONE: Final = (425, 429)
_REQUEST_TIMEOUT: Final = 408
_UNAVAILABLE: Final = 503


class Meaning(StrEnum):
    """What one attempt says about the call."""

    DONE = "done"
    REFUSED = "refused"
    """The other side will never do it."""
    NOT_DONE = "not_done"
    """The other side has certainly not done it, and may do it later."""
    UNKNOWN = "unknown"
    """The other side may have done it."""


class Fate(StrEnum):
    """What became of a call after an attempt."""

    DONE = "done"
    REFUSED = "refused"
    LATER = "later"
    """Another attempt follows, or the other side is asked."""
    GIVEN_UP = "given_up"
    """The retry plan is used up, and the other side has certainly not done it by the last attempt."""
    UNKNOWN = "unknown"
    """Nobody can tell, and nobody asks any more: a matter for people."""


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    body: bytes
    """At most the client's bound; the rest was not read."""
    retry_after: str | None = None
    """The header Retry-After, as it came."""


class Failure(NamedTuple):
    """An attempt without an answer."""

    reason: str
    is_sent: bool
    """Whether a byte of the request may have reached the other side."""


class ClaimedCall(NamedTuple):
    """A call that this worker has claimed, as handlers get it."""

    call_id: int
    tenant: str
    kind: str
    key: str
    """The idempotency key: the same at each attempt."""
    destination: str
    data: Mapping[str, Any]
    attempts: int
    """The number of this attempt, from 1. It fences an earlier claim."""
    asked_time: int
    """When the capability asked for the call, in microseconds since 1970."""


class Request(NamedTuple):
    """An HTTP request of a handler."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    timeout_seconds: float | None = None
    """None: the setting LEDGERLINE_CALLS_TIMEOUT_SECONDS."""


class Result(NamedTuple):
    """An attempt's result, as a handler settles it."""

    call: ClaimedCall
    fate: Fate
    answer: Answer | None
    failure: str
    """One sentence; empty if the call is done."""
    due_time: int | None
    """When the next attempt is due; None if there is none."""
    latency_microseconds: int = 0
    """From the request to the answer or the failure; 0 if this worker did not make the attempt."""
    is_wanted: bool = True
    """False if the handler made no request for the call."""


class RetryPlan(NamedTuple):
    """The pauses after the first, second ... attempt. After the last pause comes the last attempt."""

    delays_seconds: tuple[float, ...] = (5, 30, 120, 600, 3600, 3600, 7200)
    jitter_share: float = 0.1
    """A pause is longer by a random part, at most this share of it, so that failed calls do not come back together."""

    def find_delay(self, attempts: int, chance: float, retry_after_seconds: float | None = None) -> float | None:
        """Return the pause after this many attempts, in seconds; None if no attempt is left.

        `chance`: random, from 0 to below 1. A Retry-After makes the pause longer, never shorter.
        """
        if attempts > len(self.delays_seconds):
            return None
        pause = self.delays_seconds[attempts - 1]
        pause = max(pause, min(retry_after_seconds or 0.0, RETRY_AFTER_SECONDS_MAX))
        return pause * (1 + self.jitter_share * chance)


class RateLimit(NamedTuple):
    """The most calls to a destination that one worker begins."""

    per_second: float
    burst: int = 1


def judge_attempt(found: Answer | Failure) -> Meaning:
    """Return what an attempt means by HTTP's own rules; a handler may judge otherwise."""
    if isinstance(found, Failure):
        return Meaning.UNKNOWN if found.is_sent else Meaning.NOT_DONE
    if found.status in _SUCCESSES:
        return Meaning.DONE
    if found.status in _NOT_DONE:
        return Meaning.NOT_DONE
    if found.status in _SERVER_ERRORS or found.status == _REQUEST_TIMEOUT:
        return Meaning.UNKNOWN
    return Meaning.REFUSED


def is_outage(found: Answer | Failure) -> bool:
    """Return whether an attempt speaks against the destination as a whole, so that its breaker counts it."""
    return isinstance(found, Failure) or found.status in _SERVER_ERRORS or found.status == _REQUEST_TIMEOUT


def needs_pause(found: Answer | Failure) -> bool:
    """Return whether the destination as a whole asks for a pause: 429 or 503 with Retry-After."""
    return isinstance(found, Answer) and found.status in (429, _UNAVAILABLE) and found.retry_after is not None


def parse_retry_after(text: str | None, now: int) -> float | None:
    """Return the seconds that a header Retry-After asks for, from 0 to RETRY_AFTER_SECONDS_MAX; None if it is no time.

    `now`: microseconds since 1970. See RFC 9110, 10.2.3: seconds or an HTTP date.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:10]), RETRY_AFTER_SECONDS_MAX)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.fromtimestamp(now / 1e6, UTC)).total_seconds(), 0.0), RETRY_AFTER_SECONDS_MAX)


@dataclass
class Breaker:
    """A circuit breaker: closed, open until a time, then half-open for one trial call at a time."""

    failures: int = 0
    open_until: float = 0.0
    pause_seconds: float = 0.0

    def is_open(self, now: float) -> bool:
        """Return whether no call may begin."""
        return now < self.open_until

    def is_on_trial(self) -> bool:
        """Return whether only one call at a time may begin."""
        return self.pause_seconds > 0

    def note(self, failed: bool, now: float) -> None:
        """Count an attempt. A success closes the breaker; a failed trial opens it for twice the time."""
        if not failed:
            self.failures, self.open_until, self.pause_seconds = 0, 0.0, 0.0
            return
        self.failures += 1
        # Calls that were under way when the breaker opened say nothing new.
        if self.failures >= BREAKER_FAILURES and not self.is_open(now):
            self.pause_seconds = min(max(2 * self.pause_seconds, BREAKER_SECONDS_MIN), BREAKER_SECONDS_MAX)
            self.open_until = now + self.pause_seconds


@dataclass
class Bucket:
    """A token bucket. `tokens` below 0 are promised to calls that wait for them."""

    limit: RateLimit
    tokens: float
    filled_at: float

    def fill(self, now: float) -> float:
        """Return the tokens at `now`, at most the burst."""
        more = max(now - self.filled_at, 0.0) * self.limit.per_second
        self.tokens, self.filled_at = min(self.tokens + more, float(self.limit.burst)), max(now, self.filled_at)
        return self.tokens

    def take(self, now: float) -> float:
        """Take a token; return the seconds until the call may begin."""
        self.fill(now)
        self.tokens -= 1
        return max(-self.tokens / self.limit.per_second, 0.0)
