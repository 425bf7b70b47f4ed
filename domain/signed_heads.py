"""The lane heads that posting signs, one for each batch of a lane, and the receipts that are based on them.

docs/PROOF.md has both formats. A signature covers every hash of the batch and, because hashes are chained, all hashes
before it.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from domain.merkle import HASH_BYTES, compute_inclusion_path, compute_root

FORMAT: Final = "ledgerline-head-1"
RECEIPT_FORMAT: Final = "ledgerline-receipt-1"
PAGE_HASHES: Final = 16
"""Hashes in one leaf of a batch's tree. With one hash per leaf, the trees would cost posting 2 percent."""
PAGE_BYTES: Final = PAGE_HASHES * HASH_BYTES


class SignedHead(NamedTuple):
    """Posting's signature over the records from first_seq to next_seq - 1 of a lane."""

    lane: int
    first_seq: int
    next_seq: int
    signature: bytes
    """64 bytes, Ed25519 (RFC 8032)."""


def split_pages(hashes: bytes) -> list[bytes]:
    """Return the leaves of the tree over a range: its hashes joined, PAGE_HASHES per leaf; the last may have fewer."""
    return [hashes[at : at + PAGE_BYTES] for at in range(0, len(hashes), PAGE_BYTES)]


def make_head_members(lane: int, first_seq: int, hashes: bytes) -> dict[str, Any]:
    """Return the members that are signed for a range; hashes in hex. `hashes`: the range's record hashes, joined."""
    return {
        "first_seq": first_seq,
        "format": FORMAT,
        "head": hashes[-HASH_BYTES:].hex(),
        "lane": lane,
        "next_seq": first_seq + len(hashes) // HASH_BYTES,
        "records_root": compute_root(split_pages(hashes)).hex(),
    }


def make_head_bytes(lane: int, first_seq: int, hashes: bytes) -> bytes:
    """Return the bytes that are signed: the canonical JSON (RFC 8785) of `make_head_members`."""
    # The members are in order, and all are integers or plain ASCII, so orjson writes what RFC 8785 asks for.
    return orjson.dumps(make_head_members(lane, first_seq, hashes))


def is_signed(message: bytes, signature: bytes, keys: Sequence[Ed25519PublicKey]) -> bool:
    """Return whether one of these keys has signed the message."""
    for key in keys:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            continue
        return True
    return False


def make_receipt(record: dict[str, Any], previous_hash: bytes, head: SignedHead, hashes: bytes) -> dict[str, Any]:
    """Return the receipt of a record in a signed range; docs/PROOF.md has the format.

    `record`: the members that its hash covers besides `previous_hash`. `hashes`: the range's record hashes, joined.
    """
    at = record["seq"] - head.first_seq
    pages = split_pages(hashes)
    index = at // PAGE_HASHES
    return {
        "format": RECEIPT_FORMAT,
        "record": record,
        "previous_hash": previous_hash.hex(),
        "hash": hashes[at * HASH_BYTES : (at + 1) * HASH_BYTES].hex(),
        "page": [pages[index][at : at + HASH_BYTES].hex() for at in range(0, len(pages[index]), HASH_BYTES)],
        "place": {
            "index": index,
            "size": len(pages),
            "path": [step.hex() for step in compute_inclusion_path(pages, index)],
        },
        "signed": make_head_members(head.lane, head.first_seq, hashes),
        "signature": head.signature.hex(),
    }
