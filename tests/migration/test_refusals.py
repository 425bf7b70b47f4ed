"""What the database itself refuses to everyone: to the owner, and to a posting worker with a bug."""

from typing import Any, Final

import psycopg
import pytest
from psycopg import Connection, sql

APPEND_ONLY: Final = [
    "ledger.journal",
    "ledger.entry",
    "ledger.quarantine",
    "ledger.quarantine_retry",
    "ledger.quarantine_retry_sent",
    "ledger.operation",
    "ledger.fact",
    "ledger.signed_head",
    "audit.segment",
    "audit.checkpoint",
    "audit.checkpoint_lane",
    "audit.signing_key",
]

HASH: Final = bytes(32)


def journal(connection: Connection[Any], seq: int, outcome: str = "posted", legs: int = 2, **changes: Any) -> None:
    """Insert one journal row of lane 0, as posting would write it."""
    row = {
        "lane": 0, "seq": seq, "outcome": outcome,
        "reason": "unbalanced" if outcome == "rejected" else "empty" if outcome == "quarantined" else "",
        "detail": "", "tenant": "default", "intent_id": f"00000000-0000-5000-8000-{seq:012}",
        "idempotency_key": f"k{seq}",
        "fingerprint": HASH, "type": "transfer", "reverses": None,
        "leg_count": legs if outcome == "posted" else 0, "reference": None, "metadata": None, "value_time": 0,
        "booked_time": 0, "hash": HASH,
    } | changes  # fmt: skip
    names = ", ".join(row)
    places = ", ".join(f"%({name})s" for name in row)
    connection.execute(f"INSERT INTO ledger.journal ({names}) VALUES ({places})".encode(), row)  # noqa: S608


def entries(connection: Connection[Any], *legs: tuple[int, int, int, int, str]) -> None:
    """Insert entries of lane 0 in one statement: (seq, leg, direction, amount, currency)."""
    values = ", ".join(["(0, %s, %s, 1, %s, %s, %s)"] * len(legs))
    columns = "lane, seq, leg, account_id, direction, amount_minor, currency"
    flat = [value for leg in legs for value in leg]
    connection.execute(f"INSERT INTO ledger.entry ({columns}) VALUES {values}".encode(), flat)  # noqa: S608


@pytest.fixture
def posted(owner: Connection[Any]) -> Connection[Any]:
    """A ledger with one posted row and one quarantined row."""
    journal(owner, 0)
    entries(owner, (0, 0, 1, 500, "EUR"), (0, 1, -1, 500, "EUR"))
    journal(owner, 1, "quarantined", tenant=None, intent_id=None, idempotency_key=None)
    owner.execute("INSERT INTO ledger.quarantine (lane, seq, headers) VALUES (0, 1, '[]')")
    return owner


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_even_the_owner_cannot_change_what_is_append_only(posted: Connection[Any], table: str) -> None:
    columns = posted.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND attidentity = ''"
        " ORDER BY attnum LIMIT 1",
        (table,),
    ).fetchall()
    names = {"table": sql.Identifier(*table.split(".")), "column": sql.Identifier(columns[0][0])}
    for statement in ("UPDATE {table} SET {column} = {column}", "DELETE FROM {table}", "TRUNCATE {table} CASCADE"):
        # The triggers are statement triggers, so they also fire for an empty table.
        with pytest.raises(psycopg.errors.RestrictViolation, match="is refused"):
            posted.execute(sql.SQL(statement).format(**names))  # type: ignore[arg-type]
    assert posted.execute("SELECT count(*) FROM ledger.entry").fetchall() == [(2,)]


def test_append_only_is_complete(owner: Connection[Any]) -> None:
    """Every table that no role may update or delete also has a trigger, except the list of migrations."""
    guarded = {
        row[0]
        for row in owner.execute(
            "SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgfoid::regproc::text LIKE '%refuse_change'"
        )
    }
    assert guarded == set(APPEND_ONLY)


