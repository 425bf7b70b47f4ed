"""KeptConnection: after any failure, the next statement gets a working connection."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.pq import TransactionStatus

from db.bounded_connection import PostgresSilent
from db.kept_connection import KeptConnection
from tests.posting_bench import PostingBench


class Listening(KeptConnection):
    """A kept connection that is prepared by a statement, which a test may make invalid."""

    preparing = "LISTEN something"

    def _prepare(self, connection: Connection[Any]) -> None:
        connection.execute(self.preparing)


@pytest.fixture
def kept(bench: PostingBench) -> Iterator[Listening]:
    store = Listening(bench.dsn, "ledgerline_relay")
    yield store
    store.close()


def end_backends(bench: PostingBench) -> None:
    """End the relay's sessions, as the server may do."""
    bench.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE starts_with(application_name, 'ledgerline_relay')"
    )


def test_a_statement_that_meets_an_outage_leaves_no_dead_connection(kept: Listening, bench: PostingBench) -> None:
    with kept.statements() as connection:
        connection.execute("SELECT 1")
    end_backends(bench)
    with pytest.raises(psycopg.OperationalError), kept.statements() as connection:
        connection.execute("SELECT 1")
    with kept.statements() as connection:
        assert connection.execute("SELECT * FROM pg_listening_channels()").fetchall() == [("something",)]


def test_a_connection_that_could_not_be_prepared_is_not_kept(kept: Listening) -> None:
    kept.preparing = "LISTEN"
    with pytest.raises(psycopg.errors.SyntaxError), kept.statements():
        pass
    kept.preparing = Listening.preparing
    with kept.statements() as connection:
        assert connection.execute("SELECT * FROM pg_listening_channels()").fetchall() == [("something",)]


def test_an_error_of_the_data_costs_no_connection(kept: Listening) -> None:
    with kept.transaction() as before:
        pass
    with pytest.raises(psycopg.errors.DivisionByZero), kept.transaction() as connection:
        connection.execute("SELECT 1/0")
    with kept.transaction() as after:
        assert after is before


def test_a_transaction_that_was_left_open_does_not_swallow_the_next(kept: Listening, bench: PostingBench) -> None:
    """A failed rollback leaves a transaction open, and psycopg only warns of it."""
    with kept.statements() as left:
        left.execute("BEGIN")
    with kept.transaction() as connection:
        connection.execute("SELECT 1")
    assert left.closed
    with kept.statements() as connection:
        assert connection.info.transaction_status == TransactionStatus.IDLE


def test_a_statement_without_an_answer_ends_and_its_connection_with_it(kept: Listening) -> None:
    """The statement sleeps here. A server that stands still (test_bounds.py) looks the same to the client."""
    with pytest.raises(PostgresSilent), kept.transaction() as silent:  # noqa: PT012 - within the transaction
        silent.silence_seconds_max = 0.5  # type: ignore[attr-defined]
        silent.execute("SELECT pg_sleep(60)")
    assert silent.closed
    with kept.transaction() as connection:
        assert connection is not silent
        connection.execute("SELECT pg_sleep(0.6)")


def test_waiting_for_a_notification_is_not_silence(kept: Listening) -> None:
    with kept.statements() as connection:
        connection.silence_seconds_max = 0.2  # type: ignore[attr-defined]
        assert not list(connection.notifies(timeout=0.6))
        connection.execute("SELECT 1")


def test_the_rest_of_a_transaction_never_goes_to_another_connection(kept: Listening) -> None:
    """This holds even if the caller swallowed the error about the lost connection."""

    def go_on() -> None:
        with kept.transaction():
            kept.close()
            with kept.statements():
                raise AssertionError("a statement of its own")

    with pytest.raises(psycopg.InterfaceError, match="in the midst of a transaction"):
        go_on()
    with kept.transaction() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
