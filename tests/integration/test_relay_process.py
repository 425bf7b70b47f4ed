"""The relay as a real process: killed, cut off from Postgres, and locked out by a second one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from domain.topics import Topics
from runtime.settings import Settings
from tests.posting_bench import PostingBench, eventually
from tests.relay_bench import RelayBench, deposits
from tests.service_process import ServiceProcess


@pytest.fixture
def ledger(bench: PostingBench, settings: Settings, topics: Topics) -> Iterator[RelayBench]:
    made = RelayBench(bench, topics)
    yield made
    made.close()


def test_killed_in_mid_transaction_and_started_again_each_record_comes_once(
    ledger: RelayBench, settings: Settings, tmp_path: Path
) -> None:
    total = 6000
    ledger.bench.post_now(deposits(total))
    small = settings.model_copy(update={"relay_batch_records_max": 20})
    for share in (0.1, 0.4):
        with ServiceProcess("relay", small, tmp_path) as process:
            eventually(lambda share=share: ledger.written() >= total * share, "it is under way")
            process.kill()
        assert ledger.relayed() < total, "it was to be killed in the middle"
    with ServiceProcess("relay", small, tmp_path) as process:
        eventually(lambda: ledger.relayed() >= total, "all is relayed", 60)
        assert process.stop(10) == 0
    ledger.check()


def test_postgres_that_goes_away_costs_nothing(ledger: RelayBench, settings: Settings, tmp_path: Path) -> None:
    small = settings.model_copy(update={"relay_batch_records_max": 50})
    ledger.bench.post_now(deposits(1000))
    with ServiceProcess("relay", small, tmp_path) as process:
        for share in (100, 400, 1000):
            eventually(lambda share=share: ledger.relayed() >= share, "it is under way")
            ledger.bench.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE starts_with(application_name, 'ledgerline_relay') AND datname = current_database()"
            )
        ledger.bench.post_now(deposits(5, 1000))
        eventually(lambda: ledger.relayed() >= 1005, "it goes on")
        eventually(lambda: process.events("relay begins anew"), "it tells")
        assert process.stop(10) == 0
    ledger.check()


def test_a_second_process_takes_over_and_the_first_ends_with_one_sentence(
    ledger: RelayBench, settings: Settings, tmp_path: Path
) -> None:
    with ServiceProcess("relay", settings, tmp_path) as first:
        first.wait_until_ready()
        with ServiceProcess("relay", settings, tmp_path) as second:
            second.wait_until_ready()
            ledger.bench.post_now(deposits(50))
            assert first.ended() == 1
            assert "Another relay took over" in first.log().strip().splitlines()[-1]
            eventually(lambda: ledger.relayed() >= 50, "the second has it")
            assert second.stop(10) == 0
    ledger.check()