# Entries of one statement for journal row 0 with two legs, and the constraint that refuses them.
ENTRY_SETS: Final = [
    ("balanced", [(0, 0, 1, 500, "EUR"), (0, 1, -1, 500, "EUR")], None),
    ("one side", [(0, 0, 1, 500, "EUR")], "entry_balances"),
    ("sums differ", [(0, 0, 1, 500, "EUR"), (0, 1, -1, 499, "EUR")], "entry_balances"),
    ("same side twice", [(0, 0, 1, 500, "EUR"), (0, 1, 1, 500, "EUR")], "entry_balances"),
    ("balanced over currencies only", [(0, 0, 1, 500, "EUR"), (0, 1, -1, 500, "USD")], "entry_balances"),
    ("64 bits overflow", [(0, 0, 1, 2**63 - 1, "EUR"), (0, 1, 1, 2**63 - 1, "EUR")], "entry_balances"),
    ("more legs than the row", [(0, n, 1 if n % 2 else -1, 5, "EUR") for n in range(4)], "entry_legs"),
    ("legs not numbered from 0", [(0, 1, 1, 500, "EUR"), (0, 2, -1, 500, "EUR")], "entry_legs"),
    ("legs numbered with a gap", [(0, 0, 1, 500, "EUR"), (0, 2, -1, 500, "EUR")], "entry_legs"),
    ("no journal row", [(7, 0, 1, 500, "EUR"), (7, 1, -1, 500, "EUR")], "entry_legs"),
    ("zero", [(0, 0, 1, 0, "EUR"), (0, 1, -1, 0, "EUR")], "entry_amount_minor_check"),
    ("negative", [(0, 0, 1, -5, "EUR"), (0, 1, -1, -5, "EUR")], "entry_amount_minor_check"),
    ("no direction", [(0, 0, 0, 5, "EUR"), (0, 1, 0, 5, "EUR")], "entry_direction_check"),
]


@pytest.mark.parametrize(("name", "legs", "constraint"), ENTRY_SETS, ids=[case[0] for case in ENTRY_SETS])
def test_entries_that_do_not_add_up_are_refused(
    owner: Connection[Any], name: str, legs: list[tuple[int, int, int, int, str]], constraint: str | None
) -> None:
    journal(owner, 0)
    if constraint is None:
        entries(owner, *legs)
    else:
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            entries(owner, *legs)
        assert refused.value.diag.constraint_name == constraint
    kept = owner.execute("SELECT count(*) FROM ledger.entry").fetchall()
    assert kept == [(len(legs) if constraint is None else 0,)]


def test_legs_cannot_be_added_later(posted: Connection[Any]) -> None:
    for error, first, second in ((psycopg.errors.CheckViolation, 2, 3), (psycopg.errors.UniqueViolation, 0, 1)):
        with pytest.raises(error):
            entries(posted, (0, first, 1, 5, "EUR"), (0, second, -1, 5, "EUR"))


def test_one_bad_row_refuses_the_whole_statement(owner: Connection[Any]) -> None:
    journal(owner, 0)
    journal(owner, 1)
    with pytest.raises(psycopg.errors.CheckViolation, match=r"journal row \(0, 1\) does not balance in EUR"):
        entries(owner, (0, 0, 1, 5, "EUR"), (0, 1, -1, 5, "EUR"), (1, 0, 1, 5, "EUR"), (1, 1, -1, 6, "EUR"))
    assert owner.execute("SELECT count(*) FROM ledger.entry").fetchall() == [(0,)]


def test_copy_is_checked_like_insert(owner: Connection[Any]) -> None:
    journal(owner, 0)
    with pytest.raises(psycopg.errors.CheckViolation):
        copied(owner, (0, 0, 0, 1, 1, 500, "EUR"), (0, 0, 1, 1, -1, 501, "EUR"))
    assert owner.execute("SELECT count(*) FROM ledger.entry").fetchall() == [(0,)]


def copied(connection: Connection[Any], *rows: tuple[Any, ...]) -> None:
    command = b"COPY ledger.entry (lane, seq, leg, account_id, direction, amount_minor, currency) FROM STDIN"
    with connection.cursor().copy(command) as copy:
        for row in rows:
            copy.write_row(row)


# A change to a good row, and the error that it causes.
ROWS: Final = [
    ({"outcome": "perhaps"}, psycopg.errors.CheckViolation),
    ({"outcome": "posted", "leg_count": 0}, psycopg.errors.CheckViolation),
    ({"outcome": "duplicate", "leg_count": 2}, psycopg.errors.CheckViolation),
    ({"outcome": "rejected", "leg_count": 0, "reason": ""}, psycopg.errors.CheckViolation),
    ({"reason": "unbalanced"}, psycopg.errors.CheckViolation),
    ({"intent_id": None}, psycopg.errors.CheckViolation),
    ({"seq": 0}, psycopg.errors.UniqueViolation),
    ({"intent_id": "00000000-0000-5000-8000-000000000000"}, psycopg.errors.UniqueViolation),
    ({"hash": None}, psycopg.errors.NotNullViolation),
]


