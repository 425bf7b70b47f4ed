"""A tiny capability for tests of the worker: notes on accounts, each with a price that is paid by an intent."""

from typing import Any

import psycopg

from db.connections import Transaction
from domain.effects import Effects, Happened, Settled, make_own_key
from domain.events import Event
from domain.intents import CREDIT, DEBIT, Intent, Leg, compute_intent_id
from streams.capabilities import Capability

TABLES = """
CREATE SCHEMA tried;
CREATE TABLE tried.note (id text PRIMARY KEY, version bigint NOT NULL, told text[] NOT NULL DEFAULT '{}');
CREATE TABLE tried.seen (place bigint GENERATED ALWAYS AS IDENTITY, aggregate text NOT NULL, version bigint NOT NULL);
CREATE TABLE tried.due (id text PRIMARY KEY, due_time bigint, done integer NOT NULL DEFAULT 0, reason text);
GRANT USAGE ON SCHEMA tried TO ledgerline_worker;
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA tried TO ledgerline_worker;
"""
POISON = "poison"


def make_tables(dsn: str) -> None:
    """Make the capability's tables, as its migration would."""
    with psycopg.connect(dsn) as admin:
        admin.execute(TABLES)  # type: ignore[arg-type]


def make_payment(note: str, version: int, source: str = "external:bank") -> Intent:
    """Return the intent that pays for a version of a note."""
    key = make_own_key("notes", note, str(version))
    legs = (Leg(source, DEBIT, 100, "EUR"), Leg(f"users:{note}:wallet", CREDIT, 100, "EUR"))
    intent_id = compute_intent_id("default", key)
    return Intent(intent_id, "default", key, "transfer", legs, None, None, None, {}, 1_790_000_000_000_000)


def see(transaction: Transaction, happened: Happened) -> Effects:
    """Note that an event came, and pay for it. The text `poison` fails as long as it is not allowed."""
    event = happened.event
    allowed = transaction.execute("SELECT current_setting('notes.allowed', true)").fetchone()
    if event.data["text"] == POISON and allowed != ("yes",):
        raise ValueError("this note cannot be read")
    transaction.execute("INSERT INTO tried.seen (aggregate, version) VALUES (%s, %s)", [event.aggregate, event.version])
    if event.data["text"].startswith("pay"):
        source = "users:nobody:wallet" if event.data["text"] == "pay from nobody" else "external:bank"
        note = event.aggregate.removeprefix("notes:")
        return Effects(intents=(make_payment(note, event.version, source),))
    return Effects()


def hear(transaction: Transaction, settled: Settled) -> Effects:
    """Note what became of a payment, and tell it by an event of the note's receipt."""
    note, version = settled.key_parts
    told = f"{version}:{settled.outcome}:{settled.reason}"
    row = transaction.execute(
        "INSERT INTO tried.note (id, version, told) VALUES (%s, 1, ARRAY[%s])"
        " ON CONFLICT (id) DO UPDATE SET version = note.version + 1, told = note.told || EXCLUDED.told"
        " RETURNING version",
        [note, told],
    ).fetchone()
    assert row is not None
    data = {"text": told}
    receipt = Event("transaction", "NoteChanged", settled.tenant, f"receipts:{note}", row[0], data, settled.booked_time)
    return Effects(events=(receipt,))


class Reminder:
    """A due of the notes; an item whose id is `poison` fails."""

    name = "notes.reminder"

    def claim(self, transaction: Transaction, now: int, items_max: int) -> list[Any]:
        """Return reminders that are due."""
        return transaction.execute(
            "SELECT id, due_time FROM tried.due WHERE due_time <= %s ORDER BY due_time, id LIMIT %s"
            " FOR UPDATE SKIP LOCKED",
            [now, items_max],
        ).fetchall()

    def get_due_time(self, item: Any) -> int:
        """Return when the reminder fell due."""
        return int(item[1])

    def act_all(self, transaction: Transaction, items: Any, now: int) -> Effects:  # noqa: ARG002 - as the protocol
        """Count each reminder as done, and pay for it."""
        if any(name == POISON for name, _ in items):
            raise ValueError("this reminder cannot be read")
        transaction.execute(
            "UPDATE tried.due SET done = done + 1, due_time = NULL WHERE id = ANY(%s)",
            [[name for name, _ in items]],
        )
        return Effects(intents=tuple(make_payment(name, 1) for name, _ in items))

    def defer(self, transaction: Transaction, item: Any, until: int, reason: str) -> None:
        """Put a reminder off."""
        transaction.execute("UPDATE tried.due SET due_time = %s, reason = %s WHERE id = %s", [until, reason, item[0]])


CAPABILITY = Capability("notes", reactions={("transaction", "NoteChanged"): see}, outcome=hear, due=(Reminder(),))
