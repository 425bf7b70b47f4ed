"""What `ledgerline config check` reports about settings and their files, before it contacts any part."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from cli.addresses import Addresses
from cli.configuration.check import check_settings, refuse_misconfigured
from cli.configuration.findings import Severity
from cli.configuration.rules import find_certificate_faults, find_contradictions
from cli.configuration.variables import find_unknown_variables, list_origins
from runtime.secret_files import SettingsError
from runtime.settings import Settings
from tests import secured_bench as secured
from tests.command_line import environment, run, run_json

NOW = datetime.now(UTC)
WORD = "word"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"LEDGERLINE_{name.upper()}", raising=False)


def test_settings_that_are_well_meant_are_left_alone(tmp_path: Path) -> None:
    certificates = secured.make_certificates(tmp_path)
    settings = Settings(
        kafka_bootstrap="kafka-1:9093,kafka-2:9093",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_username="posting",
        kafka_sasl_password=WORD,
        kafka_ssl_ca_file=certificates.authority,
        kafka_ssl_certificate_file=certificates.client,
        kafka_ssl_key_file=certificates.client_key,
        postgres_dsn=f"postgresql://posting@db/ledger?sslmode=verify-full&sslrootcert={certificates.authority}",
        postgres_password=WORD,
        registry_url="https://registry",
        registry_username="posting",
        registry_password=WORD,
        registry_ca_file=certificates.authority,
        replication_factor=3,
        min_insync_replicas=2,
    )
    assert find_contradictions(settings) == []
    assert find_contradictions(Settings()) == []


@pytest.mark.parametrize(
    ("given", "about", "sentence"),
    [
        ({"kafka_bootstrap": "kafka"}, "KAFKA_BOOTSTRAP", "write each broker as host:port"),
        (
            {"kafka_bootstrap": "k:1", "kafka_security_protocol": "SASL_SSL", "kafka_sasl_username": "us"},
            "KAFKA_SASL_PASSWORD",
            "is SASL_SSL, which logs in: set LEDGERLINE_KAFKA_SASL_PASSWORD as well",
        ),
        ({"kafka_sasl_password": "word"}, "KAFKA_SASL_PASSWORD", "is PLAINTEXT: set it to SASL_SSL"),
        ({"kafka_ssl_ca_file": "/nowhere"}, "KAFKA_SSL_CA_FILE", "is PLAINTEXT: set it to SSL or SASL_SSL"),
        ({"kafka_security_protocol": "SSL"}, "KAFKA_SECURITY_PROTOCOL", "the embedded Kafka does not speak"),
        (
            {"kafka_bootstrap": "k:1", "kafka_security_protocol": "SSL", "kafka_ssl_ca_file": "/nowhere"},
            "KAFKA_SSL_CA_FILE",
            "names /nowhere, which cannot be read: No such file or directory",
        ),
        (
            {"kafka_bootstrap": "k:1", "kafka_security_protocol": "SSL", "kafka_ssl_key_file": "/nowhere"},
            "KAFKA_SSL_CERTIFICATE_FILE",
            "LEDGERLINE_KAFKA_SSL_KEY_FILE is of no use alone",
        ),
        ({"postgres_password": "word"}, "POSTGRES_PASSWORD", "the embedded Postgres has its own"),
        ({"postgres_dsn": "postgresql://us:word@[broken"}, "POSTGRES_DSN", "is no DSN of libpq's"),
        ({"registry_username": "us"}, "REGISTRY_PASSWORD", "of no use alone"),
        ({"registry_url": "registry:80"}, "REGISTRY_URL", "write it as https://host:port"),
        ({"min_insync_replicas": 2}, "MIN_INSYNC_REPLICAS", "nothing could be written"),
        ({"relay_instance": 2, "relay_instances": 2}, "RELAY_INSTANCE", "numbered from 0 to 1"),
    ],
)
def test_what_contradicts_itself_is_an_error_that_a_service_refuses(
    given: dict[str, Any], about: str, sentence: str
) -> None:
    settings = Settings(**given)
    errors = [found for found in find_contradictions(settings) if found.severity is Severity.ERROR]
    (said,) = [
        found.sentence for found in errors if found.about == f"LEDGERLINE_{about}" and sentence in found.sentence
    ]
    assert "word@" not in said
    with pytest.raises(SettingsError) as caught:
        refuse_misconfigured(settings, Addresses(None, None, None, None))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "about"),
    [
        (
            {
                "kafka_bootstrap": "k:1",
                "kafka_security_protocol": "SASL_PLAINTEXT",
                "kafka_sasl_username": "us",
                "kafka_sasl_password": "word",
            },
            "KAFKA_SECURITY_PROTOCOL",
        ),
        ({"postgres_dsn": "postgresql://us:word@db/ledger"}, "POSTGRES_DSN"),
        ({"registry_url": "http://registry", "registry_username": "us", "registry_password": "word"}, "REGISTRY_URL"),
        ({"replication_factor": 3, "min_insync_replicas": 3}, "MIN_INSYNC_REPLICAS"),
        ({"relay_instances": 5}, "RELAY_INSTANCES"),
        ({"posting_stall_seconds_max": 30}, "POSTING_STALL_SECONDS_MAX"),
    ],
)
def test_what_is_hardly_meant_is_a_warning(given: dict[str, Any], about: str) -> None:
    (found,) = find_contradictions(Settings(**given))
    assert (found.severity, found.about) == (Severity.WARNING, f"LEDGERLINE_{about}")
    refuse_misconfigured(Settings(**given), Addresses(None, None, None, None))


@pytest.mark.parametrize(
    ("days", "severity", "sentence"),
    [(-1, Severity.ERROR, "which expired on"), (13, Severity.WARNING, "which expires on"), (15, None, "")],
)
def test_a_certificate_that_ends_soon_is_told_of(
    days: int, severity: Severity | None, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "server.pem"
    issued = trustme.CA().issue_cert(
        "broker", not_before=NOW - timedelta(days=90), not_after=NOW + timedelta(days=days)
    )
    issued.cert_chain_pems[0].write_to_path(path)
    found = list(find_certificate_faults("A", path))
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    assert all(sentence in finding.sentence for finding in found)


def test_a_file_without_a_certificate_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("nothing of the kind")
    (found,) = find_certificate_faults("A", path)
    assert "holds no certificate" in found.sentence


def test_a_key_of_another_certificate_is_told_of(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    certificates, others = secured.make_certificates(ours), secured.make_certificates(theirs)
    (found,) = find_contradictions(
        Settings(
            kafka_bootstrap="k:1",
            kafka_security_protocol="SSL",
            kafka_ssl_certificate_file=certificates.client,
            kafka_ssl_key_file=others.client_key,
        )
    )
    assert "is not the unencrypted key of the certificate" in found.sentence


def test_a_former_name_works_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGERLINE_RELAY_SHARD", "1")
    monkeypatch.setenv("LEDGERLINE_RELAY_SHARDS", "2")
    settings, found = check_settings()
    assert settings is not None
    assert (settings.relay_instance, settings.relay_instances) == (1, 2)
    assert [(finding.severity, finding.sentence) for finding in found] == [
        (Severity.WARNING, f"{former} is the former name of {name}: set that in its place.")
        for former, name in (
            ("LEDGERLINE_RELAY_SHARD", "LEDGERLINE_RELAY_INSTANCE"),
            ("LEDGERLINE_RELAY_SHARDS", "LEDGERLINE_RELAY_INSTANCES"),
        )
    ]
    (row,) = [row for row in list_origins(settings, os.environ) if row["variable"] == "LEDGERLINE_RELAY_INSTANCE"]
    assert (row["value"], row["from"]) == (1, "environment")


def test_a_name_outranks_its_former_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGERLINE_RELAY_SHARDS", "2")
    monkeypatch.setenv("LEDGERLINE_RELAY_INSTANCES", "3")
    assert Settings().relay_instances == 3
    assert Settings(relay_instances=4).relay_instances == 4


def test_unknown_variables_are_told_with_the_nearest_known() -> None:
    found = find_unknown_variables(
        {
            "LEDGERLINE_KAFKA_BOOTSTRAPS": "x",
            "LEDGERLINE_LANES_FILE": "x",
            "LEDGERLINE_QQQQQQ": "x",
            "LEDGERLINE_LANES": "4",
            "LEDGERLINE_API_KEY_FILE": "x",
            "LEDGERLINE_KAFKA_PORT": "1",
            "LEDGERLINE_API_SERVICE_HOST": "10.0.0.1",
            "LEDGERLINE_API_PORT_8080_TCP_ADDR": "10.0.0.1",
            "PATH": "x",
        }
    )
    assert [finding.sentence for finding in found] == [
        "LEDGERLINE_KAFKA_BOOTSTRAPS means nothing: is LEDGERLINE_KAFKA_BOOTSTRAP meant?",
        "LEDGERLINE_LANES_FILE means nothing: set LEDGERLINE_LANES itself, because only secrets may be in files.",
        "LEDGERLINE_QQQQQQ means nothing: docs/SETTINGS.md lists what there is.",
    ]
    assert {finding.severity for finding in found} == {Severity.WARNING}


def test_where_settings_come_from_is_shown_and_secrets_are_not(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    given = {"LEDGERLINE_LANES": "8", "LEDGERLINE_API_KEY_FILE": str(secret), "LEDGERLINE_POSTGRES_DSN": "hunter2"}
    rows = {
        row["variable"]: row
        for row in list_origins(Settings(lanes=8, api_key="hunter2", postgres_dsn="hunter2"), given)
    }
    assert rows["LEDGERLINE_LANES"] == {"variable": "LEDGERLINE_LANES", "value": 8, "from": "environment"}
    assert rows["LEDGERLINE_API_KEY"]["from"] == f"file {secret}"
    assert rows["LEDGERLINE_API_PORT"]["from"] == "default"
    assert "hunter2" not in str(rows)


def test_the_command_line_says_all_at_once(tmp_path: Path) -> None:
    variables = environment(Settings(home=tmp_path, postgres_dsn="postgresql://127.0.0.1:1/ledger")) | {
        "LEDGERLINE_KAFKA_BOOTSTRAP": "",
        "LEDGERLINE_REGISTRY_URL": "",
        "LEDGERLINE_LANES": "none",
        "LEDGERLINE_API_PORT": "tcp://10.0.0.1:8080",
        "LEDGERLINE_LANE": "4",
    }
    done = run_json(variables, "config", "check", "--offline", code=1)
    assert [finding["about"] for finding in done["findings"]] == [
        "LEDGERLINE_LANE", "LEDGERLINE_LANES", "LEDGERLINE_API_PORT",
    ]  # fmt: skip
    usable = {
        name: value for name, value in variables.items() if name not in ("LEDGERLINE_LANES", "LEDGERLINE_API_PORT")
    }
    run(usable, "config", "check", "--offline")
    run(usable, "config", "check", "--offline", "--strict", code=1)
    shown = run(usable, "config", "show").stdout
    assert "LEDGERLINE_POSTGRES_DSN" in shown
    assert "127.0.0.1:1" not in shown
