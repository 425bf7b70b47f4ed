"""What a scenario is."""

from collections.abc import Callable
from typing import NamedTuple

from tools.chaos.trial import Trial


def _nothing(trial: Trial) -> None:
    """Nothing is done."""


class Scenario(NamedTuple):
    """One fault, and the promise that must hold in spite of it."""

    name: str
    promise: str
    """One sentence; docs/guarantees.md repeats it."""
    fault: Callable[[Trial], None]
    """Under load. It returns when the fault is over, so that recovery is measured from there."""
    afterwards: Callable[[Trial], None] = _nothing
    """When the load is done and all is quiet, before the oracle judges."""
    own_ledger: bool = False
    """It needs a ledger of its own, as it leaves it unfit for the next, or changes what that would count on."""
    recovers: bool = True
    """False where the ledger is meant to stand still afterwards; then the scenario itself says what holds."""
