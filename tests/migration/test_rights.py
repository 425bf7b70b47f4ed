"""Least privilege as a table: what each role may do on each table. The table below is the specification."""

from typing import Any, Final

import psycopg
import pytest
from psycopg import Connection, sql

from db.connections import ROLES
from db.migrate import FOLDER, migrate
from ops.embedded.stack import Endpoints

# s: SELECT, i: INSERT, u: UPDATE, d: DELETE, c: UPDATE of some columns only (Postgres requires it to lock rows).
# No role may TRUNCATE, refer to, or put a trigger on any table. ledgerline_owner is a name for the owner of the tables.
RIGHTS: Final = """
                               posting  relay  api  reconciliation  audit  worker  operator
access.api_key                 -        -      s    -               -      -       siu
access.cursor_key              -        -      s    -               -      -       -
audit.break                    -        -      s    -               siu    -       s
audit.checkpoint               -        -      s    -               si     -       s
audit.checkpoint_lane          -        -      s    -               si     -       s
audit.lane                     -        -      s    -               siu    -       s
audit.publication              -        -      s    -               su     -       s
audit.segment                  -        -      s    -               si     -       s
audit.signing_key              -        -      s    -               si     -       s
calls.call                     -        -      -    -               -      siud    s
ledger.account                 sic      s      s    s               s      -       s
ledger.balance                 siu      -      s    s               s      -       s
ledger.books_version           s        -      s    s               s      s       s
ledger.chart_pattern           s        -      s    s               s      s       siud
ledger.entry                   si       s      s    s               s      -       s
ledger.fact                    s        s      s    s               s      -       s
ledger.fact_chain              s        s      s    s               s      -       s
ledger.frame                   s        -      s    s               s      -       s
ledger.intake                  s        -      s    s               s      s       sc
ledger.journal                 si       s      s    s               s      -       s
ledger.lane                    siu      s      s    s               s      -       s
ledger.operation               s        -      s    s               s      -       si
ledger.quarantine              si       s      s    s               s      -       s
ledger.quarantine_retry        s        -      s    s               s      -       si
ledger.quarantine_retry_sent   s        -      s    s               s      -       si
ledger.quarantined             s        -      s    s               s      -       s
ledger.signed_head             si       s      s    s               s      -       s
ledger.tenant                  s        -      s    s               s      s       siud
ledger.unit                    s        -      s    s               s      s       siud
outbox.event                   -        sd     -    -               -      sd      s
outbox.lane                    -        s      -    -               -      s       s
public.ledgerline_migration    -        -      -    -               -      -       -
reconciliation.balance         -        -      s    siu             -      -       s
reconciliation.break           -        -      s    siu             -      -       s
reconciliation.fact_chain      -        -      s    siu             -      -       s
reconciliation.frame           -        -      s    siud            -      -       s
reconciliation.frame_reader    -        -      s    su              -      -       s
reconciliation.gap             -        -      s    sid             -      -       s
reconciliation.lane            -        -      s    siu             -      -       s
reconciliation.total           -        -      s    siu             -      -       s
reconciliation.unmatched       -        -      s    siud            -      -       s
replay.dropped                 -        -      -    -               -      -       -
replay.lane                    -        -      -    -               -      -       -
schedules.occurrence           -        -      s    -               -      siu     s
schedules.schedule             -        -      siu  -               -      su      s
webhooks.attempt               -        -      s    -               -      siud    -
webhooks.delivery              -        -      si   -               -      siud    -
webhooks.endpoint              -        -      siud -               -      su      -
webhooks.endpoints_version     -        -      -    -               -      s       -
webhooks.message               -        -      si   -               -      siud    -
worker.intent                  -        -      -    -               -      siud    s
worker.parked                  -        -      -    -               -      siud    scd
worker.position                -        -      -    -               -      siud    siu
"""

LETTERS: Final = {"SELECT": "s", "INSERT": "i", "UPDATE": "u", "DELETE": "d"}
FORBIDDEN: Final = ("TRUNCATE", "REFERENCES", "TRIGGER")

TABLES: Final = """
SELECT c.oid, format('%s.%s', nspname, relname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p', 'v', 'm') AND nspname !~ '^pg_' AND nspname <> 'information_schema'
ORDER BY 2
"""


def expected() -> dict[tuple[str, str], str]:
    """Return (table, role) -> letters."""
    heading, *lines = RIGHTS.strip("\n").splitlines()
    roles = heading.split()
    rows = [line.split() for line in lines]
    return {
        (row[0], f"ledgerline_{role}"): letters.replace("-", "")
        for row in rows
        for role, letters in zip(roles, row[1:], strict=True)
    }


