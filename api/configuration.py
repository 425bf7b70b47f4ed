"""The addresses of an API process' parts, and its limits."""

from dataclasses import dataclass

from api.addresses import NO_PROXIES, TrustedProxies
from domain.topics import Topics
from runtime.faults import Fault, cause_no_fault
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from runtime.shares import SHARE_BOUNDS, ShareBounds


@dataclass(frozen=True)
class Configuration:
    """What an API process is told at its start."""

    kafka: Kafka
    postgres_dsn: str
    registry: SchemaRegistry
    topics: Topics
    body_bytes_max: int = 4_000_000
    intent_bytes_max: int = 1_000_000
    requests_per_minute: int = 60_000
    wait_seconds_max: float = 30.0
    body_seconds_max: float = 30.0
    shares: ShareBounds = SHARE_BOUNDS
    read_seconds_max: float = 3.0
    heavy_read_seconds_max: float = 10.0
    delivery_timeout_seconds: float = 10.0
    queue_intents_max: int = 50_000
    trusted_proxies: TrustedProxies = NO_PROXIES
    documents: bool = True
    """Whether /docs and /openapi.json are served."""
    private_addresses: bool = False
    """Whether a webhook may have a private address or begin with http://."""
    fault: Fault = cause_no_fault
