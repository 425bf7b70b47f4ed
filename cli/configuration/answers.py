"""Checks whether each part answers with these credentials, and if not, what to change: one sentence, within seconds.

A part that is down, such as a broker, differs from a wrong configuration: a service waits for the part, but refuses to
start with the wrong configuration.
"""

import socket
import ssl
import threading
import time
from typing import Any, Final, NamedTuple

import httpx
import psycopg
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from psycopg.conninfo import conninfo_to_dict

from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from runtime.secret_files import get_variable

PATIENCE_SECONDS: Final = 8.0
START_SECONDS: Final = 3.0
"""The time that a check of one part may delay the start of a service, which would wait for the part anyway."""
_CONNECT_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.25
_PROTOCOL: Final = get_variable("kafka_security_protocol")
_NAME: Final = get_variable("kafka_sasl_username")


class Trouble(NamedTuple):
    """Why a part does not answer."""

    sentence: str
    is_misconfigured: bool
    """True if waiting cannot help."""


def find_kafka_trouble(kafka: Kafka, patience_seconds: float = PATIENCE_SECONDS) -> Trouble | None:
    """Return why Kafka does not answer; None if it answers."""
    reached = [address for address in kafka.bootstrap.split(",") if _is_open(address.strip())]
    if not reached:
        return Trouble(f"Nothing answers at {kafka}: start Kafka, or correct {get_variable('kafka_bootstrap')}.", False)
    told: list[KafkaError] = []
    met = threading.Event()

    def note(error: KafkaError) -> None:
        told.append(error)
        met.set()

    try:
        admin = AdminClient({**kafka.make_client_options(), "log_level": 0, "error_cb": note})
    except KafkaException as error:  # such as a file that librdkafka cannot use
        return Trouble(f"Kafka's client cannot be made ({error.args[0].str()}): see docs/SECURITY.md.", True)
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        try:
            admin.list_topics(timeout=_LOOK_SECONDS)
        except KafkaException:
            admin.poll(0)
        else:
            return None
        sentence = next((found for error in told if (found := _explain_kafka(kafka, error))), None)
        if sentence is not None:
            return Trouble(sentence, True)
        if met.is_set() and not kafka.has_tls and _is_speaking_tls(reached[0].strip()):
            wanted = "SASL_SSL" if kafka.has_sasl else "SSL or SASL_SSL"
            return Trouble(
                f"Kafka at {kafka} speaks TLS on that port, and {_PROTOCOL} is {kafka.security_protocol}: set it to"
                f" {wanted}, or name the port that is open.",
                True,
            )
    cause = told[-1].str() if told else "no answer in time"
    return Trouble(f"Kafka at {kafka} does not answer ({cause}): see its log.", False)


def _explain_kafka(kafka: Kafka, error: KafkaError) -> str | None:
    """Return what to change in the configuration after an error of librdkafka; None if the error may be temporary."""
    text = error.str()
    if error.code() == KafkaError._AUTHENTICATION:
        return (
            f"Kafka at {kafka} does not let {kafka.sasl_username} in by {kafka.sasl_mechanism}: check {_NAME},"
            f" {get_variable('kafka_sasl_password')} and {get_variable('kafka_sasl_mechanism')}."
        )
    if "certificate verify failed" in text:
        return (
            f"Kafka at {kafka} shows a certificate that {get_variable('kafka_ssl_ca_file')} does not vouch for, or that"
            " is for another name: name the authority that signed it, and the broker as the certificate does."
        )
    if "PLAINTEXT broker listener" in text:
        wanted = "SASL_PLAINTEXT" if kafka.has_sasl else "PLAINTEXT"
        return (
            f"Kafka at {kafka} does not speak TLS on that port, and {_PROTOCOL} is {kafka.security_protocol}: name the"
            f" port that does, or set it to {wanted}."
        )
    if "alert bad certificate" in text or "certificate required" in text:
        return (
            f"Kafka at {kafka} asks for a certificate of ours, and takes none or not this one: set"
            f" {get_variable('kafka_ssl_certificate_file')} and {get_variable('kafka_ssl_key_file')} to one that it"
            " knows."
        )
    if error.code() == KafkaError._UNSUPPORTED_FEATURE or "UNSUPPORTED_SASL_MECHANISM" in text:
        return f"Kafka at {kafka} does not take {kafka.sasl_mechanism}: see {get_variable('kafka_sasl_mechanism')}."
    return None


