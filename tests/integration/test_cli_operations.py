"""`status`, `offsets` and `schemas` on a real ledger, also while parts are away; `up` and `down` with given parts."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Producer

from db.relay import RelayStore
from producers.relay import Relay, RelayEncoders
from producers.relay_core import RelayOptions
from runtime.settings import REPOSITORY_ROOT, Settings
from tests.command_line import environment, run, run_json
from tests.posting_bench import PostingBench

NOWHERE = "127.0.0.1:1"


def relay_all(bench: PostingBench) -> None:
    """Relay what is posted, in the test's own process."""
    encoders = RelayEncoders.find_registered(bench.registry)
    relay = Relay(RelayStore(bench.dsn), encoders, RelayOptions(bench.kafka, bench.topics))
    relay.start()
    while relay.round():
        pass
    relay.close()


@pytest.fixture
def ledger(bench: PostingBench) -> PostingBench:
    """Return a ledger. Lane 0: two posted, one rejected, one quarantined, all relayed; lane 1: one not posted yet."""
    bench.send(bench.transfer("a", "external:bank", "users:1:wallet", 700))
    bench.send(bench.transfer("b", "external:bank", "users:1:wallet", 300))
    bench.send(bench.transfer("c", "users:1:wallet", "users:2:wallet", 5000))
    bench.send_bytes(b"rubbish")
    assert bench.post() == ["posted", "posted", "insufficient_funds", "bad_magic"]
    relay_all(bench)
    bench.send(bench.transfer("d", "external:bank", "users:1:wallet", 100), lane=1)
    return bench


def test_status_tells_lags_totals_and_breaks(ledger: PostingBench) -> None:
    report = run_json(environment(ledger.settings), "status")
    first, second = report["lanes"]
    assert (first["received"], first["next_offset"], first["posting_lag"]) == (4, 4, 0)
    assert (first["relayed"], first["relay_lag"], first["reconciliation_lag"], first["audit_lag"]) == (4, 0, 4, 4)
    assert (second["received"], second["posting_lag"], second["journalled"], second["relayed"]) == (1, 1, 0, 0)
    assert report["totals"] == {
        "posted": 2, "rejected": 1, "duplicate": 0, "idempotency_conflict": 0, "quarantined": 1,
    }  # fmt: skip
    assert (report["dead_letters_untried"], report["breaks"], report["checkpoint"]) == (1, [], None)
    assert report["attention"] == []
    run(environment(ledger.settings), "status", "--check")


def test_status_adds_what_reconciliation_has_not_counted_yet(ledger: PostingBench) -> None:
    with_owner(ledger, "INSERT INTO reconciliation.lane (lane, next_seq, posted, rejected) VALUES (0, 3, 2, 1)")
    report = run_json(environment(ledger.settings), "status")
    assert report["totals"] == {
        "posted": 2, "rejected": 1, "duplicate": 0, "idempotency_conflict": 0, "quarantined": 1,
    }  # fmt: skip
    assert (report["lanes"][0]["reconciled"], report["lanes"][0]["reconciliation_lag"]) == (3, 1)


def test_a_break_needs_attention(ledger: PostingBench) -> None:
    with_owner(
        ledger,
        "INSERT INTO audit.break (break_id, kind, subject, state, detail, evidence, opened_time, changed_time)"
        " VALUES (gen_random_uuid(), 'chain', 'lane 0 seq 1', 'open', 'It differs.', '{}', 1, 1),"
        " (gen_random_uuid(), 'chain', 'lane 0 seq 2', 'resolved', 'It was restored.', '{}', 1, 1)",
    )
    variables = environment(ledger.settings)
    report = run_json(variables, "status", "--check", code=1)
    assert [(found["found_by"], found["kind"], found["breaks"]) for found in report["breaks"]] == [
        ("audit", "chain", 1)
    ]
    assert "1 break is not resolved" in report["attention"][0]


def test_a_topic_made_anew_needs_attention(ledger: PostingBench) -> None:
    with_owner(ledger, "UPDATE ledger.lane SET topic_id = 'another'")
    (told,) = run_json(environment(ledger.settings), "status")["attention"]
    assert "was posted from another topic" in told


def with_owner(ledger: PostingBench, statement: str) -> None:
    with psycopg.connect(ledger.dsn) as connection:
        connection.execute(statement.encode())


def test_status_works_with_whatever_is_up(ledger: PostingBench) -> None:
    variables = environment(ledger.settings)
    without_kafka = run_json(variables | {"LEDGERLINE_KAFKA_BOOTSTRAP": NOWHERE}, "status")
    assert [lane["journalled"] for lane in without_kafka["lanes"]] == [4, 0]
    assert without_kafka["lanes"][0]["received"] is None
    assert ["Kafka does not describe" in told for told in without_kafka["attention"]] == [True]

    away = {"LEDGERLINE_POSTGRES_DSN": f"postgresql://nobody@{NOWHERE}/nothing"}
    without_postgres = run_json(variables | away, "status")
    assert [lane["received"] for lane in without_postgres["lanes"]] == [4, 1]
    assert without_postgres["lanes"][0]["journalled"] is None
    assert ["Postgres cannot be reached" in told for told in without_postgres["attention"]] == [True]
    assert "?" in run(variables | away, "status").stdout
    refused = run(variables | away, "offsets", "show", code=1)
    assert "Postgres cannot be reached" in refused.stderr


