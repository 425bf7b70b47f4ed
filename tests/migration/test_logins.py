"""A login for each service: the role that it can become, changes of its password, and what is refused."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.books import add_tenant
from db.connections import ROLES, DatabaseError, connect
from db.logins import ROLE_OF_LOGIN, LoginError, make_logins, read_logins
from db.migrate import migrate


class Folder:
    """A folder as a deployment mounts it.

    Its users are dropped at the end, because users belong to the whole server.
    """

    def __init__(self, path: Path, database: str) -> None:
        self.path, self._database = path, database
        self._suffix = uuid.uuid4().hex[:8]
        path.mkdir()

    def user(self, service: str) -> str:
        return f"test_{service}_{self._suffix}"

    def write(self, service: str, word: str = "first") -> str:
        dsn = make_conninfo(self._database, user=self.user(service), password=word)
        (self.path / service).write_text(f"{dsn}\n")
        return dsn


@pytest.fixture
def folder(tmp_path: Path, database: str, owner: Connection[Any]) -> Iterator[Folder]:
    made = Folder(tmp_path / "logins", database)
    yield made
    for service in ROLE_OF_LOGIN:
        owner.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(made.user(service))))


def test_each_service_may_be_its_own_role_and_no_other(folder: Folder, database: str) -> None:
    dsns = {service: folder.write(service) for service in ROLE_OF_LOGIN}
    assert make_logins(database, folder.path) == [folder.user(service) for service in sorted(ROLE_OF_LOGIN)]
    ours = {service: role for service, role in ROLE_OF_LOGIN.items() if role.startswith("ledgerline_")}
    for service, role in ours.items():
        for other in {*ours.values(), "ledgerline_owner"}:
            if other == role:
                with connect(dsns[service], other) as connection:
                    assert connection.execute("SELECT current_user").fetchone() == (role,)
            else:
                with pytest.raises(DatabaseError, match="permission denied to set role"):
                    connect(dsns[service], other)
    with psycopg.connect(dsns["monitor"]) as monitor, pytest.raises(psycopg.errors.InsufficientPrivilege):
        monitor.execute("SELECT FROM ledger.entry")


def test_made_again_a_login_has_the_password_that_stands_there_now(folder: Folder, database: str) -> None:
    old = folder.write("relay")
    make_logins(database, folder.path)
    new = folder.write("relay", "second")
    assert make_logins(database, folder.path) == [folder.user("relay")]
    with connect(new, "ledgerline_relay") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(DatabaseError, match="password authentication failed"):
        connect(old, "ledgerline_relay")


def test_the_server_is_never_sent_a_password(
    folder: Folder, database: str, owner: Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("audit", "never-sent")
    sent: list[str] = []
    execute = psycopg.Connection.execute

    def listen(self: Connection[Any], query: Any, *args: Any, **options: Any) -> Any:
        sent.append(query if isinstance(query, str) else query.as_string(self))
        return execute(self, query, *args, **options)

    monkeypatch.setattr(psycopg.Connection, "execute", listen)
    make_logins(database, folder.path)
    monkeypatch.undo()
    assert any("SCRAM-SHA-256$" in statement for statement in sent)
    assert not any("never-sent" in statement for statement in sent)


def test_all_logins_are_made_or_none(folder: Folder, database: str, owner: Connection[Any]) -> None:
    folder.write("audit")
    folder.write("relay")
    owner.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER").format(sql.Identifier(folder.user("relay"))))
    with pytest.raises(LoginError, match=f"{folder.user('relay')} is allowed more than a service needs"):
        make_logins(database, folder.path)
    assert owner.execute("SELECT FROM pg_roles WHERE rolname = %s", (folder.user("audit"),)).fetchone() is None


def test_a_login_of_another_service_is_refused(folder: Folder, database: str, owner: Connection[Any]) -> None:
    folder.write("relay")
    user = sql.Identifier(folder.user("relay"))
    owner.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE ledgerline_audit").format(user))
    with pytest.raises(LoginError, match="is a member of ledgerline_audit:"):
        make_logins(database, folder.path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("billing", "postgresql://a:b@h/d", "is for no service"),
        ("api", "postgresql://:secret@h/d", "holds no DSN with a user and a password"),
        ("api", "postgresql://a@h/d", "holds no DSN with a user and a password"),
        ("api", "a secret, by mistake", "holds no DSN with a user and a password"),
        ("api", "postgresql://ledgerline_owner:secret@h/d", "has a role for its user"),
        ("api", "postgresql://pg_monitor:secret@h/d", "has a role for its user"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_without_its_contents(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(LoginError, match=said) as caught:
        read_logins(tmp_path)
    assert "secret" not in str(caught.value)


def test_two_services_have_two_logins(tmp_path: Path) -> None:
    for name in ("api", "audit"):
        (tmp_path / name).write_text("postgresql://shared:secret@h/d")
    with pytest.raises(LoginError, match="has the user of api"):
        read_logins(tmp_path)


def test_what_kubernetes_keeps_beside_the_files_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "api").write_text("postgresql://a:b@h/d\n")
    assert [login[:3] for login in read_logins(tmp_path)] == [("api", "a", "b")]


def test_an_owner_who_is_no_superuser_prepares_as_at_a_managed_postgres(
    folder: Folder, owner: Connection[Any], new_dsn: Callable[[], str]
) -> None:
    """The owner may create roles and databases. It only has ADMIN on the roles that it made, and cannot act as them."""
    user = f"test_owner_{uuid.uuid4().hex[:8]}"
    name = sql.Identifier(user)
    owner.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE CREATEDB PASSWORD 'first'").format(name))
    for role in ROLES:
        made = sql.SQL("GRANT {} TO {} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
        owner.execute(made.format(sql.Identifier(role), name))
    owner.execute(sql.SQL("GRANT CONNECT ON DATABASE postgres TO {}").format(name))  # databases are created from there
    word = "first"
    dsn = make_conninfo(new_dsn(), user=user, password=word)
    migrate(dsn)
    with connect(dsn, "ledgerline_operator") as connection:
        add_tenant(connection, "default")
    for service in ("posting", "operator"):
        folder.write(service)
    assert make_logins(dsn, folder.path) == [folder.user("operator"), folder.user("posting")]
    folder.write("monitor")
    with pytest.raises(LoginError, match=r'cannot make a login \(permission denied to grant role "pg_monitor"'):
        make_logins(dsn, folder.path)
    with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))))
    owner.execute(sql.SQL("DROP OWNED BY {}").format(name))
    owner.execute(sql.SQL("DROP ROLE {}").format(name))
