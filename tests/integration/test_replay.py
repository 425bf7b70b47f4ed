"""A ledger rebuilt from ledger.journal equals the one that wrote it, and every service goes on with it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from db.books import add_unit, remove_chart_pattern, set_chart_pattern
from db.connections import connect
from db.migrate import migrate
from domain.chart import AccountClass, ChartPattern
from runtime.settings import REPOSITORY_ROOT
from streams.posting.published import JournalAhead, Published
from tests.command_line import environment
from tests.copies import beside, copy_of, settings_for
from tests.integration.test_audit_full import audit as audit_report
from tests.integration.test_audit_full import reconcile
from tests.posting_bench import PostingBench, eventually
from tests.proving_bench import ProvingBench
from tests.relay_bench import RelayBench
from tests.replay_bench import loaded, published_checkpoints, refusal, replay, schema_of, sign, varied

MANY = 30_000


@pytest.fixture
def target(proving: ProvingBench) -> Iterator[str]:
    """Yield the DSN of a database that does not exist yet."""
    with beside(proving.dsn, "replayed") as dsn:
        yield dsn


def frame_of(dsn: str) -> dict[str, list[tuple[object, ...]]]:
    """Return a ledger's facts, their chains and the frame, by table."""
    with psycopg.connect(dsn) as connection:
        return {
            table: connection.execute(f"SELECT * FROM ledger.{table} ORDER BY 1, 2, 3".encode()).fetchall()  # noqa: S608
            for table in ("fact", "fact_chain", "frame")
        }


# ---------------------------------------------------------------------------------------------------- from nothing


def test_the_frame_comes_back_from_its_facts_alone(proving: ProvingBench, target: str) -> None:
    """The live database is gone, and nobody has exported its books."""
    with connect(proving.dsn, "ledgerline_operator", autocommit=True) as operator:
        add_unit(operator, "default", "MILES", 2, "Miles", done_by="ann")
        line = ChartPattern("loans:**", AccountClass.ASSET, 1, -5, frozenset({"EUR", "MILES"}))
        set_chart_pattern(operator, "default", line, done_by="ann")
        remove_chart_pattern(operator, "default", "merchants:**", done_by="ben")
    varied(proving)
    expected = frame_of(proving.dsn)
    gone = psycopg.conninfo.make_conninfo(proving.dsn, dbname="nothing_is_here")
    done = replay(proving, target, LEDGERLINE_POSTGRES_DSN=gone)
    assert done["loaded"]
    assert frame_of(target) == expected
    # The copy then catches up, including a change of the chart; a copy with other facts is refused.
    with connect(proving.dsn, "ledgerline_operator", autocommit=True) as operator:
        set_chart_pattern(operator, "default", line._replace(floor_minor=None), done_by="ann")
    proving.send(proving.transfer("a new account", "external:bank", "users:new:wallet", 5))
    proving.post_and_relay()
    assert not replay(proving, target, "--verify")["loaded"]
    assert frame_of(target) == frame_of(proving.dsn)
    with psycopg.connect(target) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE ledger.fact SET hash = '' WHERE chain = -1")
        connection.execute("UPDATE ledger.fact_chain SET head = '' WHERE chain = -1")
    assert "other facts than" in refusal(proving, target)


def test_an_empty_database_is_rebuilt_bit_for_bit_and_all_go_on_with_it(proving: ProvingBench, target: str) -> None:
    varied(proving)
    assert sign(proving) == 0
    proving.send(proving.transfer("behind the checkpoint", "external:bank", "users:1:wallet", 5))
    proving.post_and_relay()
    done = replay(proving, target, "--verify")
    total = sum(lane["next_seq"] for lane in proving.rows("SELECT next_seq FROM ledger.lane"))
    assert (done["loaded"], done["records"], done["checkpoints"], done["quarantined_without_bytes"]) == (
        True,
        total,
        1,
        0,
    )
    assert (done["difference"], done["compared_rows"]) == (None, total)
    assert schema_of(target) == schema_of(proving.dsn), "keys, indexes and triggers are as a migration makes them"
    assert loaded(target) == -1, "nothing is remembered of the load"
    assert frame_of(target) == frame_of(proving.dsn)

    rebuilt = ProvingBench(settings_for(proving.settings, target), proving.topics)
    rebuilt.verify()
    proving.relay.close()
    rebuilt.send(rebuilt.transfer("after", "external:bank", "users:1:wallet", 5))
    rebuilt.send(rebuilt.transfer("in-0", "external:bank", "users:0:wallet", 1000))
    assert rebuilt.post_and_relay() == ["posted", "duplicate"]
    relays = RelayBench(rebuilt, rebuilt.topics)
    relays.check()
    assert sign(rebuilt) == 1
    assert published_checkpoints(rebuilt) == [0, 1]
    assert reconcile(rebuilt).findings == []
    verified = audit_report(rebuilt)
    assert (verified.findings, verified.checkpoints) == ([], 2)
    relays.close()
    rebuilt.close()


def test_it_may_be_called_again_and_then_has_nothing_to_do(proving: ProvingBench, target: str) -> None:
    varied(proving)
    sign(proving)
    replay(proving, target)
    again = replay(proving, target, "--verify")
    assert (again["loaded"], again["records"], again["checkpoints"], again["difference"]) == (False, 0, 0, None)


def test_a_ledger_without_a_record_is_rebuilt_too(proving: ProvingBench, target: str) -> None:
    assert replay(proving, target, "--verify")["records"] == 0
    assert schema_of(target) == schema_of(proving.dsn)


