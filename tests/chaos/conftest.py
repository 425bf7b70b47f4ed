"""Ledgers for the oracle's tests: an empty one, a filled one, and cheap copies of one that is filled once a module."""

from collections.abc import Iterator

import pytest
from psycopg.conninfo import conninfo_to_dict

from domain.topics import Topics
from ops.embedded.stack import Endpoints
from runtime.settings import Settings
from tests.chaos.oracle_bench import OracleBench
from tests.conftest import fresh_database, fresh_topics, settings_for


@pytest.fixture
def ledger(settings: Settings, topics: Topics) -> Iterator[OracleBench]:
    """An empty ledger."""
    made = OracleBench(settings, topics)
    yield made
    made.close()


@pytest.fixture
def filled(ledger: OracleBench) -> OracleBench:
    """A ledger that is filled, posted and relayed."""
    ledger.fill()
    ledger.relay_all()
    return ledger


@pytest.fixture(scope="module")
def _original(stack: Endpoints, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OracleBench]:
    with fresh_database(stack, template) as database, fresh_topics(stack) as topics:
        made = OracleBench(settings_for(stack, database, topics, tmp_path_factory.mktemp("original")), topics)
        made.fill()
        made.relay_all()
        # Postgres copies only a database to which nobody is connected.
        made.close()
        yield made


@pytest.fixture
def honest(stack: Endpoints, _original: OracleBench) -> Iterator[OracleBench]:
    """A ledger like `filled` in a database of the test's own. Its topics are the module's: a test must not send."""
    with fresh_database(stack, str(conninfo_to_dict(_original.dsn)["dbname"])) as database:
        yield _original.make_copy(database)
