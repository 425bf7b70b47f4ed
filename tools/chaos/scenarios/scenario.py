"""The type of a scenario."""

from collections.abc import Callable
from typing import NamedTuple

from tools.chaos.trial import Trial


def _nothing(trial: Trial) -> None:
    """Do nothing."""


class Scenario(NamedTuple):
    """One fault, and the promise that must hold despite it."""

    name: str
    promise: str
    """One sentence; docs/guarantees.md repeats it."""
    fault: Callable[[Trial], None]
    """Called under load. It returns when the fault is over: recovery is measured from then."""
    afterwards: Callable[[Trial], None] = _nothing
    """Called when the load has ended and every step has caught up, before the oracle judges."""
    own_ledger: bool = False
    """True if the scenario needs its own ledger, because the next scenario could not use the ledger afterwards."""
    recovers: bool = True
    """False if the ledger must stand still afterwards. Then the scenario itself checks what must hold."""
