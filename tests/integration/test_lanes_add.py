"""`lanes add`: 2 lanes become 4 while clients retry and each service is a process; also kills and refusals."""

import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from cli.lanes import LANES_REASON, add_lanes
from db.connections import connect
from domain.errors import LedgerlineError
from domain.topics import Topics
from producers.deploy import Replication, count_lanes, make_topics
from runtime.settings import REPOSITORY_ROOT, Settings
from tests.api_bench import ApiBench, post, problem, top_up, transfer
from tests.command_line import environment, run, run_json
from tests.integration.test_api_processes import api_process
from tests.integration.test_cli_operations import relay_all
from tests.posting_bench import PostingBench, eventually
from tests.service_process import ServiceProcess

SERVICES: Final = ("posting", "relay", "worker", "reconciliation", "audit")
PAYERS: Final = 12
PAUSE_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 0.2
LANES_SECONDS_MAX: Final = 240.0


def counts(bench: PostingBench) -> set[int]:
    return set(count_lanes(bench.kafka, bench.topics).values())


def kinds(bench: PostingBench) -> list[str]:
    """Return the operations on the intake and the lanes, without those on keys and tenants, which tests cause too."""
    rows = bench.rows(
        "SELECT operation FROM ledger.operation WHERE operation !~ '^(key|tenant)_' ORDER BY operation_id"
    )
    return [row["operation"] for row in rows]


def add(bench: PostingBench, total: int, **options: Any) -> Any:
    given = {"wait_seconds": 60.0, "settle_seconds": 0.0, "done_by": "tester", **options}
    return add_lanes(kafka=bench.kafka, dsn=bench.dsn, topics=bench.topics, total=total, **given)


class Client:
    """One account's owner, who sends a top-up and then one payment after the other, each again until it is accepted."""

    def __init__(self, api: ApiBench, key: str, number: int) -> None:
        self.number = number
        self.taken: list[str] = []
        self.refused: set[str] = set()
        self.failure: Exception | None = None
        self.stop = threading.Event()
        self._api, self._key = api, key
        self.thread = threading.Thread(target=self._run, name=f"client-{number}")
        self.thread.start()

    def _run(self) -> None:
        try:
            with self._api.client(self._key) as client:
                self._send(client, f"{self.number}-first", top_up(self.number, 10**9), Prefer="wait=30")
                for count in range(1_000_000):
                    if self.stop.wait(PAUSE_SECONDS):
                        return
                    name = f"{self.number}-{count}"
                    # The payment draws down a constrained account, so the account decides its lane.
                    self._send(client, name, transfer(f"users:{self.number}:wallet", "platform:fees", 100))
                    self.taken.append(name)
        except Exception as error:  # noqa: BLE001 - `end` reports it, in the test's own thread
            self.failure = error

    def _send(self, client: httpx.Client, name: str, body: dict[str, Any], **headers: str) -> None:
        while (answer := post(client, name, body, **headers)).status_code not in (200, 202):
            assert answer.status_code in (429, 503), answer.text
            self.refused.add(problem(answer))
            threading.Event().wait(RETRY_SECONDS)


@contextmanager
def clients(api: ApiBench) -> Iterator[list[Client]]:
    """Run clients until the end of the `with`; raise AssertionError if one met an answer that it must not retry."""
    key = api.new_key()
    made = [Client(api, key, number) for number in range(PAYERS)]
    try:
        yield made
    finally:
        end(made)


def end(made: list[Client]) -> None:
    """Stop the clients after their present request; raise AssertionError if one has failed."""
    for each in made:
        each.stop.set()
    for each in made:
        each.thread.join(60)
    assert [each.failure for each in made] == [None] * PAYERS


def has_taken(made: list[Client], more: int) -> Callable[[], bool]:
    wanted = [len(each.taken) + more for each in made]
    return lambda: all(len(each.taken) >= count for each, count in zip(made, wanted, strict=True))


def at_rest(bench: PostingBench) -> bool:
    rows = run_json(environment(bench.settings), "offsets", "show")
    return len(rows) == 12 and all(row["lag"] == 0 for row in rows)


def check_order(bench: PostingBench, made: list[Client]) -> None:
    """Check that all accepted intents are posted once, and each account's payments in the order of sending."""
    rows = bench.rows("SELECT idempotency_key, outcome, booked_time, lane, seq FROM ledger.journal")
    settled: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["outcome"] != "duplicate":
            settled[row["idempotency_key"]].append(row)
    assert len(settled) == sum(len(each.taken) + 1 for each in made)
    assert {(len(found), found[0]["outcome"]) for found in settled.values()} == {(1, "posted")}
    moved = 0
    for each in made:
        payments = [settled[name][0] for name in each.taken]
        assert [row["booked_time"] for row in payments] == sorted(row["booked_time"] for row in payments)
        lanes = [lane for lane, _ in groupby(row["lane"] for row in payments)]
        assert len(lanes) == len(set(lanes)) <= 2, f"the account went from lane to lane: {lanes}"
        for lane in lanes:
            seqs = [row["seq"] for row in payments if row["lane"] == lane]
            assert seqs == sorted(seqs)
        moved += len(lanes) == 2
        assert bench.balance(f"users:{each.number}:wallet") == 100 * len(payments) - 10**9
    assert moved, "no account came to another lane, so nothing was tried"


