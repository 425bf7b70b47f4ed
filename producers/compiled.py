"""Compile a schema to a function that writes its records in a quarter of fastavro's time.

The function is generated source code, as in `collections.namedtuple` and `dataclasses`. It writes plain records only.
It refuses others, such as a record that leaves a field to its default or has a long list, and fastavro handles those.
Its bytes are exactly those that fastavro writes; property tests check this.
"""

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Final

Writer = Callable[[dict[str, Any]], bytes]

REFUSALS: Final = (AttributeError, IndexError, KeyError, OverflowError, TypeError, UnicodeError)
"""The errors of a compiled writer for records that fastavro must write, or whose fault fastavro must name."""


def _varint(number: int) -> bytes:
    """Encode a number with seven bits in each byte, lowest first (Avro 1.11 specification, "Binary Encoding")."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


_LENGTHS: Final = tuple(_varint(2 * length) for length in range(4096))
"""Encoded lengths of texts and lists, by length. fastavro writes longer ones, where its extra time matters little."""
_PAIRS: Final = tuple(bytes((low | 128, high | 128)) for high in range(128) for low in range(128))
"""Two encoded bytes, by 14 bits of a number that has more bits after them."""


def _long(value: Any) -> bytes:
    """Encode a 64-bit integer in zigzag. Raise TypeError for all other types, even for bool."""
    if type(value) is not int:  # the parameter is Any: for int, mypyc would turn True into 1
        raise TypeError
    number: int = value
    if 0 <= number < 4096:
        return _LENGTHS[number]
    if not -(1 << 63) <= number < 1 << 63:
        raise OverflowError
    rest = number << 1 ^ number >> 63
    out = b""
    while rest > 0x3FFF:
        out += _PAIRS[rest & 0x3FFF]
        rest >>= 14
    return out + _varint(rest)


def _int(value: Any) -> bytes:
    """Encode a 32-bit integer like `_long`. Raise OverflowError if it is larger."""
    if not -(1 << 31) <= value < 1 << 31:
        raise OverflowError
    return _long(value)


def _text(value: str) -> bytes:
    """Encode a text as its length and its UTF-8 bytes."""
    data = value.encode()
    return _LENGTHS[len(data)] + data


def _data(value: bytes) -> bytes:
    if type(value) is not bytes:
        raise TypeError
    return _LENGTHS[len(value)] + value


_WRITERS: Final[dict[str, Callable[[Any], bytes]]] = {"string": _text, "bytes": _data, "int": _int, "long": _long}


def compiled_writer(schema: Any, prefix: bytes = b"") -> Writer:
    """Return a function that encodes a record as `prefix` and its Avro bytes.

    `schema`: a parsed record schema without logical types. Raise NotImplementedError if it has types that the project's
    schemas do not use.
    """
    names: dict[str, Any] = {write.__name__: write for write in _WRITERS.values()}
    names |= {"_counts": _LENGTHS, "_prefix": prefix}
    parts, lines = _Unrolled(names).record(schema, "record")
    source = "\n".join(
        ["def write(record):", *_indented(lines), f"    return b''.join((_prefix, {', '.join(parts)}))"],
    )
    exec(source, names)  # noqa: S102 - the source contains only names from our own schemas
    return names["write"]  # type: ignore[no-any-return]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]


class _Unrolled:
    """Makes the expressions for the bytes of each type, and the lines of code that must come before them."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names
        self._numbers = count()

    def record(self, schema: Any, value: str) -> tuple[list[str], list[str]]:
        """Return the code for the fields of a dict, in order. The code raises KeyError if a field is missing."""
        parts, lines = [], []
        for field in schema["fields"]:
            member, before = self.value(field["type"], f"{value}[{field['name']!r}]")
            parts += member
            lines += before
        return parts, lines

    def value(self, schema: Any, value: str) -> tuple[list[str], list[str]]:
        """Return the code for one value of any type: the expressions, and the lines before them."""
        match schema:
            case "string" | "bytes" | "int" | "long":
                return [f"{_WRITERS[schema].__name__}({value})"], []
            case {"type": "string" | "bytes" | "int" | "long" as primitive}:
                return self.value(primitive, value)
            case ["null", other]:
                variable = f"v{next(self._numbers)}"
                (part,), before = self.value(other, variable)
                if before:
                    raise NotImplementedError(f"{schema} cannot be compiled")
                return [f"b'\\0' if {variable} is None else b'\\2' + {part}"], [f"{variable} = {value}"]
            case {"type": "enum", "symbols": symbols}:
                name = f"_symbols_{next(self._numbers)}"
                self._names[name] = {symbol: _LENGTHS[index] for index, symbol in enumerate(symbols)}
                return [f"{name}[{value}]"], []
            case {"type": "array", "items": items}:
                item = f"v{next(self._numbers)}"
                parts, before = self.value(items, item)
                return self._block(value, f"{item} in {{}}", parts, before)
            case {"type": "map", "values": values}:
                key, member = f"v{next(self._numbers)}", f"v{next(self._numbers)}"
                parts, before = self.value(values, member)
                return self._block(value, f"{key}, {member} in {{}}.items()", [f"_text({key})", *parts], before)
            case {"type": "record"}:
                return self.record(schema, value)
        raise NotImplementedError(f"{schema} cannot be compiled")

    def _block(self, value: str, each: str, parts: list[str], before: list[str]) -> tuple[list[str], list[str]]:
        """Return the code that writes all items as one block and an empty end block; without items only the latter."""
        items, out = f"v{next(self._numbers)}", f"v{next(self._numbers)}"
        return [out], [
            f"{items} = {value}",
            f"{out} = b'\\0'",
            f"if len({items}):",
            f"    {out} = [_counts[len({items})]]",
            f"    for {each.format(items)}:",
            *_indented(_indented([*before, f"{out} += ({', '.join(parts)},)"])),
            f"    {out} = b''.join({out}) + b'\\0'",
        ]
