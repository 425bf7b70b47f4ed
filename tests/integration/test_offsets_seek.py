"""`offsets seek`: Kafka gets Postgres' offsets, a running reconciliation reads again, other requests are refused."""

import getpass
import threading
from pathlib import Path
from typing import Any

import pytest

from domain.topics import Topics
from runtime.settings import Settings
from tests.command_line import environment, run, run_json
from tests.posting_bench import eventually
from tests.proving_bench import ProvingBench
from tests.service_process import ServiceProcess

BOOKS = {
    "lanes": "SELECT * FROM reconciliation.lane ORDER BY lane",
    "balances": "SELECT * FROM reconciliation.balance ORDER BY tenant, address, currency, lane",
    "totals": "SELECT * FROM reconciliation.total ORDER BY lane, tenant, currency, account_class",
    "gaps": "SELECT * FROM reconciliation.gap ORDER BY lane, seq",
}


@pytest.fixture
def ledger(settings: Settings, topics: Topics) -> Any:
    """Yield a ledger: both lanes have posted, rejected and quarantined rows, all relayed."""
    bench = ProvingBench(settings, topics)
    fill(bench, "a")
    yield bench
    bench.close()


def fill(bench: ProvingBench, name: str) -> None:
    for lane in (0, 1):
        wallet = f"users:{lane}:wallet"
        bench.send(bench.transfer(f"{name}-{lane}-in", "external:bank", wallet, 700), lane)
        bench.send(bench.transfer(f"{name}-{lane}-out", wallet, "platform:fees", 300), lane)
        bench.send(bench.transfer(f"{name}-{lane}-much", wallet, "platform:fees", 10**9), lane)
        bench.send_bytes(b"rubbish", lane)
    bench.post_and_relay()


def books(bench: ProvingBench) -> dict[str, Any]:
    """Return everything that reconciliation has recomputed."""
    return {name: bench.rows(query) for name, query in BOOKS.items()}


def has_caught_up(bench: ProvingBench) -> bool:
    rows = run_json(environment(bench.settings), "offsets", "show")
    return all(row["lag"] == 0 and row["next"] for row in rows if row["agent"] == "reconciliation")


def seq_past(bench: ProvingBench, seq: int) -> int:
    """Return reconciliation's next seq in lane 0 if it is past `seq`, else 0."""
    rows = bench.rows("SELECT next_seq FROM reconciliation.lane WHERE lane = 0 AND next_seq > %s", seq)
    return int(rows[0]["next_seq"]) if rows else 0


def operations(bench: ProvingBench) -> list[tuple[str, str, Any]]:
    """Return all operations except the creation of the tenant."""
    rows = bench.rows(
        "SELECT done_by, operation, detail FROM ledger.operation WHERE operation <> 'tenant_added'"
        " ORDER BY operation_id"
    )
    return [(row["done_by"], row["operation"], row["detail"]) for row in rows]


def test_reconciliation_reads_again_what_brings_no_new_records(ledger: ProvingBench, tmp_path: Path) -> None:
    variables = environment(ledger.settings)
    with ServiceProcess("reconciliation", ledger.settings, tmp_path) as agent:
        eventually(lambda: has_caught_up(ledger), "reconciliation has read all", 60)
        before = books(ledger)
        # An open break survives the seek: the same row stays open while the ledger's shard is wrong.
        ledger.tamper(
            "UPDATE ledger.balance SET debits_minor = debits_minor + 1 WHERE lane = 0 AND debits_minor = 1000"
        )
        ledger.tamper(
            "UPDATE ledger.balance SET credits_minor = credits_minor + 1 WHERE lane = 0 AND credits_minor = 700"
        )
        opened = eventually(lambda: ledger.rows("SELECT * FROM reconciliation.break"), "the sweep finds it", 60)
        assert {row["state"] for row in opened} == {"open"}

        assert run_json(variables, "offsets", "seek", "reconciliation", "--to-beginning", "--yes") == [
            {"lane": 0, "offset": 0}, {"lane": 1, "offset": 0},
        ]  # fmt: skip
        eventually(lambda: books(ledger) == before, "it has recomputed the same", 60)
        assert agent.metric("ledgerline_agent_fences_lost_total") >= 1
        assert agent.runs()
        assert ledger.rows("SELECT break_id, opened_time FROM reconciliation.break ORDER BY break_id") == [
            {"break_id": row["break_id"], "opened_time": row["opened_time"]}
            for row in sorted(opened, key=lambda row: row["break_id"])
        ]
        ledger.tamper(
            "UPDATE ledger.balance SET debits_minor = debits_minor - 1 WHERE lane = 0 AND debits_minor = 1001"
        )
        ledger.tamper(
            "UPDATE ledger.balance SET credits_minor = credits_minor - 1 WHERE lane = 0 AND credits_minor = 701"
        )
        eventually(lambda: not ledger.breaks("reconciliation"), "the break is resolved", 60)
    assert operations(ledger) == [(getpass.getuser(), "reconciliation_rewound", {"lanes": [0, 1]})]


