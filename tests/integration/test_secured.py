"""The whole pipeline behind TLS, logins and rights, and the message if one of them is wrong.

Postgres is behind TLS, and the registry is behind TLS and a password. Kafka is behind TLS with SCRAM; posting logs in
by its certificate. Each service has exactly the Kafka rights that docs/SECURITY.md grants it.
"""

import json
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AclBindingFilter, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

from cli.configuration.answers import find_kafka_trouble, find_postgres_trouble
from domain.events import FAMILIES
from domain.topics import Topics
from ops.embedded.cache import Cache
from ops.embedded.ports import LOOPBACK
from ops.embedded.stack import EmbeddedStack, Endpoints
from ops.kafka_rights import grant, rights
from producers.deploy import compute_partition_counts
from runtime.kafka import Kafka
from runtime.kafka_positions import make_admin_client
from runtime.settings import REPOSITORY_ROOT, Settings
from tests import secured_bench as secured
from tests.command_line import all_scopes, run, run_json
from tests.posting_bench import eventually
from tests.service_process import ServiceProcess, environment_of

PREFIX = "secured."
PATIENCE_SECONDS = 120.0
# This time includes the start of the parts, the unpacking of a Postgres, and the start of five services at once.
pytestmark = pytest.mark.timeout(600)
QUICK_SECONDS = 30.0


@dataclass(frozen=True)
class Secured:
    """The parts behind TLS, with their addresses and certificates."""

    endpoints: Endpoints
    doors: dict[str, str]
    """The addresses of Kafka's listeners, by name: tls, mutual, login."""
    registry_url: str
    certificates: secured.Certificates
    folder: Path

    def secret(self, name: str, text: str) -> Path:
        """Write a secret to a file that only this user may read, and return its path."""
        path = self.folder / f"{name}.secret"
        path.touch(mode=0o600)
        path.write_text(f"{text}\n")
        return path

    def kafka(self, door: str, **more: Any) -> Kafka:
        """Return the Kafka settings of a correctly configured client of this listener."""
        login: dict[str, Any] = {}
        if door == "login":
            login = {"sasl_username": "operator", "sasl_password": secured.PASSWORDS["operator"]}
        if door == "mutual":
            login = {
                "ssl_certificate_file": self.certificates.client,
                "ssl_key_file": self.certificates.client_key,
            }
        protocol = "SASL_SSL" if door == "login" else "SSL"
        return Kafka(self.doors[door], protocol, ssl_ca_file=self.certificates.authority, **(login | more))

    @property
    def dsn(self) -> str:
        """Return Postgres' DSN, with the password, for connections by TLS only."""
        return f"{self.endpoints.postgres_dsn}?sslmode=verify-full&sslrootcert={self.certificates.authority}"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, stack: Endpoints) -> Iterator[Secured]:
    """Yield a broker and a Postgres of this module's own; the registry is the session's."""
    cache = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
    folder = tmp_path_factory.mktemp("secured")
    certificates = secured.make_certificates(folder)
    listeners = secured.kafka_listeners()
    embedded = EmbeddedStack(
        folder / "stack",
        cache=cache,
        registry=stack.registry_url,
        kafka_listeners=listeners,
        kafka_settings=secured.kafka_settings(certificates),
        kafka_users=secured.PASSWORDS,
        postgres_settings=secured.POSTGRES_SETTINGS,
        postgres_files=secured.postgres_files(certificates),
        postgres_programs=secured.postgres_programs(Cache(cache, lambda _: None), folder / "postgres"),
    )
    with embedded as endpoints, secured.registry_door(stack.registry_url, certificates) as registry_url:
        doors = {name.lower(): f"{LOOPBACK}:{port}" for name, (port, _) in listeners.items()}
        # `ledgerline prepare --kafka-rights` does the same; users of the listener without a login are super users.
        assert grant(endpoints.kafka, PREFIX, "") == len(rights(PREFIX))
        yield Secured(endpoints, doors, registry_url, certificates, folder)


