"""Sign the head of each batch of a lane with posting's own key: docs/decisions/0020-signed-heads.md."""

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final

from domain.journal import JournalRow
from domain.signed_heads import SignedHead, make_head_bytes
from runtime.key_files import SigningKey

Sign = Callable[[Sequence[JournalRow]], dict[int, SignedHead]]

_get_lane: Final = attrgetter("lane")
_get_hash: Final = attrgetter("hash")


def sign_nothing(rows: Sequence[JournalRow]) -> dict[int, SignedHead]:  # noqa: ARG001 - another Sign needs them
    """Return no signatures: the worker has no key."""
    return {}


def make_sign(key: SigningKey) -> Sign:
    """Return a function from a batch's rows, in order of lane and seq, to a signature for each of its lanes."""

    def sign(rows: Sequence[JournalRow]) -> dict[int, SignedHead]:
        signed = {}
        for lane, group in groupby(rows, key=_get_lane):
            own = list(group)
            first_seq = own[0].seq
            signature = key.private.sign(make_head_bytes(lane, first_seq, b"".join(map(_get_hash, own))))
            signed[lane] = SignedHead(lane, first_seq, first_seq + len(own), signature)
        return signed

    return sign