def test_one_lane_is_read_again_under_load_without_a_break(ledger: ProvingBench, tmp_path: Path) -> None:
    variables = environment(ledger.settings)
    stop = threading.Event()
    failures: list[BaseException] = []

    def load() -> None:
        try:
            for number in range(10_000):
                if stop.is_set():
                    return
                fill(ledger, f"load-{number}")
        except BaseException as error:
            failures.append(error)
            raise

    with ServiceProcess("reconciliation", ledger.settings, tmp_path, LEDGERLINE_RECONCILIATION_SWEEP_SECONDS="0.1"):
        loading = threading.Thread(target=load)
        loading.start()
        try:
            stood = 0
            for _ in range(3):
                stood = eventually(lambda least=stood: seq_past(ledger, least), "lane 0 is read further", 60)
                seek = ("offsets", "seek", "reconciliation", "--to-beginning", "--lane", "0", "--yes")
                assert run_json(variables, *seek) == [{"lane": 0, "offset": 0}]
            eventually(lambda: seq_past(ledger, stood), "lane 0 is read past where it stood", 60)
        finally:
            stop.set()
            loading.join(60)
        assert failures == []
        eventually(lambda: has_caught_up(ledger), "reconciliation has read all", 60)
        counted = ledger.rows("SELECT lane, next_seq FROM reconciliation.lane ORDER BY lane")
        assert counted == ledger.rows("SELECT lane, next_seq FROM ledger.lane ORDER BY lane")
    assert ledger.rows("SELECT * FROM reconciliation.break") == []
    assert run_json(variables, "reconcile")["breaks"] == []


def test_kafka_is_told_of_where_postgres_stands(ledger: ProvingBench, tmp_path: Path) -> None:
    variables = environment(ledger.settings)
    told = run_json(variables, "offsets", "seek", "posting", "--to-store")
    assert told == [{"lane": 0, "offset": 4}, {"lane": 1, "offset": 4}]
    shown = [row for row in run_json(variables, "offsets", "show") if row["agent"] == "posting"]
    assert [(row["committed"], row["behind"]) for row in shown] == [(4, 0), (4, 0)]
    assert operations(ledger) == [
        (getpass.getuser(), "offsets_told", {"agent": "posting", "offsets": {"0": 4, "1": 4}}),
    ]
    with ServiceProcess("posting", ledger.settings, tmp_path) as worker:
        worker.wait_until_ready()
        refused = run(variables, "offsets", "seek", "posting", "--to-store", code=1)
        assert "runs, and commits its offsets to Kafka" in refused.stderr
    assert len(operations(ledger)) == 1


REFUSALS = [
    (("posting", "--to-beginning"), 1, "Posting's offset is a fact of the ledger"),
    (("audit", "--to-beginning"), 1, "`ledgerline audit verify`"),
    (("reconciliation", "--to-beginning", "--lane", "7", "--yes"), 1, "Reconciliation has met no lane 7"),
    (("posting", "--to-store", "--lane", "9"), 1, "Posting has met no lane 9"),
    (("posting",), 2, "say --to-store or --to-beginning"),
    (("reconciliation", "--to-store", "--to-beginning"), 2, "say --to-store or --to-beginning"),
    (("relay", "--to-store"), 2, "Invalid value for"),
]


def test_what_cannot_be_sought_is_refused_in_a_sentence(ledger: ProvingBench) -> None:
    for arguments, code, told in REFUSALS:
        refused = run(environment(ledger.settings), "offsets", "seek", *arguments, code=code)
        assert told in refused.stderr, arguments
    assert operations(ledger) == []