def _is_open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def _is_speaking_tls(address: str) -> bool:
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    # The connection only tests for TLS. Nothing is sent over it, so no certificate is verified.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS) as bare,
            context.wrap_socket(bare),
        ):
            return True
    except ssl.SSLError as error:
        # A server that requires a client certificate answers with a TLS alert, so it does speak TLS.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False


def find_postgres_trouble(
    dsn: str, role: str | None = None, patience_seconds: float = PATIENCE_SECONDS
) -> Trouble | None:
    """Return why Postgres refuses this login, or the role if one is given; None if it accepts both."""
    options: dict[str, Any] = {"options": f"-c role={role}"} if role is not None else {}
    try:
        psycopg.connect(dsn, connect_timeout=int(patience_seconds), **options).close()
    except psycopg.ProgrammingError:
        about = get_variable("postgres_dsn")
        return Trouble(f"{about} is no DSN of libpq's: write it as postgresql://user@host:port/database.", True)
    except psycopg.OperationalError as error:
        return _explain_postgres(dsn, role, str(error).strip().splitlines()[-1])
    return None


def _explain_postgres(dsn: str, role: str | None, text: str) -> Trouble:
    parts = conninfo_to_dict(dsn)
    where = f"Postgres at {parts.get('host') or 'its socket'}:{parts.get('port') or 5432}"
    about = get_variable("postgres_dsn")
    user, database = parts.get("user") or "this login", parts.get("dbname") or parts.get("user")
    known = {
        "password authentication failed": f"{where} does not take the password of {user}: check {about} and"
        f" {get_variable('postgres_password')}.",
        "no password supplied": f"{where} asks for a password: set {get_variable('postgres_password')}, or give it in"
        f" {about}.",
        "no encryption": f"{where} lets {user} in only by TLS: add sslmode=verify-full and sslrootcert to {about}.",
        "no pg_hba.conf entry": f"{where} has no rule that lets {user} into {database}: add one to its pg_hba.conf.",
        "certificate verify failed": f"{where} shows a certificate that sslrootcert in {about} does not know: name"
        " the authority that signed it.",
        "does not match host name": f"{where} shows a certificate for another name: name it in {about} as the"
        " certificate does.",
        "server does not support SSL": f"{where} does not speak TLS, and sslmode in {about} asks for it: turn its ssl"
        " on.",
        "root certificate file": f"{about} names an sslrootcert that is not there: name the authority's PEM file.",
        "permission denied to set role": f"{user} is no member of {role}: run `ledgerline prepare --logins`, or"
        f" GRANT {role} TO {user}.",
        f'role "{role}" does not exist': f"The database has no role {role}: run `ledgerline prepare`.",
        "does not exist": f"{where} has no {database} for {user} ({text}): run `ledgerline prepare`, or check {about}.",
    }
    for part, sentence in known.items():
        if part in text:
            # A role or database that does not exist is no misconfiguration: `prepare` may not have made it yet.
            return Trouble(sentence, "does not exist" not in part)
    return Trouble(f"{where} does not answer ({text}): start it, or correct {about}.", False)


def find_registry_trouble(registry: SchemaRegistry, patience_seconds: float = PATIENCE_SECONDS) -> Trouble | None:
    """Return why the registry does not answer; None if it answers."""
    url, ca = get_variable("registry_url"), get_variable("registry_ca_file")
    login = (registry.username, registry.password or "") if registry.username is not None else None
    try:
        answer = httpx.get(
            f"{registry.url.rstrip('/')}/subjects",
            auth=login,
            verify=registry.make_ssl_context() or True,
            timeout=patience_seconds,
        )
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return Trouble(
                f"The registry at {registry} shows a certificate that {ca} does not vouch for, or that is for another"
                " name: name the authority that signed it.",
                True,
            )
        if "WRONG_VERSION_NUMBER" in str(error):
            return Trouble(f"The registry at {registry} does not speak TLS on that port: correct {url}.", True)
        cause = str(error) or type(error).__name__
        return Trouble(f"The registry at {registry} does not answer ({cause}): start it, or correct {url}.", False)
    if answer.status_code in (401, 403):
        return Trouble(
            f"The registry at {registry} does not let us in ({answer.status_code}): check"
            f" {get_variable('registry_username')} and {get_variable('registry_password')}.",
            True,
        )
    if answer.status_code == 404:
        return Trouble(f"{registry} is no registry's address: {url} may lack /apis/ccompat/v7 or the like.", True)
    if answer.is_error:
        return Trouble(f"The registry at {registry} answers {answer.status_code}: see its log.", False)
    return None
