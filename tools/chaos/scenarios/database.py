"""Faults within Postgres: a full disk, read-only mode, locks held by others, deadlocks, no free connection."""

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg

from tools.chaos.instance import ChaosError
from tools.chaos.scenarios.scenario import Scenario
from tools.chaos.trial import Trial

DISK_MEGABYTES: Final = 48
LOCK_SECONDS: Final = 13.0
READ_ONLY_SECONDS: Final = 4.0
DRY_SECONDS: Final = 4.0
FULL_DISK: Final = "No space left on device"


def _connection(trial: Trial) -> "psycopg.Connection[Any]":
    return psycopg.connect(trial.ledger.dsn, autocommit=True)


@contextlib.contextmanager
def _small_disk(trial: Trial) -> Iterator[Path]:
    """Mount a file system of DISK_MEGABYTES that Postgres' user owns. Raise ChaosError if it cannot be mounted."""
    folder = trial.deployment.folder / "small-disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode != 0:
        raise ChaosError(f"A small disk cannot be mounted ({mounted.stderr.strip()}): run as root.")
    try:
        owner = trial.deployment.stack.postgres.folder.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def fill_disk(trial: Trial) -> None:
    """Fill the disk of the journal under load, keep it full for a while, and free space again."""
    trial.let_flow()
    with _small_disk(trial) as folder:
        space = f"{trial.ledger.name}_small"
        with _connection(trial) as admin:
            admin.execute(f"CREATE TABLESPACE {space} LOCATION '{folder}'")
            for table in ("journal", "entry"):
                admin.execute(f"ALTER TABLE ledger.{table} SET TABLESPACE {space}")
        ballast = folder / "ballast"
        free = shutil.disk_usage(folder).free
        ballast.write_bytes(bytes(max(free - 300_000, 0)))
        trial.say("the disk of the journal has 300 kB left")
        log = trial.deployment.stack.postgres.log
        trial.wait_until(lambda: FULL_DISK in log.read_text(errors="replace"), "the disk is full")
        before = trial.posted()
        threading.Event().wait(READ_ONLY_SECONDS)
        trial.say(f"the disk is full; {trial.posted() - before} more were posted meanwhile")
        ballast.unlink()
        trial.say("there is room again")
        trial.let_flow(500)
        with _connection(trial) as admin:
            for table in ("journal", "entry"):
                admin.execute(f"ALTER TABLE ledger.{table} SET TABLESPACE pg_default")
            admin.execute(f"DROP TABLESPACE {space}")


def read_only(trial: Trial) -> None:
    """Make every transaction read-only for a while, as if a DNS name pointed to a standby by mistake."""
    trial.let_flow()
    database = trial.ledger.name
    with _connection(trial) as admin:
        admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        admin.execute("SELECT pg_reload_conf()")
        trial.say("Postgres is read only")
        threading.Event().wait(READ_ONLY_SECONDS)
        admin.execute("SET default_transaction_read_only = off")
        admin.execute("ALTER SYSTEM RESET default_transaction_read_only")
        admin.execute("SELECT pg_reload_conf()")
    trial.say(f"{database} can be written again")


def hold_lanes(trial: Trial) -> None:
    """Lock the lanes' rows in another session for longer than a worker waits for a lock."""
    trial.let_flow()
    with _connection(trial) as other, other.transaction():
        other.execute("SELECT * FROM ledger.lane ORDER BY lane FOR UPDATE")
        trial.say(f"a session at the psql prompt locks all lanes for {LOCK_SECONDS} s")
        threading.Event().wait(LOCK_SECONDS)


def provoke_deadlocks(trial: Trial) -> None:
    """Lock accounts by hand-written SQL in the reverse of the workers' order, until Postgres has ended 3 deadlocks."""
    trial.let_flow()
    log = trial.deployment.stack.postgres.log
    before = log.read_text(errors="replace").count("deadlock detected")
    stop = threading.Event()

    def lock_backwards() -> None:
        with _connection(trial) as other:
            while not stop.is_set():
                with contextlib.suppress(psycopg.OperationalError), other.transaction():
                    rows = other.execute(
                        "SELECT account_id FROM ledger.account WHERE floor_minor IS NOT NULL ORDER BY account_id DESC"
                    ).fetchall()
                    for (account_id,) in rows:
                        other.execute("SELECT 1 FROM ledger.account WHERE account_id = %s FOR UPDATE", (account_id,))

    thread = threading.Thread(target=lock_backwards, name="hand-written SQL", daemon=True)
    thread.start()
    try:
        trial.wait_until(
            lambda: log.read_text(errors="replace").count("deadlock detected") >= before + 3, "three deadlocks"
        )
    finally:
        stop.set()
        thread.join()
    trial.say("hand-written SQL met the workers in three deadlocks")


def run_dry(trial: Trial) -> None:
    """Take every free connection of Postgres, and terminate those of the services."""
    trial.let_flow()
    taken: list[psycopg.Connection[Any]] = []
    try:
        with _connection(trial) as admin:
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    taken.append(psycopg.connect(trial.ledger.dsn, user="ledgerline", application_name="greedy"))
            ended = admin.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE application_name LIKE 'ledgerline_%%' AND datname = current_database()"
            ).fetchone()
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    taken.append(psycopg.connect(trial.ledger.dsn, application_name="greedy"))
        trial.say(f"{len(taken)} connections are taken, {ended[0] if ended else 0} of the services were ended")
        threading.Event().wait(DRY_SECONDS)
    finally:
        for connection in taken:
            connection.close()


SCENARIOS: Final = (
    Scenario("disk-full", "If the disk is full, the workers wait.", fill_disk),
    Scenario("read-only", "If the database is read only, the workers wait.", read_only),
    Scenario("lanes-locked", "If others hold locks, the workers wait, and try again after a lock timeout.", hold_lanes),
    Scenario("deadlocks", "A deadlock with hand-written SQL costs one more try and nothing else.", provoke_deadlocks),
    Scenario("connections-dry", "If the server has no free connection, the workers wait.", run_dry),
)