def test_bytes_that_retention_has_deleted_are_counted(proving: ProvingBench, target: str) -> None:
    proving.send_bytes(b"first")
    proving.post_and_relay()
    end = proving.read(proving.topics.quarantine, 0, 0)[1]
    admin = AdminClient(proving.kafka.make_client_options())
    for deleted in admin.delete_records([TopicPartition(proving.topics.quarantine, 0, end)]).values():
        deleted.result(30)
    proving.send_bytes(b"second")
    proving.post_and_relay()
    assert replay(proving, target)["quarantined_without_bytes"] == 1
    rebuilt = PostingBench(settings_for(proving.settings, target), proving.topics)
    assert [row["value"] for row in rebuilt.rows("SELECT value FROM ledger.quarantine ORDER BY seq")] == [
        None,
        b"second",
    ]
    rebuilt.verify()
    rebuilt.close()


# ---------------------------------------------------------------------------------------------------- restartable


def test_killed_in_the_middle_it_goes_on_where_it_was(proving: ProvingBench, target: str) -> None:
    """The command gets SIGKILL, so its child processes must end by themselves, and it is started again at once."""
    for lane in (0, 1):
        proving.send_all(
            [proving.transfer(f"{lane}-{n}", "external:bank", f"users:{n % 99}", 1) for n in range(MANY // 2)], lane
        )
    proving.post_and_relay()
    command = [sys.executable, "-m", "cli", "replay", "--into", target, "--json"]
    with subprocess.Popen(command, cwd=REPOSITORY_ROOT, env=environment(proving.settings)) as first:
        eventually(lambda: loaded(target) > 0 or first.poll() is not None, "some of it is loaded", 90)
        os.kill(first.pid, signal.SIGKILL)
    before = loaded(target)
    assert 0 < before < MANY, "it was to be killed in the middle"
    half = PostingBench(settings_for(proving.settings, target), proving.topics)
    with pytest.raises(JournalAhead, match="this ledger ends at 0"):
        half.take_over()
    half.close()
    done = replay(proving, target, "--verify")
    assert done["loaded"]
    assert 0 < done["records"] <= MANY - before
    assert (done["difference"], done["compared_rows"]) == (None, MANY)
    assert schema_of(target) == schema_of(proving.dsn)


def test_two_at_once_are_refused(proving: ProvingBench, target: str) -> None:
    varied(proving)
    migrate(target)
    with psycopg.connect(target, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtext('ledgerline.replay'))")
        assert "Another replay is at work on this database" in refusal(proving, target)
    assert replay(proving, target)["loaded"]


# ---------------------------------------------------------------------------------------------------- from a backup


def test_an_old_copy_catches_up(proving: ProvingBench) -> None:
    varied(proving)
    sign(proving)
    with copy_of(proving, "old") as old:
        for lane in (0, 1):
            proving.send_all(
                [proving.transfer(f"{lane}-{n}", "external:bank", f"new:{n % 9}", 1) for n in range(5)], lane
            )
            proving.send_all(
                [proving.transfer(f"{lane}+{n}", "external:bank", f"users:{n}", 1) for n in range(5)], lane
            )
        proving.send_bytes(b"quarantined")
        proving.post_and_relay()
        assert sign(proving) == 1
        proving.send(proving.transfer("behind the checkpoint", "external:bank", "users:1:wallet", 5))
        proving.post_and_relay()
        done = replay(proving, old, "--verify")
        assert (done["loaded"], done["records"], done["checkpoints"], done["difference"]) == (False, 22, 1, None)
        restored = ProvingBench(settings_for(proving.settings, old), proving.topics)
        restored.verify()
        restored.send(restored.transfer("after", "external:bank", "users:1:wallet", 5))
        assert restored.post_and_relay() == ["posted"]
        assert sign(restored) == 2
        assert published_checkpoints(restored) == [0, 1, 2]
        assert reconcile(restored).findings == []
        assert audit_report(restored).findings == []
        restored.close()


def test_a_copy_that_went_its_own_way_is_refused(proving: ProvingBench) -> None:
    varied(proving)
    with copy_of(proving, "old") as old:
        proving.send(proving.transfer("after", "external:bank", "users:1:wallet", 5))
        proving.post_and_relay()
        strayed = PostingBench(settings_for(proving.settings, old), proving.topics)
        unguarded = strayed.new_poster(published=lambda lanes: dict.fromkeys(lanes, Published()))
        strayed.post((0,), unguarded)
        assert "This ledger has another record than" in refusal(proving, old)
        found = replay(proving, old, "--verify", code=1)["difference"]
        assert (found["table"], found["lane"], found["member"]) == ("lane", 0, "head")
        proving.send(proving.transfer("and more", "external:bank", "users:1:wallet", 5))
        proving.post_and_relay()
        assert "does not follow from the hash before it" in refusal(proving, old)
        strayed.close()


def test_a_record_that_was_altered_on_the_topic_is_refused(proving: ProvingBench, target: str) -> None:
    varied(proving)
    (lane,) = proving.stands(1)
    (row,) = [record for record in proving.records(1) if record["seq"] == lane["next_seq"] - 1]
    forged = {
        **row,
        "seq": lane["next_seq"],
        "previous_hash": lane["head"],
        "legs": [],
        "metadata": {},
        "intent_id": None,
    }
    proving.put_record({**forged, "source_offset": lane["next_offset"], "reverses": None})
    told = refusal(proving, target)
    assert f"Lane 1 cannot be replayed from seq {lane['next_seq']} on" in told
    assert "hash is not that of its content" in told


def test_a_topic_with_a_hole_is_refused(proving: ProvingBench, target: str) -> None:
    varied(proving)
    admin = AdminClient(proving.kafka.make_client_options())
    for deleted in admin.delete_records([TopicPartition(proving.topics.journal, 0, 2)]).values():
        deleted.result(30)
    assert "Lane 0 cannot be replayed from seq 0 on, as the topic goes on with lane 0 seq 2" in refusal(proving, target)
