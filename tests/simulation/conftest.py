"""The simulation's tests log nothing: thousands of faults would each be worth some lines."""

from collections.abc import Iterator

import pytest

from tests.simulation.world import quiet


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """No log lines during a test."""
    with quiet():
        yield