def test_status_of_a_database_that_is_not_prepared(ledger: PostingBench) -> None:
    other = psycopg.conninfo.make_conninfo(ledger.dsn, dbname="postgres")
    report = run_json(environment(ledger.settings) | {"LEDGERLINE_POSTGRES_DSN": other}, "status")
    assert any("ledgerline prepare" in told for told in report["attention"])


def test_watching_shows_what_changes_until_interrupted(ledger: PostingBench) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-m", "cli", "status", "--watch", "--json", "--interval", "0.2"],
        cwd=REPOSITORY_ROOT,
        env=environment(ledger.settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = threading.Timer(60, watching.kill)
    deadline.start()
    assert watching.stdout is not None
    first = json.loads(watching.stdout.readline())
    assert first["lanes"][1]["posting_lag"] == 1
    ledger.post()
    seen = first
    while seen["lanes"][1]["posting_lag"] != 0:  # fails after the deadline, when the line is empty
        seen = json.loads(watching.stdout.readline())
    watching.send_signal(signal.SIGINT)
    _, complaints = watching.communicate(timeout=30)
    deadline.cancel()
    assert (watching.returncode, complaints) == (130, "")


def test_a_reader_that_has_enough_ends_the_command(ledger: PostingBench) -> None:
    command = f"{sys.executable} -m cli status --watch --json --interval 0.2 | head -1"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=REPOSITORY_ROOT,
        env=environment(ledger.settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert json.loads(done.stdout)["totals"]["posted"] == 2
    assert done.stderr == ""


def test_offsets_are_postgres_beside_kafka(ledger: PostingBench) -> None:
    rows = run_json(environment(ledger.settings), "offsets", "show")
    assert [(row["agent"], row["lane"]) for row in rows] == [
        (agent, lane) for agent in ("posting", "reconciliation", "audit") for lane in (0, 1)
    ]
    first, second, unmet, *_ = rows
    assert (first["low"], first["first"], first["next"], first["high"], first["lag"]) == (0, 0, 4, 4, 0)
    # The lane has four records and their transaction's marker; reconciliation has read none of them.
    assert (unmet["low"], unmet["next"], unmet["high"], unmet["lag"], unmet["seq"]) == (0, None, 5, 5, 0)
    assert unmet["topic"] == ledger.topics.journal
    assert (first["seq"], first["committed"], first["behind"]) == (4, None, None)
    assert first["topic_id"] == first["kafka_topic_id"]
    head = ledger.rows("SELECT encode(hash, 'hex') AS hash FROM ledger.journal WHERE lane = 0 AND seq = 3")
    assert first["head"] == head[0]["hash"]
    assert (second["next"], second["high"], second["lag"], second["head"]) in [
        (None, 1, 1, None),
        (0, 1, 1, "00" * 32),
    ]
    shown = run(environment(ledger.settings), "offsets", "show").stdout
    assert f"topic {ledger.topics.intents}" in shown


def test_the_end_of_the_journal_is_found_behind_aborted_transactions(ledger: PostingBench) -> None:
    producer = Producer({**ledger.kafka.make_client_options(), "transactional.id": f"{ledger.topics.prefix}aborter"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for _ in range(300):
        producer.produce(ledger.topics.journal, b"aborted", partition=0)
    producer.flush(10)
    producer.abort_transaction(30)
    assert run_json(environment(ledger.settings), "status")["lanes"][0]["relayed"] == 4


def test_schemas_are_registered_listed_and_checked(settings: Settings) -> None:
    variables = environment(settings)
    registered = {row["subject"]: row["id"] for row in run_json(variables, "schemas", "register")}
    listed = run_json(variables, "schemas", "list")
    assert {row["subject"]: row["id"] for row in listed} == registered
    assert all(row["current"] for row in listed)
    assert {row["verdict"] for row in run_json(variables, "schemas", "check")} == {"same"}
    away = run(variables | {"LEDGERLINE_REGISTRY_URL": f"http://{NOWHERE}"}, "schemas", "list", code=1)
    assert "The schema registry did not answer" in away.stderr


def test_up_makes_a_key_that_posts_at_once_and_down_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    variables = environment(settings)
    try:
        made = run_json(variables, "up")
        assert made["api_key_made"] is True
        assert made["open"] is None  # this run started none of the parts
        key = tmp_path / "data" / "api-key"
        assert key.stat().st_mode & 0o777 == 0o600
        posted = ["--debit", "external:bank", "--credit", "users:1:wallet", "--amount", "25", "--wait", "20"]
        assert run_json(variables, "intents", "post", *posted)["status"] == "posted"
        report = run_json(variables, "status")
        assert {found["name"]: found["condition"] for found in report["processes"]} == dict.fromkeys(
            ("posting", "relay", "worker", "reconciliation", "audit", "api"), "ready"
        )
        kept = key.read_text()
        again = run_json(variables, "up")
        assert (again["api_key_made"], key.read_text()) == (False, kept)
        run(variables, "keys", "revoke", kept.split("_")[1])
        assert run_json(variables, "up")["api_key_made"] is True
        assert key.read_text() != kept
    finally:
        pids = [found["pid"] for found in run_json(variables, "status")["processes"]]
        assert run_json(variables, "down") == {"stopped": True}
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert os.listdir(tmp_path / "data")  # the logs and the key stay
