"""The outbox to the world: calls that capabilities ask for, their claims under a lease, and their results."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from psycopg import Connection
from psycopg.rows import class_row

from db.listening import ListeningConnection
from db.queries import load
from domain.effects import Call
from domain.outside_calls import ClaimedCall, Fate, Result

SQL: Final = load("outside_calls")
ROLE: Final = "ledgerline_worker"
FAILURE_CHARACTERS_MAX: Final = 500
BODY_BYTES_MAX: Final = 65_536
PRUNED_MAX: Final = 20_000
_STATES: Final = {
    Fate.DONE: "answered", Fate.REFUSED: "answered", Fate.GIVEN_UP: "given_up", Fate.UNKNOWN: "unknown",
}  # fmt: skip


class ClaimedRow(NamedTuple):
    """A claimed row of calls.call."""

    call_id: int
    tenant: str
    kind: str
    key: str
    destination: str
    data: Mapping[str, Any]
    attempts: int
    asked_time: int
    state_before: str
    """The state at the claim: under_way means that the last worker crashed, and that the outcome is unknown."""
    fate: str | None
    answer_status: int | None
    answer_body: bytes | None
    last_failure: str

    @property
    def call(self) -> ClaimedCall:
        """The part that handlers get."""
        return ClaimedCall(*self[:8])


class Backlog(NamedTuple):
    """The calls of a kind that have something left to do."""

    kind: str
    number: int
    oldest_time: int


class Claim(NamedTuple):
    """What to claim."""

    now: int
    """Microseconds since 1970, as `lease_end`."""
    lease_end: int
    after: str
    """Claim from destinations after this one."""
    calls_max: int
    each_max: int
    """The most calls of a destination that `rooms` does not name."""
    rooms: Mapping[str, int]
    destinations_max: int = 500


def add(connection: Connection[Any], calls: Sequence[Call]) -> None:
    """Store calls in the connection's transaction. A call whose kind and key exist is not stored again."""
    connection.execute(
        SQL["add"],
        {
            "now": time.time_ns() // 1000,
            "tenants": [call.tenant for call in calls],
            "kinds": [call.kind for call in calls],
            "keys": [call.key for call in calls],
            "destinations": [call.destination for call in calls],
            "data": [json.dumps(dict(call.data)) for call in calls],
        },
    )
    connection.execute(SQL["tell"])


def claim(connection: Connection[Any], asked: Claim) -> tuple[list[ClaimedRow], str]:
    """Claim due calls until `lease_end`; skip what another worker has locked.

    Return them, and the destination after which others were not looked at; empty if there are no others.
    """
    arguments = asked._asdict() | {"limited": list(asked.rooms), "rooms": list(asked.rooms.values())}
    found = connection.execute(SQL["claim"], arguments).fetchall()
    # A claim of nothing is one row, with the last destination only.
    return [ClaimedRow(*row[1:]) for row in found if row[1] is not None], found[0][0] or ""


def store(connection: Connection[Any], results: Sequence[Result], unsure: set[int]) -> set[int]:
    """Store results; return the ids of those that count, as no other worker has claimed them since.

    `unsure`: the ids of those to be tried later of which nobody knows whether the other side did them.
    """
    rows = connection.execute(
        SQL["store"],
        {
            "call_ids": [result.call.call_id for result in results],
            "attempts": [result.call.attempts for result in results],
            "states": [
                _STATES.get(result.fate) or ("unknown" if result.call.call_id in unsure else "waiting")
                for result in results
            ],
            "due_times": [result.due_time for result in results],
            "fates": [None if result.fate is Fate.LATER else result.fate.value for result in results],
            "answer_statuses": [result.answer and result.answer.status for result in results],
            "answer_bodies": [result.answer and result.answer.body[:BODY_BYTES_MAX] for result in results],
            "last_failures": [_clean(result.failure) for result in results],
        },
    )
    return {row[0] for row in rows}


def delay(connection: Connection[Any], call: ClaimedCall, due_time: int, reason: str) -> None:
    """Look at a call again at `due_time`, because its handler failed."""
    connection.execute(
        SQL["delay"],
        {"call_id": call.call_id, "attempts": call.attempts, "due_time": due_time, "reason": _clean(reason)},
    )


def _clean(text: str) -> str:
    """Return text that Postgres can store: without NUL, and bounded."""
    return text.replace("\0", "")[:FAILURE_CHARACTERS_MAX]


class OutsideCallsStore(ListeningConnection):
    """The worker's kept connection for outside calls. Not thread-safe: the listener has one of its own."""

    def __init__(self, dsn: str, listens: bool = False) -> None:
        super().__init__(dsn, ROLE)
        self._listens = listens

    def _prepare(self, connection: Connection[Any]) -> None:
        if self._listens:
            connection.execute(SQL["listen"])

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for new calls; return whether some came."""
        with self.statements() as connection:
            return self._hear_all(connection, seconds)

    def prune(self, kind: str, before_time: int) -> None:
        """Delete settled calls of a kind that were asked for before a time, at most PRUNED_MAX."""
        with self.statements() as connection:
            asked = {"kind": kind, "before_time": before_time, "calls_max": PRUNED_MAX}
            connection.execute(SQL["prune"], asked)

    def read_backlog(self) -> list[Backlog]:
        """Return what has something left to do, by kind."""
        with self.statements() as connection:
            return connection.cursor(row_factory=class_row(Backlog)).execute(SQL["backlog"]).fetchall()