def found(connection: Connection[Any], oid: int, role: str) -> str:
    """Return the letters of a role on a table, from the catalog; column rights count."""
    letters = ""
    for privilege, letter in LETTERS.items():
        asked = connection.execute(
            "SELECT has_table_privilege(%(r)s, %(t)s, %(p)s), has_any_column_privilege(%(r)s, %(t)s, 'UPDATE')",
            {"r": role, "t": oid, "p": privilege},
        ).fetchall()
        whole, some_columns = asked[0]
        letters += letter if whole else "c" if privilege == "UPDATE" and some_columns else ""
    return letters


def test_each_role_may_do_what_the_table_says_and_no_more(owner: Connection[Any]) -> None:
    tables = owner.execute(TABLES).fetchall()
    wanted = expected()
    assert {name for _, name in tables} == {table for table, _ in wanted}
    assert {role for _, role in wanted} == set(ROLES) - {"ledgerline_owner"}
    assert {(name, role): found(owner, oid, role) for oid, name in tables for role in ROLES[1:]} == wanted


def test_no_role_may_truncate_or_attach_anything(owner: Connection[Any]) -> None:
    for oid, name in owner.execute(TABLES).fetchall():
        for role in ROLES:
            for privilege in FORBIDDEN:
                asked = owner.execute("SELECT has_table_privilege(%s, %s, %s)", (role, oid, privilege)).fetchall()
                assert asked == [(False,)], (name, role, privilege)


def test_no_role_may_make_tables_or_log_in_or_be_another(owner: Connection[Any]) -> None:
    for role in ROLES:
        rows = owner.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolcanlogin FROM pg_roles WHERE rolname = %s",
            (role,),
        ).fetchall()
        assert rows == [(False, False, False, False, False)], role
        for schema in ("ledger", "access", "reconciliation", "audit", "replay", "outbox", "worker", "public"):
            asked = owner.execute("SELECT has_schema_privilege(%s, %s, 'CREATE')", (role, schema)).fetchall()
            assert asked == [(False,)], (role, schema)
        memberships = owner.execute(
            "SELECT m.roleid::regrole::text FROM pg_auth_members AS m WHERE m.member = %s::regrole", (role,)
        ).fetchall()
        assert memberships == [], role


# Statements that a role might try. Postgres refuses each for lack of privilege, before any trigger runs.
ATTEMPTS: Final = [
    ("posting", "UPDATE ledger.journal SET outcome = 'posted'"),
    ("posting", "DELETE FROM ledger.journal"),
    ("posting", "TRUNCATE ledger.journal, ledger.entry"),
    ("posting", "UPDATE ledger.entry SET amount_minor = 1"),
    ("posting", "DELETE FROM ledger.entry"),
    ("posting", "UPDATE ledger.account SET floor_minor = NULL"),
    ("posting", "UPDATE ledger.chart_pattern SET floor_minor = NULL"),
    ("posting", "UPDATE ledger.books_version SET version = 1"),
    ("posting", "SELECT * FROM access.api_key"),
    ("posting", "DELETE FROM ledger.lane"),
    ("posting", "SELECT * FROM reconciliation.balance"),
    ("relay", "UPDATE ledger.lane SET next_seq = 0"),
    ("relay", "INSERT INTO ledger.quarantine (lane, seq, headers) VALUES (0, 0, '[]')"),
    ("relay", "SELECT * FROM ledger.balance"),
    ("api", "INSERT INTO ledger.tenant (tenant) VALUES ('mallory')"),
    ("api", "UPDATE ledger.balance SET debits_minor = 0"),
    ("api", "UPDATE access.api_key SET revoked_time = NULL"),
    ("reconciliation", "UPDATE ledger.balance SET debits_minor = 0"),
    (
        "reconciliation",
        "INSERT INTO audit.signing_key (key_id, public_key) VALUES ('x', decode(repeat('00', 32), 'hex'))",
    ),
    ("reconciliation", "SELECT * FROM access.api_key"),
    ("audit", "UPDATE ledger.journal SET hash = ''"),
    ("audit", "UPDATE audit.segment SET head = ''"),
    ("audit", "DELETE FROM audit.checkpoint"),
    ("audit", "UPDATE reconciliation.lane SET next_seq = 0"),
    ("operator", "INSERT INTO ledger.lane (lane, topic, topic_id) VALUES (9, 't', 'i')"),
    ("operator", "UPDATE ledger.journal SET outcome = 'posted'"),
    ("operator", "DELETE FROM ledger.quarantine"),
    ("operator", "DELETE FROM ledger.quarantine_retry"),
    ("operator", "UPDATE ledger.quarantine_retry_sent SET source_offset = 0"),
    ("operator", "UPDATE ledger.operation SET done_by = 'nobody'"),
    ("operator", "DELETE FROM ledger.operation"),
    ("operator", "DELETE FROM ledger.intake"),
    ("operator", "UPDATE reconciliation.lane SET next_offset = 0"),
    ("operator", "DELETE FROM reconciliation.balance"),
    ("api", "UPDATE ledger.intake SET closed_because = NULL"),
    ("api", "INSERT INTO ledger.operation (done_by, operation, detail) VALUES ('x', 'intake_opened', '{}')"),
    ("reconciliation", "SELECT reconciliation.rewind('{0}', 'x')"),
    ("posting", "SELECT reconciliation.rewind('{0}', 'x')"),
    ("operator", "DELETE FROM access.api_key"),
    ("operator", "UPDATE worker.parked SET message_value = ''"),
    ("operator", "INSERT INTO worker.intent (tenant) VALUES ('mallory')"),
    ("operator", "DELETE FROM worker.position"),
    ("worker", "SELECT * FROM ledger.balance"),
    ("worker", "UPDATE outbox.lane SET next_seq = 0"),
    ("worker", "INSERT INTO ledger.journal DEFAULT VALUES"),
    ("api", "SELECT * FROM worker.intent"),
    ("operator", "CREATE TABLE ledger.mine (a integer)"),
]