@pytest.fixture
def variables(parts: Secured, tmp_path: Path) -> dict[str, str]:
    """Return the environment of an operator; it holds no secret, because each secret is in a file."""
    password = psycopg.conninfo.conninfo_to_dict(parts.endpoints.postgres_dsn)["password"]
    bare = f"postgresql://ledgerline@{LOOPBACK}:{parts.endpoints.postgres_dsn.rsplit(':', 1)[1]}"
    return environment_of(Settings(home=tmp_path), COLUMNS="160") | {
        "LEDGERLINE_KAFKA_BOOTSTRAP": parts.doors["login"],
        "LEDGERLINE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "LEDGERLINE_KAFKA_SASL_USERNAME": "operator",
        "LEDGERLINE_KAFKA_SASL_PASSWORD_FILE": str(parts.secret("kafka", secured.PASSWORDS["operator"])),
        "LEDGERLINE_KAFKA_SSL_CA_FILE": str(parts.certificates.authority),
        "LEDGERLINE_POSTGRES_DSN": f"{bare}?sslmode=verify-full&sslrootcert={parts.certificates.authority}",
        "LEDGERLINE_POSTGRES_PASSWORD_FILE": str(parts.secret("postgres", str(password))),
        "LEDGERLINE_REGISTRY_URL": parts.registry_url,
        "LEDGERLINE_REGISTRY_USERNAME": secured.REGISTRY_LOGIN[0],
        "LEDGERLINE_REGISTRY_PASSWORD_FILE": str(parts.secret("registry", secured.REGISTRY_LOGIN[1])),
        "LEDGERLINE_REGISTRY_CA_FILE": str(parts.certificates.authority),
        "LEDGERLINE_TLS_CERTIFICATE_FILE": str(parts.certificates.server),
        "LEDGERLINE_TLS_KEY_FILE": str(parts.certificates.server),
        "SSL_CERT_FILE": str(parts.certificates.authority),
        "LEDGERLINE_TOPIC_PREFIX": PREFIX,
        "LEDGERLINE_LANES": "2",
    }


def logged_in(parts: Secured, name: str) -> dict[str, str]:
    """Return the variables of a service's own Kafka login: posting has a certificate, the others have a password."""
    if name == "posting":
        return {
            "LEDGERLINE_KAFKA_BOOTSTRAP": parts.doors["mutual"],
            "LEDGERLINE_KAFKA_SECURITY_PROTOCOL": "SSL",
            "LEDGERLINE_KAFKA_SASL_USERNAME": "",
            "LEDGERLINE_KAFKA_SASL_PASSWORD_FILE": "",
            "LEDGERLINE_KAFKA_SSL_CERTIFICATE_FILE": str(parts.certificates.client),
            "LEDGERLINE_KAFKA_SSL_KEY_FILE": str(parts.certificates.client_key),
        }
    return {
        "LEDGERLINE_KAFKA_SASL_USERNAME": name,
        "LEDGERLINE_KAFKA_SASL_PASSWORD_FILE": str(parts.secret(f"kafka-{name}", secured.PASSWORDS[name])),
    }


def named(variables: dict[str, str], **more: str) -> dict[str, str]:
    """Return Ledgerline's own variables, without the ports, because each service gets its own."""
    kept = (name for name in variables if name.startswith("LEDGERLINE_") and not name.endswith("_PORT"))
    return {name: variables[name] for name in kept} | more


