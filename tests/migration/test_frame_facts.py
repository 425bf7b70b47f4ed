"""Each change of the books' frame is a fact in a hash chain, with its author, whatever makes the change."""

from typing import Any

import psycopg
import pytest
from psycopg import Connection

from db.books import add_tenant, add_unit, remove_chart_pattern, set_chart_pattern
from db.relay import read_facts
from domain.chart import AccountClass, ChartPattern
from domain.facts import OPERATORS_CHAIN, compute_fact_hash, get_lane_chain
from domain.journal import GENESIS_HASH

LINE = ChartPattern("loans:**", AccountClass.ASSET, 1, -500, frozenset({"USD", "EUR"}))
OPEN = (
    "INSERT INTO ledger.account (tenant, address, account_class, normal_direction, floor_minor)"
    " VALUES ('default', %s, 'liability', -1, 0) ON CONFLICT DO NOTHING"
)


def facts(connection: Connection[Any], chain: int = OPERATORS_CHAIN) -> list[dict[str, Any]]:
    """Return a chain's facts in order; check each against the hash that Python computes for it."""
    found = read_facts(connection, chain, 0, 1000)
    head = GENESIS_HASH
    for seq, fact in enumerate(found):
        assert (fact["seq"], fact["previous_hash"]) == (seq, head)
        assert fact["hash"] == compute_fact_hash(head, fact), fact
        head = fact["hash"]
    stands = connection.execute("SELECT next_seq, head FROM ledger.fact_chain WHERE chain = %s", (chain,)).fetchall()
    assert stands == ([(len(found), head)] if found else [])
    return found


def told(connection: Connection[Any], after: int) -> list[tuple[Any, ...]]:
    return [
        (fact["part"], fact["change"], fact["tenant"], fact["name"], fact["author"])
        for fact in facts(connection)[after:]
    ]


def test_what_operators_change_is_told_in_one_chain_with_its_author(owner: Connection[Any]) -> None:
    before = len(facts(owner))
    login = str(owner.execute("SELECT session_user").fetchall()[0][0])
    owner.execute("SET ROLE ledgerline_operator")
    assert add_tenant(owner, "other", [LINE], done_by="ann")
    assert add_unit(owner, "other", "MILES", 2, 'Air "miles" \x7f\u20ac\n', done_by="ben")
    set_chart_pattern(owner, "other", LINE, done_by="ann")  # the line is the same: nothing changes
    set_chart_pattern(owner, "other", LINE._replace(floor_minor=None))
    remove_chart_pattern(owner, "other", "loans:**", done_by="carl")
    owner.execute("RESET ROLE")
    assert told(owner, before) == [
        ("tenant", "added", "other", "", "ann"),
        ("chart", "added", "other", "loans:**", "ann"),
        ("unit", "added", "other", "MILES", "ben"),
        ("chart", "changed", "other", "loans:**", login),
        ("chart", "removed", "other", "loans:**", "carl"),
    ]
    line = facts(owner)[before + 1]
    assert (line["account_class"], line["normal_side"], line["floor_minor"]) == ("asset", "debit", -500)
    assert line["currencies"] == "EUR,USD"
    operations = owner.execute(
        "SELECT operation, done_by FROM ledger.operation WHERE detail ->> 'tenant' = 'other' ORDER BY operation_id"
    ).fetchall()
    assert operations == [
        ("tenant_added", "ann"), ("unit_added", "ben"), ("chart_changed", login), ("chart_removed", "carl")
    ]  # fmt: skip


def test_each_lane_tells_of_the_accounts_that_it_opens_in_its_own_chain(owner: Connection[Any]) -> None:
    with owner.transaction():
        owner.execute("SELECT set_config('ledgerline.chain', %s, true)", (str(get_lane_chain(3)),))
        for address in ("users:1:wallet", "users:2:wallet", "users:1:wallet"):
            owner.execute(OPEN, (address,))
    before = len(facts(owner))
    owner.execute(OPEN, ("users:3:wallet",))
    assert [fact["name"] for fact in facts(owner, get_lane_chain(3))] == ["users:1:wallet", "users:2:wallet"]
    assert [fact["name"] for fact in facts(owner)[before:]] == ["users:3:wallet"], "nobody named a chain"


CHANGES = [
    "UPDATE ledger.account SET floor_minor = NULL",
    "UPDATE ledger.account SET opened_time = now()",
    "DELETE FROM ledger.account",
    "UPDATE ledger.unit SET exponent = 0",
    "DELETE FROM ledger.unit",
    "UPDATE ledger.tenant SET created_time = now()",
    "TRUNCATE ledger.chart_pattern",
    "DELETE FROM ledger.fact",
]
# The owner may run these: reconciliation finds out.
CALLS = [
    "SELECT ledger.append_facts(-1, 'mallory', '{}')",
    "SELECT ledger.adopt_frame('mallory')",
    "INSERT INTO ledger.fact TABLE ledger.fact",
]


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        *(("owner", change) for change in CHANGES),
        *((role, statement) for role in ("posting", "operator") for statement in (*CHANGES, *CALLS)),
    ],
)
def test_what_amounts_are_read_by_stays_as_it_was_made(owner: Connection[Any], role: str, statement: str) -> None:
    if role != "owner":
        owner.execute(f"SET ROLE ledgerline_{role}".encode())
    with pytest.raises((psycopg.errors.RestrictViolation, psycopg.errors.InsufficientPrivilege)):
        owner.execute(statement.encode())


def test_what_is_older_than_facts_is_adopted_once(owner: Connection[Any]) -> None:
    before = facts(owner)
    owner.execute("SET session_replication_role = replica")
    owner.execute(OPEN, ("users:1:wallet",))
    owner.execute("INSERT INTO ledger.unit (tenant, code, exponent) VALUES ('default', 'MILES', 2)")
    owner.execute("RESET session_replication_role")
    assert facts(owner) == before
    assert owner.execute("SELECT ledger.adopt_frame('migration')").fetchall() == [(2,)]
    assert told(owner, len(before)) == [
        ("unit", "added", "default", "MILES", "migration"),
        ("account", "added", "default", "users:1:wallet", "migration"),
    ]
    assert owner.execute("SELECT ledger.adopt_frame('migration')").fetchall() == [(0,)]
