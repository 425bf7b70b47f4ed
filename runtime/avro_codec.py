"""Read and write records of our own Avro schemas. It is several times as fast as fastavro, and runs for every message.

A schema becomes a tree: each of its types is an object that reads and writes values of this type (Avro 1.11
specification, "Binary Encoding"). The codec knows the types that our schemas use, and the bytes that encoders write.
It refuses all others, and fastavro then judges them. So a codec either agrees with fastavro or refuses. Property tests
check that, with hostile bytes too.
"""

import sys
from typing import Any, Final

REFUSALS: Final = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""The errors of a codec for bytes or records that fastavro must judge."""

_LONG_BITS: Final = 64


def _encode_varint(number: int) -> bytes:
    """Return a number in seven bits a byte, lowest first. All bytes but the last have the highest bit set."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


_VARINTS: Final = tuple(_encode_varint(number) for number in range(1 << 14))
_MIDDLES: Final = tuple(bytes((number & 127 | 128, number >> 7 | 128)) for number in range(1 << 14))
"""The two bytes of 14 bits of a number that has more bits after them."""


def _write_long(number: int, out: list[bytes]) -> None:
    """Append a 64-bit integer in zigzag: 0, -1, 1, -2 become 0, 1, 2, 3."""
    rest = number << 1 if number >= 0 else ~(number << 1)
    if rest >> _LONG_BITS:
        raise OverflowError
    while rest > 0x3FFF:
        out.append(_MIDDLES[rest & 0x3FFF])
        rest >>= 14
    out.append(_VARINTS[rest])


def _read_long(data: bytes, at: int) -> tuple[int, int]:
    """Return the 64-bit integer at an offset, and the offset after it. Raise ValueError if it has more bits."""
    byte = data[at]
    at += 1
    if byte < 128:  # almost every length, count and branch
        return ~(byte >> 1) if byte & 1 else byte >> 1, at
    number = byte & 127
    shift = 7
    while byte > 127:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        shift += 7
        if shift > _LONG_BITS and (byte > 127 or number >> _LONG_BITS):
            raise ValueError
    return number >> 1 ^ -(number & 1), at


def _read_size(data: bytes, at: int) -> tuple[int, int]:
    """Read a length. Return where its bytes begin and end, and raise ValueError if `data` ends before them."""
    length = data[at]
    if length & 129:  # more than one byte, or negative
        length, at = _read_long(data, at)
        if length < 0:
            raise ValueError
    else:
        length >>= 1
        at += 1
    end = at + length
    if end > len(data):
        raise ValueError
    return at, end


class _Type:
    """One type of a schema. Its methods raise one of REFUSALS if fastavro must judge the bytes or the value."""

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        """Return the value at an offset, and the offset after it."""
        raise NotImplementedError

    def write(self, value: Any, out: list[bytes]) -> None:
        """Append the bytes of the value."""
        raise NotImplementedError


class _Text(_Type):
    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        start, end = _read_size(data, at)
        return data[start:end].decode(), end

    def write(self, value: Any, out: list[bytes]) -> None:
        text: str = value
        data = text.encode()
        _write_long(len(data), out)
        out.append(data)


class _Bytes(_Type):
    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        start, end = _read_size(data, at)
        return data[start:end], end

    def write(self, value: Any, out: list[bytes]) -> None:
        if type(value) is not bytes:
            raise TypeError
        _write_long(len(value), out)
        out.append(value)


class _Integer(_Type):
    def __init__(self, bits: int) -> None:
        self._max = (1 << bits - 1) - 1

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        return _read_long(data, at)

    def write(self, value: Any, out: list[bytes]) -> None:
        if type(value) is not int:  # without this check, mypyc would turn True into 1
            raise TypeError
        number: int = value
        if not ~self._max <= number <= self._max:
            raise OverflowError
        _write_long(number, out)


class _Enumeration(_Type):
    def __init__(self, symbols: list[str]) -> None:
        self._symbols = [sys.intern(symbol) for symbol in symbols]
        self._numbers = {symbol: _VARINTS[2 * number] for number, symbol in enumerate(symbols)}

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        number, at = _read_long(data, at)
        if number < 0:
            raise ValueError
        return self._symbols[number], at

    def write(self, value: Any, out: list[bytes]) -> None:
        out.append(self._numbers[value])


