"""Fixtures of the integration tests."""

from collections.abc import Iterator

import pytest
from domain.settings import Settings
from domain.topics import Topics

from tests.posting_bench import PostingBench


@pytest.fixture
def bench(settings: Settings, topics: Topics) -> Iterator[PostingBench]:
    """A ledger to post to."""
    made = PostingBench(settings, topics)
    yield made
    made.close()
