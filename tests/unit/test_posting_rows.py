"""The fields of a journal row stand in the right places: from an event's fate to COPY, and from the tables to audit."""

import re
from typing import Any

import pytest

from db.audit import SQL as AUDIT_SQL
from db.binary import ENTRY, ENTRY_FIELDS, make_entries
from db.posting import JOURNAL_TYPES, SQL, Lane, list_journal_columns
from domain.decision import Event, Fate
from domain.hash_chain import chain_row
from domain.intents import Intent, Leg, compute_intent_id
from domain.journal import JournalRow
from domain.outcomes import Outcome, QuarantineReason, Reason
from domain.stored_records import StoredLeg, StoredRow
from streams.posting.rows import make_journal_row

LANE = Lane(3, "payments.intents", "topic-id", 25, 17, b"head", 9)
LEGS = (Leg("external:bank", 1, 700, "EUR"), Leg("users:1", -1, 700, "EUR"))
FIRST = compute_intent_id("default", "first")
INTENT = Intent(
    intent_id=compute_intent_id("default", "second"),
    tenant="default",
    idempotency_key="second",
    type="reversal",
    legs=LEGS,
    reverses=FIRST,
    value_time=5,
    reference="reference",
    metadata={"a": "1"},
    accepted_time=4,
)
EVENT = Event(3, 25, b"fingerprint", INTENT)
POSTED = {
    "lane": 3,
    "seq": 17,
    "source_topic": "payments.intents",
    "source_offset": 25,
    "outcome": Outcome.POSTED,
    "reason": "",
    "detail": "",
    "tenant": "default",
    "intent_id": INTENT.intent_id,
    "idempotency_key": "second",
    "fingerprint": b"fingerprint",
    "type": "reversal",
    "reverses": FIRST,
    "legs": LEGS,
    "reference": "reference",
    "metadata": {"a": "1"},
    "value_time": 5,
    "booked_time": 9,
    "previous_hash": b"",
    "hash": b"",
}
FORGOTTEN = {"reverses": None, "reference": None, "metadata": {}}
NO_INTENT = FORGOTTEN | {"tenant": None, "intent_id": None, "idempotency_key": None, "type": None}


@pytest.mark.parametrize(
    ("event", "fate", "changes"),
    [
        (EVENT, Fate(Outcome.POSTED, legs=LEGS), {}),
        (EVENT._replace(intent=INTENT._replace(value_time=None)), Fate(Outcome.POSTED, legs=LEGS), {"value_time": 4}),
        (
            EVENT._replace(intent=INTENT._replace(value_time=None, accepted_time=0)),
            Fate(Outcome.POSTED, legs=LEGS),
            {"value_time": 9},
        ),
        (EVENT, Fate(Outcome.REJECTED, Reason.UNBALANCED, "why"), {"reason": "unbalanced", "detail": "why"}),
        (EVENT, Fate(Outcome.REJECTED, Reason.MALFORMED, "why"), {"reason": "malformed", "detail": "why"} | FORGOTTEN),
        (EVENT, Fate(Outcome.DUPLICATE), FORGOTTEN),
        (EVENT, Fate(Outcome.QUARANTINED, QuarantineReason.POISON, "why"),
         {"reason": "poison", "detail": "why"} | NO_INTENT),
        (EVENT._replace(intent=None), Fate(Outcome.QUARANTINED, QuarantineReason.POISON, "why"),
         {"reason": "poison", "detail": "why"} | NO_INTENT),
    ],
)  # fmt: skip
def test_a_row_has_each_field_of_its_event_and_fate(event: Event, fate: Fate, changes: dict[str, Any]) -> None:
    moves_nothing = {"outcome": fate.outcome, "legs": fate.legs, "value_time": None}
    wanted = POSTED | (moves_nothing if fate.outcome is not Outcome.POSTED else {}) | changes
    assert make_journal_row(LANE, 17, event, fate, 9)._asdict() == wanted


def test_a_chained_row_differs_in_its_two_hashes_only() -> None:
    row = JournalRow(**POSTED)
    hashed = chain_row(bytes(32), row)
    assert hashed._asdict() == POSTED | {"previous_hash": bytes(32), "hash": hashed.hash}
    assert len(hashed.hash) == 32


def copied(query: str) -> list[str]:
    """Return the columns of a COPY statement, in its order."""
    return re.findall(r"\w+", re.findall(r"\((.*?)\)", SQL[query], re.DOTALL)[0])


def test_copy_writes_the_columns_that_it_names() -> None:
    row = JournalRow(**POSTED | {"hash": b"hash"})
    columns = copied("copy_journal")
    assert columns == list(JOURNAL_TYPES)
    # The lane and the row before give the other fields.
    given = set(JournalRow._fields) - {"source_topic", "source_offset", "previous_hash", "legs"}
    assert set(columns) == given | {"leg_count"}
    wanted = row._asdict() | {"leg_count": 2}
    assert list_journal_columns(row) == tuple(wanted[name] for name in columns)
    empty = dict(zip(columns, list_journal_columns(row._replace(metadata={}, legs=())), strict=True))
    assert (empty["metadata"], empty["leg_count"]) == (None, 0)


def selected(query: str) -> list[str]:
    """Return the columns that a query of audit selects, in its order."""
    columns = re.findall(r"^SELECT\n(.*?)^FROM", AUDIT_SQL[query], re.DOTALL | re.MULTILINE)[0].split(",")
    return [re.split(r"[\s.]", column.strip())[-1] for column in columns]


def test_audit_selects_the_fields_of_a_stored_row_in_their_order() -> None:
    assert selected("stored_rows") == list(StoredRow._fields)
    assert selected("stored_legs") == ["address" if name == "account" else name for name in StoredLeg._fields]


def test_copy_writes_the_fields_of_an_entry_that_it_names() -> None:
    columns = copied("copy_entries")
    first = make_entries([JournalRow(**POSTED)], {("default", "external:bank"): 1, ("default", "users:1"): 2})[
        : ENTRY.size
    ]
    number, *fields, length = ENTRY.unpack(first)
    assert (number, len(columns), length) == (ENTRY_FIELDS, ENTRY_FIELDS, len("EUR"))
    values = dict(zip(columns, fields[1::2], strict=False))
    wanted = {"lane": 3, "seq": 17, "leg": 0, "account_id": 1, "direction": 1, "amount_minor": 700}
    assert values == wanted
    assert columns[-1] == "currency"
