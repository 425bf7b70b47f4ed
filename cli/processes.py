"""The services of Ledgerline, in the order of their start; they are stopped in the opposite one.

The API comes last: what it takes in is posted at once, and on the way down nothing new comes in first.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from ops.embedded import EmbeddedError, Endpoints
from ops.embedded.ports import LOOPBACK

INSTANCES_MAX = 16


@dataclass(frozen=True)
class Service:
    """One kind of process: how it is run, how many of it, and where it says that it is ready."""

    name: str
    argv: tuple[str, ...]
    port_variable: str
    """The environment variable that tells it the port on which it serves /readyz and /metrics."""
    instances: int = 1
    shard_variables: tuple[str, str] | None = None
    """Where the instances share the work by number: the variables for an instance's number and for how many."""

    def port_name(self, instance: int) -> str:
        """Return the name under which an instance's port is remembered: api, posting_metrics, posting_metrics_1."""
        kind = self.name if self.port_variable == API_PORT else f"{self.name}_metrics"
        return kind if instance == 0 else f"{kind}_{instance}"

    def environment(self, *, instance: int, instances: int, port: int) -> dict[str, str]:
        """Return the variables that one instance needs beside those that all services share."""
        variables = {self.port_variable: str(port)}
        if self.shard_variables is not None:
            number, count = self.shard_variables
            variables |= {number: str(instance), count: str(instances)}
        return variables


API_PORT = "LEDGERLINE_API_PORT"
METRICS_PORT = "LEDGERLINE_METRICS_PORT"


def _entry_point(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "cli", "service", name)


SERVICES: tuple[Service, ...] = (
    Service("posting", _entry_point("posting"), METRICS_PORT),
    Service(
        "relay",
        _entry_point("relay"),
        METRICS_PORT,
        shard_variables=("LEDGERLINE_RELAY_SHARD", "LEDGERLINE_RELAY_SHARDS"),
    ),
    Service("reconciliation", _entry_point("reconciliation"), METRICS_PORT),
    Service("audit", _entry_point("audit"), METRICS_PORT),
    Service("api", _entry_point("api"), API_PORT),
)

PREPARE: tuple[str, ...] = (sys.executable, "-m", "cli", "prepare")
"""Runs once, after the parts and before the services: migrations, topics, schemas."""


def base_url(port: int) -> str:
    """Return where an instance serves /readyz and /metrics."""
    return f"http://{LOOPBACK}:{port}"


def endpoint_variables(endpoints: Endpoints) -> dict[str, str]:
    """Return the variables that tell every service where the parts are."""
    return {
        "LEDGERLINE_KAFKA_BOOTSTRAP": endpoints.kafka_bootstrap,
        "LEDGERLINE_POSTGRES_DSN": endpoints.postgres_dsn,
        "LEDGERLINE_REGISTRY_URL": endpoints.registry_url,
    }


def instances_by_service(wanted: Mapping[str, int]) -> dict[str, int]:
    """Return how many of each service run; raises EmbeddedError for an unknown name or a silly number."""
    counts = {service.name: service.instances for service in SERVICES}
    for name, count in wanted.items():
        if name not in counts:
            raise EmbeddedError(f"There is no service {name!r}: choose from {', '.join(counts)}.")
        if not 0 <= count <= INSTANCES_MAX or (name == "api" and count > 1):
            raise EmbeddedError(f"{count} instances of {name} cannot run here: choose 0 to {INSTANCES_MAX}, one api.")
        counts[name] = count
    return counts
