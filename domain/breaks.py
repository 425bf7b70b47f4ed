"""Breaks: the differences that the proving agents find, and their states: open, explained, resolved."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple
from uuid import UUID, uuid5

# Namespace of break ids: uuid5(DNS namespace, "ledgerline.breaks"), fixed for ever.
BREAK_NAMESPACE: Final = UUID("328f0712-5195-58c4-b3ea-0e9482ddbd05")

DETAIL_CHARACTERS_MAX: Final = 1000


# A record that the topic still lacks may come late, for example after a relay outage. Waiting repairs no other
# difference, but somebody may restore the right data, and the next check finds that.
_LATE_SECONDS_MAX: Final = 300
_RECHECKED_SECONDS_MAX: Final = 10


class BreakKind(StrEnum):
    """What kind of claim a break contradicts; docs/PROOF.md documents each."""

    CONSERVATION = "conservation"
    SYMMETRY = "symmetry"
    FAITHFULNESS = "faithfulness"
    BALANCE = "balance"
    ENTRIES = "entries"
    CHAIN = "chain"
    STORED = "stored"
    CHECKPOINT = "checkpoint"
    FRAME = "frame"
    CLEARING = "clearing"

    @property
    def term_seconds(self) -> int:
        """How long a break of this kind may stay open before it is overdue, in seconds."""
        return _LATE_SECONDS_MAX if self in _EXPLAINED_BY_WAITING else _RECHECKED_SECONDS_MAX


_EXPLAINED_BY_WAITING: Final = frozenset({BreakKind.CONSERVATION, BreakKind.BALANCE, BreakKind.CHAIN})


class BreakState(StrEnum):
    """Where a break stands in its life."""

    OPEN = "open"
    EXPLAINED = "explained"
    RESOLVED = "resolved"


class Finding(NamedTuple):
    """One difference, as a check found it; not yet a row."""

    kind: BreakKind
    subject: str
    """What differs, such as `lane 3 seq 17`. The kind, the subject and the agent that found it identify a break."""
    detail: str
    """One sentence for people."""
    lane: int | None = None
    seq: int | None = None
    state: BreakState = BreakState.OPEN
    evidence: Mapping[str, str | int] = MappingProxyType({})
    """What a later check of the same difference needs besides the subject."""


class Break(NamedTuple):
    """A stored break. Times are microseconds since 1970-01-01 UTC."""

    break_id: UUID
    found_by: str
    kind: str
    subject: str
    state: str
    lane: int | None
    seq: int | None
    detail: str
    evidence: dict[str, str | int]
    opened_time: int
    """When it was found. A resolved break that is found again gets a new time."""
    changed_time: int

    @property
    def overdue_time(self) -> int:
        """When the break becomes overdue, unless it is explained or resolved by then."""
        return self.opened_time + BreakKind(self.kind).term_seconds * 1_000_000


def compute_break_id(found_by: str, kind: str, subject: str) -> UUID:
    """Return the id of a break (UUID version 5, RFC 9562). A difference that is found again has the same id."""
    return uuid5(BREAK_NAMESPACE, f"{found_by}\x00{kind}\x00{subject}")


def make_record_subject(lane: int, seq: int) -> str:
    """Return the subject of a break about one journal record."""
    return f"lane {lane} seq {seq}"


def merge_findings(findings: list[Finding]) -> list[Finding]:
    """Merge the findings into one for each kind and subject, with their details joined in order."""
    found: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        key = (finding.kind, finding.subject)
        first = found.get(key)
        if first is None:
            found[key] = finding
        elif finding.detail not in first.detail:
            detail = f"{first.detail} {finding.detail}"[:DETAIL_CHARACTERS_MAX]
            # Evidence of only one finding is dropped: a later check with it would say nothing about the other finding.
            evidence = {**first.evidence, **finding.evidence} if first.evidence and finding.evidence else {}
            found[key] = first._replace(detail=detail, evidence=evidence)
    return list(found.values())
