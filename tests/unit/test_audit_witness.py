"""Witnesses keep checkpoints in order, and missing or forged checkpoints are named."""

import json
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.checkpoints import CheckpointRow, LaneHead, compute_key_id, make_signed_members
from runtime.key_files import SigningKey
from streams.proof.audit.kept import KeptError, find_genuineness_faults, parse_kept, read_kept
from streams.proof.audit.signing import GENESIS, make_signed_bytes, sign
from streams.proof.audit.witness import (
    FileWitness,
    GitWitness,
    Witness,
    WitnessAway,
    WitnessError,
    find_gaps,
    make_line,
    read_witness,
)

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = PRIVATE.public_key().public_bytes_raw()
KEY = SigningKey(PRIVATE, PUBLIC, compute_key_id(PUBLIC))
KEYS = {KEY.key_id: PUBLIC}


def signed(count: int) -> list[tuple[CheckpointRow, list[LaneHead]]]:
    """Return `count` signed checkpoints, each with one more record of lane 0."""
    made: list[tuple[CheckpointRow, list[LaneHead]]] = []
    previous_hash = GENESIS
    for number in range(count):
        head = LaneHead(0, number, number + 1, sha256(b"%d" % number).digest(), bytes(32))
        row = sign(number, previous_hash, [head], 1000 + number, KEY)
        previous_hash = sha256(make_signed_bytes(row, [head])).digest()
        made.append((row, [head]))
    return made


CHECKPOINTS = signed(4)


def git(repository: Path, *arguments: str) -> str:
    """Run git without the witness, as another user of the repository would."""
    command = ["git", "-C", str(repository), "-c", "user.name=n", "-c", "user.email=e@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(params=["file", "git"])
def witness(request: pytest.FixtureRequest, tmp_path: Path) -> Witness:
    """An empty witness of each kind."""
    if request.param == "file":
        return FileWitness(tmp_path / "checkpoints.jsonl")
    git(tmp_path, "init", "-q")
    return GitWitness(tmp_path)


def test_a_witness_keeps_what_it_is_told_in_order(witness: Witness) -> None:
    assert (witness.find_next_checkpoint(), witness.lines()) == (0, [])
    witness.add(CHECKPOINTS[:2])
    assert witness.find_next_checkpoint() == 2
    witness.add(CHECKPOINTS[2:])
    kept, strange = read_witness(witness)
    assert [(item.row, item.heads) for item in kept] == CHECKPOINTS
    assert (strange, find_gaps(kept), witness.find_history_faults(), witness.find_next_checkpoint()) == ([], [], [], 4)
    assert all(find_genuineness_faults(item, None, KEYS) == [] for item in kept)


def test_a_line_that_a_crash_cut_off_is_written_anew_and_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.jsonl"
    witness = FileWitness(path)
    witness.add(CHECKPOINTS[:1])
    with path.open("a") as file:
        file.write(make_line(*CHECKPOINTS[1])[:40])
    assert witness.find_next_checkpoint() == 1
    witness.add(CHECKPOINTS[1:2])
    kept, strange = read_witness(witness)
    assert [item.row.checkpoint for item in kept] == [0, 1]
    assert strange == [(f"{path} line 2", "The line is no checkpoint.")]


def test_a_witness_that_lost_lines_has_gaps(witness: Witness) -> None:
    witness.add([CHECKPOINTS[0], CHECKPOINTS[3]])
    assert find_gaps(read_witness(witness)[0]) == [1, 2]


def test_git_names_the_commit_that_took_lines_away(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    witness = GitWitness(tmp_path)
    witness.add(CHECKPOINTS)
    path = tmp_path / "checkpoints.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert len(witness.lines()) == 4  # the committed lines count, not the file in the folder
    git(tmp_path, "commit", "-q", "-am", "shorter")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    assert witness.find_history_faults() == [f"The commit {commit} took 2 lines away."]
    assert witness.find_next_checkpoint() == 2


def test_a_folder_without_git_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WitnessError, match="is no Git repository that can be read"):
        GitWitness(tmp_path)


def test_a_witness_that_cannot_be_written_is_away(tmp_path: Path) -> None:
    with pytest.raises(WitnessAway, match="cannot be written"):
        FileWitness(tmp_path / "nowhere" / "checkpoints.jsonl").add(CHECKPOINTS)


def members(**changes: Any) -> dict[str, Any]:
    return {**make_signed_members(*CHECKPOINTS[1]), **changes}


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        (members(), ""),
        (members(signed_time=5), "Its signature is not that of the key."),
        (members(checkpoint=7), "Its signature is not that of the key."),
        (members(root="00" * 32), "Its root is not that of its lanes."),
        (members(lanes=[]), "Its root is not that of its lanes."),
        (members(signature="00" * 64), "Its signature is not that of the key."),
        (members(signature=""), "Its signature is not that of the key."),
        (members(key_id="ffff"), "It was signed by the key ffff, which audit does not remember"),
    ],
)
def test_a_kept_checkpoint_is_genuine_or_says_why_not(document: dict[str, Any], fault: str) -> None:
    found = find_genuineness_faults(parse_kept("kept.json", document), None, KEYS)
    assert [text[: len(fault)] for text in found] == ([fault] if fault else [])


def test_another_key_than_the_one_that_is_named_did_not_sign() -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
    kept = parse_kept("kept.json", members())
    assert find_genuineness_faults(kept, other, KEYS) == ["Its signature is not that of the key."]
    assert find_genuineness_faults(kept, PUBLIC, {}) == []


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"checkpoint": {}},
        members(more=1),
        members(checkpoint="1"),
        members(checkpoint=True),
        members(checkpoint=2**63),
        members(root="zz" * 32),
        members(root="00"),
        members(lanes=[{}]),
        members(lanes={}),
        {name: value for name, value in members().items() if name != "signature"},
    ],
)
def test_what_is_no_checkpoint_is_told(document: Any, tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(document))
    with pytest.raises(KeptError, match="holds no checkpoint and no proof"):
        read_kept(path)
