"""Contradictions in the settings, and TLS files that cannot be used; no part of the ledger is contacted."""

import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from cli.configuration.findings import Finding, Severity, make_error, make_warning
from runtime.secret_files import get_variable
from runtime.settings import Settings

EXPIRING_DAYS: Final = 14
STALL_SECONDS_MIN: Final = 30
_PROTOCOL: Final = get_variable("kafka_security_protocol")
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


def find_contradictions(settings: Settings) -> list[Finding]:
    """Return all findings about the settings and the files that they name."""
    return [
        *_check_kafka(settings),
        *_check_postgres(settings),
        *_check_registry(settings),
        *_check_http(settings),
        *_check_numbers(settings),
    ]


def _check_kafka(settings: Settings) -> Iterator[Finding]:
    protocol = settings.kafka_security_protocol
    about = get_variable("kafka_bootstrap")
    if settings.kafka_bootstrap is None and protocol != "PLAINTEXT":
        yield make_error(_PROTOCOL, f"{_PROTOCOL} is {protocol}, which the embedded Kafka does not speak: unset it.")
    for address in settings.kafka_bootstrap.split(",") if settings.kafka_bootstrap else ():
        host, _, port = address.strip().rpartition(":")
        if not host or not port.isdigit():
            yield make_error(about, f"{about} has {address.strip()!r} in it: write each broker as host:port.")
    yield from _check_kafka_login(settings)
    yield from _check_kafka_files(settings)


def _check_kafka_login(settings: Settings) -> Iterator[Finding]:
    """Check that user name and password are both set with SASL, and that neither is set without it."""
    protocol = settings.kafka_security_protocol
    login = {
        "kafka_sasl_username": settings.kafka_sasl_username,
        "kafka_sasl_password": settings.kafka_sasl_password,
    }
    logs_in = protocol.startswith("SASL")
    for name, value in login.items():
        if logs_in and value is None:
            yield make_error(
                get_variable(name), f"{_PROTOCOL} is {protocol}, which logs in: set {get_variable(name)} as well."
            )
        if not logs_in and value is not None:
            yield make_error(
                get_variable(name), f"{get_variable(name)} is set, but {_PROTOCOL} is {protocol}: set it to SASL_SSL."
            )
    if protocol == "SASL_PLAINTEXT":
        yield make_warning(
            _PROTOCOL, f"{_PROTOCOL} is SASL_PLAINTEXT: whoever listens on the way reads all; use SASL_SSL."
        )


def _check_kafka_files(settings: Settings) -> Iterator[Finding]:
    """Check that TLS files are set only with TLS, certificate and key only together, and that each file is usable."""
    protocol = settings.kafka_security_protocol
    certificate, key = settings.kafka_ssl_certificate_file, settings.kafka_ssl_key_file
    files = {
        "kafka_ssl_ca_file": settings.kafka_ssl_ca_file,
        "kafka_ssl_certificate_file": certificate,
        "kafka_ssl_key_file": key,
    }
    given = [name for name, path in files.items() if path is not None]
    if not protocol.endswith("SSL"):
        hint = "SASL_SSL" if protocol.startswith("SASL") else "SSL or SASL_SSL"
        for name in given:
            yield make_error(
                get_variable(name), f"{get_variable(name)} is set, but {_PROTOCOL} is {protocol}: set it to {hint}."
            )
    if (certificate is None) != (key is None):
        there, lacking = ("certificate", "key") if key is None else ("key", "certificate")
        needed = get_variable(f"kafka_ssl_{lacking}_file")
        yield make_error(needed, f"{get_variable(f'kafka_ssl_{there}_file')} is of no use alone: set {needed} as well.")
    troubles = [
        found
        for name, path in files.items()
        if path is not None and name != "kafka_ssl_key_file"
        for found in find_certificate_faults(get_variable(name), path)
    ]
    yield from troubles
    if certificate is not None and key is not None and not troubles:
        yield from _check_own_certificate(settings)


def _check_own_certificate(settings: Settings) -> Iterator[Finding]:
    """Check that key and certificate belong together, by loading them as the client does."""
    name = get_variable("kafka_ssl_key_file")
    try:
        replace(settings.make_kafka(""), security_protocol="SSL").make_ssl_context()
    except OSError as trouble:
        cause = trouble.strerror or str(trouble)
        yield make_error(
            name,
            f"{name} names {settings.kafka_ssl_key_file}, which is not the unencrypted key of the certificate"
            f" ({cause}): give both as PEM files that belong together.",
        )


def find_certificate_faults(about: str, path: Path, now: datetime | None = None) -> Iterator[Finding]:
    """Yield what is wrong with the certificates of a PEM file: unreadable, none, not valid yet, expired or expiring."""
    now = now or datetime.now(UTC)
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as trouble:
        yield make_error(about, f"{about} names {path}, which cannot be read: {trouble.strerror}.")
        return
    except ValueError:
        yield make_error(about, f"{about} names {path}, which holds no certificate: give one as PEM.")
        return
    ends = min(certificate.not_valid_after_utc for certificate in certificates)
    begins = max(certificate.not_valid_before_utc for certificate in certificates)
    if ends < now:
        yield make_error(about, f"{about} names {path}, which expired on {ends:%Y-%m-%d}: renew it.")
    elif begins > now:
        yield make_error(about, f"{about} names {path}, which is not valid before {begins:%Y-%m-%d %H:%M} UTC.")
    elif ends < now + timedelta(days=EXPIRING_DAYS):
        yield make_warning(about, f"{about} names {path}, which expires on {ends:%Y-%m-%d}: renew it.")