def test_an_intent_goes_through_all_of_it(parts: Secured, variables: dict[str, str], tmp_path: Path) -> None:
    run(variables, "prepare")
    checked = run_json(variables, "config", "check", "--strict")
    assert checked["ok"], checked
    told = " ".join(finding["sentence"] for finding in checked["findings"])
    assert f"Kafka answers at {parts.doors['login']} by SASL_SSL as operator." in told
    assert "answers by TLS as ledgerline." in told
    with ExitStack() as running:
        services = {
            name: running.enter_context(
                ServiceProcess(
                    name,
                    Settings(home=tmp_path),
                    tmp_path,
                    **named(variables, LEDGERLINE_AUDIT_CHECKPOINT_SECONDS="1", **logged_in(parts, name)),
                )
            )
            for name in ("posting", "relay", "worker", "reconciliation", "audit", "api")
        }
        for service in services.values():
            service.wait_until_ready(PATIENCE_SECONDS)
        key = run_json(variables, "keys", "add", "tests", *all_scopes())["key"]
        client = variables | {
            "LEDGERLINE_API_URL": f"https://{LOOPBACK}:{services['api'].port}",
            "LEDGERLINE_API_KEY": key,
        }
        posted = run_json(
            client, "intents", "post", "--key", "secured-1", "--debit", "external:bank", "--credit",
            "users:42:wallet", "--amount", "12.50", "--currency", "EUR",
        )  # fmt: skip
        assert posted["status"] == "posted"

        def proved() -> bool:
            shown = run_json(variables, "status")
            lanes = [lane for lane in shown["lanes"] if lane["received"]]
            return bool(lanes) and all(lane["reconciled"] == lane["audited"] == 1 for lane in lanes)

        eventually(proved, "the intent is relayed, reconciled and audited", PATIENCE_SECONDS)
        assert run_json(variables, "reconcile")["breaks"] == []
        assert run_json(variables, "topics", "diff") == []
        offsets = run_json(variables, "offsets", "show")
        assert [row["lag"] for row in offsets if row["agent"] != "worker"] == [0] * 6
        eventually(lambda: is_worker_done(variables), "the worker has read the journal", PATIENCE_SECONDS)
        assert pulse_of(client, parts.certificates.authority)["faults"] == []
        for name, service in services.items():
            refused_in_the_open(name, service, parts.certificates)
        stranger = client | {"SSL_CERT_FILE": str(parts.certificates.other_authority)}
        told = run(stranger, "balance", "users:42:wallet", code=1).stderr
        assert "is not vouched for" in told
        logs = "".join(service.log() for service in services.values())
    for secret in (*secured.PASSWORDS.values(), secured.REGISTRY_LOGIN[1], key):
        assert secret not in logs
    assert "AUTHORIZATION_FAILED" not in logs.upper().replace(" ", "_")
    with psycopg.connect(parts.dsn) as connection:
        row = connection.execute("SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
                                 " WHERE backend_type = 'client backend'").fetchone()  # fmt: skip
        assert row == (True,)


def is_worker_done(variables: dict[str, str]) -> bool:
    """Return whether the worker has met the journal and has read all of its topics, as `offsets show` tells."""
    rows = [row for row in run_json(variables, "offsets", "show") if row["agent"] == "worker"]
    journal = Topics(PREFIX).journal
    return any(row["topic"] == journal for row in rows) and all(row["lag"] == 0 for row in rows)


def refused_in_the_open(name: str, service: ServiceProcess, certificates: secured.Certificates) -> None:
    """Check that a service answers HTTPS clients that trust its authority, and no other clients."""
    address = f"{LOOPBACK}:{service.port}/metrics"
    ours = ssl.create_default_context(cafile=str(certificates.authority))
    assert httpx.get(f"https://{address}", verify=ours).status_code == 200, name
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://{address}", verify=ssl.create_default_context(cafile=str(certificates.other_authority)))
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{address}")


def pulse_of(client: Mapping[str, str], authority: Path) -> dict[str, Any]:
    """Return one pulse of the console's feed."""
    headers = {"authorization": f"Bearer {client['LEDGERLINE_API_KEY']}"}
    url = f"{client['LEDGERLINE_API_URL']}/v1/console/events"
    context = ssl.create_default_context(cafile=str(authority))
    with httpx.stream("GET", url, headers=headers, timeout=PATIENCE_SECONDS, verify=context) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if line == "event: pulse")
        pulse: dict[str, Any] = json.loads(next(lines).removeprefix("data: "))
        return pulse


