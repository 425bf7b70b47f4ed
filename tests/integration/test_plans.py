"""Queries for a few rows read few pages, however large the ledger is, with or without Postgres' statistics."""

import json
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

import psycopg
import pytest
from psycopg import Connection

from db.queries import load
from tests.posting_bench import PostingBench

ROWS: Final = 40_000
LANES: Final = 4
ACCOUNTS: Final = 60_000
ASKED: Final = 20
# Fewer pages than journal, entry or account have. A requested row costs about ten pages. Most of them are upper pages
# of indexes, which are counted again for each row.
PAGES_MAX: Final = 20 * ASKED

FILL: Final = (
    "SET session_replication_role = replica",
    "INSERT INTO ledger.tenant (tenant) VALUES ('many')",
    """INSERT INTO ledger.account (tenant, address, account_class, normal_direction)
        SELECT 'many', 'a:' || number, 'asset', 1 FROM generate_series(1, %(accounts)s) AS number""",
    """INSERT INTO ledger.journal (
            seq, value_time, booked_time, lane, leg_count, intent_id, outcome, reason, detail, tenant, idempotency_key,
            fingerprint, type, hash
        )
        SELECT number / %(lanes)s, 0, 0, number %% %(lanes)s, 2, md5(number::text)::uuid, 'posted', '', '', 'many',
            number, sha256(int8send(number)), 'transfer', sha256(int8send(-number))
        FROM generate_series(0, %(rows)s - 1) AS number""",
    # The first account is in every row; the others take turns.
    """INSERT INTO ledger.entry (seq, account_id, amount_minor, lane, leg, direction, currency)
        SELECT number / %(lanes)s, own.first_id + CASE leg WHEN 0 THEN 0 ELSE 1 + number %% (%(accounts)s - 1) END, 1,
            number %% %(lanes)s, leg, 1 - 2 * leg, 'EUR'
        FROM generate_series(0, %(rows)s - 1) AS number CROSS JOIN generate_series(0, 1) AS leg
        CROSS JOIN (SELECT min(account_id) AS first_id FROM ledger.account WHERE tenant = 'many') AS own""",
    """INSERT INTO ledger.lane (lane, topic, topic_id, next_offset, next_seq)
        SELECT lane, 't', 'i', %(rows)s / %(lanes)s, %(rows)s / %(lanes)s
        FROM generate_series(0, %(lanes)s - 1) AS lane""",
)

FIRST: Final = ROWS // LANES // 2
WINDOW: Final = {"lane": 1, "first_seq": FIRST, "next_seq": FIRST + ASKED}
RANGE: Final = {"lane": 1, "first_seq": FIRST, "records_max": ASKED}
OF_ACCOUNT: Final = {"tenant": "many", "address": "a:1", "lane": 1, "seq": FIRST, "leg": 0, "limit": ASKED}
# The query finds its place in each lane by binary search: about fifteen journal rows, and a page for each.
STATEMENT: Final = {
    **{"tenant": "many", "address": "a:1", "currency": "EUR", "running_net": None, "since": 0, "limit": 2},
    **{"time": 2**62, "lane": -1, "seq": -1, "leg": -1},
}
OF_JOURNAL: Final = {"tenant": "many", "outcome": None, "limit": ASKED, "after_lane": 1, "after_seq": FIRST}

CASES: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("posting", "settled"): {},
    ("posting", "original_legs"): {},
    ("reads", "settled"): {},
    ("reads", "intents"): {"lanes": [1] * ASKED, "offsets": list(range(FIRST, FIRST + ASKED))},
    ("reads", "reversible"): {},
    ("reads", "entries"): OF_ACCOUNT,
    ("reads", "journal"): {**OF_JOURNAL, "lane_max": 2**31 - 1, "scan_max": 10 * ASKED},
    ("reports", "statement"): STATEMENT,
    ("relay", "records"): {**RANGE, "raw_bytes_max": 2**24},
    ("relay", "legs"): RANGE,
    ("audit", "stored_rows"): WINDOW,
    ("audit", "stored_legs"): WINDOW,
    ("comparison", "journal"): WINDOW,
    ("comparison", "entry"): WINDOW,
    ("proving", "stray_rows"): {"limit": ASKED},
    ("reconciliation", "faulty_rows"): WINDOW,
    ("reconciliation", "original_sums"): {},
}


