"""Opaque cursors: the place where a list continues. A cursor holds for one list with one set of filters only.

A cursor is authenticated with a secret of the ledger (HMAC-SHA-256, RFC 2104), so only the API can make one. Each list
states the types of the values in its cursor's place, so a release that changes these types refuses older cursors.
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

ListName = tuple[Any, ...]
"""The list that a cursor belongs to: its name, the tenant, and the filters."""
Place = tuple[int | str, ...]
"""A place in a list: the values of its order."""
Shape = tuple[type[int] | type[str], ...]
"""The types of the values in a place, in order."""


class Cursors:
    """Makes and reads the cursors of one ledger."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def _make_tag(self, body: bytes, name: ListName) -> bytes:
        # JSON holds no zero byte, so two different pairs of name and body cannot give the same message.
        return hmac.digest(self._secret, _VERSION + orjson.dumps(name) + b"\x00" + body, "sha256")[:_TAG_BYTES]

    def encode(self, place: Place, name: ListName) -> str:
        """Return the cursor that continues after `place` in the list `name`."""
        body = orjson.dumps(place)
        return base64.urlsafe_b64encode(_VERSION + self._make_tag(body, name) + body).rstrip(b"=").decode()

    def decode(self, cursor: str, name: ListName, shape: Shape) -> tuple[Any, ...]:
        """Return the cursor's place. Raise Problem unless this ledger's API made it for this list and these filters."""
        place = self._parse_place(cursor, name)
        if place is None or not _has_shape(place, shape):
            raise Problem(
                Kind.INVALID_CURSOR,
                "Take the cursor from the `next` link of the same list, with the same filters, unchanged.",
            )
        return place

    def _parse_place(self, cursor: str, name: ListName) -> tuple[Any, ...] | None:
        if len(cursor) > _CHARACTERS_MAX or not cursor.isascii():
            return None
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            return None
        tag, body = raw[1 : 1 + _TAG_BYTES], raw[1 + _TAG_BYTES :]
        if raw[:1] != _VERSION or not hmac.compare_digest(tag, self._make_tag(body, name)):
            return None
        # Base64 can write the same bytes in several ways; accept only the way that `encode` writes.
        if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != cursor:
            return None
        return tuple(orjson.loads(body))


def _has_shape(place: tuple[Any, ...], shape: Shape) -> bool:
    if len(place) != len(shape):
        return False
    # Compare types without isinstance: bool is a subclass of int.
    return all(type(value) is wanted for value, wanted in zip(place, shape, strict=True)) and all(
        abs(value) <= _INTEGER_MAX for value in place if isinstance(value, int)
    )
