"""Dead letters are listed, shown byte for byte, and sent again to their lane, with a record of who did it."""

import getpass
import signal
import subprocess
import sys
from typing import Final

import psycopg
import pytest

from db.connections import connect
from db.operations import change_intake
from runtime.settings import REPOSITORY_ROOT
from tests.command_line import environment, run, run_json
from tests.posting_bench import PostingBench

BAD_MAGIC = b"\x01no frame at all \xff\x00\xe2\x82\xac"
EMPTY = b""


@pytest.fixture
def ledger(bench: PostingBench) -> PostingBench:
    """Return a ledger. Lane 0: a transfer, then a wrong magic byte, then an empty value; lane 1: a wrong magic byte."""
    bench.send(bench.transfer("first", "external:bank", "users:1:wallet", 700))
    bench.send_bytes(BAD_MAGIC)
    bench.send_bytes(EMPTY)
    bench.send_bytes(BAD_MAGIC, lane=1)
    assert bench.post() == ["posted", "bad_magic", "empty", "bad_magic"]
    return bench


def test_list_pages_and_filters(ledger: PostingBench) -> None:
    variables = environment(ledger.settings)
    first = run_json(variables, "dlq", "list", "--limit", "2")
    rest = run_json(variables, "dlq", "list", "--limit", "2", "--after", first["next"])
    found = [(row["lane"], row["seq"], row["reason"]) for row in first["items"] + rest["items"]]
    assert sorted(found) == [(0, 1, "bad_magic"), (0, 2, "empty"), (1, 0, "bad_magic")]
    assert rest["next"] is None
    only = run_json(variables, "dlq", "list", "--reason", "empty")["items"]
    assert [(row["lane"], row["seq"], row["value_bytes"]) for row in only] == [(0, 2, 0)]


def test_show_has_the_bytes_as_they_were(ledger: PostingBench) -> None:
    variables = environment(ledger.settings)
    document = run_json(variables, "dlq", "show", "0", "1")
    assert bytes.fromhex(document["value"]) == BAD_MAGIC
    assert (document["reason"], document["source_offset"], document["retries"]) == ("bad_magic", 1, [])
    shown = run(variables, "dlq", "show", "0", "1").stdout
    assert "00000000  01 6e 6f 20 66 72 61 6d  65 20 61 74 20 61 6c 6c  |.no frame at all|" in shown
    assert "as text: .no frame at all �.€" in shown


def test_retry_sends_the_same_bytes_to_the_same_lane_and_is_on_record(ledger: PostingBench) -> None:
    variables = environment(ledger.settings)
    (sent,) = run_json(variables, "dlq", "retry", "0", "1")
    assert (sent["topic"], sent["partition"], sent["offset"]) == (ledger.topics.intents, 0, 3)
    (pending,) = run_json(variables, "dlq", "show", "0", "1")["retries"]
    assert (pending["source_offset"], pending["outcome"], pending["retried_by"]) == (3, None, getpass.getuser())

    assert ledger.post() == ["bad_magic"]
    (settled,) = run_json(variables, "dlq", "show", "0", "1")["retries"]
    assert (settled["seq"], settled["outcome"], settled["reason"]) == (3, "quarantined", "bad_magic")
    again = run_json(variables, "dlq", "show", "0", "3")
    assert bytes.fromhex(again["value"]) == BAD_MAGIC
    assert [(header["name"], bytes.fromhex(header["value"])) for header in again["headers"]] == [
        ("ledgerline_retry_of", b"0/1"),
        ("ledgerline_retry", str(sent["retry_id"]).encode()),
    ]


def test_bytes_that_can_be_decoded_by_now_are_posted(bench: PostingBench) -> None:
    good = bench.encode(bench.transfer("late", "external:bank", "users:1:wallet", 50))
    unknown = good[:1] + (2**31 - 1).to_bytes(4, "big") + good[5:]
    bench.send_bytes(unknown)
    assert bench.post() == ["unknown_schema"]
    # An operator would wait until the registry has the schema; the test repairs the quarantined frame instead.
    mend(bench, good)
    run(environment(bench.settings), "dlq", "retry", "0", "0")
    assert bench.post() == ["posted"]
    assert bench.balance("users:1:wallet") == -50
    run(environment(bench.settings), "dlq", "retry", "0", "0")
    assert bench.post() == ["duplicate"]
    assert bench.balance("users:1:wallet") == -50