@pytest.mark.parametrize(("changes", "error"), ROWS, ids=[str(case[0]) for case in ROWS])
def test_journal_rows_that_contradict_themselves_are_refused(
    posted: Connection[Any], changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        journal(posted, **{"seq": 2, **changes})


def test_an_intent_is_settled_once_but_delivered_often(posted: Connection[Any]) -> None:
    same = {"intent_id": "00000000-0000-5000-8000-000000000000", "idempotency_key": "k0"}
    journal(posted, 2, "duplicate", **same)
    journal(posted, 3, "idempotency_conflict", **same)
    # An intent id belongs to one tenant and key, and posting checks that: the same id is the same intent.
    for tenant in ("default", "other"):
        with pytest.raises(psycopg.errors.UniqueViolation):
            journal(posted, 4, "rejected", **same, tenant=tenant)


def test_whence_the_rows_of_a_lane_came_cannot_change(owner: Connection[Any]) -> None:
    """Only the lane stores the topic and the first offset of its rows."""
    owner.execute(
        "INSERT INTO ledger.lane (lane, topic, topic_id, first_offset, next_offset) VALUES (0, 't', 'i', 9, 9)"
    )
    owner.execute("UPDATE ledger.lane SET topic = 'u', first_offset = 10, next_offset = 10")
    journal(owner, 0, "rejected")
    owner.execute("UPDATE ledger.lane SET next_offset = 11, next_seq = 1")
    for change in ("topic = 't'", "first_offset = 9, next_offset = 10", "lane = 1"):
        with pytest.raises(psycopg.errors.CheckViolation, match="lane 0 has rows that came from u at offset 10 on"):
            owner.execute(f"UPDATE ledger.lane SET {change}".encode())  # noqa: S608
    owner.execute("UPDATE ledger.lane SET topic_id = 'another'")


@pytest.mark.parametrize("lane", [-1, 2**15])
def test_a_lane_has_a_number_that_fits_in_a_place(owner: Connection[Any], lane: int) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        owner.execute("INSERT INTO ledger.lane (lane, topic, topic_id) VALUES (%s, 't', 'i')", (lane,))


def test_a_lane_cannot_count_otherwise_than_its_offsets(owner: Connection[Any]) -> None:
    owner.execute(
        "INSERT INTO ledger.lane (lane, topic, topic_id, first_offset, next_offset, next_seq)"
        " VALUES (0, 't', 'i', 10, 12, 2)"
    )
    for change in ("next_offset = 13", "next_seq = 3", "first_offset = 9"):
        with pytest.raises(psycopg.errors.CheckViolation):
            owner.execute(f"UPDATE ledger.lane SET {change}".encode())  # noqa: S608
    journal(owner, 2, "rejected")
    owner.execute("UPDATE ledger.lane SET next_offset = 13, next_seq = 3")


def test_a_retry_needs_its_quarantined_row(posted: Connection[Any]) -> None:
    insert = (
        "INSERT INTO ledger.quarantine_retry (lane, seq, retried_by, topic, partition, from_offset)"
        " VALUES (0, %s, 'me', 't', 0, 1)"
    )
    posted.execute(insert, (1,))
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        posted.execute(insert, (0,))


# Journal rows 0 and 1; only row 0 has its entries. The lane is moved to (next_seq, head); then whether that is allowed.
ADVANCES: Final = [
    ("over the whole row", 1, HASH, True),
    ("to another head", 1, b"\x01" * 32, False),
    ("over the row without entries", 2, HASH, False),
    ("over rows that are not there", 3, HASH, False),
]


@pytest.mark.parametrize(("name", "next_seq", "head", "allowed"), ADVANCES, ids=[case[0] for case in ADVANCES])
def test_a_lane_moves_only_over_whole_rows(
    owner: Connection[Any], name: str, next_seq: int, head: bytes, allowed: bool
) -> None:
    owner.execute("INSERT INTO ledger.lane (lane, topic, topic_id) VALUES (0, 'payments.intents', 'an id')")
    journal(owner, 0)
    entries(owner, (0, 0, 1, 500, "EUR"), (0, 1, -1, 500, "EUR"))
    journal(owner, 1)
    move = ("UPDATE ledger.lane SET next_seq = %s, next_offset = %s, head = %s", (next_seq, next_seq, head))
    if allowed:
        owner.execute(*move)
        return
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        owner.execute(*move)
    assert refused.value.diag.constraint_name == "lane_advances"
