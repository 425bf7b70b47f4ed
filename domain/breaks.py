"""Breaks: differences that the proving agents find, and their life: open, explained, resolved."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple
from uuid import UUID, uuid5

# Namespace of break ids: uuid5(DNS namespace, "ledgerline.breaks"), fixed for ever.
BREAK_NAMESPACE: Final = UUID("328f0712-5195-58c4-b3ea-0e9482ddbd05")

DETAIL_CHARACTERS_MAX: Final = 1000


# A record that the topic owes may come late, as after a relay's troubles; what is wrong in other ways is not mended by
# waiting, but may be restored, which the next look at it finds.
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

    @property
    def term_seconds(self) -> int:
        """How long such a break may stay open before it is overdue."""
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
    """What differs, such as `lane 3 seq 17`; with the kind it names the break."""
    detail: str
    """One sentence for people."""
    lane: int | None = None
    seq: int | None = None
    state: BreakState = BreakState.OPEN
    evidence: Mapping[str, str | int] = MappingProxyType({})
    """What a later check of the same difference needs, as far as the subject does not say it."""


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
    """When it was found; anew, where it had been resolved."""
    changed_time: int

    @property
    def overdue_time(self) -> int:
        """From when on it is overdue, unless it is explained or resolved by then."""
        return self.opened_time + BreakKind(self.kind).term_seconds * 1_000_000


def break_id_of(found_by: str, kind: str, subject: str) -> UUID:
    """The id of a break: the same difference found again is the same break (UUID version 5, RFC 9562)."""
    return uuid5(BREAK_NAMESPACE, f"{found_by}\x00{kind}\x00{subject}")


def record_subject(lane: int, seq: int) -> str:
    """The subject of a break about one journal record."""
    return f"lane {lane} seq {seq}"


def merged(findings: list[Finding]) -> list[Finding]:
    """The findings with one for each kind and subject, their details joined in order."""
    found: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        key = (finding.kind, finding.subject)
        first = found.get(key)
        if first is None:
            found[key] = finding
        elif finding.detail not in first.detail:
            detail = f"{first.detail} {finding.detail}"[:DETAIL_CHARACTERS_MAX]
            # What one finding alone can be checked again by says nothing about the other.
            evidence = {**first.evidence, **finding.evidence} if first.evidence and finding.evidence else {}
            found[key] = first._replace(detail=detail, evidence=evidence)
    return list(found.values())