def test_who_may_write_intents_may_not_write_transactions(parts: Secured, variables: dict[str, str]) -> None:
    run(variables, "prepare")
    login = {"sasl_username": "api", "sasl_password": secured.PASSWORDS["api"]}
    options = {"transactional.id": f"{PREFIX}intruder", "log_level": 0}
    producer = Producer({**parts.kafka("login", **login).make_client_options(), **options})
    with pytest.raises(KafkaException) as refused:
        producer.init_transactions(PATIENCE_SECONDS)
    assert refused.value.args[0].code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


def test_rights_are_created_by_who_may_alter_the_cluster(parts: Secured, variables: dict[str, str]) -> None:
    """On the listener without a login the command is a super user; an ordinary operator cannot give itself rights."""
    open_door = {name: value for name, value in variables.items() if not name.startswith("LEDGERLINE_KAFKA_")}
    done = run_json(open_door | {"LEDGERLINE_KAFKA_BOOTSTRAP": parts.endpoints.kafka_bootstrap}, "prepare",
                    "--kafka-rights", "ledgerline-")  # fmt: skip
    assert done["kafka_rights"] == len(rights(PREFIX))
    wanted = AclBindingFilter(
        ResourceType.TOPIC, f"{PREFIX}payments.intents", ResourcePatternType.LITERAL, "User:ledgerline-upstream", None,
        AclOperation.ANY, AclPermissionType.ALLOW,
    )  # fmt: skip
    client = make_admin_client(parts.endpoints.kafka)
    found = client.describe_acls(wanted).result(PATIENCE_SECONDS)
    assert {row.operation for row in found} == {AclOperation.DESCRIBE, AclOperation.WRITE}
    refused = run(variables, "prepare", "--kafka-rights", "ledgerline-", code=1)
    assert "whoever runs this needs the right Alter of the cluster" in " ".join(refused.stderr.split())


def test_upstream_reads_nothing(parts: Secured, variables: dict[str, str]) -> None:
    """`upstream` may write intents, and no other topic (see the next test); it may not read, whatever its group."""
    run(variables, "prepare")
    login = {"sasl_username": "upstream", "sasl_password": secured.PASSWORDS["upstream"]}
    options = parts.kafka("login", **login).make_client_options() | {"log_level": 0}
    for group in ("of-its-own", f"{PREFIX}ledgerline-posting"):
        consumer = Consumer({**options, "group.id": group})
        consumer.assign([TopicPartition(Topics(PREFIX).intents, 0, 0)])
        message = consumer.poll(QUICK_SECONDS)
        assert message is not None
        assert message.error().code() in (
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.GROUP_AUTHORIZATION_FAILED,
        )
        consumer.close()


@pytest.mark.parametrize("name", [name for name in secured.PASSWORDS if name != "operator"])
def test_a_service_writes_no_topic_but_its_own(name: str, parts: Secured, variables: dict[str, str]) -> None:
    run(variables, "prepare")
    known = Topics(PREFIX)
    own = {
        "api": {known.intents},
        "upstream": {known.intents},
        "relay": {known.journal, known.frame, known.quarantine, known.relay},
        "worker": {known.intents, known.outbox} | {known.name_events(family) for family in FAMILIES},
        "reconciliation": {known.breaks},
        "audit": {known.breaks, known.checkpoints},
    }.get(name, set())
    door = "mutual" if name == "posting" else "login"
    login = {} if name == "posting" else {"sasl_username": name, "sasl_password": secured.PASSWORDS[name]}
    refused: dict[str, int] = {}
    producer = Producer(
        {**parts.kafka(door, **login).make_client_options(), "message.timeout.ms": 20_000, "log_level": 0}
    )
    others = compute_partition_counts(known, lanes=1).keys()
    for topic in others - own:
        producer.produce(
            topic, b"intruder", on_delivery=lambda error, told: refused.update({told.topic(): error and error.code()})
        )
    assert producer.flush(PATIENCE_SECONDS) == 0
    hidden = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
    assert refused.keys() == others - own
    assert set(refused.values()) <= set(hidden), refused


def test_each_door_opens_for_who_is_configured_rightly(parts: Secured) -> None:
    for door in parts.doors:
        assert find_kafka_trouble(parts.kafka(door), PATIENCE_SECONDS) is None, door
    assert find_kafka_trouble(parts.endpoints.kafka, PATIENCE_SECONDS) is None
    assert find_postgres_trouble(parts.dsn) is None


