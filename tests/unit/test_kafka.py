"""Kafka's address and credentials: how they are shown, and which files are refused."""

import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from runtime.kafka import Kafka

HIDDEN = "hidden-one"


def test_the_password_is_in_no_text() -> None:
    kafka = Kafka("k:1", security_protocol="SASL_SSL", sasl_mechanism="PLAIN", sasl_username="u", sasl_password=HIDDEN)
    assert kafka.make_client_options()["sasl.password"] == HIDDEN
    assert HIDDEN not in f"{kafka} {kafka!r}"


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("client")
    chain, key, ca = tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    chain.write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    authority.cert_pem.write_to_path(str(ca))
    plain = certificate.private_key_pem.bytes()
    key.write_bytes(plain)
    kafka = Kafka("k:1", security_protocol="SSL", ssl_ca_file=ca, ssl_certificate_file=chain, ssl_key_file=key)
    assert kafka.make_ssl_context() is not None
    key.write_bytes(
        serialization.load_pem_private_key(plain, None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    with pytest.raises(ssl.SSLError):
        kafka.make_ssl_context()
