"""Settings from the environment and from files, and which of their values are shown."""

import pickle
from pathlib import Path

import pytest

from cli.addresses import find_addresses
from cli.context import read_settings
from runtime.kafka import Kafka
from runtime.secret_files import SettingsError
from runtime.settings import SECRETS, Settings

SECRET = "hunter2-and-more"  # noqa: S105 - not a real secret


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    """Return a file with a secret that only this user may read."""
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_text(f"{SECRET}\n")
    return path


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"LEDGERLINE_{name.upper()}", raising=False)
        monkeypatch.delenv(f"LEDGERLINE_{name.upper()}_FILE", raising=False)


def test_these_are_the_secrets() -> None:
    named = {name for name in Settings.model_fields if "password" in name or name.endswith(("_dsn", "_key"))}
    assert set(SECRETS) == named


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_may_stand_in_a_file(name: str, secret_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"LEDGERLINE_{name.upper()}_FILE", str(secret_file))
    settings = read_settings()
    assert getattr(settings, name).get_secret_value() == SECRET
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.model_dump())


def test_only_secrets_may(secret_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGERLINE_TOPIC_PREFIX_FILE", str(secret_file))
    assert read_settings().topic_prefix == ""


def test_a_secret_that_is_given_twice_is_refused(secret_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGERLINE_POSTGRES_PASSWORD_FILE", str(secret_file))
    monkeypatch.setenv("LEDGERLINE_POSTGRES_PASSWORD", "another")
    with pytest.raises(
        SettingsError, match=r"POSTGRES_PASSWORD and .*_FILE are both set: unset one of them\."
    ) as caught:
        read_settings()
    assert "another" not in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "text", "sentence"),
    [
        (0o604, SECRET, "everybody on this machine may read: run `chmod o= "),
        (0o600, "\n", "which is empty: write the secret into it."),
        (0o600, b"\xff\xfe\xff", "cannot be read: it is no text."),
        (None, "", "cannot be read: No such file or directory."),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    mode: int | None, text: str | bytes, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    if mode is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
    monkeypatch.setenv("LEDGERLINE_API_KEY_FILE", str(path))
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert str(caught.value).startswith(f"LEDGERLINE_API_KEY_FILE names {path}, which")
    assert sentence in str(caught.value)
    assert SECRET not in str(caught.value)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA_SECURITY_PROTOCOL", "LANES", "KAFKA_SSL_CA_FILE", "POSTGRES_DSN", "API_KEY_FILE"):
        monkeypatch.setenv(f"LEDGERLINE_{name}", "")
    settings = read_settings()
    assert (settings.kafka_security_protocol, settings.lanes) == ("PLAINTEXT", 4)
    assert settings.kafka_ssl_ca_file is None
    assert settings.postgres_dsn is None


def test_a_value_that_cannot_be_used_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGERLINE_LANES", SECRET)
    with pytest.raises(SettingsError, match="LEDGERLINE_LANES cannot be used") as caught:
        read_settings()
    assert SECRET not in str(caught.value)


def test_passwords_ride_in_the_addresses_and_are_not_shown() -> None:
    settings = Settings(
        kafka_bootstrap="broker:9093",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_username="posting",
        kafka_sasl_password=SECRET,
        kafka_ssl_ca_file="/ca.pem",
        postgres_dsn="postgresql://posting@db/ledger?sslmode=verify-full",
        postgres_password=SECRET,
        registry_url="https://registry",
        registry_username="us",
        registry_password=SECRET,
    )
    found = find_addresses(settings, None)
    assert found.kafka is not None
    assert found.kafka.make_client_options() == {
        "bootstrap.servers": "broker:9093",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "posting",
        "sasl.password": SECRET,
        "ssl.ca.location": "/ca.pem",
        "log_level": 2,
    }
    assert found.postgres_dsn is not None
    assert f"password={SECRET}" in found.postgres_dsn
    assert "sslmode=verify-full" in found.postgres_dsn
    assert SECRET not in f"{found.kafka!r} {found.kafka} {found.registry!r} {found.registry} {settings!r}"


def test_without_security_clients_are_made_as_ever() -> None:
    kafka = Kafka("broker:9092")
    assert kafka.make_client_options() == {"bootstrap.servers": "broker:9092", "log_level": 2}
    assert kafka.make_ssl_context() is None
    assert pickle.loads(pickle.dumps(kafka)) == kafka  # noqa: S301 - our own bytes
