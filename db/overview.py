"""The console's queries: the lanes' positions, the symmetry of the books, breaks, checkpoints.

All functions raise DatabaseError if Postgres is unreachable. Times are microseconds since 1970 UTC.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from db.fetch import Pool, fetch
from db.operations import SQL as OPERATIONS
from db.operations import BreakCount, Checkpoint, LaneProgress
from db.queries import load
from domain.breaks import Break
from domain.checkpoints import CheckpointRow, LaneHead

_QUERIES: Final = load("overview")
TIME_MAX: Final = 2**63 - 1


class CurrencySums(NamedTuple):
    """All debits and credits of a currency that reconciliation has booked; of all tenants if `tenant` is None."""

    tenant: str | None
    currency: str
    debits_minor: int
    credits_minor: int


class Overview(NamedTuple):
    """Everything that the console shows from Postgres. Each part is one query, so the parts differ a little in time."""

    lanes: list[LaneProgress]
    symmetry: list[CurrencySums]
    breaks: list[BreakCount]
    checkpoint: Checkpoint | None


class SigningKeyRow(NamedTuple):
    """A public key (32 raw bytes) that has signed checkpoints."""

    key_id: str
    public_key: bytes
    first_used_time: datetime


async def read_overview(pool: Pool, tenants: Sequence[str]) -> Overview:
    """Return the overview, with the symmetry of all tenants together and of each of `tenants`."""
    lanes = await fetch(pool, OPERATIONS["lanes"], {})
    sums = await fetch(pool, _QUERIES["symmetry"], {"tenants": list(tenants)})
    breaks = await fetch(pool, OPERATIONS["breaks"], {})
    checkpoints = await fetch(pool, OPERATIONS["checkpoint"], {})
    return Overview(
        [LaneProgress(**row) for row in lanes],
        [
            CurrencySums(row["tenant"], row["currency"], int(row["debits_minor"]), int(row["credits_minor"]))
            for row in sums
        ],
        [BreakCount(**row) for row in breaks],
        Checkpoint(**checkpoints[0]) if checkpoints else None,
    )


async def read_breaks_page(
    pool: Pool,
    tenant: str | None,
    before: tuple[int, UUID],
    limit: int,
    *,
    state: str | None = None,
    kind: str | None = None,
) -> list[Break]:
    """Return up to `limit` breaks, the last opened first, before the place (opened time, id).

    If `tenant` is None, they are of all tenants.
    """
    opened_time, break_id = before
    values = {"tenant": tenant, "time": opened_time, "break_id": break_id, "state": state, "kind": kind, "limit": limit}
    return [Break(**row) for row in await fetch(pool, _QUERIES["breaks"], values)]


async def read_checkpoints_page(pool: Pool, before: int, limit: int) -> list[tuple[CheckpointRow, list[LaneHead]]]:
    """Return up to `limit` checkpoints before that number, the newest first, each with its lanes in order."""
    rows = [
        CheckpointRow(**row) for row in await fetch(pool, _QUERIES["checkpoints"], {"before": before, "limit": limit})
    ]
    lanes: dict[int, list[LaneHead]] = {row.checkpoint: [] for row in rows}
    for found in await fetch(pool, _QUERIES["checkpoint_lanes"], {"checkpoints": list(lanes)}):
        lanes[found.pop("checkpoint")].append(LaneHead(**found))
    return [(row, lanes[row.checkpoint]) for row in rows]


async def list_signing_keys(pool: Pool) -> list[SigningKeyRow]:
    """Return every public key that has signed, in order of first use."""
    return [SigningKeyRow(**row) for row in await fetch(pool, _QUERIES["signing_keys"], {})]
