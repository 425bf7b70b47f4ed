"""Opaque cursors: where a list goes on. A cursor belongs to one list with one set of filters, and says so.

A cursor is authenticated with a secret of the ledger (HMAC-SHA-256, RFC 2104), so only the API can make one. Each list
names the types of its cursor's place, so a release that changes a list refuses the cursors of the release before.
"""

import base64
import binascii
import hmac
from typing import Any, Final

import orjson

from api.problems import Kind, Problem

_VERSION: Final = b"\x02"
_TAG_BYTES: Final = 16
_CHARACTERS_MAX: Final = 1024
_INTEGER_MAX: Final = 2**63 - 1

Scope = tuple[Any, ...]
"""What a cursor belongs to: the list's name, the tenant, and the filters."""
Shape = tuple[type[int] | type[str], ...]
"""The types of a place, in order."""


class Cursors:
    """Makes and reads the cursors of one ledger."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def _tag(self, body: bytes, scope: Scope) -> bytes:
        # JSON holds no zero byte, so no other pair of scope and body gives the same message.
        return hmac.digest(self._secret, _VERSION + orjson.dumps(scope) + b"\x00" + body, "sha256")[:_TAG_BYTES]

    def encode(self, place: tuple[int | str, ...], scope: Scope) -> str:
        """The cursor that goes on after `place` in the list named by `scope`."""
        body = orjson.dumps(place)
        return base64.urlsafe_b64encode(_VERSION + self._tag(body, scope) + body).rstrip(b"=").decode()

    def decode(self, cursor: str, scope: Scope, shape: Shape) -> tuple[Any, ...]:
        """The place in the list; Problem unless this ledger's API made the cursor for this list and these filters."""
        place = self._place(cursor, scope)
        if place is None or not _has_shape(place, shape):
            raise Problem(
                Kind.INVALID_CURSOR,
                "Take the cursor from the `next` link of the same list, with the same filters, unchanged.",
            )
        return place

    def _place(self, cursor: str, scope: Scope) -> tuple[Any, ...] | None:
        if len(cursor) > _CHARACTERS_MAX or not cursor.isascii():
            return None
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            return None
        tag, body = raw[1 : 1 + _TAG_BYTES], raw[1 + _TAG_BYTES :]
        if raw[:1] != _VERSION or not hmac.compare_digest(tag, self._tag(body, scope)):
            return None
        # Base64 has several spellings of the same bytes; only ours is taken.
        if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != cursor:
            return None
        return tuple(orjson.loads(body))


def _has_shape(place: tuple[Any, ...], shape: Shape) -> bool:
    if len(place) != len(shape):
        return False
    # bool is a subclass of int, so the types are compared and not asked for isinstance.
    return all(type(value) is wanted for value, wanted in zip(place, shape, strict=True)) and all(
        abs(value) <= _INTEGER_MAX for value in place if isinstance(value, int)
    )
