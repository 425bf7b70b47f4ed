"""Where Kafka is and how to get in: made once, from the settings, and handed to whatever speaks to a broker."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@dataclass(frozen=True)
class Kafka:
    """The brokers and the credentials for them; as text it is the brokers alone."""

    bootstrap: str
    """Comma-separated host:port."""
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: SaslMechanism = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    ssl_ca_file: Path | None = None
    """PEM file of the authorities that may vouch for a broker; None: those of the system."""
    ssl_certificate_file: Path | None = None
    """PEM file of the client's own certificate and what leads up to it, with the next one: mutual TLS."""
    ssl_key_file: Path | None = None

    def __str__(self) -> str:
        return self.bootstrap

    @property
    def has_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.security_protocol.endswith("SSL")

    @property
    def has_sasl(self) -> bool:
        """Whether the client says who it is by name and password."""
        return self.security_protocol.startswith("SASL")

    def client_options(self) -> dict[str, Any]:
        """What every client of librdkafka is made with, by librdkafka's names."""
        options: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap,
            # Its own lines go past our logs, twenty a second for each broker that is away; what fails is told to who
            # asked. As our log lines they would be kept for whoever polls last, without bound.
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

    def ssl_context(self) -> ssl.SSLContext | None:
        """The same for clients that speak TLS through Python; None where the connection is not encrypted.

        OSError where a file cannot be read or holds no certificate or key (ssl.SSLError is one).
        """
        if not self.has_tls:
            return None
        context = ssl.create_default_context(cafile=self.ssl_ca_file)
        if self.ssl_certificate_file is not None:
            # Without a password OpenSSL would ask for that of an encrypted key on the terminal, and wait.
            context.load_cert_chain(self.ssl_certificate_file, self.ssl_key_file, password="")
        return context
