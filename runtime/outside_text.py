"""Makes text from outside safe to show on a terminal, in a log or on a page.

A control character can move a terminal's cursor, clear its screen or forge a line of a log. A bidirectional override
can make `users:1` read as another account (CVE-2021-42574, "Trojan Source"). So each such character is shown by its
number, such as \\x1b or \\u202e. Text that is stored, hashed or sent stays unchanged: this is for display only.
api/console/static/dom.js has the same rule for pages, and a test checks that the two agree.
"""

import unicodedata
from typing import Final

_UNSHOWN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's general categories: control, format (bidirectional marks too), lone surrogates, line and paragraph ends."""
_SHOWN_FORMATS: Final = frozenset("\u200c\u200d")
"""Format characters that are shown: Persian, Hindi and emoji need these joiners, and they do not move other text."""


def make_printable(text: str, *, kept: str = "") -> str:
    """Replace each character that would not print by its number. `kept` lists characters to leave, such as newline."""
    if text.isprintable():
        return text
    return "".join(character if _is_shown(character, kept) else _make_numbered(character) for character in text)


def escape_in_json(document: str) -> str:
    """Replace the same characters of a JSON document by JSON's escapes, so that each string keeps its meaning.

    Such characters occur only in strings, except for the line ends between members, which stay.
    """
    if document.isprintable():
        return document
    return "".join(character if _is_shown(character, "\n") else _escape_in_json(character) for character in document)


def _is_shown(character: str, kept: str) -> bool:
    if character.isprintable() or character in kept or character in _SHOWN_FORMATS:
        return True
    return unicodedata.category(character) not in _UNSHOWN_CATEGORIES


def _make_numbered(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _escape_in_json(character: str) -> str:
    """Return the JSON escape, which has four digits: a larger number becomes two surrogates (RFC 8259, section 7)."""
    number = ord(character)
    if number < 0x10000:
        return f"\\u{number:04x}"
    high, low = divmod(number - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
