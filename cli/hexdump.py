"""Bytes for people: offset, hex digits, and printable ASCII."""

from collections.abc import Iterator
from typing import Final

LINE_BYTES: Final = 16


def dump_hex(value: bytes) -> Iterator[str]:
    """Yield one line for each 16 bytes: offset in hex, the bytes in two groups of eight, printable ASCII or dots."""
    for start in range(0, len(value), LINE_BYTES):
        line = value[start : start + LINE_BYTES]
        digits = f"{line[:8].hex(' '):<23}  {line[8:].hex(' '):<23}"
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in line)
        yield f"{start:08x}  {digits}  |{text}|"


def decode_readable(value: bytes) -> str:
    """Return the bytes as UTF-8: a dot for each unprintable character, U+FFFD for each invalid sequence."""
    return "".join(
        character if character.isprintable() else "." for character in value.decode("utf-8", errors="replace")
    )
