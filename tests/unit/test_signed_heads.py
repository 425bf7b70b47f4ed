"""The bytes that posting signs, the rules by which audit judges them, and receipts that any change makes invalid."""

import copy
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.merkle import compute_root
from domain.signed_heads import SignedHead, make_head_bytes, make_receipt
from streams.proof.audit.receipts import check_receipt
from streams.proof.audit.signatures import PostingKeys, judge
from streams.proof.audit.verifier import RECORD_MEMBERS, Refused

KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER: Final = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"1")


class Keys(PostingKeys):
    """Posting keys that hold one key without a file."""

    def __init__(self) -> None:
        super().__init__(None)
        self._keys = [KEY.public_key()]


def hashes(first_seq: int, next_seq: int) -> bytes:
    return b"".join(sha256(bytes([seq])).digest() for seq in range(first_seq, next_seq))


def signed(first_seq: int, next_seq: int, key: Ed25519PrivateKey = KEY, lane: int = 3) -> SignedHead:
    message = make_head_bytes(lane, first_seq, hashes(first_seq, next_seq))
    return SignedHead(3, first_seq, next_seq, key.sign(message))


def test_the_signed_bytes_are_the_documented_ones() -> None:
    joined = hashes(5, 22)
    members = {
        "format": "ledgerline-head-1",
        "lane": 3,
        "first_seq": 5,
        "next_seq": 22,
        "head": joined[-32:].hex(),
        "records_root": compute_root([joined[: 16 * 32], joined[16 * 32 :]]).hex(),
    }
    assert make_head_bytes(3, 5, joined) == rfc8785.dumps(members)


# The judged range so far, the signed heads, the ranges with findings, and the judged range afterwards.
CASES: Final[list[tuple[Any, list[SignedHead], list[str], Any]]] = [
    ((None, None), [], [], (None, None)),
    ((0, 0), [signed(0, 2), signed(2, 3)], [], (0, 3)),
    ((None, None), [signed(4, 6)], [], (4, 6)),
    ((0, 2), [signed(2, 6)], [], (0, 6)),
    ((0, 2), [signed(3, 6)], ["seq 2"], (0, 6)),
    ((0, 2), [signed(4, 6)], ["seq 2 to 3"], (0, 6)),
    ((0, 2), [signed(1, 6)], ["seq 1 to 5"], (0, 6)),
    ((0, 2), [signed(2, 6, OTHER)], ["seq 2 to 5"], (0, 6)),
    ((0, 2), [signed(2, 6, lane=4)], ["seq 2 to 5"], (0, 6)),
    ((0, 2), [signed(2, 6)._replace(next_seq=7)], ["seq 2 to 6"], (0, 7)),
    ((0, 2), [signed(2, 4)._replace(signature=b"")], ["seq 2 to 3"], (0, 4)),
    ((0, 2), [signed(2, 3)._replace(first_seq=-1)], ["seq 2"], (0, 2)),
    ((0, 2), [signed(2, 3)._replace(first_seq=3)], ["seq 2"], (0, 2)),
    ((0, 2), [SignedHead(3, 2, 2_000_000, b"")], ["seq 1999999"], (0, 2)),
]


@pytest.mark.parametrize(("covered", "heads", "found", "after"), CASES)
def test_signatures_must_cover_a_lane_range_by_range(
    covered: Any, heads: list[SignedHead], found: list[str], after: Any
) -> None:
    judged = judge(3, covered, heads, hashes, Keys())
    assert [finding.subject for finding in judged.findings] == [f"lane 3 {subject}" for subject in found]
    assert (judged.first_seq, judged.next_seq) == after


# ---------------------------------------------------------------------------------------------------- receipts


def made(seq: int, next_seq: int = 40) -> dict[str, Any]:
    """Return the receipt of one record from a range that begins at seq 3."""
    record = {**dict.fromkeys(RECORD_MEMBERS, "x"), "lane": 3, "seq": seq}
    own = sha256(bytes(32) + rfc8785.dumps(record)).digest()
    joined = hashes(3, seq) + own + hashes(seq + 1, next_seq)
    return make_receipt(record, bytes(32), SignedHead(3, 3, next_seq, KEY.sign(make_head_bytes(3, 3, joined))), joined)


def altered(part: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the place of each value within a part, with another value to put there."""
    if isinstance(part, dict):
        for name, value in part.items():
            yield from altered(value, (*at, name))
    elif isinstance(part, list):
        yield (*at, len(part)), None
        for number, value in enumerate(part):
            yield from altered(value, (*at, number))
    elif isinstance(part, str):
        yield at, part[:-1] + ("0" if part[-1:] != "0" else "1")
        yield at, part.upper() if part.upper() != part else part + "a"
        yield at, 7
    else:
        yield at, part + 1
        yield at, str(part)


@pytest.mark.parametrize("seq", [3, 18, 19, 34, 38, 39])
def test_a_receipt_holds_and_no_part_of_it_can_be_changed(seq: int) -> None:
    receipt = made(seq)
    assert check_receipt(receipt, [OTHER.public_key(), KEY.public_key()])["seq"] == seq
    for place, value in altered(receipt):
        changed = copy.deepcopy(receipt)
        part = changed
        for name in place[:-1]:
            part = part[name]
        if isinstance(part, list) and place[-1] == len(part):
            part.append("00" * 32)
        else:
            part[place[-1]] = value
        with pytest.raises(Refused):
            check_receipt(changed, [KEY.public_key()])


@pytest.mark.parametrize("receipt", [None, [], {}, {**made(3), "more": 1}, {**made(3), "page": None}])
def test_what_is_no_receipt_is_refused(receipt: Any) -> None:
    with pytest.raises(Refused):
        check_receipt(receipt, [KEY.public_key()])


def test_a_receipt_needs_a_key_that_signed_it() -> None:
    for keys in ([], [OTHER.public_key()]):
        with pytest.raises(Refused):
            check_receipt(made(7), keys)
