"""Schedules of a chaos run: rules whose occurrences are all due already, so that the worker posts one after the other.

A schedule begins an occurrence once the occurrence before it is posted. So each occurrence passes every part of the
worker: the clock, the sender, the reader of outcomes, and the outbox's relay.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx

from tools.chaos.load.load import LoadError
from tools.chaos.oracle import Leg, Scheduled

SECONDS_MAX: Final = 60.0
AMOUNT_MINOR_MAX: Final = 500
# The API accepts a start that lies at most a day in the past: room for a clock that is wrong by some minutes.
OCCURRENCES_MAX: Final = 1_400
_PAUSE_SECONDS: Final = 0.2


def add_schedules(
    api_urls: Callable[[], Sequence[str]],
    api_key: str,
    tenant: str,
    draw: random.Random,
    *,
    schedules: int,
    occurrences: int,
) -> list[Scheduled]:
    """Make so many schedules of so many occurrences each over HTTP, and return them.

    An answer that does not come is asked for again, under the same key. Raise LoadError if an answer is wrong, or if
    none comes within SECONDS_MAX.
    """
    if not 0 < occurrences <= OCCURRENCES_MAX:
        raise ValueError(f"A schedule has 1 to {OCCURRENCES_MAX} occurrences here.")
    prefix = f"schedule-{draw.getrandbits(64):x}"
    first = datetime.now(UTC) - timedelta(minutes=occurrences)
    made = []
    with httpx.Client(headers={"Authorization": f"Bearer {api_key}"}, timeout=15.0, trust_env=False) as client:
        for number in range(schedules):
            legs = _make_legs(f"users:{prefix}-{number}:wallet", draw.randint(1, AMOUNT_MINOR_MAX))
            body = {
                "name": "Chaos",
                "start": first.strftime("%Y-%m-%dT%H:%M:%S"),
                "zone": "UTC",
                "rrule": f"FREQ=MINUTELY;COUNT={occurrences}",
                "intent": {"type": "transfer", "legs": [leg._asdict() for leg in legs]},
            }
            document = _post(client, api_urls, f"{prefix}-{number}", body)
            made.append(Scheduled(tenant, document["schedule_id"], occurrences, legs))
    return made


def _make_legs(wallet: str, amount_minor: int) -> tuple[Leg, ...]:
    return Leg("external:bank", "debit", amount_minor, "EUR"), Leg(wallet, "credit", amount_minor, "EUR")


def _post(client: httpx.Client, api_urls: Callable[[], Sequence[str]], key: str, body: dict[str, Any]) -> Any:
    deadline = time.monotonic() + SECONDS_MAX
    attempt = 0
    while True:
        urls = api_urls()
        url = urls[attempt % len(urls)]
        attempt += 1
        try:
            answer = client.post(f"{url}/v1/schedules", json=body, headers={"Idempotency-Key": key})
            trouble = f"{answer.status_code} {answer.text}"
            if answer.status_code in (200, 201):
                return answer.json()
            if answer.status_code < 500:
                raise LoadError(f"The API refused a schedule: {trouble}")
        except httpx.TransportError as error:
            trouble = type(error).__name__
        if time.monotonic() >= deadline:
            raise LoadError(f"No schedule could be made within {SECONDS_MAX:g} s: {trouble}")
        threading.Event().wait(_PAUSE_SECONDS)
