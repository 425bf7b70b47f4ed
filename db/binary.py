"""Postgres' binary formats of the data that posting writes most: arrays for unnest, and entries for COPY.

psycopg adapts a list element by element in Python, which took a tenth of a posting worker's time. The layouts are
those of array_recv and of COPY's binary format (PostgreSQL documentation, "COPY", File Formats).
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any, ClassVar, Final, NamedTuple
from uuid import UUID

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

from domain.journal import JournalRow

COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
COPY_TRAILER: Final = struct.pack(">h", -1)
# Fields of an entry, each after its length: lane, seq, leg, account_id, direction, amount_minor, currency.
ENTRY: Final = struct.Struct(">h ii iq ih iq ih iq i")
ENTRY_FIELDS: Final = 7
_ARRAY: Final = struct.Struct(">iiIii")
LENGTH: Final = struct.Struct(">i")


class Bigints(NamedTuple):
    """A bigint[] parameter, without nulls."""

    values: Sequence[int]


class Texts(NamedTuple):
    """A text[] parameter, without nulls."""

    values: Sequence[str]


class TextFields(NamedTuple):
    """A text[] parameter of texts that `make_text_field` has encoded, so that a repeated text is encoded once."""

    values: Sequence[bytes]


class Uuids(NamedTuple):
    """A uuid[] parameter, without nulls."""

    values: Sequence[UUID]


class Overlong(ValueError):
    """A number that does not fit in 64 bits."""


_BIGINT_MAX: Final = 2**63 - 1


def make_numerics(values: Sequence[int]) -> Bigints | list[int]:
    """Return a numeric[] parameter of whole numbers from 0 on; as a bigint[], which is faster, if all of them fit."""
    return Bigints(values) if max(values, default=0) <= _BIGINT_MAX else list(values)


def make_text_field(text: str) -> bytes:
    """Return a text after its length, the form of an array's element."""
    data = text.encode()
    return LENGTH.pack(len(data)) + data


class _ArrayDumper(Dumper):
    format = Format.BINARY
    element_oid: ClassVar[int]

    def dump(self, obj: Any) -> bytes:
        header = _ARRAY.pack(1, 0, self.element_oid, len(obj.values), 1)
        return header + self.dump_elements(obj.values) if obj.values else _ARRAY.pack(0, 0, self.element_oid, 0, 0)[:12]

    def dump_elements(self, values: Sequence[Any]) -> bytes:
        raise NotImplementedError


class _BigintsDumper(_ArrayDumper):
    oid = 1016
    element_oid = 20

    def dump_elements(self, values: Sequence[int]) -> bytes:
        try:
            return struct.pack(">" + "iq" * len(values), *chain.from_iterable(zip(repeat(8), values, strict=False)))
        except struct.error as error:
            raise Overlong(str(error)) from error


class _TextsDumper(_ArrayDumper):
    oid = 1009
    element_oid = 25

    def dump_elements(self, values: Sequence[str]) -> bytes:
        encoded = [value.encode() for value in values]
        return b"".join(chain.from_iterable(zip(map(LENGTH.pack, map(len, encoded)), encoded, strict=True)))


class _TextFieldsDumper(_ArrayDumper):
    oid = 1009
    element_oid = 25

    def dump_elements(self, values: Sequence[bytes]) -> bytes:
        return b"".join(values)


class _UuidsDumper(_ArrayDumper):
    oid = 2951
    element_oid = 2950

    def dump_elements(self, values: Sequence[UUID]) -> bytes:
        prefix = LENGTH.pack(16)
        return prefix + prefix.join([value.bytes for value in values])


def register(connection: psycopg.BaseConnection[Any]) -> None:
    """Let this connection take Bigints, Texts, TextFields and Uuids as parameters."""
    connection.adapters.register_dumper(Bigints, _BigintsDumper)
    connection.adapters.register_dumper(Texts, _TextsDumper)
    connection.adapters.register_dumper(TextFields, _TextFieldsDumper)
    connection.adapters.register_dumper(Uuids, _UuidsDumper)


def make_entries(rows: Iterable[JournalRow], account_ids: Mapping[tuple[str, str], int]) -> bytes:
    """Return the rows' entries for `copy_entries`, without COPY's header and trailer.

    `account_ids` is keyed by tenant and address.
    """
    pack = ENTRY.pack
    parts = []
    for row in rows:
        lane, seq, tenant = row.lane, row.seq, row.tenant or ""
        for leg, (account, direction, amount_minor, currency) in enumerate(row.legs):
            code = currency.encode()
            account_id = account_ids[tenant, account]
            parts.append(
                pack(ENTRY_FIELDS, 4, lane, 8, seq, 2, leg, 8, account_id, 2, direction, 8, amount_minor, len(code))
            )
            parts.append(code)
    return b"".join(parts)
