"""Where the Schema Registry is and how to get in: made once, from the settings."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class SchemaRegistry:
    """A Confluent-compatible registry and the credentials for it; as text it is its URL alone."""

    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    """PEM file of the authorities that may vouch for it; None: those of the system."""

    def __str__(self) -> str:
        return self.url

    def ssl_context(self) -> ssl.SSLContext | None:
        """For clients that speak TLS through Python; None where no authority is named. OSError for a bad file."""
        return ssl.create_default_context(cafile=self.ca_file) if self.ca_file is not None else None