def mend(bench: PostingBench, value: bytes) -> None:
    """Replace the quarantined bytes. Only the owner of the database can do so, and no command does it."""
    with psycopg.connect(bench.dsn) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE ledger.quarantine SET value = %s WHERE lane = 0 AND seq = 0", (value,))


def test_offsets_of_an_aborted_transaction_are_listed_only_if_asked_for_and_never_sent(ledger: PostingBench) -> None:
    variables = environment(ledger.settings)
    ledger.send_transaction([ledger.transfer("t", "external:bank", "users:1:wallet", 1)], commit=False)
    assert ledger.post() == ["no_record"] * 2
    assert len(run_json(variables, "dlq", "list")["items"]) == 3
    aborted = run_json(variables, "dlq", "list", "--reason", "no_record")["items"]
    assert [(row["lane"], row["seq"], row["value_bytes"]) for row in aborted] == [(0, 3, 0), (0, 4, 0)]
    for which in (("0", "3"), ("--all", "--reason", "no_record", "--yes")):
        assert "nothing to send again" in run(variables, "dlq", "retry", *which, code=1).stderr
    assert len(run_json(variables, "dlq", "retry", "--all", "--yes")) == 3


def test_all_takes_each_row_once_and_asks_first(ledger: PostingBench) -> None:
    variables = environment(ledger.settings)
    refused = run(variables, "dlq", "retry", "--all", code=1, given="n\n")
    assert "Send 3 quarantined rows again?" in refused.stderr
    sent = run_json(variables, "dlq", "retry", "--all", "--reason", "bad_magic", "--yes")
    assert sorted((item["lane"], item["seq"]) for item in sent) == [(0, 1), (1, 0)]
    assert "Sent 1 rows again." in run(variables, "dlq", "retry", "--all", given="y\n").stdout
    assert run_json(variables, "dlq", "retry", "--all", "--yes") == []
    assert sorted(ledger.post()) == ["bad_magic", "bad_magic", "empty"]
    assert run_json(variables, "dlq", "list", "--untried")["items"] == []
    items = run_json(variables, "dlq", "list")["items"]
    assert {(row["lane"], row["seq"]): (row["retries"], row["retry_of"]) for row in items} == {
        (0, 1): (1, None),
        (0, 2): (1, None),
        (1, 0): (1, None),
        (0, 3): (0, "0/1"),
        (0, 4): (0, "0/2"),
        (1, 1): (0, "1/0"),
    }
    again = run_json(variables, "dlq", "retry", "--all", "--again", "--yes")
    assert sorted((item["lane"], item["seq"]) for item in again) == [(0, 1), (0, 2), (1, 0)]


def test_what_a_retry_settled_is_not_sent_again(bench: PostingBench) -> None:
    variables = environment(bench.settings)
    good = bench.encode(bench.transfer("late", "external:bank", "users:1:wallet", 50))
    bench.send_bytes(b"\x01" + good[1:])
    assert bench.post() == ["bad_magic"]
    mend(bench, good)
    run(variables, "dlq", "retry", "0", "0")
    assert len(run_json(variables, "dlq", "retry", "--all", "--again", "--yes")) == 1  # no outcome is known yet
    assert bench.post() == ["posted", "duplicate"]
    assert run_json(variables, "dlq", "retry", "--all", "--again", "--yes") == []


MISTAKES = [
    (("show", "0", "0"), 1, "Lane 0 seq 0 is not quarantined"),
    (("show", "7", "99"), 1, "Lane 7 seq 99 is not quarantined"),
    (("retry", "0", "0"), 1, "Lane 0 seq 0 is not quarantined"),
    (("list", "--after", "nowhere"), 1, "'nowhere' is no cursor"),
    (("list", "--reason", "boredom"), 2, "Invalid value for '--reason'"),
    (("retry",), 2, "say LANE and SEQ of one row, or --all"),
    (("retry", "0"), 2, "say LANE and SEQ of one row, or --all"),
    (("retry", "0", "1", "--all"), 2, "say LANE and SEQ of one row, or --all"),
    (("retry", "0", "1", "--again"), 2, "--again and --reason go with --all"),
    (("retry", "0", "1", "--reason", "empty"), 2, "--again and --reason go with --all"),
]


