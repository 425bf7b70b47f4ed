"""A backup is restored, caught up from the journal and used: nothing is lost or doubled, and no break ever occurs.

The tests run the commands of the runbooks unchanged.
"""

import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cli import COMMANDS, load
from ops.embedded.postgres_part import server_programs
from runtime.schemas import parse_own_schema, read_body
from runtime.settings import REPOSITORY_ROOT, Settings
from tests.command_line import environment
from tests.copies import beside, settings_for
from tests.posting_bench import eventually
from tests.proving_bench import ProvingBench
from tests.relay_bench import RelayBench
from tests.service_process import ServiceProcess

RUNBOOKS = {name: REPOSITORY_ROOT / "ops" / "runbooks" / f"{name}.md" for name in ("replay", "restore")}
SERVICES = ("posting", "relay", "worker", "reconciliation", "audit")
QUICK = {
    "LEDGERLINE_AUDIT_SWEEP_SECONDS": "0.5",
    "LEDGERLINE_AUDIT_CHECKPOINT_SECONDS": "0.5",
    "LEDGERLINE_RECONCILIATION_SWEEP_SECONDS": "0.5",
}
SECONDS_MAX = 120


def commands(runbook: str) -> list[str]:
    """Return the shell lines of a runbook, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", RUNBOOKS[runbook].read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def run_line(line: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a line of a runbook with these variables: `ledgerline` of this checkout, or else a program of Postgres."""
    program, *arguments = [
        re.sub(r"\$(\w+)", lambda match: variables[match[1]], word) for word in shlex.split(line)
    ]  # fmt: skip
    argv = [sys.executable, "-m", "cli"] if program == "ledgerline" else [str(server_programs() / program)]
    done = subprocess.run(
        [*argv, *arguments],
        cwd=REPOSITORY_ROOT,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.parametrize("runbook", RUNBOOKS)
def test_the_command_line_takes_what_a_runbook_says(runbook: str) -> None:
    entries = {entry.name: entry for entry in COMMANDS}
    ours = [shlex.split(line)[1:] for line in commands(runbook) if line.startswith("ledgerline ")]
    assert len(ours) >= 3
    for words in ours:
        command: Any = load(entries[words[0]])
        left = words[1:]
        while hasattr(command, "commands"):
            command = command.commands[left.pop(0)]
        assert command.make_context(words[0], left) is not None


@contextmanager
def services(settings: Settings, folder: Path) -> Iterator[dict[str, ServiceProcess]]:
    """Run all services of a ledger as processes, and stop them at the end."""
    with ExitStack() as running:
        started = {
            name: running.enter_context(ServiceProcess(name, settings, folder, **QUICK)) for name in SERVICES
        }  # fmt: skip
        yield started
        for service in started.values():
            if service.runs():
                assert service.stop(30) == 0, service.log()[-2000:]


def send(bench: ProvingBench, first: int, last: int) -> None:
    """Send the transfers of these numbers; some draw on the money of others. The same numbers give the same intents."""
    for lane in (0, 1):
        bench.send_all(
            [
                bench.transfer(f"in-{n}", "external:bank", f"users:{n % 20}", 100)
                if n % 3
                else bench.transfer(f"out-{n}", f"users:{n % 20}", "external:bank", 60)
                for n in range(first, last)
                if n % 2 == lane
            ],
            lane,
        )
        bench.send_bytes(f"poison {first}".encode(), lane=lane)


def is_proven(bench: ProvingBench) -> bool:
    """Return whether all that was sent is posted, relayed, reconciled, audited and under a published checkpoint."""
    ends = [bench.read(bench.topics.intents, lane, 0)[1] for lane in (0, 1)]
    lanes = bench.rows(
        "SELECT l.next_offset, l.next_seq, r.next_seq AS reconciled, a.next_seq AS audited, a.first_seq AS signed"
        " FROM ledger.lane AS l LEFT JOIN reconciliation.lane AS r USING (lane) LEFT JOIN audit.lane AS a USING (lane)"
        " ORDER BY lane"
    )
    if [lane["next_offset"] for lane in lanes] != ends:
        return False
    published = bench.rows(
        "SELECT next_checkpoint - (SELECT count(*) FROM audit.checkpoint) AS owed FROM audit.publication"
    )
    return published[0]["owed"] == 0 and all(
        lane["next_seq"] == lane["reconciled"] == lane["audited"] == lane["signed"] for lane in lanes
    )


def proven(bench: ProvingBench, running: dict[str, ServiceProcess]) -> None:
    def look() -> bool:
        ended = [f"{name}: {service.log()[-1500:]}" for name, service in running.items() if not service.runs()]
        assert ended == []
        return is_proven(bench)

    eventually(look, "all that was sent is proven", SECONDS_MAX)


def topic_records(bench: ProvingBench, topic: str, subject: str) -> list[dict[str, Any]]:
    return [read_body(message.value, parse_own_schema(subject)) for message in bench.read(topic, 0, 0)[0]]


def judge(bench: ProvingBench, sent: int) -> None:
    """Check that nothing is lost or doubled, no break was ever opened, and no checkpoint is contradicted."""
    bench.verify()
    settled = bench.rows(
        "SELECT idempotency_key FROM ledger.journal WHERE outcome IN ('posted', 'rejected') ORDER BY idempotency_key"
    )
    keys = [f"in-{n}" if n % 3 else f"out-{n}" for n in range(sent)]
    assert [row["idempotency_key"] for row in settled] == sorted(keys)
    for agent in ("reconciliation", "audit"):
        assert bench.breaks(agent, "open", "explained", "resolved") == {}
    assert topic_records(bench, bench.topics.breaks, "ledger.breaks-value") == []
    numbers = [row["checkpoint"] for row in topic_records(bench, bench.topics.checkpoints, "audit.checkpoints-value")]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) == bench.rows("SELECT count(*) AS kept FROM audit.checkpoint")[0]["kept"]


