"""Retention deletes intents from payments.intents; the journal keeps their keys for ever, and all parts go on."""

from collections import Counter
from pathlib import Path
from typing import Any

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from runtime.settings import Settings
from tests.api_bench import ApiBench, post, problem, top_up, transfer
from tests.command_line import environment, run, run_json
from tests.integration.test_cli_operations import relay_all
from tests.posting_bench import PostingBench, eventually
from tests.service_process import ServiceProcess

LANES = (0, 1)
INTENTS = 30


def delete_up_to(bench: PostingBench, offsets: dict[int, int]) -> None:
    """Do what retention does: the lanes of payments.intents then begin at these offsets."""
    admin = AdminClient(bench.kafka.make_client_options())
    asked = [TopicPartition(bench.topics.intents, lane, offset) for lane, offset in offsets.items()]
    for deletion in admin.delete_records(asked).values():
        deletion.result(10)


def posting_rows(bench: PostingBench) -> dict[int, dict[str, Any]]:
    rows = run_json(environment(bench.settings), "offsets", "show")
    return {row["lane"]: row for row in rows if row["agent"] == "posting"}


def is_posted(bench: PostingBench) -> bool:
    return all(row["lag"] == 0 and row["next"] is not None for row in posting_rows(bench).values())


def prove_all(bench: PostingBench, expired: int) -> None:
    """Recompute everything, and check that there is no break and that so many records have lost their intent."""
    relay_all(bench)
    report = run_json(environment(bench.settings), "reconcile")
    assert report["breaks"] == []
    assert sum(lane["expired"] for lane in report["lanes"]) == expired
    run(environment(bench.settings), "audit", "verify")
    bench.verify()


def test_a_key_stands_for_its_intent_after_retention_deleted_it(
    api: ApiBench, bench: PostingBench, settings: Settings, tmp_path: Path
) -> None:
    with api.client() as client:
        with ServiceProcess("posting", settings, tmp_path) as worker:
            for number in range(INTENTS):
                assert post(client, f"k{number}", top_up(number, 100)).status_code == 202
            broke = transfer("users:77:wallet", "platform:fees", 5)
            assert post(client, "broke", broke, Prefer="wait=30").json()["status"] == "rejected"
            eventually(lambda: is_posted(bench), "all is posted", 60)
            ends = {lane: row["next"] for lane, row in posting_rows(bench).items()}
            assert sum(ends.values()) == INTENTS + 1
            worker.kill()
        before = bench.rows("SELECT lane, first_offset, next_offset, head FROM ledger.lane ORDER BY lane")
        delete_up_to(bench, ends)
        assert [(row["low"], row["high"]) for row in posting_rows(bench).values()] == [
            (end, end) for end in ends.values()
        ]

        # The API answers from the journal: a settled intent has the same outcome, and another body is a conflict.
        first = post(client, "k3", top_up(3, 100))
        assert (first.status_code, first.headers["idempotent-replayed"], first.json()["status"]) == (
            200,
            "true",
            "posted",
        )
        assert post(client, "broke", broke).json()["status"] == "rejected"
        conflict = post(client, "k3", top_up(3, 101))
        assert (conflict.status_code, problem(conflict)) == (422, "idempotency-conflict")
        found = client.get(f"/v1/intents/{first.json()['intent_id']}")
        assert (found.status_code, found.json()["receipt"]) == (200, first.json()["receipt"])

        # For a producer that bypasses the API, the worker decides. It begins where the topic begins now.
        with ServiceProcess("posting", settings, tmp_path):
            bench.send(bench.transfer("k3", "external:bank", "users:3:wallet", 100), 0)
            bench.send(bench.transfer("k3", "external:bank", "users:3:wallet", 101), 1)
            bench.send(bench.transfer("broke", "users:77:wallet", "platform:fees", 5), 0)
            assert post(client, "new", top_up(77, 9), Prefer="wait=30").json()["status"] == "posted"
            eventually(lambda: is_posted(bench), "the second deliveries are posted", 60)
    fates = Counter(fate for lane in LANES for fate in bench.fates(lane, ends[lane]))
    assert fates == {"duplicate": 2, "idempotency_conflict": 1, "posted": 1}
    assert bench.balance("users:3:wallet") == -100
    after = {row["lane"]: row for row in bench.rows("SELECT lane, first_offset, next_seq FROM ledger.lane")}
    assert [after[row["lane"]]["first_offset"] for row in before] == [0, 0]
    prove_all(bench, INTENTS + 1)


def test_a_running_reconciliation_counts_what_expired_before_it_came(
    bench: PostingBench, settings: Settings, tmp_path: Path
) -> None:
    for lane in LANES:
        for number in range(5):
            bench.send(bench.transfer(f"{lane}-{number}", "external:bank", "users:1:wallet", 10), lane)
    assert bench.post() == ["posted"] * 10
    relay_all(bench)
    delete_up_to(bench, {0: 3, 1: 5})
    with ServiceProcess("reconciliation", settings, tmp_path):

        def counted() -> list[dict[str, Any]]:
            return bench.rows("SELECT lane, posted, expired FROM reconciliation.lane ORDER BY lane")

        wanted = [{"lane": 0, "posted": 5, "expired": 3}, {"lane": 1, "posted": 5, "expired": 5}]
        eventually(lambda: counted() == wanted, "all is counted, and what could not be compared", 60)
        delete_up_to(bench, {0: 5})
        run(environment(settings), "offsets", "seek", "reconciliation", "--to-beginning", "--yes")
        wanted[0]["expired"] = 5
        eventually(lambda: counted() == wanted, "it is counted again", 60)
    assert bench.rows("SELECT * FROM reconciliation.break") == []
    prove_all(bench, 10)


def test_retention_that_overtook_posting_ends_the_worker_with_a_sentence(
    bench: PostingBench, settings: Settings, tmp_path: Path
) -> None:
    bench.send(bench.transfer("posted", "external:bank", "users:1:wallet", 10))
    bench.post()
    for number in range(4):
        bench.send(bench.transfer(f"never-{number}", "external:bank", "users:1:wallet", 10))
    delete_up_to(bench, {0: 3})
    with ServiceProcess("posting", settings, tmp_path) as worker:
        assert worker.ended() == 1
        told = worker.log().strip().splitlines()[-1]
    assert "up to 1, but the topic now begins at 3: intents were deleted before they were posted" in told
    assert bench.stands(0)[0]["next_offset"] == 1
    bench.verify()
