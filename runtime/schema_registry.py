"""The address and the credentials of the Schema Registry; the settings make one object."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class SchemaRegistry:
    """A Confluent-compatible registry and the credentials for it. Its text is the URL only."""

    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    """PEM file of the certificate authorities that are trusted for it; None: those of the system."""

    def __str__(self) -> str:
        return self.url

    def make_ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS context for Python's ssl; None if there is no ca_file. Raise OSError if the file is bad."""
        return ssl.create_default_context(cafile=self.ca_file) if self.ca_file is not None else None
