"""Apache Kafka, Postgres and a Schema Registry as plain child processes: the default without Docker.

They are the real servers, on loopback only, and they end with the process that owns them::

    with EmbeddedStack(Path(".ledgerline")) as endpoints:
        ...  # endpoints.kafka_bootstrap, endpoints.postgres_dsn, endpoints.registry_url

| module | what it does |
|---|---|
| `errors` | the one exception, whose message is one sentence that says what to do |
| `process` | child processes that cannot outlive their owner |
| `ports` | free ports, picked once and remembered beside the data |
| `java`, `cache` | the Java runtime; the jars, built once with Maven |
| `part` | what the three parts share: start, wait until ready, stop, kill |
| `kafka_part`, `postgres_part`, `registry_part` | one server each |
| `stack` | the three together, owned by one process at a time |
"""

from ops.embedded.errors import EmbeddedError
from ops.embedded.stack import EmbeddedStack, Endpoints

__all__ = ["EmbeddedError", "EmbeddedStack", "Endpoints"]