@pytest.mark.parametrize(("role", "statement"), ATTEMPTS)
def test_an_attempt_is_refused(owner: Connection[Any], role: str, statement: str) -> None:
    owner.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(f"ledgerline_{role}")))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        owner.execute(statement.encode())


# ------------------------------------------------------------------------------------- the default rights of PUBLIC

EVERYBODYS: Final = """
SELECT count(*) FILTER (WHERE has_database_privilege('public', current_database(), 'TEMPORARY')),
    count(*) FILTER (WHERE has_database_privilege('public', current_database(), 'CONNECT')),
    (
        SELECT array_agg(oid::regprocedure::text ORDER BY oid::regprocedure::text) FROM pg_proc
        WHERE has_function_privilege('public', oid, 'EXECUTE') AND (
            proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import', 'lo_export')
            OR pronamespace::regnamespace::text IN (
                'ledger', 'access', 'reconciliation', 'audit', 'replay', 'outbox', 'worker', 'calls', 'schedules',
                'webhooks'
            )
        )
    )
"""
DEFAULTS: Final = """
DO $$
BEGIN
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO PUBLIC', current_database());
    EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM ledgerline_relay', current_database());
    GRANT EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) TO PUBLIC;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA ledger TO PUBLIC;
END
$$
"""


def test_everybody_on_the_server_has_no_right_here_even_after_an_upgrade_or_a_copy(database: str) -> None:
    """A copied database has the defaults of its server, and so has a database of an earlier release."""
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(DEFAULTS)
        before = owner.execute(EVERYBODYS).fetchone()
        assert before is not None
        assert before[:2] == (1, 1)
        assert "lo_create(oid)" in before[2]
        assert "ledger.leg_place(bigint,integer)" in before[2]
        migrate(database)
        assert owner.execute(EVERYBODYS).fetchone() == (0, 0, None)
        for role in ROLES:
            allowed = owner.execute("SELECT has_database_privilege(%s, current_database(), 'CONNECT')", (role,))
            assert allowed.fetchone() == (True,), role


UNUSED: Final = [
    "CREATE TEMPORARY TABLE kept (n integer)",
    "SELECT lo_create(0)",
    "SELECT lo_creat(-1)",
    "SELECT lo_from_bytea(0, 'x')",
    "CREATE TABLE public.kept (n integer)",
    "CREATE SCHEMA mine",
]


@pytest.mark.parametrize("role", ROLES[1:])
def test_no_role_may_do_what_it_does_not_use(database: str, role: str) -> None:
    migrate(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        for statement in UNUSED:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_an_owner_who_may_not_decide_it_is_not_stopped(database: str) -> None:
    """A managed Postgres does not let the owner change rights on built-in functions. Everything else is done."""
    migrate(database)
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(DEFAULTS)
        owner.execute("SET ROLE ledgerline_operator")
        owner.execute((FOLDER / "rights.sql").read_text())
        kept = owner.execute("SELECT has_function_privilege('public', 'lo_create(oid)', 'EXECUTE')")
        assert kept.fetchone() == (True,)


def test_a_service_cannot_look_into_the_servers_own_databases(stack: Endpoints) -> None:
    for name in ("postgres", "template1"):
        with psycopg.connect(stack.postgres_dsn, autocommit=True) as owner:
            for role in ROLES:
                asked = owner.execute("SELECT has_database_privilege(%s, %s, 'CONNECT')", (role, name)).fetchone()
                assert asked == (False,), (role, name)
