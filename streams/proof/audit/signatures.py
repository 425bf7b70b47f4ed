"""Checks posting's signatures against the published hashes (docs/decisions/0020-signed-heads.md).

Each range that posting signed must begin where the range before it ended, and its signature must fit the published
hashes. So a row that was changed between its commit and its relay is found, even if all hashes were recomputed.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from db.audit import LaneRow
from domain.breaks import BreakKind, Finding, make_record_subject
from domain.signed_heads import SignedHead, is_signed, make_head_bytes
from runtime.key_files import read_public_keys
from runtime.key_names import POSTING_KEY_FILE, get_public_file
from runtime.settings import Settings

RANGE_RECORDS_MAX: Final = 1_000_000
"""The longest range that audit reads for one signature. No batch is as long; a forged range could be a whole lane."""

PATIENCE_SECONDS: Final = 10.0

HashesOf = Callable[[int, int], bytes]
"""(first_seq, next_seq) -> the published hashes from first_seq to next_seq - 1, joined."""


class PostingKeys:
    """The public keys whose signatures are valid. They come from a file on audit's side, never from the database."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._keys: list[Ed25519PublicKey] = [] if path is None else read_public_keys(path)

    def __bool__(self) -> bool:
        """Return whether signatures are judged at all."""
        return bool(self._keys)

    def have_signed(self, message: bytes, signature: bytes) -> bool:
        """Return whether one of the keys signed. If none did, first read the file again, as it may have a new key."""
        if is_signed(message, signature, self._keys):
            return True
        if self._path is None:
            return False
        self._keys = read_public_keys(self._path)
        return is_signed(message, signature, self._keys)


def read_posting_keys(settings: Settings) -> PostingKeys:
    """Return the keys in the file that the settings name, which must exist.

    If they name none, return those in the file of the home directory, or no keys if that does not exist.
    """
    if settings.posting_public_keys_file is not None:
        return PostingKeys(settings.posting_public_keys_file)
    path = get_public_file(settings.home / POSTING_KEY_FILE)
    return PostingKeys(path if path.exists() else None)


class Judged(NamedTuple):
    """The result of judging the signatures of a lane."""

    findings: list[Finding]
    first_seq: int | None
    next_seq: int | None
    """The signatures are judged for the records from first_seq to next_seq - 1; None if none were required yet."""


def judge(
    lane: int,
    covered: tuple[int | None, int | None],
    signed: Iterable[SignedHead],
    hashes_of: HashesOf,
    keys: PostingKeys,
) -> Judged:
    """Check the signatures of a lane, in order, against its hashes and against each other.

    `covered`: the first and the next seq of what was judged before; signatures are required from the first seq on.
    """
    first, expected = covered
    findings = []
    for head in signed:
        if not 0 <= head.first_seq < head.next_seq <= head.first_seq + RANGE_RECORDS_MAX:
            detail = f"Its signature names seq {head.first_seq} as the first of its range, which cannot be."
            findings.append(make_signature_finding(lane, head.next_seq - 1, head.next_seq, detail))
            continue
        if first is None or expected is None:
            first = expected = head.first_seq
        if head.first_seq > expected:
            findings.append(make_unsigned_finding(lane, expected, head.first_seq))
        elif head.first_seq < expected:
            detail = f"A signature for seq {head.first_seq} to {head.next_seq - 1} covers what another one covers."
            findings.append(make_signature_finding(lane, head.first_seq, head.next_seq, detail))
        hashes = hashes_of(head.first_seq, head.next_seq)
        if not keys.have_signed(make_head_bytes(lane, head.first_seq, hashes), head.signature):
            detail = "This is not what posting signed: it was altered between its commit and its relay."
            findings.append(make_signature_finding(lane, head.first_seq, head.next_seq, detail))
        expected = head.next_seq
    return Judged(findings, first, expected)


def make_unsigned_finding(lane: int, first_seq: int, next_seq: int) -> Finding:
    """Return the finding for records that posting's signatures must cover and do not cover."""
    detail = "No signature of posting covers this: it was altered between its commit and its relay, or not posted by a"
    return make_signature_finding(lane, first_seq, next_seq, f"{detail} worker that has the key.")


def make_signature_finding(lane: int, first_seq: int, next_seq: int, detail: str) -> Finding:
    """Return the finding for a signed range. A signature over a range cannot tell which of its records was altered."""
    last = next_seq - 1
    subject = make_record_subject(lane, first_seq) + ("" if last == first_seq else f" to {last}")
    return Finding(BreakKind.CHAIN, subject, detail, lane, first_seq)


class UncoveredEnds:
    """A watch over the ends of lanes: the last records must not stay without a signature.

    The relay publishes a signed range in one transaction, but a range of very large messages may come in parts. So a
    lane's end may have no signature for a short time.
    """

    def __init__(self) -> None:
        self.patience_seconds = PATIENCE_SECONDS
        self._since: dict[int, tuple[int, float]] = {}

    def findings(self, lanes: Iterable[LaneRow]) -> list[Finding]:
        """Return a finding for each lane whose end has had no signature for `patience_seconds` or longer."""
        now = time.monotonic()
        found = []
        for row in lanes:
            covered = row.signatures_next_seq
            if covered is None or covered >= row.next_seq:
                self._since.pop(row.lane, None)
                continue
            before, since = self._since.get(row.lane, (covered, now))
            if before != covered:
                since = now
            self._since[row.lane] = (covered, since)
            if now - since >= self.patience_seconds:
                finding = make_unsigned_finding(row.lane, covered, row.next_seq)
                found.append(finding._replace(subject=make_uncovered_subject(row.lane)))
        return found


def make_uncovered_subject(lane: int) -> str:
    """Return the subject of the break about a lane's end without a signature."""
    return f"lane {lane} signatures"
