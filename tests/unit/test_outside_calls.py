"""The rules of outside calls, as tables."""

import pytest

from domain.outside_calls import (
    RETRY_AFTER_SECONDS_MAX,
    Answer,
    Breaker,
    Bucket,
    Failure,
    Meaning,
    RateLimit,
    RetryPlan,
    judge_attempt,
    parse_retry_after,
)
from streams.destinations import Destinations

NOW = 1_760_000_000_000_000  # Thu, 09 Oct 2025 08:53:20 GMT


@pytest.mark.parametrize(
    ("found", "meaning"),
    [
        (Answer(200, b""), Meaning.DONE),
        (Answer(204, b""), Meaning.DONE),
        (Answer(302, b""), Meaning.REFUSED),
        (Answer(400, b""), Meaning.REFUSED),
        (Answer(408, b""), Meaning.UNKNOWN),
        (Answer(410, b""), Meaning.REFUSED),
        (Answer(425, b""), Meaning.NOT_DONE),
        (Answer(429, b""), Meaning.NOT_DONE),
        (Answer(500, b""), Meaning.UNKNOWN),
        (Answer(503, b""), Meaning.UNKNOWN),
        (Failure("no connection", is_sent=False), Meaning.NOT_DONE),
        (Failure("no answer", is_sent=True), Meaning.UNKNOWN),
    ],
)
def test_meaning(found: Answer | Failure, meaning: Meaning) -> None:
    assert judge_attempt(found) is meaning


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("999999999999999999999", RETRY_AFTER_SECONDS_MAX),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("\u0665", None),
        ("", None),
        ("Thu, 09 Oct 2025 08:54:20 GMT", 60.0),
        ("Thu, 09 Oct 2025 08:00:00 GMT", 0.0),
        ("Thu, 09 Oct 2035 08:00:00 GMT", RETRY_AFTER_SECONDS_MAX),
        ("Thu, 99 Oct 2025 08:00:00 GMT", None),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, NOW) == seconds


@pytest.mark.parametrize(
    ("attempts", "chance", "retry_after", "delay"),
    [
        (1, 0.0, None, 5),
        (1, 0.5, None, 5.25),
        (2, 0.0, None, 300),
        (2, 0.0, 10, 300),
        (1, 0.0, 60, 60),
        (1, 0.0, 1e9, 86400),
        (3, 0.0, None, None),
    ],
)
def test_delays(attempts: int, chance: float, retry_after: float | None, delay: float | None) -> None:
    assert RetryPlan((5, 300), 0.1).find_delay(attempts, chance, retry_after) == delay


def test_breaker() -> None:
    """Five failures in a row open it for 5 s; a failed trial for 10 s, at most 60 s; a success closes it."""
    breaker = Breaker()
    for _ in range(4):
        breaker.note(failed=True, now=0.0)
    breaker.note(failed=False, now=0.0)
    for _ in range(4):
        breaker.note(failed=True, now=0.0)
    assert not breaker.is_open(0.0)
    breaker.note(failed=True, now=0.0)
    breaker.note(failed=True, now=1.0)  # it was under way
    assert breaker.is_open(4.9)
    assert not breaker.is_open(5.0)
    assert breaker.is_on_trial()
    now, pauses = 5.0, []
    for _ in range(5):
        breaker.note(failed=True, now=now)
        pauses.append(breaker.open_until - now)
        now = breaker.open_until
    assert pauses == [10, 20, 40, 60, 60]
    breaker.note(failed=False, now=now)
    assert not breaker.is_on_trial()


def test_bucket() -> None:
    """Two at once, then one each half second; a clock that goes back gives nothing."""
    bucket = Bucket(RateLimit(2, 2), 2.0, 10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [0, 0, 0.5, 1.0]
    assert bucket.fill(9.0) == -2
    assert bucket.fill(11.0) == 0
    assert bucket.fill(100.0) == 2  # noqa: PLR2004 - the burst


def test_rooms() -> None:
    destinations = Destinations(3)
    assert destinations.find_rooms(0.0) == {}
    destinations.begin("busy", None, 0.0)
    destinations.begin("limited", RateLimit(1, 1), 0.0)
    assert destinations.find_rooms(0.0) == {"busy": 2, "limited": 0}
    for _ in range(5):
        destinations.get("dead").breaker.note(failed=True, now=0.0)
    assert destinations.find_rooms(1.0)["dead"] == 0
    assert destinations.find_rooms(5.0)["dead"] == 1
    assert destinations.count_open() == 1
