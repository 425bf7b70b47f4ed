"""Keeps secrets out of logs. This is a second defence: nothing that we log should hold a secret anyway.

There are three filters, each for what the one before misses: fields by their name, the forms that secrets have in texts
(addresses, connection strings, headers, keys), and the exact secret values that this process was given.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

REDACTED: Final = "[redacted]"

_TELLING_WORDS: Final = (
    r"pass(?:word|wd|phrase)|pwd|secret|token|authori[sz]ation|api[_-]?key|private[_-]?key|credentials?|cookie|dsn"
)
_SECRET_NAME: Final = re.compile(_TELLING_WORDS, re.IGNORECASE)
_KNOWN: Final = re.compile(r"(?=.*[^a-z]).{8,}", re.DOTALL)
"""The secrets to look for by value. A shorter one, or one of small letters only, would match ordinary text."""
_DEPTH_MAX: Final = 12

_QUOTED_OR_BARE: Final = r"""'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?|[^\s,;&)}\]]+"""
_FORMS: Final = (
    # A PEM key, whole or cut off.
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), REDACTED),
    # Our own API keys; their id may be shown.
    (re.compile(r"(llk_[0-9a-f]{16})_[A-Za-z0-9_-]+"), rf"\1_{REDACTED}"),
    # The credentials of an address, with or without a user. A password may hold all but white space and quotes.
    (re.compile(r"""(\b[A-Za-z][A-Za-z0-9+.-]*://[^\s:/@'"]*):[^\s'"]*@"""), rf"\1:{REDACTED}@"),
    # Schemes of HTTP authentication.
    (re.compile(r"""\b(Bearer|Basic|Digest|Negotiate)\s+[^\s'",;]+""", re.IGNORECASE), rf"\1 {REDACTED}"),
    # name=value, name: value and "name": "value", as in libpq's strings, properties, headers and printed mappings.
    (
        re.compile(
            rf"""([\w.-]*(?:{_TELLING_WORDS})[\w.-]*["']?\s*[=:]\s*)"""
            rf"""(?!(?:Bearer|Basic|Digest|Negotiate) \[redacted\])(?:{_QUOTED_OR_BARE})""",
            re.IGNORECASE,
        ),
        rf"\1{REDACTED}",
    ),
    # Postgres puts the values of rows into these lines of its errors.
    (re.compile(r"^(DETAIL|CONTEXT|QUERY|STATEMENT):.*(?:\n(?![A-Z]+:).*)*", re.MULTILINE), rf"\1: {REDACTED}"),
)


class Redactor:
    """Removes secrets from whatever is logged."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        """Set the secrets to look for. `known`: those that this process was given; only those like _KNOWN are used."""
        # The longest first, because one secret may be the beginning of another.
        values = sorted({value for value in known if _KNOWN.fullmatch(value)}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, values))) if values else None

    def text(self, text: str) -> str:
        """Return the text with known secrets, and what looks like a secret, redacted."""
        for form, instead in _FORMS:
            text = form.sub(instead, text)
        return text if self._known is None else self._known.sub(REDACTED, text)

    def value(self, value: Any, depth: int = 0) -> Any:
        """Return any value with its texts redacted; an object of another type becomes its redacted `repr`."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.text(str(value))
        if depth >= _DEPTH_MAX:
            return REDACTED
        if isinstance(value, Mapping):
            return {self.text(str(name)): self.field(str(name), inner, depth) for name, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(inner, depth + 1) for inner in value]
        if isinstance(value, bytes | bytearray):
            return self.text(bytes(value).decode(errors="backslashreplace"))
        return self.text(repr(value) if not isinstance(value, BaseException) else f"{type(value).__name__}: {value}")

    def field(self, name: str, value: Any, depth: int = 0) -> Any:
        """Return a field's value redacted; REDACTED instead of it if the field's name says that it is a secret."""
        if _SECRET_NAME.search(name) and value is not None and not isinstance(value, bool):
            return REDACTED
        return self.value(value, depth + 1)

    def __call__(self, _logger: Any, _method: str, event: Mapping[str, Any]) -> dict[str, Any]:
        """Redact an event, as a structlog processor; it must come after all processors that add fields."""
        return {self.text(name): self.field(name, value) for name, value in event.items()}
