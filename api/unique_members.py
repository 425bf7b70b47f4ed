"""Members that stand twice in one JSON object: parsers differ in which one they keep, so such a body is refused."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from api.problems import Kind, Problem
from domain.screening import shown


class _Repeated(Exception):
    """A member stands twice in one object."""


def require_unique_members(raw: bytes, value: Any) -> None:
    """Problem if an object in a valid JSON text has a member twice, at any depth; `value` is what the text says.

    The parser that made the value keeps the last of two members and does not tell. A text with more quotes than its
    value has lost a member. Only such a text, or one with escapes, is read a second time, for 4 microseconds an intent.
    """
    if b"\\" not in raw:
        with suppress(orjson.JSONEncodeError):  # a number of more than 64 bits, or too many levels
            if raw.count(b'"') == orjson.dumps(value).count(b'"'):
                return
    try:
        _decode(raw.decode())
    except _Repeated as error:
        detail = f"The member {shown(error.args[0])} stands twice in one object: send it once."
        raise Problem(Kind.INVALID_JSON, detail) from error


def _check_pairs(pairs: Sequence[tuple[str, Any]]) -> None:
    if len(dict(pairs)) == len(pairs):
        return
    seen = set()
    for name, _ in pairs:
        if name in seen:
            raise _Repeated(name)
        seen.add(name)


def _skip_number(_text: str) -> None:
    """A number of any size, which is not looked at."""


_decode: Final = json.JSONDecoder(object_pairs_hook=_check_pairs, parse_int=_skip_number, strict=False).decode
