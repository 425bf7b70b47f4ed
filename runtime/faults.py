"""Fault points: named places where chaos runs and tests make a process die, stop or fail.

In production each point is one call of `no_fault` per batch or per round, which costs too little to measure.
"""

from collections.abc import Callable
from typing import Final

Fault = Callable[[str], None]
"""Called with the point's name. It makes the fault: it raises an error, stops or kills the process, or waits."""

FAULT_POINTS: Final = {
    "posting": {
        "decoded": "it has read the batch and not yet asked Postgres",
        "decided": "it has locked the lanes and decided every outcome",
        "written": "it has written rows, entries and balances, and not yet advanced the lanes",
        "before_commit": "it has written everything, and COMMIT comes next",
        "committed": "Postgres has committed, and the worker does not know it yet",
    },
    "relay": {
        "read": "it has read the records of a round, and not yet begun the Kafka transaction",
        "produced": "the producer has records and positions, and the transaction is open",
        "committed": "Kafka has committed, and the relay does not know it yet",
    },
    "worker": {
        "handled": "the reactor has done a batch's work and moved its positions, and COMMIT comes next",
        "moved": "Postgres has committed a batch of the reactor, and the reactor does not know it yet",
        "acknowledged": "all replicas have intents that capabilities handed over, and they still wait in Postgres",
        "read": "the outbox's relay has read events, and not yet begun the Kafka transaction",
        "produced": "the outbox's relay has produced events and positions, and the transaction is open",
        "committed": "Kafka has committed events, and the outbox's relay does not know it yet",
    },
    "api": {
        "acknowledged": "all replicas have the intents, and the client has no answer yet",
    },
}
"""Service -> point -> what is true at that point."""


def cause_no_fault(point: str) -> None:
    """Do nothing."""
