"""Checks an inclusion proof with nothing but the proof and a public key.

The file stands alone: it imports the standard library, `cryptography` and `rfc8785`, and no module of Ledgerline, so it
can be copied to other machines. docs/PROOF.md has the format, for a verifier in another language.

    python -m streams.proof.audit.verifier PROOF.json --public-key audit-key.pub.pem
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

FORMAT = "ledgerline-proof-1"
HASH_BYTES = 32
RECORD_MEMBERS = frozenset(
    (
        *(
            "booked_time",
            "detail",
            "fingerprint",
            "idempotency_key",
            "intent_id",
            "lane",
            "legs",
            "metadata",
            "outcome",
        ),
        *("reason", "reference", "reverses", "seq", "source_offset", "source_topic", "tenant", "type", "value_time"),
    )
)
PROOF_MEMBERS = frozenset(("format", "record", "previous_hash", "hash", "records", "lane", "lanes", "checkpoint"))
LANE_MEMBERS = frozenset(("lane", "first_seq", "next_seq", "head", "records_root"))
CHECKPOINT_MEMBERS = frozenset(("checkpoint", "previous_hash", "lanes", "root", "signed_time", "key_id", "signature"))


class Refused(Exception):
    """The proof or receipt does not hold; the text is one sentence that names the faulty part."""


def verify(proof: Any, public_key: Ed25519PublicKey) -> dict[str, Any]:
    """Check every part of a proof and return the record that it proves; raise Refused if a part does not hold.

    1. the record and the hash before it give the record's hash;
    2. the hash and its path give the Merkle root over the lane's records, which the lane's head names;
    3. the lane's head and its path give the root over all lanes, which the checkpoint names;
    4. the public key signed the checkpoint.
    """
    check_members(
        proof, "proof", {"format", "record", "previous_hash", "hash", "records", "lane", "lanes", "checkpoint"}
    )
    if proof["format"] != FORMAT:
        raise Refused(f"The proof's format is not {FORMAT}.")
    record, lane, checkpoint = proof["record"], proof["lane"], proof["checkpoint"]
    check_members(record, "record", RECORD_MEMBERS)
    check_members(lane, "lane", LANE_MEMBERS)
    check_members(checkpoint, "checkpoint", CHECKPOINT_MEMBERS)
    record_hash = sha256(decode_hash(proof["previous_hash"], "previous_hash") + make_canonical(record)).digest()
    if record_hash != decode_hash(proof["hash"], "hash"):
        raise Refused("The record is not the one that was hashed.")
    _check_place(proof, record, lane)
    if climb(record_hash, proof["records"]) != decode_hash(lane["records_root"], "records_root"):
        raise Refused("The path from the record does not lead to the lane's root.")
    if lane["next_seq"] == record["seq"] + 1 and decode_hash(lane["head"], "head") != record_hash:
        raise Refused("The lane's head is not its last record.")
    if climb(make_canonical(lane), proof["lanes"]) != decode_hash(checkpoint["root"], "root"):
        raise Refused("The path from the lane does not lead to the checkpoint's root.")
    # Nothing else fixes the size of the tree: trees of different sizes can have the same path to one of their leaves.
    place, heads = proof["lanes"], checkpoint["lanes"]
    if not isinstance(heads, list) or place["size"] != len(heads) or heads[place["index"]] != lane:
        raise Refused("The checkpoint does not name the lane's head in its place.")
    _check_signature(checkpoint, public_key)
    return dict(record)


def _check_place(proof: Mapping[str, Any], record: Mapping[str, Any], lane: Mapping[str, Any]) -> None:
    numbers = (record["lane"], record["seq"], lane["lane"], lane["first_seq"], lane["next_seq"])
    if not all(type(number) is int for number in numbers):
        raise Refused("A lane or sequence number is no integer.")
    if record["lane"] != lane["lane"] or not lane["first_seq"] <= record["seq"] < lane["next_seq"]:
        raise Refused("The record does not lie in the lane's range.")
    records = proof["records"]
    check_members(records, "records", {"index", "size", "path"})
    check_members(proof["lanes"], "lanes", {"index", "size", "path"})
    if records["index"] != record["seq"] - lane["first_seq"] or records["size"] != lane["next_seq"] - lane["first_seq"]:
        raise Refused("The record's place in the tree is not its place in the lane.")


def _check_signature(checkpoint: Mapping[str, Any], public_key: Ed25519PublicKey) -> None:
    if checkpoint["key_id"] != sha256(decode_raw_key(public_key)).hexdigest()[:16]:
        raise Refused(f"The checkpoint was signed by another key, {checkpoint['key_id']}.")
    signed = make_canonical({name: value for name, value in checkpoint.items() if name != "signature"})
    try:
        signature = bytes.fromhex(checkpoint["signature"])
        if signature.hex() != checkpoint["signature"]:
            raise ValueError("not in lower-case hex")
        public_key.verify(signature, signed)
    except (InvalidSignature, TypeError, ValueError) as error:
        raise Refused("The checkpoint's signature is not that of the public key.") from error


def decode_raw_key(public_key: Ed25519PublicKey) -> bytes:
    """Return the key as 32 bytes (RFC 8032)."""
    return public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def climb(data: bytes, place: Mapping[str, Any]) -> bytes:
    """Return the root that a leaf and its path give (RFC 9162, 2.1.3.2)."""
    index, size, path = place["index"], place["size"], place["path"]
    if type(index) is not int or type(size) is not int or not 0 <= index < size or not isinstance(path, list):
        raise Refused("The leaf lies outside its tree.")
    last = size - 1
    root = sha256(b"\x00" + data).digest()
    for step in path:
        sibling = decode_hash(step, "path")
        if last == 0:
            raise Refused("The path is longer than the tree is high.")
        if index & 1 or index == last:
            root = sha256(b"\x01" + sibling + root).digest()
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            root = sha256(b"\x01" + root + sibling).digest()
        index, last = index >> 1, last >> 1
    if last:
        raise Refused("The path is shorter than the tree is high.")
    return root


def decode_hash(text: Any, name: str) -> bytes:
    """Return 32 bytes from lower-case hex; refuse any other spelling, so that every change to a proof is noticed."""
    try:
        value = bytes.fromhex(text)
    except (TypeError, ValueError) as error:
        raise Refused(f"The member {name} is no hex.") from error
    if len(value) != HASH_BYTES or value.hex() != text:
        raise Refused(f"The member {name} is not {HASH_BYTES} bytes in lower-case hex.")
    return value


def make_canonical(value: Any) -> bytes:
    """Return the canonical JSON (RFC 8785) of a part; raise Refused if it has none."""
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise Refused("A part of the proof has no canonical form.") from error


def check_members(value: Any, name: str, wanted: set[str] | frozenset[str]) -> None:
    """Raise Refused if the value does not have exactly these members."""
    if not isinstance(value, dict) or set(value) != wanted:
        raise Refused(f"The {name} does not have exactly the members of the format.")


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Return the Ed25519 public key in a PEM file; raise Refused if there is none."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Refused(f"{path} holds no public key in PEM: {error}.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise Refused(f"{path} holds a public key that is not Ed25519.")
    return key


def read_proof(path: Path) -> Any:
    """Return the JSON in a file; raise Refused if there is none, or if a member occurs twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("a member stands twice")
        return members

    try:
        return json.loads(path.read_bytes(), object_pairs_hook=unique)
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{path} holds no proof: {error}.") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a proof and return the exit code: 0 if the proof holds, 1 if it does not."""
    parser = argparse.ArgumentParser(description="Check a Ledgerline inclusion proof.")
    parser.add_argument("proof", type=Path)
    parser.add_argument("--public-key", type=Path, required=True, help="PEM file of the Ed25519 public key.")
    options = parser.parse_args(arguments)
    try:
        record = verify(read_proof(options.proof), read_public_key(options.public_key))
    except Refused as refused:
        sys.stderr.write(f"refused: {refused}\n")
        return 1
    sys.stdout.write(f"proved: lane {record['lane']} seq {record['seq']}, intent {record['intent_id']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
