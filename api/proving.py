"""What reconciliation, audit and posting report and sign: breaks, checkpoints, public keys, proofs, receipts."""

from collections.abc import Callable
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from api.callers import IntentsReader, JournalReader, Reader
from api.lists import Cursor, Limit, NextLink
from api.problems import Kind, Problem
from api.responses import make_json_response, make_problem_responses
from api.times import to_utc_text
from db import overview
from db.access import Scope
from db.proofs import prove, read_receipt
from domain.breaks import Break, BreakKind, BreakState
from domain.checkpoints import make_public_pem, make_signed_members
from domain.proofs import FORMAT, ProofError, ProofPending, ReceiptMissing
from domain.signed_heads import FORMAT as HEAD_FORMAT
from domain.signed_heads import RECEIPT_FORMAT
from domain.times import format_rfc3339

router = APIRouter(tags=["proofs"])


class BreakView(BaseModel):
    """A difference that an agent found, and its state."""

    break_id: str
    found_by: Literal["reconciliation", "audit"]
    kind: BreakKind
    subject: str = Field(description="What differs, such as `lane 3 seq 17`.")
    state: BreakState
    lane: int | None = None
    seq: int | None = None
    detail: str = Field(description="One sentence: what was expected and what was found, or what explained it.")
    evidence: dict[str, str | int]
    opened_time: str
    changed_time: str = Field(description="When its state or its detail last changed.")


class BreaksPage(BaseModel):
    """Breaks, the latest first."""

    items: list[BreakView]
    next: NextLink


class LaneHeadView(BaseModel):
    """A lane in a checkpoint: the records from `first_seq` to before `next_seq`."""

    lane: int
    first_seq: int
    next_seq: int
    head: str = Field(description="SHA-256 of the last record, in hex.")
    records_root: str = Field(description="Merkle root over the records' hashes, in hex.")


class CheckpointView(BaseModel):
    """A signed checkpoint, with exactly the members of docs/PROOF.md."""

    checkpoint: int
    previous_hash: str
    lanes: list[LaneHeadView]
    root: str
    signed_time: int = Field(description="Microseconds since 1970-01-01 UTC, as in the signed bytes.")
    key_id: str
    signature: str


class CheckpointsPage(BaseModel):
    """Checkpoints, the newest first."""

    items: list[CheckpointView]
    next: NextLink


class SigningKeyView(BaseModel):
    """A public key of audit."""

    key_id: str
    public_key: str = Field(description="Ed25519, PEM (SubjectPublicKeyInfo).")
    first_used_time: str


class SigningKeysPage(BaseModel):
    """All keys that have signed, in order of first use, on one page."""

    items: list[SigningKeyView]
    next: str | None = Field(description="Always null.")


class LeafView(BaseModel):
    """A leaf's place in its tree."""

    index: int
    size: int
    path: list[str]


class ProofView(BaseModel):
    """An inclusion proof; docs/PROOF.md says how to verify it."""

    format: str = Field(examples=[FORMAT])
    record: dict[str, Any]
    previous_hash: str
    hash: str
    records: LeafView
    lane: LaneHeadView
    lanes: LeafView
    checkpoint: CheckpointView


class SignedHeadView(BaseModel):
    """What posting signed: the records of a lane from `first_seq` to before `next_seq`."""

    format: str = Field(examples=[HEAD_FORMAT])
    lane: int
    first_seq: int
    next_seq: int
    head: str = Field(description="SHA-256 of the last record, in hex.")
    records_root: str = Field(description="Merkle root over the records' hashes, 16 to a leaf, in hex.")


class PostingReceiptView(BaseModel):
    """Posting's receipt for a settled intent; docs/PROOF.md says how to verify it."""

    format: str = Field(examples=[RECEIPT_FORMAT])
    record: dict[str, Any]
    previous_hash: str
    hash: str
    page: list[str] = Field(description="The hashes of the record's leaf, in hex.")
    place: LeafView
    signed: SignedHeadView
    signature: str = Field(description="Ed25519, by posting's key, over the canonical JSON of `signed`, in hex.")