def dump(dsn: str, file: Path) -> None:
    """Make a backup while everything runs."""
    argv = [str(server_programs() / "pg_dump"), "--format=custom", f"--file={file}", f"--dbname={dsn}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def make_database(dsn: str) -> None:
    with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as admin:
        name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(name))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_old_backup_is_restored_and_worked_on(proving: ProvingBench, settings: Settings, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    with services(settings, tmp_path) as running:
        send(proving, 0, 400)
        proven(proving, running)
        dump(proving.dsn, backup)
        send(proving, 400, 1000)
        proven(proving, running)
        # Intents that are posted after the relay stopped are in no journal topic, and must be posted again.
        assert running["relay"].stop(30) == 0
        send(proving, 1000, 1100)
        eventually(lambda: posted(proving) == 1100 + 6, "the last of them is posted", SECONDS_MAX)
    assert sum(len(proving.read(proving.topics.journal, lane, 0)[0]) for lane in (0, 1)) == 1000 + 4

    with beside(proving.dsn, "restored") as dsn:
        variables = environment(settings) | {"LEDGERLINE_POSTGRES_DSN": dsn, "BACKUP": str(backup)}
        make_database(dsn)
        psql, restore, replay, *proofs = commands("restore")
        run_line(psql, variables)
        run_line(restore, variables)
        restored_settings = settings_for(settings, dsn)
        restored = ProvingBench(restored_settings, proving.topics)
        for name, words in (("posting", "run `ledgerline replay --into` it"), ("relay", "restore the ledger")):
            with ServiceProcess(name, restored_settings, tmp_path) as refusing:
                assert refusing.ended() == 1
                assert words in refusing.log()
        assert posted(restored) == 400 + 2, "not one intent was posted"
        assert "Caught up by 602 records of 2 lanes" in run_line(replay, variables).stdout
        assert posted(restored) == 1000 + 4

        with services(restored_settings, tmp_path) as running:
            send(restored, 1100, 1200)
            send(restored, 0, 1200)  # clients without an answer try again
            proven(restored, running)
            for line in proofs:
                run_line(line, variables)
        judge(restored, 1200)
        fates = Counter(fate for lane in (0, 1) for fate in restored.fates(lane))
        assert fates["duplicate"] == 1200
        assert fates["idempotency_conflict"] == 0
        relays = RelayBench(restored, restored.topics)
        relays.check()
        relays.close()
        restored.close()


def posted(bench: ProvingBench) -> int:
    """Return how many offsets have their row."""
    return int(bench.rows("SELECT coalesce(sum(next_seq), 0)::bigint AS posted FROM ledger.lane")[0]["posted"])


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_ledger_without_a_backup_is_rebuilt_and_worked_on(
    proving: ProvingBench, settings: Settings, tmp_path: Path
) -> None:
    variables = environment(settings) | {"BOOKS": str(tmp_path / "books.json")}
    export, rebuild, *proofs, rehearsal = commands("replay")
    with services(settings, tmp_path) as running:
        send(proving, 0, 300)
        proven(proving, running)
        run_line(export, variables)
        with beside(proving.dsn, "rehearsed") as other:
            assert "The same in" in run_line(rehearsal, variables | {"OTHER_DSN": other}).stdout
        send(proving, 300, 400)
        proven(proving, running)

    with beside(proving.dsn, "rebuilt") as dsn:
        variables |= {"LEDGERLINE_POSTGRES_DSN": dsn}
        assert "Loaded 404 records of 2 lanes" in run_line(rebuild, variables).stdout
        rebuilt = ProvingBench(settings_for(settings, dsn), proving.topics)
        with services(rebuilt.settings, tmp_path) as running:
            send(rebuilt, 400, 500)
            send(rebuilt, 0, 500)
            proven(rebuilt, running)
            for line in proofs:
                run_line(line, variables)
        judge(rebuilt, 500)
        rebuilt.close()