@pytest.mark.long
def test_lanes_are_added_under_clients_that_retry(bench: PostingBench, settings: Settings, tmp_path: Path) -> None:
    variables = environment(settings)
    with ExitStack() as stack:
        for name in SERVICES:
            stack.enter_context(ServiceProcess(name, settings, tmp_path))
        api, _ = stack.enter_context(api_process(settings))
        made = stack.enter_context(clients(api))
        eventually(has_taken(made, 10), "the clients are at work", 120)
        started = time.monotonic()
        adding = subprocess.run(
            [sys.executable, "-m", "cli", "lanes", "add", "4", "--json"],
            cwd=REPOSITORY_ROOT, env=variables, capture_output=True, text=True, check=False, timeout=LANES_SECONDS_MAX,
        )  # fmt: skip
        assert adding.returncode == 0, adding.stderr
        sys.stderr.write(f"lanes were added in {time.monotonic() - started:.1f} s\n")
        eventually(has_taken(made, 20), "the clients go on", 120)
        eventually(
            lambda: len(bench.rows("SELECT lane FROM ledger.lane WHERE next_seq > 0")) == 4, "all lanes are used", 120
        )
        for each in made:
            assert each.refused <= {"intake-closed", "kafka-unavailable"}, each.refused
        assert any("intake-closed" in each.refused for each in made)
        end(made)
        eventually(lambda: at_rest(bench), "every agent is at the end of all four lanes", 120)
        check_order(bench, made)
        bench.verify()
        assert counts(bench) == {4}
        assert run_json(variables, "reconcile")["breaks"] == []
        run(variables, "audit", "verify")
        assert bench.rows("SELECT * FROM reconciliation.break UNION ALL SELECT * FROM audit.break") == []
        assert kinds(bench) == ["intake_closed", "lanes_adding", "intake_opened", "lanes_added"]


# `lanes add 4` in a process that gets SIGKILL when it comes to the given call of the given step.
KILLED_AT: Final = """
import os, signal, sys
import cli.lanes as lanes
from runtime.kafka import Kafka
from domain.topics import Topics
bootstrap, dsn, prefix, step, call = sys.argv[1:]
kept, calls = getattr(lanes, step), []
def counted(*given, **options):
    calls.append(step)
    if len(calls) == int(call):
        os.kill(os.getpid(), signal.SIGKILL)
    return kept(*given, **options)
setattr(lanes, step, counted)
lanes.add_lanes(
    kafka=Kafka(bootstrap), dsn=dsn, topics=Topics(prefix), total=4, done_by="killed", wait_seconds=60, settle_seconds=0
)
"""


@pytest.mark.parametrize(
    ("step", "call"),
    [
        ("add_operation", 1),
        ("_drain", 1),
        ("add_partitions", 2),
        ("add_partitions", 3),
        ("_drain", 2),
        ("change_intake", 2),
    ],
)
def test_what_is_killed_in_between_is_finished_by_the_same_command(bench: PostingBench, step: str, call: int) -> None:
    bench.send(bench.transfer("a", "external:bank", "users:1:wallet", 700))
    bench.post()
    relay_all(bench)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT, bench.kafka.bootstrap, bench.dsn, bench.topics.prefix, step, str(call)],
        cwd=REPOSITORY_ROOT, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert bench.rows("SELECT closed_because FROM ledger.intake") == [{"closed_because": LANES_REASON}]
    assert add(bench, 4).intake_is_open
    assert counts(bench) == {4}
    assert bench.rows("SELECT closed_because, lanes FROM ledger.intake") == [{"closed_because": None, "lanes": 4}]
    assert kinds(bench)[-2:] == ["intake_opened", "lanes_added"]
    assert add(bench, 4).before == 4
    assert kinds(bench).count("lanes_added") == 1


def test_lanes_that_do_not_drain_stay_as_they_are_and_the_intake_opens_again(bench: PostingBench) -> None:
    bench.send(bench.transfer("a", "external:bank", "users:1:wallet", 700))
    with pytest.raises(LedgerlineError, match=r"not drained after 1 seconds \(1 intents are not posted, 0 records"):
        add(bench, 4, wait_seconds=1.0)
    bench.post()
    with pytest.raises(LedgerlineError, match=r"\(0 intents are not posted, 1 records not relayed\)"):
        add(bench, 4, wait_seconds=1.0)
    assert counts(bench) == {2}
    assert bench.rows("SELECT closed_because FROM ledger.intake") == [{"closed_because": None}]
    assert kinds(bench) == ["intake_closed", "lanes_adding", "intake_opened"] * 2


