"""Proofs made without a database: the verifier accepts a sound proof and refuses a change in any part of it."""

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from domain.checkpoints import LaneHead, make_lane_leaves, make_lane_members, make_public_pem, make_signed_members
from domain.errors import LedgerlineError
from domain.merkle import compute_inclusion_path, compute_root
from runtime import key_files
from streams.proof.audit import signing, verifier
from streams.proof.audit.verifier import Refused

RECORD: dict[str, Any] = {
    "booked_time": 1_790_000_000_000_001,
    "detail": "",
    "fingerprint": "ab" * 32,
    "idempotency_key": "order-1 💸",
    "intent_id": "6a8b6c3e-6a44-5f6d-8f5e-2b7f7a3e8f10",
    "lane": 1,
    "legs": [
        {"account": "external:bank", "amount_minor": "9223372036854775807", "currency": "EUR", "direction": "debit"},
        {"account": "users:1:wallet", "amount_minor": "9223372036854775807", "currency": "EUR", "direction": "credit"},
    ],
    "metadata": {"a": "1", "b": "ü"},
    "outcome": "posted",
    "reason": "",
    "reference": "läuft",
    "reverses": None,
    "seq": 12,
    "source_offset": 12,
    "source_topic": "payments.intents",
    "tenant": "default",
    "type": "transfer",
    "value_time": None,
}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> key_files.SigningKey:
    return key_files.make_key(tmp_path_factory.mktemp("key") / "audit-key.pem")


