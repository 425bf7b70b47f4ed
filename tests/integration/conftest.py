"""Fixtures of the integration tests."""

from collections.abc import Iterator

import pytest

from domain.topics import Topics
from runtime.settings import Settings
from tests.api_bench import ApiBench, running_api
from tests.posting_bench import PostingBench
from tests.proving_bench import ProvingBench


@pytest.fixture
def bench(settings: Settings, topics: Topics) -> Iterator[PostingBench]:
    """Yield a ledger to post to."""
    made = PostingBench(settings, topics)
    yield made
    made.close()


@pytest.fixture
def proving(settings: Settings, topics: Topics) -> Iterator[ProvingBench]:
    """Yield a ledger with the parts that prove it."""
    made = ProvingBench(settings, topics)
    yield made
    made.close()


@pytest.fixture
def api(settings: Settings) -> Iterator[ApiBench]:
    """Yield a running, ready API over the test's own database and topics."""
    with running_api(settings) as made:
        yield made
