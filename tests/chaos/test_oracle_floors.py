"""Workers that draw down the same accounts at the same time cause no false alarm, whichever clock orders their rows."""

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from db.books import add_tenant
from db.connections import connect
from db.migrate import migrate
from domain.topics import Topics
from ops.embedded.stack import EmbeddedStack, Endpoints
from runtime.settings import REPOSITORY_ROOT
from tests.chaos.oracle_bench import DELETED, ROW, OracleBench
from tests.conftest import fresh_database, settings_for


def test_draw_downs_from_two_lanes_at_once_are_no_false_alarm(ledger: OracleBench) -> None:
    race(ledger)


@pytest.fixture(scope="module")
def tracking_stack(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    """The session's servers, but for a Postgres that keeps the time of each commit, as in a chaos run."""
    cache = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
    parts = EmbeddedStack(
        tmp_path_factory.mktemp("tracking"),
        cache=cache,
        kafka=stack.kafka_bootstrap,
        registry=stack.registry_url,
        postgres_settings={"track_commit_timestamp": "on"},
    )
    with parts as endpoints:
        yield endpoints


@pytest.fixture
def tracking(tracking_stack: Endpoints, topics: Topics, tmp_path: Path) -> Iterator[OracleBench]:
    """A ledger whose Postgres keeps the time of each commit."""
    with fresh_database(tracking_stack, "template1") as dsn:
        migrate(dsn)
        with connect(dsn, "ledgerline_operator") as connection:
            add_tenant(connection, "default")
        made = OracleBench(settings_for(tracking_stack, dsn, topics, tmp_path), topics)
        yield made
        made.close()


def test_where_commits_are_tracked_their_order_counts(tracking: OracleBench) -> None:
    """The oracle orders rows by commit time.

    A clock that jumps would falsify booked_time: in lane 1 it is always 1970.
    """
    race(tracking, now_microseconds=lambda: 5)
    moments = tracking.rows("SELECT booked_time, pg_xact_commit_timestamp(xmin) AS moment FROM ledger.journal")
    assert any(row["booked_time"] == 5 for row in moments)
    assert all(row["moment"] is not None for row in moments)


MOMENT = """SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint AS moment
    FROM ledger.journal WHERE lane = %s AND seq = %s"""


@pytest.mark.parametrize(
    ("key", "statement"), [("raise", ROW.format("reference = 'altered'")), ("spend", DELETED)], ids=["altered", "gone"]
)
def test_a_row_that_was_planted_keeps_its_place_among_the_commits(
    tracking: OracleBench, key: str, statement: str
) -> None:
    """An updated row has a new commit time, and a deleted row has none.

    The planted commit time keeps the raise before the spend that it paid for.
    """
    poster = tracking.new_poster(now_microseconds=lambda: 5)
    for name, source, target in (
        ("raise", "external:bank", "users:1:wallet"),
        ("spend", "users:1:wallet", "merchants:m"),
    ):
        tracking.ask(tracking.transfer(name, source, target, 30))
        assert tracking.post(poster=poster) == ["posted"]
    tracking.relay_all()
    place = tracking.seq_of(key)
    (row,) = tracking.rows(MOMENT, *place)
    tracking.tamper(statement, *place)
    planted = tracking.add_break("audit", "stored", "lane {} seq {}".format(*place), *place)
    assert {check for check, _ in tracking.found(planted)} == {"floors"}
    assert tracking.found(planted._replace(moment=row["moment"])) == set()


def race(ledger: OracleBench, **clock: Any) -> None:
    """Draw the same few accounts down and raise them in two workers, each with its own lane; then judge."""
    chance = random.Random(4)
    wallets = [f"users:{number}:wallet" for number in range(3)]
    for number, wallet in enumerate(wallets):
        ledger.ask(ledger.transfer(f"seed-{number}", "external:bank", wallet, 30))
    ledger.post()
    for number in range(120):
        source, target = chance.sample(wallets, 2)
        ledger.ask(ledger.transfer(f"t-{number}", source, target, chance.randint(5, 40)), number % 2)
    failures: list[BaseException] = []

    def work(lane: int) -> None:
        poster = ledger.new_poster(**(clock if lane else {}))
        try:
            for batch in ledger.batches(lane):
                poster.handle([batch])
        except BaseException as error:  # noqa: BLE001 - the test's main thread reports it
            failures.append(error)

    workers = [threading.Thread(target=work, args=(lane,)) for lane in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    ledger.relay_all()
    verdict = ledger.judge()
    assert verdict.faults == ()
    assert verdict.counts["rejected"] > 5
    assert verdict.counts["posted"] > 20
