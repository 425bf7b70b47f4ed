"""A schema compiled to a function that writes its records: a quarter of fastavro's time, for what is written all day.

The function is unrolled, as `collections.namedtuple` and `dataclasses` make theirs. It writes plain records only and
refuses the rest, such as a field left to its default or a long list: fastavro judges those. What it writes is byte for
byte what fastavro would write, which property tests hold it to.
"""

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Final

Writer = Callable[[dict[str, Any]], bytes]

REFUSALS: Final = (AttributeError, IndexError, KeyError, OverflowError, TypeError, UnicodeError)
"""What a compiled writer raises where fastavro has to write the record, or to say what is wrong with it."""


def _varint(number: int) -> bytes:
    """Seven bits a byte, lowest first (Avro 1.11 specification, "Binary Encoding")."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


_LENGTHS: Final = tuple(_varint(2 * length) for length in range(4096))
"""By the length of a text or a list; whoever has a longer one has time for fastavro."""
_PAIRS: Final = tuple(bytes((low | 128, high | 128)) for high in range(128) for low in range(128))
"""By 14 bits of a number that goes on behind them."""


def _long(value: Any) -> bytes:
    """An integer of 64 bits in zigzag; nothing that merely counts as one, such as True."""
    if type(value) is not int:  # asked of Any: mypyc makes a 1 of the True that is given for an int
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
    """The same of 32 bits."""
    if not -(1 << 31) <= value < 1 << 31:
        raise OverflowError
    return _long(value)


def _text(value: str) -> bytes:
    """UTF-8 behind its length."""
    data = value.encode()
    return _LENGTHS[len(data)] + data


def _data(value: bytes) -> bytes:
    if type(value) is not bytes:
        raise TypeError
    return _LENGTHS[len(value)] + value


_WRITERS: Final[dict[str, Callable[[Any], bytes]]] = {"string": _text, "bytes": _data, "int": _int, "long": _long}


def compiled_writer(schema: Any, prefix: bytes = b"") -> Writer:
    """A function from a record to `prefix` and its bytes.

    `schema`: a parsed record without logical types, of the types that the project's schemas have.
    """
    names: dict[str, Any] = {write.__name__: write for write in _WRITERS.values()}
    names |= {"_counts": _LENGTHS, "_prefix": prefix}
    parts, lines = _Unrolled(names).record(schema, "record")
    source = "\n".join(
        ["def write(record):", *_indented(lines), f"    return b''.join((_prefix, {', '.join(parts)}))"],
    )
    exec(source, names)  # noqa: S102 - made of nothing but the names in a schema of our own
    return names["write"]  # type: ignore[no-any-return]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]


class _Unrolled:
    """Expressions for the bytes of each type, and the lines that must come before them."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names
        self._numbers = count()

    def record(self, schema: Any, value: str) -> tuple[list[str], list[str]]:
        """The fields' bytes in order, of a dict; a field that is missing is a KeyError."""
        parts, lines = [], []
        for field in schema["fields"]:
            member, before = self.value(field["type"], f"{value}[{field['name']!r}]")
            parts += member
            lines += before
        return parts, lines

    def value(self, schema: Any, value: str) -> tuple[list[str], list[str]]:
        """What stands for one value of any type."""
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
        """All items in one block, and the empty one that ends them; nothing but the latter where there are none."""
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