WRONG_KAFKA: dict[str, tuple[Callable[[Secured], Kafka], str]] = {
    "an authority that did not sign": (
        lambda parts: replace(parts.kafka("tls"), ssl_ca_file=parts.certificates.other_authority),
        "shows a certificate that LEDGERLINE_KAFKA_SSL_CA_FILE does not vouch for",
    ),
    "another name than the certificate's": (
        lambda parts: replace(parts.kafka("tls"), bootstrap=parts.doors["tls"].replace(LOOPBACK, "localhost")),
        "or that is for another name",
    ),
    "a wrong password": (
        lambda parts: replace(parts.kafka("login"), sasl_password="guessed"),  # noqa: S106
        "does not let operator in by SCRAM-SHA-512: check LEDGERLINE_KAFKA_SASL_USERNAME",
    ),
    "no TLS where it is spoken": (
        lambda parts: Kafka(parts.doors["tls"]),
        "speaks TLS on that port, and LEDGERLINE_KAFKA_SECURITY_PROTOCOL is PLAINTEXT: set it to SSL or SASL_SSL",
    ),
    "TLS where it is not spoken": (
        lambda parts: replace(parts.kafka("tls"), bootstrap=parts.endpoints.kafka_bootstrap),
        "does not speak TLS on that port",
    ),
    "no certificate where one is asked for": (
        lambda parts: replace(parts.kafka("tls"), bootstrap=parts.doors["mutual"]),
        "asks for a certificate of ours",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_KAFKA)
def test_what_is_wrong_with_kafka_is_said_in_one_sentence(wrong: str, parts: Secured) -> None:
    configured, sentence = WRONG_KAFKA[wrong]
    began = time.monotonic()
    trouble = find_kafka_trouble(configured(parts), PATIENCE_SECONDS)
    assert trouble is not None
    assert trouble.is_misconfigured
    assert sentence in trouble.sentence
    assert "guessed" not in trouble.sentence
    assert time.monotonic() - began < QUICK_SECONDS


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"sslmode": "disable"}, "only by TLS: add sslmode=verify-full and sslrootcert to LEDGERLINE_POSTGRES_DSN"),
        ({"sslrootcert": "other"}, "that sslrootcert in LEDGERLINE_POSTGRES_DSN does not know"),
        ({"password": "guessed"}, "does not take the password of ledgerline: check LEDGERLINE_POSTGRES_DSN"),
        ({"host": "localhost"}, "shows a certificate for another name"),
    ],
)
def test_what_is_wrong_with_postgres_is_said_in_one_sentence(
    wrong: dict[str, str], sentence: str, parts: Secured
) -> None:
    if wrong.get("sslrootcert"):
        wrong = {"sslrootcert": str(parts.certificates.other_authority)}
    trouble = find_postgres_trouble(psycopg.conninfo.make_conninfo(parts.dsn, **wrong))
    assert trouble is not None
    assert trouble.is_misconfigured
    assert sentence in trouble.sentence
    assert "guessed" not in trouble.sentence


def test_a_service_refuses_to_start_with_the_same_sentence(
    parts: Secured, variables: dict[str, str], tmp_path: Path
) -> None:
    wrong = variables | {
        "LEDGERLINE_KAFKA_SASL_PASSWORD_FILE": str(parts.secret("wrong", "guessed")),
        "LEDGERLINE_KAFKA_SASL_USERNAME": "posting",
    }
    findings = run_json(wrong, "config", "check", code=1)["findings"]
    (said,) = [finding["sentence"] for finding in findings if finding["about"] == "kafka"]
    with ServiceProcess("posting", Settings(home=tmp_path), tmp_path, **named(wrong)) as service:
        assert service.ended(PATIENCE_SECONDS) == 1
        last = json.loads(service.log().strip().splitlines()[-1])
    assert last["error"] == said
    assert "guessed" not in service.log()
