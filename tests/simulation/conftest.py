"""The simulation's tests log nothing, because each of thousands of faults would write some lines."""

from collections.abc import Iterator

import pytest

from tests.simulation.world import quiet


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """Write no log lines during a test."""
    with quiet():
        yield
