"""The scrape targets of a ledger that `ledgerline up` started: its services, and Kafka if it serves metrics."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from ops.embedded.ports import LOOPBACK
from ops.observing.configuration import Target, Targets
from ops.run_state import RunState

KAFKA: Final = "kafka"


def targets_of(state: RunState) -> Targets:
    """Return the targets of the jobs `ledgerline` and `kafka`; three instances of a service are three targets."""
    services = [Target(urlsplit(service.url).netloc, {"service": service.name}) for service in state.services]
    brokers: Sequence[Target] = [
        Target(f"{LOOPBACK}:{part.metrics_port}")
        for part in state.parts
        if part.name == KAFKA and part.metrics_port is not None
    ]
    return {"ledgerline": services, "kafka": brokers}