def proof_of(key: key_files.SigningKey) -> dict[str, Any]:
    previous = sha256(b"before").digest()
    record_hash = sha256(previous + rfc8785.dumps(RECORD)).digest()
    leaves = [sha256(bytes([number])).digest() for number in range(5)]
    leaves[2] = record_hash  # seq 12; the leaves are seq 10 to 14
    heads = [
        LaneHead(0, 0, 0, bytes(32), compute_root([])),
        LaneHead(1, 10, 15, leaves[-1], compute_root(leaves)),
        LaneHead(2, 3, 4, leaves[0], compute_root(leaves[:1])),
    ]
    checkpoint = signing.sign(7, sha256(b"earlier").digest(), heads, 1_790_000_001_000_000, key)
    return {
        "format": verifier.FORMAT,
        "record": copy.deepcopy(RECORD),
        "previous_hash": previous.hex(),
        "hash": record_hash.hex(),
        "records": {"index": 2, "size": 5, "path": [step.hex() for step in compute_inclusion_path(leaves, 2)]},
        "lane": make_lane_members(heads[1]),
        "lanes": {
            "index": 1,
            "size": 3,
            "path": [step.hex() for step in compute_inclusion_path(make_lane_leaves(heads), 1)],
        },
        "checkpoint": make_signed_members(checkpoint, heads),
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every scalar in a proof."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield from places(member, (*path, name))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from places(member, (*path, index))
    else:
        yield path


def changed(value: Any) -> Any:
    """Return a value that differs slightly from the given one."""
    if value is None:
        return "x"
    if isinstance(value, int):
        return value + 1
    if not value:
        return "0"
    first = value[0]
    return ("0" if first != "0" else "1") + value[1:]


def test_a_sound_proof_holds(key: key_files.SigningKey) -> None:
    assert verifier.verify(proof_of(key), key.private.public_key()) == RECORD


def test_a_change_of_any_part_is_refused(key: key_files.SigningKey) -> None:
    sound = proof_of(key)
    ways = list(places(sound))
    assert len(ways) > 50
    for way in ways:
        altered = copy.deepcopy(sound)
        holder = altered
        for step in way[:-1]:
            holder = holder[step]
        holder[way[-1]] = changed(holder[way[-1]])
        with pytest.raises(Refused):
            verifier.verify(altered, key.private.public_key())


def test_a_part_too_many_or_too_few_is_refused(key: key_files.SigningKey) -> None:
    sound = proof_of(key)
    for part in ("record", "lane", "lanes", "records", "checkpoint", None):
        holder = sound if part is None else sound[part]
        for name in list(holder):
            without = copy.deepcopy(sound)
            del (without if part is None else without[part])[name]
            with pytest.raises(Refused):
                verifier.verify(without, key.private.public_key())
        more = copy.deepcopy(sound)
        (more if part is None else more[part])["more"] = 1
        with pytest.raises(Refused):
            verifier.verify(more, key.private.public_key())


@pytest.mark.parametrize("junk", [None, [], 1, "proof", {}, {"format": verifier.FORMAT}])
def test_junk_is_refused(key: key_files.SigningKey, junk: Any) -> None:
    with pytest.raises(Refused):
        verifier.verify(junk, key.private.public_key())


@pytest.mark.parametrize("part", ["hash", "signature"])
def test_hex_in_capitals_is_refused(key: key_files.SigningKey, part: str) -> None:
    altered = copy.deepcopy(proof_of(key))
    holder = altered["checkpoint"] if part == "signature" else altered
    holder[part] = holder[part].upper()
    with pytest.raises(Refused):
        verifier.verify(altered, key.private.public_key())


def test_another_key_is_refused(key: key_files.SigningKey, tmp_path: Path) -> None:
    other = key_files.make_key(tmp_path / "other.pem")
    with pytest.raises(Refused, match="signed by another key"):
        verifier.verify(proof_of(key), other.private.public_key())


def test_the_verifier_runs_alone(key: key_files.SigningKey, tmp_path: Path) -> None:
    """A copy of the verifier outside the project needs only the two packages that it imports."""
    script = tmp_path / "verifier.py"
    script.write_bytes(Path(verifier.__file__).read_bytes())
    (tmp_path / "key.pem").write_bytes(make_public_pem(key.public_raw))
    proof = proof_of(key)
    (tmp_path / "sound.json").write_text(json.dumps(proof, ensure_ascii=False))
    proof["record"]["reference"] = "altered"
    (tmp_path / "altered.json").write_text(json.dumps(proof))
    for name, code, said in (("sound", 0, "proved: lane 1 seq 12"), ("altered", 1, "refused: The record is not")):
        run = subprocess.run(
            [sys.executable, "-I", str(script), f"{name}.json", "--public-key", "key.pem"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (run.returncode, said in run.stdout + run.stderr) == (code, True), run


def test_a_member_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.json"
    path.write_text('{"format": "a", "format": "b"}')
    with pytest.raises(Refused, match="stands twice"):
        verifier.read_proof(path)


def test_the_private_key_is_its_owners_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit-key.pem"
    made = key_files.make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert key_files.read_key(path).key_id == made.key_id
    assert key_files.get_public_file(path).name == "audit-key.pub.pem"
    assert verifier.decode_raw_key(verifier.read_public_key(key_files.get_public_file(path))) == made.public_raw
    with pytest.raises(LedgerlineError, match="exists"):
        key_files.make_key(path)
    path.write_text("no key")
    with pytest.raises(LedgerlineError, match="no readable private key"):
        key_files.read_key(path)
    with pytest.raises(LedgerlineError, match="audit keygen"):
        key_files.read_key(tmp_path / "none.pem")


def test_a_checkpoint_that_does_not_follow_is_named(key: key_files.SigningKey) -> None:
    first = [LaneHead(0, 0, 2, b"h" * 32, b"r" * 32)]
    second = [LaneHead(0, 2, 5, b"i" * 32, b"s" * 32), LaneHead(1, 0, 1, b"j" * 32, b"t" * 32)]
    one = signing.sign(0, signing.GENESIS, first, 10, key)
    two = signing.sign(1, sha256(signing.make_signed_bytes(one, first)).digest(), second, 20, key)
    assert signing.find_checkpoint_faults(one, first, None, key.public_raw) == []
    assert signing.find_checkpoint_faults(two, second, (one, first), key.public_raw) == []
    assert signing.find_checkpoint_faults(two, second, None, key.public_raw) != []
    hole = [second[0]._replace(first_seq=3), second[1]]
    faults = signing.find_checkpoint_faults(
        signing.sign(1, two.previous_hash, hole, 20, key), hole, (one, first), key.public_raw
    )
    assert faults == ["Its lanes do not go on where the checkpoint before it ended."]
    later = one._replace(signed_time=11)
    assert signing.find_checkpoint_faults(later, first, None, key.public_raw) == [
        "Its signature is not that of the key."
    ]