def test_mistakes_are_told_in_a_sentence(ledger: PostingBench) -> None:
    variables = environment(ledger.settings)
    for arguments, code, told in MISTAKES:
        assert told in run(variables, "dlq", *arguments, code=code).stderr, arguments


def test_kafka_away_leaves_no_record(ledger: PostingBench) -> None:
    variables = environment(ledger.settings) | {"LEDGERLINE_KAFKA_BOOTSTRAP": "127.0.0.1:1"}
    refused = run(variables, "dlq", "retry", "0", "1", code=1)
    assert "Kafka took 0 of 1" in refused.stderr
    assert ledger.rows("SELECT * FROM ledger.quarantine_retry") == []


# `dlq retry 0 1` in a process that gets SIGKILL when it comes to the given step of the record.
KILLED_AT: Final = """
import os, signal, sys
import cli.commands.dlq as dlq
setattr(dlq, sys.argv[1], lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
dlq.send_again(lane=0, seq=1)
"""


def killed_at(ledger: PostingBench, step: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT, step],
        cwd=REPOSITORY_ROOT, env=environment(ledger.settings), capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def test_a_retry_that_was_killed_before_it_was_confirmed_is_on_record_and_found(ledger: PostingBench) -> None:
    variables = environment(ledger.settings)
    killed_at(ledger, "confirm_retry")
    (cut_off,) = run_json(variables, "dlq", "show", "0", "1")["retries"]
    assert (cut_off["retried_by"], cut_off["source_offset"], cut_off["confirmed_time"]) == (
        getpass.getuser(), None, None,
    )  # fmt: skip
    assert "not confirmed" in run(variables, "dlq", "show", "0", "1").stdout
    assert ledger.post() == ["bad_magic"]  # the bytes were sent before the kill
    # The next retry, of any row, first looks for the unconfirmed one, and finds its outcome: quarantined at seq 3.
    sent = run_json(variables, "dlq", "retry", "--all", "--reason", "bad_magic", "--yes")
    assert [(item["lane"], item["seq"]) for item in sent] == [(1, 0)]
    (found,) = run_json(variables, "dlq", "show", "0", "1")["retries"]
    assert (found["source_offset"], found["seq"], found["outcome"]) == (3, 3, "quarantined")
    listed = {(row["lane"], row["seq"]): row for row in run_json(variables, "dlq", "list")["items"]}
    assert listed[0, 3]["retry_of"] == "0/1"
    assert (listed[0, 1]["retries"], listed[0, 1]["unconfirmed"]) == (1, 0)


def test_a_retry_that_was_killed_before_it_was_sent_is_sent_by_the_next(ledger: PostingBench) -> None:
    variables = environment(ledger.settings)
    killed_at(ledger, "retry")  # neither recorded nor sent
    assert ledger.rows("SELECT * FROM ledger.quarantine_retry") == []
    with connect(ledger.dsn, "ledgerline_operator") as connection:  # recorded, and killed before it was sent
        connection.execute(
            "INSERT INTO ledger.quarantine_retry (lane, seq, retried_time, retried_by, topic, partition, from_offset)"
            " VALUES (0, 1, now() - interval '3 minutes', 'someone', %s, 0, 3)",
            (ledger.topics.intents,),
        )
    sent = run_json(variables, "dlq", "retry", "--all", "--reason", "bad_magic", "--yes")
    assert [(item["lane"], item["seq"]) for item in sent] == [(0, 1), (1, 0)]
    first, second = run_json(variables, "dlq", "show", "0", "1")["retries"]
    assert (first["retried_by"], first["source_offset"], first["confirmed_time"] is None) == ("someone", None, False)
    assert (second["retry_id"], second["source_offset"]) == (sent[0]["retry_id"], 3)
    assert "did not go out" in run(variables, "dlq", "show", "0", "1").stdout


def test_nothing_is_sent_again_while_the_intake_is_closed(ledger: PostingBench) -> None:
    with connect(ledger.dsn, "ledgerline_operator", autocommit=True) as connection:
        change_intake(connection, "A backup is made.", "someone")
    refused = run(environment(ledger.settings), "dlq", "retry", "0", "1", code=1)
    assert "The intake is closed (A backup is made.)" in refused.stderr
    assert ledger.rows("SELECT * FROM ledger.quarantine_retry") == []
