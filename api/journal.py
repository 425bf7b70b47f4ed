"""The journal of the key's tenant."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel

from api.callers import JournalReader
from api.lists import Cursor, Limit, NextLink
from api.problems import Kind, Problem
from api.responses import make_json_response, make_problem_responses
from api.times import to_optional_rfc3339
from api.views import LegView, Units, make_leg_view
from db import reads
from domain.journal import JournalRow
from domain.outcomes import Outcome

router = APIRouter(tags=["journal"])


class JournalView(BaseModel):
    """One row of the journal."""

    lane: int
    seq: int
    outcome: str
    reason: str
    detail: str
    intent_id: str
    idempotency_key: str
    type: str
    reverses: str | None = None
    legs: list[LegView]
    reference: str | None = None
    metadata: dict[str, str]
    value_time: str | None = None
    booked_time: str
    source_topic: str
    source_offset: int
    fingerprint: str
    previous_hash: str
    hash: str


class JournalPageView(BaseModel):
    """Journal rows in order of (lane, seq). A page may be short, even empty, and still have a `next`."""

    items: list[JournalView]
    next: NextLink


def _make_journal_view(row: JournalRow, units: Units) -> dict[str, Any]:
    """Return a journal row as JSON, with bytes in hex and without the tenant."""
    view = row._asdict()
    del view["tenant"]
    return view | {
        "outcome": row.outcome.value,
        "intent_id": str(row.intent_id),
        "reverses": None if row.reverses is None else str(row.reverses),
        "legs": [make_leg_view(leg, units) for leg in row.legs],
        "value_time": to_optional_rfc3339(row.value_time),
        "booked_time": to_optional_rfc3339(row.booked_time),
        "fingerprint": row.fingerprint.hex(),
        "previous_hash": row.previous_hash.hex(),
        "hash": row.hash.hex(),
    }


@router.get("/v1/journal", response_model=JournalPageView, responses=make_problem_responses(Kind.INVALID_CURSOR))
async def list_journal(
    reader: JournalReader,
    lane: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="Only this lane.")] = None,
    outcome: Annotated[Outcome | None, Query(description="Only rows with this outcome.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """Journal rows in order of lane and sequence. To follow the journal as it grows, follow each lane.

    Quarantined rows belong to no tenant and are not listed.
    """
    filters = {"lane": lane, "outcome": None if outcome is None else outcome.value}
    page = reader.page(("journal", reader.tenant), "/v1/journal", limit, cursor, **filters)
    after_lane, after_seq = page.begin(-1 if lane is None else lane, -1)
    place = (after_lane, after_seq)
    found = await reader.read(
        lambda pool: reads.list_journal(pool, reader.tenant, place, limit, lane=lane, outcome=outcome)
    )
    units = reader.units
    items = [_make_journal_view(row, units) for row in found.rows]
    return make_json_response({"items": items, "next": page.link(found.resume)})


@router.get(
    "/v1/journal/{lane}/{seq}", response_model=JournalView, responses=make_problem_responses(Kind.JOURNAL_ROW_NOT_FOUND)
)
async def get_journal_row(
    reader: JournalReader,
    lane: Annotated[int, Path(ge=0, le=2**31 - 1, description="Lane of the receipt.")],
    seq: Annotated[int, Path(ge=0, le=2**63 - 1, description="Sequence number of the receipt.")],
) -> Response:
    """One journal row, with the hash of the row before it."""
    row = await reader.read(lambda pool: reads.find_journal_row(pool, reader.tenant, lane, seq))
    if row is None:
        raise Problem(
            Kind.JOURNAL_ROW_NOT_FOUND,
            "The lane is not posted so far, or the row is of another tenant: take both numbers from a receipt.",
        )
    return make_json_response(_make_journal_view(row, reader.units))
