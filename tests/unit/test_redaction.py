"""A planted secret never appears in a log, in whatever form and place somebody logs it."""

import json
import logging
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.redaction import REDACTED, Redactor
from tests.log_capture import captured_logs

# As long and as mixed as real secrets. A shorter secret would also match ordinary words.
SECRETS = st.from_regex(r"[A-Za-z0-9_-]{6}[0-9][A-Za-z0-9!$%*+_~^-]{9,30}", fullmatch=True)
WORDS = st.text("abcdefghij .,", max_size=20)
FORMS = (
    "postgresql://ledgerline:{}@db.example:5432/ledger",
    "cannot connect to https://:{}@registry.example/apis, giving up",
    "host=db password={} dbname=ledger",
    "host=db password='{}' dbname=ledger",
    "sasl.password={};sasl.username=me",
    "{{'sasl_password': '{}'}}",
    '{{"api_key": "{}"}}',
    "Authorization: Bearer {}",
    "authorization=Basic {}",
    "x-api-key: {}",
    "token={}&tenant=default",
    "client_secret = {}",
    "ssl.key.password: {}",
    "llk_0123456789abcdef_{}",
    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
    "-----BEGIN EC PRIVATE KEY-----\n{}",
    "duplicate key\nDETAIL:  Key (account)=({}) already exists.",
)
NAMES = ("password", "Password", "sasl_password", "api_key", "apiKey", "authorization", "access_token", "client-secret",
         "private_key", "postgres_dsn", "credentials", "Set-Cookie", "passphrase")  # fmt: skip


def nested(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for lists and mappings, several levels deep, that contain the leaf."""
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3),
            st.tuples(inner),
            st.dictionaries(st.sampled_from(("cause", "detail", "where")), inner, min_size=1),
        ),
        max_leaves=4,
    )


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20)
@given(data=st.data(), secret=SECRETS, before=WORDS, after=WORDS)
def test_a_form_in_which_secrets_stand_is_known(
    form: str, data: st.DataObject, secret: str, before: str, after: str
) -> None:
    text = f"{before} {form.format(secret)} {after}" if "\n" not in form else f"{before}\n{form.format(secret)}"
    value = data.draw(nested(st.just(text)))
    assert secret not in str(Redactor()(None, "info", {"event": "x", "given": value}))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10)
@given(value=nested(SECRETS))
def test_a_field_that_is_named_for_a_secret_is_empty(name: str, value: Any) -> None:
    redacted = Redactor()
    assert redacted(None, "info", {name: value})[name] == REDACTED
    assert redacted(None, "info", {"given": {"inner": {name: value}}})["given"]["inner"][name] == REDACTED


class Holder:
    """An object whose repr contains its secret."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __repr__(self) -> str:
        return f"Holder<{self.secret}>"


@given(secret=SECRETS, before=WORDS, after=WORDS)
def test_a_secret_that_is_known_comes_out_nowhere(secret: str, before: str, after: str) -> None:
    """The forms are text, bytes, key, repr, exception and traceback, logged by our code and by a library."""
    text = f"{before}{secret}{after}"
    with captured_logs(secrets=[secret]) as stream:
        log, library = structlog.get_logger("ours"), logging.getLogger("theirs")
        log.info(text, cause=text, raw=text.encode(), inner=[{text: text}], held=Holder(secret), error=ValueError(text))
        library.warning("%s and %r", text, {"x": text})
        try:
            raise ValueError(text) from OSError(text)
        except ValueError as error:
            error.add_note(text)
            log.exception("failed")
            library.error("failed", exc_info=error)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    for line in lines:
        told = json.loads(line)
        assert secret not in line
        assert secret not in str(told)
        assert REDACTED in line


@given(text=st.text(max_size=200))
def test_what_is_no_secret_stays(text: str) -> None:
    words = text.translate({ord(sign): " " for sign in ":=@/_"})
    assert Redactor(["Xy7!Xy7!Xy7!"]).text(words) == words or "PRIVATE KEY" in words or "Bearer" in words


@pytest.mark.parametrize(
    "text",
    [
        'password authentication failed for user "ledgerline"',
        "lane 3 stands at 17, not at 16",
        "Kafka at 127.0.0.1:9092 does not describe the topic payments.intents",
        "http://127.0.0.1:8081/apis/ccompat/v7 answers 503",
    ],
)
def test_ordinary_sentences_stay(text: str) -> None:
    assert Redactor(["postgres", "short"]).text(text) == text
