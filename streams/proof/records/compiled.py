"""Compile a schema to a function that reads its records in half of fastavro's time: it runs for every record.

The function is unrolled source code, like the code that `collections.namedtuple` and `dataclasses` make. It reads only
what encoders mostly write (Avro 1.11 specification, "Binary Encoding"). It refuses all other bytes, and fastavro then
judges them. So it must return exactly what fastavro would return. Property tests check that, with hostile bytes too.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any, Final

Reader = Callable[[bytes, int], dict[str, Any]]

REFUSALS: Final = (IndexError, KeyError, ValueError)
"""The errors that a compiled reader raises if fastavro has to decide what the bytes are."""

_SYMBOLS_MAX: Final = 64
_SHIFT_MAX: Final = 56
_LENGTH: Final = ("n = b[p]; p += 1", "if n & 129: n, p = _length(b, n, p)")
_LONG: Final = ("n = b[p]; p += 1", "if n > 127: n, p = _more(b, n, p)")


def compiled_reader(schema: Any) -> Reader:
    """Return a function that reads the record from an offset to the end of the bytes.

    `schema` is a parsed record without logical types, of the types that the project's schemas have. Raise
    NotImplementedError if it has another type.
    """
    symbols: dict[str, dict[int, str]] = {}
    body = [*_Unrolled(symbols).record(schema, "record"), "if p != len(b): raise ValueError", "return record"]
    source = "\n".join(["def read(b, p):", *_indented(body)])
    names: dict[str, Any] = {"_length": _length, "_more": _more, **symbols}
    exec(source, names)  # noqa: S102 - the source has only names from a schema of our own
    return names["read"]  # type: ignore[no-any-return]


_LONG_NUMBERS_MAX: Final = 10_000
_long_numbers: Final[dict[bytes, int]] = {}
"""By their eight bytes: a time in microseconds has so many, and all records of a batch may have the same time."""


def _more(value: bytes, low: int, at: int) -> tuple[int, int]:
    """Return a varint whose first byte is `low`, still in zigzag and of 63 bits at most, and the offset after it."""
    byte = value[at]
    if byte < 128:
        return low & 127 | byte << 7, at + 1
    eight = value[at - 1 : at + 7]
    known = _long_numbers.get(eight)
    if known is not None:
        return known, at + 7
    number, shift, start = low & 127, 7, at
    while True:
        byte = value[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            break
        if shift == _SHIFT_MAX:
            raise ValueError
        shift += 7
    if at == start + 7:
        if len(_long_numbers) == _LONG_NUMBERS_MAX:
            _long_numbers.clear()
        _long_numbers[eight] = number
    return number, at


def _length(value: bytes, low: int, at: int) -> tuple[int, int]:
    """Return the same for a length; raise ValueError if it is negative."""
    number, at = _more(value, low, at) if low > 127 else (low, at)
    if number & 1:
        raise ValueError
    return number, at


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]


class _Unrolled:
    """Yields the lines that read each type from `b` at `p` into a variable, and that move `p` past it."""

    def __init__(self, symbols: dict[str, dict[int, str]]) -> None:
        self._symbols = symbols
        self._numbers = count()

    def record(self, schema: Any, into: str) -> Iterator[str]:
        """Yield lines that read each field into its own variable, and put all fields into a dict."""
        members = []
        for field in schema["fields"]:
            variable = f"v{next(self._numbers)}"
            members.append(f"{field['name']!r}: {variable}")
            yield from self.value(field["type"], variable)
        yield f"{into} = {{{', '.join(members)}}}"

    def value(self, schema: Any, into: str) -> Iterator[str]:
        """Yield the lines that read one value of any type."""
        match schema:
            case "string" | "bytes":
                decoded = ".decode()" if schema == "string" else ""
                yield from (*_LENGTH, f"e = p + (n >> 1); {into} = b[p:e]{decoded}; p = e")
            case "int" | "long":
                yield from (*_LONG, f"{into} = (n >> 1) ^ -(n & 1)")
            case ["null", other]:
                yield from ("n = b[p]; p += 1", "if n == 2:", *_indented(self.value(other, into)))
                yield from ("elif n: raise ValueError", f"else: {into} = None")
            case {"type": "enum", "symbols": symbols} if len(symbols) <= _SYMBOLS_MAX:
                name = f"_symbols_{next(self._numbers)}"
                self._symbols[name] = {2 * index: symbol for index, symbol in enumerate(symbols)}
                yield f"{into} = {name}[b[p]]; p += 1"
            case {"type": "array", "items": items}:
                item = f"v{next(self._numbers)}"
                yield from self._block(into, "[]", [*self.value(items, item), f"{into}.append({item})"])
            case {"type": "map", "values": values}:
                key = f"v{next(self._numbers)}"
                yield from self._block(into, "{}", [*self.value("string", key), *self.value(values, f"{into}[{key}]")])
            case {"type": "string" | "bytes" | "int" | "long" as primitive}:
                yield from self.value(primitive, into)
            case {"type": "record"}:
                yield from self.record(schema, into)
            case _:
                raise NotImplementedError(f"{schema} cannot be compiled")

    @staticmethod
    def _block(into: str, empty: str, lines: list[str]) -> Iterator[str]:
        """Yield lines that read one block of up to 63 items, without a size in bytes or another block after it."""
        yield from (f"{into} = {empty}", "n = b[p]; p += 1", "if n:", "    if n & 129: raise ValueError")
        yield from ("    for _ in range(n >> 1):", *_indented(_indented(lines)))
        yield from ("    if b[p]: raise ValueError", "    p += 1")
