"""The services of Ledgerline, in the order of their start; they stop in the opposite order.

The API starts last, so that an intent that it accepts is posted at once. The API stops first, so that no new intent
arrives while the other services stop.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from ops.embedded import EmbeddedError, Endpoints
from ops.embedded.ports import LOOPBACK

INSTANCES_MAX = 16


@dataclass(frozen=True)
class Service:
    """One kind of process: its command, the number of its instances, and the variable for the port of /readyz."""

    name: str
    argv: tuple[str, ...]
    port_variable: str
    """The environment variable with the port at which the process serves /readyz and /metrics."""
    instances: int = 1
    number_variables: tuple[str, str] | None = None
    """The variables for an instance's number and for the number of instances, if these share the work by number."""

    def make_port_name(self, instance: int) -> str:
        """Return the name under which an instance's port is remembered: api, posting_metrics, posting_metrics_1."""
        kind = self.name if self.port_variable == API_PORT else f"{self.name}_metrics"
        return kind if instance == 0 else f"{kind}_{instance}"

    def environment(self, *, instance: int, instances: int, port: int) -> dict[str, str]:
        """Return the variables that one instance needs in addition to those that all services share."""
        variables = {self.port_variable: str(port)}
        if self.number_variables is not None:
            number, count = self.number_variables
            variables |= {number: str(instance), count: str(instances)}
        return variables


API_PORT = "LEDGERLINE_API_PORT"
METRICS_PORT = "LEDGERLINE_METRICS_PORT"


def _make_entry_point(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "cli", "service", name)


SERVICES: tuple[Service, ...] = (
    Service("posting", _make_entry_point("posting"), METRICS_PORT),
    Service(
        "relay",
        _make_entry_point("relay"),
        METRICS_PORT,
        number_variables=("LEDGERLINE_RELAY_INSTANCE", "LEDGERLINE_RELAY_INSTANCES"),
    ),
    Service("worker", _make_entry_point("worker"), METRICS_PORT),
    Service("reconciliation", _make_entry_point("reconciliation"), METRICS_PORT),
    Service("audit", _make_entry_point("audit"), METRICS_PORT),
    Service("api", _make_entry_point("api"), API_PORT),
)

PREPARE: tuple[str, ...] = (sys.executable, "-m", "cli", "prepare")
"""Runs once, after the parts and before the services: migrations, topics, schemas."""


def make_base_url(port: int) -> str:
    """Return the URL at which an instance serves /readyz and /metrics."""
    return f"http://{LOOPBACK}:{port}"


def make_endpoint_variables(endpoints: Endpoints) -> dict[str, str]:
    """Return the variables with the addresses of the parts, for every service."""
    return {
        "LEDGERLINE_KAFKA_BOOTSTRAP": endpoints.kafka_bootstrap,
        "LEDGERLINE_POSTGRES_DSN": endpoints.postgres_dsn,
        "LEDGERLINE_REGISTRY_URL": endpoints.registry_url,
    }


def count_instances(wanted: Mapping[str, int]) -> dict[str, int]:
    """Return the number of instances by service; raise EmbeddedError for an unknown name or a number out of range."""
    counts = {service.name: service.instances for service in SERVICES}
    for name, count in wanted.items():
        if name not in counts:
            raise EmbeddedError(f"There is no service {name!r}: choose from {', '.join(counts)}.")
        if not 0 <= count <= INSTANCES_MAX or (name == "api" and count > 1):
            raise EmbeddedError(f"{count} instances of {name} cannot run here: choose 0 to {INSTANCES_MAX}, one api.")
        counts[name] = count
    return counts