@pytest.fixture(scope="module", params=["without statistics", "with statistics"])
def large(request: pytest.FixtureRequest, stack: Any, template: str) -> Iterator[Connection[Any]]:
    """Yield a connection to a ledger so large that reading a whole table differs clearly from reading a part."""
    name = f"plans_{template}"
    with psycopg.connect(stack.postgres_dsn, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        try:
            dsn = psycopg.conninfo.make_conninfo(stack.postgres_dsn, dbname=name)
            with psycopg.connect(dsn, autocommit=True, options="-c jit=off") as connection:
                for table in ("journal", "entry", "account"):
                    connection.execute(f"ALTER TABLE ledger.{table} SET (autovacuum_enabled = false)".encode())
                for statement in FILL:
                    connection.execute(statement.encode(), {"rows": ROWS, "lanes": LANES, "accounts": ACCOUNTS})
                if request.param == "with statistics":
                    connection.execute("ANALYZE")
                yield connection
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def pages_of(plan: dict[str, Any]) -> int:
    """Return how many pages were read, from memory or not."""
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.parametrize(("stem", "name"), CASES, ids=[".".join(case) for case in CASES])
def test_a_query_of_a_few_rows_reads_a_few_pages(large: Connection[Any], stem: str, name: str) -> None:
    found = large.execute("SELECT intent_id FROM ledger.journal WHERE seq < %s", (ASKED // LANES,)).fetchall()
    intent_ids = [row[0] for row in found]
    values = {"tenant": "many", "tenants": ["many"] * len(intent_ids), "intent_ids": intent_ids, **CASES[stem, name]}
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {load(stem)[name]}"
    ((document,),) = large.execute(explain.encode(), values).fetchall()
    assert pages_of(document[0]["Plan"]) <= PAGES_MAX, json.dumps(document, indent=1)


def test_a_whole_table_is_told_from_that(large: Connection[Any]) -> None:
    for column in ("journal.detail", "entry.currency", "account.address"):
        table, _, _ = column.partition(".")
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT count({column}) FROM ledger.{table}"  # noqa: S608
        ((document,),) = large.execute(explain.encode()).fetchall()
        assert pages_of(document[0]["Plan"]) > PAGES_MAX


TOUCHED: Final = """
    SELECT sum(pg_stat_get_xact_tuples_returned(relation)) + sum(pg_stat_get_xact_tuples_fetched(relation))
    FROM unnest(ARRAY['ledger.journal'::regclass, 'ledger.entry'::regclass]) AS relation
"""


ROW: Final = """
    INSERT INTO ledger.journal (
        seq, value_time, booked_time, lane, leg_count, intent_id, outcome, reason, detail, tenant, idempotency_key,
        fingerprint, type, hash
    ) VALUES (%(seq)s, 0, 0, 0, 2, %(intent_id)s, 'posted', '', '', 'many', 'key', '', 'transfer', %(hash)s)
"""
MOVE: Final = "UPDATE ledger.lane SET next_seq = %(seq)s + 1, next_offset = %(seq)s + 1, head = %(hash)s"
LEGS: Final = """
    INSERT INTO ledger.entry (seq, account_id, amount_minor, lane, leg, direction, currency)
    SELECT %(seq)s, 1, 1, 0, leg, 1 - 2 * leg, 'EUR' FROM generate_series(0, 1) AS leg
"""


def post_one(connection: Connection[Any], seq: int) -> int:
    """Post one transfer at this seq of lane 0 and move the lane past it; return how many rows the triggers read."""
    row = {"seq": seq, "hash": seq.to_bytes(32), "intent_id": UUID(int=seq)}
    with connection.transaction():
        ((before,),) = connection.execute(TOUCHED).fetchall()
        connection.execute(ROW, row)
        connection.execute(LEGS, row)
        connection.execute(MOVE, row)
        ((after,),) = connection.execute(TOUCHED).fetchall()
    return int(after - before)


def test_the_triggers_plans_are_kept_and_hold_when_the_ledger_has_grown(bench: PostingBench) -> None:
    with psycopg.connect(bench.dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO ledger.lane (lane, topic, topic_id) VALUES (0, 't', 'i')")
        small = [post_one(connection, seq) for seq in range(10)]
        with psycopg.connect(bench.dsn) as other:
            other.execute("SET session_replication_role = replica")
            for statement in FILL[1:5]:
                numbers = {"rows": ROWS, "lanes": 1, "accounts": ACCOUNTS}
                other.execute(statement.replace("(0, %(rows)s - 1)", "(10, %(rows)s - 1)").encode(), numbers)
            other.execute("UPDATE ledger.lane SET next_seq = %(rows)s, next_offset = %(rows)s", {"rows": ROWS})
        assert post_one(connection, ROWS) <= max(small) < ROWS / 1000
