"""The rows of breaks, in the schema of the prover that found them: reconciliation.break or audit.break.

There are two tables, because a prover's role sees only its own schema.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg import Connection
from psycopg.types.json import Jsonb

from db.queries import Schema, load
from domain.breaks import Break, BreakKind, Finding, compute_break_id, merge_findings

BEFORE_ALL: Final = UUID(int=0)
"""It is below the id of every break."""


class OpenBreaks(NamedTuple):
    """The breaks of one kind that are open, without the explained ones."""

    oldest_time: int | None
    """When the oldest one was opened, in microseconds since 1970-01-01 UTC; None if none is open."""
    overdue: int
    """The number of those that have been open for longer than the term of their kind."""


class BreakStore:
    """Opens, explains and resolves one prover's breaks within the caller's transactions."""

    def __init__(self, found_by: Schema) -> None:
        self.found_by = found_by
        self._queries = load("breaks", found_by)

    def record(self, connection: Connection[Any], findings: Sequence[Finding]) -> None:
        """Open or explain a break for each finding. An unchanged break is left alone; a resolved one opens again."""
        now = _get_now_microseconds()
        ordered = sorted(merge_findings(list(findings)), key=lambda finding: (finding.kind, finding.subject))
        # One statement, in sorted order, so that two workers do not deadlock. A sweep may find thousands of breaks.
        if ordered:
            connection.execute(
                self._queries["record_breaks"],
                {
                    "break_ids": [compute_break_id(self.found_by, f.kind, f.subject) for f in ordered],
                    "kinds": [finding.kind.value for finding in ordered],
                    "subjects": [finding.subject for finding in ordered],
                    "states": [finding.state.value for finding in ordered],
                    "lanes": [finding.lane for finding in ordered],
                    "seqs": [finding.seq for finding in ordered],
                    "details": [finding.detail for finding in ordered],
                    "evidence": [Jsonb(dict(finding.evidence)) for finding in ordered],
                    "now": now,
                },
            )

    def resolve(self, connection: Connection[Any], break_ids: Iterable[UUID], detail: str) -> None:
        """Resolve those of these breaks that are not resolved yet; `detail` says what explained them."""
        values = {"break_ids": sorted(break_ids), "detail": detail, "now": _get_now_microseconds()}
        connection.execute(self._queries["resolve_breaks"], values)

    def resolve_about(self, connection: Connection[Any], about: Iterable[tuple[BreakKind, str]], detail: str) -> None:
        """Resolve the breaks of these kinds about these subjects."""
        self.resolve(connection, [compute_break_id(self.found_by, kind, subject) for kind, subject in about], detail)

    def unresolved(
        self, connection: Connection[Any], limit: int, after: UUID = BEFORE_ALL, kinds: Iterable[BreakKind] = BreakKind
    ) -> list[Break]:
        """Return up to `limit` breaks that are open or explained, in order of id, after `after`."""
        asked = {"after": after, "kinds": [kind.value for kind in kinds], "limit": limit}
        rows = connection.execute(self._queries["unresolved_breaks"], asked)
        return [self._make_break(row) for row in rows]

    def is_unresolved(self, connection: Connection[Any], kind: BreakKind, subject: str) -> bool:
        """Return whether there is an open or explained break of this kind about this subject."""
        asked = {"break_id": compute_break_id(self.found_by, kind, subject)}
        return connection.execute(self._queries["is_unresolved"], asked).fetchone() is not None

    def unpublished(self, connection: Connection[Any], limit: int) -> list[Break]:
        """Return up to `limit` breaks whose current state is not on the topic yet, oldest change first."""
        rows = connection.execute(self._queries["unpublished_breaks"], {"limit": limit})
        return [self._make_break(row) for row in rows]

    def published(self, connection: Connection[Any], told: Sequence[Break]) -> None:
        """Store which states of these breaks are on the topic now."""
        connection.execute(
            self._queries["published_breaks"],
            {"break_ids": [item.break_id for item in told], "states": [item.state for item in told]},
        )

    def counts(self, connection: Connection[Any]) -> dict[tuple[str, str], int]:
        """Return (kind, state) -> number of breaks, of those that are not resolved."""
        rows = connection.execute(self._queries["break_counts"])
        return {(kind, state): count for kind, state, count in rows}

    def open_breaks(self, connection: Connection[Any]) -> dict[str, OpenBreaks]:
        """Return kind -> its open breaks; kinds without one are left out."""
        now = _get_now_microseconds()
        asked = {
            "kinds": [kind.value for kind in BreakKind],
            "overdue_before": [now - kind.term_seconds * 1_000_000 for kind in BreakKind],
        }
        rows = connection.execute(self._queries["open_breaks"], asked)
        return {kind: OpenBreaks(oldest_time, overdue) for kind, oldest_time, overdue in rows}

    def _make_break(self, row: Sequence[Any]) -> Break:
        break_id, *members = row
        return Break(break_id, self.found_by, *members)


def _get_now_microseconds() -> int:
    return time.time_ns() // 1000
