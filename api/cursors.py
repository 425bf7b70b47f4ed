"""Opaque cursors: where a list goes on. A cursor belongs to one list with one set of filters, and says so."""

import base64
import binascii
from hashlib import sha256
from typing import Any, Final

import orjson

from api.problems import Kind, Problem

_VERSION: Final = b"\x01"
_CHECK_BYTES: Final = 8
_CHARACTERS_MAX: Final = 1024


def _check(place: bytes, scope: tuple[Any, ...]) -> bytes:
    # Not a secret: it finds cursors that were cut, edited or carried to another list. What a tenant may see does not
    # hang on the cursor.
    return sha256(_VERSION + orjson.dumps(scope) + b"\x00" + place).digest()[:_CHECK_BYTES]


def encode_cursor(place: tuple[int | str, ...], scope: tuple[Any, ...]) -> str:
    """The cursor that goes on after `place` in the list named by `scope`: its name, tenant and filters."""
    body = orjson.dumps(place)
    return base64.urlsafe_b64encode(_VERSION + _check(body, scope) + body).rstrip(b"=").decode()


def decode_cursor(cursor: str, scope: tuple[Any, ...]) -> tuple[Any, ...]:
    """The place in the list; Problem where the cursor was not made by this API for this list and these filters."""
    invalid = Problem(
        Kind.INVALID_CURSOR, "Take the cursor from the `next` link of the same list, with the same filters, unchanged."
    )
    if len(cursor) > _CHARACTERS_MAX or not cursor.isascii():
        raise invalid
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise invalid from error
    version, check, body = raw[:1], raw[1 : 1 + _CHECK_BYTES], raw[1 + _CHECK_BYTES :]
    if version != _VERSION or check != _check(body, scope):
        raise invalid
    place = tuple(orjson.loads(body))
    if encode_cursor(place, scope) != cursor:  # base64 has several spellings of the same bytes; only ours is taken
        raise invalid
    return place