class _Optional(_Type):
    """A union of null and another type, in this order."""

    def __init__(self, other: _Type) -> None:
        self._other = other

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        branch = data[at]
        if branch == 0:
            return None, at + 1
        if branch == 2:
            return self._other.read(data, at + 1)
        raise ValueError

    def write(self, value: Any, out: list[bytes]) -> None:
        if value is None:
            out.append(b"\0")
        else:
            out.append(b"\2")
            self._other.write(value, out)


class _Array(_Type):
    """Items in blocks: each block begins with its count, and a count of 0 ends the array."""

    def __init__(self, items: _Type) -> None:
        self._items = items

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        values: list[Any] = []
        count, at = _read_long(data, at)
        while count:
            if count < 0:  # the size of the block in bytes follows
                raise ValueError
            for _ in range(count):
                value, at = self._items.read(data, at)
                values.append(value)
            count, at = _read_long(data, at)
        return values, at

    def write(self, value: Any, out: list[bytes]) -> None:
        if type(value) is not list:
            raise TypeError
        if value:
            _write_long(len(value), out)
            for item in value:
                self._items.write(item, out)
        out.append(b"\0")


class _Map(_Type):
    """Pairs of a text and a value, in blocks like those of an array."""

    def __init__(self, values: _Type) -> None:
        self._keys = _Text()
        self._values = values

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        members: dict[str, Any] = {}
        count, at = _read_long(data, at)
        while count:
            if count < 0:  # the size of the block in bytes follows
                raise ValueError
            for _ in range(count):
                key, at = self._keys.read(data, at)
                members[key], at = self._values.read(data, at)
            count, at = _read_long(data, at)
        return members, at

    def write(self, value: Any, out: list[bytes]) -> None:
        if type(value) is not dict:
            raise TypeError
        if value:
            _write_long(len(value), out)
            for key, member in value.items():
                self._keys.write(key, out)
                self._values.write(member, out)
        out.append(b"\0")


class _Field:
    def __init__(self, name: str, type_: _Type) -> None:
        # A dict finds an interned key by its address, without a comparison of texts.
        self.name = sys.intern(name)
        self.type = type_


class _Record(_Type):
    """A dict with all fields of the schema. Other members are not written, as by fastavro."""

    def __init__(self, fields: list[_Field]) -> None:
        self._fields = fields

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        record: dict[str, Any] = {}
        for field in self._fields:
            record[field.name], at = field.type.read(data, at)
        return record, at

    def write(self, value: Any, out: list[bytes]) -> None:
        record: dict[str, Any] = value
        for field in self._fields:
            field.type.write(record[field.name], out)


class Codec:
    """Reads and writes the records of one schema."""

    def __init__(self, schema: Any) -> None:
        """Take a parsed schema without logical types. Raise NotImplementedError if it has a type that we do not use."""
        self._record = _make_type(schema)

    def read(self, data: bytes, at: int) -> dict[str, Any]:
        """Return the record that begins at an offset and ends with `data`; raise one of REFUSALS if there is none."""
        record, end = self._record.read(data, at)
        if end != len(data):
            raise ValueError
        return record  # type: ignore[no-any-return]

    def write(self, record: dict[str, Any], prefix: bytes = b"") -> bytes:
        """Return `prefix` and the record's bytes; raise one of REFUSALS if a field is missing or has another type."""
        out = [prefix]
        self._record.write(record, out)
        return b"".join(out)


def _make_type(schema: Any) -> _Type:
    match schema:
        case "string":
            return _Text()
        case "bytes":
            return _Bytes()
        case "int":
            return _Integer(32)
        case "long":
            return _Integer(64)
        case ["null", other]:
            return _Optional(_make_type(other))
        case {"type": "enum", "symbols": symbols}:
            return _Enumeration(symbols)
        case {"type": "array", "items": items}:
            return _Array(_make_type(items))
        case {"type": "map", "values": values}:
            return _Map(_make_type(values))
        case {"type": "record", "fields": fields}:
            return _Record([_Field(field["name"], _make_type(field["type"])) for field in fields])
        case {"type": "string" | "bytes" | "int" | "long" as primitive}:
            return _make_type(primitive)
    raise NotImplementedError(f"{schema} is not a type of the codec")
