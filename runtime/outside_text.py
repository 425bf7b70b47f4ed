"""Text that came from outside, made fit for a terminal, a log or a page.

A control character can move a terminal's cursor, clear its screen or forge a line of a log. A bidirectional override
can make `users:1` read as another account (CVE-2021-42574, "Trojan Source"). So each of them is shown by its number,
such as \\x1b or \\u202e. What is stored, hashed and sent stays as it came: this is for showing alone.
api/console/static/dom.js has the same rule for pages; a test holds the two together.
"""

import unicodedata
from typing import Final

_UNSHOWN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's general categories: control, format (bidirectional marks too), lone surrogates, line and paragraph ends."""
_SHOWN_FORMATS: Final = frozenset("\u200c\u200d")
"""Format characters that words and pictures need, and that move nothing: the joiners of Persian, Hindi and emoji."""


def printable(text: str, *, kept: str = "") -> str:
    """The text with each character that would not print as its number; `kept` lists those to leave, such as newline."""
    if text.isprintable():
        return text
    return "".join(character if _is_shown(character, kept) else _numbered(character) for character in text)


def escape_in_json(document: str) -> str:
    """The same for a JSON document: as JSON's own escapes, so that each string means what it meant.

    Such characters stand in strings alone, but for the line ends between members.
    """
    if document.isprintable():
        return document
    return "".join(character if _is_shown(character, "\n") else _in_json(character) for character in document)


def _is_shown(character: str, kept: str) -> bool:
    if character.isprintable() or character in kept or character in _SHOWN_FORMATS:
        return True
    return unicodedata.category(character) not in _UNSHOWN_CATEGORIES


def _numbered(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _in_json(character: str) -> str:
    """JSON has four digits alone: what is beyond them are two surrogates (RFC 8259, section 7)."""
    number = ord(character)
    if number < 0x10000:
        return f"\\u{number:04x}"
    high, low = divmod(number - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
