"""The client of the Schema Registry verifies certificates wherever there is TLS."""

import ssl
from typing import Any

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient

from runtime.schema_registry import SchemaRegistry
from runtime.schemas import make_registry_client


@pytest.mark.parametrize(
    ("url", "verifies"),
    [
        ("http://127.0.0.1:8081", False),
        ("HTTP://registry:8081", False),
        ("https://registry:8081", True),
        ("HTTPS://registry:8081", True),
        ("http://one:8081,https://two:8081", True),
        ("http://one:8081,HTTPS://two:8081", True),
    ],
)
def test_certificates_are_verified_unless_no_address_has_tls(
    url: str, verifies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def keep(self: SchemaRegistryClient, options: dict[str, Any]) -> None:
        given.update(options)

    monkeypatch.setattr(SchemaRegistryClient, "__init__", keep)
    make_registry_client(SchemaRegistry(url))
    assert (given.get("ssl.ca.location") is not False) == verifies


def test_a_client_with_tls_has_the_systems_authorities() -> None:
    with make_registry_client(SchemaRegistry("https://registry:8081")) as client:
        context = client._rest_client.session._transport._pool._ssl_context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
