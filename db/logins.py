"""A login for each service: a member of the service's role, and of nothing else.

A service's secret is its DSN, and the login is made from that same DSN, so a password is kept in one place.
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict

from db.connections import ROLES, DatabaseError
from db.queries import load
from domain.errors import LedgerlineError

_QUERIES: Final = load("logins")

# By the name of the file that holds the DSN. pg_monitor is a role of Postgres itself, for an exporter of its metrics.
ROLE_OF_LOGIN: Final = {
    "posting": "ledgerline_posting",
    "relay": "ledgerline_relay",
    "api": "ledgerline_api",
    "reconciliation": "ledgerline_reconciliation",
    "audit": "ledgerline_audit",
    "worker": "ledgerline_worker",
    "operator": "ledgerline_operator",
    "monitor": "pg_monitor",
}


class LoginError(LedgerlineError):
    """A login cannot be made as its file asks."""


class Login(NamedTuple):
    """A login that a file asks for."""

    name: str
    """The name of the file, which is that of the service."""
    user: str
    password: str
    role: str


def read_logins(folder: Path) -> list[Login]:
    """Return the logins that a folder's files ask for. Each file is named after a service and holds its DSN.

    Names that begin with a dot are skipped: Kubernetes keeps such folders beside a secret's files. Raise LoginError for
    a file that names no service, is no DSN, lacks a user or a password, has a role as its user, or has the same user as
    another file.
    """
    found: dict[str, Login] = {}
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if path.name not in ROLE_OF_LOGIN:
            raise LoginError(f"{path} is for no service: name it after one of {', '.join(ROLE_OF_LOGIN)}.")
        try:
            parts = conninfo_to_dict(path.read_text().strip())
        except psycopg.ProgrammingError:  # its message may contain the password, so it is not shown
            parts = {}
        user, password = str(parts.get("user") or ""), str(parts.get("password") or "")
        if not user or not password:
            raise LoginError(f"{path} holds no DSN with a user and a password: write one, as in docs/SETTINGS.md.")
        if user in ROLES or user.startswith("pg_"):
            raise LoginError(
                f"{path} has a role for its user: give {path.name} a login of its own, such as {user}_login."
            )
        if user in found:
            raise LoginError(f"{path} has the user of {found[user].name}: give each service a login of its own.")
        found[user] = Login(path.name, user, password, ROLE_OF_LOGIN[path.name])
    return list(found.values())


def make_logins(dsn: str, folder: Path) -> list[str]:
    """Make the logins of a folder, or give existing ones the folder's current passwords; return their users.

    `dsn` is that of the owner, who made the roles. Either all logins are made or none. Raise LoginError if a login is a
    superuser or a member of another role, or if the owner may not make it. Raise DatabaseError if Postgres is
    unreachable.
    """
    logins = read_logins(folder)
    try:
        with psycopg.connect(dsn) as connection:
            for login in logins:
                _make(connection, login)
    except psycopg.errors.InsufficientPrivilege as error:
        cause = str(error).strip().splitlines()[0]
        raise LoginError(f"The owner of the database cannot make a login ({cause}): let its administrator.") from error
    except psycopg.OperationalError as error:
        raise DatabaseError(f"Postgres cannot be reached for logins: {str(error).strip().splitlines()[-1]}") from error
    return [login.user for login in logins]


def _make(connection: Connection[Any], login: Login) -> None:
    asked = {"user": login.user, "role": login.role}
    found = connection.execute(_QUERIES["excess"], asked).fetchone()
    if found is not None and found[0] is not None:
        raise LoginError(f"{login.user} is {found[0]}: name another login in the DSN of {login.name}.")
    # Send the verifier that Postgres would make of the password, so that no statement log has the password itself.
    verifier = connection.pgconn.encrypt_password(login.password.encode(), login.user.encode(), b"scram-sha-256")
    asked["verifier"] = verifier.decode()
    for (statement,) in connection.execute(_QUERIES["statements"], asked).fetchall():
        connection.execute(statement)