def test_lanes_are_never_removed_nor_added_by_two(bench: PostingBench) -> None:
    refused = run(environment(bench.settings), "lanes", "add", "1", code=1)
    assert "There are 2 lanes, and lanes are never removed" in refused.stderr
    with connect(bench.dsn, "ledgerline_operator", autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(1279544147)")
        with pytest.raises(LedgerlineError, match="Another operator adds lanes at this moment"):
            add(bench, 4)
    assert add(bench, 2).after == 2
    assert (counts(bench), kinds(bench)) == ({2}, [])


def test_an_intake_that_an_operator_closed_stays_closed(bench: PostingBench) -> None:
    variables = environment(bench.settings)
    assert run_json(variables, "intake", "show") == {"is_open": True, "closed_because": None, "lanes": None}
    assert run_json(variables, "intake", "close", "A backup is made.")["is_open"] is False
    assert not add(bench, 3).intake_is_open
    assert run_json(variables, "intake", "show") == {
        "is_open": False, "closed_because": "A backup is made.", "lanes": 3,
    }  # fmt: skip
    assert "The intake is closed: A backup is made." in run(variables, "intake", "close", "A backup is made.").stdout
    assert run(variables, "intake", "open").stdout == "The intake is open.\n"
    trail = run_json(variables, "operations")
    assert trail.pop()["operation"] == "tenant_added"
    assert [row["operation"] for row in reversed(trail)] == [
        "intake_closed", "lanes_adding", "intake_closed", "lanes_added", "intake_opened",
    ]  # fmt: skip
    assert trail[-1]["detail"] == {"because": "A backup is made."}
    assert "lanes_added" in run(variables, "operations", "--limit", "2").stdout


def test_a_deploy_takes_added_lanes_as_they_are_and_tells_of_what_is_half_done(
    bench: PostingBench, topics: Topics
) -> None:
    def deploy(lanes: int) -> list[str]:
        return make_topics(bench.kafka, topics, lanes, Replication())

    with pytest.raises(LedgerlineError, match=r"There are 2 lanes and LEDGERLINE_LANES asks for 4: .*lanes add 4"):
        deploy(4)
    admin = AdminClient(bench.kafka.make_client_options())
    admin.create_partitions([NewPartitions(topics.journal, 4)])[topics.journal].result(30)
    with pytest.raises(LedgerlineError, match=r"different numbers of partitions .*lanes add 4"):
        eventually(lambda: deploy(2) and None, "the broker tells of it", 10)
    assert add(bench, 4).after == 4
    assert deploy(2) == deploy(4) == []


def test_a_closed_intake_answers_what_is_settled_and_refuses_what_is_new(api: ApiBench, bench: PostingBench) -> None:
    variables = environment(bench.settings)
    with api.client() as client:
        assert post(client, "settled", top_up(1, 5)).status_code == 202
        assert bench.post() == ["posted"]
        run(variables, "intake", "close", "A backup is made.")
        assert post(client, "settled", top_up(1, 5)).status_code == 200
        refused = post(client, "new", top_up(1, 5))
        assert (refused.status_code, problem(refused)) == (503, "intake-closed")
        assert (refused.headers["retry-after"], refused.json()["detail"].startswith("A backup is made. ")) == (
            "5",
            True,
        )
        items = [{"idempotency_key": name, **top_up(1, 5)} for name in ("settled", "new")]
        answered = client.post("/v1/intents/batch", json=items).json()["items"]
        assert [item["status"] for item in answered] == [200, 503]
        assert client.get("/readyz").status_code == 200
        assert bench.fetch() == []
        run(variables, "intake", "open")
        assert post(client, "new", top_up(1, 5)).status_code == 202
    assert bench.post() == ["posted"]


def test_an_api_process_chooses_among_all_lanes_as_soon_as_the_intake_opens(api: ApiBench, bench: PostingBench) -> None:
    with api.client() as client:
        assert {post(client, f"a{number}", top_up(1, 5)).json()["receipt"]["partition"] for number in range(20)} <= {
            0,
            1,
        }
        bench.post()
        relay_all(bench)
        add(bench, 4)
        lanes = {post(client, f"b{number}", top_up(1, 5)).json()["receipt"]["partition"] for number in range(40)}
    assert lanes == {0, 1, 2, 3}


def test_what_was_let_through_long_ago_is_not_published_any_more(
    api: ApiBench, bench: PostingBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So no intent is published later than SETTLE_SECONDS after the intake was closed."""
    with api.client() as client:
        with monkeypatch.context() as late:
            late.setattr("api.intake.LOOK_SECONDS_MAX", -1.0)
            assert problem(post(client, "late", top_up(1, 5))) == "overloaded"
        assert bench.fetch() == []
        assert post(client, "late", top_up(1, 5)).status_code == 202
    assert bench.post() == ["posted"]
