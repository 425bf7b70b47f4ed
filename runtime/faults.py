"""Fault points: named places where chaos runs and tests make a process die, stop or fail.

In production each point is one call of `no_fault` per batch or per round, which costs too little to measure.
"""

from collections.abc import Callable
from typing import Final

Fault = Callable[[str], None]
"""Called with the point's name. It makes the fault: it raises an error, stops or kills the process, or waits."""

FAULT_POINTS: Final = {
    "posting": {
        "decoded": "the batch is read, nothing is asked of Postgres yet",
        "decided": "the lanes are locked and every fate is decided",
        "written": "rows, entries and balances are written, the lanes not yet advanced",
        "before_commit": "everything is written, COMMIT comes next",
        "committed": "Postgres has committed, the worker has not taken note",
    },
    "relay": {
        "read": "the records of a round are read, the Kafka transaction is not begun",
        "produced": "records and positions are handed to the producer, the transaction is open",
        "committed": "Kafka has committed, the relay has not taken note",
    },
    "api": {
        "acknowledged": "all replicas have the intents, the client has no answer yet",
    },
}
"""Service -> point -> what is true at that point."""


def cause_no_fault(point: str) -> None:
    """Do nothing."""