@router.get("/v1/breaks", response_model=BreaksPage, responses=make_problem_responses(Kind.INVALID_CURSOR))
async def list_breaks(
    reader: JournalReader,
    state: Annotated[BreakState | None, Query(description="Only breaks in this state.")] = None,
    kind: Annotated[BreakKind | None, Query(description="Only breaks of this kind.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """Differences that reconciliation and audit found, resolved ones too.

    A key with operations:read gets all of them, another key those of its tenant.
    """
    tenant = None if Scope.OPERATIONS_READ in reader.key.scopes else reader.tenant
    filters = {"state": None if state is None else state.value, "kind": None if kind is None else kind.value}
    page = reader.page(("breaks", tenant), "/v1/breaks", limit, cursor, **filters)
    opened_time, break_id = page.begin(overview.TIME_MAX, str(UUID(int=0)))
    before = (opened_time, UUID(break_id))
    rows = await reader.read(lambda pool: overview.read_breaks_page(pool, tenant, before, page.rows_max, **filters))
    return page.make_response(rows, _make_break_view, lambda row: (row.opened_time, str(row.break_id)))


def _make_break_view(row: Break) -> dict[str, Any]:
    return row._asdict() | {
        "break_id": str(row.break_id),
        "opened_time": format_rfc3339(row.opened_time),
        "changed_time": format_rfc3339(row.changed_time),
    }


@router.get("/v1/checkpoints", response_model=CheckpointsPage, responses=make_problem_responses(Kind.INVALID_CURSOR))
async def list_checkpoints(reader: JournalReader, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """Signed checkpoints over all lanes, the newest first."""
    page = reader.page(("checkpoints", reader.tenant), "/v1/checkpoints", limit, cursor)
    (before,) = page.begin(overview.TIME_MAX)
    rows = await reader.read(lambda pool: overview.read_checkpoints_page(pool, before, page.rows_max))
    return page.make_response(rows, lambda row: make_signed_members(*row), lambda row: (row[0].checkpoint,))


@router.get("/v1/signing-keys", response_model=SigningKeysPage, responses=make_problem_responses())
async def list_signing_keys(reader: JournalReader) -> Response:
    """The public keys that signed checkpoints. If you do not trust this API, take them from another source."""
    rows = await reader.read(overview.list_signing_keys)
    items = [
        {
            "key_id": row.key_id,
            "public_key": make_public_pem(row.public_key).decode(),
            "first_used_time": to_utc_text(row.first_used_time),
        }
        for row in rows
    ]
    return make_json_response({"items": items, "next": None})


@router.get(
    "/v1/intents/{intent_id}/proof",
    response_model=ProofView,
    responses=make_problem_responses(Kind.PROOF_NOT_FOUND, Kind.PROOF_REFUSED),
)
async def get_proof(
    reader: IntentsReader, intent_id: Annotated[UUID, Path(description="The id of a settled intent.")]
) -> Response:
    """The proof that a signed checkpoint covers the record that settled an intent."""
    return make_json_response(await _make_document(reader, prove, intent_id))


@router.get(
    "/v1/intents/{intent_id}/receipt",
    response_model=PostingReceiptView,
    responses=make_problem_responses(Kind.PROOF_NOT_FOUND, Kind.PROOF_REFUSED),
)
async def get_receipt(
    reader: IntentsReader, intent_id: Annotated[UUID, Path(description="The id of a settled intent.")]
) -> Response:
    """Posting's signed receipt for the record that settled an intent, as soon as the intent is settled.

    Anyone can check it with posting's public key; `ledgerline audit receipt` compares it with the ledger.
    """
    return make_json_response(await _make_document(reader, read_receipt, intent_id))


async def _make_document(reader: Reader, make: Callable[..., dict[str, Any]], intent_id: UUID) -> dict[str, Any]:
    """Return the document that `make` builds for an intent, and turn its errors into Problem.

    `make` may read and hash many rows, so it runs in a thread with a connection of its own.
    """
    try:
        return await reader.read_in_thread(make, str(intent_id), reader.tenant)
    except ProofPending as error:
        raise Problem(Kind.PROOF_NOT_FOUND, str(error), headers={"Retry-After": "5"}) from error
    except ReceiptMissing as error:
        raise Problem(Kind.PROOF_NOT_FOUND, str(error)) from error
    except ProofError as error:
        raise Problem(Kind.PROOF_REFUSED, str(error)) from error
