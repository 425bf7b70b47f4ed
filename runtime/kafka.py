"""The address and the credentials of Kafka. The settings make one object, and every client takes it."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@dataclass(frozen=True)
class Kafka:
    """The brokers and the credentials for them. Its text is the brokers only."""

    bootstrap: str
    """Comma-separated host:port."""
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: SaslMechanism = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    ssl_ca_file: Path | None = None
    """PEM file of the certificate authorities that are trusted for brokers; None: those of the system."""
    ssl_certificate_file: Path | None = None
    """PEM file of the client's certificate and its intermediate certificates; with ssl_key_file, for mutual TLS."""
    ssl_key_file: Path | None = None

    def __str__(self) -> str:
        return self.bootstrap

    @property
    def has_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.security_protocol.endswith("SSL")

    @property
    def has_sasl(self) -> bool:
        """Whether the client authenticates with name and password."""
        return self.security_protocol.startswith("SASL")

    def make_client_options(self) -> dict[str, Any]:
        """Return the options that every librdkafka client gets, by librdkafka's names."""
        options: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap,
            # librdkafka's own log lines bypass our logs, 20 a second for each broker that is away; the caller gets each
            # failure as an error anyway. In our logs, the lines would queue without bound until the client polls.
            "log_level": 2,
        }
        if self.security_protocol != "PLAINTEXT":
            options["security.protocol"] = self.security_protocol
        if self.has_sasl:
            options["sasl.mechanism"] = self.sasl_mechanism
            options["sasl.username"] = self.sasl_username
            options["sasl.password"] = self.sasl_password
        if self.has_tls:
            files = {
                "ssl.ca.location": self.ssl_ca_file,
                "ssl.certificate.location": self.ssl_certificate_file,
                "ssl.key.location": self.ssl_key_file,
            }
            options |= {name: str(file) for name, file in files.items() if file is not None}
        return options

    def make_ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS context for clients that use Python's ssl; None if the connection is not encrypted.

        Raise OSError if a file cannot be read or holds no certificate or key (ssl.SSLError is an OSError).
        """
        if not self.has_tls:
            return None
        context = ssl.create_default_context(cafile=self.ssl_ca_file)
        if self.ssl_certificate_file is not None:
            # Without `password`, OpenSSL would ask on the terminal for the password of an encrypted key, and wait.
            context.load_cert_chain(self.ssl_certificate_file, self.ssl_key_file, password="")
        return context