def _check_postgres(settings: Settings) -> Iterator[Finding]:
    about = get_variable("postgres_dsn")
    if settings.postgres_dsn is None:
        if settings.postgres_password is not None:
            password = get_variable("postgres_password")
            yield make_error(
                password, f"{password} is set without {about}: the embedded Postgres has its own, unset it."
            )
        return
    try:
        parts = conninfo_to_dict(settings.postgres_dsn.get_secret_value())
    except ProgrammingError:
        # Do not show psycopg's message: it quotes the DSN with the password.
        yield make_error(about, f"{about} is no DSN of libpq's: write it as postgresql://user@host:port/database.")
        return
    for name in ("sslrootcert", "sslcert"):
        path = parts.get(name)
        if path and path != "system":
            yield from find_certificate_faults(f"{about} ({name})", Path(str(path)))
    host = str(parts.get("host") or "")
    is_near = not host or host.startswith("/") or host in _LOOPBACK
    if not is_near and parts.get("sslmode") not in ("verify-full", "verify-ca"):
        yield make_warning(
            about,
            f"{about} has sslmode={parts.get('sslmode') or 'prefer'}, which does not make sure that {host} is who"
            " answers: add sslmode=verify-full and sslrootcert.",
        )


def _check_registry(settings: Settings) -> Iterator[Finding]:
    about = get_variable("registry_url")
    username, password = get_variable("registry_username"), get_variable("registry_password")
    if (settings.registry_username is None) != (settings.registry_password is None):
        given, missing = (username, password) if settings.registry_password is None else (password, username)
        yield make_error(missing, f"{given} is of no use alone: set {missing} as well.")
    if settings.registry_url is None:
        return
    address = urlsplit(settings.registry_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        yield make_error(about, f"{about} is no address: write it as https://host:port.")
    elif address.scheme == "http":
        if settings.registry_ca_file is not None:
            yield make_error(
                about, f"{get_variable('registry_ca_file')} is set, but {about} begins with http: use https."
            )
        if settings.registry_password is not None and address.hostname not in _LOOPBACK:
            yield make_warning(
                about, f"{about} begins with http: whoever listens on the way reads the password; use https."
            )
    if settings.registry_ca_file is not None:
        yield from find_certificate_faults(get_variable("registry_ca_file"), settings.registry_ca_file)


def _check_http(settings: Settings) -> Iterator[Finding]:
    """Check the certificate and the key with which the API and the metrics are served."""
    certificate, key = settings.tls_certificate_file, settings.tls_key_file
    certificate_name, key_name = get_variable("tls_certificate_file"), get_variable("tls_key_file")
    if (certificate is None) != (key is None):
        given, missing = (certificate_name, key_name) if key is None else (key_name, certificate_name)
        yield make_error(missing, f"{given} is of no use alone: set {missing} as well.")
    if certificate is not None:
        troubles = list(find_certificate_faults(certificate_name, certificate))
        yield from troubles
        if key is not None and not any(found.severity is Severity.ERROR for found in troubles):
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
            except OSError as trouble:
                cause = trouble.strerror or str(trouble)
                yield make_error(
                    key_name,
                    f"{key_name} names {key}, which is not the unencrypted key of the certificate ({cause}): give both"
                    " as PEM files that belong together.",
                )


def _check_numbers(settings: Settings) -> Iterator[Finding]:
    if settings.min_insync_replicas > settings.replication_factor:
        about = get_variable("min_insync_replicas")
        yield make_error(
            about,
            f"{about} is {settings.min_insync_replicas} and {get_variable('replication_factor')}"
            f" {settings.replication_factor}: nothing could be written; make it fewer.",
        )
    elif settings.replication_factor > 1 and settings.min_insync_replicas == settings.replication_factor:
        about = get_variable("min_insync_replicas")
        yield make_warning(about, f"{about} is as many as there are copies: a broker that is away stops the ledger.")
    if settings.relay_instance >= settings.relay_instances:
        about = get_variable("relay_instance")
        yield make_error(
            about,
            f"{about} is {settings.relay_instance} of {settings.relay_instances} ({get_variable('relay_instances')}):"
            f" instances are numbered from 0 to {settings.relay_instances - 1}.",
        )
    if settings.relay_instances > settings.lanes:
        about = get_variable("relay_instances")
        yield make_warning(about, f"{about} is more than {get_variable('lanes')}: some relays have nothing to do.")
    if settings.posting_stall_seconds_max <= STALL_SECONDS_MIN:
        about = get_variable("posting_stall_seconds_max")
        yield make_warning(
            about,
            f"{about} is {settings.posting_stall_seconds_max:g}, and Postgres' answer is waited for"
            f" {STALL_SECONDS_MIN} seconds: make it more, or a slow answer ends the worker.",
        )
