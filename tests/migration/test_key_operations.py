"""Each change of an API key is a row of ledger.operation with an author, whatever makes the change."""

from typing import Any

import pytest
from psycopg import Connection

from db.access import Scope, add_key, revoke_key


def recorded(connection: Connection[Any]) -> list[tuple[Any, ...]]:
    """Return (operation, done_by, detail) in order."""
    return connection.execute(
        "SELECT operation, done_by, detail FROM ledger.operation WHERE operation ~ '^key_' ORDER BY operation_id"
    ).fetchall()


@pytest.fixture
def login(owner: Connection[Any]) -> str:
    """The user with which this session logged in."""
    return str(owner.execute("SELECT session_user").fetchall()[0][0])


@pytest.fixture
def operator(owner: Connection[Any], login: str) -> Connection[Any]:
    """The owner's session as an operator."""
    owner.execute("SET ROLE ledgerline_operator")
    return owner


def test_a_key_that_is_added_and_revoked_is_on_record_with_its_author(operator: Connection[Any]) -> None:
    key_id, key = add_key(operator, "default", "checkout", [Scope.INTENTS_READ], 60, done_by="ann")
    revoke_key(operator, key_id, done_by="bob")
    revoke_key(operator, key_id, done_by="carl")  # it was revoked already: nothing changes
    known = {"key_id": key_id, "tenant": "default", "name": "checkout"}
    assert recorded(operator) == [
        ("key_added", "ann", known | {"scopes": ["intents:read"], "requests_per_minute": 60, "expires_time": None}),
        ("key_revoked", "bob", known | {"changed": ["revoked_time"]}),
    ]
    stored = str(operator.execute("SELECT secret_hash::text FROM access.api_key").fetchall()[0][0])
    for _, _, detail in recorded(operator):
        assert key.split("_", 2)[2] not in str(detail)
        assert stored.removeprefix("\\x") not in str(detail)


def test_an_author_does_not_outlive_the_change(operator: Connection[Any], login: str) -> None:
    key_id, _ = add_key(operator, "default", "checkout", [Scope.INTENTS_READ], done_by="ann")
    revoke_key(operator, key_id)
    assert [row[:2] for row in recorded(operator)] == [("key_added", "ann"), ("key_revoked", login)]


@pytest.mark.parametrize(
    ("statement", "kind", "changed"),
    [
        ("UPDATE access.api_key SET scopes = '{journal:read,operations:read}'", "key_changed", ["scopes"]),
        ("UPDATE access.api_key SET secret_hash = '\\x00', name = 'x'", "key_changed", ["name", "secret_hash"]),
        ("UPDATE access.api_key SET requests_per_minute = 1000000", "key_changed", ["requests_per_minute"]),
        ("UPDATE access.api_key SET revoked_time = now()", "key_revoked", ["revoked_time"]),
    ],
)
def test_a_statement_by_hand_is_on_record_too(
    operator: Connection[Any], login: str, statement: str, kind: str, changed: list[str]
) -> None:
    add_key(operator, "default", "checkout", [Scope.INTENTS_READ])
    operator.execute(statement.encode())
    operation, done_by, detail = recorded(operator)[-1]
    assert (operation, done_by, detail["changed"]) == (kind, login, changed)


def test_a_revocation_that_is_taken_back_or_a_key_that_is_deleted_is_on_record(
    owner: Connection[Any], login: str
) -> None:
    key_id, _ = add_key(owner, "default", "checkout", [Scope.INTENTS_READ])
    revoke_key(owner, key_id)
    owner.execute("UPDATE access.api_key SET revoked_time = NULL")
    owner.execute("DELETE FROM access.api_key")
    assert [row[0] for row in recorded(owner)] == ["key_added", "key_revoked", "key_changed", "key_removed"]
    assert recorded(owner)[-1][2]["key_id"] == key_id
