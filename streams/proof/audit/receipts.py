"""Receipts: checks posting's signature over a record with the public key alone, and against today's ledger."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from db import audit as db
from db.agent_connection import open_snapshot
from domain.signed_heads import FORMAT, PAGE_HASHES, RECEIPT_FORMAT, is_signed
from domain.stored_records import join_legs
from streams.proof.audit.chain import ABSENT
from streams.proof.audit.stored import compute_stored_hash, find_row_fault
from streams.proof.audit.verifier import RECORD_MEMBERS, Refused, check_members, climb, decode_hash, make_canonical

_MEMBERS: Final = frozenset(("format", "record", "previous_hash", "hash", "page", "place", "signed", "signature"))
_SIGNED_MEMBERS: Final = frozenset(("format", "lane", "first_seq", "next_seq", "head", "records_root"))


class LedgerToday(NamedTuple):
    """The result of comparing a receipt with today's ledger."""

    faults: list[str]
    """One sentence for each difference; none if the receipt holds."""
    is_published: bool
    """Whether audit has its copy of the whole signed range."""


def check_receipt(receipt: Any, keys: Sequence[Ed25519PublicKey]) -> dict[str, Any]:
    """Check every part of a receipt and return its record; raise Refused if a part does not hold.

    1. the record and the hash before it give the record's hash;
    2. the hash stands in its page, at the record's place in the signed range;
    3. page and path give the signed root; the last record's hash is the signed head;
    4. one of the keys signed the range, head and root.
    """
    check_members(receipt, "receipt", _MEMBERS)
    record, signed, page = receipt["record"], receipt["signed"], receipt["page"]
    check_members(record, "record", RECORD_MEMBERS)
    check_members(signed, "signed head", _SIGNED_MEMBERS)
    check_members(receipt["place"], "place", {"index", "size", "path"})
    if (receipt["format"], signed["format"]) != (RECEIPT_FORMAT, FORMAT):
        raise Refused(f"The receipt's formats are not {RECEIPT_FORMAT} and {FORMAT}.")
    record_hash = sha256(decode_hash(receipt["previous_hash"], "previous_hash") + make_canonical(record)).digest()
    if record_hash != decode_hash(receipt["hash"], "hash"):
        raise Refused("The record is not the one that was hashed.")
    _check_place(receipt, record_hash)
    joined = b"".join(decode_hash(text, "page") for text in page)
    if climb(joined, receipt["place"]) != decode_hash(signed["records_root"], "records_root"):
        raise Refused("The path from the record does not lead to the root that is signed.")
    if signed["next_seq"] == record["seq"] + 1 and decode_hash(signed["head"], "head") != record_hash:
        raise Refused("The head that is signed is not the last record's hash.")
    try:
        signature = bytes.fromhex(receipt["signature"])
    except (TypeError, ValueError) as error:
        raise Refused("The signature is no hex.") from error
    if signature.hex() != receipt["signature"] or not is_signed(make_canonical(signed), signature, keys):
        raise Refused("The signature is not that of posting's key.")
    return dict(record)


def _check_place(receipt: dict[str, Any], record_hash: bytes) -> None:
    record, signed, page, place = receipt["record"], receipt["signed"], receipt["page"], receipt["place"]
    numbers = (record["lane"], record["seq"], signed["lane"], signed["first_seq"], signed["next_seq"])
    if not all(type(number) is int for number in numbers) or not isinstance(page, list):
        raise Refused("A lane or sequence number is no integer, or the page is no list.")
    if record["lane"] != signed["lane"] or not signed["first_seq"] <= record["seq"] < signed["next_seq"]:
        raise Refused("The record does not lie in the signed range.")
    index, at = divmod(record["seq"] - signed["first_seq"], PAGE_HASHES)
    records = signed["next_seq"] - signed["first_seq"]
    pages = -(-records // PAGE_HASHES)
    size = min(PAGE_HASHES, records - index * PAGE_HASHES)
    if (place["index"], place["size"], len(page)) != (index, pages, size) or page[at] != record_hash.hex():
        raise Refused("The record's place in the page or in the tree is not its place in the signed range.")


def hold_against(dsn: str, receipt: dict[str, Any]) -> LedgerToday:
    """Compare a receipt that `check_receipt` passed with audit's copy of the topic, and with the tables."""
    record, signed = receipt["record"], receipt["signed"]
    lane, seq = record["lane"], record["seq"]
    with open_snapshot(dsn, db.ROLE) as connection:
        kept = db.read_hashes(connection, lane, signed["first_seq"], signed["next_seq"])
        rows, legs = db.read_stored_rows(connection, lane, seq, seq + 1)
    expected = {seq: bytes.fromhex(receipt["hash"]), signed["next_seq"] - 1: bytes.fromhex(signed["head"])}
    faults = []
    for number, value in sorted(expected.items()):
        at = (number - signed["first_seq"]) * db.HASH_BYTES
        copy = kept[at : at + db.HASH_BYTES]
        if copy and copy not in (value, ABSENT):
            what = "this record" if number == seq else f"the head at seq {number}"
            faults.append(f"The journal has {what} with another hash than posting signed.")
    found = list(join_legs(rows, legs))
    if not found:
        faults.append("The ledger has no row there.")
    for row, row_legs in found:
        content_hash = compute_stored_hash(lane, row, row_legs, bytes.fromhex(receipt["previous_hash"]))
        if find_row_fault(row, content_hash, len(row_legs), expected[seq]) is not None:
            faults.append("The ledger has another row there than posting signed.")
    return LedgerToday(faults, len(kept) == (signed["next_seq"] - signed["first_seq"]) * db.HASH_BYTES)
