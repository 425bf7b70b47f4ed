"""Many schedules that fall due at once: adds them, and measures what the clock's claim and act cost."""

import time
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from db.connections import connect
from streams.schedules import DUE

CLAIMED_MAX: Final = 1000
_ADD: Final = """
INSERT INTO schedules.schedule (
    tenant, schedule_id, version, state, name, intent, start, zone, rrule, missed, retries, retry_pause_seconds,
    rule_time, base, number, local, occurrence_time, attempt, is_in_flight, not_before, skip_before, created_time,
    changed_time, due_time, request_hash
)
SELECT
    'default', md5(g::text)::uuid, 1, 'active', '', %(intent)s, '2027-01-31 09:00', 'Europe/Berlin', 'FREQ=MONTHLY',
    'post', 3, 86400, 0, 0, 1, '2027-01-31 09:00', d, 0, false, 0, 0, 0, 0, d, ''
FROM (SELECT g, %(begin)s::bigint + (g * 60000000 / %(number)s) AS d FROM generate_series(1, %(number)s::bigint) AS g)
"""


def add_due_schedules(dsn: str, number: int, begin: int) -> None:
    """Add schedules that fall due one after the other within a minute from `begin`, in microseconds since 1970."""
    legs = [
        {"account": account, "direction": direction, "amount_minor": 5, "currency": "EUR"}
        for account, direction in (("external:bank", "debit"), ("users:1:wallet", "credit"))
    ]
    intent = Jsonb({"type": "transfer", "legs": legs, "reference": None, "metadata": {}})
    with psycopg.connect(dsn) as owner:
        owner.execute(_ADD, {"intent": intent, "begin": begin, "number": number})
        owner.execute("ANALYZE schedules.schedule")


def measure_acts(dsn: str, now: int) -> tuple[int, float]:
    """Claim and act until nothing is due, each round in one transaction; return the intents and the seconds.

    The events and intents are counted, not stored: that is the clock's work (streams.clock).
    """
    sent: set[UUID] = set()
    count = 0
    begun = time.perf_counter()
    while True:
        with connect(dsn, "ledgerline_worker") as transaction:
            items: Any = DUE.claim(transaction, now, CLAIMED_MAX)
            if not items:
                break
            effects = DUE.act_all(transaction, items, now)
            count += len(effects.intents)
            sent.update(intent.intent_id for intent in effects.intents)
    if len(sent) != count:
        raise ValueError("an intent was handed over twice")
    return count, time.perf_counter() - begun


def count_sent(dsn: str) -> int:
    """Return the number of occurrences that were sent."""
    with psycopg.connect(dsn) as owner:
        rows = owner.execute("SELECT count(*) FROM schedules.occurrence WHERE state = 'sent'").fetchall()
    return int(rows[0][0])
