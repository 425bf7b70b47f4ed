"""Keeps secrets out of logs: belt and braces, as nothing that we log should hold one.

Three nets, each for what slips through the one before: fields by their name, the forms in which secrets stand in texts
(addresses, connection strings, headers, keys), and the very values that this process was given.
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
"""A secret that is shorter, or an ordinary word, would be found in every other line."""
_DEPTH_MAX: Final = 12

_QUOTED_OR_BARE: Final = r"""'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?|[^\s,;&)}\]]+"""
_FORMS: Final = (
    # A PEM key, whole or cut off.
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), REDACTED),
    # Our own API keys; their id may be told.
    (re.compile(r"(llk_[0-9a-f]{16})_[A-Za-z0-9_-]+"), rf"\1_{REDACTED}"),
    # The credentials of an address, with or without a user. A password may hold each sign but white space and quotes.
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
    """Takes secrets out of whatever is logged."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        """`known`: the secrets that this process was given; what is no better than a word is left to the other nets."""
        # The longest first, as one may be the beginning of another.
        values = sorted({value for value in known if _KNOWN.fullmatch(value)}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, values))) if values else None

    def text(self, text: str) -> str:
        """The text without what looks like a secret, or is one that is known."""
        for form, instead in _FORMS:
            text = form.sub(instead, text)
        return text if self._known is None else self._known.sub(REDACTED, text)

    def value(self, value: Any, depth: int = 0) -> Any:
        """The same of any value; what is neither a number nor made of texts becomes its redacted `repr`."""
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
        """The value of a field; nothing of it where the name says that it is a secret."""
        if _SECRET_NAME.search(name) and value is not None and not isinstance(value, bool):
            return REDACTED
        return self.value(value, depth + 1)

    def __call__(self, _logger: Any, _method: str, event: Mapping[str, Any]) -> dict[str, Any]:
        """As a processor of structlog, behind all that makes fields."""
        return {self.text(name): self.field(name, value) for name, value in event.items()}
